"""Bootstrap intervals of a metric, and of the difference between two runs on the same cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amodal.errors import ConfigurationError, ShapeError
from amodal.metrics.registry import Metric
from amodal.metrics.resampling import FEWEST_GROUPS, Value, count_blocks, too_few_groups
from amodal.metrics.significance import paired_bootstrap_p_value

__all__ = ["Difference", "Interval", "bootstrap", "paired_difference"]

CELLS = 2**28  # counts held at a time when they are drawn here: a quarter of a gigabyte

MetricFunction = Callable[..., Value]


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile interval.

    Args:
        estimate: Value on the cases themselves.
        low: Lower end; NaN where no interval can be given.
        high: Upper end.
        resamples: Number of resamples drawn.
        undefined: How many of them left the metric undefined; the interval is that of the others.
        reason: Why the estimate or the interval is NaN.
        note: Over how many of the labels a mean runs, where not over all.

    Example:
        >>> str(Interval(0.8123, 0.79, 0.8349, 1000, 0))
        '0.812 (0.790 to 0.835)'
    """

    estimate: float
    low: float
    high: float
    resamples: int
    undefined: int
    reason: str | None = None
    note: str | None = None

    @classmethod
    def from_values(
        cls, estimate: float, values: ArrayLike, *, level: float = 0.95, reason: str | None = None
    ) -> Interval:
        """The percentile interval of bootstrap values, for a statistic that no metric function computes.

        Args:
            estimate: Value on the cases themselves.
            values: Values on the resamples, of shape (R,); NaN where undefined.
            level: Coverage aimed at.
            reason: Why the estimate is NaN, if it is.

        Raises:
            ConfigurationError: If the level is not between 0 and 1.
            ShapeError: If the values are not of shape (R,).

        Example:
            >>> Interval.from_values(2.0, [1.0, 2.0, 3.0, float("nan")], level=0.5)
            Interval(estimate=2.0, low=1.5, high=2.5, resamples=4, undefined=1, reason=None, note=None)
        """
        low, high, undefined, problem = _percentiles(values, level)
        return cls(float(estimate), low, high, np.size(values), undefined, reason or problem)

    @classmethod
    def from_deviations(
        cls,
        estimate: float,
        deviations: ArrayLike,
        *,
        bounds: tuple[float, float] = (-np.inf, np.inf),
        level: float = 0.95,
        reason: str | None = None,
    ) -> Interval:
        """The estimate plus and minus a quantile of how far resamples are from it, inside the statistic's bounds.

        Args:
            estimate: Value on the cases themselves.
            deviations: Of shape (R,), not negative; NaN where undefined.
            bounds: Smallest and largest possible value.
            level: Coverage aimed at.
            reason: Why the estimate is NaN, if it is.

        Example:
            >>> Interval.from_deviations(0.1, [0.0, 0.1, 0.2], bounds=(0, 1), level=0.5)
            Interval(estimate=0.1, low=0.0, high=0.2, resamples=3, undefined=0, reason=None, note=None)
        """
        _, _, undefined, problem = _percentiles(values := np.asarray(deviations, dtype=np.float64), level)
        reach = float(np.nanquantile(values, level)) if undefined < len(values) else float("nan")
        low, high = float(max(bounds[0], estimate - reach)), float(min(bounds[1], estimate + reach))
        if np.isnan(reach) or np.isnan(estimate):
            low = high = float("nan")
        return cls(float(estimate), low, high, len(values), undefined, reason or problem)

    def __str__(self) -> str:
        return f"{self.estimate:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Difference:
    """The first run's value less the second's, with its percentile interval over the same resamples.

    Args:
        estimate: Difference on the cases themselves.
        low: Lower end; NaN where no interval can be given.
        high: Upper end.
        p_value: Two-sided; see `paired_bootstrap_p_value`.
        resamples: Number of resamples drawn.
        undefined: How many of them left the metric undefined for either run.
        reason: Why the estimate or the interval is NaN.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    resamples: int
    undefined: int
    reason: str | None = None

    @classmethod
    def from_values(
        cls, estimate: float, values: ArrayLike, *, level: float = 0.95, reason: str | None = None
    ) -> Difference:
        """From bootstrap differences of shape (R,); see `Interval.from_values`."""
        low, high, undefined, problem = _percentiles(values, level)
        p_value = paired_bootstrap_p_value(estimate, values) if np.isfinite(low) else float("nan")
        return cls(float(estimate), low, high, p_value, np.size(values), undefined, reason or problem)

    def __str__(self) -> str:
        return f"{self.estimate:+.3f} ({self.low:+.3f} to {self.high:+.3f}, p = {self.p_value:.3f})"


def bootstrap(
    metric: MetricFunction,
    predictions: ArrayLike,
    target: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    counts: NDArray[np.integer] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    generator: np.random.Generator | None = None,
    fewest: int = FEWEST_GROUPS,
) -> Interval:
    """A metric with its percentile bootstrap interval, whole groups being resampled.

    Args:
        metric: A `Metric`, or any ``function(predictions, target, *, weight=None)`` that takes (R, N) weights.
        predictions: As the metric wants them, (N, …).
        target: As the metric wants it, (N, …).
        groups: Group (patient) of each case, of shape (N,); None: every case is its own.
        counts: Counts of shape (R, N) from `resample_counts`, drawn once for all metrics, methods and subsets of
            cases (``counts[:, rows]``). They replace `groups`, `resamples` and `generator`.
        resamples: Number of resamples R.
        level: Coverage aimed at.
        generator: Source of the resamples.
        fewest: Groups below which no interval is given: percentile intervals are far too narrow for few.

    Returns:
        The interval. Its ends are NaN with a reason where there are too few groups, no resample is defined, or all
        resamples agree (at a metric's bound: twenty of twenty right say nothing about 1 to 1).

    Raises:
        ConfigurationError: If there is neither a generator nor counts, or there are counts and groups, or the level is
            not between 0 and 1.
        ShapeError, DataError: For groups, predictions, targets or counts that do not fit.

    Source:
        :cite:`efron1993bootstrap`, chapter 13.

    Example:
        >>> from amodal.metrics import METRICS
        >>> interval = bootstrap(METRICS["mae"], np.zeros(20), np.arange(20), generator=np.random.default_rng(0))
        >>> interval.low < interval.estimate == 9.5 < interval.high
        True
    """
    _check_level(level)
    values, problem = _resampled(
        lambda weight: resampled(metric, predictions, target, weight),
        _blocks(len(np.asarray(target)), groups, counts, resamples, generator),
        _too_few(len(np.asarray(target)), groups, counts, fewest),
    )
    return interval_of(metric, predictions, target, values, level=level, reason=problem)


def resampled(metric: MetricFunction, predictions: ArrayLike, target: ArrayLike, counts: NDArray) -> Value:
    """Values of a metric on resamples with counts (R, N), or its deviations, which intervals are made of."""
    deviation = metric.deviation if isinstance(metric, Metric) else None
    return (deviation or metric)(predictions, target, weight=counts)


def interval_of(
    metric: MetricFunction,
    predictions: ArrayLike,
    target: ArrayLike,
    values: NDArray[np.float64],
    *,
    level: float = 0.95,
    reason: str | None = None,
) -> Interval:
    """The interval of `bootstrap` from what `resampled` has given.

    Args:
        metric: As for `bootstrap`.
        predictions: As for `bootstrap`.
        target: As for `bootstrap`.
        values: Of shape (R,).
        level: Coverage aimed at.
        reason: Why there is no interval, if there is none.
    """
    estimate = _number(metric(predictions, target))
    reason = _why_undefined(metric, predictions, target, estimate) or reason
    if isinstance(metric, Metric) and metric.deviation is not None:
        found = Interval.from_deviations(estimate, values, bounds=metric.bounds, level=level, reason=reason)
    else:
        found = without_agreement(Interval.from_values(estimate, values, level=level, reason=reason))
    return replace(found, note=metric.of_how_many(predictions, target) if isinstance(metric, Metric) else None)


def without_agreement(interval: Interval) -> Interval:
    """An interval without ends where all resamples agree, which says nothing about other cases."""
    if interval.low < interval.high or np.isnan(interval.low):
        return interval
    nan = float("nan")
    return replace(interval, low=nan, high=nan, reason=interval.reason or "All resamples agree.")


def paired_difference(
    metric: MetricFunction,
    first: ArrayLike,
    second: ArrayLike,
    target: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    counts: NDArray[np.integer] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    generator: np.random.Generator | None = None,
    fewest: int = FEWEST_GROUPS,
) -> Difference:
    """The difference in a metric between two runs on the same cases, both measured on the same resamples.

    What makes a case hard is common to both runs and cancels, so that the interval is much narrower than the runs' own
    intervals suggest.

    Args:
        metric: As for `bootstrap`.
        first: Predictions of the first run, (N, …).
        second: Predictions of the second run for the same cases in the same order.
        target: Their common target.
        groups, counts, resamples, level, generator, fewest: As for `bootstrap`.

    Returns:
        The difference, first less second.

    Raises:
        AmodalError: As for `bootstrap`.

    Source:
        :cite:`efron1993bootstrap`, chapter 13.

    Example:
        >>> from amodal.metrics import METRICS
        >>> target, first, second = [0, 1, 0, 1, 1] * 20, [0.1, 0.9, 0.2, 0.7, 0.8] * 20, [0.4, 0.6, 0.6, 0.4, 0.7] * 20
        >>> difference = paired_difference(
        ...     METRICS["accuracy"], first, second, target, generator=np.random.default_rng(0))
        >>> round(difference.estimate, 3), difference.low > 0.2, difference.p_value < 0.01
        (0.4, True, True)
    """
    _check_level(level)
    a, b = _number(metric(first, target)), _number(metric(second, target))
    reason = _why_undefined(metric, first, target, a) or _why_undefined(metric, second, target, b)
    values, problem = _resampled(
        lambda weight: np.subtract(metric(first, target, weight=weight), metric(second, target, weight=weight)),
        _blocks(len(np.asarray(target)), groups, counts, resamples, generator),
        _too_few(len(np.asarray(target)), groups, counts, fewest),
    )
    return Difference.from_values(a - b, values, level=level, reason=reason or problem)


def _resampled(
    statistic: Callable[[NDArray[np.integer]], Value], blocks: Iterable[NDArray[np.integer]], problem: str | None
) -> tuple[NDArray[np.float64], str | None]:
    """A statistic of every resample, (R,), and why no interval can be made of it."""
    drawn = np.concatenate([np.atleast_1d(statistic(block)) for block in blocks])
    return (drawn, None) if problem is None else (np.full(len(drawn), np.nan), problem)


def _too_few(n_cases: int, groups: ArrayLike | None, counts: NDArray[np.integer] | None, fewest: int) -> str | None:
    if counts is not None:
        return too_few_groups(np.asarray(counts), fewest)
    n_groups = n_cases if groups is None else len(set(np.asarray(groups).astype(str).tolist()))
    return None if n_groups >= fewest else f"An interval needs at least {fewest} groups, and there are {n_groups}."


def _blocks(
    n_cases: int,
    groups: ArrayLike | None,
    counts: NDArray[np.integer] | None,
    resamples: int,
    generator: np.random.Generator | None,
) -> Iterable[NDArray[np.integer]]:
    """Counts of the resamples, (r, N) at a time."""
    if counts is not None:
        if groups is not None:
            raise ConfigurationError("counts and groups exclude each other", hint="Counts already resample groups.")
        if np.ndim(counts) != 2:
            raise ShapeError("counts need two axes", expected=f"(R, {n_cases})", got=np.shape(counts))
        return [counts]
    if generator is None:
        raise ConfigurationError(
            "a bootstrap needs a generator", hint="Pass generator=numpy.random.default_rng(seed), or counts."
        )
    if groups is not None and np.shape(groups) != (n_cases,):
        raise ShapeError("groups do not fit the cases", expected=f"({n_cases},)", got=np.shape(groups))
    if not n_cases:
        return [np.empty((resamples, 0), np.uint8)]
    return count_blocks(n_cases if groups is None else groups, resamples, generator, cells=CELLS)


def _why_undefined(metric: MetricFunction, predictions: ArrayLike, target: ArrayLike, value: float) -> str | None:
    if not np.isnan(value):
        return None
    stated = metric.why_undefined(predictions, target) if isinstance(metric, Metric) else None
    return stated or "The metric is undefined for these cases."


def _number(value: Value) -> float:
    if np.ndim(value):
        raise ShapeError("a metric must give one number for one set of cases", expected="()", got=np.shape(value))
    return float(value)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigurationError("the level of an interval is out of range", expected="0 < level < 1", got=level)


def _percentiles(values: ArrayLike, level: float) -> tuple[float, float, int, str | None]:
    """Lower and upper end, number of undefined values, and why there is no interval."""
    _check_level(level)
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ShapeError("bootstrap values need one axis", expected="(R,), one for each resample", got=array.shape)
    defined = array[~np.isnan(array)]
    undefined = len(array) - len(defined)
    if not len(defined):
        return float("nan"), float("nan"), undefined, "The metric is undefined in every resample."
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high), undefined, None
