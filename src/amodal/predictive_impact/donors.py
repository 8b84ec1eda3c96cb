"""Completions from similar training cases, for any model."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.encoders import scatter
from amodal.errors import DataError
from amodal.predictive_impact.donor_weights import class_weights, tilt, weighted_error, weighted_mean
from amodal.predictive_impact.draws import check_count
from amodal.predictive_impact.predictor import Predictor, check_inputs, distance, predictions_of
from amodal.schema import Modality

__all__ = ["DonorCompletions", "DonorLaw", "summarise"]

_ROWS = 4096  # completed cases in work at a time
_DRAWS = 16  # most draws behind the prediction of one completed case: many donors are averaged over
_FEWEST = 10  # training cases that have everything a case lacks, below which each modality has a donor of its own
_ROUND = 1e5  # distances are compared to five decimals, so that equal cases are equal in any order of the file


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
    their `summarise`\ d vectors, each entry standardised over the training cases that have it. The donors of a case are
    the nearest training cases that have what is to be completed; among equals, which ones is decided by a hash of their
    content and so neither by their order nor by what they are. Never among them are the case itself and cases of its
    group. In a classification a donor counts as much as the model now believes in its class; then, and for other tasks
    from the start, the weights are tilted until the mean of the predictions to be expected is the present one
    (:mod:`amodal.predictive_impact.donor_weights`).

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
        seed: Seed of these.

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
    ):
        check_count("neighbours", neighbours)
        check_inputs(model, train, "training cases")
        if not len(train):
            raise DataError("there are no training cases to take completions from", expected="at least one")
        self.model, self.train, self.neighbours, self.draws, self.seed = model, train, neighbours, draws, seed
        modalities = model.schema.modalities
        parts = [
            (*(summarise(batch, modality) for modality in modalities), batch.presence) for batch in model.batches(train)
        ]
        *summaries, self.presence = (torch.cat(columns) for columns in zip(*parts))
        self.device = self.presence.device
        self.tie = _ranks_of_content([*summaries, self.presence]).to(self.device)
        self.centre, self.scale, self.summaries = [], [], []
        for m, summary in enumerate(summaries):
            known = summary[self.presence[:, m]]
            centre = known.mean(0) if len(known) else summary.new_zeros(summary.shape[1])
            spread = known.std(0) if len(known) > 1 else torch.ones_like(centre)
            scale = torch.where(spread > 1e-6, spread, 1.0) * summary.shape[1] ** 0.5
            self.centre.append(centre)
            self.scale.append(scale)
            self.summaries.append((summary - centre) / scale)
        self._classes: Tensor | None = None
        self._near: tuple[Batch, Tensor] | None = None  # the last batch, and its distances
        self._know(cases)

    def _know(self, cases: Cohort | None) -> None:
        """Remembers which training row and which group each case is, by its id."""
        row_of = {name: row for row, name in enumerate(self.train.ids.tolist())}
        codes = {name: code for code, name in enumerate(dict.fromkeys(self.train.groups.tolist()))}
        self._group_of_row = torch.tensor([codes[name] for name in self.train.groups.tolist()], device=self.device)
        self._row_of_id, self._group_of_id = row_of, {}
        if cases is not None:
            pairs = zip(cases.ids.tolist(), cases.groups.tolist())
            self._group_of_id = {name: codes.get(group, -1) for name, group in pairs}
        self.grouped = not np.array_equal(self.train.ids.astype(str), self.train.groups.astype(str))

    def with_neighbours(self, neighbours: int) -> DonorCompletions:
        """The same training cases with another number of neighbours."""
        other = copy(self)
        other.neighbours, other._near = neighbours, None
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
        k, n = self.number, len(self.train)
        return (
            f"completions taken from the {k} most similar of {n} training cases (similar in what both have, weighted "
            "so that their mean prediction is the present one)"
        )

    def law(self, batch: Batch, names: Sequence[str], present: Tensor) -> DonorLaw:
        """Completions of modalities that all rows lack; see `Completions`.

        Raises:
            DataError: If no training case has a modality that is to be completed.
        """
        columns = [self.model.schema.names.index(name) for name in names]
        groups, notes = self._groups(columns)
        notes += self._never_together(batch, columns)
        if self._near is None or self._near[0] is not batch:
            self._near = batch, self._distances(batch)
        distances = self._near[1]
        found = [self._donors(batch, distances, group, present) for group in groups]
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
        together = int(self.presence[:, columns].all(1).sum())
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
        names, notes = self.model.schema.names, []
        seen = batch.presence.any(0)
        for m in columns:
            never = [
                names[k] for k in range(len(names)) if seen[k] and not (self.presence[:, k] & self.presence[:, m]).any()
            ]
            if never and self.presence[:, m].any():
                notes.append(
                    f"No training case has {names[m]!r} together with {' or '.join(map(repr, never))}: nothing in the "
                    "data says how they go together, and what is said about it is an assumption."
                )
        return notes

    def _distances(self, batch: Batch) -> Tensor:
        """Squared distances (b, N) to the training cases, 1e6 to those that share no modality."""
        total = torch.zeros(len(batch), len(self.presence), dtype=torch.float64, device=batch.device)
        shared = torch.zeros_like(total)
        for m, modality in enumerate(self.model.schema.modalities):
            if not bool(batch.observed[modality.name].any()):
                continue
            summary = (summarise(batch, modality) - self.centre[m]) / self.scale[m]
            both = batch.observed[modality.name][:, None] & self.presence[:, m]
            total += torch.where(both, torch.cdist(summary, self.summaries[m]).square(), 0.0)
            shared += both
        nothing = ~batch.presence.any(1, keepdim=True)
        far = torch.where(nothing, 0.0, 1e6).double()
        distance = torch.where(shared > 0, (total / shared.clamp(min=1)).clamp(max=1e5), far)
        return (distance * _ROUND).round() / _ROUND + self.tie / _ROUND  # (b, N), all different

    def _forbidden(self, batch: Batch) -> Tensor:
        """Whether a training case is the case itself or of its group, bool (b, N)."""
        ids = batch.ids if batch.ids is not None else [None] * len(batch)
        rows = torch.tensor([self._row_of_id.get(name, -1) for name in ids], device=self.device)
        groups = torch.tensor([self._group_of_id.get(name, -1) for name in ids], device=self.device)
        own = rows[:, None] == torch.arange(len(self.presence), device=self.device)
        return own | (groups[:, None] == self._group_of_row)

    def _donors(self, batch: Batch, distances: Tensor, group: list[int], present: Tensor) -> tuple[Tensor, Tensor]:
        """Donors (K, b) that have all modalities of a group, and their weights (K, b)."""
        able = self.presence[:, group].all(1)
        if not able.any():
            names = [self.model.schema.names[m] for m in group]
            raise DataError(
                f"no training case has {' and '.join(map(repr, names))}, which is missing in cases to complete",
                hint="Pass training cases that have it.",
            )
        allowed = able & ~self._forbidden(batch)
        lonely = ~allowed.any(1)
        if lonely.any():
            ids = [batch.ids[i] if batch.ids is not None else i for i in lonely.nonzero().squeeze(1).tolist()]
            raise DataError(
                f"no training case but their own has what these cases lack: {', '.join(map(str, ids[:5]))}",
                hint="Pass more training cases.",
            )
        ranked = torch.where(allowed, distances, torch.inf)
        k = min(self.neighbours, int(able.sum()))
        distance, donors = ranked.topk(k, dim=1, largest=False)  # (b, k)
        donors, weights = donors.T, torch.isfinite(distance).float().T
        weights = weights / weights.sum(0)
        if self.model.schema.task.is_classification:
            weights = class_weights(weights, self.classes[donors], present)
        return donors, weights

    @property
    def classes(self) -> Tensor:
        """Class of each training case as probabilities (N, C): its label, or the model's prediction without one."""
        if self._classes is None:
            n, count = len(self.train), self.model.schema.task.n_outputs
            labels = np.full(n, -1) if self.train.target is None else np.nan_to_num(self.train.target, nan=-1)
            codes = torch.as_tensor(labels.astype(np.int64), device=self.device)
            self._classes = torch.zeros(n, count, device=self.device)
            known = codes >= 0
            self._classes[known, codes[known]] = 1.0
            rest = np.flatnonzero(~known.cpu().numpy())
            if len(rest):
                predicted = self.model.predict(self.train.take(rest), on_empty="silent")
                self._classes[~known] = torch.as_tensor(predicted, device=self.device).float()
        return self._classes


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
                positions = self.donors[draws, rows, g].cpu().numpy().astype(np.int64)
                given = next(self.source.model.batches(self.source.train, len(positions), positions))
                batch = _fill(batch, given, wanted)
        return batch

    def _predicted(self, names: Sequence[str]) -> Tensor:
        draws, rows = (self.weights > 0).nonzero(as_tuple=True)
        result = self.present.expand(len(self.weights), -1, -1).clone()
        for some in torch.arange(len(draws), device=rows.device).split(_ROWS):
            batch = self.completed(names, draws[some], rows[some])
            result[draws[some], rows[some]] = predictions_of(self.source.model, batch, draws=_DRAWS).to(result)
        return result


def _fill(batch: Batch, given: Batch, names: Sequence[str]) -> Batch:
    """The rows of `batch`, in which all lack `names`, with those modalities of `given`."""
    parts = {part: dict(getattr(batch, part)) for part in ("values", "observed", "measured", "lengths", "times")}
    for name in names:
        for part, columns in parts.items():
            columns.pop(name, None)
            if name in getattr(given, part):
                columns[name] = getattr(given, part)[name]
    parts["values"] = {name: parts["values"][name] for name in batch.modalities}
    return Batch(**parts, target=batch.target, ids=batch.ids, labelled=batch.labelled)


def _drawn(weights: Tensor, uniform: Tensor) -> Tensor:
    """Positions (S, B) drawn from weights (K, B) by uniform numbers (S,), the same for every case."""
    cumulated = weights.T.cumsum(1).contiguous()  # (B, K)
    cumulated = cumulated / cumulated[:, -1:].clamp(min=1e-30)
    places = torch.searchsorted(cumulated, uniform.expand(len(cumulated), -1).contiguous(), right=True)
    return places.clamp(max=len(weights) - 1).T


def _ranks_of_content(columns: Sequence[Tensor]) -> Tensor:
    """A number in [0, 0.5) for each row (N,) by a hash of what it holds, so that the order of the file is not used."""
    rows = np.concatenate([column.cpu().float().numpy().round(3) + 0.0 for column in columns], axis=1)
    codes = np.array([zlib.crc32(row.tobytes()) for row in rows], dtype=np.int64)
    ranks = np.empty(len(codes))
    ranks[np.argsort(codes, kind="stable")] = np.arange(len(codes))
    return torch.from_numpy(ranks / (2.0 * max(len(codes), 1)))
