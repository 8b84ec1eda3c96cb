"""Advice against closed forms: one modality decides, one only together with another, one not at all."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.data.scale import Scaling
from amodal.errors import ConfigurationError, DataError, ShapeError, UnknownNameError
from amodal.method import Method, SamplingMethod
from amodal.predictive_impact import Advice, acquisition_curve, advise, own
from amodal.schema import Task

NAMES = ("known", "noise", "decisive")
TASK = Task("binary", classes=("no", "yes"))


def two(yes):
    return torch.stack([1 - yes, yes], dim=-1)


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


class Reads(Method):
    """Nine to one for the sign of "decisive"; even without it."""

    def __init__(self, schema):
        super().__init__(schema)
        self.place = torch.nn.Parameter(torch.zeros(()))

    def objective(self, batch, generator):
        raise NotImplementedError

    def predict(self, batch):
        sign = torch.where(batch.values["decisive"][:, 0] > 0, 0.9, 0.1)
        return two(torch.where(batch.observed["decisive"], sign, 0.5))


class Coins(SamplingMethod):
    """Whether noise and decisive differ, positive with 0.3 and 0.9; "known" says nothing."""

    def __init__(self, schema):
        super().__init__(schema)
        self.place = torch.nn.Parameter(torch.zeros(()))

    def objective(self, batch, generator):
        raise NotImplementedError

    def draw_outputs(self, batch, draws, generator, *, vary=None):
        odd = torch.zeros(draws, len(batch), dtype=torch.bool)
        for name, p in (("noise", 0.3), ("decisive", 0.9)):
            coin = torch.rand(draws, 1, generator=generator) < p
            if vary is not None and name not in vary:
                coin = coin[:1].expand(draws, 1)
            odd ^= torch.where(batch.observed[name], batch.values[name][:, 0] > 0, coin)
        return torch.where(two(odd.float()) > 0.5, 20.0, -20.0)


def cohort_of(n=40, *, absent=("noise", "decisive"), seed=0):
    draw = np.random.default_rng(seed)
    values = {name: draw.normal(size=(n, 1)).astype(np.float32) for name in NAMES}
    values["decisive"][:] = np.where(np.arange(n) % 2, 1.0, -1.0)[:, None]  # as many of each sign
    observed = np.ones((n, 3), dtype=bool)
    observed[:, [NAMES.index(name) for name in absent]] = False
    return Cohort.from_arrays(values, task=TASK, target=np.arange(n) % 2, observed=observed)


def model_of(method, cohort):
    scaling = Scaling({name: torch.zeros(1) for name in NAMES}, {name: torch.ones(1) for name in NAMES})
    return TrainedModel(method(cohort.schema), cohort.schema, scaling, np.array([0.5, 0.5]), {}, pd.DataFrame())


def test_gain_and_change_with_values_of_training_cases():
    cases, train = cohort_of(3), cohort_of(100, absent=())
    model = model_of(Reads, cases)
    found = advise(model, cases, train=train, neighbours=100, draws=5000)
    np.testing.assert_allclose(found.change, [[np.nan, 0, 0.4]] * 3, atol=0.025)
    np.testing.assert_allclose(found.gain, [[np.nan, 0, entropy(0.5) - entropy(0.9)]] * 3, atol=0.025)
    assert found.ranking() == found.ranking("change") == [("decisive", "noise")] * 3
    correct = advise(model, cases, train=train, neighbours=100, draws=5000, utility="accuracy")
    np.testing.assert_allclose(correct.gain, [[np.nan, 0, 0.4]] * 3, atol=0.025)
    cost = advise(model, cases, train=train, utility=lambda p: -torch.ones(p.shape[:-1]))
    np.testing.assert_allclose(cost.gain, [[np.nan, 0, 0]] * 3, atol=1e-6)
    assert "most similar of 100 training cases" in found.how


def test_gain_and_change_by_latents(monkeypatch):
    monkeypatch.setattr(own, "_INNER", 3000)
    monkeypatch.setattr(own, "_OUTER", 400)
    cases = cohort_of(2)
    found = advise(model_of(Coins, cases), cases, draws=400)
    odd = 0.3 * 0.1 + 0.7 * 0.9
    by_noise = 0.3 * abs(0.1 - odd) + 0.7 * abs(0.9 - odd)
    by_decisive = 0.9 * abs(0.7 - odd) + 0.1 * abs(0.3 - odd)
    np.testing.assert_allclose(found.change, [[np.nan, by_noise, by_decisive]] * 2, atol=0.03)
    gains = [entropy(odd) - entropy(0.1), entropy(odd) - entropy(0.7)]
    np.testing.assert_allclose(found.gain, [[np.nan, *gains]] * 2, atol=0.03)
    assert "drawn by the method itself" in found.how


class Labels(Method):
    """Two labels: nine to one for the sign of "decisive", and always one to four."""

    def __init__(self, schema):
        super().__init__(schema)
        self.place = torch.nn.Parameter(torch.zeros(()))

    def objective(self, batch, generator):
        raise NotImplementedError

    def predict(self, batch):
        sign = torch.where(batch.values["decisive"][:, 0] > 0, 0.9, 0.1)
        return torch.stack([torch.where(batch.observed["decisive"], sign, 0.5), torch.full_like(sign, 0.2)], dim=1)


class Value(Labels):
    """Plus or minus two standard deviations for the sign of "decisive"."""

    def predict(self, batch):
        return 2 * batch.values["decisive"][:, 0].sign() * batch.observed["decisive"]


def other_task(method, task, target):
    def retold(cases):
        values = {name: cases.batch(np.arange(len(cases))).values[name].numpy() for name in NAMES}
        return Cohort.from_arrays(values, task=task, target=target(len(cases)), observed=cases.observed)

    cases, train = retold(cohort_of(3)), retold(cohort_of(100, absent=()))
    scaling = Scaling({name: torch.zeros(1) for name in NAMES}, {name: torch.ones(1) for name in NAMES}, 7.0, 3.0)
    model = TrainedModel(method(cases.schema), cases.schema, scaling, np.zeros(2), {}, pd.DataFrame())
    return model, cases, train


def test_advice_on_several_labels():
    task = Task("multilabel", classes=("a", "b"))
    model, cases, train = other_task(Labels, task, lambda n: np.zeros((n, 2), np.float32))
    asked = {"train": train, "neighbours": 100, "draws": 5000}
    found = advise(model, cases, **asked)
    np.testing.assert_allclose(found.change, [[np.nan, 0, 0.4 / 2]] * 3, atol=0.025)  # mean over labels
    np.testing.assert_allclose(found.gain, [[np.nan, 0, entropy(0.5) - entropy(0.9)]] * 3, atol=0.025)
    right = advise(model, cases, utility="accuracy", **asked)
    np.testing.assert_allclose(right.gain, [[np.nan, 0, 0.4 / 2]] * 3, atol=0.025)
    with pytest.raises(UnknownNameError, match="utility of a multilabel task 'squared_error'"):
        advise(model, cases, utility="squared_error", **asked)


def test_advice_on_a_value_is_in_its_units():
    """Plus or minus 6 around 7, equally likely: it moves by 6, and knowing it takes 36 off the squared error."""
    model, cases, train = other_task(Value, Task("regression"), lambda n: np.zeros(n, np.float32))
    asked = {"train": train, "neighbours": 100, "draws": 5000}
    found = advise(model, cases, **asked)
    np.testing.assert_allclose(found.change, [[np.nan, 0, 6]] * 3, atol=0.02)
    np.testing.assert_allclose(found.gain, [[np.nan, 0, 36]] * 3, atol=0.2)
    above = advise(model, cases, utility=lambda value: (value - 7).clamp(min=0), **asked)
    np.testing.assert_allclose(above.gain, [[np.nan, 0, 3]] * 3, atol=0.2)
    with pytest.raises(ConfigurationError, match="curves of acquisition are for classification only .got regression"):
        acquisition_curve(model, cases, train=train)


def test_a_utility_of_ones_own_is_that_of_the_best_decision():
    """Treating costs 1 whoever is ill and saves 4 of those who are; without looking it is worth 4/2 - 1."""
    cases, train = cohort_of(3), cohort_of(100, absent=())
    payoffs = torch.tensor([[0.0, -1.0], [0.0, 3.0]])  # of leaving and treating, class by class
    found = advise(
        model_of(Reads, cases), cases, train=train, neighbours=100, draws=5000, utility=lambda p: (p @ payoffs).amax(-1)
    )
    told_ill, told_well = 0.9 * 3 - 0.1, max(0.0, 0.1 * 3 - 0.9)
    np.testing.assert_allclose(found.gain, [[np.nan, 0, (told_ill + told_well) / 2 - 1]] * 3, atol=0.05)


def test_the_table_ranks_what_is_missing():
    advice = Advice(
        np.array(["x", "y"]),
        NAMES,
        np.array([[True, False, False], [True, True, True]]),
        np.array([[np.nan, 0.1, 0.2], [np.nan] * 3]),
        np.array([[np.nan, 0.5, 0.4], [np.nan] * 3]),
        "",
    )
    assert advice.ranking() == [("noise", "decisive"), ()]
    assert advice.ranking("change") == [("decisive", "noise"), ()]
    names, gain = advice.next()
    assert names.tolist() == ["noise", ""]
    np.testing.assert_array_equal(gain, [0.5, np.nan])
    assert advice.table().to_dict("records") == [
        {"id": "x", "rank": 1, "modality": "noise", "gain": 0.5, "change": 0.1, "price": 0.0, "net": 0.5},
        {"id": "x", "rank": 2, "modality": "decisive", "gain": 0.4, "change": 0.2, "price": 0.0, "net": 0.4},
    ]
    with pytest.raises(UnknownNameError, match="way to rank 'cost'"):
        advice.ranking("cost")


def test_curves_reveal_what_helps_first():
    cases, train = cohort_of(200, absent=()), cohort_of(100, absent=())
    model = model_of(Reads, cases)
    start = np.tile([True, False, False], (200, 1))
    curves = {
        order: acquisition_curve(model, cases, order=order, train=train, start=start)
        for order in ("advised", "random", "surest")
    }
    correct = {order: curve.groupby("step")["correct"].mean().tolist() for order, curve in curves.items()}
    assert correct["advised"] == correct["surest"] == [0.5, 1.0, 1.0]
    assert correct["random"] == [0.5, pytest.approx(0.75, abs=0.08), 1.0]
    first = curves["advised"].query("step == 1")
    assert (first["acquired"] == "decisive").all()
    np.testing.assert_allclose(first["log_likelihood"], math.log(0.9), rtol=1e-5)
    assert (curves["random"].query("step == 0")["acquired"] == "").all()
    assert len(acquisition_curve(model, cases, order="random", steps=1)) == 400


def test_a_curve_never_reveals_what_a_case_does_not_have():
    cases = cohort_of(30, absent=("noise",))
    curve = acquisition_curve(model_of(Reads, cases), cases, order="random")
    assert "noise" not in set(curve["acquired"])
    assert curve["step"].max() == 1  # one of two at the start, one to reveal


def test_bad_questions():
    cases, train = cohort_of(3), cohort_of(20, absent=())
    model = model_of(Reads, cases)
    with pytest.raises(ConfigurationError, match=r"Reads cannot draw completions.*Pass train="):
        advise(model, cases)
    with pytest.raises(ConfigurationError, match="number of draws is out of range"):
        advise(model, cases, draws=0, train=train)
    with pytest.raises(UnknownNameError, match="utility of a binary task 'profit'"):
        advise(model, cases, utility="profit", train=train)
    with pytest.raises(ShapeError, match=r"one number for each prediction.*got \(2, 2\)"):
        advise(model, cases, utility=lambda p: p, train=train)
    with pytest.raises(ConfigurationError, match="number of draws is out of range.*got 2.5"):
        advise(model, cases, draws=2.5, train=train)
    with pytest.raises(DataError, match="no training cases to take completions from"):
        advise(model, cases, train=train.take(np.arange(0)))
    with pytest.raises(UnknownNameError, match="order of acquisition 'best'"):
        acquisition_curve(model, cases, order="best")
    with pytest.raises(DataError, match="no training case has 'decisive'"):
        advise(model, cases, train=cohort_of(20, absent=("decisive",)))
