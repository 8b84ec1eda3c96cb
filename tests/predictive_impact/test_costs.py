"""Prices, budgets and utilities: values by hand, and what is said about those that cannot be used."""

import numpy as np
import pytest
import torch

from amodal.errors import ConfigurationError, ShapeError, UnknownNameError
from amodal.predictive_impact import Advice, Costs, net_benefit, utility_function
from amodal.predictive_impact.costs import read_costs
from amodal.predictive_impact.utility import perfect_information, realised_utility
from amodal.schema import Task

TASK = Task("binary", classes=("well", "ill"))
NAMES = ("a", "b", "c")


def advice_of(gain, *, price=0.0, **options):
    gain = np.array(gain, dtype=float)
    observed = np.isnan(gain)
    return Advice(np.arange(len(gain)), NAMES, observed, gain, gain, "by hand", price=price, **options)


def test_a_second_test_of_a_group_is_cheaper():
    costs = Costs({"a": 10.0, "b": 8.0, "c": 1.0}, {"blood": {"a": 4.0, "b": 3.0}})
    observed = np.array([[False, False, False], [True, False, True], [False, True, True], [False, False, True]])
    np.testing.assert_array_equal(costs.of(NAMES, observed), [[10, 8, 1], [10, 3, 1], [4, 8, 1], [10, 8, 1]])
    read, notes = read_costs({"prices": {"a": 10.0, "b": 8.0}, "groups": {"g": {"b": 1.0}}}, NAMES)
    assert notes == ("No price is given for c: taken as free.",)
    assert read.groups == {"g": {"b": 1.0}}


def test_the_next_look_pays_or_is_nothing():
    advice = advice_of([[0.5, 0.3, np.nan], [0.1, 0.05, 0.2], [np.nan] * 3], price=np.tile([0.4, 0.1, 0.5], (3, 1)))
    names, net = advice.next()
    assert names.tolist() == ["b", "", ""]  # the gain of a is larger, what is left of it is not
    np.testing.assert_allclose(net, [0.2, 0.0, np.nan])
    assert advice.ranking()[0] == ("b", "a")
    assert advice.ranking("gain")[0] == ("a", "b")
    assert advice.ranking("ratio")[0] == ("b", "a")
    dear = advice_of([[0.5, 0.3, np.nan]], price=np.array([[4.0, 1.0, 0.0]]), worth=10.0)
    assert dear.next()[0] == ["b"]
    assert dear.next()[1] == pytest.approx(2.0)
    assert advice_of([[0.5, 0.3, np.nan]], price=np.array([[4.0, 1.0, 0.0]]), worth=100.0).next()[0] == ["a"]
    within = advice_of([[0.5, 0.3, np.nan]], price=np.array([[4.0, 1.0, 0.0]]), worth=100.0, budget=2.0)
    assert within.next()[0] == ["b"]
    assert within.affordable.tolist() == [[False, True, False]]
    assert advice_of([[0.5, 0.3, np.nan]], least_gain=0.6).next()[0] == [""]
    assert advice_of([[0.5, 0.3, np.nan]]).next()[0] == ["a"]  # free


def test_a_budget_for_all_cases_buys_the_most_for_the_money():
    gain = [[0.9, np.nan, np.nan], [0.5, np.nan, np.nan], [0.8, np.nan, np.nan], [0.01, np.nan, np.nan]]
    advice = advice_of(gain, price=np.tile([0.1, 0, 0], (4, 1)))
    bought = advice.allocate(0.2)
    assert bought["id"].tolist() == [0, 2]
    assert bought["spent"].tolist() == pytest.approx([0.1, 0.2])
    assert advice.allocate(100)["id"].tolist() == [0, 2, 1]  # the last does not pay
    assert len(advice.allocate(0.05)) == 0
    with pytest.raises(ConfigurationError, match="a budget is out of range .expected a number of 0 or more, got -1"):
        advice.allocate(-1)


@pytest.mark.parametrize(
    ("costs", "kind", "message"),
    [
        ({"a": -1.0}, ConfigurationError, "the price of 'a' cannot be used .expected a number of 0 or more, got -1.0"),
        ({"a": "dear"}, ConfigurationError, "the price of 'a' cannot be used"),
        ({"a": float("nan")}, ConfigurationError, "the price of 'a' cannot be used"),
        ({"x": 1.0}, UnknownNameError, "modality with a price 'x' .expected one of a, b, c"),
        ({"prices": {"a": 1.0}, "groups": {"g": {"a": 2.0}}}, ConfigurationError, "'a' is above its full price"),
        ({"prices": {"a": 1.0}, "discount": 2}, ConfigurationError, "expected prices and groups, got prices, discount"),
        ([1.0, 2.0], ConfigurationError, "costs cannot be used .expected .modality: price."),
    ],
)
def test_prices_that_cannot_be_used(costs, kind, message):
    with pytest.raises(kind, match=message):
        read_costs(costs, NAMES)


# Utilities -----------------------------------------------------------------------------------------------------------


def test_payoffs_in_every_form_and_net_benefit():
    p = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    by_hand = torch.tensor([0.0, 1.0, 2.6])  # treat pays 3 to the ill and costs the well 1
    forms = [
        {"treat": {"ill": 3, "well": -1}, "leave": {"ill": 0, "well": 0}},
        {"treat": [-1, 3], "leave": [0, 0]},
        np.array([[-1, 3], [0, 0]]),
        lambda p: (p @ torch.tensor([[-1.0, 0.0], [3.0, 0.0]])).amax(-1),
        lambda p: np.max(p @ np.array([[-1.0, 0.0], [3.0, 0.0]]), -1),
    ]
    for form in forms:
        torch.testing.assert_close(utility_function(form, TASK)(p), by_hand, check_dtype=False)
    benefit = utility_function("net_benefit:0.2", TASK)(p)
    torch.testing.assert_close(benefit, (p[:, 1] - p[:, 0] * 0.25).clamp(min=0))
    assert net_benefit(0.5) == {"treat": (-1.0, 1.0), "leave": (0.0, 0.0)}
    # what it turned out to be worth: treated above the threshold, and right or wrong
    np.testing.assert_allclose(realised_utility("net_benefit:0.2", p.numpy(), np.array([1, 0, 1]), TASK), [0, -0.25, 1])


def test_perfect_information():
    p = torch.tensor([[0.7, 0.3]], dtype=torch.float64)
    entropy = -(0.7 * np.log(0.7) + 0.3 * np.log(0.3))
    for name, expected in ((None, entropy), ("accuracy", 0.3), ([[-1.0, 3.0], [0.0, 0.0]], 0.3 * 3 - (0.3 * 3 - 0.7))):
        found = perfect_information(utility_function(name, TASK), p, name, TASK)
        assert found.item() == pytest.approx(expected)
    labels = Task("multilabel", classes=("x", "y"))
    found = perfect_information(utility_function(None, labels), torch.tensor([[0.5, 1.0]]), None, labels)
    assert found.item() == pytest.approx(np.log(2), abs=1e-6)


@pytest.mark.parametrize(
    ("utility", "kind", "message"),
    [
        ("profit", UnknownNameError, "utility of a binary task 'profit'"),
        ("net_benefit:often", ConfigurationError, "net benefit needs a threshold probability"),
        ("net_benefit:1.5", ConfigurationError, "a threshold probability is out of range .expected between 0 and 1"),
        ({"treat": [1, 2, 3]}, ShapeError, "one payoff in each of the classes well, ill"),
        ({"treat": {"ill": 1}}, ShapeError, "payoffs of some classes are missing"),
        ({"treat": {"ill": 1, "dead": 2}}, UnknownNameError, "class in the table of payoffs 'dead'"),
        ([["x", "y"]], ShapeError, "cannot be read"),
        ({}, ShapeError, "has no action"),
        ([[np.inf, 0]], ConfigurationError, "must be finite"),
    ],
)  # fmt: skip
def test_utilities_that_cannot_be_used(utility, kind, message):
    with pytest.raises(kind, match=message):
        utility_function(utility, TASK)


def test_functions_that_fail_are_told():
    with pytest.raises(ShapeError, match="one number for each prediction"):
        utility_function(lambda p: p, TASK)(torch.ones(2, 2) / 2)
    with pytest.raises(ConfigurationError, match=r"the utility fails on predictions of shape \(2, 2\)"):
        utility_function(lambda p: (_ for _ in ()).throw(KeyError("no such key")), TASK)(torch.ones(2, 2) / 2)
    with pytest.raises(ConfigurationError, match="needs classes .expected a binary or multiclass task, got regression"):
        utility_function([[1.0]], Task("regression"))
