"""Targets as a user has them: what they are taken for, and how predictions are given back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import column_or_1d

from amodal.data.checks import detached, is_missing, name_rows
from amodal.data.frames import as_frame
from amodal.errors import DataError
from amodal.schema import Task

__all__ = ["Outcome", "read_labels", "read_numbers"]

_MANY_CLASSES = 20  # whole numbers with more distinct values are rarely meant as classes


@dataclass(frozen=True)
class Outcome:
    """A target that was read.

    Attributes:
        task: What it is taken for.
        target: As `Cohort.from_arrays` takes it; None or NaN where it is unknown.
        classes: The labels as they were given, in the order of the task's classes; None for a regression.
        dtype: Type of a predicted label.
    """

    task: Task
    target: np.ndarray
    classes: np.ndarray | None = None
    dtype: np.dtype | None = None


def read_labels(y: Any) -> Outcome:
    """Reads classes (N,), or K labels (N, K) that may be true at once; scikit-learn's `type_of_target` decides.

    None, NaN and NA stand for a label that is not known.

    Raises:
        DataError: If no label is known, or they are numbers that cannot be classes, or of one class only.
    """
    array, names = _as_array(y)
    if array.ndim == 2 and array.shape[1] > 1:
        return _read_many(array, names)
    known = _known(array)
    array = _plain_array(array[known])
    kinds = sorted({type(label).__name__ for label in array.tolist()})
    if kinds == ["bytes"]:
        raise DataError("labels are bytes", expected="texts", got=repr(array[0]), hint="Decode them: .astype(str).")
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise DataError(
            "a label is infinite", expected="classes: strings, whole numbers or booleans",
            got="Input y contains infinity or a value too large for dtype('float64')",
        )  # fmt: skip
    try:
        kind = type_of_target(array, input_name="y")
        classes, codes = np.unique(array, return_inverse=True)
    except TypeError:
        raise DataError("labels are of different types", expected="one type", got=" and ".join(kinds)) from None
    if kind.startswith("continuous") or kind == "unknown":
        raise DataError(
            f"Unknown label type: {kind}. y is taken for {'a quantity' if kind != 'unknown' else 'no known target'}",
            expected="classes: strings, whole numbers or booleans",
            got=f"{array[:3].tolist()}, …",
            hint="Use MissingModalityRegressor for quantities, or cut them into classes.",
        )
    if len(classes) < 2:
        raise DataError("there is one class only", expected="two or more", got=list(map(str, classes)))
    if array.dtype.kind in "iuf" and len(classes) > _MANY_CLASSES:
        warnings.warn(
            f"y holds whole numbers with {len(classes)} different values: they are taken for as many classes. "
            "For a quantity use MissingModalityRegressor.",
            UserWarning,
            stacklevel=4,
        )
    labels = tuple(_plain(label) for label in classes.tolist())
    if len(set(labels)) < len(labels):
        labels = tuple(str(label) for label in classes.tolist())
    task = Task("binary" if len(classes) == 2 else "multiclass", classes=labels)
    target = np.full(len(known), None, dtype=object)
    target[known] = np.array(labels, dtype=object)[codes]
    return Outcome(task, target, classes, classes.dtype)


def read_numbers(y: Any) -> Outcome:
    """Reads N quantities; None, NaN and NA stand for one that is not known.

    Raises:
        DataError: If they are not one finite number a case, or none is known.
    """
    array, _ = _as_array(y)
    if array.ndim == 2 and array.shape[1] > 1:
        raise DataError(
            "y has several numbers a case",
            expected="one number a case, shape (N,)",
            got=array.shape,
            hint="Fit one regressor for each: sklearn.multioutput.MultiOutputRegressor.",
        )
    known = _known(array)
    target = np.full(len(array), np.nan)
    if array.dtype.kind in "mM" or any(hasattr(entry, "timestamp") for entry in array[known][:1].tolist()):
        raise DataError(
            "y holds dates or durations", expected="one number a case", got=array[known][0],
            hint="Turn them into numbers with a unit of your own: column / pd.Timedelta(days=1).",
        )  # fmt: skip
    try:
        target[known] = array[known].astype(np.float64)
    except (TypeError, ValueError):
        raise DataError(
            "y is not numeric",
            expected="one number a case",
            got=f"{array.dtype}, {array[known][0]!r}",
            hint="Use MissingModalityClassifier for classes.",
        ) from None
    bad = np.isinf(target)
    if bad.any():
        raise DataError(
            f"targets are infinite in rows: {name_rows(bad, np.arange(len(target)))}",
            expected="finite numbers, or NaN where one is not known",
            got="Input y contains infinity or a value too large for dtype('float64')",
        )
    return Outcome(Task("regression"), target)


def _as_array(y: Any) -> tuple[np.ndarray, list[str] | None]:
    """A target as an array, (N,) or (N, K), and the names of its columns."""
    if y is None:
        raise DataError(
            "this estimator requires y to be passed, but the target y is None", expected="one target for each case"
        )
    names, frame = None, as_frame(y)
    if frame is not None and getattr(y, "ndim", 1) == 2:
        names = [str(label) for label in frame.columns]
        y = frame.to_numpy(dtype=object) if np.dtype(object) in set(frame.dtypes) else frame.to_numpy()
    y = detached(y)
    if hasattr(y, "toarray"):
        y = y.toarray()
    try:
        array = _column(y) if hasattr(y, "iloc") else np.asarray(y)
    except ValueError:  # lists of different length
        array = np.zeros(())
    if array.ndim not in (1, 2):
        raise DataError(
            "y is no column of targets", expected="one target for each case, or a table of 0 and 1",
            got=type(y).__name__ if array.ndim == 0 else f"shape {array.shape}",
            hint="Lists of labels become such a table by sklearn.preprocessing.MultiLabelBinarizer.",
        )  # fmt: skip
    if array.dtype.kind in "US" and not hasattr(y, "dtype") and not all(isinstance(entry, str) for entry in y):
        array = np.array(y, dtype=object)  # what numpy would turn into text stays what it is
    if array.ndim == 2 and array.shape == (len(array), 1):
        array = column_or_1d(array, warn=True)
    if array.dtype.names:
        raise DataError(
            f"y has fields {', '.join(array.dtype.names)}: a time with an event cannot be learned yet",
            expected="one class or one number a case",
            hint="For a fixed horizon, turn it into classes: whether the event came before it.",
        )
    if array.dtype.kind == "c":
        raise DataError("Complex data not supported: y", expected="classes or real numbers", got=array.dtype)
    return array, names


def _column(y: Any) -> np.ndarray:
    """A column of pandas; nullable numbers stay what they are beside missing ones."""
    import pandas as pd

    nullable = pd.api.types.is_extension_array_dtype(y.dtype) if getattr(y, "ndim", 1) == 1 else False
    dates = pd.api.types.is_datetime64_any_dtype(y.dtype) if nullable else False
    return y.to_numpy(dtype=object) if nullable and not dates else y.to_numpy()


def _read_many(array: np.ndarray, names: list[str] | None) -> Outcome:
    """K labels that may be true at once, 0, 1 or missing."""
    k = array.shape[1]
    dtype = array.dtype if array.dtype.kind in "biuf" else np.dtype(int)
    try:
        if array.dtype.kind in "US" or any(isinstance(entry, str) for entry in array.ravel().tolist()):
            raise TypeError("texts are no 0 and 1")
        labels = np.array([[np.nan if is_missing(e) else float(e) for e in row] for row in array.tolist()])
    except (TypeError, ValueError):
        labels = np.full(array.shape, 2.0)
    known = np.nan_to_num(labels, nan=0.0)
    if not np.isin(known, (0.0, 1.0)).all():
        found = type_of_target(array if array.dtype != object else array.astype(str), input_name="y")
        raise DataError(
            f"Unknown label type: {found}. y of shape {array.shape} is taken for {k} labels a case",
            expected="0, 1 or missing for each label; or one class a case, shape (N,)",
            hint="Several classes a case cannot be learned at once: fit one classifier for each.",
        )
    classes = names or list(range(k))
    never = [str(name) for name, column in zip(classes, labels.T) if np.isnan(column).all()]
    if never:
        raise DataError(f"labels never known in training: {', '.join(never)}", hint="Leave their columns out of y.")
    if not np.isnan(labels).any() and (labels.sum(1) == 1).all():
        warnings.warn(
            f"y of shape {array.shape} is taken for {k} labels that may be true at once, and exactly one is true in "
            "every row. For classes that exclude each other pass y.argmax(axis=1).",
            UserWarning,
            stacklevel=5,
        )
    if dtype.kind == "f" and np.isnan(labels).any():
        dtype = np.dtype(int)  # a prediction is never unknown
    return Outcome(Task("multilabel", classes=tuple(classes)), labels.astype(np.float32), np.array(classes), dtype)


def _known(array: np.ndarray) -> np.ndarray:
    """Which of N targets are known, bool (N,).

    Raises:
        DataError: If none is.
    """
    known = np.array([not is_missing(entry) for entry in array.tolist()], dtype=bool)
    if not known.any():
        raise DataError(
            "no target is known",
            expected="a target for some cases; None, NaN or NA stand for those that are not known",
            got="Input y contains NaN" if len(array) else "no case",
        )
    return known


def _plain_array(array: np.ndarray) -> np.ndarray:
    """Numbers and booleans of one type out of an array of objects: nullable columns, lists with None."""
    if array.dtype != object:
        return array
    kinds = {type(entry) for entry in array.tolist()}
    plain = len(kinds) == 1 and issubclass(next(iter(kinds)), bool | int | float | np.bool_ | np.number)
    return np.array(array.tolist()) if plain else array


def _plain(label: Any) -> str | int | bool:
    value = label.item() if isinstance(label, np.generic) else label
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, str | int | bool) else str(value)
