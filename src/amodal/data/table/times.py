"""Dates, times of day and durations as people write them, a column at a time."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

__all__ = ["COUNTS", "SECONDS", "TIME_WORDS", "DateShapes", "Moments", "durations", "limits", "moments"]

SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0, "weeks": 604800.0,
           "months": 365.25 * 7200.0, "years": 365.25 * 86400.0}  # fmt: skip
"""Units of time, in seconds; a year has 365.25 days, a month a twelfth of that."""

_ISO = (
    r"^(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8})"
    r"(?:[T ][0-9]{1,2}:?[0-9]{2}(?::?[0-9]{2}(?:[.,][0-9]+)?)?)? ?(?:Z|[+-][0-9]{2}:?(?:[0-9]{2})?)?$"
)
_OFFSET = r"[0-9]:?[0-9]{2}(?:[.,][0-9]+)? ?(?:Z|[+-][0-9]{2}:?(?:[0-9]{2})?)$"
_TIMES = {"": "", "9:9": "%H:%M", "9:9:9": "%H:%M:%S", "9:9:9.9": "%H:%M:%S.%f", "9:9 A": "%I:%M %p",
          "9:9:9 A": "%I:%M:%S %p"}  # fmt: skip


COUNTS = {"excel": (-2209161600.0, 86400.0), "unix": (0.0, 1.0), "unix_ms": (0.0, 0.001)}
"""Formats of dates that are numbers, each with its beginning and its unit in seconds: Excel's days, Unix's seconds and
thousandths of them."""

_MONTHS = {r"(?i)\bJanuar\b": "January", r"(?i)\bFebruar\b": "February", r"(?i)\bMärz\b": "March",
           r"(?i)\bMrz\b": "Mar", r"(?i)\bMär\b": "Mar", r"(?i)\bMai\b": "May", r"(?i)\bJuni\b": "June",
           r"(?i)\bJuli\b": "July", r"(?i)\bOktober\b": "October", r"(?i)\bOkt\b": "Oct",
           r"(?i)\bDezember\b": "December", r"(?i)\bDez\b": "Dec", r"(?i)\bSept\b": "Sep",
           r"(?i)\b(?:janvier|enero|gennaio|januari)\b": "January", r"(?i)\bjanv\b": "Jan",
           r"(?i)\b(?:février|fevrier|febrero|febbraio|februari)\b": "February", r"(?i)\b(?:févr|fevr)\b": "Feb",
           r"(?i)\b(?:mars|marzo|maart)\b": "March", r"(?i)\b(?:avril|abril|aprile)\b": "April", r"(?i)\bavr\b": "Apr",
           r"(?i)\b(?:mayo|maggio|mei)\b": "May", r"(?i)\b(?:juin|junio|giugno)\b": "June",
           r"(?i)\b(?:juillet|julio|luglio)\b": "July", r"(?i)\bjuil\b": "Jul",
           r"(?i)\b(?:août|aout|agosto|augustus)\b": "August",
           r"(?i)\b(?:septembre|septiembre|settembre)\b": "September",
           r"(?i)\b(?:octobre|octubre|ottobre)\b": "October",
           r"(?i)\b(?:novembre|noviembre)\b": "November",
           r"(?i)\b(?:décembre|decembre|diciembre|dicembre)\b": "December"}  # fmt: skip


class Moments(NamedTuple):
    """Texts as points in time.

    Attributes:
        seconds: Since 1970 began, float64 (n,), NaN where there is none.
        bad: Cells that are no date, bool (n,).
        ambiguous: Of these, the ones that two of the formats read as different days, bool (n,).
        offset: Whether an offset to Greenwich stands in the cell, bool (n,).
        clock: Times that stand twice, or not at all, on the day when clocks change, bool (n,).
    """

    seconds: np.ndarray
    bad: np.ndarray
    ambiguous: np.ndarray
    offset: np.ndarray
    clock: np.ndarray


def moments(words: np.ndarray, formats: Sequence[str] = (), timezone: str = "") -> Moments:
    """Texts as seconds since 1970; ISO 8601 is always understood.

    Args:
        words: Texts, None where empty, object (n,).
        formats: Formats of `datetime.strptime` that are understood beside.
        timezone: Where clocks without an offset stand, as `Europe/Berlin`; "" = they are taken as they are.
    """
    import pandas as pd
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute
    n = len(words)
    given = pa.array(words, pa.string())
    column = _tidy(given)
    words = words if column is given else np.array([*column.to_pylist(), None], dtype=object)[:-1]
    lettered = bool(pc.any(pc.match_substring_regex(column, r"^\p{L}")).as_py())
    there = ~np.asarray(column.is_null())
    seconds, ambiguous, offset, clock = (np.full(n, np.nan), *(np.zeros(n, bool) for _ in range(3)))
    like_iso = np.asarray(pc.fill_null(pc.match_substring_regex(column, _ISO), False))
    if like_iso.any():
        offset = like_iso & np.asarray(pc.fill_null(pc.match_substring_regex(column, _OFFSET), False))
        for rows, utc in ((np.flatnonzero(like_iso & ~offset), False), (np.flatnonzero(offset), True)):
            if len(rows):
                cells = pc.replace_substring(column.take(pa.array(rows)), ",", ".")
                late = np.asarray(pc.match_substring_regex(cells, "[T ]24:?00(:?00(\\.0+)?)?( ?Z|$|[+-])"))
                cells = pc.replace_substring_regex(cells, "([T ])24", "\\100") if late.any() else cells
                cells = cells.to_numpy(zero_copy_only=False)
                parsed = pd.DatetimeIndex(pd.to_datetime(cells, format="ISO8601", errors="coerce", utc=utc))
                seconds[rows], clock[rows] = _seconds(parsed, "" if utc else timezone)
                seconds[rows] += 86400.0 * late  # ISO's other name for midnight
    for form in formats:
        rows = np.flatnonzero(there & ~ambiguous & (np.isnan(seconds) if form in COUNTS else ~like_iso))
        if not len(rows):
            break
        if form in COUNTS:
            seconds[rows] = _counted(words[rows], form)
            continue
        cells = _without_weekday(words[rows]) if lettered and "%a" not in form.lower() else words[rows]
        cells = _english(cells) if "%b" in form.lower() else cells
        parsed = pd.DatetimeIndex(pd.to_datetime(cells, format=form, errors="coerce", utc="%z" in form))
        found, change = _seconds(parsed, "" if "%z" in form else timezone)
        offset[rows] |= ("%z" in form) & ~np.isnan(found)
        clash = ~np.isnan(found) & ~np.isnan(seconds[rows]) & (found != seconds[rows])
        ambiguous[rows[clash]] = True
        new = np.isnan(seconds[rows])
        seconds[rows[new]], clock[rows[new]] = found[new], change[new]
    seconds[ambiguous] = np.nan
    return Moments(seconds, there & np.isnan(seconds), ambiguous, offset, clock)


_WEEKDAY = (
    r"(?i)^(?:mo|di|mi|do|fr|sa|so|mon|tue?s?|wed|thu?r?s?|fri|sat|sun|montag|dienstag|mittwoch|donnerstag|freitag|"
    r"samstag|sonntag|(?:mon|tues|wednes|thurs|fri|satur|sun)day|lundi|mardi|mercredi|jeudi|vendredi|samedi|dimanche)"
    r"\.?,? +([0-9])"
)


def _tidy(column: Any) -> Any:
    """An Arrow array of texts with one blank between words."""
    from pyarrow import compute

    pc: Any = compute
    odd = pc.any(pc.match_substring_regex(column, r"\s\s|[\t\x{a0}\x{202f}]")).as_py()
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(column, r"[\s\x{a0}\x{202f}]+", " ")) if odd else column


def _without_weekday(words: np.ndarray) -> np.ndarray:
    """Dates without the day of the week in front, which says nothing beside a date."""
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute
    column = pc.replace_substring_regex(pa.array(words, pa.string()), _WEEKDAY, r"\1")
    return np.array([*column.to_pylist(), None], dtype=object)[:-1]


def _counted(words: np.ndarray, form: str) -> np.ndarray:
    """Dates that are numbers, as seconds, NaN where there is none."""
    import pandas as pd

    start, unit = COUNTS[form]
    plain = pd.Series(words, dtype=object).str.replace(",", ".", regex=False)
    return start + unit * np.asarray(pd.to_numeric(plain, errors="coerce"), dtype=np.float64)


def _english(words: np.ndarray) -> np.ndarray:
    """Dates with the names of months in English: German, French, Spanish, Italian and Dutch ones are known."""
    import pandas as pd

    cells = pd.Series(words, dtype=object).str.replace(r"(?<=[A-Za-zä])\.|(?<=^\d)\.|(?<=^\d\d)\.", "", regex=True)
    return cells.replace(_MONTHS, regex=True).to_numpy(dtype=object)


def _seconds(parsed: Any, timezone: str) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of a pandas index of dates, NaN where there is none, and which clocks were changing."""
    clock = np.zeros(len(parsed), bool)
    if timezone and parsed.tz is None:
        there = np.asarray(~parsed.isna())
        first = parsed.tz_localize(timezone, ambiguous=np.ones(len(parsed), bool), nonexistent="shift_forward")
        second = parsed.tz_localize(timezone, ambiguous=np.zeros(len(parsed), bool), nonexistent="shift_backward")
        clock = there & np.asarray(first != second)
        parsed = first
    plain = parsed.tz_convert("UTC").tz_localize(None) if parsed.tz is not None else parsed
    whole = plain.as_unit("us").asi8.astype(np.float64) / 1e6
    return np.where(np.asarray(plain.isna()), np.nan, whole), clock


@dataclass
class DateShapes:
    """The formats that a column's dates need, learnt from all of its cells.

    Attributes:
        shapes: How often each shape of a cell comes: 9 for digits, A for letters.
        first: Largest first number by shape: above 12 it is the day.
        second: Largest second number by shape: above 12 it is the day.
        example: A cell of each shape.
    """

    shapes: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    second: dict[str, int] = field(default_factory=dict)
    example: dict[str, str] = field(default_factory=dict)

    def add(self, words: np.ndarray) -> None:
        """Takes in some texts, None where empty."""
        import pyarrow as pa
        from pyarrow import compute

        pc: Any = compute
        column = pc.replace_substring_regex(_tidy(pa.array(words, pa.string())), _WEEKDAY, r"\1")
        column = column.filter(pc.fill_null(pc.invert(pc.match_substring_regex(column, _ISO)), False))
        if not len(column):
            return
        shapes = pc.replace_substring_regex(column, "[0-9]+", "9")
        shapes = pc.replace_substring_regex(shapes, r"\p{L}+", "A")
        for entry in pc.value_counts(shapes).to_pylist():
            shape = entry["values"]
            self.shapes[shape] += entry["counts"]
            if len(self.shapes) > 200:
                return
            cells = column.filter(pc.equal(shapes, shape))
            self.example.setdefault(shape, cells[0].as_py())
            if re.match(r"^9[./-]9[./-]9", shape):
                numbers = pc.extract_regex(cells, r"^(?P<a>[0-9]{1,4})[./-](?P<b>[0-9]{1,4})[./-]")
                for key, largest in (("a", self.first), ("b", self.second)):
                    top = pc.max(pc.cast(pc.struct_field(numbers, key), pa.int64())).as_py() or 0
                    largest[shape] = max(largest.get(shape, 0), top)

    def formats(self) -> tuple[tuple[str, ...], str]:
        """The formats, and a cell of which day and month cannot be told apart ("" = none)."""
        found: list[str] = []
        for shape, _ in self.shapes.most_common():
            forms, sure = self._of(shape)
            if not sure:
                return tuple(found), self.example[shape]
            found += [form for form in forms if form not in found]
        return tuple(found), ""

    def _of(self, shape: str) -> tuple[list[str], bool]:
        cell = self.example[shape]
        parts = re.match(r"^(9([./-])9\2(9))((?:,? |T)?)(.*)$", shape)
        if parts is None:
            return _with_names(cell), True
        mark, between, clock = parts[2], parts[4], _TIMES.get(parts[5])
        if parts[5].endswith(" A") and cell.endswith(" Uhr"):
            clock = f"{_TIMES[parts[5].removesuffix(' A')]} Uhr"
        if clock is not None and "%p" in clock and not re.search(r"(?i)[ap]m$", cell):
            clock = None
        years = re.match(r"^([0-9]+)[./-]([0-9]+)[./-]([0-9]+)", cell)
        if clock is None or years is None:
            return [], True
        rest = f"{between}{clock}"
        if len(years[1]) == 4:
            return [f"%Y{mark}%m{mark}%d{rest}"], True
        if len(years[3]) != 4:
            return [], True
        day_first, month_first = f"%d{mark}%m{mark}%Y{rest}", f"%m{mark}%d{mark}%Y{rest}"
        if mark == ".":
            return [day_first], True
        forms = [day_first] if self.first[shape] > 12 else []
        forms += [month_first] if self.second[shape] > 12 else []
        return (forms, True) if forms else ([day_first, month_first], False)


def _with_names(cell: str) -> list[str]:
    """The format of a date with an English month's name."""
    from datetime import datetime

    cell = str(_english(np.array([cell], dtype=object))[0])
    for day in ("%d %b %Y", "%d %B %Y", "%a, %d %b %Y", "%A, %d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y",
                "%B %d %Y", "%d-%b-%Y", "%d/%b/%Y", "%d%b%Y"):  # fmt: skip
        for clock in ("", " %H:%M", " %H:%M:%S", ":%H:%M:%S"):
            try:
                datetime.strptime(cell, day + clock)
            except ValueError:
                continue
            return [day + clock]
    return []


# Durations ------------------------------------------------------------------------------------------------------------

_NAMES = {
    "years": "y yr yrs year years j jahr jahre jahren a", "months": "mo mon month months monat monate monaten mth mths",
    "weeks": "w wk wks week weeks wo woche wochen", "days": "d day days tag tage tagen t",
    "hours": "h hr hrs hour hours std stunde stunden", "minutes": "min mins minute minutes minuten",
    "seconds": "s sec secs second seconds sek sekunde sekunden",
}  # fmt: skip
_UNIT_OF = {word: SECONDS[unit] for unit, words in _NAMES.items() for word in words.split()} | {"ms": 0.001}
TIME_WORDS = frozenset(_UNIT_OF)
"""Words for units of time that stand in cells."""
_PART = re.compile(r"\s*([0-9]+(?:[.,][0-9]+)?)\s*([^\W\d_]+)\.?(?:-(?:jährig|old))?\s*(?:,|und|and)?")
_LIMIT = re.compile(r"^([<>≤≥]=?)?\s*(.*?[0-9].*?)\s*(\+)?$")
_CLOCK = re.compile(
    r"^(?:([0-9]+)\s*(?:d|days?|tage?)?,?\s+)?([0-9]+):([0-5]?[0-9])(?::([0-5]?[0-9](?:[.,][0-9]+)?))?$"
)
_PERIOD = re.compile(r"^P(?:([0-9.]+)Y)?(?:([0-9.]+)M)?(?:([0-9.]+)W)?(?:([0-9.]+)D)?"
                     r"(?:T(?:([0-9.]+)H)?(?:([0-9.]+)M)?(?:([0-9.]+)S)?)?$")  # fmt: skip


def limits(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Durations without the signs of a limit (">89", "90+"), object (n,), and -1 below, 1 above, 0 none, int8 (n,)."""
    found = [None if word is None else _LIMIT.match(word) for word in words]
    sign = [0 if m is None else -1 if m[1] and m[1][0] in "<≤" else 1 if m[1] or m[3] else 0 for m in found]
    plain = [word if m is None else m[2] for word, m in zip(words, found)]
    return np.array([*plain, None], dtype=object)[:-1], np.array(sign, dtype=np.int8)


def durations(words: np.ndarray, units: str) -> tuple[np.ndarray, np.ndarray]:
    """Texts such as "3 d 4 h", "62 y", "18 months", "27:30:00" and "P3DT4H" as numbers.

    A bare number is in the stated units.

    Args:
        words: Texts, None where empty, object (n,).
        units: Units of the result: one of `SECONDS`.

    Returns:
        float64 (n,), NaN where empty or no duration, and which cells are none, bool (n,).

    Example:
        >>> durations(np.array(["1 d 12 h", "6", None], dtype=object), "hours")[0].tolist()
        [36.0, 6.0, nan]
    """
    known = {word: _duration(word, SECONDS[units]) / SECONDS[units] for word in set(words.tolist()) - {None}}
    values = np.array([math.nan if word is None else known[word] for word in words], dtype=np.float64)
    return values, np.isnan(values) & np.array([word is not None for word in words], dtype=bool)


def _duration(word: str, bare: float) -> float:
    """One duration in seconds, NaN if it is none."""
    sign, word = (-1.0, word[1:].strip()) if word[:1] in "-−" else (1.0, word)
    if re.fullmatch(r"[0-9]+(?:[.,][0-9]+)?", word):
        return sign * float(word.replace(",", ".")) * bare
    word = re.sub(r"^([0-9]+) ?h ?([0-5][0-9])(?: ?m(?:in)?)?$", r"\1:\2", word)
    word = re.sub(r"(?i)[ -]?(?:jährige?r?|y/?o|years?[ -]olds?)$", " y", word)
    pregnancy = re.fullmatch(r"([0-9]{1,2}) ?\+ ?([0-6])", word) if bare == SECONDS["weeks"] else None
    if pregnancy:  # 39+4: weeks and days
        return sign * (int(pregnancy[1]) * SECONDS["weeks"] + int(pregnancy[2]) * SECONDS["days"])
    clock = _CLOCK.match(word.casefold())
    if clock:
        days, hours, minutes, seconds = (float((part or "0").replace(",", ".")) for part in clock.groups())
        return sign * (days * 86400 + hours * 3600 + minutes * 60 + seconds)
    period = _PERIOD.match(word) if len(word) > 2 else None
    if period and any(period.groups()):
        sizes = (SECONDS[unit] for unit in ("years", "months", "weeks", "days", "hours", "minutes", "seconds"))
        return sign * sum(float(part) * size for part, size in zip(period.groups(), sizes) if part)
    total, at = 0.0, 0
    while at < len(word):
        part = _PART.match(word, at)
        if part is None or part[2].casefold() not in _UNIT_OF:  # "m" may be minutes or months
            return math.nan
        total += float(part[1].replace(",", ".")) * _UNIT_OF[part[2].casefold()]
        at = part.end()
    return sign * total if at else math.nan
