"""Discrimination: accuracy, balanced accuracy, AUROC and AUPRC.

Every function takes probabilities (N, C), (N, K) or (N,) and a target (N,) or (N, K), as `predictions` describes, and a
`weight`: None, (N,), or (R, N) counts of R resamples, which gives R values in one pass. What is undefined is NaN.

**Macro averages** run over the classes (multiclass, one versus the rest) or labels (multilabel) that have both
positive and negative cases, with equal weight; `counted_labels` says how many these are. They are the same in every
resample: one in which a label of them loses its last positive or negative case is undefined (NaN), instead of being
about other labels. A class that does not occur is left out of balanced accuracy, as in scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amodal.metrics.predictions import Classified, Problem, check_classified
from amodal.metrics.resampling import Value, as_value, ratio, weighted, weighted_mean, weighted_sums

__all__ = ["accuracy", "auprc", "auroc", "balanced_accuracy", "counted_labels"]


def accuracy(probabilities: ArrayLike, target: ArrayLike, *, weight: ArrayLike | None = None) -> Value:
    """Share of cases whose most probable class is the true one; multilabel: share of labels, averaged over labels.

    Args:
        probabilities: Of shape (N, C), (N,) or (N, K). Equal probabilities count for the first class; a label is
            predicted above one half.
        target: Of shape (N,) or (N, K).
        weight: Counts or weights of shape (N,) or (R, N).

    Returns:
        A value in [0, 1], or (R,) of them; NaN without cases.

    Raises:
        ShapeError, DataError: For predictions, targets or weights that do not fit.

    Example:
        >>> accuracy([[0.7, 0.3], [0.4, 0.6], [0.1, 0.9]], [0, 0, 1], weight=[[1, 1, 2], [0, 1, 1]])
        array([0.75, 0.5 ])
    """
    checked = check_classified(probabilities, target)
    correct = (checked.predicted == checked.target).astype(np.float64)
    return checked.mean_over_labels(correct, weight) if checked.many_labels else weighted_mean(correct, weight)


def balanced_accuracy(probabilities: ArrayLike, target: ArrayLike, *, weight: ArrayLike | None = None) -> Value:
    """Mean over the classes that occur of the share of their cases that is recognised; multilabel: mean over labels.

    Args:
        probabilities: Of shape (N, C), (N,) or (N, K), decided as in `accuracy`.
        target: Of shape (N,) or (N, K).
        weight: Counts or weights of shape (N,) or (R, N).

    Returns:
        A value in [0, 1], or (R,) of them; NaN without cases.

    Raises:
        ShapeError, DataError: For predictions, targets or weights that do not fit.

    Example:
        >>> balanced_accuracy([0.9, 0.8, 0.7, 0.3], [1, 1, 1, 0]), balanced_accuracy([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 0])
        (1.0, 0.5)
    """
    checked = check_classified(probabilities, target)
    if not checked.many_labels:
        n_classes = checked.probabilities.shape[1]
        return as_value(_mean_recall(checked.predicted, checked.target, n_classes, weight))
    problems = checked.one_versus_rest(weight)
    return _macro([_mean_recall(scores > 0.5, yes, 2, counts) for scores, yes, counts in problems])


def auroc(probabilities: ArrayLike, target: ArrayLike, *, weight: ArrayLike | None = None) -> Value:
    r"""Area under the receiver operating characteristic; macro over classes (one versus the rest) or labels.

    The probability that a positive case scores above a negative one, ties counting half,

    .. math::
        \frac{\sum_{i \in +} \sum_{j \in -} w_i w_j \left([s_j < s_i] + \tfrac12 [s_j = s_i]\right)}
             {\sum_{i \in +} w_i \sum_{j \in -} w_j},

    from one sort and one running sum of the weights a resample.

    Args:
        probabilities: Of shape (N, C), (N,) or (N, K); with two columns the second is the score.
        target: Of shape (N,) or (N, K).
        weight: Counts or weights of shape (N,) or (R, N).

    Returns:
        A value in [0, 1], or (R,) of them; NaN where only one class occurs.

    Raises:
        ShapeError, DataError: For predictions, targets or weights that do not fit.

    Source:
        :cite:`hanley1982roc`.

    Example:
        >>> auroc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1], weight=[[1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]])
        array([0.875, 0.5  ,   nan])
    """
    checked = check_classified(probabilities, target)
    return _macro(_of_each(_area_under_roc, _two_sided(checked, weight)))


def auprc(probabilities: ArrayLike, target: ArrayLike, *, weight: ArrayLike | None = None) -> Value:
    r"""Area under the precision-recall curve as average precision; macro over classes or labels.

    .. math::
        \sum_k (R_k - R_{k-1}) P_k = \frac{\sum_{i \in +} w_i P(s_i)}{\sum_{i \in +} w_i}

    with the precision :math:`P(s)` of "positive from score s on": step-wise, without interpolation (which would
    flatter), as in scikit-learn. A useless score has the prevalence, not one half.

    Args:
        probabilities: Of shape (N, C), (N,) or (N, K); with two columns the second is the score.
        target: Of shape (N,) or (N, K).
        weight: Counts or weights of shape (N,) or (R, N).

    Returns:
        A value in [0, 1], or (R,) of them; NaN where only one class occurs: where all are positive, every score has 1.

    Raises:
        ShapeError, DataError: For predictions, targets or weights that do not fit.

    Source:
        :cite:`davis2006precision`.

    Example:
        >>> round(auprc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), 4)
        0.8333
    """
    checked = check_classified(probabilities, target)
    return _macro(_of_each(_average_precision, _two_sided(checked, weight)))


def counted_labels(probabilities: ArrayLike, target: ArrayLike) -> tuple[int, int]:
    """Over how many classes or labels a macro AUROC or AUPRC runs, and how many there are; (1, 1) for two classes.

    Example:
        >>> counted_labels([[0.1, 0.9], [0.2, 0.8], [0.9, 0.7]], [[0, 1], [1, 1], [0, 1]])
        (1, 2)
    """
    checked = check_classified(probabilities, target)
    counted = sum(bool(yes.any() and not yes.all()) for _, yes, _ in checked.one_versus_rest())
    return counted, 1 if checked.two_classes else checked.probabilities.shape[1]


def _two_sided(checked: Classified, weight: ArrayLike | None) -> list[Problem]:
    """The binary problems that have positive and negative cases; all of them if none has."""
    problems = checked.one_versus_rest(weight)
    return [problem for problem in problems if problem[1].any() and not problem[1].all()] or problems


def _of_each(
    area: Callable[[NDArray, NDArray, ArrayLike | None], NDArray[np.float64]], problems: list[Problem]
) -> list[NDArray[np.float64]]:
    """An area of each problem, on each resample; the rare classes first, and only on resamples that none has lost yet.

    Of thousands of classes nearly every resample loses one that is rare: it is undefined whatever the others are.
    """
    weights = [counts if counts is None else np.asarray(counts) for _, _, counts in problems]
    if len(problems) == 1 or any(counts is None or counts.ndim == 1 for counts in weights):
        return [area(*problem) for problem in problems]
    rarity = [min(int(yes.sum()), int((~yes).sum())) for _, yes, _ in problems]
    resamples = [counts for counts in weights if counts is not None]
    values = [np.full(len(counts), np.nan) for counts in resamples]
    defined = np.arange(len(resamples[0]))
    for place in np.argsort(rarity, kind="stable"):
        if not len(defined):
            break
        scores, yes, _ = problems[place]
        counts = resamples[place]
        counts = counts if len(defined) == len(counts) else counts[defined]
        values[place][defined] = area(scores, yes, counts)
        defined = defined[~np.isnan(values[place][defined])]
    return values


def _mean_recall(predicted: NDArray, target: NDArray, n_classes: int, weight: ArrayLike | None) -> NDArray[np.float64]:
    is_class = (target[:, None] == np.arange(n_classes)).astype(np.float64)  # (N, C)
    recognised = is_class * (predicted == target)[:, None]
    sums = weighted_sums(np.concatenate([recognised, is_class], axis=1), weight)  # (…, 2C)
    return _mean_of_defined(ratio(sums[..., :n_classes], sums[..., n_classes:]), axis=-1)


def _area_under_roc(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], weight: ArrayLike | None
) -> NDArray[np.float64]:
    sides = [side[np.argsort(scores[side])] for side in (np.flatnonzero(positive), np.flatnonzero(~positive))]
    few, many = sorted(sides, key=len)  # the running sum over the many is read at the scores of the few
    below = np.searchsorted(scores[many], scores[few], side="left")
    through = np.searchsorted(scores[many], scores[few], side="right")
    tied = bool((below != through).any())
    few_are_positive = few is sides[0]

    def statistic(block: NDArray) -> NDArray[np.float64]:
        running = _running_sum(block, many)
        beaten = np.take(running, below, axis=1).astype(np.float64)
        if tied:
            beaten = 0.5 * (beaten + np.take(running, through, axis=1))
        own = np.take(block, few, axis=1).astype(np.float64)
        pairs = own.sum(1) * running[:, -1]
        area = ratio(np.einsum("rn,rn->r", own, beaten), pairs)
        return area if few_are_positive else 1 - area

    return weighted(statistic, weight, len(scores))


def _average_precision(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], weight: ArrayLike | None
) -> NDArray[np.float64]:
    rank = -scores  # ascending: the highest score first
    yes, no = (side[np.argsort(rank[side])] for side in (np.flatnonzero(positive), np.flatnonzero(~positive)))
    through_yes = np.searchsorted(rank[yes], rank[yes], side="right")
    through_no = np.searchsorted(rank[no], rank[yes], side="right")

    def statistic(block: NDArray) -> NDArray[np.float64]:
        running = _running_sum(block, yes)
        true = np.take(running, through_yes, axis=1).astype(np.float64)
        called = true + np.take(_running_sum(block, no), through_no, axis=1)
        precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
        own = np.take(block, yes, axis=1).astype(np.float64)
        area = ratio(np.einsum("rn,rn->r", own, precision), running[:, -1])
        return np.where(np.take(block, no, axis=1).any(1), area, np.nan)

    return weighted(statistic, weight, len(scores))


def _running_sum(block: NDArray, order: NDArray[np.intp]) -> NDArray:
    """Sums of the weights of the first 0, 1, …, n cases in an order, (r, n + 1); exact for counts."""
    small = block.dtype.itemsize == 1 and len(order) < 2**23  # 255 * 2**23 fits into 32 bits
    sums = np.zeros((len(block), len(order) + 1), np.float64 if block.dtype.kind == "f" else np.int32 if small else int)
    np.cumsum(np.take(block, order, axis=1), axis=1, out=sums[:, 1:], dtype=sums.dtype)
    return sums


def _macro(values: list[NDArray[np.float64]]) -> Value:
    """Mean over labels; undefined where one of them is."""
    return as_value(np.mean(np.stack(values), axis=0))


def _mean_of_defined(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis), defined.sum(axis))
