"""A comparison in one call: equal conditions, resumed, with tables and a page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from amodal.errors import ConfigurationError, UnknownNameError
from amodal.missingness import MCAR
from amodal.report.comparison import compare_methods

QUICK = {"settings": {"epochs": 1, "device": "cpu"}, "resamples": 20}


@pytest.mark.slow
def test_methods_meet_the_same_presence_and_a_second_call_computes_nothing(tmp_path: Path):
    said: list[str] = []
    given = {
        "methods": ["fusion", "small=fusion"],
        "data": "digits",
        "test_missingness": MCAR(0.5),
        "seeds": (0, 1),
        "options": {"small": {"hidden": 8}},
    }
    results = compare_methods(**given, out=tmp_path / "a", say=said.append, **QUICK)
    assert results.names == ["fusion", "small"] or tuple(results.names) == ("fusion", "small")
    by_seed = {(run.name, run.seed): run.test.observed.tobytes() for run in results.runs}
    assert by_seed["fusion", 0] == by_seed["small", 0] != by_seed["fusion", 1] == by_seed["small", 1]
    rows = pd.read_csv(tmp_path / "a" / "results.csv")
    assert set(rows["name"]) == {"fusion", "small"}
    assert set(rows["seed"]) == {0, 1}
    assert {"methods.csv", "methods.tex", "differences.csv", "index.html"} <= {
        p.name for p in (tmp_path / "a").iterdir()
    }
    assert sum("there already" in line for line in said) == 0
    again: list[str] = []
    compare_methods(**given, out=tmp_path / "a", say=again.append, **QUICK)
    assert sum("there already" in line for line in again) == 4
    assert (tmp_path / "a" / "index.html").stat().st_size > 50_000


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"methods": []}, ConfigurationError, "nothing to compare"),
        ({"methods": ["fusoin"]}, UnknownNameError, "unknown method 'fusoin'.*Did you mean 'fusion'"),
        ({"methods": ["fusion", "fusion"]}, ConfigurationError, "the same name.*fusion.*NAME=METHOD"),
        ({"options": {"cepa": {}}}, UnknownNameError, "unknown method in this comparison 'cepa'"),
        ({"references": ["boosting"]}, UnknownNameError, "unknown method in this comparison 'boosting'"),
        ({"rates": [1.5]}, ConfigurationError, "a rate is out of range"),
    ],
)
def test_bad_input_is_named(given: dict, kind: type, words: str, tmp_path: Path):
    with pytest.raises(kind, match=words):
        compare_methods(**{"methods": ["fusion"], "data": "digits", "out": tmp_path / "a", **given})
    assert not (tmp_path / "a").exists()
