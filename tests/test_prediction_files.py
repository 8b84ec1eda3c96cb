"""Predictions into a file: equal to `predict`, in parts, and continued after an interruption."""

import numpy as np
import pandas as pd
import pytest
from training.test_fit import SETTINGS, made_cohort, parts

import amodal
from amodal.errors import DataError, RunError
from amodal.prediction_files import predict_to_file


@pytest.fixture(scope="module")
def model():
    return amodal.fit("fusion", *parts(made_cohort()), **SETTINGS)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_parts_are_joined_to_what_predict_gives(model, tmp_path, suffix):
    cohort, told = made_cohort(100, seed=3), []
    out = tmp_path / f"p{suffix}"
    predict_to_file(model, cohort, out, part_rows=30, batch_size=7, tell=lambda done, total: told.append((done, total)))
    frame = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert frame["id"].astype(str).tolist() == cohort.ids.tolist()
    np.testing.assert_allclose(frame[["p_no", "p_yes"]], model.predict(cohort), rtol=1e-4, atol=1e-6)
    assert told == [(30, 100), (60, 100), (90, 100), (100, 100)]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_an_interrupted_prediction_keeps_its_parts_and_no_others_are_taken(model, tmp_path, monkeypatch):
    cohort, out = made_cohort(100, seed=3), tmp_path / "p.parquet"

    def interrupt(done: int, total: int) -> None:
        if done == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_to_file(model, cohort, out, part_rows=30, tell=interrupt)
    assert not out.exists()
    predicted = []
    original = type(model).predict
    monkeypatch.setattr(
        type(model),
        "predict",
        lambda self, cases, **more: predicted.append(len(cases)) or original(self, cases, **more),
    )
    predict_to_file(model, cohort, out, part_rows=30)
    assert predicted == [30, 10]
    with pytest.raises(KeyboardInterrupt):
        predict_to_file(model, cohort, tmp_path / "q.csv", part_rows=30, tell=interrupt)
    predicted.clear()
    predict_to_file(model, made_cohort(100, seed=4), tmp_path / "q.csv", part_rows=30)  # other cases: all anew
    assert sum(predicted) == 100


def test_what_cannot_be_predicted_is_said_before_the_work(model, tmp_path):
    cohort = made_cohort(20, seed=3)
    observed = cohort.observed.copy()
    observed[13] = False
    with pytest.raises(DataError, match=f"nothing observed: {cohort.ids[13]}"):
        predict_to_file(model, cohort.with_observed(observed), tmp_path / "p.csv", on_empty="error")
    with pytest.warns(UserWarning, match=f"training prior: {cohort.ids[13]}"):
        predict_to_file(model, cohort.with_observed(observed), tmp_path / "p.csv", part_rows=5)
    (tmp_path / "q.csv.parts").mkdir()
    (tmp_path / "q.csv.parts" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds something else"):
        predict_to_file(model, cohort, tmp_path / "q.csv")
