"""Encoders of images: a small convolutional network for any size, and MultiBench's LeNet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.encoders.encoder import Encoder, Tokens
from amodal.encoders.tabular import ResidualBlock
from amodal.schema import Modality

__all__ = ["ConvNet"]


class ConvNet(Encoder):
    """A small convolutional network for images of any size, from 1×1 up: a token for each cell of its last map.

    Args:
        modality: An image modality (C, H, W).
        width: Width of tokens and of the pooled vector.
        channels: Channels of the first block; doubled at each halving, up to the width.
        dropout: Dropout of the trunk.
    """

    kinds = ("image",)

    def __init__(self, modality: Modality, *, width: int, channels: int = 32, dropout: float = 0.1):
        super().__init__(modality, width=width)
        n, height, wide = modality.shape
        blocks: list[nn.Module] = []
        channels = min(channels, width)
        blocks += [nn.Conv2d(n, channels, 3, padding=1), nn.GroupNorm(1, channels), nn.GELU()]
        while max(height, wide) > 4 or len(blocks) < 6:
            wider = min(2 * channels, width)
            blocks += [nn.Conv2d(channels, wider, 3, padding=1), nn.GroupNorm(1, wider), nn.GELU()]
            if max(height, wide) > 2:
                blocks.append(nn.AvgPool2d(2, ceil_mode=True))
                height, wide = -(-height // 2), -(-wide // 2)
            channels = wider
        self.stem = nn.Sequential(*blocks)
        self._n_tokens = height * wide
        self.token = nn.Linear(channels, width)
        self.position = nn.Parameter(0.02 * torch.randn(self._n_tokens, width))
        self.block = ResidualBlock(width, dropout=dropout)
        self.join = nn.Linear(self._n_tokens * width, width)

    @property
    def n_tokens(self) -> int:
        """One a cell of the last map."""
        return self._n_tokens

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """Values (P, C, H, W) to one token a cell."""
        cells = self.stem(values).flatten(2).transpose(1, 2)  # (P, L, channels)
        tokens = self.token(cells) + self.position
        return Tokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """A residual block on each cell."""
        return self.block(tokens)

    def pool(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """A linear map of all cells."""
        return self.join(F.gelu(torch.where(valid[..., None], tokens, 0.0)).flatten(1))
