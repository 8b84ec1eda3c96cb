"""Metrics for each presence pattern and overall, with intervals; every pattern imposed in turn; paired comparisons."""

from amodal.evaluation.comparison import compare, degradation
from amodal.evaluation.evaluate import evaluate, evaluate_patterns
from amodal.evaluation.intervals import labelled_cases
from amodal.evaluation.results import Evaluation, PatternEvaluation, prediction_columns

__all__ = [
    "Evaluation",
    "PatternEvaluation",
    "compare",
    "degradation",
    "evaluate",
    "evaluate_patterns",
    "labelled_cases",
    "prediction_columns",
]
