"""Pooling of tokens: one vector of fixed scale for each modality, of own tokens and of predicted ones alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from amodal.encoders.encoder import Encoder, PerModality, Tokens, scatter
from amodal.tokens.absent_tokens import AbsentTokens
from amodal.tokens.hiding import Embedded

__all__ = ["PooledTokens", "TokenPooling"]


class TokenPooling(nn.Module):
    """Tokens to one vector of fixed scale: pooled by the modality's encoder, then a linear map and a LayerNorm.

    Args:
        width: Width D of the tokens and of the vector.
    """

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, encoder: Encoder, tokens: Tensor, valid: Tensor) -> Tensor:
        """Tokens (B, L, D) with their validity (B, L) to (B, D); the padding is never read."""
        return self.norm(self.linear(encoder.pool(torch.where(valid[..., None], tokens, 0.0), valid)))


class PooledTokens(PerModality):
    """Pooled vectors of every modality, each by a `TokenPooling` of its own.

    Args:
        names: The modalities, in order.
        width: Width D of the tokens and of the vectors.

    Source:
        :cite:`choi2025cepa`, eq. 7.
    """

    def __init__(self, names: Iterable[str], width: int):
        super().__init__({name: TokenPooling(width) for name in names})

    def forward(
        self, encoders: PerModality, whole: Mapping[str, Tokens], embedded: Mapping[str, Embedded | None]
    ) -> Tensor:
        """Vectors (B, M, D) of the rows' own tokens (B, L, D); zero where nothing is embedded of a row's modality."""
        vectors = []
        for name, (tokens, valid) in whole.items():
            part, size = embedded[name], len(tokens)
            if part is not None and len(part.rows) == size:
                vectors.append(self._of(encoders, name, tokens, valid))
            elif part is None:
                vectors.append(tokens.new_zeros(size, tokens.shape[2]))
            else:
                own = self._of(encoders, name, tokens[part.rows], valid[part.rows])
                vectors.append(scatter(own, part.rows, size))
        return torch.stack(vectors, dim=1)

    def predicted(self, encoders: PerModality, tokens: AbsentTokens, size: int) -> Tensor:
        """Vectors (…, Q, M, D) of predicted tokens; zero where nothing is absent. Q is `size`."""
        vectors = []
        for name, rows, part in zip(self, tokens.rows, tokens.split()):
            flat = part.reshape(-1, *part.shape[-2:])  # (… · n, U, D)
            whole = torch.ones(flat.shape[:2], dtype=torch.bool, device=flat.device)
            pooled = self._of(encoders, name, flat, whole).view(*part.shape[:-2], part.shape[-1])
            empty = pooled.new_zeros(*pooled.shape[:-2], size, pooled.shape[-1])
            vectors.append(empty.index_copy(-2, rows, pooled))
        return torch.stack(vectors, dim=-2)

    def _of(self, encoders: PerModality, name: str, tokens: Tensor, valid: Tensor) -> Tensor:
        """Vectors (n, D) of a modality's tokens (n, L, D)."""
        encoder = encoders[name]
        assert isinstance(encoder, Encoder)
        return self[name](encoder, tokens, valid) if len(tokens) else tokens.new_zeros(0, tokens.shape[2])
