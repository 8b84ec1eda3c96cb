"""An encoder of series from their summary statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.encoders.encoder import Encoder, Tokens
from amodal.encoders.squash import SOFT_STEP_CUTS, soft_clip, soft_steps
from amodal.encoders.tabular import ResidualBlock
from amodal.kinds.statistics import STATISTICS, read_cells, series_statistics
from amodal.options import Count, Positive, Share
from amodal.schema import Modality

__all__ = ["SeriesSummary", "SummaryToken"]


class SummaryToken(nn.Module):
    """The summary statistics of a series as one token.

    Args:
        modality: A series modality (T, D).
        width: Width of the token.
        layers: Residual blocks after the input layer.
        dropout: Dropout on the statistics and in the blocks.
        steps: Whether the statistics stand beside soft steps of themselves; see `soft_steps`.
    """

    def __init__(self, modality: Modality, width: int, *, layers: Count = 1, dropout: Share = 0.1, steps: bool = True):
        super().__init__()
        self.horizon = modality.shape[0]
        self.steps = steps
        self.drop = nn.Dropout(dropout)
        expansion = 1 + len(SOFT_STEP_CUTS) if steps else 1
        self.input = nn.Linear(modality.n_features * len(STATISTICS) * expansion, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, dropout=dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, values: Tensor, readable: Tensor, inside: Tensor) -> Tensor:
        """Softly clipped values (P, T, D), what of them can be read, and the steps inside, to (P, width)."""
        statistics = series_statistics(values, readable, inside, self.horizon).flatten(1)
        if self.steps:
            statistics = soft_steps(statistics)
        return self.norm(self.blocks(self.input(self.drop(statistics))))


class SeriesSummary(Encoder):
    """Summary statistics of a series and a small residual network: one token, no recurrence; the fastest for series.

    Args:
        modality: A series modality (T, D).
        width: Width of the token and of the pooled vector.
        layers: Residual blocks.
        dropout: Dropout on the statistics and in the blocks.
        clip: Scale of the soft clipping of values, in standard deviations.
        steps: Whether the statistics stand beside soft steps of themselves; see `soft_steps`.
    """

    kinds = ("series",)
    references = ("gorishniy2021revisiting", "gorishniy2022embeddings")

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        layers: Count = 1,
        dropout: Share = 0.3,
        clip: Positive = 3.0,
        steps: bool = True,
    ):
        super().__init__(modality, width=width)
        self.clip = clip
        self.summary = SummaryToken(modality, width, layers=layers, dropout=dropout, steps=steps)

    @property
    def n_tokens(self) -> int:
        """One."""
        return 1

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """Values (P, T, D) to one token."""
        values, readable, inside = read_cells(values, measured, lengths)
        token = self.summary(soft_clip(values, self.clip), readable, inside)
        return Tokens(token[:, None], torch.ones(len(values), 1, dtype=torch.bool, device=values.device))

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The token as it is."""
        return tokens
