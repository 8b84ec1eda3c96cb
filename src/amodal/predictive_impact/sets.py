r"""Values of looks at sets of modalities: what they showed of the target in similar training cases.

One look at a time misses modalities that matter only together, and two steps ahead misses three. The value of a set u
of missing modalities is

.. math:: \frac{1}{K} \sum_{i \in N(x_o)} U\big(p(\cdot \mid x_o^{(i)}, x_u^{(i)}), y^{(i)}\big) - \sum_{m \in u} c_m,

the mean utility of the predictions of the K training cases most similar in what is seen, from their own values of what
is seen and of u, for their known targets. The set with the largest value is looked at first, by its best modality; then
the question is asked anew. Nothing is drawn, and the predictions of a training case serve all cases that it is near to.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.errors import ConfigurationError
from amodal.predictive_impact.costs import Costs
from amodal.predictive_impact.donor_pool import DonorPool
from amodal.predictive_impact.looks import by_pattern
from amodal.predictive_impact.predictor import Predictor
from amodal.predictive_impact.utility import Utility, realised_utility

__all__ = ["values_of_sets"]

_ALL_UP_TO = 6  # missing modalities of which all sets are looked at
_SETS = 64  # sets of more: each alone, all together, and random ones


def values_of_sets(
    model: Predictor,
    cases: Cohort,
    train: Cohort,
    *,
    utility: Utility | None = None,
    costs: Costs | None = None,
    worth: float = 1.0,
    neighbours: int = 50,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values of a first look at each modality, as a member of the best set.

    Args:
        model: A trained model of a binary or multiclass task.
        cases: N cases.
        train: Training cases, of which those with a label count.
        utility: What is to be gained; see `advise`. A function of one's own counts as the log-likelihood.
        costs: Prices.
        worth: What one unit of utility is worth in the unit of the prices.
        neighbours: Number K of similar training cases that have everything that a case lacks.
        seed: Seed of random sets.

    Returns:
        Net worth (N, M) of each modality by itself, minus infinity where it is not of the best set; and whether the
        best set is worth more than looking at nothing, bool (N,).

    Raises:
        ConfigurationError: If there are no training cases with a label.

    Source:
        Acquisition by nearest neighbours over sets, :cite:`valancius2024acquisition`.
    """
    if not train.labelled.any():
        raise ConfigurationError("the order by sets needs training cases with a label")
    work = _Work(model, train.take(train.labelled), cases, None if callable(utility) else utility, costs or Costs({}))
    score = np.full(cases.observed.shape, -np.inf)
    pays = np.zeros(len(cases), dtype=bool)
    generator, done = np.random.default_rng((seed, 7)), 0
    for batch in model.batches(cases):
        for rows, part, missing in by_pattern(batch):
            if missing:
                where = done + rows.cpu().numpy()
                score[where], pays[where] = work.of_pattern(part, missing, worth, neighbours, generator)
        done += len(batch)
    return score, pays


class _Work:
    """Values of sets for cases that lack the same modalities."""

    def __init__(self, model: Predictor, train: Cohort, cases: Cohort, utility: Any, costs: Costs):
        self.model, self.train, self.utility, self.costs = model, train, utility, costs
        self.target = train.with_task(model.schema.task).target
        self.pool = DonorPool(model, train, cases)

    def of_pattern(
        self, batch: Batch, missing: tuple[str, ...], worth: float, neighbours: int, generator: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Scores (b, M), and whether looking pays (b,)."""
        names = batch.modalities
        columns = [names.index(name) for name in missing]
        sets = _sets(columns, generator)
        near, there = (part.cpu().numpy() for part in self.pool.nearest(batch, columns, neighbours))  # (K, b)
        known, place = np.unique(near, return_inverse=True)
        place = place.reshape(near.shape)
        seen = batch.presence[0].cpu().numpy()
        net = np.stack(
            [self._of_set(chosen, seen, names, known, worth, (place, there)) for chosen in sets], axis=1
        )  # (b, S)
        best = net[:, 1:].argmax(axis=1) + 1  # the first set is empty
        score = np.full((len(batch), len(names)), -np.inf)
        for s, chosen in enumerate(sets):
            for m in chosen:
                score[best == s, m] = net[best == s, sets.index((m,))]
        return score, net[np.arange(len(batch)), best] > net[:, 0]

    def _of_set(
        self,
        chosen: tuple[int, ...],
        seen: NDArray[np.bool_],
        names: tuple[str, ...],
        known: NDArray[np.int64],
        worth: float,
        near: tuple[NDArray, NDArray],
    ) -> NDArray[np.float64]:
        """Net worth (b,) of looking at one set."""
        pattern, price = seen.copy(), 0.0
        for m in chosen:
            price += float(self.costs.of(names, pattern[None])[0, m])
            pattern[m] = True
        some = self.train.take(known)
        shown = np.array([name in names and pattern[names.index(name)] for name in some.schema.names])
        some = some.with_observed(np.broadcast_to(shown, some.observed.shape))
        assert self.target is not None
        predicted = self.model.predict(some, on_empty="silent")
        each = realised_utility(self.utility, predicted, self.target[known], self.model.schema.task)
        place, there = near
        return worth * (each[place] * there).sum(0) / there.sum(0).clip(min=1) - price


def _sets(columns: list[int], generator: np.random.Generator) -> list[tuple[int, ...]]:
    """Sets of missing modalities: none, each alone, and others; all of them where they are few."""
    if len(columns) <= _ALL_UP_TO:
        return [chosen for size in range(len(columns) + 1) for chosen in combinations(columns, size)]
    found = dict.fromkeys([(), *((m,) for m in columns), tuple(columns)])
    while len(found) < max(_SETS, len(columns) + 2):
        size = int(generator.integers(2, len(columns)))
        found[tuple(sorted(generator.choice(columns, size, replace=False).tolist()))] = None
    return list(found)
