"""MIMIC's tables as views of DuckDB over their files, with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from amodal.errors import DataError, RunError

__all__ = ["columns_of", "open_tables"]

# The dialect is stated: guessed from a sample, it would miss quotes that come late in a long table.
_READ = "read_csv('{}', all_varchar = true, header = true, delim = ',', quote = '\"', escape = '\"')"


@contextmanager
def open_tables(source: Path, tables: Mapping[str, str], *, database: str) -> Iterator[Any]:
    """Opens a connection to DuckDB in which each table is a view of text columns.

    Args:
        source: Folder of the database.
        tables: Name of each view, and its table as a path below `source` without its ending; the letters' case does
            not matter, nor whether the file is .csv or .csv.gz.
        database: What messages call the database.

    Yields:
        The connection, closed at the end.

    Raises:
        DataError: If a table is missing or cannot be read, then or in a query; the message names it.
        RunError: If DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise RunError(f"reading {database}'s tables needs duckdb", hint="pip install 'amodal[clinical]'") from error

    files = {name: _table_file(source, table, database) for name, table in tables.items()}
    try:
        with duckdb.connect() as connection:
            for name, path in files.items():
                quoted = str(path).replace("'", "''")
                connection.execute(f"CREATE VIEW {name} AS SELECT * FROM {_READ.format(quoted)}")
            yield connection
    except duckdb.Error as error:
        named = [str(path) for path in files.values() if str(path) in str(error)] or [str(p) for p in files.values()]
        reason = str(error).partition("\n")[0]
        raise DataError(f"{', '.join(named)} cannot be read: {reason}", hint="It may be truncated.") from error


def columns_of(connection: Any, query: str) -> dict[str, Any]:
    """The columns of a query's result as arrays; what is missing is not told apart.

    Args:
        connection: Made by `open_tables`.
        query: What to ask.
    """
    return {name: np.ma.getdata(column) for name, column in connection.sql(query).fetchnumpy().items()}


def _table_file(source: Path, table: str, database: str) -> Path:
    folder = (source / table).parent
    names = (f"{Path(table).name.lower()}.csv", f"{Path(table).name.lower()}.csv.gz")
    if folder.is_dir():
        found = [path for path in sorted(folder.iterdir()) if path.name.lower() in names]
        if found:
            return found[0]
    raise DataError(f"a table of {database} is missing: {source / table}.csv(.gz)")
