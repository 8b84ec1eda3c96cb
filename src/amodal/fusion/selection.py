"""Selection: weights of several predictors by the number of modalities present, chosen on validation rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.kinds import TaskKind

__all__ = ["select", "weighted_mean"]

_SHRINKAGE = 200.0  # cases of a number of modalities that count as much as the common weights


def weighted_mean(weights: Tensor, predictors: Sequence[Callable[[Batch], Tensor]], batch: Batch) -> Tensor:
    """The predictors' mean, each row with the weights of its number of modalities.

    Args:
        weights: By number of modalities, (M + 1, J).
        predictors: J functions of a batch; one whose weights are all zero is not called.
        batch: B rows.

    Returns:
        Predictions (B, …).
    """
    own = weights[batch.presence.sum(1)]  # (B, J)
    parts = []
    for j in weights.any(0).nonzero().squeeze(1).tolist():
        predicted = predictors[j](batch)
        parts.append(own[:, j].view(-1, *[1] * (predicted.ndim - 1)).to(predicted.dtype) * predicted)
    return torch.stack(parts).sum(0)


def select(
    predict: Callable[[Batch], Tensor],
    rows: Iterable[tuple[Batch, Tensor]],
    traits: TaskKind,
    *,
    picks: int = 20,
    bags: int = 10,
) -> Tensor | None:
    r"""Weights of predictors by greedy selection with replacement, for every number of modalities present.

    Of `picks` picks each adds the predictor that lowers the loss of the mean prediction most; the shares of the picks
    are averaged over `bags` random halves of the cases. With the shares :math:`w` of all rows and :math:`w_k` of the
    :math:`n_k` cases with k modalities the weights are

    .. math:: \frac{n_k w_k + n_0 w}{n_k + n_0}, \qquad n_0 = 200

    Args:
        predict: Predictions (B, J, …) of J predictors for a batch.
        rows: Validation rows, as `Method.adjust` gets them.
        traits: The kind of the task.
        picks: Picks of a selection.
        bags: Halves of the cases.

    Returns:
        Of shape (M + 1, J), each row adding up to one; None without rows.

    Source:
        :cite:`caruana2004ensemble`, sections 2.1 to 2.3. Deviation: weights by the number of modalities.
    """
    parts: list[tuple[Tensor, ...]] = []
    ids: list[str] = []
    n_modalities = 0
    for batch, weight in rows:
        n_modalities = len(batch.modalities)
        part = (predict(batch).double(), batch.labels, batch.presence.sum(1), weight.double())
        parts.append(tuple(tensor.cpu() for tensor in part))
        ids += batch.ids or [f"{len(parts)}-{i}" for i in range(len(batch))]
    if not ids:
        return None
    predictions, target, present, weight = (torch.cat(part) for part in zip(*parts))
    place = {name: i for i, name in enumerate(dict.fromkeys(ids))}
    case = torch.tensor([place[name] for name in ids])
    generator = torch.Generator().manual_seed(0)
    halves = torch.rand(bags, len(place), generator=generator).argsort(1) < (len(place) + 1) // 2  # (bags, cases)

    def shares(chosen: Tensor) -> Tensor | None:
        """Mean shares (J,) over the halves of the chosen rows' cases."""
        kept = (chosen[half[case[chosen]]] for half in halves)
        found = [_greedy(predictions[k], target[k], weight[k], traits, picks) for k in kept if len(k)]
        return torch.stack(found).mean(0) if found else None

    common = shares(torch.arange(len(ids)))
    assert common is not None  # every half of all cases has some
    weights = []
    for k in range(n_modalities + 1):
        chosen = (present == k).nonzero().squeeze(1)
        own, n = shares(chosen), len(case[chosen].unique())
        weights.append(common if own is None else (n * own + _SHRINKAGE * common) / (n + _SHRINKAGE))
    return torch.stack(weights)


def _greedy(predictions: Tensor, target: Tensor, weight: Tensor, traits: TaskKind, picks: int) -> Tensor:
    """Shares (J,) of the members among the picks of a greedy selection with replacement."""
    total = torch.zeros_like(predictions[:, 0])
    counts = torch.zeros(predictions.shape[1], dtype=torch.float64)
    for pick in range(picks):
        losses = [
            (weight * traits.prediction_loss((total + member) / (pick + 1), target)).sum()
            for member in predictions.unbind(1)
        ]
        best = int(torch.stack(losses).argmin())
        total = total + predictions[:, best]
        counts[best] += 1
    return counts / picks
