"""The recipe of XOR runs one step, goes on where it stopped, draws its figures, and knows the truth."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

FILE = Path(__file__).resolve().parents[2] / "recipes" / "xor.py"
MODELS = ("unimodal", "multimodal", "primo, paper", "cmmd")
POINTS = 600


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("xor_recipe", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_step(recipe, tmp_path, capsys):
    words = ["--out", str(tmp_path), "--epochs", "1", "--points", str(POINTS), "--seeds", "1", "--draws", "20"]
    words += ["--models", *MODELS]
    found = recipe.main(words)
    assert list(found.index) == ["bayes", *MODELS]
    assert float(found.loc["bayes", "accuracy complete"]) == 1
    assert float(found.loc["bayes", "V missing L"]) == pytest.approx(0.499, abs=0.003)
    assert found.loc["unimodal", "accuracy complete"] == ""
    assert found.loc["multimodal", "accuracy missing"] == ""
    assert found.loc["cmmd", "V complete L"] == ""
    assert 0 < float(found.loc["primo, paper", "V missing L"]) < 0.5
    assert {file.name for file in tmp_path.glob("*.svg")} == {
        "figure3.svg",
        "figure11.svg",
        "figure12.svg",
        "variability.svg",
    }
    capsys.readouterr()
    again = recipe.main(words)
    assert "seed1" not in capsys.readouterr().out  # nothing was trained a second time
    pd.testing.assert_frame_equal(again, found)


def test_what_pictures_show_is_one_draw_of_each_case(recipe):
    values = recipe.values_of("primo, paper", 0, POINTS, "drawn", 50, epochs=1)
    cell = recipe.Cell("primo", values)
    rows = recipe.cohort_of(cell)
    train, test = recipe.half_missing(rows.split("train"), 0), rows.split("test")
    model = recipe.fit(cell, train)
    arrays = recipe.for_pictures("primo, paper", model, test, 50)
    assert arrays["x_o"].tolist() == test.batch(np.arange(len(test))).values["x_o"][:, 0].tolist()
    for state in recipe.STATES:
        one, mean, v = (arrays[f"{part}_{state}"] for part in ("one", "mean", "V"))
        assert arrays[f"latent_{state}"].shape == (len(test), 2)
        # a draw deviates from the mean prediction by V on average
        assert np.abs(one - mean).mean() == pytest.approx(v.mean(), rel=0.2)


def test_oracles_learn_from_other_points_and_the_truth_is_exact(recipe, tmp_path):
    given = SimpleNamespace(out=tmp_path, seeds=[1], points=POINTS, labels="drawn", jobs=1)
    common = {"points": POINTS, "labels": "drawn", "draws": 20, "epochs": 1}
    found = recipe.bias(given, common)
    assert found.groupby("model").size().to_dict() == {"primo": 15, "primo, paper": 15}
    cohort = recipe.xor_cohort(n=POINTS, seed=1).split("test")
    values = cohort.batch(np.arange(len(cohort))).values
    one = recipe.XorClusters().bayes_predictions(values["x_o"][:, 0])[:, 1]
    truth = found[(found["first"] == "truth, missing") & (found["second"] == "truth, complete")]["distance"]
    np.testing.assert_allclose(truth, np.abs(cohort.target - one).mean(), atol=1e-6)
    with_oracle = found["first"].str.contains("oracle") | found["second"].str.contains("oracle")
    assert (found["noise_floor"].notna() == with_oracle).all()
    pd.testing.assert_frame_equal(recipe.bias(given, common), found)
