"""Means over seeds, intervals and paired differences against closed forms, other libraries and the metrics beneath."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from amodal.benchmark import Results
from amodal.benchmark.results import adjust_p_values, resample_seeds
from amodal.benchmark.stored import Condition
from amodal.errors import ConfigurationError, RunError, UnknownNameError
from amodal.metrics import METRICS, bootstrap, paired_difference, resample_counts
from amodal.missingness import Presence


def test_with_one_seed_everything_is_what_the_metrics_say(make_run):
    a, b = make_run("a", skill=2.0), make_run("b", skill=0.5)
    results = Results([a, b])
    counts = resample_counts(a.groups, 300, np.random.default_rng((0, 3)))
    for metric in ("auroc", "accuracy", "nll"):
        function = METRICS[metric]
        one = bootstrap(function, a.test.predictions, a.target, counts=counts)
        assert results.summary("a", metric).interval == one
        assert np.isnan(results.summary("a", metric).spread)
        two = paired_difference(function, a.test.predictions, b.test.predictions, a.target, counts=counts)
        assert results.difference("a", "b", metric).difference == two


def test_means_over_seeds_and_conditions_are_means(make_run):
    runs = [make_run(name, seed, skill=skill) for name, skill in (("a", 2.0), ("b", 1.0)) for seed in (0, 1, 2)]
    results = Results(runs)
    metric = METRICS["auroc"]
    by_seed = [metric(run.test.predictions, run.target) for run in runs]
    found = results.summary("a", "auroc")
    assert found.interval.estimate == pytest.approx(np.mean(by_seed[:3]))
    assert found.spread == pytest.approx(np.std(by_seed[:3], ddof=1))
    assert dict(found.by_seed) == pytest.approx({seed: by_seed[seed] for seed in (0, 1, 2)})
    difference = results.difference("a", "b", "auroc")
    assert difference.difference.estimate == pytest.approx(np.mean(by_seed[:3]) - np.mean(by_seed[3:]))
    both = results.summary("a", "accuracy", ("a", "a+b")).interval.estimate
    parts = [results.summary("a", "accuracy", (name,)).interval.estimate for name in ("a", "a+b")]
    assert both == pytest.approx(np.mean(parts))


def test_a_method_is_not_different_from_itself(make_run):
    twin = make_run("a")
    results = Results([twin, replace(twin, experiment=replace(twin.experiment, name="twin"))])
    found = results.compare("a", "accuracy")[0]
    assert (found.difference.estimate, found.difference.low, found.difference.high) == (0, 0, 0)
    assert found.verdict == "unclear"
    ratio = results.ratio("twin", "a", "accuracy")
    assert (ratio.estimate, ratio.low, ratio.high) == (1, 1, 1)


@pytest.mark.parametrize(("metric", "verdict"), [("auroc", "better"), ("nll", "better"), ("brier", "better")])
def test_better_is_better_whichever_way_the_metric_goes(make_run, metric, verdict):
    results = Results([make_run("good", skill=4.0), make_run("poor", skill=0.2)])
    assert results.compare("poor", metric)[0].verdict == verdict
    assert results.compare("good", metric)[0].verdict == "worse"


def test_the_part_of_the_seeds_in_the_variance_is_that_of_a_mean():
    values = np.array([0.1, 0.4, 0.45, 0.9])
    drawn = resample_seeds(np.repeat(values[:, None], 200_000, axis=1), np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.002)
    assert drawn.var() == pytest.approx(values.var(ddof=1) / len(values), rel=0.01)


def test_the_interval_is_one_for_other_cases_and_other_seeds():
    """Over many worlds y = case + seed, the bootstrap's variance is that of the mean: s²/N + t²/S."""
    rng, n_cases, n_seeds = np.random.default_rng(1), 60, 4
    variances = []
    for _ in range(400):
        values = rng.normal(0, 1.0, n_cases) + rng.normal(0, 0.2, n_seeds)[:, None]  # (S, N)
        counts = resample_counts(n_cases, 200, rng)
        drawn = values @ counts.T / n_cases  # (S, R)
        variances.append(resample_seeds(drawn, rng).var())
    expected = 1.0**2 / n_cases + 0.2**2 / n_seeds
    assert np.mean(variances) == pytest.approx(expected, rel=0.06)


def test_one_estimate_needs_no_adjustment():
    drawn = np.random.default_rng(0).normal(2.0, 1.0, (1, 100_000))
    assert adjust_p_values([2.0], drawn)[0] == pytest.approx(2 * norm.sf(2.0), rel=0.03)


def test_independent_estimates_are_adjusted_as_sidak_says_one_after_the_other():
    estimates = np.array([2.2, 2.6, 0.5, 1.4])
    drawn = np.random.default_rng(1).normal(estimates[:, None], 1.0, (4, 200_000))
    single = 2 * norm.sf(estimates)
    expected = 1 - (1 - single) ** np.array([3, 4, 1, 2])  # by rank: the largest among four, the next among three, …
    np.testing.assert_allclose(adjust_p_values(estimates, drawn), expected, rtol=0.04)


def test_what_is_the_same_is_counted_once_and_the_scale_does_not_matter():
    noise = np.random.default_rng(2).normal(size=50_000)
    drawn = 2.0 + np.stack([noise] * 5)
    np.testing.assert_allclose(adjust_p_values([2.0] * 5, drawn), adjust_p_values([2.0], drawn[:1])[0])
    scale = np.array([1.0, 1e-6, 1e6, 3.0, 1.0])
    np.testing.assert_allclose(
        adjust_p_values(2.0 * scale, drawn * scale[:, None]), adjust_p_values([2.0], drawn[:1])[0]
    )


def test_many_comparisons_do_not_run_out_of_resamples(make_run):
    good, poor = make_run("good", skill=4.0, n=400), make_run("poor", skill=0.0, n=400)
    names = [f"twin {i}" for i in range(40)]
    twins = [replace(good, experiment=replace(good.experiment, name=name)) for name in names]
    found = Results([poor, *twins]).compare("poor", "auroc")
    assert {one.verdict for one in found} == {"better"}
    assert max(one.p_adjusted for one in found) == pytest.approx(1 / 301)


def test_what_is_not_defined_is_left_out_and_no_spread_is_no_doubt():
    drawn = np.stack([np.full(99, np.nan), np.full(99, 0.5), np.zeros(99)])
    np.testing.assert_allclose(adjust_p_values([np.nan, 0.5, 0.0], drawn), [np.nan, 0.01, 1.0])


def test_the_differences_under_several_conditions_are_those_under_each(make_run):
    results = Results([make_run("a", skill=2.0), make_run("b")])
    found = results.compare_under("a", "b", "auroc", ("a", "a+b"))
    for one, condition in zip(found, ("a", "a+b")):
        assert one.difference == results.difference("a", "b", "auroc", (condition,)).difference


def test_patterns_that_cases_have_of_themselves_are_conditions(make_run):
    run = make_run("a")
    results = Results([run])
    assert set(results.conditions("met")) == {"met:a", "met:b", "met:a+b"}
    rows = (run.test.observed == [True, False]).all(1)
    expected = METRICS["accuracy"](run.test.predictions[rows], run.target[rows])
    assert results.summary("a", "accuracy", ("met:a",)).interval.estimate == pytest.approx(expected)
    assert results.conditions("pattern") == ("a", "a+b")
    assert results.conditions("rate") == ("rate 0",)


def test_rows_that_a_condition_leaves_out_do_not_count(make_run):
    run = make_run("a")
    predictions = run.test.predictions.copy()
    predictions[:40] = np.nan
    partial = Condition("a", "pattern", run.test.observed, predictions)
    results = Results([replace(run, conditions=(partial,))])
    expected = METRICS["auroc"](predictions[40:], run.target[40:])
    assert results.summary("a", "auroc", ("a",)).interval.estimate == pytest.approx(expected)


def test_an_undefined_metric_says_why(make_run):
    run = make_run("a", target=np.zeros(120, dtype=int))
    found = Results([run]).summary("a", "auroc").interval
    assert np.isnan(found.estimate)
    assert "needs cases of at least two classes" in str(found.reason)
    comparison = Results([run, make_run("b", target=np.zeros(120, dtype=int))]).compare("a", "auroc")[0]
    assert comparison.verdict == "unclear"


def test_seeds_that_only_one_of_two_has_do_not_count_in_their_difference(make_run):
    results = Results([make_run("a", 0), make_run("a", 1), make_run("b", 0)])
    assert set(results.difference("a", "b", "auroc").by_seed) == {0}
    with pytest.raises(RunError, match="no seed in common"):
        Results([make_run("a", 0), make_run("b", 1)]).difference("a", "b", "auroc")


def test_other_presence_is_refused(make_run):
    with pytest.raises(RunError, match="did not meet the same presence: test"):
        Results([make_run("a"), make_run("b", presence_seed=8)])
    run = make_run("b")
    other = tuple(
        replace(condition, observed=~condition.observed) if condition.name == "a" else condition
        for condition in run.conditions
    )
    with pytest.raises(RunError, match="same presence: a"):
        Results([make_run("a"), replace(run, conditions=other)])
    removed = np.ones((120, 2), dtype=bool) & [True, False]
    with pytest.raises(RunError, match="same presence: training"):
        Results([make_run("a"), make_run("b", train_presence=Presence(removed, ("a", "b"), removed))])


def test_other_cases_are_refused(make_run):
    with pytest.raises(RunError, match="tested on other cases"):
        Results([make_run("a"), make_run("b", ids=np.array([f"d{i}" for i in range(120)]))])


def test_the_same_run_twice_and_no_run_are_refused(make_run):
    with pytest.raises(ConfigurationError, match="'a' with seed 0 is there twice"):
        Results([make_run("a"), make_run("a")])
    with pytest.raises(ConfigurationError, match="there are no runs"):
        Results([])


def test_settings_are_kept_apart(make_run):
    results = Results([make_run("a", setting="one"), make_run("a", presence_seed=9, setting="two")])
    assert results.settings == ("one", "two")
    assert len(results.of_setting("two").runs) == 1
    with pytest.raises(UnknownNameError, match="setting 'three'"):
        results.of_setting("three")


def test_unknown_names_are_told(make_run):
    results = Results([make_run("a")])
    with pytest.raises(UnknownNameError, match="method in these results 'b'"):
        results.summary("b", "auroc")
    with pytest.raises(UnknownNameError, match="metric of a binary task 'mae'"):
        results.summary("a", "mae")
    with pytest.raises(RunError, match="not evaluated under 'c'"):
        results.summary("a", "auroc", ("c",))
