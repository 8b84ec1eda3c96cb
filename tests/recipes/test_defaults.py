"""The recipe of the defaults compares on the rows that are not for testing."""

import importlib.util
from pathlib import Path

import pytest

import amodal

FILE = Path(__file__).resolve().parents[2] / "recipes" / "defaults.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("defaults_recipe", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_fold_of_two_methods_and_none_of_the_test_rows(recipe, tmp_path, monkeypatch):
    small = {"epochs": 1, "device": "cpu"}
    monkeypatch.setitem(recipe.CONFIGURATIONS, "fusion", {"method": "fusion", "settings": small})
    monkeypatch.setitem(recipe.CONFIGURATIONS, "boosting", {"method": "boosting", "options": {"steps": 2}})
    seen, whole = [], recipe.predictions

    def watch(run):
        seen.extend(run.ids.tolist())
        return whole(run)

    monkeypatch.setattr(recipe, "predictions", watch)
    table = recipe.main(["--methods", "boosting", "fusion", "--folds", "6", "--only", "1", "--out", str(tmp_path)])
    assert table["configuration"].tolist() == ["boosting", "fusion"] * 2
    assert table["nll less"].tolist()[0] == "" != table["nll less"].tolist()[1]
    assert not set(seen) & set(amodal.load_cohort("digits").split("test").ids.tolist())
