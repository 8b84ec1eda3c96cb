"""What bootstrap values say when there are several seeds, or several comparisons at once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["adjust_p_values", "resample_seeds"]


def resample_seeds(drawn: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Bootstrap values of a mean over seeds, the seeds resampled too; see `Results`.

    Args:
        drawn: Values of S seeds on R resamples of the cases, (S, R).
        generator: Source of the seeds drawn.

    Returns:
        Of shape (R,).

    Example:
        >>> resample_seeds(np.array([[1.0, 2.0, 3.0]]), np.random.default_rng(0))
        array([1., 2., 3.])
    """
    n_seeds, n_resamples = drawn.shape
    mean = drawn.mean(axis=0)
    if n_seeds == 1:
        return mean
    picked = generator.integers(0, n_seeds, size=(n_seeds, n_resamples))
    return mean + math.sqrt(n_seeds / (n_seeds - 1)) * (np.take_along_axis(drawn, picked, axis=0).mean(axis=0) - mean)


def adjust_p_values(estimates: ArrayLike, drawn: ArrayLike) -> NDArray[np.float64]:
    r"""P-values of several estimates being zero, adjusted for their number: Romano and Wolf's step-down method.

    With :math:`t_k = |\hat d_k| / s_k`, s the standard deviation of the bootstrap values, and
    :math:`t^*_{rk} = |d_{rk} - \hat d_k| / s_k`, the largest t has

    .. math:: p = \frac{1 + \#\{r : \max_k t^*_{rk} \ge t\}}{R + 1}

    the next one the same without the first, and so on; none is below that of a larger t. As all estimates are
    resampled together, what they have in common costs nothing, and the smallest p-value is 1 / (R + 1) for any number.

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
    t = np.abs(values[known]) / scale
    noise = np.nan_to_num(np.abs(resampled[known] - values[known][:, None])) / scale[:, None]  # (known, R)
    order = np.argsort(-t, kind="stable")
    smallest = 0.0
    for place, k in enumerate(order):
        largest = noise[order[place:]].max(axis=0)
        smallest = max(smallest, (1 + (largest >= t[k]).sum()) / (resampled.shape[1] + 1))
        adjusted[known[k]] = smallest
    return adjusted
