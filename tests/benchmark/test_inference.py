"""Seeds and several comparisons, against closed forms."""

import numpy as np
import pytest
from scipy.stats import norm

from amodal.benchmark.inference import resample_seeds
from amodal.metrics import adjust_p_values, paired_bootstrap_p_value, resample_counts


def test_the_part_of_the_seeds_in_the_variance_is_that_of_a_mean():
    values = np.array([0.1, 0.4, 0.45, 0.9])
    drawn = resample_seeds(np.repeat(values[:, None], 200_000, axis=1), np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.002)
    assert drawn.var() == pytest.approx(values.var(ddof=1) / len(values), rel=0.01)


def test_the_interval_is_one_for_other_cases_and_other_seeds():
    """Over many worlds y = case + seed, the bootstrap's variance is that of the mean: s²/N + t²/S."""
    rng, n_cases, n_seeds = np.random.default_rng(1), 60, 4
    variances = []
    for _ in range(400):
        values = rng.normal(0, 1.0, n_cases) + rng.normal(0, 0.2, n_seeds)[:, None]  # (S, N)
        counts = resample_counts(n_cases, 200, rng)
        drawn = values @ counts.T / n_cases  # (S, R)
        variances.append(resample_seeds(drawn, rng).var())
    expected = 1.0**2 / n_cases + 0.2**2 / n_seeds
    assert np.mean(variances) == pytest.approx(expected, rel=0.06)


def test_one_estimate_needs_no_adjustment():
    drawn = np.random.default_rng(0).normal(2.0, 1.0, (1, 100_000))
    assert adjust_p_values([2.0], drawn)[0] == pytest.approx(2 * norm.sf(2.0), rel=0.03)


def test_independent_estimates_are_adjusted_as_sidak_says_one_after_the_other():
    estimates = np.array([2.2, 2.6, 0.5, 1.4])
    drawn = np.random.default_rng(1).normal(estimates[:, None], 1.0, (4, 200_000))
    single = 2 * norm.sf(estimates)
    expected = 1 - (1 - single) ** np.array([3, 4, 1, 2])  # by rank: the largest among four, the next among three, …
    np.testing.assert_allclose(adjust_p_values(estimates, drawn), expected, rtol=0.04)


def test_what_is_the_same_is_counted_once_and_the_scale_does_not_matter():
    noise = np.random.default_rng(2).normal(size=50_000)
    drawn = 2.0 + np.stack([noise] * 5)
    np.testing.assert_allclose(adjust_p_values([2.0] * 5, drawn), adjust_p_values([2.0], drawn[:1])[0])
    scale = np.array([1.0, 1e-6, 1e6, 3.0, 1.0])
    np.testing.assert_allclose(
        adjust_p_values(2.0 * scale, drawn * scale[:, None]), adjust_p_values([2.0], drawn[:1])[0]
    )


def test_what_is_not_defined_is_left_out_and_no_spread_is_no_doubt():
    drawn = np.stack([np.full(99, np.nan), np.full(99, 0.5), np.zeros(99)])
    np.testing.assert_allclose(adjust_p_values([np.nan, 0.5, 0.0], drawn), [np.nan, 0.01, 1.0])


def test_an_adjusted_p_value_is_never_below_its_own():
    """Whatever the estimates, their dependence, ties and what is undefined."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        k, r = int(rng.integers(1, 7)), 199
        noise = rng.normal(size=(k, r)) + rng.normal(size=r) * rng.uniform(0, 3)
        estimates = rng.normal(0, 2, k) * (rng.random(k) < 0.8)
        drawn = estimates[:, None] + noise
        if seed % 3 == 1:
            estimates, drawn = estimates.round(1), drawn.round(1)
        if seed % 3 == 2:
            drawn[rng.random(drawn.shape) < 0.3] = np.nan
        single = [paired_bootstrap_p_value(e, d) for e, d in zip(estimates, drawn)]
        assert (adjust_p_values(estimates, drawn) >= single).all()
