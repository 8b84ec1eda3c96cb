"""Fusion methods: the base class of methods with one fusion network for all patterns of presence."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.fusion import FusionChoice, build_fusion
from amodal.fusion.late import average_predictions
from amodal.fusion.network import FusionNetwork
from amodal.method import LossTerms, NetworkMethod
from amodal.options import Count, Share
from amodal.schema import Schema

__all__ = ["FusionMethod"]


class FusionMethod(NetworkMethod):
    """A method with one network for all patterns: encoders of the present modalities, a fusion, and a head.

    Its options are those of the method `fusion`, which documents them.
    """

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        fusion: FusionChoice = "concatenate",
        fill: Literal["zero", "mean", "learned"] | None = None,
        hidden: Count = 128,
        dropout: Share = 0.1,
        members: Count = 0,
    ):
        super().__init__(schema)
        self.members = members
        self.encoders = encoders_for(schema, encoders)
        fused = build_fusion(fusion, len(self.encoders), width_of(self.encoders), fill=fill)
        self.network = FusionNetwork(fused, schema.task.n_outputs, hidden=hidden, dropout=dropout, members=members)

    def outputs(self, batch: Batch) -> Tensor:
        """The network's outputs (B, C); of several members those whose prediction is the mean of theirs."""
        outputs = self.network(*encode_pooled(self.encoders, batch))
        if not self.members:
            return outputs
        return average_predictions(outputs, torch.ones_like(outputs[..., 0], dtype=torch.bool), self.schema.task.kind)

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The task's loss, of several members the mean of theirs; see `NetworkMethod.objective`."""
        outputs = self.network(*encode_pooled(self.encoders, batch))
        return LossTerms({"task": self.task_term(self.members_apart(outputs, batch), batch)})

    def members_apart(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Outputs of a batch's rows under P patterns, (P · B, C), or of K members (P · B, K, C) as (P · K · B, C)."""
        if not self.members:
            return outputs
        return outputs.view(-1, max(1, len(batch)), *outputs.shape[1:]).transpose(1, 2).flatten(0, 2)
