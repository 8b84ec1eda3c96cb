"""The scikit-learn face: estimators of several modalities of which some are missing."""

from amodal.estimator.estimators import MissingModalityClassifier, MissingModalityRegressor, load

__all__ = ["MissingModalityClassifier", "MissingModalityRegressor", "load"]
