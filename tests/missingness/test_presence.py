import numpy as np
import pytest

from amodal.errors import DataError, ShapeError
from amodal.missingness import MAR, MCAR, Natural, Presence, realise

NAMES = ("vitals", "labs", "notes")


@pytest.fixture
def presence():
    natural = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]], dtype=bool)
    observed = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 0], [0, 1, 0]], dtype=bool)
    return Presence(observed, NAMES, natural)


def test_rates_by_hand(presence):
    assert presence.rates == {"vitals": 0.5, "labs": 0.5, "notes": 0.75}
    assert presence.natural_rates == {"vitals": 0.25, "labs": 0.25, "notes": 0.5}
    assert presence.removed_rates == {"vitals": 1 / 3, "labs": 1 / 3, "notes": 0.5}


def test_rates_of_a_modality_that_nobody_has():
    none = np.zeros((2, 1), dtype=bool)
    presence = Presence(none, ("x",), none)
    assert presence.rates == {"x": 1.0}
    assert np.isnan(presence.removed_rates["x"])
    assert "nan" in presence.describe()


def test_patterns_by_hand_most_frequent_first(presence):
    assert list(presence.patterns().items()) == [("labs", 2), ("vitals", 1), ("vitals+notes", 1)]


def test_describe_says_rates_patterns_and_hash(presence):
    text = presence.describe()
    assert presence.hash[:12] in text
    assert "3 modalities in 4 rows" in text
    assert "notes 75.0% 50.0% 50.0%" in " ".join(text.split())
    assert "3 patterns:" in text
    assert text.count("\n") == 1 + 3 + 1 + 3


def test_the_hash_tells_names_shape_order_and_content_apart(presence):
    same = Presence(presence.observed.copy(), NAMES, presence.observed)
    others = [
        Presence(presence.observed[::-1], NAMES, presence.natural[::-1]),
        Presence(presence.observed, ("labs", "vitals", "notes"), presence.natural),
        Presence(presence.natural, NAMES, presence.natural),
        Presence(np.zeros((2, 3), dtype=bool), NAMES, np.zeros((2, 3), dtype=bool)),
        Presence(np.zeros((1, 3), dtype=bool), NAMES, np.zeros((1, 3), dtype=bool)),
    ]
    assert same.hash == presence.hash
    assert len({presence.hash, *(other.hash for other in others)}) == 6


def test_realise_is_deterministic_in_its_seed():
    natural = np.random.default_rng(0).random((500, 3)) < 0.8
    scores = np.where(natural, np.random.default_rng(1).standard_normal((500, 3)), np.nan)
    first, again, other = (realise(MAR(0.3), natural, NAMES, seed=seed, scores=scores) for seed in (4, 4, 5))
    assert first.hash == again.hash != other.hash
    np.testing.assert_array_equal(first.natural, natural)


def test_realise_prints_what_was_realised():
    presence = realise(MCAR(0.5), np.ones((20_000, 3), dtype=bool), NAMES, seed=0)
    assert presence.removed_rates == pytest.approx(dict.fromkeys(NAMES, 0.5), abs=0.015)
    assert len(presence) == 20_000


def test_save_and_load(presence, tmp_path):
    path = presence.save(tmp_path / "presence.npz")
    loaded = Presence.load(path)
    assert loaded.hash == presence.hash
    assert loaded.names == NAMES
    np.testing.assert_array_equal(loaded.observed, presence.observed)
    np.testing.assert_array_equal(loaded.natural, presence.natural)
    assert [file.name for file in tmp_path.iterdir()] == ["presence.npz"]


def test_save_is_packed(tmp_path):
    many = np.random.default_rng(0).random((80_000, 4)) < 0.5
    path = Presence(many, ("a", "b", "c", "d"), many).save(tmp_path / "p.npz")
    assert path.stat().st_size < 2 * many.size / 8 + 3000


def test_files_that_cannot_be_read(presence, tmp_path):
    path = presence.save(tmp_path / "presence.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"presence\.npz is not a file of presence"):
        Presence.load(path)
    with pytest.raises(DataError, match=r"nothing\.npz is not a file of presence"):
        Presence.load(tmp_path / "nothing.npz")
    np.savez(path, names=np.array(NAMES))
    with pytest.raises(DataError, match=r"not a file of presence.*format"):
        Presence.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": np.int64(99)}, "newer format .*expected 1 or older, got 99"),
        ({"rows": np.int64(40)}, "does not fill 40 rows"),
        ({"observed": np.packbits(np.zeros((4, 3), dtype=bool))}, "does not fit its hash"),
    ],
)
def test_content_that_does_not_fit(presence, tmp_path, change, message):
    path = presence.save(tmp_path / "presence.npz")
    with np.load(path) as file:
        stored = {key: file[key] for key in file.files}
    np.savez(path, **(stored | change))
    with pytest.raises(DataError, match=message):
        Presence.load(path)


def test_invalid_presence_cannot_be_built(presence):
    with pytest.raises(DataError, match="1 entries are present that naturally are not"):
        Presence(np.ones((1, 1), dtype=bool), ("a",), np.zeros((1, 1), dtype=bool))
    with pytest.raises(ShapeError, match="`natural` must be bool"):
        Presence(presence.observed, NAMES, presence.natural.astype(int))
    with pytest.raises(ShapeError, match="differ in shape"):
        Presence(presence.observed, NAMES, presence.natural[:2])


def test_natural_presence_has_nothing_removed(presence):
    realised = realise(Natural(), presence.natural, NAMES, seed=0)
    assert realised.removed_rates == dict.fromkeys(NAMES, 0.0)
    assert realised.rates == realised.natural_rates
