"""Significance of a difference: the paired bootstrap p-value, and the published t-test for comparison."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amodal.errors import DataError, ShapeError

__all__ = ["BootstrapTTest", "adjust_p_values", "paired_bootstrap_p_value", "two_sample_bootstrap_t_test"]


def paired_bootstrap_p_value(estimate: float, differences: ArrayLike) -> float:
    r"""Two-sided p-value of no difference, from differences within the same resamples.

    .. math::
        p = \frac{1 + \#\{r : |d_r - \hat d| \ge |\hat d|\}}{R + 1}

    The resamples vary around the estimate as the estimate varies around the truth; p is the share in which they are as
    far from it as it is from zero. It is `adjust_p_values` of one comparison: the same statistic, so that an adjusted
    p-value is never below its own. More resamples make it more precise and not smaller; its smallest value is
    1 / (R + 1).

    Args:
        estimate: The difference :math:`\hat d` on the cases themselves.
        differences: One difference :math:`d_r` for each resample, of shape (R,); NaN ones (undefined in a run) do not
            count.

    Returns:
        The p-value; NaN if no difference is defined.

    Raises:
        ShapeError: If the differences are not of shape (R,).

    Source:
        :cite:`davison1997bootstrap`, chapters 4 and 5.

    Example:
        >>> paired_bootstrap_p_value(0.2, [0.1, 0.2, 0.3, -0.1] + [0.2] * 35)
        0.05
    """
    values = _defined("differences", differences)
    if not len(values) or np.isnan(estimate):
        return float("nan")
    return float(adjust_p_values([estimate], values[None])[0])


def adjust_p_values(estimates: ArrayLike, drawn: ArrayLike) -> NDArray[np.float64]:
    r"""P-values of several estimates being zero, adjusted for their number: Romano and Wolf's step-down method.

    With :math:`t_k = |\hat d_k| / s_k`, s the standard deviation of the bootstrap values, and
    :math:`t^*_{rk} = |d_{rk} - \hat d_k| / s_k`, the largest t has

    .. math:: p = \frac{1 + \#\{r : \max_k t^*_{rk} \ge t\}}{R + 1}

    the next one the same without the first, and so on; none is below that of a larger t, and none below the p-value of
    its estimate alone (`paired_bootstrap_p_value`). As all estimates are resampled together, what they have in common
    costs nothing. Resamples that leave an estimate undefined do not count for it.

    Args:
        estimates: Of shape (K,).
        drawn: Their bootstrap values on common resamples, of shape (K, R); NaN where undefined.

    Returns:
        Of shape (K,); NaN where an estimate or its spread is not defined.

    Source:
        :cite:`romano2005exact`.

    Example:
        >>> drawn = np.random.default_rng(0).normal([[0.0], [2.0]], 1.0, (2, 4999))
        >>> adjust_p_values([0.0, 2.0], drawn).round(2)
        array([1.  , 0.09])
    """
    values, resampled = np.asarray(estimates, dtype=np.float64), np.asarray(drawn, dtype=np.float64)
    adjusted = np.full(values.shape, np.nan)
    known = [k for k in range(len(values)) if not np.isnan(values[k]) and not np.isnan(resampled[k]).all()]
    if not known:
        return adjusted
    spread = np.array([np.nanstd(resampled[k]) for k in known])
    scale = np.where(spread > 0, spread, np.finfo(np.float64).tiny)
    with np.errstate(over="ignore"):
        t = np.abs(values[known]) / scale
        noise = np.abs(resampled[known] - values[known][:, None]) / scale[:, None]  # (known, R), NaN where undefined
    order = np.argsort(-t, kind="stable")
    smallest = 0.0
    for place, k in enumerate(order):
        defined = ~np.isnan(noise[k])
        largest = np.fmax.reduce(noise[order[place:]][:, defined], axis=0)
        beyond = (largest >= t[k] * (1 - 1e-9)).sum()  # a difference that is exactly that of the cases counts
        smallest = max(smallest, (1 + beyond) / (defined.sum() + 1))
        adjusted[known[k]] = smallest
    return adjusted


@dataclass(frozen=True)
class BootstrapTTest:
    """Result of `two_sample_bootstrap_t_test`.

    Args:
        statistic: Student's t of the two sets of bootstrap values.
        p_value: Its two-sided p-value, which is not evidence; see the test.
        degrees_of_freedom: Number of values of both less two.
    """

    statistic: float
    p_value: float
    degrees_of_freedom: int


def two_sample_bootstrap_t_test(first: ArrayLike, second: ArrayLike) -> BootstrapTTest:
    r"""Student's t-test between two methods' bootstrap values, as in CM2's Table 11. Do not conclude from it.

    .. math::
        t = \frac{\bar a - \bar b}{\sqrt{s^2 (1/R_a + 1/R_b)}}

    **Warning: its p-values mislead.** The R bootstrap values are not R observations. Their spread is the standard error
    of the metric already, and the test divides it by :math:`\sqrt{R}` once more, so that t grows with
    :math:`\sqrt{R}` on the very same data: whoever draws enough resamples finds *any* two methods "significantly"
    different, also two equally good ones. With R = 1,000 and 200 cases it calls 82 to 96 % of pairs of equally good
    methods different at the 5 % level, the less alike they are the more (the paired p-value: 2 to 5 %). It also
    ignores that both methods are measured on the same cases. It is here so that the published table can be rebuilt
    beside an honest one: use `paired_difference`.

    The paper does not say whether the variances are pooled; they are here (with as many values on both sides, Welch's
    t is the same).

    Args:
        first: Bootstrap values of one method, of shape (R,), e.g. ``metric(a, target, weight=counts)``.
        second: Those of the other, from resamples of their own, of shape (R',).

    Returns:
        The test; NaN with fewer than two defined values on a side, t infinite and p zero for two different constants.

    Raises:
        ShapeError: If the values are not of shape (R,).

    Source:
        :cite:`wu2025cm2`, appendix, Table 11.

    Example:
        >>> test = two_sample_bootstrap_t_test([0.80, 0.82, 0.81], [0.79, 0.80, 0.78])
        >>> round(test.statistic, 3), round(test.p_value, 4), test.degrees_of_freedom
        (2.449, 0.0705, 4)
    """
    from scipy.special import stdtr

    a, b = _defined("values", first), _defined("values", second)
    freedom = len(a) + len(b) - 2
    if min(len(a), len(b)) < 2:
        return BootstrapTTest(float("nan"), float("nan"), max(freedom, 0))
    pooled = ((a - a.mean()) @ (a - a.mean()) + (b - b.mean()) @ (b - b.mean())) / freedom
    error = np.sqrt(pooled * (1 / len(a) + 1 / len(b)))
    difference = float(a.mean() - b.mean())
    if error == 0:
        statistic = float(np.copysign(np.inf, difference)) if difference else 0.0
    else:
        statistic = float(difference / error)
    return BootstrapTTest(statistic, float(2 * stdtr(freedom, -abs(statistic))), freedom)


def _defined(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} must be numbers", got=f"dtype {array.dtype}")
    if array.ndim != 1:
        raise ShapeError(f"{name} need one axis", expected="(R,), one for each resample", got=array.shape)
    array = array.astype(np.float64)
    return array[~np.isnan(array)]
