"""Late fusion: the average of predictions instead of features."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from amodal.errors import ShapeError
from amodal.schema import TaskKind

__all__ = ["average_predictions"]


def average_predictions(outputs: Tensor, observed: Tensor, kind: TaskKind) -> Tensor:
    r"""Outputs whose prediction is the mean of the observed modalities' predictions.

    With :math:`p_m` the probabilities that the outputs of modality m stand for,

    .. math:: \bar p_c = \frac{1}{|O|} \sum_{m \in O} p_{mc}

    computed from logarithms, so that no probability is rounded to zero. The result is again logits: :math:`\log \bar p`
    for one class of several, :math:`\log \bar p - \log (1 - \bar p)` for each label, and for regression the mean.

    Args:
        outputs: Of shape (B, M, C): logits, or means (C = 1). What stands in absent entries does not matter.
        observed: Presence, bool, of shape (B, M).
        kind: The task's kind.

    Returns:
        Of shape (B, C). Rows with nothing observed have zeros.

    Raises:
        ShapeError: If the presence does not fit the outputs.

    Source:
        The sum rule of :cite:`kittler1998combining`, section 3.3.

    Example:
        >>> sure, unsure = [math.log(0.9), math.log(0.1)], [math.log(0.5), math.log(0.5)]
        >>> average_predictions(torch.tensor([[sure, unsure]]), torch.tensor([[True, True]]), "binary").softmax(1)
        tensor([[0.7000, 0.3000]])
    """
    if outputs.ndim != 3 or observed.shape != outputs.shape[:2] or observed.dtype != torch.bool:
        raise ShapeError(
            "presence does not fit the outputs",
            expected="outputs (B, M, C) and bool (B, M)",
            got=f"{tuple(outputs.shape)} and {observed.dtype} {tuple(observed.shape)}",
        )
    keep = observed[..., None]
    outputs = torch.where(keep, outputs, 0.0)
    if kind == "regression":
        return outputs.sum(1) / observed.sum(1, keepdim=True).clamp(min=1)
    if kind == "multilabel":
        return _log_mean(functional.logsigmoid(outputs), keep) - _log_mean(functional.logsigmoid(-outputs), keep)
    return _log_mean(outputs.log_softmax(2), keep)


def _log_mean(logs: Tensor, keep: Tensor) -> Tensor:
    """Logarithm of the mean of exp(logs) over the kept modalities: (B, M, C) to (B, C)."""
    some = keep.any(1, keepdim=True)
    total = torch.where(keep | ~some, logs, -math.inf).logsumexp(1)
    return torch.where(some[:, 0], total - keep.sum(1).clamp(min=1).to(logs.dtype).log(), 0.0)
