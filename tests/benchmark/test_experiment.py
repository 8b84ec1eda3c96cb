"""Experiments are plain values: they go to JSON and back, and their keys tell them apart."""

import json
from dataclasses import replace

import numpy as np
import pytest

from amodal.benchmark import Experiment
from amodal.benchmark.experiment import describe_mechanism
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.missingness import MAR, MCAR, MNAR, BalancedCounts, FixedCount, Natural, Pattern


@pytest.mark.parametrize(
    ("mechanism", "words"),
    [
        (Natural(), "complete"),
        (MCAR(0.25), "MCAR(0.25)"),
        (MCAR({"a": 0.5, "b": 0.0}), "MCAR(a 0.5, b 0)"),
        (MCAR(0.5, before_repair=True), "MCAR(0.5, before repair True)"),
        (MAR(0.3), "MAR(0.3)"),
        (MNAR(0.3, strength=-1.0), "MNAR(0.3, strength -1)"),
        (FixedCount(2), "FixedCount(2)"),
        (BalancedCounts(), "BalancedCounts"),
        (BalancedCounts(least=1), "BalancedCounts(least 1)"),
        (Pattern(("b", "a")), "Pattern(a+b)"),
    ],
)
def test_every_mechanism_goes_to_json_and_back_and_is_told_in_a_word(mechanism, words):
    experiment = Experiment("fusion", train_missingness=mechanism, removal=mechanism, test_missingness=mechanism)
    record = json.loads(json.dumps(experiment.to_json()))
    assert Experiment.from_json(record) == experiment
    assert describe_mechanism(mechanism) == words


@pytest.mark.parametrize(
    "change",
    [
        {"method": "boosting"},
        {"name": "other"},
        {"cohort": "synthetic"},
        {"options": {"dropout": 0.2}},
        {"encoders": {"a": "mlp"}},
        {"width": 32},
        {"train_missingness": MCAR(0.5)},
        {"removal": None},
        {"removal": MCAR(0.5)},
        {"test_missingness": MCAR(0.5)},
        {"rates": (0.1,)},
        {"patterns": "met"},
        {"seed": 1},
        {"settings": {"epochs": 3}},
        {"cohort_options": {"seed": 2}},
        {"splits": ("train", "valid", "valid")},
        {"resamples": 50},
        {"rows": "complete"},
        {"fold": (0, 3)},
        {"rates": ({"a": 0.1},)},
    ],
)
def test_every_field_changes_the_record(change):
    experiment = Experiment("fusion")
    changed = replace(experiment, **change)
    assert changed.to_json() != experiment.to_json()
    assert Experiment.from_json(changed.to_json()) == changed


def test_numpy_numbers_are_plain_values():
    given = Experiment("fusion", options={"dropout": np.float64(0.5), "hidden": np.int64(8)}, rates=np.array([0.1]))
    assert given.to_json() == Experiment("fusion", options={"dropout": 0.5, "hidden": 8}, rates=(0.1,)).to_json()


def test_what_makes_runs_comparable_is_the_setting():
    one = Experiment("fusion", test_missingness=MCAR(0.5), seed=3)
    assert one.setting == Experiment("boosting", test_missingness=MCAR(0.5), removal=None).setting
    assert one.setting != Experiment("fusion", test_missingness=MCAR(0.4)).setting
    assert one.setting != replace(one, cohort_options={"seed": 1}).setting
    assert replace(one, fold=(1, 5)).setting == "digits, fold 2 of 5, training data complete, test data MCAR(0.5)"
    assert replace(one, rows="complete").setting == one.setting


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"test_missingness": None}, ConfigurationError, "test_missingness is not a mechanism"),
        ({"removal": "never"}, UnknownNameError, "unknown removal 'never'"),
        ({"patterns": "some"}, UnknownNameError, "value of patterns 'some'"),
        ({"rates": (0.1, 1.0)}, ConfigurationError, "a rate is out of range"),
        ({"resamples": 1}, ConfigurationError, "resamples is out of range"),
        ({"splits": ("train", "test")}, ConfigurationError, "splits must name three"),
        ({"rates": ({"a": 1.0},)}, ConfigurationError, "a rate is out of range"),
        ({"rows": "some"}, UnknownNameError, "value of rows 'some'"),
        ({"fold": (3, 3)}, ConfigurationError, "fold is out of range"),
    ],
)
def test_bad_values_are_told(given, error, words):
    with pytest.raises(error, match=words):
        Experiment("fusion", **given)


def test_options_that_are_not_json_are_told():
    with pytest.raises(ConfigurationError, match=r"plain JSON.*is a object"):
        Experiment("fusion", options={"net": object()}).to_json()


def test_unknown_keys_are_told_with_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'method'"):
        Experiment.from_json({"metod": "fusion"})
