"""Scale of V: how much too narrow or too wide a method's own completions are, where it can be seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from amodal.data.cohort import Cohort
from amodal.method import inference
from amodal.predictive_impact.looks import by_pattern, expected_change
from amodal.predictive_impact.own import OwnCompletions
from amodal.predictive_impact.predictor import Predictor, distance, predictions_of

__all__ = ["change_scale"]

_MOST = 512  # cases looked at
_LEAST = 30  # cases that a scale can be told from
_RANGE = (0.25, 4.0)


def change_scale(model: Predictor, cases: Cohort, observed: NDArray[np.bool_], *, draws: int = 200) -> dict[str, float]:
    """What V has to be multiplied by to be, on average, the change when what was withheld is revealed.

    Withholding costs nothing: no target is looked at, and the cases may be those that chose the weights.

    Args:
        model: A trained model whose method draws completions of modalities.
        cases: N cases.
        observed: What is left of them, bool, of shape (N, M). Cases that lack something that cannot be revealed, and
            those of which nothing is withheld or left, say nothing.
        draws: Number of completions: as many as `amodal.impact` takes, since V of few draws of a law with rare large
            changes is too small (a logistic world: 2.66 times instead of 2.29 with 32).

    Returns:
        By the names of what is missing, joined by "+", where at least 30 cases tell, and for all together under "":
        between a quarter and four. Empty if fewer than 30 tell.
    """
    telling = cases.observed.all(axis=1) & ~observed.all(axis=1) & observed.any(axis=1)
    rows = np.flatnonzero(telling)[:_MOST]
    if len(rows) < _LEAST:
        return {}
    source, kind = OwnCompletions(model, draws=draws), model.schema.task.traits
    complete = cases.take(rows)
    withheld = complete.with_observed(observed[rows])
    sums: dict[str, NDArray] = {}  # cases, expected and realised change
    with inference(model.method):
        for batch, whole in zip(model.batches(withheld), model.batches(complete)):
            revealed = predictions_of(model, whole)
            for places, part, missing in by_pattern(batch):
                present = predictions_of(model, part)
                value, _ = expected_change(*source.law(part, missing, present).after(missing), kind)
                realised = distance(revealed[places], present, kind)
                found = np.array([len(part), float(value.sum()), float(realised.sum())])
                for key in ("", "+".join(missing)):
                    sums[key] = sums.get(key, 0.0) + found
    return {
        key: float(np.clip(realised / expected, *_RANGE))
        for key, (number, expected, realised) in sums.items()
        if number >= _LEAST and np.isfinite([expected, realised]).all() and expected > 1e-6 * number
    }
