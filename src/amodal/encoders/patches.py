"""An encoder of images by patches that do not overlap, so that each of them can be hidden."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.attention import TransformerTrunk
from amodal.encoders.encoder import Encoder, Tokens
from amodal.encoders.image import convolution
from amodal.encoders.tabular import ResidualBlock
from amodal.options import Count, Share, Size
from amodal.schema import Modality

__all__ = ["PatchNet"]

_MOST_A_SIDE = 4


class PatchNet(Encoder):
    """A token for each patch of a grid, from the pixels of that patch alone, and a linear map of them all for pooling.

    Each patch is brought to 2×2 cells by 3×3 convolutions that do not see beyond it, each with a normalisation over the
    patch, a GELU and a 2×2 average; a linear map of the cells, a position and a residual block make its token.
    Images whose sides are no multiples of the patch's are filled up with zeros at the lower and right rim. Other than
    with `ConvNet` single tokens can be hidden (`can_hide`).

    Args:
        modality: An image modality (C, H, W).
        width: Width of tokens and of the pooled vector.
        patch: Side of a patch in pixels; None: as few as leave at most 4 patches a side, at least 2.
        channels: Channels of the first convolution; doubled by each further one, up to the width.
        layers: Layers of a transformer over the patches, before which single ones can be hidden; 0: none.
        dropout: Dropout of residual block and transformer.

    Source:
        :cite:`dosovitskiy2021vit`, with convolutions within the patches and a pooling that knows their places.
    """

    kinds = ("image",)
    references = ("dosovitskiy2021vit",)
    can_hide = True

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        patch: Size | None = None,
        channels: Size = 32,
        layers: Count = 0,
        dropout: Share = 0.1,
    ):
        super().__init__(modality, width=width)
        n, *sides = modality.shape
        self.patch = max(2, -(-max(sides) // _MOST_A_SIDE)) if patch is None else patch
        self.grid = tuple(-(-side // self.patch) for side in sides)
        blocks, side, channels = [], self.patch, min(channels, width)
        while side > 2:
            blocks += [*convolution(n, channels), nn.AvgPool2d(2, ceil_mode=True)]
            n, channels, side = channels, min(2 * channels, width), -(-side // 2)
        self.stem = nn.Sequential(*blocks)
        self.token = nn.Linear(n * side * side, width)
        self.position = nn.Parameter(0.02 * torch.randn(self.n_tokens, width))
        self.block = ResidualBlock(width, dropout=dropout)
        self.transformer = TransformerTrunk(width, layers=layers, dropout=dropout)
        self.join = nn.Linear(self.n_tokens * width, width)
        self.mix = ResidualBlock(width, dropout=dropout)

    @property
    def n_tokens(self) -> int:
        """One a patch."""
        return self.grid[0] * self.grid[1]

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """Values (P, C, H, W) to one token a patch, row by row of the grid."""
        short = [sides * self.patch - size for sides, size in zip(self.grid, values.shape[2:])]
        filled = F.pad(values, (0, short[1], 0, short[0]))
        cut = filled.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))  # (P, C, rows, p, columns, p)
        patches = cut.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)  # (P · L, C, p, p)
        cells = self.stem(patches).flatten(1).unflatten(0, (len(values), -1))  # (P, L, ·)
        tokens = self.block(self.token(cells) + self.position)
        return Tokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The transformer over patches, if there is one, and a normalisation."""
        return self.transformer(tokens, valid)

    def pool(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """A linear map of all patches and a residual block."""
        return self.mix(self.join(F.gelu(torch.where(valid[..., None], tokens, 0.0)).flatten(1)))
