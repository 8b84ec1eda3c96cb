"""Gates where it is known what suffices: in each half of the cases one modality tells the label, not the other."""

import numpy as np
import pytest
import torch

import amodal
from amodal.encoders import encode_pooled
from amodal.fusion.experts import squared_variation
from amodal.missingness import Natural
from amodal.schema import Task


def one_that_tells(n: int = 3000) -> tuple[amodal.Cohort, np.ndarray]:
    """Two modalities, of which the first or the second tells the label; both say which one it is."""
    draw = np.random.default_rng(0)
    first = draw.random(n) < 0.5
    target = draw.integers(0, 2, n)
    sides = (2 * target - 1)[:, None] * np.array([1.5, -1.5])
    values = {}
    for name, tells in (("a", first), ("b", ~first)):
        told = np.where(tells[:, None], sides, 1.5 * draw.choice([-1, 1], (n, 1)) * np.array([1, -1]))
        flag = np.where(first, 2.0, -2.0)[:, None] * np.array([1, -1])
        values[name] = np.concatenate([told, flag], axis=1) + 0.4 * draw.normal(size=(n, 4))
    cohort = amodal.Cohort.from_arrays(
        {name: value.astype(np.float32) for name, value in values.items()},
        task=Task("binary", classes=("no", "yes")),
        target=target,
        splits=np.where(np.arange(n) < 2400, "train", "test"),
    )
    return cohort, first[2400:]


def trained(name: str, cohort: amodal.Cohort, options: dict) -> amodal.TrainedModel:
    return amodal.fit(
        name,
        cohort.split("train"),
        missingness=Natural(),
        options=options,
        encoders={key: {"name": "mlp", "dropout": 0.0} for key in ("a", "b")},
        width=16,
        seed=0,
        epochs=10,
        batch_size=128,
        learning_rate=3e-3,
        patience=None,
    )


@pytest.mark.slow
def test_simmlm_weighs_the_modality_that_tells():
    cohort, first = one_that_tells()
    test = cohort.split("test")
    model = trained("simmlm", cohort, {"hidden": 16, "gate_hidden": 32, "dropout": 0.0})
    assert (model.predict(test).argmax(1) == test.target).mean() > 0.95
    batch = test.batch(np.arange(len(test)))
    with torch.no_grad():
        weights = model.method.weights(*encode_pooled(model.method.encoders, batch))[..., 0].numpy()
    assert weights[first, 0].mean() > 0.8
    assert weights[~first, 1].mean() > 0.8


@pytest.mark.slow
def test_simmlm_ranks_more_modalities_not_below_fewer():
    """With a modality of noise beside one that tells, the ranking loss makes adding the noise harm less."""
    draw = np.random.default_rng(1)
    target = draw.integers(0, 2, 1500)
    told = (2 * target - 1)[:, None] * np.ones(3) + draw.normal(size=(1500, 3))
    cohort = amodal.Cohort.from_arrays(
        {"a": told.astype(np.float32), "b": draw.normal(size=(1500, 12)).astype(np.float32)},
        task=Task("binary", classes=("no", "yes")),
        target=target,
        splits=np.where(np.arange(1500) < 300, "train", "test"),
    )
    test = cohort.split("test")
    alone = test.with_observed(np.tile([True, False], (len(test), 1)))

    def harm(weight: float) -> float:
        model = trained("simmlm", cohort, {"w_rank": weight, "dropout": 0.0})
        nll = [-np.log(model.predict(rows)[np.arange(len(test)), test.target] + 1e-12) for rows in (test, alone)]
        return float(np.maximum(0, nll[0] - nll[1]).mean())

    assert harm(0.45) < harm(0.0)


@pytest.mark.slow
def test_fusemoe_spreads_its_load_only_if_asked():
    cohort, _ = one_that_tells()
    test = cohort.split("test")
    variation = {}
    for weight in (0.0, 0.1):
        options = {"hidden": 16, "layers": 1, "experts": 6, "top_k": 1, "w_balance": weight, "dropout": 0.0}
        model = trained("fusemoe", cohort, options)
        assert (model.predict(test).argmax(1) == test.target).mean() > 0.95
        with torch.no_grad():
            (routings,) = model.method.routed(test.batch(np.arange(len(test))), None)[1]
        variation[weight] = sum(squared_variation(routing.load).item() for routing in routings)
    assert variation[0.1] < 0.5 * variation[0.0]
