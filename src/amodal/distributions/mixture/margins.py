r"""Univariate Gaussian mixtures, many at once: log density and both logarithms of the distribution function.

A copula on the coordinates of a mixture needs :math:`\log f`, :math:`\log F` and :math:`\log(1-F)` of every coordinate
in every step of training. They come from one pass with a hand-written gradient, in linear space as long as nothing
underflows, and in log space, component by component, as soon as anything does.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from amodal.distributions.log_space import log1mexp
from amodal.distributions.normal import LOG_ROOT_TWO_PI, normal_hazards, normal_log_tails, two_tails

__all__ = ["mixture_margins"]

_SAFE_TAIL = {torch.float32: 1e-30, torch.float64: 1e-250}


class _Margins(torch.autograd.Function):
    """Few large buffers, used in place: allocating them costs more than filling them."""

    @staticmethod
    def forward(ctx, z, log_weights, means, scales):  # type: ignore[override]
        ctx.shapes = z.shape, log_weights.shape, means.shape, scales.shape
        inverse = 1.0 / scales
        t = (z.unsqueeze(-2) - means).mul_(inverse)  # (…, K, D)
        result = None if z.is_cuda else _linear(t, torch.exp(log_weights).unsqueeze(-1), inverse)
        ctx.linear = result is not None
        values, saved = result or _logarithmic(t, log_weights.unsqueeze(-1), torch.log(scales))
        ctx.save_for_backward(t, inverse, *saved)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_density, grad_lower, grad_upper):  # type: ignore[override]
        t, inverse, of_density, of_lower, of_upper, *rest = ctx.saved_tensors
        grads = [grad_density.unsqueeze(-2), grad_lower.unsqueeze(-2), grad_upper.unsqueeze(-2)]
        if ctx.linear:  # what was saved are terms of sums: divide the gradients by the sums
            weighted, *totals = rest
            grads = [g / total for g, total in zip(grads, totals, strict=True)]
            in_t = weighted * (grads[1] - grads[2])
        else:  # shares already
            in_t = (rest[0] * grads[1]).addcmul_(rest[1], grads[2], value=-1)
        own = of_density * grads[0]
        in_t.addcmul_(own, t, value=-1)
        in_weight = (of_lower * grads[1]).addcmul_(of_upper, grads[2]).add_(own).sum(-1)
        in_scale = own.addcmul_(in_t, t).mul_(inverse)
        in_mean = in_t.mul_(inverse)
        shapes = ctx.shapes
        return (
            in_mean.sum(-2).sum_to_size(shapes[0]),
            in_weight.sum_to_size(shapes[1]),
            -in_mean.sum_to_size(shapes[2]),
            -in_scale.sum_to_size(shapes[3]),
        )


def _linear(t: Tensor, weights: Tensor, inverse: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None:
    r"""The three results without logarithms of components, and the terms :math:`\pi_k \sigma_k^{-1}\phi(t_k)`,
    :math:`\pi_k\Phi(t_k)`, :math:`\pi_k\Phi(-t_k)`, :math:`\pi_k\phi(t_k)` with the sums of the first three.

    None if a tail or a density comes near underflow.
    """
    of_lower, of_upper, weighted = two_tails(t)
    of_lower.mul_(weights)
    of_upper.mul_(weights)
    below, above = of_lower.sum(-2, keepdim=True), of_upper.sum(-2, keepdim=True)
    smaller = torch.minimum(below, above)
    if smaller.numel() and not float(smaller.amin()) > _SAFE_TAIL[t.dtype]:
        return None
    weighted.mul_(weights)
    of_density = weighted * inverse
    total = of_density.sum(-2, keepdim=True)
    if total.numel() and not float(total.amin()) > _SAFE_TAIL[t.dtype]:  # in a wide gap between components
        return None
    side = torch.sign(below - above).add_(1.0).mul_(0.5)  # 1 where the lower tail is the larger
    log_smaller, log_larger = torch.log(smaller), torch.log1p(-smaller)
    log_lower, log_upper = torch.lerp(log_smaller, log_larger, side), torch.lerp(log_larger, log_smaller, side)
    values = torch.log(total).squeeze(-2), log_lower.squeeze(-2), log_upper.squeeze(-2)
    return values, (of_density, of_lower, of_upper, weighted, total, below, above)


def _softmax(x: Tensor) -> tuple[Tensor, Tensor]:
    """log-sum-exp over the axis of the components, and the shares."""
    top = x.amax(-2, keepdim=True)
    shares = torch.exp(x - top)
    total = shares.sum(-2, keepdim=True)
    return (top + torch.log(total)).squeeze(-2), shares / total


def _logarithmic(t: Tensor, log_weights: Tensor, log_scales: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The three results by components, their shares, and the shares of the tails times their hazards."""
    lower, upper = normal_log_tails(t)
    log_density, of_density = _softmax(log_weights - log_scales - 0.5 * t * t - LOG_ROOT_TWO_PI)
    log_lower, of_lower = _softmax(log_weights + lower)
    log_upper, of_upper = _softmax(log_weights + upper)
    smaller = torch.minimum(log_lower, log_upper)
    larger = log1mexp(-smaller)  # a sum of logarithms next to zero would be its rounding errors
    lower_is_smaller = log_lower < log_upper
    log_lower = torch.where(lower_is_smaller, smaller, larger)
    log_upper = torch.where(lower_is_smaller, larger, smaller)
    hazards = normal_hazards(t)
    shares = (of_density, of_lower, of_upper, of_lower * hazards[0], of_upper * hazards[1])
    return (log_density, log_lower, log_upper), shares


def mixture_margins(z: Tensor, log_weights: Tensor, means: Tensor, scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Log density and both logarithms of the distribution function of univariate Gaussian mixtures.

    .. math::
        f(z) = \sum_k \pi_k \sigma_k^{-1} \phi(t_k), \qquad F(z) = \sum_k \pi_k \Phi(t_k), \qquad
        t_k = (z - \mu_k)/\sigma_k

    Args:
        z: Points, shape (…, D).
        log_weights: :math:`\log\pi`, shape (…, K), normalised; shared by the D coordinates.
        means: :math:`\mu`, shape (…, K, D).
        scales: :math:`\sigma > 0`, shape (…, K, D).

    Returns:
        :math:`\log f`, :math:`\log F` and :math:`\log(1-F)`, each of shape (…, D). Exact hundreds of standard
        deviations away; gradients to all four arguments, once.

    Example:
        >>> z = torch.tensor([0.0, 60.0])
        >>> density, lower, upper = mixture_margins(
        ...     z, torch.tensor([0.5, 0.5]).log(), torch.tensor([[-3.0], [3.0]]), torch.ones(2, 1))
        >>> lower.exp().tolist(), upper.tolist()
        ([0.5, 1.0], [-0.693..., -1630.15...])
    """
    return cast("tuple[Tensor, Tensor, Tensor]", _Margins.apply(z, log_weights, means, scales))
