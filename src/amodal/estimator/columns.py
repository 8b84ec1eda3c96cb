"""Columns of a user's table, divided among modalities, and checks of what a modality is given as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from amodal.cases import Cases
from amodal.data.checks import as_array, is_missing
from amodal.errors import ConfigurationError, SchemaError, ShapeError

__all__ = [
    "are_places",
    "check_table",
    "checked_column",
    "division",
    "is_empty",
    "labels_of",
    "positions_of",
    "read_presence",
]

_ONE = "x"  # name of the modality that a table is when nothing divides it


def check_table(X: Any) -> None:
    """Refuses what is neither a dictionary nor one table: nothing, a text, several inputs without names.

    Raises:
        SchemaError: If it is.
    """
    several = isinstance(X, list | tuple) and any(
        getattr(part, "ndim", 0) > 1 or hasattr(part, "columns") for part in X
    )
    if X is None or isinstance(X, str) or several:
        raise SchemaError(
            "X is not a dictionary of modalities",
            expected="{name: array of shape (N, …), frame or list}, or one table",
            got="inputs without names" if several else type(X).__name__,
        )


def division(modalities: Any, labels: list[Any]) -> dict[str, Any]:
    """The columns of each modality of one table; numbers that are labels of the table become texts.

    Args:
        modalities: {name: columns} as a user gives it; None: all columns are one modality.
        labels: Of the table's columns, as they were given.

    Raises:
        ConfigurationError: If it is something else.
    """
    if modalities is None:
        return {_ONE: slice(None)}
    if not isinstance(modalities, Mapping) or not modalities:
        raise ConfigurationError("`modalities` does not divide a table", expected="{name: [columns]}", got=modalities)
    listed = {name: part.tolist() if hasattr(part, "tolist") else part for name, part in modalities.items()}
    return {
        name: [str(column) for column in part]
        if isinstance(part, list | tuple) and are_places(part) and set(part) <= set(labels)
        else part
        for name, part in listed.items()
    }


def labels_of(name: str, columns: Any, labels: np.ndarray) -> list[str]:
    """The columns of one modality, by name or position, as names."""
    if isinstance(columns, str):
        columns = [columns]
    columns = _listed(name, columns)
    if not isinstance(columns, slice) and all(isinstance(column, str) for column in columns):
        unknown = [column for column in columns if column not in labels]
        if unknown:
            raise SchemaError(
                f"X lacks columns of modality {name!r}: {', '.join(unknown)}", got=", ".join(map(str, labels[:12]))
            )
        if len(set(columns)) < len(columns) or not columns:
            raise SchemaError(f"modality {name!r} needs distinct columns, one at least", got=columns)
        return columns
    return [str(label) for label in labels[positions_of(name, columns, np.arange(len(labels)))]]


def positions_of(name: str, columns: Any, places: np.ndarray) -> list[int]:
    """The columns of one modality as positions."""
    columns = _listed(name, [columns] if isinstance(columns, str) else columns)
    if isinstance(columns, slice):
        try:
            chosen = places[columns]
        except TypeError:
            raise _unclear(name, columns) from None
    elif are_places(columns):
        chosen = np.asarray(columns, dtype=int)
    elif not all(isinstance(column, str) for column in columns):
        raise _unclear(name, columns)
    else:
        raise SchemaError(
            f"the columns of modality {name!r} are names, and X has none",
            expected="a frame, or positions of columns",
            got=columns,
        )
    if not len(chosen) or chosen.min() < 0 or chosen.max() >= len(places):
        raise SchemaError(
            f"X has n_features = {len(places)}: modality {name!r} has no such columns",
            expected=columns,
            got=len(places),
        )
    if len(np.unique(chosen)) < len(chosen):
        raise SchemaError(f"modality {name!r} needs distinct columns", got=columns)
    return chosen.tolist()


def _listed(name: str, columns: Any) -> list[Any] | slice:
    """Columns as a list, or the slice that they are.

    Raises:
        SchemaError: If they are something else.
    """
    if isinstance(columns, slice):
        return columns
    listed = columns.tolist() if hasattr(columns, "tolist") else columns
    if not isinstance(listed, list | tuple | range):
        raise _unclear(name, columns)
    if listed and all(isinstance(column, bool) for column in listed):
        return np.flatnonzero(listed).tolist()
    return list(listed)


def _unclear(name: str, columns: Any) -> SchemaError:
    return SchemaError(
        f"the columns of modality {name!r} are neither names nor positions",
        expected="a list of names, a list of positions or a slice of positions",
        got=columns,
    )


def are_places(columns: Any) -> bool:
    """Whether columns are given by position."""
    return not isinstance(columns, str) and all(isinstance(column, int | np.integer) for column in columns)


def checked_column(name: str, column: Any) -> Any:
    """Refuses a bare vector of numbers, which could be a feature or a row."""
    if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "biufc":
        raise ShapeError(
            f"modality {name!r} has the wrong number of axes",
            expected="(N, D), (N, T, D), (N, C, H, W), or a list of str or arrays",
            got=column.shape,
            hint="A single feature is a column: reshape(-1, 1).",
        )
    return column


def is_empty(column: Any) -> bool:
    """Whether a list or column holds nothing but what stands for missing."""
    if not isinstance(column, list | tuple) and getattr(column, "dtype", None) != np.dtype(object):
        return False
    return all(is_missing(entry) for entry in column)


def read_presence(cases: Cases, observed: Any) -> dict[str, np.ndarray] | None:
    """What `observed` says of each modality, aligned with the cases."""
    if observed is None:
        return None
    if not isinstance(observed, Mapping):
        if not hasattr(observed, "columns"):
            raise ConfigurationError(
                "observed is not given by modality", expected="{name: bool (N,)}", got=type(observed).__name__
            )
        observed = {str(name): observed[name] for name in observed.columns}  # a frame
    result = {}
    for name, value in observed.items():
        array = as_array(cases.align(f"observed[{name!r}]", value))
        if array.dtype != bool:
            raise ConfigurationError(f"observed[{name!r}] must be bool", expected="True = present", got=array.dtype)
        result[name] = array
    return result
