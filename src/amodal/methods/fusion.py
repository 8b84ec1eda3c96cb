"""Joint fusion: one network on the features of whatever is present."""

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

__all__ = ["JointFusion"]


class JointFusion(NetworkMethod):
    """One network for all patterns: present modalities are encoded, fused, and a head predicts.

    It is trained on the rows as they come. Absent features are filled with zeros, with the mean of the present ones,
    or with a learned vector; a transformer leaves them out instead. The head is told which modalities are present.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        fusion: A name in `amodal.fusion.FUSIONS` ("concatenate", "transformer", …), or {"name": …, option: …}.
        fill: What stands in for an absent feature, for fusions with a fill: "zero", "mean" or "learned"; None: the
            fusion's own default.
        hidden: Width of the head's hidden layer; 0: a linear head.
        dropout: Dropout of the head.

    Source:
        The concatenation and transformer baselines of :cite:`liang2021multibench`.
    """

    summary = "one network on the features of whatever is present"
    references = ("liang2021multibench",)

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
