"""The rules of a kind of task: what its target is, how outputs are scored and read, and the words for it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from amodal.errors import ShapeError, UnknownNameError

__all__ = ["OverLabels", "TaskKind"]

OverLabels = Literal["mean", "sum"]


class TaskKind(ABC):
    """Everything that depends on the kind of a task. A new kind subclasses this, or the kind nearest to it.

    Outputs are what the last layer of a network gives, (B, C); predictions are what they stand for.

    Attributes:
        name: Its name in schemas.
        one_class: Whether exactly one of several classes is true: int64 targets (B,), predictions (B, C).
        many_labels: Whether several labels are true or false, or unknown (NaN): float targets and predictions (B, K).
        one_value: Whether the target is a number with units: float (B,), predictions (B,).
        scales_target: Whether the target is standardised for training, and predictions are scaled back.
        has_errors: Whether a prediction is right or wrong.
        n_classes: How many classes a task must have, in words.
        fitting: The shapes of outputs and targets that `loss` takes, in words.
        headlines: Metrics that tables show first, the one to rank by in front.
        second_metrics: Metrics that the main table of a page shows after the headlines.
        gain_words: What a gain of information is measured in.
        calibration_words: What a curve of reliability shows, as a sentence.
        reliability_axes: Names of its axes.
        below_words: What a curve below the diagonal says.
        impact_note: What the variability of a prediction is, if that needs words.
    """

    name: ClassVar[str]
    one_class: ClassVar[bool] = False
    many_labels: ClassVar[bool] = False
    one_value: ClassVar[bool] = False
    scales_target: ClassVar[bool] = False
    has_errors: ClassVar[bool] = True
    n_classes: ClassVar[str]
    fitting: ClassVar[str]
    headlines: ClassVar[tuple[str, ...]]
    second_metrics: ClassVar[tuple[str, ...]] = ("nll", "ece")
    gain_words: ClassVar[str] = "log-likelihood (nats)"
    calibration_words: ClassVar[str]
    reliability_axes: ClassVar[tuple[str, str]] = ("stated", "came true")
    below_words: ClassVar[str] = "the model is too sure"
    impact_note: ClassVar[str] = ""

    # Targets -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def takes_classes(self, n: int) -> bool:
        """Whether a task of this kind may have n classes."""

    @abstractmethod
    def takes(self, outputs: Tensor, target: Tensor) -> bool:
        """Whether outputs (or predictions) and targets have shapes and types that fit each other."""

    def check(self, outputs: Tensor, target: Tensor) -> None:
        """Refuses outputs (or predictions) and targets that do not fit each other.

        Raises:
            ShapeError: If they do not.
        """
        if not self.takes(outputs, target):
            raise ShapeError(
                f"outputs and targets do not fit a {self.name} task",
                expected=self.fitting,
                got=f"{tuple(outputs.shape)} with {target.dtype} {tuple(target.shape)}",
            )

    def target_shape(self, n_outputs: int) -> tuple[int, ...]:
        """Shape of one row's target: a single entry, unless the kind has others."""
        return ()

    def unusable(self, target: np.ndarray) -> np.ndarray:
        """Flags of entries of a numeric target that cannot be used, bool of its shape: infinite ones in 32 bits."""
        return np.abs(target) > np.finfo(np.float32).max

    @abstractmethod
    def n_features(self, n_outputs: int) -> int:
        """Width of `features`."""

    @abstractmethod
    def features(self, target: Tensor, n_outputs: int) -> Tensor:
        """A target as an input of a network, (B, T)."""

    @abstractmethod
    def agreement(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Agreement (B, B) of every two rows' targets, and the rows that have one (B,); see `label_agreement`."""

    @abstractmethod
    def frequencies(self, target: np.ndarray, n_outputs: int, weight: np.ndarray | None = None) -> np.ndarray:
        """The prediction when nothing is known, from training targets: frequencies (C,), or the mean (1,).

        Args:
            target: Of N cases.
            n_outputs: Number of outputs C.
            weight: How much each case counts, (N,); None: all alike.
        """

    @abstractmethod
    def constant_outputs(self, total: Tensor, count: Tensor) -> Tensor:
        """Outputs (C,) that stand for `frequencies`, half a case added to each class.

        Args:
            total: Sum of the known targets (one-hot classes, labels, or values), (C,).
            count: Number of them, (C,).
        """

    @abstractmethod
    def groups(self, target: np.ndarray, classes: Sequence[Any]) -> dict[str, np.ndarray]:
        """Groups of cases by their target, each bool (N,): classes, labels, or thirds."""

    def outcomes(self, target: np.ndarray, classes: Sequence[Any]) -> dict[str, np.ndarray]:
        """The outcomes a case may have, each bool (N,); none for a value, one for two classes."""
        return self.groups(target, classes)

    @abstractmethod
    def target_columns(self, target: np.ndarray, classes: Sequence[Any]) -> dict[str, np.ndarray]:
        """A target (N,) or (N, K) as columns of a table."""

    @abstractmethod
    def read_columns(self, columns: Mapping[str, Any], classes: Sequence[Any]) -> np.ndarray:
        """The inverse of `target_columns`."""

    def prediction_columns(self, classes: Sequence[Any]) -> list[str]:
        """Names of a prediction's columns in a table: `p_<class>`."""
        return [f"p_{name}" for name in classes]

    # Outputs and predictions -----------------------------------------------------------------------------------------

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """Predictions (…, C), or (…) of values, that outputs (…, C) stand for."""

    @abstractmethod
    def outputs(self, predictions: Tensor) -> Tensor:
        """Outputs (…, C) whose predictions these are, up to the smallest normal number."""

    @abstractmethod
    def average(self, outputs: Tensor, observed: Tensor) -> Tensor:
        """Outputs (B, C) whose prediction is the mean of those of (B, M, C) where observed (B, M); zero elsewhere."""

    @abstractmethod
    def product(self, outputs: Tensor, counted: Tensor) -> Tensor:
        """Outputs (B, C) of the product of those experts (B, E, C) that are counted (B, E)."""

    # Scores --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def loss(self, outputs: Tensor, target: Tensor, over_labels: OverLabels = "mean") -> Tensor:
        """Loss of each row (B,) from outputs; see `amodal.losses.task.task_loss`."""

    def nats(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood of each row (B,), in nats, up to a constant."""
        return self.loss(outputs, target, "sum")

    @abstractmethod
    def prediction_loss(self, prediction: Tensor, target: Tensor, over_labels: OverLabels = "mean") -> Tensor:
        """The value of `loss` for the outputs of predictions."""

    def prediction_error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Share of what was predicted wrongly in each row, (B,).

        Raises:
            UnknownNameError: If predictions of this kind are not right or wrong.
        """
        raise UnknownNameError("kind of task with errors", self.name, ("binary", "multiclass", "multilabel"))

    # Predictive impact ---------------------------------------------------------------------------------------------

    @abstractmethod
    def distributions(self, predictions: Tensor) -> tuple[Tensor, Tensor | float]:
        """Distributions (S, B, C) whose variability, times a scale, is that of predictions (S, B, …).

        Returns:
            The distributions, and the scale: of shape (B,), or a number.
        """

    @abstractmethod
    def distance(self, after: Tensor, mean: Tensor) -> Tensor:
        """Distances (S, B) of predictions (S, B, …) to their mean (B, …)."""

    @property
    @abstractmethod
    def utilities(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The utilities of a prediction by name, the default in front: (…) of predictions (…, C), or of values (…)."""


def tiny_log(probability: Tensor) -> Tensor:
    """Logarithms of probabilities, those of zero as of the smallest normal number."""
    return probability.clamp_min(torch.finfo(probability.dtype).tiny).log()


def among(known: Tensor, agreement: Tensor) -> tuple[Tensor, Tensor]:
    """Agreement (B, B) of rows with a known target, zero for others, and which are known (B,)."""
    return torch.where(known[:, None] & known, agreement, 0.0), known


def log_mean(logs: Tensor, keep: Tensor) -> Tensor:
    """Logarithm of the mean of exp(logs) over what is kept along axis 1: (B, M, C) to (B, C); 0 where nothing is."""
    some = keep.any(1, keepdim=True)
    total = torch.where(keep | ~some, logs, -math.inf).logsumexp(1)
    return torch.where(some[:, 0], total - keep.sum(1).clamp(min=1).to(logs.dtype).log(), 0.0)
