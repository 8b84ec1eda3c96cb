r"""Sensitivity to values that are missing for a reason: ranges over a stated odds ratio.

Completions from cases that have a modality say what it would show if it is missing at random given what is seen. If
those who lack it differ, the odds of each class among them, given everything seen, differ by some factor. Tilting the
weights of completions by

.. math:: w_s \propto w_s \,(1 + (\Gamma - 1)\, p_{sc})

multiplies the odds of class c by about :math:`\Gamma`; the range of a number over all classes and both directions says
how much an odds ratio of :math:`\Gamma` could matter. Of a value the weights are tilted by :math:`\exp(\pm \log \Gamma
\, (\mu_s - \bar\mu) / \sigma)`, with :math:`\sigma` the target's standard deviation in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from amodal.errors import ConfigurationError
from amodal.kinds import TaskKind
from amodal.predictive_impact.donor_weights import weighted_mean

__all__ = ["check_odds_ratio", "sensitivity_range"]


def check_odds_ratio(odds_ratio: float | None) -> None:
    """Refuse an odds ratio below 1 or that is no number.

    Raises:
        ConfigurationError: Then.
    """
    if odds_ratio is not None and not (1 <= odds_ratio < math.inf):
        raise ConfigurationError("an odds ratio is out of range", expected="1 or more", got=odds_ratio)


def sensitivity_range(
    statistic: Callable[[Tensor], Tensor],
    predictions: Tensor,
    weights: Tensor,
    odds_ratio: float,
    *,
    kind: TaskKind,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Smallest and largest value (B,) of a statistic when completions are tilted by at most an odds ratio.

    Args:
        statistic: A number (B,) for weights (S, B).
        predictions: Predictions (S, B, D).
        weights: Weights (S, B) that add up to one over S.
        odds_ratio: 1 or more.
        kind: What is predicted.
        scale: Standard deviation of a regression's target.

    Source:
        Exponential tilting of what is not observed, as in the sensitivity analyses of :cite:`robins2000sensitivity`.

    Example:
        >>> from amodal.kinds import task_kind
        >>> sure = torch.eye(2)[:, None]
        >>> half = torch.full((2, 1), 0.5)
        >>> share = lambda w: weighted_mean(sure, w)[:, 1]
        >>> [round(x.item(), 3) for x in sensitivity_range(share, sure, half, 3.0, kind=task_kind("binary"))]
        [0.25, 0.75]
    """
    values = [statistic(weights)]
    for factor in _factors(predictions, weights, odds_ratio, kind, scale):
        tilted = weights * factor
        values.append(statistic(tilted / tilted.sum(0).clamp(min=1e-30)))
    stacked = torch.stack(values)
    return stacked.amin(0), stacked.amax(0)


def _factors(p: Tensor, weights: Tensor, odds_ratio: float, kind: TaskKind, scale: float) -> Iterator[Tensor]:
    for ratio in (odds_ratio, 1.0 / odds_ratio):
        if kind.one_value:
            away = (p[..., 0] - weighted_mean(p, weights)[:, 0]) / scale
            yield (math.log(ratio) * away).clamp(-30, 30).exp()
        else:
            for c in range(p.shape[-1]):
                yield 1.0 + (ratio - 1.0) * p[..., c]
