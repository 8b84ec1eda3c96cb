"""The transformer that encoders and fusion share: a trunk over sets of tokens some of which are padding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from amodal.errors import ConfigurationError

__all__ = ["TransformerTrunk", "sinusoidal_positions"]


class TransformerTrunk(nn.Module):
    r"""A pre-norm transformer encoder whose invalid tokens are neither read nor returned.

    Each layer is :math:`x \leftarrow x + \mathrm{MHA}(\mathrm{LN}(x))`, then :math:`x \leftarrow x +
    \mathrm{FFN}(\mathrm{LN}(x))` with a GELU; a last LayerNorm follows.

    Args:
        width: Width D of the tokens.
        layers: Number of layers; 0 leaves the last LayerNorm alone.
        heads: Number of attention heads; None: the largest of 4, 2, 1 that divides the width.
        feedforward: Width of the feed-forward part, as a multiple of D.
        dropout: Probability of dropout on attention weights and on both branches.

    Raises:
        ConfigurationError: If the heads do not divide the width.

    Source:
        :cite:`vaswani2017attention`, with the normalisation before each branch.

    Example:
        >>> trunk = TransformerTrunk(8, layers=1).eval()
        >>> tokens = torch.randn(2, 3, 8)
        >>> valid = torch.tensor([[True, True, False], [False, False, False]])
        >>> trunk(tokens, valid).shape, trunk(tokens, valid)[1].abs().sum().item()
        (torch.Size([2, 3, 8]), 0.0)
    """

    def __init__(
        self, width: int, *, layers: int = 2, heads: int | None = None, feedforward: float = 2.0, dropout: float = 0.1
    ):
        super().__init__()
        if heads is None:
            heads = next(n for n in (4, 2, 1) if width % n == 0)
        if heads < 1 or width % heads:
            raise ConfigurationError("the attention heads do not divide the width", expected="a divisor", got=heads)
        layer = nn.TransformerEncoderLayer(
            width,
            heads,
            dim_feedforward=int(width * feedforward),
            dropout=dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = (
            nn.TransformerEncoder(layer, layers, enable_nested_tensor=False, mask_check=False) if layers else None
        )
        self.norm = nn.LayerNorm(width)
        if self.layers is not None:
            for inner in self.layers.layers:  # the copies start equal: draw each anew
                for parameter in inner.parameters():
                    if parameter.ndim > 1:
                        nn.init.xavier_uniform_(parameter)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Contextual tokens.

        Args:
            tokens: Of shape (B, L, D).
            valid: Which tokens are real, bool, of shape (B, L); rows without any are allowed.

        Returns:
            Of shape (B, L, D), zero where not valid.
        """
        keep = valid[..., None]
        tokens = torch.where(keep, tokens, 0.0)
        if self.layers is not None:
            readable = valid | ~valid.any(1, keepdim=True)  # a row without tokens attends to its zeros: no NaN
            tokens = self.layers(tokens, src_key_padding_mask=~readable)
        return torch.where(keep, self.norm(tokens), 0.0)


def sinusoidal_positions(length: int, width: int, device: torch.device | None = None) -> Tensor:
    r"""Sines and cosines of the positions 0 … L − 1.

    .. math::
        p_{t, 2j} = \sin(t / 10000^{2j/D}), \qquad p_{t, 2j + 1} = \cos(t / 10000^{2j/D})

    Args:
        length: Number of positions L.
        width: Width D, any number from 1.
        device: Where to make them.

    Returns:
        Of shape (L, D), float32.

    Source:
        :cite:`vaswani2017attention`, section 3.5.

    Example:
        >>> sinusoidal_positions(2, 2)
        tensor([[0.0000, 1.0000],
                [0.8415, 0.5403]])
    """
    time = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=device, dtype=torch.float32) * (-math.log(10000.0) / width))
    angles = time * rate
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
