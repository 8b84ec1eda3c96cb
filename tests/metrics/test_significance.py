"""The paired p-value is a p-value; the published t-test is rebuilt, and shown not to be one."""

import numpy as np
import pytest
from scipy import stats

from amodal.errors import DataError, ShapeError
from amodal.metrics import accuracy, paired_bootstrap_p_value, resample_counts, two_sample_bootstrap_t_test


def test_p_value_by_hand():
    assert paired_bootstrap_p_value(0.1, np.full(999, 0.1)) == pytest.approx(1 / 1000)
    for sign in (1, -1):  # 20 of 999 resamples are as far from the estimate as it is from zero
        values = sign * np.r_[np.full(979, 0.1), np.full(12, -0.1), np.full(8, 0.2)]
        assert paired_bootstrap_p_value(sign * 0.1, values) == pytest.approx(21 / 1000)
    assert paired_bootstrap_p_value(0.0, np.zeros(50)) == 1
    assert paired_bootstrap_p_value(1.0, [np.nan, 1.0, np.nan]) == 0.5
    assert np.isnan(paired_bootstrap_p_value(0.0, [np.nan]))
    assert np.isnan(paired_bootstrap_p_value(0.0, []))


def test_p_value_and_interval_agree_where_the_resamples_are_symmetric():
    rng = np.random.default_rng(0)
    for shift in np.linspace(0, 4, 60):
        values = rng.normal(shift, 1, 1000)
        low, high = np.quantile(values, [0.025, 0.975])
        p = paired_bootstrap_p_value(shift, values)
        if not 0.03 < p < 0.08:
            assert (p < 0.05) == (low > 0 or high < 0)


def test_t_test_equals_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.80, 0.02, 1000), rng.normal(0.79, 0.03, 900)
    test, oracle = two_sample_bootstrap_t_test(np.r_[a, np.nan], b), stats.ttest_ind(a, b)
    assert (test.statistic, test.p_value) == pytest.approx((oracle.statistic, oracle.pvalue), rel=1e-9)
    assert test.degrees_of_freedom == oracle.df == 1898


def test_t_test_at_its_limits():
    assert two_sample_bootstrap_t_test([1.0, 1.0], [0.5, 0.5]).statistic == np.inf
    assert two_sample_bootstrap_t_test([1.0, 1.0], [0.5, 0.5]).p_value == 0
    assert two_sample_bootstrap_t_test([0.5, 0.5], [1.0, 1.0]).statistic == -np.inf
    assert two_sample_bootstrap_t_test([1.0, 1.0], [1.0, 1.0]).p_value == 1
    assert np.isnan(two_sample_bootstrap_t_test([1.0], [1.0, 2.0]).p_value)
    assert np.isnan(two_sample_bootstrap_t_test([], []).statistic)


def test_the_t_test_is_made_significant_by_resampling_more():
    """On the same data t grows with the root of the number of resamples; the paired p-value does not move."""
    rng = np.random.default_rng(2)
    target = rng.integers(0, 2, 300)
    a, b = (np.where(rng.random(300) < 0.8, target, 1 - target).astype(float) for _ in range(2))
    t, p = [], []
    for resamples in (400, 40_000):
        counts, others = (resample_counts(300, resamples, rng) for _ in range(2))
        t.append(two_sample_bootstrap_t_test(accuracy(a, target, weight=counts), accuracy(b, target, weight=others)))
        drawn = accuracy(a, target, weight=counts) - accuracy(b, target, weight=counts)
        p.append(paired_bootstrap_p_value(accuracy(a, target) - accuracy(b, target), drawn))
    assert t[1].statistic / t[0].statistic == pytest.approx(10, rel=0.5)
    assert t[1].p_value < 1e-3 * t[0].p_value
    assert p[1] == pytest.approx(p[0], abs=0.08)
    assert p[1] > 0.05


def test_only_the_paired_p_value_keeps_its_level():
    """Two equally good methods, 300 times: the t-test calls nearly every pair different, the paired one 5 %."""
    rng = np.random.default_rng(3)
    n, trials = 200, 300
    paired, unpaired = np.empty(trials), np.empty(trials)
    counts, others = (resample_counts(n, 1000, rng) for _ in range(2))
    for trial in range(trials):
        target, hard = rng.integers(0, 2, n), rng.random(n)
        a, b = (np.where(0.5 * rng.random(n) + 0.5 * hard < 0.7, target, 1 - target).astype(float) for _ in range(2))
        value_a, value_b = accuracy(a, target, weight=counts), accuracy(b, target, weight=counts)
        paired[trial] = paired_bootstrap_p_value(accuracy(a, target) - accuracy(b, target), value_a - value_b)
        unpaired[trial] = two_sample_bootstrap_t_test(value_a, accuracy(b, target, weight=others)).p_value
    assert 0.02 <= (paired < 0.05).mean() <= 0.09
    assert (unpaired < 0.05).mean() > 0.8


@pytest.mark.parametrize(
    "function",
    [lambda values: paired_bootstrap_p_value(0.1, values), lambda values: two_sample_bootstrap_t_test(values, [1])],
)
def test_bad_input_is_told(function):
    with pytest.raises(ShapeError, match=r"need one axis.*\(2, 1\)"):
        function([[1.0], [2.0]])
    with pytest.raises(DataError, match="must be numbers"):
        function(["a"])
