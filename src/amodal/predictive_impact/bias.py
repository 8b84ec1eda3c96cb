r"""Bias of predictions: distances between predictors, and the noise floor below them.

The protocol of the paper (section 4.4): split the training cases into two disjoint halves; on the first, complete,
train a unimodal and a multimodal oracle, on the second, with modalities missing, the method in question; compare their
predictions on the same test cases. Distances are total variation, averaged over cases, and therefore never negative:
two equally good predictors are apart too. How far two oracles of different seeds are apart says how much of a distance
is noise. Where the truth is known, the exact posterior is the oracle and has no noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from amodal.errors import ConfigurationError, ShapeError, UnknownNameError
from amodal.predictive_impact.draws import ArrayOrTensor, check_draws, check_probabilities, like, take_cases

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["distance_table", "total_variation"]


def total_variation(first: ArrayOrTensor, second: ArrayOrTensor) -> ArrayOrTensor:
    r"""Total variation distance of two predictions, :math:`\frac12 \sum_c |p_c - q_c|`, case by case.

    Args:
        first: Probabilities, of shape (N, C).
        second: Probabilities for the same cases, of shape (N, C).

    Returns:
        Distances in [0, 1], of shape (N,), as the kind of array that came first.

    Raises:
        ShapeError: If the two disagree in shape.
        DataError: If the last axis does not hold probabilities.

    Source:
        :cite:`madaan2026primo`, section 4.4.

    Example:
        >>> total_variation(np.array([[0.5, 0.5]]), np.array([[0.8, 0.2]])).round(3)
        array([0.3])
    """
    check_draws(first, "first predictions", "N", "C")
    check_draws(second, "second predictions", "N", "C")
    if first.shape != second.shape:
        raise ShapeError(
            "the predictions are not of the same cases and classes",
            expected=tuple(first.shape),
            got=tuple(second.shape),
        )
    p = check_probabilities(take_cases(first, slice(None), 0), "first predictions")
    q = check_probabilities(take_cases(second, slice(None), 0), "second predictions")
    return like(0.5 * (p - q.to(p)).abs().sum(-1), first)


def distance_table(
    predictions: Mapping[str, np.ndarray | Tensor],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    repeats: Mapping[str, Sequence[np.ndarray | Tensor]] | None = None,
) -> pd.DataFrame:
    """Mean distances between predictors on the same test cases, with the noise floor of each.

    For the paper's analysis, the predictors are the method with the modality missing and with it observed, the
    unimodal and the multimodal oracle (or the exact posteriors given what they see); the table holds the whole
    triangle of distances.

    Args:
        predictions: Name and probabilities (N, C) of each predictor.
        pairs: Which pairs to compare; by default all, in the order of `predictions`.
        repeats: Predictions of further runs of an oracle, with other seeds, by its name. An exact posterior needs none.

    Returns:
        One row for each pair: ``first``, ``second``, mean ``distance``, its ``standard_error`` over cases, and
        ``noise_floor``: the largest, over the two, of the mean distance between runs of one oracle (NaN if neither has
        been repeated). A distance of the size of its floor is no evidence of bias.

    Raises:
        ConfigurationError: If there are fewer than two predictors.
        UnknownNameError: If a pair or a repeat names an unknown predictor.
        ShapeError: If predictions disagree in shape.
        DataError: If the last axis does not hold probabilities.

    Source:
        :cite:`madaan2026primo`, section 4.4; the noise floor is an addition.

    Example:
        >>> truth, model, again = np.array([[0.5, 0.5]]), np.array([[0.7, 0.3]]), np.array([[0.6, 0.4]])
        >>> distance_table({"model": model, "oracle": truth}, repeats={"oracle": [again]}).round(2)
           first  second  distance  standard_error  noise_floor
        0  model  oracle       0.2             NaN          0.1
    """
    import pandas as pd

    if len(predictions) < 2:
        raise ConfigurationError("distances need at least two predictors", got=sorted(predictions))
    pairs = list(combinations(predictions, 2)) if pairs is None else pairs
    for name in {name for pair in pairs for name in pair} | set(repeats or {}):
        if name not in predictions:
            raise UnknownNameError("predictor", name, predictions)
    arrays = {name: _to_numpy(array) for name, array in predictions.items()}
    floors = {
        name: max(total_variation(a, b).mean() for a, b in combinations([arrays[name], *map(_to_numpy, others)], 2))
        for name, others in (repeats or {}).items()
        if len(others)
    }
    rows = []
    for first, second in pairs:
        distances = total_variation(arrays[first], arrays[second]).astype(np.float64)
        error = distances.std(ddof=1) / len(distances) ** 0.5 if len(distances) > 1 else np.nan
        known = [floors[name] for name in (first, second) if name in floors]
        rows.append((first, second, distances.mean(), error, max(known, default=np.nan)))
    return pd.DataFrame(rows, columns=["first", "second", "distance", "standard_error", "noise_floor"])


def _to_numpy(array: np.ndarray | Tensor) -> np.ndarray:
    return array.detach().cpu().numpy() if isinstance(array, Tensor) else array
