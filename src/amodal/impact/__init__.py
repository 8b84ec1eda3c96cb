"""What could a missing modality still change? Variability, plausible labels, bias, acquisition.

The package can be called: ``amodal.impact(model, cohort)`` is :func:`amodal.impact.model.impact`. Functions of arrays
of draws are imported from it, ``from amodal.impact import variability``, and so is what says which missing modality to
look at next, ``from amodal.impact import advise``. What needs a trained model is loaded when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from amodal.impact.acquisition import Advice, acquisition_curve, advise
    from amodal.impact.donors import DonorCompletions
    from amodal.impact.model import impact
    from amodal.impact.result import Impact

_WHERE = {
    "Advice": "amodal.impact.acquisition",
    "acquisition_curve": "amodal.impact.acquisition",
    "advise": "amodal.impact.acquisition",
    "DonorCompletions": "amodal.impact.donors",
    "Impact": "amodal.impact.result",
    "impact": "amodal.impact.model",
}

__all__ = [
    "Advice",
    "DonorCompletions",
    "Impact",
    "PlausibleLabels",
    "acquisition_curve",
    "advise",
    "change_curve",
    "distance_table",
    "ecdf",
    "ecdf_table",
    "impact",
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


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'amodal.impact' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


class _CallableModule(ModuleType):
    """A module that is also a function: the public face promises both `amodal.impact(…)` and this package."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """See :func:`amodal.impact.model.impact`."""
        return import_module("amodal.impact.model").impact(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
