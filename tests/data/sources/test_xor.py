"""The XOR cohort against the published optimum, sampling, and numerical integration."""

import numpy as np
import pytest
from scipy import stats

from amodal.data.sources.xor import XorClusters, xor_cohort
from amodal.errors import ConfigurationError, ShapeError, UnknownNameError


def accuracy(predicted, target):
    return (predicted.argmax(1) == target).mean()


@pytest.mark.parametrize(("labels", "missing", "complete"), [("drawn", 0.6591, 1.0), ("centre", 0.6667, 0.9702)])
def test_optimal_accuracies_are_the_known_ones(labels, missing, complete):
    world = XorClusters(labels=labels)
    x, y = world.sample(300_000, np.random.default_rng(0))
    assert accuracy(world.bayes_predictions(x[:, 0]), y) == pytest.approx(missing, abs=0.003)
    assert accuracy(world.bayes_predictions(x[:, 0], x[:, 1]), y) == pytest.approx(complete, abs=0.001)


@pytest.mark.parametrize("labels", ["drawn", "centre"])
def test_the_posterior_is_calibrated_under_every_pattern(labels):
    world = XorClusters(labels=labels)
    x, y = world.sample(200_000, np.random.default_rng(1))
    nan = np.full(len(x), np.nan)
    for known in ((x[:, 0], nan), (nan, x[:, 1]), (x[:, 0], x[:, 1]), (nan, nan)):
        p = world.bayes_predictions(*known)
        np.testing.assert_allclose(p.sum(1), 1)
        for low in np.arange(0, 1, 0.1):
            rows = (p[:, 1] >= low) & (p[:, 1] < low + 0.1)
            if rows.sum() > 2000:
                assert y[rows].mean() == pytest.approx(p[rows, 1].mean(), abs=0.03)


@pytest.mark.parametrize("labels", ["drawn", "centre"])
def test_the_ideal_variability_is_the_mean_distance_over_completions(labels):
    world = XorClusters(labels=labels, spread=0.7)
    points = np.linspace(-8, 8, 40_001)
    for x_o in (-1.3, -0.1, 0.4):
        centres = np.array([(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0)])
        joint = stats.norm.pdf(x_o, centres[:, 0], 0.7) * stats.norm.pdf(points[:, None], centres[:, 1], 0.7)
        density = joint.sum(1) / joint.sum() / (points[1] - points[0])
        x = np.full(len(points), x_o)
        distance = np.abs(world.bayes_predictions(x, points)[:, 1] - world.bayes_predictions([x_o])[0, 1])
        assert world.ideal_variability([x_o])[0] == pytest.approx(np.trapezoid(density * distance, points), abs=2e-3)
    assert world.ideal_variability([0.4], [1.0])[0] == 0


def test_the_ideal_variability_by_side_is_the_known_one():
    world = XorClusters()
    x_o = world.sample(300_000, np.random.default_rng(2))[0][:, 0]
    assert world.ideal_variability(x_o[x_o < 0]).mean() == pytest.approx(0.499, abs=0.001)
    assert world.ideal_variability(x_o[x_o > 0]).mean() == pytest.approx(0.078, abs=0.002)


def test_four_clusters_lose_one():
    x, _ = XorClusters().sample(40_000, np.random.default_rng(0), clusters=4)
    assert len(x) == pytest.approx(30_000, abs=300)
    three, _ = XorClusters().sample(40_000, np.random.default_rng(0))
    assert stats.ks_2samp(x[:, 0], three[:, 0]).pvalue > 0.001


def test_the_cohort_is_its_seed():
    one, other = xor_cohort(n=500, seed=3), xor_cohort(n=500, seed=3)
    np.testing.assert_array_equal(one.target, other.target)
    assert len(one.split("train")) == 350
    x = [one.batch(np.arange(500)).values[name].numpy()[:, 0] for name in ("x_o", "x_m")]
    np.testing.assert_array_equal(one.target, (x[0] > 0) != (x[1] > 0))
    centre = xor_cohort(n=500, seed=3, labels="centre").target
    assert 0 < (centre != one.target).sum() < 60


def test_bad_questions():
    with pytest.raises(UnknownNameError, match=r"labels of xor 'both'.*centre, drawn"):
        XorClusters(labels="both")
    with pytest.raises(ConfigurationError, match="spread must be positive"):
        XorClusters(spread=0)
    with pytest.raises(UnknownNameError, match="clusters of xor_cohort 5"):
        xor_cohort(n=10, clusters=5)
    with pytest.raises(ConfigurationError, match="where x_o is observed"):
        XorClusters().ideal_variability([np.nan])
    with pytest.raises(ShapeError, match="differ in length"):
        XorClusters().bayes_predictions([1.0], [1.0, 2.0])
