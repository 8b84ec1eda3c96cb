"""Completions from similar training cases, for models that cannot draw any themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.encoders import scatter
from amodal.errors import DataError
from amodal.predictive_impact.draws import check_count
from amodal.predictive_impact.predictor import Predictor, check_inputs
from amodal.schema import Modality

__all__ = ["DonorCompletions", "summarise"]

_PAIRS = 2**22  # pairs of case and donor in work at a time


def summarise(batch: Batch, modality: Modality) -> Tensor:
    """A vector of fixed length for each row of one modality, in which similar cases are close.

    A table's values (0, the training mean, where not measured); of a series the mean and the last value of each feature
    (0 where never measured); an image averaged to at most 8 × 8; of a text the square roots of the shares of 64
    hashed character triples.

    Args:
        batch: B rows, standardised.
        modality: Which modality.

    Returns:
        Of shape (B, F); zero where the modality is absent.
    """
    present = batch.present(modality.name)
    return scatter(modality.traits.similarity_vector(present, modality.shape), present.rows, len(batch))


class DonorCompletions:
    r"""Completes cases with the modalities of training cases that are similar in what both have.

    The squared distance of two cases is the mean, over the modalities that both have, of the mean squared difference of
    their `summarise`\ d vectors, each entry standardised over the training cases that have it. A draw takes the
    missing modalities of one of the nearest training cases that have all of them, each equally likely; if there are
    fewer than `neighbours` such cases, each modality comes from a case of its own. Cases of which nothing is observed
    may get any training case's.

    This assumes that a missing modality, given the similarity, is as in the training cases that have it; and the
    prediction for a completed case is the model's for a complete one, which may have been rare in its training.

    Args:
        model: The model whose predictions are wanted.
        train: Training cases.
        neighbours: Number of nearest training cases that a draw chooses from.

    Raises:
        ConfigurationError: If `neighbours` is not positive.
        DataError: If there are no training cases.
    """

    def __init__(self, model: Predictor, train: Cohort, *, neighbours: int = 50):
        check_count("neighbours", neighbours)
        check_inputs(model, train, "training cases")
        if not len(train):
            raise DataError("there are no training cases to take completions from", expected="at least one")
        self.model, self.train, self.neighbours = model, train, neighbours
        modalities = model.schema.modalities
        parts = [
            (*(summarise(batch, modality) for modality in modalities), batch.presence) for batch in model.batches(train)
        ]
        *summaries, self.presence = (torch.cat(columns) for columns in zip(*parts))
        self.centre, self.scale, self.summaries = [], [], []
        for m, summary in enumerate(summaries):
            known = summary[self.presence[:, m]]
            centre = known.mean(0) if len(known) else summary.new_zeros(summary.shape[1])
            spread = known.std(0) if len(known) > 1 else torch.ones_like(centre)
            scale = torch.where(spread > 1e-6, spread, 1.0) * summary.shape[1] ** 0.5
            self.centre.append(centre)
            self.scale.append(scale)
            self.summaries.append((summary - centre) / scale)

    @property
    def how(self) -> str:
        """Where the completions come from, in words."""
        k, n = min(self.neighbours, len(self.train)), len(self.train)
        return (
            f"completions taken from the {k} most similar of {n} training cases "
            "(similar in standardised summaries of the modalities that both have)"
        )

    def outputs(
        self,
        batch: Batch,
        draws: int,
        generator: torch.Generator,
        *,
        vary: Sequence[str] | None = None,
        only: Sequence[str] | None = None,
    ) -> Tensor:
        """Outputs (S, B, C) as those of `SamplingMethod.draw_outputs`, from predictions for completed cases.

        Logits are logarithms of predicted probabilities (multilabel: log odds).

        Args:
            batch: B rows, standardised.
            draws: Number of draws S.
            generator: Source of the draws.
            vary: Modalities whose donor varies; the others have the first draw's. None: all.
            only: Modalities to complete; what else is missing stays so. None: all.

        Raises:
            DataError: If no training case has a modality that a case lacks.
        """
        uniform = torch.rand(draws, len(batch.modalities), generator=generator, device=batch.device)
        outputs = torch.empty(draws, len(batch), self.model.schema.task.n_outputs, device=batch.device)
        wanted = torch.tensor([only is None or name in only for name in batch.modalities], device=batch.device)
        patterns, which = batch.presence.unique(dim=0, return_inverse=True)
        step = max(1, _PAIRS // max(len(self.train), 1))
        for code, pattern in enumerate(patterns):
            for rows in (which == code).nonzero().squeeze(1).split(step):
                outputs[:, rows] = self._outputs_of_pattern(batch.take(rows), ~pattern & wanted, uniform, vary)
        return outputs

    def _outputs_of_pattern(self, batch: Batch, missing: Tensor, uniform: Tensor, vary: Sequence[str] | None) -> Tensor:
        """Outputs (S, b, C) of cases in which the same modalities (M,) are to be completed."""
        names = batch.modalities
        lacking = [m for m in range(len(names)) if missing[m]]
        varied = [m for m in lacking if vary is None or names[m] in vary]
        groups = [*self._groups(varied), *self._groups([m for m in lacking if m not in varied])]
        distances = self._distances(batch)
        chosen = []  # for each group the donors, of shape (S, b)
        for group in groups:
            donors = self._nearest(distances, group)  # (b, k)
            draw = uniform[:, group[0]] if group[0] in varied else uniform[:1, group[0]].expand(len(uniform))
            chosen.append(donors[:, (draw * donors.shape[1]).long()].T)
        if not chosen:
            return self._predict(batch).expand(len(uniform), -1, -1)
        distinct, back = torch.stack(chosen, dim=2).unique(dim=0, return_inverse=True)  # (S', b, G)
        return torch.stack([self._predict(self._complete(batch, groups, donors)) for donors in distinct])[back]

    def _groups(self, lacking: list[int]) -> list[list[int]]:
        """Modalities that come from one donor together."""
        if not lacking:
            return []
        together = int(self.presence[:, lacking].all(1).sum())
        return [lacking] if together >= self.neighbours else [[m] for m in lacking]

    def _distances(self, batch: Batch) -> Tensor:
        """Squared distances (b, N) to the training cases; infinite to those that share no modality."""
        total = torch.zeros(len(batch), len(self.presence), device=batch.device)
        shared = torch.zeros_like(total)
        for m, modality in enumerate(self.model.schema.modalities):
            if not bool(batch.observed[modality.name].any()):
                continue
            summary = (summarise(batch, modality) - self.centre[m]) / self.scale[m]
            both = batch.observed[modality.name][:, None] & self.presence[:, m]
            total += torch.where(both, torch.cdist(summary, self.summaries[m]).square(), 0.0)
            shared += both
        nothing = ~batch.presence.any(1, keepdim=True)
        return torch.where(shared > 0, total / shared.clamp(min=1), torch.where(nothing, 0.0, torch.inf))

    def _nearest(self, distances: Tensor, group: list[int]) -> Tensor:
        """The nearest donors (b, k) that have all modalities of a group; those that share something come first."""
        able = self.presence[:, group].all(1).nonzero().squeeze(1)
        if not len(able):
            names = [self.model.schema.names[m] for m in group]
            raise DataError(
                f"no training case has {' and '.join(map(repr, names))}, which is missing in cases to complete",
                hint="Pass training cases that have it.",
            )
        k = min(self.neighbours, len(able))
        return able[distances[:, able].topk(k, dim=1, largest=False).indices]

    def _complete(self, batch: Batch, groups: list[list[int]], donors: Tensor) -> Batch:
        """The cases with what they lack from donors (b, G)."""
        for g, group in enumerate(groups):
            positions = donors[:, g].cpu().numpy().astype(np.int64)
            given = next(self.model.batches(self.train, len(positions), positions))
            batch = _fill(batch, given, [batch.modalities[m] for m in group])
        return batch

    def _predict(self, batch: Batch) -> Tensor:
        """Outputs (b, C) of the model's own predictions."""
        return self.model.schema.task.traits.outputs(self.model.method.predict(batch).float())


def _fill(batch: Batch, given: Batch, names: Sequence[str]) -> Batch:
    """The rows of `batch`, in which all lack `names`, with those modalities of `given`."""
    parts = {part: dict(getattr(batch, part)) for part in ("values", "observed", "measured", "lengths")}
    for name in names:
        for part, columns in parts.items():
            columns.pop(name, None)
            if name in getattr(given, part):
                columns[name] = getattr(given, part)[name]
    parts["values"] = {name: parts["values"][name] for name in batch.modalities}
    return Batch(parts["values"], parts["observed"], parts["measured"], parts["lengths"], batch.target, batch.ids)
