"""Prototypes: small methods of shapes that no shipped method has yet, put through every contract.

An exchange between encoders while they run.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.encoders import PerModality, encoders_for, width_of
from amodal.encoders.exchange import StageMap, encode_exchanging, exchange_points
from amodal.method import Method, NetworkMethod
from amodal.schema import Schema


class SqueezeExchange(NetworkMethod):
    """Squeeze and excitation across modalities, between the last stages of their encoders."""

    def __init__(self, schema: Schema, encoders: PerModality | None = None, *, hidden: int = 8):
        super().__init__(schema)
        self.encoders = encoders_for(schema, encoders)
        self.points = exchange_points(self.encoders)
        widths = [e.stage_widths[self.points[name][-1]] for name, e in self.encoders.items()]  # type: ignore[union-attr]
        self.absent = nn.ParameterList(torch.zeros(n) for n in widths)
        self.squeeze = nn.Linear(sum(widths), hidden)
        self.excite = nn.ModuleList(nn.Linear(hidden, n) for n in widths)
        self.head = nn.Linear(len(widths) * (width_of(self.encoders) + 1), schema.task.n_outputs)

    def exchange(self, k: int, maps: Mapping[str, StageMap]) -> dict[str, StageMap]:
        means = [torch.where(m.observed[:, None], m.mean(), a) for m, a in zip(maps.values(), self.absent)]
        joint = self.squeeze(torch.cat(means, dim=1)).relu()  # (B, hidden)
        gates = (2 * excite(joint).sigmoid() for excite in self.excite)
        return {name: m.with_values(m.values * m.over_places(g)) for (name, m), g in zip(maps.items(), gates)}

    def outputs(self, batch: Batch) -> Tensor:
        encoded = encode_exchanging(self.encoders, batch, self.exchange, self.points)
        presence = [batch.observed[name][:, None].float() for name in encoded]
        return self.head(torch.cat([*(e.pooled for e in encoded.values()), *presence], dim=1))


PROTOTYPES: dict[str, type[Method]] = {
    "squeeze exchange": SqueezeExchange,
}
