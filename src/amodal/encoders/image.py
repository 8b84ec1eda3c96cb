"""Encoders of images: a small convolutional network for any size, and MultiBench's LeNet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.encoders.encoder import Encoded, Encoder, Tokens
from amodal.encoders.pooled_norm import ConvolutionBlock
from amodal.encoders.tabular import ResidualBlock
from amodal.errors import ConfigurationError
from amodal.options import Count, Share, Size
from amodal.schema import Modality

__all__ = ["ConvNet", "LeNet", "convolution"]


class ConvNet(Encoder):
    """A small convolutional network for images of any size, from 1×1 up: a token for each cell of its last map.

    3×3 convolutions, each with a normalisation over all channels and cells of its own row (no BatchNorm: rows do not
    influence one another) and a GELU, alternate with 2×2 averages until at most 4×4 cells are left. Images from 56
    pixels up are first brought to about 28 cells a side by a strided convolution.

    The convolutions mix the cells. Where some are hidden, their part of the image (each pixel is of one cell) is
    blanked and the others are computed again.

    Args:
        modality: An image modality (C, H, W).
        width: Width of tokens and of the pooled vector.
        channels: Channels of the first convolution; doubled by each further one, up to the width.
        dropout: Dropout of the trunk.

    Raises:
        ConfigurationError: If there are no channels.
    """

    kinds = ("image",)
    can_hide = True

    def __init__(self, modality: Modality, *, width: int, channels: Size = 32, dropout: Share = 0.1):
        super().__init__(modality, width=width)
        n, *sides = modality.shape
        stride = 2 ** max(0, (max(sides) // 28).bit_length() - 1)
        channels = min(channels, width)
        blocks = convolution(n, channels, stride)
        sides = [-(-side // stride) for side in sides]
        while max(sides) > 4 or len(blocks) == 3:
            wider = min(2 * channels, width)
            blocks += convolution(channels, wider)
            channels = wider
            if max(sides) > 2:
                blocks.append(nn.AvgPool2d(2, ceil_mode=True))
                sides = [-(-side // 2) for side in sides]
        self.stem = nn.Sequential(*blocks)
        self._n_tokens, self._cells = sides[0] * sides[1], (sides[0], sides[1])
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

    def embed_without(
        self, hide: Tensor, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None
    ) -> Tensor | None:
        """The tokens of the image with the parts of hidden cells blanked to zero, the training mean."""
        pixels = F.interpolate(hide.view(-1, 1, *self._cells).to(values.dtype), values.shape[2:])  # (P, 1, H, W)
        return self.embed(torch.where(pixels > 0.5, 0.0, values))[0]

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """A residual block on each cell."""
        return self.block(tokens)

    def pool(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """A linear map of all cells."""
        return self.join(F.gelu(torch.where(valid[..., None], tokens, 0.0)).flatten(1))


def convolution(n_in: int, n_out: int, stride: int = 1) -> list[nn.Module]:
    """A convolution, a normalisation over all channels and cells of a row, and a GELU."""
    size = 3 if stride == 1 else 2 * stride - 1
    convolution = nn.Conv2d(n_in, n_out, size, stride=stride, padding=size // 2)
    return [convolution, nn.GroupNorm(1, n_out), nn.GELU()]


class LeNet(Encoder):
    """MultiBench's LeNet, layer by layer, and a linear map to the common width.

    Block 0 is a 5×5 convolution without bias, BatchNorm, ReLU and 2×2 max-pooling; each further block a 3×3 convolution
    of twice the channels with the same. With the default number of blocks one cell is left of 28×28 images (four
    convolutions, 8c channels) and of 112×112 spectrograms (six, 32c channels), as published. A batch of one row works
    in training, since even the last BatchNorm sees at least 2×2 cells.

    Args:
        modality: An image modality (C, H, W), at least 2 by 2.
        width: Width of tokens and of the pooled vector.
        channels: Channels c of the first block (6 in the late-fusion scripts, 3 in the vision-only one).
        additional_layers: Blocks after the first; None: as many as the image's size allows.
        dropout: Dropout before the linear map (none in the publication).

    Raises:
        ConfigurationError: If the image is too small for that many blocks.

    Source:
        :cite:`liang2021multibench`.
    """

    kinds = ("image",)
    references = ("liang2021multibench", "lecun1998gradient")
    channel_axis = 1

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        channels: Size = 6,
        additional_layers: Count | None = None,
        dropout: Share = 0.0,
    ):
        super().__init__(modality, width=width)
        n, *sides = modality.shape
        most = min(sides).bit_length() - 2  # as often can the smaller side be halved after the first time
        layers = max(most, 0) if additional_layers is None else additional_layers
        if layers > most:
            raise ConfigurationError(
                f"images of modality {modality.name!r} are too small for LeNet",
                expected=f"sides of {2 ** (layers + 1)} or more",
                got=f"{sides[0]}×{sides[1]}",
                hint="Use fewer additional layers, or 'convnet', which takes any size.",
            )
        widths = [channels * 2**i for i in range(layers + 1)]
        self.blocks = nn.ModuleList(
            ConvolutionBlock(c_in, c_out, 5 if i == 0 else 3)
            for i, (c_in, c_out) in enumerate(zip([n, *widths], widths))
        )
        self.project = nn.Linear(widths[-1], width)
        self.drop = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_uniform_(module.weight)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU
        self._n_tokens = (sides[0] >> layers + 1) * (sides[1] >> layers + 1)
        self._widths = tuple(widths)

    @property
    def n_tokens(self) -> int:
        """Cells of the last map: one for square images, unless there are fewer blocks than possible."""
        return self._n_tokens

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels after each block: c, 2c, 4c, …"""
        return self._widths

    def run_stage(self, index: int, stage_map: Tensor, valid: Tensor | None) -> Tensor:
        """One block."""
        return self.blocks[index](stage_map)

    def begin(
        self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The images (P, C, H, W) themselves."""
        return values.contiguous(memory_format=torch.channels_last), None

    def finish(self, stage_map: Tensor, valid: Tensor | None) -> Encoded:
        """The last map (P, C, H, W) to projected cells and their mean."""
        tokens = self.project(self.drop(stage_map.flatten(2).transpose(1, 2)))
        whole = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Encoded(tokens, whole, self.pool(tokens, whole))

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """All blocks: images (P, C, H, W) to the projected cells of the last map."""
        tokens, valid, _ = self.forward(values, measured, lengths)
        return Tokens(tokens, valid)

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The tokens as they are."""
        return tokens
