"""Counts of bootstrap resamples: whole groups, the right law, the same numbers however they are cut."""

import numpy as np
import pytest

from amodal.errors import ConfigurationError, DataError, ShapeError
from amodal.metrics import resample_counts, resampling
from amodal.metrics.resampling import count_blocks


def test_every_resample_holds_as_many_groups_as_there_are():
    groups = np.array(["a", "b", "a", "c", "c", "c"])
    counts = resample_counts(groups, 500, np.random.default_rng(0))
    assert counts.shape == (500, 6)
    np.testing.assert_array_equal(counts[:, 0], counts[:, 2])
    np.testing.assert_array_equal(counts[:, 3], counts[:, 5])
    np.testing.assert_array_equal(counts[:, [0, 1, 3]].sum(1), 3)


def test_counts_are_multinomial():
    n, resamples = 50, 20_000
    counts = resample_counts(n, resamples, np.random.default_rng(1)).astype(float)
    assert counts.mean() == 1
    assert counts.var(axis=0).mean() == pytest.approx(1 - 1 / n, rel=0.01)
    assert (counts == 0).mean() == pytest.approx((1 - 1 / n) ** n, abs=0.002)
    covariance = np.cov(counts.T)
    assert covariance[~np.eye(n, dtype=bool)].mean() == pytest.approx(-1 / n, rel=0.03)


def test_a_number_is_as_many_groups_of_one():
    by_number = resample_counts(7, 5, np.random.default_rng(2))
    np.testing.assert_array_equal(by_number, resample_counts(np.arange(7), 5, np.random.default_rng(2)))


def test_blocks_do_not_change_the_draws(monkeypatch):
    groups = np.random.default_rng(3).integers(0, 37, 100)
    whole = resample_counts(groups, 50, np.random.default_rng(4))
    monkeypatch.setattr(resampling, "_BLOCK", 111)
    np.testing.assert_array_equal(resample_counts(groups, 50, np.random.default_rng(4)), whole)
    blocks = list(count_blocks(groups, 50, np.random.default_rng(4), cells=700))
    assert [len(block) for block in blocks] == [7] * 7 + [1]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_the_seed_is_all_that_matters():
    first, again, other = (resample_counts(20, 3, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("groups", "error", "words"),
    [
        ([1.0, np.nan], DataError, "a case has no group.*row 1"),
        (["a", None], DataError, "a case has no group.*row 1"),
        ([["a"]], ShapeError, r"one value a case.*\(N,\).*\(1, 1\)"),
        ([], DataError, "no case to resample"),
        (0, DataError, "no case to resample"),
        (2.5, ShapeError, "one value a case"),
    ],
)
def test_bad_groups_are_told(groups, error, words):
    with pytest.raises(error, match=words):
        resample_counts(groups, 3, np.random.default_rng(0))


def test_bad_options_are_told():
    with pytest.raises(ConfigurationError, match=r"resamples must be a positive integer.*got 0"):
        resample_counts(3, 0, np.random.default_rng(0))
    with pytest.raises(ConfigurationError, match=r"expected a numpy.random.Generator, got int.*default_rng\(seed\)"):
        resample_counts(3, 1, 0)
