"""A small cohort with every kind of modality, of absence and of column."""

import numpy as np

from amodal.data import Cohort
from amodal.schema import Task

N = 40


def mixed_cohort(task="binary", **changes):
    generator = np.random.default_rng(3)
    labs = generator.normal(size=(N, 3)).astype(np.float32)
    labs[generator.random(labs.shape) < 0.2] = np.nan
    labs[::7] = np.nan
    vitals = (generator.normal(size=(N, 5, 2)) * 3 + 10).astype(np.float32)
    vitals[generator.random(vitals.shape) < 0.2] = np.nan
    waves = [generator.normal(size=(n, 1)).astype(np.float32) if n else None for n in generator.integers(0, 6, N)]
    xray = generator.integers(0, 256, (N, 1, 2, 2)).astype(np.uint8)
    notes = [None if i % 5 == 0 else "é" * (i % 4) for i in range(N)]
    target, kind = {
        "binary": (generator.integers(0, 2, N), Task("binary", classes=("no", "yes"))),
        "multilabel": (
            np.where(generator.random((N, 3)) < 0.1, np.nan, generator.integers(0, 2, (N, 3))),
            Task("multilabel", classes=("a", "b", "c")),
        ),
        "regression": (generator.normal(size=N) * 4 + 50, Task("regression", units="days", bins=(1, 2))),
    }[task]
    parts = {
        "task": kind,
        "target": target,
        "observed": {"xray": np.arange(N) % 3 > 0},
        "lengths": {"vitals": generator.integers(1, 6, N)},
        "ids": [f"stay{i:02d}" for i in range(N)],
        "groups": [f"patient{i // 2}" for i in range(N)],
        "splits": ["train" if i < 24 else "valid" if i < 30 else "test" if i < 38 else "" for i in range(N)],
        "features": {"vitals": ("HR", "Temp")},
        "units": {"vitals": ("1/min", "degC")},
        "extras": {"age": np.arange(N), "sex": ["f" if i % 2 else "m" for i in range(N)]},
        "name": "mixed",
        "description": "one of each",
    }
    values = {"labs": labs, "vitals": vitals, "waves": waves, "x-ray": xray, "note": notes}
    parts["observed"] = {"x-ray": parts["observed"]["xray"]}
    return Cohort.from_arrays(values, **(parts | changes))


def assert_same_batch(one, other):
    assert one.modalities == other.modalities
    for part in ("values", "observed", "measured", "lengths"):
        a, b = getattr(one, part), getattr(other, part)
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name].numpy(), b[name].numpy())
            assert a[name].dtype == b[name].dtype
    assert one.ids == other.ids
    if one.target is not None:
        np.testing.assert_array_equal(one.target.numpy(), other.target.numpy())
