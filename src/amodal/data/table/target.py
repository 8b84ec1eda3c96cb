"""The target's columns to classes, labels or values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from amodal.data.table.cells import Reading, texts, words
from amodal.data.table.manifest import Table
from amodal.data.table.numbers import PLAIN, NumberRule, between, numbers
from amodal.data.table.problems import Problems
from amodal.data.table.reading import like_month, tell_numbers
from amodal.data.table.section import Section, nearest
from amodal.data.table.several import parted
from amodal.data.table.survey import survey
from amodal.data.table.words import NO, YES, near_pairs, say_pairs, spelled
from amodal.errors import DataError, SchemaError
from amodal.kinds import TASK_KINDS
from amodal.schema import Task

__all__ = ["LabelColumn", "TaskColumns"]

_SHOWN = 5
_LEAST = 10


@dataclass(frozen=True)
class LabelColumn:
    """The column of one label, and what its words mean.

    Attributes:
        column: The column.
        yes: Words for yes; (): the common ones.
        no: Words for no; (): the common ones.
        unknown: Words for not known, beside those of the task.
        empty: What an empty cell means: "unknown", "no", or "" as the task says.
    """

    column: str
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    empty: str = ""

    @classmethod
    def read(cls, section: Section) -> LabelColumn:
        """Reads it from a schema."""
        label = cls(
            section.text("column"),
            section.words("yes", ()),
            section.words("no", ()),
            section.words("unknown", ()),
            section.choice("empty", ("unknown", "no"), ""),
        )
        section.done()
        places = [spelled(word) for word in (*label.yes, *label.no, *label.unknown)]
        twice = sorted({word for word in places if places.count(word) > 1})
        if twice:
            raise SchemaError(f"{section.where}: {twice[0]!r} means two things")
        return label

    def to_json(self) -> str | dict[str, Any]:
        """As plain JSON values that `read` takes, or the column alone."""
        found: dict[str, Any] = {k: list(getattr(self, k)) for k in ("yes", "no", "unknown") if getattr(self, k)}
        found |= {"empty": self.empty} if self.empty else {}
        return {"column": self.column, **found} if found else self.column


@dataclass(frozen=True)
class TaskColumns:
    """The target and the columns that hold it.

    Attributes:
        task: Kind, name, classes, units, bins.
        column: The column; "" if there are several.
        words: What each class is in the column, by class.
        columns: For several labels, or for classes with a column each, the column of each.
        separator: For several labels in one column, what is between them.
        unknown: Words of the target that mean it is not known, beside the schema's `missing`.
        none: For several labels, words that mean none of them.
        empty: For several labels, what an empty cell means: "unknown" or "no".
        exclusive: For several labels, whether exactly one yes in every row is refused, as classes would be meant.
        without_target: What a row without a target is: an "error", "leave_out" (and counted), or "keep": a row without
            a label.
        rule: How a regression target is written.
        min: Smallest possible value of a regression target.
        max: Largest possible value.
    """

    task: Task
    column: str = ""
    words: Mapping[str, tuple[str, ...]] | None = None
    columns: Mapping[str, LabelColumn] | None = None
    separator: str | None = None
    unknown: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    empty: str = "unknown"
    exclusive: bool = True
    without_target: str = "error"
    rule: NumberRule = PLAIN
    min: float | None = None
    max: float | None = None

    @classmethod
    def read(cls, section: Section) -> TaskColumns:
        """Reads it from a schema.

        Raises:
            SchemaError: If a key is unknown or lacking, or classes do not fit the kind.
        """
        _check_time_to_event(section)
        kind = section.choice("kind", tuple(TASK_KINDS))
        number, labels = TASK_KINDS[kind].one_value, TASK_KINDS[kind].many_labels
        if (number or not TASK_KINDS[kind].takes_classes(3)) and "columns" in section:
            raise _several_columns(section, kind)
        columns = cls._columns(section) if "columns" in section else None
        column = "" if columns else section.text("column")
        words_ = None if number or columns else _classes(section)
        found = cls(
            Task(
                kind,
                section.text("name", column or "target"),
                tuple(columns or words_ or ()),
                section.text("units", "") if number else "",
                section.numbers("bins", ()) if number else (),
            ),
            column,
            words_,
            columns,
            section.text("separator") if labels and not columns else None,
            section.texts("unknown", ()),
            section.words("none", ()) if labels else (),
            section.choice("empty", ("unknown", "no"), "unknown") if labels else "unknown",
            section.flag("exclusive", True) if labels else True,
            section.choice("without_target", ("error", "leave_out", "keep"), "error"),
            NumberRule.read(section) if number else PLAIN,
            section.number("min", None) if number else None,
            section.number("max", None) if number else None,
        )
        section.done()
        return found

    @staticmethod
    def _columns(section: Section) -> dict[str, LabelColumn]:
        if isinstance(section.raw("columns"), list):
            return {word: LabelColumn(word) for word in section.texts("columns")}
        inner = section.section("columns")
        return {
            label: LabelColumn.read(inner.section(label))
            if isinstance(inner.raw(label), Mapping)
            else LabelColumn(inner.text(label))
            for label in inner.keys()  # noqa: SIM118
        }

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `read` takes."""
        record: dict[str, Any] = {"kind": self.task.kind, "name": self.task.name}
        if self.columns:
            record["columns"] = {label: column.to_json() for label, column in self.columns.items()}
        else:
            record["column"] = self.column
        if self.words:
            record["classes"] = {label: list(words) for label, words in self.words.items()}
        if self.task.traits.one_value:
            record |= {"units": self.task.units, "bins": list(self.task.bins)} | self.rule.to_json()
            record |= {key: getattr(self, key) for key in ("min", "max") if getattr(self, key) is not None}
        if self.task.traits.many_labels:
            record |= {"none": list(self.none)} if self.none else {}
            record |= {"empty": self.empty, "exclusive": self.exclusive}
        if self.separator is not None:
            record["separator"] = self.separator
        return record | {
            "unknown": list(self.unknown),
            "without_target": self.without_target,
        }

    def cells(self) -> dict[str, str]:
        """The columns it reads, each with its place in the schema."""
        if self.columns:
            return {column.column: f"task.columns.{label}" for label, column in self.columns.items()}
        return {self.column: "task.column"}

    def surveyed(self, table: Table, reading: Reading, problems: Problems) -> TaskColumns:
        """Itself with how a regression target is written."""
        if not self.task.traits.one_value:
            return self
        found = survey(table, {self.column: self.rule}, {}, reading, problems, {self.column: "task"})
        return replace(self, rule=found.rules[self.column])

    def values(self, columns: Mapping[str, Any], ids: np.ndarray, reading: Reading) -> np.ndarray:
        """The target of some rows.

        Args:
            columns: Arrow arrays.
            ids: Ids of the rows, for messages.
            reading: How cells are read.

        Returns:
            float64 positions of classes (n,) or values (n,), NaN = not known; or labels (n, K), NaN = not known.

        Raises:
            DataError: If a cell is no class, label or number, with the nearest class.
        """
        case = reading.ignore_case
        missing = reading.missing | set(self.unknown)
        if self.task.traits.one_value:
            return self._numbers(columns[self.column], ids, reading, missing)
        if self.columns:
            parts = [self._yes(columns[c.column], c, ids, missing) for c in self.columns.values()]
            labels = np.stack(parts, axis=1)
            return labels if self.task.traits.many_labels else self._one_hot(labels, ids)
        places = {
            spelled(word, ignore_case=case): i for i, said in enumerate((self.words or {}).values()) for word in said
        }
        cells = words(columns[self.column], missing - set(places), ignore_case=case)
        if self.separator is not None:
            return self._separated(cells, ids, places, case)
        self._check({cell for cell in cells if cell is not None} - set(places), cells, ids, places)
        return np.array([np.nan if cell is None else places[cell] for cell in cells], dtype=np.float64)

    def _separated(self, cells: np.ndarray, ids: np.ndarray, places: Mapping[str, int], case: bool) -> np.ndarray:
        labels = np.full((len(cells), self.task.n_outputs), np.nan)
        none = {spelled(word, ignore_case=case) for word in self.none}
        for row, cell in enumerate(cells):
            if cell is None:
                labels[row] = 0 if self.empty == "no" else np.nan
                continue
            named = [spelled(part, ignore_case=case) for part in parted(cell, self.separator or "", bare=True)]
            if set(named) & none and len(set(named)) > 1:
                raise DataError(
                    f"the target column {self.column!r} says none and something else, in row {ids[row]}",
                    expected=f"{' or '.join(self.none)} alone, or labels",
                    got=repr(cell),
                )
            named = [name for name in named if name not in none]
            self._check(set(named) - set(places), np.array([*named, None], object), ids[row : row + 1], places)
            labels[row] = 0
            labels[row, [places[name] for name in named]] = 1
        return labels

    def _check(self, strange: set[str], cells: np.ndarray, ids: np.ndarray, places: Mapping[str, int]) -> None:
        if not strange:
            return
        word = sorted(strange)[0]
        row = ids[min(len(ids) - 1, int(np.argmax([cell == word for cell in cells])))]
        shown = ", ".join(map(repr, sorted(strange)[:_SHOWN])) + (", …" if len(strange) > _SHOWN else "")
        more = ", or under `none` if they mean none of the labels" if self.separator is not None else ""
        for mark in (";", ",", "|", "/", " "):
            if mark != self.separator and self.separator is not None and all(p in places for p in parted(word, mark)):
                raise DataError(
                    f"the target column {self.column!r} has several labels in one, {word!r} (first in row {row})",
                    expected=f"labels with {self.separator!r} between them",
                    hint=f"Write `separator: {mark!r}`.",
                )
        near = say_pairs(near_pairs(strange, places))
        if near:
            near += " Write `ignore_case: true` at the top of the schema if only case differs."
        raise DataError(
            f"the target column {self.column!r} has values that no class has: {shown} (first in row {row})",
            expected=f"one of {', '.join(map(repr, list(places)[:20]))}",
            hint=" ".join(filter(None, (nearest(word, places), near)))
            or f"Say which class they are, `classes: {{{next(iter(places))}: [its words], …}}`, or list them under "
            f"`unknown` if they mean not known{more}.",
        )

    def _numbers(self, column: Any, ids: np.ndarray, reading: Reading, missing: frozenset[str]) -> np.ndarray:
        found = numbers(column, missing, self.rule.over(reading.numbers))
        what = f"the target column {self.column!r}"
        if found.units is not None and self.task.units:
            own = {spelled(self.task.units).casefold()}
            strange = np.array([u is not None and spelled(u).casefold() not in own for u in found.units], dtype=bool)
        else:
            strange = np.array([unit is not None for unit in found.units], bool) if found.units is not None else None
        if strange is not None and strange.any():
            row = int(strange.argmax())
            assert found.units is not None
            raise DataError(
                f"{what}: {found.units[row]!r} stands beside the number, in row {ids[row]}",
                expected=f"numbers in {self.task.units}" if self.task.units else "numbers alone",
                hint=f"Write `units: {found.units[row]!r}` under task, or correct the cells.",
            )
        censored = found.limits != 0
        if censored.any():
            row = int(censored.argmax())
            raise DataError(
                f"{what} has limits instead of values, first in row {ids[row]}",
                expected="known values",
                got=repr(column[row].as_py()),
                hint="A limit is no outcome: list such words under `unknown`, or predict a class (above or below it).",
            )
        if found.bad.any():
            row = int(found.bad.argmax())
            raise DataError(
                f"{what} has {int(found.bad.sum())} cells that are no numbers, first in row {ids[row]}",
                expected="numbers",
                got=repr(column[row].as_py()),
                hint=_no_number(str(column[row].as_py())),
            )
        tell_numbers(Problems(strict=True), found, column, ids, what, "")
        values = found.values
        low = -np.inf if self.min is None else self.min
        high = np.inf if self.max is None else self.max
        out = (values < low) | (values > high)
        if out.any():
            row = int(out.argmax())
            raise DataError(
                f"{what} is out of range in {int(out.sum())} rows, first in row {ids[row]}",
                expected=f"{between(low, high)} {self.task.units}".strip(),
                got=f"{values[row]:g}",
            )
        return values

    def _yes(self, column: Any, label: LabelColumn, ids: np.ndarray, missing: frozenset[str]) -> np.ndarray:
        yes = {spelled(word, ignore_case=True) for word in label.yes} or YES
        no = ({spelled(word, ignore_case=True) for word in label.no} or NO) - (set(yes) if label.yes else set())
        yes = set(yes) - (set(no) if label.no else set())
        no = no | {spelled(word, ignore_case=True) for word in self.none}
        unknown = {spelled(word, ignore_case=True) for word in (*missing, *label.unknown)} - {""} - yes - no
        empty = 0.0 if (label.empty or self.empty) == "no" else np.nan
        meant = dict.fromkeys(unknown, np.nan) | dict.fromkeys(yes, 1.0) | dict.fromkeys(no, 0.0)
        cells = words(column, frozenset({""}), ignore_case=True)
        bad = np.array([cell is not None and cell not in meant for cell in cells], dtype=bool)
        if bad.any():
            row = int(bad.argmax())
            said = texts(column, frozenset({""}))[row]
            common = "1, true, yes, Y or 0, false, no, N, or an empty cell (unknown)"
            own = f"{', '.join(sorted(yes))} (yes), {', '.join(sorted(no))} (no)"
            strange = ", ".join(map(repr, sorted({str(cell) for cell in cells[bad]})[:_SHOWN]))
            raise DataError(
                f"the label column {label.column!r} has a value that is neither yes nor no, in row {ids[row]}",
                expected=own if label.yes or label.no else common,
                got=repr(said),
                hint=f"Say what {strange} means: `columns: {{{label.column}: {{column: {label.column}, yes: […], "
                'no: […], unknown: […]}}`; `empty: "no"` if an empty cell means no.',
            )
        return np.array([empty if cell is None else meant[cell] for cell in cells], dtype=np.float64)

    def _one_hot(self, labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Classes with a column each, (n, C) of yes and no, to positions (n,); a row without an answer is not known."""
        unknown = np.isnan(labels).all(1)
        count = (labels == 1).sum(1)
        bad = (count != 1) & ~unknown
        if bad.any():
            row = int(bad.argmax())
            raise DataError(
                f"the columns of the classes say yes {int(count[row])} times in row {ids[row]}",
                expected="exactly one class for each case",
                hint="If several can be true, or none, write `kind: multilabel`.",
            )
        return np.where(unknown, np.nan, np.argmax(labels == 1, axis=1))

    def check(self, target: np.ndarray, table: str) -> None:
        """Refuses labels that are classes: exactly one yes in every row.

        Raises:
            DataError: If so, and the schema does not say `exclusive: false`.
        """
        if not self.task.traits.many_labels or not self.exclusive or target.shape[1] < 3:
            return
        known = target[~np.isnan(target).any(1)]
        if len(known) >= _LEAST and (known.sum(1) == 1).all():
            raise DataError(
                f"exactly one label is true in every one of {len(known):,} rows of {table}: they are classes",
                expected="labels of which several, or none, can be true",
                hint="Write `kind: multiclass`, with the same `columns` or `column` and `classes`; or, if they are "
                "labels all the same, `exclusive: false`.",
            )


def _no_number(cell: str) -> str:
    """Advice for the cell of a regression target that is no number."""
    if like_month(cell) or re.match(r"[0-9]{1,4}[./-][0-9]{1,2}[./-][0-9]{1,4}", cell):
        return "A date is no outcome: write the days since another date into a column, and predict that."
    return (
        "List words for an unknown target under `unknown`; if all are words, they are classes: write "
        "`kind: multiclass` (or `binary`) and `classes`."
    )


def _classes(section: Section) -> dict[str, tuple[str, ...]]:
    """The classes of a task, each with its words in the column."""
    if isinstance(section.raw("classes"), Mapping):
        inner = section.section("classes")
        found = {label: inner.texts(label) for label in inner.keys()}  # noqa: SIM118
    else:
        found = {word: (word,) for word in section.texts("classes")}
    met = [spelled(word) for group in found.values() for word in group]
    twice = sorted({word for word in met if met.count(word) > 1}) if len(met) < 5000 else []
    if twice:
        raise SchemaError(f"{section.place('classes')}: {twice[0]!r} belongs to two classes")
    fractions = [word for word in met if _is_fraction(word)]
    if len(met) > 10 and len(fractions) > 0.5 * len(met):
        raise SchemaError(
            f"{section.place('classes')} are {len(met):,} numbers such as {fractions[0]}",
            expected="classes",
            hint="If the number itself is to be predicted, write `kind: regression` and `units`, without `classes`.",
        )
    return found


def _is_fraction(word: str) -> bool:
    try:
        return not float(word.replace(",", ".")).is_integer()
    except (ValueError, OverflowError):
        return False


def _several_columns(section: Section, kind: str) -> SchemaError:
    if TASK_KINDS[kind].one_value:
        return SchemaError(
            f"{section.place('columns')}: a regression has one column",
            expected="column: one column of numbers",
            hint="Several outcomes are several cohorts: prepare one with each. For labels write `kind: multilabel`.",
        )
    return SchemaError(
        f"{section.place('columns')}: a binary task has one column",
        expected="column and classes",
        hint="For two classes with a column each write `kind: multiclass`; if both can be true, `kind: multilabel`.",
    )


def _check_time_to_event(section: Section) -> None:
    """Refuses a time beside an indicator of an event, which no task here can mean."""
    if section.raw("kind") in ("survival", "cox", "time_to_event") or {"event", "status"} & set(section.keys()):
        raise SchemaError(
            f"{section.where} names a time and an event, and time to event cannot be predicted",
            expected="a class that is known for every case",
            hint="Choose a horizon and write a column that says whether the event came before it, unknown (empty) for "
            "who was lost before: `kind: binary`, `without_target: leave_out`. Keep the time out of the inputs.",
        )
