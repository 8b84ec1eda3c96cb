r"""Univariate Gaussian mixtures, many at once: log density, both logarithms of the distribution function, quantiles.

A copula on the coordinates of a mixture needs :math:`\log f`, :math:`\log F` and :math:`\log(1-F)` of every coordinate
in every step of training. They come from one pass with a hand-written gradient, in linear space as long as nothing
underflows, and in log space, component by component, as soon as anything does.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from amodal.distributions.inversion import attach_root, solve_increasing
from amodal.distributions.log_space import log1mexp
from amodal.distributions.normal import LOG_ROOT_TWO_PI, normal_hazards, normal_log_tails, normal_score, two_tails

__all__ = ["mixture_margins", "mixture_quantile"]

_SAFE_TAIL = {torch.float32: 1e-30, torch.float64: 1e-250}


def _softmax(x: Tensor) -> tuple[Tensor, Tensor]:
    """log-sum-exp over the axis of the components, and the shares."""
    top = x.amax(-2, keepdim=True)
    shares = torch.exp(x - top)
    total = shares.sum(-2, keepdim=True)
    return (top + torch.log(total)).squeeze(-2), shares / total


class _Margins(torch.autograd.Function):
    """Saves, for each component, what the gradient of each result with respect to log weight and t needs."""

    @staticmethod
    def forward(ctx, z, log_weights, means, scales):  # type: ignore[override]
        inverse = 1.0 / scales
        t = (z.unsqueeze(-2) - means) * inverse  # (…, K, D)
        weights = torch.exp(log_weights).unsqueeze(-1)
        result = None if z.is_cuda else _linear(t, weights, inverse)
        if result is None:
            result = _logarithmic(t, log_weights.unsqueeze(-1), torch.log(scales))
        values, shares = result
        ctx.save_for_backward(t, inverse, *shares)
        ctx.shapes = z.shape, log_weights.shape, means.shape, scales.shape
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_density, grad_lower, grad_upper):  # type: ignore[override]
        t, inverse, of_density, of_lower, of_upper, hazard_lower, hazard_upper = ctx.saved_tensors
        shapes = ctx.shapes
        grads = (grad_density.unsqueeze(-2), grad_lower.unsqueeze(-2), grad_upper.unsqueeze(-2))
        own = grads[0] * of_density
        in_t = grads[1] * hazard_lower - grads[2] * hazard_upper - own * t
        in_mean = in_t * inverse
        in_scale = -(own + in_t * t) * inverse
        in_weight = own.sum(-1) + (grads[1] * of_lower).sum(-1) + (grads[2] * of_upper).sum(-1)
        return (
            in_mean.sum(-2).sum_to_size(shapes[0]),
            in_weight.sum_to_size(shapes[1]),
            -in_mean.sum_to_size(shapes[2]),
            in_scale.sum_to_size(shapes[3]),
        )


def _linear(t: Tensor, weights: Tensor, inverse: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None:
    """The three results and their shares without logarithms of components; None if a tail comes near underflow."""
    lower, upper, density = two_tails(t)
    of_lower, of_upper, weighted = weights * lower, weights * upper, weights * density
    below, above = of_lower.sum(-2, keepdim=True), of_upper.sum(-2, keepdim=True)
    smaller = torch.minimum(below, above)
    if not float(smaller.amin()) > _SAFE_TAIL[t.dtype] if smaller.numel() else False:
        return None
    of_density = weighted * inverse
    total = of_density.sum(-2, keepdim=True)
    log_smaller, log_larger = torch.log(smaller), torch.log1p(-smaller)
    side = torch.sign(below - above).add_(1.0).mul_(0.5)  # 1 where the lower tail is the larger
    log_lower, log_upper = torch.lerp(log_smaller, log_larger, side), torch.lerp(log_larger, log_smaller, side)
    below, above = 1.0 / below, 1.0 / above
    values = (torch.log(total).squeeze(-2), log_lower.squeeze(-2), log_upper.squeeze(-2))
    shares = (of_density / total, of_lower * below, of_upper * above, weighted * below, weighted * above)
    return values, shares


def _logarithmic(t: Tensor, log_weights: Tensor, log_scales: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
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


def mixture_quantile(log_u: Tensor, log_1mu: Tensor, log_weights: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    r"""Quantiles of univariate Gaussian mixtures, from both logarithms of the probability.

    Bracketed by the quantiles of the components; gradients by the implicit function theorem,
    :math:`dz = (du - \partial_p F\, dp)/f(z)`.

    Args:
        log_u: :math:`\log u`, shape (…, D).
        log_1mu: :math:`\log(1-u)`, the same shape.
        log_weights: :math:`\log\pi`, shape (…, K).
        means: :math:`\mu`, shape (…, K, D).
        scales: :math:`\sigma`, shape (…, K, D).

    Returns:
        z with :math:`F(z) = u`, shape (…, D).
    """
    goal = log_u - log_1mu

    def excess(z: Tensor) -> Tensor:
        _, lower, upper = mixture_margins(z, log_weights, means, scales)
        return lower - upper - goal

    with torch.no_grad():
        score = normal_score(log_u, log_1mu).unsqueeze(-2)
        each = means + scales * score  # (…, K, D)
        slack = 1e-3 * scales.amax(-2) + 4 * torch.finfo(each.dtype).eps * each.abs().amax(-2)
        lower, upper = each.amin(-2) - slack, each.amax(-2) + slack
        shape = torch.broadcast_shapes(goal.shape, lower.shape)
    return attach_root(excess, solve_increasing(excess, lower.expand(shape), upper.expand(shape)))
