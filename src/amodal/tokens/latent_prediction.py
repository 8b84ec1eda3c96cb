"""Latent prediction: networks that predict all modalities' tokens from present ones, and score which to hide."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from amodal.attention import TransformerTrunk, sinusoidal_positions
from amodal.encoders.encoder import Tokens
from amodal.errors import ConfigurationError
from amodal.tokens.absent_tokens import AbsentTokens, TokenLayout, attended_under_patterns

__all__ = [
    "FEED_FORWARD",
    "ContextEncoder",
    "LatentPredictor",
    "MovingAverage",
    "TokenScores",
    "fill_sequence",
]


FEED_FORWARD = 2.0
"""Width of the feed-forward parts, as a multiple of the tokens'."""


class LatentPredictor(nn.Module):
    """A transformer over the tokens of all modalities, with embeddings of modality and position.

    Args:
        names: Modalities, in order.
        width: Width D of the tokens.
        layers: Number of layers.
        heads: Attention heads; None: chosen from the width.
        dropout: Dropout of the transformer.

    Source:
        The representation predictor of :cite:`choi2025cepa`, eq. 2 and appendix D.1.
    """

    def __init__(
        self, names: Iterable[str], width: int, *, layers: int = 2, heads: int | None = None, dropout: float = 0.1
    ):
        super().__init__()
        self.names = tuple(names)
        self.modality = nn.Parameter(0.02 * torch.randn(len(self.names), width))
        self.transformer = TransformerTrunk(
            width, layers=layers, heads=heads, feedforward=FEED_FORWARD, dropout=dropout
        )
        self.output = nn.Linear(width, width)

    def forward(self, sequences: Mapping[str, Tokens], read: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Predictions for tokens of all modalities.

        Args:
            sequences: Tokens (B, L_m, D) of each modality.
            read: Which predictions are wanted, bool, of shape (B, L_m), a subset of the valid tokens; None: all.

        Returns:
            Of the shape of the tokens; zero where not wanted or not valid.
        """
        tokens, valid, lengths = self._joined(sequences)
        wanted = valid if read is None else torch.cat([read[name] for name in self.names], dim=1)
        states = self.output(self.transformer.at(tokens, valid, wanted))  # (R, D)
        return dict(zip(self.names, _spread(states, wanted).split(lengths, dim=1)))

    def absent(
        self, sequences: Mapping[str, Tokens], stand_ins: Mapping[str, Tensor], observed: Tensor, source: Tensor
    ) -> AbsentTokens:
        """The tokens of absent modalities under several patterns of presence, for `predicted`.

        Args:
            sequences: Tokens (B, L_m, D) of each modality.
            stand_ins: Those (U_m, D) that take their place where a pattern lacks the modality.
            observed: Presence under patterns, bool, of shape (Q, M).
            source: Which of the B rows each is of, of shape (Q,).
        """
        tokens, valid, lengths = self._joined(sequences)
        counts = [len(stand_ins[name]) for name in self.names]
        places = [place[:count] for place, count in zip(self._places(lengths).split(lengths), counts)]
        standing = [stand_ins[name].to(tokens.dtype) + place for name, place in zip(self.names, places)]
        layout = TokenLayout(tokens, valid, lengths, standing)
        return attended_under_patterns(self.transformer, layout, observed, source)

    def predicted(self, states: AbsentTokens) -> AbsentTokens:
        """Predictions in the place of the tokens that `absent` gives."""
        return states._replace(values=self.output(self.transformer.feed_forward(states.values)))

    def _joined(self, sequences: Mapping[str, Tokens]) -> tuple[Tensor, Tensor, list[int]]:
        """All tokens (B, L, D) with their places, their validity (B, L), and how many each modality has."""
        parts = [sequences[name] for name in self.names]
        lengths = [part.values.shape[1] for part in parts]
        tokens = torch.cat([part.values for part in parts], dim=1) + self._places(lengths)
        return tokens, torch.cat([part.valid for part in parts], dim=1), lengths

    def _places(self, lengths: Sequence[int]) -> Tensor:
        """Embeddings (L, D) of modality and position."""
        return torch.cat([self.modality[m] + self._positions(length) for m, length in enumerate(lengths)])

    def _positions(self, length: int) -> Tensor:
        return sinusoidal_positions(length, self.modality.shape[1], self.modality.device)


class TokenScores(nn.Module):
    """Scores of the tokens to hide: a transformer over all tokens, and a sigmoid.

    Args:
        width: Width D of the tokens.
        layers: Number of layers.
        heads: Attention heads; None: chosen from the width.
        dropout: Dropout of the transformer.

    Source:
        The mask predictor of :cite:`choi2025cepa`, eq. 3 and appendix D.1.
    """

    def __init__(self, width: int, *, layers: int = 2, heads: int | None = None, dropout: float = 0.1):
        super().__init__()
        self.transformer = TransformerTrunk(
            width, layers=layers, heads=heads, feedforward=FEED_FORWARD, dropout=dropout
        )
        self.score = nn.Linear(width, 1)

    def forward(self, sequences: Mapping[str, Tokens], read: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Tokens (B, L_m, D) of each modality to scores (B, L_m) in (0, 1), zero where not `read` or not valid."""
        valid = torch.cat([valid for _, valid in sequences.values()], dim=1)
        wanted = valid if read is None else torch.cat([read[name] for name in sequences], dim=1)
        states = self.transformer.at(torch.cat([tokens for tokens, _ in sequences.values()], dim=1), valid, wanted)
        scores = _spread(self.score(states).sigmoid(), wanted)[..., 0]
        return dict(zip(sequences, scores.split([tokens.shape[1] for tokens, _ in sequences.values()], dim=1)))


def _spread(values: Tensor, wanted: Tensor) -> Tensor:
    """Values (R, D) of some places (B, L), in the order of `nonzero`, with zeros elsewhere: (B, L, D)."""
    if len(values) == wanted.numel():
        return values.view(*wanted.shape, -1)
    empty = values.new_zeros(wanted.numel(), values.shape[1])
    places = torch.nonzero_static(wanted.flatten(), size=len(values))[:, 0]
    return empty.index_copy(0, places, values).view(*wanted.shape, -1)


class MovingAverage(nn.Module):
    r"""A copy of a network whose parameters follow it slowly; always in evaluation mode, never trained.

    .. math:: \bar\phi \leftarrow \tau \bar\phi + (1 - \tau)\, \phi

    Args:
        network: The network to follow.
        decay: :math:`\tau` in [0, 1]; 0 copies, 1 stays as it began.

    Raises:
        ConfigurationError: If the decay is out of range.
    """

    def __init__(self, network: nn.Module, decay: float):
        super().__init__()
        if not 0 <= decay <= 1:
            raise ConfigurationError("the decay of a moving average is out of range", expected="0 … 1", got=decay)
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> MovingAverage:
        """Stays in evaluation mode: dropout would make the scores flicker."""
        return super().train(False)

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """One step towards the network; its buffers are copied."""
        for mine, theirs in zip(self.network.parameters(), network.parameters()):
            mine.mul_(self.decay).add_(theirs, alpha=1 - self.decay)
        for mine, theirs in zip(self.network.buffers(), network.buffers()):
            mine.copy_(theirs)

    @torch.no_grad()
    def forward(self, *arguments: object) -> object:
        """The outputs of the copy."""
        return self.network(*arguments)


class ContextEncoder(nn.Module):
    """A transformer over the set of present vectors and a query, whose last state is the context.

    Args:
        width: Width D.
        heads: Attention heads; None: chosen from the width.
        dropout: Dropout of the transformer.

    Source:
        :cite:`choi2025cepa`, eq. 8.
    """

    def __init__(self, width: int, *, heads: int | None = None, dropout: float = 0.1):
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(width))
        self.transformer = TransformerTrunk(width, layers=1, heads=heads, feedforward=FEED_FORWARD, dropout=dropout)

    def forward(self, features: Tensor, observed: Tensor) -> Tensor:
        """Features (B, M, D) and presence (B, M) to contexts (B, D)."""
        query = self.query.expand(len(features), 1, -1).to(features.dtype)
        valid = torch.cat([torch.ones_like(observed[:, :1]), observed], dim=1)
        tokens = torch.cat([query, torch.where(observed[..., None], features, 0.0)], dim=1)
        return self.transformer(tokens, valid)[:, 0]


class _Present(NamedTuple):
    rows: Tensor
    tokens: Tensor
    valid: Tensor


def fill_sequence(present: tuple[Tensor, Tensor, Tensor] | None, stand_in: Tensor, length: int, size: int) -> Tokens:
    """Tokens of all rows: the modality's own where it is present, a stand-in of fixed length where it is absent.

    Args:
        present: Positions (P,), tokens (P, L, D) and validity (P, L) of the rows that have it; None: nobody has.
        stand_in: The learned token of the modality, of shape (D,).
        length: How many times it is repeated.
        size: Number of rows B.

    Returns:
        Tokens (B, max(L, length), D) and their validity; of an absent row the first `length` are valid.
    """
    if present is None:
        tokens = stand_in.expand(size, length, -1)
        return Tokens(tokens, torch.ones(size, length, dtype=torch.bool, device=stand_in.device))
    rows, tokens, valid = _Present(*present)
    short = max(length - tokens.shape[1], 0)
    if short:
        tokens, valid = functional.pad(tokens, (0, 0, 0, short)), functional.pad(valid, (0, short))
    if len(rows) == size:
        return Tokens(*(part.index_copy(0, rows, part) for part in (tokens, valid)))
    absent = torch.ones(size, 1, dtype=torch.bool, device=rows.device).index_fill(0, rows, False)
    absent = absent & (torch.arange(tokens.shape[1], device=rows.device) < length)  # (B, L)
    whole = torch.where(absent[..., None], stand_in.to(tokens.dtype), 0.0).index_copy(0, rows, tokens)
    return Tokens(whole, absent.index_copy(0, rows, valid))
