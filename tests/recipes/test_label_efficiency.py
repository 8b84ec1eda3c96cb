"""The recipe of label efficiency runs, keeps the same labels for every method, and few of them among more."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import amodal

FILE = Path(__file__).resolve().parents[2] / "recipes" / "label_efficiency.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("label_efficiency_recipe", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_labels_are_nested_and_spread_over_classes(recipe):
    train = amodal.load_cohort("digits").split("train")
    few, more = (recipe.few_labels(train, n, seed=0) for n in (30, 100))
    assert few.labelled.sum() == 30
    assert not (few.labelled & ~more.labelled).any()
    assert np.bincount(few.target[few.labelled]).tolist() == [3] * 10
    assert recipe.few_labels(train, 0, seed=0).labelled.all()


def test_one_step_of_a_learner_from_labels_and_of_one_from_all_rows(recipe, tmp_path, capsys):
    words = ["--labels", "30", "--seeds", "0", "--steps", "1", "--out", str(tmp_path)]
    tables = recipe.main([*words, "--methods", "modality_dropout", "teacher"])
    assert len(tables["frame"]) == 2
    assert len(tables["less modality_dropout"]) == 1
    assert "accuracy 4" in capsys.readouterr().out
    assert (tmp_path / "figure.svg").is_file()
