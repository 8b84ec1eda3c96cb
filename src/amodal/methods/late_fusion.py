"""Late fusion: a predictor for each modality, and their predictions joined."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.fusion.late import JoinedPredictions, average_predictions
from amodal.fusion.network import Head
from amodal.losses.masked import mean_over_rows
from amodal.losses.task import task_loss
from amodal.method import LossTerms, NetworkMethod, base_outputs
from amodal.options import Count, Share, Weight
from amodal.schema import Schema

__all__ = ["LateFusion"]


class LateFusion(NetworkMethod):
    r"""A predictor for each modality, and their predictions joined by a regression on them and on presence.

    By default every modality's network is trained apart, on all rows that have the modality, and keeps its own best
    weights; after training a logistic (or linear) regression on the validation rows calibrates each one's outputs and
    joins those of the observed modalities, see `amodal.fusion.late.JoinedPredictions`. With `join="average"` the
    prediction is the average of the observed modalities' predictions, which is trained, too: with the observed
    modalities O of a row, their predictions :math:`p_m` and the task's loss :math:`\ell`, the row's objective is

    .. math:: \ell\Bigl(\frac{1}{|O|} \sum_{m \in O} p_m, y\Bigr) + \lambda \sum_{m \in O} \ell(p_m, y)

    Probabilities are averaged, not logits. Where modalities add to one another the average is too unsure: it can never
    be surer than the surest of them.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        join: "regression" or "average".
        own_weight: Weight :math:`\lambda` of the modalities' own losses, where the average is trained.
        hidden: Width of each head's hidden layer; 0: linear heads.
        dropout: Dropout of the heads.

    Source:
        The product and the sum rule of :cite:`kittler1998combining`, of classifiers that were trained apart, the first
        with a stacked regression (:cite:`wolpert1992stacked`). Deviation: with `join="average"` the average is trained.
    """

    title = "Predictor per modality"
    summary = "a predictor for each modality, their calibrated predictions joined by a regression"
    references = ("kittler1998combining", "wolpert1992stacked")
    meets_all_patterns = True
    weight_average = 0.99

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        join: Literal["regression", "average"] = "regression",
        own_weight: Weight = 1.0,
        hidden: Count = 128,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.join, self.own_weight = join, own_weight
        encoders = encoders_for(schema, encoders)
        width, n_outputs = width_of(encoders), schema.task.n_outputs
        heads = {name: Head(width, n_outputs, hidden=hidden, dropout=dropout) for name in encoders}
        self.models = PerModality(
            {name: nn.ModuleDict({"encoder": encoders[name], "head": head}) for name, head in heads.items()}
        )
        self.joined = JoinedPredictions(len(encoders), n_outputs, schema.task.kind)

    @property
    def encoders(self) -> PerModality:
        """The modalities' encoders."""
        return PerModality({name: model.get_submodule("encoder") for name, model in self.models.items()})

    @property
    def heads(self) -> PerModality:
        """The modalities' heads."""
        return PerModality({name: model.get_submodule("head") for name, model in self.models.items()})

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Takes the base rates from the targets of all training rows."""
        self.joined.base.copy_(base_outputs(batches, self.schema.task))

    def outputs_by_modality(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each modality's outputs (B, M, C), meaningless where absent, and presence (B, M)."""
        features, observed = encode_pooled(self.encoders, batch)
        parts = [head(features[:, m]) for m, (_, head) in enumerate(self.heads.items())]
        return torch.stack(parts, dim=1), observed

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C): the join of the observed modalities' outputs, or those whose prediction is the average."""
        outputs, observed = self.outputs_by_modality(batch)
        if self.join == "average":
            return average_predictions(outputs, observed, self.schema.task.kind)
        return self.joined(outputs, observed)

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The modalities' own losses, and with the average its loss, both averaged over all rows."""
        kind, target = self.schema.task.kind, batch.labels
        outputs, observed = self.outputs_by_modality(batch)
        # Second and first term of the row's objective.
        parts = [
            mean_over_rows(task_loss(part, target, kind), seen)
            for part, seen in zip(outputs.unbind(1), observed.unbind(1))
        ]
        own = torch.stack(parts).sum()
        if self.join != "average":
            return LossTerms({"task": own})
        fused = self.task_term(average_predictions(outputs, observed, kind), batch)
        return LossTerms({"task": fused, "own": own}, {"own": self.own_weight})

    @torch.no_grad()
    def part_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Each modality's losses on the rows that have it: unless the average is trained, each keeps its best."""
        if self.join == "average":
            return {}
        outputs, observed = self.outputs_by_modality(batch)
        losses = {}
        for m, name in enumerate(self.models):
            seen = observed[:, m]
            own = task_loss(outputs[seen, m], batch.labels[seen], self.schema.task.kind)
            if len(own):
                losses[f"models.modality_{name}."] = own
        return losses

    def representations(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """The modalities' pooled vectors."""
        return {"pooled": encode_pooled(self.encoders, batch)}

    def adjust(self, rows: Iterable[tuple[Batch, Tensor]]) -> None:
        """Fits the regression that joins the modalities to the validation rows."""
        if self.join == "average":
            return
        parts, cases = [], dict[str, int]()
        for batch, weight in rows:
            ids = batch.ids or [f"{len(cases)}-{i}" for i in range(len(batch))]
            case = torch.tensor([cases.setdefault(name, len(cases)) for name in ids], device=weight.device)
            parts.append((*self.outputs_by_modality(batch), batch.labels, weight, case))
        if parts:
            self.joined.learn(*(torch.cat(part) for part in zip(*parts)))
