"""A check lists everything that does not fit in one run, each with the line that would solve it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amodal.cli import main
from amodal.data.table import prepare
from amodal.data.table.check import check

N = 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = ["id;patient;y;age;crp;sex;day;img;note"]
    for i in range(N):
        rows.append(
            f"p{i};g{i};{'yes' if i % 2 else 'no'};{40 + i};{'<5' if i == 3 else i};{'x' if i == 4 else 'F'};"
            f"{'yesterday' if i == 5 else '2026-01-02'};{'lost.png' if i == 6 else f'{i}.png'};note {i}"
        )
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "7.png").write_bytes(b"no image")
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def schema() -> dict:
    return {
        "id": "id", "group": "patient", "task": {"kind": "binary", "column": "y", "classes": ["no", "yes"]},
        "modalities": {
            "t": {"kind": "tabular", "columns": {
                "age": {}, "crp": {}, "sex": {"type": "category", "categories": ["F", "M"]}, "day": {"type": "date"}}},
            "scan": {"kind": "image", "column": "img", "size": 8},
            "note": {"kind": "text", "column": "note"},
        },
    }  # fmt: skip


def test_all_problems_of_the_data_in_one_run(folder: Path):
    found = check(folder / "m.csv", schema())
    by_place = {finding.where: finding for finding in found.findings}
    assert set(by_place) == {"modalities.t.columns.crp", "modalities.t.columns.sex", "modalities.t.columns.day",
                             "modalities.scan"}  # fmt: skip
    assert "'<5' in row p3" in by_place["modalities.t.columns.crp"].problem
    assert any(line.startswith("censored:") for line in by_place["modalities.t.columns.crp"].lines)
    assert "'x' in row p4" in by_place["modalities.t.columns.sex"].problem
    assert "other: true" in by_place["modalities.t.columns.sex"].lines
    assert "'yesterday' in row p5" in by_place["modalities.t.columns.day"].problem
    scans = [finding for finding in found.findings if finding.where == "modalities.scan"]
    assert len(scans) == 2
    assert {line for finding in scans for line in finding.lines} >= {"missing_file: absent", "unreadable_file: absent"}
    assert not list(folder.glob(".*")), "nothing is written"


def test_the_lines_solve_it(folder: Path):
    rules = schema()
    columns = rules["modalities"]["t"]["columns"]
    columns["crp"]["censored"] = "limit"
    columns["sex"]["other"] = True
    rules["missing"] = ["", "yesterday"]
    rules["modalities"]["scan"] |= {"missing_file": "absent", "unreadable_file": "absent"}
    found = check(folder / "m.csv", rules)
    assert found.findings == []
    assert found.odd.counts["scan: file not there"] == 1
    assert len(prepare(folder / "m.csv", rules, folder / "out").cohort) == N


def test_all_problems_of_the_schema_in_one_run(folder: Path):
    rules = schema()
    rules["modalities"]["scan"]["sise"] = 9
    rules["modalities"]["note"]["column"] = "notes"
    rules["modalities"]["t"]["columns"]["alter"] = {}
    rules["modalities"]["sound"] = {"kind": "sond", "column": "x"}
    rules["group"] = "patients"
    found = check(folder / "m.csv", rules)
    said = found.describe()
    for words in ("unknown key 'sise'", "names the column 'notes'", "names the column 'alter'",
                  "modalities.sound.kind is not known", "names the column 'patients'", "'<5' in row p3"):  # fmt: skip
        assert words in said, f"{words!r} is not in:\n{said}"


def test_ids_and_target_are_checked_together(folder: Path):
    text = (folder / "m.csv").read_text()
    (folder / "m.csv").write_text(text.replace("p3;g3;yes", "p2;g3;perhaps"))
    said = check(folder / "m.csv", schema()).describe()
    assert "ids come more than once: p2" in said
    assert "'perhaps'" in said


def test_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]):
    import json

    (folder / "s.json").write_text(json.dumps(schema()))
    words = [
        "data",
        "prepare",
        "table",
        "--manifest",
        str(folder / "m.csv"),
        "--schema",
        str(folder / "s.json"),
        "--quiet",
    ]
    assert main([*words, "--check"]) == 2
    said = capsys.readouterr()
    assert "modalities.scan: 2 problems" in said.out
    assert "      missing_file: absent\n" in said.out
    assert "5 things do not fit" in said.err
    assert main(words) == 2
    assert "--out DIR, or --check" in capsys.readouterr().err
