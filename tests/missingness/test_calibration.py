from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit

from amodal.missingness.calibration import (
    intercept,
    intercepts_after_repair,
    largest_scale,
    probabilities_before_repair,
    sigmoid,
)


def _marginals(q, observed):
    """Marginal removal of each modality by enumerating every outcome of the coins, and the repair."""
    lost, having = np.zeros(len(q)), observed.sum(axis=0)
    for row in observed:
        present = np.flatnonzero(row)
        for outcome in product([False, True], repeat=len(present)):
            chance = np.prod([q[m] if gone else 1 - q[m] for m, gone in zip(present, outcome)])
            for m, gone in zip(present, outcome):
                lost[m] += gone * chance * (1 - 1 / len(present) if all(outcome) else 1)
    return lost / np.maximum(having, 1)


def test_sigmoid_is_the_logistic_function_even_far_out():
    x = np.array([-1e4, -30.0, -1.0, 0.0, 2.0, 1e4, -np.inf, np.inf])
    np.testing.assert_allclose(sigmoid(x), expit(x), atol=1e-15)


@pytest.mark.parametrize("n", [2, 3, 4, 6])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.95, 1.0])
def test_complete_rows_solve_the_closed_form(n, share):
    rate = share * (1 - 1 / n)
    q = probabilities_before_repair(np.full(n, rate), np.ones((5, n), dtype=bool))
    expected = brentq(lambda q: q - q**n / n - rate, 0, 1 + 1e-9, xtol=1e-14)
    assert q == pytest.approx(np.full(n, expected), abs=1e-4 if share == 1 else 1e-8)
    assert q - q**n / n == pytest.approx(np.full(n, rate), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 4), st.integers(0, 10_000), st.floats(0.0, 0.9))
def test_any_natural_absence_and_any_rates_solve_the_enumeration(n, seed, top):
    generator = np.random.default_rng(seed)
    observed, rates = generator.random((12, n)) < 0.7, top * generator.random(n)
    q = probabilities_before_repair(rates, observed)
    if q is None:  # then the fixed point does leave [0, 1]
        climbed = rates.copy()
        for _ in range(20_000):
            climbed = rates + climbed - _restored(climbed, observed)
            if climbed.max() > 1:
                return
        pytest.fail("called infeasible, though the climb stays in [0, 1]")
    assert ((q >= 0) & (q <= 1)).all()
    having = observed.any(axis=0)
    np.testing.assert_allclose(_marginals(q, observed)[having], rates[having], atol=1e-8)


def _restored(q, observed):
    rows = observed[observed.any(axis=1)]
    back = np.where(rows, q, 1.0).prod(axis=1) / rows.sum(axis=1)
    return q - (rows * back[:, None]).sum(axis=0) / np.maximum(rows.sum(axis=0), 1)


def test_a_modality_that_is_always_alone_cannot_be_removed():
    observed = np.array([[True, False, False], [False, True, True]])
    assert probabilities_before_repair(np.array([0.1, 0.1, 0.1]), observed) is None
    assert probabilities_before_repair(np.array([0.0, 0.5, 0.5]), observed) is not None


@pytest.mark.parametrize("mean", [0.001, 0.2, 0.5, 0.97])
@pytest.mark.parametrize("strength", [-3.0, 0.0, 1.0, 50.0])
def test_intercept_gives_the_mean(mean, strength):
    scores = np.random.default_rng(0).standard_t(3, size=500)
    alpha = intercept(scores, strength, mean)
    assert expit(alpha + strength * scores).mean() == pytest.approx(mean, abs=1e-8)


def test_intercept_at_the_ends_and_without_scores():
    assert intercept(np.zeros(3), 1.0, 0.0) == -np.inf
    assert intercept(np.zeros(3), 1.0, 1.0) == np.inf
    assert intercept(np.zeros(0), 1.0, 0.25) == pytest.approx(np.log(1 / 3))


@pytest.mark.parametrize("rates", [[0.3, 0.3, 0.3], [0.05, 0.5, 0.0], [0.6, 0.55, 0.5], [2 / 3 - 1e-6] * 3])
def test_intercepts_after_repair_solve_the_enumeration_row_by_row(rates):
    generator = np.random.default_rng(1)
    natural = [True, True, True] if max(rates) > 0.6 else [True, False, True]
    observed = np.array([[True, True, True], natural, [True, True, True]] * 4)
    scores = generator.standard_normal(observed.shape)
    alpha = intercepts_after_repair(np.array(rates), observed, scores, 2.0)
    assert alpha is not None
    each = [_marginals(expit(alpha + 2.0 * s), row[None]) for s, row in zip(scores, observed)]
    np.testing.assert_allclose(np.sum(each, axis=0) / observed.sum(axis=0), rates, atol=1e-8)


def test_intercepts_after_repair_say_when_there_are_none():
    observed = np.ones((4, 2), dtype=bool)
    assert intercepts_after_repair(np.array([0.6, 0.6]), observed, np.zeros((4, 2)), 1.0) is None


def test_largest_scale_bisects():
    assert largest_scale(lambda factor: factor <= 0.3, 1.0) == pytest.approx(0.3)
    assert largest_scale(lambda factor: False, 1.0) == pytest.approx(0.0, abs=1e-9)
