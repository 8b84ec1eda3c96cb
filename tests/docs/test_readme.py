"""The README is true: its Python runs, and its commands are commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from amodal.cli import main

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
PYTHON = [block for language, block in BLOCKS if language == "python"]
COMMANDS = [
    line for language, block in BLOCKS if not language for line in block.splitlines() if line.startswith("amodal ")
]


@pytest.mark.slow
@pytest.mark.parametrize("snippet", PYTHON)
def test_snippets_run(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})


def test_there_are_snippets_and_commands():
    assert len(PYTHON) >= 2
    assert len(COMMANDS) >= 6


@pytest.mark.slow
def test_commands_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        words = shlex.split(command)[1:]
        if "cinc2012" in command:
            continue  # needs a download; tests/data/test_cinc2012.py runs it on upstream's files
        if "cohort" in command:
            continue  # needs a table; tests/recipes/test_covid_cxr.py and tests/serve run these on a real one
        if words[0] == "fit":
            words += ["--epochs", "2", "--quiet"]
        if words[0] == "run":
            words += ["--epochs", "1", "--resamples", "20"]
            words += ["--options", '{"boosting": {"steps": 5, "redraws": 1}}']
        if words[0] == "impact":
            words += ["--draws", "20", "--advice_draws", "2"]
        assert main(words) == 0, command


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", TEXT, re.MULTILINE))
def test_make_targets_exist(target: str):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", TEXT))
def test_links_lead_somewhere(link: str):
    assert (ROOT / link).exists(), link
