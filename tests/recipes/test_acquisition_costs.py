"""The recipe of acquisition in money runs on a table of the form of the heart data, and its money adds up."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

FILE = Path(__file__).resolve().parents[2] / "recipes" / "acquisition_costs.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("acquisition_costs_recipe", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def heart_like(recipe, folder, n=120):
    draw = np.random.default_rng(0)
    sick = draw.random(n) < 0.5
    frame = pd.DataFrame(
        {"dataset": np.array(recipe.HOSPITALS)[np.arange(n) % 4], "num": sick * draw.integers(1, 4, n)}
    )
    for column in ("age", "trestbps", "chol", "thalch", "oldpeak", "ca"):
        frame[column] = draw.normal(50, 10, n) + 10 * sick
    for column in ("sex", "cp", "fbs", "restecg", "exang", "slope", "thal"):
        frame[column] = np.where(draw.random(n) < 0.5, "one", "other")
    frame.loc[::3, "ca"] = np.nan
    frame.loc[::5, "chol"] = 0
    (folder / "heart").mkdir()
    frame.to_csv(folder / "heart" / "heart_disease_uci.csv", index=False)


def test_one_step_of_every_hospital(recipe, tmp_path, capsys):
    heart_like(recipe, tmp_path)
    words = ["--data", str(tmp_path), "--cohorts", "heart", "--seeds", "0", "--epochs", "1", "--test_cases", "8"]
    tables = recipe.main([*words, "--out", str(tmp_path / "out")])
    assert "heart-within-modality_dropout-seed0" in capsys.readouterr().out
    assert tables["correct"]["cohort"].nunique() == 5
    assert set(tables["correct"]["order"]) == {"random", "fixed", "advised", "surest"}
    worth = tables["worth"].set_index(["cohort", "looks"])
    np.testing.assert_allclose(worth["worth less spent"], 1000 * worth["accuracy"] - worth["spent"])
    assert (worth["spent"].xs("nothing", level=1) == 0).all()


def test_a_cohort_is_what_the_table_says(recipe, tmp_path):
    heart_like(recipe, tmp_path)
    cohort = recipe.heart(tmp_path, "Hungary", 0)
    assert len(cohort.split("test")) == 30
    assert cohort.schema.names == tuple(recipe.HEART)
    assert not cohort.observed[::3, 4].any()  # fluoroscopy
    measured = cohort.batch(np.arange(120)).measured["blood"].numpy()
    assert not measured[::5, 0].any()  # a cholesterol of 0 was not measured
