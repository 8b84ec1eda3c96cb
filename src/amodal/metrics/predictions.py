"""Validation of predictions and targets for all metrics.

The kind of task shows in the shapes. A target of shape (N,) holds positions of classes, with probabilities of shape
(N, C), or (N,) for the second class of two; a target of shape (N, K) holds K labels, each true or false, with
probabilities of shape (N, K). Two columns are a binary task, whose second column is the positive class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amodal.errors import DataError, ShapeError

__all__ = ["Classified", "check_classified", "check_regressed"]

_ROUNDING = 1e-3  # probabilities may come from half precision


@dataclass(frozen=True)
class Classified:
    """Checked probabilities and targets of a classification task.

    Args:
        probabilities: Of shape (N, C), float64; binary: C = 2; multilabel: (N, K).
        target: Positions of the classes, (N,) integers; multilabel: (N, K) bool.
    """

    probabilities: NDArray[np.float64]
    target: NDArray

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

    @property
    def one_versus_rest(self) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
        """The binary problems that a macro average runs over: scores and truth, each (N,).

        One for a binary task (its second column), C for a multiclass one, K for a multilabel one.
        """
        if self.two_classes:
            return [(self.probabilities[:, 1], self.target == 1)]
        columns = range(self.probabilities.shape[1])
        if self.many_labels:
            return [(self.probabilities[:, c], self.target[:, c]) for c in columns]
        return [(self.probabilities[:, c], self.target == c) for c in columns]


def check_classified(probabilities: ArrayLike, target: ArrayLike) -> Classified:
    """Checks probabilities against targets of a classification task.

    Args:
        probabilities: Of shape (N, C) with rows that sum to one, (N,) for the second of two classes, or (N, K) for
            K labels.
        target: Positions of classes, (N,), or labels that are true or false, (N, K).

    Returns:
        The two, checked.

    Raises:
        ShapeError: If the shapes do not fit each other.
        DataError: If probabilities are NaN, outside [0, 1], or do not sum to one; if a target is missing, not an
            integer, or of a class without a column.

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
        return Classified(p, _positions(y, 2).astype(bool))
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
