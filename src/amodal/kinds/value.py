"""Tasks whose target is a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amodal.kinds.task import OverLabels, TaskKind, among

__all__ = ["Regression"]


class Regression(TaskKind):
    """A number with units, standardised for training: float (B,); outputs (B, 1) are means, predictions (B,)."""

    name = "regression"
    one_value = scales_target = True
    has_errors = False
    n_classes = "no"
    fitting = "(B, 1) or (B,) with targets (B,)"
    headlines = ("mae", "kappa")
    second_metrics = ("rmse",)
    gain_words = "squared error"
    calibration_words = "What was predicted against what was observed, in bins of as many cases each."
    reliability_axes = ("predicted", "observed")
    below_words = "predictions are too high"
    impact_note = "V is the mean absolute deviation of the predicted value, in the target's units."

    def takes_classes(self, n: int) -> bool:
        """None."""
        return n == 0

    def takes(self, outputs: Tensor, target: Tensor) -> bool:
        """One value a row."""
        rows = outputs.shape[:1]
        return outputs.shape in (rows, (*rows, 1)) and target.shape == rows

    def n_features(self, n_outputs: int) -> int:
        """One."""
        return 1

    def features(self, target: Tensor, n_outputs: int) -> Tensor:
        """The value, 0 where unknown."""
        return torch.nan_to_num(target)[:, None]

    def agreement(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """A normal kernel as wide as the standardised targets' standard deviation."""
        known = ~target.isnan()
        value = torch.where(known, target, 0.0)
        return among(known, (-0.5 * (value[:, None] - value).square()).exp())

    def frequencies(self, target: np.ndarray, n_outputs: int, weight: np.ndarray | None = None) -> np.ndarray:
        """The mean."""
        if weight is None:
            return np.array([np.nanmean(target)], dtype=np.float64)
        known = ~np.isnan(target)
        return np.array([np.average(target[known], weights=weight[known])], dtype=np.float64)

    def constant_outputs(self, total: Tensor, count: Tensor) -> Tensor:
        """The mean."""
        return total / count.clamp(min=1)

    def groups(self, target: np.ndarray, classes: Sequence[Any]) -> dict[str, np.ndarray]:
        """Thirds."""
        edges = np.unique(np.nanquantile(target, [1 / 3, 2 / 3]))
        place = np.where(np.isnan(target), -1, np.searchsorted(edges, target, side="right"))
        return {name: place == k for k, name in enumerate(("lowest third", "middle third", "highest third"))}

    def outcomes(self, target: np.ndarray, classes: Sequence[Any]) -> dict[str, np.ndarray]:
        """None."""
        return {}

    def target_columns(self, target: np.ndarray, classes: Sequence[Any]) -> dict[str, np.ndarray]:
        """The value."""
        return {"target": target}

    def read_columns(self, columns: Mapping[str, Any], classes: Sequence[Any]) -> np.ndarray:
        """The values, float32 (N,)."""
        return np.asarray(columns["target"], dtype=np.float32)

    def prediction_columns(self, classes: Sequence[Any]) -> list[str]:
        """One: `prediction`."""
        return ["prediction"]

    def predictions(self, outputs: Tensor) -> Tensor:
        """The means."""
        return outputs.squeeze(-1)

    def outputs(self, predictions: Tensor) -> Tensor:
        """The means, with an axis."""
        return predictions[..., None]

    def average(self, outputs: Tensor, observed: Tensor) -> Tensor:
        """The mean."""
        return outputs.sum(1) / observed.sum(1, keepdim=True).clamp(min=1)

    def product(self, outputs: Tensor, counted: Tensor) -> Tensor:
        """The mean, as of normal experts with one variance."""
        return torch.where(counted[..., None], outputs, 0.0).sum(1) / counted.sum(1, keepdim=True).clamp_min(1)

    def loss(self, outputs: Tensor, target: Tensor, over_labels: OverLabels = "mean") -> Tensor:
        """Squared error; 0, connected to the graph, where the target is unknown."""
        target = target.to(outputs.dtype)
        return torch.where(target.isnan(), 0.0, outputs.view(-1) - torch.nan_to_num(target)).square()

    def nats(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Half the squared error: a normal distribution of unit variance, without the constant."""
        return 0.5 * self.loss(outputs, target)

    def prediction_loss(self, prediction: Tensor, target: Tensor, over_labels: OverLabels = "mean") -> Tensor:
        """Squared error; 0 where the target is unknown."""
        return self.loss(prediction, target)

    def distributions(self, predictions: Tensor) -> tuple[Tensor, Tensor | float]:
        """On the scale of a case's own range, the coin whose variability is the mean absolute deviation over it."""
        low, high = predictions.aminmax(dim=0)
        spread = high - low
        share = (predictions - low) / torch.where(spread > 0, spread, 1.0)
        return torch.stack([1 - share, share], dim=-1), spread

    def distance(self, after: Tensor, mean: Tensor) -> Tensor:
        """Absolute difference."""
        return (after - mean).abs()

    @property
    def utilities(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Squared error: the mean of the squares less the square of the mean is the variance."""
        return {"squared_error": torch.square}
