"""Predictive impact of missing modalities: variability, plausible labels, bias, advice on acquisition.

``amodal.impact(model, cohort)`` is :func:`amodal.predictive_impact.model.impact`. Functions of arrays of draws are
imported from here, ``from amodal.predictive_impact import variability``. Of a trained model it knows only what
`Predictor` says.
"""

from __future__ import annotations

from amodal.predictive_impact.acquisition import acquisition_curve, fixed_order, random_start
from amodal.predictive_impact.advice import Advice
from amodal.predictive_impact.advising import advise
from amodal.predictive_impact.attribution import Attribution, attribute
from amodal.predictive_impact.bias import distance_table, total_variation
from amodal.predictive_impact.conformal import conformal_labels, conformal_threshold
from amodal.predictive_impact.costs import Costs
from amodal.predictive_impact.curves import area_under, budget_curve
from amodal.predictive_impact.donors import DonorCompletions
from amodal.predictive_impact.model import impact
from amodal.predictive_impact.plausible import PlausibleLabels, labels_by_share, plausible_labels
from amodal.predictive_impact.predictor import Predictor
from amodal.predictive_impact.reliability import change_curve, rank_correlation, realised_change
from amodal.predictive_impact.result import Impact
from amodal.predictive_impact.strata import ecdf, ecdf_table, plausible_labels_by_stratum, variability_by_stratum
from amodal.predictive_impact.utility import net_benefit, utility_function
from amodal.predictive_impact.variability import (
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
    "Advice",
    "Attribution",
    "Costs",
    "DonorCompletions",
    "Impact",
    "PlausibleLabels",
    "Predictor",
    "acquisition_curve",
    "advise",
    "area_under",
    "attribute",
    "budget_curve",
    "change_curve",
    "conformal_labels",
    "conformal_threshold",
    "distance_table",
    "ecdf",
    "ecdf_table",
    "fixed_order",
    "impact",
    "labels_by_share",
    "modality_standard_error",
    "modality_variability",
    "multilabel_variability",
    "net_benefit",
    "normalised_variability",
    "plausible_labels",
    "plausible_labels_by_stratum",
    "random_start",
    "rank_correlation",
    "realised_change",
    "regression_variability",
    "standard_error",
    "total_variation",
    "utility_function",
    "variability",
    "variability_bound",
    "variability_by_stratum",
    "variability_gap",
]
