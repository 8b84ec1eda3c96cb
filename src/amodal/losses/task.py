"""Losses of a prediction task, one value for each row."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from amodal.kinds import TaskKind, task_kind

__all__ = ["logits_to_predictions", "prediction_error", "prediction_loss", "task_loss"]


def task_loss(
    logits: Tensor,
    target: Tensor,
    kind: str,
    *,
    over_labels: Literal["mean", "sum"] = "mean",
) -> Tensor:
    r"""Loss of each row from the outputs of a network, without a reduction over rows.

    =============  ======================  ========================================  ================================
    kind           outputs                 target                                    value of a row
    =============  ======================  ========================================  ================================
    binary         (B, 2) logits           int64 (B,), or probabilities (B, 2)       cross-entropy, in nats
    multiclass     (B, C) logits           int64 (B,), or probabilities (B, C)       cross-entropy, in nats
    multilabel     (B, K) logits           0, 1 or NaN (unknown), of shape (B, K)    binary cross-entropy, in nats,
                                                                                     over the labels that are known
    regression     (B, 1) or (B,) means    (B,) values                               squared error
    =============  ======================  ========================================  ================================

    Args:
        logits: Outputs of the network, as in the table.
        target: Targets, as in the table. Probabilities (soft labels) are floating and add up to one in each row.
        kind: A name of `amodal.kinds.TASK_KINDS`.
        over_labels: Whether a multilabel row is the ``"mean"`` over its known labels, so that rows with few known
            labels count as much as others, or their ``"sum"``, so that labels count alike. A row without any known
            label is zero, connected to the graph.

    Returns:
        One value for each row, of shape (B,), float32 at least.

    Raises:
        UnknownNameError: If the kind is not known.
        ShapeError: If outputs and targets do not fit each other and the kind.
        ConfigurationError: If an option cannot be used.

    Example:
        >>> import torch
        >>> task_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), "binary")  # log 2
        tensor([0.6931])
        >>> task_loss(torch.tensor([[0.0, 9.0]]), torch.tensor([[1.0, float("nan")]]), "multilabel")
        tensor([0.6931])
    """
    return _checked(kind, logits, target).loss(_at_least_float32(logits), target, over_labels)


def prediction_loss(
    prediction: Tensor,
    target: Tensor,
    kind: str,
    *,
    over_labels: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Loss of each row from predictions instead of logits: what :func:`task_loss` gives for their logits.

    Args:
        prediction: Probabilities of shape (B, C) or (B, K), or means of shape (B,), as methods predict them. The
            logarithm of a probability of zero counts as that of the smallest normal number of the floating type.
        target: As in :func:`task_loss`.
        kind: As in :func:`task_loss`.
        over_labels: As in :func:`task_loss`.

    Returns:
        One value for each row, of shape (B,): negative log-likelihood in nats, or squared error.

    Raises:
        UnknownNameError: If the kind is not known.
        ShapeError: If predictions and targets do not fit each other and the kind.

    Example:
        >>> import torch
        >>> prediction_loss(torch.tensor([[0.75, 0.25]]), torch.tensor([1]), "binary")  # log 4
        tensor([1.3863])
    """
    return _checked(kind, prediction, target).prediction_loss(_at_least_float32(prediction), target, over_labels)


def prediction_error(prediction: Tensor, target: Tensor, kind: str) -> Tensor:
    """Whether each row's most probable class is wrong; with several labels, the share of its known labels that are.

    Args:
        prediction: As in :func:`prediction_loss`.
        target: As in :func:`task_loss`.
        kind: As in :func:`task_loss`, but not regression.

    Returns:
        One value between 0 and 1 for each row, of shape (B,); 0 for a row without a known label.

    Raises:
        UnknownNameError: If the kind is not known, or regression.
        ShapeError: If predictions and targets do not fit each other and the kind.

    Example:
        >>> import torch
        >>> prediction_error(torch.tensor([[0.75, 0.25], [0.6, 0.4]]), torch.tensor([0, 1]), "binary")
        tensor([0., 1.])
    """
    return _checked(kind, prediction, target).prediction_error(_at_least_float32(prediction), target)


def logits_to_predictions(logits: Tensor, kind: str) -> Tensor:
    """Predictions that the outputs of a network stand for.

    Args:
        logits: Outputs, of shape (…, C), or (…, 1) for regression.
        kind: As in :func:`task_loss`.

    Returns:
        Probabilities of shape (…, C) (softmax for binary and multiclass, sigmoid of each label for multilabel), or
        means of shape (…); float32 at least, also of outputs in half precision.

    Raises:
        UnknownNameError: If the kind is not known.

    Example:
        >>> import torch
        >>> logits_to_predictions(torch.zeros(1, 4), "multiclass")
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return task_kind(kind).predictions(_at_least_float32(logits))


def _checked(kind: str, outputs: Tensor, target: Tensor) -> TaskKind:
    traits = task_kind(kind)
    traits.check(outputs, target)
    return traits


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
