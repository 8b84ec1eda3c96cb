"""Experiments on a Ray cluster of this machine: the same numbers as here, and the error of the one that fails."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from benchmark.works import doubled

from amodal.benchmark import Cell, Experiment, run_all, sweep
from amodal.errors import AmodalError, ConfigurationError, UnknownNameError

EXPERIMENTS = [
    Experiment("fusion", settings={"epochs": 1, "device": "cpu"}, resamples=20, patterns="met", seed=s) for s in (0, 1)
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_numbers(tmp_path: Path):
    pytest.importorskip("ray", reason="ray is not installed")
    there = run_all(EXPERIMENTS, tmp_path / "there", where="ray")
    here = run_all(EXPERIMENTS, tmp_path / "here")
    for ours, theirs in zip(here.runs, there.runs):
        np.testing.assert_allclose(ours.test.predictions, theirs.test.predictions, atol=1e-5)
    bad = Experiment("fusion", options={"hiden": 3}, settings={"epochs": 1})
    with pytest.raises(AmodalError, match="unknown option of fusion 'hiden'"):
        run_all([bad], tmp_path / "bad", where="ray")


@pytest.mark.parametrize(("gpus", "jobs", "share"), [(0, 4, 0), (8, 1, 1), (8, 4, 0.25)])
def test_cells_share_a_gpu_by_as_many_as_there_are_jobs(tmp_path, monkeypatch, gpus, jobs, share):
    """Ray as `sweep` sees it, its tasks computed at once: Ray itself is slow to start, and this machine has no GPU."""
    asked = []

    class Fake(ModuleType):
        is_initialized = staticmethod(lambda: True)
        cluster_resources = staticmethod(lambda: {"CPU": 4, "GPU": gpus})
        put = get = staticmethod(lambda value: value)
        wait = staticmethod(lambda running: (running[:1], running[1:]))

        @staticmethod
        def remote(**needs):
            asked.append(needs)
            return lambda function: SimpleNamespace(remote=function)

    fake = Fake("ray")
    fake.exceptions = SimpleNamespace(RayError=RuntimeError)
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.chdir(tmp_path)
    swept = sweep([Cell("number-3", {"number": 3})], tmp_path / "out", doubled, where="ray", jobs=jobs)
    assert swept.done[0].record["twice"] == 6
    assert asked == [{"num_cpus": 1, "num_gpus": share}]


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigurationError, match=r"needs the package ray.*amodal\[ray\]"):
        run_all(EXPERIMENTS, tmp_path, where="ray")
    with pytest.raises(UnknownNameError, match="unknown value of where 'rya'.*Did you mean 'ray'"):
        run_all(EXPERIMENTS, tmp_path, where="rya")  # type: ignore[arg-type]
