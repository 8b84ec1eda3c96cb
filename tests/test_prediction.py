"""New tables are predicted as the training table was read, and every row is told what it should know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import amodal
from amodal.cli import main
from amodal.data.table import open_table, prepare, table_source
from amodal.errors import DataError, RunError
from amodal.prediction import predict_table
from amodal.schema import Task

SCHEMA = {
    "id": "id",
    "task": {"kind": "binary", "column": "y", "classes": ["no", "yes"]},
    "split": {"column": "fold"},
    "modalities": {
        "lab": {"kind": "tabular", "columns": {"na": {"min": 100, "max": 200}, "k": {}}},
        "who": {"kind": "tabular", "columns": {"sex": {"type": "category", "categories": ["F", "M"]}}},
        "note": {"kind": "text", "column": "note"},
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    n = 90
    y = rng.integers(0, 2, n)
    pd.DataFrame({
        "id": np.arange(n), "y": np.array(["no", "yes"])[y], "fold": np.repeat(["train", "valid", "test"], 30),
        "na": rng.uniform(130, 150, n).round(1) + y, "k": rng.normal(4, 0.5, n).round(2),
        "sex": rng.choice(["F", "M"], n), "note": np.where(rng.random(n) < 0.3, "", "fever"),
    }).to_csv(folder / "m.csv", index=False)  # fmt: skip
    cohort = prepare(folder / "m.csv", SCHEMA, folder / "cohort").cohort
    amodal.fit("fusion", cohort.split("train"), cohort.split("valid"), missingness=None, epochs=2, seed=0, width=8,
               out=folder / "run", progress=False, device="cpu")  # fmt: skip
    return folder / "run"


def test_the_run_keeps_how_its_table_was_read(run: Path):
    source = table_source(amodal.load(run).experiment)
    assert source is not None
    assert list(source["table"]["modalities"]) == ["lab", "who", "note"]
    assert source["ranges"]["lab"][0][0] >= 130


def test_the_table_it_was_trained_on_is_predicted_as_the_cohort_is(run: Path):
    model = amodal.load(run)
    cohort = amodal.load_cohort(run.parent / "cohort")
    frame = predict_table(model, open_table(run.parent / "m.csv"), root=run.parent)
    np.testing.assert_allclose(frame[["p_no", "p_yes"]].to_numpy(), model.predict(cohort), atol=1e-6)
    assert frame["id"].tolist() == cohort.ids.tolist()


def test_any_subset_of_columns_and_every_oddity_by_row(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "new.csv").write_text(
        "sex,na,k\nF,140,4\nX,140,4\n,500,4\n,,\nM,140,99\nM,a lot,4\n", encoding="utf-8"
    )  # no ids, no notes, no target
    words = ["predict", str(run), "--manifest", str(tmp_path / "new.csv"), "--out", str(tmp_path / "p.csv")]
    assert main(words) == 0
    frame = pd.read_csv(tmp_path / "p.csv", keep_default_na=False)
    assert frame.columns.tolist() == ["id", "p_no", "p_yes", "predicted", "observed", "notes"]
    assert frame["id"].tolist() == [0, 1, 2, 3, 4, 5]
    assert frame["observed"].tolist() == ["lab+who", "lab", "lab", "", "lab+who", "lab+who"]
    assert frame["notes"][0] == ""
    assert "column 'sex': unknown category: 'X'" in frame["notes"][1]
    assert "training never met just these modalities together" in frame["notes"][1]
    assert "out of range 100 … 200, taken as not measured: 500" in frame["notes"][2]
    assert "nothing observed" in frame["notes"][3]
    model = amodal.load(run)
    np.testing.assert_allclose(frame.loc[3, ["p_no", "p_yes"]].to_numpy(float), model.prior, atol=1e-6)
    assert "lab.k beyond the training data's" in frame["notes"][4]
    assert "column 'na': not a number: 'a lot', left out" in frame["notes"][5]
    assert np.isfinite(frame[["p_no", "p_yes"]].to_numpy()).all()
    printed = capsys.readouterr().out
    assert "5 of 6 rows have notes" in printed
    assert "read: new.csv: no column 'note' of modalities.note, taken as not measured" in printed


def test_what_holds_for_all_rows_is_told_once(run: Path, tmp_path: Path):
    (tmp_path / "new.csv").write_text("id,na,sex\nid,na,sex\nq1,140,F\n,,\n")
    frame = predict_table(amodal.load(run), open_table(tmp_path / "new.csv"), root=tmp_path)
    assert frame["notes"].tolist() == [""]
    assert frame.attrs["taken"] == [
        "new.csv: no column 'k' of modalities.lab, taken as not measured",
        "new.csv: no column 'note' of modalities.note, taken as not measured",
        "new.csv: 1 rows are empty throughout, and left out",
        "new.csv: 1 rows are the names of the columns again, and left out",
    ]


def test_tables_that_cannot_be_predicted(run: Path, tmp_path: Path):
    model = amodal.load(run)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"none of the columns that the model knows .*k, na, note, sex"):
        predict_table(model, open_table(tmp_path / "other.csv"), root=tmp_path)
    (tmp_path / "twice.csv").write_text("id,na\n1,140\n1,141\n")
    with pytest.raises(DataError, match="ids come more than once: 1"):
        predict_table(model, open_table(tmp_path / "twice.csv"), root=tmp_path)
    (tmp_path / "none.csv").write_text("id,na\n")
    with pytest.raises(DataError, match="has no rows"):
        predict_table(model, open_table(tmp_path / "none.csv"), root=tmp_path)


def test_a_run_of_no_table_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(0)
    cohort = amodal.Cohort.from_arrays({"a": rng.normal(size=(40, 2))}, task=Task("binary", classes=(0, 1)),
                                       target=np.arange(40) % 2)  # fmt: skip
    model = amodal.fit("fusion", cohort, epochs=1, seed=0, width=8, progress=False, device="cpu")
    (tmp_path / "new.csv").write_text("a\n1\n")
    with pytest.raises(RunError, match="not trained on a table"):
        predict_table(model, open_table(tmp_path / "new.csv"), root=tmp_path)
    model.save(tmp_path / "run")
    assert main(["predict", str(tmp_path / "run"), "--out", str(tmp_path / "p.csv")]) == 2
    assert "--data or --manifest" in capsys.readouterr().err
