"""Tables read in chunks: their interface, and a table in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

__all__ = ["BLOCK", "MemoryTable", "Table", "span_text", "without_blank"]

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
        blank_rows: Rows that are empty throughout, and left out; known when all rows were read.
    """

    path: Path
    names: tuple[str, ...]
    delimiter: str = ""
    skips_blank: bool = True
    note: str = ""
    blank_rows: int = 0

    @abstractmethod
    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Arrow record batches of some columns, of any length."""

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


def without_blank(batch: Any) -> tuple[Any, int]:
    """A record batch without the rows that are empty throughout, and how many these are."""
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute
    blank = pa.array([True] * len(batch))
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        empty = pc.is_null(column)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            empty = pc.or_(empty, pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True))
        blank = pc.and_(blank, empty)
        if not pc.any(blank).as_py():
            return batch, 0
    return batch.filter(pc.invert(blank)), int(pc.sum(blank).as_py())


def span_text(span: timedelta) -> str:
    """A span of time as hours, minutes and seconds, like 27:30:00."""
    sign, seconds = ("-", -span) if span < timedelta() else ("", span)
    minutes, rest = divmod(round(seconds.total_seconds(), 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{sign}{hours:02d}:{minutes:02d}:{rest:02.0f}" if rest == int(rest) else (
        f"{sign}{hours:02d}:{minutes:02d}:{rest:06.3f}"
    )  # fmt: skip
