"""Tables of numbers, categories, dates and durations, from the manifest or from a second table joined by id."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from amodal.data.limits import MOST_ROWS_OF_A_CASE
from amodal.data.table.cells import ODD_WORDS, Reading
from amodal.data.table.column import MAX_CATEGORIES, Column, too_many
from amodal.data.table.join import Joined, second_table
from amodal.data.table.manifest import Table, check_columns
from amodal.data.table.problems import LIMITS, Problems
from amodal.data.table.section import Section
from amodal.data.table.several import Several
from amodal.data.table.source import Piece, Place, Reader, Rows, Source
from amodal.data.table.survey import survey
from amodal.data.table.words import broken_letters
from amodal.errors import SchemaError
from amodal.kinds.sets import TableSet
from amodal.schema import Modality

__all__ = ["Tabular"]


@dataclass(frozen=True)
class Tabular(Source):
    """A tabular modality: columns of the manifest, or of a second table joined by id.

    It is absent where all of its cells are empty.

    Attributes:
        fields: Its columns.
        file: The second table, relative to the data folder; "" = the manifest.
        id: That table's column with the ids.
        sheet: The sheet of that table if it is an Excel workbook; "" = the first.
        most: Rows of the second table that a case may have, such as visits, the first so many of them; they become a
            set. 0: one.
        duplicates: What becomes of rows of the second table that say the same again: "drop", "error", or of several
            rows a case also "keep".
        accept: Shares of what may be lost, by the keys of `LIMITS`.
        description: One line for people.
    """

    kind: ClassVar[str] = "tabular"

    fields: tuple[Column, ...] = ()
    file: str = ""
    id: str = ""
    sheet: str = ""
    most: int = 0
    duplicates: str = "drop"
    accept: Mapping[str, float] = field(default_factory=dict)
    description: str = ""

    @classmethod
    def read(cls, name: str, section: Section) -> Tabular:
        """Reads it from a schema; see `Source.read`."""
        given = section.raw("columns")
        if isinstance(given, list):
            fields = tuple(Column(word) for word in section.texts("columns"))
        else:
            fields = tuple(Column.read(column, inner) for column, inner in section.sections("columns").items())
        if not fields:
            raise SchemaError(f"{section.place('columns')} names no column")
        file = section.text("file", "")
        source = cls(
            name,
            fields,
            file,
            section.text("id") if file else "",
            section.text("sheet", "") if file else "",
            section.integer("most", 0, most=MOST_ROWS_OF_A_CASE) if file else 0,
            section.choice("duplicates", ("drop", "error", "keep"), "drop"),
            section.shares("accept", LIMITS),
            section.text("description", ""),
        )
        section.done()
        if source.duplicates == "keep" and not source.most:
            raise SchemaError(f"{section.where}: a case has one row, so that none can be kept beside it",
                              hint="Write `most: 5` if it may have so many.")  # fmt: skip
        return source

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `read` takes."""
        record: dict[str, Any] = {"kind": self.kind, "columns": {f.name: f.to_json() for f in self.fields}}
        record |= {k: getattr(self, k) for k in ("file", "id", "sheet", "most", "description") if getattr(self, k)}
        record |= {"accept": dict(self.accept)} if self.accept else {}
        return record | ({"duplicates": self.duplicates} if self.duplicates != "drop" else {})

    def columns(self) -> tuple[str, ...]:
        """The manifest's columns that it reads."""
        return () if self.file else self._own()

    def tables(self) -> tuple[str, ...]:
        """The files with rows of all cases that it reads."""
        return (self.file,) if self.file else ()

    def _own(self) -> tuple[str, ...]:
        since = [name for field in self.fields for name in field.since]
        return tuple(dict.fromkeys([*(field.name for field in self.fields), *since]))

    def surveyed(self, place: Place) -> Tabular:
        """Itself with the categories met in the data, and how its numbers and dates are written."""
        table = second_table(place, self.file, self.sheet) if self.file else place.manifest
        check_columns(table, dict.fromkeys(self._own(), f"modalities.{self.name}.columns"))
        where = f"modalities.{self.name}.columns"
        number = {f.name: f.rule for f in self.fields if f.type == "number"}
        dated = {(f.name,): f.format for f in self.fields if f.type == "date"}
        dated = {f.since: f.since_format for f in self.fields if f.since} | dated
        found = survey(
            table, number, dated, place.reading, place.problems,
            {column: f"{where}.{column}" for column in (*number, *(names[0] for names in dated))},
        )  # fmt: skip
        met = self._categories_met(table, place.reading, place.problems)
        fields = []
        for f in self.fields:
            if f.type == "number":
                f = _centred(replace(f, rule=found.rules[f.name]), found.extent.get(f.name), place.problems)
            if f.type == "date":
                f = replace(f, format=found.formats[(f.name,)],
                            since_format=found.formats[f.since] if f.since else ())  # fmt: skip
            if f.name in met:
                f = replace(f, categories=met[f.name])
            fields.append(f)
        return replace(self, fields=tuple(fields))

    def _categories_met(self, table: Table, reading: Reading, problems: Problems) -> dict[str, tuple[str, ...]]:
        open_ = [f for f in self.fields if f.type == "category" and f.categories is None and f.code != "hash"]
        met: dict[str, Counter[str]] = {f.name: Counter() for f in open_}
        for chunk in table.chunks([f.name for f in open_], 65536) if open_ else ():
            for f in open_:
                if f.separator:
                    met[f.name].update(part for parts in f.parts(chunk[f.name], reading) for part in set(parts or ()))
                else:
                    met[f.name].update(str(w) for w in f.words(chunk[f.name], reading) if w is not None)
                if len(met[f.name]) > 100 * MAX_CATEGORIES and not f.other:
                    break
        for f in open_:
            _tell_words(f.name, met[f.name], problems)
            if not met[f.name] or (len(met[f.name]) > MAX_CATEGORIES and not f.other):
                raise too_many(f"column {f.name!r}", len(met[f.name]))
        return {name: tuple(sorted(w for w, _ in counts.most_common(MAX_CATEGORIES))) for name, counts in met.items()}

    def modality(self) -> Modality:
        """Name, kind and shape."""
        features = tuple(name for field in self.fields for name in field.features)
        units = tuple(field.feature_units for field in self.fields for _ in field.features)
        kind, shape = (TableSet.name, (self.most, len(features))) if self.most else ("tabular", (len(features),))
        return Modality(self.name, kind, shape, features, units, self.description)

    def set_rule(self) -> Several:
        """How several of its entries are told: each is a row."""
        return Several("\n" if self.most else "", self.most)

    def taken_for(self) -> str:
        """Description of the modality in one line."""
        shown = "; ".join(field.describe() for field in self.fields[:8]) + ("; …" if len(self.fields) > 8 else "")
        sets = f"sets of up to {self.most} rows of {self.file}, each " if self.most else ""
        return f"{sets}a table of {self.modality().n_features} features of {len(self.fields)} columns: {shown}"

    def unmeasured(self, problems: Problems) -> list[str]:
        """Columns without one measured cell that the schema does not accept."""
        counts = {f.name: problems.cells.get(f"{self.name}.{f.name}") for f in self.fields if not f.may_be_empty}
        return [name for name, count in counts.items() if not count or not count["measured"]]

    def reader(self, place: Place) -> Reader:
        """Opens what it reads."""
        if not self.file:
            return _ManifestReader(self, place)
        return _RowsReader(self, place) if self.most else _JoinedReader(self, place)

    def matrix(self, rows: Rows, place: Place) -> np.ndarray:
        """The cells of some rows as numbers, float32 (n, D), NaN = not measured."""
        parts = [field.numbers(rows, place, self.name, self.accept) for field in self.fields]
        return np.concatenate(parts, axis=1).astype(np.float32)


class _ManifestReader(Reader):
    def __init__(self, source: Tabular, place: Place):
        self.source, self.place = source, place

    def read(self, rows: Rows) -> Piece:
        values = self.source.matrix(rows, self.place)
        return Piece(values, np.asarray(~np.isnan(values).all(1)))


class _JoinedReader(Reader):
    def __init__(self, source: Tabular, place: Place):
        joined = Joined(place, source.file, source.id, source.name, source._own(), source.accept, source.sheet)
        self.values = joined.matrix(source.name, source.modality().shape[0], source.matrix, source.duplicates)

    def read(self, rows: Rows) -> Piece:
        values = np.array(self.values[rows.start : rows.start + len(rows.ids)])
        return Piece(values, np.asarray(~np.isnan(values).all(1)))


class _RowsReader(Reader):
    def __init__(self, source: Tabular, place: Place):
        joined = Joined(place, source.file, source.id, source.name, source._own(), source.accept, source.sheet)
        width = source.modality().n_features
        self.values, self.counts = joined.sets(source.name, width, source.most, source.matrix, source.duplicates)

    def read(self, rows: Rows) -> Piece:
        part = slice(rows.start, rows.start + len(rows.ids))
        values, sizes = self.values[part], self.counts[part]
        inside = np.arange(values.shape[1]) < sizes[:, None]
        return Piece(np.array(values[inside]), sizes > 0, sizes=sizes)


def _tell_words(column: str, met: Mapping[str, int], problems: Problems) -> None:
    """Says which words of a category are nearly the same, and which may mean that nothing is known."""
    seen: dict[str, str] = {}
    for word in met:
        loose = re.sub(r"(?<![0-9])0+(?=[0-9])", "", re.sub(r"[\s_.-]", "", word.casefold())) or word
        if seen.setdefault(loose, word) != word:
            problems.say(
                f"column {column!r}: {seen[loose]!r} and {word!r} are taken as two categories (`ignore_case: true` or "
                "`values` would join them)"
            )
    broken = next((word for word in met if broken_letters(word)), "")
    if broken:
        problems.say(f"column {column!r}: {broken!r} has letters that a conversion has broken: export the table again")
    odd = ", ".join(repr(word) for word in sorted(met) if word.casefold() in ODD_WORDS)
    if odd:
        problems.say(
            f"column {column!r}: {odd} is taken as a category; list it under `missing` if it says that nothing is known"
        )


def _centred(column: Column, extent: tuple[float, float] | None, problems: Problems) -> Column:
    """A column with large numbers that lie close together, less their middle, so that single precision keeps them."""
    if extent is None or column.centre:
        return column
    low, high = sorted(edge * column.scale + column.offset for edge in extent)
    low, high = max(low, column.min if column.min is not None else low), min(
        high, column.max if column.max is not None else high
    )  # fmt: skip
    if max(abs(low), abs(high)) <= 2**24:
        return column
    if high - low > 0.25 * max(abs(low), abs(high)):
        problems.say(
            f"column {column.name!r}: numbers from {low:.0f} to {high:.0f} are kept to seven digits; is it an id?"
        )
        return column
    centre = float(np.round((low + high) / 2))
    lost = (
        "" if max(abs(low), abs(high)) <= 2**53 else "; beyond sixteen digits they are lost all the same: is it an id?"
    )
    problems.say(
        f"column {column.name!r}: {centre:.0f} is subtracted, so that no digit of its large numbers is lost{lost}"
    )
    return replace(column, centre=centre)
