"""Validation of predictions and targets for all metrics.

The kind of task shows in the shapes. A target of shape (N,) holds positions of classes, with probabilities of shape
(N, C), or (N,) for the second class of two; a target of shape (N, K) holds K labels, each true, false or unknown (NaN),
with probabilities of shape (N, K). Two columns are a binary task, whose second column is the positive class.

An unknown label counts nowhere: scores of a label are over the cases where it is known, scores of a case over its known
labels, and a case without one is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amodal.errors import DataError, ShapeError
from amodal.metrics.resampling import Value, weighted_mean

__all__ = ["Classified", "Problem", "check_classified", "check_regressed"]

_ROUNDING = 1e-3  # probabilities may come from half precision

Problem = tuple[NDArray[np.float64], NDArray[np.bool_], ArrayLike | None]
"""Scores and truth of a binary problem, each (n,), with the weights of its cases."""


@dataclass(frozen=True)
class Classified:
    """Checked probabilities and targets of a classification task.

    Args:
        probabilities: Of shape (N, C), float64; binary: C = 2; multilabel: (N, K).
        target: Positions of the classes, (N,) integers; multilabel: (N, K) bool, false where unknown.
        known: Which labels are known, bool (N, K); None: all.
    """

    probabilities: NDArray[np.float64]
    target: NDArray
    known: NDArray[np.bool_] | None = None

    @property
    def many_labels(self) -> bool:
        """Whether the target is K labels, each true or false."""
        return self.target.ndim == 2

    @property
    def two_classes(self) -> bool:
        """Whether there are two classes, of which the second is the positive one."""
        return not self.many_labels and self.probabilities.shape[1] == 2

    @property
    def n_cases(self) -> int:
        """Number of cases N."""
        return len(self.target)

    @property
    def predicted(self) -> NDArray:
        """The most probable class, (N,), the first of equals; multilabel: probability above one half, (N, K)."""
        if self.many_labels:
            return self.probabilities > 0.5
        return self.probabilities.argmax(1)

    def one_versus_rest(self, weight: ArrayLike | None = None) -> list[Problem]:
        """The binary problems that a macro average runs over.

        One for a binary task (its second column), C for a multiclass one; for a multilabel one those of the K labels
        that are known of some case (all K if none is), each over the cases where it is known.
        """
        if self.two_classes:
            return [self.of_column(1, weight)]
        problems = [self.of_column(c, weight) for c in range(self.probabilities.shape[1])]
        return [problem for problem in problems if len(problem[0])] or problems

    def of_column(self, column: int, weight: ArrayLike | None = None) -> Problem:
        """One class against the rest, or one label over the cases where it is known."""
        scores = self.probabilities[:, column]
        if not self.many_labels:
            return scores, self.target == column, weight
        if self.known is None:
            return scores, self.target[:, column], weight
        rows = self.known[:, column]
        return scores[rows], self.target[rows, column], _of_rows(weight, rows)

    def mean_over_labels(self, values: NDArray[np.float64], weight: ArrayLike | None) -> Value:
        """Weighted mean over cases of the mean over a case's known labels of values (N, K)."""
        if self.known is None:
            return weighted_mean(values.mean(1), weight)
        rows = np.asarray(self.known.any(1))
        known = self.known[rows]
        means = np.where(known, values[rows], 0.0).sum(1) / known.sum(1)
        return weighted_mean(means, _of_rows(weight, rows))


def check_classified(probabilities: ArrayLike, target: ArrayLike) -> Classified:
    """Checks probabilities against targets of a classification task.

    Args:
        probabilities: Of shape (N, C) with rows that sum to one, (N,) for the second of two classes, or (N, K) for
            K labels.
        target: Positions of classes, (N,), or labels that are true, false or unknown (NaN), (N, K).

    Returns:
        The two, checked.

    Raises:
        ShapeError: If the shapes do not fit each other.
        DataError: If probabilities are NaN, outside [0, 1], or do not sum to one; if a class is missing, not an
            integer, or without a column.

    Example:
        >>> check_classified([[0.9, 0.1], [0.2, 0.8]], [0, 1]).two_classes
        True
    """
    p, y = _numbers("probabilities", probabilities), _numbers("target", target)
    if p.ndim not in (1, 2) or y.ndim not in (1, 2) or (p.ndim == 1 and y.ndim == 2):
        raise ShapeError(
            "probabilities and target do not fit",
            expected="(N, C) and (N,), (N,) and (N,) for two classes, or (N, K) and (N, K) for labels",
            got=f"{p.shape} and {y.shape}",
        )
    if len(p) != len(y) or (y.ndim == 2 and p.shape != y.shape):
        raise ShapeError(
            "probabilities and target disagree in size",
            expected="as many cases, and a column for each label",
            got=f"probabilities {p.shape}, target {y.shape}",
        )
    _check_range(p)
    if p.ndim == 1:
        p = np.stack([1 - p, p], axis=1)  # (N, 2)
    if y.ndim == 2:
        known = ~np.isnan(y)
        labels = _positions(np.where(known, y, 0.0), 2).astype(bool)
        return Classified(p, labels, None if known.all() else known)
    if p.shape[1] < 2:
        raise ShapeError(
            "one column is not enough for a class each",
            expected="(N, C) with C >= 2",
            got=p.shape,
            hint="Give the second class of two as (N,), or one label with a target of shape (N, 1).",
        )
    _check_sums(p)
    return Classified(p, _positions(y, p.shape[1]))


def check_regressed(predictions: ArrayLike, target: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Checks predicted against true values of a regression task.

    Args:
        predictions: Of shape (N,), finite.
        target: Of shape (N,), finite.

    Returns:
        The two as float64.

    Raises:
        ShapeError: If the shapes are not one and the same (N,).
        DataError: If a value is missing or infinite.

    Example:
        >>> check_regressed([1, 2], [0, 2])
        (array([1., 2.]), array([0., 2.]))
    """
    p, y = _numbers("predictions", predictions), _numbers("target", target)
    if p.ndim != 1 or p.shape != y.shape:
        raise ShapeError(
            "predictions and target of a regression do not fit", expected="(N,) both", got=f"{p.shape} and {y.shape}"
        )
    for name, values in (("prediction", p), ("target", y)):
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values)))
            raise DataError(f"a {name} is missing or infinite", got=f"{values[row]} in row {row}")
    return p, y


def _of_rows(weight: ArrayLike | None, rows: NDArray[np.bool_]) -> ArrayLike | None:
    """Weights (N,) or (R, N) of some cases."""
    if weight is None:
        return None
    array = np.asarray(weight)
    if array.ndim not in (1, 2) or array.shape[-1] != len(rows):
        raise ShapeError(
            "weights do not fit the cases", expected=f"({len(rows)},) or (R, {len(rows)})", got=array.shape
        )
    return array[..., rows]


def _numbers(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different length
        raise ShapeError(f"{name} is not a rectangular array: {error}") from error
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{name} must be numbers",
            got=f"dtype {array.dtype}",
            hint="Targets are positions of classes: 0 for the first class, 1 for the second, …",
        )
    return array.astype(np.float64, copy=False)


def _check_range(p: NDArray[np.float64]) -> None:
    bad = ~((p >= -_ROUNDING) & (p <= 1 + _ROUNDING))  # true for NaN
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        value = p[place]
        raise DataError(
            "probabilities must lie in [0, 1]" if value == value else "a probability is NaN",
            got=f"{value:g} in row {place[0]}",
            hint="Turn logits into probabilities first." if value == value else None,
        )


def _check_sums(p: NDArray[np.float64]) -> None:
    sums = p.sum(1)
    bad = np.abs(sums - 1) > _ROUNDING
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            "the rows of the probabilities must sum to one",
            got=f"{sums[row]:g} in row {row}",
            hint="Turn logits into probabilities first; labels that do not exclude each other take a target (N, K).",
        )


def _positions(y: NDArray[np.float64], n_classes: int) -> NDArray[np.int64]:
    bad = ~((y >= 0) & (y < n_classes) & (y == np.floor(y)))  # true for NaN
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        value = y[place]
        raise DataError(
            "a target is missing" if value != value else "a target is of a class that the predictions do not have",
            expected=f"an integer from 0 to {n_classes - 1}",
            got=f"{value:g} in row {place[0]}",
        )
    return y.astype(np.int64)
