import hashlib
import shutil

import numpy as np
import pytest
import torch

import amodal
from amodal.cli import main
from amodal.data.sources.avmnist.cohort import pair_sounds, prepare, project_images, read_multibench
from amodal.data.sources.avmnist.recordings import read_noises, read_spoken_digits
from amodal.data.sources.avmnist.spectrogram import spectrogram
from amodal.errors import ConfigurationError, DataError

from .sounds import write_sources


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("upstream"))


@pytest.fixture(scope="module")
def cohort(sources, tmp_path_factory):
    return prepare(**sources, out=tmp_path_factory.mktemp("out") / "avmnist", noise_power=0.5)


def _bytes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _by_digit(names):
    return np.array([int(name[0]) for name in names])


def test_what_is_built(cohort):
    assert cohort.schema["vision"].shape == (1, 28, 28)
    assert cohort.schema["audio"].shape == (1, 112, 112)
    assert cohort.schema.task.classes == tuple(range(10))
    assert {split: len(cohort.split(split)) for split in ("train", "valid", "test")} == {
        "train": 110,
        "valid": 10,
        "test": 40,
    }
    assert cohort.observed.all()
    assert np.load(_folder(cohort) / "arrays" / "audio.values.npy", mmap_mode="r").dtype == np.uint8
    assert cohort.batch(np.arange(3)).values["audio"].max() > 1  # grey levels, not fractions


def _folder(cohort):
    from pathlib import Path

    return Path(cohort.stores["audio"].values.filename).parents[1]


def test_every_sound_is_of_its_label(cohort):
    np.testing.assert_array_equal(_by_digit(cohort.extras["spoken"]), cohort.target)


def test_every_picture_is_of_the_recordings_it_names(cohort, sources):
    spoken = {r.name: r.samples for some in read_spoken_digits(sources["fsdd"]).values() for r in some}
    noises = {r.name: r.samples for r in read_noises(sources["esc50"])}
    for row in (0, 57, 115, 159):
        speech, noise = spoken[cohort.extras["spoken"][row]], noises[cohort.extras["noise"][row]]
        expected = spectrogram(speech + np.float32(0.5) * noise[: len(speech)])
        np.testing.assert_array_equal(cohort.batch(np.array([row])).values["audio"][0, 0], expected)


@pytest.mark.parametrize("what", ["spoken", "noise"])
def test_no_recording_serves_two_splits(cohort, what):
    used = [set(cohort.split(split).extras[what]) for split in ("train", "valid", "test")]
    assert not used[0] & used[1]
    assert not used[0] & used[2]
    assert not used[1] & used[2]


def test_recordings_as_multibench_splits_them(sources, cohort):
    """Takes 40 to 49 and the last ten categories are for testing, all others for both other splits."""
    spoken, noises = read_spoken_digits(sources["fsdd"]), read_noises(sources["esc50"])
    labels = np.zeros(1000, np.int64)
    splits = np.repeat(["train", "valid", "test"], [400, 400, 200])
    pairing = pair_sounds(labels, splits, spoken, noises, valid_sounds="shared")
    takes = np.array([int(r.name.split("_")[2][:-4]) for r in pairing.spoken])[pairing.spoken_of]
    for split, expected in (("train", range(40)), ("valid", range(40)), ("test", range(40, 50))):
        assert set(takes[splits == split]) == set(expected)
        assert set(pairing.noise_of[splits == split]) == set(expected)
    counts = np.unique(pairing.spoken_of[splits == "train"], return_counts=True)[1]
    assert counts.max() - counts.min() <= 1  # in turn


def test_images_are_the_projections_that_scikit_learn_finds(cohort):
    from sklearn.decomposition import PCA

    draw = np.random.default_rng(0)
    images = (draw.normal(size=(90, 6)) @ draw.normal(size=(6, 64)) * 20 + 128).clip(0, 255)
    images = images.astype(np.uint8).reshape(90, 8, 8)
    train = np.arange(90) < 70
    pca = PCA(svd_solver="full").fit(images[:70].reshape(70, -1))
    for energy, kept in ((0.25, None), (0.6, None), (0.25, 4)):
        found, shares = project_images(images, train, energy=energy, components=kept)
        n = kept or 1 + int(np.argmax(pca.explained_variance_ratio_.cumsum() > energy))
        scores = pca.transform(images.reshape(90, -1))[:, :n]
        np.testing.assert_allclose(found.reshape(90, -1), scores @ pca.components_[:n] / 255, atol=1e-5)
        np.testing.assert_allclose(shares, pca.explained_variance_ratio_[:n], atol=1e-10)
        assert np.linalg.matrix_rank(found.reshape(90, -1), tol=1e-3) == n


def test_the_same_bytes_for_any_number_of_workers(cohort, sources, tmp_path):
    again = prepare(**sources, out=tmp_path / "again", noise_power=0.5, workers=3)
    assert _bytes(tmp_path / "again") == _bytes(_folder(cohort))
    assert again.description == cohort.description


def test_a_limit_takes_the_first_rows_of_each_split(cohort, sources, tmp_path):
    few = prepare(**sources, out=tmp_path / "few", noise_power=0.5, limit=7)
    assert len(few) == 21
    rows = np.concatenate([np.arange(7), 110 + np.arange(7), 120 + np.arange(7)])
    one, other = few.batch(np.arange(21)), cohort.batch(rows)
    assert list(few.ids) == list(cohort.ids[rows])
    for name in ("vision", "audio"):
        assert torch.equal(one.values[name], other.values[name])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"energy": 0.0}, "energy is out of range"),
        ({"components": 0}, "components is out of range"),
        ({"noise_power": -1.0}, "noise_power is out of range"),
        ({"limit": 0}, "limit is out of range"),
        ({"workers": 0}, "workers is out of range"),
    ],
)
def test_options_out_of_range(sources, tmp_path, options, words):
    with pytest.raises(ConfigurationError, match=words):
        prepare(**sources, out=tmp_path / "x", **options)


def test_what_is_there_is_kept(sources, cohort, tmp_path):
    folder = _folder(cohort)
    before = _bytes(folder)
    with pytest.raises(DataError, match="there is something in .* already"):
        prepare(**{**sources, "mnist": tmp_path / "nowhere"}, out=folder)  # before anything is read
    assert _bytes(folder) == before


def test_damage_leaves_nothing_behind(sources, tmp_path):
    folder = tmp_path / "mnist"
    shutil.copytree(sources["mnist"], folder)
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match="a file of MNIST is missing: .*t10k-images"):
        prepare(**{**sources, "mnist": folder}, out=tmp_path / "out")
    with pytest.raises(DataError, match="lacks 500 recordings of spoken digits: 0_lucas_0.wav"):
        prepare(**sources, out=tmp_path / "out", speakers=["theo", "lucas"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mnist"]


def test_on_the_command_line(sources, tmp_path, capsys):
    words = [f"--{name}={folder}" for name, folder in sources.items()]
    assert main(["data", "prepare", "avmnist", *words, f"--out={tmp_path / 'a'}", "--limit=5", "--workers=2"]) == 0
    assert "15 cases" in capsys.readouterr().out
    assert len(amodal.load_cohort(tmp_path / "a")) == 15
    folds = [*words, f"--out={tmp_path / 'c'}", "--limit=5", "--noise_folds=[1,2]"]
    assert main(["data", "prepare", "avmnist", *folds]) == 0
    assert {name[0] for name in amodal.load_cohort(tmp_path / "c").extras["noise"]} <= {"1", "2"}
    assert "of folds [1, 2] of ESC-50" in amodal.load_cohort(tmp_path / "c").description
    assert main(["data", "prepare", "avmnist", *words, f"--out={tmp_path / 'd'}", "--limit=5", "--noise_folds=1"]) == 0
    assert {name[0] for name in amodal.load_cohort(tmp_path / "d").extras["noise"]} == {"1"}
    assert main(["data", "prepare", "avmnist", *words[:1], f"--out={tmp_path / 'b'}"]) == 2
    assert "also needs --fsdd, --esc50. Or give --multibench alone" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


# MultiBench's files --------------------------------------------------------------------------------------------------


@pytest.fixture
def multibench(tmp_path):
    folder, draw = tmp_path / "multibench", np.random.default_rng(0)
    for part, n in (("train", 36), ("test", 9)):
        for kind, shape in (("image", (n, 784)), ("audio", (n, 112, 112))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            values = draw.normal(0, 50, shape) if kind == "image" else draw.integers(0, 256, shape).astype(np.float64)
            np.save(folder / kind / f"{part}_data.npy", values)
        np.save(folder / f"{part}_labels.npy", (np.arange(n) % 10).astype(np.uint8))
    return folder


def test_multibench_files(multibench, tmp_path):
    cohort = read_multibench(multibench, tmp_path / "out")
    assert {split: len(cohort.split(split)) for split in ("train", "valid", "test")} == {
        "train": 33,
        "valid": 3,
        "test": 9,
    }
    image = np.load(multibench / "image" / "train_data.npy")
    sound = np.load(multibench / "audio" / "test_data.npy")
    batch = cohort.batch(np.array([34, 40]))
    np.testing.assert_allclose(batch.values["vision"][0, 0].numpy(), image[34].reshape(28, 28) / 255, atol=1e-6)
    np.testing.assert_array_equal(batch.values["audio"][1, 0].numpy(), sound[4])
    assert batch.target.tolist() == [4, 4]


def test_damage_of_multibench_files_is_named(multibench, tmp_path):
    path = multibench / "audio" / "train_data.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"audio/train_data\.npy cannot be read"):
        read_multibench(multibench, tmp_path / "out")
    path.unlink()
    with pytest.raises(DataError, match=r"missing: .*audio/train_data\.npy"):
        read_multibench(multibench, tmp_path / "out")
    np.save(path, np.zeros((35, 112, 112)))
    with pytest.raises(DataError, match=r"train_data\.npy does not fit.*\(36, 112, 112\)"):
        read_multibench(multibench, tmp_path / "out")
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)  # is never unpickled
    with pytest.raises(DataError, match=r"train_data\.npy cannot be read"):
        read_multibench(multibench, tmp_path / "out")


@pytest.mark.slow
def test_upstream_files(shared_data, tmp_path):
    cohort = prepare(*(shared_data / name for name in ("mnist", "fsdd", "esc50")), tmp_path / "out", limit=300)
    assert cohort.target[:5].tolist() == [5, 0, 4, 1, 9]
    np.testing.assert_array_equal(_by_digit(cohort.extras["spoken"]), cohort.target)
    image = cohort.split("train").batch(np.arange(300)).values["vision"].reshape(300, -1).numpy()
    spectrum = np.linalg.svd(image, compute_uv=False)
    assert (spectrum > 1e-4 * spectrum[0]).sum() == 4
    assert "4 principal components (28.3" in cohort.description
