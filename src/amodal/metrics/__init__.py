"""Metrics: functions of predictions and targets, with intervals and paired comparisons.

A metric takes predictions, a target, and weights: ``auroc(probabilities, target, weight=counts)`` with (R, N) counts of
R bootstrap resamples gives R values from one sort. Draw the counts once with `resample_counts` and use them for every
metric, method and subset of cases. `METRICS` and `metrics_for` hold them by name.
"""

from __future__ import annotations

from amodal.metrics.agreement import LENGTH_OF_STAY_DAYS, cohen_kappa, mean_absolute_error, root_mean_squared_error
from amodal.metrics.calibration import (
    ReliabilityCurve,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_curve,
)
from amodal.metrics.discrimination import accuracy, auprc, auroc, balanced_accuracy, counted_labels
from amodal.metrics.intervals import Difference, Interval, bootstrap, paired_difference
from amodal.metrics.registry import METRICS, Metric, metrics_for
from amodal.metrics.resampling import resample_counts
from amodal.metrics.significance import (
    BootstrapTTest,
    adjust_p_values,
    paired_bootstrap_p_value,
    two_sample_bootstrap_t_test,
)

__all__ = [
    "LENGTH_OF_STAY_DAYS",
    "METRICS",
    "BootstrapTTest",
    "Difference",
    "Interval",
    "Metric",
    "ReliabilityCurve",
    "accuracy",
    "adjust_p_values",
    "auprc",
    "auroc",
    "balanced_accuracy",
    "bootstrap",
    "brier_score",
    "cohen_kappa",
    "counted_labels",
    "expected_calibration_error",
    "mean_absolute_error",
    "metrics_for",
    "negative_log_likelihood",
    "paired_bootstrap_p_value",
    "paired_difference",
    "reliability_curve",
    "resample_counts",
    "root_mean_squared_error",
    "two_sample_bootstrap_t_test",
]
