"""The recipe of acquisition runs one step, goes on where it stopped, and its differences are paired."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

FILE = Path(__file__).resolve().parents[2] / "recipes" / "acquisition.py"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("acquisition_recipe", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_step_of_both_models(recipe, tmp_path, capsys):
    words = ["--out", str(tmp_path), "--epochs", "1", "--cases", "12", "--draws", "3", "--seeds", "0"]
    found = recipe.main(words)
    assert "primo-seed0 (" in capsys.readouterr().out
    assert "V by own draws" in (tmp_path / "figure.svg").read_text()  # its legend, as a comment of the drawing
    first, last = found["step 0"], found["step 3"]
    assert first["order"].tolist() == [*recipe.ORDERS, recipe.OWN, *recipe.ORDERS]
    for table in (first, last):  # the same start, and the same end, for every order
        assert all(text in ("", "0.000 (0.000 to 0.000)") for text in table["less random"])
    assert set(found["reliability"]["promised"]) == {
        "V, everything revealed",
        "V by own draws, everything revealed",
        "change, one quadrant",
        "gain, one quadrant",
    }
    assert (found["bounds"]["gain above entropy"] == 0).all()
    counted = found["curves"].groupby(["model", "by"])["cases"].sum()
    assert set(counted) == {12, 36}
    again = recipe.main(words)
    assert "seed0" not in capsys.readouterr().out  # nothing was trained a second time
    pd.testing.assert_frame_equal(again["reliability"], found["reliability"])


def test_differences_are_paired_by_case_and_seed(recipe):
    ids, draw = [f"c{i}" for i in range(200)], np.random.default_rng(0)
    rows = []
    for seed in range(3):
        hard = draw.random(200) < 0.5
        for order, right in (("random", ~hard), ("advised", ~hard | (np.arange(200) < 20))):
            rows.append(pd.DataFrame({"id": ids, "correct": right, "order": order, "seed": seed}))
    frame = pd.concat(rows).assign(model="m", step=1)
    table = recipe.accuracy_table(frame, 1).set_index("order")
    by_order = frame.groupby("order")["correct"].mean()
    gained = by_order["advised"] - by_order["random"]
    estimate, ends = table.loc["advised", "less random"].split(" ", 1)
    assert float(estimate) == pytest.approx(gained, abs=1e-3)
    low, high = (float(end) for end in ends.strip("()").split(" to "))
    assert 0 < low < gained < high < 0.1  # of unpaired differences, zero would be inside
