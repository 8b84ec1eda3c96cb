"""Encoders of text that need no download: hashed words and a small transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.attention import TransformerTrunk, sinusoidal_positions
from amodal.encoders.encoder import Encoder, Tokens
from amodal.options import Count, Share, Size
from amodal.schema import Modality

__all__ = ["HashingTransformer", "hash_words"]

_MULTIPLIER = 0x100000001B3  # FNV's 64-bit prime; int64 products wrap around
_MIX = -0x61C8864680B583EB  # 2^64 / golden ratio as int64


def hash_words(text: Tensor, lengths: Tensor, buckets: int, max_words: int) -> tuple[Tensor, Tensor]:
    r"""Splits UTF-8 bytes into words and hashes each into a bucket, on the device and without a loop over rows.

    A word is a run of ASCII letters and digits, lower-cased, and of bytes from 128 up; each character that UTF-8
    writes with three or four bytes (Chinese, Japanese, Korean, Thai, Devanagari, …) begins a word of its own. A word of
    bytes b₀ … bₙ falls into the bucket of a mixed polynomial :math:`\sum_i (b_i + 1) p^i \bmod 2^{64}`.

    Args:
        text: Bytes, uint8, of shape (P, L).
        lengths: Valid bytes, of shape (P,).
        buckets: Number of buckets.
        max_words: Words kept of each row, from its start.

    Returns:
        Buckets, int64 (P, W), and which are words, bool (P, W), with W the largest number of words, at most
        `max_words`; W may be 0.

    Example:
        >>> text = torch.tensor([list(b"No edema. NO"), list(b"Effusion    ")], dtype=torch.uint8)
        >>> ids, valid = hash_words(text, torch.tensor([12, 8]), 1000, 8)
        >>> valid.sum(1).tolist(), bool(ids[0, 0] == ids[0, 2])
        ([3, 1], True)
    """
    code = text.long()
    position = torch.arange(text.shape[1], device=text.device)
    code = torch.where((code >= 65) & (code <= 90), code + 32, code)
    letter = ((code >= 97) & (code <= 122)) | ((code >= 48) & (code <= 57)) | (code >= 128)
    letter = letter & (position < lengths[:, None])  # (P, L)
    before = torch.cat([torch.zeros_like(letter[:, :1]), letter[:, :-1]], dim=1)
    start = letter & (~before | (code >= 0xE0))
    word = start.long().cumsum(1) - 1  # (P, L)
    begun = torch.where(start, position, 0).cummax(1).values
    powers = torch.full((text.shape[1],), _MULTIPLIER, dtype=torch.int64, device=text.device)
    powers = torch.cat([torch.ones_like(powers[:1]), powers[1:]]).cumprod(0) if len(powers) else powers
    used = letter & (word < max_words)
    n_words = int(torch.where(used, word + 1, 0).max()) if text.numel() else 0
    term = torch.where(used, (code + 1) * powers[position - begun], 0)
    total = torch.zeros(len(text), n_words + 1, dtype=torch.int64, device=text.device)
    total.scatter_add_(1, torch.where(used, word, n_words), term)
    total = total[:, :n_words]
    total = (total ^ (total >> 29)) * _MIX
    total = (total ^ (total >> 32)) % buckets
    count = torch.where(used, word + 1, 0).amax(1) if text.shape[1] else lengths * 0
    return total, torch.arange(n_words, device=text.device) < count[:, None]


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
        self.begin = nn.Parameter(0.1 * torch.randn(width))
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
        tokens = torch.cat([self.begin.expand(len(ids), 1, -1), words], dim=1)
        return Tokens(self.drop(tokens), torch.cat([torch.ones_like(lengths[:, None], dtype=torch.bool), valid], 1))

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The transformer over words."""
        return self.transformer(tokens, valid)
