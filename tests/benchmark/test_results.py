"""Means over seeds, intervals and paired differences against closed forms, other libraries and the metrics beneath."""

from dataclasses import astuple, replace

import numpy as np
import pytest

from amodal.benchmark import Results
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
        assert_same(results.summary("a", metric).interval, one)
        assert np.isnan(results.summary("a", metric).spread)
        two = paired_difference(function, a.test.predictions, b.test.predictions, a.target, counts=counts)
        assert_same(results.difference("a", "b", metric).difference, two)


def assert_same(one, other):
    """Up to the order of a matrix product's sums, which depends on the processor and on where arrays lie in memory."""
    ours, theirs = ([value for value in astuple(part) if not isinstance(value, float | int)] for part in (one, other))
    assert ours == theirs, "reasons and notes"
    ours, theirs = ([value for value in astuple(part) if isinstance(value, float | int)] for part in (one, other))
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12)


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


def test_many_comparisons_do_not_run_out_of_resamples(make_run):
    good, poor = make_run("good", skill=4.0, n=400), make_run("poor", skill=0.0, n=400)
    names = [f"twin {i}" for i in range(40)]
    twins = [replace(good, experiment=replace(good.experiment, name=name)) for name in names]
    found = Results([poor, *twins]).compare("poor", "auroc")
    assert {one.verdict for one in found} == {"better"}
    assert max(one.p_adjusted for one in found) == pytest.approx(1 / 301)


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
    with pytest.raises(ConfigurationError, match="values of several settings"):
        results.summary("a", "auroc")
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
