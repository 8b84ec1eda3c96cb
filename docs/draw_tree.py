"""Draws the tree in docs/architecture.md anew, from the files and the first lines of their docstrings.

Command:  python docs/draw_tree.py
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "amodal"
PAGE = ROOT / "docs" / "architecture.md"
NOT_PYTHON = {
    "references.bib": "The bibliography",
    ".html": "A part of the page",
    ".css": "The page's look",
    ".js": "The page's behaviour",
}
WIDTH = 38


def first_line(path: Path) -> str:
    """What a file is for, in its own words."""
    if path.is_dir():
        return first_line(path / "__init__.py")
    if path.suffix != ".py":
        return NOT_PYTHON.get(path.name, NOT_PYTHON.get(path.suffix, ""))
    found = re.match(r'r?"""(.*?)(?:"""|\n)', path.read_text(encoding="utf-8").lstrip())
    return found[1].rstrip(".") if found else ""


def listed(folder: Path) -> list[Path]:
    """What the map shows of a folder: folders first, then files, without package markers."""
    paths = [p for p in folder.iterdir() if p.name not in ("__init__.py", "__pycache__", "py.typed")]
    paths = [p for p in paths if p.is_file() or any(p.rglob("*.py"))]
    return sorted(paths, key=lambda p: (p.is_file(), p.name))


def draw(folder: Path, lead: str = "") -> list[str]:
    """The lines of a folder's tree."""
    lines = []
    paths = listed(folder)
    for path in paths:
        last = path is paths[-1]
        name = lead + ("└── " if last else "├── ") + path.name + ("/" if path.is_dir() else "")
        lines.append(f"{name:<{WIDTH}} {first_line(path)}".rstrip())
        if path.is_dir():
            lines += draw(path, lead + ("    " if last else "│   "))
    return lines


def main() -> None:
    """Replaces the tree in the page."""
    text = PAGE.read_text(encoding="utf-8")
    tree = "```\nsrc/amodal/\n" + "\n".join(draw(PACKAGE)) + "\n```"
    new = re.sub(r"```\nsrc/amodal/\n.*?```", lambda _: tree, text, count=1, flags=re.DOTALL)
    PAGE.write_text(new, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} has {tree.count(chr(10)) - 2} lines of tree")


if __name__ == "__main__":
    main()
