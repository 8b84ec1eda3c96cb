"""One column of numbers, categories, dates or durations: how it is read, and every cell accounted for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from amodal.data.table.cells import Reading, moment_texts, texts, words
from amodal.data.table.numbers import (
    PLAIN,
    NumberRule,
    Numbers,
    between,
    in_units,
    numbers,
    read_other_units,
    write_other_units,
)
from amodal.data.table.problems import LIMITS, Problems
from amodal.data.table.reading import (
    TURNED,
    check_clocks,
    like_month,
    read_moments,
    tell_half,
    tell_limits,
    tell_numbers,
)
from amodal.data.table.section import Section
from amodal.data.table.several import parted
from amodal.data.table.source import Place, Rows
from amodal.data.table.times import SECONDS, TIME_WORDS, durations, limits
from amodal.data.table.words import near_pairs, replaced, say_pairs, spelled
from amodal.errors import DataError, SchemaError

__all__ = ["MAX_CATEGORIES", "Column", "bracketed_units", "check_units", "too_many"]

MAX_CATEGORIES = 100
OTHER = "(other)"
_DAY = 86400.0
_FACTORS = {"k": 1000, "tsd": 1000, "mio": 1_000_000, "mrd": 1_000_000_000}
_UNITS = re.compile(r"[\[(]\s*([^\])]+?)\s*[\])]\s*$")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: The column.
        type: "number", "category", "date" or "duration".
        units: Units of a number, or the units of time that a duration is brought to.
        rule: How numbers are written.
        other_units: Other units that stand in the cells, each with factor and addend: {"degF": (5/9, -160/9)}.
        min: Smallest possible value; smaller ones count as not measured.
        max: Largest possible value.
        scale: Factor that brings a number to its units.
        offset: What is added after that.
        centre: What is subtracted, in double precision, where numbers are too large for single precision.
        categories: Values of a category, in order; None: those met in the data.
        values: What other words for a category (or a number) mean.
        code: "one_hot" (a feature for each category), "ordinal" (the category's position), or "hash" (every word falls
            into one of `buckets`, whatever words there are).
        buckets: Features of a hashed category.
        other: Whether unlisted categories become one more, instead of an error; of more than 100 that are met in the
            data, the most frequent are kept.
        separator: What stands between several words of one cell; each is then 1 where it is named. "" = one
            word a cell.
        format: How dates are written beside ISO 8601, as for `datetime.strptime`; (): found in the data.
        since: Column with the date from which days are counted, or those of its date and of its time of day; ():
            1970-01-01.
        since_format: How the dates of `since` are written beside ISO 8601; (): found in the data.
        may_be_empty: Whether it is no error if no cell is measured.
    """

    name: str
    type: str = "number"
    units: str = ""
    rule: NumberRule = PLAIN
    other_units: Mapping[str, tuple[float, float]] | None = None
    min: float | None = None
    max: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    centre: float = 0.0
    categories: tuple[str, ...] | None = None
    values: Mapping[str, str] | None = None
    code: str = "one_hot"
    buckets: int = 64
    other: bool = False
    separator: str = ""
    format: tuple[str, ...] = ()
    since: tuple[str, ...] = ()
    since_format: tuple[str, ...] = ()
    may_be_empty: bool = False

    @classmethod
    def read(cls, name: str, section: Section) -> Column:
        """Reads it from a schema."""
        kind = section.choice("type", ("number", "category", "date", "duration"), "number")
        column = cls(name, kind, may_be_empty=section.flag("may_be_empty", False))
        column = replace(column, values=section.mapping("values") or None)
        column = column._with_category(section) if kind == "category" else column._with_range(section)
        if kind == "number":
            column = replace(
                column,
                units=section.text("units", ""),
                rule=NumberRule.read(section),
                other_units=read_other_units(section),
                scale=section.number("scale", 1.0),
                offset=section.number("offset", 0.0),
                centre=section.number("centre", 0.0),
            )
            check_units(section.where, name, column.units)
        if kind == "duration":
            column = replace(column, units=section.choice("units", SECONDS), rule=NumberRule.read(section))
        if kind == "date":
            column = replace(
                column,
                format=section.words("format", ()),
                since=section.moment("since", ()),
                since_format=section.words("since_format", ()),
            )
        section.done()
        return column

    def _with_category(self, section: Section) -> Column:
        column = replace(
            self,
            categories=section.texts("categories", None),
            code=section.choice("code", ("one_hot", "ordinal", "hash"), "one_hot"),
            buckets=section.integer("buckets", 64, least=2, most=4096),
            other=section.flag("other", False),
            separator=section.text("separator", ""),
        )
        if column.categories is not None and not 1 <= len(column.categories) <= MAX_CATEGORIES:
            raise too_many(section.place("categories"), len(column.categories))
        if column.code == "hash" and (column.categories is not None or column.other):
            raise SchemaError(f"{section.where}: a hashed category takes any word",
                              hint="Take out `categories` and `other`, or `code: hash`.")  # fmt: skip
        if column.code == "ordinal" and (column.other or column.separator):
            got = "other: true" if column.other else "separator"
            raise SchemaError(f"{section.where}: an ordinal category has no place for others or several", got=got)
        return column

    def _with_range(self, section: Section) -> Column:
        column = replace(self, min=section.number("min", None), max=section.number("max", None))
        if column.min is not None and column.max is not None and column.min >= column.max:
            raise SchemaError(f"{section.where}: min is not below max", got=f"{column.min:g} … {column.max:g}")
        return column

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: what differs from the defaults."""
        plain, found = Column(""), {}
        keys = (
            "type",
            "units",
            "min",
            "max",
            "scale",
            "offset",
            "centre",
            "code",
            "buckets",
            "other",
            "separator",
            "may_be_empty",
        )
        for key in keys:
            if getattr(self, key) != getattr(plain, key):
                found[key] = getattr(self, key)
        found |= self.rule.to_json()
        lists = ("format", "since", "since_format")
        found |= {key: list(getattr(self, key)) for key in lists if getattr(self, key)}
        if self.categories is not None:
            found["categories"] = list(self.categories)
        if self.values is not None:
            found["values"] = dict(self.values)
        if self.other_units is not None:
            found["other_units"] = write_other_units(self.other_units)
        return found

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the numbers that it becomes."""
        if self.type != "category" or self.code == "ordinal":
            return (self.name,)
        if self.code == "hash":
            return tuple(f"{self.name}#{bucket}" for bucket in range(self.buckets))
        words = (*(self.categories or ()), *((OTHER,) if self.other else ()))
        return tuple(f"{self.name}={word}" for word in words)

    @property
    def feature_units(self) -> str:
        """Units of the numbers that it becomes."""
        if self.type == "date":
            return "days"
        return f"{self.units} above {self.centre:.0f}".strip() if self.centre else self.units

    def describe(self) -> str:
        """Description of the column in a few words."""
        if self.type == "category" and self.code == "hash":
            return f"{self.name}, any word hashed to {self.buckets}"
        if self.type == "category":
            words = self.categories or ()
            shown = ", ".join(words[:5]) + (f", … ({len(words)})" if len(words) > 5 else "")
            return f"{self.name} one of {shown}{' or another' if self.other else ''}"
        since = f" since {' '.join(self.since)}" if self.since else " since 1970" if self.type == "date" else ""
        return f"{self.name}{f' in {self.feature_units}' if self.feature_units else ''}{since}"

    def numbers(self, rows: Rows, place: Place, where: str, accept: Mapping[str, float] | None = None) -> np.ndarray:
        """Its cells as numbers, float64 (n, features), NaN where not measured; every cell is accounted for.

        Args:
            rows: The rows.
            place: Where the data lie.
            where: The modality, under whose name cells are counted.
            accept: Shares of what may be lost, by the keys of `LIMITS`.
        """
        cells = rows.columns.get(self.name)
        if cells is None:
            return np.full((len(rows.ids), len(self.features)), np.nan)
        spot = f"{where}.{self.name}"
        if self.type == "category":
            found = self._coded(cells, rows, place, spot)
        else:
            read = {"number": self._measured, "date": self._days, "duration": self._spans}[self.type]
            found = self._in_range(read(cells, rows, place, spot), rows, place.problems, spot, accept or {})[:, None]
        place.problems.enter(spot, len(found), measured=int((~np.isnan(found[:, 0])).sum()))
        return found - self.centre if self.centre else found

    def _measured(self, cells: Any, rows: Rows, place: Place, spot: str) -> np.ndarray:
        problems = place.problems
        if self.values:
            import pyarrow as pa

            cells = pa.array(replaced(texts(cells, place.missing), self.values), pa.string())
        found = numbers(cells, place.missing, self.rule.over(place.reading.numbers))
        problems.enter(spot, 0, empty=int(found.empty.sum()))
        advice = "; or take it as `type: category`"
        tell_numbers(problems, found, cells, rows.ids, f"column {self.name!r}", spot, self.units, advice)
        values = found.values
        if found.units is not None:
            values = self._in_units(values, found.units, rows.ids, cells, problems, spot)
        return values * self.scale + self.offset

    def _in_units(
        self, values: np.ndarray, said: np.ndarray, ids: np.ndarray, cells: Any, problems: Problems, spot: str
    ) -> np.ndarray:
        units = self.units or bracketed_units(self.name) or ""

        def refuse(word: str, at: np.ndarray) -> None:
            at = at & ~np.isnan(values)
            if units:
                line = f"`other_units: {{{word!r}: {{scale: …, offset: …}}}}`"
                hint = f"Say how to convert: {line}, or, if it is a mark and no unit, `flags: [{word!r}]`."
            else:
                hint = f"Write `units: {word!r}` for the column, or, if it is a mark and no unit, `flags: [{word!r}]`."
            if word.casefold() in TIME_WORDS and (not units or units in SECONDS):
                hint = f"If it is a span of time, write `type: duration, units: {units or 'days'}`. {hint}"
            if word.casefold().rstrip(".") in _FACTORS:
                factor = _FACTORS[word.casefold().rstrip(".")]
                hint = f"If it is a factor, write `other_units: {{{word!r}: {{scale: {factor}}}}}`."
            elif re.match(r"[x×·*]? ?10", word):
                hint = (
                    f"A power of ten is a factor or a unit: if every cell has it, write `units: {word!r}`, otherwise "
                    "correct the cells, or map them with `values`."
                )
            if '"' in word:
                hint = 'A quote that stands alone: a text in quotes ends before it, or it must be written twice ("").'
            shown = cells.take(np.flatnonzero(at)).to_pylist()
            if any(like_month(str(cell)) for cell in shown[:5]):
                hint = TURNED
            problems.grave(
                f"column {self.name!r}: {word!r} stands beside the number",
                ids[at],
                shown,
                expected=f"numbers in {units}" if units else "numbers alone, as the schema states no units",
                hint=hint,
                lost=spot,
            )

        return in_units(values, said, units, self.other_units, refuse)

    def _spans(self, cells: Any, rows: Rows, place: Place, spot: str) -> np.ndarray:
        words_ = replaced(texts(cells, place.missing), self.values)
        plain, sign = limits(words_)
        found, bad = durations(plain, self.units)
        place.problems.enter(spot, 0, empty=int(sum(word is None for word in words_)))
        rule = self.rule.over(place.reading.numbers).censored
        limited = (sign != 0) & ~bad
        if rule in ("", "error"):
            bad = bad | limited
            found = np.where(limited, np.nan, found)
        found = np.where(limited & (rule == "missing"), np.nan, found)
        found = np.where(limited & (sign < 0) & (rule == "half"), found / 2, found)
        read = Numbers(found, bad & False, bad, bad & False, sign * limited.astype(np.int8), bad & False, None)
        tell_limits(place.problems, read, words_, rows.ids, f"column {self.name!r}", spot)
        bad = bad & ~limited
        place.problems.grave(
            f"column {self.name!r}: not a duration",
            rows.ids[bad],
            words_[bad],
            expected="3 d 4 h, 62 y, 18 months, 27:30:00, P3DT4H, or a bare number in " + self.units,
            hint="Correct them, map them with `values`, or list words for an empty cell under `missing`; `m` alone may "
            "be minutes or months: write min or mo.",
            lost=spot,
        )
        return found

    def _days(self, cells: Any, rows: Rows, place: Place, spot: str) -> np.ndarray:
        words_ = texts(cells, place.missing)
        place.problems.enter(spot, 0, empty=int(sum(word is None for word in words_)))
        at = read_moments(words_, self.format, place, rows.ids, f"column {self.name!r}", "format", spot)
        if not self.since:
            return at.seconds / _DAY
        since = " and ".join(map(repr, self.since))
        if not set(self.since) <= set(rows.columns):
            place.problems.add(
                f"column {self.name!r}: there is no {since} to count from", rows.ids[~np.isnan(at.seconds)],
                lost=spot,
            )  # fmt: skip
            return np.full(len(words_), np.nan)
        given, half = moment_texts(rows.columns, self.since, place.missing)
        tell_half(place.problems, rows.ids[half], f"column {since}")
        origin = read_moments(given, self.since_format, place, rows.ids, f"column {since}", "since_format", "")
        check_clocks(at, origin, place, f"column {self.name!r} and {since}")
        lacking = np.isnan(origin.seconds) & ~np.isnan(at.seconds)
        place.problems.add(f"column {self.name!r}: {since} is empty, no date to count from",
                           rows.ids[lacking], lost=spot)  # fmt: skip
        return (at.seconds - origin.seconds) / _DAY

    def _in_range(
        self, found: np.ndarray, rows: Rows, problems: Problems, spot: str, accept: Mapping[str, float]
    ) -> np.ndarray:
        low = -np.inf if self.min is None else self.min
        high = np.inf if self.max is None else self.max
        out = (found < low) | (found > high)
        if not out.any():
            return found
        n_measured = int((~np.isnan(found)).sum())
        if (
            problems.strict
            and n_measured >= 10
            and out.sum() > accept.get("out_of_range", LIMITS["out_of_range"]) * n_measured
        ):
            middle = float(np.nanmedian(found))
            raise DataError(
                f"column {self.name!r}: {out.sum() / n_measured:.0%} of {n_measured} cells are out of range",
                expected=f"{between(low, high)}{f' {self.units}' if self.units else ''}",
                got=f"a median of {middle:g}",
                hint="Are they in other units? Convert with `scale` and `offset`, or correct `units`, min and max; if "
                f"it is right, `accept: {{out_of_range: 1}}` under modalities.{spot.partition('.')[0]}.",
            )
        problems.add(
            f"column {self.name!r}: out of range {between(low, high)}, taken as not measured",
            rows.ids[out],
            found[out],
            lost=spot,
        )
        return np.where(out, np.nan, found)

    def words(self, cells: Any, reading: Reading) -> np.ndarray:
        """The cells of a category as words, object (n,), None where empty."""
        found = words(cells, reading.missing, ignore_case=reading.ignore_case)
        return replaced(found, self.values, ignore_case=reading.ignore_case)

    def _parted(self, cell: str) -> list[str]:
        return parted(cell, self.separator, bare=True) if self.separator else [cell]

    def parts(self, cells: Any, reading: Reading) -> list[list[str] | None]:
        """The words of each cell, of which `separator` may part several; None where it is empty."""
        found = words(cells, reading.missing, ignore_case=reading.ignore_case)
        parts = [None if cell is None else self._parted(cell) for cell in found]
        flat = np.array([*(part for own in parts for part in own or ()), None], object)[:-1]
        named = iter(replaced(flat, self.values, ignore_case=reading.ignore_case))
        return [None if own is None else [str(next(named)) for _ in own] for own in parts]

    def _many_hot(self, cells: Any, rows: Rows, place: Place, spot: str) -> np.ndarray:
        ignore_case = place.reading.ignore_case
        places = {spelled(word, ignore_case=ignore_case): i for i, word in enumerate(self.categories or ())}
        coded, unknown = np.zeros((len(rows.ids), len(self.features))), []
        own = self.parts(cells, place.reading)
        for i, parts in enumerate(own):
            if parts is None:
                coded[i] = np.nan
            for part in parts or ():
                at = places.get(spelled(part, ignore_case=ignore_case), len(places))
                if at < coded.shape[1]:
                    coded[i, at] = 1.0
                if at == len(places):
                    unknown.append((rows.ids[i], part))
        place.problems.enter(spot, 0, empty=sum(parts is None for parts in own))
        ids, words_ = [row for row, _ in unknown], [part for _, part in unknown]
        if self.other:
            place.problems.add(f"column {self.name!r}: none of the categories, taken as {OTHER}", ids, words_)
            return coded
        place.problems.grave(
            f"column {self.name!r}: unknown category",
            ids,
            words_,
            expected=f"one of {', '.join((self.categories or ())[:20])}",
            hint="Add it to `categories`, map it with `values`, or write `other: true`.",
        )
        return coded

    def _hashed(self, cells: Any, rows: Rows, place: Place, spot: str) -> np.ndarray:
        """How often each bucket's words are named in each cell, (n, buckets); NaN where it is empty."""
        own = self.parts(cells, place.reading)
        coded, known = np.zeros((len(rows.ids), self.buckets)), dict[str, int]()
        for i, parts in enumerate(own):
            coded[i] = np.nan if parts is None else 0.0
            for word in parts or ():
                if word not in known:
                    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
                    known[word] = int.from_bytes(digest, "big") % self.buckets
                coded[i, known[word]] += 1.0
        place.problems.enter(spot, 0, empty=sum(parts is None for parts in own))
        return coded

    def _coded(self, cells: Any, rows: Rows, place: Place, spot: str) -> np.ndarray:
        if self.code == "hash":
            return self._hashed(cells, rows, place, spot)
        if self.separator:
            return self._many_hot(cells, rows, place, spot)
        found, ignore_case = self.words(cells, place.reading), place.reading.ignore_case
        places = {spelled(word, ignore_case=ignore_case): i for i, word in enumerate(self.categories or ())}
        codes = np.array(
            [-1 if word is None else places.get(spelled(word, ignore_case=ignore_case), -1) for word in found],
            dtype=np.int64,
        )
        empty = np.array([word is None for word in found], dtype=bool)
        unknown = (codes < 0) & ~empty
        place.problems.enter(spot, 0, empty=int(empty.sum()))
        if self.other:
            codes[unknown] = len(places)
            place.problems.add(f"column {self.name!r}: none of the categories, taken as {OTHER}", rows.ids[unknown],
                               found[unknown])  # fmt: skip
        elif unknown.any():
            near = say_pairs(near_pairs(set(found[unknown]), places))
            place.problems.grave(
                f"column {self.name!r}: unknown category",
                rows.ids[unknown],
                found[unknown],
                expected=f"one of {', '.join(self.categories or ())}",
                hint=(f"{near} " if near else "")
                + "Add it to `categories`, map it with `values`, list it under `missing`, or write `other: true`.",
                lost=spot,
            )
        if self.code == "ordinal":
            return np.where(codes < 0, np.nan, codes.astype(np.float64))[:, None]
        coded = np.zeros((len(found), len(self.features)))
        known = np.flatnonzero(codes >= 0)
        coded[known, codes[known]] = 1.0
        coded[codes < 0] = np.nan
        return coded


def too_many(where: str, count: int) -> SchemaError:
    """The error for a category with no or too many values."""
    return SchemaError(
        f"{where} has {count:,} categories",
        expected=f"1 to {MAX_CATEGORIES}",
        hint=f"Write `other: true` to keep the {MAX_CATEGORIES} most frequent, `code: hash` to take all of them into "
        "64 features, or list the ones that matter under `categories`; or is it a number, an id or a text?"
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
