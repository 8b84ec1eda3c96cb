"""Pool of training cases that can complete others: which ones are compared, and how far they are from a case."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.encoders import scatter
from amodal.predictive_impact.predictor import Predictor
from amodal.schema import Modality

__all__ = ["MOST_DONORS", "DonorPool", "summarise"]

MOST_DONORS = 50_000
"""Training cases that a case is compared with, at most; of more, as many are drawn."""
_ROUND = 1e5  # distances are compared to five decimals, so that equal cases are equal in any order of the file
_FAR = 1e6  # distance of cases that share nothing
_PAIRS = 2**23  # distances in memory at a time
_UNKNOWN = -2  # group of training cases whose group no case is of


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


class DonorPool:
    r"""Training cases in the form in which they are compared: summaries of their modalities, on the model's device.

    The candidates for some modalities are the training cases that have all of them; of more than `most`, so many drawn
    at random, the same for all cases. A case is read and summarised when it first becomes a candidate, once.

    The squared distance of two cases is the mean, over the modalities that both have, of the mean squared difference of
    their `summarise`\ d vectors, each entry standardised over the training cases that have it.

    Args:
        model: The model whose predictions are wanted.
        train: Training cases.
        cases: The cases to complete, for their ids and groups; None: nothing is known of them.
        most: Most candidates.
        seed: Seed of the draw among more.
    """

    def __init__(
        self, model: Predictor, train: Cohort, cases: Cohort | None, *, most: int = MOST_DONORS, seed: int = 0
    ):
        self.model, self.train, self.most = model, train, most
        self.modalities = model.schema.modalities
        names = train.schema.names
        columns = [
            train.observed[:, names.index(name)] if name in names else np.zeros(len(train), bool)
            for name in model.schema.names
        ]
        self.presence = np.stack(columns, axis=1)  # (N, M)
        parts = (self.presence[start : start + 2**16].astype(np.float64) for start in range(0, len(train), 2**16))
        # Numbers of rows with both of two modalities, (M, M).
        self.together = np.sum([part.T @ part for part in parts], axis=0)
        self.device = model.device
        self._order = np.random.default_rng(seed).permutation(len(train)) if len(train) > most else None
        self._place = np.full(len(train), -1, dtype=np.int64)  # where a row's summaries are stored
        self._summaries: list[Tensor] = []  # of each modality, (n, F)
        self._codes = np.zeros(0, dtype=np.int64)  # hashes of the contents, (n,)
        self._candidates: dict[tuple[int, ...], np.ndarray] = {}
        self._standard: dict[int, tuple[Tensor, Tensor]] = {}
        self._know(cases)

    def _know(self, cases: Cohort | None) -> None:
        """Remembers which training rows and which groups the cases are, by id and group."""
        ids, groups = self.train.ids, self.train.groups
        self.grouped = not np.array_equal(ids, groups)
        known = None if cases is None else set(cases.ids.tolist())
        self.row_of_id = {name: i for i, name in enumerate(ids.tolist()) if known is None or name in known}
        codes = {} if cases is None else {name: code for code, name in enumerate(dict.fromkeys(cases.groups.tolist()))}
        self.group_of_id = {} if cases is None else {
            name: codes[group] for name, group in zip(cases.ids.tolist(), cases.groups.tolist())
        }  # fmt: skip
        self.group_of_row = np.full(len(self.train), _UNKNOWN)
        if codes:
            self.group_of_row = np.array([codes.get(group, _UNKNOWN) for group in groups.tolist()], dtype=np.int64)

    def candidates(self, columns: Sequence[int]) -> np.ndarray:
        """Rows (n,) of the training cases that have some modalities, in rising order; at most so many."""
        key = tuple(columns)
        if key not in self._candidates:
            able = np.asarray(self.presence[:, list(columns)].all(axis=1))
            rows = np.flatnonzero(able)
            if len(rows) > self.most:
                assert self._order is not None
                rows = np.sort(self._order[able[self._order]][: self.most])
            self._candidates[key] = rows
        return self._candidates[key]

    def number_with(self, columns: Sequence[int]) -> int:
        """Number of training cases that have all of some modalities."""
        return int(self.presence[:, list(columns)].all(1).sum())

    def nearest(self, batch: Batch, columns: Sequence[int], number: int) -> tuple[Tensor, Tensor]:
        """The most similar training cases that have some modalities, never the case itself or one of its group.

        Args:
            batch: B standardised rows.
            columns: Positions of the modalities.
            number: How many; at most as many as there are candidates.

        Returns:
            Rows of the training cases (K, B), int64, nearest first, and which of them there are, bool (K, B): others
            are excluded ones in the place of cases that are too few.
        """
        rows = self.candidates(columns)
        standard = self._factors(rows, batch)
        ties = torch.from_numpy(_ranks(self._codes[self._place[rows]])).to(self.device)
        own, groups = self._own(batch)
        mine = self.group_of_row[rows]
        excluded = np.flatnonzero(np.isin(rows, own[own >= 0]) | np.isin(mine, groups[groups >= 0]))
        found, there = [], []
        step = max(1, _PAIRS // max(1, len(rows)))
        for start in range(0, len(batch), step):
            some = slice(start, min(start + step, len(batch)))
            distance = self._distances(batch, some, standard) + ties
            if len(excluded):
                no = (rows[excluded] == own[some, None]) | (mine[excluded] == groups[some, None])
                at = torch.from_numpy(excluded).to(self.device)
                distance[:, at] = distance[:, at].masked_fill(torch.from_numpy(no).to(self.device), torch.inf)
            near, place = distance.topk(min(number, len(rows)), dim=1, largest=False)  # (b, K)
            found.append(place)
            there.append(near.isfinite())
        chosen = torch.from_numpy(rows).to(self.device)[torch.cat(found)]
        return chosen.T, torch.cat(there).T

    def _factors(self, rows: np.ndarray, batch: Batch) -> tuple[list[int], Tensor, Tensor]:
        """The modalities that the batch has, and of training rows the right factor of the distances and presence."""
        self._read(rows)
        seen = [m for m, modality in enumerate(self.modalities) if bool(batch.observed[modality.name].any())]
        place = torch.from_numpy(self._place[rows]).to(self.device)
        present = torch.from_numpy(self.presence[rows][:, seen]).to(self.device).double()
        parts, squares = [], []
        for column, m in enumerate(seen):
            vectors = self._standardised(m, self._summaries[m][place]) * present[:, column : column + 1]
            parts.append(-2.0 * vectors)
            squares.append(vectors.square().sum(1))
        norms = torch.stack(squares, 1) if squares else present
        return seen, torch.cat([*parts, present, norms], dim=1), present

    def _distances(self, batch: Batch, some: slice, standard: tuple[list[int], Tensor, Tensor]) -> Tensor:
        """Squared distances (b, n) of some rows to training rows, one matrix product in double precision."""
        seen, right, there = standard
        part = batch.take(torch.arange(some.start, some.stop, device=batch.device))
        present = part.presence[:, seen].double()
        parts, squares = [], []
        for column, m in enumerate(seen):
            vectors = self._standardised(m, summarise(part, self.modalities[m])) * present[:, column : column + 1]
            parts.append(vectors)
            squares.append(vectors.square().sum(1))
        norms = torch.stack(squares, 1) if squares else present
        total = torch.cat([*parts, norms, present], dim=1) @ right.T  # (b, n)
        shared = present @ there.T
        far = torch.where(part.presence.any(1, keepdim=True), _FAR, 0.0)
        mean = (total / shared.clamp(min=1)).clamp_(0.0, 1e5)
        return torch.where(shared > 0, mean, far.double()).mul_(_ROUND).round_()

    def _standardised(self, m: int, summary: Tensor) -> Tensor:
        """Summaries of one modality, each entry standardised and divided by the root of their number."""
        if m not in self._standard:
            rows = self.candidates((m,))
            self._read(rows)
            known = self._summaries[m][torch.from_numpy(self._place[rows]).to(self.device)]
            centre = known.mean(0) if len(known) else known.new_zeros(known.shape[1])
            spread = known.std(0) if len(known) > 1 else torch.ones_like(centre)
            self._standard[m] = centre, torch.where(spread > 1e-6, spread, 1.0) * summary.shape[1] ** 0.5
        centre, scale = self._standard[m]
        return ((summary - centre) / scale).double()

    def _read(self, rows: np.ndarray) -> None:
        """Summarises rows that have not been read yet."""
        new = rows[self._place[rows] < 0]
        if not len(new) and self._summaries:
            return
        parts = [
            (*(summarise(batch, modality) for modality in self.modalities), batch.presence)
            for batch in self.model.batches(self.train, rows=new)
        ]
        *summaries, presence = (torch.cat(columns) for columns in zip(*parts))
        self._place[new] = len(self._codes) + np.arange(len(new))
        self._codes = np.concatenate([self._codes, _hashes([*summaries, presence])])
        stored = self._summaries or [summary[:0] for summary in summaries]
        self._summaries = [torch.cat(pair) for pair in zip(stored, summaries)]

    def _own(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Training row and group of each row of a batch (B,), -1 where it has none."""
        ids = batch.ids if batch.ids is not None else [None] * len(batch)
        rows = [self.row_of_id.get(name, -1) for name in ids]
        groups = [self.group_of_id.get(name, -1) for name in ids]
        return np.array(rows, dtype=np.int64), np.array(groups, dtype=np.int64)


def _hashes(columns: Sequence[Tensor]) -> np.ndarray:
    """A hash of what each row (N,) holds, so that the order of the file is not used."""
    rows = np.concatenate([column.cpu().float().numpy().round(3) + 0.0 for column in columns], axis=1)
    return np.array([zlib.crc32(row.tobytes()) for row in rows], dtype=np.int64)


def _ranks(codes: np.ndarray) -> np.ndarray:
    """A number in [0, 0.5) for each code (n,), in their order."""
    ranks = np.empty(len(codes))
    ranks[np.argsort(codes, kind="stable")] = np.arange(len(codes))
    return ranks / (2.0 * max(len(codes), 1))
