"""The first schema of a table is one that can be used, and says what was seen."""

from __future__ import annotations

import re
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
    words = ["data", "schema", str(table), "--target", "outcome", "--out", str(tmp_path / "schema.yaml")]
    assert main(words) == 0
    record = yaml.safe_load((tmp_path / "schema.yaml").read_text())
    assert record["id"] == "case_id"
    assert record["group"] == "patient"
    assert record["task"] == {"column": "outcome", "kind": "binary", "classes": ["lives", "died"]}
    assert "?" in record["missing"]
    columns = record["modalities"]["table"]["columns"]
    assert columns["Temp [degC]"] == {"units": "degC"}
    assert columns["sex"] == {"type": "category", "categories": ["F", "M"]}
    assert "seen: on" not in columns
    assert record["modalities"]["scan"]["folder"] == "scans"
    assert record["modalities"]["note"]["kind"] == "text"
    text = (tmp_path / "schema.yaml").read_text()
    assert "# left out: hospital (the same in every row)" in text
    assert "# left out: nothing (empty)" in text
    assert "# left out: seen: on (a date; as an input count it from another" in text
    words = ["data", "prepare", "table", "--manifest", str(table), "--schema", str(tmp_path / "schema.yaml")]
    assert main([*words, "--out", str(tmp_path / "cohort"), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "60 cases, 30 groups" in printed
    assert main(["data", "schema", str(table), "--target", "sex", "--out", str(tmp_path / "schema.yaml")]) == 2
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
    schema = TableSchema.from_json(yaml.safe_load(guess_schema(path, target="finding")))
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
    (tmp_path / "s.yaml").write_text(guess_schema(table, target="outcome"))
    cohort = prepare(table, tmp_path / "s.yaml", tmp_path / "out").cohort
    assert cohort.schema.names == ("table", "scan", "note")
    assert cohort.observed.all()


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """A German extract: semicolons, decimal commas, a last row of nothing, ids with zeros, and leaks."""
    rng = np.random.default_rng(0)
    n = 400
    died = rng.integers(0, 2, n)
    frame = pd.DataFrame({
        "Fallnummer": [f"{100000 + i}" for i in range(n)],
        "Patientennummer": [f"{i // 2:05d}" for i in range(n)],
        "Aufnahme": [f"{i % 28 + 1:02d}.03.2023 08:00" for i in range(n)],
        "Entlassung": [f"{i % 28 + 1:02d}.04.2023" for i in range(n)],
        "Alter": rng.integers(20, 90, n),
        "Geschlecht": rng.choice(["w", "m"], n),
        "CRP [mg/l]": [f"{x:.1f}".replace(".", ",") if x > 5 else "<5,0" for x in rng.gamma(2, 20, n)],
        "Diagnosen": rng.choice(["AKI", "AKI|Sepsis", "keine", "Pneumonie|Sepsis", "Sepsis"], n),
        "Medikamente": rng.choice(["ASS;Heparin", "Heparin", "Insulin;ASS"], n),
        "Tage bis Ereignis": rng.integers(1, 400, n),
        "verstorben": died,
        "Marker": died * 10 + rng.random(n),
    })  # fmt: skip
    frame.to_csv(tmp_path / "kohorte.csv", sep=";", index=False)
    with open(tmp_path / "kohorte.csv", "a") as file:
        file.write(";" * 11 + "\n")
    rows = rng.integers(0, n, 3000)
    pd.DataFrame({
        "Fallnummer": frame["Fallnummer"].to_numpy()[rows],
        "Zeitpunkt": [f"{r % 28 + 1:02d}.03.2023 {h:02d}:30" for r, h in zip(rows, rng.integers(9, 23, 3000))],
        "Größe": rng.choice(["HF", "Temp"], 3000),
        "Wert": np.round(rng.normal(80, 10, 3000), 1),
        "Einheit": "1/min",
    }).to_csv(tmp_path / "vital.csv", sep=";", decimal=",", index=False)  # fmt: skip
    pd.DataFrame({"Fall": frame["Fallnummer"][:350], "Na": rng.normal(140, 3, 350).round(), "tot": died[:350]}).to_csv(
        tmp_path / "labor.csv", sep=";", index=False
    )
    return tmp_path / "kohorte.csv"


def test_the_target_is_asked_for_with_candidates_and_counts(hospital: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["data", "schema", str(hospital)]) == 2
    said = capsys.readouterr().err
    assert "which column of kohorte.csv is to be predicted? Name it with --target" in said
    assert re.search(r"verstorben: [01] 2\d\d, [01] 1\d\d", said)
    assert "Alter: numbers 20 … 89" in said
    assert "several in a cell, by '|'" in said
    for name in ("Fallnummer", "Patientennummer", "Aufnahme"):
        assert name not in said


def test_no_id_outcome_or_leak_is_an_input(hospital: Path):
    folder = hospital.parent
    text = guess_schema(hospital, target="verstorben", events=[folder / "vital.csv"], tables=[folder / "labor.csv"])
    record = yaml.safe_load(text)
    assert (record["id"], record["group"]) == ("Fallnummer", "Patientennummer")
    assert record["censored"] == "limit"
    assert set(record["modalities"]) == {"table", "vital", "labor"}
    columns = record["modalities"]["table"]["columns"]
    assert set(columns) == {"Alter", "Geschlecht", "CRP [mg/l]", "Medikamente"}
    assert columns["Medikamente"]["separator"] == ";"
    for name, why in {
        "Entlassung": "known only afterwards", "Diagnosen": "a diagnosis",
        "Marker": "tells the target by itself (AUROC 1.00)",
        "Tage bis Ereignis": "a follow-up time and an indicator of its end, beside 'verstorben'",
        "tot of labor.csv": "tells the target by itself",
    }.items():  # fmt: skip
        assert re.search(rf"# left out: {name} \(.*{re.escape(why)}", text), f"{name}: {why}"
    vital = record["modalities"]["vital"]
    assert vital["since"] == "Aufnahme"
    assert vital["units_column"] == "Einheit"
    assert set(vital["variables"]) == {"HF", "Temp"}
    assert vital["variables"]["HF"] == {"units": "1/min"}
    assert re.search(r"HF: .*# 1,\d\d\d rows, 5\d.* … 10\d", text)
    assert record["modalities"]["labor"] == {
        "kind": "tabular", "file": "labor.csv", "id": "Fall", "columns": {"Na": {"units": ""}},
    }  # fmt: skip


def test_a_time_to_an_event_is_no_plain_target(hospital: Path):
    text = guess_schema(hospital, target="Tage bis Ereignis")
    assert "# CAREFUL: Tage bis Ereignis and verstorben are a time and an event" in text
    assert "verstorben" not in yaml.safe_load(text)["modalities"]["table"]["columns"]


def test_several_labels_in_a_cell(hospital: Path):
    task = yaml.safe_load(guess_schema(hospital, target="Diagnosen"))["task"]
    assert task["kind"] == "multilabel"
    assert task["separator"] == "|"
    assert set(task["classes"]) == {"AKI", "Sepsis", "Pneumonie"}
    assert task["none"] == ["keine"]


def test_numbers_with_units_few_words_among_numbers_and_long_texts(tmp_path: Path):
    n = 60
    pd.DataFrame({
        "id": [f"k{i}" for i in range(n)],
        "Alter": [f"{20 + i} J" for i in range(n)],
        "Kalium": [f"{3 + i / 50:.2f} mmol/l".replace(".", ",") for i in range(n)],
        "Kreatinin": ["hämolytisch" if i % 10 == 0 else f"{1 + i / 30:.2f}".replace(".", ",") for i in range(n)],
        "Notiz": ["Patient kommt mit Schwindel; bekannte Hypertonie, sonst ohne Befund"] * 30
        + ["Patient kommt mit Dyspnoe; bekannte Hypertonie, sonst ohne Befund"] * 30,
        "verstorben": ["nein", "ja"] * 30,
    }).to_csv(tmp_path / "m.csv", sep=";", index=False)  # fmt: skip
    record = yaml.safe_load(guess_schema(tmp_path / "m.csv", target="verstorben"))
    assert record["task"]["classes"] == ["nein", "ja"], "the positive one comes last"
    assert record["modalities"]["table"]["columns"] == {
        "Alter": {"type": "duration", "units": "years"}, "Kalium": {"units": "mmol/l"}, "Kreatinin": {"units": ""},
    }  # fmt: skip
    assert "hämolytisch" in record["missing"]
    assert record["modalities"]["Notiz"]["kind"] == "text"
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(record, allow_unicode=True))
    assert len(prepare(tmp_path / "m.csv", tmp_path / "s.yaml", tmp_path / "out").cohort) == n


def test_a_grouping_of_diseases_is_no_patient(tmp_path: Path):
    pd.DataFrame({"id": [f"k{i}" for i in range(200)], "dzgroup": ["A", "B"] * 100, "y": ["no", "yes"] * 100}).to_csv(
        tmp_path / "m.csv", index=False
    )
    assert "group" not in yaml.safe_load(guess_schema(tmp_path / "m.csv", target="y"))
