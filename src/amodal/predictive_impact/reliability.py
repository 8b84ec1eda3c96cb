r"""Is what impact says true? Predicted against realised change, on cases whose modality was only withheld.

Withhold a modality, predict with it missing, and reveal it: the realised change is the distance between the two
predictions. With :math:`p_z` the prediction under one completion, that on a complete case is the mean of :math:`p_z`
over what is still open given :math:`x_m`. If completions are drawn from the right distributions, convexity
and the triangle inequality give

.. math::
    V_\mathrm{missing} - \mathbb{E}\,V_\mathrm{complete} \;\le\;
    \mathbb{E}\,\mathrm{TVD}\big(p(\cdot \mid x_o, x_m), p(\cdot \mid x_o)\big) \;\le\; V_\mathrm{missing},

with equality on both sides if the completion is settled once the modality is seen. So a larger V should go with a
larger change, and the mean change of cases with one V should be that V, or less by at most what stays open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from amodal.errors import ConfigurationError, DataError, ShapeError
from amodal.metrics.intervals import Interval
from amodal.metrics.resampling import ratio, resample_counts, weighted
from amodal.predictive_impact.bias import total_variation
from amodal.predictive_impact.draws import ArrayOrTensor

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["change_curve", "rank_correlation", "realised_change"]


def realised_change(withheld: ArrayOrTensor, revealed: ArrayOrTensor) -> ArrayOrTensor:
    """The change of a prediction when a modality was revealed.

    Args:
        withheld: Probabilities with the modality missing, of shape (N, C): means over the draws whose V is tested.
        revealed: Probabilities with the modality observed, of shape (N, C).

    Returns:
        Total variation distances, of shape (N,).

    Raises:
        AmodalError: As :func:`amodal.predictive_impact.bias.total_variation`.

    Example:
        >>> realised_change(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]]))
        array([0.5])
    """
    return total_variation(withheld, revealed)


def rank_correlation(
    predicted: ArrayLike | Tensor,
    realised: ArrayLike | Tensor,
    *,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Interval:
    """Spearman's rank correlation of predicted and realised change, with a bootstrap interval over cases.

    Args:
        predicted: V (or another prediction of change), of shape (N,).
        realised: What changed, of shape (N,).
        generator: Source of the resamples.
        resamples: Number of resamples.
        level: Coverage of the interval.
        groups: Group (patient) of each case, of shape (N,): whole groups are resampled; None: every case is its own.

    Returns:
        The correlation with its percentile interval; NaN with a reason if either is the same for all cases.

    Raises:
        ShapeError: If the two, or the groups, differ in length.
        DataError: If there are fewer than three cases, or values are not finite.

    Source:
        :cite:`spearman1904association`; the interval as in :cite:`efron1993bootstrap`, chapter 13.

    Example:
        >>> found = rank_correlation([0.1, 0.2, 0.3, 0.4], [0.0, 0.3, 0.2, 0.5], generator=np.random.default_rng(0))
        >>> round(found.estimate, 2)
        0.8
    """
    x, y = _pair(predicted, realised)
    if groups is not None and len(np.asarray(groups)) != len(x):
        raise ShapeError("every case needs one group", expected=f"{len(x)} groups", got=len(np.asarray(groups)))
    rank_x, rank_y = _MidRanks(x), _MidRanks(y)

    def statistic(weight: NDArray) -> NDArray[np.float64]:
        """Correlations (r,) of mid-ranks in resamples that hold each case as often as its weight (r, N) says."""
        count = weight.astype(np.float64)
        total = count.sum(1, keepdims=True)
        a, b = rank_x(count), rank_y(count)
        a -= (count * a).sum(1, keepdims=True) / total
        b -= (count * b).sum(1, keepdims=True) / total
        spread = np.sqrt((count * a * a).sum(1) * (count * b * b).sum(1))
        # Ranks are multiples of a half and their means of 1 / (2 n): a spread of rounding's size is none.
        return ratio((count * a * b).sum(1), np.where(spread > 1e-9 * total[:, 0] ** 3, spread, 0.0))

    estimate = float(weighted(statistic, None, len(x)))
    counts = resample_counts(len(x) if groups is None else groups, resamples, generator)
    reason = "One of the two is the same for all cases." if np.isnan(estimate) else None
    return Interval.from_values(estimate, weighted(statistic, counts, len(x)), level=level, reason=reason)


def change_curve(predicted: ArrayLike | Tensor, realised: ArrayLike | Tensor, *, bins: int = 10) -> pd.DataFrame:
    """Reliability curve: mean realised change of cases with about the same predicted change.

    Args:
        predicted: V, of shape (N,).
        realised: What changed, of shape (N,), in the same units.
        bins: Number of bins, of equally many cases each as far as ties in `predicted` allow.

    Returns:
        One row for each bin, by rising prediction: ``cases``, mean ``predicted``, mean ``realised``, the
        ``standard_error`` of the latter (NaN for one case), and ``excess``, realised less predicted. A positive excess
        means that completions vary too little; a negative one that they vary too much, or that the prediction
        stays open on complete cases.

    Raises:
        ShapeError: If the two differ in length.
        DataError: If there are fewer than three cases, or values are not finite.
        ConfigurationError: If `bins` is not positive.

    Example:
        >>> change_curve([0.1, 0.1, 0.5, 0.5], [0.0, 0.2, 0.4, 0.6], bins=2)[["cases", "predicted", "realised"]]
           cases  predicted  realised
        0      2        0.1       0.1
        1      2        0.5       0.5
    """
    import pandas as pd

    x, y = _pair(predicted, realised)
    if bins < 1:
        raise ConfigurationError("a curve needs at least one bin", got=bins)
    edges = np.unique(np.quantile(x, np.linspace(0.0, 1.0, bins + 1)[1:-1]))
    frame = pd.DataFrame({"predicted": x, "realised": y})
    grouped = frame.groupby(np.searchsorted(edges, x, side="left"))
    curve = grouped.agg(
        cases=("realised", "count"),
        predicted=("predicted", "mean"),
        realised=("realised", "mean"),
        standard_error=("realised", "sem"),
    ).reset_index(drop=True)
    curve["excess"] = curve["realised"] - curve["predicted"]
    return curve


class _MidRanks:
    """Mid-ranks of the cases of weighted resamples, the values being sorted once."""

    def __init__(self, values: NDArray[np.float64]):
        self.order = np.argsort(values, kind="stable")
        distinct, self.place = np.unique(values, return_inverse=True)
        self.starts = np.searchsorted(values[self.order], distinct)

    def __call__(self, count: NDArray[np.float64]) -> NDArray[np.float64]:
        """Ranks (r, N) for counts (r, N)."""
        of_value = np.add.reduceat(count[:, self.order], self.starts, axis=1)  # (r, distinct)
        return (of_value.cumsum(1) - 0.5 * (of_value - 1.0))[:, self.place]


def _pair(predicted: ArrayLike | Tensor, realised: ArrayLike | Tensor) -> tuple[NDArray, NDArray]:
    arrays = [
        np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
        for values in (predicted, realised)
    ]
    if arrays[0].ndim != 1 or arrays[0].shape != arrays[1].shape:
        raise ShapeError(
            "predicted and realised change must be of the same cases",
            expected="shape (N,) each",
            got=f"{arrays[0].shape} and {arrays[1].shape}",
        )
    if len(arrays[0]) < 3:
        raise DataError(
            "too few cases to relate predicted and realised change", expected="at least 3", got=len(arrays[0])
        )
    if not all(np.isfinite(array).all() for array in arrays):
        raise DataError("predicted or realised change contains NaN or infinite values")
    return arrays[0], arrays[1]
