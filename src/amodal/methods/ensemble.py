"""Ensemble: a pool of methods in one model, weighted by validation rows for every number of modalities present."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.encoders import ENCODERS, PerModality, build_encoders, encoders_for, width_of
from amodal.encoders.pretrained import PretrainedEncoder
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.fusion.selection import select, weighted_mean
from amodal.kinds import MODALITY_KINDS
from amodal.losses.task import prediction_loss
from amodal.method import EstimatedMethod, LossTerms, Method
from amodal.options import Size, resolve_options
from amodal.patterns import draw_removal
from amodal.schema import Schema

__all__ = ["Ensemble", "member_options"]


class Ensemble(Method):
    r"""A pool of methods whose predictions are averaged with weights that depend on how many modalities are present.

    By default the second of two networks reads series by their summaries, which errs otherwise than recurrence does.
    The networks are trained side by side, as each would be alone: no parameter is shared, their gradients are clipped
    apart, and each keeps its own best weights. Methods that are fitted by an algorithm of their own (`boosting`) are
    fitted before. Then weights are chosen by greedy selection with replacement: of `picks` picks each adds the member
    that lowers the loss of the mean prediction most, on validation rows as they are and under removals, averaged over
    `bags` random halves of the cases. With the weights :math:`w` of all rows and :math:`w_k` of the :math:`n_k` cases
    with k modalities, these rows are predicted with

    .. math:: \frac{n_k w_k + n_0 w}{n_k + n_0}, \qquad n_0 = 200

    Training takes the time of all members together; `time_limit` of `amodal.fit` ends it, and the members are then what
    they are. Impact takes completions from training cases.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality, of the first network; the others begin with fresh weights.
        members: Names of methods, or {"name": …, "encoders": {kind: encoder}, option: …}; a name may come several
            times. Encoders by kind replace those that are the kind's default.
        picks: Picks of the greedy selection.
        bags: Random halves of the validation cases that the selection is averaged over.

    Raises:
        UnknownNameError: If a member is no method.
        ConfigurationError: If there is no member, or one needs several optimisers.

    Source:
        :cite:`caruana2004ensemble`, sections 2.1 to 2.3 (selection with replacement, bagged). Deviation: weights by the
        number of modalities.
    """

    title = "Networks and trees"
    summary = "networks and boosted trees, weighted by validation rows for every number of modalities"
    references = ("caruana2004ensemble",)
    meets_all_patterns = True
    weight_average = 0.99
    known: ClassVar[Mapping[str, type[Method]]] = {}
    """The methods that may be members; filled by the registry."""

    weights: Tensor

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        members: tuple[str | Mapping[str, Any], ...] = (
            "modality_dropout",
            {"name": "modality_dropout", "encoders": {"series": "summary"}},
            "boosting",
        ),
        picks: Size = 20,
        bags: Size = 10,
    ):
        super().__init__(schema)
        self.picks, self.bags = picks, bags
        encoders, built = encoders_for(schema, encoders), []
        for member in members:
            name, by_kind, options = member_options(self.known, member)
            own = replaced(fresh_copy(encoders) if built else encoders, schema, by_kind)
            built.append(cast(Callable[..., Method], self.known[name])(schema, own, **options))
        if not built:
            raise ConfigurationError("an ensemble has no members", expected="names of methods", got=repr(members))
        for method in built:
            if method.alternates or set(method.optimisers) != {"main"}:
                raise ConfigurationError(
                    f"{type(method).__name__} cannot be a member of an ensemble", expected="a method with one optimiser"
                )
        self.members = nn.ModuleList(built)
        self.uses_unlabelled = any(method.uses_unlabelled for method in built)
        networks = [not isinstance(method, EstimatedMethod) for method in built]
        start = torch.tensor([float(network or not any(networks)) for network in networks])
        self.register_buffer("weights", (start / start.sum()).repeat(len(schema.names) + 1, 1))  # (M + 1, J)

    @property
    def methods(self) -> tuple[Method, ...]:
        """The members."""
        return tuple(cast(Method, member) for member in self.members)

    @property
    def networks(self) -> dict[int, Method]:
        """The members that are trained by gradient steps, by their places."""
        return {i: member for i, member in enumerate(self.methods) if not isinstance(member, EstimatedMethod)}

    # Training ----------------------------------------------------------------------------------------------------

    def estimated_parts(self) -> Iterable[EstimatedMethod]:
        """The members that are fitted by an algorithm of their own."""
        return [member for member in self.methods if isinstance(member, EstimatedMethod)]

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Lets the networks take their statistics."""
        self._pass_on("prepare", batches)

    def begin_epoch(self) -> None:
        """Tells the networks."""
        for member in self.networks.values():
            member.clock = self.clock
            member.begin_epoch()

    def after_step(self) -> None:
        """Tells the networks."""
        for member in self.networks.values():
            member.clock = self.clock
            member.after_step()

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The terms of all networks, each with its place before its name; see `Method.objective`."""
        terms: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        for i, member in self.networks.items():
            member.clock, seen = self.clock, batch
            if not member.meets_all_patterns:
                remaining = draw_removal(batch.presence, generator)
                seen = batch.restrict(dict(zip(batch.modalities, remaining.unbind(1))))
            found = member.objective(seen, generator)
            terms |= {f"{i}.{name}": term for name, term in found.terms.items()}
            weights |= {f"{i}.{name}": weight for name, weight in found.weights.items()}
        if not terms:
            terms["none"] = torch.zeros((), device=batch.device)
        return LossTerms(terms, weights)

    def clip_groups(self, optimiser: str) -> Iterator[Iterable[nn.Parameter]]:
        """Those of each network."""
        for member in self.networks.values():
            yield from member.clip_groups("main")

    def learning_rate_scale(self, parameter_name: str) -> float:
        """What the parameter's member says."""
        _, place, name = parameter_name.split(".", 2)
        return self.methods[int(place)].learning_rate_scale(name)

    @torch.no_grad()
    def part_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Each network's losses of the rows as they are and under a removal, or those of its own parts."""
        generator = torch.Generator(batch.device).manual_seed(0)
        remaining = draw_removal(batch.presence, generator)
        removed = batch.restrict(dict(zip(batch.modalities, remaining.unbind(1))))
        losses: dict[str, Tensor] = {}
        for i, member in self.networks.items():
            parts = member.part_losses(batch)
            if not parts:
                kind = self.schema.task.kind
                both = [prediction_loss(member.predict(rows), batch.labels, kind) for rows in (batch, removed)]
                parts = {"": torch.cat(both)}
            losses |= {f"members.{i}.{prefix}": values for prefix, values in parts.items()}
        return losses

    def representations(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Those of the first network."""
        return next((member.representations(batch) for member in self.networks.values()), {})

    def remember(self, batches: Iterable[Batch]) -> None:
        """Lets the members store what they need of the training rows."""
        self._pass_on("remember", batches)

    def adjust(self, rows: Iterable[tuple[Batch, Tensor]]) -> None:
        """Chooses the weights by the members' predictions of the validation rows."""
        for member in self.methods:
            member.adjust(rows)
        chosen = select(
            lambda batch: torch.stack([member.predict(batch) for member in self.methods], dim=1),
            rows,
            self.schema.task.traits,
            picks=self.picks,
            bags=self.bags,
        )
        if chosen is not None:
            self.weights.copy_(chosen)

    def _pass_on(self, hook: str, batches: Iterable[Batch]) -> None:
        """Calls a hook of the members that have their own, each with all batches."""
        own = [member for member in self.methods if getattr(type(member), hook) is not getattr(Method, hook)]
        batches = list(batches) if len(own) > 1 else batches
        for member in own:
            getattr(member, hook)(batches)

    # Prediction --------------------------------------------------------------------------------------------------

    def predict(self, batch: Batch) -> Tensor:
        """Weighted means of the members' predictions, of shape (B, C), (B, K) or (B,); see `Method.predict`."""
        return weighted_mean(self.weights, [member.predict for member in self.methods], batch)


def member_options(
    known: Mapping[str, type[Method]], member: str | Mapping[str, Any]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The name of a member, its encoders by kind of modality, and all its options, checked.

    Args:
        known: Methods by name.
        member: A name, or {"name": …, "encoders": {kind: encoder}, option: …}.

    Raises:
        UnknownNameError: If it is no method, the ensemble itself, or has no such option; if a kind is not known.
    """
    options: dict[str, Any] = {"name": member} if isinstance(member, str) else dict(member)
    name = str(options.pop("name", ""))
    if name not in known or known[name] is Ensemble:
        raise UnknownNameError("member of an ensemble", name, [n for n in known if known[n] is not Ensemble])
    by_kind: dict[str, Any] = dict(options.pop("encoders", {}))
    for kind in by_kind:
        if kind not in MODALITY_KINDS:
            raise UnknownNameError("kind of modality", str(kind), MODALITY_KINDS)
    return name, by_kind, resolve_options(known[name], options, owner=name, outside=("schema", "encoders"))


def replaced(encoders: PerModality, schema: Schema, by_kind: Mapping[str, Any]) -> PerModality:
    """The encoders, those that are the default of a kind replaced by the one that `by_kind` names."""
    choices = {
        m.name: by_kind[m.kind]
        for m in schema.modalities
        if m.kind in by_kind and type(encoders[m.name]) is ENCODERS[m.traits.encoder]
    }
    if not choices:
        return encoders
    others = build_encoders(schema, width=width_of(encoders), choices=choices)
    return PerModality({name: others[name] if name in choices else encoder for name, encoder in encoders.items()})


def fresh_copy(encoders: PerModality) -> PerModality:
    """A copy of encoders that begins with other weights, drawn from torch's generator; pretrained ones keep theirs."""
    copies = copy.deepcopy(encoders)
    for _, encoder in copies.items():
        if isinstance(encoder, PretrainedEncoder):
            continue
        for module in encoder.modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if reset is not None:
                reset()
    return copies
