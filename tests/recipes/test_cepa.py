"""The recipe of CEPA's comparisons runs, goes on where it stopped, and its ablations are what their names say."""

import importlib.util
import math
from pathlib import Path

import pandas as pd
import pytest

FILE = Path(__file__).resolve().parents[2] / "recipes" / "cepa.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("cepa_recipe", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:epoch 1")
@pytest.mark.slow
def test_one_epoch_of_two_methods(recipe, tmp_path, capsys):
    words = ["--out", str(tmp_path), "--epochs", "1", "--seeds", "3", "--rates", "0", "0.5", "0.9"]
    words += ["--methods", "modality_dropout", "cepa, obs", "--settings", '{"batch_size": 256}']
    words += ["--before-repair", "0.9"]
    results = recipe.main(words)
    assert results.names == ("modality_dropout", "cepa, obs")
    assert results.conditions("rate") == ("rate 0", "rate 0.5")  # 0.9 of four modalities cannot be absent
    history = results.runs_of("cepa, obs")[0].history
    assert "train_observed" in history
    assert "train_cross" not in history
    assert math.isfinite(history["pooled_rank"][0])
    table = (tmp_path / "differences.csv").read_text()
    assert "modality_dropout" in table
    asked = pd.read_csv(tmp_path / "before_repair.csv").set_index("name")
    assert asked["rate before the repair"].tolist() == [0.9, 0.9]
    # one of four is kept where all would go (probability 0.9 ** 4): 0.9 less 0.9 ** 4 / 4, which is no marginal rate
    assert asked["marginal"].tolist() == pytest.approx([0.9 - 0.9**4 / 4] * 2, abs=0.02)
    assert asked["accuracy"]["cepa, obs"] - asked["accuracy"]["modality_dropout"] == pytest.approx(
        asked["less modality_dropout"]["cepa, obs"]
    )
    shown = capsys.readouterr().out
    assert "2/2 cepa, obs seed 3" in shown
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/model.safetensors")}
    recipe.main(words)
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/model.safetensors")}


def test_training_data_lack_what_is_asked_for(recipe):
    how = {"cohort": "digits", "rates": [], "test_missingness": recipe.MCAR(0.5), "encoders": {}, "settings": {}}
    settings = [
        recipe.experiments(["cepa"], [0], train_missingness=lacking, **how)[0].setting
        for lacking in (None, recipe.MCAR(0.5))
    ]
    assert settings == [f"digits, training data {part}, test data MCAR(0.5)" for part in ("complete", "MCAR(0.5)")]


def test_names_are_unique_and_options_are_known(recipe):
    names = [name for group in recipe.GROUPS.values() for name in group]
    assert len(names) == len(set(names))
    listed = recipe.experiments(
        names, [0, 1], cohort="digits", rates=[], test_missingness=recipe.MCAR(0.5), encoders={}, settings={}
    )
    assert [experiment.seed for experiment in listed] == [0] * len(names) + [1] * len(names)
    assert len({experiment.setting for experiment in listed}) == 1


@pytest.mark.filterwarnings("ignore:epoch 1")
def test_settings_are_chosen_without_the_test_rows(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("cepa_selection", FILE.with_name("cepa_selection.py"))
    selection = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(selection)
    seen, absent = [], []
    fit = selection.fit_cell

    def watched(cell, train, valid):
        absent.append((1 - train.observed.mean(), 1 - valid.observed.mean()))
        seen.extend(set(train.splits) | set(valid.splits))
        return fit(cell, train, valid)

    monkeypatch.setattr(selection, "fit_cell", watched)
    words = ["--out", str(tmp_path / "found"), "--epochs", "1", "--folds", "2", "--names", "modality_dropout"]
    words += ["--also", 'bare={"m": "fusion"}', "--train-rate", "0.4"]
    table = selection.main(words)
    assert list(table["fold"]) == [2, 2]
    assert set(seen) == {"train", "valid"}
    assert [train for train, _ in absent] == pytest.approx([0.4] * 4, abs=0.03)
    assert [valid for _, valid in absent] == [0] * 4
    assert (table["accuracy 1"] < table["accuracy 3"]).all()
    by_count = table[[f"nll {k}" for k in (1, 2, 3, 4)]].mean(axis=1)
    assert table["nll"].tolist() == pytest.approx(by_count.tolist())
    capsys.readouterr()
    selection.main(words)
    assert len(seen) == 8  # nothing was trained a second time
