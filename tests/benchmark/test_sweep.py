"""Sweeps: a result answers the values and data it was computed from, and no others; a failing cell ends no other."""

from __future__ import annotations

import json
from functools import partial
from inspect import signature

import numpy as np
import pytest
from benchmark.works import COUNT, doubled, dying, failing, mean_of, other, trained

from amodal.benchmark import Cell, CellProgress, Done, Failed, fit_values, sweep
from amodal.data import Cohort
from amodal.errors import ConfigurationError, DataError, RunError, UnknownNameError
from amodal.methods import METHODS
from amodal.schema import Task


@pytest.fixture
def computed(tmp_path, monkeypatch):
    """How many cells have been computed since it was last asked."""
    monkeypatch.chdir(tmp_path)

    def count() -> int:
        lines = COUNT.read_text().splitlines() if COUNT.is_file() else []
        COUNT.unlink(missing_ok=True)
        return len(lines)

    return count


def numbers(*given: int, **more: object) -> list[Cell]:
    return [Cell(f"n{number}", {"number": number, **more}) for number in given]


def made(shift: float = 0.0) -> Cohort:
    values = {"a": np.arange(6, dtype=np.float32)[:, None] + shift}
    return Cohort.from_arrays(values, task=Task("binary", classes=("no", "yes")), target=[0, 1] * 3, name="made")


def test_what_was_found_is_read_back_and_not_computed_again(tmp_path, computed):
    told: list[CellProgress] = []
    for times in (1, 2):
        swept = sweep(numbers(3, 2, 3), tmp_path / "out", doubled, tell=told.append)
        assert computed() == (2 if times == 1 else 0)
        assert [one.cell["number"] for one in swept.done] == [3, 2]
        first = swept.done[0]
        assert first.record == {"twice": 6.0, "nested": {"1": [3, None]}, "rows": None}
        assert first.arrays["values"].tolist() == [0, 1, 2]
        assert first.frame("table")["value"].tolist() == [3, 6]
        assert swept.frame("number")[["number", "twice"]].to_numpy().tolist() == [[3, 6], [2, 4]]
    assert [(t.number, t.total) for t in told] == [(1, 2), (2, 2)] * 2
    assert [t.seconds > 0 for t in told] == [True, True, False, False]


@pytest.mark.parametrize("change", [{"epochs": 5}, {"options": {"a": [1, 2]}}, {"epochs": "4"}, {}])
def test_other_values_are_another_result(change, tmp_path, computed):
    """Also a value that the stem does not name, and one of another type."""
    sweep(numbers(2, epochs=4), tmp_path / "out", doubled)
    again = sweep(numbers(2, **({"epochs": 4} | change)), tmp_path / "out", doubled)
    assert computed() == (2 if change else 1)
    assert [path.name for path in (tmp_path / "out").iterdir()].count(again.done[0].folder.name) == 1


def test_other_data_and_another_function_are_another_result(tmp_path):
    found = [sweep(numbers(2), tmp_path, mean_of, data=made(shift)).done[0] for shift in (0, 1, 0)]
    assert [one.record["mean"] for one in found] == [2.5, 3.5, 2.5]
    assert found[0].folder == found[2].folder
    by_cell = sweep(numbers(1, 2), tmp_path, mean_of, data=lambda cell: made(cell["number"]))
    assert [one.record["mean"] for one in by_cell.done] == [3.5, 4.5]
    assert sweep(numbers(2), tmp_path, other, data=made()).done[0].record == {"other": True}


def test_a_cell_that_fails_is_stored_and_tried_again(tmp_path):
    told: list[CellProgress] = []
    with pytest.warns(
        UserWarning, match=r"1 of 3 cells failed, see error.json in their folders:\n  n2: DataError: there"
    ):
        swept = sweep(numbers(1, 2, 3), tmp_path, failing, tell=told.append)
    assert [one.record["number"] for one in swept.done] == [1, 3]
    (failed,) = swept.failed
    assert isinstance(told[1].result, Failed)
    stored = json.loads((failed.folder / "error.json").read_text())
    assert (stored["kind"], stored["cell"]) == ("DataError", {"number": 2})
    assert "raise DataError" in "".join(stored["traceback"])
    with pytest.raises(RunError, match=r"all 1 cells failed; n2: DataError.*error.json"):
        sweep(numbers(2), tmp_path, failing)
    with pytest.raises(DataError, match="there is no two"):
        sweep(numbers(2, 4), tmp_path, failing, fail_fast=True)


def test_an_interrupt_ends_the_sweep_and_the_next_call_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        sweep(numbers(1), tmp_path, dying)
    (done,) = sweep(numbers(1), tmp_path, dying).done
    assert done.record == {"number": 1}
    assert not (done.folder / "error.json").exists()


@pytest.mark.parametrize("name", ["arrays.npz", "table.parquet", "note.txt"])
def test_a_file_that_another_program_has_changed_is_made_again(name, tmp_path, computed):
    (done,) = sweep(numbers(2), tmp_path / "out", doubled).done
    before = (done.folder / name).read_bytes()
    (done.folder / name).write_bytes(before[:-1])
    sweep(numbers(2), tmp_path / "out", doubled)
    assert computed() == 2
    assert len((done.folder / name).read_bytes()) == len(before)


def test_bad_input_is_told(tmp_path):
    for work in (lambda *_: {}, partial(failing)):
        with pytest.raises(ConfigurationError, match=r"must be a function of a module.*cell's values"):
            sweep(numbers(1), tmp_path, work)
    with pytest.raises(ConfigurationError, match=r"values of a cell must be plain JSON.*n1"):
        Cell("n1", {"net": object()})
    with pytest.raises(UnknownNameError, match="unknown value of where 'rya'"):
        sweep(numbers(1), tmp_path, failing, where="rya")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="jobs is out of range"):
        sweep(numbers(1), tmp_path, failing, jobs=0)
    (done,) = sweep(numbers(1), tmp_path, failing).done
    (done.folder / "cell.json").write_text("{")
    with pytest.raises(RunError, match=r"cell.json cannot be read"):
        sweep(numbers(1), tmp_path, failing)
    (done.folder / "cell.json").write_text('{"format": 1, "cell": {}, "files": {}}')
    with pytest.raises(RunError, match="holds other results: another cell"):
        sweep(numbers(1), tmp_path, failing)


def test_folders_have_names_that_are_safe(tmp_path):
    cells = [Cell("../../<b>péché & $HOME\n", {"number": 1}), Cell("…", {"number": 3})]
    names = [done.folder.name for done in sweep(cells, tmp_path / "out", failing).done]
    assert names[0].startswith("b-p-ch-HOME-")
    assert names[1].startswith("cell-")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.slow
def test_processes_find_the_same(tmp_path):
    cells = numbers(1, 3, 4)
    here, there = (sweep(cells, tmp_path / str(jobs), mean_of, data=made(), jobs=jobs) for jobs in (1, 2))
    assert [one.record for one in here.done] == [one.record for one in there.done]
    with pytest.warns(UserWarning, match="1 of 3 cells failed"):
        assert len(sweep(numbers(1, 2, 3), tmp_path / "failing", failing, jobs=2).done) == 2


def test_a_cell_that_trains_holds_every_default(tmp_path):
    values = fit_values("fusion", options={"dropout": 0.5}, encoders={"a": {"name": "mlp"}}, width=8, epochs=1)
    assert values["defaults"]["options"]["dropout"] == 0.5
    assert len(values["defaults"]["options"]) > 1
    assert values["defaults"]["encoders"]["a"]["name"] == "mlp"
    assert len(values["defaults"]["encoders"]["a"]) > 1
    (done,) = sweep([Cell("fusion", values)], tmp_path, trained, data=made()).done
    assert isinstance(done, Done)
    assert done.record["settings"] == values["settings"]
    for given, words in (
        ({"method": "fushion"}, "unknown method 'fushion'"),
        ({"options": {"hiden": 1}}, "unknown option of fusion 'hiden'"),
        ({"encoders": {"a": {"name": "mlp", "hiden": 1}}}, "unknown option of encoder 'mlp' 'hiden'"),
        ({"encoders": {"a": "mlpp"}}, "unknown encoder 'mlpp'"),
        ({"epoch": 1}, "unknown setting of fit 'epoch'"),
    ):
        with pytest.raises(UnknownNameError, match=words):
            fit_values(**{"method": "fusion", **given})


@pytest.mark.parametrize("name", METHODS)
def test_the_options_of_every_method_are_known(name):
    options = [option for option in signature(METHODS[name]).parameters if option not in ("schema", "encoders")]
    assert set(options) <= {*fit_values(name)["defaults"]["options"], "modality"}  # which has no default
    assert fit_values("unimodal", options={"modality": "a"})["defaults"]["options"]["modality"] == "a"


def test_a_preset_that_has_changed_is_another_cell(monkeypatch):
    found = []
    for dropout in (0.1, 0.2):
        monkeypatch.setattr(METHODS["fusion"], "PRESETS", {"paper": {"dropout": dropout}}, raising=False)
        found.append(fit_values("fusion", options={"preset": "paper"})["defaults"]["options"])
    assert [(values["preset"], values["dropout"]) for values in found] == [("paper", 0.1), ("paper", 0.2)]


@pytest.mark.filterwarnings("ignore:.*cells failed")
def test_tasks_of_an_array_job_compute_one_cell_each_and_are_collected(tmp_path, computed):
    """Sixty cells of which three fail: fifty-seven results and three errors."""
    cells = [Cell(f"n{i}", {"number": 2 if i in (7, 20, 41) else 100 + i, "place": i}) for i in range(60)]
    for place in range(1, 60):
        sweep(cells, tmp_path, failing, only=[place])
    assert len(sweep(cells, tmp_path, failing, only=[0]).done) == 57
    collected = sweep(cells, tmp_path, failing, only=())
    assert [one.cell["place"] for one in collected.failed] == [7, 20, 41]
    assert [one.cell["place"] for one in collected.done] == [i for i in range(60) if i not in (7, 20, 41)]
    assert not sweep(numbers(4, 5), tmp_path / "new", doubled, only=()).done
    assert computed() == 0
