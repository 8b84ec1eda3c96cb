"""`make bench`: every script is in its table, figures are found in what is printed, what cannot run says why."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
TABLE = runpy.run_path(str(FOLDER / "run_all.py"))


def test_every_script_is_in_the_table():
    assert set(TABLE["BENCHMARKS"]) == {path.stem for path in FOLDER.glob("*.py")} - {"run_all"}
    for small in TABLE["BENCHMARKS"].values():
        assert re.compile(small.figure, re.MULTILINE).groups <= 1


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_every_script_finds_what_it_imports(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert runpy.run_path(str(path))["__doc__"]


def test_figures_of_the_last_release_are_of_the_table():
    record = json.loads((FOLDER / "last_release.json").read_text(encoding="utf-8"))
    assert set(record["figures"]) <= set(TABLE["BENCHMARKS"])
    assert all(figure >= 0 for figure in record["figures"].values())


def test_a_figure_is_found_in_what_is_printed():
    printed = {
        "absence_cost": "0.25     0.251             0.411   0.78\n 0.75     0.690             0.210   0.40\n",
        "command_line_help": "amodal --help 0.310 s, 1.24 times importing jsonargparse (0.250 s)\n",
        "method_cost": "fusion                  1.0         1.0\nprimo                   1.4         6.8\n",
    }
    found = {
        name: re.findall(TABLE["BENCHMARKS"][name].figure, text, re.MULTILINE)[0] for name, text in printed.items()
    }
    assert found == {"absence_cost": "0.40", "command_line_help": "1.24", "method_cost": "1.4"}


def test_a_script_that_needs_a_download_says_so():
    done = subprocess.run(
        [sys.executable, str(FOLDER / "prepare_cinc2012.py")], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("skipped: ")
