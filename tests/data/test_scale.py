"""Scaling: statistics of present, measured training values only; blanks stay blank; it comes back from arrays."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.preprocessing import RobustScaler, StandardScaler

from amodal.batch import Batch
from amodal.data import Cohort, Scaling
from amodal.data.scale import LevelCheck
from amodal.errors import ConfigurationError, DataError
from amodal.schema import Task

from .cohorts import N, assert_same_batch, mixed_cohort

ROWS = np.arange(N)
REGRESSION = Task("regression")


def table(values, **options):
    return Cohort.from_arrays({"t": np.asarray(values, dtype=np.float32)}, task=REGRESSION, **options)


def test_tables_are_standardised_as_by_scikit_learn():
    values = np.random.default_rng(0).normal(size=(60, 3)) * [1, 50, 1e4] + [0, 100, -3e4]
    cohort = table(values)
    scaled = Scaling.fit(cohort, clip=np.inf).apply(cohort.batch(np.arange(60))).values["t"]
    np.testing.assert_allclose(scaled, StandardScaler().fit_transform(values), atol=1e-5)


def test_robust_scaling_is_scikit_learns_up_to_the_normal_factor():
    values = np.random.default_rng(0).standard_cauchy(size=(80, 3))
    cohort = table(values)
    scaled = Scaling.fit(cohort, robust=True, clip=np.inf).apply(cohort.batch(np.arange(80))).values["t"]
    oracle = RobustScaler(unit_variance=True).fit_transform(values)
    np.testing.assert_allclose(scaled, oracle, rtol=1e-4, atol=1e-5)


def test_robust_scaling_falls_back_where_quartiles_coincide():
    values = np.zeros((20, 2))
    values[:3, 0] = 5
    scaling = Scaling.fit(table(values), robust=True)
    assert scaling.scales["t"].tolist() == [pytest.approx(values[:, 0].std()), 1]


@pytest.mark.parametrize("robust", [False, True])
def test_what_is_absent_unmeasured_or_padding_has_no_influence(robust):
    cohort = mixed_cohort("regression")
    hidden = np.random.default_rng(5).random((N, 5)) < 0.6
    clean = Scaling.fit(cohort.with_observed(hidden), robust=robust)
    other = mixed_cohort("regression")
    for column, name in enumerate(("labs", "vitals")):
        other.stores[name].values[~hidden[:, column]] = 1e6
    lengths = other.stores["vitals"].lengths
    other.stores["vitals"].values[np.arange(5) >= lengths[:, None]] = np.inf
    poisoned = Scaling.fit(other.with_observed(hidden), robust=robust)
    for name, array in clean.to_arrays().items():
        np.testing.assert_array_equal(array, poisoned.to_arrays()[name])


def test_other_splits_have_no_influence():
    cohort = mixed_cohort("regression")
    one = Scaling.fit(cohort.split("train")).to_arrays()
    cohort.stores["labs"].values[24:] = 1e5
    cohort.target[24:] = 1e5
    two = Scaling.fit(cohort.split("train")).to_arrays()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_blanks_stay_blank_and_the_rest_is_standard():
    cohort = mixed_cohort()
    raw = cohort.batch(ROWS)
    scaling = Scaling.fit(cohort)
    scaled = scaling.apply(raw)
    for name in ("labs", "vitals", "waves", "x-ray"):
        keep = raw.measured.get(name, raw.observed[name].view(-1, *[1] * (raw.values[name].ndim - 1)))
        keep = keep.expand(raw.values[name].shape).clone()
        if name == "waves":
            keep &= (torch.arange(5) < raw.lengths[name][:, None])[..., None]
        assert not scaled.values[name][~keep].any()
        known = scaled.values[name].double()
        assert known[keep].mean().abs() < 1e-5
        assert known[keep].std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert torch.equal(scaled.values["note"], raw.values["note"])
    assert torch.equal(scaled.presence, raw.presence)


def test_images_are_standardised_by_channel():
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 4, 4)).astype(np.uint8)
    images[:, 2] = 7
    cohort = Cohort.from_arrays({"i": images}, task=REGRESSION)
    scaling = Scaling.fit(cohort)
    assert scaling.means["i"].shape == (3, 1, 1)
    np.testing.assert_allclose(scaling.means["i"].ravel(), images.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(scaling.scales["i"].ravel()[:2], images.std((0, 2, 3))[:2], rtol=1e-5)
    assert scaling.scales["i"].ravel()[2] == 1
    assert not scaling.apply(cohort.batch(np.arange(30))).values["i"][:, 2].any()


def test_features_that_are_constant_or_never_measured():
    values = np.ones((10, 3))
    values[:, 1] = np.nan
    values[:, 2] = 1e6
    scaling = Scaling.fit(table(values))
    assert scaling.means["t"].tolist() == [1, 0, 1e6]
    assert scaling.scales["t"].tolist() == [1, 1, 1]


def test_wild_values_are_clipped():
    cohort = table(np.random.default_rng(0).normal(size=(100, 1)))
    scaling = Scaling.fit(cohort)
    wild = Batch({"t": torch.tensor([[1e30], [-1e30], [0.5]])}, {"t": torch.ones(3, dtype=torch.bool)})
    values = scaling.apply(wild).values["t"].ravel().tolist()
    assert values[:2] == [10, -10]
    assert abs(values[2]) < 1
    with pytest.raises(ConfigurationError, match="clip is out of range"):
        Scaling.fit(cohort, clip=0)


def test_a_regression_target_goes_there_and_back():
    cohort = mixed_cohort("regression")
    scaling = Scaling.fit(cohort)
    scaled = scaling.apply(cohort.batch(ROWS)).target
    assert scaled.dtype == torch.float32
    assert scaled.mean().item() == pytest.approx(0, abs=1e-5)
    assert scaled.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(scaling.unscale(scaled), torch.from_numpy(cohort.target))
    np.testing.assert_allclose(scaling.unscale(scaled.numpy()), cohort.target, rtol=1e-5)
    assert Scaling.fit(table([[1.0], [2.0]], target=[3.0, 3.0])).target_scale == 1


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_other_targets_stay(task):
    cohort = mixed_cohort(task)
    batch = cohort.batch(ROWS)
    scaling = Scaling.fit(cohort)
    np.testing.assert_array_equal(scaling.apply(batch).target, batch.target)
    assert (scaling.target_mean, scaling.target_scale) == (0, 1)


def test_scaling_comes_back_from_arrays(tmp_path):
    cohort = mixed_cohort("regression")
    scaling = Scaling.fit(cohort, clip=5)
    np.savez(tmp_path / "s.npz", **scaling.to_arrays())
    with np.load(tmp_path / "s.npz", allow_pickle=False) as arrays:
        copy = Scaling.from_arrays(arrays, cohort.schema)
    assert_same_batch(copy.apply(cohort.batch(ROWS)), scaling.apply(cohort.batch(ROWS)))
    assert (copy.clip, copy.target_mean, copy.target_scale) == (5, scaling.target_mean, scaling.target_scale)


def test_arrays_that_do_not_fit_are_refused():
    cohort = mixed_cohort()
    arrays = Scaling.fit(cohort).to_arrays()
    with pytest.raises(DataError, match="the scaling does not fit the schema"):
        Scaling.from_arrays({name: a for name, a in arrays.items() if name != "mean.labs"}, cohort.schema)
    with pytest.raises(DataError, match="mean of modality 'labs' does not fit the schema .expected 3"):
        Scaling.from_arrays(arrays | {"mean.labs": np.zeros(2)}, cohort.schema)


def test_no_rows_no_statistics():
    with pytest.raises(DataError, match="no row to take statistics from"):
        Scaling.fit(mixed_cohort().take([]))


def _images(low, high, n=40):
    return np.random.default_rng(n).uniform(low, high, (n, 1, 4, 4)).astype(np.float32)


def _told(train, new):
    check = LevelCheck(Scaling.fit(Cohort.from_arrays({"i": train}, task=REGRESSION)).levels)
    check.add(Cohort.from_arrays({"i": new}, task=REGRESSION).batch(np.arange(len(new))))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check.warn()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("train", "new"),
    [
        (_images(0, 255), _images(0, 255) / 255),
        (_images(0, 1), _images(0, 255)),
        (_images(0, 255), 2 * _images(0, 255) / 255 - 1),
        (_images(0, 255), _images(0, 255)[:1] / 255),
        (_images(0, 255), 255 * _images(0, 255)),
        (np.repeat(_images(10, 250)[:, :, :1, :1], 4, 3), np.repeat(_images(10, 250)[:, :, :1, :1], 4, 3) / 255),
    ],
    ids=["bytes then shares", "shares then bytes", "bytes then -1 to 1", "one image", "16 bits", "flat images"],
)
def test_images_on_another_scale_than_trainings_are_told(train, new):
    (said,) = _told(train, new)
    assert "modality 'i'" in said
    assert "beyond all of training's" in said
    assert "bring them to" in said


def test_images_on_another_scale_are_told_where_training_has_black_ones_too():
    images = 255 * np.repeat(np.arange(40) % 2, 16).reshape(-1, 1, 4, 4).astype(np.float32)
    (said,) = _told(images, images / 255)
    assert "all 40 images lie far below most of training's (mean level 0 … 1, in training 0 … 255" in said
    assert not _told(images, images)
    assert not _told(images, images[:1])  # one black image is like some of training's


def test_images_like_trainings_are_not_told():
    assert not _told(_images(-90, -10), _images(-90, -10, n=400)), "a spectrogram in decibels"
    assert not _told(_images(0, 255), _images(0, 255, n=400))
    assert not _told(_images(0, 255, n=30), _images(0, 255, n=1))
    assert not _told(_images(0, 1), np.full((2, 1, 4, 4), np.nan, np.float32))


def test_levels_come_back_from_arrays_and_may_be_absent_from_older_runs():
    cohort = Cohort.from_arrays({"i": _images(0, 255)}, task=REGRESSION)
    scaling = Scaling.fit(cohort)
    arrays = scaling.to_arrays()
    assert np.array_equal(Scaling.from_arrays(arrays, cohort.schema).levels["i"], scaling.levels["i"])
    older = {name: array for name, array in arrays.items() if name != "levels.i"}
    assert not Scaling.from_arrays(older, cohort.schema).levels
    with pytest.raises(DataError, match="levels of modality 'i' are damaged"):
        Scaling.from_arrays(arrays | {"levels.i": np.zeros(3)}, cohort.schema)
