"""amodal: learning from several modalities when some of them are missing.

The public names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "Batch": "amodal.batch",
    "Cases": "amodal.cases",
    "Cohort": "amodal.data.cohort",
    "Evaluation": "amodal.evaluation",
    "METHODS": "amodal.methods",
    "MissingModalityClassifier": "amodal.estimator",
    "MissingModalityRegressor": "amodal.estimator",
    "Modality": "amodal.schema",
    "Schema": "amodal.schema",
    "Task": "amodal.schema",
    "TrainedModel": "amodal.checkpoint",
    "compare": "amodal.evaluation",
    "evaluate": "amodal.evaluation",
    "fit": "amodal.training",
    "impact": "amodal.predictive_impact.model",
    "load": "amodal.estimator",
    "load_cohort": "amodal.data",
}

__all__ = [
    "METHODS",
    "Batch",
    "Cases",
    "Cohort",
    "Evaluation",
    "MissingModalityClassifier",
    "MissingModalityRegressor",
    "Modality",
    "Schema",
    "Task",
    "TrainedModel",
    "compare",
    "evaluate",
    "fit",
    "impact",
    "load",
    "load_cohort",
]

if TYPE_CHECKING:
    from amodal.batch import Batch
    from amodal.cases import Cases
    from amodal.checkpoint import TrainedModel
    from amodal.data import load_cohort
    from amodal.data.cohort import Cohort
    from amodal.estimator import MissingModalityClassifier, MissingModalityRegressor, load
    from amodal.evaluation import Evaluation, compare, evaluate
    from amodal.methods import METHODS
    from amodal.predictive_impact.model import impact
    from amodal.schema import Modality, Schema, Task
    from amodal.training import fit


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'amodal' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
