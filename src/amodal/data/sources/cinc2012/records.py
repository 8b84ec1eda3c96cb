"""The files of the PhysioNet/CinC Challenge 2012, in upstream's layout, read as one table of measurements.

Records are ``set-a/132539.txt`` with columns Time (hh:mm), Parameter and Value; outcomes ``Outcomes-a.txt`` with a row
a record. Set c has rows without a parameter's name; they are skipped and counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from amodal.data.members import Member, is_archive, read_members
from amodal.errors import DataError

__all__ = ["Measurements", "Outcomes", "Sources", "find_sources", "read_measurements", "read_outcomes"]

_RECORD = re.compile(r"\d+\.txt")
_OUTCOMES = re.compile(r"Outcomes.*\.txt", re.IGNORECASE)
_EITHER = re.compile(rf"{_RECORD.pattern}|(?i:{_OUTCOMES.pattern})")
_LETTER = re.compile(r"(?:set|outcomes)-([a-z])(?![a-z])", re.IGNORECASE)
_TIME = re.compile(r"(\d{2,3}):([0-5]\d)")
_HEADER = ("Time", "Parameter", "Value")
_OUTCOME_COLUMNS = ("RecordID", "Length_of_stay", "In-hospital_death")


class Sources(NamedTuple):
    """The files that were found.

    Attributes:
        records: Files of the stays.
        sets: Letter of each record's set, "" = unknown.
        outcomes: Files of outcomes.
    """

    records: list[Member]
    sets: list[str]
    outcomes: list[Member]


class Measurements(NamedTuple):
    """All rows of all records.

    Attributes:
        stay: Position of each row's record, int64, of shape (R,).
        minute: Minutes since admission, int64, of shape (R,).
        parameter: Position of the parameter's name in `names`, int64, of shape (R,).
        value: float64, of shape (R,), finite.
        names: Names of the parameters that occur.
        n_nameless: Rows skipped because they have no parameter's name.
        n_empty: Rows skipped because they have no value.
    """

    stay: np.ndarray
    minute: np.ndarray
    parameter: np.ndarray
    value: np.ndarray
    names: tuple[str, ...]
    n_nameless: int
    n_empty: int


class Outcomes(NamedTuple):
    """Outcomes of the stays.

    Attributes:
        death: Died in hospital, int64 0 or 1, of shape (N,).
        length_of_stay: Days in hospital, float64, of shape (N,); NaN = unknown (-1 in the file).
        n_others: Rows of stays that were not asked for: records that are lacking.
    """

    death: np.ndarray
    length_of_stay: np.ndarray
    n_others: int


class _Columns(NamedTuple):
    """The columns of rows: distinct texts, and each row's position among them; NaN = no value."""

    times: list[str]
    time: np.ndarray
    names: list[str]
    name: np.ndarray
    value: np.ndarray


def find_sources(source: Path) -> Sources:
    """Finds records and outcomes of one or more sets in a folder or an archive.

    Args:
        source: An archive of a set, a folder of records, or a folder with several of these (upstream's download). Of a
            set that is there both unpacked and as an archive, the unpacked one is read. Outcomes are read from the
            source, or from beside it; only those of the sets that were found.

    Returns:
        Records, sorted by id, and outcomes.

    Raises:
        DataError: If there is no record or no outcomes, a record comes twice, or a file cannot be read.
    """
    members = list(read_members(source, _EITHER))
    if source.is_dir():
        unpacked = {_letter(member.path) for member in members if _RECORD.fullmatch(member.path.name)}
        for path in sorted(source.iterdir()):
            if is_archive(path) and _LETTER.search(path.name) and _letter(PurePosixPath(path.name)) not in unpacked:
                members += read_members(path, _EITHER)
    records = sorted((m for m in members if _RECORD.fullmatch(m.path.name)), key=lambda m: int(m.path.stem))
    if not records:
        raise DataError(
            f"{source} holds no records", expected="files named like 132539.txt, or archives like set-a.tar.gz"
        )
    for one, other in pairwise(records):
        if one.path.stem == other.path.stem:
            raise DataError(f"record {one.path.stem} comes twice: {one.path} and {other.path}")
    sets = [_letter(record.path) for record in records]
    outcomes = [m for m in members if _OUTCOMES.fullmatch(m.path.name)] or _beside(source)
    outcomes = [m for m in outcomes if _letter(m.path) in {*sets, ""} or "" in sets]
    if not outcomes:
        wanted = ", ".join(f"Outcomes-{letter or '?'}.txt" for letter in sorted(set(sets)))
        raise DataError(f"there are no outcomes in {source} or beside it", expected=wanted)
    return Sources(records, sets, outcomes)


def _beside(source: Path) -> list[Member]:
    folder = source.resolve().parent
    paths = sorted(path for path in folder.iterdir() if _OUTCOMES.fullmatch(path.name) and path.is_file())
    return [Member(PurePosixPath(path.name), path.read_bytes()) for path in paths]


def _letter(path: PurePosixPath) -> str:
    found = _LETTER.findall(str(path))
    return found[-1].lower() if found else ""


def read_measurements(records: Sequence[Member]) -> Measurements:
    """Reads the rows of all records at once.

    Args:
        records: The files.

    Returns:
        The rows, in the order of the records and, within one, of the file.

    Raises:
        DataError: If a file is not UTF-8, has another delimiter, lacks a column, is cut in the middle of a row, or
            holds a time or a value that is none, or another record's id; the message names it.
    """
    bodies = [_body(record) for record in records]
    sizes = np.array([body.count(b"\n") + 1 if body else 0 for body in bodies])
    try:
        table = _parse(b"\n".join(body for body in bodies if body))
    except ValueError as error:  # find the file that is wrong
        for record, body in zip(records, bodies):
            _parse_one(record, body)
        raise DataError(f"the records cannot be parsed: {error}") from error
    stay = np.repeat(np.arange(len(records)), sizes)
    if len(table.value) != len(stay):
        raise DataError("the records cannot be parsed", expected=f"{len(stay)} rows", got=len(table.value))
    minute = _minutes(table, stay, records)
    if np.isinf(table.value).any():
        row = int(np.isinf(table.value).argmax())
        raise DataError(f"{records[int(stay[row])].path} has an infinite value", got=f"{table.value[row]}")
    named = np.array([name != "" for name in table.names], dtype=bool)[table.name]
    filled = ~np.isnan(table.value)
    keep = named & filled
    rows = Measurements(
        stay=stay[keep],
        minute=minute[keep],
        parameter=table.name[keep],
        value=table.value[keep],
        names=tuple(table.names),
        n_nameless=int(np.count_nonzero(~named)),
        n_empty=int(np.count_nonzero(named & ~filled)),
    )
    _check_ids(rows, records)
    return rows


def _body(record: Member) -> bytes:
    """A record's rows, without the header, blank lines and carriage returns."""
    content = record.content.replace(b"\r\n", b"\n").removeprefix(b"\xef\xbb\xbf")
    header, _, body = content.partition(b"\n")
    if header != b"Time,Parameter,Value":
        _check_header(record, header, _HEADER)
    body = body.strip(b"\n")
    while b"\n\n" in body:
        body = body.replace(b"\n\n", b"\n")
    if not body.isascii():
        _check_utf8(record)
    return body


def _check_utf8(member: Member) -> None:
    try:
        member.content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{member.path} is not UTF-8: {error.reason} at byte {error.start}") from error


def _check_header(member: Member, header: bytes, columns: Sequence[str]) -> None:
    _check_utf8(member)
    text = header.decode()
    given = [name.strip() for name in text.split(",")]
    lacking = [column for column in columns if column not in given]
    if lacking and len(given) == 1 and any(mark in text for mark in ";\t|"):
        raise DataError(f"{member.path} has another delimiter", expected="commas", got=repr(text[:60]))
    if lacking:
        raise DataError(
            f"{member.path} lacks the column {lacking[0]!r}", expected=",".join(columns), got=repr(text[:60])
        )
    if columns is _HEADER and tuple(given) != _HEADER:
        raise DataError(f"{member.path} has other columns", expected=",".join(_HEADER), got=repr(text[:60]))


def _parse(body: bytes) -> _Columns:
    import pyarrow as pa
    from pyarrow import csv

    if not body:
        return _Columns([], np.zeros(0, np.int64), [], np.zeros(0, np.int64), np.zeros(0))
    text = pa.dictionary(pa.int32(), pa.string())
    table = csv.read_csv(
        pa.BufferReader(body),
        read_options=csv.ReadOptions(column_names=list(_HEADER), block_size=2**24),
        parse_options=csv.ParseOptions(quote_char=False),
        convert_options=csv.ConvertOptions(
            column_types={"Time": text, "Parameter": text, "Value": pa.float64()},
            null_values=["", "NA", "NaN", "nan"],
            strings_can_be_null=False,
        ),
    ).unify_dictionaries()
    times, time = _decode(table["Time"])
    names, name = _decode(table["Parameter"])
    return _Columns(times, time, names, name, table["Value"].to_numpy().astype(np.float64))


def _decode(column: Any) -> tuple[list[str], np.ndarray]:
    """The distinct texts of a chunked column with one dictionary, and each row's position among them."""
    positions = np.concatenate([chunk.indices.to_numpy() for chunk in column.chunks])
    return column.chunks[0].dictionary.to_pylist(), positions.astype(np.int64)


def _parse_one(record: Member, body: bytes) -> None:
    try:
        _parse(body)
    except ValueError as error:
        raise DataError(
            f"{record.path} cannot be parsed: {error}", expected="rows like 00:07,HR,73", hint="It may be truncated."
        ) from error


def _minutes(table: _Columns, stay: np.ndarray, records: Sequence[Member]) -> np.ndarray:
    matches = [_TIME.fullmatch(time) for time in table.times]
    minutes = np.array([60 * int(m[1]) + int(m[2]) if m else -1 for m in matches], dtype=np.int64)
    wrong = (minutes < 0)[table.time]
    if wrong.any():
        row = int(wrong.argmax())
        path = records[int(stay[row])].path
        raise DataError(f"{path} has a time that is none", expected="hh:mm", got=repr(table.times[table.time[row]]))
    return minutes[table.time]


def _check_ids(rows: Measurements, records: Sequence[Member]) -> None:
    if "RecordID" not in rows.names:
        return
    said = rows.parameter == rows.names.index("RecordID")
    ids = np.array([int(record.path.stem) for record in records])
    wrong = rows.value[said] != ids[rows.stay[said]]
    if wrong.any():
        path = records[int(rows.stay[said][wrong.argmax()])].path
        raise DataError(
            f"{path} holds another record's id", expected=path.stem, got=f"{rows.value[said][wrong][0]:.0f}"
        )


def read_outcomes(files: Sequence[Member], ids: np.ndarray) -> Outcomes:
    """Reads the outcomes of some stays.

    Args:
        files: Files of outcomes; they may have rows of other stays.
        ids: Ids of the stays, str, of shape (N,).

    Returns:
        The outcomes, in the order of the ids.

    Raises:
        DataError: If a file is not UTF-8, has another delimiter, lacks a column or is cut in the middle of a row, a
            stay has no row or two different ones, or a value is none; the message names the file.
    """
    known: dict[str, tuple[float, float]] = {}
    for file in files:
        columns = _outcome_columns(file)
        for record, days, death in zip(*columns):
            if known.setdefault(str(record), (days, death)) != (days, death):
                raise DataError(f"{file.path} contradicts another row on record {record}")
    lacking = [record for record in ids.tolist() if record not in known]
    if lacking:
        raise DataError(
            f"{len(lacking)} of {len(ids)} records have no outcome, first {', '.join(lacking[:5])}",
            expected=f"a row for each in {', '.join(str(file.path) for file in files)}",
        )
    chosen = np.array([known[record] for record in ids.tolist()])  # (N, 2)
    days = np.where(chosen[:, 0] < 0, np.nan, chosen[:, 0])
    return Outcomes(chosen[:, 1].astype(np.int64), days, len(known) - len(set(ids.tolist())))


def _outcome_columns(file: Member) -> list[list[Any]]:
    import pyarrow as pa
    from pyarrow import csv

    content = file.content.removeprefix(b"\xef\xbb\xbf")
    _check_header(file, content.partition(b"\n")[0].rstrip(b"\r"), _OUTCOME_COLUMNS)
    _check_utf8(file)
    types = {"RecordID": pa.int64(), "Length_of_stay": pa.float64(), "In-hospital_death": pa.int64()}
    try:
        table = csv.read_csv(
            pa.BufferReader(content),
            convert_options=csv.ConvertOptions(include_columns=list(_OUTCOME_COLUMNS), column_types=types),
        )
    except ValueError as error:
        raise DataError(f"{file.path} cannot be parsed: {error}", hint="It may be truncated.") from error
    for name in _OUTCOME_COLUMNS:
        if table[name].null_count:
            raise DataError(f"{file.path} has rows without {name}")
    columns = [table[name].to_pylist() for name in _OUTCOME_COLUMNS]
    wrong = next((i for i, death in enumerate(columns[2]) if death not in (0, 1)), None)
    if wrong is not None:
        raise DataError(
            f"{file.path}: In-hospital_death of record {columns[0][wrong]} is unknown",
            expected="0 or 1",
            got=columns[2][wrong],
        )
    return columns
