"""Checks that columns of a cohort share, and how rows are named in messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from amodal.errors import ConfigurationError, DataError, ShapeError, UnknownNameError

__all__ = [
    "as_array",
    "check_bool",
    "check_distinct",
    "check_groups",
    "check_mapping",
    "detached",
    "is_missing",
    "name_rows",
]

_SHOWN = 5
_MAY_BE_NAN = (float, np.floating, np.datetime64, np.timedelta64, Decimal)


def name_rows(bad: np.ndarray, ids: np.ndarray) -> str:
    """The ids of the first few rows where `bad` (N,) is True, for messages."""
    rows = np.flatnonzero(bad)
    shown = ", ".join(str(ids[row]) for row in rows[:_SHOWN])
    return f"{shown}, … ({len(rows)} rows)" if len(rows) > _SHOWN else shown


def as_array(column: Any) -> np.ndarray:
    """An array of what is one already, or of a list, in which a missing entry stays one and never becomes "nan"."""
    column = detached(column)
    array = column.toarray() if hasattr(column, "toarray") else np.asarray(column)
    if array.dtype.kind in "US" and not isinstance(column, np.ndarray):
        return np.asarray(column, dtype=object)
    return array


def detached(given: Any) -> Any:
    """A tensor as numpy can read it: on the CPU, without a gradient, dense, at least of single precision."""
    if not hasattr(given, "detach"):
        return given
    given = given.detach().cpu().to_dense()
    return given.float() if given.dtype.itemsize == 2 and given.is_floating_point() else given


def is_missing(entry: object) -> bool:
    """Whether an entry is None, NaN or one of pandas' own words for missing."""
    return (
        entry is None
        or (isinstance(entry, _MAY_BE_NAN) and bool(entry != entry))
        or type(entry).__name__ in ("NAType", "NaTType")
    )


def check_bool(what: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Gives back a bool array of a shape, or raises ShapeError."""
    if array.dtype != bool or array.shape != shape:
        raise ShapeError(
            f"{what} must be bool with one entry for each row" + (" and modality" if len(shape) == 2 else ""),
            expected=f"bool {shape}",
            got=f"{array.dtype} {array.shape}",
        )
    return array


def check_mapping(what: str, given: Mapping[str, Any] | None, names: Sequence[str]) -> Mapping[str, Any]:
    """An optional per-modality argument, with every key known.

    Raises:
        UnknownNameError: If it names a modality that is not there.
        ConfigurationError: If it is not a mapping.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"`{what}` must map names of modalities to values", got=type(given).__name__)
    for name in given:
        if name not in names:
            raise UnknownNameError(f"modality in `{what}`", name, names)
    return given


def check_groups(groups: np.ndarray, splits: np.ndarray) -> None:
    """Raises DataError if a group is in two splits; rows without a split ("") do not count."""
    place: dict[str, str] = {}
    for group, split in zip(groups.tolist(), splits.tolist()):
        if split and place.setdefault(group, split) != split:
            raise DataError(
                f"group {group!r} is in two splits: {place[group]!r} and {split!r}",
                expected="every group in one split",
                hint="Split by group, e.g. with amodal.data.split_groups.",
            )


def check_distinct(ids: np.ndarray) -> None:
    """Raises DataError if an id comes more than once."""
    distinct = ids.tolist()
    if len(set(distinct)) == len(distinct):
        return
    names, counts = np.unique(ids, return_counts=True)
    twice = names[counts > 1]
    shown = ", ".join(twice[:5]) + (", …" if len(twice) > 5 else "")
    raise DataError(f"ids come more than once: {shown}", expected="distinct ids")
