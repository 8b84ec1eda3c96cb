"""ShaSpec: one encoder of what modalities share and one of what is specific to each; shared features stand in."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.fusion import MeanOfPresent
from amodal.fusion.network import Head
from amodal.losses.alignment import absolute_alignment, pairs_observed
from amodal.losses.contrast import domain_classification
from amodal.losses.masked import mean_over_observed
from amodal.method import LossTerms, NetworkMethod
from amodal.options import Share, Size, Weight
from amodal.patterns import draw_removal, encode_under
from amodal.schema import Schema

__all__ = ["ShaSpec"]


class ShaSpec(NetworkMethod):
    r"""Shared and specific features of each modality; an absent one is represented by the others' shared features.

    .. math::
        s_m = S(h_m), \quad d_m = D_m(h_m), \qquad
        f_m = s_m + R [s_m; d_m] \text{ if present, else } \operatorname{proxy}(s_n : n \text{ present})

    with one S for all modalities, and a head on the concatenation of all :math:`f_m`. Minimised is

    .. math::
        L_{task} + \alpha \, M \, \overline{\overline{|s_m - s_n|}} + \beta \, \overline{- \log p(m \mid d_m)}

    where the second term, an average over a row's pairs of present modalities and then over the rows that have a pair,
    pulls shared features together, and the third, over all present features, asks of specific ones that a linear
    classifier can tell their modality. Random modalities are removed from each row, after a warm-up if there is one.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        proxy: What represents an absent modality: the "mean" of the present ones' shared features, as in the paper; or
            that of the "first" present one, as in its code: a random one in training, the first in the schema's order
            at prediction.
        w_alignment: Weight :math:`\alpha`.
        w_domain: Weight :math:`\beta`.
        warmup: Share of the training before modalities are removed; 0.44 in the paper's code.
        hidden: Width of the hidden layers.
        dropout: Dropout of the head.

    Source:
        :cite:`wang2023shaspec` and its code. Deviations: S and D are two-layer networks on the encoders' pooled
        vectors, as for the comparison of :cite:`choi2025cepa`, and S ends in a normalisation, so that shrinking does
        not align; absent modalities enter no loss.
    """

    title = "ShaSpec: shared, own"
    summary = "features that modalities share and such that are their own; shared ones stand in for the absent"
    references = ("wang2023shaspec", "choi2025cepa")
    couples_rows = True  # the averages over pairs and features are over those of the whole batch
    meets_all_patterns = True
    uses_unlabelled = True

    PRESETS: ClassVar = {"paper": {"proxy": "first", "warmup": 0.44}}

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        proxy: Literal["mean", "first"] = "mean",
        w_alignment: Weight = 0.1,
        w_domain: Weight = 0.02,
        warmup: Share = 0.0,
        hidden: Size = 128,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.proxy, self.warmup = proxy, warmup
        self.weights = {"alignment": w_alignment, "domain": w_domain}
        self.encoders = encoders_for(schema, encoders)
        n, width = len(self.encoders), width_of(self.encoders)
        self.shared = nn.Sequential(*_two_layers(width, hidden), nn.LayerNorm(width))  # S
        self.specific = PerModality({name: nn.Sequential(*_two_layers(width, hidden)) for name in self.encoders})  # D_m
        self.residual = nn.Linear(2 * width, width, bias=False)  # R
        self.mean = MeanOfPresent(n, width)
        self.domain = nn.Linear(width, n)
        self.head = Head(n * width, schema.task.n_outputs, hidden=hidden, dropout=dropout)

    def parts(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Shared and specific features, each (B, M, D), of pooled ones; meaningless where absent."""
        specific = [network(features[:, m]) for m, (_, network) in enumerate(self.specific.items())]
        return self.shared(features), torch.stack(specific, dim=1)

    def compose(
        self, shared: Tensor, specific: Tensor, observed: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Composed features (B, M, D); with a generator, a "first" proxy is a random one of the present."""
        composed = shared + self.residual(torch.cat([shared, specific], dim=-1))
        if self.proxy == "mean":
            proxy = self.mean(shared, observed)
        else:
            order = torch.arange(observed.shape[1], 0, -1.0, device=observed.device).expand(observed.shape)
            if generator is not None:
                order = torch.rand(observed.shape, generator=generator, device=observed.device)
            first = torch.where(observed, order, -1.0).argmax(1)  # (B,)
            proxy = shared[torch.arange(len(shared), device=shared.device), first]
        return torch.where(observed[..., None], composed, proxy[:, None])

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C); see `NetworkMethod.outputs`."""
        features, observed = encode_pooled(self.encoders, batch)
        return self.head(self.compose(*self.parts(features), observed).flatten(1))

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """Task, alignment and domain, of what remains after removal; see `Method.objective`."""
        remaining = self.presence(batch)
        if self.clock.progress >= self.warmup:
            remaining = draw_removal(remaining, generator)
        features, observed = encode_under(self.encoders, batch, remaining[None])
        shared, specific = self.parts(features)
        composed = self.compose(shared, specific, observed, generator)
        terms = {"task": self.task_term(self.head(composed.flatten(1)), batch)}
        present = dict(zip(self.encoders, observed.unbind(1)))
        if len(present) > 1:
            apart = absolute_alignment(dict(zip(self.encoders, shared.unbind(1))), present)
            terms["alignment"] = len(present) * mean_over_observed(apart, pairs_observed(present))
            nats = domain_classification(self.domain(specific), observed)  # (B, M)
            terms["domain"] = mean_over_observed(nats.flatten(), observed.flatten())
        return LossTerms(terms, {name: weight for name, weight in self.weights.items() if name in terms})


def _two_layers(width: int, hidden: int) -> list[nn.Module]:
    return [nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)]
