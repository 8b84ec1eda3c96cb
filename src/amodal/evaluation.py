"""Metrics for each presence pattern and overall, with intervals; every pattern imposed in turn; paired comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.errors import ConfigurationError, DataError, RunError, UnknownNameError
from amodal.files import plain_json, replace_file, write_json
from amodal.method import SamplingMethod
from amodal.metrics import Difference, Interval, Metric, metrics_for, paired_difference, resample_counts
from amodal.metrics.intervals import CELLS, interval_of, resampled
from amodal.metrics.resampling import count_blocks, too_few_groups
from amodal.missingness import MCAR, Mechanism, Natural, Presence, all_patterns, pattern_codes, pattern_label
from amodal.pattern_predictions import PatternPredictions
from amodal.presence import draw_presence
from amodal.schema import Task
from amodal.seal import seal

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Evaluation",
    "PatternEvaluation",
    "compare",
    "degradation",
    "evaluate",
    "evaluate_patterns",
    "labelled_cases",
]

_NOTHING = "none"
_SETS_OF_DRAWS = 4
_MANY_PATTERNS, _FEW_CASES = 32, 30  # of more patterns those of fewer cases are taken together


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a model for a cohort under one drawing of who is absent, with the metrics of every pattern.

    Attributes:
        task: What was predicted.
        presence: Who was absent: rates, pattern counts, hash.
        predictions: (N, C), (N, K) or (N,).
        target: The truth.
        ids: The cases.
        groups: Their groups, which the bootstrap resamples whole.
        intervals: {pattern: {metric: Interval}}; the pattern "overall" has all cases.
        counts: Number of cases of each pattern.
        seed: Seed of the removal and of the resamples.
        resamples: Number of bootstrap resamples.
        missingness: What the presence was drawn by.
        weight: How much each case counts in the metrics; None: all alike.
        draw_errors: {pattern: {metric: error}} of a method that averages over draws: standard deviation of the metric
            over other draws of the same number. Empty for other methods.
    """

    task: Task
    presence: Presence
    predictions: NDArray
    target: NDArray
    ids: NDArray
    groups: NDArray
    intervals: dict[str, dict[str, Interval]]
    counts: dict[str, int]
    seed: int
    resamples: int
    missingness: Mechanism = field(default_factory=Natural)
    weight: NDArray | None = None
    draw_errors: dict[str, dict[str, float]] = field(default_factory=dict)

    def table(self, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """One row a pattern, those with most modalities first, and the row "overall" at the end.

        Args:
            metrics: Names of the metrics to show; None shows all.

        Returns:
            Columns: pattern, modalities (how many are present), n, and for each metric its value, `<metric>_low` and
            `<metric>_high` (the 95 % interval; NaN where it is not defined: fewer than ten groups, or all resamples
            agree); `<metric>_over` where a mean does not run over all labels everywhere, `<metric>_draw_error` for a
            method that averages over draws.
        """
        return _table(self.intervals, self.counts, self.presence.names, metrics, self.draw_errors)

    def to_json(self) -> dict[str, object]:
        """Metrics, intervals, realised presence and seed, as plain JSON values."""
        return {
            "seed": self.seed,
            "resamples": self.resamples,
            "missingness": self.missingness.to_json(),
            "rates": self.presence.rates,
            "presence_hash": self.presence.hash,
            "patterns": [
                {
                    "pattern": pattern,
                    "n": self.counts[pattern],
                    "metrics": {name: _interval_json(interval) for name, interval in row.items()},
                    **({"draw_errors": self.draw_errors[pattern]} if self.draw_errors else {}),
                }
                for pattern, row in self.intervals.items()
            ],
        }

    def save(self, folder: str | Path) -> Path:
        """Writes metrics.json, predictions.parquet and test_presence.npz into a folder, each complete or not at all.

        The folder of the evaluated run may be taken: `presence.npz` there is that of the training rows, and stays.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error
        frame = self.frame()
        replace_file(folder / "predictions.parquet", lambda path: frame.to_parquet(path, index=False))
        replace_file(folder / "test_presence.npz", self.presence.save)
        record = plain_json(self.to_json())
        write_json(folder / "metrics.json", seal(record, folder, ("predictions.parquet", "test_presence.npz")))
        return folder

    def frame(self) -> pd.DataFrame:
        """One row a case: id, group, pattern, the prediction's columns, and the target."""
        import pandas as pd

        frame = pd.DataFrame({"id": self.ids, "group": self.groups})
        frame["pattern"] = _labels(self.presence)
        columns = prediction_columns(self.task)
        values = self.predictions if self.predictions.ndim == 2 else self.predictions[:, None]
        for i, column in enumerate(columns):
            frame[column] = values[:, i]
        for column, part in self.task.traits.target_columns(self.target, self.task.classes).items():
            frame[column] = part
        return frame


@dataclass(frozen=True)
class PatternEvaluation:
    """Metrics of a model with every presence pattern imposed in turn on the same cases.

    Attributes:
        task: What was predicted.
        names: Names of the modalities.
        patterns: The P patterns imposed, bool, of shape (P, M).
        predictions: For each pattern, in order: (P, N, C), (P, N, K) or (P, N).
        target: The truth, common to all patterns.
        groups: Groups of the cases.
        intervals: {pattern: {metric: Interval}}; the pattern "mean" is the mean over the patterns, on common resamples.
        seed: Seed of the resamples.
        resamples: Number of bootstrap resamples.
        draw_errors: As in `Evaluation`, but for the mean.
    """

    task: Task
    names: tuple[str, ...]
    patterns: NDArray[np.bool_]
    predictions: NDArray
    target: NDArray
    groups: NDArray
    intervals: dict[str, dict[str, Interval]]
    seed: int
    resamples: int
    draw_errors: dict[str, dict[str, float]] = field(default_factory=dict)

    def table(self, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """As `Evaluation.table`, with the row "mean" at the end."""
        counts = dict.fromkeys(self.intervals, len(self.target))
        return _table(self.intervals, counts, self.names, metrics, self.draw_errors)


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
    cohort, target, chosen = _checked(model, cohort, metrics)
    presence = draw_presence(missingness or Natural(), cohort, (seed, 2))
    cases = cohort.with_observed(presence.observed)
    predictions = model.predict(cases, on_empty=on_empty, batch_size=batch_size)
    rows = _rows_of_patterns(presence) | {"overall": np.ones(len(cohort), dtype=bool)}
    weighted = {
        pattern: {name: _weighted(metric, cohort.weight, some) for name, metric in chosen.items()}
        for pattern, some in rows.items()
    }
    generator = np.random.default_rng((seed, 3))
    intervals = _intervals(weighted, rows, predictions, target, cohort.groups, resamples, generator)
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
        draw_errors=_draw_errors(model, cases, predictions, target, chosen, rows, batch_size),
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
    cohort, target, chosen = _checked(model, cohort, metrics)
    names = cohort.schema.names
    chosen = {name: _weighted(metric, cohort.weight) for name, metric in chosen.items()}
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
            found = _draw_errors(model, cases, predicted, target, chosen, {label: everybody}, batch_size)
            predictions.keep_errors(label, found.get(label))
        row, intervals[label] = {}, {}
        for name, metric in chosen.items():
            drawn = np.atleast_1d(resampled(metric, predicted, target, counts))
            row[name] = metric(predicted, target), drawn
            kept = drawn if few is None else np.full(len(drawn), np.nan)
            intervals[label][name] = interval_of(metric, predicted, target, kept, reason=few)
        values.append(row)
        if tell is not None:
            tell(place + 1, len(patterns))
    intervals["mean"] = {
        name: _mean_interval(
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


def _check_patterns(patterns: NDArray[np.bool_], cohort: Cohort) -> None:
    lacking = (patterns.any(0) & ~cohort.observed).any(axis=1)
    if lacking.any():
        raise DataError(
            f"{int(lacking.sum())} of {len(cohort)} cases lack a modality that a pattern asks for",
            hint="Take the complete cases only: cohort.take(np.flatnonzero(cohort.observed.all(1))).",
        )


def degradation(
    model: TrainedModel,
    cohort: Cohort,
    rates: Iterable[float],
    *,
    mechanism: Callable[[float], Mechanism] = MCAR,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
    resamples: int = 1000,
) -> pd.DataFrame:
    """The fall of a model's metrics as more modalities are removed.

    Args:
        model: A trained model.
        cohort: Cases with targets.
        rates: Per-modality marginal rates of removal, after the repair that keeps one modality.
        mechanism: A mechanism that takes a rate.
        seed: Seed of removal and bootstrap; the resamples are common to all rates.
        metrics: Names of the metrics; None takes all of the task's.
        resamples: Number of bootstrap resamples.

    Returns:
        One row a rate and metric: rate, realised_rate, metric, value, low, high.
    """
    import pandas as pd

    rows = []
    for rate in rates:
        result = evaluate(
            model,
            cohort,
            mechanism(rate) if rate else None,
            seed=seed,
            metrics=metrics,
            resamples=resamples,
        )
        realised = float(np.mean(list(result.presence.rates.values())))
        for name, interval in result.intervals["overall"].items():
            rows.append((float(rate), realised, name, interval.estimate, interval.low, interval.high))
    return pd.DataFrame(rows, columns=["rate", "realised_rate", "metric", "value", "low", "high"])


def compare(
    evaluations: Mapping[str, Evaluation], reference: str | None = None, *, metrics: Sequence[str] | None = None
) -> pd.DataFrame:
    """Paired differences between runs on the same cases under the same presence.

    Args:
        evaluations: Evaluations by name of the run; all of the same cohort, mechanism and seed.
        reference: The run that the others are compared with; None takes the first.
        metrics: Names of the metrics; None takes the headline ones.

    Returns:
        One row a run and metric: run, reference, metric, difference (run less reference), low, high, p_value.

    Raises:
        ConfigurationError: If the runs saw other cases or another presence.
        UnknownNameError: If there is no such reference.
    """
    import pandas as pd

    names = list(evaluations)
    base = names[0] if reference is None else reference
    if base not in evaluations:
        raise UnknownNameError("run", base, names)
    first = evaluations[base]
    chosen = {name: _weighted(metric, first.weight) for name, metric in _chosen(first.task, metrics).items()}
    counts = resample_counts(first.groups, first.resamples, np.random.default_rng((first.seed, 3)))
    rows = []
    for name, other in evaluations.items():
        if name == base:
            continue
        if other.presence.hash != first.presence.hash or not np.array_equal(other.ids, first.ids):
            raise ConfigurationError(
                f"runs {name!r} and {base!r} were not evaluated on the same cases under the same presence",
                hint="Evaluate both on one cohort with the same mechanism and seed.",
            )
        for metric_name, metric in chosen.items():
            found: Difference = paired_difference(
                metric, other.predictions, first.predictions, first.target, counts=counts
            )
            rows.append((name, base, metric_name, found.estimate, found.low, found.high, found.p_value))
    return pd.DataFrame(rows, columns=["run", "reference", "metric", "difference", "low", "high", "p_value"])


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


def prediction_columns(task: Task) -> list[str]:
    """Names of a prediction's columns in files: `p_<class>` for probabilities, `prediction` for a regression."""
    return task.traits.prediction_columns(task.classes)


def _checked(
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
    return cohort, target, _chosen(model.schema.task, metrics)


def _chosen(task: Task, metrics: Sequence[str] | None) -> dict[str, Metric]:
    known = metrics_for(task.kind, bins=task.bins)
    for name in metrics or ():
        if name not in known:
            raise UnknownNameError(f"metric of a {task.kind} task", name, known)
    return known if metrics is None else {name: known[name] for name in metrics}


def _weighted(metric: Metric, weight: NDArray | None, rows: NDArray[np.bool_] | slice = slice(None)) -> Metric:
    """The metric of some cases, each as much as it counts."""
    return metric if weight is None else metric.weighted(weight[rows])


def _intervals(
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


def _draw_errors(
    model: TrainedModel,
    cases: Cohort,
    predictions: NDArray,
    target: NDArray,
    chosen: Mapping[str, Metric],
    rows: Mapping[str, NDArray[np.bool_]],
    batch_size: int,
) -> dict[str, dict[str, float]]:
    """Standard deviations of metrics over sets of draws, of which one gave the predictions; nothing without draws."""
    if not isinstance(model.method, SamplingMethod):
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


def _mean_interval(metric: Metric, values: NDArray, drawn: NDArray, problem: str | None) -> Interval:
    """The mean over patterns, (P,), and its interval from values (or deviations) on common resamples, (P, R)."""
    estimate, drawn = float(values.mean()), drawn.mean(axis=0) if problem is None else np.full(drawn.shape[1], np.nan)
    if metric.deviation is not None:
        return Interval.from_deviations(estimate, drawn, bounds=metric.bounds, reason=problem)
    return Interval.from_values(estimate, drawn, reason=problem)


def _rows_of_patterns(presence: Presence) -> dict[str, NDArray[np.bool_]]:
    """The rows (N,) of each pattern, those with most modalities first; of many patterns the rare ones are one."""
    codes = pattern_codes(presence.observed)
    found, which, counts = np.unique(codes, return_inverse=True, return_counts=True)
    own = counts >= (_FEW_CASES if len(found) > _MANY_PATTERNS else 0)
    order = sorted(np.flatnonzero(own), key=lambda i: (-int(found[i]).bit_count(), -int(counts[i])))
    rows = {pattern_label(int(found[i]), presence.names): which == i for i in order}
    if not own.all():
        rows[f"{int((~own).sum())} patterns of fewer than {_FEW_CASES} cases"] = ~own[which]
    return rows


def _labels(presence: Presence) -> NDArray[np.str_]:
    codes = pattern_codes(presence.observed)
    unique, inverse = np.unique(codes, return_inverse=True)
    return np.array([pattern_label(int(code), presence.names) for code in unique])[inverse]


def _table(
    intervals: Mapping[str, Mapping[str, Interval]],
    counts: Mapping[str, int],
    names: Sequence[str],
    metrics: Sequence[str] | None,
    draw_errors: Mapping[str, Mapping[str, float]],
) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for pattern, row in intervals.items():
        present = [name for name in pattern.split("+") if name in names]
        record = {
            "pattern": pattern,
            "modalities": len(present) or (0 if pattern == _NOTHING else np.nan),
            "n": counts[pattern],
        }
        for name in metrics or row:
            if name not in row:
                raise UnknownNameError("evaluated metric", name, row)
            record |= {name: row[name].estimate, f"{name}_low": row[name].low, f"{name}_high": row[name].high}
            if any(other[name].note for other in intervals.values()):
                record[f"{name}_over"] = row[name].note or "all"
            if draw_errors:
                record[f"{name}_draw_error"] = draw_errors.get(pattern, {}).get(name, np.nan)
        rows.append(record)
    return pd.DataFrame(rows)


def _interval_json(interval: Interval) -> dict[str, float | str | None]:
    values = {"value": interval.estimate, "low": interval.low, "high": interval.high}
    return {k: None if np.isnan(v) else v for k, v in values.items()} | (
        {key: text for key in ("reason", "note") if (text := getattr(interval, key))}
    )
