"""Tables read in chunks: their interface, and a table in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

__all__ = ["BLOCK", "MemoryTable", "Table", "span_text", "title_note", "without_blank"]

BLOCK = 16 * 2**20
"""Bytes of a text file that are read at a time."""


class Table(ABC):
    """A table with named columns, read in chunks, so that it need not fit into memory.

    Attributes:
        path: Where it lies.
        names: Its columns, in order.
        delimiter: What is between the cells of a CSV file; "" for other files.
        skips_blank: Whether rows that are empty throughout are left out.
        note: What to know about the file; "" = nothing.
        has_quotes: Whether cells may stand in quotes, and hold line breaks.
        blank_rows: Rows that are empty throughout, and left out; known when all rows were read.
        header_rows: Rows that say the names of the columns again, as joined exports have them, and are left out.
    """

    path: Path
    names: tuple[str, ...]
    delimiter: str = ""
    skips_blank: bool = True
    note: str = ""
    blank_rows: int = 0
    header_rows: int = 0
    has_quotes: bool = False

    @abstractmethod
    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Arrow record batches of some columns, of any length."""

    def remarks(self) -> list[str]:
        """What to know about the file, and which rows are left out because they are no cases, once it was read."""
        left_out = {"are empty throughout": self.blank_rows, "are the names of the columns again": self.header_rows}
        found = [f"{self.path.name}: {n:,} rows {what}, and left out" for what, n in left_out.items() if n]
        return ([self.note] if self.note else []) + found

    def chunks(self, columns: Sequence[str], size: int) -> Iterator[dict[str, Any]]:
        """Goes through some columns in chunks of equal size (the last may be shorter).

        Args:
            columns: Names of columns that are there.
            size: Rows of a chunk.

        Yields:
            Arrow arrays by column.

        Raises:
            DataError: If the table cannot be read; the message names the file and the line.
        """
        import pyarrow as pa

        if not columns:  # rows are counted by some column
            columns = self.names[:1]
        waiting: list[Any] = []
        held = 0
        for batch in self.batches(columns):
            waiting.append(batch)
            held += len(batch)
            if held >= size:
                table = pa.Table.from_batches(waiting)
                for start in range(0, held - size + 1, size):
                    yield _arrays(table.slice(start, size))
                rest = held % size
                waiting, held = (table.slice(held - rest).to_batches() if rest else []), rest
        if held:
            yield _arrays(pa.Table.from_batches(waiting))


class MemoryTable(Table):
    """A table in memory.

    Args:
        columns: Cells by column, lists of equal length.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any]]):
        self.path, self.names, self.columns = Path(), tuple(columns), dict(columns)

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Arrow record batches of some columns."""
        import pyarrow as pa

        yield pa.RecordBatch.from_pydict({name: pa.array(self.columns[name], pa.string()) for name in columns})


def _arrays(table: Any) -> dict[str, Any]:
    import pyarrow as pa

    arrays = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        arrays[name] = column if not isinstance(column, pa.ChunkedArray) else pa.concat_arrays(column.chunks)
    return arrays


def without_blank(batch: Any) -> tuple[Any, int, int]:
    """A record batch without the rows that are no cases, how many are empty throughout and how many are headers."""
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute
    blank, header = (pa.array([True] * len(batch)) for _ in range(2))
    for name, column in zip(batch.schema.names, batch.columns):
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        empty, named = pc.is_null(column), pa.array([False] * len(batch))
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            plain = pc.utf8_trim_whitespace(column)
            empty = pc.or_(empty, pc.fill_null(pc.equal(plain, ""), True))
            named = pc.fill_null(pc.equal(plain, name.strip()), False)
        blank, header = pc.and_(blank, empty), pc.and_(header, named)
        if not pc.any(pc.or_(blank, header)).as_py():
            return batch, 0, 0
    n_blank = int(pc.sum(blank).as_py())
    return batch.filter(pc.invert(pc.or_(blank, header))), n_blank, int(pc.sum(header).as_py())


def title_note(name: str, n: int, filled: int) -> str:
    """What to know about a table whose first line has n names, and most others so many filled cells."""
    return (
        f"{name}: the first line has {n} names of columns, most others have {filled} filled cells: a title above the "
        "names must go, and a column without a name needs one"
    )


def span_text(span: timedelta) -> str:
    """A span of time as hours, minutes and seconds, like 27:30:00."""
    sign, seconds = ("-", -span) if span < timedelta() else ("", span)
    minutes, rest = divmod(round(seconds.total_seconds(), 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{sign}{hours:02d}:{minutes:02d}:{rest:02.0f}" if rest == int(rest) else (
        f"{sign}{hours:02d}:{minutes:02d}:{rest:06.3f}"
    )  # fmt: skip
