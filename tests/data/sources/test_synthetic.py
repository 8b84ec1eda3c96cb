"""The known distribution: its optimal predictions against scipy, closed forms and Monte Carlo."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from amodal.data import load_cohort
from amodal.data.sources.synthetic import GaussianModalities
from amodal.errors import ConfigurationError, ShapeError

PATTERNS = np.array([[bool(code >> m & 1) for m in range(3)] for code in range(8)])


def world_of(task, seed=0, **options):
    return GaussianModalities.random(
        {"a": 2, "b": 3, "c": 1}, task=task, generator=np.random.default_rng(seed), **options
    )


def kept(pattern):
    return np.repeat(pattern, [2, 3, 1])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_classes_by_bayes_rule_with_scipys_densities(pattern):
    world = replace(world_of("multiclass", n_classes=4, correlation=0.7), priors=np.array([0.1, 0.2, 0.3, 0.4]))
    features, _ = world.sample(50, np.random.default_rng(1))
    got = world.bayes_predictions(features, np.repeat(pattern[None], 50, axis=0))
    columns = kept(pattern)
    joint = np.tile(world.priors, (50, 1))
    if columns.any():
        covariance = world.covariance[np.ix_(columns, columns)]
        for c in range(4):
            joint[:, c] *= multivariate_normal(world.means[c, columns], covariance).pdf(features[:, columns])
    np.testing.assert_allclose(got, joint / joint.sum(1, keepdims=True), rtol=1e-9)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_values_by_the_joint_gaussian_of_features_and_target(pattern):
    world = world_of("regression", correlation=0.6)
    features, _ = world.sample(20, np.random.default_rng(1))
    got = world.bayes_predictions(features, np.repeat(pattern[None], 20, axis=0))
    columns = kept(pattern)
    # E[y | x_o] by regressing y on x_o with the population's moments.
    beta = np.linalg.lstsq(world.covariance[np.ix_(columns, columns)], (world.covariance @ world.weights)[columns])[0]
    np.testing.assert_allclose(got, features[:, columns] @ beta, atol=1e-9)


def test_accuracy_of_two_classes_is_phi_of_half_the_distance():
    world = world_of("binary", correlation=0.5, separation=1.5)
    features, classes = world.sample(40_000, np.random.default_rng(2))
    for pattern in PATTERNS[1:]:
        columns = kept(pattern)
        away = (world.means[1] - world.means[0])[columns]
        distance = np.sqrt(away @ np.linalg.solve(world.covariance[np.ix_(columns, columns)], away))
        chosen = world.bayes_predictions(features, np.repeat(pattern[None], 40_000, axis=0)).argmax(1)
        assert (chosen == classes).mean() == pytest.approx(norm.cdf(distance / 2), abs=0.008)


def test_optimal_probabilities_are_calibrated_and_beat_any_other():
    world = world_of("multiclass")
    cohort = world.cohort(20_000, generator=np.random.default_rng(3))
    presence = np.random.default_rng(4).random((20_000, 3)) < 0.5
    view = cohort.with_observed(presence)
    probabilities = world.bayes_predictions(view)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    hits = np.eye(3)[cohort.target]
    for c in range(3):
        for low in np.arange(0, 1, 0.2):
            bin_ = (probabilities[:, c] >= low) & (probabilities[:, c] < low + 0.2)
            error = 4 * np.sqrt(0.25 / max(bin_.sum(), 1))
            assert hits[bin_, c].mean() == pytest.approx(probabilities[bin_, c].mean(), abs=error)

    def loss(p):
        return -np.log(p[np.arange(20_000), cohort.target]).mean()

    for power in (0.8, 1.2):
        other = probabilities**power
        assert loss(probabilities) < loss(other / other.sum(1, keepdims=True))


def test_a_cohort_an_array_and_a_mapping_are_the_same_thing():
    world = world_of("multiclass")
    cohort = world.cohort(30, generator=np.random.default_rng(0))
    presence = np.random.default_rng(1).random((30, 3)) < 0.5
    batch = cohort.batch(np.arange(30))
    arrays = {name: batch.values[name].numpy() for name in world.dims}
    stacked = np.concatenate(list(arrays.values()), axis=1)
    expected = world.bayes_predictions(cohort.with_observed(presence))
    np.testing.assert_allclose(world.bayes_predictions(arrays, presence), expected)
    stacked[~np.repeat(presence, [2, 3, 1], axis=1)] = np.nan
    np.testing.assert_allclose(world.bayes_predictions(stacked), expected)


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_completions_have_the_true_conditional_distribution(task):
    world = world_of(task, correlation=0.6, separation=1.0)
    features, _ = world.sample(3, np.random.default_rng(1))
    presence = np.array([[True, False, True], [False, True, False], [False, False, False]])
    draws = world.completions(features, presence, draws=20_000, generator=np.random.default_rng(2))
    assert draws.shape == (20_000, 3, 6)
    known = np.repeat(presence, [2, 3, 1], axis=1)
    for row in range(3):
        assert (draws[:, row, known[row]] == features[row, known[row]]).all()
    # The optimal prediction of the whole, averaged over completions, is the optimal prediction from what is present.
    whole = world.bayes_predictions(draws.reshape(-1, 6)).reshape(20_000, 3, -1).mean(0)
    np.testing.assert_allclose(whole, world.bayes_predictions(features, presence).reshape(3, -1), atol=0.02)
    # With nothing present they are draws of the whole distribution.
    centre = world.priors @ world.means
    spread = world.covariance + (world.means - centre).T @ np.diag(world.priors) @ (world.means - centre)
    np.testing.assert_allclose(draws[:, 2].mean(0), centre, atol=0.04)
    np.testing.assert_allclose(np.cov(draws[:, 2].T), spread, atol=0.08)


def test_correlation_ties_modalities_together():
    for correlation in (0.0, 0.8):
        covariance = world_of("multiclass", correlation=correlation).covariance
        np.testing.assert_allclose(np.diag(covariance), 1)
        assert (np.abs(covariance[:2, 2:5]).max() > 0.3) == (correlation > 0)


def test_the_registered_cohort():
    cohort = load_cohort("synthetic", n=200, task="binary", dims=(2, 3), seed=5)
    assert (len(cohort), cohort.schema.names, cohort.schema.task.kind) == (200, ("a", "b"), "binary")
    again = load_cohort("synthetic", n=200, task="binary", dims=(2, 3), seed=5)
    np.testing.assert_array_equal(cohort.target, again.target)
    assert len(cohort.split("test")) == 60


@pytest.mark.parametrize(
    ("options", "words"),
    [({"correlation": 1.0}, "0 <= correlation < 1"), ({"task": "ordinal"}, "no such synthetic task")],
)
def test_parameters_out_of_range(options, words):
    with pytest.raises(ConfigurationError, match=words):
        GaussianModalities.random((2, 2), generator=np.random.default_rng(0), **options)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"means": np.zeros((2, 2))}, ShapeError, r"means of Gaussian modalities .*expected \(2, 3\)"),
        ({"weights": np.zeros(2)}, ShapeError, "weights of Gaussian modalities"),
        ({"covariance": np.ones((3, 3))}, ConfigurationError, "positive definite"),
        ({"priors": np.array([0.5, 0.6])}, ConfigurationError, "priors must sum to 1"),
    ],
)
def test_parameters_that_disagree(changes, kind, words):
    parts = {"dims": {"a": 2, "b": 1}, "means": np.zeros((2, 3)), "covariance": np.eye(3), "priors": np.full(2, 0.5)}
    with pytest.raises(kind, match=words):
        GaussianModalities(**(parts | changes))


def test_values_of_another_shape():
    world = world_of("multiclass")
    with pytest.raises(ShapeError, match=r"values have another shape .expected \(N, 6\)"):
        world.bayes_predictions(np.zeros((4, 5)))
    with pytest.raises(ShapeError, match="observed must be bool"):
        world.bayes_predictions(np.zeros((4, 6)), np.ones((4, 2), bool))
