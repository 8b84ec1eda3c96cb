"""Numbers and dates of a column with everything that is said about them: refused, counted, or read in a certain way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from amodal.data.table.cells import date_formats
from amodal.data.table.numbers import Numbers
from amodal.data.table.problems import Problems
from amodal.data.table.source import Place
from amodal.data.table.times import Moments, moments
from amodal.errors import DataError

__all__ = ["TURNED", "check_clocks", "like_month", "read_moments", "tell_half", "tell_limits", "tell_numbers"]


def tell_numbers(
    problems: Problems, found: Numbers, cells: Any, ids: np.ndarray, what: str, lost: str, units: str = "",
    advice: str = "",
) -> None:  # fmt: skip
    """Refuses or counts the cells that are no numbers, and counts those that are read in a certain way.

    Args:
        problems: Takes them.
        found: The cells, read.
        cells: The cells, an Arrow array.
        ids: Ids of their rows.
        what: The column, in words.
        lost: The place whose cells are lost.
        units: The column's units, for messages.
        advice: What else could be done about words.
    """

    def shown(rows: np.ndarray) -> list[str]:
        return [str(cell).strip() for cell in cells.take(np.flatnonzero(rows)).to_pylist()]

    expected = f"a number{f' in {units}' if units else ''}, or an empty cell"
    limited = found.bad & (found.limits != 0)
    tell_limits(problems, found, cells, ids, what, lost)
    problems.grave(
        f"{what}: thousands or decimals",
        ids[found.ambiguous],
        shown(found.ambiguous) if found.ambiguous.any() else (),
        expected=expected,
        hint="Say what its comma and point mean: `thousands: ','` (1,234 is 1234) or `decimal: ','` (it is 1.234).",
        lost=lost,
    )
    bad = found.bad & ~limited & ~found.ambiguous
    if bad.any():
        words = shown(bad)
        problems.grave(
            f"{what}: not a number", ids[bad], words, expected=expected, hint=_hint(words[:5], advice), lost=lost
        )  # fmt: skip
    if found.truth:
        problems.say(f"{what}: true and false are taken as the numbers 1 and 0")
    if found.mixed.any():
        problems.add(f"{what}: with the other decimal mark than the column", ids[found.mixed], shown(found.mixed))


def tell_limits(problems: Problems, found: Numbers, cells: Any, ids: np.ndarray, what: str, lost: str) -> None:
    """Refuses limits where the schema does not say what becomes of them, and counts them where it does.

    Args:
        problems: Takes them.
        found: The cells, read.
        cells: The cells, an Arrow array or object (n,).
        ids: Ids of their rows.
        what: The column, in words.
        lost: The place whose cells are lost.
    """
    if not found.limits.any():
        return

    def shown(rows: np.ndarray) -> list[str]:
        return [str(cell).strip() for cell, chosen in zip(_listed(cells), rows) if chosen]

    limited = found.bad & (found.limits != 0)
    problems.grave(
        f"{what}: a limit, not a number",
        ids[limited],
        shown(limited),
        expected="numbers, or empty cells",
        hint="Say what it becomes: `censored: limit` (the limit itself), `half` (half of it, below one) or `missing`.",
        lost=lost,
    )
    for sign, word in ((-1, "below"), (1, "above")):
        rows = (found.limits == sign) & ~found.bad
        gone = rows & np.isnan(found.values)
        problems.add(f"{what}: {word} a limit, taken as not measured", ids[gone], shown(gone), lost=lost)
        taken = rows & ~gone
        problems.add(f"{what}: {word} a limit, taken as a number", ids[taken], shown(taken))


def _listed(cells: Any) -> list[Any]:
    return cells.tolist() if isinstance(cells, np.ndarray) else cells.to_pylist()


_MONTH = re.compile(
    r"(?i)^(?:[0-9]{1,2}[.-]? ?)?(?:jan|feb|mar|mär|mrz|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez)[a-zä]{0,6}\.?"
    r"(?:[ -]?[0-9]{1,4})?$|^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T].*)?$"
)
TURNED = (  # advice for numbers that are days or months
    "Has Excel turned numbers such as 2.1 into dates? They cannot be restored from these: export the column again, as "
    "text. If it is a date, write `type: date`."
)


def like_month(cell: str) -> bool:
    """Whether a cell of numbers is a day or a month, as spreadsheets make of 2.1 and 2-3.

    Example:
        >>> like_month("01. Feb"), like_month("Jan 02"), like_month("2024-02-01"), like_month("5 mg")
        (True, True, True, False)
    """
    return _MONTH.match(cell.strip()) is not None


def _hint(cells: Sequence[str], advice: str) -> str:
    word = cells[0]
    if any(like_month(cell) for cell in cells):
        return TURNED
    if any("\n" in cell or "\r" in cell for cell in cells):
        return 'Several lines in one cell: is a quote before it not closed? Write it twice (""), or take it away.'
    if word[:1] == "[":
        return "Several numbers in one cell: give each a column of its own."
    if any(re.fullmatch(r"\(.*\)|[0-9.,]+ ?[-−]", cell) for cell in cells):
        return (
            "If brackets or a minus at the end mean a negative number, map such cells with `values`, or correct them."
        )
    if any(re.match(r"[0-9.,]+ ?[-/–] ?[0-9]", cell) for cell in cells):
        return f"A range or a pair is not one number: map it with `values` ({{{word!r}: …}}), or correct it."
    if any(cell[:1].isdigit() and cell[-1:] in "*+!?#)" for cell in cells):
        return (
            f"If the mark says nothing about the value, write `flags: [{word[-1:]!r}]`; or map the cells with `values`."
        )
    if any(":" in cell for cell in cells):
        return (
            "If it is a span, write `type: duration`; if it is a date, `type: date`; a ratio is mapped with `values`."
        )
    mark = re.match(r"^([^0-9\s<>]{1,4})\s*[0-9]", word)
    if mark:
        return f"If {mark[1]!r} says nothing about the value, write `flags: [{mark[1]!r}]`; or map cells with `values`."
    return f"Correct them, map them with `values`, or list words for an empty cell under `missing`{advice}."


def tell_half(
    problems: Problems, ids: np.ndarray, what: str, *, where: str = "", lost: str = "", accepted: bool = False
) -> None:
    """Refuses dates without their time of day, and times of day without a date, or counts them where that is accepted.

    Args:
        problems: Takes them.
        ids: Ids of the rows.
        what: The columns, in words.
        where: The modality in the schema that could accept them; "" = none can.
        lost: The place whose rows are lost.
        accepted: Whether the schema accepts them.
    """
    said = f"{what}: a date without a time of day, or the other way round"
    if accepted:
        problems.add(f"{said}, left out", ids, lost=lost)
        return
    hint = "Fill in the other cell, or empty both"
    hint += f"; `accept: {{half_time: 1}}` under {where} leaves them out, counted." if where else "."
    problems.grave(said, ids, expected="both cells filled, or both empty", hint=hint, lost=lost)


def read_moments(
    words: np.ndarray, formats: Sequence[str], place: Place, ids: np.ndarray, what: str, key: str, lost: str
) -> Moments:
    """Texts as points in time; what is no date, could be two days, or has other clocks is refused or counted.

    Args:
        words: Texts, None where empty, object (n,).
        formats: Formats that are understood beside ISO 8601.
        place: Where the data lie.
        ids: Ids of the rows.
        what: The column, in words.
        key: The schema's key that names the format, for messages.
        lost: The place whose cells are lost; "" = none.
    """
    found = moments(words, formats, place.reading.timezone)
    problems = place.problems
    if found.bad.any():
        clash = found.ambiguous
        shown = " and ".join(formats)
        problems.grave(
            f"{what}: day and month cannot be told apart",
            ids[clash],
            words[clash],
            expected=f"dates that {shown} read alike",
            hint="Two formats are in the column; write all in one, or these in full.",
            lost=lost,
        )
        bad = found.bad & ~clash
        problems.grave(
            f"{what}: not a date",
            ids[bad],
            words[bad],
            expected=f"dates like {' or '.join(['2026-01-31 08:30', *formats])}",
            hint=_date_hint(words[bad], key),
            lost=lost,
        )
    there = ~np.isnan(found.seconds)
    if not place.reading.timezone and problems.strict and found.offset.any() and (there & ~found.offset).any():
        with_, without = words[found.offset][0], words[there & ~found.offset][0]
        raise DataError(
            f"{what}: times with and without an offset from Greenwich, like {with_!r} and {without!r}",
            expected="one kind of clock",
            hint="Say where the clocks without an offset stand, at the top of the schema: `timezone: Europe/Berlin`.",
        )
    problems.add(f"{what}: a time at which clocks change, taken as the earlier", ids[found.clock], words[found.clock])
    return found


_WITHOUT_DAY = (
    (r"(1[89]|20|21)[0-9]{2}", "%Y"),
    (r"[0-9]{4}-[0-9]{2}", "%Y-%m"),
    (r"[0-9]{1,2}/[0-9]{4}", "%m/%Y"),
    (r"[0-9]{1,2}\.[0-9]{4}", "%m.%Y"),
    (r"[^\W\d]{3,4}\.? [0-9]{4}", "%b %Y"),
    (r"[^\W\d]{4,}\.? [0-9]{4}", "%B %Y"),
)


def _date_hint(cells: np.ndarray, key: str) -> str:
    """Advice for cells that are not yet read as dates."""
    some = [str(cell) for cell in cells[:20]]
    for pattern, form in _WITHOUT_DAY:
        if all(re.fullmatch(pattern, cell) for cell in some):
            return f"If they are dates whose day is not known, `{key}: {form!r}` takes the first."
    if any(re.search(r"(^|[./-])00?([./-]|$)", cell) for cell in some):
        return (
            "Zeros for a day or month that is not known are no date: list such cells under `missing`, or correct them."
        )
    if all(re.fullmatch(r"[0-9]+([.][0-9]+)?", cell) for cell in some):
        largest = max(float(cell) for cell in some)
        form = "excel" if largest < 200_000 else "unix" if largest < 1e11 else "unix_ms"
        said = {"excel": "days as Excel counts them", "unix": "seconds since 1970",
                "unix_ms": "thousandths of seconds since 1970"}[form]  # fmt: skip
        return f"If the numbers are {said}, write `{key}: {form}`."
    if all(re.fullmatch(r"[0-2]?[0-9]:[0-5][0-9](:[0-5][0-9])?", cell) for cell in some):
        return (
            "A time of day alone is no date: name the date's column before it, `time: [date, time]`, or write "
            "`type: duration`."
        )
    zone = re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9:]{5,8} ?([A-Z]{3,4})", some[0])
    if zone:
        return (
            "A zone by its letters is not known: if all times stand in one, write its letters into the format, "
            f"`{key}: '%Y-%m-%d %H:%M {zone[1]}'`, and say where by `timezone: Europe/Berlin`."
        )
    short = re.match(r"^[0-9]{1,2}([./-])[0-9]{1,2}[./-][0-9]{2}(?![0-9])", some[0])
    if short:
        form = f"%d{short[1]}%m{short[1]}%y"
        return (
            f"Years of two digits are read only if you say so: `{key}: {form!r}` takes 00 to 68 as 2000 to 2068, 69 to "
            "99 as 1969 to 1999. Is that right for these?"
        )
    like = next(iter(date_formats(cells)), "")
    if not like:
        return (
            f"Name the format by `{key}` ('%d.%m.%Y' is 31.01.2026; it may be a list), or list words under `missing`."
        )
    return f"If that is how they are written, say `{key}: {like!r}`; `{key}` may be a list."


def check_clocks(at: Moments, origin: Moments, place: Place, what: str) -> None:
    """Refuses times with an offset beside a date to count from without one, or the other way round."""
    if place.reading.timezone or not place.problems.strict:
        return
    kinds = [bool(found.offset.any()) for found in (at, origin) if (~np.isnan(found.seconds)).any()]
    if len(set(kinds)) == 2:
        raise DataError(
            f"{what}: one has an offset from Greenwich, the other has none",
            expected="one kind of clock",
            hint="Say where the clocks without an offset stand, at the top of the schema: `timezone: Europe/Berlin`.",
        )
