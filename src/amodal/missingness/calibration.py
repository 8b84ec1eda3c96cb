r"""Calibration of rates: the probabilities to draw with so that a modality is removed as often as asked.

Removal is drawn per entry, and a row that would lose everything gets one of its modalities back, each of the
:math:`k` naturally present ones with the same chance. Of a modality :math:`m` of a row with natural pattern :math:`S`
the probability of being removed *after* this repair is

.. math:: q_m - \tfrac{1}{k} \prod_{j \in S} q_j,

with :math:`q` the probabilities before it. A rate is the average of this over the rows that naturally have
:math:`m`; the functions here solve for :math:`q`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from amodal.missingness.patterns import pattern_codes

__all__ = ["intercept", "intercepts_after_repair", "largest_scale", "probabilities_before_repair", "sigmoid"]

_TOLERANCE = 1e-10
_STEPS = 200
_STEEPEST = 30.0  # sigmoid(30) is 1 - 1e-13: as good as certain


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def probabilities_before_repair(rates: np.ndarray, observed: np.ndarray) -> np.ndarray | None:
    r"""Solves for the constant probabilities whose marginals after the repair are the rates.

    The unknowns solve :math:`q_m = r_m + \operatorname{mean}_{i \ni m} k_i^{-1} \prod_{j \in S_i} q_j`, a system with
    non-negative coefficients; Newton's method from :math:`q = r` climbs to its least solution.

    Args:
        rates: Rates r after the repair, of shape (M,), each in [0, 1).
        observed: Natural presence, bool, of shape (N, M).

    Returns:
        Probabilities q, of shape (M,), each in [0, 1]; None if no probabilities lead to these rates.

    Example:
        >>> complete = np.ones((1, 2), dtype=bool)
        >>> probabilities_before_repair(np.array([0.375, 0.375]), complete)  # 0.5 - 0.5² / 2
        array([0.5, 0.5])
    """
    patterns, counts = _distinct(observed)
    sizes = patterns.sum(axis=1)
    share = patterns * counts[:, None] / np.maximum(counts @ patterns, 1)  # (P, M): of the rows that have m
    q = rates.astype(float)
    for _ in range(_STEPS):
        restored = np.where(patterns, q, 1.0).prod(axis=1) / sizes  # (P,)
        gap = rates + restored @ share - q  # (M,)
        if np.abs(gap).max(initial=0.0) < _TOLERANCE:
            return np.minimum(q, 1.0)
        slopes = np.stack([_product_without(q, patterns, j) for j in range(len(q))], axis=1) / sizes[:, None]  # (P, M)
        jacobian = np.eye(len(q)) - share.T @ slopes
        step = np.linalg.lstsq(jacobian, gap, rcond=None)[0]
        if not np.isfinite(step).all() or step.min() < -1e-6 or (q + step).max() > 1 + 1e-6:
            return None  # the climb has no solution to climb to
        q = q + step
    return None


def intercept(scores: np.ndarray, strength: float, mean: float) -> float:
    r"""Solves :math:`\operatorname{mean}_i \sigma(\alpha + \beta s_i) = q` for :math:`\alpha`.

    Args:
        scores: Scores s, of shape (n,), finite.
        strength: The slope :math:`\beta`.
        mean: The average probability q, in [0, 1].

    Returns:
        The intercept; minus or plus infinity for a mean of 0 or 1, and the logit of the mean without scores.

    Example:
        >>> round(intercept(np.array([-1.0, 1.0]), 2.0, 0.5), 12)
        0.0
    """
    if mean <= 0.0 or mean >= 1.0:
        return -np.inf if mean <= 0.0 else np.inf
    logit = float(np.log(mean) - np.log1p(-mean))
    lifted = strength * scores
    low, high = logit - lifted.max(initial=0.0), logit - lifted.min(initial=0.0)
    alpha = 0.5 * (low + high) if len(scores) else logit
    for _ in range(_STEPS):
        probability = sigmoid(alpha + lifted)
        gap = probability.mean() - mean if len(scores) else 0.0
        if abs(gap) < _TOLERANCE:
            break
        low, high = (low, alpha) if gap > 0 else (alpha, high)
        slope = (probability * (1 - probability)).mean()
        alpha = alpha - gap / slope if slope > 0 else np.nan
        if not low < alpha < high:  # Newton left the bracket
            alpha = 0.5 * (low + high)
    return float(alpha)


def intercepts_after_repair(
    rates: np.ndarray, observed: np.ndarray, scores: np.ndarray, strength: float
) -> np.ndarray | None:
    r"""Solves for intercepts with which removal by each entry's own score has the rates as marginals after the repair.

    Entry (i, m) is drawn with :math:`q_{im} = \sigma(\alpha_m + \beta s_{im})`; Newton's method with the exact
    Jacobian, from the intercepts that give the constant probabilities' means.

    Args:
        rates: Rates r after the repair, of shape (M,), each in [0, 1).
        observed: Natural presence, bool, of shape (N, M).
        scores: Scores s, of shape (N, M); read where present.
        strength: The slope :math:`\beta`.

    Returns:
        Intercepts, of shape (M,), minus infinity where the rate is 0; None if no intercepts lead to these rates.
    """
    constant = probabilities_before_repair(rates, observed)
    if constant is None:
        return None
    rows = observed.any(axis=1)  # the others have nothing to lose
    present, lifted = observed[rows], strength * np.where(observed, scores, 0.0)[rows]
    alpha = np.array([intercept(lifted[present[:, m], m], 1.0, mean) for m, mean in enumerate(constant)])
    alpha = np.where(constant > 0, np.clip(alpha, -_STEEPEST, _STEEPEST), -np.inf)
    active = (constant > 0) & present.any(axis=0)
    share = present / np.maximum(present.sum(axis=0), 1)  # (N, M): of the rows that have m
    sizes = present.sum(axis=1)
    for _ in range(_STEPS):
        q = np.where(present, sigmoid(alpha + lifted), 1.0)  # (N, M)
        restored = q.prod(axis=1) / sizes  # (N,)
        gap = (rates - (share * (q - restored[:, None])).sum(axis=0))[active]
        if np.abs(gap).max(initial=0.0) < _TOLERANCE:
            return alpha
        slope = present * (1 - q)
        jacobian = np.diag((share * q * slope).sum(axis=0)) - share.T @ (restored[:, None] * slope)
        step = np.linalg.lstsq(jacobian[np.ix_(active, active)], gap, rcond=1e-14)[0]
        if not np.isfinite(step).all() or np.abs(alpha[active]).max() > 2 * _STEEPEST:
            break
        alpha[active] += step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-300))
    return None


def largest_scale(feasible: Callable[[float], bool], upper: float) -> float:
    """Bisects for the largest factor with which something is still feasible.

    Args:
        feasible: Whether a factor is; True below some value and False above it.
        upper: A factor that is not feasible.

    Returns:
        The largest feasible factor found; 0 if none is.
    """
    low, high = 0.0, upper
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if feasible(middle) else (low, middle)
    return low


def _distinct(observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct patterns with something present, bool (P, M), and how often each occurs, (P,)."""
    packed = np.packbits(observed, axis=1)
    keys = pattern_codes(observed) if observed.shape[1] <= 62 else packed.view(f"V{packed.shape[1]}")[:, 0]
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    patterns = observed[first]
    some = patterns.any(axis=1)
    return patterns[some], counts[some]


def _product_without(q: np.ndarray, patterns: np.ndarray, j: int) -> np.ndarray:
    """The derivative of each pattern's product of probabilities by the j-th: 0 where j is not in the pattern."""
    others = patterns.copy()
    others[:, j] = False
    return np.where(patterns[:, j], np.where(others, q, 1.0).prod(axis=1), 0.0)
