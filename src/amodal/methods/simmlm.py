"""SimMLM: a predictor for each modality, weighed by a gate, and a loss that more should not predict worse."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.fusion.network import Head
from amodal.losses.contrast import margin_ranking
from amodal.losses.masked import mean_over_labelled, select
from amodal.losses.task import task_loss
from amodal.method import LossTerms, NetworkMethod
from amodal.options import Count, Share, at_least, below
from amodal.patterns import encode_under
from amodal.schema import Schema, Task

__all__ = ["SimMLM", "draw_pair"]


class SimMLM(NetworkMethod):
    r"""A complete predictor for each modality, whose outputs are weighed by a gate that sees all that is present.

    With the outputs :math:`f^m` of modality m's predictor and the present modalities S of a row,

    .. math:: \hat y_c = \sum_{m \in S} w_{mc} f^m_c(x^m), \qquad w_{\cdot c} = \operatorname{softmax}_{m \in S} g_{mc},

    where the gate g reads the pooled vectors of S, zeros for what is absent, and the presence. For each row that has
    two modalities or more, two nested sets :math:`S^- \subsetneq S^+` of them are drawn. Minimised is the mean over
    rows of

    .. math:: \tfrac12 \bigl(\ell(S^+) + \ell(S^-)\bigr) + \alpha \, \max\bigl(0, \ell(S^+) - \ell(S^-)\bigr)

    and of :math:`\ell` alone for a row with one modality. With several labels the difference is taken label by label.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        w_rank: Weight :math:`\alpha` of the ranking loss; below one half, a worse prediction from fewer modalities
            never pays.
        by_output: Whether the gate has a weight for each modality and output, and not one for each modality; None: for
            several labels, whose outputs are losses of their own.
        alone: Share of the training, at its beginning, in which each modality's predictor learns by itself.
        gate_hidden: Width of the gate's hidden layer; 0: a linear gate, which leaves no interaction of modalities.
        hidden: Width of the predictors' hidden layers; 0: linear heads.
        dropout: Dropout of predictors and gate.

    Source:
        :cite:`li2025simmlm`. Deviations: predictors are heads on encoders of any kind, and the gate reads pooled
        vectors instead of images; the two sets are seen with one encoding of the row, not with two augmentations, and
        drawn in any number of modalities; the ranking loss is a mean over the rows of the task's loss, so that rows
        without a pair cannot raise its weight above that of the predictions; presence is known and not read off zeros.
    """

    title = "SimMLM: gated votes"
    summary = "a predictor for each modality, weighed by a gate, with a loss that more should not predict worse"
    references = ("li2025simmlm",)
    meets_all_patterns = True
    PRESETS: ClassVar = {"paper": {"by_output": True, "alone": 0.625, "hidden": 0}}

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        w_rank: Annotated[float, at_least(0), below(0.5)] = 0.1,
        by_output: bool | None = None,
        alone: Share = 0.0,
        gate_hidden: Count = 128,
        hidden: Count = 128,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.w_rank, self.alone = w_rank, alone
        self.encoders = encoders_for(schema, encoders)
        width, m, n_outputs = width_of(self.encoders), len(schema.names), schema.task.n_outputs
        self.experts = PerModality(
            {name: Head(width, n_outputs, hidden=hidden, dropout=dropout) for name in schema.names}
        )
        by_output = schema.task.traits.many_labels if by_output is None else by_output
        weights = n_outputs if by_output else 1
        self.gate = Head(m * (width + 1), m * weights, hidden=gate_hidden, dropout=dropout)

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs of the gated predictors (B, C)."""
        features, observed = encode_pooled(self.encoders, batch)
        return gated(self.expert_outputs(features), self.weights(features, observed))

    def expert_outputs(self, features: Tensor) -> Tensor:
        """Each predictor's outputs (B, M, C), meaningless where its modality is absent."""
        return torch.stack([head(features[:, m]) for m, (_, head) in enumerate(self.experts.items())], dim=1)

    def weights(self, features: Tensor, observed: Tensor) -> Tensor:
        """Weights (B, M, C), or (B, M, 1), that add up to one over the present modalities (B, M), 0 where absent."""
        seen = torch.where(observed[..., None], features, 0.0).flatten(1)
        logits = self.gate(torch.cat([seen, observed.to(seen.dtype)], dim=1)).unflatten(1, (observed.shape[1], -1))
        readable = observed | ~observed.any(1, keepdim=True)  # no NaN for a row without anything
        return torch.where(observed[..., None], logits.masked_fill(~readable[..., None], -math.inf).softmax(1), 0.0)

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """Losses of both sets and of their ranking, as means over the rows with a label; see `Method.objective`."""
        task, target = self.schema.task, batch.labels
        if self.clock.progress < self.alone:  # first stage: every predictor by itself
            features, observed = encode_pooled(self.encoders, batch)
            own = [
                mean_over_labelled(select(task_loss(part, target, task.kind), seen), batch.labelled)
                for part, seen in zip(self.expert_outputs(features).unbind(1), observed.unbind(1))
            ]
            return LossTerms({"own": torch.stack(own).sum()})
        more, fewer = draw_pair(batch.presence, generator)
        paired = fewer.any(1)
        # One encoding and one run of the predictors; the gate sees each set for itself.
        features, _ = encode_under(self.encoders, batch, more[None])
        experts = self.expert_outputs(features)
        losses, known = zip(
            *(losses_by_output(gated(experts, self.weights(features, s)), target, task) for s in (more, fewer))
        )
        own = [mean_over_outputs(part, known[0]) for part in losses]  # of both sets, (B,) each
        rank = mean_over_outputs(margin_ranking(*losses), known[0])
        terms = {
            "task": mean_over_labelled(torch.where(paired, 0.5 * (own[0] + own[1]), own[0]), batch.labelled),
            "rank": mean_over_labelled(select(rank, paired), batch.labelled),
        }
        return LossTerms(terms, {"rank": self.w_rank})


def losses_by_output(outputs: Tensor, target: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Losses (B, K) of each label, or (B, 1) of a row as a whole, and which are of known targets; zero elsewhere."""
    if not task.traits.many_labels:
        losses = task_loss(outputs, target, task.kind)[:, None]
        return losses, torch.ones_like(losses, dtype=torch.bool)
    cells = task_loss(outputs.reshape(-1, 1), target.reshape(-1, 1), task.kind)
    return cells.view(outputs.shape), ~target.isnan()


def mean_over_outputs(losses: Tensor, known: Tensor) -> Tensor:
    """Mean over the known outputs of losses (B, K): (B,), zero where none is known."""
    return torch.where(known, losses, 0.0).sum(1) / known.sum(1).clamp(min=1)


def gated(experts: Tensor, weights: Tensor) -> Tensor:
    """Outputs (B, M, C) weighted by (B, M, C) or (B, M, 1) and added up: (B, C)."""
    return (weights * torch.where(weights > 0, experts, 0.0)).sum(1)


def draw_pair(observed: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    r"""Two nested sets of each row's present modalities.

    The size of the larger is uniform on 2 … n, that of the smaller uniform below it, and which ones is uniform.

    Args:
        observed: Presence, bool, of shape (B, M).
        generator: Source of the draws, on the same device.

    Returns:
        The larger set :math:`S^+` and the smaller :math:`S^-`, bool, of shape (B, M) each. A row with one modality has
        it in the larger set, and an empty smaller one.

    Example:
        >>> more, fewer = draw_pair(torch.tensor([[True, True], [True, False]]), torch.Generator().manual_seed(0))
        >>> more.sum(1).tolist(), fewer.sum(1).tolist()
        ([2, 1], [1, 0])
    """
    draws = torch.rand(len(observed), 2 + observed.shape[1], generator=generator, device=observed.device)
    order = torch.where(observed, draws[:, 2:], 2.0).argsort(1).argsort(1)  # (B, M), absent ones last
    n = observed.sum(1)
    n_more = torch.where(n > 1, 2 + (draws[:, 0] * (n - 1)).floor(), n.to(draws.dtype))
    n_fewer = torch.where(n > 1, 1 + (draws[:, 1] * (n_more - 1)).floor(), 0.0)
    return observed & (order < n_more[:, None]), observed & (order < n_fewer[:, None])
