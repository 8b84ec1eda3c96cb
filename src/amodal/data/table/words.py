"""Equality of spellings: ids, joins, classes, categories, labels, yes and no, names of files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

__all__ = [
    "INVISIBLE",
    "NO",
    "YES",
    "alike",
    "broken_letters",
    "is_shortened",
    "near_pairs",
    "replaced",
    "say_pairs",
    "spelled",
    "spelled_column",
]

YES = frozenset({"1", "true", "yes", "y", "ja", "j", "wahr", "oui", "sí", "si"})
"""What says yes, whatever the case."""

NO = frozenset({"0", "false", "no", "n", "nein", "falsch", "non"})
"""What says no, whatever the case."""

_BLANKS = re.compile(r"[\s\u00a0\u2000-\u200a\u202f\u205f\u3000]+")
_UNSEEN = "[\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff\u00ad]"
INVISIBLE = re.compile(_UNSEEN)
"""Letters that no reader sees: of no width, marks of direction, soft hyphens."""
_WHOLE = re.compile(r"^([+-]?(?:0|[1-9][0-9]*))\.0+$")


def spelled(word: str, *, ignore_case: bool = False) -> str:
    """The one spelling of a word: two words are the same where this is the same.

    Blanks around it go, blanks within (also non-breaking ones) become one, composed and decomposed letters (NFC) are
    the same, and so are a whole number and what a table of floats makes of it. Leading zeros stay: 007 is not 7.

    Args:
        word: A word, as it stands in a cell.
        ignore_case: Whether capital and small letters are the same.

    Example:
        >>> spelled(" 30000005.0 "), spelled("007"), spelled("Mu\u0308ller") == spelled("Müller")
        ('30000005', '007', True)
    """
    if not word.isascii():
        word = INVISIBLE.sub("", unicodedata.normalize("NFC", word))
    word = _BLANKS.sub(" ", word).strip()
    word = _WHOLE.sub(r"\1", word)
    return word.casefold() if ignore_case else word


def spelled_column(column: Any, *, ignore_case: bool = False) -> Any:
    """`spelled` for each cell of an Arrow array of strings."""
    from pyarrow import compute

    pc: Any = compute
    if not pc.all(pc.string_is_ascii(column)).as_py():
        column = pc.utf8_normalize(column, form="NFC")
        column = pc.replace_substring_regex(column, _UNSEEN, "")
        column = pc.replace_substring_regex(column, r"[\p{Z}\s]+", " ")
    elif pc.any(pc.match_substring_regex(column, r"\s\s|[\t\n\r\f\v]")).as_py():
        column = pc.replace_substring_regex(column, r"\s+", " ")
    column = pc.utf8_trim_whitespace(column)
    if pc.any(pc.match_substring(column, ".0")).as_py():
        column = pc.replace_substring_regex(column, _WHOLE.pattern, r"\1")
    if ignore_case:
        words = column.to_pylist()
        import pyarrow as pa

        column = pa.array([None if word is None else word.casefold() for word in words], pa.string())
    return column


_BROKEN = re.compile(
    "\ufffd|[\u00c2\u00c3][\u0080-\u00bf\u0152\u0153\u0160\u0178\u017d\u0192\u02c6\u02dc\u2013-\u2122]|\u00e2\u20ac"
)


def broken_letters(text: str) -> str:
    """Letters that a conversion between encodings has broken, where a text has some; "" if it has none.

    Example:
        >>> broken_letters("M\u00c3\u00bcde"), broken_letters("M\ufffdde"), broken_letters("Ängstlich müde")
        ('Ã¼', '\ufffd', '')
    """
    found = None if text.isascii() else _BROKEN.search(text)
    return found[0] if found else ""


def is_shortened(word: str) -> bool:
    """Whether an id is a long number of which a spreadsheet has kept the first digits only.

    Example:
        >>> is_shortened("1.23457E+11"), is_shortened("1E05")
        (True, False)
    """
    return re.match(r"[0-9](?:[.,][0-9]+)?[eE]\+[0-9]+$", word) is not None


def alike(word: str) -> str:
    """A loose spelling, to name what nearly matches: without case, leading zeros, marks and the forms of letters.

    Example:
        >>> alike("ID-0007") == alike("id 7"), alike("m²") == alike("M2")
        (True, True)
    """
    plain = unicodedata.normalize("NFKD", spelled(word)).casefold()
    plain = "".join(letter for letter in plain if letter.isalnum())
    return re.sub(r"(^|(?<=[^0-9]))0+(?=[0-9])", "", plain)


def near_pairs(strange: Iterable[str], known: Iterable[str], *, most: int = 3) -> list[tuple[str, str]]:
    """Words that are not known, each with the known one that it nearly is.

    Example:
        >>> near_pairs(["7", "x"], ["007", "008"])
        [('7', '007')]
    """
    wanted = {}
    for word in strange:
        wanted.setdefault(alike(str(word)), str(word))
    pairs = []
    for word in known:
        near = wanted.get(alike(str(word)))
        if near is not None and near != str(word):
            pairs.append((near, str(word)))
            if len(pairs) == most:
                break
    return pairs


def say_pairs(pairs: list[tuple[str, str]]) -> str:
    """Pairs of `near_pairs` as a sentence; "" for none."""
    shown = ", ".join(f"{strange!r} is nearly {known!r}" for strange, known in pairs)
    return f"{shown}: leading zeros, case and marks count." if pairs else ""


def replaced(words: np.ndarray, values: Mapping[str, str] | None, *, ignore_case: bool = False) -> np.ndarray:
    """Words, object (n,), with what a schema's `values` makes of them."""
    if not values:
        return words
    meant = {spelled(word, ignore_case=ignore_case): said for word, said in values.items()}
    found = [None if w is None else meant.get(spelled(w, ignore_case=ignore_case), w) for w in words]
    return np.array([*found, None], dtype=object)[:-1]
