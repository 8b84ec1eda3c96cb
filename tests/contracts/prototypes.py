"""Prototypes: small methods of shapes that no shipped method has yet, put through every contract.

An adversary that shares the forward pass; a prediction that compares with remembered training cases.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.losses.masked import mean_over_rows
from amodal.method import LossTerms, Method, NetworkMethod, OptimiserSettings
from amodal.schema import Schema


class Adversary(Method):
    """A critic that tells modalities apart by their codes, and codes that should not let it; one forward pass."""

    optimisers: ClassVar = {
        "main": OptimiserSettings(),
        "critic": OptimiserSettings(kind="adam", learning_rate=1e-3, weight_decay=0.0, betas=(0.5, 0.9)),
    }

    def __init__(self, schema: Schema, encoders: PerModality | None = None):
        super().__init__(schema)
        self.encoders = encoders_for(schema, encoders)
        n, width = len(self.encoders), width_of(self.encoders)
        self.head = nn.Linear(n * width, schema.task.n_outputs)
        self.critic = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, n))

    def parameters_of(self, optimiser: str) -> list[nn.Parameter]:
        critic = {id(p) for p in self.critic.parameters()}
        return [p for p in self.parameters() if p.requires_grad and (id(p) in critic) == (optimiser == "critic")]

    def objectives(self, batch: Batch, generator: torch.Generator) -> dict[str, LossTerms]:
        features, observed = encode_pooled(self.encoders, batch)
        own = torch.arange(features.shape[1]).expand(features.shape[:2])  # (B, M)

        def told_apart(codes: Tensor) -> Tensor:
            nats = functional.cross_entropy(self.critic(codes).transpose(1, 2), own, reduction="none")  # (B, M)
            return mean_over_rows(torch.where(observed, nats, 0.0).sum(1))

        task = self.task_term(self.head(features.flatten(1)), batch)
        main = LossTerms({"task": task, "fooling": -told_apart(features)}, {"fooling": 0.1})
        return {"main": main, "critic": LossTerms({"critic": told_apart(features.detach())})}

    def predict(self, batch: Batch) -> Tensor:
        return self.to_predictions(self.head(encode_pooled(self.encoders, batch)[0].flatten(1)))


class RememberedBank(NetworkMethod):
    """Half the network's prediction, half the mean target of remembered training cases, weighed by similarity."""

    bank_features: Tensor
    bank_targets: Tensor

    def __init__(self, schema: Schema, encoders: PerModality | None = None):
        super().__init__(schema)
        self.encoders = encoders_for(schema, encoders)
        n, task = len(self.encoders) * width_of(self.encoders), schema.task
        self.head = nn.Linear(n, task.n_outputs)
        self.register_memory("bank_features", torch.zeros(n))
        self.register_memory("bank_targets", torch.zeros(1 if task.kind == "regression" else task.n_outputs))

    def outputs(self, batch: Batch) -> Tensor:
        return self.head(encode_pooled(self.encoders, batch)[0].flatten(1))

    def remember(self, batches: Iterable[Batch]) -> None:
        parts = [(encode_pooled(self.encoders, batch)[0].flatten(1), self.targets(batch)) for batch in batches]
        self.bank_features, self.bank_targets = (torch.cat(part) for part in zip(*parts))

    def targets(self, batch: Batch) -> Tensor:
        """Targets in the form of predictions (B, C)."""
        if self.schema.task.is_classification:
            return functional.one_hot(batch.labels, self.schema.task.n_outputs).float()
        return batch.labels.nan_to_num(0.5).reshape(len(batch), -1).float()

    def predict(self, batch: Batch) -> Tensor:
        features = encode_pooled(self.encoders, batch)[0].flatten(1)
        own = self.to_predictions(self.head(features))
        if not len(self.bank_features):
            return own
        weights = -(features[:, None] - self.bank_features).square().sum(2)  # (B, bank), row by row
        neighbours = weights.softmax(1) @ self.bank_targets
        return 0.5 * own + 0.5 * (neighbours[:, 0] if own.ndim == 1 else neighbours)


PROTOTYPES: dict[str, type[Method]] = {
    "adversary": Adversary,
    "remembered bank": RememberedBank,
}
