"""Excel workbooks: one sheet of stored values, as a CSV file of it would have them."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from amodal.data.limits import LARGEST_SHEET
from amodal.data.table.chunks import BLOCK, Table, span_text, title_note
from amodal.data.table.numbers import STORED
from amodal.data.table.section import nearest
from amodal.data.table.words import spelled
from amodal.errors import ConfigurationError, DataError

__all__ = ["ExcelTable"]


class ExcelTable(Table):
    """A sheet of a workbook: stored values, never formulas.

    Args:
        path: The workbook.
        sheet: The sheet; "" = the first.
    """

    def __init__(self, path: Path, sheet: str = ""):
        self.path, self.sheet, self._has_results = path, sheet, False
        rows = [*islice(self._rows(), 20)]
        if not rows:
            raise DataError(f"{path} is empty", expected="a row with the names of the columns, then rows")
        first, *others = rows
        self.names = tuple("" if cell is None else spelled(str(cell)) for cell in first)
        while self.names and not self.names[-1]:
            self.names = self.names[:-1]
        self.raw = tuple(first[: len(self.names)])
        filled = Counter(sum(cell is not None for cell in cells) for cells in others).most_common(1)
        n = sum(map(bool, self.names))
        if filled and filled[0][0] > n:
            self._remark(title_note(path.name, n, filled[0][0]))

    def _remark(self, what: str) -> None:
        if what not in self.note:
            what = what.removeprefix(f"{self.path.name}: ")
            self.note = f"{self.note}; {what}" if self.note else f"{self.path.name}: {what}"

    def _book(self) -> Any:
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
            return load_workbook(self.path, read_only=True, data_only=True)
        except DataError:
            raise
        except _BROKEN as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(
            f"{self.path} cannot be read as an Excel workbook: {str(error)[:200]}",
            hint="Is it damaged, or has it a password? Open it in Excel and save it anew, or save it as CSV.",
        )

    def _chosen(self, book: Any) -> Any:
        """The sheet that is named, or the first."""
        sheets = {spelled(sheet.title): sheet for sheet in book.worksheets}
        if self.sheet and spelled(self.sheet) in sheets:
            return sheets[spelled(self.sheet)]
        if self.sheet and len(sheets) > 1:
            raise DataError(
                f"{self.path} has no sheet {self.sheet!r}",
                expected=f"one of {', '.join(map(repr, sheets))}",
                hint=nearest(self.sheet, sheets),
            )
        if not sheets:
            raise DataError(f"{self.path} has no sheet with cells", expected="a sheet with a row for each case")
        seen = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
        first = (seen or book.worksheets)[0]
        if self.sheet:
            self._remark(f"its one sheet is called {first.title!r}, not {self.sheet!r}")
        elif len(sheets) > 1:
            self._remark(
                f"the first of {len(sheets)} sheets, {first.title!r}, is read, no other (`sheet: …` reads another)"
            )
        return first

    def _rows(self) -> Iterator[Sequence[Any]]:
        book = self._book()
        try:
            sheet = self._chosen(book)
            if not self._has_results:
                self._look_through(sheet)
                self._has_results = True
            if not _shown_otherwise(book):
                yield from sheet.iter_rows(values_only=True)
                return
            for row in sheet.iter_rows():
                yield [_as_shown(cell) for cell in row]
        except DataError:
            raise
        except _BROKEN as error:
            raise self._unreadable(error) from error
        finally:
            book.close()

    def _look_through(self, sheet: Any) -> None:
        """Refuses formulas whose results are not stored, as programs write them; says merged cells and hidden rows."""
        hidden, merged = 0, []
        with sheet._get_source() as file:
            tail = b""
            while block := file.read(BLOCK):
                found = _NO_RESULT.search(tail + block)
                if found:
                    raise DataError(
                        f"{self.path}: the cell {found[1].decode()} of sheet {sheet.title!r} has a formula without a "
                        "stored result",
                        expected="values",
                        hint="Open it in Excel and save it, which stores the results, or save it as CSV.",
                    )
                hidden += len(_HIDDEN.findall(block))
                merged += [ref.decode() for ref in _MERGED.findall(tail[-64:] + block) if not _ONE_ROW.match(ref)]
                tail = block[-4096:]
        if hidden:
            self._remark(f"{hidden:,} hidden rows, as a filter leaves them, are read like all others")
        if merged:
            shown = ", ".join(dict.fromkeys(merged[:3]))
            self._remark(f"cells are merged over rows ({shown}): the first has the value, the others are empty")

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Arrow record batches of some columns."""
        import pyarrow as pa

        places = [self.names.index(name) for name in columns]
        held: list[list[str]] = []
        blank = header = 0
        for number, cells in enumerate(self._rows()):
            if number == 0:
                continue
            if self.skips_blank and all(cell is None or not str(cell).strip() for cell in cells):
                blank += 1
                continue
            if self.skips_blank and tuple(cells[: len(self.names)]) == self.raw:
                header += 1
                continue
            held.append([_excel_text(cells[place] if place < len(cells) else None) for place in places])
            if len(held) == 8192:
                yield pa.RecordBatch.from_arrays([pa.array(c, pa.string()) for c in zip(*held)], list(columns))
                held = []
        if held:
            yield pa.RecordBatch.from_arrays([pa.array(c, pa.string()) for c in zip(*held)], list(columns))
        self.blank_rows, self.header_rows = blank, header


_NO_RESULT = re.compile(
    rb'<c r="([A-Z]+[0-9]+)"(?![^>]* t="str")[^>]*>\s*<f[^>]*(?:/>|>[^<]*</f>)\s*(?:<v\s*/>|<v></v>)?\s*</c>'
)
"""A cell of a sheet's XML with a formula, and no value; a stored result that is an empty text has a type."""

_HIDDEN = re.compile(rb'<row [^>]*hidden="(?:1|true)"')
_MERGED = re.compile(rb'<mergeCell ref="([A-Z]+[0-9]+:[A-Z]+[0-9]+)"')
_ONE_ROW = re.compile(rb"^[A-Z]+([0-9]+):[A-Z]+\1$")
_BROKEN = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    SyntaxError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)
"""What a reader of workbooks raises for files that are damaged; malformed XML is a SyntaxError."""

_ZEROS = re.compile(r"^0{2,}$")


def _shown_otherwise(book: Any) -> bool:
    """Whether a workbook has cells that are shown as other numbers than are stored: per cent, and leading zeros."""
    from openpyxl.styles.numbers import BUILTIN_FORMATS

    used = {style.numFmtId for style in book._cell_styles}
    formats = [BUILTIN_FORMATS.get(n) or (book._number_formats[n - 164] if n >= 164 else "") for n in used]
    return any("%" in form or _ZEROS.match(form) for form in formats)


def _as_shown(cell: Any) -> Any:
    """The value of a cell; per cent and leading zeros as they are shown, and as a CSV file has them."""
    value = cell.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if "%" in cell.number_format:
        return f"{round(100 * value, 10):.15g}%"
    if _ZEROS.match(cell.number_format) and float(value).is_integer() and value >= 0:
        return f"{int(value):0{len(cell.number_format)}d}"
    return value


def _excel_text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    if isinstance(cell, float):
        return f"{cell}{STORED}"
    if isinstance(cell, datetime):
        return cell.date().isoformat() if cell.time() == time() else cell.isoformat(" ")
    if isinstance(cell, timedelta):
        return span_text(cell)
    return cell.isoformat() if isinstance(cell, date | time) else str(cell)
