"""The recipe of AV-MNIST runs one step on made pictures and sounds, and goes on where it stopped."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from amodal.data.cohort import Cohort
from amodal.data.sources.avmnist.cohort import TASK

FILE = Path(__file__).resolve().parents[2] / "recipes" / "avmnist.py"
MODELS = ("unimodal", "multimodal", "primo")


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("avmnist_recipe", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    draw = np.random.default_rng(0)
    labels = np.arange(48) % 10
    vision = draw.normal(size=(10, 1, 28, 28))[labels] + draw.normal(size=(48, 1, 28, 28))
    audio = (draw.integers(0, 200, (10, 1, 112, 112))[labels] + draw.integers(0, 55, (48, 1, 112, 112))).astype(
        np.uint8
    )
    folder = tmp_path_factory.mktemp("data") / "avmnist"
    Cohort.from_arrays(
        {"vision": vision.astype(np.float32), "audio": audio},
        task=TASK,
        target=labels,
        splits=np.repeat(["train", "valid", "test"], [28, 10, 10]),
    ).save(folder)
    return folder


def test_one_step(recipe, data, tmp_path, capsys):
    words = [f"--data={data}", f"--out={tmp_path}", "--epochs=1", "--draws=20", "--cases=6", "--seeds", "3"]
    words += ["--absent", "vision"]
    found = recipe.main([*words, "--models", *MODELS])
    assert set(found.index) == {("vision", name) for name in MODELS}
    assert found.loc[("vision", "unimodal"), "accuracy complete"] == ""
    assert found.loc[("vision", "multimodal"), "accuracy missing"] == ""
    assert 0 <= float(found.loc[("vision", "primo"), "V missing"]) < 1
    assert (tmp_path / "variability.png").stat().st_size > 1000
    assert (tmp_path / "figure6-vision.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert printed.count("-seed3 (") == len(MODELS)
    again = recipe.main([*words, "--models", *MODELS])
    assert "seed3" not in capsys.readouterr().out  # nothing was trained a second time
    pd.testing.assert_frame_equal(again, found)

    distances = recipe.main([*words, "--bias", "primo"])
    assert len(distances) == len(pd.read_csv(tmp_path / "bias.csv")) == 6
    assert distances["noise_floor"].notna().sum() == 5  # all pairs but the one of PRIMO with itself
    assert capsys.readouterr().out.count("/5 bias-vision-") == 5
    assert len(list(tmp_path.glob("bias-vision-*"))) == 5
    pd.testing.assert_frame_equal(recipe.main([*words, "--bias", "primo"]), distances)
    assert "bias-vision" not in capsys.readouterr().out


def test_extremes_are_of_the_run(recipe):
    """The largest V first, then the smallest."""
    value, mass = np.array([0.2, 0.0, 0.5, 0.1]), np.eye(10)[[3, 1, 4, 1]]
    found = recipe.extremes(SimpleNamespace(arrays={"V_missing": value, "mass_missing": mass}), 2)
    assert [(case, v, m.argmax()) for case, v, m in found] == [(2, 0.5, 4), (0, 0.2, 3), (1, 0.0, 1), (3, 0.1, 1)]


def test_half_of_the_training_rows_lack_the_modality_for_good(recipe, data):
    cohort = Cohort.open(data)
    lacking = recipe.masked(cohort, "audio", 0)
    assert lacking.observed[:, 0].all()
    assert lacking.observed[:, 1].mean() == pytest.approx(0.5, abs=0.15)
    assert (recipe.masked(cohort, "audio", 0).observed == lacking.observed).all()
    assert len(recipe.limited(cohort, 4)) == 12
