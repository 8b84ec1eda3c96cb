"""Late fusion: the average of the observed modalities' predictions."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.fusion.late import average_predictions
from amodal.fusion.network import Head
from amodal.losses.masked import mean_over_rows
from amodal.losses.task import task_loss
from amodal.method import LossTerms, NetworkMethod
from amodal.options import Count, Share, Weight
from amodal.schema import Schema

__all__ = ["LateFusion"]


class LateFusion(NetworkMethod):
    r"""A predictor for each modality, and the average of the observed modalities' predictions.

    With the observed modalities O of a row, their predictions :math:`p_m` and the task's loss :math:`\ell`, the row's
    objective is

    .. math:: \ell\Bigl(\frac{1}{|O|} \sum_{m \in O} p_m, y\Bigr) + \lambda \sum_{m \in O} \ell(p_m, y)

    so that each modality learns to predict alone, as much from rows where others are present as from those where it is
    the only one, and all of them learn to be averaged. Probabilities are averaged, not logits.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        own_weight: Weight :math:`\lambda` of the modalities' own losses.
        hidden: Width of each head's hidden layer; 0: linear heads.
        dropout: Dropout of the heads.

    Source:
        The sum rule of :cite:`kittler1998combining`. Deviation: the paper combines classifiers that were trained apart,
        which here is the second term alone.
    """

    summary = "average of the observed modalities' predictions"
    references = ("kittler1998combining",)
    meets_all_patterns = True

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        own_weight: Weight = 1.0,
        hidden: Count = 128,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.own_weight = own_weight
        self.encoders = encoders_for(schema, encoders)
        width, n_outputs = width_of(self.encoders), schema.task.n_outputs
        self.heads = PerModality(
            {name: Head(width, n_outputs, hidden=hidden, dropout=dropout) for name in self.encoders}
        )

    def outputs_by_modality(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each modality's outputs (B, M, C), meaningless where absent, and presence (B, M)."""
        features, observed = encode_pooled(self.encoders, batch)
        parts = [head(features[:, m]) for m, (_, head) in enumerate(self.heads.items())]
        return torch.stack(parts, dim=1), observed

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C) whose prediction is the average of the observed modalities' predictions."""
        return average_predictions(*self.outputs_by_modality(batch), self.schema.task.kind)

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """Loss of the average, and the modalities' own losses, both averaged over all rows; see `Method.objective`."""
        kind, target = self.schema.task.kind, batch.labels
        outputs, observed = self.outputs_by_modality(batch)
        # First and second term of the row's objective.
        fused = self.task_term(average_predictions(outputs, observed, kind), batch)
        own = [
            mean_over_rows(task_loss(part, target, kind), seen)
            for part, seen in zip(outputs.unbind(1), observed.unbind(1))
        ]
        return LossTerms({"task": fused, "own": torch.stack(own).sum()}, {"own": self.own_weight})
