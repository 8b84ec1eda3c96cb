r"""Weights of completions, so that what they say agrees with what the model says now.

A completion :math:`x_s` of what a case lacks leads to a prediction :math:`p_s`. If completions come from the right
law, the mean of the predictions to be expected is the present one, :math:`\sum_s w_s p_s = p`: evidence that has not
been seen cannot move a belief in a known direction. Similar training cases, equally likely, do not satisfy this,
because they ignore what the model already knows about the target. Two weightings do:

- by class: :math:`p(x_u \mid x_o) = \sum_y p(y \mid x_o)\, p(x_u \mid y, x_o)`, so that a donor counts as the present
  probability of its class, over the number of its class among the donors (`class_weights`);
- by tilting: the weights closest to given ones, in Kullback-Leibler divergence, under which the mean of the
  predictions is the present one (`tilt`). It needs no labels, and serves several labels and values as well.

What is left of the difference is the gap, which a result reports.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["class_weights", "effective_number", "tilt", "weighted_error", "weighted_mean"]

_RIDGE = 1e-4
_STEPS = 30


def class_weights(weights: Tensor, classes: Tensor, present: Tensor) -> Tensor:
    r"""Weights of donors by the present probability of their class.

    .. math:: w_s \propto \sum_c p_c \, \frac{v_s q_{sc}}{\sum_r v_r q_{rc}}

    with :math:`v` the weights given and :math:`q_s` the class of donor s, certain or not. Probability of a class that
    no donor has is spread over the others in proportion.

    Args:
        weights: Weights :math:`v` of each case's donors, of shape (S, B), zero or positive.
        classes: Class of each donor as probabilities :math:`q`, of shape (S, B, C).
        present: The present prediction :math:`p` of each case, of shape (B, C).

    Returns:
        Weights of shape (S, B) that add up to one over the donors.

    Example:
        >>> donors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[:, None]  # two of class 0, one of class 1
        >>> class_weights(torch.ones(3, 1), donors, torch.tensor([[0.2, 0.8]])).flatten()
        tensor([0.1000, 0.1000, 0.8000])
    """
    share = weights[..., None] * classes  # (S, B, C)
    total = share.sum(0)
    joint = share * torch.where(total > 0, present / total.clamp(min=1e-30), 0.0)
    result = joint.sum(-1)
    mass = result.sum(0)
    lost = mass <= 1e-12  # every class of the present prediction lacks a donor
    return torch.where(lost, weights / weights.sum(0).clamp(min=1e-30), result / mass.clamp(min=1e-30))


def tilt(predictions: Tensor, weights: Tensor, present: Tensor) -> Tensor:
    r"""The closest weights under which the mean prediction is the present one.

    .. math:: w_s \propto v_s \exp(\lambda^\top p_s), \qquad \sum_s w_s p_s = p,

    with :math:`\lambda` from Newton's method on the convex dual, which a small ridge keeps finite where no weights
    reach the present prediction; then a gap remains.

    Args:
        predictions: Predictions :math:`p_s`, of shape (S, B, D).
        weights: Weights :math:`v` that add up to one over S, of shape (S, B).
        present: The present prediction, of shape (B, D).

    Returns:
        Weights of shape (S, B) that add up to one over S.

    Source:
        Exponential tilting, the information projection of :cite:`csiszar1975divergence`.

    Example:
        >>> donors = torch.tensor([0.0, 0.5, 1.0])[:, None, None]
        >>> tilted = tilt(donors, torch.full((3, 1), 1 / 3), torch.tensor([[0.8]]))
        >>> round((tilted[..., None] * donors).sum().item(), 3)
        0.8
    """
    x = (predictions - present).double()  # (S, B, D)
    unit = x.abs().amax((0, 2)).clamp(min=1e-12)  # (B,)
    x = x / unit[:, None]
    if x.shape[2] > len(x):  # only what the completions span matters: coordinates in it, S of them, say the same
        values, vectors = torch.linalg.eigh(torch.einsum("sbd,tbd->bst", x, x))
        x = (vectors * values.clamp(min=0).sqrt()[:, None]).transpose(0, 1)
    log_v = weights.double().clamp(min=0).log()
    slope = x.new_zeros(x.shape[1:])  # lambda, (B, D)
    eye = torch.eye(x.shape[2], dtype=x.dtype, device=x.device)

    def dual(at: Tensor) -> tuple[Tensor, Tensor]:
        logs = log_v + (x * at).sum(-1)
        return logs.logsumexp(0) + 0.5 * _RIDGE * at.square().sum(-1), logs.softmax(0)

    value, w = dual(slope)
    for _ in range(_STEPS):
        mean = (w[..., None] * x).sum(0)
        away = x - mean
        curvature = torch.einsum("sb,sbd,sbe->bde", w, away, away) + _RIDGE * eye
        step = torch.linalg.solve(curvature, mean + _RIDGE * slope)
        size = torch.ones_like(value)
        for _ in range(12):  # halve a case's step until its dual falls
            trial, trial_w = dual(slope - size[:, None] * step)
            worse = trial > value + 1e-12
            if not bool(worse.any()):
                break
            size = torch.where(worse, 0.5 * size, size)
        better = trial <= value + 1e-12
        slope = torch.where(better[:, None], slope - size[:, None] * step, slope)
        moved = (value - trial)[better]
        value, w = torch.where(better, trial, value), torch.where(better, trial_w, w)
        if not len(moved) or float(moved.max()) < 1e-10:
            break
    return w.to(weights.dtype)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Means over completions (B, …) of values (S, B, …) with weights (S, B)."""
    return (values * weights.view(*weights.shape, *[1] * (values.dim() - 2))).sum(0)


def weighted_error(influence: Tensor, weights: Tensor) -> Tensor:
    """Standard errors (B,) of weighted means from each completion's influence (S, B); NaN for a single completion.

    .. math:: \\sqrt{\\sum_s w_s^2 (h_s - \\bar h)^2 / (1 - \\sum_s w_s^2)}, which for equal weights is the usual one.
    """
    away = influence - weighted_mean(influence, weights)
    concentration = weights.square().sum(0)
    error = ((weights * away).square().sum(0) / (1 - concentration).clamp(min=1e-12)).sqrt()
    return torch.where(concentration > 1 - 1e-6, torch.nan if len(weights) < 2 else 0.0, error)


def effective_number(weights: Tensor) -> Tensor:
    """Number of equally likely completions (B,) that say as much as those with weights (S, B)."""
    return 1.0 / weights.square().sum(0).clamp(min=1e-30)
