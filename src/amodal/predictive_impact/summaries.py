"""Summaries of modalities: vectors of fixed length in which similar cases are close."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from amodal.batch import Batch
from amodal.schema import Modality

__all__ = ["summarise"]

_SIDE = 8  # images are averaged to this many rows and columns at most
_BUCKETS = 64  # of a text's character triples


def summarise(batch: Batch, modality: Modality) -> Tensor:
    """A vector of fixed length for each row of one modality, in which similar cases are close.

    A table's values (0, the training mean, where not measured); of a series the mean and the last value of each feature
    (0 where never measured); an image averaged to at most 8 × 8; of a text the square roots of the shares of 64
    hashed character triples.

    Args:
        batch: B rows, standardised.
        modality: Which modality.

    Returns:
        Of shape (B, F); zero where the modality is absent.
    """
    value = batch.values[modality.name]
    if modality.kind == "tabular":
        return value.float()
    if modality.kind == "image":
        height, width = (min(size, _SIDE) for size in value.shape[2:])
        return functional.adaptive_avg_pool2d(value.float(), (height, width)).flatten(1)
    lengths = batch.lengths.get(modality.name)
    if lengths is None:
        lengths = torch.full((len(batch),), value.shape[1], device=value.device)
    inside = torch.arange(value.shape[1], device=value.device) < lengths[:, None]  # (B, L)
    if modality.kind == "text":
        return _triples(value, inside)
    known = batch.measured[modality.name] if modality.name in batch.measured else torch.ones_like(value).bool()
    known = known & inside[..., None]
    mean = torch.where(known, value, 0.0).sum(1) / known.sum(1).clamp(min=1)
    place = torch.where(known, torch.arange(value.shape[1], device=value.device)[:, None], -1).amax(1)  # (B, D)
    last = value.gather(1, place.clamp(min=0)[:, None]).squeeze(1)
    return torch.cat([mean, torch.where(place >= 0, last, 0.0)], dim=1)


def _triples(value: Tensor, inside: Tensor) -> Tensor:
    """Square roots of the shares of hashed character triples (B, 64) in bytes (B, L)."""
    counts = torch.zeros(len(value), _BUCKETS, device=value.device)
    if value.shape[1] < 3:
        return counts
    code = value.long()
    code = code[:, :-2] * 65_599 + code[:, 1:-1] * 257 + code[:, 2:]
    counts.scatter_add_(1, (code * 2_654_435_761 >> 16) % _BUCKETS, inside[:, 2:].float())
    return (counts / counts.sum(1, keepdim=True).clamp(min=1)).sqrt()
