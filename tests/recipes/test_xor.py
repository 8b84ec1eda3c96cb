"""The recipe of XOR runs one step, goes on where it stopped, and knows the truth."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

FILE = Path(__file__).resolve().parents[2] / "recipes" / "xor.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("xor_recipe", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_step_of_every_model(recipe, tmp_path, capsys):
    words = ["--out", str(tmp_path), "--epochs", "1", "--points", "600", "--seeds", "1", "--draws", "20"]
    found = recipe.main(words)
    assert list(found.index) == ["bayes", *recipe.MODELS]
    assert float(found.loc["bayes", "accuracy complete"]) == 1
    assert float(found.loc["bayes", "V missing L"]) == pytest.approx(0.499, abs=0.003)
    assert found.loc["unimodal", "accuracy complete"] == ""
    assert found.loc["multimodal", "accuracy missing"] == ""
    assert 0 < float(found.loc["primo, paper", "V missing L"]) < 0.5
    capsys.readouterr()
    again = recipe.main(words)
    assert "seed 1:" not in capsys.readouterr().out  # nothing was trained a second time
    pd.testing.assert_frame_equal(again, found)
