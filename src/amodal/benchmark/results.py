"""Results of a comparison: means over seeds and paired differences, with intervals for cases and seeds together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from amodal.benchmark.cells import Failed
from amodal.benchmark.inference import resample_seeds
from amodal.benchmark.stored import FinishedRun
from amodal.errors import ConfigurationError, RunError, UnknownNameError
from amodal.metrics import Difference, Interval, Metric, adjust_p_values, metrics_for, resample_counts
from amodal.metrics.intervals import without_agreement
from amodal.metrics.resampling import too_few_groups
from amodal.missingness import pattern_codes, pattern_label
from amodal.schema import Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "Results", "Summary"]

_MET = "met:"


@dataclass(frozen=True)
class Summary:
    """A metric of one method: the mean over its seeds.

    Args:
        interval: The mean, with the interval for test cases and seeds together (cases alone with one seed).
        by_seed: The value of each seed.
    """

    interval: Interval
    by_seed: Mapping[int, float]

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; NaN with one."""
        values = list(self.by_seed.values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


@dataclass(frozen=True)
class Comparison:
    """The paired difference of one method to a reference, a mean over the seeds that both have.

    Args:
        name: The method.
        reference: The method it is compared with.
        metric: What of.
        difference: Method less reference, with interval and p-value for test cases and seeds together.
        by_seed: The difference of each seed.
        p_adjusted: The p-value adjusted for the number of comparisons made together; see `adjust_p_values`.
    """

    name: str
    reference: str
    metric: Metric
    difference: Difference
    by_seed: Mapping[int, float]
    p_adjusted: float = math.nan

    @property
    def verdict(self) -> str:
        """ "better", "worse", or "unclear" where the adjusted p-value is not below 0.05."""
        if not self.p_adjusted < 0.05:
            return "unclear"
        return "better" if (self.difference.estimate > 0) == self.metric.higher_is_better else "worse"


class Results:
    r"""Finished runs of one comparison, and what they say.

    **Intervals.** One set of bootstrap resamples of the test groups serves every method, seed and condition, so that
    differences are paired. With S > 1 seeds the seeds are resampled as well, the same for all methods, independently of
    the cases. With :math:`d_{rs}` the value of seed s on resample r of the cases, :math:`J_r` the S seeds drawn for it
    and :math:`\bar d_r` the mean over all seeds, the bootstrap value is

    .. math::
        \bar d_r + \sqrt{\tfrac{S}{S-1}} \; \Bigl(\tfrac1S \sum_{s \in J_r} d_{rs} - \bar d_r\Bigr)

    The root makes up for the S seeds drawn from only S: without it their part of the variance would be
    :math:`(S-1)/S` of what it should be. The interval is thus one for training again *and* testing on other cases;
    where the two interact it errs on the wide side. With few seeds it is only as good as their spread can be known,
    which is why that is always given beside it. With one seed there are the cases alone, and the interval says nothing
    about training again.

    Args:
        runs: Finished runs; of one name and seed there is one in each setting.
        failed: Experiments of the comparison that ended in an error.

    Raises:
        ConfigurationError: If there is none, or the same twice, or tasks differ.
        RunError: If runs of one setting saw other cases, or, with the same seed, another presence.

    Source:
        Resampling two crossed factors: :cite:`owen2007pigeonhole`. Adjusted p-values: :cite:`romano2005exact`.
    """

    def __init__(self, runs: Sequence[FinishedRun], failed: Sequence[Failed] = ()):
        self.runs, self.failed = tuple(runs), tuple(failed)
        if not self.runs:
            raise ConfigurationError("there are no runs", expected="at least one")
        _check_equal_conditions(self.runs)
        self._drawn: dict[tuple, tuple[float, NDArray[np.float64], str | None]] = {}

    # What there is ---------------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the methods, in the order of the runs."""
        return tuple(dict.fromkeys(run.name for run in self.runs))

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds."""
        return tuple(sorted({run.seed for run in self.runs}))

    @property
    def settings(self) -> tuple[str, ...]:
        """All settings, in the order of the runs."""
        return tuple(dict.fromkeys(run.setting for run in self.runs))

    @property
    def task(self) -> Task:
        """The task: the kind of target."""
        return self.runs[0].task

    @property
    def metrics(self) -> dict[str, Metric]:
        """The task's metrics by name, headlines first."""
        return metrics_for(self.task.kind, bins=self.task.bins)

    @property
    def headline(self) -> Metric:
        """The metric to rank by."""
        return self.metrics[self.task.traits.headlines[0]]

    def of_setting(self, setting: str) -> Results:
        """The runs of one setting.

        Raises:
            UnknownNameError: If no run has it.
        """
        if setting not in self.settings:
            raise UnknownNameError("setting", setting, self.settings)
        return Results([run for run in self.runs if run.setting == setting])

    def runs_of(self, name: str) -> tuple[FinishedRun, ...]:
        """The runs of one method, by seed.

        Raises:
            UnknownNameError: If there is no such method.
        """
        if name not in self.names:
            raise UnknownNameError("method in these results", name, self.names)
        return tuple(sorted((run for run in self.runs if run.name == name), key=lambda run: run.seed))

    def number_of_cases(self, condition: str) -> int:
        """Number of cases of a condition, in the first run."""
        return int(_cases(self.runs[0], condition)[1].sum())

    def conditions(self, kind: str) -> tuple[str, ...]:
        """Names of the conditions of a kind that all runs have: "rate", "pattern", or "met".

        The last are the patterns that the test rows have of themselves, the most frequent first: conditions
        "met:a+b", whose cases are those with this pattern.
        """
        if kind == "met":
            first = self.runs[0]
            codes, counts = np.unique(pattern_codes(first.test.observed), return_counts=True)
            order = np.lexsort((codes, -counts))
            return tuple(_MET + pattern_label(int(codes[i]), first.schema.names) for i in order)
        shared = [{c.name for c in run.conditions if c.kind == kind} for run in self.runs]
        return tuple(c.name for c in self.runs[0].conditions if c.kind == kind and all(c.name in s for s in shared))

    # Values ----------------------------------------------------------------------------------------------------------

    @cached_property
    def counts(self) -> NDArray[np.uint8]:
        """The resamples of the test cases, (R, N), common to everything; with one seed those of its own evaluation."""
        first = min(self.runs, key=lambda run: run.seed)
        generator = np.random.default_rng((int(first.metrics.get("seed", 0)), 3))
        return resample_counts(first.groups, int(first.metrics.get("resamples", 1000)), generator)

    def summary(self, name: str, metric: str, conditions: Sequence[str] = ("test",)) -> Summary:
        """A method's metric, the mean over its seeds (and over conditions, if there are several).

        Args:
            name: The method.
            metric: Name of the metric.
            conditions: Names of conditions, "test", or "met:a+b".

        Returns:
            The mean and its interval.

        Raises:
            UnknownNameError, RunError: If there is no such method, metric or condition.
            ConfigurationError: If the runs are of several settings.
        """
        self._check_one_setting()
        parts = {run.seed: self._mean(run, metric, conditions) for run in self.runs_of(name)}
        estimate = float(np.mean([part[0] for part in parts.values()]))
        reasons = [part[2] for part in parts.values() if part[2]]
        reason, found = reasons[0] if reasons else None, self._metric(metric)
        if found.deviation is not None:  # of a metric that resampling biases
            reach = np.mean([self._deviation(run, metric, conditions) for run in self.runs_of(name)], axis=0)
            interval = Interval.from_deviations(estimate, reach, bounds=found.bounds, reason=reason)
        else:
            drawn = self._over_seeds([part[1] for part in parts.values()])
            interval = without_agreement(Interval.from_values(estimate, drawn, reason=reason))
        if len(conditions) == 1:
            run = self.runs_of(name)[0]
            predictions, rows = _cases(run, conditions[0])
            note = found.of_how_many(predictions[rows], run.target[rows]) if rows.any() else None
            interval = replace(interval, note=note)
        return Summary(interval, {seed: part[0] for seed, part in parts.items()})

    def difference(self, name: str, reference: str, metric: str, conditions: Sequence[str] = ("test",)) -> Comparison:
        """The paired difference of a method to a reference; see `summary`."""
        return self._difference(name, reference, metric, conditions)[0]

    def _difference(
        self, name: str, reference: str, metric: str, conditions: Sequence[str]
    ) -> tuple[Comparison, NDArray[np.float64]]:
        """The difference, and its bootstrap values (R,)."""
        pairs = self._pairs(name, reference, metric, conditions)
        by_seed = {seed: float(a[0] - b[0]) for seed, (a, b) in pairs.items()}
        drawn = self._over_seeds([a[1] - b[1] for a, b in pairs.values()])
        reasons = [part[2] for pair in pairs.values() for part in pair if part[2]]
        found = Difference.from_values(
            float(np.mean(list(by_seed.values()))), drawn, reason=reasons[0] if reasons else None
        )
        return Comparison(name, reference, self._metric(metric), found, by_seed, found.p_value), drawn

    def ratio(self, name: str, reference: str, metric: str, conditions: Sequence[str] = ("test",)) -> Interval:
        """A method's metric as a share of the reference's, both means over seeds; see `summary`."""
        pairs = self._pairs(name, reference, metric, conditions).values()
        a, b = (float(np.mean([pair[i][0] for pair in pairs])) for i in (0, 1))
        over = [self._over_seeds([pair[i][1] for pair in pairs]) for i in (0, 1)]
        with np.errstate(divide="ignore", invalid="ignore"):
            return Interval.from_values(a / b if b else math.nan, np.where(over[1] != 0, over[0] / over[1], math.nan))

    def compare(self, reference: str, metric: str, conditions: Sequence[str] = ("test",)) -> list[Comparison]:
        """The differences of all other methods to a reference, with p-values adjusted for their number."""
        self.runs_of(reference)
        others = [name for name in self.names if name != reference]
        return _adjusted([self._difference(name, reference, metric, conditions) for name in others])

    def compare_under(self, name: str, reference: str, metric: str, conditions: Sequence[str]) -> list[Comparison]:
        """The difference of a method to a reference under each of several conditions, adjusted for their number."""
        return _adjusted([self._difference(name, reference, metric, (condition,)) for condition in conditions])

    def _pairs(self, name: str, reference: str, metric: str, conditions: Sequence[str]) -> dict[int, tuple]:
        self._check_one_setting()
        ours, theirs = ({run.seed: run for run in self.runs_of(which)} for which in (name, reference))
        seeds = [seed for seed in ours if seed in theirs]
        if not seeds:
            raise RunError(f"{name!r} and {reference!r} have no seed in common")
        return {seed: tuple(self._mean(runs[seed], metric, conditions) for runs in (ours, theirs)) for seed in seeds}

    def _mean(
        self, run: FinishedRun, metric: str, conditions: Sequence[str]
    ) -> tuple[float, NDArray[np.float64], str | None]:
        """Mean over conditions of a run's metric: the value, its (R,) resampled values, and why it is undefined."""
        parts = [self._values(run, metric, condition) for condition in conditions]
        if not parts:
            raise ConfigurationError("there is no condition to take the mean over")
        if len(parts) == 1:
            return parts[0]
        value, drawn = float(np.mean([p[0] for p in parts])), np.mean([p[1] for p in parts], axis=0)
        return value, drawn, next((p[2] for p in parts if p[2]), None)

    def _deviation(self, run: FinishedRun, metric: str, conditions: Sequence[str]) -> NDArray[np.float64]:
        """Bound on the error of a metric that resampling biases, on each resample: (R,)."""
        deviation, parts = self._metric(metric).deviation, []
        assert deviation is not None
        for condition in conditions:
            predictions, rows = _cases(run, condition)
            counts = self.counts[:, rows]
            few = not rows.any() or too_few_groups(counts) is not None
            drawn = math.nan if few else deviation(predictions[rows], run.target[rows], weight=counts)
            parts.append(np.broadcast_to(drawn, len(self.counts)))
        return np.mean(parts, axis=0)

    def _values(self, run: FinishedRun, metric: str, condition: str) -> tuple[float, NDArray[np.float64], str | None]:
        key = (run.name, run.seed, metric, condition)
        if key not in self._drawn:
            function, (predictions, rows) = self._metric(metric), _cases(run, condition)
            predicted, target = predictions[rows], run.target[rows]
            if not len(target):
                self._drawn[key] = (math.nan, np.full(len(self.counts), math.nan), "There are no such cases.")
            else:
                few = too_few_groups(self.counts[:, rows])
                drawn = np.asarray(function(predicted, target, weight=self.counts[:, rows]))
                drawn = np.full(len(drawn), math.nan) if few else drawn
                value = float(function(predicted, target))
                self._drawn[key] = (value, drawn, function.why_undefined(predicted, target) or few)
        return self._drawn[key]

    def _check_one_setting(self) -> None:
        if len(self.settings) > 1:
            raise ConfigurationError(
                "values of several settings cannot be told apart",
                got="; ".join(self.settings),
                hint="Take one: results.of_setting(…).",
            )

    def _metric(self, name: str) -> Metric:
        if name not in self.metrics:
            raise UnknownNameError(f"metric of a {self.task.kind} task", name, self.metrics)
        return self.metrics[name]

    def _over_seeds(self, drawn: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Bootstrap values (R,) of the mean over S seeds, from those of each."""
        return resample_seeds(np.stack(drawn), np.random.default_rng((int(self.seeds[0]), 5)))

    # Tables ----------------------------------------------------------------------------------------------------------

    def frame(self) -> pd.DataFrame:
        """One row a run, pattern and metric, as each run's own evaluation has it."""
        import pandas as pd

        return pd.concat([run.rows() for run in self.runs], ignore_index=True)


def _adjusted(found: Sequence[tuple[Comparison, NDArray[np.float64]]]) -> list[Comparison]:
    if not found:
        return []
    p_values = adjust_p_values([one.difference.estimate for one, _ in found], np.stack([drawn for _, drawn in found]))
    return [replace(one, p_adjusted=float(p)) for (one, _), p in zip(found, p_values)]


def _cases(run: FinishedRun, condition: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Predictions (N, …) under a condition, and its rows, bool (N,)."""
    if not condition.startswith(_MET):
        found = run.condition(condition)
        return found.predictions, found.rows
    label, names = condition.removeprefix(_MET), run.schema.names
    present = np.array([name in label.split("+") for name in names]) & (label != "none")
    return run.test.predictions, (run.test.observed == present).all(axis=1)


def _check_equal_conditions(runs: Sequence[FinishedRun]) -> None:
    """Every method of a setting met the same cases and, with the same seed, the same presence everywhere.

    Raises:
        ConfigurationError: If a run is there twice, or tasks differ.
        RunError: If conditions differ.
    """
    seen: dict[tuple, FinishedRun] = {}
    for run in runs:
        first = runs[0]
        if (run.task, run.schema.names) != (first.task, first.schema.names):
            raise ConfigurationError(f"the runs in {first.folder} and {run.folder} have other modalities or tasks")
        twin = seen.setdefault((run.setting, run.name, run.seed), run)
        if twin is not run:
            raise ConfigurationError(
                f"{run.name!r} with seed {run.seed} is there twice: {twin.folder} and {run.folder}",
                hint="Give the experiments different names.",
            )
        same_cases = seen.setdefault((run.setting,), run)
        if not (np.array_equal(run.ids, same_cases.ids) and np.array_equal(run.groups, same_cases.groups)):
            raise RunError(f"the runs in {same_cases.folder} and {run.folder} were tested on other cases")
        peer = seen.setdefault((run.setting, run.seed), run)
        _check_same_presence(peer, run)


def _check_same_presence(a: FinishedRun, b: FinishedRun) -> None:
    if a is b:
        return
    shared = {condition.name for condition in a.conditions} & {condition.name for condition in b.conditions}
    differing = [name for name in ("test", *sorted(shared)) if a.presence_hash(name) != b.presence_hash(name)]
    comparable = a.experiment.rows == b.experiment.rows  # complete rows are those of the same draw
    if a.train_presence is not None and b.train_presence is not None and comparable:
        same = np.array_equal(a.train_presence.natural, b.train_presence.natural)
        differing += [] if same else ["training"]
    if differing:
        raise RunError(
            f"the runs in {a.folder} and {b.folder} did not meet the same presence: {', '.join(differing)}",
            hint="Methods are compared on the same data with the same seed.",
        )
