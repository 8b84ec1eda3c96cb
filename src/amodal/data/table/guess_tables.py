"""Roles of the tables next to a manifest: long tables of events and tables with a row a case, joined by shared ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.table.leaks import reasons
from amodal.data.table.look import Look, look_at
from amodal.data.table.manifest import Table, open_table
from amodal.data.table.schema_lines import column_line, line, modality_name, quoted

__all__ = ["Beside", "second_tables"]

_TIME = re.compile(r"(time|hour|minute|zeit|stunde|datum|date|offset|heure|hora|\bday|\btag)", re.I)
_VALUE = re.compile(r"(value|wert|result|ergebnis|messwert|valeur|valor|reading)", re.I)
_VARIABLE = re.compile(r"(variable|name|item|param|test|label|merkmal|messgr|analyt|code|bezeichnung|measure)", re.I)
_UNITS = re.compile(r"(unit|einheit|uom|unité|unidad)", re.I)
_CLOCK = re.compile(r"[0-2]?[0-9]:[0-5][0-9](?::[0-5][0-9])?(?: ?[AaPp][Mm]| Uhr)?")
_MOST_VARIABLES = 60


@dataclass
class Beside:
    """Additions to a schema from the tables next to a manifest.

    Attributes:
        lines: Modalities, as lines of YAML.
        looks: Their columns that are inputs.
        since: Columns of the manifest that times are counted from.
    """

    lines: list[str] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    since: set[str] = field(default_factory=set)


def second_tables(
    manifest: Table, looks: Mapping[str, Look], row_id: Look | None, group: Look | None, target: Look,
    events: Sequence[str | Path], tables: Sequence[str | Path],
) -> Beside:  # fmt: skip
    """Looks at the tables beside a manifest.

    Args:
        manifest: The table of cases.
        looks: Its columns.
        row_id: Its id.
        group: Its groups.
        target: What is predicted; a column of the same name is no input.
        events: Long tables.
        tables: Tables with a row a case; a long one is taken as events all the same.
    """
    found = Beside()
    for path, is_long in [*((p, True) for p in events), *((p, False) for p in tables)]:
        table = open_table(Path(path))
        columns = {look.name: look for look in look_at(table)}
        name = modality_name(Path(path).name.split(".")[0])
        joined, shared, of = _joined(columns, [k for k in (row_id, group) if k is not None])
        file = _relative(table.path, manifest.path.parent)
        if joined is None:
            known = quoted(row_id.name) if row_id else "the manifest"
            found.lines.append(f"  # left out: {line(file)} (no column shares the ids of {known})")
            continue
        key, column = joined
        note = f"{table.path.name}: {columns[column].rows:,} rows, {shared:,} of {of:,} ids are in {key.name!r}"
        if key is not row_id:
            found.lines.append(f"  # left out: {line(note)}, which is the group: it needs the id of each case")
            continue
        long = _long(columns, column)
        if long is None and is_long:
            found.lines.append(f"  # left out: {line(note)}, but it has no columns of times, variables and values")
        elif long is not None and (is_long or not columns[column].is_distinct):
            _events(found, table, columns, looks, name, file, column, long, note)
        else:
            answers = dict(zip(key.cells, target.cells))
            same = Look(target.name, words=target.words, odd=target.odd, kind=target.kind)
            same.cells = [answers.get(cell) for cell in columns[column].cells]
            _wide(found, columns, name, file, column, note, same)
    return found


def _relative(path: Path, base: Path) -> str:
    try:
        return path.resolve().relative_to(base.resolve()).as_posix()
    except ValueError:
        return str(path)


def _joined(columns: Mapping[str, Look], keys: Sequence[Look]) -> tuple[tuple[Look, str] | None, int, int]:
    """The column whose values are ids of the manifest, how many of its values are, and of how many."""
    best: tuple[tuple[Look, str] | None, int, int] = (None, 0, 1)
    for key in keys:
        known = {cell for cell in key.cells if cell is not None}
        for look in columns.values():
            words = {cell for cell in look.cells if cell is not None}
            shared = len(words & known)
            same_name = look.name == key.name
            if shared >= max(1, 0.3 * len(words)) and (shared / len(words), same_name) > (best[1] / best[2], False):
                best = ((key, look.name), shared, len(words))
        if best[0] is not None:
            break
    return best


def _long(columns: Mapping[str, Look], id_column: str) -> tuple[Look, Look, Look, Look | None] | None:
    """The columns of time, variable, value and units of a long table; None if it is none."""
    rest = [look for look in columns.values() if look.name != id_column]

    def pick(names: re.Pattern[str], fits: Any) -> Look | None:
        good = [look for look in rest if fits(look)]
        good.sort(key=lambda look: not names.search(look.name))
        return good[0] if good else None

    units = next((k for k in rest if _UNITS.search(k.name) and k.kind in ("category", "constant", "words")), None)
    rest = [k for k in rest if k is not units]
    named = [k for k in rest if _TIME.search(k.name) and k.kind in ("date", "number")]
    time = named[0] if named else pick(_TIME, lambda k: k.kind == "date")
    rest = [k for k in rest if k is not time]
    value = pick(_VALUE, lambda k: k.numeric >= 0.5 * max(1, k.filled) and len(k.words) > 1 and k.kind != "code")
    rest = [k for k in rest if k is not value]
    variable = pick(_VARIABLE, lambda k: k.kind in ("category", "words", "code") and len(k.words) <= 2000)
    if time is None or value is None or variable is None:
        return None
    return time, variable, value, units


def _events(
    found: Beside, table: Table, columns: Mapping[str, Look], looks: Mapping[str, Look], name: str, file: str,
    column: str, long: tuple[Look, Look, Look, Look | None], note: str,
) -> None:  # fmt: skip
    time, variable, value, units = long
    since = _origin(time, columns[column], looks) if time.kind == "date" else None
    lines = [
        f"  {name}:                # {line(note)}", "    kind: events", f"    file: {quoted(file)}",
        f"    id: {quoted(column)}", f"    time: {_shown(_moment(time, columns))}",
        f"    variable: {quoted(variable.name)}", f"    value: {quoted(value.name)}",
    ]  # fmt: skip
    lines += [f"    units_column: {quoted(units.name)}"] if units else []
    if since is not None:
        origin = _moment(since, looks)
        lines.append(f"    since: {_shown(origin)}           # the manifest's date that times are counted from")
        found.since |= set(origin)
    elif time.kind == "date":
        lines.append("    # since: COLUMN         # times are dates: which date of the manifest are they counted from?")
    else:
        lines.append(f"    time_units: hours       # of {time.low:g} … {time.high:g}: check")
    lines += [
        "    start: 0",
        "    stop: 48                # check: nothing may lie after the moment of prediction",
        "    step: 1",
    ]
    lines += ["    variables:", *_variables(variable, value, units)]
    found.lines += lines
    found.looks.append(value)


def _moment(date: Look, columns: Mapping[str, Look]) -> list[str]:
    """A column of dates, and that of its times of day if it has none itself and one is near."""
    words = [word for word in date.words if word not in date.odd]
    if date.kind != "date" or any(":" in word for word in words):
        return [date.name]
    names = list(columns)
    near = sorted(columns.values(), key=lambda look: abs(names.index(look.name) - names.index(date.name)))
    for look in near:
        if look.words and all(_CLOCK.fullmatch(word) for word in look.words if word not in look.odd):
            return [date.name, look.name]
    return [date.name]


def _shown(names: Sequence[str]) -> str:
    return quoted(names[0]) if len(names) == 1 else f"[{', '.join(map(quoted, names))}]"


def _variables(variable: Look, value: Look, units: Look | None) -> list[str]:
    """The variables of a long table with counts, units and ranges."""
    import pandas as pd

    frame: Any = pd.DataFrame(
        {"variable": variable.cells, "value": value.numbers(), "units": units.cells if units else ""}
    )
    lines = []
    counts = frame["variable"].value_counts()
    for name, count in counts.head(_MOST_VARIABLES).items():
        of_it = frame[frame["variable"] == name]
        values = of_it["value"].dropna()
        ways = of_it["units"].dropna().value_counts() if units else pd.Series(dtype=int)
        first = str(ways.index[0]) if len(ways) else ""
        shown = f"{values.quantile(0.01):g} … {values.quantile(0.99):g} (1 % … 99 %)" if len(values) else "no number"
        other = ", ".join(f"{word} {n:,}" for word, n in list(ways.items())[1:4])
        other = (
            f"; ALSO IN {line(other)}: say `other_units: {{{quoted(str(ways.index[1]))}: {{scale: …}}}}`"
            if other
            else ""
        )
        keys = f"units: {quoted(first)}" if first else ""
        lines.append(f"      {quoted(str(name))}: {{{keys}}}   # {count:,} rows, {line(shown)}{other}")
    if len(counts) > _MOST_VARIABLES:
        lines.append(f"      # … {len(counts) - _MOST_VARIABLES} more, {int(counts[_MOST_VARIABLES:].sum()):,} rows")
    return lines


def _origin(time: Look, ids: Look, looks: Mapping[str, Look]) -> Look | None:
    """The date of the manifest that a table's times follow most closely without going before it."""
    import pandas as pd

    dates = [look for look in looks.values() if look.kind == "date"]
    if len(dates) < 2:
        return dates[0] if dates else None
    at = _days(time)
    best, least = None, np.inf
    for look in dates:
        for key in looks.values():
            if not key.is_distinct:
                continue
            days = pd.Series(_days(look), index=key.cells)
            after = at - days.reindex(ids.cells).to_numpy()
            after = after[~np.isnan(after)]
            if len(after) and (after >= -1).mean() > 0.8 and np.median(after) < least:
                best, least = look, float(np.median(after))
    return best


def _days(look: Look) -> np.ndarray:
    import pandas as pd

    day_first = any(re.match(r"\d{1,2}\.", word) for word in list(look.words)[:50])
    moments = pd.to_datetime(pd.Series(look.cells), errors="coerce", dayfirst=day_first, format="mixed", utc=True)
    return ((moments - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)).to_numpy(dtype=float)


def _wide(
    found: Beside, columns: Mapping[str, Look], name: str, file: str, column: str, note: str, target: Look
) -> None:
    if not columns[column].is_distinct:
        found.lines.append(
            f"  # left out: {line(note)}, several rows an id: bring it into rows of time, variable, value"
        )
        return
    left = reasons(columns, target)
    left.pop(column, None)
    left |= {target.name: "it is the target"} if target.name in columns else {}
    inputs = [
        k for k in columns.values() if k.name not in {*left, column} and k.kind in ("number", "category", "codes")
    ]
    if inputs:
        found.lines += [
            f"  {name}:                # {line(note)}", "    kind: tabular", f"    file: {quoted(file)}",
            f"    id: {quoted(column)}", "    columns:", *(column_line(look) for look in inputs),
        ]  # fmt: skip
    found.lines += [f"  # left out: {line(name)} of {line(file)} ({why})" for name, why in left.items()]
    found.looks += inputs
