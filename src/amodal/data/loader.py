"""From a cohort to batches, cut by whole index arrays: never sample by sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.data.scale import Scaling
from amodal.errors import ConfigurationError, ShapeError

__all__ = ["CohortDataset", "RowBatches", "make_loader"]


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

    With several ranks every rank gets equally many batches of equal sizes: the first rows of the order come again at
    its end until it can be shared out (with `drop_last`, what cannot be shared out is left out instead).

    Args:
        n: Number of rows.
        batch_size: Rows in a batch.
        shuffle: Whether to draw a new order every epoch.
        seed: Seed of the order.
        drop_last: Leave out the last batch if it is smaller, unless it is the only one.
        rank: Of this process.
        world_size: Number of processes.
        weights: Draw rows with replacement with these weights (n,) instead of going through them.

    Raises:
        ConfigurationError: If a size, the rank or the weights are out of range.

    Example:
        >>> [rows.tolist() for rows in RowBatches(5, 2, shuffle=False, seed=0)]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        weights: np.ndarray | None = None,
    ):
        for what, value in {"n": n, "batch_size": batch_size, "world_size": world_size}.items():
            if value < 1:
                raise ConfigurationError(f"{what} is out of range", expected="1 or more", got=value)
        if not 0 <= rank < world_size:
            raise ConfigurationError("rank is out of range", expected=f"0 … {world_size - 1}", got=rank)
        self.n, self.batch_size, self.shuffle, self.seed, self.drop_last = n, batch_size, shuffle, seed, drop_last
        self.rank, self.world_size, self.epoch = rank, world_size, 0
        self.weights = None if weights is None else _probabilities(weights, n)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order comes next."""
        self.epoch = int(epoch)

    @property
    def _per_rank(self) -> int:
        """Rows of each rank in an epoch."""
        share = self.n // self.world_size if self.drop_last else -(-self.n // self.world_size)
        share = max(1, share)
        if self.drop_last and share > self.batch_size:
            share -= share % self.batch_size
        return share

    def __len__(self) -> int:
        return -(-self._per_rank // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        generator = np.random.default_rng([self.seed, self.epoch])
        if self.weights is not None:
            order = generator.choice(self.n, self.n, p=self.weights)
        else:
            order = generator.permutation(self.n) if self.shuffle else np.arange(self.n)
        share = self._per_rank
        order = np.resize(order, share * self.world_size)  # cut, or repeated from its beginning
        order = order.astype(np.int64)[self.rank :: self.world_size]
        return (order[start : start + self.batch_size] for start in range(0, share, self.batch_size))


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
    drop_last: bool = False,
    rank: int = 0,
    world_size: int = 1,
    weights: np.ndarray | None = None,
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
        drop_last: Leave out the last batch if it is smaller, unless it is the only one.
        rank: Of this process.
        world_size: Number of processes.
        weights: Draw rows with replacement with these weights (N,).

    Returns:
        A loader that yields a `Batch` at a time.
    """
    sampler = RowBatches(
        len(cohort),
        batch_size,
        shuffle=shuffle,
        seed=seed,
        drop_last=drop_last,
        rank=rank,
        world_size=world_size,
        weights=weights,
    )
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


def _probabilities(weights: np.ndarray, n: int) -> np.ndarray:
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (n,):
        raise ShapeError("weights have another number of rows", expected=(n,), got=weights.shape)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ConfigurationError("weights cannot be used", expected="finite, not negative, not all zero")
    return weights / weights.sum()
