"""Tasks in which exactly one class is true: two classes, or more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from amodal.batch import UNKNOWN_CLASS
from amodal.kinds.task import OverLabels, TaskKind, among, log_mean, tiny_log

__all__ = ["Binary", "Multiclass", "OneClass"]


class OneClass(TaskKind):
    """One of C classes is true: positions int64 (B,), -1 = unknown, or probabilities (B, C); outputs (B, C)."""

    one_class = True

    def takes(self, outputs: Tensor, target: Tensor) -> bool:
        """Outputs (B, C) with positions (B,), or with probabilities of the same shape."""
        soft = target.shape == outputs.shape and target.is_floating_point()
        hard = target.shape == outputs.shape[:1] and target.dtype == torch.int64
        return outputs.dim() == 2 and (soft or hard)

    def n_features(self, n_outputs: int) -> int:
        """One a class."""
        return n_outputs

    def features(self, target: Tensor, n_outputs: int) -> Tensor:
        """One-hot classes, int64, zeros where unknown; or the probabilities as they are."""
        if target.is_floating_point():
            return target
        return functional.one_hot(target + 1, n_outputs + 1)[..., 1:]  # the column of -1 falls away

    def agreement(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """The same class, or the probability of drawing the same."""
        if target.is_floating_point():
            known = ~target.isnan().any(1)
            probability = torch.where(known[:, None], target, 0.0)
            return among(known, probability @ probability.mT)
        return among(target >= 0, (target[:, None] == target).float())

    def frequencies(self, target: np.ndarray, n_outputs: int, weight: np.ndarray | None = None) -> np.ndarray:
        """Shares of the classes."""
        known = target != UNKNOWN_CLASS
        counts = np.bincount(target[known], None if weight is None else weight[known], minlength=n_outputs)
        return counts / (counts.sum() or 1)

    def constant_outputs(self, total: Tensor, count: Tensor) -> Tensor:
        """Logarithms of the classes' shares."""
        return torch.log((total + 0.5) / (count + 0.5 * len(total)))

    def groups(self, target: np.ndarray, classes: Sequence[Any]) -> dict[str, np.ndarray]:
        """One a class."""
        return {str(name): target == k for k, name in enumerate(classes)}

    def target_columns(self, target: np.ndarray, classes: Sequence[Any]) -> dict[str, np.ndarray]:
        """The classes' names, None where unknown."""
        return {"target": np.array([*map(str, classes), None], dtype=object)[target]}

    def read_columns(self, columns: Mapping[str, Any], classes: Sequence[Any]) -> np.ndarray:
        """Positions of the names, -1 where there is none."""
        places = {str(name): i for i, name in enumerate(classes)}
        return np.array([UNKNOWN_CLASS if x is None else places[str(x)] for x in columns["target"]], dtype=np.int64)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Softmax."""
        return outputs.softmax(-1)

    def outputs(self, predictions: Tensor) -> Tensor:
        """Logarithms."""
        return tiny_log(predictions)

    def average(self, outputs: Tensor, observed: Tensor) -> Tensor:
        """Logarithm of the mean probability."""
        return log_mean(outputs.log_softmax(2), observed[..., None])

    def product(self, outputs: Tensor, counted: Tensor) -> Tensor:
        """Sum of the log-probabilities, normalised."""
        return torch.where(counted[..., None], outputs.log_softmax(-1), 0.0).sum(1).log_softmax(-1)

    def loss(self, outputs: Tensor, target: Tensor, over_labels: OverLabels = "mean") -> Tensor:
        """Cross-entropy, in nats; 0, connected to the graph, where the class is unknown."""
        target = target.to(outputs.dtype) if target.is_floating_point() else target
        return functional.cross_entropy(outputs, target, reduction="none", ignore_index=UNKNOWN_CLASS)

    def prediction_loss(self, prediction: Tensor, target: Tensor, over_labels: OverLabels = "mean") -> Tensor:
        """Cross-entropy of probabilities; 0 where the class is unknown."""
        if target.is_floating_point():
            return -(target.to(prediction.dtype) * tiny_log(prediction)).sum(1)
        losses = -tiny_log(prediction).gather(1, target.clamp_min(0)[:, None]).squeeze(1)
        return torch.where(target == UNKNOWN_CLASS, 0.0, losses)

    def prediction_error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Whether the most probable class is wrong; 0 where the class is unknown."""
        classes = target.argmax(1) if target.is_floating_point() else target
        return ((prediction.argmax(1) != classes) & (classes != UNKNOWN_CLASS)).to(prediction.dtype)

    def distributions(self, predictions: Tensor) -> tuple[Tensor, Tensor | float]:
        """The probabilities."""
        return predictions, 1.0

    def distance(self, after: Tensor, mean: Tensor) -> Tensor:
        """Total variation."""
        return 0.5 * (after - mean).abs().sum(-1)

    @property
    def utilities(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Expected log-likelihood and accuracy."""
        return {"log_likelihood": lambda p: torch.xlogy(p, p).sum(-1), "accuracy": lambda p: p.amax(-1)}


class Binary(OneClass):
    """Two classes, of which the second is the event."""

    name = "binary"
    n_classes = "two"
    fitting = "(B, 2) with int64 (B,) or floating targets of the same shape"
    headlines = ("auroc", "auprc")
    calibration_words = "How often the event came true, against the probability that was stated for it."

    def takes_classes(self, n: int) -> bool:
        """Two."""
        return n == 2

    def takes(self, outputs: Tensor, target: Tensor) -> bool:
        """Two columns."""
        return super().takes(outputs, target) and outputs.shape[1] == 2

    def outcomes(self, target: np.ndarray, classes: Sequence[Any]) -> dict[str, np.ndarray]:
        """The event."""
        return {str(classes[1]): target == 1}


class Multiclass(OneClass):
    """Two or more classes without order."""

    name = "multiclass"
    n_classes = "two or more"
    fitting = "(B, C) with int64 (B,) or floating targets of the same shape"
    headlines = ("accuracy", "auroc")
    calibration_words = (
        "How often the most probable class was the true one, against the probability that was stated for it."
    )

    def takes_classes(self, n: int) -> bool:
        """Two or more."""
        return n >= 2
