"""Tables as people have them: CSV, Parquet and Excel, read chunk by chunk."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from amodal.data.limits import LARGEST_SHEET
from amodal.data.table.section import nearest
from amodal.data.table.words import spelled
from amodal.errors import ConfigurationError, DataError, SchemaError

__all__ = ["MemoryTable", "Table", "check_columns", "open_table"]

_BLOCK = 16 * 2**20
_DELIMITERS = ",;\t|"


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


def open_table(path: Path, encoding: str = "") -> Table:
    """Opens a CSV (also packed with gzip), Parquet or Excel file by its ending.

    Args:
        path: The file.
        encoding: How a CSV file is encoded that is neither UTF-8 nor says that it is UTF-16.

    Raises:
        DataError: If it is not there, cannot be read, has no columns or one twice.
        ConfigurationError: If the ending is not known, or Excel's reader is not installed.
    """
    kinds = {".csv": _Csv, ".tsv": _Csv, ".txt": _Csv, ".parquet": _Parquet, ".pq": _Parquet, ".xlsx": _Excel}
    ending = path.suffix.lower()
    if ending == ".gz" and kinds.get(Path(path.stem).suffix.lower()) is _Csv:
        ending = Path(path.stem).suffix.lower()
    if ending not in kinds:
        raise ConfigurationError(
            f"the table {path.name} has an unknown ending",
            expected=f"{', '.join(kinds)} or .csv.gz",
            got=path.suffix or "none",
            hint="Save it as CSV (UTF-8).",
        )
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise DataError(f"there is no table at {path}", hint=near)
    table = _Csv(path, encoding) if kinds[ending] is _Csv else kinds[ending](path)
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
    def __init__(self, path: Path, encoding: str = ""):
        self.path, self.encoding = path, "utf-8"
        self.packed = path.suffix.lower() == ".gz"
        head = self._head()
        if not head.strip():
            raise DataError(f"{path} is empty", expected="a line with the names of the columns, then rows")
        if head[:4] == b"PAR1" or head[:2] == b"PK":
            raise DataError(f"{path} is no CSV file", hint="Is its ending wrong (.parquet, .xlsx)?")
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            self.encoding = "utf-16"
        elif b"\0" in head:
            raise DataError(f"{path} is no UTF-8 text", hint="Save it as CSV UTF-8.")
        elif encoding and not self._is_utf8():
            self.encoding = encoding
        text = head.decode("utf-8-sig" if self.encoding == "utf-8" else self.encoding, "replace")
        said = re.match(r"^\"?sep=(.)\"?[;,\t ]*\r?\n", text)  # how Excel is told the delimiter
        self.skipped, text = (1, text[said.end() :]) if said else (0, text)
        line = io.StringIO(text, newline="")
        first = next(csv.reader(line, delimiter=","), [""])
        header = line.getvalue().partition("\n")[0]
        self.delimiter = max(_DELIMITERS, key=header.count) if len(first) == 1 else ","
        self.delimiter = said[1] if said else self.delimiter
        line.seek(0)
        rows = csv.reader(line, delimiter=self.delimiter)
        self.raw = tuple(next(rows))
        self.names = tuple(spelled(name) for name in self.raw)
        if not self.names[-1]:  # a separator at the end of every line
            filled = max((i + 1 for row in rows for i, cell in enumerate(row) if cell.strip()), default=0)
            while len(self.names) > max(1, filled) and not self.names[-1]:
                self.names = self.names[:-1]
        self.has_blank = self.encoding != "utf-8" or self._may_have_blank()

    def _head(self) -> bytes:
        try:
            with self._opened() as file:
                return file.read(2**20)
        except (OSError, EOFError) as error:
            raise DataError(f"{self.path} cannot be read: {error}", hint="Is it truncated?") from error

    def _opened(self) -> Any:
        return gzip.open(self.path, "rb") if self.packed else open(self.path, "rb")

    def _blocks(self) -> Iterator[bytes]:
        with self._opened() as file:
            while block := file.read(_BLOCK):
                yield block

    def _is_utf8(self) -> bool:
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            for block in self._blocks():
                decoder.decode(block)
            decoder.decode(b"", True)
        except UnicodeDecodeError:
            return False
        return True

    def _may_have_blank(self) -> bool:
        """Whether a line begins with an empty cell, as every row that is empty throughout does."""
        starts = [b"\n" + mark for mark in (self.delimiter.encode(), b" ", b'""')]
        tail = b""
        for block in self._blocks():
            block = tail + block
            if any(start in block for start in starts):
                return True
            tail = block[-3:]
        return False

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        raw, blank, skip = dict(zip(self.names, self.raw)), 0, self.has_blank and self.skips_blank
        wanted = [raw[name] for name in (self.names if skip else columns)]
        try:
            reader = arrow_csv.open_csv(
                pa.input_stream(self.path, compression="gzip" if self.packed else None),
                read_options=arrow_csv.ReadOptions(
                    block_size=_BLOCK,
                    skip_rows=self.skipped,
                    encoding="utf8" if self.encoding == "utf-8" else self.encoding,
                ),
                parse_options=arrow_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=wanted,
                    column_types=dict.fromkeys(wanted, pa.string()),
                    strings_can_be_null=False,
                ),
            )
            for batch in reader:
                if skip:
                    batch, n = _without_blank(batch)
                    blank += n
                yield pa.RecordBatch.from_arrays([batch.column(raw[name]) for name in columns], list(columns))
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            raise self._refused(str(error)) from error
        self.blank_rows = blank

    def _refused(self, said: str) -> DataError:
        if "UTF8" in said or "UTF-8" in said or "utf-8" in said:
            return DataError(
                f"{self.path} is no UTF-8 text",
                hint="Save it as CSV UTF-8 (Excel: that very type), or write `encoding: cp1252` at the top of the "
                "schema if it comes from Windows.",
            )
        if "Expected" in said and "columns" in said:
            line, cells = self._uneven()
            return DataError(
                f"{self.path} has a row with another number of cells, in line {line}",
                expected=f"{len(self.raw)} cells, as in the first line",
                got=cells,
                hint="A text with commas or line breaks must stand in double quotes.",
            )
        return DataError(f"{self.path} cannot be read as CSV: {said.splitlines()[0][:200]}")

    def _uneven(self) -> tuple[int, int]:
        form = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
        with io.TextIOWrapper(self._opened(), encoding=form, errors="replace", newline="") as file:
            reader = csv.reader(file, delimiter=self.delimiter)
            for cells in reader:
                if cells and len(cells) != len(self.raw):
                    return reader.line_num, len(cells)
        return 0, 0


class _Parquet(Table):
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
        import pyarrow as pa
        import pyarrow.parquet as parquet

        raw, blank, skip = dict(zip(self.names, self.raw)), 0, self.has_blank and self.skips_blank
        wanted = [raw[name] for name in (self.names if skip else columns)]
        try:
            with parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=65536, columns=wanted):
                    if skip:
                        batch, n = _without_blank(batch)
                        blank += n
                    yield pa.RecordBatch.from_arrays(
                        [_plain(batch.column(raw[name]), name, self.path) for name in columns], list(columns)
                    )
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} cannot be read as Parquet: {str(error)[:200]}") from error
        self.blank_rows = blank


class _Excel(Table):
    """The first sheet of a workbook: values, never formulas."""

    def __init__(self, path: Path):
        self.path = path
        for cells in self._rows():
            self.names = tuple("" if cell is None else spelled(str(cell)) for cell in cells)
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
            if unpacked > LARGEST_SHEET:
                raise DataError(
                    f"{self.path} unpacks to too much",
                    expected=f"{LARGEST_SHEET / 1e9:.1f} GB or less",
                    got=f"{unpacked / 1e9:.1f} GB",
                    hint="Save it as CSV or Parquet.",
                )
            book = load_workbook(self.path, read_only=True, data_only=True)
        except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
            raise DataError(f"{self.path} cannot be read as an Excel workbook: {error}") from error
        if len(book.worksheets) > 1:
            sheets = book.worksheets
            self.note = f"{self.path.name}: the first of {len(sheets)} sheets, {sheets[0].title!r}, is read, no other"
        try:
            yield from book.worksheets[0].iter_rows(values_only=True)
        finally:
            book.close()

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        import pyarrow as pa

        places = [self.names.index(name) for name in columns]
        held: list[list[str]] = []
        blank = 0
        for number, cells in enumerate(self._rows()):
            if number == 0:
                continue
            if self.skips_blank and all(cell is None or not str(cell).strip() for cell in cells):
                blank += 1
                continue
            held.append([_excel_text(cells[place] if place < len(cells) else None) for place in places])
            if len(held) == 8192:
                yield pa.RecordBatch.from_arrays([pa.array(c, pa.string()) for c in zip(*held)], list(columns))
                held = []
        if held:
            yield pa.RecordBatch.from_arrays([pa.array(c, pa.string()) for c in zip(*held)], list(columns))
        self.blank_rows = blank


def _excel_text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    if isinstance(cell, datetime):
        return cell.date().isoformat() if cell.time() == time() else cell.isoformat(" ")
    if isinstance(cell, timedelta):
        return _clock(cell)
    return cell.isoformat() if isinstance(cell, date | time) else str(cell)


def _clock(span: timedelta) -> str:
    """A span of time as hours, minutes and seconds, like 27:30:00."""
    sign, seconds = ("-", -span) if span < timedelta() else ("", span)
    minutes, rest = divmod(round(seconds.total_seconds(), 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{sign}{hours:02d}:{minutes:02d}:{rest:02.0f}" if rest == int(rest) else (
        f"{sign}{hours:02d}:{minutes:02d}:{rest:06.3f}"
    )  # fmt: skip


def _may_have_blank(metadata: Any) -> bool:
    """Whether every column of a Parquet file has nulls, or does not say."""
    for column in range(metadata.num_columns):
        parts = [metadata.row_group(group).column(column).statistics for group in range(metadata.num_row_groups)]
        text = metadata.schema.column(column).physical_type == "BYTE_ARRAY"
        if not text and all(part is not None and part.has_null_count and part.null_count == 0 for part in parts):
            return False
    return metadata.num_rows > 0


def _without_blank(batch: Any) -> tuple[Any, int]:
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
        return pa.array([None if cell is None else _clock(cell) for cell in cells], pa.string())
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if pa.types.is_large_string(kind) or pa.types.is_string(kind) or pa.types.is_null(kind):
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


def _arrays(table: Any) -> dict[str, Any]:
    import pyarrow as pa

    arrays = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        arrays[name] = column if not isinstance(column, pa.ChunkedArray) else pa.concat_arrays(column.chunks)
    return arrays
