"""Columns of numbers, categories and dates, from the manifest or from a second table joined by id."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from amodal.data.table.cells import date_formats, dates, numbers, texts
from amodal.data.table.files import within
from amodal.data.table.join import Joined
from amodal.data.table.manifest import check_columns, open_table
from amodal.data.table.section import Section
from amodal.data.table.source import Piece, Place, Problems, Reader, Rows, Source
from amodal.errors import DataError, SchemaError
from amodal.schema import Modality

__all__ = ["Column", "Tabular", "bracketed_units", "check_units"]

MAX_CATEGORIES = 100
OTHER = "(other)"
_DAY = 86400.0
_UNITS = re.compile(r"[\[(]\s*([^\])]+?)\s*[\])]\s*$")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: The column.
        type: "number", "category" or "date".
        units: Units of a number.
        min: Smallest possible value; smaller ones count as not measured.
        max: Largest possible value.
        scale: Factor that brings a number to its units.
        offset: What is added after that.
        categories: Values of a category, in order; None: those met in the data.
        values: What other words for a category (or a number) mean.
        code: "one_hot" (a feature for each category) or "ordinal" (the category's position).
        other: Whether unlisted categories become one more, instead of an error.
        format: How dates are written, as for `datetime.strptime`; None: ISO 8601.
        since: Column with the date from which days are counted; None: 1970-01-01.
    """

    name: str
    type: str = "number"
    units: str = ""
    min: float | None = None
    max: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    categories: tuple[str, ...] | None = None
    values: Mapping[str, str] | None = None
    code: str = "one_hot"
    other: bool = False
    format: str | None = None
    since: str | None = None

    @classmethod
    def read(cls, name: str, section: Section) -> Column:
        """Reads it from a schema."""
        kind = section.choice("type", ("number", "category", "date"), "number")
        column = cls(name, kind)
        if "values" in section:
            inner = section.section("values")
            column = replace(column, values={key: inner.text(key) for key in inner.keys()})  # noqa: SIM118
        if kind == "category":
            column = replace(
                column,
                categories=section.texts("categories", None),
                code=section.choice("code", ("one_hot", "ordinal"), "one_hot"),
                other=section.flag("other", False),
            )
            if column.categories is not None and not 1 <= len(column.categories) <= MAX_CATEGORIES:
                raise too_many(section.place("categories"), len(column.categories))
            if column.code == "ordinal" and column.other:
                raise SchemaError(f"{section.where}: an ordinal category has no place for others", got="other: true")
        else:
            column = replace(column, min=section.number("min", None), max=section.number("max", None))
            if column.min is not None and column.max is not None and column.min >= column.max:
                raise SchemaError(f"{section.where}: min is not below max", got=f"{column.min:g} … {column.max:g}")
        if kind == "number":
            column = replace(
                column,
                units=section.text("units", ""),
                scale=section.number("scale", 1.0),
                offset=section.number("offset", 0.0),
            )
            check_units(section.where, name, column.units)
        if kind == "date":
            column = replace(column, format=section.text("format", None), since=section.text("since", None))
        section.done()
        return column

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: what differs from the defaults."""
        plain, found = Column(""), {}
        for key in ("type", "units", "min", "max", "scale", "offset", "code", "other", "format", "since"):
            if getattr(self, key) != getattr(plain, key):
                found[key] = getattr(self, key)
        if self.categories is not None:
            found["categories"] = list(self.categories)
        if self.values is not None:
            found["values"] = dict(self.values)
        return found

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the numbers that it becomes."""
        if self.type != "category" or self.code == "ordinal":
            return (self.name,)
        words = (*(self.categories or ()), *((OTHER,) if self.other else ()))
        return tuple(f"{self.name}={word}" for word in words)

    def numbers(self, rows: Rows, place: Place) -> np.ndarray:
        """Its cells as numbers, float64 (n, features), NaN where not measured."""
        cells = rows.columns.get(self.name)
        if cells is None:
            return np.full((len(rows.ids), len(self.features)), np.nan)
        if self.type == "category":
            return self._coded(cells, rows, place)
        found = self._measured(cells, rows, place) if self.type == "number" else self._days(cells, rows, place)
        return self._in_range(found, rows, place.problems)[:, None]

    def _measured(self, cells: Any, rows: Rows, place: Place) -> np.ndarray:
        if self.values:
            import pyarrow as pa

            words = texts(cells, place.missing)
            cells = pa.array([self.values.get(w, w) if w is not None else None for w in words], pa.string())
        found, bad = numbers(cells, place.missing)
        if bad.any():
            shown = [str(cell).strip() for cell in cells.take(np.flatnonzero(bad)).to_pylist()]
            comma = any("," in cell for cell in shown[:5])
            place.problems.grave(
                f"column {self.name!r}: not a number",
                rows.ids[bad],
                shown,
                expected=f"a number{f' in {self.units}' if self.units else ''}, or an empty cell",
                hint="Write decimals with a point, not a comma."
                if comma
                else "Correct them, list words for an empty cell under `missing`, or take it as `type: category`.",
            )
        return found * self.scale + self.offset

    def _days(self, cells: Any, rows: Rows, place: Place) -> np.ndarray:
        words = texts(cells, place.missing)
        seconds, bad = dates(words, self.format)
        if bad.any():
            forms = date_formats(words)
            several = len(forms) > 1
            place.problems.grave(
                f"column {self.name!r}: "
                + (f"dates in {len(forms)} formats, {', '.join(forms)}" if several else "not a date"),
                rows.ids[bad],
                words[bad],
                expected=f"dates like {self.format or '2026-01-31 or 2026-01-31 08:30'}",
                hint="Write all in one format; day and month cannot be guessed."
                if several
                else f"If that is how they are written, say `format: {next(iter(forms), '%d.%m.%Y')!r}` in the schema.",
            )
        if self.since is None:
            return seconds / _DAY
        origin = rows.columns.get(self.since)
        if origin is None:
            return np.full(len(seconds), np.nan)
        return (seconds - dates(texts(origin, place.missing), self.format)[0]) / _DAY

    def _in_range(self, found: np.ndarray, rows: Rows, problems: Problems) -> np.ndarray:
        low = -np.inf if self.min is None else self.min
        high = np.inf if self.max is None else self.max
        out = (found < low) | (found > high)
        if not out.any():
            return found
        n_measured = int((~np.isnan(found)).sum())
        if problems.strict and n_measured >= 10 and out.sum() > 0.5 * n_measured:
            middle = float(np.nanmedian(found))
            raise DataError(
                f"column {self.name!r}: {out.sum() / n_measured:.0%} of {n_measured} cells are out of range",
                expected=f"{low:g} … {high:g}{f' {self.units}' if self.units else ''}",
                got=f"a median of {middle:g}",
                hint="Are they in other units? Convert with `scale` and `offset`, or correct `units`, min and max.",
            )
        problems.add(
            f"column {self.name!r}: out of range {low:g} … {high:g}, taken as not measured", rows.ids[out], found[out]
        )
        return np.where(out, np.nan, found)

    def _coded(self, cells: Any, rows: Rows, place: Place) -> np.ndarray:
        words = texts(cells, place.missing)
        if self.values:
            words = np.array([*(self.values.get(w, w) if w is not None else None for w in words), None], object)[:-1]
        places = {word: i for i, word in enumerate(self.categories or ())}
        codes = np.array([places.get(word, -1) for word in words], dtype=np.int64)
        empty = np.array([word is None for word in words], dtype=bool)
        unknown = (codes < 0) & ~empty
        if self.other:
            codes[unknown] = len(places)
        elif unknown.any():
            place.problems.grave(
                f"column {self.name!r}: unknown category",
                rows.ids[unknown],
                words[unknown],
                expected=f"one of {', '.join(self.categories or ())}",
                hint="Add it to `categories`, map it with `values`, list it under `missing`, or write `other: true`.",
            )
        if self.code == "ordinal":
            return np.where(codes < 0, np.nan, codes.astype(np.float64))[:, None]
        coded = np.zeros((len(words), len(self.features)))
        known = np.flatnonzero(codes >= 0)
        coded[known, codes[known]] = 1.0
        coded[codes < 0] = np.nan
        return coded


@dataclass(frozen=True)
class Tabular(Source):
    """A tabular modality: columns of the manifest, or of a second table joined by id.

    It is absent where all of its cells are empty.

    Attributes:
        fields: Its columns.
        file: The second table, relative to the data folder; "" = the manifest.
        id: That table's column with the ids.
        description: One line for people.
    """

    kind: ClassVar[str] = "tabular"

    fields: tuple[Column, ...] = ()
    file: str = ""
    id: str = ""
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
        source = cls(name, fields, file, section.text("id") if file else "", section.text("description", ""))
        section.done()
        return source

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `read` takes."""
        record: dict[str, Any] = {"kind": self.kind, "columns": {f.name: f.to_json() for f in self.fields}}
        return record | {k: getattr(self, k) for k in ("file", "id", "description") if getattr(self, k)}

    def columns(self) -> tuple[str, ...]:
        """The manifest's columns that it reads."""
        return () if self.file else self._own()

    def tables(self) -> tuple[str, ...]:
        """The files with rows of all cases that it reads."""
        return (self.file,) if self.file else ()

    def _own(self) -> tuple[str, ...]:
        since = [field.since for field in self.fields if field.since]
        return tuple(dict.fromkeys([*(field.name for field in self.fields), *since]))

    def surveyed(self, place: Place) -> Tabular:
        """Itself with the categories met in the data."""
        open_ = [f for f in self.fields if f.type == "category" and f.categories is None]
        if not open_:
            return self
        table = open_table(within(place.root, "", self.file)) if self.file else place.manifest
        check_columns(table, {f.name: f"modalities.{self.name}.columns" for f in open_})
        met: dict[str, set[str]] = {f.name: set() for f in open_}
        for chunk in table.chunks([f.name for f in open_], 65536):
            for field in open_:
                words = {w for w in set(texts(chunk[field.name], place.missing)) if w is not None}
                met[field.name] |= {str((field.values or {}).get(w, w)) for w in words}
                if len(met[field.name]) > 100 * MAX_CATEGORIES:
                    break
        filled = []
        for field in self.fields:
            if field in open_:
                if not 1 <= len(met[field.name]) <= MAX_CATEGORIES:
                    raise too_many(f"column {field.name!r}", len(met[field.name]))
                field = replace(field, categories=tuple(sorted(met[field.name])))
            filled.append(field)
        return replace(self, fields=tuple(filled))

    def modality(self) -> Modality:
        """Name, kind and shape."""
        features = tuple(name for field in self.fields for name in field.features)
        units = tuple(field.units or ("days" if field.type == "date" else "") for field in self.fields for _ in
                      field.features)  # fmt: skip
        return Modality(self.name, "tabular", (len(features),), features, units, self.description)

    def reader(self, place: Place) -> Reader:
        """Opens what it reads."""
        if not self.file:
            return _ManifestReader(self, place)
        return _JoinedReader(self, place)

    def matrix(self, rows: Rows, place: Place) -> np.ndarray:
        """The cells of some rows as numbers, float32 (n, D), NaN = not measured."""
        parts = [field.numbers(rows, place) for field in self.fields]
        return np.concatenate(parts, axis=1).astype(np.float32)


class _ManifestReader(Reader):
    def __init__(self, source: Tabular, place: Place):
        self.source, self.place = source, place

    def read(self, rows: Rows) -> Piece:
        values = self.source.matrix(rows, self.place)
        return Piece(values, np.asarray(~np.isnan(values).all(1)))


class _JoinedReader(Reader):
    def __init__(self, source: Tabular, place: Place):
        joined = Joined(place, source.file, source.id, f"modalities.{source.name}", source._own())
        self.values = joined.matrix(source.name, source.modality().shape[0], lambda rows: source.matrix(rows, place))

    def read(self, rows: Rows) -> Piece:
        values = np.array(self.values[rows.start : rows.start + len(rows.ids)])
        return Piece(values, np.asarray(~np.isnan(values).all(1)))


def too_many(where: str, count: int) -> SchemaError:
    """The error for a category with no or too many values."""
    return SchemaError(
        f"{where} has {count:,} categories",
        expected=f"1 to {MAX_CATEGORIES}",
        hint="List the ones that matter under `categories` with `other: true`, or is it a number, an id or a text?"
        if count
        else "The column is empty: leave it out.",
    )


def bracketed_units(name: str) -> str | None:
    """Units that stand in brackets at the end of a column's name.

    Example:
        >>> bracketed_units("Temp [degF]")
        'degF'
    """
    found = _UNITS.search(name)
    return found[1] if found else None


def check_units(where: str, name: str, units: str) -> None:
    """Raises SchemaError if a column's name says other units in brackets than the schema."""
    said = bracketed_units(name)
    if said and units and said.casefold() != units.casefold():
        raise SchemaError(
            f"{where}: the column {name!r} says other units than the schema",
            expected=units,
            got=said,
            hint="Correct `units`, or convert with `scale` and `offset` and rename the column.",
        )
