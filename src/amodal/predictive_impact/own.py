"""Completions that a method draws itself, one law for every set of modalities to look at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.method import draws_itself
from amodal.predictive_impact.donor_weights import weighted_mean
from amodal.predictive_impact.draws import check_count
from amodal.predictive_impact.predictor import Predictor, distance

__all__ = ["OwnCompletions", "OwnLaw"]

_INNER = 16  # draws of what stays open, for each draw of what is looked at
_OUTER = 64  # draws of what is looked at, at most, where each needs draws of what stays open
_LAST = 20  # draws of one modality for each draw of the others: V of so many is 2.5 to 5 % low
_PROBE, _PROBES = 4, 64  # rows and draws that show whether anything stays open about modalities that are present


class OwnCompletions:
    """Completions drawn by the method itself.

    Looking at a modality settles its own completion; what else the method leaves open is averaged over. This assumes
    that a modality's own draw is what observing it would settle.

    Args:
        model: A trained model whose method is a `SamplingMethod`.
        draws: Number of completions of each case.
        seed: Seed of all draws.
    """

    def __init__(self, model: Predictor, *, draws: int = 200, seed: int = 0):
        check_count("draws", draws)
        assert draws_itself(model.method)
        self.model, self.method, self.draws, self.seed = model, model.method, draws, seed

    @property
    def number(self) -> int:
        """Number of completions of a case."""
        return self.draws

    def change_scale(self, missing: Sequence[str]) -> float:
        """What changes are multiplied by where these are missing: found on the validation rows of the training."""
        return self.model.change_scale(missing) if self.by_modality else 1.0

    @property
    def by_modality(self) -> bool:
        """Whether the draws are completions of modalities, so that one modality can be looked at."""
        return self.method.draws_mean == "completions"

    @property
    def how(self) -> str:
        """The source of the completions, in words."""
        if self.by_modality:
            return "completions drawn by the method itself"
        return "draws of the method's one latent, which are no completions of modalities"

    def law(self, batch: Batch, names: Sequence[str], present: Tensor) -> OwnLaw:
        """Completions of modalities that all rows lack; see `Completions`."""
        return OwnLaw(self, batch, names, present)

    def everything(self, batch: Batch) -> Tensor:
        """Outputs (S, B, C) with everything varying that the method leaves open, also about what is present."""
        generator = torch.Generator(batch.device).manual_seed(self.seed)
        return self.method.draw_outputs(batch, self.draws, generator)

    def predictions(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Outputs (S, B, C) for a batch as predictions (S, B, D) in the target's units, recalibrated as its own are."""
        predicted = self.model.recalibrated(self.method.to_predictions(outputs), batch)
        if self.model.schema.task.traits.one_value:
            return self.model.scaling.unscale(predicted)[..., None]
        return predicted


class OwnLaw:
    """Completions of B cases by the method's draws, all of equal weight; see `Law`."""

    def __init__(self, source: OwnCompletions, batch: Batch, names: Sequence[str], present: Tensor):
        self.source, self.batch, self.names = source, batch, tuple(names)
        self._still: dict[tuple[str, ...], bool] = {}
        self.whole, self.weights = self.after(self.names)
        kind = source.model.schema.task.traits
        self.gap = distance(weighted_mean(self.whole, self.weights), present, kind)
        self.notes: tuple[str, ...] = ()

    def after(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Predictions (S, B, D) with the completion of some modalities settled and all else averaged over; weights."""
        source, batch = self.source, self.batch
        others = [name for name in batch.modalities if name not in names]
        if not source.by_modality or self._nothing_open(others):  # a draw of everything is one of what is looked at
            return self._equally(source.predictions(source.everything(batch), batch))
        parts = []
        for draw in range(min(source.draws, _OUTER)):  # the first draw of a seed holds what does not vary
            parts.append(self._nested(draw, others, _INNER).mean(0))
        return self._equally(torch.stack(parts))

    def last(self, name: str) -> tuple[Tensor, Tensor]:
        """Expected change (B,), with its error, when a modality is looked at after all the others."""
        outer = max(2, -(-min(self.source.draws, _OUTER * _LAST) // _LAST))
        nested = torch.stack([self._nested(draw, [name], min(self.source.draws, _LAST)) for draw in range(outer)])
        moved = distance(nested, nested.mean(1, keepdim=True), self.source.model.schema.task.traits).mean(1)  # (K, B)
        return moved.mean(0), moved.std(0) / outer**0.5

    def _nested(self, draw: int, vary: Sequence[str], number: int) -> Tensor:
        generator = torch.Generator(self.batch.device).manual_seed((self.source.seed + 1) * 100_003 + draw)
        outputs = self.source.method.draw_outputs(self.batch, number, generator, vary=vary)
        return self.source.predictions(outputs, self.batch)

    @staticmethod
    def _equally(predictions: Tensor) -> tuple[Tensor, Tensor]:
        return predictions, torch.full_like(predictions[..., 0], 1.0 / len(predictions))

    def _nothing_open(self, names: Sequence[str]) -> bool:
        """Whether predictions do not depend on the draws of these modalities."""
        key = tuple(names)
        if key not in self._still:
            rows = self.batch.take(torch.arange(min(_PROBE, len(self.batch)), device=self.batch.device))
            generator = torch.Generator(self.batch.device).manual_seed(self.source.seed)
            outputs = self.source.method.draw_outputs(rows, _PROBES, generator, vary=list(names))
            self._still[key] = bool((outputs == outputs[:1]).all())
        return self._still[key]
