"""The registry: what applies to what, and a contract that every metric keeps."""

import subprocess
import sys

import numpy as np
import pytest

from amodal.errors import ConfigurationError, UnknownNameError
from amodal.kinds import TASK_KINDS
from amodal.metrics import METRICS, bootstrap, metrics_for, resample_counts

BINS = (-1.0, 0.0, 1.0)
CASES = [(kind, name) for kind in TASK_KINDS for name in metrics_for(kind, bins=BINS if kind == "regression" else ())]


def made(kind, noise, n=400):
    """Predictions that get worse with the noise, and a target."""
    rng = np.random.default_rng(0)
    if kind == "regression":
        target = rng.normal(size=n)
        return target + noise * rng.normal(size=n), target
    shape = (n, 3) if kind == "multilabel" else n
    target = rng.integers(0, 2 if kind != "multiclass" else 4, shape)
    if kind == "multilabel":
        return np.clip(0.02 + 0.96 * target + noise * rng.normal(size=(n, 3)), 0.01, 0.99), target
    logits = 4.0 * np.eye(4 if kind == "multiclass" else 2)[target] + 4 * noise * rng.normal(
        size=(n, 4 if kind == "multiclass" else 2)
    )
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True), target


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_metric_prefers_the_better_predictions(kind, name):
    metric = metrics_for(kind, bins=BINS if kind == "regression" else ())[name]
    good, target = made(kind, 0.3)
    bad, _ = made(kind, 2.0)
    better = metric(good, target) - metric(bad, target)
    assert better > 0 if metric.higher_is_better else better < 0
    for predictions in (good, bad):
        assert metric.bounds[0] <= metric(predictions, target) <= metric.bounds[1]
        assert metric.why_undefined(predictions, target) is None


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_metric_weighs_resamples(kind, name):
    metric = metrics_for(kind, bins=BINS if kind == "regression" else ())[name]
    predictions, target = made(kind, 1.0, 60)
    counts = resample_counts(60, 8, np.random.default_rng(1))
    values = metric(predictions, target, weight=counts)
    one_by_one = [metric(np.repeat(predictions, row, axis=0), np.repeat(target, row, axis=0)) for row in counts]
    np.testing.assert_allclose(values, one_by_one, rtol=1e-10)
    np.testing.assert_allclose(metric(predictions, target, weight=counts * 1e-6), one_by_one, rtol=1e-10)
    assert isinstance(metric(predictions, target), float)
    order = np.random.default_rng(2).permutation(60)
    assert metric(predictions[order], target[order]) == pytest.approx(metric(predictions, target), rel=1e-12)
    interval = bootstrap(metric, predictions, target, counts=counts)
    assert interval.low <= interval.high


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_metric_is_undefined_without_cases_and_says_so(kind, name):
    metric = metrics_for(kind, bins=BINS if kind == "regression" else ())[name]
    predictions, target = made(kind, 1.0, 10)
    assert np.isnan(metric(predictions[:0], target[:0]))
    reason = metric.why_undefined(predictions[:0], target[:0])
    assert reason == f"{metric.label} needs {metric.requires}, and the 0 cases have none."


def test_names_and_headlines():
    assert all(name == metric.name for name, metric in METRICS.items())
    for kind, names in ((name, traits.headlines) for name, traits in TASK_KINDS.items()):
        bins = BINS if kind == "regression" else ()
        assert tuple(metrics_for(kind, bins=bins))[: len(names)] == names
    assert {name for _, name in CASES} == set(METRICS)


def test_kappa_needs_bins():
    assert list(metrics_for("regression")) == ["mae", "rmse"]
    with pytest.raises(ConfigurationError, match=r"needs the bins of the task.*metrics_for\(kind, bins=task.bins\)"):
        METRICS["kappa"]([1.0], [1.0])
    kappa = metrics_for("regression", bins=(1.0,))["kappa"]
    assert kappa([0.0, 2.0], [0.5, 1.5]) == 1
    assert kappa.why_undefined([0.0, 0.1], [0.2, 0.3]) == (
        "Kappa (linear) needs targets or predictions in more than one bin, and the 2 cases have none."
    )


def test_an_unknown_kind_is_told():
    with pytest.raises(UnknownNameError, match=r"unknown kind of task 'binry'.*Did you mean 'binary'"):
        metrics_for("binry")


def test_importing_metrics_brings_neither_torch_nor_scikit_learn():
    code = "import sys, amodal.metrics; print([m for m in ('torch', 'sklearn', 'pandas', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
