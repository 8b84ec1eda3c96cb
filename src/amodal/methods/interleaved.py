"""Interleaved attention: every modality's tokens attend in turn to themselves and to the other modalities'."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.encoders import PerModality, encoders_for, width_of
from amodal.encoders.encoder import Tokens, encode_tokens, token_counts
from amodal.encoders.series import last_valid
from amodal.kinds import SetKind
from amodal.method import NetworkMethod
from amodal.options import Share, Size
from amodal.schema import Schema

__all__ = ["Interleaved"]


class Interleaved(NetworkMethod):
    r"""Streams of tokens, one a modality, that attend in turn to themselves and to one another.

    In each layer, with normalisations before and residual connections, every stream m attends to itself; then to every
    other present stream, all reading the same states, of which the mean is added; then comes a feed-forward part:

    .. math::
        X_m \leftarrow X_m + \mathrm{SA}_m(X_m), \qquad
        X_m \leftarrow X_m + \frac{1}{|O \setminus m|} \sum_{n \in O \setminus m} \mathrm{CA}_{mn}(X_m, X_n), \qquad
        X_m \leftarrow X_m + \mathrm{FF}_m(X_m)

    A series is read at its last token, any other modality at the mean of its tokens, and a learned vector stands for an
    absent one; a residual network of all of them predicts. By default series come to a regular grid by the encoder
    `utde`, from the raw times of their observations where the data have them.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality, whose tokens are read; None: the defaults.
        layers: Number J of layers.
        heads: Attention heads; None: chosen from the width.
        dropout: Dropout of attention, of the feed-forward parts and of the residual network.

    Source:
        :cite:`zhang2023interleaved`. Deviations: any number of modalities of any kinds (there: series and notes, both
        on one grid); absent ones are not attended to and are read as a learned vector (there: rows without notes are
        left out, and dummies are attended to); no stages of unfreezing for pretrained encoders, which have their own
        smaller learning rate here.
    """

    title = "Interleaved attention"
    summary = "streams of tokens that attend in turn to themselves and to the other modalities"
    references = ("zhang2023interleaved",)
    preferred_encoders: ClassVar = {"series": {"name": "utde"}}
    PRESETS: ClassVar = {"paper": {"layers": 3, "heads": 8}}

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        layers: Size = 1,
        heads: Size | None = None,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.encoders = encoders_for(schema, encoders)
        width, n = width_of(self.encoders), len(schema.names)
        self.positions = nn.Parameter(torch.randn(max(token_counts(self.encoders).values()), width))
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_Layer(schema.names, width, heads=heads, dropout=dropout) for _ in range(layers))
        self.norms = PerModality({name: nn.LayerNorm(width) for name in schema.names})
        self.absent = nn.Parameter(torch.zeros(n, width))
        self.inner, self.outer = nn.Linear(n * width, n * width), nn.Linear(n * width, n * width)
        self.head = nn.Linear(n * width, schema.task.n_outputs)

    def streams(self, batch: Batch) -> dict[str, Tokens]:
        """The streams after all layers."""
        scale = math.sqrt(self.positions.shape[1])
        streams = {
            name: Tokens(self.drop(scale * tokens + self._places(name, tokens.shape[1])), valid)
            for name, (tokens, valid) in encode_tokens(self.encoders, batch).items()
        }
        for layer in self.layers:
            streams = layer(streams)
        return {name: Tokens(self.norms[name](tokens), valid) for name, (tokens, valid) in streams.items()}

    def _places(self, name: str, length: int) -> Tensor:
        """Positions of the tokens (L, D): beyond those of training the last one, and one for all members of a set."""
        last = 0 if isinstance(self.schema[name].traits, SetKind) else len(self.positions) - 1
        return self.positions[torch.arange(length, device=self.positions.device).clamp(max=last)]

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C)."""
        read = []
        for m, (name, (tokens, valid)) in enumerate(self.streams(batch).items()):
            if self.schema[name].traits.in_order:
                vector = last_valid(tokens, valid)
            else:
                vector = torch.where(valid[..., None], tokens, 0.0).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
            read.append(torch.where(batch.observed[name][:, None], vector, self.absent[m].to(vector.dtype)))
        joint = torch.cat(read, dim=1)  # (B, M · D)
        return self.head(self.outer(self.drop(self.inner(joint).relu())) + joint)


class _Layer(nn.Module):
    """Self-attention, attention to the others, feed-forward, with parts of their own for each modality and pair."""

    def __init__(self, names: tuple[str, ...], width: int, *, heads: int | None, dropout: float):
        super().__init__()
        heads = heads or next(n for n in (4, 2, 1) if width % n == 0)

        def attention() -> nn.MultiheadAttention:
            return nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)

        self.drop = nn.Dropout(dropout)
        self.norms = nn.ModuleList(PerModality({name: nn.LayerNorm(width) for name in names}) for _ in range(3))
        self.itself = PerModality({name: attention() for name in names})
        self.others = PerModality(
            {name: PerModality({other: attention() for other in names if other != name}) for name in names}
        )
        self.feed = PerModality(
            {
                name: nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), self.drop, nn.Linear(4 * width, width))
                for name in names
            }
        )

    def forward(self, streams: dict[str, Tokens]) -> dict[str, Tokens]:
        """Streams (B, L_m, D) to streams."""
        moved = {}
        for name, (tokens, valid) in streams.items():
            own = self.norms[0][name](tokens)  # type: ignore[index]
            moved[name] = Tokens(tokens + self.drop(_attend(self.itself[name], own, own, valid)), valid)
        read = {name: self.norms[1][name](tokens) for name, (tokens, _) in moved.items()}  # type: ignore[index]
        found = {}
        for name, (tokens, valid) in moved.items():
            tokens = tokens + self._from_others(name, read, moved)
            fed = self.feed[name](self.norms[2][name](tokens))  # type: ignore[index]
            found[name] = Tokens(torch.where(valid[..., None], tokens + self.drop(fed), 0.0), valid)
        return found

    def _from_others(self, name: str, read: dict[str, Tensor], streams: dict[str, Tokens]) -> Tensor:
        """Mean of what a stream reads in each other stream that has a token (B, L, D); zero if none has."""
        total, count = torch.zeros_like(read[name]), torch.zeros_like(read[name][:, 0, 0])
        sources = self.others[name]
        assert isinstance(sources, PerModality)
        for other, attention in sources.items():
            valid = streams[other].valid
            some = valid.any(1)
            part = self.drop(_attend(attention, read[name], read[other], valid))
            total = total + torch.where(some[:, None, None], part, 0.0)
            count = count + some
        return total / count.clamp(min=1)[:, None, None]


def _attend(attention: nn.Module, query: Tensor, tokens: Tensor, valid: Tensor) -> Tensor:
    """Attention to the valid tokens; a row without any attends to all, and is dropped by the caller."""
    readable = valid | ~valid.any(1, keepdim=True)
    return attention(query, tokens, tokens, key_padding_mask=~readable, need_weights=False)[0]
