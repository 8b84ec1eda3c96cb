"""Fusions that treat the modalities as a sequence: a transformer and an LSTM over modalities."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from amodal.attention import TransformerTrunk
from amodal.fusion.fusion import Fusion
from amodal.options import Count, Share, Size

__all__ = ["FusionTransformer", "ModalityLSTM"]


class FusionTransformer(Fusion):
    """A transformer over one token a modality and a class token, whose last state is the fused vector.

    Args:
        n_modalities: Number of modalities M.
        width: Width D of each one's feature.
        layers: Number of layers.
        heads: Attention heads; None: chosen from the width.
        absent: "pad", absent modalities are not attended to; or "learned", a learned vector replaces each.
        dropout: Dropout of the transformer.
    """

    references = ("vaswani2017attention",)

    def __init__(
        self,
        n_modalities: int,
        width: int,
        *,
        layers: Count = 1,
        heads: Size | None = None,
        absent: Literal["pad", "learned"] = "pad",
        dropout: Share = 0.1,
    ):
        super().__init__(n_modalities, width)
        self.summary = nn.Parameter(0.02 * torch.randn(width))
        self.modality = nn.Parameter(0.02 * torch.randn(n_modalities, width))
        self.stand_in = nn.Parameter(0.02 * torch.randn(n_modalities, width)) if absent == "learned" else None
        self.transformer = TransformerTrunk(width, layers=layers, heads=heads, dropout=dropout)

    @property
    def out_width(self) -> int:
        """D."""
        return self.width

    def forward(self, features: Tensor, observed: Tensor) -> Tensor:
        """Features (B, M, D) and presence (B, M) to (B, D)."""
        if self.stand_in is None:
            tokens, valid = torch.where(observed[..., None], features, 0.0), observed
        else:
            tokens = torch.where(observed[..., None], features, self.stand_in.to(features.dtype))
            valid = torch.ones_like(observed)
        tokens = tokens + self.modality
        first = self.summary.expand(len(tokens), 1, -1).to(tokens.dtype)
        valid = torch.cat([torch.ones_like(valid[:, :1]), valid], dim=1)
        return self.transformer(torch.cat([first, tokens], dim=1), valid)[:, 0]


class ModalityLSTM(Fusion):
    """An LSTM over the present modalities, in the schema's order; its last state is the fused vector.

    Absent modalities are left out of the sequence, as in packing; with nothing present the result is zero.

    Args:
        n_modalities: Number of modalities M.
        width: Width D of each one's feature.
        hidden: Width of the states; None: D.
        layers: Number of layers.

    Source:
        :cite:`hochreiter1997lstm`.
    """

    references = ("hochreiter1997lstm",)

    def __init__(self, n_modalities: int, width: int, *, hidden: Size | None = None, layers: Size = 1):
        super().__init__(n_modalities, width)
        self.lstm = nn.LSTM(width, hidden or width, num_layers=layers, batch_first=True)

    @property
    def out_width(self) -> int:
        """Width of the states."""
        return self.lstm.hidden_size

    def forward(self, features: Tensor, observed: Tensor) -> Tensor:
        """Features (B, M, D) and presence (B, M) to (B, D')."""
        features = torch.where(observed[..., None], features, 0.0)
        order = (~observed).to(torch.uint8).argsort(dim=1, stable=True)  # present ones first, in order
        states = self.lstm(features.take_along_dim(order[..., None], dim=1))[0]  # (B, M, D')
        count = observed.sum(1)
        last = states[torch.arange(len(states), device=states.device), (count - 1).clamp(min=0)]
        return torch.where(count[:, None] > 0, last, 0.0)
