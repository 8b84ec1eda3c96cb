"""Variables of event tables: their units and ranges, and what several values in a step become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from amodal.data.table.cells import texts, words
from amodal.data.table.manifest import BRACKETS, Table
from amodal.data.table.numbers import read_other_units, units_key, write_other_units
from amodal.data.table.section import Section
from amodal.data.table.source import Place
from amodal.data.table.words import alike, spelled
from amodal.errors import DataError, SchemaError

__all__ = ["AGGREGATES", "RECORD", "Variable", "aggregate", "met_variables", "with_units"]

_MOST = 500

AGGREGATES = ("mean", "sum", "min", "max", "first", "last", "count")
"""What becomes of several values of a variable in one step."""

RECORD = np.dtype([("row", "i8"), ("step", "i4"), ("variable", "i4"), ("time", "f8"), ("value", "f8")])
"""One event of a case: the case's position, step and variable, its time and value."""


@dataclass(frozen=True)
class Variable:
    """One variable of an event table.

    Attributes:
        name: As it stands in the table.
        units: Its units.
        min: Smallest possible value; smaller ones are left out.
        max: Largest possible value.
        aggregate: What becomes of several values in a step: one of `AGGREGATES`.
        other_units: Other units that stand in the table, each with factor and addend: {"degF": (5/9, -160/9)}.
        may_be_empty: Whether it is no error if there is no value of it.
    """

    name: str
    units: str = ""
    min: float | None = None
    max: float | None = None
    aggregate: str = "mean"
    other_units: Mapping[str, tuple[float, float]] | None = None
    may_be_empty: bool = False

    @classmethod
    def read(cls, name: str, section: Section) -> Variable:
        """Reads it from a schema."""
        variable = cls(
            name,
            section.text("units", ""),
            section.number("min", None),
            section.number("max", None),
            section.choice("aggregate", AGGREGATES, "mean"),
            read_other_units(section),
            section.flag("may_be_empty", False),
        )
        section.done()
        if variable.min is not None and variable.max is not None and variable.min >= variable.max:
            raise SchemaError(f"{section.where}: min is not below max", got=f"{variable.min:g} … {variable.max:g}")
        return variable

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: what differs from the defaults."""
        plain = Variable("")
        keys = ("units", "min", "max", "aggregate", "may_be_empty")
        found = {key: getattr(self, key) for key in keys if getattr(self, key) != getattr(plain, key)}
        if self.other_units is not None:
            found["other_units"] = write_other_units(self.other_units)
        return found


def met_variables(table: Table, column: str, place: Place, where: str) -> tuple[Variable, ...]:
    """The variables that a long table has, by name.

    Raises:
        SchemaError: If there are none, or more than 500.
    """
    met: set[str] = set()
    for chunk in table.chunks([column], 65536):
        found = words(chunk[column], place.missing, ignore_case=place.reading.ignore_case)
        met |= {word for word in set(found) if word is not None}
        if len(met) > _MOST:
            break
    if not 1 <= len(met) <= _MOST:
        raise SchemaError(
            f"{where}: {table.path.name} has {len(met):,} variables or more in {column!r}",
            expected=f"1 to {_MOST}",
            hint="List the ones that matter under `variables`.",
        )
    seen: dict[str, str] = {}
    for word in sorted(met):
        loose = alike(BRACKETS.sub("", word)) or word
        if seen.setdefault(loose, word) != word:
            place.problems.say(
                f"{table.path.name}: {seen[loose]!r} and {word!r} are taken as two variables; list those that are "
                "meant under `variables`, or write one name for both (`ignore_case: true` joins them if case differs)"
            )
    return tuple(Variable(word) for word in sorted(met))


def with_units(
    variables: tuple[Variable, ...], table: Table, column: str, units_column: str, place: Place, where: str
) -> tuple[Variable, ...]:
    """Variables with the units that stand beside all values of those for which the schema states none.

    Args:
        variables: The variables.
        table: The long table.
        column: Its column of variables.
        units_column: Its column of units.
        place: Where the data lie.
        where: The modality in the schema.

    Raises:
        DataError: If there are several: values in different units must not be averaged.
    """
    said: dict[str, dict[str, str]] = {}
    case = place.reading.ignore_case
    lacking = any(not variable.units for variable in variables)
    for chunk in table.chunks([column, units_column], 65536) if lacking else ():
        names = words(chunk[column], place.missing, ignore_case=case)
        pairs = {pair for pair in zip(names, texts(chunk[units_column], place.missing)) if None not in pair}
        for name, units in sorted(pairs):
            said.setdefault(name, {}).setdefault(units_key(units), units)
    found = []
    for variable in variables:
        met = list(said.get(spelled(variable.name, ignore_case=case), {}).values())
        if not variable.units and len(met) > 1 and place.problems.strict:
            others = ", ".join(f"{units}: {{scale: …, offset: …}}" for units in met[1:])
            raise DataError(
                f"{table.path.name}: {variable.name!r} stands there in {' and '.join(map(repr, met[:5]))}",
                expected="one unit, or how to convert the others",
                hint=f"Write `{variable.name}: {{units: {met[0]}, other_units: {{{others}}}}}` under "
                f"{where}.variables.",
            )
        found.append(replace(variable, units=met[0]) if not variable.units and len(met) == 1 else variable)
    return tuple(found)


def aggregate(records: np.ndarray, start: int, n: int, n_steps: int, variables: tuple[Variable, ...]) -> np.ndarray:
    """Records to a grid, float32 (n, T, D), NaN where nothing was measured."""
    width = len(variables)
    cell = ((records["row"] - start) * n_steps + records["step"]) * width + records["variable"]
    order = np.lexsort((records["time"], cell))
    cell, value = cell[order], records["value"][order]
    grid = np.full(n * n_steps * width, np.nan, np.float32)
    if len(cell):
        cells, first, counts = np.unique(cell, return_index=True, return_counts=True)
        by_kind = {
            "mean": lambda: np.add.reduceat(value, first) / counts,
            "sum": lambda: np.add.reduceat(value, first),
            "min": lambda: np.minimum.reduceat(value, first),
            "max": lambda: np.maximum.reduceat(value, first),
            "first": lambda: value[first],
            "last": lambda: value[first + counts - 1],
            "count": lambda: counts.astype(float),
        }
        for kind in {variable.aggregate for variable in variables}:
            has = np.array([variable.aggregate == kind for variable in variables])[cells % width]
            grid[cells[has]] = by_kind[kind]()[has]
    return grid.reshape(n, n_steps, width)
