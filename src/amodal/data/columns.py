"""Reading a user's ids, groups, presence and targets into columns of a cohort, with errors by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amodal.batch import UNKNOWN_CLASS
from amodal.data.checks import as_array, check_bool, is_missing, name_rows
from amodal.errors import DataError, ShapeError, UnknownNameError
from amodal.schema import Task

__all__ = ["read_column", "read_names", "read_presence", "read_target"]


def read_presence(observed: Any, names: Sequence[str], n: int) -> dict[str, np.ndarray]:
    """Reads presence, bool (N, M) or {name: bool (N,)}, to {name: bool (N,)} for the names given.

    Raises:
        ShapeError: If it is not bool or has the wrong shape.
        UnknownNameError: If it names a modality that is not there.
    """
    if observed is None:
        return {}
    if not isinstance(observed, Mapping):
        check_bool("observed", np.asarray(observed), (n, len(names)))
        return {name: np.asarray(observed)[:, column] for column, name in enumerate(names)}
    presence = {}
    for name, column in observed.items():
        if name not in names:
            raise UnknownNameError("modality in `observed`", name, names)
        presence[name] = check_bool(f"observed[{name!r}]", np.asarray(column), (n,))
    return presence


def read_names(what: str, given: Any, n: int, *, allow_empty: bool = False) -> np.ndarray:
    """Reads ids, groups or splits to a str array (N,).

    Raises:
        ShapeError: If there are not N of them.
        DataError: If one is missing, or is neither a string nor an integer.
    """
    column = as_array(given)
    if column.shape != (n,):
        raise ShapeError(f"{what} have another number of rows", expected=f"({n},)", got=column.shape)
    if column.dtype == object:
        bad = np.array([not isinstance(entry, str | int | np.integer) for entry in column], dtype=bool)
    else:
        bad = np.full(n, column.dtype.kind not in "USTiu")
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{what} must be strings or integers, none missing: row {row}", got=f"{column[row]!r} ({column.dtype})"
        )
    column = column.astype(str)
    if not allow_empty and (column == "").any():
        raise DataError(f"{what} has an empty entry: row {int(np.flatnonzero(column == '')[0])}")
    return column


def read_column(name: str, given: Any, n: int) -> np.ndarray:
    """Reads one extra column (N,): numbers, booleans or strings.

    Raises:
        ShapeError: If it does not have N entries.
        DataError: If it is a mixture of types.
    """
    column = as_array(given)
    if column.shape != (n,):
        raise ShapeError(f"extra column {name!r} has another shape", expected=f"({n},)", got=column.shape)
    if column.dtype == object:
        if not all(isinstance(entry, str) for entry in column):
            raise DataError(f"extra column {name!r} has dtype object", hint="Use numbers, booleans or strings only.")
        column = column.astype(str)
    return column


def read_target(target: Any, task: Task, ids: np.ndarray) -> np.ndarray:
    """Reads a target to the positions of classes, labels or values.

    Args:
        target: Labels (N,) as they stand in `task.classes`, or, where the classes are strings, also their integer
            positions; (N, K) of 0, 1 and NaN (unknown label) for multilabel; numbers (N,) for regression. None, NaN
            and NA (and -1 among positions) stand for an unknown label.
        task: The task.
        ids: Ids of the N rows, for messages.

    Returns:
        int64 (N,), -1 where unknown; or float32 (N, K) or (N,), NaN where unknown.

    Raises:
        ShapeError: If the shape does not fit the task.
        DataError: If a target is of a class that the task does not have, or infinite, with the ids of the rows.
    """
    column = as_array(target)
    traits = task.traits
    expected = (len(ids), *traits.target_shape(task.n_outputs))
    if column.shape != expected:
        raise ShapeError(f"the target {task.name!r} has another shape", expected=expected, got=column.shape)
    if traits.one_class:
        return _positions(column, task, ids)
    try:
        numbers = np.asarray(_blanked(column), dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"the target {task.name!r} is not numeric", expected="numbers", got=column.dtype) from None
    bad = traits.unusable(numbers)
    if bad.any() and traits.many_labels:
        row, label = np.argwhere(bad)[0]
        raise DataError(
            f"label {task.classes[label]!r} of row {ids[row]} is not usable",
            expected="0, 1 or NaN (unknown)",
            got=numbers[row, label],
        )
    if bad.any():
        rows = np.asarray(bad.reshape(len(ids), -1).any(1))
        raise DataError(
            f"the target {task.name!r} is infinite in rows: {name_rows(rows, ids)}",
            expected="finite numbers of 32 bits, up to 3e38, or NaN where it is unknown",
            got=numbers[rows][0],
        )
    return numbers.astype(np.float32)


def _positions(column: np.ndarray, task: Task, ids: np.ndarray) -> np.ndarray:
    """Labels (N,) to positions in the task's classes, int64 (N,)."""
    labels = column.tolist()
    missing = np.array([is_missing(label) for label in labels], dtype=bool)
    numbers = all(isinstance(label, int | float) for label, gone in zip(labels, missing) if not gone)
    if numbers and all(isinstance(name, str) for name in task.classes):
        places: dict[Any, int] = {position: position for position in range(len(task.classes))}
        missing |= np.array([not gone and label == UNKNOWN_CLASS for label, gone in zip(labels, missing)], dtype=bool)
    else:
        places = {name: position for position, name in enumerate(task.classes)}
    distinct = {label for label in labels if isinstance(label, str | int | float)}
    known = {label: places.get(label, -1) for label in distinct}  # True == 1 == 1.0, also as keys
    positions = np.array([known.get(label, -1) if _hashable(label) else -1 for label in labels], dtype=np.int64)
    strange = (positions < 0) & ~missing
    if strange.any():
        row = int(np.flatnonzero(strange)[0])
        raise DataError(
            f"the target {task.name!r} has a class that the task does not have, in rows: {name_rows(strange, ids)}",
            expected=f"one of {', '.join(map(repr, task.classes))}",
            got=repr(labels[row]),
            hint="Write None where it is unknown.",
        )
    return positions


def _blanked(column: np.ndarray) -> np.ndarray:
    """A column whose missing entries are NaN."""
    if column.dtype != object:
        return column
    missing = np.array([is_missing(entry) for entry in column.ravel().tolist()], dtype=bool).reshape(column.shape)
    return np.where(missing, np.nan, column)


def _hashable(label: object) -> bool:
    return isinstance(label, str | int | float)
