"""DiCMoR: invertible flows to one latent law, through which an absent modality is recovered from a present one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from amodal.batch import Batch, rows_where
from amodal.distributions.flow import glow
from amodal.encoders import PerModality, encode_pooled, encoders_for, scatter, width_of
from amodal.fusion import FusionTransformer
from amodal.fusion.network import Head
from amodal.losses.masked import mean_over_labelled, mean_over_rows
from amodal.method import LossTerms, NetworkMethod
from amodal.options import Count, Share, Size, Weight
from amodal.patterns import draw_removal
from amodal.schema import Schema, Task

__all__ = ["DiCMoR", "Refinement", "class_shares"]

LEVELS = 3
"""Values are rounded to whole standard deviations from −3 to 3, the classes of the prior."""


class DiCMoR(NetworkMethod):
    r"""Flows of all modalities to one latent space, whose law for each class is the same for all of them.

    A flow :math:`F^m` maps each present feature to :math:`z^m = F^m(h^m)`, whose law is normal with a learned mean and
    scale for each class y. An absent modality t is recovered from the present ones S,

    .. math:: \hat h^t = R^t\Bigl(\operatorname{sg} \frac{1}{|S|} \sum_{s \in S} (F^t)^{-1}(z^s)\Bigr)

    with a residual network R, and a transformer over present and recovered features predicts. In training, modalities
    are removed at random. To the task's loss are added the flows' negative log-likelihoods, in bits a dimension, and
    :math:`\lVert \hat h^t - \operatorname{sg}(h^t) \rVert^2 / D` of what was removed. Classes count in the likelihood
    only, never in recovery or prediction; flows learn from the likelihood only, and encoders do not.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        steps: Steps of each flow.
        flow_hidden: Width of the hidden layers of a flow's couplings.
        literal: The released code's flow: couplings alone, which leave half of the coordinates as they are.
        merge: Of several recoveries, the "mean", or a "linear" map of all of them side by side, as published.
        blocks: Blocks of each refinement R.
        w_flow: Weight of the flows' negative log-likelihood.
        w_recovery: Weight of the recovery's squared error.
        hidden: Width of the head's hidden layer.
        dropout: Dropout of transformer and head.

    Raises:
        RunError: If the package zuko is not installed.
        ConfigurationError: If the encoders are one coordinate wide.

    Source:
        :cite:`wang2023dicmor`, with the flow of :cite:`kingma2018glow`. Deviations: flows act on pooled vectors; one
        transformer stands for those of each pair; what is removed is drawn for each row; of several labels the law's
        parameters are a base and the mean over true ones; values are rounded on the standardised scale; the likelihood
        is not cut off at zero bits; `amodal.distributions.flow.glow` says where the flow differs.
    """

    title = "DiCMoR: flows"
    summary = "absent modalities recovered through invertible flows to a latent law that all share"
    references = ("wang2023dicmor", "kingma2018glow")
    meets_all_patterns = True
    uses_unlabelled = True
    PRESETS: ClassVar = {"paper": {"steps": 32, "literal": True, "merge": "linear", "blocks": 20}}

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        steps: Size = 4,
        flow_hidden: Size = 64,
        literal: bool = False,
        merge: Literal["mean", "linear"] = "mean",
        blocks: Count = 2,
        w_flow: Weight = 0.1,
        w_recovery: Weight = 0.1,
        hidden: Count = 128,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.loss_weights = {"flow": w_flow, "recovery": w_recovery}
        self.encoders = encoders_for(schema, encoders)
        width, names, task = width_of(self.encoders), schema.names, schema.task
        self.flows = PerModality(
            {name: glow(width, steps=steps, hidden=flow_hidden, literal=literal) for name in names}
        )
        self.refinements = PerModality({name: Refinement(width, blocks) for name in names})
        self.merges = None
        if merge == "linear" and len(names) > 2:  # with two modalities there is one source
            self.merges = PerModality({name: nn.Linear((len(names) - 1) * width, width) for name in names})
        # Prior: mean and log scale of each class, N(0, I) at first.
        n_classes = 2 * LEVELS + 1 if task.traits.one_value else task.n_outputs
        self.prior = nn.Parameter(torch.zeros(n_classes, 2, width))
        self.prior_base = nn.Parameter(torch.zeros(2, width)) if task.traits.many_labels else None
        self.fusion = FusionTransformer(len(names), width, dropout=dropout)
        self.head = Head(width, task.n_outputs, hidden=hidden, dropout=dropout)

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C)."""
        features, observed = encode_pooled(self.encoders, batch)
        return self._read(self.filled(features, self.latents(features, observed), observed))

    def _read(self, features: Tensor) -> Tensor:
        return self.head(self.fusion(features, torch.ones_like(features[..., 0], dtype=torch.bool)))

    def latents(self, features: Tensor, observed: Tensor) -> Latents:
        """Latents of the present features, which are constants here."""
        transforms, columns = [], []
        found = rows_where(*observed.unbind(1))
        for m, (rows, (_, flow)) in enumerate(zip(found, self.flows.items())):
            given = features[:, m].detach().float()
            parts = given[rows], given[rows, 0]  # of no rows
            with torch.autocast(features.device.type, enabled=False):
                transforms.append(flow())
                if len(rows):
                    parts = transforms[-1].call_and_ladj(given[rows])
            columns.append([scatter(part, rows, len(features)) for part in parts])
        values, log_dets = (torch.stack(part, dim=1) for part in zip(*columns))
        return Latents(values, log_dets, transforms)

    def recovered(
        self, latents: Latents, available: Tensor, target: int, places: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor]:
        """Rows (P,) that lack a modality, and it by inverting its flow at the others' latents (P, D), not refined."""
        pairs, lacking = places or rows_where(*_places(available, target))
        rows, sources = pairs // available.shape[1], pairs % available.shape[1]
        name, n = self.schema.names[target], available.sum(1, keepdim=True).clamp(min=1)
        mapped = latents.values[rows, sources].detach()
        if len(rows):  # the published detach: neither task nor recovery moves a flow
            with torch.no_grad(), torch.autocast(mapped.device.type, enabled=False):
                mapped = latents.transforms[target].inv(mapped)
        mean = (torch.zeros_like(latents.values[:, 0]).index_add(0, rows, mapped) / n)[lacking]
        if self.merges is None:
            return lacking, mean
        own = torch.zeros_like(latents.values).index_put((rows, sources), mapped)
        beside = torch.cat([own[:, :target], own[:, target + 1 :]], dim=1).flatten(1)
        merged = self.merges[name]((beside * ((available.shape[1] - 1) / n))[lacking])
        return lacking, torch.where(n[lacking] > 1, merged, mean)

    def filled(self, features: Tensor, latents: Latents, available: Tensor) -> Tensor:
        """Features (B, M, D), those that are not available recovered from those that are."""
        slots, every = [], range(available.shape[1])
        found = rows_where(*(places for m in every for places in _places(available, m)))
        for m, (_, refinement) in enumerate(self.refinements.items()):
            rows, raw = self.recovered(latents, available, m, found[2 * m : 2 * m + 2])
            made = scatter(refinement(raw).to(features.dtype), rows, len(features))
            slots.append(torch.where(available[:, m, None], features[:, m], made))
        return torch.stack(slots, dim=1)

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """Losses of task and flows over the rows with a label, of recovery over all rows; see `Method.objective`."""
        features, observed = encode_pooled(self.encoders, batch)
        latents = self.latents(features, observed)
        remaining = draw_removal(observed, generator)
        filled = self.filled(features, latents, remaining)
        removed = observed & ~remaining
        missed = torch.where(removed, (filled - features.detach()).square().mean(2), 0.0)  # (B, M)
        bits = torch.where(observed, self.bits(latents, batch.labels), 0.0).sum(1)
        terms = {
            "task": self.task_term(self._read(filled), batch),
            "flow": mean_over_labelled(bits, batch.labelled),
            "recovery": mean_over_rows(missed.sum(1) / removed.sum(1).clamp(min=1)),
        }
        return LossTerms(terms, self.loss_weights)

    def bits(self, latents: Latents, target: Tensor) -> Tensor:
        """Negative log-likelihoods (B, M) of features, in bits a dimension; of a known class where there is one."""
        shares = class_shares(target, self.schema.task)
        law = torch.einsum("bk,kpd->bpd", shares.to(self.prior.dtype), self.prior)  # (B, 2, D)
        law = law if self.prior_base is None else law + self.prior_base
        mean, log_scale = law[:, None, 0], law[:, None, 1].clamp(-5, 5)
        log_density = -0.5 * (((latents.values - mean) / log_scale.exp()).square() + math.log(2 * math.pi)) - log_scale
        return -(log_density.sum(2) + latents.log_dets) / (math.log(2) * mean.shape[2])


def class_shares(target: Tensor, task: Task) -> Tensor:
    """Shares (B, K) of the prior's classes in each row; anything where the target is unknown.

    Example:
        >>> class_shares(torch.tensor([-0.4, 9.0]), Task("regression")).argmax(1)
        tensor([3, 6])
    """
    if task.traits.many_labels:
        true = target.nan_to_num(0.0)
        return true / true.sum(1, keepdim=True).clamp(min=1)
    if task.traits.one_value:
        place = target.nan_to_num(0.0).round().clamp(-LEVELS, LEVELS).long() + LEVELS
        return functional.one_hot(place, 2 * LEVELS + 1)
    if target.is_floating_point():  # probabilities
        return target.nan_to_num(0.0)
    return functional.one_hot(target.clamp(min=0), task.n_outputs)


def _places(available: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """What another modality is available for (B · M,) of the rows that lack one, and these rows (B,)."""
    return (available & ~available[:, target, None]).flatten(), ~available[:, target]


class Latents(NamedTuple):
    """Latents of a batch, and the flows that made them.

    Attributes:
        values: Of shape (B, M, D), zero where absent.
        log_dets: Logarithms of the flows' Jacobians, (B, M), zero where absent.
        transforms: The flow of each modality.
    """

    values: Tensor
    log_dets: Tensor
    transforms: Sequence[Any]


class Refinement(nn.Module):
    """A residual group of blocks with attention to channels, between two linear maps; for one vector a row.

    Args:
        width: Width D; inside it is twice as wide.
        blocks: Number of blocks.
    """

    def __init__(self, width: int, blocks: int):
        super().__init__()
        wide = 2 * width
        narrow = max(8, wide // 16)  # with few, none may be on
        self.widen, self.narrow = nn.Linear(width, wide), nn.Linear(wide, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, wide)) for _ in range(blocks)
        )
        self.channels = nn.ModuleList(
            nn.Sequential(nn.Linear(wide, narrow), nn.ReLU(), nn.Linear(narrow, wide), nn.Sigmoid())
            for _ in range(blocks)
        )
        self.last = nn.Linear(wide, wide)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (P, D) to vectors (P, D)."""
        start = inner = self.widen(x)
        for block, channels in zip(self.blocks, self.channels):
            change = block(inner)
            inner = inner + change * channels(change)
        return self.narrow(start + self.last(inner))
