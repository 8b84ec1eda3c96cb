"""MMTM: squeeze and excitation across modalities, while their encoders run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.encoders import PerModality, encoders_for, width_of
from amodal.encoders.exchange import StageMap, channels_at, encode_exchanging, exchange_points
from amodal.errors import ConfigurationError
from amodal.fusion.network import AdditiveHead
from amodal.method import LossTerms, Method, OptimiserSettings
from amodal.options import Positive, Share, Size, Weight
from amodal.schema import Schema

__all__ = ["MMTM"]


class MMTM(Method):
    r"""Encoders that run side by side and gate one another's channels by a summary of all of them.

    Between two stages, with :math:`s_m` the mean of modality m's map over its valid places,

    .. math::
        z = \mathrm{ReLU}(W [s_1; \dots; s_M] + b), \qquad
        X_m \leftarrow c \, \sigma(W_m z + b_m) \odot X_m, \qquad \dim z = \lfloor 2 \textstyle\sum_m C_m / \rho \rfloor

    and the gated map is what the next stage reads. An absent modality enters z as a learned vector that starts at zero.
    Each modality has a linear head of its own on its vector :math:`h_m`; the joint outputs are
    :math:`b + \sum_{m \in O} V_m h_m`. Minimised is the task's loss of the joint outputs plus :math:`\lambda` times
    that of each modality's own, over the rows that have it.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        exchanges: Number of exchanges K. The last is after an encoder's last stage if its vector is a mean over places,
            else after the last but one, or the only one; see `amodal.encoders.exchange.exchange_points`.
        ratio: The ratio :math:`\rho` of the squeeze.
        gate_scale: The scale c of the gates: 2 in the paper, 1 in its code and in what was derived from it.
        identity_start: Whether :math:`W_m` and :math:`b_m` start at zero, so that with scale 2 every gate starts at 1.
        form: "symmetric": one module for all modalities; "hub": one for each other modality and the `hub`, one after
            the other, each reading the hub as the one before has left it.
        hub: The hub's name; None: the first modality.
        output: What is predicted: the "joint" outputs, or the "mean" of the present modalities' own, without a joint
            head, as in the original.
        updates: "together": one step on all terms; "alternating": one optimiser for each modality's own loss (its
            encoder, head and the modules) and one for the joint loss, each after a forward pass of its own.
        own_weight: Weight :math:`\lambda`.
        dropout: Dropout of the vectors before the heads.

    Raises:
        ConfigurationError: If the encoders have too few stages for the exchanges, or nothing is left to minimise.
        UnknownNameError: If the hub is no modality.

    Source:
        :cite:`joze2020mmtm`; the joint output and the placement between the last two layers after
        :cite:`hayat2022medfuse`. Deviations: learned vectors stand for what is absent (there: everything is present, or
        zero images are encoded); padded steps are no part of the means; any number of modalities; by default the start
        at the identity, and one step instead of one for each output.
    """

    title = "MMTM: gated encoders"
    summary = "encoders that gate one another's channels by a summary of all modalities"
    references = ("joze2020mmtm", "hayat2022medfuse")
    preferred_encoders: ClassVar = {"series": {"name": "gru", "layers": 2}}
    couples_rows = True
    PRESETS: ClassVar = {"paper": {"identity_start": False, "updates": "alternating", "dropout": 0.3}}

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        exchanges: Size = 1,
        ratio: Positive = 4.0,
        gate_scale: Positive = 2.0,
        identity_start: bool = True,
        form: Literal["symmetric", "hub"] = "symmetric",
        hub: str | None = None,
        output: Literal["joint", "mean"] = "joint",
        updates: Literal["together", "alternating"] = "together",
        own_weight: Weight = 1.0,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        if output == "mean" and own_weight == 0:
            raise ConfigurationError(
                "nothing is left to minimise: the mean of the own outputs has no loss but their own",
                expected="own_weight above 0",
                got=own_weight,
            )
        self.output, self.own_weight, self.dropout = output, own_weight, nn.Dropout(dropout)
        self.encoders = encoders_for(schema, encoders)
        self.points = exchange_points(self.encoders, exchanges)
        groups = self._groups(form, hub)
        self.exchanges = nn.ModuleList(
            _Exchange(
                channels_at(self.encoders, self.points, k),
                groups,
                ratio=ratio,
                scale=gate_scale,
                identity=identity_start,
            )
            for k in range(exchanges)
        )
        width, n_outputs = width_of(self.encoders), schema.task.n_outputs
        self.heads = PerModality({name: nn.Linear(width, n_outputs) for name in schema.names})
        self.joint = AdditiveHead(len(schema.names), width, n_outputs) if output == "joint" else None
        if updates == "alternating":
            self.alternates = True
            own = {_own(name): OptimiserSettings() for name in schema.names}
            self.optimisers = own | ({} if self.joint is None else {"joint": OptimiserSettings()})

    def _groups(self, form: str, hub: str | None) -> list[tuple[str, ...]]:
        """The modalities that each module joins, in order."""
        names = self.schema.names
        if hub is not None:
            self.schema.check_names([hub])
        if form == "symmetric":
            return [names]
        hub = hub or names[0]
        return [(hub, name) for name in names if name != hub]

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors (B, M, D) after all exchanges, zero where absent, and presence (B, M)."""
        encoded = encode_exchanging(self.encoders, batch, lambda k, maps: self.exchanges[k](maps), self.points)
        return torch.stack([e.pooled for e in encoded.values()], dim=1), self.presence(batch)

    def all_outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predicted outputs (B, C), and each modality's own (B, M, C), meaningless where it is absent."""
        vectors, observed = self.encode(batch)
        vectors = self.dropout(vectors)
        own = torch.stack([head(vectors[:, m]) for m, (_, head) in enumerate(self.heads.items())], dim=1)
        if self.joint is not None:
            return self.joint(vectors, observed), own
        total = torch.where(observed[..., None], own, 0.0).sum(1)
        return total / observed.sum(1, keepdim=True).clamp(min=1), own

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The joint loss over all rows and each modality's own over the rows that have it; see `Method.objective`."""
        outputs, own = self.all_outputs(batch)
        terms = {"own": self.own_term(own, self.presence(batch), batch)}
        if self.joint is not None:
            terms["task"] = self.task_term(outputs, batch)
        return LossTerms(terms, {"own": self.own_weight})

    def objective_of(self, optimiser: str, batch: Batch, generator: torch.Generator) -> LossTerms:
        """One modality's own loss, or the joint one, from a forward pass of its own; see `Method.objective_of`."""
        outputs, own = self.all_outputs(batch)
        if optimiser == "joint":
            return LossTerms({"task": self.task_term(outputs, batch)})
        m = [_own(name) for name in self.schema.names].index(optimiser)
        term = self.own_term(own[:, m : m + 1], self.presence(batch)[:, m : m + 1], batch)
        return LossTerms({"own": term}, {"own": self.own_weight})

    def parameters_of(self, optimiser: str) -> Iterable[nn.Parameter]:
        """Of a modality's own optimiser its encoder, its head and the modules; of the joint one all but the heads."""
        if not self.alternates:
            return super().parameters_of(optimiser)
        parts: list[nn.Module] = [self.exchanges]
        if optimiser == "joint":
            assert self.joint is not None
            parts += [self.encoders, self.joint]
        else:
            name = next(name for name in self.schema.names if _own(name) == optimiser)
            parts += [self.encoders[name], self.heads[name]]
        return [p for part in parts for p in part.parameters() if p.requires_grad]

    def predict(self, batch: Batch) -> Tensor:
        """Predictions of the output that is named in the options; see `Method.predict`."""
        return self.to_predictions(self.all_outputs(batch)[0])


class _Exchange(nn.Module):
    """The modules between two stages, and the vectors that stand for absent modalities."""

    def __init__(
        self,
        widths: Mapping[str, int],
        groups: Sequence[tuple[str, ...]],
        *,
        ratio: float,
        scale: float,
        identity: bool,
    ):
        super().__init__()
        self.groups = groups
        self.names = list(widths)
        self.absent = nn.ParameterList(torch.zeros(n) for n in widths.values())
        self.modules_of = nn.ModuleList(
            _Transfer([widths[name] for name in group], ratio=ratio, scale=scale, identity=identity) for group in groups
        )

    def forward(self, maps: Mapping[str, StageMap]) -> dict[str, StageMap]:
        """The maps with their channels gated."""
        gated = dict(maps)
        for group, module in zip(self.groups, self.modules_of):
            means = [
                torch.where(m.observed[:, None], m.mean(), self.absent[self.names.index(name)].to(m.values.dtype))
                for name, m in ((name, gated[name]) for name in group)
            ]
            for name, gate in zip(group, module(means)):
                m = gated[name]
                gated[name] = m.with_values(m.values * m.over_places(gate))
        return gated


class _Transfer(nn.Module):
    """One multimodal transfer module: summaries (B, C_m) of some modalities to their gates (B, C_m)."""

    def __init__(self, widths: Sequence[int], *, ratio: float, scale: float, identity: bool):
        super().__init__()
        self.scale = scale
        inner = max(1, int(2 * sum(widths) / ratio))
        self.squeeze = nn.Linear(sum(widths), inner)
        self.excite = nn.ModuleList(nn.Linear(inner, n) for n in widths)
        if identity:
            for layer in self.excite:
                for parameter in layer.parameters():
                    nn.init.zeros_(parameter)

    def forward(self, means: Sequence[Tensor]) -> list[Tensor]:
        joint = self.squeeze(torch.cat(list(means), dim=1)).relu()
        return [self.scale * excite(joint).sigmoid() for excite in self.excite]


def _own(name: str) -> str:
    """The optimiser of a modality's own loss."""
    return f"own_{name}"
