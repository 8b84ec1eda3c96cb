"""M3-JEPA: each modality's vector predicted from every other's tokens, one direction a step, by experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from amodal.batch import Batch, rows_where
from amodal.encoders import Encoded, PerModality, encode_all, encoders_for, width_of
from amodal.errors import ConfigurationError
from amodal.fusion import FusionTransformer
from amodal.fusion.experts import ExpertPool, top_gates
from amodal.fusion.network import Head
from amodal.losses.contrast import info_nce
from amodal.losses.masked import connected_zero, mean_over_observed
from amodal.method import LossTerms, NetworkMethod
from amodal.options import Positive, Share, Size, Weight
from amodal.schema import Schema

__all__ = ["M3JEPA", "DirectedPredictor", "Source"]


class M3JEPA(NetworkMethod):
    r"""Prediction of each modality's vector from another's tokens, whose predictions also stand for what is absent.

    A predictor shared by all directions maps the tokens of modality a to :math:`\hat z_{a \to b}`, beside the pooled
    vector :math:`z_b`, and in a second stream to :math:`v_a`, beside a linear map :math:`v_b` of it. In every step one
    direction a → b, the next of all M (M − 1), adds to the task's loss, over the rows that have both,

    .. math::
        \tfrac12 \, \mathrm{smooth}_{L_1}(\hat z_{a \to b}, z_b) + \tfrac12 \, \mathrm{InfoNCE}(v_a, v_b; T)

    An absent b is the mean of :math:`\hat z_{a \to b}` over the present modalities a; a transformer over one vector of
    each modality predicts.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        temperature: T.
        w_direction: Weight of the direction's loss.
        experts: Number of the predictor's experts E.
        top_k: How many of them a token is sent to.
        renormalise: Whether the gates of these add up to one, and not to less as published.
        detach_targets: Whether :math:`z_b` is a constant in the smooth L1 loss, as it must be where encoders learn.
        hidden: Width of the predictor.
        dropout: Dropout of predictor, fusion and head.

    Raises:
        ConfigurationError: If there are fewer experts than are to be chosen.

    Source:
        :cite:`lei2025m3jepa`, made for retrieval with frozen encoders; as a classifier it is what
        :cite:`choi2025cepa` compares with. Deviations: encoders learn, or are frozen by the encoders' own options;
        means over tokens leave padding out; the gate is a shared part and one of the direction, as in the text and
        not in the released code; a direction's heads are those of its target.
    """

    title = "M3-JEPA: predictors"
    summary = "each modality's vector predicted from every other's tokens, one direction a step"
    references = ("lei2025m3jepa", "choi2025cepa")
    couples_rows = True
    uses_unlabelled = True
    PRESETS: ClassVar = {
        "paper": {"experts": 12, "top_k": 4, "renormalise": False, "detach_targets": False, "hidden": 2048}
    }

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        temperature: Positive = 0.03,
        w_direction: Weight = 1.0,
        experts: Size = 8,
        top_k: Size = 2,
        renormalise: bool = True,
        detach_targets: bool = True,
        hidden: Size = 128,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        if top_k > experts:
            raise ConfigurationError("fewer experts than are to be chosen", expected=f"top_k ≤ {experts}", got=top_k)
        self.temperature, self.w_direction, self.detach_targets = temperature, w_direction, detach_targets
        self.encoders = encoders_for(schema, encoders)
        width, m = width_of(self.encoders), len(schema.names)
        self.directions = [(a, b) for a in range(m) for b in range(m) if a != b]
        self.predictor = None
        if self.directions:
            self.predictor = DirectedPredictor(
                m, width, self.directions,
                hidden=hidden, experts=experts, top_k=top_k, renormalise=renormalise, dropout=dropout,
            )  # fmt: skip
        self.fusion = FusionTransformer(m, width, dropout=dropout)
        self.head = Head(width, schema.task.n_outputs, hidden=hidden, dropout=dropout)

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C)."""
        return self._read(list(encode_all(self.encoders, batch).values()), batch.presence)

    def _read(self, encoded: Sequence[Encoded], observed: Tensor) -> Tensor:
        return self.head(self.fusion(self.filled(encoded, observed), torch.ones_like(observed)))

    def filled(self, encoded: Sequence[Encoded], observed: Tensor) -> Tensor:
        """Pooled vectors (B, M, D), absent ones replaced by the mean of their predictions from what is present."""
        pooled = torch.stack([part.pooled for part in encoded], dim=1)
        if self.predictor is None:
            return pooled
        sources, places = [], []
        found = rows_where(*(observed[:, a] & ~observed[:, b] for a, b in self.directions))
        for d, ((a, b), rows) in enumerate(zip(self.directions, found)):
            if len(rows):
                sources.append(Source(d, 0, encoded[a].tokens[rows], encoded[a].valid[rows]))
                places.append((b, rows))
        totals = list(torch.zeros_like(pooled).unbind(1))
        for (b, rows), state in zip(places, self.predictor(sources)):
            totals[b] = totals[b].index_add(0, rows, self.predictor.to_target[b](state).to(pooled.dtype))
        predicted = torch.stack(totals, dim=1) / observed.sum(1).clamp(min=1)[:, None, None]
        return torch.where(observed[..., None], pooled, predicted)

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The task's loss, and the two of the direction whose turn it is; see `Method.objective`."""
        encoded, observed = list(encode_all(self.encoders, batch).values()), batch.presence
        terms = {"task": self.task_term(self._read(encoded, observed), batch)}
        if self.predictor is None:
            return LossTerms(terms)
        prediction, contrast = self.direction_losses(self.clock.step % len(self.directions), encoded, observed)
        half = 0.5 * self.w_direction
        terms |= {"prediction": prediction, "contrast": contrast}
        return LossTerms(terms, {"prediction": half, "contrast": half})

    def direction_losses(self, direction: int, encoded: Sequence[Encoded], observed: Tensor) -> tuple[Tensor, Tensor]:
        """Smooth L1 and InfoNCE of one direction over the rows that have both modalities: two scalars."""
        assert self.predictor is not None
        a, b = self.directions[direction]
        (rows,) = rows_where(observed[:, a] & observed[:, b])
        target = encoded[b].pooled[rows]
        if not len(rows):
            zero = connected_zero(encoded[a].pooled, encoded[b].pooled)
            return zero, zero
        tokens, valid = encoded[a].tokens[rows], encoded[a].valid[rows]
        forecast, code = self.predictor([Source(direction, stream, tokens, valid) for stream in (0, 1)])
        fixed = target.detach() if self.detach_targets else target
        apart = functional.smooth_l1_loss(self.predictor.to_target[b](forecast), fixed, reduction="none").mean(1)
        one = functional.normalize(self.predictor.to_contrast[b](code), dim=1)
        other = functional.normalize(self.predictor.target_codes[b](target), dim=1)
        return mean_over_observed(apart), mean_over_observed(info_nce(one, other, temperature=self.temperature))


class Source(NamedTuple):
    """Tokens that a vector is to be predicted from.

    Attributes:
        direction: Position of the direction.
        stream: 0 of the prediction, 1 of the contrast.
        tokens: Of shape (P, L, D).
        valid: Which of them are no padding, bool (P, L).
    """

    direction: int
    stream: int
    tokens: Tensor
    valid: Tensor


class DirectedPredictor(nn.Module):
    """Tokens of one modality to a state for another's vector: one network for all directions and both streams.

    Args:
        n_modalities: Number of modalities M.
        width: Width D of tokens and vectors.
        directions: Source and target of each direction.
        hidden: Width H of the network.
        experts: Number of experts E.
        top_k: How many a token is sent to.
        renormalise: Whether their gates add up to one.
        dropout: Dropout.

    Attributes:
        to_target: For each modality a linear map of states to its vector.
        to_contrast: For each modality a linear map of states to what is contrasted.
        target_codes: For each modality a linear map of its vector to what is contrasted with these.
    """

    def __init__(
        self, n_modalities: int, width: int, directions: Sequence[tuple[int, int]], *,
        hidden: int, experts: int, top_k: int, renormalise: bool, dropout: float,
    ):  # fmt: skip
        super().__init__()
        self.sources = [a for a, _ in directions]
        self.top_k, self.renormalise = top_k, renormalise
        self.direction = nn.Parameter(0.02 * torch.randn(len(directions), width))
        self.stream = nn.Parameter(0.02 * torch.randn(2, hidden))
        self.inputs = nn.ModuleList(nn.Linear(width, hidden) for _ in range(n_modalities))
        self.shared_gate = nn.Linear(hidden, experts, bias=False)
        self.own_gates = nn.Parameter(torch.zeros(len(directions), experts, hidden))
        self.experts = ExpertPool(experts, hidden, hidden, hidden=hidden, dropout=dropout)
        self.norm, self.dropout = nn.LayerNorm(hidden), nn.Dropout(dropout)
        self.to_target = nn.ModuleList(nn.Linear(hidden, width) for _ in range(n_modalities))
        self.to_contrast = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(n_modalities))
        self.target_codes = nn.ModuleList(nn.Linear(width, hidden) for _ in range(n_modalities))

    def forward(self, sources: Sequence[Source]) -> list[Tensor]:
        """States (P, H) of each source: means over its valid tokens. All go through the experts at once."""
        if not sources:
            return []
        inputs, logits = [], []
        found = rows_where(*(source.valid.flatten() for source in sources))
        for places, (direction, stream, tokens, _) in zip(found, sources):
            moved = tokens.flatten(0, 1)[places] + self.direction[direction]  # (N, D)
            x = functional.gelu(self.inputs[self.sources[direction]](moved)) + self.stream[stream]
            inputs.append(x)
            logits.append(self.shared_gate(x) + x @ self.own_gates[direction].T)
        x = torch.cat(inputs)
        gates = top_gates(torch.cat(logits), self.top_k, renormalise=self.renormalise)
        states = x + functional.gelu(self.norm(self.dropout(self.experts(x, gates))))
        parts = states.split([len(places) for places in found])
        return [_mean_of_rows(part, places, source.valid) for part, places, source in zip(parts, found, sources)]


def _mean_of_rows(states: Tensor, places: Tensor, valid: Tensor) -> Tensor:
    """Means (P, H) over each row's valid places of states (N, H), which are at places (N,) of the flattened `valid`."""
    rows = places // valid.shape[1]
    total = states.new_zeros(len(valid), states.shape[1]).index_add(0, rows, states)
    return total / valid.sum(1, keepdim=True).clamp(min=1)
