"""XOR of two numbers, both present: a fusion that adds up what each says alone is right for half of the cases."""

import numpy as np
import pytest

import amodal
from amodal.missingness import Natural
from amodal.schema import Task

# Every method with a joint read-out, its options where the defaults have no chance on two numbers, and its epochs.
JOINT: dict[str, dict] = {
    "mmtm": {},
    "daft": {},
    "medfuse": {},
    "drfuse": {},
    "lsmt": {},
    "interleaved": {},
    "dicmor": {},
    "fusemoe": {},
    "robult": {},
    "m3jepa": {},
    "smil": {},
    "muse": {},
    "shaspec": {},
    "drim": {},
    "m3care": {},
}
# Weighted means of what each modality says alone, which has to be right alone, too: these learn a part of it.
GATED: dict[str, dict] = {
    "simmlm": {},
}
# Methods whose outputs are sums over the modalities, which their pages say: these cannot.
ADDITIVE: dict[str, dict] = {
    "unified": {},
}


def signs_that_differ(n: int = 5000) -> amodal.Cohort:
    draw = np.random.default_rng(0)
    points = draw.normal(size=(n, 2)).astype(np.float32)
    points += 0.3 * np.sign(points)  # a gap, so that right is possible
    return amodal.Cohort.from_arrays(
        {"a": points[:, :1], "b": points[:, 1:]},
        task=Task("binary", classes=("same", "differ")),
        target=(np.sign(points[:, 0]) != np.sign(points[:, 1])).astype(np.int64),
        splits=np.where(np.arange(n) < 4000, "train", "test"),
    )


def accuracy(name: str, options: dict) -> float:
    cohort = signs_that_differ()
    test = cohort.split("test")
    model = amodal.fit(
        name,
        cohort.split("train"),
        missingness=Natural(),
        options=options,
        encoders={key: {"name": "mlp", "dropout": 0.0} for key in ("a", "b")},
        width=32,
        seed=0,
        epochs=8,
        batch_size=256,
        learning_rate=3e-3,
        patience=None,
    )
    return float((model.predict(test).argmax(1) == test.target).mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", JOINT)
def test_a_joint_read_out_learns_an_interaction(name):
    assert accuracy(name, JOINT[name]) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", GATED)
def test_a_gate_learns_a_part_of_an_interaction(name):
    assert accuracy(name, GATED[name]) > 0.65


@pytest.mark.slow
@pytest.mark.parametrize("name", ADDITIVE)
def test_sums_over_modalities_do_not(name):
    assert accuracy(name, ADDITIVE[name]) < 0.6
