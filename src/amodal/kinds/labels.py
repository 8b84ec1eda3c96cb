"""Tasks of several labels, each true, false or unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from amodal.errors import ConfigurationError
from amodal.kinds.task import OverLabels, TaskKind, among, log_mean, tiny_log

__all__ = ["Multilabel"]


class Multilabel(TaskKind):
    """K labels, each 1, 0 or NaN (unknown): float (B, K); logits and probabilities (B, K)."""

    name = "multilabel"
    many_labels = True
    n_classes = "one or more"
    fitting = "(B, K) with floating targets of the same shape"
    headlines = ("auroc", "auprc")
    calibration_words = (
        "How often a label was true, against the probability that was stated for it, all labels together."
    )
    impact_note = "V is the mean over labels."

    def takes_classes(self, n: int) -> bool:
        """One or more."""
        return n >= 1

    def takes(self, outputs: Tensor, target: Tensor) -> bool:
        """Floating targets of the outputs' shape."""
        return outputs.dim() == 2 and target.shape == outputs.shape and target.is_floating_point()

    def target_shape(self, n_outputs: int) -> tuple[int, ...]:
        """One entry a label."""
        return (n_outputs,)

    def unusable(self, target: np.ndarray) -> np.ndarray:
        """Those that are not 0, 1 or NaN."""
        return ~(np.isnan(target) | (target == 0) | (target == 1))

    def n_features(self, n_outputs: int) -> int:
        """Two a label."""
        return 2 * n_outputs

    def features(self, target: Tensor, n_outputs: int) -> Tensor:
        """The labels, 0 where unknown, and which are known."""
        known = ~target.isnan()
        return torch.cat([torch.where(known, target, 0.0), known.to(target.dtype)], dim=1)

    def agreement(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Labels true in both over labels true in either, of those known in both."""
        known = ~target.isnan()
        true, told = torch.where(known, target, 0.0), known.to(target.dtype)
        both = true @ true.mT
        either = true @ told.mT + told @ true.mT - both
        agreement = torch.where(either > 0, both / either.clamp_min(1.0), 1.0)
        return among(known.any(1), agreement)

    def frequencies(self, target: np.ndarray, n_outputs: int, weight: np.ndarray | None = None) -> np.ndarray:
        """Shares of the known cases in which each label is true; one half where none is known."""
        if weight is None:
            return np.nan_to_num(np.nanmean(target, axis=0), nan=0.5)
        known = weight @ ~np.isnan(target)  # (K,)
        return np.where(known > 0, weight @ np.nan_to_num(target) / np.where(known > 0, known, 1), 0.5)

    def constant_outputs(self, total: Tensor, count: Tensor) -> Tensor:
        """Log odds of each label."""
        return torch.log((total + 0.5) / (count - total + 0.5))

    def groups(self, target: np.ndarray, classes: Sequence[Any]) -> dict[str, np.ndarray]:
        """One a label: where it is true."""
        return {str(name): target[:, k] == 1 for k, name in enumerate(classes)}

    def target_columns(self, target: np.ndarray, classes: Sequence[Any]) -> dict[str, np.ndarray]:
        """One a label."""
        return {f"target_{name}": target[:, i] for i, name in enumerate(classes)}

    def read_columns(self, columns: Mapping[str, Any], classes: Sequence[Any]) -> np.ndarray:
        """The labels, float32 (N, K)."""
        return np.stack([np.asarray(columns[f"target_{name}"], dtype=np.float32) for name in classes], axis=1)

    def predictions(self, outputs: Tensor) -> Tensor:
        """The logistic function of each label."""
        return outputs.sigmoid()

    def outputs(self, predictions: Tensor) -> Tensor:
        """Log odds."""
        return tiny_log(predictions) - tiny_log(1 - predictions)

    def average(self, outputs: Tensor, observed: Tensor) -> Tensor:
        """Log odds of the mean probability."""
        keep = observed[..., None]
        return log_mean(functional.logsigmoid(outputs), keep) - log_mean(functional.logsigmoid(-outputs), keep)

    def product(self, outputs: Tensor, counted: Tensor) -> Tensor:
        """Sum of the logits."""
        return torch.where(counted[..., None], outputs, 0.0).sum(1)

    def loss(self, outputs: Tensor, target: Tensor, over_labels: OverLabels = "mean") -> Tensor:
        """Binary cross-entropy over the known labels, in nats; 0, connected to the graph, if none is known."""
        known = ~target.isnan()
        truth = torch.where(known, target, torch.zeros_like(target)).to(outputs.dtype)
        losses = functional.binary_cross_entropy_with_logits(outputs, truth, reduction="none")
        return _over_labels(losses, known, over_labels)

    def prediction_loss(self, prediction: Tensor, target: Tensor, over_labels: OverLabels = "mean") -> Tensor:
        """Binary cross-entropy of probabilities."""
        known = ~target.isnan()
        true = torch.where(known, target, torch.zeros_like(target)).to(prediction.dtype)
        losses = -(true * tiny_log(prediction) + (1 - true) * tiny_log(1 - prediction))
        return _over_labels(losses, known, over_labels)

    def prediction_error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Share of the known labels that are wrong; 0 if none is known."""
        known = ~target.isnan()
        wrong = ((prediction >= 0.5) != (target >= 0.5)).to(prediction.dtype)
        return _over_labels(wrong * known, known, "mean")

    def distributions(self, predictions: Tensor) -> tuple[Tensor, Tensor | float]:
        """The mixture of the labels' coins, whose variability is the mean over labels."""
        return torch.cat([1 - predictions, predictions], dim=-1) / predictions.shape[-1], 1.0

    def distance(self, after: Tensor, mean: Tensor) -> Tensor:
        """Mean absolute difference over labels."""
        return (after - mean).abs().mean(-1)

    @property
    def utilities(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Expected log-likelihood, added up, and accuracy, averaged over labels."""
        return {
            "log_likelihood": lambda p: (torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).sum(-1),
            "accuracy": lambda p: torch.maximum(p, 1 - p).mean(-1),
        }


def _over_labels(losses: Tensor, known: Tensor, how: str) -> Tensor:
    if how not in ("mean", "sum"):
        raise ConfigurationError("labels cannot be reduced so", expected="'mean' or 'sum'", got=repr(how))
    total = torch.where(known, losses, torch.zeros_like(losses)).sum(1)
    return total / known.sum(1).clamp_min(1) if how == "mean" else total
