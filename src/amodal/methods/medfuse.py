"""MedFuse: an LSTM that reads the modalities of a row one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.errors import ConfigurationError
from amodal.fusion import ModalityLSTM
from amodal.method import LossTerms, NetworkMethod
from amodal.options import Share, Size, at_least, at_most
from amodal.schema import Schema

__all__ = ["MedFuse"]


class MedFuse(NetworkMethod):
    r"""Features of the present modalities as a sequence that an LSTM reads; its last state predicts.

    .. math:: v_m = h_m + e_m, \qquad o = W \, \mathrm{LSTM}(v_{m_1}, \dots, v_{m_k}) + b, \qquad m_i \in O

    in one fixed order; an absent modality makes the sequence shorter, and the others move up. The vectors :math:`e_m`
    start at zero: without them the LSTM cannot tell which modality a step is.

    Training may begin with a stage in which every encoder learns the task alone, by a linear head of its own.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        order: Names of all modalities in the order in which they are read; None: the schema's.
        hidden: Width of the LSTM's states.
        dropout: Dropout of the features.
        pretrain: Share of all steps in which the encoders learn alone. Early stopping looks at predictions, which mean
            nothing in this stage: let its patience be longer.

    Raises:
        ConfigurationError: If the order does not name every modality once.
        UnknownNameError: If it names something else.

    Source:
        :cite:`hayat2022medfuse`. Deviations: any modality may be absent, and there may be any number of them;
        :math:`e_m`; features of one width, so that no projection is left; the first stage learns the task from all rows
        with the modality (there: 14 findings of all X-rays, and the task from all stays).
    """

    title = "MedFuse: read in order"
    summary = "an LSTM that reads the features of the present modalities one after the other"
    references = ("hayat2022medfuse",)
    couples_rows = True
    PRESETS: ClassVar = {"paper": {"hidden": 512, "dropout": 0.3, "pretrain": 0.5}}

    places: Tensor

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        order: Sequence[str] | None = None,
        hidden: Size = 128,
        dropout: Share = 0.1,
        pretrain: Annotated[float, at_least(0), at_most(1)] = 0.0,
    ):
        super().__init__(schema)
        order = schema.names if order is None else tuple(order)
        schema.check_names(list(order))
        if sorted(order) != sorted(schema.names):
            raise ConfigurationError("the order must name every modality once", expected=schema.names, got=order)
        self.register_columns("places", [schema.names.index(name) for name in order])
        self.pretrain = pretrain
        self.encoders = encoders_for(schema, encoders)
        n, width, n_outputs = len(schema.names), width_of(self.encoders), schema.task.n_outputs
        self.drop = nn.Dropout(dropout)
        self.modality = nn.Parameter(torch.zeros(n, width))
        self.lstm = ModalityLSTM(n, width, hidden=hidden)
        self.head = nn.Linear(hidden, n_outputs)
        self.own_heads = PerModality({name: nn.Linear(width, n_outputs) for name in schema.names}) if pretrain else None

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features (B, M, D) after dropout and presence (B, M)."""
        features, observed = encode_pooled(self.encoders, batch)
        return self.drop(features), observed

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C) from the last state."""
        features, observed = self.features(batch)
        steps = features + self.modality  # (B, M, D)
        return self.head(self.lstm(steps[:, self.places], observed[:, self.places]))

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The task's loss or, in the first stage, that of each encoder alone; see `Method.objective`."""
        if self.own_heads is None or self.clock.progress >= self.pretrain:
            return LossTerms({"task": self.task_term(self.outputs(batch), batch)})
        features, observed = self.features(batch)
        own = torch.stack([head(features[:, m]) for m, (_, head) in enumerate(self.own_heads.items())], dim=1)
        return LossTerms({"own": self.own_term(own, observed, batch)})
