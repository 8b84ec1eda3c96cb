"""Tables as people have them: CSV, Parquet and Excel, read chunk by chunk."""

from __future__ import annotations

import csv
import io
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any

from amodal.data.table.section import nearest
from amodal.errors import ConfigurationError, DataError, SchemaError

__all__ = ["MemoryTable", "Table", "check_columns", "open_table"]

_BLOCK = 16 * 2**20
_LARGEST_SHEET = 2 * 2**30
_DELIMITERS = ",;\t|"


class Table(ABC):
    """A table with named columns, read in chunks, so that it need not fit into memory.

    Attributes:
        path: Where it lies.
        names: Its columns, in order.
    """

    path: Path
    names: tuple[str, ...]

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


def open_table(path: Path) -> Table:
    """Opens a CSV, Parquet or Excel file by its ending.

    Raises:
        DataError: If it is not there, cannot be read, has no columns or one twice.
        ConfigurationError: If the ending is not known, or Excel's reader is not installed.
    """
    kinds = {".csv": _Csv, ".tsv": _Csv, ".txt": _Csv, ".parquet": _Parquet, ".pq": _Parquet, ".xlsx": _Excel}
    if path.suffix.lower() not in kinds:
        raise ConfigurationError(
            f"the table {path.name} has an unknown ending",
            expected=", ".join(kinds),
            got=path.suffix or "none",
            hint="Save it as CSV (UTF-8).",
        )
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise DataError(f"there is no table at {path}", hint=near)
    table = kinds[path.suffix.lower()](path)
    empty = [i + 1 for i, name in enumerate(table.names) if not name.strip()]
    if empty:
        raise DataError(f"{path} has a column without a name: column {empty[0]}", hint="Give it a name, or delete it.")
    twice = sorted({name for name in table.names if table.names.count(name) > 1})
    if twice:
        raise DataError(f"{path} has the column {twice[0]!r} twice", hint="Rename one of them.")
    return table


def check_columns(table: Table, wanted: Mapping[str, str]) -> None:
    """Raises SchemaError for the first column that a table does not have, with the nearest one.

    Args:
        table: The table.
        wanted: Columns, each with the place in the schema that names it.
    """
    for column, where in wanted.items():
        if column not in table.names:
            shown = ", ".join(table.names[:12]) + (", …" if len(table.names) > 12 else "")
            raise SchemaError(
                f"{where} names the column {column!r}, which {table.path.name} does not have",
                expected=f"one of {shown}",
                hint=nearest(column, table.names),
            )


class _Csv(Table):
    def __init__(self, path: Path):
        self.path = path
        with open(path, "rb") as file:
            head = file.read(2**20)
        if not head.strip():
            raise DataError(f"{path} is empty", expected="a line with the names of the columns, then rows")
        if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head:
            raise DataError(f"{path} is no UTF-8 text", hint="Save it as CSV UTF-8.")
        if head[:4] == b"PAR1" or head[:2] == b"PK":
            raise DataError(f"{path} is no CSV file", hint="Is its ending wrong (.parquet, .xlsx)?")
        line = io.StringIO(head.decode("utf-8-sig", "replace"), newline="")
        first = next(csv.reader(line, delimiter=","), [""])
        header = line.getvalue().partition("\n")[0]
        self.delimiter = max(_DELIMITERS, key=header.count) if len(first) == 1 else ","
        line.seek(0)
        self.names = tuple(next(csv.reader(line, delimiter=self.delimiter)))

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        try:
            reader = arrow_csv.open_csv(
                self.path,
                read_options=arrow_csv.ReadOptions(block_size=_BLOCK),
                parse_options=arrow_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=list(columns),
                    column_types=dict.fromkeys(columns, pa.string()),
                    strings_can_be_null=False,
                ),
            )
            yield from reader
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise self._refused(str(error)) from error

    def _refused(self, said: str) -> DataError:
        if "UTF8" in said or "UTF-8" in said or "utf-8" in said:
            return DataError(f"{self.path} is no UTF-8 text", hint="Save it as CSV UTF-8 (Excel: that very type).")
        if "Expected" in said and "columns" in said:
            line, cells = self._uneven()
            return DataError(
                f"{self.path} has a row with another number of cells, in line {line}",
                expected=f"{len(self.names)} cells, as in the first line",
                got=cells,
                hint="A text with commas or line breaks must stand in double quotes.",
            )
        return DataError(f"{self.path} cannot be read as CSV: {said.splitlines()[0][:200]}")

    def _uneven(self) -> tuple[int, int]:
        with open(self.path, encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.reader(file, delimiter=self.delimiter)
            for cells in reader:
                if cells and len(cells) != len(self.names):
                    return reader.line_num, len(cells)
        return 0, 0


class _Parquet(Table):
    def __init__(self, path: Path):
        import pyarrow as pa
        import pyarrow.parquet as parquet

        self.path = path
        try:
            self.names = tuple(parquet.read_schema(path).names)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read as Parquet: {str(error)[:200]}", hint="Is it truncated?") from error

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        try:
            with parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=65536, columns=list(columns)):
                    yield pa.RecordBatch.from_arrays(
                        [_plain(batch.column(name), name, self.path) for name in columns], list(columns)
                    )
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} cannot be read as Parquet: {str(error)[:200]}") from error


class _Excel(Table):
    """The first sheet of a workbook: values, never formulas."""

    def __init__(self, path: Path):
        self.path = path
        for cells in self._rows():
            self.names = tuple("" if cell is None else str(cell).strip() for cell in cells)
            break
        else:
            raise DataError(f"{path} is empty", expected="a row with the names of the columns, then rows")
        while self.names and not self.names[-1]:
            self.names = self.names[:-1]

    def _rows(self) -> Iterator[Sequence[Any]]:
        try:
            from openpyxl import load_workbook
        except ImportError as error:
            raise ConfigurationError(
                f"{self.path.name} needs the package openpyxl", hint="pip install 'amodal[excel]', or save it as CSV."
            ) from error
        try:
            with zipfile.ZipFile(self.path) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > _LARGEST_SHEET:
                raise DataError(
                    f"{self.path} unpacks to too much",
                    expected=f"{_LARGEST_SHEET / 1e9:.1f} GB or less",
                    got=f"{unpacked / 1e9:.1f} GB",
                    hint="Save it as CSV or Parquet.",
                )
            book = load_workbook(self.path, read_only=True, data_only=True)
        except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
            raise DataError(f"{self.path} cannot be read as an Excel workbook: {error}") from error
        try:
            yield from book.worksheets[0].iter_rows(values_only=True)
        finally:
            book.close()

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        import pyarrow as pa

        places = [self.names.index(name) for name in columns]
        held: list[list[str]] = []
        for number, cells in enumerate(self._rows()):
            if number == 0 or all(cell is None for cell in cells):
                continue
            held.append([_excel_text(cells[place] if place < len(cells) else None) for place in places])
            if len(held) == 8192:
                yield pa.RecordBatch.from_arrays([pa.array(c, pa.string()) for c in zip(*held)], list(columns))
                held = []
        if held:
            yield pa.RecordBatch.from_arrays([pa.array(c, pa.string()) for c in zip(*held)], list(columns))


def _excel_text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    return cell.isoformat() if isinstance(cell, date | time) else str(cell)


def _plain(column: Any, name: str, path: Path) -> Any:
    """A Parquet column as text or numbers."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_boolean(kind) or pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if pa.types.is_large_string(kind) or pa.types.is_string(kind) or pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return column
    raise DataError(
        f"column {name!r} of {path} has the type {kind}", expected="text, numbers, booleans or dates", got=kind
    )


def _arrays(table: Any) -> dict[str, Any]:
    import pyarrow as pa

    arrays = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        arrays[name] = column if not isinstance(column, pa.ChunkedArray) else pa.concat_arrays(column.chunks)
    return arrays
