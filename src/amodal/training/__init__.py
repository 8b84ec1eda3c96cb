"""Training: the only place with an optimiser loop."""

from amodal.training.fit import fit
from amodal.training.settings import TrainingSettings

__all__ = ["TrainingSettings", "fit"]
