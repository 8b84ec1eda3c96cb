"""The recipe of the ring runs, goes on where it stopped, and compares with the optimum on the same points."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

FILE = Path(__file__).resolve().parents[2] / "recipes" / "ring.py"
POINTS = {"n_train": 90, "n_valid": 30, "n_test": 40}


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("ring_recipe", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_one_step_of_two_strategies(recipe, tmp_path, capsys):
    words = ["--out", str(tmp_path), "--epochs", "1", "--draws", "1", "--counts", "1", "12", "--seeds", "3"]
    words += ["--points", json.dumps(POINTS), "--options", '{"directions": 4, "frequencies": 2}']
    words += ["--strategies", "cf", "zero"]
    table = recipe.main(words)
    assert set(table.index) == {"bayes", "cf", "zero"}
    assert table.loc["bayes", 12] > 60
    assert table[[1, 12]].to_numpy().min() >= 0
    assert table.loc["cf", "diversity_kept"] == pytest.approx(1, abs=0.2)  # one step away from where it began
    for name in ("accuracy", "2a-correlation", "2b-diversity", "2c-maps"):
        assert (tmp_path / f"{name}.svg").stat().st_size > 1000
    (folder,) = tmp_path.glob("cf-seed3-*")
    with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
        assert stored["maps"].shape == (4, 60, 60)
    assert len(list(tmp_path.glob("*-seed3-*"))) == 3
    capsys.readouterr()
    again = recipe.main(words)
    assert "seed3" not in capsys.readouterr().out  # nothing was trained a second time
    pd.testing.assert_frame_equal(again, table)


def test_removal_and_learning_rate_reach_the_training(recipe, tmp_path, monkeypatch):
    """The default is the paper's protocol; a removal of balanced counts is asked for by name."""
    asked: list = []
    monkeypatch.setattr(recipe, "run_cells", lambda cells, *_: asked.append(cells[1]) or 1 / 0)
    words = ["--draws", "1", "--counts", "12", "--seeds", "3", "--strategies", "cf", "--points", json.dumps(POINTS)]
    for more in ([], ["--removal", "balanced", "--learning-rate", "0.003", "--options", '{"form": "radial"}']):
        with pytest.raises(ZeroDivisionError):
            recipe.main(["--out", str(tmp_path), *words, *more])
    assert [cell["settings"]["learning_rate"] for cell in asked] == [1e-3, 3e-3]
    assert [cell["options"] for cell in asked] == [
        {"strategy": "cf"},
        {"strategy": "cf", "drop": "balanced", "form": "radial"},
    ]


def test_presences_have_exactly_k_sensors_and_are_common_to_all(recipe):
    cohort = recipe.ring_cohort(n_train=20, n_valid=5, n_test=30).split("test")
    drawn = recipe.removals(cohort, [1, 5], 2, seed=0)
    assert all((p.sum(1) == k).all() for k, draws in drawn.items() for p in draws)
    assert not np.array_equal(*drawn[5])
    assert np.array_equal(drawn[5][0], recipe.removals(cohort, [1, 5], 2, seed=0)[5][0])


def test_the_plane_is_read_without_noise_and_its_sectors_are_those_of_the_angles(recipe):
    grid, sectors = recipe.plane(recipe.RingWorld())
    best = recipe.RingWorld().bayes_predictions(grid).argmax(1)
    values = grid.batch(np.arange(len(grid))).values
    away = np.hypot(values["sensor_0"].numpy()[:, 0], values["sensor_6"].numpy()[:, 0])
    on_ring = (away > 0.7) & (away < 1.3)
    assert (best == sectors)[on_ring].mean() > 0.85  # all but points at the borders of sectors


def test_paired_differences_by_hand(recipe):
    rows = [(s, name, 1, a) for s, (x, y) in enumerate([(0.5, 0.4), (0.7, 0.5)]) for name, a in (("cf", x), ("ep", y))]
    frame = pd.DataFrame(rows, columns=["seed", "strategy", "k", "accuracy"])
    row = recipe.differences(frame, "cf", ["cf", "ep"]).iloc[0]
    assert row["difference"] == pytest.approx(15)
    assert row["high"] - row["low"] == pytest.approx(2 * 12.706 * 5, rel=1e-3)  # t of one degree of freedom
