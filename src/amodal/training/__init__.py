"""Training: the only place with an optimiser loop."""

from amodal.settings import TrainingSettings
from amodal.training.fit import fit

__all__ = ["TrainingSettings", "fit"]
