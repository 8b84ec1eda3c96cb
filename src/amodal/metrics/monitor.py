"""Monitoring of representations during training, for signs of collapse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from amodal.metrics.collapse import effective_rank, spread

__all__ = ["is_loss", "representation_numbers", "signs_of_collapse", "spread_ratios", "weight_numbers"]

_TO_A_POINT = 0.01  # of the largest spread of earlier epochs
_OF_THE_TRUTH = 0.1  # of the spread of what is predicted, in two epochs
_FEWEST_ROWS = 4
_TO_A_LINE = 1.05  # dimensions
_OVER_NORMAL = 0.05  # nats a coordinate
_EPOCHS, _NOTHING = 10, 1e-3  # after so many epochs, a loss within this share of the prior's
_ONE_NEIGHBOUR = 1.5  # cases, where there are at least as many as:
_NEIGHBOURS = 8.0
_ALL_NEIGHBOURS = 0.9  # of the cases


def representation_numbers(name: str, features: Tensor, counted: Tensor | None = None) -> dict[str, float]:
    """Effective rank and spread of a set of representations, as columns of a history.

    The spread is the mean over the dimensions of the standard deviation over the rows. Vectors of several modalities
    are centred modality by modality, so that a different offset of each is neither spread nor rank; the rank is that of
    all of them together, the spread that of the modality where it is least: one that has collapsed to a point shows,
    whatever the others do.

    Args:
        name: What is represented, the columns' prefix.
        features: Representations, of shape (N, D), or (B, M, D) for M modalities.
        counted: Of several modalities, which vectors count, bool, of shape (B, M).

    Returns:
        `<name>_rank` and `<name>_spread`; nothing where no modality has two rows.

    Example:
        >>> representation_numbers("pooled", torch.tensor([[0.0, 2.0], [2.0, 0.0]]))
        {'pooled_rank': 1.0, 'pooled_spread': 1.0}
        >>> apart = torch.tensor([[[0.0], [5.0]], [[2.0], [5.0]]])  # the second modality is the same in both rows
        >>> representation_numbers("pooled", apart, torch.ones(2, 2, dtype=torch.bool))
        {'pooled_rank': 1.0, 'pooled_spread': 0.0}
    """
    parts = [features] if counted is None else [features[rows, m] for m, rows in enumerate(counted.unbind(1))]
    parts = [part.detach() for part in parts if len(part) > 1]
    if not parts:
        return {}
    centred = torch.cat([part - part.mean(0) for part in parts])
    return {
        f"{name}_rank": effective_rank(centred, centre=False),
        f"{name}_spread": min(float(spread(part).mean()) for part in parts),
    }


def spread_ratios(predicted: Tensor, true: Tensor, counted: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Spread of predicted vectors over that of the vectors that they predict, by modality, as columns of a history.

    Args:
        predicted: Predictions, of shape (B, M, D).
        true: The vectors of the same rows, of the same shape.
        counted: What was withheld and predicted, bool, of shape (B, M).
        names: The modalities, in order.

    Returns:
        `spread_ratio_<name>` for each modality of which four rows or more count: 0 for a constant prediction; a
        prediction of the mean given the context spreads less than what it predicts.

    Example:
        >>> true = torch.tensor([[[0.0]], [[2.0]], [[4.0]], [[6.0]]])
        >>> spread_ratios(0.5 * true + 1, true, torch.ones(4, 1, dtype=torch.bool), ["labs"])
        {'spread_ratio_labs': 0.5}
    """
    ratios = {}
    for m, (name, rows) in enumerate(zip(names, counted.unbind(1))):
        if int(rows.sum()) >= _FEWEST_ROWS:
            own, others = (float(spread(x[rows, m].detach()).mean()) for x in (predicted, true))
            ratios[f"spread_ratio_{name}"] = own / others if others > 0 else math.nan
    return ratios


def weight_numbers(weights: Sequence[Tensor]) -> dict[str, float]:
    r"""Mean effective sample size :math:`1/\sum_j w_{ij}^2` of kernel weights, and the number of neighbours they weigh.

    Args:
        weights: For some modalities, weights of shape (Q, N) of which each row adds up to one.

    Returns:
        `effective_sample_size` and `neighbours`; nothing where there is no weight at all.

    Example:
        >>> weight_numbers([torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])])
        {'effective_sample_size': 1.5, 'neighbours': 3.0}
    """
    filled = [w for w in weights if w.numel()]
    if not filled:
        return {}
    sizes = torch.stack([(1 / w.detach().double().square().sum(1)).mean() for w in filled])
    return {
        "effective_sample_size": float(sizes.mean()),
        "neighbours": sum(w.shape[1] for w in filled) / len(filled),
    }


def is_loss(column: str) -> bool:
    """Whether a column of a history is a loss or one of its terms, whatever the term is called.

    Example:
        >>> is_loss("train_rank"), is_loss("pooled_rank")
        (True, False)
    """
    return "train_" in column or "valid_" in column


def signs_of_collapse(history: Sequence[Mapping[str, float]]) -> list[str]:
    """Signs of collapse in the last row of a history, in words.

    A representation has collapsed to a point if its spread (or the diversity of contexts) is below a hundredth of what
    it has been in an earlier row, and to a line if its effective rank is below 1.05. Predictions of a modality are
    nearly constant if in the last two rows their spread was below a tenth of that of what they predict. Kernel
    weights have collapsed if fewer than 1.5 of 8 or more neighbours count, and tell nothing of the context if more than
    nine tenths do. A law that vectors are drawn from is no law of them if in the last two rows it was less likely
    than independent normal coordinates, by 0.05 nats each. Nothing has been learnt if in ten rows no validation loss
    was lower than that of the prior.

    Args:
        history: Rows with columns such as `valid_loss`, `valid_prior`, `pooled_rank`, `pooled_spread`,
            `context_diversity`, `effective_sample_size`, `law_over_normal`.

    Returns:
        One sentence for each sign; empty if all is well.

    Example:
        >>> signs_of_collapse([{"pooled_spread": 1.0}, {"pooled_spread": 0.001}])
        ['pooled representations have collapsed to a point: their spread is 0.001 and has been 1']
    """
    if not history:
        return []
    signs, last = [], history[-1]
    for column, value in last.items():
        if is_loss(column):
            continue
        if column.startswith("spread_ratio_"):
            before = history[-2].get(column, math.nan) if len(history) > 1 else math.nan
            if value < _OF_THE_TRUTH and before < _OF_THE_TRUTH:
                signs.append(
                    f"predictions of {column.removeprefix('spread_ratio_')} are nearly constant: "
                    f"their spread is {value:.2g} of that of what they predict"
                )
            continue
        what = column.rsplit("_", 1)[0]
        if column.endswith(("_spread", "_diversity")):
            earlier = [row[column] for row in history[:-1] if math.isfinite(row.get(column, math.nan))]
            if earlier and value < _TO_A_POINT * max(earlier):
                kind = "contexts" if column.endswith("_diversity") else f"{what} representations"
                signs.append(
                    f"{kind} have collapsed to a point: their spread is {value:.2g} and has been {max(earlier):.2g}"
                )
        elif column.endswith("_rank") and value < _TO_A_LINE:
            signs.append(f"{what} representations have collapsed to a line: their effective rank is {value:.3g}")
        elif column.endswith("_over_normal"):
            before = history[-2].get(column, math.nan) if len(history) > 1 else math.nan
            if min(value, before) > _OVER_NORMAL:
                signs.append(
                    f"the {column.removesuffix('_over_normal')} of completions fits its vectors worse than a normal "
                    f"distribution, by {value:.2g} nats a coordinate: its draws are noise rather than completions"
                )
    return signs + _signs_of_weights(last) + _signs_of_nothing(history)


def _signs_of_nothing(history: Sequence[Mapping[str, float]]) -> list[str]:
    """A sign that no epoch predicts better than the mean of the targets does."""
    best = min((row["valid_loss"] for row in history if math.isfinite(row.get("valid_loss", math.nan))), default=0.0)
    prior = history[-1].get("valid_prior", math.nan)
    if len(history) < _EPOCHS or not best > (1 - _NOTHING) * prior:
        return []
    return [
        f"nothing has been learnt: the lowest validation loss is {best:.4g}, a prediction that knows the mean of the "
        f"targets alone has {prior:.4g}; try another learning rate, or look whether the inputs tell of the target"
    ]


def _signs_of_weights(row: Mapping[str, float]) -> list[str]:
    """Signs that kernel weights leave one neighbour, or all of them alike."""
    size, count = row.get("effective_sample_size", math.nan), row.get("neighbours", 0.0)
    share = f"{size:.3g} of {count:.3g} neighbours count"
    if count < _NEIGHBOURS:
        return []
    if size < _ONE_NEIGHBOUR:
        return [f"kernel weights have collapsed: {share}; use a wider bandwidth, or a share of the neighbours"]
    if size > _ALL_NEIGHBOURS * count:
        return [f"kernel weights are nearly uniform: {share}, and the context does not; use a narrower bandwidth"]
    return []
