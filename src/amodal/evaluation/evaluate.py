"""Evaluation of a model: under a mechanism, and with every pattern of presence imposed in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.errors import DataError
from amodal.evaluation.intervals import (
    checked_cases,
    errors_of_draws,
    mean_interval,
    pattern_intervals,
    rows_of_patterns,
    weighted_metric,
)
from amodal.evaluation.results import Evaluation, PatternEvaluation
from amodal.metrics import Interval, Metric, resample_counts
from amodal.metrics.intervals import interval_of, resampled
from amodal.metrics.resampling import too_few_groups
from amodal.missingness import Mechanism, Natural, all_patterns, pattern_codes, pattern_label
from amodal.pattern_predictions import PatternPredictions
from amodal.presence import draw_presence

__all__ = ["evaluate", "evaluate_patterns"]


def evaluate(
    model: TrainedModel,
    cohort: Cohort,
    missingness: Mechanism | None = None,
    *,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
    resamples: int = 1000,
    on_empty: str = "warn",
    batch_size: int = 1024,
) -> Evaluation:
    """Evaluates a model on a cohort under a missingness mechanism, for each pattern that occurs and overall.

    Of more than 32 patterns those of fewer than 30 cases are taken together.

    Args:
        model: A trained model.
        cohort: Cases, of which the N with a label are evaluated, each as much as its `weight` says.
        missingness: Further removal; None leaves the natural absence as it is.
        seed: Seed of the removal and of the bootstrap; the same seed gives every model the same presence.
        metrics: Names of the metrics; None takes all of the task's.
        resamples: Number of bootstrap resamples (whole groups).
        on_empty: See `TrainedModel.predict`.
        batch_size: Rows a batch of predictions.

    Returns:
        Predictions and metrics with 95 % percentile intervals.

    Raises:
        DataError: If the cohort is empty or no case has a label.
        UnknownNameError: If a metric is not one of the task's.

    Example:
        >>> import amodal
        >>> from amodal.missingness import MCAR
        >>> cohort = amodal.load_cohort("digits")
        >>> model = amodal.fit("fusion", cohort.split("train"), cohort.split("valid"), epochs=1, seed=0)
        >>> table = amodal.evaluate(model, cohort.split("test"), MCAR(0.5), seed=1, resamples=50).table(["accuracy"])
        >>> table.columns.tolist()
        ['pattern', 'modalities', 'n', 'accuracy', 'accuracy_low', 'accuracy_high']
    """
    cohort, target, chosen = checked_cases(model, cohort, metrics)
    presence = draw_presence(missingness or Natural(), cohort, (seed, 2))
    cases = cohort.with_observed(presence.observed)
    predictions = model.predict(cases, on_empty=on_empty, batch_size=batch_size)
    rows = rows_of_patterns(presence) | {"overall": np.ones(len(cohort), dtype=bool)}
    weighted = {
        pattern: {name: weighted_metric(metric, cohort.weight, some) for name, metric in chosen.items()}
        for pattern, some in rows.items()
    }
    generator = np.random.default_rng((seed, 3))
    intervals = pattern_intervals(weighted, rows, predictions, target, cohort.groups, resamples, generator)
    return Evaluation(
        task=model.schema.task,
        presence=presence,
        predictions=predictions,
        target=target,
        ids=cohort.ids,
        groups=cohort.groups,
        intervals=intervals,
        counts={pattern: int(chosen_rows.sum()) for pattern, chosen_rows in rows.items()},
        seed=seed,
        resamples=resamples,
        missingness=missingness or Natural(),
        weight=cohort.weight,
        draw_errors=errors_of_draws(model, cases, predictions, target, chosen, rows, batch_size),
    )


def evaluate_patterns(
    model: TrainedModel,
    cohort: Cohort,
    patterns: NDArray[np.bool_] | None = None,
    *,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
    resamples: int = 1000,
    batch_size: int = 1024,
    store: Path | None = None,
    tell: Callable[[int, int], object] | None = None,
) -> PatternEvaluation:
    """Evaluates a model with presence patterns imposed in turn on the same cases.

    Args:
        model: A trained model.
        cohort: Cases, of which the N with a label are evaluated; they have every modality that a pattern asks for.
        patterns: Patterns to impose, bool (P, M); None imposes all 2^M − 1.
        seed: Seed of the bootstrap.
        metrics: Names of the metrics; None takes all of the task's.
        resamples: Number of bootstrap resamples (whole groups), common to all patterns.
        batch_size: Rows a batch of predictions.
        store: File that the predictions are kept in (.npy, (P, N, …), memory-mapped) instead of memory. They are stored
            pattern by pattern, and the same call after an interruption goes on with those that are there.
        tell: Called with the patterns done and P after each of them.

    Returns:
        Predictions and metrics for each pattern, and their mean over the patterns, with 95 % intervals.

    Raises:
        DataError: If a pattern asks for a modality that some case lacks, or there are no targets.
    """
    cohort, target, chosen = checked_cases(model, cohort, metrics)
    names = cohort.schema.names
    chosen = {name: weighted_metric(metric, cohort.weight) for name, metric in chosen.items()}
    patterns = all_patterns(len(names)) if patterns is None else np.asarray(patterns, dtype=bool)
    _check_patterns(patterns, cohort)
    counts = resample_counts(cohort.groups, resamples, np.random.default_rng((seed, 3)))
    few = too_few_groups(counts)
    predictions = PatternPredictions(model, cohort, patterns, store, batch_size)
    intervals, values = {}, []
    everybody = np.ones(len(cohort), dtype=bool)
    for place, pattern in enumerate(patterns):
        cases = cohort.with_observed(np.broadcast_to(pattern, cohort.observed.shape))
        predicted = predictions.of(place, cases)
        label = pattern_label(int(pattern_codes(pattern[None])[0]), names)
        if label not in predictions.draw_errors:
            found = errors_of_draws(model, cases, predicted, target, chosen, {label: everybody}, batch_size)
            predictions.keep_errors(label, found.get(label))
        row, intervals[label] = {}, {}
        for name, metric in chosen.items():
            row[name], intervals[label][name] = _on_resamples(metric, predicted, target, counts, few)
        values.append(row)
        if tell is not None:
            tell(place + 1, len(patterns))
    intervals["mean"] = {
        name: mean_interval(
            metric, np.stack([row[name][0] for row in values]), np.stack([row[name][1] for row in values]), few
        )
        for name, metric in chosen.items()
    }
    return PatternEvaluation(
        task=model.schema.task,
        names=names,
        patterns=patterns,
        predictions=predictions.finish(),
        target=target,
        groups=cohort.groups,
        intervals=intervals,
        seed=seed,
        resamples=resamples,
        draw_errors={label: dict(errors) for label, errors in predictions.draw_errors.items() if errors is not None},
    )


def _on_resamples(
    metric: Metric, predicted: NDArray, target: NDArray, counts: NDArray, few: str | None
) -> tuple[tuple[float, NDArray], Interval]:
    """A metric, its values (R,) on resamples, and its interval; `few` says why there is none."""
    drawn = np.atleast_1d(resampled(metric, predicted, target, counts))
    kept = drawn if few is None else np.full(len(drawn), np.nan)
    value = float(metric(predicted, target))
    return (value, drawn), interval_of(metric, predicted, target, kept, reason=few)


def _check_patterns(patterns: NDArray[np.bool_], cohort: Cohort) -> None:
    lacking = (patterns.any(0) & ~cohort.observed).any(axis=1)
    if lacking.any():
        raise DataError(
            f"{int(lacking.sum())} of {len(cohort)} cases lack a modality that a pattern asks for",
            hint="Take the complete cases only: cohort.take(np.flatnonzero(cohort.observed.all(1))).",
        )
