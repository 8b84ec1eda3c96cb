"""Numbers as people write them: decimal commas, thousands, limits of detection, units and flags in the cell."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from amodal.data.table.section import Section
from amodal.data.table.words import INVISIBLE
from amodal.errors import SchemaError

__all__ = [
    "CENSORED",
    "PLAIN",
    "STORED",
    "Marks",
    "NumberRule",
    "Numbers",
    "between",
    "in_units",
    "numbers",
    "read_other_units",
    "units_key",
    "write_other_units",
]

CENSORED = ("error", "limit", "half", "missing")
"""What becomes of a number known only to lie below or above a limit."""

STORED = "\u2060"
"""What stands, unseen, at the end of a number that a workbook stores, whose point is a decimal mark under any rule."""

_GROUPS = "[ '’]"
_SIGN = r"^([<>≤≥]=?|=[<>])?\s*([+-]?)\s*"
_BODY = r"([0-9][0-9.,'’ ]*(?<![ ])|[.,][0-9]+)((?:[eE][+-]?[0-9]+)?)"
_CELL = re.compile(_SIGN + _BODY + r"\s*(.*)$", re.S)
_MINUS = str.maketrans({"−": "-", "–": "-", "‒": "-", "﹣": "-", "－": "-", "‐": "-", "‑": "-", "＋": "+"})
_POWER = re.compile(r"(?<=[0-9])\s*(?:(?<=\s)|[x*×]\s*)10[\^*eE][0-9]+\s*/.*$")
"""Units such as 10^9/l, which begin with digits."""
_BRACKETED = re.compile(r"^[\[(]\s*([^\W\d][^\])]*|[%/][^\])]*?)\s*[\])]$")
"""Units in brackets, as behind a column's name."""
_TRUTH = {"true": 1.0, "false": 0.0, "wahr": 1.0, "falsch": 0.0}


@dataclass(frozen=True)
class NumberRule:
    """The notation of the numbers of a column.

    Attributes:
        decimal: "." or ","; "" = found in the data.
        thousands: What groups digits: ",", ".", " " or "'"; "" = whatever the decimal mark leaves.
        censored: What becomes of `<0.5` and `>100`: one of `CENSORED`.
        flags: Marks beside a number that are left out: `12.5*`, `7 H`.
    """

    decimal: str = ""
    thousands: str = ""
    censored: str = ""
    flags: tuple[str, ...] = ()

    @classmethod
    def read(cls, section: Section) -> NumberRule:
        """Reads its keys from a schema's section.

        Raises:
            SchemaError: If a mark is none, or both are the same.
        """
        decimal = section.choice("decimal", (".", ","), "")
        thousands = section.choice("thousands", (",", ".", " ", "'"), "")
        if thousands in (",", ".") and not decimal:
            decimal = "." if thousands == "," else ","
        if decimal and decimal == thousands:
            raise SchemaError(f"{section.place('thousands')} is the decimal mark, too", got=repr(decimal))
        return cls(decimal, thousands, section.choice("censored", CENSORED, ""), section.texts("flags", ()))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: what is set."""
        found = {key: getattr(self, key) for key in ("decimal", "thousands", "censored") if getattr(self, key)}
        return found | ({"flags": list(self.flags)} if self.flags else {})

    def over(self, default: NumberRule) -> NumberRule:
        """Itself, with what it leaves open taken from another rule."""
        return NumberRule(
            self.decimal or default.decimal,
            self.thousands or default.thousands,
            self.censored or default.censored,
            self.flags or default.flags,
        )


PLAIN = NumberRule()
"""Nothing said: the decimal mark is found in the data, limits are errors."""


class Numbers(NamedTuple):
    """The cells of a column as numbers.

    Attributes:
        values: float64 (n,), NaN where empty, or no number that can be used.
        empty: Cells that are empty, bool (n,).
        bad: Cells that are no number, bool (n,).
        ambiguous: Of these, the ones whose mark may be of thousands or of decimals, bool (n,).
        limits: -1 for a number below a limit, 1 above one, 0 otherwise, int8 (n,).
        mixed: Cells with the other decimal mark than the column's, where it can only be one, bool (n,).
        units: Units that stand in the cells, object (n,); None if none do.
        truth: Whether some cells are truth values, as spreadsheets write them.
    """

    values: np.ndarray
    empty: np.ndarray
    bad: np.ndarray
    ambiguous: np.ndarray
    limits: np.ndarray
    mixed: np.ndarray
    units: np.ndarray | None
    truth: bool = False


def numbers(column: Any, missing: frozenset[str], rule: NumberRule = PLAIN) -> Numbers:
    """Cells as numbers.

    A number below or above a limit is the limit (or half of it below, as the rule says); where the rule says `error`
    or nothing it is bad, where it says `missing` its value is NaN and its `limits` tells it.

    Args:
        column: An Arrow array of text or numbers.
        missing: Words that stand for an empty cell.
        rule: How they are written.
    """
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute
    n = len(column)
    none, zero = np.zeros(n, bool), np.zeros(n, np.int8)
    if not pa.types.is_string(column.type):
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
        infinite = np.isinf(values)
        return Numbers(np.where(infinite, np.nan, values), np.isnan(values), infinite, none, zero, none, None)
    stored = pc.fill_null(pc.ends_with(column, STORED), False)
    if pc.any(stored).as_py():
        return _with_stored(column, stored, missing, rule)
    column = pc.utf8_trim_whitespace(column)
    is_empty = pc.fill_null(pc.is_in(column, value_set=pa.array(sorted(missing), pa.string())), True)
    is_empty = pc.or_(is_empty, pc.is_null(column))
    column = pc.if_else(is_empty, pa.scalar(None, pa.string()), column)
    empty = is_empty.to_numpy(zero_copy_only=False).astype(bool)
    if rule.decimal != ",":
        try:
            values = column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
            bad = ~np.isfinite(values) & ~empty
            return Numbers(np.where(bad, np.nan, values), empty, bad, none, zero, none, None)
        except pa.ArrowInvalid:
            pass
    mark = rule.decimal or "."
    simple = pc.fill_null(pc.match_substring_regex(column, rf"^-?[0-9]+(\{mark}[0-9]+)?$"), False)
    easy = pc.if_else(simple, column, pa.scalar(None, pa.string()))
    easy = pc.replace_substring(easy, mark, ".") if mark == "," else easy
    values = easy.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    hard = np.flatnonzero(~simple.to_numpy(zero_copy_only=False).astype(bool) & ~empty)
    return _with_hard(column, rule, values, empty, hard)


def _with_stored(column: Any, stored: Any, missing: frozenset[str], rule: NumberRule) -> Numbers:
    """Reads a column of which some cells are numbers as a workbook stores them, whatever the others' decimal mark."""
    import pyarrow as pa
    from pyarrow import compute

    pc: Any = compute
    none = pa.scalar(None, pa.string())
    plain = pc.replace_substring(column, STORED, "")
    found = numbers(pc.if_else(stored, none, plain), missing, rule)
    empty = pc.is_in(plain, value_set=pa.array(sorted(missing), pa.string())).to_numpy(zero_copy_only=False)
    values = pc.if_else(stored, plain, none).cast(pa.float64()).to_numpy(zero_copy_only=False)
    is_stored = stored.to_numpy(zero_copy_only=False).astype(bool)
    return found._replace(
        values=np.where(is_stored, np.where(empty, np.nan, values), found.values),
        empty=np.where(is_stored, empty, found.empty).astype(bool),
    )


def _with_hard(column: Any, rule: NumberRule, values: np.ndarray, empty: np.ndarray, hard: np.ndarray) -> Numbers:
    """Reads the cells that are more than digits and a mark, each distinct one once."""
    import pyarrow as pa

    coded = column.take(pa.array(hard, pa.int64())).dictionary_encode()
    read = [_read(word, rule) for word in coded.dictionary.to_pylist()]
    truth = any(word.strip().casefold() in _TRUTH for word in coded.dictionary.to_pylist())
    codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    values = values.copy()
    bad, ambiguous = np.zeros(len(values), bool), np.zeros(len(values), bool)
    limits, mixed, units = np.zeros(len(values), np.int8), np.zeros(len(values), bool), None
    values[hard] = np.array([r.value for r in read], dtype=np.float64)[codes]
    bad[hard] = np.array([r.problem != "" for r in read], dtype=bool)[codes]
    ambiguous[hard] = np.array([r.problem == "ambiguous" for r in read], dtype=bool)[codes]
    limits[hard] = np.array([r.limit for r in read], dtype=np.int8)[codes]
    mixed[hard] = np.array([r.mixed for r in read], dtype=bool)[codes]
    if any(r.units for r in read):
        units = np.full(len(values), None, dtype=object)
        units[hard] = np.array([*(r.units or None for r in read), None], dtype=object)[:-1][codes]
    return Numbers(values, empty, bad, ambiguous, limits, mixed, units, truth)


class _Cell(NamedTuple):
    value: float
    problem: str = ""
    limit: int = 0
    units: str = ""
    mixed: bool = False


def _read(cell: str, rule: NumberRule) -> _Cell:
    """One cell as a number, or what is wrong with it."""
    word = unicodedata.normalize("NFKC", INVISIBLE.sub("", cell)).translate(_MINUS).strip()
    word = _without_flags(word, rule.flags)
    power = _POWER.search(word)
    word, units = (word[: power.start()], power[0].strip()) if power else (word, "")
    if word.casefold() in _TRUTH:
        return _Cell(_TRUTH[word.casefold()])
    found = _CELL.match(word)
    if found is None or word.casefold() in ("inf", "nan"):
        return _Cell(math.nan, "bad")
    beyond, sign, digits, exponent, rest = found.groups()
    rest = units if power and not rest else _BRACKETED.sub(r"\1", rest)
    if "\n" in cell.strip() or "\r" in cell.strip():
        return _Cell(math.nan, "bad")
    if rest and not power and (rest[0].isdigit() or rest[0] in "-+*.,:<>=~±_⁄" or re.match("/[^a-zµμA-Z]|/$", rest)):
        return _Cell(math.nan, "bad")
    plain, ambiguous = _plain_digits(digits, rule)
    if plain is None:
        return _Cell(math.nan, "ambiguous" if ambiguous else "bad")
    value = float(sign + plain + exponent)
    if not math.isfinite(value):
        return _Cell(math.nan, "bad")
    mixed = rule.decimal != "" and ("." if rule.decimal == "," else ",") in digits and "." in plain
    mixed = mixed and rule.decimal not in digits
    if not beyond:
        return _Cell(value, units=rest, mixed=mixed)
    limit = -1 if beyond[0] in "<≤" or beyond == "=<" else 1
    if rule.censored in ("", "error"):
        return _Cell(math.nan, "censored", limit, rest)
    if rule.censored == "missing":
        return _Cell(math.nan, "", limit, rest)
    return _Cell(value / 2 if rule.censored == "half" and limit < 0 else value, "", limit, rest)


def _without_flags(rest: str, flags: tuple[str, ...]) -> str:
    if not rest or not flags:
        return rest
    rest = " ".join(word for word in rest.split() if word not in flags)
    for flag in sorted(flags, key=len, reverse=True):
        if not flag.isalnum():
            rest = rest.removeprefix(flag).removesuffix(flag).strip()
    return rest


def _plain_digits(digits: str, rule: NumberRule) -> tuple[str | None, bool]:
    """Digits with marks as Python reads them, or None and whether two readings were possible."""
    point, comma = digits.count("."), digits.count(",")
    if re.search(_GROUPS, digits):
        whole, mark, rest = _parted(digits, ("." if point else "," if comma else ""))
        if not re.fullmatch(rf"[0-9]{{1,3}}(?:{_GROUPS}[0-9]{{3}})+", whole) or re.search(rf"{_GROUPS}", rest):
            return None, False
        digits = re.sub(_GROUPS, "", whole) + mark + rest
        return digits.replace(",", "."), False
    if point and comma:
        mark = "." if digits.rindex(".") > digits.rindex(",") else ","
        if rule.decimal and mark != rule.decimal:
            return None, False
        return _ungrouped(digits, mark, "," if mark == "." else "."), False
    if not point and not comma:
        return digits, False
    mark = "." if point else ","
    may_group = re.fullmatch(rf"[1-9][0-9]{{0,2}}(?:\{mark}[0-9]{{3}})+", digits) is not None
    if rule.decimal == mark:
        return (digits.replace(mark, "."), False) if digits.count(mark) == 1 else (None, False)
    if may_group and (rule.decimal or digits.count(mark) > 1):
        return digits.replace(mark, ""), False
    if may_group:
        return None, True
    return (digits.replace(mark, "."), False) if digits.count(mark) == 1 else (None, False)


def _parted(digits: str, mark: str) -> tuple[str, str, str]:
    return digits.partition(mark) if mark else (digits, "", "")


def _ungrouped(digits: str, mark: str, group: str) -> str | None:
    whole, _, rest = digits.rpartition(mark)
    if not re.fullmatch(rf"[0-9]{{1,3}}(?:\{group}[0-9]{{3}})+", whole) or not re.fullmatch("[0-9]*", rest):
        return None
    return whole.replace(group, "") + "." + rest


# What a column's cells say about its marks ----------------------------------------------------------------------------


@dataclass
class Marks:
    """Evidence in the cells of a column about its decimal mark.

    Attributes:
        commas: Cells whose comma can only be a decimal mark.
        points: Cells whose point can only be a decimal mark.
        either: Cells such as 1,234 and 1.234, which can be read in two ways, by mark.
        example: A cell of each sort.
    """

    commas: int = 0
    points: int = 0
    either: Mapping[str, int] | None = None
    example: Mapping[str, str] | None = None

    def add(self, column: Any) -> None:
        """Takes in the cells of an Arrow array of strings."""
        from pyarrow import compute

        pc: Any = compute
        column = column.filter(pc.invert(pc.fill_null(pc.ends_with(column, STORED), False)))
        either, example = dict(self.either or {}), dict(self.example or {})
        comma = pc.fill_null(pc.match_substring(column, ","), False)
        if pc.any(comma).as_py():
            cells = column.filter(comma)
            self.commas += _count(cells, r"^\D*(?:[0-9]*,(?:[0-9]{1,2}|[0-9]{4,})|[0-9]{4,},[0-9]{3}|0?,[0-9]+|"
                                  r"[0-9.]*\.[0-9]{3},[0-9]*)(?:[^0-9.,].*)?$", example, ",")  # fmt: skip
            self.points += _count(cells, r"^\D*[0-9]{1,3}(?:,[0-9]{3})*(?:,[0-9]{3}\.[0-9]*|,[0-9]{3},[0-9]{3})"
                                  r"(?:[^0-9.,].*)?$", example, ".")  # fmt: skip
            n = _count(cells, r"^\D*[1-9][0-9]{0,2},[0-9]{3}(?:[^0-9.,].*)?$", example, "1,234")
            either[","] = either.get(",", 0) + n
        point = pc.fill_null(pc.match_substring(column, "."), False)
        if pc.any(point).as_py():
            cells = column.filter(point)
            self.points += _count(cells, r"^\D*(?:[0-9]*\.(?:[0-9]{1,2}|[0-9]{4,})|[0-9]{4,}\.[0-9]{3}|0?\.[0-9]+)"
                                  r"(?:[^0-9.,].*)?$", example, ".")  # fmt: skip
            self.commas += _count(cells, r"^\D*[0-9]{1,3}\.[0-9]{3}(?:\.[0-9]{3})+(?:[^0-9.,].*)?$", example, ",")
            n = _count(cells, r"^\D*[1-9][0-9]{0,2}\.[0-9]{3}(?:[^0-9.,].*)?$", example, "1.234")
            either["."] = either.get(".", 0) + n
        self.either, self.example = either, example

    def ambiguous(self, mark: str) -> int:
        """Cells that can be read in two ways, with this mark."""
        return (self.either or {}).get(mark, 0)

    def shown(self, sort: str) -> str:
        """A cell of one sort: ",", ".", "1,234" or "1.234"."""
        return (self.example or {}).get(sort, "")


def _count(cells: Any, pattern: str, example: dict[str, str], sort: str) -> int:
    from pyarrow import compute

    pc: Any = compute
    fits = pc.match_substring_regex(cells, pattern)
    count = int(pc.sum(fits).as_py() or 0)
    if count and sort not in example:
        example[sort] = cells.filter(fits)[0].as_py()
    return count


def between(low: float, high: float) -> str:
    """A range in words, of which one end may be infinite.

    Example:
        >>> between(0, 50), between(-math.inf, 50), between(0, math.inf)
        ('0 … 50', '50 or less', '0 or more')
    """
    if math.isinf(low) or math.isinf(high):
        return f"{high:g} or less" if math.isinf(low) else f"{low:g} or more"
    return f"{low:g} … {high:g}"


# Units ---------------------------------------------------------------------------------------------------------------


def units_key(units: str) -> str:
    """Units in one spelling: case of letters, blanks and the signs for micro (u among them) do not matter.

    Example:
        >>> units_key("Mmol / L") == units_key("mmol/l"), units_key("µg") == units_key("μg")
        (True, True)
    """
    key = re.sub(r"\s+", "", unicodedata.normalize("NFKC", units)).casefold()
    return re.sub(r"^u(?=(?:g|l|m|mol|s|v)(?:/|$))", "μ", key)


def read_other_units(section: Section) -> dict[str, tuple[float, float]] | None:
    """Reads `other_units` of a schema: {units: (factor, addend)}; None if there is no such key."""
    if "other_units" not in section:
        return None
    others: dict[str, tuple[float, float]] = {}
    for units, inner in section.sections("other_units").items():
        others[units] = (inner.number("scale", 1.0), inner.number("offset", 0.0))
        inner.done()
    return others


def write_other_units(others: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    """The inverse of `read_other_units`."""
    return {units: {"scale": scale, "offset": offset} for units, (scale, offset) in others.items()}


def in_units(
    values: np.ndarray,
    said: np.ndarray,
    units: str,
    others: Mapping[str, tuple[float, float]] | None,
    refuse: Callable[[str, np.ndarray], None],
) -> np.ndarray:
    """Values brought to the stated units, NaN where the units beside them are others.

    Args:
        values: float64 (n,).
        said: Units beside each, object (n,), None where none are.
        units: The stated units.
        others: Other units, each with factor and addend.
        refuse: Told the units that are not known, and the rows that have them, bool (n,).
    """
    known = {units_key(name): pair for name, pair in (others or {}).items()}
    own = units_key(units)
    words: Iterable[str] = sorted({str(word) for word in said if word is not None})
    for word in words:
        key = units_key(word)
        if key == own:
            continue
        rows = np.array([w == word for w in said], dtype=bool)
        if key in known:
            scale, offset = known[key]
            values = np.where(rows, values * scale + offset, values)
            continue
        refuse(word, rows)
        values = np.where(rows, np.nan, values)
    return values
