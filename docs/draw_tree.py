"""Draws the map in docs/architecture.md: folders and modules by their first lines, layers by pyproject.toml.

Command:  python docs/draw_tree.py
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "amodal"
PAGE = ROOT / "docs" / "architecture.md"
WIDTH = 38


def first_line(path: Path) -> str:
    """What a file is for, in its own words."""
    if path.is_dir():
        return first_line(path / "__init__.py")
    found = re.match(r'r?"""(.*?)(?:"""|\n)', path.read_text(encoding="utf-8").lstrip())
    return found[1].rstrip(".") if found else ""


def listed(folder: Path) -> list[Path]:
    """Packages below a folder and, at the top, the modules beside them; each folder's files list themselves."""
    packages = [path.parent for path in folder.glob("*/__init__.py")]
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"] if folder == PACKAGE else []
    return sorted(packages) + sorted(modules)


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


def layers() -> str:
    """The layers that import-linter checks, as the page shows them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    lines = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return "\n".join(re.sub(r"[()]", "", line).replace(" | ", " · ") for line in lines)


def main() -> None:
    """Replaces the tree and the layers in the page."""
    text = PAGE.read_text(encoding="utf-8")
    tree = "```\nsrc/amodal/\n" + "\n".join(draw(PACKAGE)) + "\n```"
    new = re.sub(r"```\nsrc/amodal/\n.*?```", lambda _: tree, text, count=1, flags=re.DOTALL)
    new = re.sub(r"(## Layers\n.*?```\n).*?\n```", lambda m: f"{m[1]}{layers()}\n```", new, count=1, flags=re.DOTALL)
    PAGE.write_text(new, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} has {tree.count(chr(10)) - 2} lines of tree")


if __name__ == "__main__":
    main()
