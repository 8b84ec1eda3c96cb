"""Calibration against scikit-learn and torchmetrics, and by closed form."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from amodal.errors import ConfigurationError, DataError, UnknownNameError
from amodal.metrics import (
    METRICS,
    bootstrap,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_curve,
    resample_counts,
)
from amodal.metrics.calibration import FLOOR

FUNCTIONS = [negative_log_likelihood, brier_score, expected_calibration_error]


def binary(n=300, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    return p, (rng.random(n) < p**2).astype(int)


def multiclass(n=300, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(4), n)
    return p, np.array([rng.choice(4, p=row) for row in np.sqrt(p) / np.sqrt(p).sum(1, keepdims=True)])


def multilabel(n=300, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.random((n, 3))
    return p, rng.random((n, 3)) < p**1.5


@pytest.mark.parametrize("data", [binary, multiclass, multilabel])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_counts_mean_repetition(function, data):
    p, y = data(60)
    counts = np.random.default_rng(1).integers(0, 4, (10, 60))
    expected = [function(np.repeat(p, row, axis=0), np.repeat(y, row, axis=0)) for row in counts]
    np.testing.assert_allclose(function(p, y, weight=counts), expected, rtol=1e-12)
    np.testing.assert_allclose(function(p, y, weight=counts * 0.1), expected, rtol=1e-12)


def test_log_likelihood_equals_scikit_learn():
    p, y = binary()
    assert negative_log_likelihood(p, y) == pytest.approx(sk.log_loss(y, p), rel=1e-12)
    p, y = multiclass()
    assert negative_log_likelihood(p, y) == pytest.approx(sk.log_loss(y, p), rel=1e-12)
    p, y = multilabel()
    expected = np.mean([sk.log_loss(a, b) for a, b in zip(y.T, p.T)])
    assert negative_log_likelihood(p, y) == pytest.approx(expected, rel=1e-12)


def test_an_impossible_case_has_a_bounded_price():
    assert negative_log_likelihood([1.0], [0]) == pytest.approx(-np.log(FLOOR)) == pytest.approx(15.94, abs=0.01)
    assert negative_log_likelihood([1.0], [1]) == 0


def test_brier_equals_scikit_learn():
    p, y = binary()
    assert brier_score(p, y) == pytest.approx(sk.brier_score_loss(y, p), rel=1e-12)
    p, y = multiclass()
    expected = sk.brier_score_loss(y, p, labels=range(4), scale_by_half=False)
    assert brier_score(p, y) == pytest.approx(expected, rel=1e-12)
    assert brier_score([[1.0, 0.0, 0.0]], [1]) == 2
    p, y = multilabel()
    expected = np.mean([sk.brier_score_loss(a, b) for a, b in zip(y.T, p.T)])
    assert brier_score(p, y) == pytest.approx(expected, rel=1e-12)


def test_calibration_error_equals_torchmetrics():
    p, y = binary()
    expected = binary_calibration_error(torch.tensor(p), torch.tensor(y), n_bins=15).item()
    assert expected_calibration_error(p, y) == pytest.approx(expected, rel=1e-6)
    p, y = multiclass()
    expected = multiclass_calibration_error(torch.tensor(p), torch.tensor(y), num_classes=4, n_bins=10).item()
    assert expected_calibration_error(p, y, bins=10) == pytest.approx(expected, rel=1e-6)
    p, y = multilabel()
    expected = np.mean([expected_calibration_error(b, a) for a, b in zip(y.T, p.T)])
    assert expected_calibration_error(p, y) == pytest.approx(expected, rel=1e-12)


def test_calibration_error_by_hand():
    p, y = [0.1, 0.1, 0.5, 0.5, 1.0, 1.0], [0, 1, 1, 1, 1, 0]
    # bins [0, .5): stated .1, realised .5; [.5, 1]: stated .75, realised .75
    assert expected_calibration_error(p, y, bins=2) == pytest.approx(2 / 6 * 0.4)
    # an edge belongs to the bin above it, and 1 to the last
    np.testing.assert_array_equal(reliability_curve(p, y, bins=2).mass, [2, 4])
    np.testing.assert_array_equal(reliability_curve(p, y, bins=10).mass, [0, 2, 0, 0, 0, 2, 0, 0, 0, 2])


def test_a_calibrated_model_has_the_error_that_the_docstring_states():
    rng = np.random.default_rng(3)
    stated = (np.arange(15) + 0.5) / 15
    p = np.repeat(stated, 200)
    errors = [expected_calibration_error(p, (rng.random(len(p)) < p).astype(int)) for _ in range(300)]
    predicted = np.sqrt(2 * 200 * stated * (1 - stated) / np.pi).sum() / len(p)
    assert np.mean(errors) == pytest.approx(predicted, rel=0.03)


@pytest.mark.parametrize("shift", [0.0, 0.1], ids=["calibrated", "off by 0.1"])
def test_the_interval_of_the_calibration_error_covers_and_holds_its_estimate(shift):
    rng, counts = np.random.default_rng(5), resample_counts(500, 200, np.random.default_rng(6))
    covered, plain, debiased = 0, [], []
    for _ in range(60):
        p = rng.uniform(0.02, 0.88, 500)
        y = (rng.random(500) < p + shift).astype(int)
        interval = bootstrap(METRICS["ece"], p, y, counts=counts)
        assert interval.low <= interval.estimate <= interval.high
        covered += interval.low <= shift <= interval.high
        plain.append(expected_calibration_error(p, y))
        debiased.append(interval.estimate)
    assert covered >= 55
    assert abs(np.mean(debiased) - shift) < 0.7 * abs(np.mean(plain) - shift) + 0.01


@pytest.mark.parametrize(("binning", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_reliability_equals_scikit_learn(binning, strategy):
    p, y = binary(998)  # no quantile falls onto a case
    realised, stated = calibration_curve(y, p, n_bins=8, strategy=strategy)
    curve = reliability_curve(p, y, bins=8, binning=binning)
    np.testing.assert_allclose(curve.realised, realised, rtol=1e-12)
    np.testing.assert_allclose(curve.stated, stated, rtol=1e-12)
    gap = np.abs(curve.realised - curve.stated) @ curve.mass / curve.mass.sum()
    assert expected_calibration_error(p, y, bins=8, binning=binning) == pytest.approx(gap, rel=1e-12)


def test_equal_mass_and_ties():
    p, y = np.array([0.2] * 50 + [0.4] * 50), np.array([0, 1] * 50)
    curve = reliability_curve(p, y, bins=10, binning="mass")
    assert curve.mass.sum() == 100
    assert np.count_nonzero(curve.mass) == 2
    assert len(curve.edges) == len(curve.mass) + 1
    p, y = binary(1000)
    np.testing.assert_allclose(reliability_curve(p, y, bins=10, binning="mass").mass, 100, atol=1)


def test_empty_bins_and_resampled_curves():
    p, y = binary(100)
    counts = np.random.default_rng(4).integers(0, 3, (6, 100))
    curve = reliability_curve(p / 2, y, bins=4, weight=counts)
    assert curve.stated.shape == curve.realised.shape == curve.mass.shape == (6, 4)
    assert np.isnan(curve.realised[:, 2:]).all()
    one = reliability_curve(np.repeat(p / 2, counts[3]), np.repeat(y, counts[3]), bins=4)
    np.testing.assert_allclose(curve.realised[3], one.realised)
    np.testing.assert_allclose(curve.stated[3], one.stated)


def test_what_a_curve_is_of():
    p, y = multiclass()
    top = reliability_curve(p, y)
    assert top.mass[0] == 0  # the most probable of four is never below 1/4
    of_class = reliability_curve(p, y, column=2)
    by_hand = reliability_curve(p[:, 2], (y == 2).astype(int))
    np.testing.assert_array_equal(of_class.realised, by_hand.realised)
    p, y = multilabel()
    pooled = reliability_curve(p, y)
    by_hand = reliability_curve(p.ravel(), y.ravel().astype(int))
    np.testing.assert_allclose(pooled.realised, by_hand.realised)
    assert reliability_curve(p, y, column=1).mass.sum() == len(p)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_undefined_without_cases(function):
    assert np.isnan(function(np.zeros((0, 2)), np.zeros(0, int)))
    assert np.isnan(function([0.5], [1], weight=[[0], [0]])).all()
    assert np.isnan(reliability_curve(np.zeros((0, 2)), np.zeros(0, int), binning="mass").realised).all()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"bins": 0}, ConfigurationError, "bins must be a positive integer.*0"),
        ({"bins": 2.5}, ConfigurationError, "got 2.5"),
        ({"binning": "with"}, UnknownNameError, "unknown binning 'with'.*Did you mean 'width'"),
    ],
)
def test_bad_options_are_told(options, error, words):
    with pytest.raises(error, match=words):
        expected_calibration_error([0.5], [1], **options)
    with pytest.raises(error, match=words):
        reliability_curve([0.5], [1], **options)


def test_a_column_that_is_not_there():
    with pytest.raises(ConfigurationError, match=r"no such column.*0 to 1, got 2"):
        reliability_curve([0.5], [1], column=2)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_bad_probabilities_are_told(function):
    with pytest.raises(DataError, match="sum to one"):
        function([[0.9, 0.9]], [1])
