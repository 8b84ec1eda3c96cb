"""DrFuse: features that modalities share and features of each alone, weighed for every label."""

from __future__ import annotations

import copy
from itertools import combinations
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.kinds.task import log_mean
from amodal.losses.contrast import margin_ranking
from amodal.losses.divergence import jensen_shannon
from amodal.losses.masked import mean_over_observed
from amodal.losses.task import task_loss
from amodal.method import LossTerms, NetworkMethod
from amodal.options import Share, Weight
from amodal.schema import Schema

__all__ = ["DrFuse", "mean_of_sigmoids"]


class DrFuse(NetworkMethod):
    r"""Features that modalities share and features of each alone, weighed by attention for every label.

    Every modality has two encoders. A projector common to all turns one's vectors into shared features :math:`h_m`,
    which are fused into one, whatever is absent; the other gives what is the modality's alone, :math:`d_m`:

    .. math::
        h = \sigma^{-1}\Bigl(\tfrac{1}{|O|} \textstyle\sum_{m \in O} \sigma(h_m)\Bigr), \qquad
        w_c = \mathrm{softmax}_{t \in O}(\bar q^\top k_{tc} / \sqrt{D}), \qquad
        o_c = W_c \textstyle\sum_t w_{ct} v_t + b_c

    where the tokens t are all :math:`d_m` and h, with queries, values and a key for each output c from one linear map.
    The terms of the objective: the loss of o; of a head on h; of a head on each :math:`d_m`; the Jensen-Shannon
    divergence of the shared features (as probabilities :math:`\sigma(h_m)`, summed over the width); the absolute cosine
    of :math:`h_m` and :math:`d_m`; and, for every two tokens, a ranking of their weights by the losses of their heads.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality, which gets a copy for its own features; None: the defaults.
        w_shared: Weight of the loss of h's head.
        w_own: Weight of the losses of the heads of each :math:`d_m`, over the rows that have m.
        w_alignment: Weight of the divergence, a mean over the rows with two modalities or more, which grows with the
            width. In later work of the authors 0.01 was chosen where rows are incomplete.
        w_orthogonal: Weight of the cosines.
        w_ranking: Weight of the ranking.
        dropout: Dropout of the vectors of both encoders.

    Source:
        :cite:`yao2024drfuse`. Deviations: any modality may be absent, and there may be any number of them; rows with
        fewer than two are no part of the divergence (in the code they are, and a batch without a pair is divided by
        one millionth); two whole encoders instead of two with a common first part; of a task with one true class, the
        ranking compares the loss of the whole row in place of a label's.
    """

    title = "DrFuse: shared and own"
    summary = "features that modalities share and features of each alone, weighed for every label"
    references = ("yao2024drfuse",)
    couples_rows = True
    PRESETS: ClassVar = {"paper": {"w_alignment": 1.0, "dropout": 0.3}}

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        w_shared: Weight = 1.0,
        w_own: Weight = 1.0,
        w_alignment: Weight = 0.01,
        w_orthogonal: Weight = 1.0,
        w_ranking: Weight = 1.0,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.weights = {
            "shared": w_shared,
            "own": w_own,
            "alignment": w_alignment,
            "orthogonal": w_orthogonal,
            "ranking": w_ranking,
        }
        self.uses_unlabelled = w_alignment > 0 or w_orthogonal > 0
        self.encoders = encoders_for(schema, encoders)
        self.own_encoders = copy.deepcopy(self.encoders)
        width, n_outputs = width_of(self.encoders), schema.task.n_outputs
        self.drop = nn.Dropout(dropout)
        self.projector = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.shared_head = nn.Linear(width, n_outputs)
        self.own_heads = PerModality({name: nn.Linear(width, n_outputs) for name in schema.names})
        self.attention = _AttentionByOutput(width, n_outputs)

    def parts(self, batch: Batch) -> _Parts:
        """Everything that the objective and predictions read."""
        vectors, observed = encode_pooled(self.encoders, batch)
        shared = self.projector(self.drop(vectors))  # (B, M, D)
        own = self.drop(encode_pooled(self.own_encoders, batch)[0])
        fused = mean_of_sigmoids(shared, observed)
        tokens = torch.cat([torch.where(observed[..., None], own, 0.0), fused[:, None]], dim=1)  # (B, M + 1, D)
        outputs, weights = self.attention(tokens, torch.cat([observed, observed.any(1, keepdim=True)], dim=1))
        return _Parts(shared, own, fused, observed, outputs, weights)

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C) of the attention."""
        return self.parts(batch).outputs

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The six terms; the divergence and the cosines also of rows without a label; see `Method.objective`."""
        parts = self.parts(batch)
        heads = [head(parts.own[:, m]) for m, (_, head) in enumerate(self.own_heads.items())]
        fused = self.shared_head(parts.fused)
        pairs = parts.observed.sum(1) > 1
        cosines = functional.cosine_similarity(parts.shared, parts.own, dim=2).abs()  # (B, M)
        by_modality = zip(cosines.unbind(1), parts.observed.unbind(1))
        terms = {
            "task": self.task_term(parts.outputs, batch),
            "shared": self.task_term(fused, batch),
            "own": self.own_term(torch.stack(heads, dim=1), parts.observed, batch),
            "alignment": mean_over_observed(jensen_shannon(functional.logsigmoid(parts.shared), parts.observed), pairs),
            "orthogonal": torch.stack([mean_over_observed(value, seen) for value, seen in by_modality]).sum(),
            "ranking": self._ranking(torch.stack([*heads, fused], dim=1).detach(), parts, batch),
        }
        return LossTerms(terms, self.weights)

    def _ranking(self, outputs: Tensor, parts: _Parts, batch: Batch) -> Tensor:
        """How far attention goes against the order of the heads' losses, outputs (B, M + 1, C): a scalar.

        For every two tokens the sum over rows with two modalities, divided by the number of terms above zero.
        """
        losses, known = self._losses(outputs, batch)  # (B, M + 1, C), (B, C)
        present = torch.cat([parts.observed, parts.observed.sum(1, keepdim=True) > 1], dim=1)
        known = known & (batch.labelled & (parts.observed.sum(1) > 1))[:, None]
        found = []
        for a, b in combinations(range(outputs.shape[1]), 2):
            better = losses[:, a] < losses[:, b]
            one, other = parts.weights[..., a], parts.weights[..., b]
            violated = margin_ranking(torch.where(better, other, one), torch.where(better, one, other))
            violated = torch.where(known & (present[:, a] & present[:, b])[:, None], violated, 0.0)
            found.append(violated.sum() / (violated > 0).sum().clamp(min=1))
        return torch.stack(found).mean()

    def _losses(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses (B, T, C) of several outputs, of each label or else of the row, and which of them count (B, C)."""
        kind, target = self.schema.task.kind, batch.labels
        tokens = outputs.unbind(1)
        if not self.schema.task.traits.many_labels:
            rows = torch.stack([task_loss(o, target, kind) for o in tokens], dim=1)  # (B, T)
            return rows[..., None].expand_as(outputs), torch.ones_like(outputs[:, 0], dtype=torch.bool)
        by_label = [
            torch.stack([task_loss(o[:, c : c + 1], target[:, c : c + 1], kind) for c in range(o.shape[1])], dim=1)
            for o in tokens
        ]
        return torch.stack(by_label, dim=1), ~target.isnan()


class _Parts(NamedTuple):
    """What is computed of a batch: shared and own features (B, M, D), the fused one (B, D), presence, outputs (B, C),
    attention (B, C, M + 1)."""

    shared: Tensor
    own: Tensor
    fused: Tensor
    observed: Tensor
    outputs: Tensor
    weights: Tensor


class _AttentionByOutput(nn.Module):
    """Attention over tokens with a query of all, a value of each, and a key of each for every output."""

    def __init__(self, width: int, n_outputs: int):
        super().__init__()
        self.width = width
        self.maps = nn.Linear(width, (2 + n_outputs) * width)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, D), present (B, T) to outputs (B, C) and weights (B, C, T), zero for absent tokens."""
        maps = self.maps(tokens).unflatten(2, (-1, self.width))  # (B, T, 2 + C, D)
        query, value, keys = maps[:, :, 0], maps[:, :, 1], maps[:, :, 2:]
        query = torch.where(present[..., None], query, 0.0).sum(1) / present.sum(1, keepdim=True).clamp(min=1)
        scores = torch.einsum("bd,btcd->bct", query, keys) / self.width**0.5
        readable = present | ~present.any(1, keepdim=True)
        weights = torch.where(readable[:, None], scores, -torch.inf).softmax(2)
        fused = torch.einsum("bct,btd->bcd", weights, value)
        return (fused * self.head.weight).sum(2) + self.head.bias, weights


def mean_of_sigmoids(features: Tensor, observed: Tensor) -> Tensor:
    r"""The number whose sigmoid is the mean of the observed modalities' sigmoids, coordinate by coordinate.

    .. math::
        \sigma^{-1}\Bigl(\tfrac{1}{|O|} \sum_{m \in O} \sigma(h_m)\Bigr)
        = \log \sum_m \sigma(h_m) - \log \sum_m \sigma(-h_m)

    Args:
        features: Of shape (B, M, D); arbitrary where absent.
        observed: Presence, bool, of shape (B, M).

    Returns:
        Of shape (B, D); zero where nothing is observed.

    Example:
        >>> mean_of_sigmoids(torch.tensor([[[2.0], [2.0], [9.0]]]), torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """
    keep = observed[..., None]
    features = torch.where(keep, features, 0.0)
    return log_mean(functional.logsigmoid(features), keep) - log_mean(functional.logsigmoid(-features), keep)
