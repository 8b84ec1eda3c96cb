"""Training: the only place with an optimiser loop (Lightning underneath)."""

from amodal.training.fit import fit
from amodal.training.run import draw_presence
from amodal.training.settings import TrainingSettings

__all__ = ["TrainingSettings", "draw_presence", "fit"]
