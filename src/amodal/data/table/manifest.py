"""Tables as people have them: CSV, Parquet and Excel, read chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from amodal.data.table.chunks import MemoryTable, Table
from amodal.data.table.csv_table import CsvTable
from amodal.data.table.excel_table import ExcelTable
from amodal.data.table.parquet_table import ParquetTable
from amodal.data.table.section import nearest
from amodal.errors import ConfigurationError, DataError, SchemaError

__all__ = ["MemoryTable", "Table", "check_columns", "open_table"]


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
                hint=" ".join(filter(None, (nearest(column, table.names), table.note and f"{table.note}."))) or None,
            )
