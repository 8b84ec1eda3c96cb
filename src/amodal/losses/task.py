"""Losses of a prediction task, one value for each row."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from amodal.errors import ConfigurationError, ShapeError, UnknownNameError
from amodal.schema import TaskKind

__all__ = ["RegressionLoss", "logits_to_predictions", "prediction_loss", "task_loss"]

RegressionLoss = Literal["squared", "huber"]
_KINDS = get_args(TaskKind)


def task_loss(
    logits: Tensor,
    target: Tensor,
    kind: TaskKind,
    *,
    over_labels: Literal["mean", "sum"] = "mean",
    regression: RegressionLoss = "squared",
    huber_delta: float = 1.0,
) -> Tensor:
    r"""Loss of each row from the outputs of a network, without a reduction over rows.

    =============  ======================  ========================================  ================================
    kind           outputs                 target                                    value of a row
    =============  ======================  ========================================  ================================
    binary         (B, 2) logits           int64 (B,), or probabilities (B, 2)       cross-entropy, in nats
    multiclass     (B, C) logits           int64 (B,), or probabilities (B, C)       cross-entropy, in nats
    multilabel     (B, K) logits           0, 1 or NaN (unknown), of shape (B, K)    binary cross-entropy, in nats,
                                                                                     over the labels that are known
    regression     (B, 1) or (B,) means    (B,) values                               squared error, or Huber's
    =============  ======================  ========================================  ================================

    Huber's loss is :math:`\tfrac12 e^2` for :math:`|e| \le \delta` and :math:`\delta (|e| - \tfrac12 \delta)` beyond.

    Args:
        logits: Outputs of the network, as in the table.
        target: Targets, as in the table. Probabilities (soft labels) are floating and add up to one in each row.
        kind: ``"binary"``, ``"multiclass"``, ``"multilabel"`` or ``"regression"``.
        over_labels: Whether a multilabel row is the ``"mean"`` over its known labels, so that rows with few known
            labels count as much as others, or their ``"sum"``, so that labels count alike. A row without any known
            label is zero, connected to the graph.
        regression: ``"squared"`` or ``"huber"``.
        huber_delta: Huber's :math:`\delta`, in units of the target.

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
    _check(logits, target, kind)
    logits = _at_least_float32(logits)
    if kind == "multilabel":
        known = ~target.isnan()
        losses = functional.binary_cross_entropy_with_logits(
            logits, torch.where(known, target, torch.zeros_like(target)).to(logits.dtype), reduction="none"
        )
        return _over_labels(losses, known, over_labels)
    if kind == "regression":
        return _regression_loss(logits.view(-1), target.to(logits.dtype), regression, huber_delta)
    if target.is_floating_point():
        target = target.to(logits.dtype)
    return functional.cross_entropy(logits, target, reduction="none")


def prediction_loss(
    prediction: Tensor,
    target: Tensor,
    kind: TaskKind,
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
    _check(prediction, target, kind)
    prediction = _at_least_float32(prediction)
    if kind == "regression":
        return (prediction.view(-1) - target.to(prediction.dtype)).square()
    if kind == "multilabel":
        known = ~target.isnan()
        true = torch.where(known, target, torch.zeros_like(target)).to(prediction.dtype)
        losses = -(true * _log(prediction) + (1 - true) * _log(1 - prediction))
        return _over_labels(losses, known, over_labels)
    if target.is_floating_point():
        return -(target.to(prediction.dtype) * _log(prediction)).sum(1)
    return -_log(prediction).gather(1, target[:, None]).squeeze(1)


def prediction_error(prediction: Tensor, target: Tensor, kind: TaskKind) -> Tensor:
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
    if kind == "regression":
        raise UnknownNameError("kind of task with errors", kind, ("binary", "multiclass", "multilabel"))
    _check(prediction, target, kind)
    if kind == "multilabel":
        known = ~target.isnan()
        wrong = ((prediction >= 0.5) != (target >= 0.5)).to(_at_least_float32(prediction).dtype)
        return _over_labels(wrong * known, known, "mean")
    classes = target.argmax(1) if target.is_floating_point() else target
    return (prediction.argmax(1) != classes).to(_at_least_float32(prediction).dtype)


def logits_to_predictions(logits: Tensor, kind: TaskKind) -> Tensor:
    """Predictions that the outputs of a network stand for.

    Args:
        logits: Outputs, of shape (…, C), or (…, 1) for regression.
        kind: As in :func:`task_loss`.

    Returns:
        Probabilities of shape (…, C) (softmax for binary and multiclass, sigmoid of each label for multilabel), or
        means of shape (…).

    Raises:
        UnknownNameError: If the kind is not known.

    Example:
        >>> import torch
        >>> logits_to_predictions(torch.zeros(1, 4), "multiclass")
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    if kind not in _KINDS:
        raise UnknownNameError("kind of task", kind, _KINDS)
    if kind == "regression":
        return logits.squeeze(-1)
    return logits.sigmoid() if kind == "multilabel" else logits.softmax(-1)


def _over_labels(losses: Tensor, known: Tensor, how: str) -> Tensor:
    if how not in ("mean", "sum"):
        raise ConfigurationError("labels cannot be reduced so", expected="'mean' or 'sum'", got=repr(how))
    total = torch.where(known, losses, torch.zeros_like(losses)).sum(1)
    return total / known.sum(1).clamp_min(1) if how == "mean" else total


def _regression_loss(mean: Tensor, target: Tensor, how: str, delta: float) -> Tensor:
    if how == "squared":
        return (mean - target).square()
    if how != "huber":
        raise ConfigurationError("unknown loss of a regression", expected="'squared' or 'huber'", got=repr(how))
    if not delta > 0:
        raise ConfigurationError("Huber's delta is not positive", expected="> 0", got=delta)
    return functional.huber_loss(mean, target, delta=delta, reduction="none")


def _log(probability: Tensor) -> Tensor:
    return probability.clamp_min(torch.finfo(probability.dtype).tiny).log()


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check(outputs: Tensor, target: Tensor, kind: str) -> None:
    rows = outputs.shape[:1]
    soft = target.shape == outputs.shape and target.is_floating_point()
    if kind in ("binary", "multiclass"):
        hard = target.shape == rows and target.dtype == torch.int64
        fits = outputs.dim() == 2 and (kind == "multiclass" or outputs.shape[1] == 2) and (soft or hard)
        expected = f"(B, {2 if kind == 'binary' else 'C'}) with int64 (B,) or floating targets of the same shape"
    elif kind == "multilabel":
        fits = outputs.dim() == 2 and soft
        expected = "(B, K) with floating targets of the same shape"
    elif kind == "regression":
        fits = outputs.shape in (rows, (*rows, 1)) and target.shape == rows
        expected = "(B, 1) or (B,) with targets (B,)"
    else:
        raise UnknownNameError("kind of task", kind, _KINDS)
    if not fits:
        raise ShapeError(
            f"outputs and targets do not fit a {kind} task",
            expected=expected,
            got=f"{tuple(outputs.shape)} with {target.dtype} {tuple(target.shape)}",
        )
