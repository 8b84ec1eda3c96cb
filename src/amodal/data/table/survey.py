"""The notation of a table's numbers and dates, learnt from all of its cells before any is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from amodal.data.table.cells import Reading, moment_texts
from amodal.data.table.manifest import Table
from amodal.data.table.numbers import Marks, NumberRule, numbers
from amodal.data.table.problems import Problems
from amodal.data.table.times import DateShapes
from amodal.errors import DataError

__all__ = ["Survey", "survey"]

_CHUNK = 65536
_WHOLE = 2.0**24


@dataclass(frozen=True)
class Survey:
    """Results of the survey of a table's columns.

    Attributes:
        rules: How the numbers of each column are written, with a decimal mark.
        formats: Formats of the dates of each column, or pair of columns, beside ISO 8601.
        extent: Smallest and largest number of columns with numbers beyond 2²⁴.
    """

    rules: Mapping[str, NumberRule] = field(default_factory=dict)
    formats: Mapping[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    extent: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def survey(
    table: Table,
    rules: Mapping[str, NumberRule],
    formats: Mapping[tuple[str, ...], Sequence[str]],
    reading: Reading,
    problems: Problems,
    where: Mapping[str, str],
) -> Survey:
    """Goes through columns of numbers and of dates once.

    A comma or a point is a decimal mark where the column's own cells leave no other reading, and else what it is in the
    table's other columns; where neither decides, and a reading with thousands is possible, it is refused.

    Args:
        table: The table.
        rules: What the schema says of each column of numbers.
        formats: What the schema says of each column of dates, or pair of columns of dates and times of day.
        reading: What the schema says of all.
        problems: Told what was found.
        where: The place in the schema that could decide, by column.

    Raises:
        DataError: If thousands and decimals, or day and month, cannot be told apart; only if `problems` is strict.
    """
    numeric = [column for column in rules if column in table.names]
    dated = [names for names in formats if set(names) <= set(table.names) and not formats[names]]
    marks = {column: Marks() for column in numeric}
    shapes = {names: DateShapes() for names in dated}
    extent: dict[str, tuple[float, float]] = {}
    given = {column: rules[column].over(reading.numbers) for column in numeric}
    if numeric or dated:
        wanted = dict.fromkeys([*numeric, *(name for names in dated for name in names)])
        for chunk in table.chunks(list(wanted), _CHUNK):
            for column in numeric:
                _look(column, chunk[column], marks[column], extent, reading, given[column], problems)
            for names in dated:
                shapes[names].add(moment_texts(chunk, names, reading.missing)[0])
    decided = {c: _decided(c, given[c], marks, table, problems, where[c]) for c in numeric}
    found = {names: tuple(formats[names]) for names in formats}
    for names in dated:
        found[names] = _formats(names, shapes[names], table, problems, where[names[0]])
    return Survey({**rules, **decided}, found, extent)


def _look(
    column: str, cells: Any, marks: Marks, extent: dict[str, tuple[float, float]], reading: Reading, rule: NumberRule,
    problems: Problems,
) -> None:  # fmt: skip
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute
    if pa.types.is_string(cells.type):
        marks.add(cells)
        coded = pc.match_substring_regex(cells, "^0+[1-9][0-9]*$")
        if pc.any(coded).as_py():
            cell = cells.filter(pc.fill_null(coded, False))[0].as_py()
            problems.say(f"column {column!r}: zeros before numbers ({cell!r}); if it is a code, write `type: category`")
        if not pc.any(pc.match_substring_regex(cells, "[0-9][0-9.,]{7}")).as_py():
            return
        values = numbers(cells, reading.missing, rule).values
    else:
        values = cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    values = values[np.isfinite(values)]
    if len(values) and (column in extent or np.abs(values).max() > _WHOLE):
        low, high = extent.get(column, (np.inf, -np.inf))
        extent[column] = (min(low, float(values.min())), max(high, float(values.max())))


def _decided(
    column: str, rule: NumberRule, marks: Mapping[str, Marks], table: Table, problems: Problems, where: str
) -> NumberRule:
    if rule.decimal:
        return rule
    own = marks[column]
    commas, points = own.commas, own.points
    if not commas and not points:  # the table's other columns decide
        commas = sum(m.commas for m in marks.values())
        points = sum(m.points for m in marks.values())
    either = {mark: own.ambiguous(mark) for mark in (",", ".")}
    undecided = (commas > 0) == (points > 0)
    if (undecided and either[","]) or (commas and points and either["."]) or (
        undecided and not points and either["."] and table.delimiter == ";"
    ):  # fmt: skip
        mark = "," if either[","] else "."
        cell = own.shown("1,234" if mark == "," else "1.234")
        other = "." if mark == "," else ","
        if problems.strict:
            raise DataError(
                f"column {column!r} of {table.path.name}: {cell!r} can be read in two ways, in {either[mark]:,} cells",
                expected="numbers whose marks of thousands and decimals can be told apart",
                hint=f"Write `thousands: {mark!r}` under {where} if the mark groups thousands, or `decimal: {mark!r}` "
                f"if decimals come after it (`decimal: {other!r}` says the same as thousands).",
            )
    if commas and not points:
        example = own.shown(",")
        if example:
            problems.say(f"{table.path.name}: {column!r} is written with a decimal comma ({example!r})")
        elif own.ambiguous("."):
            problems.say(
                f"{table.path.name}: points group thousands in {column!r} ({own.shown('1.234')!r}), as other columns "
                "have decimal commas"
            )
        return replace(rule, decimal=",")
    if either[","] and points:
        problems.say(f"{table.path.name}: commas group thousands in {column!r} ({own.shown('1,234')!r})")
    return replace(rule, decimal=".")


def _formats(
    names: tuple[str, ...], shapes: DateShapes, table: Table, problems: Problems, where: str
) -> tuple[str, ...]:
    (formats, cell), column = shapes.formats(), " and ".join(map(repr, names))
    if cell and problems.strict:
        raise DataError(
            f"column {column} of {table.path.name}: day and month cannot be told apart in {cell!r}, and no cell says",
            expected="dates in one known order",
            hint=f"Write `format: '%d/%m/%Y'` or `format: '%m/%d/%Y'` under {where}, with the hours if there are any.",
        )
    if formats:
        problems.say(f"{table.path.name}: dates of {column} are written as {' and '.join(formats)}")
    return formats
