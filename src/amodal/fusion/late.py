"""Late fusion: the average of predictions instead of features."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.errors import ShapeError
from amodal.kinds import task_kind

__all__ = ["average_predictions"]


def average_predictions(outputs: Tensor, observed: Tensor, kind: str) -> Tensor:
    r"""Outputs whose prediction is the mean of the observed modalities' predictions.

    With :math:`p_m` the probabilities that the outputs of modality m stand for,

    .. math:: \bar p_c = \frac{1}{|O|} \sum_{m \in O} p_{mc}

    computed from logarithms, so that no probability is rounded to zero. The result is again logits: :math:`\log \bar p`
    for one class of several, :math:`\log \bar p - \log (1 - \bar p)` for each label, and for regression the mean.

    Args:
        outputs: Of shape (B, M, C): logits, or means (C = 1). Absent entries are never read.
        observed: Presence, bool, of shape (B, M).
        kind: The task's kind.

    Returns:
        Of shape (B, C). Rows with nothing observed have zeros.

    Raises:
        ShapeError: If the presence does not fit the outputs.

    Source:
        The sum rule of :cite:`kittler1998combining`, section 3.3.

    Example:
        >>> import math
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
    return task_kind(kind).average(torch.where(observed[..., None], outputs, 0.0), observed)
