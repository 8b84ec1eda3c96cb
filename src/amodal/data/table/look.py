"""Descriptions of the columns of a table: kinds, ranges, words, and what their names say in several languages."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from amodal.data.table.cells import MISSING_WORDS, ODD_WORDS, texts
from amodal.data.table.manifest import Table

__all__ = ["ENDINGS", "Look", "as_number", "look_at"]

ENDINGS = {
    ".png": "image", ".jpg": "image", ".jpeg": "image", ".dcm": "image", ".tif": "image", ".tiff": "image",
    ".bmp": "image", ".webp": "image", ".nii": "image", ".gz": "image", ".wav": "audio", ".flac": "audio",
    ".ogg": "audio", ".npy": "array", ".npz": "array", ".txt": "text",
}  # fmt: skip
"""Kinds of modality by the endings of the files that a column names."""

ROWS = 50_000
DISTINCT = 5_000
_FEW = 30
_NUMBER = re.compile(r"([<>≤≥]=?)?\s*([+-]?(?:\d+(?:[.,' ]\d+)*|[.,]\d+)(?:[eE][+-]?\d+)?)\s*(%)?")
_WITH_UNITS = re.compile(r"([<>≤≥]?=? ?[+-]?\d[\d.,]*) ?([A-Za-zµμ°%Ωäöü][A-Za-zµμ°%/0-9²³·*^.]{0,11})")
_TIMES = {
    "j": "years", "jahre": "years", "jahr": "years", "y": "years", "yr": "years", "yrs": "years", "years": "years",
    "mo": "months", "monate": "months", "months": "months", "w": "weeks", "wochen": "weeks", "weeks": "weeks",
    "d": "days", "tage": "days", "days": "days", "h": "hours", "std": "hours", "hours": "hours", "min": "minutes",
}  # fmt: skip
_ID_NAME = re.compile(
    r"(^id$|[_ ]id$|^id[_ ]|[a-z]ID$|^index$|nr\.?$|nummer$|number$|[_ ]no\.?$|mrn|uid|^key$|kennung|identifi|"
    r"accession|subject|^patient|patienten|hadm|stay_id|encounter|^fall|visit_?id|^case|num[eé]ro|n[uú]mero|codice)",
    re.I,
)
_CODE = re.compile(r"[A-Za-z]{1,6}[-_ /]?\d+|\d+[-_/]\d+|[0-9a-f]{8}-[0-9a-f-]{20,}", re.I)
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([T ].*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}( .*)?|\d{4}/\d\d?/\d\d?( .*)?"
                   r"|[A-Z][a-z]{2} \d{1,2}, \d{4}|\d{1,2} [A-Z][a-z]{2} \d{4}")  # fmt: skip


@dataclass
class Look:
    """Description of a column.

    Attributes:
        name: The column.
        rows: Rows looked at.
        words: How often each of the first few thousand distinct texts comes.
        empty: Empty cells.
        numeric: Cells that are numbers.
        whole: Cells that are whole numbers.
        zeros: Cells of digits with leading zeros.
        limits: Cells such as "<0.5", with how often they come.
        units: What stands behind the numbers, with how often.
        length: Characters of all texts.
        low: Smallest number.
        high: Largest number.
        cells: The cells, None where empty.
        odd: Words that seem to mean an empty cell.
        kind: "empty", "constant", "file", "number", "date", "code" (an id), "category", "codes" (several in a cell),
            "text" or "words" (many different short ones).
        separator: What stands between several words of a cell.
    """

    name: str
    rows: int = 0
    words: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    numeric: int = 0
    whole: int = 0
    zeros: int = 0
    limits: Counter[str] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)
    length: int = 0
    low: float = np.inf
    high: float = -np.inf
    cells: list[str | None] = field(default_factory=list)
    odd: set[str] = field(default_factory=set)
    kind: str = ""
    separator: str = ""

    @property
    def filled(self) -> int:
        """Cells that are not empty."""
        return self.rows - self.empty

    @property
    def is_distinct(self) -> bool:
        """Whether no text comes twice, as far as was looked, and none is empty."""
        return bool(self.words) and self.filled == self.rows and max(self.words.values()) == 1

    @property
    def names_an_id(self) -> bool:
        """Whether its name is that of an id or a number that someone was given."""
        return bool(_ID_NAME.search(self.name))

    def add(self, cells: np.ndarray) -> None:
        """Takes in some cells, texts with None where empty."""
        self.rows += len(cells)
        self.cells += cells.tolist()
        for cell in cells:
            if cell is None:
                self.empty += 1
                continue
            if cell in self.words or len(self.words) < DISTINCT:
                self.words[cell] += 1
            self.length += len(cell)
            if len(cell) > 30:
                continue
            number, limit = as_number(cell)
            if number is None and (parted := _WITH_UNITS.fullmatch(cell)):
                number, limit = as_number(parted[1].replace(" ", ""))
                if number is not None:
                    self.units[parted[2]] += 1
            if number is None:
                continue
            self.numeric += 1
            self.whole += number.is_integer() and cell.lstrip("+-").isdigit()
            self.zeros += len(cell) > 1 and cell[0] == "0" and cell.isdigit()
            if limit:
                self.limits[cell] += 1
            self.low, self.high = min(self.low, number), max(self.high, number)

    @property
    def time_units(self) -> str:
        """Units of time that most of its numbers have next to them, by their names in a schema; "" = none."""
        found = self.units.most_common(1)
        return _TIMES.get(found[0][0].casefold(), "") if found and found[0][1] >= 0.5 * self.numeric else ""

    def decide(self) -> None:
        """Says what kind of column it is."""
        self.odd = {word for word in self.words if word.casefold() in ODD_WORDS}
        if len(self.units) > 6:
            self.numeric, self.units = self.numeric - self.units.total(), Counter()  # names with numbers, no units
        if 0.8 * self.filled <= self.numeric < self.filled and len(self.words) < DISTINCT:
            other = {w for w in self.words if as_number(w)[0] is None and not (self.units and _WITH_UNITS.fullmatch(w))}
            self.odd |= other if len(other) <= 10 else set()  # a few words among numbers
        filled = self.filled - sum(self.words[word] for word in self.odd)
        words = [word for word in self.words if word not in self.odd]
        n_words = len(words)
        if not words:
            self.kind = "empty"
        elif n_words == 1:
            self.kind = "constant"
        elif sum(bool(_DATE.fullmatch(word)) for word in words) >= 0.9 * n_words:
            self.kind = "date"
        elif sum(_has_ending(word) for word in words) >= 0.9 * n_words:
            self.kind = "file"
        elif self._is_code(words, filled):
            self.kind = "code"
        elif self.numeric >= 0.95 * filled:
            self.kind = "number"
        elif self._is_set(words):
            self.kind = "codes"
        elif n_words <= min(_FEW, max(2, 0.5 * filled)) and self.length / max(1, self.filled) <= 40:
            self.kind = "category"
        else:
            self.kind = "text" if self.length / max(1, self.filled) > 25 else "words"

    def _is_code(self, words: list[str], filled: int) -> bool:
        """Whether the words are ids: numbered, not measured."""
        many = len(words) > max(_FEW, 0.05 * filled) or self.is_distinct
        if self.zeros and self.numeric >= 0.95 * filled:
            return True
        if many and sum(bool(_CODE.fullmatch(word)) for word in words) >= 0.95 * len(words):
            return True
        if self.whole < 0.99 * filled:
            return False
        counts_up = self.is_distinct and self.rows >= 10 and self.high - self.low < 1.5 * self.rows
        return bool(counts_up or (many and self.names_an_id))

    def _is_set(self, words: list[str]) -> bool:
        """Whether cells hold several words from a few, and what stands between them."""
        for mark in ("|", ";", ","):
            parts: Counter[str] = Counter()
            for word in words:
                parts.update({part.strip(): self.words[word] for part in word.split(mark)})
            several = sum(self.words[word] for word in words if mark in word)
            few = (
                len(parts) <= 0.2 * parts.total()
                and max(map(len, parts)) <= 40
                and max(p.count(" ") for p in parts) <= 3
            )
            mixed = mark != "," or len(parts) < len(words)  # a comma also stands inside names
            if few and mixed and several >= 0.2 * sum(self.words[word] for word in words):
                self.separator = mark
                return True
        return False

    def numbers(self) -> np.ndarray:
        """The cells as numbers, float64 (n,), NaN where they are none."""
        return np.array([math.nan if c is None else self._number(c) for c in self.cells], dtype=np.float64)

    def _number(self, cell: str) -> float:
        number, _ = as_number(cell)
        if number is None and self.units and (parted := _WITH_UNITS.fullmatch(cell)):
            number, _ = as_number(parted[1].replace(" ", ""))
        return math.nan if number is None else number


def as_number(cell: str) -> tuple[float | None, bool]:
    """A cell as a number, whatever its decimal mark, and whether it is a limit ("<0.5"); None if it is none.

    Example:
        >>> as_number("<0,5"), as_number("1.234,5"), as_number("12 kg")
        ((0.5, True), (1234.5, False), (None, False))
    """
    found = _NUMBER.fullmatch(cell.strip().replace("−", "-").replace("\u00a0", " "))
    if found is None:
        return None, False
    limit, digits, _ = found.groups()
    digits = digits.replace(" ", "").replace("'", "")
    if "," in digits and "." in digits:
        group, mark = (",", ".") if digits.rfind(".") > digits.rfind(",") else (".", ",")
        digits = digits.replace(group, "").replace(mark, ".")
    elif digits.count(",") + digits.count(".") > 1:
        digits = digits.replace(",", "").replace(".", "")
    try:
        return float(digits.replace(",", ".")), bool(limit)
    except ValueError:
        return None, False


def look_at(table: Table, rows: int = ROWS) -> list[Look]:
    """Looks at the first rows of every column of a table; rows that are empty throughout do not count."""
    looks = [Look(name) for name in table.names]
    missing = frozenset(MISSING_WORDS)
    for chunk in table.chunks(table.names, 8192):
        columns = [texts(chunk[look.name], missing) for look in looks]
        some = np.array([any(cell is not None for cell in row) for row in zip(*columns)], dtype=bool)
        for look, cells in zip(looks, columns):
            look.add(cells[some])
        if looks[0].rows >= rows:
            break
    for look in looks:
        look.decide()
    return looks


def _has_ending(word: str) -> bool:
    suffix = Path(word).suffix.lower()
    return suffix in ENDINGS and (suffix != ".gz" or word.lower().endswith(".nii.gz"))
