"""Kinds of task: rules that agree with each other, and a new kind that is one object."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import amodal
from amodal.data import Cohort
from amodal.errors import ShapeError
from amodal.kinds import TASK_KINDS
from amodal.kinds.value import Regression
from amodal.metrics import METRICS, metrics_for
from amodal.missingness import MCAR
from amodal.schema import Task

CLASSES = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c"), "multilabel": ("x", "y"), "regression": ()}


def some_targets(kind: str, n: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if TASK_KINDS[kind].one_value:
        return torch.randn(n, generator=generator)
    if TASK_KINDS[kind].many_labels:
        target = torch.randint(0, 2, (n, 2), generator=generator).float()
        target[0, 1] = torch.nan
        return target
    return torch.arange(n) % len(CLASSES[kind])


@pytest.mark.parametrize("name", TASK_KINDS)
def test_outputs_and_predictions_are_inverse_and_score_alike(name):
    kind, target = TASK_KINDS[name], some_targets(name)
    outputs = torch.randn(len(target), len(CLASSES[name]) or 1, generator=torch.Generator().manual_seed(1))
    predictions = kind.predictions(outputs)
    torch.testing.assert_close(kind.predictions(kind.outputs(predictions)), predictions)
    torch.testing.assert_close(kind.prediction_loss(predictions, target), kind.loss(outputs, target))
    nats = kind.nats(outputs, target)
    torch.testing.assert_close(nats, kind.loss(outputs, target, "sum") * (0.5 if kind.one_value else 1.0))


@pytest.mark.parametrize("name", TASK_KINDS)
def test_constant_outputs_stand_for_the_frequencies(name):
    kind, target = TASK_KINDS[name], some_targets(name, 3000)
    n_outputs = len(CLASSES[name]) or 1
    columns = kind.features(target, n_outputs)[:, :n_outputs].double()
    known = ~target.isnan() if kind.many_labels else torch.ones_like(columns).bool()
    constant = kind.constant_outputs(columns.sum(0), known.sum(0).double())
    predicted = np.atleast_1d(kind.predictions(constant).numpy())
    np.testing.assert_allclose(predicted, kind.frequencies(target.numpy(), n_outputs), atol=1e-3)


@pytest.mark.parametrize("name", TASK_KINDS)
def test_a_target_goes_through_the_columns_of_a_table(name):
    kind, target = TASK_KINDS[name], some_targets(name).numpy()
    columns = kind.target_columns(target, CLASSES[name])
    np.testing.assert_array_equal(kind.read_columns(columns, CLASSES[name]), target)
    groups = kind.groups(target, CLASSES[name])
    assert sum(rows.sum() for rows in groups.values()) == (np.nansum(target) if kind.many_labels else len(target))


@pytest.mark.parametrize("name", TASK_KINDS)
def test_the_average_of_equal_outputs_has_their_prediction(name):
    kind = TASK_KINDS[name]
    outputs = torch.randn(5, 1, len(CLASSES[name]) or 1).expand(5, 3, -1)
    observed = torch.tensor([[True, True, False]] * 4 + [[False] * 3])
    average = kind.average(torch.where(observed[..., None], outputs, 0.0), observed)
    torch.testing.assert_close(kind.predictions(average)[:4], kind.predictions(outputs[:, 0])[:4])
    assert torch.isfinite(average).all()


def test_every_headline_is_a_metric_of_its_kind():
    for name, kind in TASK_KINDS.items():
        known = metrics_for(name, bins=(0.5,) if kind.one_value else ())
        assert tuple(known)[: len(kind.headlines)] == kind.headlines
        assert set(kind.second_metrics) <= set(known)
    assert all(
        any(getattr(kind, form) for kind in TASK_KINDS.values() for form in metric.forms) for metric in METRICS.values()
    )


def test_targets_of_another_shape_are_refused_by_the_kind_s_name():
    with pytest.raises(ShapeError, match="do not fit a multilabel task"):
        TASK_KINDS["multilabel"].check(torch.zeros(3, 2), torch.zeros(3))


# A new kind ----------------------------------------------------------------------------------------------------------


class Counts(Regression):
    """Counts: outputs are logarithms of Poisson means."""

    name = "counts"
    scales_target = False
    headlines = ("rmse", "mae")
    second_metrics = ()
    gain_words = "log-likelihood (nats)"

    def unusable(self, target):
        return ~(target >= 0)

    def constant_outputs(self, total, count):
        return ((total + 0.5) / count.clamp(min=1)).log()

    def predictions(self, outputs):
        return outputs.squeeze(-1).exp()

    def outputs(self, predictions):
        return predictions.log()[..., None]

    def loss(self, outputs, target, over_labels="mean"):
        return functional.poisson_nll_loss(outputs.view(-1), target, full=True, reduction="none")

    def nats(self, outputs, target):
        return self.loss(outputs, target)

    def prediction_loss(self, prediction, target, over_labels="mean"):
        return functional.poisson_nll_loss(prediction, target, log_input=False, full=True, reduction="none")


@pytest.fixture
def counts(monkeypatch):
    """Counts of mean exp(1 + x / 2), x in a table that is absent in some rows."""
    monkeypatch.setitem(TASK_KINDS, "counts", Counts())
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    return Cohort.from_arrays(
        {"a": x[:, None], "b": rng.normal(size=(400, 2))},
        task=Task("counts", name="visits", units="visits"),
        target=rng.poisson(np.exp(1 + x / 2)),
        splits=np.repeat(["train", "valid", "test"], [240, 80, 80]),
    )


@pytest.mark.parametrize("method", ["fusion", "late_fusion", "i2m2", "unimodal", "per_pattern", "mvae", "primo"])
def test_a_new_kind_is_one_object(counts, method):
    train, valid, test = (counts.split(name) for name in ("train", "valid", "test"))
    model = amodal.fit(method, train, valid, missingness=MCAR(0.3), epochs=1, seed=0, width=8)
    predicted = model.predict(test)
    assert predicted.shape == (80,)
    assert (predicted > 0).all()


def test_a_new_kind_is_learnt_evaluated_saved_and_drawn(counts, tmp_path):
    train, valid, test = (counts.split(name) for name in ("train", "valid", "test"))
    model = amodal.fit("fusion", train, valid, epochs=40, learning_rate=0.01, seed=0, width=16)
    table = amodal.evaluate(model, test, seed=0, resamples=20).table()
    overall = table[table["pattern"] == "all"] if "pattern" in table else table
    assert {"rmse", "mae"} <= set(table.columns) | set(overall.columns)
    predicted, truth = model.predict(test), np.exp(1 + test.batch(np.arange(80)).values["a"][:, 0].numpy() / 2)
    assert np.corrcoef(predicted, truth)[0, 1] > 0.9  # the true mean, which no target shows
    model.save(tmp_path / "run")
    assert np.array_equal(amodal.load(tmp_path / "run").predict(test), predicted)
    result = amodal.impact(model, test.take(np.arange(5)), draws=4, seed=0, train=train)
    assert np.isfinite(result.variability).all()
    assert "predicted" in result.table()
