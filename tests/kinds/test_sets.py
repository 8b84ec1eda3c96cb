"""Sets: their members are found, and neither their order nor what stands beyond them matters."""

import numpy as np
import pytest
import torch

import amodal
from amodal.batch import Present
from amodal.data import Cohort
from amodal.encoders import build_encoders, encode_present
from amodal.encoders.decoders import build_decoders
from amodal.encoders.sets import SetEncoder, member_of
from amodal.errors import DataError, ShapeError
from amodal.kinds import MODALITY_KINDS
from amodal.schema import Modality, Schema, Task

BINARY = Task("binary", classes=("no", "yes"))
SETS = {
    "image_set": Modality("m", "image_set", (3, 1, 8, 8)),
    "text_set": Modality("m", "text_set", (3,)),
    "table_set": Modality("m", "table_set", (3, 4)),
}
RNG = np.random.default_rng(0)
MEMBERS = {
    "image_set": [list(RNG.normal(size=(n, 1, 8, 8)).astype("f4")) for n in (3, 1, 2)],
    "text_set": [["first note", "second", "the third one"], ["alone"], ["a b", "c"]],
    "table_set": [list(RNG.normal(size=(n, 4)).astype("f4")) for n in (3, 1, 2)],
}


def cohort(kind: str, sets: list) -> Cohort:
    given = sets if kind == "text_set" else [None if own is None else np.stack(own) for own in sets]
    return Cohort.from_arrays({"m": given}, task=BINARY, target=[0, 1] * (len(sets) // 2) + [0] * (len(sets) % 2),
                              kinds={"m": kind})  # fmt: skip


def encoder(kind: str, seed: int = 0) -> SetEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = build_encoders(Schema((SETS[kind],), BINARY), width=8)["m"].eval()
    assert isinstance(made, SetEncoder)
    return made


def pooled(kind: str, sets: list) -> torch.Tensor:
    return encode_present(encoder(kind), cohort(kind, sets).batch(np.arange(len(sets))), "m").pooled


@pytest.mark.parametrize("kind", SETS)
def test_a_set_begins_as_the_mean_of_its_members_encoded_one_by_one(kind: str):
    one = encoder(kind).inner
    single = [one(*_member(kind, member)).pooled for own in MEMBERS[kind] for member in own]
    means = [torch.cat(single[a:b]).mean(0) for a, b in ((0, 3), (3, 4), (4, 6))]
    torch.testing.assert_close(pooled(kind, MEMBERS[kind]), torch.stack(means), rtol=1e-5, atol=1e-5)


def _member(kind: str, member) -> tuple:
    if kind == "text_set":
        text = torch.tensor(list(member.encode()), dtype=torch.uint8)[None]
        return text, None, torch.tensor([text.shape[1]])
    return torch.from_numpy(member)[None], None, None


@pytest.mark.parametrize("kind", SETS)
def test_the_order_of_the_members_does_not_matter(kind: str):
    made = encoder(kind)
    torch.nn.init.normal_(made.score.weight, generator=torch.Generator().manual_seed(1))
    turned = [own[::-1] for own in MEMBERS[kind]]
    results = [
        encode_present(made, cohort(kind, sets).batch(np.arange(3)), "m").pooled for sets in (MEMBERS[kind], turned)
    ]
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
    tokens, valid, vector = encode_present(made, cohort(kind, MEMBERS[kind]).batch(np.arange(3)), "m")
    assert valid.sum(1).tolist() == [3, 1, 2]
    # equation 9 of Ilse et al., member by member
    for row, n in enumerate((3, 1, 2)):
        h = tokens[row, :n]
        scores = (torch.tanh(h @ made.value.weight.T + made.value.bias)
                  * torch.sigmoid(h @ made.gate.weight.T + made.gate.bias)) @ made.score.weight[0]  # fmt: skip
        weights = scores.exp() / scores.exp().sum()
        torch.testing.assert_close(vector[row], (weights[:, None] * h).sum(0), rtol=1e-4, atol=1e-5)
        assert weights.std(unbiased=False) > 1e-4 or n == 1, "attention is on"


@pytest.mark.parametrize("kind", SETS)
def test_other_rows_and_absent_ones_do_not_matter(kind: str):
    whole = pooled(kind, [MEMBERS[kind][0], None, MEMBERS[kind][1]])
    assert (whole[1] == 0).all()
    torch.testing.assert_close(whole[2:], pooled(kind, [MEMBERS[kind][1]]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", SETS)
def test_members_are_alike_and_independent_given_the_latent(kind: str):
    schema = Schema((SETS[kind],), BINARY)
    decoder = build_decoders(schema, latent=2, hidden=4)["m"]
    batch = cohort(kind, MEMBERS[kind]).batch(np.arange(3))
    _, values, measured, lengths = batch.present("m")
    z = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0))
    found = decoder.log_likelihood(z, values, measured, lengths)
    for row, own in enumerate(MEMBERS[kind]):
        each = [decoder.one.log_likelihood(z[:, row : row + 1], *_member(kind, member)) for member in own]
        torch.testing.assert_close(found[:, row], torch.cat(each, 1).mean(1), rtol=1e-5, atol=1e-5)


def test_a_summary_is_the_mean_of_the_members_and_their_number():
    kind = MODALITY_KINDS["table_set"]
    values = torch.tensor([[[1.0, 5.0], [3.0, 9.0]], [[7.0, 7.0], [99.0, 99.0]]])
    measured = torch.tensor([[[True, True], [True, False]], [[True, False], [True, True]]])
    present = Present(torch.tensor([0, 1]), values, measured, torch.tensor([2, 1]))
    nan = torch.nan
    expected = torch.tensor([[2.0, 5.0, np.log(3)], [7.0, nan, np.log(2)]]).double()
    torch.testing.assert_close(kind.summary(present, (2, 2)), expected, equal_nan=True)


def test_sets_in_memory_are_known_by_their_form():
    grey = [np.zeros((8, 9), np.uint8), np.full((8, 9), 200, np.uint8)]
    made = Cohort.from_arrays(
        {"scans": [grey, grey[:1], [], None], "notes": [["a", "", "b"], "c", [], None], "labs": np.ones((4, 2))},
        task=BINARY, target=[0, 1, 0, 1],
    )  # fmt: skip
    assert [m.kind for m in made.schema.modalities] == ["image_set", "text_set", "tabular"]
    assert [m.shape for m in made.schema.modalities[:2]] == [(2, 1, 8, 9), (2,)]
    assert made.observed[:, 0].tolist() == made.observed[:, 1].tolist() == [True, True, False, False]
    assert made.stores["scans"].flat.dtype == np.uint8, "bytes stay bytes"
    batch = made.batch(np.arange(2))
    assert batch.lengths["scans"].tolist() == [2, 1]
    assert batch.values["scans"][0, 1].unique().tolist() == [200.0]


def test_refusals():
    with pytest.raises(ShapeError, match=r"several shapes in the set of row 1"):
        Cohort.from_arrays({"m": [[np.zeros((2, 2))], [np.zeros((2, 2)), np.zeros((3, 2))]]}, task=BINARY)
    with pytest.raises(DataError, match=r"set of texts with something else in row 0"):
        Cohort.from_arrays({"m": [["a", 3], ["b"]]}, task=BINARY)


def test_sets_of_other_sizes_fit_and_other_members_do_not():
    kind = MODALITY_KINDS["image_set"]
    assert kind.fits((4, 1, 8, 8), (2, 1, 8, 8))
    assert kind.fits((2, 1, 8, 8), (4, 1, 8, 8))
    assert not kind.fits((4, 1, 8, 8), (4, 3, 8, 8))


def test_members_are_modalities_of_their_own():
    assert member_of(SETS["image_set"]) == Modality("m", "image", (1, 8, 8))
    assert member_of(SETS["text_set"]) == Modality("m", "text", ())
    plain = Modality("m", "tabular", (3,))
    assert member_of(plain) is plain


@pytest.mark.slow
@pytest.mark.parametrize("name", amodal.METHODS)
def test_every_method_predicts_sets_larger_than_those_of_training(name: str):
    def made(n: int, most: int, seed: int) -> Cohort:
        rng, y = np.random.default_rng(seed), np.arange(n) % 2
        sizes = [most, *rng.integers(1, most + 1, n - 1)]
        tables = [rng.normal(size=(k, 3)) + y[i] if i % 5 < 4 else None for i, k in enumerate(sizes)]
        texts = [[f"word{y[i]} seen"] * k if i % 7 != 3 else None for i, k in enumerate(sizes)]
        return Cohort.from_arrays({"t": tables, "w": texts, "x": rng.normal(size=(n, 2))}, task=BINARY, target=y,
                                  kinds={"t": "table_set", "w": "text_set"})  # fmt: skip

    train, larger = made(40, 3, 0), made(20, 7, 1)
    options = {"modality": "t"} if name == "unimodal" else {}
    model = amodal.fit(name, train, made(20, 5, 2), epochs=1, width=8, options=options)
    whole = model.predict(larger, on_empty="silent")
    assert np.isfinite(whole).all()
    np.testing.assert_allclose(model.predict(larger.take([0])), whole[:1], atol=1e-5)
    found = amodal.impact(model, larger, train=train, draws=4, plausible=False)
    assert np.isfinite(found.variability).all()
