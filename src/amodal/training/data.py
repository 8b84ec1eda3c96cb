"""Training data of one run: rows, scaling, presence in every epoch, size of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.data.loader import RowBatches
from amodal.data.scale import Scaling
from amodal.missingness import BalancedCounts, Mechanism, Natural, Presence
from amodal.presence import draw_presence
from amodal.settings import TrainingSettings

__all__ = ["TrainingData", "training_prior", "weighted_rows"]


def training_prior(train: Cohort, weight: np.ndarray | None = None) -> np.ndarray:
    """Prediction where nothing is known: class frequencies, label frequencies, or the mean target (1,).

    Args:
        train: N cases.
        weight: How much each counts, (N,); None: all alike.
    """
    task, target = train.schema.task, train.target
    assert target is not None
    known = train.labelled
    if weight is None or not weight[known].any():
        return task.traits.frequencies(target[known], task.n_outputs)
    return task.traits.frequencies(target[known], task.n_outputs, weight[known])


def weighted_rows(weight: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Positions of N rows in which each comes as often as its share of the weights says, rounded up or down.

    Systematic resampling: equal weights give every row once, in order.

    Args:
        weight: Not negative, of shape (N,).
        generator: Decides the rounding.

    Returns:
        Int64 (N,).

    Example:
        >>> weighted_rows(np.array([1.0, 2.0, 0.0, 1.0]), np.random.default_rng(0)).tolist()
        [0, 1, 1, 3]
    """
    places = (np.arange(len(weight)) + generator.random()) / len(weight)
    ends = np.cumsum(weight) / weight.sum()
    return np.searchsorted(ends * (1 - 1e-15), places, side="left").clip(max=len(weight) - 1)


@dataclass
class TrainingData:
    """Training and validation rows with their further removal.

    Args:
        train: Training cases, of which those with a label are judged.
        valid: Validation cases, all with a label.
        train_mechanism: Further removal in training.
        valid_mechanism: Further removal in validation, drawn once.
        settings: The training's settings.
        seed: The run's seed.
        weight: How much each training case counts, (N,); None: all alike.
        valid_weight: The same of the validation cases.
    """

    train: Cohort
    valid: Cohort
    train_mechanism: Mechanism
    valid_mechanism: Mechanism
    settings: TrainingSettings
    seed: int
    weight: np.ndarray | None = None
    valid_weight: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.scaling = Scaling.fit(self.train)
        self.prior = training_prior(self.train, self.weight)
        self.valid_presence = draw_presence(self.valid_mechanism, self.valid, (self.seed, 1))
        self.valid_rows = self.valid.with_observed(self.valid_presence.observed)
        self.batch_size = self.settings.batch_size or int(
            min(256, max(16, 2 ** round(math.log2(len(self.train) / 30))))
        )
        self.first_presence = self.presence_of(0)

    @property
    def is_redrawn(self) -> bool:
        """Whether the training rows differ from epoch to epoch."""
        return self.weight is not None or self.is_removed_anew

    def presence_of(self, epoch: int) -> Presence:
        """Presence of the training rows in an epoch."""
        epoch = epoch if self.settings.redraw else 0
        mechanism, seed = self.train_mechanism, (self.seed, 0, epoch)
        if not (isinstance(mechanism, BalancedCounts) and mechanism.equal):
            return draw_presence(mechanism, self.train, seed)
        batches = RowBatches(len(self.train), self.batch_size, shuffle=True, seed=self.seed)
        batches.set_epoch(epoch)
        order = np.concatenate(list(batches))
        drawn, place = draw_presence(mechanism, self.train.take(order), seed), order.argsort()
        return replace(drawn, natural=drawn.natural[place], observed=drawn.observed[place])

    @property
    def is_removed_anew(self) -> bool:
        """Whether modalities of the training rows are removed anew every epoch, so that in time each is seen."""
        return self.settings.redraw and not isinstance(self.train_mechanism, Natural)

    def rows_of(self, epoch: int, *, removed: bool = True) -> Cohort:
        """The training rows as they are in an epoch; a case of weight 2 comes twice as often as one of weight 1.

        Rows with a label and rows without are weighted among themselves.

        Args:
            epoch: The epoch.
            removed: Whether modalities are removed further.
        """
        rows = self.train.with_observed(self.presence_of(epoch).observed) if removed else self.train
        if self.weight is None:
            return rows
        generator, labelled = np.random.default_rng((self.seed, 4, epoch)), self.train.labelled
        parts = [np.flatnonzero(part) for part in (labelled, ~labelled) if self.weight[part].any()]
        return rows.take(np.concatenate([part[weighted_rows(self.weight[part], generator)] for part in parts]))

    def whole(self, cohort: Cohort) -> Batch:
        """All rows of a cohort in which something is present, as one scaled batch."""
        return self.scaling.apply(cohort.batch(np.flatnonzero(cohort.observed.any(axis=1))))
