"""What a recipe has stored answers the same command and no other one: every argument that decides a number counts."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from amodal.data import Cohort
from amodal.schema import Task

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def load(name):
    spec = importlib.util.spec_from_file_location(f"{name}_recipe", RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def made(tmp_path):
    """A cohort with modalities of two names and 40 cases, where recipes that read a folder find it."""
    values = {name: np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32) for name in ("vision", "audio")}
    splits = np.repeat(["train", "valid", "test"], [20, 10, 10])
    task = Task("binary", classes=("no", "yes"))
    Cohort.from_arrays(values, task=task, target=np.arange(40) % 2, splits=splits).save(tmp_path / "cohort")
    return tmp_path / "cohort"


CHANGES = {
    "xor": ["--points 500", "--epochs 3", "--draws 5", "--labels centre"],
    "ring": [
        "--epochs 3",
        "--draws 5",
        "--learning-rate 0.1",
        "--schedule cosine",
        "--removal balanced",
        "--split valid",
        "--counts 1",
        '--points {"n_train":60,"n_valid":20,"n_test":20}',
        '--options {"form":"radial"}',
    ],
    "acquisition": ["--epochs 3", "--draws 5", "--cases 7"],
    "cepa_selection": ["--epochs 3", "--folds 4", "--train-rate 0.2"],
    "avmnist": ["--epochs 3", "--draws 5", "--cases 7", "--limit 8"],
    "mimic3": ["--epochs 3", "--draws 5"],
}


@pytest.mark.parametrize(("name", "change"), [(name, change) for name, given in CHANGES.items() for change in given])
def test_every_argument_that_decides_a_number_is_in_the_identity_of_its_cells(
    name, change, made, tmp_path, monkeypatch
):
    recipe, asked = load(name), []

    def capture(cells, work, given, data=None):
        cohort_of = data if callable(data) else lambda _: data
        asked.append({json.dumps(cell.identity(work, cohort_of(cell)), sort_keys=True) for cell in cells})
        raise ZeroDivisionError

    monkeypatch.setattr(recipe, "run_cells", capture)
    words = [f"--out={tmp_path}"] + ([f"--data={made}"] if name in ("avmnist", "mimic3") else [])
    words += [] if name == "cepa_selection" else ["--seeds", "0"]
    small = {"xor": ["--points", "400"], "ring": ["--points", '{"n_train": 40, "n_valid": 20, "n_test": 20}']}
    for more in ([], change.split(" ")):
        with pytest.raises(ZeroDivisionError):
            recipe.main([*words, *small.get(name, []), *more])
    assert asked[0].isdisjoint(asked[1] - {cell for cell in asked[0] if '"bayes"' in cell})
    assert asked[0] != asked[1]


def test_folds_and_settings_of_the_comparison_on_physionet_are_in_its_experiments():
    recipe = load("cinc2012")
    listed = [
        recipe.experiments(["fusion"], [0], folds, settings)
        for folds, settings in ((2, {}), (3, {}), (2, {"epochs": 1}))
    ]
    records = [{json.dumps(experiment.to_json()) for experiment in some} for some in listed]
    assert records[0].isdisjoint(records[1] | records[2])
    assert listed[2][0].settings == {"epochs": 1}
    assert recipe.experiments(["fusion_summary"], [0], 2, {})[0].settings == {"learning_rate": 1e-3, "epochs": 30}


def test_another_number_of_points_is_not_answered_from_the_first_ones(tmp_path, capsys):
    """The numbers of 400 points and one epoch, printed for 800 points and two epochs."""
    recipe = load("xor")
    words = ["--out", str(tmp_path), "--models", "unimodal", "--seeds", "0", "--draws", "5"]
    tables = []
    for more in (["--points", "400", "--epochs", "1"], ["--points", "800", "--epochs", "2"]) * 2:
        tables.append(recipe.main([*words, *more]))
    assert not tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    assert tables[1].equals(tables[3])
    assert capsys.readouterr().out.count("/2 unimodal-seed0") == 2  # trained twice, not four times


def test_a_cohort_that_was_prepared_anew_is_not_answered_from_the_old_one(made, tmp_path):
    """The same folder, with the labels of the cases exchanged."""
    recipe = load("mimic3")
    cohort = Cohort.open(made)
    found = []
    for target in (cohort.target, 1 - cohort.target):
        values = {"static": cohort.stores["vision"].values, "series": cohort.stores["audio"].values[:, None].copy()}
        Cohort.from_arrays(values, task=cohort.schema.task, target=target, splits=cohort.splits).save(
            made, overwrite=True
        )
        words = [f"--data={made}", f"--out={tmp_path / 'runs'}", "--models", "static", "--seeds", "0", "--epochs", "1"]
        found.append(recipe.main(words))
    assert len(list((tmp_path / "runs").glob("static-seed0-*"))) == 2
    assert not found[0].equals(found[1])
