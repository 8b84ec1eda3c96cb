r"""The normal distribution in log space: both tails at once, and scores from log probabilities.

``torch.special.log_ndtr`` is exact but evaluates a scalar routine for each element, and each tail on its own. Copulas
need :math:`\log\Phi(t)` *and* :math:`\log\Phi(-t)` of many numbers, so both come here from one vectorised ``erfc``
and, beyond its range, from the asymptotic series of the Mills ratio. Hazards in the gradients are ratios that are
formed without cancellation, so they stay right hundreds of standard deviations away.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from amodal.distributions.log_space import some_above, some_below

__all__ = [
    "LOG_ROOT_TWO_PI",
    "normal_hazards",
    "normal_log_tails",
    "normal_score",
    "normal_score_slopes",
    "two_tails",
]

LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)
_ROOT_HALF = math.sqrt(0.5)
_FAR = {torch.float32: 12.0, torch.float64: 30.0}  # |t| beyond which erfc gives way to the series
_DEEP = {torch.float32: -80.0, torch.float64: -650.0}  # log u below which exp(log u) would underflow


def _mills_series(square: Tensor) -> Tensor:
    r""":math:`a\,\Phi(-a)/\phi(a) = 1 - a^{-2} + 3a^{-4} - 15 a^{-6} + …` as a function of :math:`a^2`."""
    x = 1.0 / square
    return 1 - x * (1 - x * (3 - x * (15 - x * (105 - x * (945 - x * 10395)))))


def _tails(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(log smaller tail, log larger tail, hazard of the smaller, hazard of the larger) of \\|t\\|, without a graph."""
    far = _FAR[t.dtype]
    a = t.abs()
    square = a * a
    smaller = torch.erfc(a * _ROOT_HALF).mul_(0.5)
    density = torch.exp(-0.5 * square - LOG_ROOT_TWO_PI)
    log_smaller, hazard = torch.log(smaller), density / smaller
    if some_above(a, far):
        beyond = a > far
        series = _mills_series(torch.where(beyond, square, far * far))
        log_far = -0.5 * square - LOG_ROOT_TWO_PI - torch.log(torch.where(beyond, a, far)) + torch.log(series)
        log_smaller = torch.where(beyond, log_far, log_smaller)
        hazard = torch.where(beyond, a / series, hazard)
    return log_smaller, torch.log1p(-smaller), hazard, density / (1.0 - smaller)


def _negative(t: Tensor) -> Tensor:
    """1 where t < 0, 0 where t > 0, a half at 0: weights of ``lerp``, which is several times faster than ``where``."""
    return torch.sign(t).sub_(1.0).mul_(-0.5)


def two_tails(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r""":math:`\Phi(t)`, :math:`\Phi(-t)` and :math:`\phi(t)` without a graph, the smaller tail to full precision.

    Args:
        t: Any shape; beyond about 13 (float32) or 38 (float64) in size, the smaller tail is zero.

    Returns:
        Three new tensors of the same shape.
    """
    smaller = t.abs().mul_(_ROOT_HALF).erfc_().mul_(0.5)
    larger = 1.0 - smaller
    negative = _negative(t)
    lower = torch.lerp(larger, smaller, negative)
    return lower, smaller.lerp_(larger, negative), (t * t).mul_(-0.5).sub_(LOG_ROOT_TWO_PI).exp_()


def normal_hazards(t: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\phi(t)/\Phi(t)` and :math:`\phi(t)/\Phi(-t)`, differentiable any number of times.

    Args:
        t: Any shape, float32 or float64.

    Returns:
        Two tensors of the same shape, finite for every finite t.
    """
    far = _FAR[t.dtype]
    negative = t < 0
    a = torch.where(negative, -t, t)  # not abs(): its gradient vanishes at 0
    beyond = a > far
    near = torch.where(beyond, far, a)
    density = torch.exp(-0.5 * near * near - LOG_ROOT_TWO_PI)
    smaller = 0.5 * torch.erfc(near * _ROOT_HALF)
    out = torch.where(beyond, a, far)
    hazard = torch.where(beyond, out / _mills_series(out * out), density / smaller)
    other = torch.where(beyond, 0.0, density / (1.0 - smaller))
    return torch.where(negative, hazard, other), torch.where(negative, other, hazard)


class _NormalLogTails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, t):  # type: ignore[override]
        log_smaller, log_larger, hazard, other = _tails(t)
        negative = _negative(t)
        ctx.save_for_backward(t, torch.lerp(other, hazard, negative), hazard.lerp_(other, negative))
        return torch.lerp(log_larger, log_smaller, negative), torch.lerp(log_smaller, log_larger, negative)

    @staticmethod
    def backward(ctx, grad_lower, grad_upper):  # type: ignore[override]
        t, lower, upper = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is wanted
            lower, upper = normal_hazards(t)
        return grad_lower * lower - grad_upper * upper


def normal_log_tails(t: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\log\Phi(t)` and :math:`\log\Phi(-t)` together, for the price of one.

    Args:
        t: Standardised values, any shape, float32 or float64.

    Returns:
        Two tensors of the same shape. Relative error about 1e-6 in float32 and 1e-14 in float64, to any \|t\|.

    Example:
        >>> lower, upper = normal_log_tails(torch.tensor([-40.0, 0.0, 1.0]))
        >>> lower.tolist(), upper.tolist()
        ([-804.608..., -0.693..., -0.172...], [-0.0, -0.693..., -1.841...])
    """
    return cast("tuple[Tensor, Tensor]", _NormalLogTails.apply(t))


def _deep_score(log_p: Tensor) -> Tensor:
    r"""a > 0 with :math:`\log\Phi(-a) = \log p` where p itself underflows: Newton on the asymptotic form."""
    a = torch.sqrt(-2 * log_p - torch.log(-4 * math.pi * log_p))
    for _ in range(4):
        series = _mills_series(a * a)
        value = -0.5 * a * a - LOG_ROOT_TWO_PI - torch.log(a) + torch.log(series)
        a = a + (value - log_p) * series / a
    return a


def normal_score_slopes(log_u: Tensor, log_1mu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r""":func:`normal_score` and its derivatives in :math:`\log u` and :math:`\log(1-u)`, without a graph."""
    log_p = torch.minimum(log_u, log_1mu)
    a = torch.special.ndtri(torch.exp(log_p)).neg_()
    slope = (a * a).mul_(0.5).add_(log_p).add_(LOG_ROOT_TWO_PI).exp_()  # p / phi(a): d score / d log p
    if some_below(log_p, _DEEP[log_p.dtype]):
        deep = log_p < _DEEP[log_p.dtype]
        a = torch.where(deep, _deep_score(torch.where(deep, log_p, -1e3)), a)
        slope = torch.where(deep, _mills_series(torch.where(deep, a * a, 1e4)) / a, slope)
    side = torch.sign(log_u - log_1mu)  # 1 in the upper half
    in_log_u = slope * (0.5 - 0.5 * side)
    return a.mul_(side), in_log_u, in_log_u - slope


class _NormalScore(torch.autograd.Function):
    @staticmethod
    def forward(ctx, log_u, log_1mu):  # type: ignore[override]
        score, *slopes = normal_score_slopes(log_u, log_1mu)
        ctx.save_for_backward(score, *slopes)
        return score

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        score, in_log_u, in_log_1mu = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is wanted
            upper = in_log_1mu != 0
            slope = 1 / normal_hazards(torch.where(upper, -score, score))[0]
            in_log_u, in_log_1mu = torch.where(upper, 0.0, slope), torch.where(upper, -slope, 0.0)
        return grad * in_log_u, grad * in_log_1mu


def normal_score(log_u: Tensor, log_1mu: Tensor) -> Tensor:
    r""":math:`\Phi^{-1}(u)` from both logarithms, exact where u or 1 - u has long underflowed.

    Args:
        log_u: :math:`\log u`, any shape, float32 or float64.
        log_1mu: :math:`\log(1-u)`, the same shape.

    Returns:
        The score, the same shape. Its gradient reaches the smaller of the two logarithms.

    Example:
        >>> lower, upper = normal_log_tails(torch.tensor([-1000.0, -3.0, 0.5, 20.0], dtype=torch.float64))
        >>> normal_score(lower, upper).tolist()
        [-1000.0, -3.0..., 0.5..., 20.0...]
    """
    return cast(Tensor, _NormalScore.apply(log_u, log_1mu))
