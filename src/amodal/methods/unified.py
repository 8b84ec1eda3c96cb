"""Unified: one additive classifier for whichever modalities a row has."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.fusion import Concatenate
from amodal.fusion.network import AdditiveHead
from amodal.method import LossTerms, NetworkMethod
from amodal.options import Share, Weight
from amodal.schema import Schema

__all__ = ["Unified"]


class Unified(NetworkMethod):
    r"""One linear classifier over whichever modalities a row has, whose parts also learn alone.

    .. math:: o_O = b + \sum_{m \in O} V_m h_m

    with one bias for every pattern. ``form="dynamic"`` minimises the task's loss of :math:`o_O` over all rows plus
    :math:`\lambda` times that of :math:`b + V_m h_m` over the rows that have m, for every m: rows with one modality
    teach its encoder the very number that is predicted with. ``form="concat"`` is what the published code computes: a
    linear map of all features side by side, with a constant for each absent one (a zero image behind its encoder there,
    a learned vector here).

    Outputs are additive over modalities: no interaction of two modalities can be learnt.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        form: "dynamic" or "concat"; see above.
        own_weight: Weight :math:`\lambda` of the modalities' own losses, in the form "dynamic".
        dropout: Dropout of the features.

    Source:
        :cite:`hayat2021unified`; the form "concat" after the option of that name in :cite:`hayat2022medfuse`.
        Deviations: one step holds what the paper learns in turns; no further labels for rows with an image only.
    """

    title = "Unified: sum of parts"
    summary = "one additive classifier for whichever modalities a row has, whose parts also learn alone"
    references = ("hayat2021unified", "hayat2022medfuse")
    couples_rows = True
    PRESETS: ClassVar = {"paper": {"form": "concat", "dropout": 0.3}}

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        form: Literal["dynamic", "concat"] = "dynamic",
        own_weight: Weight = 1.0,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.form, self.own_weight = form, own_weight
        self.encoders = encoders_for(schema, encoders)
        self.drop = nn.Dropout(dropout)
        n, width = len(schema.names), width_of(self.encoders)
        self.fill = Concatenate(n, width, fill="learned") if form == "concat" else None
        self.head = AdditiveHead(n, width, schema.task.n_outputs)

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features (B, M, D) and those of them that the classifier reads, bool (B, M)."""
        features, observed = encode_pooled(self.encoders, batch)
        features = self.drop(features)
        if self.fill is None:
            return features, observed
        return self.fill(features, observed).view_as(features), torch.ones_like(observed)

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C) of the features present."""
        return self.head(*self.features(batch))

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The joint loss over all rows and each modality's own over the rows that have it; see `Method.objective`."""
        features, observed = self.features(batch)
        terms = {"task": self.task_term(self.head(features, observed), batch)}
        if self.form == "concat":
            return LossTerms(terms)
        own = self.head.parts(features) + self.head.linear.bias  # (B, M, C), with the one bias of every pattern
        terms["own"] = self.own_term(own, observed, batch)
        return LossTerms(terms, {"own": self.own_weight})
