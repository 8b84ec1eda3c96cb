"""Columns that hold nothing, one value, or one row's value: every method learns around them."""

from __future__ import annotations

import numpy as np
import pytest
from contracts.cases import SMALL

import amodal
from amodal.data import Cohort
from amodal.methods import METHODS
from amodal.schema import Task

N = 48
NAN = np.nan


def made(kind: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    table, series = rng.normal(size=(N, 3)), rng.normal(size=(N, 4, 2))
    table[1::2, 0] += 2
    lonely = np.full((N, 2), NAN)
    lonely[[2, 3]] = [[1.0, 2.0], [2.0, 1.0]]
    one_row, nothing, constant = np.full(N, NAN), np.full(N, NAN), np.full(N, 3.0)
    one_row[5] = 1.0
    if kind == "series":
        series[:, :, 1] = NAN
    column = {"one row": one_row, "nothing": nothing, "constant": constant}.get(kind)
    values = {"labs": table if column is None else np.column_stack([table, column]), "vitals": series}
    return values | ({"rare": lonely} if kind == "lonely" else {})


@pytest.mark.parametrize("kind", ["one row", "nothing", "constant", "series", "lonely"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:epoch")
def test_a_degenerate_column_kills_no_method(method: str, kind: str):
    values, y = made(kind), np.arange(N) % 2
    task = Task("binary", classes=("no", "yes"))
    train = Cohort.from_arrays({k: v[:36] for k, v in values.items()}, task=task, target=y[:36])
    valid = Cohort.from_arrays({k: v[36:] for k, v in values.items()}, task=task, target=y[36:])
    if method == "per_pattern" and kind == "lonely":
        pytest.skip("one case is too few for a model of its own patterns")
    model = amodal.fit(
        method, train, valid, options=SMALL.get(method, {}), width=8, epochs=1, seed=0, device="cpu", batch_size=16
    )
    assert np.isfinite(model.predict(train)).all()
    full = {name: np.nan_to_num(value, nan=1.0) for name, value in values.items()}  # the column comes alive later
    assert np.isfinite(model.predict(Cohort.from_arrays(full, task=task))).all()
