"""Encoders of series: LSTM, GRU and transformer over windows of steps, with summary statistics."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.attention import TransformerTrunk, sinusoidal_positions
from amodal.encoders.encoder import Encoded, Encoder, Tokens
from amodal.encoders.squash import soft_clip
from amodal.encoders.summary import SummaryToken
from amodal.errors import ConfigurationError
from amodal.kinds.statistics import read_cells
from amodal.options import Count, Positive, Share, Size
from amodal.schema import Modality

__all__ = ["GRUEncoder", "LSTMEncoder", "RecurrentLayer", "SeriesTransformer", "carry_forward", "last_valid"]

_MOST_WINDOWS = 12
_START_OF_SEQUENCE = 0.1


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
    """Base of the sequence encoders: windows of steps as tokens, and the summary's token in front of them.

    The channels of a step are each feature's value (softly clipped, forward filled), whether it was measured, and the
    logarithm of the time since it was; a window's token is a linear map of the channels of all its steps. The pooled
    vector is a linear map of the summary and of what the network made of the sequence, whose weights start at a tenth
    of their usual size: on a few thousand rows the summary carries most, and the sequence must earn its part.
    Windows are hidden with their cells unmeasured, so that neither the summary nor what is carried forward reads them.
    """

    kinds = ("series",)
    can_hide = True

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        window: Size | None,
        summary: bool,
        forward_fill: bool,
        dropout: Share,
        clip: Positive,
    ):
        super().__init__(modality, width=width)
        self.horizon, n = modality.shape
        self.window = -(-self.horizon // _MOST_WINDOWS) if window is None else window
        if self.window > self.horizon:
            raise ConfigurationError("the window is out of range", expected=f"1 … {self.horizon} steps", got=window)
        self.forward_fill = forward_fill
        self.clip = clip
        self.step = nn.Linear(3 * n * self.window, width)
        self.drop = nn.Dropout(dropout)
        self.summary = SummaryToken(modality, width, dropout=dropout) if summary else None
        self.join = nn.Linear(2 * width, width) if summary else None
        if self.join is not None:
            with torch.no_grad():
                self.join.weight[:, width:] *= _START_OF_SEQUENCE

    @property
    def n_tokens(self) -> int:
        """One a window, and one for the summary."""
        return -(-self.horizon // self.window) + (self.summary is not None)

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """Values (P, T, D) to the summary's token and one token a window."""
        values, readable, inside = read_cells(values, measured, lengths)
        values = soft_clip(values, self.clip)
        filled, since = carry_forward(values, readable)
        since = torch.log1p(since) / math.log1p(self.horizon)
        channels = torch.cat([filled if self.forward_fill else values, readable.to(values.dtype), since], dim=2)
        channels = torch.where(inside[..., None], channels, 0.0)
        short = -channels.shape[1] % self.window
        channels = F.pad(channels, (0, 0, 0, short)).unflatten(1, (-1, self.window)).flatten(2)
        valid = F.pad(inside, (0, short)).unflatten(1, (-1, self.window)).any(2)  # (P, L)
        tokens = self._place(self.step(channels))  # (P, L, width)
        if self.summary is not None:
            summary = self.summary(values, readable, inside)
            tokens = torch.cat([summary[:, None], tokens], dim=1)
            valid = torch.cat([torch.ones_like(valid[:, :1]), valid], dim=1)
        return Tokens(torch.where(valid[..., None], tokens, 0.0), valid)

    def hideable(self, valid: Tensor) -> Tensor:
        """The windows: the summary's token is of those that are visible."""
        if self.summary is None:
            return valid
        return torch.cat([torch.zeros_like(valid[:, :1]), valid[:, 1:]], dim=1)

    def embed_without(
        self, hide: Tensor, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None
    ) -> Tensor | None:
        """The tokens of `embed` had nothing been measured in the hidden windows."""
        windows = hide[:, 1:] if self.summary is not None else hide  # (P, L)
        steps = windows.repeat_interleave(self.window, dim=1)[:, : values.shape[1], None]  # (P, T, 1)
        seen = ~steps if measured is None else measured & ~steps
        return self.embed(values, seen.expand(values.shape), lengths)[0]

    def _place(self, tokens: Tensor) -> Tensor:
        """Adds positions to the windows' tokens where the network over them needs it."""
        return tokens

    def pool(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The network's vector of the windows or, with the summary, a linear map of both."""
        if self.join is None:
            return self._of_windows(tokens, valid)
        windows = self._of_windows(tokens[:, 1:], valid[:, 1:])
        return self.join(torch.cat([tokens[:, 0], windows], dim=1))

    @abstractmethod
    def _of_windows(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The windows' contextual tokens (P, L, D), L maybe 0, to one vector (P, D)."""


class RecurrentLayer(nn.Module):
    """One recurrent layer over tokens (P, L, D), after the first `skip` of them, which pass through.

    Args:
        cell: `nn.LSTM` or `nn.GRU`, of one layer, batch first.
        skip: Number of tokens in front that are no part of the sequence.
        dropout: Dropout of the states.
    """

    def __init__(self, cell: nn.LSTM | nn.GRU, *, skip: int = 0, dropout: Share = 0.0):
        super().__init__()
        self.cell = cell
        self.skip = skip
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (P, L, D) to states (P, L, D'); D' = D where tokens are skipped."""
        if tokens.shape[1] == self.skip:
            return tokens
        states = self.drop(self.cell(tokens[:, self.skip :])[0])
        return torch.cat([tokens[:, : self.skip], states], dim=1) if self.skip else states


def last_valid(tokens: Tensor, valid: Tensor) -> Tensor:
    """The last valid token of each row (P, L, D) -> (P, D); zero in rows without any.

    A recurrent network that only looks back never saw the padding behind it, so nothing has to be packed.
    """
    if tokens.shape[1] == 0:
        return tokens.new_zeros(len(tokens), tokens.shape[2])
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    at = torch.where(valid, positions, 0).amax(1)  # (P,)
    state = tokens[torch.arange(len(tokens), device=tokens.device), at]
    return torch.where(valid.any(1, keepdim=True), state, 0.0)


class _RecurrentEncoder(_SeriesEncoder):
    """A recurrent network over the windows; the pooled vector is its last state, joined with the summary."""

    _cell: ClassVar[type[nn.LSTM] | type[nn.GRU]]

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        layers: Size = 1,
        window: Size | None = None,
        summary: bool = True,
        forward_fill: bool = True,
        dropout: Share = 0.3,
        clip: Positive = 3.0,
    ):
        super().__init__(
            modality,
            width=width,
            window=window,
            summary=summary,
            forward_fill=forward_fill,
            dropout=dropout,
            clip=clip,
        )
        self.layers = nn.ModuleList(
            RecurrentLayer(self._cell(width, width, batch_first=True), skip=int(summary), dropout=dropout)
            for _ in range(layers)
        )

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """The width, once a layer."""
        return (self.width,) * len(self.layers)

    def run_stage(self, index: int, stage_map: Tensor, valid: Tensor | None) -> Tensor:
        """One recurrent layer."""
        return self.layers[index](stage_map)

    def finish(self, stage_map: Tensor, valid: Tensor | None) -> Encoded:
        """States (P, L, width) to tokens and the pooled vector."""
        if valid is None:
            valid = torch.ones(stage_map.shape[:2], dtype=torch.bool, device=stage_map.device)
        tokens = torch.where(valid[..., None], stage_map, 0.0)
        return Encoded(tokens, valid, self.pool(tokens, valid))

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The recurrent layers over the windows; the summary's token stays as it is."""
        for layer in self.layers:
            tokens = layer(tokens)
        return torch.where(valid[..., None], tokens, 0.0)

    def _of_windows(self, tokens: Tensor, valid: Tensor) -> Tensor:
        return last_valid(tokens, valid)


class LSTMEncoder(_RecurrentEncoder):
    """An LSTM over windows of steps, with summary statistics.

    Args:
        modality: A series modality (T, D).
        width: Width of tokens, states and the pooled vector.
        layers: Number of layers; they are the encoder's stages.
        window: Steps that make one token; None: as few as leave at most 12 tokens.
        summary: Whether summary statistics go beside the sequence, as a token of their own in front.
        forward_fill: Whether unmeasured cells hold the last measured value (else zero, the training mean).
        dropout: Dropout after each layer and in the summary.
        clip: Scale of the soft clipping of values, in standard deviations.

    Raises:
        ConfigurationError: If window or layers are out of range.

    Source:
        :cite:`hochreiter1997lstm`; values beside indicators and times since the last measurement after
        :cite:`che2018grud`, section "Models" (its GRU-Simple).
    """

    references = ("hochreiter1997lstm", "che2018grud")
    _cell = nn.LSTM


class GRUEncoder(_RecurrentEncoder):
    """A GRU over windows of steps, with summary statistics.

    Args:
        modality: A series modality (T, D).
        width: Width of tokens, states and the pooled vector.
        layers: Number of layers; they are the encoder's stages.
        window: Steps that make one token; None: as few as leave at most 12 tokens.
        summary: Whether summary statistics go beside the sequence, as a token of their own in front.
        forward_fill: Whether unmeasured cells hold the last measured value (else zero, the training mean).
        dropout: Dropout after each layer and in the summary.
        clip: Scale of the soft clipping of values, in standard deviations.

    Raises:
        ConfigurationError: If window or layers are out of range.

    Source:
        :cite:`cho2014gru`; values beside indicators and times since the last measurement after
        :cite:`che2018grud`, section "Models" (its GRU-Simple).
    """

    references = ("cho2014gru", "che2018grud")
    _cell = nn.GRU


class SeriesTransformer(_SeriesEncoder):
    """A transformer over windows of steps and the summary's token.

    Args:
        modality: A series modality (T, D).
        width: Width of tokens and of the pooled vector.
        layers: Number of layers.
        heads: Attention heads; None: chosen from the width.
        window: Steps that make one token; None: as few as leave at most 12 tokens.
        summary: Whether summary statistics go beside the sequence, as a token of their own in front.
        forward_fill: Whether unmeasured cells hold the last measured value (else zero, the training mean).
        dropout: Dropout of the transformer and the summary.
        clip: Scale of the soft clipping of values, in standard deviations.

    Raises:
        ConfigurationError: If window or heads are out of range.

    Source:
        :cite:`vaswani2017attention`; windows of steps as tokens after :cite:`nie2023patchtst`, section 3.1.
    """

    references = ("vaswani2017attention", "nie2023patchtst")

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        layers: Count = 1,
        heads: Size | None = None,
        window: Size | None = None,
        summary: bool = True,
        forward_fill: bool = True,
        dropout: Share = 0.3,
        clip: Positive = 3.0,
    ):
        super().__init__(
            modality,
            width=width,
            window=window,
            summary=summary,
            forward_fill=forward_fill,
            dropout=dropout,
            clip=clip,
        )
        self.transformer = TransformerTrunk(width, layers=layers, heads=heads, dropout=dropout)

    def _place(self, tokens: Tensor) -> Tensor:
        return tokens + sinusoidal_positions(tokens.shape[1], self.width, tokens.device)

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The transformer over windows and summary."""
        return self.transformer(tokens, valid)

    def _of_windows(self, tokens: Tensor, valid: Tensor) -> Tensor:
        return Encoder.pool(self, tokens, valid)
