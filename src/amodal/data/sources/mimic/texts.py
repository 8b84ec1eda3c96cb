"""Clinical text for CM2's experiments: MIMIC-III's notes and the sections of MIMIC-CXR's reports.

The released parser has exceptions made by hand for single reports; they are not known here, and neither are the exact
marks at which it cuts a note's signature. What follows are plain rules for both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["SECTIONS", "clean_note", "join_notes", "report_sections", "report_text"]

SECTIONS = ("impression", "findings", "last_paragraph", "comparison")
"""Sections of a report that are read, in the order in which they are put together."""

_HIDDEN = re.compile(r"\[\*\*.*?\*\*\]", re.DOTALL)
_SIGNATURE = re.compile(
    r"^\s*(electronically signed|dictated by|signed electronically|_{10,}\s*$|\(end of report\)).*",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
_BLANKS = re.compile(r"\s+")
_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z /&()\-]{2,}):", re.MULTILINE)


def clean_note(text: str) -> str:
    """A note without the marks of de-identification, without what follows a signature, in lower case, on one line.

    Example:
        >>> clean_note("Pt [**Name 12**] is STABLE.\\n Electronically signed by X\\nMore")
        'pt is stable.'
    """
    text = _HIDDEN.sub(" ", text)
    return _BLANKS.sub(" ", _SIGNATURE.sub("", text)).strip().lower()


def join_notes(latest_first: Sequence[str], *, more_than: int = 5, kept: int = 5) -> str | None:
    """The latest notes of a stay as one text, the latest first; None if there are too few.

    Args:
        latest_first: All notes of the stay.
        more_than: A stay with this many notes or fewer counts as having none.
        kept: How many are kept.
    """
    if len(latest_first) <= more_than:
        return None
    cleaned = [clean_note(text) for text in latest_first[:kept]]
    return "\n".join(text for text in cleaned if text) or None


def report_sections(report: str) -> dict[str, str]:
    """The sections of a radiology report: for each heading its last occurrence, and the last paragraph.

    Args:
        report: The report as written: headings in capitals with a colon at the beginning of a line.

    Returns:
        Text by name, of those of `SECTIONS` that the report has.

    Example:
        >>> report_sections("FINDINGS: Clear lungs.\\n\\nIMPRESSION: Normal chest.")
        {'impression': 'Normal chest.', 'findings': 'Clear lungs.', 'last_paragraph': 'Normal chest.'}
    """
    report = _HIDDEN.sub(" ", report)
    headings = list(_HEADING.finditer(report))
    ends = [heading.start() for heading in headings[1:]] + [len(report)]
    found = {h.group(1).strip().lower(): _clean(report[h.end() : end]) for h, end in zip(headings, ends)}
    paragraphs = [_HEADING.sub("", part) for part in re.split(r"\n\s*\n", report) if part.strip()]
    if headings and paragraphs:
        found["last_paragraph"] = _clean(paragraphs[-1])
    return {name: found[name] for name in SECTIONS if found.get(name)}


def report_text(report: str) -> str | None:
    """The sections of a report as one text; None if it has none."""
    sections = report_sections(report)
    return "\n".join(sections.values()) or None


def _clean(text: str) -> str:
    return _BLANKS.sub(" ", text).strip()
