"""Finished runs made of numbers, without training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from amodal.benchmark import Experiment, FinishedRun
from amodal.benchmark.stored import Condition
from amodal.missingness import Presence
from amodal.schema import Modality, Schema, Task

NAMES = ("a", "b")


@pytest.fixture
def make_run() -> Callable[..., FinishedRun]:
    """Makes a binary run of N cases; `skill` moves its predictions towards the truth."""

    def make(
        name: str,
        seed: int = 0,
        *,
        n: int = 120,
        skill: float = 1.0,
        presence_seed: int = 7,
        target: np.ndarray | None = None,
        setting: str = "",
        **changes: object,
    ) -> FinishedRun:
        truth = np.arange(n) % 2 if target is None else target
        noise = np.random.default_rng((seed, *map(ord, name))).normal(size=n)
        p = 1 / (1 + np.exp(-(skill * (2 * truth - 1) + noise)))
        observed = np.random.default_rng((seed, presence_seed)).random((n, 2)) < 0.6
        observed[~observed.any(1), 0] = True
        schema = Schema(
            tuple(Modality(m, "tabular", (2,)) for m in NAMES), Task("binary", name="sick", classes=("no", "yes"))
        )
        experiment = Experiment("fusion", cohort="made", name=name, seed=seed)
        everything = np.ones_like(observed)
        single = everything & [True, False]
        conditions = (
            Condition("rate 0", "rate", everything, np.stack([1 - p, p], 1), 0.0),
            Condition("a", "pattern", single, np.stack([1 - p**2, p**2], 1)),
            Condition("a+b", "pattern", everything, np.stack([1 - p, p], 1)),
        )
        run = FinishedRun(
            folder=Path(f"{name}-{seed}"),
            experiment=experiment,
            setting=setting or experiment.setting,
            record={},
            metrics={"seed": seed, "resamples": 300, "presence_hash": "", "patterns": []},
            schema=schema,
            history=pd.DataFrame(),
            ids=np.array([f"c{i}" for i in range(n)]),
            groups=np.array([f"g{i // 2}" for i in range(n)]),
            target=truth.astype(np.int64),
            test=Condition("test", "test", observed, np.stack([1 - p, p], 1)),
            conditions=conditions,
            train_presence=Presence(everything, NAMES, everything),
        )
        return replace(run, **changes)  # type: ignore[arg-type]

    return make
