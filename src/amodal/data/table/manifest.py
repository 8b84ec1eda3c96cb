"""Tables as people have them: CSV, Parquet and Excel, read chunk by chunk."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from amodal.data.table.chunks import MemoryTable, Table
from amodal.data.table.csv_table import CsvTable
from amodal.data.table.excel_table import ExcelTable
from amodal.data.table.parquet_table import ParquetTable
from amodal.data.table.problems import Problems
from amodal.data.table.section import nearest
from amodal.data.table.words import alike
from amodal.errors import ConfigurationError, DataError, SchemaError

__all__ = ["BRACKETS", "MemoryTable", "Table", "check_columns", "check_renamed", "open_table", "tell_lacking"]

BRACKETS = re.compile(r"\s*[\[(][^\])]*[\])]\s*$")
"""Units in brackets at the end of a name."""


def open_table(path: Path, encoding: str = "", sheet: str = "") -> Table:
    """Opens a CSV (also packed with gzip), Parquet or Excel file by its ending.

    Args:
        path: The file.
        encoding: How a CSV file is encoded that is neither UTF-8 nor says that it is UTF-16.
        sheet: The sheet of an Excel workbook; "" = the first. Other files have none, and are read as they are.

    Raises:
        DataError: If it is not there, cannot be read, has no such sheet, no columns or one twice.
        ConfigurationError: If the ending is not known, or Excel's reader is not installed.
    """
    kinds = {
        ".csv": CsvTable,
        ".tsv": CsvTable,
        ".txt": CsvTable,
        ".parquet": ParquetTable,
        ".pq": ParquetTable,
        ".xlsx": ExcelTable,
    }
    ending = path.suffix.lower()
    if ending == ".gz" and kinds.get(Path(path.stem).suffix.lower()) is CsvTable:
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
    if kinds[ending] is CsvTable:
        table: Table = CsvTable(path, encoding)
    else:
        table = ExcelTable(path, sheet) if kinds[ending] is ExcelTable else ParquetTable(path)
    empty = [i + 1 for i, name in enumerate(table.names) if not name.strip()]
    if empty:
        raise DataError(
            f"{path} has a column without a name: column {empty[0]}",
            hint=" ".join(filter(None, ("Give it a name, or delete it.", table.note and f"{table.note}."))),
        )
    twice = sorted({name for name in table.names if table.names.count(name) > 1})
    if twice:
        raise DataError(f"{path} has the column {twice[0]!r} twice", hint="Rename one of them.")
    return table


def check_renamed(table: Table, known: Iterable[str]) -> None:
    """Refuses a new table that lacks a column under its name, and has it under one that is nearly the same.

    Columns may be lacking where new cases are read; one that has only got another spelling, or other units in brackets,
    must not be taken as lacking.

    Raises:
        DataError: If there is one, with the pair.
    """
    known = list(known)
    strange = {alike(BRACKETS.sub("", name)): name for name in table.names if name not in known}
    for name in known:
        near = strange.get(alike(BRACKETS.sub("", name)))
        if name not in table.names and near is not None and alike(name):
            units = BRACKETS.findall(name) != BRACKETS.findall(near) and bool(BRACKETS.search(near))
            table_name = table.path.name or "the table"
            raise DataError(
                f"{table_name} has the column {near!r}, which is nearly {name!r} of the training data",
                expected=f"{name!r}, or no such column",
                got=repr(near),
                hint="If these are other units, convert the column; then give it the name that training had."
                if units
                else "Rename it, or delete it if it is something else.",
            )


def tell_lacking(table: Table, known: Iterable[str], where: str, problems: Problems) -> None:
    """Says which columns a file of new cases does not have."""
    lacking = ", ".join(repr(name) for name in known if name not in table.names)
    if lacking and table.path.name:
        problems.say(f"{table.path.name}: no column {lacking} of {where}, taken as not measured")


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
                hint=" ".join(filter(None, (nearest(column, table.names), table.note and f"{table.note}."))) or None,
            )
