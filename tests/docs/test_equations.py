"""The tables of equations on the methods' pages: every function that they name exists."""

from __future__ import annotations

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

PAGES = Path(__file__).resolve().parents[2] / "docs" / "methods"
WITH_TABLE = sorted(
    p.stem for p in PAGES.glob("*.md") if "## From equation to function" in p.read_text(encoding="utf-8")
)
EQUATIONS = {"cepa": range(1, 15), "cm2": range(1, 3), "primo": range(1, 12)}


def rows(page: str) -> list[tuple[str, list[str]]]:
    """Equations and functions of each row of a page's table."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8").split("## From equation to function")[1].split("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")][2:]
    return [(equation, re.findall(r"`(.+?)`", names)) for equation, _, names in cells]


@pytest.mark.parametrize("page", WITH_TABLE)
def test_every_function_of_the_table_exists(page: str):
    for _, names in rows(page):
        assert names
        for name in names:
            assert callable(resolve_name(f"amodal.{name}")), name


@pytest.mark.parametrize("page", EQUATIONS)
def test_every_numbered_equation_is_in_the_table(page: str):
    numbers: set[int] = set()
    for equation, _ in rows(page):
        if not equation.startswith(("section", "table", "appendix")):
            first, *rest = [int(n) for n in re.findall(r"\d+", equation.split("(")[0])]
            numbers |= set(range(first, rest[0] + 1)) if " to " in equation else {first, *rest}
    assert numbers == set(EQUATIONS[page])
