r"""Selection of hidden tokens: scores for each strategy, and one selection for all of them.

Every strategy gives each token a score, and the tokens with the highest ones are hidden. Two masks of one set of scores
are nested, the smaller within the larger, and their counts depend on the ratio alone, so that strategies differ only in
*where* they hide. `hide` is bool or 0/1, of shape (P, L), with 1 = hidden.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from amodal.errors import ShapeError

__all__ = [
    "block_scores",
    "count_hidden",
    "hide_tokens",
    "hide_top",
    "random_scores",
    "reverse_gradient",
    "straight_through",
    "widen",
]


def count_hidden(valid: Tensor, ratio: float, alone: Tensor | None = None) -> Tensor:
    """Number of hidden tokens of each row: the ratio of its valid ones, at least one and never all.

    Args:
        valid: Which tokens are real, bool, of shape (P, L).
        ratio: Fraction to hide, in (0, 1).
        alone: Rows in which nothing else is left to see, bool, of shape (P,); None: all of them. In the other rows a
            single token may be hidden.

    Returns:
        Counts, int64, of shape (P,). A row with a single token has none hidden if it is alone.

    Example:
        >>> count_hidden(torch.ones(1, 10, dtype=torch.bool), 0.25).item()  # a half is rounded to even
        2
        >>> one = torch.ones(2, 1, dtype=torch.bool)
        >>> count_hidden(one, 0.3, torch.tensor([True, False])).tolist()
        [0, 1]
    """
    length = valid.sum(1)
    alone = torch.ones_like(length, dtype=torch.bool) if alone is None else alone
    most = torch.where((length == 1) & ~alone, length, (length - 1).clamp(min=0))
    return torch.minimum((ratio * length).round().long().clamp(min=1), most)


def hide_top(scores: Tensor, valid: Tensor, count: Tensor) -> Tensor:
    """Hides the valid tokens with the highest scores.

    Args:
        scores: Of shape (P, L), without ties; see `random_scores` for how to break them.
        valid: Which tokens are real, bool, of shape (P, L); padding is never hidden.
        count: How many to hide in each row, at most the number of valid ones, of shape (P,).

    Returns:
        bool, of shape (P, L).

    Raises:
        ShapeError: If scores and validity have different shapes.

    Source:
        :cite:`choi2025cepa`, eq. 3. What is selected is hidden: the paper's text, against its eq. 1.

    Example:
        >>> scores, valid = torch.tensor([[0.1, 0.9, 0.5, 2.0]]), torch.tensor([[True, True, True, False]])
        >>> hide_top(scores, valid, torch.tensor([2]))
        tensor([[False,  True,  True, False]])
    """
    if scores.shape != valid.shape or valid.dtype != torch.bool:
        raise ShapeError(
            "scores and validity of tokens do not fit",
            expected="(P, L) and bool (P, L)",
            got=f"{tuple(scores.shape)} and {valid.dtype} {tuple(valid.shape)}",
        )
    order = torch.where(valid, scores.detach(), -math.inf).argsort(1, descending=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order).contiguous()
    )
    return valid & (rank < count[:, None])


def random_scores(valid: Tensor, generator: torch.Generator) -> Tensor:
    """Independent uniform scores, so that a uniform subset is hidden; times 1e-4 they break ties.

    Args:
        valid: Which tokens are real, bool, of shape (P, L).
        generator: Source of the draws, on the same device.

    Returns:
        Of shape (P, L), in [0, 1).
    """
    return torch.rand(valid.shape, generator=generator, device=valid.device)


def block_scores(
    valid: Tensor, count: Tensor, generator: torch.Generator, *, grid: tuple[int, int] | None = None
) -> Tensor:
    r"""Scores that fall with the distance from the middle of a random block, so that one block is hidden.

    In one dimension the block is a run of `count` tokens with a uniform start within the valid ones. On a grid it is a
    rectangle of about that area, its aspect ratio log-uniform in [0.75, 1.5] and its place uniform; the number hidden
    is trimmed or filled at its rim to be exact. A smaller count takes the middle of the same block.

    Args:
        valid: Which tokens are real, bool, of shape (P, L); in one dimension the first ones of each row.
        count: Tokens of the largest block that will be hidden, of shape (P,).
        generator: Source of the draws, on the same device.
        grid: Height and width of the tokens' grid, height · width = L; None: one dimension.

    Returns:
        Of shape (P, L).

    Source:
        The block masking that :cite:`choi2025cepa` names in its table 3 without defining it; the range of aspect ratios
        is that of :cite:`assran2023ijepa`.
    """
    noise = 1e-4 * random_scores(valid, generator)
    place = torch.rand(len(valid), 3, generator=generator, device=valid.device)  # (P, 3)
    position = torch.arange(valid.shape[1], device=valid.device)
    if grid is None:
        start = (place[:, 0] * (valid.sum(1) - count + 1)).floor()
        middle = start + (count - 1) / 2
        return noise - (position - middle[:, None]).abs()
    height, width = grid
    if height * width != valid.shape[1]:
        raise ShapeError("the grid does not hold the tokens", expected=f"{valid.shape[1]} cells", got=grid)
    aspect = torch.exp(math.log(0.75) + place[:, 0] * math.log(2.0))
    tall = (count * aspect).sqrt().round().clamp(1, height)
    wide = (count / tall).round().clamp(1, width)
    top = (place[:, 1] * (height - tall + 1)).floor() + (tall - 1) / 2
    left = (place[:, 2] * (width - wide + 1)).floor() + (wide - 1) / 2
    down = (position // width - top[:, None]).abs() / tall[:, None]
    across = (position % width - left[:, None]).abs() / wide[:, None]
    return noise - torch.maximum(down, across)


def straight_through(hide: Tensor, scores: Tensor) -> Tensor:
    """The mask in value, the identity to the scores in its gradient: hide + scores - sg(scores).

    Args:
        hide: bool, of any shape.
        scores: Of the same shape, floating.

    Returns:
        0 or 1, of the same shape and the scores' dtype; its gradient goes to all scores, selected or not.

    Source:
        :cite:`choi2025cepa`, section 2.3.

    Example:
        >>> scores = torch.tensor([0.25, 0.75], requires_grad=True)
        >>> (straight_through(scores > 0.5, scores) * torch.tensor([3.0, 5.0])).sum().backward()
        >>> scores.grad
        tensor([3., 5.])
    """
    return hide.to(scores.dtype) + (scores - scores.detach())


def widen(some: Tensor, length: int) -> Tensor:
    """Tokens (P, L) of which some are chosen, bool, among at least as many (P, length), of which no other one is."""
    short = length - some.shape[1]
    return functional.pad(some, (0, short)) if short else some


def reverse_gradient(x: Tensor) -> Tensor:
    """The identity in value, with its gradient reversed.

    Example:
        >>> x = torch.tensor([2.0], requires_grad=True)
        >>> reverse_gradient(x).backward()
        >>> x.grad
        tensor([-1.])
    """
    return 2 * x.detach() - x


def hide_tokens(
    scores: Mapping[str, Tensor], valid: Mapping[str, Tensor], ratio: float, whole: Collection[str] = ()
) -> dict[str, Tensor]:
    """Hides tokens within each modality, and whole modalities among those that count as one token.

    In a modality of several tokens, `count_hidden` of them are hidden. Modalities of which a row has a single token,
    and those that are hidden as a whole, are one pool: the ratio of the pool is hidden, at least one and never all,
    unless the pool is one modality and the row has other tokens to see.

    Args:
        scores: For each modality, of shape (B, L_m); the highest are hidden, of a whole modality by their mean.
        valid: For each modality which tokens may be hidden, bool, of shape (B, L_m); none in rows that lack it.
        ratio: Fraction to hide, in (0, 1).
        whole: Modalities all of whose tokens are hidden or none.

    Returns:
        For each modality, bool, of shape (B, L_m). For a smaller ratio and the same scores, a subset.

    Example:
        >>> one = torch.ones(1, 1, dtype=torch.bool)
        >>> hidden = hide_tokens({"a": one * 0.1, "b": one * 0.9}, {"a": one, "b": one}, 0.6)
        >>> hidden["a"].item(), hidden["b"].item()
        (False, True)
    """
    some = torch.stack([v.any(1) for v in valid.values()], dim=1)  # (B, M)
    single = torch.stack([v.any(1) if n in whole else v.sum(1) == 1 for n, v in valid.items()], dim=1)  # (B, M)
    several = (some & ~single).any(1)  # (B,)
    pool = torch.stack(
        [torch.where(v, scores[n].detach(), 0.0).sum(1) / v.sum(1).clamp(min=1) for n, v in valid.items()], dim=1
    )
    chosen = hide_top(pool, single, count_hidden(single, ratio, ~several))  # (B, M)
    hidden = {}
    for m, (name, own) in enumerate(valid.items()):
        part = hide_top(scores[name], own, torch.where(single[:, m], 0, count_hidden(own, ratio)))
        hidden[name] = part | (own & chosen[:, m, None])
    return hidden
