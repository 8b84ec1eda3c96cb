"""Removal by a method itself: presence patterns drawn for every row of a batch, and features under several of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled

__all__ = [
    "DistinctPatterns",
    "distinct_patterns",
    "draw_removal",
    "draw_removals",
    "draw_strict_subset",
    "draw_subset",
    "encode_under",
    "repeat_rows",
]


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


def draw_removals(observed: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Several removals of each row, one `draw_removal` after the other.

    Args:
        observed: Presence, bool, of shape (B, M).
        n: Number of patterns P.
        generator: Source of the draws, on the same device.

    Returns:
        What stays under each pattern, bool, of shape (P, B, M).
    """
    return torch.stack([draw_removal(observed, generator) for _ in range(n)])


class DistinctPatterns(NamedTuple):
    """Rows under several patterns of presence, each row once under each of its patterns.

    Attributes:
        observed: Presence, bool, of shape (Q, M).
        source: Which row of the batch it is of, int64, of shape (Q,).
        places: Where each row under each pattern is among them, int64, of shape (P, B).
    """

    observed: Tensor
    source: Tensor
    places: Tensor


def distinct_patterns(observed: Tensor) -> DistinctPatterns:
    """Leaves out what is there twice: patterns drawn for a row are often the same, always if it has one modality.

    Args:
        observed: Presence under P patterns, bool, of shape (P, B, M). With more than 40 modalities, where patterns are
            hardly ever the same, all stay.

    Example:
        >>> both, one = torch.tensor([[True, True]]), torch.tensor([[True, False]])
        >>> found = distinct_patterns(torch.stack([both, one, both]))
        >>> found.source, found.observed[found.places].flatten(1).tolist()
        (tensor([0, 0]), [[True, True], [True, False], [True, True]])
    """
    n_patterns, size, n = observed.shape
    row = torch.arange(size, device=observed.device)
    if n > 40:
        places = torch.arange(n_patterns * size, device=observed.device).view(n_patterns, size)
        return DistinctPatterns(observed.flatten(0, 1), row.repeat(n_patterns), places)
    bit = torch.arange(n, device=observed.device)
    code = (observed.long() << bit).sum(2)  # (P, B)
    keys, places = torch.unique(code * size + row, return_inverse=True)
    return DistinctPatterns(((keys // size)[:, None] >> bit) % 2 == 1, keys % size, places)


def encode_under(encoders: PerModality, batch: Batch, remaining: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled features of a batch under several patterns of presence, from one call of the encoders.

    A modality is encoded for the rows that keep it under any of the patterns.

    Args:
        encoders: An encoder for each modality.
        batch: B rows.
        remaining: What stays of each row under each pattern, bool, of shape (P, B, M).

    Returns:
        Features (P · B, M, D), zero where absent, and presence (P · B, M): the rows of the first pattern, then those
        of the second, and so on, as `repeat_rows` repeats targets.
    """
    needed = remaining.any(0)  # (B, M)
    features, _ = encode_pooled(encoders, batch.restrict(dict(zip(batch.modalities, needed.unbind(1)))))
    visible = torch.where(remaining[..., None], features, 0.0)  # (P, B, M, D)
    return visible.flatten(0, 1), remaining.flatten(0, 1)


def repeat_rows(rows: Tensor, n: int) -> Tensor:
    """Rows (B, …) repeated as a whole: (n · B, …).

    Example:
        >>> repeat_rows(torch.tensor([1, 2]), 2)
        tensor([1, 2, 1, 2])
    """
    return rows.repeat(n, *(1,) * (rows.ndim - 1))


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


def draw_strict_subset(observed: Tensor, generator: torch.Generator) -> Tensor:
    """Takes some of the present modalities of each row but not all: a uniform number on 1 … k − 1, and uniformly which.

    Args:
        observed: Presence, bool, of shape (B, M).
        generator: Source of the draws, on the same device.

    Returns:
        What is taken, bool, of shape (B, M); rows with one modality, which have no such subset, as they are.
    """
    draws = torch.rand(len(observed), 1 + observed.shape[1], generator=generator, device=observed.device)
    n = observed.sum(1)
    n_taken = torch.where(n > 1, 1 + (draws[:, 0] * (n - 1)).floor(), n)  # (B,)
    return observed & (_random_rank(observed, draws) < n_taken[:, None])


def _random_rank(observed: Tensor, draws: Tensor) -> Tensor:
    """Places (B, M) of each row's modalities in a random order, absent ones last."""
    return torch.where(observed, draws[:, 1:], 2.0).argsort(1).argsort(1)
