"""What is packed and declared: the source distribution, data of the package, imports, and the list of changes."""

from __future__ import annotations

import ast
import fnmatch
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DISTRIBUTIONS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return listed.splitlines()


def packed(name: str, rules: list[list[str]]) -> bool:
    """Whether MANIFEST.in takes a file; the rules are applied in order, as setuptools does."""
    taken = name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")  # by setuptools itself
    for command, *patterns in rules:
        if command == "include":
            taken |= any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
        elif command in ("graft", "prune") and any(name.startswith(f"{folder}/") for folder in patterns):
            taken = command == "graft"
    return taken


def test_the_source_distribution_has_what_is_needed_to_test_it():
    lines = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    rules = [line.split() for line in lines if line and not line.startswith("#")]
    assert {rule[0] for rule in rules} <= {"include", "graft", "prune", "global-exclude"}
    lacking = [name for name in tracked() if not name.startswith("src/") and not packed(name, rules)]
    assert lacking == []
    assert not packed("runs/demo/index.html", rules)
    for command, *patterns in rules:
        assert command != "graft" or all((ROOT / folder).is_dir() for folder in patterns)


def test_package_data_are_the_files_that_are_there():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["amodal"]
    files = [name.removeprefix("src/amodal/") for name in tracked() if name.startswith("src/amodal/")]
    data = [name for name in files if not name.endswith(".py")]
    for pattern in patterns:
        assert fnmatch.filter(data, pattern), f"{pattern} matches nothing"
    assert [name for name in data if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []


def imported() -> set[str]:
    """Top-level names of what the package imports, anywhere."""
    names: set[str] = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"amodal"}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    def name_of(requirement: str) -> str:
        return re.split(r"[\[<>=!~; ]", requirement)[0].lower()

    core = {name_of(requirement) for requirement in PROJECT["project"]["dependencies"]}
    extras = PROJECT["project"]["optional-dependencies"]
    optional = {name_of(r) for extra, given in extras.items() if extra not in ("dev", "docs") for r in given}
    used = {DISTRIBUTIONS.get(name, name) for name in imported()}
    assert sorted(used - core - optional) == []
    assert sorted(core - used) == []
    assert "torchmetrics" not in core | optional  # an oracle of tests only


def test_changes_are_listed_newest_first_each_once(tmp_path: Path):
    spec = importlib.util.spec_from_file_location("write_changelog", ROOT / "docs" / "write_changelog.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text, fragments = module.changelog(), sorted((ROOT / "changes").glob("*.md"))
    for file in fragments:
        assert text.count(file.read_text(encoding="utf-8").strip()) == 1
    days = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert days == sorted({file.name[:10] for file in fragments}, reverse=True)
    assert (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").startswith(module.HEAD)
    (tmp_path / "notes.md").write_text("unnamed")
    with pytest.raises(ValueError, match=r"notes.md is not named YYYY-MM-DD-topic.md"):
        module.changelog(tmp_path)
