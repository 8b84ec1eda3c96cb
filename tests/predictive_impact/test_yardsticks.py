"""Orders of acquisition, areas, conformal sets, attribution and shares, on values by hand and on known worlds."""

import numpy as np
import pandas as pd
import pytest
import torch

import amodal
from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.data.scale import Scaling
from amodal.errors import ConfigurationError, DataError, UnknownNameError
from amodal.method import Method
from amodal.predictive_impact import (
    acquisition_curve,
    advise,
    area_under,
    attribute,
    budget_curve,
    conformal_labels,
    conformal_threshold,
    fixed_order,
    labels_by_share,
    sets,
)
from amodal.predictive_impact.sensitivity import sensitivity_range
from amodal.predictive_impact.shapley import shapley_shares, subsets
from amodal.schema import Task


@pytest.fixture(scope="module")
def decisive():
    """Of three numbers, b decides; a says a little, the first nothing."""
    draw = np.random.default_rng(0)
    noise, a, b = draw.normal(size=(3, 500, 1)).astype(np.float32)
    target = ((0.4 * a + b)[:, 0] > 0).astype(int)
    cohort = Cohort.from_arrays(
        {"noise": noise, "a": a, "b": b}, task=Task("binary", classes=("no", "yes")), target=target
    )
    train, test = cohort.take(np.arange(420)), cohort.take(np.arange(420, 500))
    return amodal.fit("modality_dropout", train, epochs=12, width=16, seed=0, batch_size=64), train, test


def test_orders(decisive):
    model, train, test = decisive
    start = np.tile([True, False, False], (len(test), 1))
    assert fixed_order(model, train.take(np.arange(100)), start=start[:1].repeat(100, 0))[0] == "b"
    dear = {"b": 1000.0, "a": 0.001}
    order = fixed_order(model, train.take(np.arange(100)), start=start[:1].repeat(100, 0), costs=dear)
    assert order.index("a") < order.index("b")  # for the money
    common = {"start": start, "costs": {"a": 1.0, "b": 2.0}, "sequence": ("noise", "b", "a"), "utility": "accuracy"}
    orders = ("fixed", "least_certain", "advised")
    curves = {one: acquisition_curve(model, test, order=one, worth=100.0, **common) for one in orders}
    for name in curves:
        assert curves[name].groupby("step")["cost"].max().tolist() == [0, 2, 3]
        assert (curves[name].query("step == 1")["acquired"] == "b").mean() > 0.9
    worth = acquisition_curve(model, test, order="advised", stop=True, worth=1e-6, **common)
    assert set(worth["step"]) == {0}  # nothing pays
    within = acquisition_curve(model, test, order="fixed", budget=2.5, **common)
    assert within["cost"].max() == 2
    early = {name: budget_curve(curve).query("spent <= 40")["score"].iloc[-1] for name, curve in curves.items()}
    assert early["least_certain"] > 0.5
    with pytest.raises(ConfigurationError, match="the order 'fixed' needs a sequence. fixed_order chooses one"):
        acquisition_curve(model, test, order="fixed")
    with pytest.raises(ConfigurationError, match="one or two steps ahead"):
        advise(model, test, steps=3)


def test_areas():
    curve = pd.DataFrame(
        {
            "id": ["x", "y"] * 3,
            "step": [0, 0, 1, 1, 2, 2],
            "cost": [0.0, 0.0, 1.0, 4.0, 4.0, 4.0],
            "correct": [0, 1, 1, 0, 1, 1],
        }
    )
    assert area_under(curve).to_dict() == {"x": pytest.approx(2 / 3), "y": pytest.approx(2 / 3)}
    assert area_under(curve, x="cost").to_dict() == {"x": 0.75, "y": 1.0}
    assert area_under(curve, x="cost", until=8.0).to_dict() == {"x": 0.875, "y": 1.0}
    with pytest.raises(UnknownNameError, match="axis of a curve 'time'"):
        area_under(curve, x="time")
    with pytest.raises(DataError, match="nothing was spent"):
        area_under(curve.assign(cost=0.0), x="cost")


@pytest.mark.slow
def test_looking_two_steps_ahead_finds_the_context():
    """CUBE-NM: the context alone gains nothing, and with it one block is enough."""
    cohort = amodal.load_cohort("context_cube", n=2500, contexts=3, seed=0)
    train, test = cohort.split("train"), cohort.split("test").take(np.arange(24))
    model = amodal.fit("modality_dropout", train, epochs=30, width=32, seed=0, batch_size=64)
    nothing = np.zeros((len(test), 4), dtype=bool)
    curves = {
        order: acquisition_curve(model, test, order=order, start=nothing, steps=2, utility="accuracy")
        for order in ("advised", "ahead")
    }
    first = {order: (curve.query("step == 1")["acquired"] == "context").mean() for order, curve in curves.items()}
    assert first["advised"] < 0.2
    assert first["ahead"] > 0.8
    assert test.target is not None
    context = test.batch(np.arange(len(test))).values["context"].argmax(1).numpy()
    second = curves["ahead"].query("step == 2")["acquired"].to_numpy()
    assert np.mean([name == f"block{c}" for name, c in zip(second, context)]) > 0.8
    right = {order: curve.query("step == 2")["correct"].mean() for order, curve in curves.items()}
    assert right["ahead"] > right["advised"]


def test_two_steps_ahead_are_the_value_of_xor():
    cohort = amodal.load_cohort("interaction", rule="xor", n=1200)
    train, test = cohort.split("train"), cohort.split("test").take(np.arange(10))
    model = amodal.fit("modality_dropout", train, epochs=40, width=32, seed=0, batch_size=64)
    seen = test.with_observed(np.tile([True, False, False], (10, 1)))
    found = advise(model, seen, steps=2, utility="accuracy")
    missing = ~seen.observed
    assert found.gain[missing].mean() < 0.1
    assert found.ahead[missing].mean() > found.gain[missing].mean() + 0.15
    assert found.everything.mean() > 0.3


class Parity(Method):
    """Sure of the parity of three signs once it has all of them; until then w is a weak sign of the class."""

    accepts_empty = True

    def predict(self, batch):
        signs = torch.stack([batch.values[name][:, 0] for name in "abc"], dim=1).sign().prod(1)
        weak = torch.where(batch.observed["w"], 0.25 * batch.values["w"][:, 0].sign(), 0.0)
        p = 0.5 + torch.where(batch.presence[:, :3].all(1), 0.48 * signs, weak)
        return torch.stack([1 - p, p], dim=1)


def parity():
    draw = np.random.default_rng(0)
    signs = draw.choice([-1.0, 1.0], size=(700, 3))
    target = (signs.prod(1) > 0).astype(int)
    w = np.where(draw.random(700) < 0.75, 2 * target - 1, 1 - 2 * target)
    values = {name: column[:, None].astype(np.float32) for name, column in zip("abcw", [*signs.T, w])}
    cohort = Cohort.from_arrays(values, task=Task("binary", classes=("even", "odd")), target=target)
    scaling = Scaling({n: torch.zeros(1) for n in "abcw"}, {n: torch.ones(1) for n in "abcw"})
    model = TrainedModel(Parity(cohort.schema), cohort.schema, scaling, np.array([0.5, 0.5]), {}, pd.DataFrame())
    return model, cohort.take(np.arange(660)), cohort.take(np.arange(660, 700))


def test_sets_find_three_modalities_that_matter_only_together():
    model, train, test = parity()
    start = {"start": np.zeros((40, 4), dtype=bool), "train": train, "utility": "accuracy"}
    curves = {order: acquisition_curve(model, test, order=order, steps=3, **start) for order in ("advised", "sets")}
    assert (curves["advised"].query("step == 1")["acquired"] == "w").all()
    assert curves["sets"].query("step == 3")["correct"].all()
    assert curves["advised"].query("step == 3")["correct"].mean() < 0.9
    dear = {"costs": dict.fromkeys("abc", 0.3) | {"w": 0.1}, "stop": True, "order": "sets", "neighbours": 400}
    bought = acquisition_curve(model, test, **dear, **start)
    assert set(bought.query("step == 1")["acquired"]) == {
        "w"
    }  # a quarter for a tenth; the three are worth half for 0.9
    assert set(bought.query("step > 1")["acquired"]) <= {""}
    with pytest.raises(ConfigurationError, match="the order by sets needs training cases"):
        acquisition_curve(model, test, order="sets")


def test_of_many_sets_some_are_looked_at():
    few, many = (sets._sets(list(range(n)), np.random.default_rng(0)) for n in (3, 12))
    assert len(few) == 8
    assert len(many) == 64
    assert {(), (3,), tuple(range(12))} < set(many)


# Sets, shares and reasons ---------------------------------------------------------------------------------------------


def test_conformal_sets_hold_the_true_label_as_often_as_promised():
    draw = np.random.default_rng(0)
    p = draw.dirichlet(np.ones(4), size=6000)
    y = np.array([draw.choice(4, p=row) for row in p])
    threshold = conformal_threshold(p[:2000], y[:2000], coverage=0.8)
    held = [truth in chosen for chosen, truth in zip(conformal_labels(p[2000:], threshold), y[2000:])]
    assert np.mean(held) == pytest.approx(0.8, abs=0.02)
    with pytest.raises(DataError, match="too few calibration cases for a coverage of 0.9 .expected at least 9"):
        conformal_threshold(p[:8], y[:8])
    with pytest.raises(ConfigurationError, match="a coverage is out of range"):
        conformal_threshold(p, y, coverage=1.0)


def test_plausible_labels_are_those_on_top_of_enough_completions():
    draws = torch.tensor([[0.6, 0.4, 0.0]] * 50 + [[0.1, 0.8, 0.1]] * 48 + [[0.0, 0.3, 0.7]] * 2)[:, None]
    found = labels_by_share(draws)
    assert found.labels == [(1, 0)]  # in the order of the mean prediction; two in a hundred are too few
    torch.testing.assert_close(found.mass, torch.tensor([[0.5, 0.48, 0.02]]))
    assert labels_by_share(draws, smallest=0.0).labels == [(1, 0, 2)]


def test_shapley_shares_of_known_games():
    players = ["a", "b", "c"]
    values = {
        chosen: np.array([float("a" in chosen) + 2.0 * ({"b", "c"} <= set(chosen))]) for chosen in subsets(players)
    }
    assert {name: float(share[0]) for name, share in shapley_shares(values, players).items()} == {
        "a": pytest.approx(1.0),
        "b": pytest.approx(1.0),
        "c": pytest.approx(1.0),
    }


def test_reasons_add_up_and_name_what_decides(decisive):
    model, _, test = decisive
    cases = test.with_observed(
        np.tile([True, True, True], (len(test), 1)) & (np.arange(3) != np.arange(len(test))[:, None] % 9)
    )
    found = attribute(model, cases)
    np.testing.assert_allclose(np.nansum(found.values, axis=1), found.prediction - found.base, atol=1e-6)
    assert (np.isnan(found.values) == ~cases.observed).all()
    over = found.over_cohort(resamples=100)
    assert over["modality"].tolist()[0] == "b"
    assert over["modality"].tolist()[-1] == "noise"
    assert (over["low"] <= over["size"]).all()
    assert (over["size"] <= over["high"]).all()
    assert set(attribute(model, cases, explain="yes").explained) == {"yes"}
    with pytest.raises(UnknownNameError, match="class 'maybe'"):
        attribute(model, cases, explain="maybe")


def test_an_odds_ratio_widens_the_range(decisive):
    model, _, test = decisive
    seen = test.with_observed(np.tile([True, True, False], (len(test), 1)))
    one, three = (amodal.impact(model, seen, odds_ratio=ratio) for ratio in (1.0, 3.0))
    np.testing.assert_allclose(one.sensitivity, one.variability[:, None].repeat(2, 1), atol=1e-4)
    assert (
        (three.sensitivity[:, 0] <= one.variability + 1e-6) & (one.variability <= three.sensitivity[:, 1] + 1e-4)
    ).all()
    assert np.ptp(three.sensitivity, axis=1).mean() > 0.02
    gains = advise(model, seen, odds_ratio=3.0)
    assert (gains.sensitivity[:, 2, 0] <= gains.gain[:, 2] + 1e-6).all()
    with pytest.raises(ConfigurationError, match="an odds ratio is out of range .expected 1 or more, got 0.5"):
        advise(model, seen, odds_ratio=0.5)
    draws = torch.tensor([0.0, 10.0])[:, None, None]
    value = amodal.kinds.task_kind("regression")
    low, high = sensitivity_range(
        lambda w: (w * draws[..., 0]).sum(0), draws, torch.full((2, 1), 0.5), 4.0, kind=value, scale=10.0
    )
    assert [round(low.item(), 2), round(high.item(), 2)] == [2.0, 8.0]  # tilted to odds of 1 to 4


def test_what_is_said_about_budgets_neighbours_and_labels(decisive):
    model, train, test = decisive
    seen = test.with_observed(np.tile([True, False, False], (len(test), 1)))
    advice = advise(model, seen, costs={"a": 5.0, "b": 9.0}, budget=3.0)
    assert "The budget of 3 is below the cheapest look, 5: nothing can be looked at." in advice.notes
    assert set(advice.next()[0]) == {""}
    assert "No price is given for noise: taken as free." in advice.notes
    one = amodal.impact(model, seen, neighbours=1)
    assert (one.variability == 0).all()
    assert "With one neighbour there is nothing to vary" in repr(one)
    assert "another record of the same person would not be noticed" in repr(one)
    promised = amodal.impact(model, seen, calibration=train.take(np.arange(60)).with_observed(seen.observed[:60]))
    assert len(promised.promised_labels) == len(seen)
    assert "promised" in promised.table()
    with pytest.raises(UnknownNameError, match="source of completions 'donors'"):
        amodal.impact(model, seen, completions="donors")
    with pytest.raises(
        ConfigurationError, match="draws no completions of what is missing. Pass completions='training_cases'"
    ):
        amodal.impact(model, seen, completions="own")
