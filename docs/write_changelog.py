"""CHANGELOG.md from the fragments in changes/, newest first: `python docs/write_changelog.py`."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Changes

Made from the fragments in `changes/` by `python docs/write_changelog.py`; newest first. Nothing has been released yet.
"""


def changelog(folder: Path = ROOT / "changes") -> str:
    """The whole text: a section a day, in it an entry a fragment, by its topic.

    Args:
        folder: Fragments, `YYYY-MM-DD-topic.md`.

    Raises:
        ValueError: If a fragment has another name.
    """
    fragments = sorted(folder.glob("*.md"))
    for file in fragments:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d-.+", file.stem):
            raise ValueError(f"{file} is not named YYYY-MM-DD-topic.md")
    parts = [HEAD]
    by_day = groupby(sorted(fragments, key=lambda file: file.name[:10], reverse=True), key=lambda file: file.name[:10])
    for day, files in by_day:
        parts.append(f"## {day}\n")
        for file in sorted(files):
            topic = file.stem[11:].replace("-", " ")
            parts.append(f"### {topic[0].upper()}{topic[1:]}\n\n{file.read_text(encoding='utf-8').strip()}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    (ROOT / "CHANGELOG.md").write_text(changelog(), encoding="utf-8")
