"""Encoders of series: LSTM, GRU and transformer, each with summary statistics beside the sequence."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from amodal.attention import TransformerTrunk, sinusoidal_positions
from amodal.encoders.encoder import Encoder, Tokens
from amodal.encoders.squash import soft_clip
from amodal.encoders.summary import SummaryToken, read_cells
from amodal.schema import Modality

__all__ = ["GRUEncoder", "LSTMEncoder", "SeriesTransformer", "carry_forward"]


def carry_forward(values: Tensor, readable: Tensor) -> tuple[Tensor, Tensor]:
    """The last measured value at every step, and the time since it was measured.

    Args:
        values: Of shape (P, T, D).
        readable: Cells measured, bool, of shape (P, T, D).

    Returns:
        The last measured value, zero before the first (P, T, D); steps since then, or since one step before the start
        where nothing has been measured yet (P, T, D), in the values' dtype.

    Example:
        >>> filled, since = carry_forward(
        ...     torch.tensor([[[5.0], [0.0], [7.0], [0.0]]]), torch.tensor([[[False], [False], [True], [False]]]))
        >>> filled.flatten().tolist(), since.flatten().tolist()
        ([0.0, 0.0, 7.0, 7.0], [1.0, 2.0, 0.0, 1.0])
    """
    steps = torch.arange(values.shape[1], device=values.device)[None, :, None]  # (1, T, 1)
    last = torch.where(readable, steps, -1).cummax(1).values  # (P, T, D)
    filled = torch.where(last >= 0, values.gather(1, last.clamp(min=0)), 0.0)
    return filled, (steps - last).to(values.dtype)


class _SeriesEncoder(Encoder):
    """What the sequence encoders share: the channels of a step, and the summary token in front of the steps."""

    kinds = ("series",)

    def __init__(
        self, modality: Modality, *, width: int, summary: bool, forward_fill: bool, dropout: float, clip: float
    ):
        super().__init__(modality, width=width)
        self.horizon, n = modality.shape
        self.forward_fill = forward_fill
        self.clip = clip
        self.step = nn.Linear(3 * n, width)
        self.drop = nn.Dropout(dropout)
        self.summary = SummaryToken(modality, width, dropout=dropout) if summary else None

    @property
    def n_tokens(self) -> int:
        """One a step, and one for the summary."""
        return self.horizon + (self.summary is not None)

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """Values (P, T, D) to the summary's token and one token a step."""
        values, readable, inside = read_cells(values, measured, lengths)
        values = soft_clip(values, self.clip)
        filled, since = carry_forward(values, readable)
        since = torch.log1p(since) / math.log1p(self.horizon)
        channels = torch.cat([filled if self.forward_fill else values, readable.to(values.dtype), since], dim=2)
        tokens = self.step(channels)  # (P, T, width)
        tokens = torch.where(inside[..., None], tokens + self._positions(tokens), 0.0)
        if self.summary is None:
            return Tokens(tokens, inside)
        summary = self.summary(values, readable, inside)
        valid = torch.cat([torch.ones_like(inside[:, :1]), inside], dim=1)
        return Tokens(torch.cat([summary[:, None], tokens], dim=1), valid)  # (P, 1 + T, width)

    def _positions(self, tokens: Tensor) -> Tensor | float:
        return 0.0


class _RecurrentEncoder(_SeriesEncoder):
    """A recurrent network over the steps; the pooled vector is its last state, joined with the summary."""

    _cell: type[nn.LSTM] | type[nn.GRU]

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        layers: int = 1,
        summary: bool = True,
        forward_fill: bool = True,
        dropout: float = 0.1,
        clip: float = 3.0,
    ):
        super().__init__(modality, width=width, summary=summary, forward_fill=forward_fill, dropout=dropout, clip=clip)
        self.layers = nn.ModuleList(self._cell(width, width, batch_first=True) for _ in range(layers))
        self.join = nn.Linear(2 * width, width) if summary else None

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The recurrent layers over the steps; the summary's token stays as it is."""
        steps = tokens if self.summary is None else tokens[:, 1:]
        for layer in self.layers:
            steps = self.drop(layer(steps)[0])
        if self.summary is not None:
            steps = torch.cat([tokens[:, :1], steps], dim=1)
        return torch.where(valid[..., None], steps, 0.0)

    def pool(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The last state, or, with the summary, a linear map of both."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        last = torch.where(valid, positions, 0).amax(1)  # (P,)
        state = tokens[torch.arange(len(tokens), device=tokens.device), last]
        return state if self.join is None else self.join(torch.cat([tokens[:, 0], state], dim=1))


class LSTMEncoder(_RecurrentEncoder):
    """An LSTM over the steps, with summary statistics beside it.

    Args:
        modality: A series modality (T, D).
        width: Width of tokens, states and the pooled vector.
        layers: Number of layers.
        summary: Whether summary statistics go beside the sequence.
        forward_fill: Whether unmeasured cells hold the last measured value (else zero, the training mean).
        dropout: Dropout after each layer and in the summary.
        clip: Scale of the soft clipping of values, in standard deviations.

    Source:
        :cite:`hochreiter1997lstm`.
    """

    references = ("hochreiter1997lstm",)
    _cell = nn.LSTM


class GRUEncoder(_RecurrentEncoder):
    """A GRU over the steps, with summary statistics beside it.

    Args:
        modality: A series modality (T, D).
        width: Width of tokens, states and the pooled vector.
        layers: Number of layers.
        summary: Whether summary statistics go beside the sequence.
        forward_fill: Whether unmeasured cells hold the last measured value (else zero, the training mean).
        dropout: Dropout after each layer and in the summary.
        clip: Scale of the soft clipping of values, in standard deviations.

    Source:
        :cite:`cho2014gru`.
    """

    references = ("cho2014gru",)
    _cell = nn.GRU


class SeriesTransformer(_SeriesEncoder):
    """A transformer over the steps and the summary's token.

    Args:
        modality: A series modality (T, D).
        width: Width of tokens and of the pooled vector.
        layers: Number of layers.
        heads: Attention heads; None: chosen from the width.
        summary: Whether summary statistics go beside the sequence.
        forward_fill: Whether unmeasured cells hold the last measured value (else zero, the training mean).
        dropout: Dropout of the transformer and the summary.
        clip: Scale of the soft clipping of values, in standard deviations.

    Source:
        :cite:`vaswani2017attention`.
    """

    references = ("vaswani2017attention",)

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        layers: int = 2,
        heads: int | None = None,
        summary: bool = True,
        forward_fill: bool = True,
        dropout: float = 0.1,
        clip: float = 3.0,
    ):
        super().__init__(modality, width=width, summary=summary, forward_fill=forward_fill, dropout=dropout, clip=clip)
        self.transformer = TransformerTrunk(width, layers=layers, heads=heads, dropout=dropout)

    def _positions(self, tokens: Tensor) -> Tensor | float:
        return sinusoidal_positions(tokens.shape[1], self.width, tokens.device)

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The transformer over steps and summary."""
        return self.transformer(tokens, valid)
