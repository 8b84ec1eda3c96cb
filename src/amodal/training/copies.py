"""Copies of training and validation rows under every presence that a training is for; recalibration by them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.method import inference
from amodal.missingness import BalancedCounts, Natural
from amodal.presence import draw_presence
from amodal.recalibration import Recalibration, fit_recalibration
from amodal.training.data import TrainingData

__all__ = ["recalibration_of", "training_copies", "validation_copies"]

_DRAWS = 2  # removals under which the validation rows are predicted once more
_MANY_ROWS = 20_000  # of which one removal is enough


def training_copies(data: TrainingData, redraws: int, *, meets_all_patterns: bool) -> list[Cohort]:
    """The training rows for what is fitted in one call.

    Args:
        data: The rows and their removal.
        redraws: Drawings of the removal, where it is drawn anew every epoch.
        meets_all_patterns: Whether the whole method removes modalities in its own objective: what is a part of it then
            meets removals of a number of modalities that is uniform.

    Returns:
        The rows as they are, where in time training sees them so, and under each drawing.
    """
    if meets_all_patterns and len(data.train.schema.names) > 1:
        whole = data.rows_of(0)
        drawn = (draw_presence(BalancedCounts(), whole, (data.seed, 6, i)) for i in range(redraws))
        return [whole, *(whole.with_observed(presence.observed) for presence in drawn)]
    draws = [data.rows_of(i) for i in range(redraws if data.is_redrawn else 1)]
    return [data.rows_of(0, removed=False), *draws] if data.is_removed_anew else draws


def validation_copies(data: TrainingData, *, meets_all_patterns: bool) -> list[Cohort]:
    """The validation rows under every presence that the training was for.

    Args:
        data: The rows and their removal.
        meets_all_patterns: Whether the method removes modalities in its own objective.

    Returns:
        Where training met further removal the rows as they are, under their validation presence, and under removals of
        a number of modalities that is uniform; else under their validation presence alone.
    """
    asked = data.valid_rows
    removed = not isinstance(data.train_mechanism, Natural)
    if not meets_all_patterns and not removed:
        return [asked]
    whole = asked if removed and not data.settings.redraw else data.valid  # drawn once: what was removed does not exist
    if len(whole.schema.names) == 1:
        return [asked]
    draws = _DRAWS if len(whole) <= _MANY_ROWS else 1
    presence = [draw_presence(BalancedCounts(), whole, (data.seed, 5, i)) for i in range(draws)]
    return [*([whole] if whole is not asked else []), asked, *(whole.with_observed(p.observed) for p in presence)]


def recalibration_of(model: TrainedModel, data: TrainingData, copies: Sequence[Cohort]) -> Recalibration | None:
    """The recalibration of a model's predictions of its validation rows.

    A case that comes under several removals counts once for each number of modalities that remain.

    Args:
        model: The model with its best weights.
        data: Its rows.
        copies: The validation rows, each in its place, under every presence that counts; see `validation_copies`.

    Returns:
        None for a task without probabilities, or without validation rows.
    """
    traits = model.schema.task.traits
    if traits.one_value or not len(data.valid):
        return None
    predictions, rows, present = [], [], []
    with inference(model.method):
        for cohort in copies:
            seen = np.flatnonzero(cohort.observed.any(axis=1) | model.method.accepts_empty)
            for batch in model.batches(cohort, 1024, seen):
                predictions.append(model.method.predict(batch).double().cpu().numpy())
            rows.append(seen)
            present.append(cohort.observed[seen].sum(axis=1))
    case, number = np.concatenate(rows), np.concatenate(present)
    if not len(case):
        return None
    _, place, times = np.unique(np.stack([case, number]), axis=1, return_inverse=True, return_counts=True)
    weight = 1.0 / times[place.reshape(-1)]
    if data.valid_weight is not None:
        weight = weight * data.valid_weight[case] * (len(data.valid_weight) / (data.valid_weight.sum() or 1.0))
    if not weight.any():
        return None
    target = data.valid.target
    assert target is not None
    return fit_recalibration(
        np.concatenate(predictions),
        target[case],
        number,
        weight,
        traits,
        len(model.schema.names),
        case,
    )
