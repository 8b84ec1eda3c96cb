"""The ring against its sheet: its grid, its classes, its correlations and its Bayes-optimal accuracies."""

import numpy as np
import pytest

from amodal.data import load_cohort
from amodal.data.sources.ring import RingWorld, ring_cohort
from amodal.errors import ConfigurationError, ShapeError, UnknownNameError

# Published for random sensors of each point and 2,000 points, in percent; noise of about 0.8 points.
TABLE = {
    0.2: {1: 28.7, 2: 61.2, 3: 70.3, 4: 75.2, 5: 78.7, 6: 80.6, 8: 83.4, 10: 85.6, 12: 86.8},
    0.04: {1: 32.8, 2: 64.7, 3: 73.4, 4: 77.5, 5: 80.3, 6: 81.9, 8: 84.4, 10: 86.4, 12: 87.6},
}


def readings_of(cohort):
    batch = cohort.batch(np.arange(len(cohort)))
    return np.concatenate([batch.values[name].numpy() for name in cohort.schema.names], axis=1)


@pytest.mark.parametrize("radius_std", TABLE)
def test_bayes_accuracy_is_that_of_the_table(radius_std):
    table = TABLE[radius_std]
    got = RingWorld(radius_std).bayes_accuracy(table, n=2000, generator=np.random.default_rng(0))
    for k, accuracy in table.items():
        assert 100 * got[k] == pytest.approx(accuracy, abs=2.0), k
    assert np.mean([100 * got[k] - table[k] for k in table]) == pytest.approx(0, abs=1.0)


def test_the_noise_as_a_deviation_leaves_two_sensors_little_to_doubt():
    got = RingWorld(0.2, 0.0225).bayes_accuracy([2], n=300, generator=np.random.default_rng(0))
    assert 100 * got[2] == pytest.approx(90.7, abs=3.0)


def test_posterior_by_monte_carlo():
    """Of many drawn points those with nearly the same two readings have the classes that the posterior says."""
    world = RingWorld()
    readings, classes, _ = world.sample(400_000, np.random.default_rng(1))
    observed = np.zeros((1, 12), dtype=bool)
    observed[0, [0, 5]] = True
    case = np.zeros((1, 12))
    case[0, [0, 5]] = 0.8, 0.45
    alike = (np.abs(readings[:, [0, 5]] - case[:, [0, 5]]) < 1e-6).all(1)
    shares = np.bincount(classes[alike], minlength=16) / alike.sum()
    assert alike.sum() > 200
    np.testing.assert_allclose(world.bayes_predictions(case, observed)[0], shares, atol=4 * 0.5 / np.sqrt(alike.sum()))


def test_posterior_probabilities_are_calibrated():
    world = RingWorld()
    readings, classes, _ = world.sample(3000, np.random.default_rng(2))
    observed = np.random.default_rng(3).random(readings.shape) < 0.3
    posterior = world.bayes_predictions(readings, observed)
    np.testing.assert_allclose(posterior.sum(1), 1, rtol=1e-6)
    right = (posterior.argmax(1) == classes).mean()
    assert right == pytest.approx(posterior.max(1).mean(), abs=3 * 0.5 / np.sqrt(3000))


def test_nothing_observed_gives_equal_sectors_and_absent_readings_are_not_read():
    world = RingWorld()
    values = np.full((1, 12), np.nan)
    np.testing.assert_allclose(world.bayes_predictions(values, np.zeros((1, 12), bool)), 1 / 16, atol=1e-6)


def test_readings_lie_on_the_grid_and_classes_are_balanced_sectors():
    cohort = load_cohort("ring")
    readings, angle = readings_of(cohort), cohort.extras["angle"]
    steps = readings / 0.05
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
    assert np.abs(readings).max() <= 2.0
    assert (cohort.target == np.floor(angle / (2 * np.pi / 16))).all()
    share = np.bincount(cohort.target, minlength=16) / len(cohort)
    np.testing.assert_allclose(share, 1 / 16, atol=4 * np.sqrt(1 / 16 / len(cohort)))
    assert [len(cohort.split(name)) for name in ("train", "valid", "test")] == [4500, 500, 2000]


def test_a_large_reading_is_clipped_after_it_is_rounded():
    np.testing.assert_allclose(RingWorld().read(np.array([3.0, -3.0, 0.024, 0.026])), [2.0, -2.0, 0.0, 0.05])


@pytest.mark.parametrize(("radius", "radius_std"), [("variance", 0.2), ("deviation", 0.04)])
@pytest.mark.parametrize(("noise", "noise_std"), [("variance", 0.15), ("deviation", 0.0225)])
def test_both_readings_by_the_spread_and_the_correlations(radius, radius_std, noise, noise_std):
    """Correlation (m, n) is cos((m - n) pi / 12) E[r^2]/2 / (E[r^2]/2 + noise), figure 2a."""
    cohort = ring_cohort(n_train=20_000, radius=radius, noise=noise, seed=1)
    assert cohort.extras["radius"].std() == pytest.approx(radius_std, rel=0.03)
    signal = (1 + radius_std**2) / 2
    difference = np.arange(12)[:, None] - np.arange(12)
    expected = np.cos(difference * np.pi / 12) * signal / (signal + noise_std**2 + 0.05**2 / 12)
    np.fill_diagonal(expected, 1.0)
    np.testing.assert_allclose(np.corrcoef(readings_of(cohort).T), expected, atol=0.03)


def test_the_same_seed_gives_the_same_points():
    first, again, other = (ring_cohort(n_train=50, n_valid=5, n_test=5, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(readings_of(first), readings_of(again))
    assert not np.array_equal(readings_of(first), readings_of(other))


def test_predictions_of_a_cohort_use_its_presence():
    cohort = ring_cohort(n_train=50, n_valid=5, n_test=20).split("test")
    observed = np.random.default_rng(0).random(cohort.observed.shape) < 0.5
    got = RingWorld().bayes_predictions(cohort.with_observed(observed))
    np.testing.assert_allclose(got, RingWorld().bayes_predictions(readings_of(cohort), observed), atol=1e-6)


def test_errors_say_what_was_expected():
    with pytest.raises(UnknownNameError, match=r"noise of ring_cohort 'precision'"):
        ring_cohort(noise="precision")
    with pytest.raises(ConfigurationError, match=r"n_valid < n_train.*n_train=5"):
        ring_cohort(n_train=5, n_valid=5)
    with pytest.raises(ConfigurationError, match=r"noise_std of a ring.*> 0, got 0"):
        RingWorld(noise_std=0)
    with pytest.raises(ConfigurationError, match=r"count of sensors.*0 … 12, got 13"):
        RingWorld().bayes_accuracy([13], generator=np.random.default_rng(0))
    with pytest.raises(ShapeError, match=r"expected \(N, 12\)"):
        RingWorld().bayes_predictions(np.zeros((2, 3)))
