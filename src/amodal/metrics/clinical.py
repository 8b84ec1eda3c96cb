"""Metrics for decisions on predicted risks: errors at thresholds, net benefit, and how risks and outcomes agree.

All functions take risks (N,) of one outcome and whether it came true (N,), and a `weight`: None, (N,), or (R, N) counts
of R resamples, which gives R results in one pass. What is undefined is NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amodal.errors import ConfigurationError
from amodal.metrics.predictions import check_classified
from amodal.metrics.resampling import ratio, weighted, weighted_sums

__all__ = ["CalibrationFit", "ErrorsAtThresholds", "calibration_fit", "errors_at_thresholds", "net_benefit"]

_STEPS = 30  # of Newton's method
_EDGE = 1e-6  # risks closer to 0 or 1 have their logits there


class ErrorsAtThresholds(NamedTuple):
    """Rates of a rule "positive from this risk on", each of shape (T,) or (R, T).

    Attributes:
        sensitivity: Share of the positive cases that are called positive.
        specificity: Share of the negative cases that are called negative.
        positive_predictive_value: Share of those called positive that are.
        negative_predictive_value: Share of those called negative that are.
        called_positive: Share of all cases that are called positive.
    """

    sensitivity: NDArray[np.float64]
    specificity: NDArray[np.float64]
    positive_predictive_value: NDArray[np.float64]
    negative_predictive_value: NDArray[np.float64]
    called_positive: NDArray[np.float64]


def errors_at_thresholds(
    risk: ArrayLike, target: ArrayLike, thresholds: ArrayLike, *, weight: ArrayLike | None = None
) -> ErrorsAtThresholds:
    """Sensitivity, specificity and predictive values of calling a case positive from a risk on.

    Args:
        risk: Predicted risks, of shape (N,).
        target: Whether the outcome came true, of shape (N,).
        thresholds: Of shape (T,), between 0 and 1.
        weight: Counts or weights of shape (N,) or (R, N).

    Returns:
        The rates.

    Raises:
        ShapeError, DataError: For risks, targets or weights that do not fit.
        ConfigurationError: If a threshold is not between 0 and 1.

    Example:
        >>> found = errors_at_thresholds([0.1, 0.4, 0.6, 0.9], [0, 1, 0, 1], [0.5])
        >>> found.sensitivity, found.specificity, found.positive_predictive_value
        (array([0.5]), array([0.5]), array([0.5]))
    """
    p, y, at = _checked(risk, target, thresholds)
    called = (p[:, None] >= at).astype(np.float64)  # (N, T)
    columns = np.concatenate([called * y[:, None], called, y[:, None], np.ones((len(y), 1))], axis=1)
    sums = weighted_sums(columns, weight)
    n = len(at)
    true, positive = sums[..., :n], sums[..., n : 2 * n]
    yes, everyone = sums[..., 2 * n : 2 * n + 1], sums[..., 2 * n + 1 :]
    false = positive - true
    return ErrorsAtThresholds(
        ratio(true, yes),
        ratio(everyone - yes - false, everyone - yes),
        ratio(true, positive),
        ratio(everyone - yes - false, everyone - positive),
        ratio(positive, everyone),
    )


def net_benefit(
    risk: ArrayLike, target: ArrayLike, thresholds: ArrayLike, *, weight: ArrayLike | None = None
) -> NDArray[np.float64]:
    r"""Net benefit of treating from a risk on, in true positives a case.

    .. math:: \frac{TP}{N} - \frac{FP}{N} \, \frac{t}{1 - t}

    Who treats at risk t holds a false positive for worth t / (1 - t) of a true one. Treating nobody has 0; treating all
    is the net benefit of risks of 1 (`numpy.ones_like(risk)`).

    Args:
        risk, target, thresholds, weight: As for `errors_at_thresholds`; thresholds below 1.

    Returns:
        Of shape (T,), or (R, T).

    Raises:
        ShapeError, DataError, ConfigurationError: As for `errors_at_thresholds`.

    Source:
        :cite:`vickers2006decision`.

    Example:
        >>> net_benefit([0.1, 0.4, 0.6, 0.9], [0, 1, 0, 1], [0.5])
        array([0.])
    """
    p, y, at = _checked(risk, target, thresholds)
    called = (p[:, None] >= at).astype(np.float64)  # (N, T)
    worth = called * np.where(y[:, None] > 0, 1.0, -at / (1 - at))
    sums = weighted_sums(np.concatenate([worth, np.ones((len(y), 1))], axis=1), weight)
    return ratio(sums[..., :-1], sums[..., -1:])


class CalibrationFit(NamedTuple):
    """The fit of outcomes on the logits of the risks, each () or (R,).

    Attributes:
        slope: Of the logit of the outcome over the logit of the risk; below 1: risks are too extreme.
        intercept: Of the same with the slope held at 1, calibration in the large; below 0: risks are too high.
        observed_over_expected: Number of outcomes over the sum of the risks; below 1: risks are too high.
    """

    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]
    observed_over_expected: NDArray[np.float64]


def calibration_fit(risk: ArrayLike, target: ArrayLike, *, weight: ArrayLike | None = None) -> CalibrationFit:
    r"""Calibration slope, intercept (in the large), and observed over expected outcomes.

    The slope :math:`b` of :math:`\operatorname{logit} P(y = 1) = a + b \operatorname{logit} p`, and the intercept
    :math:`a` of the same with :math:`b = 1`, by maximum likelihood.

    Args:
        risk: Predicted risks, of shape (N,); those nearer to 0 or 1 than 1e-6 count as that.
        target: Whether the outcome came true, of shape (N,).
        weight: Counts or weights of shape (N,) or (R, N).

    Returns:
        The three; NaN where only one outcome occurs, slope NaN also where the risks separate the outcomes or are all
        the same.

    Raises:
        ShapeError, DataError: For risks, targets or weights that do not fit.

    Source:
        :cite:`cox1958calibration`; what to report: :cite:`vancalster2025essentials`.

    Example:
        >>> fit = calibration_fit([0.2, 0.2, 0.2, 0.2, 0.2, 0.8, 0.8, 0.8, 0.8, 0.8], [0, 0, 0, 0, 1, 0, 1, 1, 1, 1])
        >>> [abs(round(float(value), 6)) for value in fit]
        [1.0, 0.0, 1.0]
    """
    p, y, _ = _checked(risk, target, [0.5])
    clipped = np.clip(p, _EDGE, 1 - _EDGE)
    logit = np.log(clipped / (1 - clipped))

    def statistic(block: NDArray) -> NDArray[np.float64]:
        w = block.astype(np.float64)
        outcomes, expected, total = w @ y, w @ p, w.sum(1)
        both = (outcomes > 0) & (outcomes < total)
        differ = np.ptp(logit) > 0 if len(logit) else False  # of one risk for all there is no slope
        slope = np.where(
            both & differ,
            _logistic(np.stack([np.ones_like(logit), logit], axis=1), np.zeros_like(logit), y, w)[:, 1],
            np.nan,
        )
        intercept = np.where(both, _logistic(np.ones((len(logit), 1)), logit, y, w)[:, 0], np.nan)
        return np.stack([slope, intercept, ratio(outcomes, expected)], axis=1)

    found = weighted(statistic, weight, len(y))
    return CalibrationFit(found[..., 0], found[..., 1], found[..., 2])


def _logistic(x: NDArray, offset: NDArray, y: NDArray, weight: NDArray) -> NDArray[np.float64]:
    """Coefficients (r, k) of logistic regressions with an offset, one for each row of the weights (r, N)."""
    beta, step = np.zeros((2, len(weight), x.shape[1]))
    total = np.maximum(weight.sum(1), 1)[:, None]
    squares = (x[:, :, None] * x[:, None]).reshape(len(x), -1)  # (N, k * k)
    going = np.arange(len(weight))  # rows that have not converged
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(_STEPS):
            w = weight[going]
            p = 1 / (1 + np.exp(-(beta[going] @ x.T + offset)))  # (r, N)
            gradient = (w * (y - p)) @ x / total[going]
            hessian = ((w * p * (1 - p)) @ squares / total[going]).reshape(len(going), *x.shape[1:] * 2)
            step[going] = np.linalg.solve(hessian + 1e-12 * np.eye(x.shape[1]), gradient[..., None])[..., 0]
            beta[going] += np.clip(step[going], -5, 5)
            going = going[~(np.abs(step[going]) < 1e-9).all(1)]
            if not len(going):
                break
    return np.where(np.abs(step) < 1e-4, beta, np.nan)


def _checked(risk: ArrayLike, target: ArrayLike, thresholds: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    checked = check_classified(np.asarray(risk, dtype=np.float64), target)
    at = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    if at.ndim != 1 or not ((at >= 0) & (at < 1)).all():
        raise ConfigurationError("a threshold is out of range", expected="0 <= threshold < 1", got=thresholds)
    return checked.probabilities[:, 1], (checked.target == 1).astype(np.float64), at
