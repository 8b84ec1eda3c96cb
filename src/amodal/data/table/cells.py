"""Cells to texts, numbers and dates, with those that are none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

__all__ = ["DATE_FORMATS", "MISSING_WORDS", "date_formats", "dates", "numbers", "texts"]

MISSING_WORDS = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL")
"""What stands for an empty cell, where a schema does not say otherwise."""

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


def texts(column: Any, missing: frozenset[str]) -> np.ndarray:
    """Cells as stripped texts.

    Args:
        column: An Arrow array of text or numbers.
        missing: Words that stand for an empty cell.

    Returns:
        Object array (n,) of str, None where empty. Whole numbers are written without a point.
    """
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute

    if pa.types.is_floating(column.type):
        cells = [_number_text(cell) for cell in column.to_pylist()]
        return np.array(cells, dtype=object)
    column = pc.utf8_trim_whitespace(column.cast(pa.string()))
    empty = pc.is_in(column, value_set=pa.array(sorted(missing), pa.string()))
    column = pc.if_else(pc.fill_null(empty, True), pa.scalar(None, pa.string()), column)
    return np.array([*column.to_pylist(), None], dtype=object)[:-1]  # one more, so that numpy never sees a mere string


def numbers(column: Any, missing: frozenset[str]) -> tuple[np.ndarray, np.ndarray]:
    """Cells as numbers.

    Args:
        column: An Arrow array of text or numbers.
        missing: Words that stand for an empty cell.

    Returns:
        float64 (n,), NaN where empty or no finite number, and which cells are neither, bool (n,).
    """
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute

    if not pa.types.is_string(column.type):
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
        return np.where(np.isfinite(values), values, np.nan), np.isinf(values)
    column = pc.utf8_trim_whitespace(column)
    empty = pc.fill_null(pc.is_in(column, value_set=pa.array(sorted(missing), pa.string())), True)
    column = pc.if_else(empty, pa.scalar(None, pa.string()), column)
    try:
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    except pa.ArrowInvalid:
        values = np.array([_parsed(cell) for cell in column.to_pylist()], dtype=np.float64)
    finite = np.isfinite(values)
    bad = ~finite & ~empty.to_numpy(zero_copy_only=False).astype(bool)
    return np.where(finite, values, np.nan), bad


def dates(cells: np.ndarray, form: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Texts as seconds since 1970.

    Args:
        cells: Texts, None where empty, object (n,).
        form: A format of `datetime.strptime`; None: ISO 8601.

    Returns:
        float64 (n,), NaN where empty or no date, and which cells are neither, bool (n,).
    """
    seconds, bad = np.full(len(cells), np.nan), np.zeros(len(cells), bool)
    for i, cell in enumerate(cells):
        if cell is None:
            continue
        try:
            moment = datetime.fromisoformat(cell) if form is None else datetime.strptime(cell, form)
        except ValueError:
            bad[i] = True
            continue
        seconds[i] = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return seconds, bad


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


def _parsed(cell: str | None) -> float:
    if cell is None or "_" in cell:
        return np.nan
    try:
        return float(cell)
    except ValueError:
        return np.nan


def _number_text(cell: float | None) -> str | None:
    if cell is None or cell != cell:
        return None
    return str(int(cell)) if float(cell).is_integer() and abs(cell) < 2**53 else repr(cell)
