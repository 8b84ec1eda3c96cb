"""Effects of looks at missing modalities on a batch of cases: the numbers behind impact and advice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.kinds import TaskKind
from amodal.predictive_impact.completions import Completions, Law
from amodal.predictive_impact.donor_weights import weighted_error, weighted_mean
from amodal.predictive_impact.predictor import Predictor, distance
from amodal.predictive_impact.utility import UtilityFunction

__all__ = ["by_pattern", "expected_change", "expected_gain", "gain_error", "looks_at"]

_FOLDS = 10  # parts of the completions that are left out in turn, for errors of gains


def by_pattern(batch: Batch) -> Iterator[tuple[Tensor, Batch, tuple[str, ...]]]:
    """The rows of each pattern of presence: positions (b,), the rows, and the names of what they lack."""
    patterns, which = batch.presence.unique(dim=0, return_inverse=True)
    for code, pattern in enumerate(patterns):
        rows = (which == code).nonzero().squeeze(1)
        missing = tuple(name for name, there in zip(batch.modalities, pattern.tolist()) if not there)
        yield rows, batch.take(rows), missing


def looks_at(source: Completions, batch: Batch, names: Sequence[str], present: Tensor) -> Iterator[tuple[str, Law]]:
    """For each of some modalities that all rows lack, the law of its values."""
    for name in names:
        yield name, source.law(batch, [name], present)


def expected_change(predictions: Tensor, weights: Tensor, kind: TaskKind) -> tuple[Tensor, Tensor]:
    r"""Expected distance to the mean prediction (eq. 9 for all that is missing) with its standard error, each (B,).

    The influence of a completion is its own distance, and what it does to everybody's by moving the mean.

    Args:
        predictions: Predictions (S, B, D).
        weights: Weights (S, B).
        kind: What is predicted.
    """
    mean = weighted_mean(predictions, weights)
    away = predictions - mean
    factor = 0.5 if kind.one_class else 1.0 / predictions.shape[-1]  # of the absolute differences in `distance`
    slope = weighted_mean(away.sign(), weights)
    influence = factor * (away.abs() - slope * away).sum(-1)
    return weighted_mean(distance(predictions, mean, kind), weights), weighted_error(influence, weights)


def expected_gain(predictions: Tensor, weights: Tensor, utility: UtilityFunction) -> Tensor:
    """Expected gain in utility (B, …): mean utility of the predictions less the utility of their mean."""
    return weighted_mean(utility(predictions), weights) - utility(weighted_mean(predictions, weights))


def gain_error(predictions: Tensor, weights: Tensor, utility: UtilityFunction) -> Tensor:
    """Standard error (B,) of `expected_gain`, by leaving out parts of the completions in turn; NaN for one of them.

    Source:
        The jackknife of :cite:`efron1993bootstrap`, chapter 11, with groups.
    """
    folds = min(_FOLDS, len(predictions))
    if folds < 2:
        return torch.full_like(weights[0], torch.nan)
    part = torch.arange(len(predictions), device=predictions.device) % folds
    values = []
    for fold in range(folds):
        kept = weights * (part != fold)[:, None]
        values.append(expected_gain(predictions, kept / kept.sum(0).clamp(min=1e-30), utility))
    stacked = torch.stack(values)
    return (stacked.var(0, unbiased=False) * (folds - 1)).sqrt()


def by_label(predictions: Tensor, weights: Tensor) -> Tensor:
    """Expected absolute change of each label's probability (B, K)."""
    return weighted_mean((predictions - weighted_mean(predictions, weights)).abs(), weights)


def to_numpy(values: Tensor) -> np.ndarray:
    """A tensor as a float64 array."""
    return values.detach().double().cpu().numpy()


def chunk_of(model: Predictor, draws: int) -> int:
    """Cases in work at a time."""
    return min(1024, max(1, 2**22 // (max(draws, 1) * model.schema.task.n_outputs)))
