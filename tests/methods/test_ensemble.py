"""Ensemble: selection by hand, weights by number present, and one model of all members."""

import json

import numpy as np
import pytest
import torch
from contracts import cases

import amodal
from amodal.batch import Batch
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.fusion.selection import select
from amodal.kinds import task_kind
from amodal.methods import method_options
from amodal.methods.ensemble import Ensemble, fresh_copy

BINARY = task_kind("binary")
SETTINGS = {"epochs": 3, "width": 8, "device": "cpu", "seed": 0}


def said(*probabilities):
    """Predictions (N, J, 2) of J members that say these probabilities of the second class."""
    p = torch.from_numpy(np.array(probabilities, dtype=np.float64)).T
    return torch.stack([1 - p, p], dim=-1)


def weights_of(predictions, target, present=None, ids=None, m=1, picks=20, bags=1, weight=None):
    n = len(target)
    present = torch.ones(n, dtype=torch.int64) if present is None else present
    seen = {f"m{i}": present > i for i in range(m)}
    ids = [str(i) for i in range(n)] if ids is None else ids
    batch = Batch({name: torch.zeros(n, 1) for name in seen}, seen, target=torch.as_tensor(target), ids=ids)
    rows = [(batch, torch.ones(n) if weight is None else weight)]
    return select(lambda _: predictions, rows, BINARY, picks=picks, bags=bags)


# Selection -----------------------------------------------------------------------------------------------------------


def test_the_picks_are_those_of_a_search_by_hand():
    rng = np.random.default_rng(0)
    p = torch.from_numpy(rng.random((40, 3)))
    predictions, target = torch.stack([1 - p, p], dim=-1), rng.integers(0, 2, 40)
    chosen = weights_of(predictions, target, ids=["one"] * 40, picks=5)[0]  # one case: its half is all of it
    bag: list[int] = []
    for _ in range(5):
        losses = [-np.log(predictions[:, [*bag, j]].mean(1).numpy()[np.arange(40), target]).mean() for j in range(3)]
        bag.append(int(np.argmin(losses)))
    np.testing.assert_allclose(chosen, np.bincount(bag, minlength=3) / 5)


def test_a_member_that_is_always_right_gets_all_the_weight():
    target = np.arange(60) % 2
    chosen = weights_of(said(np.where(target, 0.95, 0.05), np.full(60, 0.5)), target)
    np.testing.assert_allclose(chosen, [[1.0, 0.0]] * 2)


def test_weights_go_by_the_number_present_as_far_as_cases_carry_them():
    """The first member is right with one modality, the second with two."""
    n = 4000
    target, present = np.arange(n) % 2, torch.arange(n) // 2 % 2 + 1
    right = np.where(target, 0.9, 0.1)
    members = said(np.where(present == 1, right, 0.5), np.where(present == 2, right, 0.5))
    many = weights_of(members, target, present, m=2)
    assert many[1, 0] > 0.9 < many[2, 1]
    few = weights_of(members[:40], target[:40], present[:40], m=2)
    assert abs(few[1, 0] - few[2, 0]) < 0.2  # 20 cases of each against a weight of 200 of what is common
    np.testing.assert_allclose(many.sum(1), np.ones(3))
    np.testing.assert_array_equal(few[0], weights_of(members[:40], target[:40], present[:40], m=3)[3])  # of no row


def test_a_case_under_several_removals_counts_once():
    target = np.arange(200) % 2
    members = said(np.where(target, 0.8, 0.2), np.where(np.arange(200) < 60, np.where(target, 0.99, 0.01), 0.4))
    rows = torch.cat([torch.arange(200), torch.arange(60).repeat(5)])  # the second's cases come six times
    ids = [str(int(i)) for i in rows]
    weight = torch.where(rows < 60, 1 / 6, 1.0)
    once = weights_of(members, target)
    repeated = weights_of(members[rows], target[rows.numpy()], ids=ids, weight=weight)
    np.testing.assert_allclose(once, repeated)


# The method ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    cohort = amodal.load_cohort("digits")
    train = cohort.split("train")
    return train.take(np.arange(240)), cohort.split("valid").take(np.arange(120)), cohort.split("test")


OPTIONS = {"members": ["modality_dropout", {"name": "late_fusion", "hidden": 8}, {"name": "boosting", "steps": 8}]}


@pytest.fixture(scope="module")
def model(digits):
    train, valid, _ = digits
    return amodal.fit("ensemble", train, valid, options=OPTIONS, **SETTINGS)


def test_one_prediction_is_the_weighted_mean_of_the_members(model, digits):
    (batch,) = model.batches(digits[2].take(np.arange(30)))
    batch = batch.restrict({"top_left": torch.arange(30) % 2 == 0})
    method = model.method
    weights = method.weights[batch.presence.sum(1)]
    expected = sum(weights[:, [j]] * member.predict(batch) for j, member in enumerate(method.methods))
    torch.testing.assert_close(method.predict(batch), expected)
    assert weights.sum(1).tolist() == pytest.approx([1.0] * 30)
    assert method.methods[2].trees.is_fitted


def test_one_folder_that_names_its_members_and_executes_nothing(model, digits, tmp_path):
    folder = model.save(tmp_path / "run")
    again = amodal.load(folder)
    np.testing.assert_array_equal(again.predict(digits[2]), model.predict(digits[2]))
    stored = json.loads((folder / "experiment.json").read_text())["spec"]
    assert stored["options"] == OPTIONS
    assert stored["resolved"]["members"][1]["join"] == "regression"  # whatever later defaults say
    assert sorted(p.suffix for p in folder.iterdir()) == [".csv", ".json", ".npz", ".safetensors"]


def test_impact_takes_completions_from_training_cases(model, digits):
    train, _, test = digits
    lacking = test.take(np.arange(6)).with_observed(np.tile([True, True, False, True], (6, 1)))
    found = amodal.impact(model, lacking, train=train, draws=20)
    assert (found.variability >= 0).all()
    assert found.per_modality["bottom_left"].shape == (6,)


def test_networks_learn_as_they_would_alone():
    """Gradients of one do not depend on the others."""
    schema = cases.make_schema("binary", "tables")
    torch.manual_seed(0)
    method = Ensemble(schema, cases.make_encoders(schema), members=["fusion", "modality_dropout"]).eval()  # no dropout
    batch = cases.make_batch(schema, cases.mixed_presence(schema, 2))
    terms = method.objective(batch, torch.Generator().manual_seed(0))
    assert list(terms.terms) == ["0.task", "1.task"]
    gradients = torch.autograd.grad(terms.total, list(method.parameters()), allow_unused=True)
    alone = torch.autograd.grad(
        method.objective(batch, torch.Generator().manual_seed(0)).terms["0.task"],
        list(method.methods[0].parameters()),
    )
    for first, second in zip(gradients, alone):
        torch.testing.assert_close(first, second)
    assert len(list(method.clip_groups("main"))) == 2


def test_further_networks_begin_with_other_weights():
    schema = cases.make_schema()
    encoders = cases.make_encoders(schema)
    own, fresh = encoders.state_dict(), fresh_copy(encoders).state_dict()
    weights = [key for key, value in own.items() if value.ndim > 1]
    differing = [key for key in weights if not torch.equal(own[key], fresh[key])]
    assert len(differing) > 0.8 * len(weights)


def test_a_time_limit_ends_training(digits):
    train, valid, test = digits
    model = amodal.fit("ensemble", train, valid, options=OPTIONS, time_limit=1e-6, **SETTINGS)
    assert model.experiment["result"]["epochs"] == 1
    assert np.isfinite(model.predict(test)).all()


@pytest.mark.parametrize(
    ("members", "kind", "words"),
    [
        ([], ConfigurationError, "no members"),
        (["modality_drop"], UnknownNameError, "unknown member of an ensemble 'modality_drop'.*modality_dropout"),
        (["ensemble"], UnknownNameError, "unknown member of an ensemble 'ensemble'"),
        ([{"name": "fusion", "hiden": 3}], UnknownNameError, "hiden"),
    ],
)
def test_wrong_members_are_told(members, kind, words):
    with pytest.raises(kind, match=words):
        Ensemble(cases.make_schema(), **method_options("ensemble", {"members": members}))


def test_encoders_by_kind_replace_the_kinds_default_and_no_other():
    cohort = amodal.load_cohort("synthetic", n=60)
    rng = np.random.default_rng(0)
    values = {"table": rng.normal(size=(60, 3)), "curve": rng.normal(size=(60, 5, 2))}
    cohort = amodal.Cohort.from_arrays(values, task=cohort.schema.task, target=cohort.target)
    by_summary = {"name": "modality_dropout", "encoders": {"series": "summary"}}
    options = {"members": ["modality_dropout", by_summary, "boosting"]}
    kinds = {}
    for name in ("gru", "lstm"):
        model = amodal.fit("ensemble", cohort, options=options, encoders={"curve": name}, **SETTINGS | {"epochs": 1})
        kinds[name] = [type(member.encoders["curve"]).__name__ for member in model.method.networks.values()]
    assert kinds == {"gru": ["GRUEncoder", "SeriesSummary"], "lstm": ["LSTMEncoder", "LSTMEncoder"]}


def test_encoders_of_a_member_are_checked():
    with pytest.raises(UnknownNameError, match="kind of modality 'serie'"):
        method_options("ensemble", {"members": [{"name": "fusion", "encoders": {"serie": "summary"}}]})
