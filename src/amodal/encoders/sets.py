"""Encoder of sets: any encoder of the members, one by one, and pooling by attention in which their order is nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.encoders.encoder import Encoder, Tokens
from amodal.kinds import SetKind
from amodal.schema import Modality

__all__ = ["SetEncoder", "member_of"]


def member_of(modality: Modality) -> Modality:
    """One member of a set, as a modality of its own; any other modality as it is."""
    kind = modality.traits
    if not isinstance(kind, SetKind):
        return modality
    shape = kind.member_shape(modality.shape)
    return Modality(modality.name, kind.of.name, shape, modality.features, modality.units, modality.description)


class SetEncoder(Encoder):
    r"""Sets of images, texts or tables: each member by an encoder of its kind, then a weighted mean.

    A token is a member's pooled vector :math:`h_k`, and the set's vector is

    .. math:: z = \sum_k a_k h_k, \qquad
        a_k = \operatorname{softmax}_k\, w^\top (\tanh(V h_k) \odot \operatorname{sigm}(U h_k)),

    (equations 7 and 9 of the source) with :math:`w = 0` at first, so that training begins with the plain mean. Neither
    depends on the order of the members. It is what `build_encoders` makes of an encoder of images, texts or tables
    where a modality has sets of them.

    Args:
        modality: A modality of sets.
        inner: The encoder of one member (`member_of`).

    Source:
        :cite:`ilse2018attention`, section 2.4.
    """

    def __init__(self, modality: Modality, inner: Encoder):
        super().__init__(modality, width=inner.width)
        self.inner = inner
        self.can_hide = inner.can_hide
        self.references = (*inner.references, "ilse2018attention")  # type: ignore[misc]
        self.value, self.gate = nn.Linear(self.width, self.width), nn.Linear(self.width, self.width)
        self.score = nn.Linear(self.width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    @property
    def n_tokens(self) -> int:
        """One a member of the largest set."""
        return self.modality.shape[0]

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """Sets (P, …) to one token a member, in their order."""
        kind = self.modality.traits
        assert isinstance(kind, SetKind)
        rows, places, *inputs = kind.members(values, measured, lengths)
        vectors = self.inner(*inputs).pooled  # (T, D)
        longest = max(1, int(places.max()) + 1 if len(places) else 1)
        tokens = vectors.new_zeros(len(values), longest, self.width).index_put((rows, places), vectors)
        valid = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        valid[rows, places] = True
        return Tokens(tokens, valid)

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The tokens as they are: members do not read one another."""
        return tokens

    def pool(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The mean of the valid tokens, weighted by attention."""
        score = self.score(self.value(tokens).tanh() * self.gate(tokens).sigmoid())[..., 0]  # (P, K)
        score = score.masked_fill(~valid, torch.finfo(score.dtype).min)
        weight = torch.where(valid, score.softmax(1), 0.0)
        return (weight[..., None] * torch.where(valid[..., None], tokens, 0.0)).sum(1)
