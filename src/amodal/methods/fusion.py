"""Joint fusion: one network on the features of whatever is present."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.fusion import FusionChoice, build_fusion
from amodal.fusion.network import FusionNetwork
from amodal.losses.masked import mean_over_rows
from amodal.losses.task import logits_to_predictions, task_loss
from amodal.method import LossTerms, Method
from amodal.options import Count, Share
from amodal.schema import Schema

__all__ = ["JointFusion"]


class JointFusion(Method):
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

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The task's loss, averaged over all rows; see `Method.objective`."""
        assert batch.target is not None
        return LossTerms({"task": mean_over_rows(task_loss(self.outputs(batch), batch.target, self.schema.task.kind))})

    def predict(self, batch: Batch) -> Tensor:
        """Probabilities (B, C) or (B, K), or means (B,); see `Method.predict`."""
        return logits_to_predictions(self.outputs(batch), self.schema.task.kind)
