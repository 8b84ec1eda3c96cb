"""Errors and agreement of quantities against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from amodal.errors import ConfigurationError, DataError, ShapeError
from amodal.metrics import LENGTH_OF_STAY_DAYS, cohen_kappa, mean_absolute_error, root_mean_squared_error


def stays(n, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.exponential(5, n)
    return true * rng.lognormal(0, 0.5, n), true, rng.integers(0, 4, (6, n))


def test_errors_equal_scikit_learn():
    p, y, counts = stays(80)
    for row, mae, rmse in zip(
        counts, mean_absolute_error(p, y, weight=counts), root_mean_squared_error(p, y, weight=counts)
    ):
        i = np.repeat(np.arange(80), row)
        assert mae == pytest.approx(sk.mean_absolute_error(y[i], p[i]), rel=1e-12)
        assert rmse == pytest.approx(sk.root_mean_squared_error(y[i], p[i]), rel=1e-12)


@given(n=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_kappa_equals_scikit_learn_in_every_resample(n, seed):
    p, y, counts = stays(n, seed)
    for row, kappa in zip(counts, cohen_kappa(p, y, bins=LENGTH_OF_STAY_DAYS, weight=counts)):
        i = np.repeat(np.arange(n), row)
        a, b = (np.digitize(values[i], LENGTH_OF_STAY_DAYS) for values in (p, y))
        if len(np.unique(np.concatenate([a, b]))) < 2:
            assert np.isnan(kappa)
        else:
            expected = sk.cohen_kappa_score(a, b, labels=range(10), weights="linear")
            assert kappa == pytest.approx(expected, abs=1e-12)


def test_the_bins_of_length_of_stay():
    """<1, 1-2, ..., 7-8, 8-14, >=14 days: ten bins, an edge belonging to the bin above."""
    days = np.array([0.5, 1.0, 2.5, 3.5, 4.5, 5.5, 6.5, 7.999, 8.0, 13.9, 14.0, 40.0])
    expected = [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9]
    for shift in range(1, len(days)):  # every bin against every other
        kappa = cohen_kappa(days, np.roll(days, shift), bins=LENGTH_OF_STAY_DAYS)
        oracle = sk.cohen_kappa_score(expected, np.roll(expected, shift), labels=range(10), weights="linear")
        assert kappa == pytest.approx(oracle, abs=1e-12)
    target = np.array([2.0, 30.0, 50.0])
    assert cohen_kappa(target * 24, target * 24, bins=[24 * edge for edge in LENGTH_OF_STAY_DAYS]) == 1


def test_closed_forms():
    assert cohen_kappa([0, 1, 0, 1], [0, 0, 1, 1], bins=[0.5]) == 0  # chance
    assert cohen_kappa([0, 1], [1, 0], bins=[0.5]) == -1
    assert cohen_kappa([0, 2], [0, 1], bins=[0.5, 1.5]) == pytest.approx(1 - (1 / 2) / (4 / 4))
    assert isinstance(cohen_kappa([0, 1], [0, 1], bins=[0.5]), float)
    assert isinstance(root_mean_squared_error([1.0], [2.0]), float)


def test_undefined():
    assert np.isnan(cohen_kappa([0.1, 0.2], [0.3, 0.4], bins=[1.0]))
    assert np.isnan(cohen_kappa([], [], bins=[1.0]))
    assert np.isnan(mean_absolute_error([], []))
    assert np.isnan(root_mean_squared_error([1.0], [2.0], weight=[[0]])).all()


@pytest.mark.parametrize("bins", [[], [2.0, 1.0], [1.0, 1.0], [np.nan], [np.inf], [[1.0]]])
def test_bad_bins_are_told(bins):
    with pytest.raises(ConfigurationError, match="bins must be increasing inner edges"):
        cohen_kappa([1.0], [1.0], bins=bins)


@pytest.mark.parametrize("function", [mean_absolute_error, root_mean_squared_error])
def test_bad_input_is_told(function):
    with pytest.raises(ShapeError, match=r"expected \(N,\) both, got \(2,\) and \(1,\)"):
        function([1.0, 2.0], [1.0])
    with pytest.raises(ShapeError, match=r"\(1, 1\)"):
        function([[1.0]], [[1.0]])
    with pytest.raises(DataError, match=r"a target is missing or infinite.*nan in row 1"):
        function([1.0, 2.0], [1.0, np.nan])
    with pytest.raises(DataError, match=r"a prediction is missing or infinite.*inf in row 0"):
        function([np.inf, 2.0], [1.0, 2.0])
    with pytest.raises(DataError, match="predictions must be numbers"):
        function(["1"], [1.0])
