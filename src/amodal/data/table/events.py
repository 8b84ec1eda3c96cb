"""Long tables of events (id, time, variable, value) to series on a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from amodal.data.table.cells import date_formats, dates, numbers, texts
from amodal.data.table.files import within
from amodal.data.table.join import Joined
from amodal.data.table.manifest import check_columns, open_table
from amodal.data.table.section import Section, nearest
from amodal.data.table.source import Piece, Place, Reader, Rows, Source
from amodal.errors import DataError, SchemaError
from amodal.schema import Modality

__all__ = ["AGGREGATES", "Events", "Variable"]

AGGREGATES = ("mean", "sum", "min", "max", "first", "last", "count")
"""What becomes of several values of a variable in one step."""

_UNITS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0}
_MOST_VARIABLES = 500
_RECORD = np.dtype([("row", "i8"), ("step", "i4"), ("variable", "i4"), ("time", "f8"), ("value", "f8")])


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
    """

    name: str
    units: str = ""
    min: float | None = None
    max: float | None = None
    aggregate: str = "mean"
    other_units: Mapping[str, tuple[float, float]] | None = None

    @classmethod
    def read(cls, name: str, section: Section) -> Variable:
        """Reads it from a schema."""
        others: dict[str, tuple[float, float]] | None = None
        if "other_units" in section:
            others = {}
            for units, inner in section.sections("other_units").items():
                others[units] = (inner.number("scale", 1.0), inner.number("offset", 0.0))
                inner.done()
        variable = cls(
            name,
            section.text("units", ""),
            section.number("min", None),
            section.number("max", None),
            section.choice("aggregate", AGGREGATES, "mean"),
            others,
        )
        section.done()
        if variable.min is not None and variable.max is not None and variable.min >= variable.max:
            raise SchemaError(f"{section.where}: min is not below max", got=f"{variable.min:g} … {variable.max:g}")
        return variable

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: what differs from the defaults."""
        plain = Variable("")
        keys = ("units", "min", "max", "aggregate")
        found = {key: getattr(self, key) for key in keys if getattr(self, key) != getattr(plain, key)}
        if self.other_units is not None:
            found["other_units"] = {u: {"scale": a, "offset": b} for u, (a, b) in self.other_units.items()}
        return found


@dataclass(frozen=True)
class Events(Source):
    """A series from a long table: one row a measurement.

    Step t holds what was measured from `start` + t · `step` on, up to but without the next step's beginning. Cells
    without a measurement are not measured; a case without any in the window lacks the modality.

    Attributes:
        file: The long table, relative to the data folder.
        id: Its column with ids.
        time: Its column with times: numbers in `time_units`, or dates if `since` is given.
        variable: Its column with the variables' names.
        value: Its column with values.
        units_column: Its column with units; "" = none.
        variables: Variables, in order; none: those met in the data.
        start: Where the window begins.
        stop: Where it ends.
        step: Length of a step.
        time_units: Units of all times: seconds, minutes, hours or days.
        since: The manifest's column with the date that times are counted from; "" = times are numbers.
        format: How dates are written; None: ISO 8601.
        description: One line for people.
    """

    kind: ClassVar[str] = "events"

    file: str = ""
    id: str = ""
    time: str = ""
    variable: str = ""
    value: str = ""
    units_column: str = ""
    variables: tuple[Variable, ...] = ()
    start: float = 0.0
    stop: float = 48.0
    step: float = 1.0
    time_units: str = "hours"
    since: str = ""
    format: str | None = None
    description: str = ""

    @classmethod
    def read(cls, name: str, section: Section) -> Events:
        """Reads it from a schema; see `Source.read`."""
        variables: tuple[Variable, ...] = ()
        if isinstance(section.raw("variables"), list):
            variables = tuple(Variable(word) for word in section.texts("variables"))
        elif "variables" in section:
            variables = tuple(Variable.read(key, inner) for key, inner in section.sections("variables").items())
        source = cls(
            name,
            *(section.text(key) for key in ("file", "id", "time", "variable", "value")),
            units_column=section.text("units_column", ""),
            variables=variables,
            start=section.number("start", 0.0),
            stop=section.number("stop"),
            step=section.number("step"),
            time_units=section.choice("time_units", _UNITS, "hours"),
            since=section.text("since", ""),
            format=section.text("format", None),
            description=section.text("description", ""),
        )
        section.done()
        if not source.stop > source.start or not 0 < source.step <= source.stop - source.start:
            raise SchemaError(
                f"{section.where} has no window",
                expected="start < stop, and a step no longer than the window",
                got=f"start {source.start:g}, stop {source.stop:g}, step {source.step:g}",
            )
        if source.n_steps > 100_000:
            raise SchemaError(f"{section.where} has too many steps", expected="100,000 or fewer", got=source.n_steps)
        return source

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `read` takes."""
        record: dict[str, Any] = {"kind": self.kind}
        keys = ("file", "id", "time", "variable", "value", "start", "stop", "step", "time_units")
        record |= {key: getattr(self, key) for key in keys}
        record |= {k: getattr(self, k) for k in ("units_column", "since", "format", "description") if getattr(self, k)}
        return record | {"variables": {v.name: v.to_json() for v in self.variables}}

    @property
    def n_steps(self) -> int:
        """T."""
        return int(np.ceil((self.stop - self.start) / self.step - 1e-9))

    def columns(self) -> tuple[str, ...]:
        """The manifest's columns that it reads."""
        return (self.since,) if self.since else ()

    def tables(self) -> tuple[str, ...]:
        """The files with rows of all cases that it reads."""
        return (self.file,)

    def surveyed(self, place: Place) -> Events:
        """Itself with the variables met in the data."""
        if self.variables:
            return self
        table = open_table(within(place.root, "", self.file))
        check_columns(table, {self.variable: f"modalities.{self.name}.variable"})
        met: set[str] = set()
        for chunk in table.chunks([self.variable], 65536):
            met |= {word for word in set(texts(chunk[self.variable], place.missing)) if word is not None}
            if len(met) > _MOST_VARIABLES:
                break
        if not 1 <= len(met) <= _MOST_VARIABLES:
            raise SchemaError(
                f"modalities.{self.name}: {self.file} has {len(met):,} variables or more in {self.variable!r}",
                expected=f"1 to {_MOST_VARIABLES}",
                hint="List the ones that matter under `variables`.",
            )
        return replace(self, variables=tuple(Variable(word) for word in sorted(met)))

    def modality(self) -> Modality:
        """Name, kind and shape."""
        names = tuple(variable.name for variable in self.variables)
        units = tuple(variable.units for variable in self.variables)
        return Modality(self.name, "series", (self.n_steps, len(names)), names, units, self.description)

    def reader(self, place: Place) -> Reader:
        """Opens what it reads."""
        return _EventReader(self, place)


class _EventReader(Reader):
    """Sorts the table's rows into one file for each chunk of cases, then aggregates chunk by chunk."""

    def __init__(self, source: Events, place: Place):
        self.source, self.place = source, place
        self.folder = place.work / f"{source.name}.events"
        self.folder.mkdir(exist_ok=True)
        for stale in self.folder.iterdir():
            stale.unlink()
        self.origin = self._origins() if source.since else None
        wanted = [source.time, source.variable, source.value]
        joined = Joined(
            place,
            source.file,
            source.id,
            f"modalities.{source.name}",
            [*wanted, *([source.units_column] if source.units_column else [])],
        )
        if place.lenient and joined.table is not None:
            check_columns(joined.table, dict.fromkeys(wanted, f"modalities.{source.name}"))
        for at, rows in joined.rows():
            self._sort(at, rows)

    def _origins(self) -> np.ndarray:
        """The date from which each case's times are counted, in seconds, float64 (N,)."""
        since, found = self.source.since, []
        if since not in self.place.manifest.names:
            return np.full(len(self.place.ids), np.nan)
        for chunk in self.place.manifest.chunks([since], 65536):
            found.append(self._dates(since, texts(chunk[since], self.place.missing), None)[0])
        return np.concatenate(found)

    def _dates(self, column: str, words: np.ndarray, ids: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        seconds, bad = dates(words, self.source.format)
        if bad.any():
            forms = date_formats(words)
            rows = np.flatnonzero(bad)
            self.place.problems.grave(
                f"column {column!r}: "
                + (f"dates in {len(forms)} formats, {', '.join(forms)}" if len(forms) > 1 else "not a date"),
                (rows.astype(str) if ids is None else ids[bad]).tolist(),
                words[bad].tolist(),
                expected=f"dates like {self.source.format or '2026-01-31 08:30'}",
                hint="Write all in one format, and name it by `format`; day and month cannot be guessed.",
            )
        return seconds, bad

    def _sort(self, at: np.ndarray, rows: Rows) -> None:
        source, missing = self.source, self.place.missing
        names = texts(rows.columns[source.variable], missing)
        places = {variable.name: i for i, variable in enumerate(source.variables)}
        which = np.array([places.get(name, -1) for name in names], dtype=np.int64)
        known = which >= 0
        for name in sorted({str(word) for word in names[~known]}):
            near = nearest(name, places)
            what = f"{source.file}: variable {name!r} is not in the schema" + (f" ({near})" if near else "")
            self.place.problems.add(what, rows.ids[[str(word) == name for word in names]])
        at, which = at[known], which[known]
        rows = Rows(0, rows.ids[known], {k: v.take(np.flatnonzero(known)) for k, v in rows.columns.items()})
        if not len(at):
            return
        times = self._times(at, rows)
        values, bad = numbers(rows.columns[source.value], missing)
        if bad.any():
            cells = rows.columns[source.value].take(np.flatnonzero(bad)).to_pylist()
            self.place.problems.grave(
                f"column {source.value!r} of {source.file}: not a number",
                rows.ids[bad].tolist(),
                cells,
                expected="a number",
                hint="Correct it, or list words for an empty cell under `missing`.",
            )
        values = self._in_units(values, which, rows)
        steps = np.floor((times - source.start) / source.step + 1e-9)
        inside = (times >= source.start) & (times < source.stop)
        self.place.problems.add(f"{source.file}: outside the window", rows.ids[~inside & ~np.isnan(times)])
        kept = inside & ~np.isnan(values)
        records = np.empty(int(kept.sum()), _RECORD)
        for key, column in {"row": at, "step": steps, "variable": which, "time": times, "value": values}.items():
            records[key] = column[kept]
        for part in np.unique(records["row"] // self.place.chunk):
            with open(self.folder / str(part), "ab") as file:
                file.write(records[records["row"] // self.place.chunk == part].tobytes())

    def _times(self, at: np.ndarray, rows: Rows) -> np.ndarray:
        source = self.source
        if self.origin is None:
            times, bad = numbers(rows.columns[source.time], self.place.missing)
            if bad.any():
                self.place.problems.grave(
                    f"column {source.time!r} of {source.file}: not a number",
                    rows.ids[bad].tolist(),
                    rows.columns[source.time].take(np.flatnonzero(bad)).to_pylist(),
                    expected=f"{source.time_units} as numbers",
                    hint="If they are dates, name the manifest's column with the date to count from by `since`.",
                )
            return times
        words = texts(rows.columns[source.time], self.place.missing)
        return (self._dates(source.time, words, rows.ids)[0] - self.origin[at]) / _UNITS[source.time_units]

    def _in_units(self, values: np.ndarray, which: np.ndarray, rows: Rows) -> np.ndarray:
        source = self.source
        if source.units_column in rows.columns:
            units = texts(rows.columns[source.units_column], self.place.missing)
            for i, variable in enumerate(source.variables):
                for said in sorted({word for word in units[which == i] if word is not None}):
                    rows_ = (which == i) & (units == said)
                    values = self._converted(values, variable, said, rows_, rows)
        for i, variable in enumerate(source.variables):
            low = -np.inf if variable.min is None else variable.min
            high = np.inf if variable.max is None else variable.max
            out = (which == i) & ((values < low) | (values > high))
            if not out.any():
                continue
            measured = int(((which == i) & ~np.isnan(values)).sum())
            if self.place.problems.strict and measured >= 10 and out.sum() > 0.5 * measured:
                raise DataError(
                    f"{source.file}: {variable.name!r} is out of range in {out.sum() / measured:.0%} of {measured}",
                    expected=f"{low:g} … {high:g} {variable.units}".strip(),
                    got=f"a median of {np.median(values[which == i]):g}",
                    hint="Are they in other units? Name the units' column by `units_column`, or correct min and max.",
                )
            what = f"{source.file}: {variable.name!r} out of range {low:g} … {high:g}, left out"
            self.place.problems.add(what, rows.ids[out], values[out])
            values = np.where(out, np.nan, values)
        return values

    def _converted(self, values: np.ndarray, variable: Variable, said: str, at: np.ndarray, rows: Rows) -> np.ndarray:
        if not variable.units or said == variable.units:
            return values
        if said not in (variable.other_units or {}):
            self.place.problems.grave(
                f"{self.source.file}: {variable.name!r} stands there in {said}, not in {variable.units}",
                rows.ids[at].tolist(),
                expected=variable.units,
                hint=f"Say how to convert: `other_units: {{{said}: {{scale: …, offset: …}}}}`.",
            )
            return np.where(at, np.nan, values)  # at prediction: not measured
        scale, offset = (variable.other_units or {})[said]
        return np.where(at, values * scale + offset, values)

    def read(self, rows: Rows) -> Piece:
        path: Path = self.folder / str(rows.start // self.place.chunk)
        records = np.fromfile(path, _RECORD) if path.is_file() else np.zeros(0, _RECORD)
        values = _aggregate(records, rows.start, len(rows.ids), self.source)
        return Piece(values, np.asarray(~np.isnan(values).all((1, 2))))


def _aggregate(records: np.ndarray, start: int, n: int, source: Events) -> np.ndarray:
    """Records to a grid, float32 (n, T, D), NaN where nothing was measured."""
    width = len(source.variables)
    cell = ((records["row"] - start) * source.n_steps + records["step"]) * width + records["variable"]
    order = np.lexsort((records["time"], cell))
    cell, value = cell[order], records["value"][order]
    grid = np.full(n * source.n_steps * width, np.nan, np.float32)
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
        for kind in {variable.aggregate for variable in source.variables}:
            has = np.array([variable.aggregate == kind for variable in source.variables])[cells % width]
            grid[cells[has]] = by_kind[kind]()[has]
    return grid.reshape(n, source.n_steps, width)
