"""The recipes of CM2 run, go on where they stopped, and the recovery finds what the data were made of."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from amodal.data import load_cohort
from amodal.methods import METHODS, method_options

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def load(name):
    spec = importlib.util.spec_from_file_location(f"{name}_recipe", RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recovery():
    return load("cm2_recovery")


def test_one_epoch_of_three_variants(tmp_path, capsys):
    recipe = load("cm2")
    words = ["--out", str(tmp_path), "--epochs", "1", "--seeds", "3", "--rows", "0.15"]
    words += ["--variants", "cm2", "cm2, marginal", "fusion"]
    table = recipe.main(words)
    assert set(table["name"]) == {"cm2", "cm2, marginal", "fusion"}
    assert (tmp_path / "differences-main.csv").is_file()
    assert "3/3 fusion" in capsys.readouterr().out
    chosen = recipe.main([*words, "--choose"])
    assert set(chosen["name"]) == set(table["name"])
    assert chosen["valid_loss"].between(0, 10).all()
    assert "accuracy" not in capsys.readouterr().out  # choices see no test result


def test_every_variant_is_one_that_can_be_built():
    recipe, schema = load("cm2"), load_cohort("digits").schema
    for group in recipe.GROUPS.values():
        for name, (method, options) in group.items():
            if method == "cm2":
                built = METHODS[method](schema, **method_options(method, options))
                assert (built.law is None) == (options.get("completion") == "none" and name == "cm2, neither")
    ks = {
        name: METHODS["cm2"](schema, **recipe.COMPONENTS[name][1]).law.mixture.components for name in recipe.COMPONENTS
    }
    assert ks == {name: k for k, name in recipe.SWEEP.items()}


def test_a_cohort_with_natural_absence_and_the_figure_of_components(tmp_path, capsys):
    recipe = load("cm2")
    digits = load_cohort("digits")
    presence = np.random.default_rng(0).random((len(digits), 4)) < 0.8
    presence[:, 0] = True
    rows = np.random.default_rng(1).permutation(len(digits))[:200]
    digits.with_observed(presence).take(rows).save(tmp_path / "cohort")
    words = ["--out", str(tmp_path / "runs"), "--cohort", str(tmp_path / "cohort"), "--natural", "--seeds", "0"]
    words += ["--epochs", "1", "--variants", "cm2, K=1", "cm2", "cm2, K=4", "--settings", '{"learning_rate": 0.001}']
    words += ["--encoders", '{"top_left": "lenet"}']
    table = recipe.main(words)
    printed = capsys.readouterr().out
    assert "Test rows as they are" in printed
    assert "under MCAR(0.5)" in printed
    assert set(table["name"]) == {"cm2, K=1", "cm2", "cm2, K=4"}
    assert (tmp_path / "runs" / "differences-main-mcar0.5.csv").is_file()
    page = (tmp_path / "runs" / "components.html").read_text()
    assert "accuracy by components K: 1: " in page
    assert page.count("<svg") == 2
    experiment = next((tmp_path / "runs").glob("cm2-seed0-*")) / "experiment.json"
    assert json.loads(experiment.read_text())["training"]["learning_rate"] == 0.001


@pytest.mark.slow
def test_recovery_finds_parameter_and_family_and_completes_better_given_what_is_there(recovery, tmp_path):
    words = ["--out", str(tmp_path), "--families", "clayton", "gaussian", "--rows", "800", "--steps", "200"]
    table = recovery.main([*words, "--score-rows", "200", "--resamples", "60"])
    assert table["found"].tolist() == ["clayton", "gaussian"]
    assert table["true"].tolist() == pytest.approx([2.0, math.sin(math.pi / 4)])
    assert table["inside"].all()
    assert (table["low"] > 0).all()  # the marginal completion is farther from the truth, beyond the interval
    assert (table["conditional"] < 0.5 * table["marginal"]).all()
    assert (tmp_path / "results.csv").is_file()


def test_energy_distances_by_hand(recovery):
    """Points on a line: E|X - Y| and E|X - X'| are means over pairs."""
    truth, same, far = torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0]])
    found = recovery.energy_gap(truth, same, far, 20, 0)
    assert found["conditional"] == pytest.approx(2 * 1 - 2 - 2)
    assert found["marginal"] == pytest.approx(2 * 4 - 2 - 2)
    assert found["difference"] == pytest.approx(6)


def test_known_encoders_undo_the_maps(recovery):
    generator = torch.Generator().manual_seed(0)
    _, z = recovery.truth("frank", 50, generator)
    maps = recovery.known_maps(generator)
    batch = recovery.as_batch(z, maps, 0.3, generator)
    method = recovery.fit("frank", batch, maps, 1)
    vectors, observed = method.vectors(batch)
    torch.testing.assert_close(vectors[observed[:, 1]], z.movedim(0, 1)[observed[:, 1]], rtol=1e-3, atol=1e-3)
    assert 5 < int((~observed[:, 1]).sum()) < 30
