"""Numbers with a known bound never exceed it, for trained models and every source of completions; known truths."""

import numpy as np
import pytest

import amodal
from amodal.data.cohort import Cohort
from amodal.predictive_impact import advise
from amodal.schema import Task

BOTH = [("modality_dropout", "training_cases"), ("primo", "training_cases"), ("primo", "own"), ("cm2", "own")]


@pytest.fixture(scope="module")
def fitted():
    cohort = amodal.load_cohort("interaction", rule="alone", n=600, fractions={"train": 0.8, "test": 0.2})
    train, test = cohort.split("train"), cohort.split("test").take(np.arange(100))
    found = {name: amodal.fit(name, train, epochs=4, width=16, seed=0) for name in {name for name, _ in BOTH}}
    lacking = np.random.default_rng(1).random((100, 3)) < 0.6
    lacking[np.arange(100), np.random.default_rng(2).integers(0, 3, 100)] = False
    return found, test.with_observed(~lacking)


@pytest.mark.parametrize(("method", "completions"), BOTH)
def test_bounds(fitted, method, completions):
    models, cases = fitted
    model, draws = models[method], 16
    cases = cases if completions == "training_cases" else cases.take(np.arange(30))
    result = amodal.impact(model, cases, completions=completions, draws=draws)
    p = model.predict(cases)
    np.testing.assert_allclose(result.prediction, p, atol=1e-5)
    assert (result.variability <= 1 - (p**2).sum(1) + 1e-6).all()
    missing = ~cases.observed
    for m, name in enumerate(cases.schema.names):
        change = result.per_modality[name]
        assert (np.isnan(change) == ~missing[:, m]).all()
        assert (change[missing[:, m]] <= result.variability[missing[:, m]] + 1e-9).all()
    shares = np.nansum([result.shares[name] for name in cases.schema.names], axis=0)
    incomplete = missing.any(1)
    np.testing.assert_allclose(shares[incomplete], result.variability[incomplete], atol=1e-6)
    one = missing.sum(1) == 1
    for m, name in enumerate(cases.schema.names):
        rows = one & missing[:, m]
        np.testing.assert_array_equal(result.per_modality[name][rows], result.variability[rows])
        np.testing.assert_array_equal(result.if_last[name][rows], result.variability[rows])
    advice = advise(model, cases, completions=completions, draws=draws)
    entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(1)
    np.testing.assert_allclose(advice.evpi, entropy, atol=1e-4)
    gain = np.where(missing, advice.gain, 0.0)
    assert (gain <= entropy[:, None] + 1e-5).all()
    assert (gain >= -1e-6).all()
    if completions == "training_cases":
        assert np.nanmean(advice.gap) < 0.02
        np.testing.assert_allclose(
            np.where(one[:, None] & missing, advice.change, 0.0).sum(1)[one], result.variability[one], atol=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "next_", "last"),
    [("copy", (0.5, 0.5), (0.0, 0.0)), ("xor", (0, 0), (0.5, 0.5)), ("alone", (0.5, 0), (0.5, 0))],
)
def test_known_truth_with_only_noise_seen(rule, next_, last):
    """What looking at a and b first, and last, changes: a copy is redundant, xor is synergy."""
    cohort = amodal.load_cohort("interaction", rule=rule, n=2500)
    train, valid, test = (cohort.split(name) for name in ("train", "valid", "test"))
    model = amodal.fit("modality_dropout", train, valid, epochs=30, width=32, seed=0, batch_size=64)
    seen = test.with_observed(np.tile([True, False, False], (len(test), 1)))
    found = amodal.impact(model, seen)
    for name, first, late in zip("ab", next_, last):
        assert found.per_modality[name].mean() == pytest.approx(first, abs=0.05)
        assert found.if_last[name].mean() == pytest.approx(late, abs=0.08)
    assert found.variability.mean() == pytest.approx(0.5, abs=0.05)


def test_the_order_of_the_training_file_does_not_matter():
    """b was never seen with a; the file sorted by b once gave donors that all had b = 1, and no V."""
    draw = np.random.default_rng(0)
    a, b = (draw.random((2, 800)) < 0.5).astype(np.float32)
    has_a = np.arange(800) % 2 == 0
    observed = {"a": has_a, "b": ~has_a}
    task = Task("binary", classes=("no", "yes"))
    values = {"a": a[:, None], "b": b[:, None]}
    train = Cohort.from_arrays(values, task=task, target=((a + b) > 0).astype(int), observed=observed)
    model = amodal.fit("modality_dropout", train, epochs=3, width=16, seed=0)
    cases = Cohort.from_arrays({"a": np.float32([[0], [1]]), "b": np.full((2, 1), np.nan, np.float32)}, task=task,
                               ids=["x", "y"])  # fmt: skip
    by_b = amodal.impact(model, cases, train=train.take(np.argsort(b, kind="stable")))
    shuffled = amodal.impact(model, cases, train=train.take(draw.permutation(800)))
    np.testing.assert_allclose(by_b.variability, shuffled.variability, atol=1e-6)
    assert "No training case has 'b' together with 'a'" in repr(by_b)


def test_several_labels_and_values():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 600, 1)).astype(np.float32)
    without = np.tile([True, False], (50, 1))
    labels = Cohort.from_arrays({"a": a, "b": b}, task=Task("multilabel", classes=("of_a", "of_b")),
                                target=np.hstack([a > 0, b > 0]).astype(np.float32))  # fmt: skip
    model = amodal.fit("modality_dropout", labels, epochs=25, width=16, seed=0, batch_size=64)
    found = amodal.impact(model, labels.take(np.arange(50)).with_observed(without))
    assert found.by_label[:, 0].mean() < 0.1 < 0.35 < found.by_label[:, 1].mean()
    advice = model.advise(labels.take(np.arange(50)).with_observed(without))
    np.testing.assert_allclose(advice.by_label[:, 1], found.by_label, atol=1e-4)
    assert (advice.gain[:, 1] <= advice.evpi + 1e-5).all()
    np.testing.assert_allclose(advice.gain_by_label[:, 1].sum(1), advice.gain[:, 1], atol=1e-5)
    assert ((found.label_shares[:, 1] > 0.05) & (found.label_shares[:, 1] < 0.95)).mean() > 0.9  # open
    assert {"variability[of_a]", "share[of_b]"} <= set(found.table())
    value = Cohort.from_arrays({"a": a, "b": b}, task=Task("regression", units="days"), target=(10 * a + 20 * b)[:, 0])
    model = amodal.fit("modality_dropout", value, epochs=25, width=16, seed=0, batch_size=64)
    found = amodal.impact(model, value.take(np.arange(50)).with_observed(without))
    ideal = 20 * np.sqrt(2 / np.pi)  # the mean absolute deviation of 20 b
    assert found.variability.mean() == pytest.approx(ideal, rel=0.25)
    low, high = found.interval.T
    assert (high - low).mean() == pytest.approx(2 * 1.645 * 20, rel=0.3)
    assert "in the target's units" in repr(found)
