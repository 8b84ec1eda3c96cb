"""The recipe of MIMIC-III runs one step on the open demo, and goes on where it stopped."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from amodal.data.sources.mimic.multibench import prepare

FILE = Path(__file__).resolve().parents[2] / "recipes" / "mimic3.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("mimic3_recipe", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_step_on_the_demo(recipe, shared_data, tmp_path, capsys):
    fractions = {"train": 0.5, "valid": 0.2, "test": 0.3}
    cohort = prepare(shared_data / "mimic3-demo", tmp_path / "demo", task="icd9_7", fractions=fractions)
    words = [f"--data={tmp_path / 'demo'}", f"--out={tmp_path / 'runs'}", "--epochs=1", "--draws=10", "--seeds", "2"]
    words += ["--models", "static", "both", "primo"]
    found = recipe.main(words)
    assert list(found.index) == ["static", "both", "primo"]
    assert found.loc["static", "accuracy complete"] == ""
    assert found.loc["both", "accuracy missing"] == ""
    assert 0 <= float(found.loc["primo", "AUROC missing"]) <= 1
    (folder,) = (tmp_path / "runs").glob("primo-seed2-*")
    record = json.loads((folder / "cell.json").read_text())["record"]
    assert sum(row["cases"] for row in record["V by age, missing"]) == len(cohort.split("test"))
    assert {row["stratum"] for row in record["V by age, missing"]} <= {label for _, label in recipe.AGES}
    assert len(record["plausible by age, complete"]) == len(record["V by age, complete"])
    assert sum(row["cases"] for row in record["V by condition, missing"]) == len(cohort.split("test"))
    for row in record["plausible by condition, missing"]:
        assert row["0"] + row["1"] == pytest.approx(1)
    assert {file.name for file in (tmp_path / "runs").glob("*.svg")} == {"figure7.svg", "figure8.svg", "figure9.svg"}
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        assert arrays["V_missing"].mean() == pytest.approx(record["V missing"])
        assert arrays["fraction_complete"].shape == (len(cohort.split("test")), 2)
    capsys.readouterr()
    again = recipe.main(words)
    assert "seed2" not in capsys.readouterr().out  # nothing was trained a second time
    pd.testing.assert_frame_equal(again, found)


def test_only_the_series_is_ever_missing(recipe, shared_data, tmp_path):
    cohort = prepare(shared_data / "mimic3-demo", tmp_path / "demo")
    lacking = recipe.half_missing(cohort, 0)
    assert lacking.observed[:, 0].all()
    assert lacking.observed[:, 1].mean() == pytest.approx(0.5, abs=0.15)
    assert set(recipe.ages(cohort)) <= {label for _, label in recipe.AGES}
    assert "80 and over" in set(recipe.ages(cohort))
    static = cohort.batch(np.arange(len(cohort))).values["static"].numpy()
    condition = np.asarray(recipe.conditions(cohort))
    assert (condition[static[:, 3] == 1] == "metastatic cancer").all()
    assert ((condition == "none of these") == (static[:, 1:4] == 0).all(1)).all()
