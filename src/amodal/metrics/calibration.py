"""Calibration: log likelihood, Brier score, calibration error, reliability curve.

Arguments, weights and results are as in `discrimination`. All scores here are in the units of one case: a multilabel
score is the mean over its labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amodal.errors import ConfigurationError, UnknownNameError
from amodal.metrics.predictions import Classified, Problem, check_classified
from amodal.metrics.resampling import Value, as_value, ratio, weighted_mean, weighted_sums

__all__ = [
    "Binning",
    "ReliabilityCurve",
    "brier_score",
    "calibration_error_deviation",
    "expected_calibration_error",
    "negative_log_likelihood",
    "reliability_curve",
]

Binning = Literal["width", "mass"]
"""Bins of equal width over [0, 1], or of (as far as ties allow) equally many cases."""

FLOOR = 2.0**-23
"""Smallest probability that the log likelihood tells from zero: one impossible case costs at most 15.9 nats."""


def negative_log_likelihood(probabilities: ArrayLike, target: ArrayLike, *, weight: ArrayLike | None = None) -> Value:
    r"""Mean negative log probability of the truth, in nats.

    :math:`-\log p_{i, y_i}` for a class, and the mean over labels of the binary cross entropy for labels. Probabilities
    below `FLOOR` (the resolution of float32, whatever the type that came) count as `FLOOR`.

    Args:
        probabilities: Of shape (N, C), (N,) or (N, K).
        target: Of shape (N,) or (N, K).
        weight: Counts or weights of shape (N,) or (R, N).

    Returns:
        A value of at least 0, or (R,) of them; NaN without cases.

    Raises:
        ShapeError, DataError: For predictions, targets or weights that do not fit.

    Source:
        :cite:`good1952rational`.

    Example:
        >>> round(negative_log_likelihood([[0.5, 0.5], [0.25, 0.75]], [0, 1]), 4)
        0.4904
    """
    checked = check_classified(probabilities, target)
    p, y = checked.probabilities, checked.target
    if checked.many_labels:
        return checked.mean_over_labels(-np.log(np.clip(np.where(y, p, 1 - p), FLOOR, 1.0)), weight)
    of_truth = np.take_along_axis(p, y[:, None], axis=1)[:, 0]  # (N,)
    return weighted_mean(-np.log(np.clip(of_truth, FLOOR, 1.0)), weight)


def brier_score(probabilities: ArrayLike, target: ArrayLike, *, weight: ArrayLike | None = None) -> Value:
    r"""Mean squared distance of the probabilities to the truth.

    :math:`(p_i - y_i)^2` of the second class for two classes, in [0, 1]; :math:`\sum_c (p_{ic} - [y_i = c])^2` for
    more, in [0, 2] (both as in scikit-learn); the mean over labels of the former for labels.

    Args:
        probabilities: Of shape (N, C), (N,) or (N, K).
        target: Of shape (N,) or (N, K).
        weight: Counts or weights of shape (N,) or (R, N).

    Returns:
        A value of at least 0, or (R,) of them; NaN without cases.

    Raises:
        ShapeError, DataError: For predictions, targets or weights that do not fit.

    Source:
        :cite:`brier1950verification`.

    Example:
        >>> brier_score([0.5, 1.0], [1, 1]), brier_score([[0.5, 0.5, 0.0]], [0])
        (0.125, 0.5)
    """
    checked = check_classified(probabilities, target)
    p, y = checked.probabilities, checked.target
    if checked.two_classes:
        return weighted_mean((p[:, 1] - y) ** 2, weight)
    if checked.many_labels:
        return checked.mean_over_labels((p - y) ** 2, weight)
    return weighted_mean(((p - (y[:, None] == np.arange(p.shape[1]))) ** 2).sum(1), weight)


def expected_calibration_error(
    probabilities: ArrayLike,
    target: ArrayLike,
    *,
    bins: int = 15,
    binning: Binning = "width",
    debiased: bool = False,
    weight: ArrayLike | None = None,
) -> Value:
    r"""Mean absolute gap between stated and realised frequency, over bins of the stated one.

    .. math::
        \sum_b \frac{W_b}{W} \left| \frac1{W_b} \sum_{i \in b} w_i c_i - \frac1{W_b} \sum_{i \in b} w_i r_i \right|

    What is stated (:math:`c`) and what came true (:math:`r`): for two classes the probability of the second and whether
    it was the truth; for more the highest probability and whether that class was the truth; for labels each as two
    classes, and the mean over them. Bin b of B equal widths is [b/B, (b+1)/B), and 1 belongs to the last. Bins of equal
    mass have their edges at the quantiles of c over the unweighted cases, and the same edges serve every resample.

    The estimate is biased upwards: a perfectly calibrated model has about
    :math:`\sum_b \sqrt{2 W_b p_b (1 - p_b) / \pi} / W`, not zero, and the more the fewer cases there are. `debiased`
    subtracts what chance adds to each gap :math:`g_b` with standard error :math:`s_b`,
    :math:`\mathrm{E}|N(g_b, s_b^2)| - |g_b|`, and stops at zero. Percentiles of resamples are no interval for it,
    because resampling adds its own noise; `calibration_error_deviation` makes one.

    Args:
        probabilities: Of shape (N, C), (N,) or (N, K).
        target: Of shape (N,) or (N, K).
        bins: Number of bins B.
        binning: "width" or "mass".
        debiased: Whether to subtract what chance adds.
        weight: Counts or weights of shape (N,) or (R, N).

    Returns:
        A value in [0, 1], or (R,) of them; NaN without cases.

    Raises:
        ShapeError, DataError: For predictions, targets or weights that do not fit.
        ConfigurationError, UnknownNameError: If the bins are no positive integer, or the binning is not known.

    Source:
        :cite:`naeini2015calibrated` and, for 15 bins of the top class, :cite:`guo2017calibration`; the correction is
        that of :cite:`kumar2019verified`, section 4, with the standard errors of the bins at hand.

    Example:
        >>> expected_calibration_error([0.25, 0.25, 0.25, 0.25], [0, 0, 0, 1])
        0.0
        >>> expected_calibration_error([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1]], [0, 1])
        0.3...
    """
    checked = check_classified(probabilities, target)
    errors = [
        _calibration_error(stated, true, bins, binning, debiased, counts)
        for stated, true, counts in _problems(checked, weight)
    ]
    return as_value(np.mean(errors, axis=0))


def calibration_error_deviation(
    probabilities: ArrayLike,
    target: ArrayLike,
    *,
    bins: int = 15,
    binning: Binning = "width",
    weight: ArrayLike | None = None,
) -> Value:
    r"""Distance of the gaps of resamples from those of the cases: a bound on the error of the calibration error.

    .. math:: \sum_b |g^*_b - g_b| \ge \Bigl| \sum_b |g^*_b| - \sum_b |g_b| \Bigr|

    As the gaps of resamples vary around those of the cases, so do these around the true ones. The calibration error
    plus and minus the 95 % quantile of this bound is therefore an interval that covers in 95 % of samples or more, also
    for a calibrated model, where percentiles of resamples never reach zero.

    Args:
        probabilities, target, bins, binning: As for `expected_calibration_error`.
        weight: Counts of shape (R, N).

    Returns:
        Of shape (R,); 0 without weights.

    Example:
        >>> calibration_error_deviation([0.5, 0.5], [0, 1], weight=[[1, 1], [2, 0]])
        array([0. , 0.5])
    """
    checked = check_classified(probabilities, target)
    deviations = []
    for stated, true, counts in _problems(checked, weight):
        gaps = _membership(stated, _edges(stated, bins, binning)) * (stated - true)[:, None]  # (N, bins)
        with_mass = np.concatenate([gaps, np.ones((len(stated), 1))], axis=1)
        own, drawn = weighted_sums(with_mass, None), weighted_sums(with_mass, counts)
        deviations.append(np.abs(ratio(drawn[..., :-1], drawn[..., -1:]) - ratio(own[:-1], own[-1:])).sum(-1))
    return as_value(np.mean(deviations, axis=0))


def _problems(checked: Classified, weight: ArrayLike | None) -> list[Problem]:
    return checked.one_versus_rest(weight) if checked.many_labels else [(*_stated(checked), weight)]


@dataclass(frozen=True)
class ReliabilityCurve:
    """Stated against realised frequency, bin by bin.

    Args:
        edges: Edges of the bins, of shape (bins + 1,).
        stated: Mean stated probability in each bin, (bins,) or (R, bins); NaN in an empty one.
        realised: Share that came true, of the same shape; NaN in an empty bin.
        mass: Weight in each bin, of the same shape.
    """

    edges: NDArray[np.float64]
    stated: NDArray[np.float64]
    realised: NDArray[np.float64]
    mass: NDArray[np.float64]


def reliability_curve(
    probabilities: ArrayLike,
    target: ArrayLike,
    *,
    bins: int = 10,
    binning: Binning = "width",
    column: int | None = None,
    weight: ArrayLike | None = None,
) -> ReliabilityCurve:
    """Realised against stated frequency, in bins as in `expected_calibration_error`.

    Args:
        probabilities: Of shape (N, C), (N,) or (N, K).
        target: Of shape (N,) or (N, K).
        bins: Number of bins. With equal mass, bins without width (ties) are dropped.
        binning: "width" or "mass".
        column: Class or label to draw, against the rest. Without it: two classes, the second; more, the most probable
            class; labels, all of them pooled.
        weight: Counts or weights of shape (N,) or (R, N); with R rows, R curves (for a band).

    Returns:
        The curve.

    Raises:
        ShapeError, DataError: For predictions, targets or weights that do not fit.
        ConfigurationError, UnknownNameError: If bins, binning or column do not fit.

    Source:
        :cite:`niculescu2005predicting`.

    Example:
        >>> curve = reliability_curve([0.1, 0.2, 0.9], [0, 1, 1], bins=2)
        >>> curve.stated.round(2), curve.realised, curve.mass
        (array([0.15, 0.9 ]), array([0.5, 1. ]), array([2., 1.]))
    """
    checked = check_classified(probabilities, target)
    problems = _columns(checked, column, weight)
    pooled = np.concatenate([stated for stated, _, _ in problems])
    edges = _edges(pooled, bins, binning)
    sums = np.sum([_bin_sums(stated, true, edges, counts) for stated, true, counts in problems], axis=0)
    of_stated, of_true, mass = np.split(sums, 3, axis=-1)  # each (…, bins)
    return ReliabilityCurve(edges, ratio(of_stated, mass), ratio(of_true, mass), mass)


def _columns(checked: Classified, column: int | None, weight: ArrayLike | None) -> list[Problem]:
    if column is None:
        return _problems(checked, weight)
    width = checked.probabilities.shape[1]
    if not isinstance(column, int | np.integer) or not 0 <= column < width:
        raise ConfigurationError("there is no such column", expected=f"0 to {width - 1}", got=column)
    return [checked.of_column(int(column), weight)]


def _stated(checked: Classified) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The probability stated for the predicted class, and whether it came true."""
    if checked.two_classes:
        return checked.probabilities[:, 1], checked.target == 1
    return checked.probabilities.max(1), checked.predicted == checked.target


def _edges(stated: NDArray[np.float64], bins: int, binning: str) -> NDArray[np.float64]:
    if not isinstance(bins, int | np.integer) or bins < 1:
        raise ConfigurationError("bins must be a positive integer", got=bins)
    if binning not in get_args(Binning):
        raise UnknownNameError("binning", binning, get_args(Binning))
    if binning == "width" or not len(stated):
        return np.linspace(0, 1, bins + 1)
    inner = np.quantile(stated, np.linspace(0, 1, bins + 1)[1:-1])
    return np.unique(np.concatenate([[0.0], inner[(inner > 0) & (inner < 1)], [1.0]]))


def _membership(stated: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Membership of cases in bins, (N, bins) of zeros and ones."""
    index = np.searchsorted(edges[1:-1], stated, side="right")
    return (index[:, None] == np.arange(len(edges) - 1)).astype(np.float64)


def _bin_sums(
    stated: NDArray[np.float64], true: NDArray[np.bool_], edges: NDArray[np.float64], weight: ArrayLike | None
) -> NDArray[np.float64]:
    """Sums of what is stated, of what came true, and of the weights in each bin: (3 * bins,) or (R, 3 * bins)."""
    inside = _membership(stated, edges)
    return weighted_sums(np.concatenate([inside * stated[:, None], inside * true[:, None], inside], axis=1), weight)


def _calibration_error(
    stated: NDArray[np.float64],
    true: NDArray[np.bool_],
    bins: int,
    binning: str,
    debiased: bool,
    weight: ArrayLike | None,
) -> NDArray[np.float64]:
    gaps = _membership(stated, _edges(stated, bins, binning)) * (stated - true)[:, None]  # (N, bins)
    columns = [gaps, np.ones((len(stated), 1)), *([gaps**2] if debiased else [])]
    sums = weighted_sums(np.concatenate(columns, axis=1), weight)
    n = gaps.shape[1]
    total, mass = sums[..., :n], sums[..., n : n + 1]
    if not debiased:
        return ratio(np.abs(total).sum(-1), mass[..., 0])
    from scipy.special import erf

    gap = ratio(total, mass)
    error = np.sqrt(np.maximum(ratio(sums[..., n + 1 :], mass) - gap**2, 0) / max(len(stated), 1))
    scaled = np.divide(np.abs(gap), error, out=np.full(gap.shape, np.inf), where=error > 0)
    by_chance = error * np.sqrt(2 / np.pi) * np.exp(-(scaled**2) / 2) + np.abs(gap) * (erf(scaled / np.sqrt(2)) - 1)
    return np.maximum((np.abs(gap) - by_chance).sum(-1), 0.0)
