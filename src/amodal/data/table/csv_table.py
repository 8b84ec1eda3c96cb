"""CSV files: delimiters, encodings, packed or not, rows that are empty throughout or uneven."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from amodal.data.table.chunks import BLOCK, Table, title_note, without_blank
from amodal.data.table.words import spelled
from amodal.errors import DataError

__all__ = ["CsvTable"]

_DELIMITERS = ",;\t|"
_ESCAPED = re.compile(rb'[^\\]\\"[^",;\t|\r\n]')
"""A quote within a text as databases write it, which no file with doubled quotes has."""


class CsvTable(Table):
    """A CSV file, or one packed with gzip.

    Args:
        path: The file.
        encoding: How it is encoded if it is neither UTF-8 nor says that it is UTF-16.
    """

    def __init__(self, path: Path, encoding: str = ""):
        self.path, self.encoding = path, "utf-8"
        self.packed = path.suffix.lower() == ".gz"
        head = self._head()
        if not head.strip():
            raise DataError(f"{path} is empty", expected="a line with the names of the columns, then rows")
        if head[:4] == b"PAR1" or head[:2] == b"PK":
            raise DataError(f"{path} is no CSV file", hint="Is its ending wrong (.parquet, .xlsx)?")
        if head[:2] in (b"\xff\xfe", b"\xfe\xff") and head[2:4] != b"\0\0":
            self.encoding = "utf-16"
        elif b"\0" in head and encoding.startswith("utf-16"):
            self.encoding = encoding
        elif b"\0" in head:
            line = head[: head.index(b"\0")].count(b"\n") + 1
            raise DataError(
                f"{path} holds bytes of zero, first in line {line}, as no text does",
                hint="Is it UTF-16 without its mark, or damaged there? Save it as CSV UTF-8.",
            )
        elif encoding and not self._is_utf8():
            if encoding.startswith("utf-16"):
                raise DataError(f"{path} is neither UTF-8 nor {encoding}", hint="Is it `encoding: cp1252`?")
            self.encoding = encoding
        text = head.decode("utf-8-sig" if self.encoding == "utf-8" else self.encoding, "replace")
        said = re.match(r"^\"?sep=(.)\"?[;,\t ]*\r?\n", text)  # how Excel is told the delimiter
        self.skipped, text = (1, text[said.end() :]) if said else (0, text)
        text = text.lstrip("\r\n")
        line = io.StringIO(text, newline="")
        first = next(csv.reader(line, delimiter=","), [""])
        header = line.getvalue().partition("\n")[0]
        self.delimiter = max(_DELIMITERS, key=header.count) if len(first) == 1 else ","
        self.delimiter = said[1] if said else self.delimiter
        line.seek(0)
        rows = _rows(line, self.delimiter)
        self.raw = tuple(next(rows, [""]))
        self.names = tuple(spelled(name) for name in self.raw)
        if not self.names[-1]:  # a separator at the end of every line
            filled = max((i + 1 for row in rows for i, cell in enumerate(row) if cell.strip()), default=0)
            while len(self.names) > max(1, filled) and not self.names[-1]:
                self.names = self.names[:-1]
        self.first_line = header.strip().encode("utf-8")
        self.note = _title(path.name, text, header, sum(map(bool, self.names)))
        self.has_quotes = any(b'"' in block for block in self._blocks())
        self.escapes = self.has_quotes and any(b'\\"' in block and _ESCAPED.search(block) for block in self._blocks())
        if self.escapes:
            said = f"quotes within texts are written as {chr(92)}{chr(34)}, and read so"
            self.note = f"{self.note}; {said}" if self.note else f"{path.name}: {said}"
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
            while block := file.read(BLOCK):
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
        """Whether a line begins with an empty cell, as in rows that are empty throughout, or as the first one does."""
        starts = [b"\n" + mark for mark in (self.delimiter.encode(), b" ", b'""', self.first_line)]
        tail = b""
        for block in self._blocks():
            block = tail + block
            if any(start in block for start in starts):
                return True
            tail = block[-max(3, len(self.first_line)) :]
        return False

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Arrow record batches of some columns."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        raw, blank, header = dict(zip(self.names, self.raw)), 0, 0
        skip = self.has_blank and self.skips_blank
        wanted = [raw[name] for name in (self.names if skip else columns)]
        try:
            reader = arrow_csv.open_csv(
                pa.input_stream(self.path, compression="gzip" if self.packed else None),
                read_options=arrow_csv.ReadOptions(
                    block_size=BLOCK,
                    skip_rows=self.skipped,
                    encoding="utf8" if self.encoding == "utf-8" else self.encoding,
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=self.delimiter, newlines_in_values=True, escape_char="\\" if self.escapes else False
                ),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=wanted,
                    column_types=dict.fromkeys(wanted, pa.string()),
                    strings_can_be_null=False,
                ),
            )
            for batch in reader:
                if skip:
                    batch, empty, named = without_blank(batch)
                    blank, header = blank + empty, header + named
                yield pa.RecordBatch.from_arrays([batch.column(raw[name]) for name in columns], list(columns))
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            raise self._refused(str(error)) from error
        self.blank_rows, self.header_rows = blank, header

    def _refused(self, said: str) -> DataError:
        if "UTF8" in said or "UTF-8" in said or "utf-8" in said:
            return DataError(
                f"{self.path} is no UTF-8 text",
                hint="Save it as CSV UTF-8 (Excel: that very type), or, when a cohort is prepared, write "
                "`encoding: cp1252` at the top of the schema if it comes from Windows.",
            )
        if "Expected" in said and "columns" in said:
            line, cells = self._uneven()
            return DataError(
                f"{self.path} has a row with another number of cells, in line {line}",
                expected=f"{len(self.raw)} cells, as in the first line",
                got=cells,
                hint="A text with commas or line breaks must stand in double quotes."
                + (f" {self.note}." if self.note else ""),
            )
        if "straddling" in said:
            return DataError(
                f"{self.path} has a row of more than {BLOCK // 2**20} MiB",
                hint='Is a quote not closed? It must stand twice ("") within a text.',
            )
        return DataError(f"{self.path} cannot be read as CSV: {said.splitlines()[0][:200]}")

    def _uneven(self) -> tuple[int, int]:
        form = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
        with io.TextIOWrapper(self._opened(), encoding=form, errors="replace", newline="") as file:
            reader = csv.reader(file, delimiter=self.delimiter, escapechar="\\" if self.escapes else None)
            try:
                for cells in reader:
                    if cells and len(cells) != len(self.raw):
                        return reader.line_num, len(cells)
            except csv.Error:  # a cell of more than 128 KiB
                return reader.line_num, 0
        return 0, 0


def _rows(file: io.StringIO, delimiter: str) -> Iterator[list[str]]:
    """Rows of the beginning of a file, until one with a cell of more than 128 KiB."""
    try:
        yield from csv.reader(file, delimiter=delimiter)
    except csv.Error:
        return


def _title(name: str, text: str, header: str, n: int) -> str:
    """What to know about a file whose first line has fewer filled cells than the others; "" if it has not."""
    rest = text[len(header) + 1 :]
    mark = max(_DELIMITERS, key=rest[:4096].count) if n == 1 else max(_DELIMITERS, key=header.count)
    rows = islice(_rows(io.StringIO(rest, newline=""), mark), 20)
    filled = Counter(sum(map(bool, map(str.strip, row))) for row in rows if row).most_common(1)
    most = filled[0][0] if filled else 0
    return title_note(name, n, most) if most > n else ""
