"""The metrics by name: what each applies to, which way is better, and how a table calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from amodal.errors import ConfigurationError
from amodal.metrics.agreement import cohen_kappa, mean_absolute_error, root_mean_squared_error
from amodal.metrics.calibration import (
    brier_score,
    calibration_error_deviation,
    expected_calibration_error,
    negative_log_likelihood,
)
from amodal.metrics.discrimination import accuracy, auprc, auroc, balanced_accuracy, counted_labels
from amodal.metrics.resampling import Value

__all__ = ["METRICS", "Metric", "metrics_for"]

_CLASSES = ("one_class", "many_labels")
_INFINITY = float("inf")


@dataclass(frozen=True)
class Metric:
    """A metric as tables, plots and comparisons need it; it is called like its function.

    Args:
        name: Key in `METRICS`, in files and in columns.
        label: As a person reads it.
        function: ``function(predictions, target, *, weight=None)``.
        forms: Forms of target it applies to: attributes of `amodal.kinds.TaskKind`, one of which must be true.
        higher_is_better: Whether more is better.
        requires: What must be among the cases for it to be defined, as a noun.
        bounds: Smallest and largest possible value, for axes.
        needs_bins: Whether it can only be called after `metrics_for` has given it the task's bins.
        deviation: For a metric that resampling biases, ``deviation(predictions, target, *, weight)``: how far it can be
            from the truth, on each resample; its interval is made of this instead of percentiles.
        over_labels: Whether it is a mean over those classes or labels that have positive and negative cases.

    Example:
        >>> METRICS["auroc"]([0.1, 0.9], [0, 1])
        1.0
    """

    name: str
    label: str
    function: Callable[..., Value]
    forms: tuple[str, ...]
    higher_is_better: bool
    requires: str = "at least one case"
    bounds: tuple[float, float] = (0.0, 1.0)
    needs_bins: bool = False
    deviation: Callable[..., Value] | None = None
    over_labels: bool = False

    def __call__(self, predictions: ArrayLike, target: ArrayLike, *, weight: ArrayLike | None = None) -> Value:
        """Value for predictions and a target, or (R,) values for weights of shape (R, N).

        Raises:
            ConfigurationError: If the metric lacks the bins it needs.
            ShapeError, DataError: For predictions, targets or weights that do not fit.
        """
        if self.needs_bins:
            raise ConfigurationError(
                f"{self.label} needs the bins of the task", hint="Take it from metrics_for(kind, bins=task.bins)."
            )
        return self.function(predictions, target, weight=weight)

    def weighted(self, weight: ArrayLike) -> Metric:
        """The same metric of cases that count differently.

        Args:
            weight: How much each case counts, (N,); resamples multiply it.

        Example:
            >>> METRICS["accuracy"].weighted([3, 1])([0.9, 0.9], [1, 0])
            0.75
        """
        own = np.asarray(weight, dtype=np.float64)

        def of(function: Callable[..., Value]) -> Callable[..., Value]:
            def value(predictions: ArrayLike, target: ArrayLike, *, weight: ArrayLike | None = None) -> Value:
                return function(predictions, target, weight=own if weight is None else np.asarray(weight) * own)

            return value

        deviation = None if self.deviation is None else of(self.deviation)
        return replace(self, function=of(self.function), deviation=deviation)

    def why_undefined(self, predictions: ArrayLike, target: ArrayLike) -> str | None:
        """The reason why the value is NaN for these cases, in a sentence; None if it is defined.

        Example:
            >>> METRICS["auroc"].why_undefined([0.1, 0.9], [0, 0])
            'AUROC needs cases of at least two classes, and all 2 cases have the target 0.'
        """
        if not np.isnan(self(predictions, target)):
            return None
        y = np.asarray(target)
        found = f"the {len(y)} cases have none"
        if y.ndim == 1 and len(y) and (y == y[0]).all():
            found = f"all {len(y)} cases have the target {y[0]:g}"
        return f"{self.label} needs {self.requires}, and {found}."

    def of_how_many(self, predictions: ArrayLike, target: ArrayLike) -> str | None:
        """That it is a mean over some of the labels only, in words; None if it is over all, or no mean over labels.

        Example:
            >>> METRICS["auroc"].of_how_many([[0.1, 0.9], [0.2, 0.8]], [[0, 1], [1, 1]])
            '1 of 2 labels'
        """
        if not self.over_labels:
            return None
        counted, labels = counted_labels(predictions, target)
        what = "labels" if np.ndim(target) == 2 else "classes"
        return f"{counted} of {labels} {what}" if 0 < counted < labels else None


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "Accuracy", accuracy, _CLASSES, True),
        Metric("balanced_accuracy", "Balanced accuracy", balanced_accuracy, _CLASSES, True),
        Metric("auroc", "AUROC", auroc, _CLASSES, True, requires="cases of at least two classes", over_labels=True),
        Metric("auprc", "AUPRC", auprc, _CLASSES, True, requires="cases of at least two classes", over_labels=True),
        Metric("nll", "NLL (nats)", negative_log_likelihood, _CLASSES, False, bounds=(0.0, _INFINITY)),
        Metric("brier", "Brier", brier_score, _CLASSES, False, bounds=(0.0, 2.0)),
        Metric(
            "ece",
            "Calibration error",
            partial(expected_calibration_error, debiased=True),
            _CLASSES,
            False,
            deviation=calibration_error_deviation,
        ),
        Metric(
            "mae",
            "MAE",
            mean_absolute_error,
            ("one_value",),
            False,
            bounds=(0.0, _INFINITY),
        ),
        Metric(
            "rmse",
            "RMSE",
            root_mean_squared_error,
            ("one_value",),
            False,
            bounds=(0.0, _INFINITY),
        ),
        Metric(
            "kappa",
            "Kappa (linear)",
            cohen_kappa,
            ("one_value",),
            True,
            requires="targets or predictions in more than one bin",
            bounds=(-1.0, 1.0),
            needs_bins=True,
        ),
    )
}
"""Every metric by its name."""


def metrics_for(kind: str, *, bins: Sequence[float] = ()) -> dict[str, Metric]:
    """The metrics of a kind of task, headlines first, ready to be called.

    Args:
        kind: A name of `amodal.kinds.TASK_KINDS`.
        bins: Inner edges of a regression target's bins (`Task.bins`); without them kappa is left out.

    Returns:
        Metrics by name.

    Raises:
        UnknownNameError: If the kind is not known.

    Example:
        >>> list(metrics_for("regression", bins=(24.0, 48.0)))
        ['mae', 'kappa', 'rmse']
    """
    from amodal.kinds import task_kind  # brings torch

    traits = task_kind(kind)
    names = [*traits.headlines, *(name for name in METRICS if name not in traits.headlines)]
    chosen = {
        name: METRICS[name] for name in names if any(getattr(traits, form, False) for form in METRICS[name].forms)
    }
    return {
        name: replace(metric, function=partial(metric.function, bins=tuple(bins)), needs_bins=False)
        if metric.needs_bins
        else metric
        for name, metric in chosen.items()
        if len(bins) or not metric.needs_bins
    }
