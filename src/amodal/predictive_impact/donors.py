"""Completions from similar training cases, for any model."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.errors import DataError
from amodal.predictive_impact.donor_pool import MOST_DONORS, DonorPool, summarise
from amodal.predictive_impact.donor_weights import class_weights, tilt, weighted_error, weighted_mean
from amodal.predictive_impact.draws import check_count
from amodal.predictive_impact.predictor import Predictor, check_inputs, distance, predictions_of

__all__ = ["DonorCompletions", "DonorLaw", "summarise"]

_ROWS = 4096  # completed cases in work at a time
_DRAWS = 16  # most draws behind the prediction of one completed case: many donors are averaged over
_FEWEST = 10  # training cases that have everything a case lacks, below which each modality has a donor of its own
_BYTES = 2**28  # of the values of donors in memory at a time


class DonorCompletions:
    """Completes cases with the modalities of training cases that are similar in what both have.

    The donors of a case are the nearest training cases (`DonorPool`) that have what is to be completed; among equals,
    which ones is decided by a hash of their content and so neither by their order nor by what they are. Never among
    them are the case itself and cases of its group. In a classification a donor counts as much as the model now
    believes in its class; then, and for other tasks from the start, the weights are tilted until the mean of the
    predictions to be expected is the present one (:mod:`amodal.predictive_impact.donor_weights`).

    What is missing together comes from one donor where at least ten training cases have it together, else each modality
    from a donor of its own, in `draws` combinations; a note says so.

    This assumes that a missing modality, given what is seen and the target, is as in the training cases that have it
    (missing at random); and the prediction for a completed case is the model's for such a pattern, which may have been
    rare in its training.

    Args:
        model: The model whose predictions are wanted.
        train: Training cases.
        cases: The cases to complete, for their ids and groups; None: nothing is known of them.
        neighbours: Number of nearest training cases.
        draws: Number of combinations where donors are independent.
        seed: Seed of these, and of the choice of training cases where there are more than `most`.
        most: Most training cases among which the nearest are sought.

    Raises:
        ConfigurationError: If `neighbours` is not positive.
        DataError: If there are no training cases.
    """

    def __init__(
        self,
        model: Predictor,
        train: Cohort,
        *,
        cases: Cohort | None = None,
        neighbours: int = 50,
        draws: int = 200,
        seed: int = 0,
        most: int = MOST_DONORS,
    ):
        check_count("neighbours", neighbours)
        check_inputs(model, train, "training cases")
        if not len(train):
            raise DataError("there are no training cases to take completions from", expected="at least one")
        self.model, self.train, self.neighbours, self.draws, self.seed = model, train, neighbours, draws, seed
        self.target = train.with_task(model.schema.task).target if model.schema.task.is_classification else None
        self.pool = DonorPool(model, train, cases, most=most, seed=seed)
        self.device = self.pool.device

    def with_neighbours(self, neighbours: int) -> DonorCompletions:
        """The same training cases with another number of neighbours."""
        other = copy(self)
        other.neighbours = neighbours
        return other

    @property
    def number(self) -> int:
        """Number of completions of a case."""
        return min(self.neighbours, len(self.train))

    def change_scale(self, missing: Sequence[str]) -> float:
        """What changes under them are multiplied by: nothing, they are cases."""
        return 1.0

    @property
    def how(self) -> str:
        """The source of the completions, in words."""
        k, n, most = self.number, len(self.train), self.pool.most
        among = f"{n} training cases" if n <= most else f"{most} training cases, drawn from {n},"
        return (
            f"completions taken from the {k} most similar of {among} (similar in what both have, weighted so that "
            "their mean prediction is the present one)"
        )

    def law(self, batch: Batch, names: Sequence[str], present: Tensor) -> DonorLaw:
        """Completions of modalities that all rows lack; see `Completions`.

        Raises:
            DataError: If no training case has a modality that is to be completed.
        """
        columns = [self.model.schema.names.index(name) for name in names]
        groups, notes = self._groups(columns)
        notes += self._never_together(batch, columns)
        found = [self._donors(batch, group, present) for group in groups]
        if len(found) == 1:
            donors, weights = found[0][0][..., None], found[0][1]  # (K, b, 1), (K, b)
        else:
            generator = torch.Generator(self.device).manual_seed(self.seed)
            uniform = torch.rand(self.draws, len(self.model.schema.names), generator=generator, device=self.device)
            places = [_drawn(weight, uniform[:, group[0]]) for (_, weight), group in zip(found, groups)]
            donors = torch.stack([one.gather(0, place) for (one, _), place in zip(found, places)], dim=2)
            weights = torch.full(donors.shape[:2], 1.0 / self.draws, device=self.device)
        return DonorLaw(self, batch, groups, donors, weights, present, tuple(notes))

    def _groups(self, columns: list[int]) -> tuple[list[list[int]], list[str]]:
        """Modalities that come from one donor together, and what is to be said about that."""
        together = self.pool.number_with(columns)
        names = " and ".join(repr(self.model.schema.names[m]) for m in columns)
        if len(columns) == 1 or together >= self.neighbours:
            return [columns], []
        if together >= _FEWEST:
            return [columns], [f"Only {together} training cases have {names} together: completions come from these."]
        return [[m] for m in columns], [
            f"{together} training cases have {names} together: too few, so that each is completed by itself, as if "
            "they were independent given what is seen."
        ]

    def _never_together(self, batch: Batch, columns: list[int]) -> list[str]:
        """Notes on modalities that no training case has together with what the cases have."""
        names, notes, together = self.model.schema.names, [], self.pool.together
        seen = batch.presence.any(0).tolist()
        for m in columns:
            never = [names[k] for k in range(len(names)) if seen[k] and not together[k, m]]
            if never and together[m, m]:
                notes.append(
                    f"No training case has {names[m]!r} together with {' or '.join(map(repr, never))}: nothing in the "
                    "data says how they go together, and what is said about it is an assumption."
                )
        return notes

    def _donors(self, batch: Batch, group: list[int], present: Tensor) -> tuple[Tensor, Tensor]:
        """Donors (K, b) that have all modalities of a group, and their weights (K, b)."""
        if not len(self.pool.candidates(group)):
            names = [self.model.schema.names[m] for m in group]
            raise DataError(
                f"no training case has {' and '.join(map(repr, names))}, which is missing in cases to complete",
                hint="Pass training cases that have it.",
            )
        donors, there = self.pool.nearest(batch, group, self.neighbours)
        lonely = ~there.any(0)
        if lonely.any():
            ids = [batch.ids[i] if batch.ids is not None else i for i in lonely.nonzero().squeeze(1).tolist()]
            raise DataError(
                f"no training case but their own has what these cases lack: {', '.join(map(str, ids[:5]))}",
                hint="Pass more training cases.",
            )
        weights = there.float()
        weights = weights / weights.sum(0)
        if self.model.schema.task.is_classification:
            weights = class_weights(weights, self._classes(donors), present)
        return donors, weights

    def _classes(self, donors: Tensor) -> Tensor:
        """Class of each donor as probabilities (K, b, C): its label, or the model's prediction without one."""
        rows = donors.cpu().numpy()
        labels = np.full(rows.shape, -1) if self.target is None else self.target[rows]
        classes = one_hot(torch.from_numpy(labels).clamp(min=0), self.model.schema.task.n_outputs).float()
        without, place = np.unique(rows[labels < 0], return_inverse=True)
        if len(without):
            predicted = self.model.predict(self.train.take(without), on_empty="silent")
            classes[torch.from_numpy(labels < 0)] = torch.from_numpy(predicted[place]).float()
        return classes.to(self.device)

    def values_of(self, rows: Tensor, names: Sequence[str]) -> Batch:
        """Some modalities, and no others, of training cases, standardised."""
        shown = np.isin(self.train.schema.names, names)
        view = self.train.with_observed(np.broadcast_to(shown, self.train.observed.shape))  # the others are not read
        return next(self.model.batches(view, len(rows), rows.cpu().numpy())).only(names)

    @property
    def rows_at_once(self) -> int:
        """Number of training cases whose values are held in memory at a time."""
        return max(1, _BYTES // max(1, sum(store.row_bytes for store in self.train.stores.values())))


class DonorLaw:
    """Completions of B cases by donors; see `Law`."""

    def __init__(
        self,
        source: DonorCompletions,
        batch: Batch,
        groups: list[list[int]],
        donors: Tensor,
        weights: Tensor,
        present: Tensor,
        notes: tuple[str, ...],
    ):
        self.source, self.batch, self.donors = source, batch, donors
        self._held: dict[
            int, tuple[Tensor, Batch | None]
        ] = {}  # of each group its donors, with values if these are few
        names = batch.modalities
        self.groups = [tuple(names[m] for m in group) for group in groups]
        self.weights, self.present, self.notes = weights, present, notes
        self.names = tuple(name for group in self.groups for name in group)
        self.whole = self._predicted(self.names)
        kind = source.model.schema.task.traits
        target = present[:, 1:] if source.model.schema.task.is_classification else present
        shown = self.whole[..., 1:] if source.model.schema.task.is_classification else self.whole
        self.weights = tilt(shown, weights, target)
        self.gap = distance(weighted_mean(self.whole, self.weights), present, kind)

    def after(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Predictions (S, B, D) with some of the modalities known, and their weights (S, B)."""
        return (self.whole if set(names) == set(self.names) else self._predicted(names)), self.weights

    def last(self, name: str) -> tuple[Tensor, Tensor]:
        """Expected change (B,), with its error, when a modality is looked at after all the others."""
        before = self._predicted([other for other in self.names if other != name])
        moved = distance(self.whole, before, self.source.model.schema.task.traits)  # (S, B)
        return weighted_mean(moved, self.weights), weighted_error(moved, self.weights)

    def completed(self, names: Sequence[str], draws: Tensor, rows: Tensor) -> Batch:
        """Some rows with what their donors have: draw `draws` (n,) of row `rows` (n,)."""
        batch = self.batch.take(rows)
        for g, group in enumerate(self.groups):
            wanted = [name for name in group if name in names]
            if wanted:
                batch = batch.filled(self._given(g, self.donors[draws, rows, g]), wanted)
        return batch

    def _given(self, g: int, donors: Tensor) -> Batch:
        """The values of a group of modalities of donors (n,)."""
        if g not in self._held:
            rows = self.donors[..., g].unique()
            few = len(rows) <= self.source.rows_at_once
            self._held[g] = rows, self.source.values_of(rows, self.groups[g]) if few else None
        rows, values = self._held[g]
        if values is None:
            rows = donors.unique()
            values = self.source.values_of(rows, self.groups[g])
        return values.take(torch.searchsorted(rows, donors))

    def _predicted(self, names: Sequence[str]) -> Tensor:
        draws, rows = (self.weights > 0).nonzero(as_tuple=True)
        result = self.present.expand(len(self.weights), -1, -1).clone()
        for some in torch.arange(len(draws), device=rows.device).split(min(_ROWS, self.source.rows_at_once)):
            batch = self.completed(names, draws[some], rows[some])
            result[draws[some], rows[some]] = predictions_of(self.source.model, batch, draws=_DRAWS).to(result)
        return result


def _drawn(weights: Tensor, uniform: Tensor) -> Tensor:
    """Positions (S, B) drawn from weights (K, B) by uniform numbers (S,), the same for every case."""
    cumulated = weights.T.cumsum(1).contiguous()  # (B, K)
    cumulated = cumulated / cumulated[:, -1:].clamp(min=1e-30)
    places = torch.searchsorted(cumulated, uniform.expand(len(cumulated), -1).contiguous(), right=True)
    return places.clamp(max=len(weights) - 1).T
