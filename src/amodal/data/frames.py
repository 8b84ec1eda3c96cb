"""Reading frames, tensors and lists of arrays into plain arrays with the names of their features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from amodal.data.checks import detached, is_missing
from amodal.errors import DataError, SchemaError, ShapeError
from amodal.schema import put_in_order

__all__ = ["as_frame", "named_columns", "plain_values"]


def plain_values(
    name: str, given: Any, features: Sequence[str] = (), *, is_series: bool = False, is_text: bool = False
) -> tuple[Any, tuple[str, ...]]:
    """The plain values of one modality: an array, a list of texts or a list of series.

    Args:
        name: Name of the modality, for messages.
        given: An array, tensor, frame, column, or a list of N arrays, tensors, frames, texts or None.
        features: Names of the features, if they are known: the columns of frames are put in this order, and a column
            of categories is spread over the features "column=category".
        is_series: Whether the modality is known to be a series, so that vectors (T_i,) are series of one feature.

    Returns:
        The values (an array (N, …), a list of N str or None, or a list of N arrays (T_i, D) or None), and the names of
        the features; () where nothing names them.

    Raises:
        DataError: If a column is not numeric; the message names it.
        SchemaError: If the columns are not the features.
        ShapeError: If the entries of a list have other numbers of axes or of features.
    """
    if is_text:
        column = given.iloc[:, 0] if hasattr(given, "iloc") and getattr(given, "ndim", 1) == 2 else given
        return (column.tolist() if hasattr(column, "tolist") else list(column)), tuple(features)
    frame = as_frame(given)
    if frame is not None and _holds_arrays(frame):
        given, frame = frame.iloc[:, 0].tolist(), None
    if frame is not None:
        texts = _texts(frame)
        return (texts, tuple(features)) if texts is not None else _read_frame(name, frame, features)
    if isinstance(given, np.ma.MaskedArray):
        return given, tuple(features)
    if not isinstance(given, list | tuple | np.ndarray):
        given = _array(given)
        if given.ndim == 0:
            raise ShapeError(f"modality {name!r} has no rows", got=type(given.item()).__name__)
    if isinstance(given, np.ndarray) and given.dtype == object and given.ndim > 1:
        given = _numbers_of_objects(given, f"modality {name!r}")
    if isinstance(given, np.ndarray) and (given.dtype != object or given.ndim != 1):
        return given, tuple(features)
    return _read_list(name, list(given), features, is_series)


def as_frame(given: Any) -> Any:
    """A pandas frame of a frame or of a column of numbers, whichever library made it; None for anything else."""
    if hasattr(given, "to_pandas") and hasattr(given, "columns"):  # polars, pyarrow
        given = given.to_pandas()
    if not hasattr(given, "iloc"):
        return None
    import pandas as pd

    if isinstance(given, pd.Series) and (
        isinstance(given.dtype, pd.CategoricalDtype) or (given.dtype != object and not _is_text(given))
    ):
        given = given.to_frame()
    return given if isinstance(given, pd.DataFrame) else None


def named_columns(frame: Any) -> Any:
    """A frame whose columns are named by texts, or by nothing but positions 0 … D-1, which are put in their order.

    Other names, such as the numbers of laboratory items, become texts.
    """
    labels = list(frame.columns)
    if all(isinstance(label, str) for label in labels):
        return frame
    numbers = all(isinstance(label, int | np.integer) and not isinstance(label, bool) for label in labels)
    if numbers and sorted(labels) == list(range(len(labels))):
        order = np.argsort(labels)
        return frame if (np.diff(order) > 0).all() else frame.iloc[:, order]
    return frame.set_axis([str(label) for label in labels], axis=1)


# Frames --------------------------------------------------------------------------------------------------------------


def _read_frame(name: str, frame: Any, features: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    import pandas as pd

    frame = named_columns(frame)
    named = len(frame.columns) > 0 and all(isinstance(label, str) for label in frame.columns)
    twice = frame.columns[frame.columns.duplicated()].tolist() if named else []
    if twice:
        raise SchemaError(f"modality {name!r} has columns of the same name", got=", ".join(twice[:8]))
    columns, names = [], []
    for place, label in enumerate(frame.columns):
        column, where = frame.iloc[:, place], f"column {label!r} of modality {name!r}"
        known = [f for f in features if f.startswith(f"{label}=")] if label not in features else []
        if known or isinstance(column.dtype, pd.CategoricalDtype):
            cells, parts = _spread(column, str(label), known, where)
            columns += cells
            names += parts
        else:
            columns.append(_numbers(column, where))
            names.append(str(label))
    values = np.stack(columns, axis=1) if columns else np.zeros((len(frame), 0))
    if not named:
        return values, tuple(features)
    if features:
        return values[:, put_in_order(f"modality {name!r} has other features", names, features)], tuple(features)
    return values, tuple(names)


def _numbers(column: Any, where: str) -> np.ndarray:
    """One column as float64 (N,), NaN where a value is missing."""
    import pandas as pd

    if column.dtype == object:
        return _numbers_of_objects(column.to_numpy(), where)
    if pd.api.types.is_complex_dtype(column.dtype):
        raise DataError(f"{where} is complex", expected="real numbers", got=column.dtype)
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    if _is_text(column):
        shown = column.dropna()
        raise _not_numeric(where, f"text, {shown.iloc[0]!r}" if len(shown) else "text")
    raise DataError(
        f"{where} is not numeric",
        expected="numbers or booleans",
        got=column.dtype,
        hint="Turn dates into numbers that mean something, such as days since admission.",
    )


def _numbers_of_objects(array: np.ndarray, where: str) -> np.ndarray:
    """Numbers, booleans and what stands for missing, as float64; anything else is refused."""
    flat = np.empty(array.size)
    for place, entry in enumerate(array.ravel().tolist()):
        if is_missing(entry):
            flat[place] = np.nan
        elif isinstance(entry, str | bytes | complex | np.complexfloating) or not hasattr(entry, "__float__"):
            raise _not_numeric(where, f"{type(entry).__name__}, {entry!r}")
        else:
            try:
                flat[place] = float(entry)
            except (TypeError, ValueError, RuntimeError):  # an array or a tensor
                raise _not_numeric(where, type(entry).__name__) from None
    return flat.reshape(array.shape)


def _not_numeric(where: str, got: str) -> DataError:
    return DataError(
        f"{where} is not numeric",
        expected="numbers or booleans",
        got=got,
        hint="Code categories as numbers, or make the column categorical: frame[column].astype('category').",
    )


def _spread(column: Any, label: str, known: Sequence[str], where: str) -> tuple[list[np.ndarray], list[str]]:
    """A column of categories as one 0/1 feature a category; numbers among themselves stay numbers.

    Args:
        column: Of any type; its categories are those of `known`, or its own.
        label: Name of the column.
        known: Features "label=category" that training had; may be empty.
        where: For messages.
    """
    import pandas as pd

    categories = [feature.removeprefix(f"{label}=") for feature in known]
    if not categories:
        if pd.api.types.is_numeric_dtype(column.cat.categories) or pd.api.types.is_bool_dtype(column.cat.categories):
            return [_numbers(column.astype(column.cat.categories.dtype), where)], [label]
        categories = [str(category) for category in column.cat.categories]
    missing = column.isna().to_numpy()
    words = np.array([None if gone else str(word) for word, gone in zip(column.tolist(), missing)], dtype=object)
    unknown = sorted({word for word in words.tolist() if word is not None} - set(categories))
    if unknown:
        raise DataError(
            f"{where} has categories that training did not have: {', '.join(unknown[:8])}",
            expected=", ".join(categories[:12]),
        )
    cells = [np.where(missing, np.nan, words == category).astype(np.float64) for category in categories]
    return cells, [f"{label}={category}" for category in categories]


def _texts(frame: Any) -> list[str | None] | None:
    """A frame of one column of text, as texts."""
    if frame.shape[1] != 1 or not _is_text(frame.iloc[:, 0]):
        return None
    return [None if is_missing(entry) else entry for entry in frame.iloc[:, 0].tolist()]


def _holds_arrays(frame: Any) -> bool:
    """Whether a frame is one column of arrays, tensors or lists, each a row or a series."""
    if frame.shape[1] != 1 or frame.dtypes.iloc[0] != np.dtype(object):
        return False
    entry = next((entry for entry in frame.iloc[:, 0].tolist() if not is_missing(entry)), None)
    return isinstance(entry, list | tuple) or getattr(entry, "ndim", 0) > 0


def _is_text(column: Any) -> bool:
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        return False
    if column.dtype != object:
        return pd.api.types.is_string_dtype(column.dtype)
    entries = [entry for entry in column.tolist() if not is_missing(entry)]
    return bool(entries) and all(isinstance(entry, str) for entry in entries)


# Lists ---------------------------------------------------------------------------------------------------------------


def _read_list(name: str, entries: list[Any], features: Sequence[str], is_series: bool) -> tuple[Any, tuple[str, ...]]:
    """A list of N entries, each of one row; what is missing among them is None afterwards."""
    present = [entry for entry in entries if not is_missing(entry)]
    if any(isinstance(entry, str) for entry in present):
        return [None if is_missing(entry) else entry for entry in entries], tuple(features)
    frame = next((as_frame(entry) for entry in present if as_frame(entry) is not None), None)
    frame = None if frame is None else named_columns(frame)
    if frame is not None and not features and all(isinstance(label, str) for label in frame.columns):
        features = tuple(frame.columns)
    rows = [None if is_missing(entry) else _entry(name, place, entry, features) for place, entry in enumerate(entries)]
    filled = [row for row in rows if row is not None and row.size]
    axes = {row.ndim for row in filled}
    if not filled and is_series:
        return [np.zeros((0, max(1, len(features))))] * len(rows), tuple(features)
    if not filled or axes == {0}:
        return np.array([np.nan if row is None else row for row in rows]), tuple(features)
    if not axes <= {1} and not axes <= {2}:
        return rows, tuple(features)  # images, or a mixture that is refused where they are read
    if axes == {1} and (is_series or len({row.shape for row in filled}) > 1):
        if not is_series and all(isinstance(entry, list | tuple) for entry in present):
            raise ShapeError(
                f"modality {name!r} is not a regular array",
                expected="as many numbers in every row",
                hint=f"If it is a series of one feature, say so: kinds={{{name!r}: 'series'}}.",
            )
        rows = [None if row is None else row.reshape(-1, 1) for row in rows]  # univariate: (T_i,) to (T_i, 1)
        axes = {2}
        filled = [row for row in rows if row is not None and row.size]
    same = len({row.shape for row in filled}) == 1
    if same and len(filled) == len(rows):
        return np.stack(filled), tuple(features)
    width = filled[0].shape[-1]
    if axes == {2}:
        return [row.reshape(0, width) if row is not None and not row.size else row for row in rows], tuple(features)
    return [None if row is None or not row.size else row for row in rows], tuple(features)


def _entry(name: str, place: int, entry: Any, features: Sequence[str]) -> np.ndarray:
    frame = as_frame(entry)
    if frame is not None:
        return _read_frame(name, frame, features)[0]
    try:
        array = _array(entry)
    except ValueError:
        raise ShapeError(f"entry {place} of modality {name!r} is not a regular array") from None
    if array.dtype == object:
        return _numbers_of_objects(array, f"entry {place} of modality {name!r}")
    return array


def _array(given: Any) -> np.ndarray:
    """An array of anything that has one, tensors on a device or with a gradient among them."""
    given = detached(given)
    if hasattr(given, "iloc"):  # a column of texts or of arrays
        given = given.to_numpy(dtype=object)
    return np.asarray(given)
