"""The first schema of a table is one that can be used, and says what was seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from amodal.cli import main
from amodal.data.table import TableSchema, prepare
from amodal.data.table.guess import guess_schema
from amodal.errors import AmodalError


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    n = 60
    (tmp_path / "scans").mkdir()
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (9, 9), np.uint8)).save(tmp_path / "scans" / f"{i}.png")
    pd.DataFrame({
        "case_id": [f"c{i}" for i in range(n)],
        "patient": [f"p{i // 2}" for i in range(n)],
        "age": rng.integers(20, 90, n),
        "Temp [degC]": np.where(rng.random(n) < 0.3, "?", np.round(rng.normal(37, 1, n), 1).astype(str)),
        "sex": rng.choice(["F", "M"], n),
        "seen: on": [f"{i % 28 + 1:02d}.03.2026" for i in range(n)],
        "scan": [f"{i}.png" for i in range(n)],
        "note": [f"a note with some words in it\n# number {i}" for i in range(n)],
        "hospital": "one",
        "nothing": None,
        "outcome": rng.choice(["died", "lives"], n),
    }).to_csv(tmp_path / "cohort.csv", index=False)  # fmt: skip
    return tmp_path / "cohort.csv"


def test_the_guess_prepares(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["data", "schema", str(table), "--out", str(tmp_path / "schema.yaml")]) == 0
    record = yaml.safe_load((tmp_path / "schema.yaml").read_text())
    assert record["id"] == "case_id"
    assert record["group"] == "patient"
    assert record["task"] == {"column": "outcome", "kind": "binary", "classes": ["died", "lives"]}
    assert "?" in record["missing"]
    columns = record["modalities"]["table"]["columns"]
    assert columns["Temp [degC]"] == {"units": "degC"}
    assert columns["sex"] == {"type": "category", "categories": ["F", "M"]}
    assert columns["seen: on"] == {"type": "date", "format": "%d.%m.%Y"}
    assert record["modalities"]["scan"]["folder"] == "scans"
    assert record["modalities"]["note"]["kind"] == "text"
    text = (tmp_path / "schema.yaml").read_text()
    assert "# left out: hospital (the same in every row)" in text
    assert "# left out: nothing (empty)" in text
    words = ["data", "prepare", "table", "--manifest", str(table), "--schema", str(tmp_path / "schema.yaml")]
    assert main([*words, "--out", str(tmp_path / "cohort"), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "60 cases, 30 groups" in printed
    assert main(["data", "schema", str(table), "--out", str(tmp_path / "schema.yaml")]) == 2
    assert "may hold your corrections" in capsys.readouterr().err


def test_a_target_may_be_named(table: Path):
    task = yaml.safe_load(guess_schema(table, target="age"))["task"]
    assert task["kind"] == "regression"
    with pytest.raises(AmodalError, match=r"unknown column 'agee'.*Did you mean 'age'"):
        guess_schema(table, target="agee")


def test_real_tables_give_a_schema_that_can_be_read(shared_data: Path):
    path = shared_data / "covid-cxr" / "metadata.csv"
    if not path.is_file():
        pytest.skip("the COVID-19 collection is not there")
    schema = TableSchema.from_json(yaml.safe_load(guess_schema(path)))
    assert schema.id == "filename"
    assert schema.group == "patientid"
    assert schema.task.column == "finding"
    assert "?" in schema.missing


def test_a_table_without_rows(tmp_path: Path):
    (tmp_path / "m.csv").write_text("a,b\n")
    with pytest.raises(AmodalError, match="has no rows"):
        guess_schema(tmp_path / "m.csv")


def test_a_guess_is_no_prepared_truth(table: Path, tmp_path: Path):
    """The command's text is the file that `prepare` takes, unchanged."""
    (tmp_path / "s.yaml").write_text(guess_schema(table))
    cohort = prepare(table, tmp_path / "s.yaml", tmp_path / "out").cohort
    assert cohort.schema.names == ("table", "scan", "note")
    assert cohort.observed.all()
