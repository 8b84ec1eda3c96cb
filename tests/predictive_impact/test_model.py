"""`amodal.impact` against closed forms of a method whose draws are coins, and what it says when it cannot work."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import amodal
from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.data.scale import Scaling
from amodal.errors import ConfigurationError, DataError, SchemaError, UnknownNameError
from amodal.method import Method, SamplingMethod
from amodal.predictive_impact import DonorCompletions, Impact, advise, own, variability
from amodal.predictive_impact.model import impact
from amodal.schema import Task

P = {"a": 0.3, "b": 0.9}
TASKS = {
    "binary": Task("binary", classes=("even", "odd")),
    "multilabel": Task("multilabel", classes=("odd", "even", "always")),
    "regression": Task("regression"),
}


class Coins(SamplingMethod):
    """Whether a > 0 and b > 0 differ; a missing one is positive with a known probability."""

    accepts_empty = True

    def __init__(self, schema):
        super().__init__(schema)
        self.place = torch.nn.Parameter(torch.zeros(()))

    def objective(self, batch, generator):
        raise NotImplementedError

    def draw_outputs(self, batch, draws, generator, *, vary=None):
        odd = torch.zeros(draws, len(batch), dtype=torch.bool)
        for name, p in P.items():
            coin = torch.rand(draws, 1, generator=generator) < p
            if vary is not None and name not in vary:
                coin = coin[:1].expand(draws, 1)
            odd ^= torch.where(batch.observed[name], batch.values[name][:, 0] > 0, coin)
        if self.schema.task.kind == "regression":
            return odd.float()[..., None]
        sure = torch.where(odd, 40.0, -40.0)
        if self.schema.task.kind == "multilabel":
            return torch.stack([sure, -sure, torch.full_like(sure, 40.0)], dim=-1)
        return torch.stack([torch.zeros_like(sure), sure], dim=-1)


class Sum(Method):
    """A method that cannot draw: the log odds of odd are b, or 0 without."""

    def __init__(self, schema):
        super().__init__(schema)
        self.place = torch.nn.Parameter(torch.zeros(()))

    def objective(self, batch, generator):
        raise NotImplementedError

    def predict(self, batch):
        odd = torch.sigmoid(batch.values["b"][:, 0])
        return torch.stack([1 - odd, odd], dim=1)


def cohort_of(observed, *, kind="binary", seed=0, a=None):
    observed = np.array(observed, dtype=bool)
    draw = np.random.default_rng(seed)
    values = {name: draw.normal(size=(len(observed), 1)).astype(np.float32) for name in P}
    if a is not None:
        values["a"] = np.array(a, dtype=np.float32)[:, None]
    target = {"regression": draw.normal(size=len(observed)), "multilabel": np.zeros((len(observed), 3))}
    return Cohort.from_arrays(
        values, task=TASKS[kind], target=target.get(kind, np.arange(len(observed)) % 2), observed=observed
    )


def model_of(method, cohort, *, target_scale=1.0):
    one = {name: torch.ones(1) for name in P}
    zero = {name: torch.zeros(1) for name in P}
    scaling = Scaling(zero, one, 5.0 if target_scale != 1 else 0.0, target_scale)
    return TrainedModel(method(cohort.schema), cohort.schema, scaling, np.array([0.5, 0.5]), {}, pd.DataFrame())


PATTERNS = [[False, True], [True, False], [False, False], [True, True]]


def exact():
    """V of the four patterns, and what looking at a first changes with both missing, and at a last."""
    a, b = P["a"], P["b"]
    odd = a * (1 - b) + b * (1 - a)
    total = [2 * a * (1 - a), 2 * b * (1 - b), 2 * odd * (1 - odd), 0.0]
    first = a * abs(1 - b - odd) + (1 - a) * abs(b - odd)
    return np.array(total), first, 2 * a * (1 - a)


def test_variability_in_total_and_by_modality_is_that_of_the_coins(monkeypatch):
    monkeypatch.setattr(own, "_OUTER", 500)
    monkeypatch.setattr(own, "_INNER", 200)
    cohort = cohort_of(PATTERNS)
    result = impact(model_of(Coins, cohort), cohort, draws=4000)
    total, first, last = exact()
    np.testing.assert_allclose(result.variability, total, atol=0.02)
    np.testing.assert_allclose(result.per_modality["a"], [total[0], np.nan, first, np.nan], atol=0.03)
    low = 19 / 20  # a certain draw is compared with a mean of 20 that holds it
    np.testing.assert_allclose(result.if_last["a"], [total[0], np.nan, low * last, np.nan], atol=0.03)
    assert result.interaction["a"][2] > 0.02  # the two matter together
    for only, name in ((0, "a"), (1, "b")):  # one missing: every definition is V
        for of in (result.per_modality, result.if_last, result.shares):
            assert of[name][only] == result.variability[only]
    assert result.shares["a"][2] + result.shares["b"][2] == pytest.approx(result.variability[2])
    assert result.complete.tolist() == [False, False, False, True]
    assert (result.standard_error[:3] > 0).all()
    assert (result.standard_error[:3] < 0.02).all()
    assert result.standard_error[3] == 0
    np.testing.assert_allclose(result.normalised, [1, 1, 1, 0], atol=0.15)  # certain draws: as large as can be


def test_errors_are_the_spread_over_seeds():
    cohort = cohort_of([[False, True]])
    results = [impact(model_of(Coins, cohort), cohort, draws=100, seed=seed, plausible=False) for seed in range(200)]
    value, error = [r.variability[0] for r in results], [r.standard_error[0] for r in results]
    assert 0.8 < np.sqrt(np.mean(np.square(error))) / np.std(value) < 1.25


def test_regression_is_in_the_targets_units():
    cohort = cohort_of(PATTERNS, kind="regression")
    result = impact(model_of(Coins, cohort, target_scale=10.0), cohort, draws=4000)
    total, _, _ = exact()
    np.testing.assert_allclose(result.variability, 10 * total, atol=0.2)
    assert result.per_modality["a"][0] == result.variability[0]
    assert result.interval[0].tolist() == [5.0, 15.0]  # the middle nine tenths reach both values
    chance = P["a"] if cohort.batch(np.array([0])).values["b"][0, 0] <= 0 else 1 - P["a"]
    np.testing.assert_allclose(result.prediction[0], 5 + 10 * chance, atol=1.5)
    assert result.plausible_labels is None
    assert np.isnan(result.normalised).all()
    assert "in the target's units" in repr(result)
    assert "normalised" not in result.table()


def test_multilabel_is_the_mean_over_labels():
    cohort = cohort_of(PATTERNS, kind="multilabel")
    result = impact(model_of(Coins, cohort), cohort, draws=4000)
    total, _, _ = exact()
    np.testing.assert_allclose(result.variability, total * 2 / 3, atol=0.02)
    np.testing.assert_allclose(result.by_label, np.stack([total, total, 0 * total], axis=1), atol=0.02)
    assert "variability[always]" in result.table()
    assert "mean over labels" in repr(result)


def test_a_case_does_not_depend_on_the_others_nor_on_the_batch():
    cohort = cohort_of(PATTERNS * 3)
    model = model_of(Coins, cohort)
    whole = impact(model, cohort, draws=50)
    part = impact(model, cohort.take(np.array([5, 2])), draws=50)
    np.testing.assert_allclose(part.variability, whole.variability[[5, 2]], rtol=1e-5)
    np.testing.assert_allclose(part.per_modality["b"], whole.per_modality["b"][[5, 2]], rtol=1e-5)
    assert part.plausible_labels.labels == [whole.plausible_labels.labels[i] for i in (5, 2)]
    again = impact(model, cohort, draws=50)
    np.testing.assert_array_equal(again.variability, whole.variability)
    assert (impact(model, cohort, draws=50, seed=1).variability != whole.variability).any()


def test_which_modalities_get_a_value_of_their_own():
    cohort = cohort_of(PATTERNS)
    model = model_of(Coins, cohort)
    every = impact(model, cohort, draws=40)
    assert np.isnan(every.per_modality["a"]).tolist() == [
        False,
        True,
        False,
        True,
    ]  # what is present cannot be looked at
    one = impact(model, cohort, draws=40, vary=["a"])
    np.testing.assert_array_equal(one.per_modality["a"], every.per_modality["a"])
    assert np.isnan(one.per_modality["b"]).all()
    assert np.isnan(impact(model, cohort, draws=40, vary=[]).if_last["a"]).all()


def test_plausible_labels_and_the_table():
    cohort = cohort_of([[False, False], [True, True]], a=[0.0, 1.0])
    result = impact(model_of(Coins, cohort), cohort, draws=500)
    assert result.plausible_labels.labels[0] == (1, 0)
    np.testing.assert_allclose(result.plausible_labels.mass[0], result.prediction[0], atol=0.15)
    mixture = impact(model_of(Coins, cohort), cohort, draws=500, plausible="paper").plausible_labels
    np.testing.assert_allclose(mixture.mass, result.plausible_labels.mass, atol=1e-6)  # coins are clusters
    table = result.table()
    assert table["observed"].tolist() == ["", "a+b"]
    assert table["complete"].tolist() == [False, True]
    assert table.loc[0, "plausible"] == "odd|even"
    assert table.loc[0, "predicted"] == "odd"
    assert abs(float(table.loc[0, "share"].split("|")[0]) - result.plausible_labels.mass[0, 1]) < 1e-3
    assert {"change[a]", "standard_error[b]", "if_last[a]", "share[b]", "normalised", "gap"} <= set(table)
    assert isinstance(result, Impact)
    assert len(result) == 2
    assert "something missing: mean" in repr(result)
    assert impact(model_of(Coins, cohort), cohort, draws=5, plausible=False).plausible_labels is None


# What cannot be said -------------------------------------------------------------------------------------------------


def test_nothing_missing_is_said():
    cohort = cohort_of([[True, True]] * 3)
    result = impact(model_of(Coins, cohort), cohort, draws=10)
    assert "V_complete only" in repr(result)
    assert np.isnan(result.per_modality["a"]).all()


def test_one_draw_is_said():
    cohort = cohort_of(PATTERNS)
    result = impact(model_of(Coins, cohort), cohort, draws=1)
    assert "single draw" in repr(result)
    assert np.isnan(result.standard_error).all()


def test_bad_questions():
    cohort = cohort_of(PATTERNS)
    model = model_of(Coins, cohort)
    with pytest.raises(ConfigurationError, match=r"number of draws is out of range.*1 or more, got 0"):
        impact(model, cohort, draws=0)
    with pytest.raises(ConfigurationError, match=r"number of draws is out of range.*1 or more, got 2\.5"):
        impact(model, cohort, draws=2.5)
    with pytest.raises(DataError, match="no cases"):
        impact(model, cohort.take(np.zeros(0, int)))
    with pytest.raises(UnknownNameError, match="'c'"):
        impact(model, cohort, vary=["c"])
    with pytest.raises(UnknownNameError, match="'most'"):
        impact(model, cohort, vary="most")
    with pytest.raises(DataError, match="1 cases have nothing observed: 2"):
        impact(model_of(Sum, cohort), cohort, train=cohort_of([[True, True]] * 9))


@pytest.mark.parametrize("function", [impact, advise])
def test_other_things_than_models_and_cohorts(function):
    cohort = cohort_of(PATTERNS)
    with pytest.raises(
        ConfigurationError, match=r"the model cannot be used .expected a TrainedModel, got str.*amodal\.fit"
    ):
        function("fusion", cohort)
    with pytest.raises(
        ConfigurationError, match=r"the cases cannot be used .expected a Cohort, got ndarray.*load_cohort"
    ):
        function(model_of(Coins, cohort), np.zeros((3, 2)))
    with pytest.raises(ConfigurationError, match="the training cases cannot be used .expected a Cohort, got list"):
        function(model_of(Sum, cohort), cohort, train=[1, 2])
    with pytest.raises(SchemaError, match="none of the model's modalities .expected a, b, got x, y"):
        function(model_of(Coins, cohort), _renamed(cohort, {"a": "x", "b": "y"}))
    with pytest.raises(ConfigurationError, match="number of draws is out of range .expected 1 or more, got None"):
        function(model_of(Coins, cohort), cohort, draws=None)


def test_modalities_that_only_one_side_has_are_said():
    cohort = cohort_of([[True, True]] * 3)
    result = impact(model_of(Coins, cohort), _renamed(cohort, {"b": "beta"}), draws=1)
    assert "The model does not know 'beta': not used." in repr(result)
    assert "The data have no 'b': missing in every case." in repr(result)
    assert "3 cases, 1 completion each" in repr(result)
    assert not result.observed[:, 1].any()


def _renamed(cohort, names):
    values = cohort.batch(np.arange(len(cohort))).values
    return Cohort.from_arrays({names.get(name, name): value.numpy() for name, value in values.items()},
                              task=cohort.schema.task, target=cohort.target)  # fmt: skip


def test_a_method_that_cannot_draw_needs_training_cases_and_says_where_from():
    cohort = cohort_of([[True, False], [True, True]])
    model = model_of(Sum, cohort)
    with pytest.raises(ConfigurationError, match=r"Sum cannot draw completions.*no training cases.*Pass train="):
        impact(model, cohort)
    train = cohort_of([[True, True]] * 30, seed=3)
    result = impact(model, cohort, draws=3000, train=train, neighbours=30)
    odd = 1 / (1 + np.exp(-train.batch(np.arange(30)).values["b"].numpy()[:, 0]))  # all are neighbours
    # weighted so that their mean is the present prediction, one half
    np.testing.assert_allclose(result.prediction[0, 1], 0.5)
    assert result.gap[0] < 0.01
    np.testing.assert_allclose(result.variability[0], np.abs(odd - odd.mean()).mean(), atol=0.03)
    assert result.variability[1] == 0
    assert "30 most similar of 30 training cases" in result.how
    assert "leave nothing open in complete cases" in repr(result)
    with pytest.raises(ConfigurationError, match="number of neighbours"):
        impact(model, cohort, train=train, neighbours=0)


# The face ------------------------------------------------------------------------------------------------------------


def test_the_function_and_the_package():
    cohort = cohort_of(PATTERNS)
    model = model_of(Coins, cohort)
    assert amodal.predictive_impact.variability is variability
    assert amodal.predictive_impact.DonorCompletions is DonorCompletions
    assert {name for name in amodal.predictive_impact.__all__ if not hasattr(amodal.predictive_impact, name)} == set()
    assert amodal.predictive_impact.advise.__module__ == "amodal.predictive_impact.advising"
    expected = impact(model, cohort, draws=30).variability
    np.testing.assert_array_equal(amodal.impact(model, cohort, draws=30).variability, expected)
    np.testing.assert_array_equal(model.impact(cohort, draws=30).variability, expected)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = amodal.predictive_impact.nothing


def test_functions_of_arrays_load_no_model():
    code = (
        "import sys, json\nfrom amodal.predictive_impact import variability, plausible_labels\n"
        "print(json.dumps('amodal.checkpoint' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
