"""Validation: losses of the validation rows, and signs of collapse."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from amodal.checkpoint import TrainedModel
from amodal.losses.task import prediction_error, prediction_loss
from amodal.method import inference
from amodal.metrics.monitor import representation_numbers, signs_of_collapse
from amodal.training.data import TrainingData

__all__ = ["monitored", "part_validation_losses", "validation_losses", "warn_of_collapse"]


FEWEST_FOR_PRIOR = 100
"""Validation rows on which a loss can be told from that of the prior."""


def validation_losses(model: TrainedModel, data: TrainingData) -> dict[str, float]:
    """Mean task loss of the validation rows under their fixed presence, in the scaled units of training.

    Args:
        model: The model as it is.
        data: The validation rows; their settings say whether the share of wrong predictions is needed too.

    Returns:
        "valid_loss", and "valid_error" where the best weights go by it; of 100 rows or more also "valid_prior", the
        loss of a prediction that knows the mean of the targets alone.
    """
    rows = data.valid_rows
    seen = np.flatnonzero(rows.observed.any(axis=1)) if not model.method.accepts_empty else None
    judges: dict[str, Callable[[Tensor, Tensor, str], Tensor]] = {"valid_loss": prediction_loss}
    if data.settings.best_by == "error":
        judges["valid_error"] = prediction_error
    weight = None
    if data.valid_weight is not None and data.valid_weight.any():
        weight = torch.from_numpy(data.valid_weight if seen is None else data.valid_weight[seen])
    task, kind = model.schema.task, model.schema.task.kind
    prior = torch.zeros(1) if task.traits.one_value else torch.as_tensor(model.prior)  # of values in scaled units
    if len(rows) >= FEWEST_FOR_PRIOR:
        judges["valid_prior"] = lambda predicted, labels, kind: prediction_loss(
            prior.to(predicted).expand(predicted.shape), labels, kind
        )
    totals, count, done = dict.fromkeys(judges, 0.0), 0.0, 0
    with inference(model.method):
        for batch in model.batches(rows, 1024, seen):
            predicted = model.method.predict(batch).float()
            for name, judge in judges.items():
                losses = judge(predicted, batch.labels, kind).double().cpu()
                totals[name] += float((losses if weight is None else losses * weight[done : done + len(batch)]).sum())
            count += len(batch) if weight is None else float(weight[done : done + len(batch)].sum())
            done += len(batch)
    return {name: total / (count or 1) for name, total in totals.items()}


def part_validation_losses(model: TrainedModel, data: TrainingData) -> dict[str, float]:
    """Mean validation loss of each independent sub-model, under natural presence; empty for most methods."""
    sums: dict[str, list[float]] = {}
    seen = np.flatnonzero(data.valid.observed.any(axis=1))
    with inference(model.method):
        for batch in model.batches(data.valid, 1024, seen):
            parts = model.method.part_losses(batch)
            if not parts:
                break
            for prefix, losses in parts.items():
                entry = sums.setdefault(prefix, [0.0, 0.0])
                entry[0] += float(losses.double().sum())
                entry[1] += len(losses)
    return {prefix: total / count for prefix, (total, count) in sums.items() if count}


def monitored(model: TrainedModel, data: TrainingData) -> dict[str, float]:
    """Spread and rank of representations, and what the method watches itself, on the first validation rows."""
    seen = np.flatnonzero(data.valid_rows.observed.any(axis=1))[:256]
    with inference(model.method):
        for batch in model.batches(data.valid_rows, 256, seen):
            watched = model.method.representations(batch)
            numbers = [representation_numbers(name, *vectors) for name, vectors in watched.items()]
            return {k: v for part in numbers for k, v in part.items()} | model.method.monitor(batch)
    return {}


def warn_of_collapse(history: list[dict[str, float]]) -> None:
    """Warns in the first epoch that shows signs of collapse."""
    if signs_of_collapse(history[:-1]):
        return
    for sign in signs_of_collapse(history):
        warnings.warn(f"epoch {len(history)}: {sign}", UserWarning, stacklevel=2)
