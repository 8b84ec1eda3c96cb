"""Intervals: equal to SciPy's draw for draw, covering what they promise, clustered by group."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from amodal.errors import ConfigurationError, DataError, ShapeError
from amodal.metrics import (
    METRICS,
    Difference,
    Interval,
    accuracy,
    auroc,
    bootstrap,
    intervals,
    mean_absolute_error,
    paired_difference,
    resample_counts,
    root_mean_squared_error,
)


def scored(n, rng, shift=1.0):
    target = rng.integers(0, 2, n)
    logit = rng.normal(size=n) + shift * target
    return 1 / (1 + np.exp(-logit)), target


def test_equals_scipy_draw_for_draw():
    """SciPy draws its resamples from a generator in the same way, so that the same seed gives the same interval."""
    p, y = scored(60, np.random.default_rng(0))
    ours = bootstrap(auroc, p, y, resamples=200, generator=np.random.default_rng(1))
    theirs = stats.bootstrap(
        (y, p),
        roc_auc_score,
        paired=True,
        vectorized=False,
        n_resamples=200,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert ours.estimate == pytest.approx(roc_auc_score(y, p))
    assert (ours.resamples, ours.undefined, ours.reason) == (200, 0, None)


def test_paired_difference_equals_scipy_draw_for_draw():
    rng = np.random.default_rng(2)
    y = rng.normal(size=80)
    a, b = y + rng.normal(size=80), y + 1.5 * rng.normal(size=80)
    ours = paired_difference(
        root_mean_squared_error, a, b, y, level=0.9, resamples=300, generator=np.random.default_rng(3)
    )

    def difference(a, b, y, axis):
        return np.sqrt(((a - y) ** 2).mean(axis)) - np.sqrt(((b - y) ** 2).mean(axis))

    theirs = stats.bootstrap(
        (a, b, y),
        difference,
        paired=True,
        n_resamples=300,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(3),
    )
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), rel=1e-12)
    values = theirs.bootstrap_distribution
    assert ours.p_value == pytest.approx((1 + (np.abs(values - ours.estimate) >= abs(ours.estimate)).sum()) / 301)


def test_coverage():
    """95 % intervals hold the true AUROC, Phi(1 / sqrt 2), in about 95 % of samples."""
    rng = np.random.default_rng(4)
    truth, counts = stats.norm.cdf(1 / np.sqrt(2)), resample_counts(150, 400, rng)
    found = [bootstrap(auroc, *scored(150, rng), counts=counts) for _ in range(400)]
    covered = np.mean([interval.low <= truth <= interval.high for interval in found])
    assert 0.91 <= covered <= 0.98


def test_clustered_intervals_cover_and_plain_ones_do_not():
    """Eight stays of one patient are predicted right or wrong together."""
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(50), 8)
    clustered, plain = resample_counts(groups, 300, rng), resample_counts(len(groups), 300, rng)
    covered = np.zeros(2)
    for _ in range(300):
        right = rng.random(400) < np.repeat(rng.beta(0.7 * 1.5, 0.3 * 1.5, 50), 8)
        for k, counts in enumerate((clustered, plain)):
            interval = bootstrap(accuracy, right.astype(float), np.ones(400, int), counts=counts)
            covered[k] += interval.low <= 0.7 <= interval.high
    assert 0.91 <= covered[0] / 300 <= 0.98
    assert covered[1] / 300 < 0.75


def test_groups_and_their_counts_are_the_same():
    rng = np.random.default_rng(6)
    p, y = scored(100, rng)
    groups = rng.integers(0, 30, 100).astype(str)
    drawn = bootstrap(auroc, p, y, groups=groups, resamples=100, generator=np.random.default_rng(7))
    counts = resample_counts(groups, 100, np.random.default_rng(7))
    assert bootstrap(auroc, p, y, counts=counts) == drawn


def test_blocks_of_resamples_change_nothing(monkeypatch):
    p, y = scored(100, np.random.default_rng(8))
    whole = bootstrap(auroc, p, y, resamples=90, generator=np.random.default_rng(9))
    difference = paired_difference(auroc, p, p**2, y, resamples=90, generator=np.random.default_rng(9))
    monkeypatch.setattr(intervals, "CELLS", 1700)
    assert bootstrap(auroc, p, y, resamples=90, generator=np.random.default_rng(9)) == whole
    again = paired_difference(auroc, p, p**2, y, resamples=90, generator=np.random.default_rng(9))
    assert again == difference


def test_a_subset_of_cases_uses_its_columns():
    rng = np.random.default_rng(10)
    p, y = scored(200, rng)
    counts, rows = resample_counts(200, 50, rng), np.flatnonzero(rng.random(200) < 0.3)
    interval = bootstrap(auroc, p[rows], y[rows], counts=counts[:, rows])
    values = [roc_auc_score(np.repeat(y[rows], row), np.repeat(p[rows], row)) for row in counts[:, rows]]
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_pairing_makes_the_difference_sharper_than_the_intervals():
    rng = np.random.default_rng(11)
    y = rng.integers(0, 2, 400)
    logit = 1.5 * y + rng.normal(size=400)
    a, b = (1 / (1 + np.exp(-logit - noise)) for noise in (0, 0.7 * rng.normal(size=400)))
    counts = resample_counts(400, 500, rng)
    difference = paired_difference(auroc, a, b, y, counts=counts)
    one, other = bootstrap(auroc, a, y, counts=counts), bootstrap(auroc, b, y, counts=counts)
    assert difference.estimate == pytest.approx(one.estimate - other.estimate)
    assert difference.high - difference.low < 0.7 * min(one.high - one.low, other.high - other.low)
    reverse = paired_difference(auroc, b, a, y, counts=counts)
    assert (reverse.low, reverse.high, reverse.p_value) == (
        pytest.approx(-difference.high),
        pytest.approx(-difference.low),
        difference.p_value,
    )


def test_equal_runs_do_not_differ():
    p, y = scored(50, np.random.default_rng(12))
    difference = paired_difference(auroc, p, p, y, generator=np.random.default_rng(0), resamples=50)
    assert (difference.estimate, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1)


def test_resamples_without_a_class_are_left_out_and_counted():
    p, y = np.linspace(0, 1, 8), np.array([0] * 7 + [1])
    counts = resample_counts(8, 2000, np.random.default_rng(13))
    without = int((counts[:, 7] == 0).sum() + (counts[:, :7].sum(1) == 0).sum())
    interval = bootstrap(METRICS["auroc"], p, y, counts=counts, fewest=8)
    assert (interval.estimate, interval.resamples, interval.undefined) == (1.0, 2000, without)
    assert np.isnan([interval.low, interval.high]).all()
    assert interval.reason == "All resamples agree."
    assert 0.3 < without / 2000 < 0.4  # (7/8)^8 = 0.34
    difference = paired_difference(METRICS["auroc"], p, 1 - p, y, counts=counts, fewest=8)
    assert difference == Difference(1.0, 1.0, 1.0, 1 / (2001 - without), 2000, without)


def test_what_is_undefined_says_why():
    undefined = bootstrap(METRICS["auroc"], [0.1, 0.2], [0, 0], resamples=20, generator=np.random.default_rng(0))
    assert np.isnan([undefined.estimate, undefined.low, undefined.high]).all()
    assert undefined.undefined == undefined.resamples == 20
    assert undefined.reason == "AUROC needs cases of at least two classes, and all 2 cases have the target 0."
    bare = bootstrap(auroc, [0.1, 0.2], [0, 0], resamples=20, generator=np.random.default_rng(0))
    assert bare.reason == "The metric is undefined for these cases."
    none = bootstrap(METRICS["mae"], [], [], resamples=20, generator=np.random.default_rng(0))
    assert (none.resamples, none.undefined) == (20, 20)
    assert none.reason == "MAE needs at least one case, and the 0 cases have none."


def test_one_group_gives_an_estimate_without_interval():
    for options in (
        {"groups": ["ann"] * 4, "generator": np.random.default_rng(0)},
        {"counts": resample_counts(["ann"] * 4 + ["bob"], 50, np.random.default_rng(0))[:, :4]},
    ):
        interval = bootstrap(accuracy, [0.9, 0.9, 0.1, 0.9], [1, 1, 1, 1], **options)
        assert interval.estimate == 0.75
        assert np.isnan([interval.low, interval.high]).all()
        assert interval.reason == "An interval needs at least 10 groups, and there are 1."
    single = paired_difference(accuracy, [0.9], [0.1], [1], generator=np.random.default_rng(0))
    assert single.estimate == 1
    assert np.isnan([single.low, single.p_value]).all()


def test_two_groups_are_two_even_where_a_resample_holds_both_once(monkeypatch):
    monkeypatch.setattr(intervals, "CELLS", 1)  # every resample in a block of its own
    seed = next(s for s in range(20) if (resample_counts(2, 30, np.random.default_rng(s))[-1] == 1).all())
    interval = bootstrap(accuracy, [0.9, 0.1], [1, 1], resamples=30, generator=np.random.default_rng(seed), fewest=2)
    assert (interval.low, interval.high, interval.reason) == (0, 1, None)


def test_how_they_read():
    assert str(Interval(0.5, 0.25, 0.75, 10, 0)) == "0.500 (0.250 to 0.750)"
    assert str(Difference(0.5, -0.25, 0.75, 0.04, 10, 0)) == "+0.500 (-0.250 to +0.750, p = 0.040)"


def test_from_values_of_any_statistic():
    values = np.random.default_rng(14).normal(0.3, 0.1, 4000)
    interval, difference = Interval.from_values(0.3, values), Difference.from_values(0.3, values)
    assert (interval.low, interval.high) == (difference.low, difference.high)
    assert (interval.low, interval.high) == pytest.approx((0.3 - 0.196, 0.3 + 0.196), abs=0.01)
    assert difference.p_value == pytest.approx(2 * stats.norm.cdf(-3), rel=0.6)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, ConfigurationError, "a bootstrap needs a generator.*default_rng"),
        ({"generator": 3}, ConfigurationError, "expected a numpy.random.Generator, got int"),
        ({"level": 95, "generator": np.random.default_rng(0)}, ConfigurationError, "0 < level < 1, got 95"),
        ({"counts": np.ones((3, 2), int), "groups": [1, 2]}, ConfigurationError, "exclude each other"),
        ({"counts": np.ones(2, int)}, ShapeError, r"counts need two axes.*\(R, 2\), got \(2,\)"),
        ({"counts": np.ones((3, 5), int)}, ShapeError, r"weights do not fit the cases.*\(3, 5\)"),
        ({"groups": [1], "generator": np.random.default_rng(0)}, ShapeError, r"groups do not fit.*\(2,\), got \(1,\)"),
        ({"groups": [1, np.nan], "generator": np.random.default_rng(0)}, DataError, "a case has no group"),
        ({"resamples": 0, "generator": np.random.default_rng(0)}, ConfigurationError, "positive integer"),
    ],
)
def test_bad_options_are_told(options, error, words):
    with pytest.raises(error, match=words):
        bootstrap(mean_absolute_error, [1.0, 2.0], [1.0, 2.0], **options)
    with pytest.raises(error, match=words):
        paired_difference(mean_absolute_error, [1.0, 2.0], [1.0, 2.0], [1.0, 2.0], **options)


def test_a_function_that_is_no_metric():
    with pytest.raises(ShapeError, match=r"one number.*got \(2,\)"):
        bootstrap(lambda p, y, weight=None: np.zeros(2), [1.0], [1.0], generator=np.random.default_rng(0))
