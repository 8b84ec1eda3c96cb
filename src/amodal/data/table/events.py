"""Long tables of events (id, time, variable, value) to series on a grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from amodal.data.table.cells import texts, words
from amodal.data.table.event_times import EventTimes, named
from amodal.data.table.join import Joined, second_table
from amodal.data.table.manifest import check_columns
from amodal.data.table.numbers import (
    PLAIN,
    NumberRule,
    between,
    in_units,
    numbers,
)
from amodal.data.table.problems import LIMITS, Problems
from amodal.data.table.reading import tell_numbers
from amodal.data.table.section import Section, nearest
from amodal.data.table.source import Piece, Place, Reader, Rows, Source
from amodal.data.table.survey import survey
from amodal.data.table.variable import RECORD, Variable, aggregate, met_variables, with_units
from amodal.data.table.words import near_pairs, replaced, say_pairs, spelled
from amodal.errors import DataError, SchemaError
from amodal.schema import Modality

__all__ = ["Events"]

_TIME_UNITS = ("seconds", "minutes", "hours", "days")


@dataclass(frozen=True)
class Events(Source):
    """A series from a long table: one row a measurement.

    Step t holds what was measured from `start` + t · `step` on, up to but without the next step's beginning; with
    `observations` instead of `step`, what was measured at the case's t-th time, and that time is kept. Cells without a
    measurement are not measured; a case without any in the window lacks the modality.

    Attributes:
        file: The long table, relative to the data folder.
        id: Its column with ids.
        time: Its column with times: numbers in `time_units`, or dates if `since` is given; a date and its time of day
            may stand in two columns.
        variable: Its column with the variables' names.
        value: Its column with values.
        units_column: Its column with units; "" = none.
        sheet: Its sheet if it is an Excel workbook; "" = the first.
        variables: Variables, in order; none: those met in the data.
        start: Where the window begins.
        stop: Where it ends.
        step: Length of a step; 0 with `observations`.
        observations: Most times of a case, the last ones where it has more; 0: a grid of steps.
        time_units: Units of all times: seconds, minutes, hours or days.
        since: The manifest's column with the date that times are counted from, or those of its date and of its time of
            day; () = times are numbers or durations.
        format: How dates are written beside ISO 8601; (): found in the data.
        since_format: How the dates of `since` are written beside ISO 8601; (): found in the data.
        rule: How values are written.
        values: What words that stand for numbers mean.
        duplicates: What becomes of an event that stands there again with the same case, time, variable and value:
            "drop" (counted, and taken once), "keep" or "error".
        accept: Shares of what may be lost, by the keys of `LIMITS`.
        description: One line for people.
    """

    kind: ClassVar[str] = "events"

    file: str = ""
    id: str = ""
    time: tuple[str, ...] = ()
    variable: str = ""
    value: str = ""
    units_column: str = ""
    sheet: str = ""
    variables: tuple[Variable, ...] = ()
    start: float = 0.0
    stop: float = 48.0
    step: float = 1.0
    observations: int = 0
    time_units: str = "hours"
    since: tuple[str, ...] = ()
    format: tuple[str, ...] = ()
    since_format: tuple[str, ...] = ()
    rule: NumberRule = PLAIN
    values: Mapping[str, str] = field(default_factory=dict)
    duplicates: str = "drop"
    accept: Mapping[str, float] = field(default_factory=dict)
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
            section.text("file"),
            section.text("id"),
            section.moment("time"),
            section.text("variable"),
            section.text("value"),
            units_column=section.text("units_column", ""),
            sheet=section.text("sheet", ""),
            variables=variables,
            start=section.number("start", 0.0),
            stop=section.number("stop"),
            step=section.number("step", 0.0),
            observations=section.integer("observations", 0),
            time_units=section.choice("time_units", _TIME_UNITS, "hours"),
            since=section.moment("since", ()),
            format=section.words("format", ()),
            since_format=section.words("since_format", ()),
            rule=NumberRule.read(section),
            values=section.mapping("values"),
            duplicates=section.choice("duplicates", ("drop", "keep", "error"), "drop"),
            accept=section.shares("accept", LIMITS),
            description=section.text("description", ""),
        )
        section.done()
        if len(source.time) > 1 and not source.since:
            raise SchemaError(
                f"{section.place('time')}: a date and its time of day are counted from another date",
                expected="`since`: the manifest's column with it, or [column of dates, column of times of day]",
            )
        if bool(source.step) == bool(source.observations):
            raise SchemaError(
                f"{section.where} has no steps",
                expected="`step` for a regular grid, or `observations` for the times as they are",
                got=f"step {source.step:g}, observations {source.observations}",
            )
        if not source.stop > source.start or not 0 <= source.step <= source.stop - source.start:
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
        clock = "observations" if self.observations else "step"
        keys = ("file", "id", "variable", "value", "start", "stop", clock, "time_units")
        record |= {key: getattr(self, key) for key in keys}
        record |= {k: getattr(self, k) for k in ("units_column", "sheet", "description") if getattr(self, k)}
        record |= {k: list(getattr(self, k)) for k in ("time", "format", "since", "since_format") if getattr(self, k)}
        record |= self.rule.to_json() | ({"accept": dict(self.accept)} if self.accept else {})
        record |= {"values": dict(self.values)} if self.values else {}
        record |= {"duplicates": self.duplicates} if self.duplicates != "drop" else {}
        return record | {"variables": {v.name: v.to_json() for v in self.variables}}

    @property
    def n_steps(self) -> int:
        """T."""
        return self.observations or int(np.ceil((self.stop - self.start) / self.step - 1e-9))

    def columns(self) -> tuple[str, ...]:
        """The manifest's columns that it reads."""
        return self.since

    def tables(self) -> tuple[str, ...]:
        """The files with rows of all cases that it reads."""
        return (self.file,)

    def surveyed(self, place: Place) -> Events:
        """Itself with the variables met in the data, and how values and times are written."""
        table, where = second_table(place, self.file, self.sheet), f"modalities.{self.name}"
        wanted = [self.id, *self.time, self.variable, self.value, self.units_column]
        check_columns(table, {column: where for column in wanted if column})
        dated = {self.time: self.format} if self.since else {}
        found = survey(
            table, {self.value: self.rule}, dated, place.reading, place.problems, dict.fromkeys(wanted, where)
        )
        learnt = replace(self, rule=found.rules[self.value])
        if self.since:
            origin = survey(
                place.manifest,
                {},
                {self.since: self.since_format},
                place.reading,
                place.problems,
                {self.since[0]: where},
            )
            learnt = replace(
                learnt, format=found.formats[self.time], since_format=origin.formats.get(self.since, self.since_format)
            )
        variables = self.variables or met_variables(table, self.variable, place, where)
        if self.units_column:
            variables = with_units(variables, table, self.variable, self.units_column, place, where)
        return replace(learnt, variables=variables)

    def modality(self) -> Modality:
        """Name, kind and shape."""
        names = tuple(variable.name for variable in self.variables)
        units = tuple(variable.units for variable in self.variables)
        clock = (self.start, self.stop) if self.observations else ()
        return Modality(self.name, "series", (self.n_steps, len(names)), names, units, self.description, clock)

    def taken_for(self) -> str:
        """Description of the modality in one line."""
        shown = ", ".join(f"{v.name}{f' in {v.units}' if v.units else ''} ({v.aggregate})" for v in self.variables[:8])
        more = ", …" if len(self.variables) > 8 else ""
        after = f" after {' '.join(self.since)}" if self.since else ""
        steps = f"up to {self.n_steps} times in" if self.observations else f"{self.n_steps} steps of {self.step:g}"
        return (
            f"series of {steps} {self.time_units} from {self.start:g}"
            f"{after}, of {len(self.variables)} variables: {shown}{more}"
        )

    def unmeasured(self, problems: Problems) -> list[str]:
        """Variables without one value in the window that the schema does not accept."""
        counts = problems.cells
        return [
            v.name for v in self.variables
            if not v.may_be_empty and not counts.get(f"{self.name}.{v.name}", {}).get("measured")
        ]  # fmt: skip

    def reader(self, place: Place) -> Reader:
        """Opens what it reads."""
        return _EventReader(self, place)


class _EventReader(Reader):
    """Sorts the table's rows into one file for each chunk of cases, then aggregates chunk by chunk.

    Every row of the table ends in one place: in the grid, or counted with the reason why it does not.
    """

    def __init__(self, source: Events, place: Place):
        self.source, self.place, self.problems = source, place, place.problems
        self.folder = place.work / f"{source.name}.events"
        self.folder.mkdir(exist_ok=True)
        for stale in self.folder.iterdir():
            stale.unlink()
        self.tally: Counter[str] = Counter()
        self.times = EventTimes(source, place, self.tally)
        wanted = [*source.time, source.variable, source.value]
        columns = [*wanted, *([source.units_column] if source.units_column else [])]
        joined = Joined(place, source.file, source.id, source.name, columns, source.accept, source.sheet)
        self.rows_of = joined.rows_of
        if place.lenient and joined.table is not None:
            check_columns(joined.table, dict.fromkeys(wanted, f"modalities.{source.name}"))
        self.middle = 0.0
        for at, rows in joined.rows():
            self.tally["matched"] += len(at)
            self._sort(at, rows)
        self._check_shares()
        self.times.tell_days()

    def _check_shares(self) -> None:
        source, tally, where = self.source, self.tally, f"modalities.{self.source.name}"
        timed = tally["inside"] + tally["outside"]
        self.problems.check_share(
            "no_origin", f"{source.file}: events of cases without {named(source.since)} to count from",
            tally["no_origin"], tally["matched"], source.accept, where, got="an empty cell",
        )  # fmt: skip
        self.problems.check_share(
            "half_time", f"{source.file}: events with a date without a time of day, or the other way round",
            tally["half"], tally["matched"], source.accept, where, got="one of two cells empty",
        )  # fmt: skip
        self.problems.check_share(
            "outside_window", f"{source.file}: events outside the window", tally["outside"], timed, source.accept,
            where, got=f"times around {self.middle:.3g} {source.time_units}" if tally["outside"] else "",
            hint=f"The window goes from {source.start:g} to {source.stop:g} {source.time_units}.",
        )  # fmt: skip

    def _lose(self, what: str, ids: np.ndarray, got: Any = ()) -> None:
        self.problems.add(f"{self.source.file}: {what}", ids, got, lost=self.rows_of)

    def _sort(self, at: np.ndarray, rows: Rows) -> None:
        source, ignore_case = self.source, self.place.reading.ignore_case
        names = words(rows.columns[source.variable], self.place.missing, ignore_case=ignore_case)
        places = {spelled(v.name, ignore_case=ignore_case): i for i, v in enumerate(source.variables)}
        which = np.array([places.get(name, -1) for name in names], dtype=np.int64)
        self._tell_unknown(names, which, rows, places)
        at, which, rows = self._some(which >= 0, at, which, rows)
        if not len(at):
            return
        times = self.times.read(at, rows)
        at, which, rows, times = self._some(~np.isnan(times), at, which, rows, times)
        values = self._values(which, rows)
        steps = np.floor((times - source.start) / (source.step or 1.0) + 1e-9)
        inside = (times >= source.start) & (times < source.stop)
        there = ~np.isnan(values)
        self._lose("outside the window", rows.ids[~inside & there])
        self.tally["inside"] += int((inside & there).sum())
        self.tally["outside"] += int((~inside & there).sum())
        if (~inside).any():
            self.middle = float(np.median(times[~inside]))
        kept = inside & there
        records = np.empty(int(kept.sum()), RECORD)
        for key, column in {"row": at, "step": steps, "variable": which, "time": times, "value": values}.items():
            records[key] = column[kept]
        parts = records["row"] // self.place.chunk
        for part in np.unique(parts):
            with open(self.folder / str(part), "ab") as file:
                file.write(records[parts == part].tobytes())

    def _tell_unknown(self, names: np.ndarray, which: np.ndarray, rows: Rows, places: Mapping[str, int]) -> None:
        empty = np.array([name is None for name in names], dtype=bool)
        self._lose(f"no variable in {self.source.variable!r}", rows.ids[empty])
        strange = (which < 0) & ~empty
        for name in sorted(set(names[strange].tolist())):
            near = say_pairs(near_pairs([name], places)) or nearest(name, places)
            what = f"variable {name!r} is not in the schema" + (f" ({near})" if near else "")
            self._lose(what, rows.ids[names == name])

    @staticmethod
    def _some(which: np.ndarray, at: np.ndarray, *more: Any) -> tuple[Any, ...]:
        """Some of the rows of arrays and of `Rows`."""
        if which.all():
            return (at, *more)
        chosen = np.flatnonzero(which)

        def cut(item: Any) -> Any:
            if isinstance(item, Rows):
                return Rows(0, item.ids[which], {k: v.take(chosen) for k, v in item.columns.items()})
            return item[which]

        return (cut(at), *(cut(item) for item in more))

    def _values(self, which: np.ndarray, rows: Rows) -> np.ndarray:
        import pyarrow as pa

        source, missing = self.source, self.place.missing
        cells = rows.columns[source.value]
        if source.values:
            cells = pa.array(replaced(texts(cells, missing), source.values), pa.string())
        found = numbers(cells, missing, source.rule.over(self.place.reading.numbers))
        self._lose(f"no value in {source.value!r}", rows.ids[found.empty])
        what = f"column {source.value!r} of {source.file}"
        tell_numbers(self.problems, found, cells, rows.ids, what, self.rows_of)
        values = found.values
        if found.units is not None:
            values = self._in_units(values, found.units, which, rows)
        if source.units_column in rows.columns:
            units = texts(rows.columns[source.units_column], missing)
            if found.units is not None:  # what stands in the cell itself was converted already
                units[[unit is not None for unit in found.units]] = None
            values = self._in_units(values, units, which, rows)
        return self._in_range(values, which, rows)

    def _in_units(self, values: np.ndarray, said: np.ndarray, which: np.ndarray, rows: Rows) -> np.ndarray:
        for i, variable in enumerate(self.source.variables):
            if not variable.units:
                continue
            of_it = np.flatnonzero(which == i)

            def refuse(word: str, at: np.ndarray, of_it: np.ndarray = of_it, variable: Variable = variable) -> None:
                at = at & ~np.isnan(values[of_it])
                self.problems.grave(
                    f"{self.source.file}: {variable.name!r} stands there in {word}, not in {variable.units}",
                    rows.ids[of_it[at]].tolist(),
                    expected=variable.units,
                    hint=f"Say how to convert: `other_units: {{{word}: {{scale: …, offset: …}}}}`.",
                    lost=self.rows_of,
                )

            values[of_it] = in_units(values[of_it], said[of_it], variable.units, variable.other_units, refuse)
        return values

    def _in_range(self, values: np.ndarray, which: np.ndarray, rows: Rows) -> np.ndarray:
        source, limit = self.source, self.source.accept.get("out_of_range", LIMITS["out_of_range"])
        for i, variable in enumerate(source.variables):
            if variable.min is None and variable.max is None:
                continue
            low = -np.inf if variable.min is None else variable.min
            high = np.inf if variable.max is None else variable.max
            out = (which == i) & ((values < low) | (values > high))
            if not out.any():
                continue
            measured = int(((which == i) & ~np.isnan(values)).sum())
            if self.problems.strict and measured >= 10 and out.sum() > limit * measured:
                raise DataError(
                    f"{source.file}: {variable.name!r} is out of range in {out.sum() / measured:.0%} of {measured}",
                    expected=f"{between(low, high)} {variable.units}".strip(),
                    got=f"a median of {np.median(values[(which == i) & ~np.isnan(values)]):g}",
                    hint="Are they in other units? Name the units' column by `units_column`, or correct min and max.",
                )
            self._lose(f"{variable.name!r} out of range {between(low, high)}, left out", rows.ids[out], values[out])
            values = np.where(out, np.nan, values)
        return values

    def read(self, rows: Rows) -> Piece:
        path: Path = self.folder / str(rows.start // self.place.chunk)
        records = np.fromfile(path, RECORD) if path.is_file() else np.zeros(0, RECORD)
        records, times = self._once(records, rows), None
        if self.source.observations:
            records, times = self._by_time(records, rows)
        counts = np.bincount(records["variable"], minlength=len(self.source.variables))
        for variable, count in zip(self.source.variables, counts):
            self.problems.enter(f"{self.source.name}.{variable.name}", int(count), measured=int(count))
        self.problems.enter(self.rows_of, 0, measured=len(records))
        values = aggregate(records, rows.start, len(rows.ids), self.source.n_steps, self.source.variables)
        return Piece(values, np.asarray(~np.isnan(values).all((1, 2))), times)

    def _by_time(self, records: np.ndarray, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Events whose step is the rank of their time in its case, and the times (n, T), NaN beyond the end."""
        most = self.source.observations
        moments, which = np.unique(records[["row", "time"]], return_inverse=True)  # by row, then by time
        at = moments["row"].astype(np.int64) - rows.start
        ends = np.searchsorted(at, np.arange(len(rows.ids)), side="right")
        rank = np.arange(len(at)) - ends[at] + np.minimum(most, np.bincount(at, minlength=len(rows.ids)))[at]
        kept = rank[which] >= 0
        self._lose(f"before the last {most} times (`observations`)", rows.ids[records["row"][~kept] - rows.start])
        times = np.full((len(rows.ids), most), np.nan, np.float32)
        times[at[rank >= 0], rank[rank >= 0]] = moments["time"][rank >= 0]
        records = records[kept].copy()
        records["step"] = rank[which][kept]
        return records, times

    def _once(self, records: np.ndarray, rows: Rows) -> np.ndarray:
        """Events without those that stand there again, unless the schema keeps them."""
        if self.source.duplicates == "keep" or not len(records):
            return records
        order = np.lexsort((records["value"], records["time"], records["variable"], records["row"]))
        ordered = records[order]
        same = np.ones(len(records), bool)
        same[0] = False
        for key in ("row", "time", "variable", "value"):
            same[1:] &= ordered[key][1:] == ordered[key][:-1]
        if not same.any():
            return records
        ids = rows.ids[ordered["row"][same] - rows.start]
        names = [self.source.variables[i].name for i in ordered["variable"][same]]
        if self.source.duplicates == "error" and self.problems.strict:
            raise DataError(
                f"{self.source.file}: the same event stands there again, {int(same.sum()):,} times: "
                f"{names[0]!r} of {ids[0]}",
                expected="every event once, as the schema says `duplicates: error`",
                hint="Write `duplicates: drop` to take it once, or `keep` if they are several events.",
            )
        self._lose("the same event again, left out (`duplicates: keep` takes it as another)", ids, names)
        kept = np.ones(len(records), bool)
        kept[order[same]] = False
        return records[kept]
