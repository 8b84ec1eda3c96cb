"""Kinds of modality: what each names exists, its fixed vectors, and a new kind that is one object and its encoder."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

import amodal
from amodal.batch import Batch, Present
from amodal.data import Cohort
from amodal.encoders import ENCODERS, Encoder, Tokens
from amodal.encoders.decoders import DECODERS
from amodal.errors import ShapeError
from amodal.kinds import MODALITY_KINDS, ModalityKind, SetKind
from amodal.kinds.sets import BETWEEN_TEXTS
from amodal.report.pictures import PICTURES, Exhibit
from amodal.schema import Modality, Task

SHAPES = {"tabular": (3,), "series": (6, 2), "image": (1, 12, 10), "text": (), "image_set": (6, 1, 12, 10),
          "text_set": (3,), "table_set": (6, 3)}  # fmt: skip


def batch_of(modality: Modality, n: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    observed = torch.tensor([True, False, True, True])[:n]
    if modality.traits.holds_texts:
        values = torch.randint(97, 123, (n, 9), generator=generator).to(torch.uint8)
        values[:, 4] = BETWEEN_TEXTS
        return Batch({"m": values}, {"m": observed}, lengths={"m": torch.tensor([9, 4, 0, 7])[:n]})
    values = torch.randn(n, *modality.shape, generator=generator)
    measured = {"m": torch.rand(values.shape, generator=generator) < 0.6} if modality.traits.takes_measured else {}
    lengths = {"m": torch.tensor([6, 3, 0, 5])[:n]} if modality.traits.takes_lengths else {}
    return Batch({"m": values}, {"m": observed}, measured, lengths)


@pytest.mark.parametrize("name", MODALITY_KINDS)
def test_what_a_kind_names_exists(name):
    kind = MODALITY_KINDS[name]
    assert (kind.of.name if isinstance(kind, SetKind) else name) in ENCODERS[kind.encoder].kinds
    assert kind.decoder in DECODERS
    assert kind.picture in PICTURES
    assert kind.axes_of_sample.count(",") + 1 >= len(kind.axes)
    assert Modality("m", name, SHAPES[name]).n_features == {"tabular": 3, "series": 2, "table_set": 3}.get(name, 1)


@pytest.mark.parametrize("name", MODALITY_KINDS)
def test_fixed_vectors_have_one_width_and_do_not_depend_on_other_rows(name):
    modality = Modality("m", name, SHAPES[name])
    present = batch_of(modality).present("m")
    none = Present(torch.empty(0, dtype=torch.int64), modality.traits.blank(0, modality.shape), None, None)
    for vector in (modality.traits.summary, modality.traits.similarity_vector):
        whole = vector(present, modality.shape)
        assert vector(none, modality.shape).shape == (0, whole.shape[1])
        for i in range(len(present.rows)):
            alone = Present(*(None if part is None else part[i : i + 1] for part in present))
            torch.testing.assert_close(vector(alone, modality.shape)[0], whole[i], equal_nan=True)
    assert not modality.traits.similarity_vector(present, modality.shape).isnan().any()


def test_not_measured_is_nan_in_a_summary_and_zero_in_a_similarity_vector():
    series = MODALITY_KINDS["series"]
    values = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [9.0, 9.0]]])
    measured = torch.tensor([[[True, False], [True, False], [True, True]]])
    present = Present(torch.tensor([0]), values, measured, torch.tensor([2]))  # the third step lies beyond the end
    # mean, min, max, spread, first, last, count, late mean of the first feature; of the second nothing is known
    count = math.log1p(2) / math.log1p(3)
    nan = math.nan
    expected = [2.0, 1.0, 3.0, 1.0, 1.0, 3.0, count, 3.0, nan, nan, nan, nan, nan, nan, 0.0, nan]
    torch.testing.assert_close(
        series.summary(present, (3, 2))[0], torch.tensor(expected).double(), equal_nan=True, atol=1e-6, rtol=0
    )
    assert series.similarity_vector(present, (3, 2)).tolist() == [[2.0, 0.0, 3.0, 0.0]]  # means, then last values


def test_large_images_are_averaged_over_blocks_at_their_own_proportions():
    image = MODALITY_KINDS["image"]
    values = torch.arange(2.0 * 8 * 32).view(1, 2, 8, 32)
    present = Present(torch.tensor([0]), values, None, None)
    # 512 values for at most 128: sides halved
    expected = functional.avg_pool2d(values.double(), 2).flatten(1)
    torch.testing.assert_close(image.summary(present, (2, 8, 32), size=128), expected)
    assert torch.equal(image.summary(present, (2, 8, 32), size=512), values.double().flatten(1))


# A new kind ----------------------------------------------------------------------------------------------------------


class Volume(ModalityKind):
    """Volumes: (C, X, Y, Z)."""

    axes = ("C", "X", "Y", "Z")
    plural = "volumes"
    encoder, decoder, picture = "blocks", "cells", "slice"
    feature_axis = 0

    def summary(self, present: Present, shape: tuple[int, ...], *, size: int = 256):
        side = max(1, int((size / shape[0]) ** (1 / 3)))
        return functional.adaptive_avg_pool3d(present.values, [min(side, n) for n in shape[1:]]).flatten(1)


class Blocks(Encoder):
    """Means over blocks, one token."""

    kinds = ("volume",)

    def __init__(self, modality: Modality, *, width: int):
        super().__init__(modality, width=width)
        self.layer = torch.nn.Linear(modality.n_features * 8, width)

    @property
    def n_tokens(self) -> int:
        return 1

    def embed(self, values, measured=None, lengths=None) -> Tokens:
        token = self.layer(functional.adaptive_avg_pool3d(values, 2).flatten(1))
        return Tokens(token[:, None], torch.ones(len(values), 1, dtype=torch.bool))

    def trunk(self, tokens, valid):
        return tokens


@pytest.fixture
def volumes(monkeypatch):
    """Two classes, told apart by the contrast of a volume; it and a table are absent in some rows."""
    monkeypatch.setitem(MODALITY_KINDS, "volume", Volume())
    monkeypatch.setitem(ENCODERS, "blocks", Blocks)
    monkeypatch.setitem(PICTURES, "slice", lambda modality, batch, row, visible: Exhibit("text", modality.name, "seen"))
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 120)
    scan = rng.normal(size=(120, 1, 4, 6, 5)) + 3 * label[:, None, None, None, None]
    observed = rng.random((120, 2)) < 0.7
    observed[~observed.any(1), 0] = True
    return Cohort.from_arrays(
        {"scan": scan, "labs": rng.normal(size=(120, 3))},
        task=Task("binary", classes=("no", "yes")),
        target=label,
        observed={"scan": observed[:, 0], "labs": observed[:, 1]},
    )


@pytest.mark.filterwarnings("ignore:the reconstruction by way of predicted modalities")
@pytest.mark.parametrize("method", ["fusion", "mvae", "boosting", "cepa", "per_pattern"])
def test_a_new_kind_is_one_object_and_its_encoder(volumes, method):
    assert volumes.schema["scan"].kind == "volume"  # found by its five axes
    model = amodal.fit(method, volumes, volumes, epochs=1, seed=0, width=8)
    assert np.isfinite(model.predict(volumes)).all()


def test_a_new_kind_in_impact_and_in_a_scaling(volumes, tmp_path):
    model = amodal.fit("fusion", volumes, volumes, epochs=1, seed=0, width=8)
    assert model.scaling.means["scan"].shape == (1, 1, 1, 1)
    result = amodal.impact(model, volumes.take(np.arange(6)), draws=4, seed=0, train=volumes)
    assert np.isfinite(result.variability).all()
    model.save(tmp_path / "run")
    assert np.array_equal(amodal.load(tmp_path / "run").predict(volumes), model.predict(volumes))


def test_values_of_another_number_of_axes_name_the_kinds(volumes):
    with pytest.raises(ShapeError, match=r"\(N, C, H, W\) or a list of N str or \(N, C, X, Y, Z\)"):
        Cohort.from_arrays({"scan": np.zeros((2, 1, 1, 1, 1, 1))}, task=Task("regression"), target=[0, 1])
