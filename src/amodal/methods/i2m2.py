"""I2M2: a product of one classifier for each modality and one for all together."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from amodal.batch import Batch, rows_where
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.fusion.network import Head
from amodal.kinds import task_kind
from amodal.losses.masked import mean_over_rows, select
from amodal.losses.task import task_loss
from amodal.method import LossTerms, NetworkMethod
from amodal.options import Count, Share
from amodal.schema import Schema

__all__ = ["I2M2"]


class I2M2(NetworkMethod):
    r"""A product of experts: a classifier for each modality, and a joint one that sees how they interact.

    .. math:: \log p(y \mid x) = \log p_0(y \mid x_1, \dots, x_M) + \sum_m \log p_m(y \mid x_m) + \text{const}

    No expert shares an encoder with another. The published method needs all modalities. Here an expert that needs an
    absent one drops out: a case that lacks something is predicted by the experts of what it has, without the joint one
    (``joint="complete"``), or with a joint one that is given zeros and what is present (``joint="any"``).

    Of a multilabel task, each label is such a product. For regression the experts are normal with equal variance, whose
    product has the average of their means.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality, of which each expert gets its own copy; None: the defaults.
        joint: Whether the joint expert counts in "complete" rows only or in "any".
        hidden: Width of the heads' hidden layers.
        dropout: Dropout of the heads.
        pretrain_steps: So many first steps train every expert by itself instead of their product.

    Source:
        :cite:`madaan2024i2m2`. Deviations: dropping experts under absence is an extension; pretraining counts steps of
        the same optimiser instead of training apart with learning rates of their own.
    """

    title = "I2M2: classifier product"
    summary = "the product of a classifier for each modality and one for all together"
    references = ("madaan2024i2m2",)

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        joint: Literal["complete", "any"] = "complete",
        hidden: Count = 128,
        dropout: Share = 0.1,
        pretrain_steps: Count = 0,
    ):
        super().__init__(schema)
        self.joint, self.pretrain_steps = joint, pretrain_steps
        self.encoders = encoders_for(schema, encoders)
        self.joint_encoders = copy.deepcopy(self.encoders)
        width, n_outputs, m = width_of(self.encoders), schema.task.n_outputs, len(schema.names)
        self.heads = PerModality(
            {name: Head(width, n_outputs, hidden=hidden, dropout=dropout) for name in schema.names}
        )
        flags = m if joint == "any" else 0
        self.joint_head = Head(m * width + flags, n_outputs, hidden=hidden, dropout=dropout)

    def experts(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Outputs of every expert, the joint one last, and which of them count.

        Args:
            batch: B rows.

        Returns:
            Outputs (B, M + 1, C), meaningless where the expert does not count, and bool (B, M + 1).
        """
        features, observed = encode_pooled(self.encoders, batch)
        parts = [head(features[:, m]) for m, (_, head) in enumerate(self.heads.items())]
        # The joint expert runs on the rows on which it counts only.
        whole = observed.any(1) if self.joint == "any" else observed.all(1)
        (rows,) = rows_where(whole)
        together = torch.zeros_like(parts[0])
        if len(rows):
            seen, presence = encode_pooled(self.joint_encoders, batch.take(rows))
            fused = seen.flatten(1)
            if self.joint == "any":
                fused = torch.cat([fused, presence.to(fused.dtype)], dim=1)
            together = together.index_copy(0, rows, self.joint_head(fused).to(together.dtype))
        counted = torch.cat([observed, whole[:, None]], dim=1)
        return torch.stack([*parts, together], dim=1), counted

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs of the product (B, C): normalised log-probabilities, sums of logits (multilabel), or means."""
        outputs, counted = self.experts(batch)
        return combine_experts(outputs, counted, self.schema.task.kind)

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The product's loss, or at first each expert's own, as a mean over all rows; see `Method.objective`."""
        kind, target = self.schema.task.kind, batch.labels
        outputs, counted = self.experts(batch)
        if self.clock.step < self.pretrain_steps:  # first stage: every expert by itself
            own = [
                select(task_loss(part, target, kind), seen) for part, seen in zip(outputs.unbind(1), counted.unbind(1))
            ]
            return LossTerms({"own": mean_over_rows(torch.stack(own).sum(0))})
        return LossTerms({"task": self.task_term(combine_experts(outputs, counted, kind), batch)})


def combine_experts(outputs: Tensor, counted: Tensor, kind: str) -> Tensor:
    """The product of the experts that count.

    Args:
        outputs: Their outputs, of shape (B, E, C).
        counted: Which of them count, bool, of shape (B, E).
        kind: Kind of task.

    Returns:
        Of shape (B, C): normalised log-probabilities (classes), sums of logits (labels), or averages (regression).

    Example:
        >>> outputs = torch.tensor([[[0.0, 1.0], [5.0, 5.0], [9.0, 0.0]]])  # the second knows nothing
        >>> combine_experts(outputs, torch.tensor([[True, True, False]]), "binary").exp()  # sigmoid(1)
        tensor([[0.2689, 0.7311]])
    """
    return task_kind(kind).product(outputs, counted)
