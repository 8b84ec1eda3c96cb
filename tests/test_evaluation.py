"""Evaluation by pattern: the numbers are those of scikit-learn on the rows they claim to be of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, mean_absolute_error, roc_auc_score

import amodal
from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.errors import ConfigurationError, DataError, RunError, SchemaError, UnknownNameError
from amodal.evaluation import compare, degradation, evaluate, evaluate_patterns, intervals
from amodal.metrics import resample_counts
from amodal.missingness import MCAR, FixedCount, Pattern, Presence
from amodal.schema import Task


def made(n: int, seed: int) -> Cohort:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    values = {
        name: rng.normal(size=(n, 2)) + shift * y[:, None] for name, shift in (("a", 2.0), ("b", 1.0), ("c", 0.0))
    }
    return Cohort.from_arrays(
        values, task=Task("binary", classes=(0, 1)), target=y, groups=[f"p{i // 2}" for i in range(n)], name="made"
    )


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return amodal.fit("fusion", made(300, 0), epochs=5, width=8, seed=0, device="cpu")


@pytest.fixture(scope="module")
def test_rows() -> Cohort:
    return made(400, 1)


def test_values_are_those_of_scikit_learn_on_each_pattern_s_rows(model: TrainedModel, test_rows: Cohort):
    result = evaluate(model, test_rows, MCAR(0.4), seed=7, resamples=200)
    table = result.table().set_index("pattern")
    presence = result.presence.observed
    assert table.index[-1] == "overall"
    assert table.loc["overall", "n"] == len(test_rows)
    assert table["n"].iloc[:-1].sum() == len(test_rows)
    labels = ["+".join(n for n, seen in zip("abc", row) if seen) for row in presence]
    for pattern in set(labels) | {"overall"}:
        rows = np.array([pattern in ("overall", label) for label in labels])
        p, y = result.predictions[rows], test_rows.target[rows]
        assert table.loc[pattern, "accuracy"] == pytest.approx(accuracy_score(y, p.argmax(1)))
        assert table.loc[pattern, "auroc"] == pytest.approx(roc_auc_score(y, p[:, 1]))
        assert table.loc[pattern, "auroc_low"] <= table.loc[pattern, "auroc"] <= table.loc[pattern, "auroc_high"]
    np.testing.assert_allclose(
        result.predictions, model.predict(test_rows.with_observed(presence)), err_msg="predictions under the presence"
    )


def test_the_same_seed_gives_every_model_the_same_presence(model: TrainedModel, test_rows: Cohort):
    first, second, third = (evaluate(model, test_rows, MCAR(0.4), seed=s, resamples=20) for s in (7, 7, 8))
    assert first.presence.hash == second.presence.hash != third.presence.hash
    pd.testing.assert_frame_equal(first.table(), second.table())


def test_intervals_resample_groups_whole(model: TrainedModel, test_rows: Cohort):
    doubled = test_rows.take(np.repeat(np.arange(len(test_rows)), 1))
    grouped = evaluate(model, doubled, seed=0).intervals["overall"]["accuracy"]
    width = grouped.high - grouped.low
    p = grouped.estimate
    # pairs are independent within the made data, so that the width is near the binomial one
    assert width == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / len(doubled)), rel=0.25)


def test_every_pattern_imposed_and_their_mean(model: TrainedModel, test_rows: Cohort):
    result = evaluate_patterns(model, test_rows, resamples=100)
    table = result.table(["accuracy"]).set_index("pattern")
    assert len(table) == 8
    assert (table["n"] == len(test_rows)).all()
    alone = model.predict(test_rows.with_observed(np.tile([True, False, False], (400, 1))))
    assert table.loc["a", "accuracy"] == pytest.approx(accuracy_score(test_rows.target, alone.argmax(1)))
    assert table.loc["mean", "accuracy"] == pytest.approx(table["accuracy"].iloc[:-1].mean())
    assert table.loc["a", "accuracy"] > table.loc["c", "accuracy"] + 0.2
    lacking = test_rows.with_observed(np.tile([False, True, True], (400, 1)))
    with pytest.raises(DataError, match="400 of 400 cases lack a modality that a pattern asks for"):
        evaluate_patterns(model, lacking)


def test_predictions_of_patterns_in_a_file_are_kept_when_interrupted(
    model: TrainedModel, test_rows: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    expected, store = evaluate_patterns(model, test_rows, resamples=20), tmp_path / "patterns.npy"

    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_patterns(model, test_rows, resamples=20, store=store, tell=interrupt)
    predicted, original = [], TrainedModel.predict
    monkeypatch.setattr(TrainedModel, "predict", lambda *a, **k: predicted.append(1) or original(*a, **k))
    result = evaluate_patterns(model, test_rows, resamples=20, store=store)
    assert len(predicted) == 2  # of seven
    np.testing.assert_array_equal(result.predictions, expected.predictions)
    np.testing.assert_array_equal(np.load(store), expected.predictions)
    pd.testing.assert_frame_equal(result.table(), expected.table())
    assert [path.name for path in tmp_path.iterdir()] == [store.name]


def test_of_many_patterns_the_rare_ones_are_one_row():
    rng = np.random.default_rng(0)
    values = {f"m{i}": rng.normal(size=(300, 1)) for i in range(7)}
    cohort = Cohort.from_arrays(values, task=Task("binary", classes=(0, 1)), target=rng.integers(0, 2, 300))
    model = amodal.fit("fusion", cohort, epochs=1, width=4, device="cpu")
    presence = rng.random((300, 7)) < 0.5
    presence[:150], presence[:, 0] = True, True
    result = evaluate(model, cohort.with_observed(presence), resamples=20)
    met, counts = np.unique(presence, axis=0, return_counts=True)
    rare = int((counts < 30).sum())
    assert rare > 32
    assert list(result.counts) == ["+".join(values), f"{rare} patterns of fewer than 30 cases", "overall"]
    assert list(result.counts.values()) == [counts.max(), 300 - counts.max(), 300]
    table = result.table(["accuracy"])
    assert np.isnan(table["modalities"].iloc[1])
    correct = result.predictions.argmax(1) == result.target
    assert table["accuracy"].iloc[1] == pytest.approx(correct[~presence.all(1)].mean())
    assert result.frame()["pattern"].nunique() == len(met)


def test_resamples_drawn_some_at_a_time_change_nothing(
    model: TrainedModel, test_rows: Cohort, monkeypatch: pytest.MonkeyPatch
):
    whole = evaluate(model, test_rows, MCAR(0.4), seed=1, resamples=50).table()
    monkeypatch.setattr(intervals, "CELLS", 5000)
    pd.testing.assert_frame_equal(evaluate(model, test_rows, MCAR(0.4), seed=1, resamples=50).table(), whole)


def test_paired_differences(model: TrainedModel, test_rows: Cohort):
    other = amodal.fit("fusion", made(300, 0), epochs=1, width=4, seed=1, device="cpu")
    runs = {"long": evaluate(model, test_rows, seed=3), "short": evaluate(other, test_rows, seed=3)}
    frame = compare(runs, "short", metrics=["accuracy"])
    expected = (
        runs["long"].intervals["overall"]["accuracy"].estimate - runs["short"].intervals["overall"]["accuracy"].estimate
    )
    assert frame["difference"].item() == pytest.approx(expected)
    assert frame["low"].item() <= expected <= frame["high"].item()
    elsewhere = evaluate(other, test_rows, MCAR(0.4), seed=3)
    with pytest.raises(ConfigurationError, match="not evaluated on the same cases under the same presence"):
        compare({"a": runs["long"], "b": elsewhere})
    with pytest.raises(UnknownNameError, match="unknown run 'shorter'.*Did you mean 'short'"):
        compare(runs, "shorter")


def test_degradation(model: TrainedModel, test_rows: Cohort):
    curve = degradation(model, test_rows, [0.0, 0.3, 0.6], metrics=["accuracy"], resamples=50)
    assert curve["rate"].tolist() == [0.0, 0.3, 0.6]
    np.testing.assert_allclose(curve["realised_rate"], curve["rate"], atol=0.05)
    assert curve["value"].iloc[0] > curve["value"].iloc[-1] + 0.05


def test_files(model: TrainedModel, test_rows: Cohort, tmp_path: Path):
    result = evaluate(model, test_rows, FixedCount(1), seed=5, resamples=20)
    result.save(tmp_path)
    frame = pd.read_parquet(tmp_path / "predictions.parquet")
    assert frame.columns.tolist() == ["id", "group", "pattern", "p_0", "p_1", "target"]
    np.testing.assert_allclose(frame[["p_0", "p_1"]], result.predictions)
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["presence_hash"] == result.presence.hash
    overall = next(row for row in stored["patterns"] if row["pattern"] == "overall")
    assert overall["metrics"]["accuracy"]["value"] == result.intervals["overall"]["accuracy"].estimate


def test_regression_is_in_the_target_s_units():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    cohort = Cohort.from_arrays(
        {"a": x, "b": x[:, :1]}, task=Task("regression", units="d", bins=(9, 10, 11)), target=10 + x[:, 0]
    )
    model = amodal.fit("fusion", cohort, epochs=3, width=8, seed=0, device="cpu")
    result = evaluate(model, cohort, seed=0, resamples=20)
    row = result.intervals["overall"]
    assert row["mae"].estimate == pytest.approx(mean_absolute_error(10 + x[:, 0], result.predictions), rel=1e-5)
    assert set(row) == {"mae", "rmse", "kappa"}


def test_bad_input(model: TrainedModel, test_rows: Cohort):
    with pytest.raises(DataError, match="no cases to evaluate"):
        evaluate(model, test_rows.take(np.array([], dtype=np.int64)))
    with pytest.raises(UnknownNameError, match="unknown metric of a binary task 'auc'.*Did you mean 'auroc'"):
        evaluate(model, test_rows, metrics=["auc"])
    batch = test_rows.batch(np.arange(4))
    new = Cohort.from_arrays({k: v.numpy() for k, v in batch.values.items()}, task=model.schema.task)
    with pytest.raises(DataError, match=r"no targets to evaluate against.*model\.predict"):
        evaluate(model, new)


def test_an_evaluation_in_the_run_s_folder_leaves_the_training_presence(test_rows: Cohort, tmp_path: Path):
    """What rows are told about patterns that training never met depends on it."""
    trained = amodal.fit(
        "fusion", made(120, 0), missingness=None, epochs=1, width=8, seed=0, device="cpu", out=tmp_path / "run"
    )
    evaluate(trained, test_rows, Pattern(("a",)), resamples=20).save(tmp_path / "run")
    again = TrainedModel.load(tmp_path / "run")
    assert again.presence is not None
    assert trained.presence is not None
    assert again.presence.hash == trained.presence.hash == again.experiment["presence"]["train"]["hash"]
    assert Presence.load(tmp_path / "run" / "test_presence.npz").patterns() == {"a": len(test_rows)}
    (tmp_path / "run" / "test_presence.npz").replace(tmp_path / "run" / "presence.npz")
    with pytest.raises(RunError, match=r"presence.npz was altered"):
        TrainedModel.load(tmp_path / "run")


def in_groups_of_ten(n: int = 200) -> Cohort:
    """Groups of ten cases that are alike: the same inputs and the same target."""
    rng = np.random.default_rng(3)
    y = np.repeat(rng.integers(0, 2, n // 10), 10)
    values = {name: np.repeat(rng.normal(size=(n // 10, 2)), 10, axis=0) + y[:, None] for name in "abc"}
    groups = [f"p{i // 10}" for i in range(n)]
    return Cohort.from_arrays(values, task=Task("binary", classes=(0, 1)), target=y, groups=groups)


def test_intervals_are_those_of_the_groups_and_not_of_the_cases(model: TrainedModel):
    """Ten copies of a patient are one patient: the interval is about as wide as that of one copy each."""
    cohort = in_groups_of_ten()
    whole = evaluate(model, cohort, seed=0).intervals["overall"]["accuracy"]
    once = evaluate(model, cohort.take(np.arange(0, 200, 10)), seed=0).intervals["overall"]["accuracy"]
    assert once.estimate == pytest.approx(whole.estimate)
    assert whole.high - whole.low == pytest.approx(once.high - once.low, rel=0.15)


def test_the_interval_of_a_pattern_is_that_of_its_own_rows(model: TrainedModel, test_rows: Cohort):
    result = evaluate(model, test_rows, MCAR(0.4), seed=7, resamples=200)
    counts = resample_counts(test_rows.groups, 200, np.random.default_rng((7, 3)))
    labels = result.frame()["pattern"].to_numpy()
    for pattern in set(labels):
        rows = np.flatnonzero(labels == pattern)
        correct = result.predictions[rows].argmax(1) == test_rows.target[rows]
        drawn = counts[:, rows] @ correct / counts[:, rows].sum(1)
        expected = np.quantile(drawn, [0.025, 0.975])
        found = result.intervals[pattern]["accuracy"]
        np.testing.assert_allclose([found.low, found.high], expected, atol=1e-12)


def test_the_table_begins_with_most_modalities_and_the_most_frequent_patterns(model: TrainedModel, test_rows: Cohort):
    table = evaluate(model, test_rows, MCAR(0.6), seed=1, resamples=20).table().iloc[:-1]
    assert table["modalities"].tolist() == sorted(table["modalities"], reverse=True)
    assert table["modalities"].nunique() == 3
    for _, rows in table.groupby("modalities"):
        assert rows["n"].tolist() == sorted(rows["n"], reverse=True)


def test_classes_in_another_order_are_the_same_classes(model: TrainedModel, test_rows: Cohort):
    batch = test_rows.batch(np.arange(len(test_rows)))
    values = {name: value.numpy() for name, value in batch.values.items()}
    turned = Cohort.from_arrays(values, task=Task("binary", classes=(1, 0)), target=test_rows.target)
    accuracy = [evaluate(model, c, resamples=20).intervals["overall"]["accuracy"].estimate for c in (test_rows, turned)]
    assert accuracy[0] == accuracy[1]
    other = Cohort.from_arrays(values, task=Task("binary", classes=(1, 2)), target=test_rows.target + 1)
    with pytest.raises(SchemaError, match="the targets have other classes .expected 0, 1, got without 0; with 2"):
        evaluate(model, other)


def test_features_go_by_name_and_units_are_compared():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    x = rng.normal(size=(200, 2)) + np.stack([3 * y, 0 * y], 1)
    task = Task("binary", classes=(0, 1))
    made_of = {"task": task, "target": y, "features": {"v": ("hr", "temp")}, "units": {"v": ("1/min", "degC")}}
    model = amodal.fit("fusion", Cohort.from_arrays({"v": x}, **made_of), epochs=5, width=8, device="cpu")
    expected = model.predict(Cohort.from_arrays({"v": x}, **made_of))
    turned = {"features": {"v": ("temp", "hr")}, "units": {"v": ("degC", "1/min")}}
    turned_rows = Cohort.from_arrays({"v": x[:, ::-1].copy()}, **(made_of | turned))
    np.testing.assert_array_equal(model.predict(turned_rows), expected)
    with pytest.raises(SchemaError, match="'v' has other features .expected hr, temp, got without temp; with crp"):
        model.predict(Cohort.from_arrays({"v": x}, **(made_of | {"features": {"v": ("hr", "crp")}})))
    with pytest.raises(SchemaError, match="feature 'temp' of modality 'v' has other units.*expected degC, got degF"):
        model.predict(Cohort.from_arrays({"v": x}, **(made_of | {"units": {"v": ("1/min", "degF")}})))


def test_the_error_of_few_draws_stands_beside_a_metric(model: TrainedModel, test_rows: Cohort):
    drawn = amodal.fit("mvae", made(300, 0), epochs=3, width=8, seed=0, device="cpu", options={"prediction_draws": 4})
    result = evaluate(drawn, test_rows, MCAR(0.4), seed=7, resamples=20)
    table = result.table(["nll"]).set_index("pattern")
    assert (table["nll_draw_error"] > 0).all()
    assert result.to_json()["patterns"][0]["draw_errors"]["nll"] == result.draw_errors[table.index[0]]["nll"]
    sets = [drawn.predict(test_rows.with_observed(result.presence.observed), draw_seed=s) for s in range(4)]
    losses = [-np.log(p[np.arange(len(test_rows)), test_rows.target]).mean() for p in sets]
    assert table.loc["overall", "nll_draw_error"] == pytest.approx(np.std(losses, ddof=1))
    imposed = evaluate_patterns(drawn, test_rows, resamples=20).table(["nll"])
    assert (imposed["nll_draw_error"].iloc[:-1] > 0).all()
    assert "nll_draw_error" not in evaluate(model, test_rows, resamples=20).table(["nll"])
