"""MIMIC's tables as views of DuckDB over their files, with errors that name the file."""

from __future__ import annotations

import gzip
import re
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from amodal.errors import DataError, RunError

__all__ = ["check_tables", "columns_of", "find_table", "open_tables"]

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
        RunError: If DuckDB is not installed, or memory and the temporary folder are full.
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
                try:
                    yield connection
                except duckdb.ConversionException as error:
                    raise _misfit(connection, files, error) from error
        except duckdb.OutOfMemoryException as error:
            raise RunError(
                f"{database}'s tables need more space than there is: {_reason(error)}",
                hint=f"Set TMPDIR to a folder with more space than {tempfile.gettempdir()}.",
            ) from error
        except duckdb.Error as error:
            named = [path for path in files.values() if str(path) in str(error)] or list(files.values())
            damaged = [f"{path} cannot be read: {fault}" for path in named for fault in [_fault(path)] if fault]
            if damaged:
                hint = "Fetch the file again; its checksum is published with it."
                raise DataError("; ".join(damaged), hint=hint) from error
            raise DataError(f"{', '.join(map(str, named))} cannot be read: {_reason(error)}") from error


def check_tables(
    source: Path, tables: Mapping[str, str], *, database: str, columns: Mapping[str, Sequence[str]]
) -> None:
    """Opens tables for a look at their columns only, so that what is missing is said before long work.

    Args:
        source: As in `open_tables`, as are the others.
        tables: Views and their tables.
        database: What messages call the database.
        columns: Columns that they must have.

    Raises:
        DataError: If a table or a column is missing, or the beginning of a file cannot be read.
    """
    with open_tables(source, tables, database=database, columns=columns):
        pass


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
        found = {path.name.lower(): path for path in folder.iterdir() if path.is_file()}
        for name in names:
            if name in found:
                return found[name]
    raise DataError(
        f"a table of {database} is missing: {source / table}.csv(.gz)",
        expected="a file .csv, .csv.gz or .parquet",
        hint=_other_database(source, database),
    )


_SIGNS = (  # table, database, what to say
    ("icu/icustays", "MIMIC-III", "{0} looks like MIMIC-IV: use `amodal data prepare mimic4`."),
    ("ICUSTAYS", "MIMIC-IV", "{0} looks like MIMIC-III: use `amodal data prepare mimic3`."),
    ("core/patients", "MIMIC-IV", "{0} looks like MIMIC-IV 1.0, whose tables are elsewhere: 2.0 and later are read."),
)


def _other_database(source: Path, database: str) -> str | None:
    """What a folder without some table may be instead."""
    if not source.is_dir():
        return f"There is no folder {source}."
    inside = (folder for folder in sorted(source.iterdir()) if folder.is_dir())
    for folder in (source, *inside):
        for table, wrong_for, words in _SIGNS:
            if wrong_for == database and _has(folder, table):
                return words.format(folder)
        if folder != source and _has(folder, "icu/icustays" if database == "MIMIC-IV" else "ICUSTAYS"):
            return f"It may be in {folder}."
    return None


def _has(source: Path, table: str) -> bool:
    folder = (source / table).parent
    names = [Path(table).name.lower() + ending for ending in _ENDINGS]
    return folder.is_dir() and any(path.name.lower() in names for path in folder.iterdir())


def _fault(path: Path) -> str | None:
    """What is wrong with a file as a whole: its compression, its end, its text; None if nothing is."""
    if path.suffix == ".parquet":
        with path.open("rb") as file:
            file.seek(0, 2)
            if file.tell() < 12:
                return "it is truncated"
            file.seek(-4, 2)
            return None if file.read() == b"PAR1" else "it is truncated, or no Parquet file"
    if path.suffix != ".gz":
        return None
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return "its name ends in .gz, but it is not compressed"
    try:
        with gzip.open(path) as file:
            while file.read(2**24):
                pass
    except (OSError, EOFError, zlib.error) as error:
        return f"it is truncated or damaged ({error})"
    return None


def _reason(error: Exception) -> str:
    """DuckDB's reason, without the line itself, which may be a patient's note, and without advice on its options."""
    text = str(error)
    if "sniffing" in text:
        return "its lines are not columns separated by commas with one header, as PhysioNet has them"
    line = re.search(r"CSV Error on Line: (\d+)", text)
    if line:
        wrong = "is no UTF-8 text" if "utf-8" in text.lower() else "does not have the columns of the header"
        return f"line {line[1]} {wrong}"
    return text.partition("\n")[0]


def _misfit(connection: Any, files: Mapping[str, Path], error: Exception) -> DataError:
    """The error of a value that is not of its column's form, with its place, which is looked for."""
    quoted = re.search(r"\"([^\"\n]*)\"|'([^'\n]*)'", str(error))
    reason = _reason(error)
    if quoted is None:
        return DataError(f"a value of {', '.join(map(str, files.values()))} cannot be read: {reason}")
    value = next(group for group in quoted.groups() if group is not None)
    for name, path in files.items():
        for column, *_ in connection.execute(f"DESCRIBE {name}").fetchall():
            found = connection.execute(f'SELECT 1 FROM {name} WHERE "{column}" = ? LIMIT 1', [value]).fetchall()
            if found:
                return DataError(f"{path} has {value!r} in the column {column}, which cannot be read: {reason}")
    return DataError(f"{value!r} in {', '.join(map(str, files.values()))} cannot be read: {reason}")


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
