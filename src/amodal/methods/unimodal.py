"""Unimodal: one modality alone, the baseline of every fusion."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.fusion.network import Head
from amodal.method import NetworkMethod, base_outputs
from amodal.options import Count, Share
from amodal.schema import Schema

__all__ = ["Unimodal"]


class Unimodal(NetworkMethod):
    """A network on one modality; rows that lack it get the training prior.

    To find the best modality, train one for each and compare them on validation data.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality, of which only the used one is kept; None: the defaults.
        modality: Name of the modality used; None: the first of the schema.
        hidden: Width of the head's hidden layer; 0: a linear head.
        dropout: Dropout of the head.

    Raises:
        UnknownNameError: If there is no such modality.

    Source:
        The unimodal baselines of :cite:`liang2021multibench`.
    """

    title = "One modality alone"
    summary = "one modality alone"
    references = ("liang2021multibench",)
    meets_all_patterns = True

    prior: Tensor

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        modality: str | None = None,
        hidden: Count = 128,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.modality = schema.names[0] if modality is None else modality
        schema.check_names([self.modality])
        self.encoders = PerModality({self.modality: encoders_for(schema, encoders)[self.modality]})
        self.head = Head(width_of(self.encoders), schema.task.n_outputs, hidden=hidden, dropout=dropout)
        self.register_buffer("prior", torch.zeros(schema.task.n_outputs))

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Takes the outputs for rows without the modality from the targets of all training rows."""
        self.prior.copy_(base_outputs(batches, self.schema.task))

    def outputs(self, batch: Batch) -> Tensor:
        """The network's outputs, and the prior's for rows without the modality (B, C)."""
        features, observed = encode_pooled(self.encoders, batch)  # (B, 1, D), (B, 1)
        outputs = self.head(features[:, 0])
        return torch.where(observed, outputs, self.prior.to(outputs.dtype))
