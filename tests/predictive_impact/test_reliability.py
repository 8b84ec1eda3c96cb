"""Predicted against realised change: scipy as an oracle, and worlds where the answer is known."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from amodal.errors import ConfigurationError, DataError, ShapeError
from amodal.metrics import resample_counts
from amodal.predictive_impact import change_curve, rank_correlation, realised_change, variability


def world(cases: int, draws: int, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (S, N, 3) under right completions, and the prediction under the true one (N, 3)."""
    rng = np.random.default_rng(seed)
    centre, spread = rng.normal(size=(cases, 3)), rng.gamma(1.0, 1.5, (cases, 1))
    logits = centre + spread * rng.normal(size=(draws + 1, cases, 3)) + noise * rng.normal(size=(draws + 1, cases, 3))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return p[1:], p[0]


def test_with_right_completions_the_expected_change_is_v():
    draws, truth = world(4000, 100)
    predicted, realised = variability(draws), realised_change(draws.mean(0), truth)
    curve = change_curve(predicted, realised, bins=8)
    assert curve["cases"].sum() == 4000
    assert (curve["cases"] == 500).all()
    assert (abs(curve["excess"]) < 4 * curve["standard_error"] + 0.005).all()
    found = rank_correlation(predicted, realised, generator=np.random.default_rng(0), resamples=200)
    assert found.low > 0.5
    assert found.low < found.estimate < found.high


def test_what_stays_open_bounds_the_expected_change():
    """Two fair bits decide the label, and the modality shows the first: V as given, in each world."""
    bits = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    for label, v_missing, v_complete in (
        (bits[:, 0] ^ bits[:, 1], 0.5, 0.5),
        (bits[:, 0] & bits[:, 1], 0.375, 0.25),
        (bits[:, 0], 0.5, 0.0),
    ):
        p = np.eye(2)[label]  # (4, 2), equally likely completions
        missing = variability(p[:, None])[0]
        complete = variability(np.stack([p[:2], p[2:]], 1))  # given the first bit, which is the modality
        changes = realised_change(np.stack([p.mean(0)] * 2), np.stack([p[:2].mean(0), p[2:].mean(0)]))
        assert missing == pytest.approx(v_missing)
        assert complete.mean() == pytest.approx(v_complete)
        assert missing - complete.mean() - 1e-12 <= changes.mean() <= missing + 1e-12


def test_completions_that_vary_too_little_show_as_excess():
    draws, _ = world(2000, 60)
    _, truth = world(2000, 60, noise=3.0)
    curve = change_curve(variability(draws), realised_change(draws.mean(0), truth), bins=5)
    assert (curve["excess"] > 0.05).all()


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_equals_scipy_on_every_resample(ties: bool):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, 40).astype(float) if ties else rng.normal(size=40)
    y = x + rng.integers(-2, 3, 40) if ties else x + rng.normal(size=40)
    found = rank_correlation(x, torch.from_numpy(y), generator=np.random.default_rng(1), resamples=60, level=0.9)
    assert found.estimate == pytest.approx(spearmanr(x, y).statistic)
    counts = resample_counts(40, 60, np.random.default_rng(1))
    values = [spearmanr(np.repeat(x, row), np.repeat(y, row)).statistic for row in counts]
    np.testing.assert_allclose([found.low, found.high], np.quantile(values, [0.05, 0.95]))


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = 6 / np.pi * np.arcsin(0.5 / 2)  # Spearman's correlation of a Gaussian copula with correlation 0.5
    covered = 0
    for _ in range(120):
        x = rng.normal(size=150)
        y = 0.5 * x + np.sqrt(0.75) * rng.normal(size=150)
        found = rank_correlation(x, y, generator=rng, resamples=200, level=0.9)
        covered += found.low <= truth <= found.high
    assert 0.8 <= covered / 120 <= 0.97


def test_groups_are_resampled_whole():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=30), 10)
    y = x + np.repeat(rng.normal(size=30), 10)
    wide = rank_correlation(x, y, generator=np.random.default_rng(0), groups=np.repeat(np.arange(30), 10))
    narrow = rank_correlation(x, y, generator=np.random.default_rng(0))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_a_constant_has_no_rank_correlation():
    found = rank_correlation(np.full(5, 0.1), np.arange(5.0), generator=np.random.default_rng(0))
    assert np.isnan(found.estimate)
    assert found.reason == "One of the two is the same for all cases."


def test_ties_share_a_bin():
    curve = change_curve(np.array([0.0] * 6 + [0.1, 0.2]), np.arange(8.0), bins=4)
    assert curve["cases"].tolist() == [6, 2]
    assert np.isnan(change_curve(np.arange(3.0), np.arange(3.0), bins=3)["standard_error"]).all()
    assert curve["realised"][0] == pytest.approx(2.5)


def test_bad_input_is_named():
    with pytest.raises(ShapeError, match=r"same cases.*got \(3,\) and \(4,\)"):
        change_curve(np.zeros(3), np.zeros(4))
    with pytest.raises(DataError, match="expected at least 3, got 2"):
        change_curve(np.zeros(2), np.zeros(2))
    with pytest.raises(DataError, match="NaN or infinite"):
        change_curve(np.full(3, np.nan), np.zeros(3))
    with pytest.raises(ConfigurationError, match=r"at least one bin \(got 0\)"):
        change_curve(np.arange(3.0), np.arange(3.0), bins=0)
    with pytest.raises(ShapeError, match="expected 3 groups, got 2"):
        rank_correlation(np.arange(3.0), np.arange(3.0), generator=np.random.default_rng(0), groups=[1, 2])
