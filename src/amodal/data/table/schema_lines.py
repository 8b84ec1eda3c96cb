"""Lines of a schema in YAML: texts, columns, counts."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter

from amodal.data.table.column import bracketed_units
from amodal.data.table.look import Look

__all__ = ["column_line", "counts", "line", "modality_name", "quoted"]

_LETTERS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"})


def line(text: str) -> str:
    """A text on one line, for comments."""
    return " ".join(text.split())


def quoted(text: str) -> str:
    """A text as YAML writes it: plain where that is safe."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_ /.\-]*", text) and text.lower() not in ("true", "false", "null", "nan")
    return text if plain and not text.endswith(" ") else json.dumps(text, ensure_ascii=False)


def modality_name(column: str) -> str:
    """A modality's name made of a column's.

    Example:
        >>> modality_name("Röntgenbild 1")
        'Roentgenbild_1'
    """
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFC", column).translate(_LETTERS))
    name = re.sub(r"[^A-Za-z0-9_\-]+", "_", "".join(c for c in plain if not unicodedata.combining(c))).strip("_")
    name = name or "modality"
    return f"m_{name}" if name == "table" or not re.match(r"[A-Za-z_]", name) else name


def counts(look: Look) -> str:
    """Contents of a column in a few words."""
    empty = f", {look.empty:,} empty" if look.empty else ""
    if look.kind == "number" and len(look.words) > 10:
        return f"numbers {look.low:g} … {look.high:g}{empty}"
    words: Counter[str] = Counter()
    for word, count in look.words.items():
        for part in word.split(look.separator) if look.separator else [word]:
            words[part.strip()] += count
    shown = ", ".join(f"{line(word)[:30]} {count:,}" for word, count in words.most_common(6))
    several = f" (several in a cell, by {look.separator!r})" if look.separator else ""
    return f"{shown}{', …' if len(words) > 6 else ''}{several}{empty}"


def column_line(look: Look) -> str:
    """A column of a tabular modality, with what was seen of it."""
    empty = f"{look.empty / look.rows:.0%} empty"
    if look.kind == "category":
        words = sorted(word for word in look.words if word not in look.odd)
        return (
            f"      {quoted(look.name)}: {{type: category, categories: {json.dumps(words, ensure_ascii=False)}}}"
            f"   # {empty}"
        )
    if look.kind == "codes":
        return (
            f"      {quoted(look.name)}: {{type: category, separator: {json.dumps(look.separator)}, other: true}}"
            f"   # {counts(look)}"
        )
    if look.time_units:
        seen = f"{look.low:g} … {look.high:g}, {empty}"
        return f"      {quoted(look.name)}: {{type: duration, units: {look.time_units}}}   # {seen}"
    units = bracketed_units(look.name) or next((word for word, _ in look.units.most_common(1)), "")
    return (
        f"      {quoted(look.name)}: {{units: {quoted(units or '')}}}"
        f"   # {look.low:g} … {look.high:g}, {empty}; add min and max of what is possible"
    )
