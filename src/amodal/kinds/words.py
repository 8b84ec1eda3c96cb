"""Texts as numbers without a vocabulary: hashed words and hashed triples of characters."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["count_words", "hash_words", "triple_shares"]

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


def count_words(text: Tensor, lengths: Tensor | None, buckets: int) -> Tensor:
    """Counts of each text's words in each bucket.

    Args:
        text: Bytes, uint8, of shape (P, L).
        lengths: Valid bytes, of shape (P,); None: all.
        buckets: Number of buckets.

    Returns:
        Float, of shape (P, buckets).
    """
    if lengths is None:
        lengths = torch.full((len(text),), text.shape[1], device=text.device)
    ids, valid = hash_words(text, lengths, buckets, text.shape[1])
    counts = torch.zeros(len(ids), buckets + 1, device=ids.device)
    counts.scatter_add_(1, torch.where(valid, ids, buckets), torch.ones_like(ids, dtype=counts.dtype))
    return counts[:, :buckets]


def triple_shares(text: Tensor, lengths: Tensor | None, buckets: int) -> Tensor:
    """Square roots of the shares of hashed triples of bytes; their distance is Hellinger's, up to a factor.

    Args:
        text: Bytes, uint8, of shape (P, L).
        lengths: Valid bytes, of shape (P,); None: all.
        buckets: Number of buckets.

    Returns:
        Float, of shape (P, buckets); zero for a text of less than three bytes.
    """
    if lengths is None:
        lengths = torch.full((len(text),), text.shape[1], device=text.device)
    inside = torch.arange(text.shape[1], device=text.device) < lengths[:, None]  # (P, L)
    counts = torch.zeros(len(text), buckets, device=text.device)
    if text.shape[1] < 3:
        return counts
    code = text.long()
    code = code[:, :-2] * 65_599 + code[:, 1:-1] * 257 + code[:, 2:]
    counts.scatter_add_(1, (code * 2_654_435_761 >> 16) % buckets, inside[:, 2:].float())
    return (counts / counts.sum(1, keepdim=True).clamp(min=1)).sqrt()
