"""Loader: batches of a cohort, cut by whole index arrays, never sample by sample."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.data.scale import Scaling
from amodal.errors import ConfigurationError

__all__ = ["CohortDataset", "RowBatches", "make_loader"]


FEWEST_STEPS = 25
"""Batches of an epoch where labels are few."""


class CohortDataset(Dataset):
    """A cohort indexed by whole arrays of rows.

    Args:
        cohort: The samples.
        scaling: Applied to every batch; None: raw units.
    """

    def __init__(self, cohort: Cohort, scaling: Scaling | None = None):
        self.cohort, self.scaling = cohort, scaling

    def __len__(self) -> int:
        return len(self.cohort)

    def __getitem__(self, rows: np.ndarray) -> Batch:
        """The batch of these rows, int64 (n,)."""
        batch = self.cohort.batch(rows)
        return batch if self.scaling is None else self.scaling.apply(batch)


class RowBatches(Sampler):
    """Index arrays of batches; the same for the same seed and epoch, whatever came before.

    Where some rows have a label and others none, both are spread evenly over the batches. If fewer than
    `labelled_share` of all rows have one, they make up this share of each batch, and an epoch is as long as it takes to
    see each of them once, but at least 25 batches or every row without a label; these come in turn, over as many
    epochs as it takes. An epoch of all rows would be too long: a network learns few labels by heart before it ends.

    Args:
        n: Number of rows.
        batch_size: Rows in a batch.
        shuffle: Whether to draw a new order every epoch.
        seed: Seed of the order.
        labelled: Which rows have a label, bool (N,); None, or all or none: rows are taken alike. Needs `shuffle`.
        labelled_share: Least share of labelled rows in a batch, less than 1.

    Raises:
        ConfigurationError: If a size is out of range.

    Example:
        >>> [rows.tolist() for rows in RowBatches(5, 2, shuffle=False, seed=0)]
        [[0, 1], [2, 3], [4]]
        >>> few = np.arange(60) < 3
        >>> batches = list(RowBatches(60, 16, shuffle=True, seed=0, labelled=few, labelled_share=0.25))
        >>> [int(few[rows].sum()) for rows in batches]
        [4, 4, 4, 4, 3]
        >>> few = np.arange(60_000) < 300
        >>> len(RowBatches(60_000, 16, shuffle=True, seed=0, labelled=few, labelled_share=0.25))
        75
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        labelled: np.ndarray | None = None,
        labelled_share: float = 0.0,
    ):
        for what, value in {"n": n, "batch_size": batch_size}.items():
            if value < 1:
                raise ConfigurationError(f"{what} is out of range", expected="1 or more", got=value)
        if not 0 <= labelled_share < 1:
            raise ConfigurationError("labelled_share is out of range", expected="0 <= share < 1", got=labelled_share)
        self.n, self.batch_size, self.shuffle, self.seed = n, batch_size, shuffle, seed
        self.epoch = 0
        self.parts: tuple[np.ndarray, ...] = ()  # positions of rows with a label, and of those without
        if shuffle and labelled is not None and labelled.any() and not labelled.all():
            self.parts = np.flatnonzero(labelled), np.flatnonzero(~labelled)
            self.of_each = self._of_each(labelled_share)
            self.n = sum(self.of_each)

    def _of_each(self, share: float) -> tuple[int, int]:
        """How many rows with a label, and how many without, an epoch has."""
        few, others = map(len, self.parts)
        wanted = round(share / (1 - share) * others)  # of labelled rows, beside all others
        if few >= wanted:
            return few, others
        rows = max(math.ceil(few / share), FEWEST_STEPS * self.batch_size)
        return (wanted, others) if rows >= wanted + others else (round(share * rows), rows - round(share * rows))

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order comes next."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        generator = np.random.default_rng([self.seed, self.epoch])
        if self.parts:
            order = self._spread(generator)
        else:
            order = generator.permutation(self.n) if self.shuffle else np.arange(self.n)
        order = order.astype(np.int64)
        return (order[start : start + self.batch_size] for start in range(0, self.n, self.batch_size))

    def _spread(self, generator: np.random.Generator) -> np.ndarray:
        """An order in which the rows with a label, perhaps several times each, and those without are spread evenly."""
        labelled, others = self.parts
        n, n_others = self.of_each
        again = [generator.permutation(labelled) for _ in range(-(-n // len(labelled)))]
        rows = np.concatenate([np.concatenate(again)[:n], self._in_turn(others, n_others, generator)])
        places = [(np.arange(size) + 0.5) / size for size in self.of_each]
        return rows[np.concatenate(places).argsort(kind="stable")]

    def _in_turn(self, rows: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
        """The n rows whose turn it is in this epoch: all of them come once before one comes again."""
        if n >= len(rows):
            return generator.permutation(rows)
        start = self.epoch * n
        rounds = range(start // len(rows), (start + n - 1) // len(rows) + 1)
        orders = [np.random.default_rng([self.seed, 1, turn]).permutation(rows) for turn in rounds]
        first = start - rounds[0] * len(rows)
        return np.concatenate(orders)[first : first + n]


def make_loader(
    cohort: Cohort,
    batch_size: int,
    *,
    scaling: Scaling | None = None,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    workers: int = 0,
    pin_memory: bool = False,
    labelled_share: float = 0.0,
) -> DataLoader:
    """A loader of batches.

    Args:
        cohort: The samples.
        batch_size: Rows in a batch.
        scaling: Applied to every batch; None: raw units.
        shuffle: Whether to draw a new order every epoch (`loader.sampler.set_epoch`).
        seed: Seed of the order.
        epoch: The first epoch.
        workers: Processes that cut batches ahead; 0: this one, which is the fastest for data in memory.
        pin_memory: Pin batches in page-locked memory.
        labelled_share: Least share of rows with a label in a batch of a shuffled epoch, where others have none.

    Returns:
        A loader that yields a `Batch` at a time.
    """
    labelled = cohort.labelled if cohort.target is not None else None
    share = {"labelled": labelled, "labelled_share": labelled_share}
    sampler = RowBatches(len(cohort), batch_size, shuffle=shuffle, seed=seed, **share)
    sampler.set_epoch(epoch)
    return DataLoader(
        CohortDataset(cohort, scaling),
        sampler=sampler,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
    )


def _as_it_is(batch: Any) -> Any:
    return batch
