"""The map in docs/architecture.md is the ground: its tree is compared with the disk, and every method has a page."""

from __future__ import annotations

import re
from pathlib import Path

import amodal
from amodal.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
LINE = re.compile(r"^(?P<indent>(?:│   |    )*)(?:├── |└── )(?P<names>\S+(?: \S+\.py)*)")


def mapped() -> set[str]:
    """Paths below src/amodal that the tree names, folders with a slash at the end."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = re.search(r"```\nsrc/amodal/\n(.*?)```", text, re.DOTALL)
    assert tree, "docs/architecture.md has no tree of src/amodal/"
    found: set[str] = set()
    folders: list[str] = []
    for line in tree[1].splitlines():
        match = LINE.match(line)
        if not match:
            continue
        depth = len(match["indent"]) // 4
        del folders[depth:]
        for name in match["names"].split():
            found.add("".join(folders) + name)
            if name.endswith("/"):
                folders.append(name)
    return found


def on_disk() -> set[str]:
    package = ROOT / "src" / "amodal"
    folders = {f"{path.parent.relative_to(package).as_posix()}/" for path in package.rglob("*/__init__.py")}
    return folders - {"./"} | {path.name for path in package.glob("*.py") if path.name != "__init__.py"}


def test_the_tree_is_the_disk():
    tree, disk = mapped(), on_disk()
    assert not tree - disk, "the tree names what is not there"
    assert not disk - tree, "the tree lacks what is there"


def test_every_public_name_can_be_loaded():
    for name in amodal.__all__:
        assert getattr(amodal, name) is not None


def test_every_method_has_a_page():
    pages = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")}
    assert set(METHODS) <= pages, "methods without a page in docs/methods"
    assert pages - {"index"} <= set(METHODS), "pages of methods that are not registered"


def test_no_path_of_one_machine_in_the_repository():
    forbidden = re.compile(r"/(?:work|root|home)/")
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if parts[0] in ("runs", "build") or any(part.startswith((".", "__pycache__")) for part in parts):
            continue
        text = path.suffix in (".py", ".md", ".toml", ".yaml", ".html", ".css", ".bib")
        if text and path != Path(__file__).resolve():
            assert not forbidden.search(path.read_text(encoding="utf-8")), path
