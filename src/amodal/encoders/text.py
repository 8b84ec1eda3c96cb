"""Encoders of text that need no download: hashed words and a small transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.attention import TransformerTrunk, sinusoidal_positions
from amodal.encoders.encoder import Encoder, Tokens
from amodal.kinds.words import hash_words
from amodal.options import Count, Share, Size
from amodal.schema import Modality

__all__ = ["HashingTransformer"]


class HashingTransformer(Encoder):
    """Hashed words and a small transformer: text without a vocabulary, a download or a fit.

    Args:
        modality: A text modality.
        width: Width of tokens and of the pooled vector.
        buckets: Size of the embedding table.
        max_words: Words read of each text, from its start.
        layers: Layers of the transformer.
        heads: Attention heads; None: chosen from the width.
        dropout: Dropout of the embeddings and the transformer.
    """

    kinds = ("text",)
    references = ("weinberger2009hashing", "vaswani2017attention")
    can_hide = True

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        buckets: Size = 4096,
        max_words: Size = 128,
        layers: Count = 1,
        heads: Size | None = None,
        dropout: Share = 0.1,
    ):
        super().__init__(modality, width=width)
        self.buckets, self.max_words = buckets, max_words
        self.words = nn.Embedding(buckets, width)
        nn.init.normal_(self.words.weight, std=0.1)
        self.start = nn.Parameter(0.1 * torch.randn(width))
        self.drop = nn.Dropout(dropout)
        self.transformer = TransformerTrunk(width, layers=layers, heads=heads, dropout=dropout)

    @property
    def n_tokens(self) -> int:
        """One for the beginning, and as many as there may be words."""
        return 1 + self.max_words

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """Bytes (P, L) to a token for the beginning and one a word."""
        if lengths is None:
            lengths = torch.full((len(values),), values.shape[1], device=values.device)
        ids, valid = hash_words(values, lengths, self.buckets, self.max_words)
        words = self.words(ids) + 0.1 * sinusoidal_positions(ids.shape[1], self.width, ids.device)
        tokens = torch.cat([self.start.expand(len(ids), 1, -1), words], dim=1)
        return Tokens(self.drop(tokens), torch.cat([torch.ones_like(lengths[:, None], dtype=torch.bool), valid], 1))

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The transformer over words."""
        return self.transformer(tokens, valid)
