"""What could a missing modality still change? Variability, plausible labels, bias, acquisition."""

from __future__ import annotations

from amodal.impact.bias import distance_table, total_variation
from amodal.impact.plausible import PlausibleLabels, plausible_labels
from amodal.impact.reliability import change_curve, rank_correlation, realised_change
from amodal.impact.strata import ecdf, ecdf_table, plausible_labels_by_stratum, variability_by_stratum
from amodal.impact.variability import (
    modality_standard_error,
    modality_variability,
    multilabel_variability,
    normalised_variability,
    regression_variability,
    standard_error,
    variability,
    variability_bound,
    variability_gap,
)

__all__ = [
    "PlausibleLabels",
    "change_curve",
    "distance_table",
    "ecdf",
    "ecdf_table",
    "modality_standard_error",
    "modality_variability",
    "multilabel_variability",
    "normalised_variability",
    "plausible_labels",
    "plausible_labels_by_stratum",
    "rank_correlation",
    "realised_change",
    "regression_variability",
    "standard_error",
    "total_variation",
    "variability",
    "variability_bound",
    "variability_by_stratum",
    "variability_gap",
]
