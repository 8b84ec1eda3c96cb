"""Rows without a label, in every kind of task: every command works on them, or says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import amodal
from amodal import MissingModalityClassifier, MissingModalityRegressor
from amodal.cli import main
from amodal.data.table import prepare
from amodal.errors import DataError
from amodal.report.cohort_page import write_cohort_page
from amodal.schema import Task

N = 144
TASKS = {
    "binary": {"kind": "binary", "column": "stage", "classes": {"low": ["I"], "high": ["II", "III"]}},
    "multiclass": {"kind": "multiclass", "column": "stage", "classes": ["I", "II", "III"]},
    "multilabel": {"kind": "multilabel", "columns": {"A": "a", "B": "b"}},
    "regression": {"kind": "regression", "column": "days", "units": "days"},
}
FITTED = ["--epochs", "2", "--width", "8", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module", params=TASKS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table in which two thirds of the targets are unknown, its cohort, and a run."""
    folder = tmp_path_factory.mktemp(request.param)
    rng = np.random.default_rng(0)
    stage, days = np.array(["I", "II", "III"])[np.arange(N) % 3], rng.normal(10, 2, N)
    gone = rng.permutation(N) % 3 > 0
    frame = pd.DataFrame(rng.normal(size=(N, 4)) + (np.arange(N) % 3)[:, None], columns=["u", "v", "x", "y"])
    frame = frame.assign(id=[f"p{i}" for i in range(N)], fold=np.repeat(["train", "valid", "test"], N // 3))
    frame["stage"] = np.where(gone, np.where(np.arange(N) % 2, "todo", ""), stage)
    frame["days"] = np.where(gone, None, days)
    frame["a"] = np.where(gone, None, np.arange(N) % 2)
    frame["b"] = np.where(gone | (np.arange(N) % 5 == 0), None, np.arange(N) % 3 == 0)
    frame.loc[::4, ["x", "y"]] = np.nan
    frame.to_csv(folder / "m.csv", index=False)
    task = TASKS[request.param] | {"without_target": "keep"}
    schema = {
        "name": "made", "id": "id", "split": {"column": "fold"},
        "task": task | ({"unknown": ["todo"]} if "classes" in task else {}),
        "modalities": {
            "one": {"kind": "tabular", "columns": ["u", "v"]},
            "other": {"kind": "tabular", "columns": ["x", "y"]},
        },
    }  # fmt: skip
    (folder / "schema.json").write_text(json.dumps(schema))
    cohort = prepare(folder / "m.csv", schema, folder / "cohort").cohort
    assert cohort.labelled.sum() == (~gone).sum() == N // 3
    assert (
        main(["fit", "modality_dropout", "--data", str(folder / "cohort"), "--out", str(folder / "run"), *FITTED]) == 0
    )
    return folder


def commands(folder: Path, *words: str) -> int:
    given = {"run": str(folder / "run"), "cohort": str(folder / "cohort"), "out": str(folder / "out")}
    return main([word.format(**given) for word in words])


@pytest.mark.filterwarnings("default:.*have no label:UserWarning")
@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "{run}", "--data", "{cohort}", "--resamples", "20"),
        ("predict", "{run}", "--data", "{cohort}", "--split", "test", "--out", "{out}.csv"),
        ("impact", "{run}", "--data", "{cohort}", "--draws", "4", "--advice_draws", "2", "--out", "{out}.csv"),
        ("data", "describe", "{cohort}", "--out", "{out}.html"),
        ("run", "fusion", "boosting", "--data", "{cohort}", "--out", "{out}", "--epochs", "1", "--resamples", "20"),
    ],
    ids=lambda words: words[0],
)
def test_commands(made: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    assert commands(made, *words) == 0, capsys.readouterr().err
    printed, told = capsys.readouterr()
    if words[0] == "run":
        assert "training rows have no label: boosting learns from the other" in told
    if words[0] == "predict":
        assert len(pd.read_csv(made / "out.csv")) == N // 3, "predictions need no label"
    if words[:2] == ("data", "describe"):
        assert "labels: 48 cases have one, 96 have none" in printed
        assert "no label" in (made / "out.html").read_text()
    if words[0] == "evaluate":
        assert "of 48 cases that have a label" in printed
        cohort = amodal.load_cohort(str(made / "cohort")).split("test")
        frame = pd.read_parquet(made / "run" / "predictions.parquet")
        assert sorted(frame["id"]) == sorted(cohort.ids[cohort.labelled]), "judged are the cases with a label"
        assert main(["report", str(made / "run"), "--data", str(made / "cohort"), "--out", str(made / "r.html")]) == 0


def test_a_service_and_predictions_of_a_new_table(made: Path):
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from amodal.serve.app import Service, make_app

    said = TestClient(make_app(Service.load(made / "run"))).post("/predict", json={"one": {"u": 1, "v": 0}})
    assert said.status_code == 200, said.text
    assert commands(made, "predict", "{run}", "--manifest", str(made / "m.csv"), "--out", "{out}.csv") == 0
    assert len(pd.read_csv(made / "out.csv")) == N


def test_a_fit_says_what_it_learnt_from_and_its_history_is_that_of_labelled_rows(made: Path):
    run = amodal.load(made / "run")
    assert run.experiment["data"]["rows"]["train"] == N // 3
    assert 0 < run.experiment["data"]["rows"]["labelled"] < N // 3
    assert np.isfinite(run.history[["train_task", "train_taught", "valid_loss"]].to_numpy()).all()
    cohort = amodal.load_cohort(str(made / "cohort"))
    assert cohort.split("train").fingerprint == amodal.load_cohort(str(made / "cohort")).split("train").fingerprint
    train, valid = cohort.split("train"), cohort.split("valid")
    small = {"epochs": 1, "width": 8, "seed": 0, "missingness": None}
    with pytest.warns(UserWarning, match=r"of 48 training rows have no label: fusion learns from the other \d+ alone"):
        whole = amodal.fit("fusion", train, valid, **small)
    labelled = amodal.fit("fusion", train.take(train.labelled), valid.take(valid.labelled), **small)
    np.testing.assert_array_equal(whole.predict(cohort), labelled.predict(cohort))
    assert whole.history["valid_loss"].tolist() == labelled.history["valid_loss"].tolist()


REFUSED: list[tuple[Callable, str]] = [
    (lambda c, none: amodal.fit("modality_dropout", none), "no label of .* is known in the training samples"),
    (lambda c, none: amodal.fit("modality_dropout", c, none), "no validation row has a label .*None: a tenth"),
    (lambda c, none: amodal.evaluate(amodal.fit("fusion", c.take(c.labelled), epochs=1, width=8), none),
     "no case has a label to evaluate against .*Use model.predict"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=["fit", "validation", "evaluate"])
def test_what_cannot_be_done_without_any_label(made: Path, call: Callable, words: str):
    cohort = amodal.load_cohort(str(made / "cohort"))
    with pytest.raises(DataError, match=words):
        call(cohort, cohort.with_labelled(np.zeros(N, bool)))


@pytest.mark.parametrize("gap", [None, np.nan, pd.NA])
def test_an_estimator_takes_cases_without_a_label(gap: object, tmp_path: Path):
    rng = np.random.default_rng(0)
    X = {"a": rng.normal(size=(60, 3)), "b": rng.normal(size=(60, 2))}
    y = np.where(X["a"][:, 0] > 0, "ill", "well").astype(object)
    y[10:50] = gap
    quick = {"epochs": 2, "width": 8, "settings": {"device": "cpu"}}
    clf = MissingModalityClassifier("modality_dropout", class_weight="balanced", **quick).fit(X, y)
    assert clf.classes_.tolist() == ["ill", "well"]
    assert clf.model_.experiment["data"]["rows"] == {"train": 58, "valid": 2, "labelled": 18}
    known = {name: part[[*range(10), *range(50, 60)]] for name, part in X.items()}
    assert clf.score(X, y) == clf.score(known, y[[*range(10), *range(50, 60)]])
    clf.save(tmp_path / "run")
    np.testing.assert_array_equal(amodal.load(tmp_path / "run").predict(X), clf.predict(X))
    numbers = X["a"][:, 0].astype(object)
    numbers[10:50] = gap
    assert MissingModalityRegressor("modality_dropout", **quick).fit(X, numbers).predict(X).shape == (60,)


def test_splits_have_rows_with_and_without_a_label_alike():
    from amodal.data import folds, split_groups

    rng = np.random.default_rng(0)
    known = rng.random(1000) < 0.3
    for target in (
        np.where(known, rng.integers(0, 3, 1000), -1),
        np.where(known, rng.normal(size=1000), np.nan),
        np.where(known[:, None], rng.integers(0, 2, (1000, 2)), np.nan),
    ):
        parts = split_groups(np.arange(1000), target, seed=0)
        shares = [known[parts == part].mean() for part in ("train", "valid", "test")]
        assert np.ptp(shares) < 0.02
        fold = folds(np.arange(1000), target, 5, seed=0)
        assert np.ptp([known[fold == i].mean() for i in range(5)]) < 0.02


def test_a_cohort_without_labels_is_stored_and_shown(tmp_path: Path):
    cohort = amodal.Cohort.from_arrays(
        {"x": np.arange(6, dtype=np.float32).reshape(3, 2)},
        task=Task("binary", classes=("no", "yes")),
        target=["yes", None, "no"],
    )
    cohort.save(tmp_path / "c")
    again = amodal.Cohort.open(tmp_path / "c")
    assert again.fingerprint == cohort.fingerprint
    assert again.labelled.tolist() == [True, False, True]
    assert again.batch(np.arange(3)).labelled.tolist() == [True, False, True]
    other = again.with_task(Task("binary", classes=("yes", "no")))
    assert other.target.tolist() == [0, -1, 1]
    assert again.with_labelled(np.array([False, True, True])).target.tolist() == [-1, -1, 0]
    assert write_cohort_page(cohort, tmp_path / "page.html").is_file()
