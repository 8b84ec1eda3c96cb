"""Removal by a method itself: draws of a presence pattern for every row of every batch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["draw_removal", "draw_subset"]


def draw_removal(observed: Tensor, generator: torch.Generator) -> Tensor:
    """Removes a uniform number of the present modalities of each row, fewer than all, and uniformly which.

    Args:
        observed: Presence, bool, of shape (B, M).
        generator: Source of the draws, on the same device.

    Returns:
        What stays, bool, of shape (B, M).

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> kept = draw_removal(torch.ones(6000, 3, dtype=torch.bool), generator)
        >>> [round((kept.sum(1) == n).double().mean().item(), 1) for n in (1, 2, 3)]
        [0.3, 0.3, 0.3]
    """
    draws = torch.rand(len(observed), 1 + observed.shape[1], generator=generator, device=observed.device)
    n_removed = (draws[:, 0] * observed.sum(1)).floor()  # (B,), uniform on 0 … k - 1
    return observed & (_random_rank(observed, draws) >= n_removed[:, None])


def draw_subset(observed: Tensor, generator: torch.Generator) -> Tensor:
    """Takes a uniform number of the present modalities of each row, at least one, and uniformly which.

    Args:
        observed: Presence, bool, of shape (B, M).
        generator: Source of the draws, on the same device.

    Returns:
        What is taken, bool, of shape (B, M); nothing of a row in which nothing is present.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> taken = draw_subset(torch.ones(6000, 3, dtype=torch.bool), generator)
        >>> [round((taken.sum(1) == n).double().mean().item(), 1) for n in (1, 2, 3)]
        [0.3, 0.3, 0.3]
    """
    draws = torch.rand(len(observed), 1 + observed.shape[1], generator=generator, device=observed.device)
    n_taken = 1 + (draws[:, 0] * observed.sum(1)).floor()  # (B,), uniform on 1 … k
    return observed & (_random_rank(observed, draws) < n_taken[:, None])


def _random_rank(observed: Tensor, draws: Tensor) -> Tensor:
    """Places (B, M) of each row's modalities in a random order, absent ones last."""
    return torch.where(observed, draws[:, 1:], 2.0).argsort(1).argsort(1)
