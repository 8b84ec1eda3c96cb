"""DAFT: the channels of one modality scaled and shifted by what another one says, while their encoders run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.encoders import PerModality, encoders_for, width_of
from amodal.encoders.encoder import Encoder
from amodal.encoders.exchange import StageMap, channels_at, encode_exchanging, exchange_points
from amodal.fusion.network import AdditiveHead
from amodal.losses.masked import mean_over_observed
from amodal.losses.task import task_loss
from amodal.method import LossTerms, Method
from amodal.options import Positive, Share, Size, Weight
from amodal.schema import Schema

__all__ = ["DAFT"]


class DAFT(Method):
    r"""Feature maps that are scaled and shifted, channel by channel, given the other modalities.

    With :math:`s_m` the mean of modality m's map over its valid places, the map of a target t becomes

    .. math::
        X_t \leftarrow (1 + \textstyle\sum_{a \in O} \Delta\alpha_a) \odot X_t + \sum_{a \in O} \beta_a, \qquad
        [\Delta\alpha_a; \beta_a] = W_{2a} \, \mathrm{ReLU}(W_{1a} [s_t; s_a])

    without biases, :math:`W_2` zero at the start. By default every modality is a target of all others: the outputs are
    the mean of the present modalities' heads, and minimised is their loss plus :math:`\lambda` times each head's own,
    over the rows that have it. With one named `target` only its head predicts; rows without it are predicted by
    :math:`b + \sum_{a \in O} V_a h_a`, which learns from all rows with another modality.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        target: The modality that is modulated; None: each by all others.
        form: "additive", as above, whatever the order; "sequential": each modality's block reads the map as the one
            before has left it, as in derived work for three modalities; "joint": one block reads all summaries, with
            learned vectors for absent ones.
        activation: Of the scale: "linear" (:math:`1 + \Delta\alpha`), "sigmoid" (:math:`2 \sigma(\Delta\alpha)`) or
            "tanh" (:math:`1 + \tanh \Delta\alpha`), all 1 at zero.
        identity_start: False: as published, the scale is the activation itself, without the 1 and the 2, and
            :math:`W_2` starts at random.
        factor: The bottleneck is as wide as the block's input divided by this.
        exchanges: Number of exchanges, at most one a stage; see `amodal.encoders.exchange.exchange_points`.
        own_weight: Weight :math:`\lambda`; with a named target, of the loss of the outputs without it.
        dropout: Dropout of the vectors before the heads.

    Raises:
        ConfigurationError: If the encoders have too few stages for the exchanges.
        UnknownNameError: If the target is no modality.

    Source:
        :cite:`polsterl2021daft`; a series as the target, modulated between its layers, after
        :cite:`hayat2022medfuse`. Deviations: the start at the identity; modalities that are absent change nothing; more
        than one other modality; each modality as a target, whose others are then read at the same exchange instead of
        after their last stage.
    """

    title = "DAFT: shifted encoder"
    summary = "encoders whose channels are scaled and shifted given the other modalities"
    references = ("polsterl2021daft", "hayat2022medfuse")
    preferred_encoders: ClassVar = {"series": {"name": "gru", "layers": 2}}
    couples_rows = True
    PRESETS: ClassVar = {"paper": {"identity_start": False, "form": "sequential", "dropout": 0.3}}

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        target: str | None = None,
        form: Literal["additive", "sequential", "joint"] = "additive",
        activation: Literal["linear", "sigmoid", "tanh"] = "linear",
        identity_start: bool = True,
        factor: Positive = 7.0,
        exchanges: Size = 1,
        own_weight: Weight = 1.0,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        if target is not None:
            schema.check_names([target])
        self.own_weight, self.dropout = own_weight, nn.Dropout(dropout)
        self.encoders = encoders_for(schema, encoders)
        self.targets = schema.names if target is None else (target,)
        self.points = exchange_points(self.encoders, exchanges)
        if target is not None:  # the others are read after their last stage, in every exchange
            last = {name: len(e.stage_widths) - 1 for name, e in self.encoders.items() if isinstance(e, Encoder)}
            self.points = {n: p if n == target else (last[n],) * exchanges for n, p in self.points.items()}
        settings = {"form": form, "activation": activation, "identity": identity_start, "factor": factor}
        self.modulations = nn.ModuleList(
            PerModality(
                {
                    name: _Modulation(channels_at(self.encoders, self.points, k), name, **settings)
                    for name in self.targets
                }
            )
            for k in range(exchanges)
        )
        width, n_outputs = width_of(self.encoders), schema.task.n_outputs
        self.heads = PerModality({name: nn.Linear(width, n_outputs) for name in self.targets})
        self.others = [m for m, name in enumerate(schema.names) if name not in self.targets]
        self.without = AdditiveHead(len(self.others), width, n_outputs) if self.others else None

    def exchange(self, k: int, maps: Mapping[str, StageMap]) -> dict[str, StageMap]:
        """The maps with every target modulated; all read the maps as they came."""
        means = {name: m.mean() for name, m in maps.items()}
        modulations = self.modulations[k]
        assert isinstance(modulations, PerModality)
        return dict(maps) | {name: modulation(maps, means) for name, modulation in modulations.items()}

    def all_outputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Outputs by pattern.

        Args:
            batch: B rows.

        Returns:
            Predicted outputs (B, C); those of each target's head (B, targets, C), meaningless where it is absent; and
            those without the named target (B, C), None if all are targets.
        """
        encoded = encode_exchanging(self.encoders, batch, self.exchange, self.points)
        vectors = {name: self.dropout(e.pooled) for name, e in encoded.items()}
        own = torch.stack([head(vectors[name]) for name, head in self.heads.items()], dim=1)
        observed = torch.stack([batch.observed[name] for name in self.targets], dim=1)
        total = torch.where(observed[..., None], own, 0.0).sum(1)
        outputs = total / observed.sum(1, keepdim=True).clamp(min=1)
        if self.without is None:
            return outputs, own, None
        others = torch.stack([vectors[self.schema.names[m]] for m in self.others], dim=1)
        without = self.without(others, self.presence(batch)[:, self.others])
        return torch.where(observed, outputs, without), own, without

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The loss of what is predicted, and of what each head says alone; see `Method.objective`."""
        outputs, own, without = self.all_outputs(batch)
        terms = {"task": self.task_term(outputs, batch)}
        if without is None:
            terms["own"] = self.own_term(own, self.presence(batch), batch)
        else:
            some = self.presence(batch)[:, self.others].any(1) & batch.labelled
            terms["own"] = mean_over_observed(task_loss(without, batch.labels, self.schema.task.kind), some)
        return LossTerms(terms, {"own": self.own_weight})

    def predict(self, batch: Batch) -> Tensor:
        """Predictions of the heads of the present targets; see `Method.predict`."""
        return self.to_predictions(self.all_outputs(batch)[0])


class _Modulation(nn.Module):
    """Everything that changes one target's map in one exchange."""

    def __init__(
        self, widths: Mapping[str, int], target: str, *, form: str, activation: str, identity: bool, factor: float
    ):
        super().__init__()
        self.target, self.form, self.activation, self.identity = target, form, activation, identity
        channels = widths[target]
        others = {name: n for name, n in widths.items() if name != target}
        groups = others if form != "joint" else {"all": sum(others.values())}
        self.blocks = PerModality(
            {name: _Block(channels, n, factor=factor, identity=identity) for name, n in groups.items() if n}
        )
        self.absent = nn.ParameterList(torch.zeros(n) for n in others.values()) if form == "joint" and others else None
        self.others = tuple(others)

    def forward(self, maps: Mapping[str, StageMap], means: Mapping[str, Tensor]) -> StageMap:
        """The target's map, modulated."""
        own = maps[self.target]
        if self.absent is not None:
            parts = zip(self.others, self.absent)
            read = [torch.where(maps[name].observed[:, None], means[name], fill) for name, fill in parts]
            return self._affine(own, self.blocks["all"](means[self.target], torch.cat(read, dim=1)))
        found = []
        for name, block in self.blocks.items():
            seen, summary = maps[name].observed, own.mean() if self.form == "sequential" else means[self.target]
            numbers = torch.where(seen[:, None], block(summary, means[name]), 0.0)  # (B, 2C), nothing where absent
            if self.form == "sequential":
                own = self._affine(own, numbers, seen)
            found.append((numbers, seen))
        if self.form == "sequential" or not found:
            return own
        return self._affine(own, torch.stack([n for n, _ in found]).sum(0), torch.stack([s for _, s in found]).any(0))

    def _affine(self, own: StageMap, numbers: Tensor, changes: Tensor | None = None) -> StageMap:
        """The map scaled and shifted by [alpha; beta] (B, 2C), in the rows that `changes` names (None: all)."""
        alpha, beta = numbers.chunk(2, dim=1)
        if self.activation == "linear":
            scale = 1 + alpha if self.identity else alpha
        elif self.activation == "sigmoid":
            scale = 2 * alpha.sigmoid() if self.identity else alpha.sigmoid()
        else:
            scale = 1 + alpha.tanh() if self.identity else alpha.tanh()
        if changes is not None:  # a row without another modality keeps its map, bit for bit
            scale, beta = torch.where(changes[:, None], scale, 1.0), torch.where(changes[:, None], beta, 0.0)
        return own.with_values(own.over_places(scale) * own.values + own.over_places(beta))


class _Block(nn.Module):
    """Summaries of a target (B, C) and of another modality (B, C') to [alpha; beta] (B, 2C), without biases."""

    def __init__(self, channels: int, other: int, *, factor: float, identity: bool):
        super().__init__()
        inner = max(1, int((channels + other) / factor))
        self.layers = nn.Sequential(
            nn.Linear(channels + other, inner, bias=False), nn.ReLU(), nn.Linear(inner, 2 * channels, bias=False)
        )
        if identity:
            nn.init.zeros_(self.layers[2].weight)  # type: ignore[arg-type]

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        return self.layers(torch.cat([own, other], dim=1))
