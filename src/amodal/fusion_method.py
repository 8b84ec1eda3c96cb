"""Fusion methods: the base class of methods with one fusion network for all patterns of presence."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.fusion import FusionChoice, build_fusion
from amodal.fusion.network import FusionNetwork
from amodal.method import NetworkMethod
from amodal.options import Count, Share
from amodal.schema import Schema

__all__ = ["FusionMethod"]


class FusionMethod(NetworkMethod):
    """A method with one network for all patterns: encoders of the present modalities, a fusion, and a head.

    Its options are those of the method `fusion`, which documents them.
    """

    weight_average = 0.99

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        fusion: FusionChoice = "concatenate",
        fill: Literal["zero", "mean", "learned"] | None = None,
        hidden: Count = 128,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.encoders = encoders_for(schema, encoders)
        fused = build_fusion(fusion, len(self.encoders), width_of(self.encoders), fill=fill)
        self.network = FusionNetwork(fused, schema.task.n_outputs, hidden=hidden, dropout=dropout)

    def outputs(self, batch: Batch) -> Tensor:
        """The network's outputs (B, C)."""
        return self.network(*encode_pooled(self.encoders, batch))
