"""The digits: the scans themselves, cut without loss, split as promised."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from amodal.data.sources.digits import QUADRANTS, digit_quadrants


def test_quadrants_put_together_are_scikit_learns_scans():
    cohort, bundle = digit_quadrants(), load_digits()
    batch = cohort.batch(np.arange(1797))
    scans = np.zeros((1797, 8, 8), np.float32)
    for name, (rows, columns) in QUADRANTS.items():
        assert cohort.schema[name].kind == "image"
        scans[:, rows, columns] = batch.values[name][:, 0].numpy()
    np.testing.assert_array_equal(scans, bundle.images)
    np.testing.assert_array_equal(cohort.target, bundle.target)
    assert cohort.schema.task.classes == tuple(range(10))
    assert cohort.observed.all()


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_are_stratified_with_three_tenths_for_the_test(seed):
    cohort = digit_quadrants(seed=seed)
    assert {name: len(cohort.split(name)) for name in ("train", "valid", "test")} == pytest.approx(
        {"train": 1078, "valid": 180, "test": 539}, abs=1
    )
    for name, fraction in {"train": 0.6, "valid": 0.1, "test": 0.3}.items():
        counts = np.bincount(cohort.split(name).target, minlength=10)
        np.testing.assert_allclose(counts, np.bincount(cohort.target) * fraction, atol=2)


def test_seeds_change_splits_and_nothing_else():
    one, other = digit_quadrants(seed=0), digit_quadrants(seed=1)
    assert (one.splits != other.splits).any()
    assert (one.ids == other.ids).all()
    assert (one.splits == digit_quadrants(seed=0).splits).all()


def test_fractions_can_be_chosen():
    cohort = digit_quadrants(fractions={"train": 0.5, "test": 0.5})
    assert len(cohort.split("test")) == pytest.approx(898, abs=1)
