"""The COVID-19 collection from its own files to a page and predictions: every command of docs/own_data.md, in order."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from amodal.cli import main
from amodal.data.cohort import Cohort
from amodal.data.inspection import inspect_cohort
from amodal.data.table import prepare

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
SCHEMA = ROOT / "src" / "amodal" / "data" / "table" / "examples" / "covid_cxr.yaml"


@pytest.fixture(scope="module")
def source(shared_data: Path) -> Path:
    folder = shared_data / "covid-cxr"
    if not (folder / "metadata.csv").is_file():
        pytest.skip(f"the COVID-19 collection is not at {folder}")
    return folder


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_schema_reads_upstreams_files(source: Path, tmp_path: Path):
    prepared = prepare(source / "metadata.csv", SCHEMA, tmp_path / "covid")
    cohort, table = prepared.cohort, pd.read_csv(source / "metadata.csv", dtype=str, keep_default_na=False)
    table = table[~table.finding.isin(["todo", "Unknown"])].reset_index(drop=True)
    assert cohort.ids.tolist() == table.filename.tolist()
    assert (cohort.target == table.finding.str.startswith("COVID-19")).all()
    assert prepared.problems.counts["no target, left out"] == 353 - len(table)
    groups = {split: set(cohort.groups[cohort.splits == split]) for split in ("train", "valid", "test")}
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["valid"]
    seen = dict(zip(cohort.schema.names, cohort.observed.T))
    assert seen["xray"].all()
    assert (seen["notes"] == (table.clinical_notes.str.strip() != "")).all()
    archive = np.load(source / "images_128.npz")
    place = {str(name): i for i, name in enumerate(archive["filename"])}
    rows = np.array([0, 100, 200])
    expected = archive["images"][[place[name] for name in cohort.ids[rows]]]
    batch = cohort.batch(rows)
    np.testing.assert_array_equal(batch.values["xray"][:, 0].numpy(), expected)
    ages = pd.to_numeric(table.age, errors="coerce").to_numpy()
    clinical = cohort.batch(np.arange(len(cohort)))
    known = clinical.measured["clinical"][:, 2].numpy() & seen["clinical"]
    np.testing.assert_array_equal(known, ~np.isnan(ages))
    np.testing.assert_array_equal(clinical.values["clinical"][known, 2].numpy(), ages[known])


def test_the_leak_that_the_page_tells_of_is_found(source: Path, tmp_path: Path):
    text = SCHEMA.read_text(encoding="utf-8")
    column = '      pO2_saturation: {units: "%", min: 20, max: 100}\n'
    (tmp_path / "with.yaml").write_text(text.replace("      # pO2_saturation", column + "      # pO2_saturation"))
    leaky = prepare(source / "metadata.csv", tmp_path / "with.yaml", tmp_path / "leaky").cohort
    assert [s.where for s in inspect_cohort(leaky).suspicions] == ["clinical.pO2_saturation"]
    assert inspect_cohort(leaky).suspicions[0].detail in PAGE
    clean = prepare(source / "metadata.csv", SCHEMA, tmp_path / "clean").cohort
    assert not inspect_cohort(clean).suspicions


@pytest.mark.slow
def test_every_command_of_the_page_runs(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(source, tmp_path / "covid-cxr")
    shutil.copy(SCHEMA, tmp_path)
    shutil.copy(source.parent / "support2" / "support2.csv.gz", tmp_path)
    (tmp_path / "new.csv").write_text(blocks("csv")[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) >= 9
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "amodal"
        if words[1] == "fit":
            words += ["--epochs", "1", "--width", "16", "--quiet"]
        if words[1] == "evaluate":
            words += ["--resamples", "50"]
        asks = words[1:3] == ["data", "schema"] and "--target" not in words  # lists candidates and stops
        assert main(words[1:]) == (2 if asks else 0), command
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "covid_19" in page
    assert "<svg" in (tmp_path / "covid.html").read_text(encoding="utf-8")
    frame = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False).set_index("id")
    np.testing.assert_allclose(frame[["p_other", "p_covid_19"]].sum(axis=1), 1, atol=1e-6)
    assert frame.observed.to_dict() == {"a": "clinical+notes", "b": "", "c": "clinical"}
    assert "unknown category: 'divers'" in frame.notes["b"]
    assert "out of range 0 … 120" in frame.notes["b"]
    assert "average" in frame.notes["b"]
    assert "clinical.age beyond the training data's" in frame.notes["c"]
    assert all("images_128.npz is not there" in note for note in frame.notes)
    for block in blocks("python"):
        exec(compile(block, "own_data.md", "exec"), {})
    assert len(Cohort.open("data/covid")) == 268
