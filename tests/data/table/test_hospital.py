"""A German extract goes from its files to a trained model and a page, as it is and at the first preparation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data.table.hospital import write_extract

import amodal
from amodal.data.table import TableSchema, open_table, prepare
from amodal.prediction import predict_table
from amodal.report.cohort_page import write_cohort_page

SCHEMA = Path(__file__).parents[3] / "docs" / "examples" / "klinik.yaml"


def _prepared(folder: Path, patients: int, events: int):
    n, twice = write_extract(folder, patients=patients, events=events)
    prepared = prepare(folder / "faelle.csv", SCHEMA, folder / "out")
    cohort, counts = prepared.cohort, prepared.problems.counts
    assert len(cohort) == n
    assert len(np.unique(cohort.groups)) == patients
    assert cohort.ids[0] == "00100000", "leading zeros stay"
    assert "faelle.csv: 1 rows are empty throughout, and left out" in prepared.problems.taken
    assert "labor.csv: 'Kalium' is written with a decimal comma" in "\n".join(prepared.problems.taken)
    assert counts["column 'CRP [mg/l]': below a limit, taken as a number"] > 0
    again = "kurve.csv: the same event again, left out (`duplicates: keep` takes it as another)"
    outside = counts["kurve.csv: outside the window"]
    assert 0 < counts[again] <= twice
    assert prepared.problems.cells["kurve: rows of kurve.csv"]["in"] == events + events // 100
    assert (
        prepared.problems.cells["kurve: rows of kurve.csv"]["measured"]
        == events + events // 100 - outside - counts[again]
    )
    assert not any(prepared.problems.balance().values())
    films = len(list((folder / "bilder").iterdir()))
    assert prepared.problems.cells["roentgen: files of Röntgen"] == {
        "in": films,
        "measured": films,
        "empty": 0,
        "lost": 0,
    }
    assert cohort.schema["roentgen"].shape == (3, 1, 32, 32)
    assert counts["roentgen: file found under another spelling"] < films / 10
    return prepared


def test_a_german_extract_is_read_as_it_is(tmp_path: Path):
    prepared = _prepared(tmp_path, 60, 3000)
    cohort = prepared.cohort
    labs = pd.read_csv(tmp_path / "labor.csv", sep=";", dtype=str, encoding="utf-8-sig").iloc[0]
    row = int(np.flatnonzero(cohort.ids == labs["Fall"])[0])
    values = dict(zip(cohort.schema["labor"].features, cohort.batch(np.array([row])).values["labor"][0].tolist()))
    assert values["Kalium"] == pytest.approx(float(labs["Kalium"].removesuffix(" mmol/l").replace(",", ".")))
    assert values["Thrombozyten"] == float(labs["Thrombozyten"].replace(".", ""))
    assert cohort.schema["stamm"].features[:3] == ("Alter", "Geschlecht=m", "Geschlecht=w")
    page = write_cohort_page(cohort, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "How it was read, and what was left out" in page
    assert "outside the window" in page
    assert TableSchema.from_json(cohort.source["table"]).to_json() == cohort.source["table"]


@pytest.mark.slow
def test_a_german_extract_goes_from_files_to_predictions(tmp_path: Path):
    cohort = _prepared(tmp_path, 1500, 142_000).cohort
    train, valid, test = (cohort.split(name) for name in ("train", "valid", "test"))
    model = amodal.fit("fusion", train, valid, epochs=2, seed=0)
    table = amodal.evaluate(model, test).table()
    assert np.isfinite(table["auroc"].iloc[-1])
    new = "Alter;Geschlecht;Gewicht [kg];Notiz;Aufnahme\n62 J;W;71,5;Dyspnoe;01.02.2024 10:00\n1000 J;x;zwei;;\n"
    (tmp_path / "neu").mkdir()
    (tmp_path / "neu" / "neu.csv").write_text(new, encoding="utf-8")
    frame = predict_table(model, open_table(tmp_path / "neu" / "neu.csv"), root=tmp_path / "neu")
    assert "beyond" not in frame["notes"][0]
    assert "not a number" not in frame["notes"][0]
    for words in ("unknown category: 'x'", "not a number: 'zwei'", "out of range"):
        assert words in frame["notes"][1]
