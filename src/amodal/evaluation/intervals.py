"""Parts of an evaluation: the cases and metrics that count, intervals by pattern, and what draws leave open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.errors import DataError, UnknownNameError
from amodal.method import SamplingMethod
from amodal.metrics import Interval, Metric, metrics_for
from amodal.metrics.intervals import CELLS, interval_of, resampled
from amodal.metrics.resampling import count_blocks, too_few_groups
from amodal.missingness import Presence, pattern_codes, pattern_label
from amodal.schema import Task

__all__ = [
    "checked_cases",
    "chosen_metrics",
    "errors_of_draws",
    "labelled_cases",
    "mean_interval",
    "pattern_intervals",
    "rows_of_patterns",
    "weighted_metric",
]

_SETS_OF_DRAWS = 4
_MANY_PATTERNS, _FEW_CASES = 32, 30  # of more patterns those of fewer cases are taken together


def labelled_cases(cohort: Cohort) -> Cohort:
    """The cases of a cohort whose label is known, which are the ones that can be judged.

    Raises:
        DataError: If there are none.
    """
    if not cohort.labelled.any():
        raise DataError(
            "no case has a label to evaluate against",
            expected=f"cases whose {cohort.schema.task.name!r} is known",
            hint="Use model.predict for cases without.",
        )
    return cohort if cohort.labelled.all() else cohort.take(cohort.labelled)


def checked_cases(
    model: TrainedModel, cohort: Cohort, metrics: Sequence[str] | None
) -> tuple[Cohort, NDArray, dict[str, Metric]]:
    """The cases with a label, their targets, and the metrics."""
    if not len(cohort):
        raise DataError("there are no cases to evaluate", hint="Check the name of the split.")
    if cohort.target is None:
        raise DataError("the cohort has no targets to evaluate against", hint="Use model.predict for new cases.")
    cohort = labelled_cases(cohort)
    target = cohort.with_task(model.schema.task).target
    assert target is not None
    return cohort, target, chosen_metrics(model.schema.task, metrics)


def chosen_metrics(task: Task, metrics: Sequence[str] | None) -> dict[str, Metric]:
    """The metrics of a task by name; None: all.

    Raises:
        UnknownNameError: If one is not of the task's.
    """
    known = metrics_for(task.kind, bins=task.bins)
    for name in metrics or ():
        if name not in known:
            raise UnknownNameError(f"metric of a {task.kind} task", name, known)
    return known if metrics is None else {name: known[name] for name in metrics}


def weighted_metric(metric: Metric, weight: NDArray | None, rows: NDArray[np.bool_] | slice = slice(None)) -> Metric:
    """The metric of some cases, each as much as it counts."""
    return metric if weight is None else metric.weighted(weight[rows])


def rows_of_patterns(presence: Presence) -> dict[str, NDArray[np.bool_]]:
    """The rows (N,) of each pattern, those with most modalities first; of many patterns the rare ones are one."""
    codes = pattern_codes(presence.observed)
    found, which, counts = np.unique(codes, return_inverse=True, return_counts=True)
    own = counts >= (_FEW_CASES if len(found) > _MANY_PATTERNS else 0)
    order = sorted(np.flatnonzero(own), key=lambda i: (-int(found[i]).bit_count(), -int(counts[i])))
    rows = {pattern_label(int(found[i]), presence.names): which == i for i in order}
    if not own.all():
        rows[f"{int((~own).sum())} patterns of fewer than {_FEW_CASES} cases"] = ~own[which]
    return rows


def pattern_intervals(
    metrics: Mapping[str, Mapping[str, Metric]],
    rows: Mapping[str, NDArray[np.bool_]],
    predictions: NDArray,
    target: NDArray,
    groups: NDArray,
    resamples: int,
    generator: np.random.Generator,
) -> dict[str, dict[str, Interval]]:
    """Intervals of each pattern's metrics on common resamples, which are drawn some at a time, for all patterns."""
    values: dict[str, dict[str, list]] = {pattern: {name: [] for name in some} for pattern, some in metrics.items()}
    few: dict[str, str | None] = {}
    for counts in count_blocks(groups, resamples, generator, cells=CELLS):
        for pattern, some in rows.items():
            part = counts if some.all() else counts[:, some]
            few.setdefault(pattern, too_few_groups(part))
            for name, metric in metrics[pattern].items():
                values[pattern][name].append(resampled(metric, predictions[some], target[some], part))
    result: dict[str, dict[str, Interval]] = {pattern: {} for pattern in rows}
    for pattern, some in rows.items():
        for name, metric in metrics[pattern].items():
            drawn = np.concatenate([np.atleast_1d(part) for part in values[pattern][name]])
            if few[pattern] is not None:
                drawn = np.full(len(drawn), np.nan)
            result[pattern][name] = interval_of(metric, predictions[some], target[some], drawn, reason=few[pattern])
    return result


def mean_interval(metric: Metric, values: NDArray, drawn: NDArray, problem: str | None) -> Interval:
    """The mean over patterns, (P,), and its interval from values (or deviations) on common resamples, (P, R)."""
    estimate, drawn = float(values.mean()), drawn.mean(axis=0) if problem is None else np.full(drawn.shape[1], np.nan)
    if metric.deviation is not None:
        return Interval.from_deviations(estimate, drawn, bounds=metric.bounds, reason=problem)
    return Interval.from_values(estimate, drawn, reason=problem)


def errors_of_draws(
    model: TrainedModel,
    cases: Cohort,
    predictions: NDArray,
    target: NDArray,
    chosen: Mapping[str, Metric],
    rows: Mapping[str, NDArray[np.bool_]],
    batch_size: int,
) -> dict[str, dict[str, float]]:
    """Standard deviations of metrics over sets of draws, of which one gave the predictions; nothing without draws."""
    if not (isinstance(model.method, SamplingMethod) and model.method.averages_draws):
        return {}
    others = [
        model.predict(cases, on_empty="silent", draw_seed=seed, batch_size=batch_size)
        for seed in range(1, _SETS_OF_DRAWS)
    ]
    if all(np.array_equal(predictions, other) for other in others):
        return {}
    errors = {
        pattern: {
            name: float(np.std([float(metric(part[some], target[some])) for part in (predictions, *others)], ddof=1))
            for name, metric in chosen.items()
        }
        for pattern, some in rows.items()
    }
    return {  # without those of metrics that are undefined
        pattern: {name: value for name, value in of_pattern.items() if np.isfinite(value)}
        for pattern, of_pattern in errors.items()
    }
