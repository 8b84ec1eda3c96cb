"""Decoders: likelihoods of a modality's values given a latent vector, for every kind of modality.

What is scored are the values as methods see them, standardised. Every score is an average over the cells that a row
has, so that an image of 12,544 cells does not outweigh a table of five: the likelihood's scale for each modality is one
over its size.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from amodal.batch import Batch, rows_where
from amodal.distributions.gaussian.diagonal import DiagonalGaussian
from amodal.encoders.encoder import PerModality
from amodal.encoders.sets import member_of
from amodal.kinds import SetKind
from amodal.kinds.words import hash_words
from amodal.schema import Modality, Schema, Task

__all__ = [
    "DECODERS",
    "CellDecoder",
    "Decoder",
    "GaussianNetwork",
    "ImageDecoder",
    "SetDecoder",
    "WordDecoder",
    "build_decoders",
    "reconstruction_nats",
    "target_features",
    "target_width",
]

LOG_VAR_RANGE = (-10.0, 10.0)
"""Range of the log variances of Gaussian networks: one that is far too sure would swamp all others."""

_WORDS, _MOST_WORDS = 1024, 128
_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class GaussianNetwork(nn.Module):
    """One hidden layer, then means and log variances.

    Args:
        in_width: Width of the input.
        latent: Width Z of the Gaussian.
        hidden: Width of the hidden layer.
        dropout: Dropout of the hidden layer.
        lowest: Least log variance.
    """

    def __init__(
        self, in_width: int, latent: int, *, hidden: int, dropout: float = 0.0, lowest: float = LOG_VAR_RANGE[0]
    ):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_width, hidden), nn.GELU(), nn.Dropout(dropout))
        self.out = nn.Linear(hidden, 2 * latent)
        self.lowest = lowest
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> DiagonalGaussian:
        """Of inputs (…, D)."""
        mean, log_var = self.out(self.layers(x)).chunk(2, dim=-1)
        return DiagonalGaussian(mean, log_var.clamp(self.lowest, LOG_VAR_RANGE[1]))


class Decoder(nn.Module, ABC):
    """A latent to the likelihood of one modality's values."""

    @abstractmethod
    def log_likelihood(self, z: Tensor, values: Tensor, measured: Tensor | None, lengths: Tensor | None) -> Tensor:
        """Average log-likelihood of the cells that a row has.

        Args:
            z: Latents, of shape (K, P, Z).
            values: Values of the rows, of shape (P, …).
            measured: Cells that were measured, bool, of that shape; None: all.
            lengths: Valid entries along axis 1, of shape (P,); None: all.

        Returns:
            Nats a cell, of shape (K, P); 0 for a row that has no cell.
        """


class CellDecoder(Decoder):
    """Tables and series: a normal distribution of unit variance for each cell, around means of one hidden layer.

    Args:
        modality: A modality of kind tabular or series.
        latent: Width of the latent.
        hidden: Width of the hidden layer.
    """

    def __init__(self, modality: Modality, *, latent: int, hidden: int):
        super().__init__()
        self.shape = modality.shape
        self.layers = nn.Sequential(nn.Linear(latent, hidden), nn.GELU(), nn.Linear(hidden, math.prod(modality.shape)))

    def log_likelihood(self, z: Tensor, values: Tensor, measured: Tensor | None, lengths: Tensor | None) -> Tensor:
        """See `Decoder.log_likelihood`."""
        mean = self.layers(z).unflatten(-1, self.shape)[:, :, : values.shape[1]]  # (K, P, …)
        kept = torch.ones_like(values, dtype=torch.bool) if measured is None else measured
        if lengths is not None:
            inside = torch.arange(values.shape[1], device=values.device) < lengths[:, None]
            kept = kept & inside.view(*inside.shape, *[1] * (values.ndim - 2))
        return _normal_cells(mean, values, kept)


class ImageDecoder(Decoder):
    """Images of any size: a small map that is doubled and convolved; a normal distribution of unit variance a cell.

    Args:
        modality: A modality of kind image.
        latent: Width of the latent.
        hidden: Width of the hidden layer, and bound on the channels.
    """

    def __init__(self, modality: Modality, *, latent: int, hidden: int):
        super().__init__()
        n, *self.sides = modality.shape
        doublings = max(0, math.ceil(math.log2(max(self.sides) / 7)))
        self.start = (min(32, hidden), *(-(-side // 2**doublings) for side in self.sides))
        self.dense = nn.Sequential(
            nn.Linear(latent, hidden), nn.GELU(), nn.Linear(hidden, math.prod(self.start)), nn.GELU()
        )
        widths = [max(4, self.start[0] >> i) for i in range(doublings + 1)]
        blocks: list[nn.Module] = []
        for before, after in pairwise(widths):
            blocks += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1), nn.GELU()]
        last = widths[-1] if doublings else self.start[0]
        self.blocks = nn.Sequential(*blocks, nn.Conv2d(last, n, 3, padding=1))

    def log_likelihood(self, z: Tensor, values: Tensor, measured: Tensor | None, lengths: Tensor | None) -> Tensor:
        """See `Decoder.log_likelihood`."""
        maps = self.blocks(self.dense(z.flatten(0, 1)).unflatten(1, self.start))  # (K * P, C, H', W')
        mean = maps[..., : self.sides[0], : self.sides[1]].unflatten(0, z.shape[:2])
        return _normal_cells(mean, values, torch.ones_like(values, dtype=torch.bool))


class WordDecoder(Decoder):
    """Text: a distribution over hashed words; the average over a text's first words, whatever their order.

    Args:
        modality: A modality of kind text.
        latent: Width of the latent.
        hidden: Width of the hidden layer.
    """

    def __init__(self, modality: Modality, *, latent: int, hidden: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(latent, hidden), nn.GELU(), nn.Linear(hidden, _WORDS))

    def log_likelihood(self, z: Tensor, values: Tensor, measured: Tensor | None, lengths: Tensor | None) -> Tensor:
        """See `Decoder.log_likelihood`."""
        if lengths is None:
            lengths = torch.full((len(values),), values.shape[1], device=values.device)
        words, kept = hash_words(values, lengths, _WORDS, _MOST_WORDS)  # (P, W)
        log_share = self.layers(z).log_softmax(-1)  # (K, P, buckets)
        each = log_share.gather(2, words.expand(len(z), *words.shape))
        return torch.where(kept, each, 0.0).sum(-1) / kept.sum(1).clamp_min(1)


class SetDecoder(Decoder):
    """Sets: given the latent their members are alike and independent; the average over the members of each set.

    Args:
        modality: A modality of sets.
        one: The decoder of one member.
    """

    def __init__(self, modality: Modality, one: Decoder):
        super().__init__()
        self.modality, self.one = modality, one

    def log_likelihood(self, z: Tensor, values: Tensor, measured: Tensor | None, lengths: Tensor | None) -> Tensor:
        """See `Decoder.log_likelihood`."""
        kind = self.modality.traits
        assert isinstance(kind, SetKind)
        rows, _, *inputs = kind.members(values, measured, lengths)
        each = self.one.log_likelihood(z[:, rows], *inputs)  # type: ignore[arg-type]  # (K, T)
        counts = torch.bincount(rows, minlength=len(values)).clamp(min=1)
        return each.new_zeros(z.shape[:2]).index_add(1, rows, each) / counts


DECODERS: dict[str, Callable[..., Decoder]] = {"cells": CellDecoder, "pixels": ImageDecoder, "words": WordDecoder}
"""Decoders by the name that a kind of modality gives."""


def build_decoders(schema: Schema, *, latent: int, hidden: int) -> PerModality:
    """A decoder for each modality of a schema, by its kind.

    Args:
        schema: The modalities.
        latent: Width of the latent.
        hidden: Width of the hidden layers.

    Returns:
        The decoders, in the schema's order.
    """
    decoders: dict[str, Decoder] = {}
    for modality in schema.modalities:
        one = member_of(modality)
        decoder = DECODERS[modality.traits.decoder](one, latent=latent, hidden=hidden)
        decoders[modality.name] = decoder if one is modality else SetDecoder(modality, decoder)
    return PerModality(decoders)


def reconstruction_nats(
    decoders: PerModality, batch: Batch, z: Tensor, counted: Tensor, positions: Sequence[Tensor] | None = None
) -> Tensor:
    """Log-likelihood of the modalities that count, each an average over its cells, added up.

    Args:
        decoders: A decoder for each modality, in the batch's order.
        batch: B rows.
        z: Latents, of shape (K, B, Z).
        counted: The modalities of each row that count, bool, of shape (B, M); only present ones may.
        positions: Of each modality the rows in which it counts, where they have been found already.

    Returns:
        Nats, of shape (K, B); 0 for a row in which nothing counts.
    """
    total = z.new_zeros(z.shape[:2])
    positions = rows_where(*counted.unbind(1)) if positions is None else positions
    for column, (name, decoder) in enumerate(decoders.items()):
        rows = positions[column]
        if len(rows) == 0:
            continue
        assert isinstance(decoder, Decoder)
        measured, lengths = batch.measured.get(name), batch.lengths.get(name)
        each = decoder.log_likelihood(
            z[:, rows],
            batch.values[name][rows],
            None if measured is None else measured[rows],
            None if lengths is None else lengths[rows],
        )
        total = total.index_add(1, rows, each.to(total.dtype))
    return total


def target_width(task: Task) -> int:
    """Width of `target_features`."""
    return task.traits.n_features(task.n_outputs)


def target_features(target: Tensor, task: Task) -> Tensor:
    """A target as an input of a network: one-hot classes, labels and which are known, or the value; float, (B, T)."""
    return task.traits.features(target, task.n_outputs).float()


def _normal_cells(mean: Tensor, values: Tensor, kept: Tensor) -> Tensor:
    """Average over the kept cells (P, …) of the log density at values under means (K, P, …): (K, P)."""
    each = -0.5 * (torch.where(kept, values, 0.0) - mean).square() - _HALF_LOG_TWO_PI
    total = torch.where(kept, each, 0.0).flatten(2).sum(2)
    return total / kept.flatten(1).sum(1).clamp_min(1)
