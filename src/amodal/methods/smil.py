"""SMIL: absent features from a few prototypes, and a head that one gradient step on incomplete rows adapts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from amodal.batch import Batch, rows_where
from amodal.distributions.clustering.kmeans import kmeans_assignment
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.fusion import MeanOfPresent
from amodal.losses.masked import mean_over_observed
from amodal.losses.task import task_loss
from amodal.method import LossTerms, NetworkMethod, inference
from amodal.options import Count, Share, Size, Weight
from amodal.patterns import draw_strict_subset
from amodal.schema import Schema

__all__ = ["SMIL"]

START_ROWS = 1024
"""Training rows whose features the prototypes begin as clusters of."""


class SMIL(NetworkMethod):
    r"""Features of absent modalities as mixtures of prototypes, learnt by a step within a step.

    With a the mean of a row's present features, an absent feature is a convex combination of K prototypes of its
    modality, and the concatenation u of present and imputed features, and the hidden layer v, are shifted:

    .. math::
        \hat h_m = \sum_k \omega_k P^m_k, \quad \omega \propto \mathrm{softplus}(W^m a), \qquad
        \tilde u = u + \delta(f_1(a) + \epsilon_1), \quad
        \tilde v = \mathrm{ReLU}(W \tilde u) + \delta(f_2(\tilde u) + \epsilon_2)

    The incomplete rows of a batch give the inner loss, with normal noise :math:`\epsilon`; one gradient step on it
    adapts the head :math:`\theta` (W and the output layer). The complete rows ask the adapted head to predict them with
    some modalities taken away at random, without noise and near their clean path, which has neither shift nor
    imputation. Minimised, through the inner step, is

    .. math::
        L_{in}(\theta) + L_{task}(\theta^*) + w \, L_{clean}(\theta^*)
        + \alpha \bigl(\overline{(u - \tilde u)^2} + \overline{(v - \tilde v)^2}\bigr),
        \qquad \theta^* = \theta - \eta \nabla_\theta L_{in}(\theta)

    Predictions use :math:`\theta`, without noise: complete rows take the clean path, others the shifted one. In a first
    part of the epochs the prediction's own loss alone is minimised; the prototypes then begin as clusters of features.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        prototypes: Prototypes K of each modality.
        learn_prototypes: Whether they are learnt, or stay where clustering put them.
        perturbation: The shift :math:`\delta`: "neutral", softplus(r) − softplus(0), which leaves features as they are
            at r = 0; or "literal", softplus(r), which is 0.69 there.
        inner_rate: Step :math:`\eta` of the inner update; 0 makes it one joint loss.
        inner_decay_steps: The inner step falls to a tenth every so many steps; 0: never.
        w_clean: Weight w of the clean path's loss.
        w_alignment: Weight :math:`\alpha` of both distances between clean and shifted path.
        detach_clean: Whether the distances move the shifted path only.
        warmup: Share of the epochs that come before the inner steps.
        hidden: Width of the hidden layer v.
        dropout: Dropout of the hidden layer, also in the inner step.

    Source:
        :cite:`ma2021smil` and its code, for two modalities of which one is missing. Deviations of the default: any
        modality may be missing; prototypes are learnt; the shift starts at zero; the clean path is trained, as complete
        rows take it; the encoders are outside the inner step.
    """

    title = "SMIL: prototypes"
    summary = "absent features from prototypes; one inner gradient step on incomplete rows adapts the head"
    references = ("ma2021smil",)
    couples_rows = True

    PRESETS: ClassVar = {
        "paper": {
            "learn_prototypes": False,
            "perturbation": "literal",
            "inner_rate": 1e-3,
            "inner_decay_steps": 1000,
            "w_clean": 0.0,
            "detach_clean": False,
            "hidden": 64,
            "dropout": 0.5,
        }
    }

    recent: Tensor
    recent_observed: Tensor

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        prototypes: Size = 10,
        learn_prototypes: bool = True,
        perturbation: Literal["neutral", "literal"] = "neutral",
        inner_rate: Weight = 0.1,
        inner_decay_steps: Count = 0,
        w_clean: Weight = 1.0,
        w_alignment: Weight = 0.01,
        detach_clean: bool = True,
        warmup: Share = 0.2,
        hidden: Size = 128,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.perturbation, self.detach_clean, self.warmup = perturbation, detach_clean, warmup
        self.inner_rate, self.inner_decay_steps = inner_rate, inner_decay_steps
        self.weights = {"clean": w_clean, "alignment_u": w_alignment, "alignment_v": w_alignment}
        self.encoders = encoders_for(schema, encoders)
        n, width = len(self.encoders), width_of(self.encoders)
        self.mean = MeanOfPresent(n, width)
        self.bank = nn.Parameter(torch.randn(n, prototypes, width) * width**-0.5, requires_grad=learn_prototypes)
        self.mixing = nn.Linear(width, n * prototypes)  # all W^m
        self.first, self.second = nn.Linear(width, n * width), nn.Linear(n * width, hidden)  # f_1, f_2
        self.head = TwoLayers(n * width, hidden, schema.task.n_outputs, dropout)
        self.register_memory("recent", torch.zeros(n, width))
        self.register_memory("recent_observed", torch.zeros(n, dtype=torch.bool))

    # The network -------------------------------------------------------------------------------------------------

    def impute(self, features: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """The concatenation u (B, M · D), with mixtures of prototypes where absent, and the mean feature a (B, D)."""
        mean = self.mean(features, observed)
        shares = functional.softplus(self.mixing(mean)).unflatten(1, self.bank.shape[:2])  # (B, M, K)
        shares = shares / (shares.sum(-1, keepdim=True) + 1e-8)
        imputed = torch.einsum("bmk,mkd->bmd", shares, self.bank)
        return torch.where(observed[..., None], features, imputed).flatten(1), mean

    def shifted(
        self, head: dict[str, Tensor], features: Tensor, observed: Tensor, noise: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The shifted path: u (B, M · D), v (B, H) and outputs (B, C) by a head with these weights."""
        u, mean = self.impute(features, observed)
        first, second = noise if noise is not None else (0.0, 0.0)
        u = u + self._shift(self.first(mean) + first)
        shift = self._shift(self.second(u) + second)
        v, outputs = functional_call(self.head, head, (u, shift))
        return u, v, outputs

    def _theta(self) -> dict[str, Tensor]:
        return dict[str, Tensor](self.head.named_parameters())

    def _shift(self, r: Tensor) -> Tensor:
        zero = functional.softplus(torch.zeros_like(r)) if self.perturbation == "neutral" else 0.0
        return functional.softplus(r) - zero

    def _read(self, features: Tensor, observed: Tensor) -> Tensor:
        """Outputs (B, C): complete rows by the clean path, others by the shifted one without noise."""
        outputs = self.shifted(self._theta(), features, observed)[2]
        clean = self.head(features.flatten(1))[1]
        return torch.where(observed.all(1, keepdim=True), clean, outputs)

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C) without noise, by the head as it is; see `NetworkMethod.outputs`."""
        return self._read(*encode_pooled(self.encoders, batch))

    # Training ----------------------------------------------------------------------------------------------------

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The inner loss, and the outer ones of the adapted head, each a mean over its rows; see `Method.objective`."""
        features, observed = encode_pooled(self.encoders, batch)
        if self.clock.epoch < self._warm_epochs():
            if self.training and len(self.recent):
                self._collect(features.detach(), observed)
            return LossTerms({"task": self.task_term(self._read(features, observed), batch)})
        head, terms = self._theta(), dict[str, Tensor]()
        complete = observed.all(1)
        part, full = rows_where(~complete, complete)
        if len(part):
            first, second = (
                torch.randn(len(part), shift.out_features, generator=generator, device=features.device)
                for shift in (self.first, self.second)
            )
            outputs = self.shifted(head, features[part], observed[part], (first, second))[2]
            terms["inner"] = self._task(outputs, batch, part)
            head = self._adapted(head, terms["inner"])
        if len(full):
            terms |= self._outer(head, features[full], batch, full, generator)
        return LossTerms(terms, {name: weight for name, weight in self.weights.items() if name in terms})

    def _adapted(self, head: dict[str, Tensor], inner: Tensor) -> dict[str, Tensor]:
        """The head after one gradient step on the inner loss, through which gradients pass (second order)."""
        decays = self.clock.step // self.inner_decay_steps if self.inner_decay_steps else 0
        rate = self.inner_rate * 0.1**decays
        if rate == 0:
            return head
        slopes = torch.autograd.grad(inner, list(head.values()), create_graph=True)
        return {name: weight - rate * slope for (name, weight), slope in zip(head.items(), slopes)}

    def _outer(
        self, head: dict[str, Tensor], features: Tensor, batch: Batch, rows: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Losses of complete rows of the batch, with features (n, M, D), by the adapted head."""
        u = features.flatten(1)
        v, outputs = functional_call(self.head, head, (u,))
        terms = {"clean": self._task(outputs, batch, rows)}
        whole = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        if whole.shape[1] > 1:
            near_u, near_v, outputs = self.shifted(head, features, draw_strict_subset(whole, generator))
            u, v = (u.detach(), v.detach()) if self.detach_clean else (u, v)
            terms["task"] = self._task(outputs, batch, rows)
            terms["alignment_u"], terms["alignment_v"] = (u - near_u).square().mean(), (v - near_v).square().mean()
        return terms

    def _task(self, outputs: Tensor, batch: Batch, rows: Tensor) -> Tensor:
        """The task's loss of some rows of the batch, a mean over those with a label."""
        losses = task_loss(outputs, batch.labels[rows], self.schema.task.kind)
        return mean_over_observed(losses, batch.labelled[rows])

    # Prototypes --------------------------------------------------------------------------------------------------

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Starts the prototypes at clusters of the untrained encoders' features; see `Method.prepare`."""
        parts, rows = [], 0
        with inference(self):
            for batch in batches:
                parts.append(encode_pooled(self.encoders, batch))
                rows += len(batch)
                if rows >= START_ROWS:
                    break
        self._start_prototypes(*(torch.cat(part) for part in zip(*parts)))

    def begin_epoch(self) -> None:
        """Collects features in the last epoch of the warm-up, and starts the prototypes at their clusters after it."""
        warm = self._warm_epochs()
        if self.clock.epoch == warm - 1:
            self.recent = self.bank.new_zeros(START_ROWS, *self.recent.shape[1:])
            self.recent_observed = torch.zeros(self.recent.shape[:2], dtype=torch.bool, device=self.bank.device)
        elif self.clock.epoch == warm and len(self.recent):
            self._start_prototypes(self.recent, self.recent_observed)
            self.recent, self.recent_observed = self.recent[:0], self.recent_observed[:0]

    def _warm_epochs(self) -> int:
        return round(self.warmup * self.clock.epochs)

    def _collect(self, features: Tensor, observed: Tensor) -> None:
        self.recent = torch.cat([self.recent, features.to(self.recent.dtype)])[-START_ROWS:]
        self.recent_observed = torch.cat([self.recent_observed, observed])[-START_ROWS:]

    @torch.no_grad()
    def _start_prototypes(self, features: Tensor, observed: Tensor) -> None:
        """Prototypes at the k-means centres of present features (N, M, D), or at these where they are fewer than K."""
        n = self.bank.shape[1]
        for m, bank in enumerate(self.bank):
            points = features[observed[:, m], m].float()
            if len(points) >= n:
                member = kmeans_assignment(points[None], n)[0]  # (K, N)
                count = member.sum(1, keepdim=True)
                points = torch.where(count > 0, member @ points / count.clamp_min(1.0), points[:1])
            if len(points):
                bank.copy_(points[torch.arange(n, device=points.device) % len(points)])


class TwoLayers(nn.Module):
    """The head: u (B, I) to the hidden layer v = ReLU(W u), to which a shift may be added, and outputs (B, C)."""

    def __init__(self, in_width: int, hidden: int, n_outputs: int, dropout: float):
        super().__init__()
        self.hidden, self.output = nn.Linear(in_width, hidden), nn.Linear(hidden, n_outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, u: Tensor, shift: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The hidden layer (B, H) and outputs (B, C)."""
        v = self.hidden(u).relu()
        v = v if shift is None else v + shift
        return v, self.output(self.dropout(v))
