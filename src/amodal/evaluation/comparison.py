"""Comparisons: metrics as more is removed, and paired differences between runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.evaluation.evaluate import evaluate
from amodal.evaluation.intervals import chosen_metrics, weighted_metric
from amodal.evaluation.results import Evaluation
from amodal.metrics import Difference, paired_difference, resample_counts
from amodal.missingness import MCAR, Mechanism

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare", "degradation"]


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
    asked = chosen_metrics(first.task, metrics)
    chosen = {name: weighted_metric(metric, first.weight) for name, metric in asked.items()}
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
