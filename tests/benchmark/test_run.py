"""Runs: their folders hold what was evaluated, finished ones are not run again, damaged ones are told."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import amodal
from amodal.benchmark import Experiment, fitting, read_run, run_all, run_experiment
from amodal.benchmark.run import _parts
from amodal.data import Cohort
from amodal.errors import RunError, UnknownNameError
from amodal.missingness import MCAR, Presence
from amodal.schema import Task

QUICK = {"epochs": 1, "batch_size": 32}


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 150)
    values = {name: (truth[:, None] + rng.normal(size=(150, 3))).astype(np.float32) for name in ("a", "b", "c")}
    observed = {"a": np.ones(150, bool), "b": np.arange(150) % 5 > 0, "c": np.ones(150, bool)}
    splits = np.array(["train"] * 80 + ["valid"] * 20 + ["test"] * 50)
    task = Task("binary", name="sick", classes=("no", "yes"))
    return Cohort.from_arrays(values, task=task, target=truth, observed=observed, splits=splits, name="made")


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment(
        "fusion",
        cohort="made",
        train_missingness=MCAR(0.2),
        test_missingness=MCAR(0.3),
        rates=(0.0, 0.4),
        width=8,
        settings=QUICK,
        resamples=50,
        seed=3,
    )


@pytest.fixture(scope="module")
def folder(cohort, experiment, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "fusion"
    run_experiment(experiment, place, cohort=cohort)
    return place


def test_a_run_is_what_fit_and_evaluate_give(cohort, experiment, folder):
    run, model = read_run(folder), amodal.load(folder)
    assert isinstance(model, amodal.TrainedModel)
    test = cohort.split("test")
    expected = amodal.evaluate(model, test, MCAR(0.3), seed=3, resamples=50)
    np.testing.assert_array_equal(run.test.predictions, expected.predictions)
    np.testing.assert_array_equal(run.test.observed, expected.presence.observed)
    np.testing.assert_array_equal(run.target, test.target)
    assert run.metrics == json.loads(json.dumps(expected.to_json()))
    assert run.presence_hash() == expected.presence.hash
    assert (run.name, run.seed, run.setting) == ("fusion", 3, experiment.setting)
    rows = run.rows()
    overall = rows[(rows["pattern"] == "overall") & (rows["metric"] == "auroc")]
    assert overall["value"].item() == expected.intervals["overall"]["auroc"].estimate


def test_conditions_are_predictions_under_that_presence(cohort, folder):
    run, model, test = read_run(folder), amodal.load(folder), cohort.split("test")
    by_name = {condition.name: condition for condition in run.conditions}
    assert list(by_name) == ["rate 0", "rate 0.4", "a+b+c", "b+c", "a+c", "a+b", "c", "b", "a"]
    np.testing.assert_allclose(by_name["rate 0"].predictions, model.predict(test), atol=1e-6)
    np.testing.assert_array_equal(by_name["rate 0"].observed, test.observed)
    removed = 1 - by_name["rate 0.4"].observed.sum() / test.observed.sum()
    assert removed == pytest.approx(0.4, abs=0.12)
    complete = test.observed.all(1)
    assert 0 < complete.sum() < len(test)
    for name in ("a+c", "b"):
        np.testing.assert_array_equal(by_name[name].rows, complete)
        kept = np.array([m in name.split("+") for m in ("a", "b", "c")])
        np.testing.assert_array_equal(by_name[name].observed[complete], np.broadcast_to(kept, (complete.sum(), 3)))
        rows = np.flatnonzero(complete)
        expected = model.predict(test.take(rows).with_observed(np.broadcast_to(kept, (len(rows), 3))))
        np.testing.assert_array_equal(by_name[name].predictions[rows], expected)


def test_presence_of_training_is_what_the_data_lack(cohort, folder):
    run = read_run(folder)
    assert run.train_presence is not None
    natural = cohort.split("train").observed
    assert not (run.train_presence.natural & ~natural).any()
    rate = 1 - run.train_presence.natural.sum() / natural.sum()
    assert rate == pytest.approx(0.2, abs=0.07)
    assert run.record["presence"]["train"]["hash"] == run.train_presence.hash


def test_a_finished_run_is_read_and_not_run_again(cohort, experiment, folder, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("amodal.benchmark.run.fit", refuse)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run_experiment(experiment, folder, cohort=cohort).name == "fusion"
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_run_that_was_interrupted_before_its_evaluation_is_finished(cohort, experiment, folder, tmp_path):
    place = tmp_path / "run"
    shutil.copytree(folder, place)
    for name in ("cell.json", "conditions.npz", "metrics.json"):
        (place / name).unlink()
    weights = (place / "model.safetensors").stat().st_mtime_ns
    again = run_experiment(experiment, place, cohort=cohort)
    assert (place / "model.safetensors").stat().st_mtime_ns == weights
    np.testing.assert_array_equal(again.test.predictions, read_run(folder).test.predictions)


def test_a_folder_with_another_experiment_is_left_alone(cohort, experiment, folder):
    with pytest.raises(RunError, match="holds other results: another cell"):
        run_experiment(replace(experiment, width=9), folder, cohort=cohort)
    with pytest.raises(RunError, match="holds other results: another data"):
        run_experiment(experiment, folder, cohort=cohort.take(np.arange(149)))


def test_a_cohort_that_was_overwritten_is_not_answered_from_old_results(cohort, experiment, tmp_path):
    """The path is the same, the data are not: one bit of one target, or the values of one modality."""
    place, out = tmp_path / "cohort", tmp_path / "runs"
    quick = [replace(experiment, cohort=str(place), rates=(), patterns="met")]
    found = []
    for other in (cohort, replace(cohort, target=1 - cohort.target), cohort):
        other.save(place, overwrite=True)
        told: list = []
        found.append(run_all(quick, out, tell=told.append).runs[0])
        found[-1].record["new"] = told[0].seconds > 0
    assert [run.record["new"] for run in found] == [True, True, False]  # the third is the first again
    assert found[0].folder == found[2].folder != found[1].folder
    np.testing.assert_array_equal(found[0].target, 1 - found[1].target)


def test_a_later_evaluation_in_a_run_s_folder_is_not_taken_for_the_experiment_s(cohort, experiment, folder, tmp_path):
    place = tmp_path / "run"
    shutil.copytree(folder, place)
    model = amodal.load(place)
    amodal.evaluate(model, cohort.split("valid"), MCAR(0.1), seed=9, resamples=20).save(place)
    other = read_run(place)  # what the folder now has, under its own name
    assert len(other.ids) == 20
    assert other.setting.startswith("made, presence ")
    assert other.conditions == ()
    again = run_experiment(experiment, place, cohort=cohort)  # evaluated anew, not trained
    np.testing.assert_array_equal(again.test.predictions, read_run(folder).test.predictions)


def test_a_default_that_has_changed_is_another_run(cohort, experiment, tmp_path, monkeypatch):
    quick = [replace(experiment, rates=(), patterns="met")]
    first = run_all(quick, tmp_path, cohort=cohort).runs[0]
    resolved = fitting.settings_from
    monkeypatch.setattr(fitting, "settings_from", lambda given: replace(resolved(given), learning_rate=1e-4))
    second = run_all(quick, tmp_path, cohort=cohort).runs[0]
    assert first.folder != second.folder


def test_experiments_that_fail_do_not_end_the_others(cohort, experiment, tmp_path):
    quick = replace(experiment, rates=(), patterns="met")
    failing = replace(quick, name="one", encoders={"nowhere": "mlp"})
    told: list = []
    with pytest.warns(UserWarning, match=r"(?s)1 of 3 cells failed.*one-seed3: UnknownNameError: unknown modality"):
        results = run_all(
            [replace(quick, name="a"), failing, replace(quick, name="b")], tmp_path, cohort=cohort, tell=told.append
        )
    assert results.names == ("a", "b")
    assert [one.kind for one in results.failed] == ["UnknownNameError"]
    assert [(t.run is None, t.failure is None) for t in told] == [(False, True), (True, False), (False, True)]
    error = json.loads((results.failed[0].folder / "error.json").read_text())
    assert "nowhere" in error["message"]
    assert error["cell"]["experiment"]["name"] == "one"
    with pytest.raises(UnknownNameError, match="nowhere"):
        run_all([failing, quick], tmp_path, cohort=cohort, fail_fast=True)
    with pytest.raises(RunError, match="all 1 cells failed; one-seed3: UnknownNameError"):
        run_all([failing], tmp_path, cohort=cohort)


def test_wrong_options_are_told_before_the_first_experiment_starts(cohort, experiment, tmp_path):
    with pytest.raises(UnknownNameError, match="unknown option of fusion 'hiden'"):
        run_all([experiment, replace(experiment, options={"hiden": 3})], tmp_path / "runs", cohort=cohort)
    assert not (tmp_path / "runs").exists()


def test_complete_rows_folds_and_rates_by_modality(cohort, experiment, tmp_path):
    one = replace(experiment, rates=({"b": 0.5},), patterns="met", train_missingness=MCAR({"a": 0.5}))
    complete, fold = replace(one, name="complete", rows="complete"), replace(one, name="fold", fold=(1, 4))
    results = run_all([one, complete], tmp_path, cohort=cohort)
    by_name = {run.name: run for run in results.runs}
    assert by_name["complete"].train_presence.observed.shape[1] == 3
    assert by_name["complete"].train_presence.natural.all()
    assert len(by_name["complete"].train_presence) == by_name["fusion"].train_presence.natural.all(axis=1).sum()
    assert not by_name["fusion"].train_presence.natural.all()
    condition = results.runs[0].conditions[0]
    assert (condition.name, condition.kind) == ("rates b 0.5", "rates")
    np.testing.assert_array_equal(condition.observed[:, [0, 2]], cohort.split("test").observed[:, [0, 2]])
    assert 1 - condition.observed[:, 1].mean() == pytest.approx(0.5, abs=0.15)
    parts = [_parts(replace(fold, fold=(i, 4)), cohort) for i in range(4)]
    assert sorted(np.concatenate([test.ids for _, _, test in parts])) == sorted(cohort.ids)
    assert all(not set(train.groups) & {*valid.groups, *test.groups} for train, valid, test in parts)
    assert "fold 2 of 4" in run_all([fold], tmp_path, cohort=cohort).settings[0]


def test_many_runs_meet_the_same_presence_and_write_their_rows_as_they_come(cohort, experiment, tmp_path):
    experiments = [
        replace(experiment, name="plain", removal=None),
        replace(experiment, method="boosting", name="trees"),
    ]
    experiments[1] = replace(experiments[1], options={"steps": 3, "redraws": 1})
    told, rows = [], []

    def tell(progress: object) -> None:
        told.append(progress)
        rows.append(pd.read_csv(tmp_path / "results.csv")["name"].unique().tolist())

    results = run_all(experiments, tmp_path, cohort=cohort, tell=tell)
    assert results.names == ("plain", "trees")
    assert rows == [["plain"], ["plain", "trees"]]
    assert [(progress.done, progress.total) for progress in told] == [(1, 2), (2, 2)]
    assert all(progress.seconds > 0 for progress in told)
    for name in ("test", "rate 0.4", "a+b"):
        assert len({run.presence_hash(name) for run in results.runs}) == 1
    first, second = (run.train_presence for run in results.runs)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.natural, second.natural)
    told.clear()
    again = run_all(experiments, tmp_path, cohort=cohort, tell=tell)
    assert [progress.seconds for progress in told] == [0, 0]
    assert again.summary("plain", "auroc").interval == results.summary("plain", "auroc").interval


@pytest.mark.slow
def test_runs_in_processes_are_the_same_runs(cohort, experiment, folder, tmp_path):
    results = run_all([experiment, replace(experiment, seed=4)], tmp_path, cohort=cohort, jobs=2)
    assert results.seeds == (3, 4)
    np.testing.assert_allclose(results.runs[0].test.predictions, read_run(folder).test.predictions, atol=1e-6)


def test_a_run_of_fit_and_evaluate_can_be_read(cohort, tmp_path):
    train, valid, test = (cohort.split(name) for name in ("train", "valid", "test"))
    model = amodal.fit("late_fusion", train, valid, out=tmp_path / "run", epochs=1, width=8, seed=0)
    amodal.evaluate(model, test, MCAR(0.3), seed=1, resamples=20).save(tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert (run.name, run.experiment.cohort, run.conditions) == ("late_fusion", "made", ())
    assert run.setting.startswith("made, presence ")
    assert run.experiment.test_missingness == MCAR(0.3)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda place: (place / "predictions.parquet").unlink(), "has not been evaluated: it lacks predictions"),
        (lambda place: (place / "metrics.json").write_text("{"), "metrics.json is not readable JSON"),
        (lambda place: (place / "predictions.parquet").write_bytes(b"PAR1"), "predictions.parquet was altered"),
        (lambda place: (place / "conditions.npz").write_bytes(b"PK"), "conditions.npz cannot be read"),
        (lambda place: (place / "cell.json").write_text('{"format": 9}'), "is not known"),
        (lambda place: (place / "model.safetensors").unlink(), "is incomplete"),
    ],
)
def test_damaged_folders_are_told(folder, tmp_path, damage, words):
    place = tmp_path / "run"
    shutil.copytree(folder, place)
    damage(place)
    with pytest.raises(RunError, match=words):
        read_run(place)


def test_files_of_different_evaluations_are_told(folder, tmp_path):
    place = tmp_path / "run"
    shutil.copytree(folder, place)
    frame = pd.read_parquet(place / "predictions.parquet")
    frame["pattern"] = "a"
    frame.to_parquet(place / "predictions.parquet", index=False)
    with pytest.raises(RunError, match="predictions.parquet was altered: its checksum is another. Evaluate the run ag"):
        read_run(place)


def test_a_place_that_cannot_be_written_is_told(experiment, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to"):
        run_all([experiment], tmp_path / "file")


def test_the_hash_is_that_of_presence(folder):
    run = read_run(folder)
    assert run.presence_hash() == Presence(run.test.observed, run.schema.names, run.test.observed).hash
