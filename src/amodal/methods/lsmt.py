"""LSMT: one transformer over the tokens of all modalities, long sequences compressed to latents before."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from amodal.attention import TransformerTrunk, sinusoidal_positions
from amodal.batch import Batch
from amodal.encoders import PerModality, encoders_for, width_of
from amodal.encoders.encoder import Tokens, encode_tokens, token_counts
from amodal.method import LossTerms, NetworkMethod
from amodal.options import Count, Share, Size
from amodal.schema import Schema

__all__ = ["LSMT"]


class LSMT(NetworkMethod):
    r"""A class token, and the tokens of every present modality, through one transformer.

    The tokens of a modality are those of its encoder, and its pooled vector if that is more than their mean. A modality
    with more than N of them is read by N latents: blocks of cross-attention from latents to tokens, a
    feed-forward layer, self-attention of the latents, and another one, each with a normalisation before and a residual
    connection. Tokens, or latents, get a linear map, a vector for their modality (zero at the start) and positions;
    absent modalities and padding are not attended to. The class token's last state predicts.

    With `deep_supervision` heads on the mean token of each present modality (before the transformer) join in: the
    outputs are :math:`(M o + \sum_{m \in O} o_m) / (M + |O|)`, and each head has a loss of its own.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality, whose tokens are read; None: the defaults.
        latents: Number N of latents.
        blocks: Blocks of the latents' reader.
        layers: Layers of the joint transformer.
        heads: Attention heads of latents and transformer; None: chosen from the width.
        feedforward: Width of the transformer's feed-forward parts, as a multiple of the tokens'.
        positions: "modality": counted anew in each modality, none on latents; "running": over the whole sequence, so
            that tokens of absent modalities still count, as published.
        doubled: Whether tokens enter as twice themselves plus the code of their position, as in the published code.
        deep_supervision: Whether every modality's mean token predicts, too.
        dropout: Dropout of attention and transformer.

    Source:
        :cite:`khader2023lsmt`; the reader of latents after :cite:`jaegle2021perceiver`. Deviations: any number of
        modalities; absent ones and padding are masked (there: zero images are attended to, and so are padded steps);
        the time code of a series is of its own steps instead of the longest row's in the batch; one width throughout.
    """

    title = "LSMT: one transformer"
    summary = "one transformer over the tokens of all modalities, long ones compressed to latents"
    references = ("khader2023lsmt", "jaegle2021perceiver")
    couples_rows = True
    preferred_encoders: ClassVar = {
        "tabular": {"name": "feature_tokens", "layers": 0},
        "series": {"name": "steps"},
    }
    PRESETS: ClassVar = {
        "paper": {"latents": 64, "blocks": 9, "layers": 4, "feedforward": 1.0, "positions": "running", "doubled": True}
    }

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        latents: Size = 16,
        blocks: Size = 1,
        layers: Count = 2,
        heads: Size | None = None,
        feedforward: float = 2.0,
        positions: Literal["modality", "running"] = "modality",
        doubled: bool = False,
        deep_supervision: bool = False,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.positions, self.doubled = positions, doubled
        self.encoders = encoders_for(schema, encoders)
        width, n_outputs = width_of(self.encoders), schema.task.n_outputs
        lengths = token_counts(self.encoders)
        self.readers = PerModality(
            {
                name: _LatentReader(width, latents, blocks=blocks, heads=heads, dropout=dropout)
                for name, n in lengths.items()
                if n > latents
            }
        )
        self.places = {name: min(n, latents) for name, n in lengths.items()}
        self.maps = PerModality({name: nn.Linear(width, width) for name in schema.names})
        self.modality = nn.Parameter(torch.zeros(len(schema.names), width))
        self.summary_token = nn.Parameter(torch.randn(width))
        self.transformer = TransformerTrunk(width, layers=layers, heads=heads, feedforward=feedforward, dropout=dropout)
        self.head = nn.Linear(width, n_outputs)
        self.own_heads = None
        if deep_supervision:
            self.own_heads = PerModality({name: nn.Linear(width, n_outputs) for name in schema.names})

    def tokens(self, batch: Batch) -> dict[str, Tokens]:
        """The tokens of each modality that enter the transformer, before positions: at most N each."""
        found = {}
        for m, (name, (tokens, valid)) in enumerate(encode_tokens(self.encoders, batch).items()):
            if name in set(self.readers):
                tokens, valid = self.readers[name](tokens, valid, batch.observed[name])
            found[name] = Tokens(self.maps[name](tokens) + self.modality[m], valid)
        return found

    def all_outputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Predicted outputs (B, C), the class token's (B, C), and each modality's own (B, M, C) if it has any."""
        given = self.tokens(batch)
        parts, valid, start = [], [], 1  # the class token is at place 0
        for name, tokens in given.items():
            parts.append(self._placed(name, tokens.values, start if self.positions == "running" else 0))
            valid.append(tokens.valid)
            start += self.places[name]
        first = self.summary_token.expand(len(batch), 1, -1)
        if self.positions == "running":
            first = self._placed("", first, 0)
        every = torch.ones_like(first[..., 0], dtype=torch.bool)
        states = self.transformer(torch.cat([first, *parts], dim=1), torch.cat([every, *valid], dim=1))
        joint = self.head(states[:, 0])
        if self.own_heads is None:
            return joint, joint, None
        own = torch.stack([self.own_heads[name](_mean(*tokens)) for name, tokens in given.items()], dim=1)
        observed, m = self.presence(batch), len(given)
        total = m * joint + torch.where(observed[..., None], own, 0.0).sum(1)
        return total / (m + observed.sum(1, keepdim=True)), joint, own

    def _placed(self, name: str, tokens: Tensor, start: int) -> Tensor:
        """Tokens with the codes of their places."""
        if self.positions == "modality" and name in set(self.readers):
            return tokens
        code = sinusoidal_positions(start + tokens.shape[1], tokens.shape[2], tokens.device)[start:]
        return (2 * tokens if self.doubled else tokens) + code

    def outputs(self, batch: Batch) -> Tensor:
        """Predicted outputs (B, C)."""
        return self.all_outputs(batch)[0]

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The class token's loss over all rows and, with deep supervision, every head's; see `Method.objective`."""
        _, joint, own = self.all_outputs(batch)
        terms = {"task": self.task_term(joint, batch)}
        if own is not None:
            terms["own"] = self.own_term(own, self.presence(batch), batch)
        return LossTerms(terms)


class _LatentReader(nn.Module):
    """N learned latents that read a padded set of tokens."""

    def __init__(self, width: int, latents: int, *, blocks: int, heads: int | None, dropout: float):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, width))
        self.blocks = nn.ModuleList(_ReaderBlock(width, heads=heads, dropout=dropout) for _ in range(blocks))

    def forward(self, tokens: Tensor, valid: Tensor, observed: Tensor) -> Tokens:
        """Tokens (B, L, D), valid (B, L), presence (B,) to latents (B, N, D), valid where the modality is present."""
        latents = self.latents.expand(len(tokens), -1, -1)
        readable = valid | ~valid.any(1, keepdim=True)  # a row without tokens reads zeros, and is not valid after
        for block in self.blocks:
            latents = block(latents, tokens, readable)
        return Tokens(
            torch.where(observed[:, None, None], latents, 0.0), observed[:, None].expand(-1, latents.shape[1])
        )


class _ReaderBlock(nn.Module):
    """Cross-attention, feed-forward, self-attention, feed-forward; each normalised before and added."""

    def __init__(self, width: int, *, heads: int | None, dropout: float):
        super().__init__()
        heads = heads or next(n for n in (4, 2, 1) if width % n == 0)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.cross = nn.MultiheadAttention(width, 1, dropout=dropout, batch_first=True)
        self.itself = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.inner = nn.ModuleList(nn.Linear(width, 8 * width) for _ in range(2))
        self.outer = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(2))

    def forward(self, latents: Tensor, tokens: Tensor, readable: Tensor) -> Tensor:
        read = self.norms[1](tokens)
        latents = (
            latents + self.cross(self.norms[0](latents), read, read, key_padding_mask=~readable, need_weights=False)[0]
        )
        latents = latents + self._feed(0, self.norms[2](latents))
        own = self.norms[3](latents)
        latents = latents + self.itself(own, own, own, need_weights=False)[0]
        return latents + self._feed(1, self.norms[4](latents))

    def _feed(self, i: int, x: Tensor) -> Tensor:
        value, gate = self.inner[i](x).chunk(2, dim=-1)
        return self.outer[i](value * functional.gelu(gate))


def _mean(tokens: Tensor, valid: Tensor) -> Tensor:
    """Mean of the valid tokens (B, D); zero without any."""
    return torch.where(valid[..., None], tokens, 0.0).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
