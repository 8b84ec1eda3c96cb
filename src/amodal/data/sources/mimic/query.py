"""MIMIC's tables as views of DuckDB over their files, with errors that name the file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from amodal.errors import DataError, RunError

__all__ = ["columns_of", "find_table", "open_tables"]

# The dialect is stated: guessed from a sample, it would miss quotes that come late in a long table.
_READ = "SELECT * FROM read_csv('{}', all_varchar = true, header = true, delim = ',', quote = '\"', escape = '\"')"
_READ_PARQUET = "SELECT CAST(COLUMNS(*) AS VARCHAR) FROM read_parquet('{}')"
_ENDINGS = (".csv", ".csv.gz", ".parquet")
_MEMORY = "2GB"  # of DuckDB; what does not fit goes to a temporary folder


@contextmanager
def open_tables(
    source: Path,
    tables: Mapping[str, str],
    *,
    database: str,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Any]:
    """Opens a connection to DuckDB in which each table is a view of text columns.

    Args:
        source: Folder of the database.
        tables: Name of each view, and its table as a path below `source` without its ending; the letters' case does
            not matter, nor whether the file is .csv, .csv.gz or .parquet.
        database: What messages call the database.
        columns: Columns that a view must have, in any case.

    Yields:
        The connection, closed at the end.

    Raises:
        DataError: If a table or a column is missing, or cannot be read, then or in a query; the message names the file.
        RunError: If DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise RunError(f"reading {database}'s tables needs duckdb", hint="pip install 'amodal[clinical]'") from error

    files = {name: find_table(source, table, database) for name, table in tables.items()}
    with tempfile.TemporaryDirectory(prefix="amodal-") as spill:
        settings = {"memory_limit": _MEMORY, "temp_directory": spill, "preserve_insertion_order": False}
        try:
            with duckdb.connect(config=settings) as connection:
                for name, path in files.items():
                    read = _READ_PARQUET if path.suffix == ".parquet" else _READ
                    quoted = str(path).replace("'", "''")
                    connection.execute(f"CREATE VIEW {name} AS {read.format(quoted)}")
                    _check_columns(connection, name, path, (columns or {}).get(name, ()))
                yield connection
        except duckdb.Error as error:
            named = [str(path) for path in files.values() if str(path) in str(error)] or [
                str(path) for path in files.values()
            ]
            reason = str(error).partition("\n")[0]
            raise DataError(f"{', '.join(named)} cannot be read: {reason}", hint="It may be truncated.") from error


def columns_of(connection: Any, query: str) -> dict[str, Any]:
    """The columns of a query's result as arrays, names in lower case; what is missing is not told apart.

    Args:
        connection: Made by `open_tables`.
        query: What to ask.
    """
    return {name.lower(): np.ma.getdata(column) for name, column in connection.sql(query).fetchnumpy().items()}


def find_table(source: Path, table: str, database: str) -> Path:
    """The file of a table.

    Args:
        source: Folder of the database.
        table: The table as a path below it, without its ending; the case of the name does not matter.
        database: What messages call the database.

    Raises:
        DataError: If there is none.
    """
    folder = (source / table).parent
    names = [Path(table).name.lower() + ending for ending in _ENDINGS]
    if folder.is_dir():
        found = {path.name.lower(): path for path in folder.iterdir()}
        for name in names:
            if name in found:
                return found[name]
    raise DataError(
        f"a table of {database} is missing: {source / table}.csv(.gz)", expected="a file .csv, .csv.gz or .parquet"
    )


def _check_columns(connection: Any, name: str, path: Path, wanted: Sequence[str]) -> None:
    if not wanted:
        return
    there = [row[0].lower() for row in connection.execute(f"DESCRIBE {name}").fetchall()]
    lacking = [column for column in wanted if column.lower() not in there]
    if lacking:
        raise DataError(
            f"{path} lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}",
            expected=", ".join(wanted),
            got=", ".join(there),
        )
