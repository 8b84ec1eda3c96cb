r"""Two steps ahead: what a look makes possible.

One look at a time misses modalities that matter only together: a context that says which of the others to read gains
nothing by itself. The value of a look at u with the best look after it is

.. math:: \mathrm{gain}_u - c_u + \delta\, \mathbb{E}_{x_u \mid x_o} \max\big(0, \max_v (\mathrm{gain}_{v \mid x_o,
    x_u} - c_v)\big),

the inner gains being those of completed cases. What comes later counts a tenth less (:math:`\delta = 0.9`), so that of
two orders with one sum the one that gains first is preferred. Modalities are enumerated; values are those of similar
training cases, some of them for the first look and some for the second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.errors import ConfigurationError
from amodal.predictive_impact.completions import Completions
from amodal.predictive_impact.costs import Costs
from amodal.predictive_impact.donors import DonorCompletions, DonorLaw
from amodal.predictive_impact.looks import by_pattern, expected_gain, looks_at, to_numpy
from amodal.predictive_impact.predictor import predictions_of
from amodal.predictive_impact.utility import UtilityFunction

__all__ = ["after_the_next"]

_DISCOUNT = 0.9
_FIRST = 10  # values of the first look
_SECOND = 20  # donors of the second


def after_the_next(
    source: Completions,
    batch: Batch,
    missing: Sequence[str],
    present: Tensor,
    utility: UtilityFunction,
    costs: Costs,
    worth: float,
) -> np.ndarray:
    """Expected net worth (b, M), discounted, of the best look after a look at each modality; 0 for those present.

    Args:
        source: Completions from training cases.
        batch: Cases that lack the same modalities.
        missing: These.
        present: Present predictions (b, D).
        utility: What is to be gained.
        costs: Prices.
        worth: What one unit of gain is worth in the unit of the prices.

    Raises:
        ConfigurationError: If completions are a method's own.

    Source:
        The idea of acquisition by nearest neighbours over sets is that of :cite:`valancius2024acquisition`.
    """
    if not isinstance(source, DonorCompletions):
        raise ConfigurationError(
            "looking two steps ahead needs training cases", hint="Pass train=<the training cohort>."
        )
    later = np.zeros((len(batch), len(batch.modalities)))
    if len(missing) < 2:
        return later
    inner = source.with_neighbours(_SECOND)
    for name, law in looks_at(source, batch, missing, present):
        assert isinstance(law, DonorLaw)
        draws = _spread(law.weights, _FIRST)  # (F, b)
        rows = torch.arange(len(batch), device=draws.device).expand_as(draws)
        completed = law.completed([name], draws.flatten(), rows.flatten())
        value = _best_look(inner, completed, utility, costs, worth).reshape(draws.shape)
        later[:, batch.modalities.index(name)] = _DISCOUNT * value.mean(axis=0)
    return later


def _best_look(
    source: DonorCompletions, batch: Batch, utility: UtilityFunction, costs: Costs, worth: float
) -> np.ndarray:
    """Largest net worth (b,) of one look, 0 if none pays."""
    best = np.zeros(len(batch))
    price = costs.of(batch.modalities, batch.presence.cpu().numpy())
    for some in torch.arange(len(batch)).split(256):
        for rows, part, missing in by_pattern(batch.take(some.to(batch.device))):
            where = some.numpy()[rows.cpu().numpy()]
            present = predictions_of(source.model, part)
            for name, law in looks_at(source, part, missing, present):
                predictions, weights = law.after([name])
                gain = to_numpy(expected_gain(predictions.double(), weights.double(), utility))
                net = worth * gain - price[where, batch.modalities.index(name)]
                best[where] = np.maximum(best[where], net)
    return best


def _spread(weights: Tensor, number: int) -> Tensor:
    """Positions (F, b) that stand for weights (S, b): the middles of equal parts of their sum."""
    even = (torch.arange(number, device=weights.device) + 0.5) / number
    cumulated = weights.T.cumsum(1).contiguous()
    places = torch.searchsorted(cumulated, even.expand(len(cumulated), -1).contiguous())
    return places.clamp(max=weights.shape[0] - 1).T
