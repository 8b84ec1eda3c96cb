"""Transformer trunk over padded sets of tokens, shared by encoders and fusion."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from amodal.batch import rows_where
from amodal.errors import ConfigurationError

__all__ = ["TransformerTrunk", "drop_out", "sinusoidal_positions"]


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

    def at(self, tokens: Tensor, valid: Tensor, read: Tensor) -> Tensor:
        """Contextual tokens at some places only: the values of `forward`, without the work for the others.

        Rows of which nothing is read are left out, and after the attention of the last layer so are all other tokens.

        Args:
            tokens: Of shape (B, L, D).
            valid: Which tokens are real, bool, of shape (B, L).
            read: Which of them are wanted, bool, of shape (B, L), a subset of the valid ones.

        Returns:
            Of shape (R, D), row by row in the order of ``read.nonzero()``. While training, dropout draws other numbers
            than `forward` does, and zeroes with a probability that is a multiple of 1 / 65536 (see `drop_out`).
        """
        return self.feed_forward(self.attended(tokens, valid, read))

    def attended(self, tokens: Tensor, valid: Tensor, read: Tensor) -> Tensor:
        """The first half of `at`: tokens (R, D) after the attention of the last layer, before its feed-forward part."""
        some, length = read.any(1), read.shape[1]
        rows, places = rows_where(some, read.flatten())
        if len(rows) < len(tokens):
            tokens, valid = tokens[rows], valid[rows]
            places = (some.long().cumsum(0) - 1)[places // length] * length + places % length
        padded = valid.is_cuda or not bool(valid.all())
        if padded:
            tokens = torch.where(valid[..., None], tokens, 0.0)
        wanted = places if len(places) < len(rows) * length else None
        layers = [] if self.layers is None else list(self.layers.layers)
        for layer in layers[:-1]:
            tokens = layer(tokens, src_key_padding_mask=~valid if padded else None)
        own = tokens.flatten(0, 1)
        own = own if wanted is None else own[wanted]
        if not layers:
            return own
        last: Any = layers[-1]
        mixed = _attend(last.self_attn, last.norm1(tokens), valid if padded else None).flatten(0, 1)
        return self.add_attended(own, mixed if wanted is None else mixed[wanted])

    def add_attended(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        """Tokens (…, D) of the last layer and what its attention mixed for them, before its last linear map."""
        last = self._last
        return tokens + drop_out(last.self_attn.out_proj(mixed), last.dropout.p if self.training else 0.0)

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """The second half of `at`: tokens (…, D) after the attention of the last layer to contextual ones."""
        if self.layers is not None:
            last = self._last
            drop = last.dropout.p if self.training else 0.0
            inner = drop_out(functional.gelu(last.linear1(last.norm2(tokens))), drop)
            tokens = tokens + drop_out(last.linear2(inner), drop)
        return self.norm(tokens)

    @property
    def _last(self) -> nn.TransformerEncoderLayer:
        assert self.layers is not None
        layer = self.layers.layers[-1]
        assert isinstance(layer, nn.TransformerEncoderLayer)
        return layer

    @property
    def only_layer(self) -> nn.TransformerEncoderLayer | None:
        """The layer of a transformer that has one; else None."""
        return self._last if self.layers is not None and len(self.layers.layers) == 1 else None


def _attend(attention: nn.MultiheadAttention, tokens: Tensor, valid: Tensor | None) -> Tensor:
    """Multi-head self-attention (B, L, D) before its last linear map."""
    heads = attention.num_heads
    mixed = functional.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)  # (B, L, 3 D)
    query, key, value = mixed.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, L, D / H)
    shown = None if valid is None else valid[:, None, None]
    if not attention.training or attention.dropout == 0:
        states = functional.scaled_dot_product_attention(query, key, value, attn_mask=shown)
    else:
        scores = (query * query.shape[-1] ** -0.5) @ key.mT
        if shown is not None:
            scores = scores.masked_fill(~shown, -math.inf)
        states = drop_out(scores.softmax(-1), attention.dropout) @ value
    return states.transpose(1, 2).flatten(2)


def drop_out(x: Tensor, probability: float) -> Tensor:
    """Dropout with sixteen random bits an element, cheaper than torch's on a processor (`benchmarks/drop_out.py`).

    Args:
        x: Of any shape.
        probability: Probability that an element becomes zero, in [0, 1), rounded to a multiple of 1 / 65536; the others
            are divided by what is left of one, so that the expectation is kept exactly.

    Returns:
        Of the shape of `x`; `x` itself at probability zero. The draws come from torch's generator of the device, as
        those of `torch.nn.Dropout` do.
    """
    zeroed = round(probability * 2**16)
    if zeroed == 0:
        return x
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    kept = bits.view(torch.int16)[: x.numel()].view(x.shape) >= zeroed - 2**15
    return x * kept.to(x.dtype).mul_(1 / (1 - zeroed / 2**16))  # one factor: a product with a bool is slow


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
