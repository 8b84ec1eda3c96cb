"""Parquet files: their columns as text or numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from amodal.data.table.chunks import Table, span_text, without_blank
from amodal.data.table.words import spelled
from amodal.errors import DataError

__all__ = ["ParquetTable"]


class ParquetTable(Table):
    """A Parquet file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        import pyarrow as pa
        import pyarrow.parquet as parquet

        self.path = path
        try:
            with parquet.ParquetFile(path) as file:
                self.raw = tuple(file.schema_arrow.names)
                self.has_blank = _may_have_blank(file.metadata)
            self.names = tuple(spelled(name) for name in self.raw)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read as Parquet: {str(error)[:200]}", hint="Is it truncated?") from error

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Arrow record batches of some columns."""
        import pyarrow as pa
        import pyarrow.parquet as parquet

        raw, blank, header = dict(zip(self.names, self.raw)), 0, 0
        skip = self.has_blank and self.skips_blank
        wanted = [raw[name] for name in (self.names if skip else columns)]
        try:
            with parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=65536, columns=wanted):
                    if skip:
                        batch, empty, named = without_blank(batch)
                        blank, header = blank + empty, header + named
                    yield pa.RecordBatch.from_arrays(
                        [_plain(batch.column(raw[name]), name, self.path) for name in columns], list(columns)
                    )
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} cannot be read as Parquet: {str(error)[:200]}") from error
        self.blank_rows, self.header_rows = blank, header


def _may_have_blank(metadata: Any) -> bool:
    """Whether every column of a Parquet file has nulls, or does not say."""
    for column in range(metadata.num_columns):
        parts = [metadata.row_group(group).column(column).statistics for group in range(metadata.num_row_groups)]
        text = metadata.schema.column(column).physical_type == "BYTE_ARRAY"
        if not text and all(part is not None and part.has_null_count and part.null_count == 0 for part in parts):
            return False
    return metadata.num_rows > 0


def _plain(column: Any, name: str, path: Path) -> Any:
    """A Parquet column as text or numbers."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_boolean(kind):
        return pa.array([None if cell is None else str(cell) for cell in column.to_pylist()], pa.string())
    if pa.types.is_timestamp(kind):
        return _moments(column)
    if pa.types.is_duration(kind):
        cells = column.cast(pa.duration("us"), safe=False).to_pylist()
        return pa.array([None if cell is None else span_text(cell) for cell in cells], pa.string())
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):  # several entries of one cell
        cells = [None if cell is None or not cell else json.dumps(cell, default=str) for cell in column.to_pylist()]
        return pa.array(cells, pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):  # texts, as some programs write them
        try:
            return column.cast(pa.string())
        except pa.ArrowInvalid:
            pass
    if (
        pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_string(kind)
        or pa.types.is_null(kind)
    ):
        return column.cast(pa.string())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return column
    raise DataError(
        f"column {name!r} of {path} has the type {kind}", expected="text, numbers, booleans or dates", got=kind
    )


def _moments(column: Any) -> Any:
    """Timestamps as text: without fractions where there are none, without a time where it is midnight."""
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute
    try:
        column = column.cast(pa.timestamp("s", column.type.tz))
    except pa.ArrowInvalid:
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    cells = column.cast(pa.string())
    return cells if column.type.tz else pc.replace_substring_regex(cells, r" 00:00:00(\.0+)?$", "")
