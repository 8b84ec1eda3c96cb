"""Entries of the bibliography as text."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

__all__ = ["Reference", "read_bibtex"]

_ACCENTS = {'"': "\u0308", "'": "\u0301", "`": "\u0300", "^": "\u0302", "~": "\u0303", "c": "\u0327", "v": "\u030c"}
_LETTERS = {r"\o": "ø", r"\O": "Ø", r"\l": "ł", r"\L": "Ł", r"\ss": "ß", r"\aa": "å", r"\AA": "Å", r"\ae": "æ"}


@dataclass(frozen=True)
class Reference:
    """One entry: who, what, where, when.

    Args:
        key: Its key.
        authors: "A. Author and B. Author"; more than three are shortened to the first "et al.".
        title: Its title.
        venue: Journal, proceedings or publisher, with volume and pages as far as known.
        year: Its year.
        bibtex: The entry itself.
    """

    key: str
    authors: str
    title: str
    venue: str
    year: str
    bibtex: str

    @property
    def short(self) -> str:
        """First author and year, for a line of text."""
        return f"{self.authors.split(' and ')[0].split(',')[0].removesuffix(' et al.').split()[-1]} {self.year}"


def read_bibtex(entry: str) -> Reference:
    r"""Reads one BibTeX entry.

    Args:
        entry: From "@" to the closing brace.

    Returns:
        Its parts as plain text.

    Example:
        >>> found = read_bibtex(r'''@article{schrodinger1926,
        ...   title = {{Quantisierung} als Eigenwertproblem},
        ...   author = {Schr{\"o}dinger, Erwin},
        ...   journal = {Annalen der Physik}, volume = {384}, pages = {361--376},
        ...   year = {1926}
        ... }''')
        >>> found.authors, found.title, found.venue
        ('E. Schrödinger', 'Quantisierung als Eigenwertproblem', 'Annalen der Physik 384, 361–376')
    """
    head = re.match(r"\s*@\w+\s*\{\s*([^,\s]+)\s*,", entry)
    fields = _fields(entry[head.end() :] if head else entry)
    names = [_initials(name) for name in re.split(r"\s+and\s+", fields.get("author", fields.get("editor", "")))]
    venue = fields.get("journal") or fields.get("booktitle") or fields.get("publisher", "")
    venue += f" {fields['volume']}" if "volume" in fields and "journal" in fields else ""
    venue += f", {fields['pages']}" if "pages" in fields else ""
    return Reference(
        key=head[1] if head else "",
        authors=" and ".join(names) if len(names) <= 2 else _three(names),
        title=fields.get("title", ""),
        venue=venue,
        year=fields.get("year", ""),
        bibtex=entry.strip(),
    )


def _three(names: list[str]) -> str:
    return f"{names[0]}, {names[1]} and {names[2]}" if len(names) == 3 else f"{names[0]} et al."


def _fields(text: str) -> dict[str, str]:
    """Fields of an entry's body; values may hold balanced braces."""
    fields, position = {}, 0
    while match := re.compile(r"\s*(\w+)\s*=\s*").match(text, position):
        start = match.end()
        end = _end(text, start)
        fields[match[1].lower()] = _plain(text[start:end])
        position = end + 1 if text[end : end + 1] == "," else end
    return fields


def _end(text: str, start: int) -> int:
    """The end of the value that begins at `start`: at a comma or brace that is not inside braces or quotes."""
    depth, quoted = 0, False
    for i in range(start, len(text)):
        character = text[i]
        quoted ^= character == '"' and depth == 0
        depth += (character == "{") - (character == "}")
        if depth < 0 or (character == "," and depth == 0 and not quoted):
            return i
    return len(text)


def _plain(value: str) -> str:
    """LaTeX's accents, dashes and braces as text."""
    for command, letter in _LETTERS.items():
        value = re.sub(re.escape(command) + r"(?![A-Za-z])\s?", letter, value)
    value = re.sub(
        r"\\([\"'`^~]|[cv](?=\s*\{|\s))\s*\{?\\?([A-Za-z])\}?",
        lambda match: unicodedata.normalize("NFC", match[2] + _ACCENTS[match[1]]),
        value,
    )
    value = (
        value.replace("``", "“")
        .replace("''", "”")
        .replace("---", "—")
        .replace("--", "–")
        .replace(r"\&", "&")
        .replace(r"\%", "%")
        .replace("~", " ")
    )
    value = re.sub(r"[{}]|\\(?=\W)", "", value)
    return " ".join(value.strip().strip('"').split())


def _initials(name: str) -> str:
    """ "Author, Ann B." as "A. B. Author"."""
    last, comma, first = name.partition(",")
    if not comma:
        *firsts, last = name.split() or [""]
        first = " ".join(firsts)
    letters = [f"{'-'.join(part[0] + '.' for part in given.split('-') if part)}" for given in first.split()]
    return " ".join([*letters, last.strip()])
