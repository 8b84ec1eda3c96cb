"""Per pattern: one dedicated model for each pattern of presence, the reference for a single model of all patterns."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterable
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from amodal.batch import Batch, rows_where
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.errors import DataError
from amodal.fusion import Concatenate
from amodal.fusion.network import Head
from amodal.losses.masked import connected_zero
from amodal.losses.task import task_loss
from amodal.method import LossTerms, Method
from amodal.options import Count, Share, Size
from amodal.schema import Schema

__all__ = ["PerPattern"]

_ALL_UP_TO = 4  # modalities of which every pattern gets a model


class PerPattern(Method):
    r"""Dedicated models, one for each pattern of presence, that share nothing.

    The model of pattern S is trained on every row that has at least the modalities S, and sees these only. The row's
    objective is the sum of its losses over all patterns it has, :math:`\sum_{S \subseteq O} \ell(f_S(x_S), y)`. No
    parameter belongs to two models, their gradients are clipped apart, and a model without rows in a batch is not
    stepped by it, so that training all of them together is training each of them alone.

    With up to four modalities all :math:`2^M - 1` patterns have a model. With more, each single modality has one, and
    each pattern that at least `min_rows` training rows show (`prepare` counts them). At prediction a row goes to the
    model of its pattern. If there is none, or it had fewer than `min_rows` training rows, the row goes to the trained
    pattern within its own that has the most modalities, of several the first in the schema's order.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality, copied for each pattern; None: the defaults.
        min_rows: Fewest training rows that make a pattern worth a model.
        hidden: Width of each head's hidden layer; 0: linear heads.
        dropout: Dropout of the heads.

    Source:
        The reduced-feature models of :cite:`saartsechansky2007handling`, section 2.3.
    """

    title = "Network per pattern"
    summary = "one dedicated model for each pattern of presence"
    references = ("saartsechansky2007handling",)
    meets_all_patterns = True

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        min_rows: Size = 32,
        hidden: Count = 128,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.min_rows, self.hidden, self.dropout = min_rows, hidden, dropout
        self._originals = (encoders_for(schema, encoders),)  # in a tuple: copied from, not trained, not saved
        self.models = nn.ModuleDict()
        n = len(schema.names)
        self._add_models(_patterns(n, largest=n if n <= _ALL_UP_TO else 1))

    @property
    def patterns(self) -> tuple[tuple[str, ...], ...]:
        """The modalities of each model, smaller patterns first."""
        return tuple(self._names_of(bits) for bits in self.models)

    # Training ----------------------------------------------------------------------------------------------------

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Counts the patterns of the training rows, which decide what gets a model and which models are used."""
        rows: Counter[str] = Counter()
        for batch in batches:
            patterns, counts = self._presence(batch).unique(dim=0, return_counts=True)
            rows.update(dict(zip(map(_bits, patterns.tolist()), counts.tolist())))
        if len(self.schema.names) > _ALL_UP_TO:
            self._add_models(bits for bits, count in rows.items() if count >= self.min_rows and "1" in bits)
        for bits, model in self.models.items():
            trained = sum(count for other, count in rows.items() if _within(bits, other))
            model.get_buffer("trained").fill_(trained >= self.min_rows)

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """One term a model: its loss over the rows that have its pattern, divided by all rows; see `Method.objective`.

        The term of a model without rows is a zero that does not reach its parameters: optimisers leave them alone.
        """
        kind, terms = self.schema.task.kind, {}
        found = rows_where(*(self._having(batch, bits) for bits in self.models))
        for rows, (bits, model) in zip(found, self.models.items()):
            if len(rows):
                part = batch.only(self._names_of(bits)).take(rows, complete=True)
                loss = task_loss(model(part), part.labels, kind).sum() / len(batch)
            else:
                loss = torch.zeros((), device=batch.device)
            terms["+".join(self._names_of(bits))] = loss
        if len(batch) == 0:
            terms["none"] = connected_zero(*self.parameters())
        return LossTerms(terms)

    def clip_groups(self, optimiser: str) -> Iterable[Iterable[nn.Parameter]]:
        """Each model's parameters by themselves."""
        return [[p for p in model.parameters() if p.requires_grad] for model in self.models.values()]

    @torch.no_grad()
    def part_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Each model's losses on the rows that have its pattern: each keeps its own best weights."""
        losses = {}
        for bits, model in self.models.items():
            part = batch.take(self._having(batch, bits))
            if len(part):
                losses[f"models.{bits}."] = task_loss(model(part), part.labels, self.schema.task.kind)
        return losses

    # Prediction --------------------------------------------------------------------------------------------------

    def predict(self, batch: Batch) -> Tensor:
        """Probabilities (B, C) or (B, K), or means (B,); see `Method.predict`."""
        patterns, which = self._presence(batch).unique(dim=0, return_inverse=True)
        outputs, rows = [torch.empty(0, self.schema.task.n_outputs, device=batch.device)], [which[:0]]
        for i, pattern in enumerate(patterns.tolist()):
            rows.append((which == i).nonzero().squeeze(1))
            outputs.append(self.models[self.route(_bits(pattern))](batch.take(rows[-1])))
        back = torch.cat(rows).argsort()
        return self.to_predictions(torch.cat(outputs)[back])

    def route(self, bits: str) -> str:
        """The model that a pattern goes to.

        Args:
            bits: "1" for each modality present and "0" for each absent, in the schema's order.

        Returns:
            The bits of the pattern of the model.

        Raises:
            DataError: If nothing is present.
        """
        within = [own for own in self.models if _within(own, bits)]
        if not within:
            raise DataError("a row has nothing observed", hint="Only rows with a modality can be predicted.")
        return max(within, key=lambda own: (bool(self.models[own].get_buffer("trained")), own.count("1"), own))

    # Models ------------------------------------------------------------------------------------------------------

    def _add_models(self, patterns: Iterable[str]) -> None:
        """Adds the models that do not exist yet, and puts all into order: smaller patterns first."""
        device = next((p.device for p in self.parameters()), None)
        for bits in patterns:
            if bits not in self.models:
                encoders = {name: copy.deepcopy(self._originals[0][name]) for name in self._names_of(bits)}
                self.models[bits] = _PatternModel(
                    PerModality(encoders), self.schema.task.n_outputs, hidden=self.hidden, dropout=self.dropout
                ).to(device)
        ordered = sorted(self.models, key=lambda bits: (bits.count("1"), [-int(bit) for bit in bits]))
        self.models = nn.ModuleDict({bits: self.models[bits] for bits in ordered})

    def _presence(self, batch: Batch) -> Tensor:
        return torch.stack([batch.observed[name] for name in self.schema.names], dim=1)

    def _having(self, batch: Batch, bits: str) -> Tensor:
        """Which rows have all modalities of a pattern, bool (B,)."""
        return torch.stack([batch.observed[name] for name in self._names_of(bits)], dim=1).all(1)

    def _names_of(self, bits: str) -> tuple[str, ...]:
        return tuple(self.schema.names[m] for m in _members(bits))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Makes the models that are stored, which the constructor cannot know; their weights are loaded after this."""
        form = re.compile(re.escape(prefix) + rf"models\.((?=0*1)[01]{{{len(self.schema.names)}}})\.")
        stored = {match[1] for key in state_dict if (match := form.match(key))}
        if len(self.schema.names) > _ALL_UP_TO:
            remaining = {bits: model for bits, model in self.models.items() if bits in stored or bits.count("1") == 1}
            self.models = nn.ModuleDict(remaining)
            self._add_models(stored)
        super()._load_from_state_dict(state_dict, prefix, *args)


class _PatternModel(nn.Module):
    """Encoders of a pattern's modalities, their features side by side, and a head.

    The buffer `trained` is whether enough training rows had the pattern; true until `prepare` has counted them.
    """

    trained: Tensor

    def __init__(self, encoders: PerModality, n_outputs: int, *, hidden: int, dropout: float):
        super().__init__()
        self.encoders = encoders
        self.fusion = Concatenate(len(encoders), width_of(encoders))
        self.head = Head(self.fusion.out_width, n_outputs, hidden=hidden, dropout=dropout)
        self.register_buffer("trained", torch.tensor(True))

    def forward(self, batch: Batch) -> Tensor:
        """Rows that have at least the pattern's modalities to outputs (B, C)."""
        return self.head(self.fusion(*encode_pooled(self.encoders, batch)))


def _patterns(n_modalities: int, *, largest: int) -> list[str]:
    """All patterns of up to `largest` modalities."""
    return [
        _bits([m in chosen for m in range(n_modalities)])
        for k in range(1, largest + 1)
        for chosen in combinations(range(n_modalities), k)
    ]


def _bits(pattern: Iterable[bool]) -> str:
    return "".join("1" if present else "0" for present in pattern)


def _members(bits: str) -> list[int]:
    return [m for m, bit in enumerate(bits) if bit == "1"]


def _within(inner: str, outer: str) -> bool:
    """Whether every modality of one pattern is one of the other's."""
    return all(b == "1" for a, b in zip(inner, outer) if a == "1")
