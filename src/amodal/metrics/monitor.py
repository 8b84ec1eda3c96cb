"""Monitoring of representations during training, for signs of collapse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from amodal.metrics.collapse import effective_rank, spread

__all__ = ["is_loss", "representation_numbers", "signs_of_collapse", "weight_numbers"]

_TO_A_POINT = 0.01  # of the largest spread of earlier epochs
_TO_A_LINE = 1.05  # dimensions
_ONE_NEIGHBOUR = 1.5  # cases, where there are at least as many as:
_NEIGHBOURS = 8.0


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
    it has been in an earlier row, and to a line if its effective rank is below 1.05. Kernel weights have collapsed if
    fewer than 1.5 of 8 or more neighbours count. A law that vectors are drawn from is no law of them where it is less
    likely than independent normal coordinates.

    Args:
        history: Rows with columns such as `pooled_rank`, `pooled_spread`, `context_diversity`, `effective_sample_size`,
            `law_over_normal`.

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
        elif column.endswith("_over_normal") and value > 0:
            signs.append(
                f"the {column.removesuffix('_over_normal')} of completions fits its vectors worse than a normal "
                f"distribution, by {value:.2g} nats a coordinate: its draws are noise rather than completions"
            )
    if last.get("effective_sample_size", math.inf) < _ONE_NEIGHBOUR and last.get("neighbours", 0.0) >= _NEIGHBOURS:
        signs.append(
            f"kernel weights have collapsed: {last['effective_sample_size']:.2g} of {last['neighbours']:.3g} "
            "neighbours count; use a wider bandwidth, or distances per dimension"
        )
    return signs
