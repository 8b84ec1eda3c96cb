"""The target's columns to classes, labels or values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from amodal.data.table.cells import numbers, texts
from amodal.data.table.section import Section, nearest
from amodal.errors import DataError, SchemaError
from amodal.kinds import TASK_KINDS
from amodal.schema import Task

__all__ = ["TaskColumns"]

_YES = frozenset({"1", "true", "True", "TRUE", "yes", "Yes", "YES", "y", "Y"})
_NO = frozenset({"0", "false", "False", "FALSE", "no", "No", "NO", "n", "N"})
_SHOWN = 5


@dataclass(frozen=True)
class TaskColumns:
    """What is predicted, and where it stands.

    Attributes:
        task: Kind, name, classes, units, bins.
        column: The column; "" if there are several.
        words: What each class is in the column, by class.
        columns: For several labels, the column of each; cells are yes, no or empty (unknown).
        separator: For several labels in one column, what is between them.
        unknown: Words of the target that mean it is not known, beside the schema's `missing`.
        leave_out: Whether rows without a target are left out, and counted, instead of being an error.
        min: Smallest possible value of a regression target.
        max: Largest possible value.
    """

    task: Task
    column: str = ""
    words: Mapping[str, tuple[str, ...]] | None = None
    columns: Mapping[str, str] | None = None
    separator: str | None = None
    unknown: tuple[str, ...] = ()
    leave_out: bool = False
    min: float | None = None
    max: float | None = None

    @classmethod
    def read(cls, section: Section) -> TaskColumns:
        """Reads it from a schema.

        Raises:
            SchemaError: If a key is unknown or lacking, or classes do not fit the kind.
        """
        kind = section.choice("kind", tuple(TASK_KINDS))
        number, several = TASK_KINDS[kind].one_value, TASK_KINDS[kind].many_labels
        columns = cls._columns(section) if several and "columns" in section else None
        column = "" if columns else section.text("column")
        words: dict[str, tuple[str, ...]] | None = None
        if not number and not columns:
            if isinstance(section.raw("classes"), Mapping):
                inner = section.section("classes")
                words = {label: inner.texts(label) for label in inner.keys()}  # noqa: SIM118
            else:
                words = {word: (word,) for word in section.texts("classes")}
            met = [word for group in words.values() for word in group]
            twice = sorted({word for word in met if met.count(word) > 1})
            if twice:
                raise SchemaError(f"{section.place('classes')}: {twice[0]!r} belongs to two classes")
        found = cls(
            Task(
                kind,
                section.text("name", column or "target"),
                tuple(columns or words or ()),
                section.text("units", "") if number else "",
                section.numbers("bins", ()) if number else (),
            ),
            column,
            words,
            columns,
            section.text("separator") if several and not columns else None,
            section.texts("unknown", ()),
            section.choice("without_target", ("error", "leave_out"), "error") == "leave_out",
            section.number("min", None) if number else None,
            section.number("max", None) if number else None,
        )
        section.done()
        return found

    @staticmethod
    def _columns(section: Section) -> dict[str, str]:
        if isinstance(section.raw("columns"), list):
            return {word: word for word in section.texts("columns")}
        inner = section.section("columns")
        return {label: inner.text(label) for label in inner.keys()}  # noqa: SIM118

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `read` takes."""
        record: dict[str, Any] = {"kind": self.task.kind, "name": self.task.name}
        if self.columns:
            record["columns"] = dict(self.columns)
        else:
            record["column"] = self.column
        if self.words:
            record["classes"] = {label: list(words) for label, words in self.words.items()}
        if self.task.traits.one_value:
            record |= {"units": self.task.units, "bins": list(self.task.bins)}
            record |= {key: getattr(self, key) for key in ("min", "max") if getattr(self, key) is not None}
        if self.separator is not None:
            record["separator"] = self.separator
        return record | {
            "unknown": list(self.unknown),
            "without_target": "leave_out" if self.leave_out else "error",
        }

    def cells(self) -> dict[str, str]:
        """The columns it reads, each with its place in the schema."""
        if self.columns:
            return {column: f"task.columns.{label}" for label, column in self.columns.items()}
        return {self.column: "task.column"}

    def values(self, columns: Mapping[str, Any], ids: np.ndarray, missing: frozenset[str]) -> np.ndarray:
        """The target of some rows.

        Args:
            columns: Arrow arrays.
            ids: Ids of the rows, for messages.
            missing: Words that stand for an empty cell.

        Returns:
            float64 positions of classes (n,) or values (n,), NaN = not known; or labels (n, K), NaN = not known.

        Raises:
            DataError: If a cell is no class, label or number, with the nearest class.
        """
        missing = missing | set(self.unknown)
        if self.task.traits.one_value:
            return self._numbers(columns[self.column], ids, missing)
        if self.columns:
            parts = [self._yes(columns[column], column, ids, missing) for column in self.columns.values()]
            return np.stack(parts, axis=1)
        places = {word: i for i, label in enumerate(self.words or {}) for word in (self.words or {})[label]}
        cells = texts(columns[self.column], missing)
        if self.separator is None:
            self._check({cell for cell in cells if cell is not None} - set(places), cells, ids, places)
            return np.array([np.nan if cell is None else places[cell] for cell in cells], dtype=np.float64)
        labels = np.full((len(cells), self.task.n_outputs), np.nan)
        for row, cell in enumerate(cells):
            if cell is None:
                continue
            named = [part.strip() for part in cell.split(self.separator) if part.strip()]
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
        raise DataError(
            f"the target column {self.column!r} has values that no class has: {shown} (first in row {row})",
            expected=f"one of {', '.join(map(repr, list(places)[:20]))}",
            hint=nearest(word, places) or "Add them under `classes`, or under `unknown` if they mean not known.",
        )

    def _numbers(self, column: Any, ids: np.ndarray, missing: frozenset[str]) -> np.ndarray:
        values, bad = numbers(column, missing)
        if bad.any():
            row = int(bad.argmax())
            raise DataError(
                f"the target column {self.column!r} has {int(bad.sum())} cells that are no numbers, first in row "
                f"{ids[row]}",
                expected="numbers",
                got=repr(column[row].as_py()),
                hint="List words for an unknown target under `unknown`.",
            )
        low = -np.inf if self.min is None else self.min
        high = np.inf if self.max is None else self.max
        out = (values < low) | (values > high)
        if out.any():
            row = int(out.argmax())
            raise DataError(
                f"the target column {self.column!r} is out of range in {int(out.sum())} rows, first in row {ids[row]}",
                expected=f"{low:g} … {high:g} {self.task.units}".strip(),
                got=f"{values[row]:g}",
            )
        return values

    def _yes(self, column: Any, name: str, ids: np.ndarray, missing: frozenset[str]) -> np.ndarray:
        cells = texts(column, missing)
        values = np.array([1.0 if c in _YES else 0.0 if c in _NO else np.nan for c in cells])
        bad = np.isnan(values) & np.array([cell is not None for cell in cells], dtype=bool)
        if bad.any():
            row = int(bad.argmax())
            raise DataError(
                f"the label column {name!r} has a value that is neither yes nor no, in row {ids[row]}",
                expected="1, true, yes, Y or 0, false, no, N, or an empty cell (unknown)",
                got=repr(cells[row]),
            )
        return values
