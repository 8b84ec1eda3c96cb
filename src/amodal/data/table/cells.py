"""Cells to texts and words, with those that are empty."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from amodal.data.table.numbers import PLAIN, STORED, NumberRule
from amodal.data.table.words import spelled, spelled_column

__all__ = ["DATE_FORMATS", "MISSING_WORDS", "ODD_WORDS", "Reading", "date_formats", "moment_texts", "texts", "words"]

MISSING_WORDS = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL")
"""What stands for an empty cell, where a schema does not say otherwise."""

ODD_WORDS = frozenset(
    {
        "?", "-", "--", ".", "nd", "n.d.", "unknown", "none", "missing", "unbekannt", "k.a.", "k. a.", "keine angabe",
        "nicht messbar", "not visible", "would have been stated", "not available", "inconnu", "desconocido", "non noto",
    }
)  # fmt: skip
"""Words, in small letters, that often stand for an empty cell; they are asked about, never taken as such."""

DATE_FORMATS = (
    "%Y-%m-%d",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M",
    "%b %d, %Y",
    "%d %b %Y",
    "%Y/%m/%d",
    "%Y%m%d",
)
"""How dates are commonly written."""


@dataclass(frozen=True)
class Reading:
    """The rules for reading cells where a column does not say otherwise.

    Attributes:
        missing: Words that stand for an empty cell.
        numbers: How numbers are written.
        timezone: Where clocks without an offset stand; "" = they are taken as they are.
        ignore_case: Whether capital and small letters of ids and words are the same.
        encoding: How CSV and text files are encoded that are neither UTF-8 nor UTF-16.
    """

    missing: frozenset[str] = frozenset(MISSING_WORDS)
    numbers: NumberRule = PLAIN
    timezone: str = ""
    ignore_case: bool = False
    encoding: str = ""


def texts(column: Any, missing: frozenset[str]) -> np.ndarray:
    """Cells as stripped texts, otherwise as they stand.

    Args:
        column: An Arrow array of text or numbers.
        missing: Words that stand for an empty cell.

    Returns:
        Object array (n,) of str, None where empty. Whole numbers are written without a point.
    """
    return _cells(column, missing, lambda cells: cells)


def moment_texts(
    columns: Mapping[str, Any], names: Sequence[str], missing: frozenset[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Points in time as texts: the cells of one column, or of a date's column and of that of its time of day.

    Args:
        columns: Arrow arrays by column.
        names: One column, or two.
        missing: Words that stand for an empty cell.

    Returns:
        Object array (n,) of str, None where there is none, and which have one of both cells only, bool (n,).
    """
    first = texts(columns[names[0]], missing)
    if len(names) == 1:
        return first, np.zeros(len(first), bool)
    second = texts(columns[names[1]], missing)
    joined = [
        None if day is None or clock is None else f"{_MIDNIGHT.sub('', day)} {_NO_DATE.sub('', clock)}"
        for day, clock in zip(first, second)
    ]
    half = np.array([(day is None) != (clock is None) for day, clock in zip(first, second)], dtype=bool)
    return np.array([*joined, None], dtype=object)[:-1], half


_MIDNIGHT = re.compile(r"[ T]0?0:00(:00([.,]0+)?)?$")  # behind dates, and the dates before times of day, as databases
_NO_DATE = re.compile(
    r"^(?:1899-12-3[01]|1900-01-0[01]|1970-01-01|30[.]12[.]1899|0?1[./]0?1[./]1900)[ T]"
)  # export them


def words(column: Any, missing: frozenset[str], *, ignore_case: bool = False) -> np.ndarray:
    """Cells as words in their one spelling (`spelled`), for whatever is compared: ids, classes, categories.

    Args:
        column: An Arrow array of text or numbers.
        missing: Words that stand for an empty cell.
        ignore_case: Whether capital and small letters are the same.

    Returns:
        Object array (n,) of str, None where empty.
    """
    missing = frozenset(spelled(word, ignore_case=ignore_case) for word in missing)
    return _cells(column, missing, lambda cells: spelled_column(cells, ignore_case=ignore_case))


def _cells(column: Any, missing: frozenset[str], change: Any) -> np.ndarray:
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute

    if pa.types.is_floating(column.type):
        cells = [_number_text(cell) for cell in column.to_pylist()]
        return np.array([*cells, None], dtype=object)[:-1]
    column = column.cast(pa.string())
    if pc.any(pc.match_substring(column, STORED)).as_py():
        column = pc.replace_substring(column, STORED, "")
    column = change(pc.utf8_trim_whitespace(column))
    empty = pc.is_in(column, value_set=pa.array(sorted(missing), pa.string()))
    column = pc.if_else(pc.fill_null(empty, True), pa.scalar(None, pa.string()), column)
    return np.array([*column.to_pylist(), None], dtype=object)[:-1]  # one more, so that numpy never sees a mere string


def date_formats(cells: np.ndarray) -> dict[str, str]:
    """The common formats that the dates of a column need, each with a cell that shows it."""
    found: dict[str, str] = {}
    for cell in cells:
        if cell is None or any(_fits(cell, form) for form in found):
            continue
        form = next((form for form in DATE_FORMATS if _fits(cell, form)), None)
        if form is not None:
            found[form] = cell
    return found


def _fits(cell: str, form: str) -> bool:
    try:
        datetime.strptime(cell, form)
    except ValueError:
        return False
    return True


def _number_text(cell: float | None) -> str | None:
    if cell is None or cell != cell:
        return None
    return str(int(cell)) if float(cell).is_integer() and abs(cell) < 2**53 else repr(cell)
