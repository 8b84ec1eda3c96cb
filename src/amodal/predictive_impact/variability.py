r"""Variability of a prediction over the plausible completions of what is missing.

The measure of the paper is the mean total variation distance between the prediction under one completion and the mean
prediction (eq. 9),

.. math::
    V = \frac{1}{S} \sum_s \tfrac12 \sum_c | p_{sc} - \bar p_c |, \qquad \bar p = \frac{1}{S} \sum_s p_s .

It is neither a variance nor a mutual information: it is the probability mass that the missing modality could move. How
much it is expected to move when it is seen lies between V less its value on complete cases, and V
(:mod:`amodal.predictive_impact.reliability`).

Every function takes numpy arrays or torch tensors and gives back the same kind. Large inputs are worked on some cases
at a time, so that no intermediate result is larger than 64 MiB (or than a single case's draws), and memory maps stay
on disk.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from amodal.errors import ConfigurationError, ShapeError
from amodal.predictive_impact.draws import ArrayOrTensor, check_draws, check_probabilities, map_cases

__all__ = [
    "modality_standard_error",
    "modality_variability",
    "multilabel_variability",
    "normalised_variability",
    "regression_variability",
    "standard_error",
    "variability",
    "variability_bound",
    "variability_gap",
]


def variability(probabilities: ArrayOrTensor) -> ArrayOrTensor:
    r"""Variability V of each case's prediction over its draws (eq. 9).

    :math:`0 \le V \le 1 - \sum_c \bar p_c^2 \le 1 - 1/C`; the first bound is attained when every draw is certain of a
    class. The mean prediction is that of the same draws, which lowers V by a factor between :math:`\sqrt{(S-1)/S}`
    (draws spread like a normal law) and :math:`(S-1)/S` (certain draws): 2.5 to 5 % at 20 draws, 0.25 to 0.5 % at 200.

    Args:
        probabilities: Predictions under S completions, of shape (S, N, C); the last axis sums to one.

    Returns:
        V, of shape (N,), as the kind of array that came in.

    Raises:
        ShapeError: If there are not three axes.
        ConfigurationError: If there are no draws.
        DataError: If the last axis does not hold probabilities.

    Source:
        :cite:`madaan2026primo`, equation 9.

    Example:
        >>> import numpy as np
        >>> variability(np.array([[[1.0, 0.0], [0.6, 0.4]], [[0.0, 1.0], [0.6, 0.4]]]))
        array([0.5, 0. ])
    """
    check_draws(probabilities, "probabilities", "S", "N", "C")
    return map_cases(lambda part: _variability(check_probabilities(part, "probabilities"), 0), probabilities, 1)


def variability_bound(mean_probabilities: ArrayOrTensor) -> ArrayOrTensor:
    r"""The largest V that a mean prediction allows, :math:`1 - \sum_c \bar p_c^2`.

    It is attained by certain draws: distance is convex in a draw, and certain draws are the corners.

    Args:
        mean_probabilities: Mean predictions, of shape (N, C).

    Returns:
        The bounds, of shape (N,).

    Raises:
        ShapeError: If there are not two axes.
        DataError: If the last axis does not hold probabilities.

    Example:
        >>> variability_bound(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([0.5000, 0.0000])
    """
    check_draws(mean_probabilities, "mean probabilities", "N", "C")
    return map_cases(lambda part: _bound(check_probabilities(part, "mean probabilities")), mean_probabilities, 0)


def normalised_variability(probabilities: ArrayOrTensor, *, by: Literal["mean", "classes"] = "mean") -> ArrayOrTensor:
    r"""V as a share, in [0, 1], of the largest possible.

    Args:
        probabilities: Predictions under S completions, of shape (S, N, C).
        by: ``"mean"`` divides by :math:`1 - \sum_c \bar p_c^2`: the share of a prediction's uncertainty that the
            missing modality would settle (0 where the mean prediction is certain). ``"classes"`` divides by :math:`1 -
            1/C`: V on a scale that is the same for every number of classes.

    Returns:
        Shares, of shape (N,).

    Raises:
        AmodalError: As :func:`variability`; ConfigurationError for another `by`.

    Example:
        >>> certain = torch.eye(2).unsqueeze(1)
        >>> normalised_variability(certain), normalised_variability(certain, by="classes")
        (tensor([1.]), tensor([1.]))
    """
    if by not in ("mean", "classes"):
        raise ConfigurationError("unknown way to normalise", expected="'mean' or 'classes'", got=repr(by))
    check_draws(probabilities, "probabilities", "S", "N", "C")

    def share(part: Tensor) -> Tensor:
        value = _variability(check_probabilities(part, "probabilities"), 0)
        if by == "classes":
            return value / max(1.0 - 1.0 / part.shape[-1], torch.finfo(value.dtype).tiny)
        bound = _bound(part.mean(0))
        # Rounding of the bound is of the order of eps; below that nothing can be said, and nothing varies.
        certain = bound <= 8 * torch.finfo(bound.dtype).eps
        return torch.where(certain, 0.0, value / torch.where(certain, 1.0, bound)).clamp(max=1.0)

    return map_cases(share, probabilities, 1)


def standard_error(probabilities: ArrayOrTensor) -> ArrayOrTensor:
    r"""Monte-Carlo standard error of V for a finite number of draws.

    The standard deviation over draws of the influence a draw has on V, over :math:`\sqrt S`: its own distance, and
    what it does to everybody's distance by moving the mean,

    .. math::
        \mathrm{TVD}(p_s, \bar p)
        - \tfrac12 \sum_c \overline{\mathrm{sgn}(p_{\cdot c} - \bar p_c)} \, (p_{sc} - \bar p_c).

    Args:
        probabilities: Predictions under S independent completions, of shape (S, N, C).

    Returns:
        Standard errors, of shape (N,); NaN for a single draw.

    Raises:
        AmodalError: As :func:`variability`.

    Source:
        The delta method for statistical functionals; checked against repeated draws in the tests.

    Example:
        >>> draws = torch.eye(2)[torch.arange(100) % 2].unsqueeze(1)   # V is at its largest: first order error 0
        >>> standard_error(draws).item()
        0.0
    """
    check_draws(probabilities, "probabilities", "S", "N", "C")

    def error(part: Tensor) -> Tensor:
        deviation = check_probabilities(part, "probabilities") - part.mean(0)
        slope = deviation.sign().mean(0)  # (n, C)
        influence = 0.5 * (deviation.abs() - slope * deviation).sum(-1)  # (S, n)
        return _spread_of_mean(influence)

    return map_cases(error, probabilities, 1)


def variability_gap(missing: ArrayOrTensor, complete: ArrayOrTensor) -> ArrayOrTensor:
    """V with the modality missing less V with it observed, case by case.

    Args:
        missing: Predictions for completions drawn without the modality, of shape (S, N, C).
        complete: Predictions for completions drawn given the modality, of shape (S', N, C).

    Returns:
        Differences, of shape (N,). If completions are drawn from the right distributions, a prediction is expected to
        change by at least this much when the modality is seen, and by at most V with it missing.

    Raises:
        ShapeError: If the two disagree in N or C.
        AmodalError: As :func:`variability`.

    Source:
        :cite:`madaan2026primo`, figure 3.

    Example:
        >>> variability_gap(torch.eye(2).unsqueeze(1), torch.tensor([[[1.0, 0.0]]]))
        tensor([0.5000])
    """
    check_draws(missing, "missing", "S", "N", "C")
    check_draws(complete, "complete", "S", "N", "C")
    if missing.shape[1:] != complete.shape[1:]:
        raise ShapeError(
            "the draws are not of the same cases and classes",
            expected=f"(S, {missing.shape[1]}, {missing.shape[2]})",
            got=tuple(complete.shape),
        )
    return variability(missing) - variability(complete)


def modality_variability(probabilities: ArrayOrTensor) -> ArrayOrTensor:
    r"""V of one of several missing modalities: the others are held while it varies.

    .. math::
        V_u = \mathbb{E}_{z_{-u}} \mathbb{E}_{z_u}
        \mathrm{TVD}\big(p(\cdot \mid z), \mathbb{E}_{z_u} p(\cdot \mid z)\big)

    The :math:`V_u` need not add up to V: modalities that matter only together have large ones, redundant ones small
    ones. The factor of :func:`variability` by which the sample mean lowers V holds for the inner draws: 2.5 to 5 % at
    20 of them.

    Args:
        probabilities: Predictions from nested draws, of shape (K_out, K_in, N, C): K_out completions of the other
            modalities, and for each K_in completions of this one.

    Returns:
        :math:`V_u`, of shape (N,).

    Raises:
        ShapeError: If there are not four axes.
        ConfigurationError: If there are no draws.
        DataError: If the last axis does not hold probabilities.

    Source:
        Follows from :cite:`madaan2026primo`, equation 9, by conditioning.

    Example:
        >>> decided_by_the_other = torch.eye(2)[:, None, None].expand(2, 5, 1, 2)
        >>> modality_variability(decided_by_the_other), variability(decided_by_the_other.flatten(0, 1))
        (tensor([0.]), tensor([0.5000]))
    """
    check_draws(probabilities, "probabilities", "K_out", "K_in", "N", "C")
    return map_cases(lambda part: _nested(part).mean(0), probabilities, 2)


def modality_standard_error(probabilities: ArrayOrTensor) -> ArrayOrTensor:
    """Monte-Carlo standard error of :func:`modality_variability`.

    The outer draws are independent, and each gives one value of V; their spread contains the inner draws' noise.

    Args:
        probabilities: Predictions from nested draws, of shape (K_out, K_in, N, C).

    Returns:
        Standard errors, of shape (N,); NaN for a single outer draw.

    Raises:
        AmodalError: As :func:`modality_variability`.

    Example:
        >>> modality_standard_error(torch.eye(2)[:, None, None].expand(2, 5, 1, 2))
        tensor([0.])
    """
    check_draws(probabilities, "probabilities", "K_out", "K_in", "N", "C")
    return map_cases(lambda part: _spread_of_mean(_nested(part)), probabilities, 2)


def regression_variability(means: ArrayOrTensor, *, scale: float = 1.0) -> ArrayOrTensor:
    r"""V of a regression: the mean absolute deviation of the predicted means from their mean.

    :math:`V = \frac{1}{S} \sum_s |\mu_s - \bar\mu| / \mathrm{scale}`. This is the choice that agrees with eq. 9: for
    two classes the total variation distance is the absolute difference of the second class's probability, hence V its
    mean absolute deviation. It is also the mean Wasserstein distance between point predictions.

    Args:
        means: Predicted means under S completions, of shape (S, N).
        scale: What counts as one, in the target's units (its standard deviation, say); 1 keeps the target's units.

    Returns:
        V, of shape (N,), not bounded above.

    Raises:
        ShapeError: If there are not two axes.
        ConfigurationError: If there are no draws, or the scale is not positive.

    Example:
        >>> regression_variability(torch.tensor([[1.0, 4.0], [3.0, 4.0]]), scale=2.0)
        tensor([0.5000, 0.0000])
    """
    check_draws(means, "means", "S", "N")
    if not scale > 0:
        raise ConfigurationError("the scale of a regression must be positive", got=scale)
    return map_cases(lambda part: (part - part.mean(0)).abs().mean(0) / scale, means, 1)


def multilabel_variability(
    probabilities: ArrayOrTensor, *, over: Literal["labels", "mean", "max"] = "labels"
) -> ArrayOrTensor:
    r"""V of independent labels: eq. 9 for each label's two classes.

    :math:`V_k = \frac1S \sum_s |p_{sk} - \bar p_k|`, at most :math:`2 \bar p_k (1 - \bar p_k) \le 1/2`.

    Args:
        probabilities: Probabilities of K labels under S completions, of shape (S, N, K), each in [0, 1].
        over: ``"labels"`` keeps one V a label; ``"mean"`` and ``"max"`` summarise a case (expected number of moved
            labels over K; the label that is moved most).

    Returns:
        V, of shape (N, K), or (N,) for a summary.

    Raises:
        ShapeError: If there are not three axes.
        ConfigurationError: If there are no draws, or for another `over`.
        DataError: If entries are not in [0, 1].

    Example:
        >>> multilabel_variability(torch.tensor([[[0.0, 0.3]], [[1.0, 0.3]]]))
        tensor([[0.5000, 0.0000]])
    """
    check_draws(probabilities, "probabilities", "S", "N", "K")
    if over not in ("labels", "mean", "max"):
        raise ConfigurationError("unknown summary over labels", expected="'labels', 'mean' or 'max'", got=repr(over))

    def value(part: Tensor) -> Tensor:
        for_labels = torch.stack([1.0 - part, part], -1)  # (S, n, K, 2)
        each = _variability(check_probabilities(for_labels, "probabilities"), 0)
        return {"labels": each, "mean": each.mean(-1), "max": each.amax(-1)}[over]

    return map_cases(value, probabilities, 1)


def _variability(part: Tensor, draws: int) -> Tensor:
    """Eq. 9 over the given axis of draws, the last axis holding classes."""
    return 0.5 * (part - part.mean(draws, keepdim=True)).abs().sum(-1).mean(draws)


def _nested(part: Tensor) -> Tensor:
    """V over the inner draws for each outer one, (K_out, n)."""
    return _variability(check_probabilities(part, "probabilities"), 1)


def _bound(mean: Tensor) -> Tensor:
    return (1.0 - mean.square().sum(-1)).clamp(min=0.0)


def _spread_of_mean(values: Tensor) -> Tensor:
    """Standard error of the mean over the first axis; NaN for a single value."""
    if len(values) < 2:
        return torch.full_like(values[0], torch.nan)
    return values.std(0) / len(values) ** 0.5
