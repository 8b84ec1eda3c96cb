"""Likelihoods of targets under draws of a network's outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.kinds import task_kind

__all__ = ["target_nats"]


def target_nats(outputs: Tensor, target: Tensor, kind: str) -> Tensor:
    """Negative log-likelihood of targets under several outputs for each row.

    Args:
        outputs: Logits, or means (…, 1) of a regression, of shape (K, B, C).
        target: Targets of the B rows, as in `task_loss`.
        kind: Kind of task. A regression's target is normal with unit variance; known labels of a multilabel target are
            independent.

    Returns:
        Nats, of shape (K, B); a regression's without the constant.

    Example:
        >>> import torch
        >>> target_nats(torch.zeros(3, 1, 2), torch.tensor([1]), "binary").shape
        torch.Size([3, 1])
        >>> target_nats(torch.tensor([[[2.0]]]), torch.tensor([4.0]), "regression")
        tensor([[2.]])
    """
    draws, n = outputs.shape[:2]
    repeated = target.repeat(draws, *[1] * (target.ndim - 1))
    flat = outputs.flatten(0, 1)  # (K * B, C)
    traits = task_kind(kind)
    traits.check(flat, repeated)
    return traits.nats(flat.to(torch.promote_types(flat.dtype, torch.float32)), repeated).view(draws, n)
