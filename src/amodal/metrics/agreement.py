"""Agreement of predicted with true quantities: MAE, RMSE, and Cohen's kappa over ordered bins.

Predictions and targets are (N,), in the target's units; weights and results are as in `discrimination`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from amodal.errors import ConfigurationError
from amodal.metrics.predictions import check_regressed
from amodal.metrics.resampling import Value, as_value, ratio, weighted_mean, weighted_sums

__all__ = ["LENGTH_OF_STAY_DAYS", "cohen_kappa", "mean_absolute_error", "root_mean_squared_error"]

LENGTH_OF_STAY_DAYS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 14.0)
"""Inner edges of the ten bins of length of stay in days (times 24 for a target in hours), as in CEPA's tables."""


def mean_absolute_error(predictions: ArrayLike, target: ArrayLike, *, weight: ArrayLike | None = None) -> Value:
    """Mean absolute difference, in the target's units.

    The length-of-stay benchmark clips negative predictions to 0 before; that is left to the one who predicts.

    Args:
        predictions: Of shape (N,).
        target: Of shape (N,).
        weight: Counts or weights of shape (N,) or (R, N).

    Returns:
        A value of at least 0, or (R,) of them; NaN without cases.

    Raises:
        ShapeError, DataError: For predictions, targets or weights that do not fit.

    Example:
        >>> mean_absolute_error([1.0, 4.0], [2.0, 2.0])
        1.5
    """
    p, y = check_regressed(predictions, target)
    return weighted_mean(np.abs(p - y), weight)


def root_mean_squared_error(predictions: ArrayLike, target: ArrayLike, *, weight: ArrayLike | None = None) -> Value:
    """Square root of the mean squared difference, in the target's units.

    Args:
        predictions: Of shape (N,).
        target: Of shape (N,).
        weight: Counts or weights of shape (N,) or (R, N).

    Returns:
        A value of at least 0, or (R,) of them; NaN without cases.

    Raises:
        ShapeError, DataError: For predictions, targets or weights that do not fit.

    Example:
        >>> root_mean_squared_error([1.0, 9.0], [2.0, 2.0])
        5.0
    """
    p, y = check_regressed(predictions, target)
    mean = weighted_mean((p - y) ** 2, weight)
    return as_value(np.sqrt(mean))


def cohen_kappa(
    predictions: ArrayLike, target: ArrayLike, *, bins: Sequence[float], weight: ArrayLike | None = None
) -> Value:
    r"""Cohen's kappa with linear weights between binned predictions and binned targets.

    .. math::
        1 - \frac{\sum_{ab} |a - b| \, o_{ab}}{\sum_{ab} |a - b| \, o_{a \cdot} o_{\cdot b}}

    with the share :math:`o_{ab}` of cases predicted in bin a and truly in bin b. Bin a is
    [``bins[a - 1]``, ``bins[a]``), and the first and the last are open.

    Args:
        predictions: Of shape (N,), in the target's units.
        target: Of shape (N,).
        bins: Inner edges of the bins, increasing, in the same units; see `LENGTH_OF_STAY_DAYS`.
        weight: Counts or weights of shape (N,) or (R, N).

    Returns:
        A value of at most 1 (0: as good as chance), or (R,) of them; NaN where everything falls into one bin.

    Raises:
        ShapeError, DataError: For predictions, targets or weights that do not fit.
        ConfigurationError: If the edges are not increasing finite numbers.

    Source:
        :cite:`cohen1968weighted`; bins of length of stay: :cite:`harutyunyan2019multitask`.

    Example:
        >>> round(cohen_kappa([0.5, 1.5, 3.0], [0.1, 1.0, 9.0], bins=LENGTH_OF_STAY_DAYS), 4)
        0.4444
    """
    p, y = check_regressed(predictions, target)
    edges = np.asarray(bins, dtype=np.float64)
    if edges.ndim != 1 or not len(edges) or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise ConfigurationError("bins must be increasing inner edges", expected="at least one finite edge", got=bins)
    levels = np.arange(len(edges) + 1)
    predicted, true = (np.searchsorted(edges, values, side="right") for values in (p, y))
    distance = np.abs(predicted - true).astype(np.float64)  # (N,)
    is_predicted, is_true = ((index[:, None] == levels).astype(np.float64) for index in (predicted, true))  # (N, bins)
    apart = np.abs(levels[:, None] - levels).astype(np.float64)  # (bins, bins)

    sums = weighted_sums(np.concatenate([is_predicted, is_true, distance[:, None]], axis=1), weight)
    of_predicted, of_true, disagreement = np.split(sums, [len(levels), 2 * len(levels)], axis=-1)
    by_chance = (of_predicted @ apart * of_true).sum(-1)
    return as_value(1 - ratio(disagreement[..., 0] * of_true.sum(-1), by_chance))
