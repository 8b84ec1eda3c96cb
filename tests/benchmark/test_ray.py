"""Experiments on a Ray cluster of this machine: the same numbers as here, and the error of the one that fails."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from amodal.benchmark import Experiment, run_all
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


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigurationError, match=r"needs the package ray.*amodal\[ray\]"):
        run_all(EXPERIMENTS, tmp_path, where="ray")
    with pytest.raises(UnknownNameError, match="unknown value of where 'rya'.*Did you mean 'ray'"):
        run_all(EXPERIMENTS, tmp_path, where="rya")  # type: ignore[arg-type]
