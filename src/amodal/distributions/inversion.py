"""Roots of increasing functions, elementwise over whole tensors, and gradients through them.

Quantiles of mixtures and of conditional copulas have no closed form. They are found without a graph by Chandrupatla's
bracketing method and then *attached*: the implicit function theorem gives the gradient of the root with respect to
everything the function depends on.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["attach_root", "solve_increasing"]

_UNWATCHED = 8  # iterations on a GPU before it is waited for, to see whether they were enough


def solve_increasing(
    function: Callable[[Tensor], Tensor], lower: Tensor, upper: Tensor, *, iterations: int = 100
) -> Tensor:
    """Root of an elementwise increasing function inside a bracket, to the precision of the dtype.

    Inverse quadratic interpolation where Chandrupatla's test allows it, bisection elsewhere: about 10 evaluations for
    smooth functions, never more than bisection needs. Where the bracket holds no root, its nearer end is returned.

    Args:
        function: Maps a tensor to one of the same shape; increasing in each element, finite or infinite, never NaN.
        lower: Lower ends, any shape.
        upper: Upper ends, the same shape.
        iterations: Most evaluations.

    Returns:
        The roots, without a graph.

    Source:
        Chandrupatla, *A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function without
        using derivatives*, 1997.

    Example:
        >>> ends = torch.zeros(3), torch.full((3,), 2.0)
        >>> solve_increasing(lambda x: x**3 - torch.tensor([1.0, 8.0, -1.0]), *ends)
        tensor([1., 2., 0.])
    """
    with torch.no_grad():
        a, b = upper.clone(), lower.clone()
        at_a, at_b = _bounded(function(a)), _bounded(function(b))
        outside = at_a.sign() * at_b.sign() > 0
        done = outside  # once done, always done: steps inside a bracket of a few roundings lead out of it again
        fallback = torch.where(at_b > 0, lower, upper)
        step = torch.full_like(a, 0.5)
        best = a
        epsilon = torch.finfo(a.dtype).eps
        for used in range(1, iterations + 1):
            trial = a + step * (b - a)
            at_trial = _bounded(function(trial))
            same = at_trial.sign() == at_a.sign()
            c, at_c = torch.where(same, a, b), torch.where(same, at_a, at_b)
            b, at_b = torch.where(same, b, a), torch.where(same, at_b, at_a)
            a, at_a = trial, at_trial
            best = torch.where(done, best, torch.where(at_a.abs() < at_b.abs(), a, b))
            at_best = torch.minimum(at_a.abs(), at_b.abs())
            least = (2 * epsilon * best.abs() + torch.finfo(a.dtype).tiny) / (b - c).abs().clamp_min(1e-300)
            done = done | (least > 0.5) | (at_best == 0)
            if (used % _UNWATCHED == 0 or not a.is_cuda) and bool(done.all()):
                break
            least = least.clamp(max=0.5)
            step = _next_step(a, b, c, at_a, at_b, at_c).clamp(0.0, 1.0)
            step = torch.minimum(torch.maximum(step, least), 1.0 - least)
        return torch.where(outside, fallback, best)


def _bounded(value: Tensor) -> Tensor:
    return value.clamp(-1e30, 1e30)


def _next_step(a: Tensor, b: Tensor, c: Tensor, at_a: Tensor, at_b: Tensor, at_c: Tensor) -> Tensor:
    """Inverse quadratic interpolation through the three points where it is safe, a half elsewhere."""
    xi, phi = (a - b) / (c - b), (at_a - at_b) / (at_c - at_b)
    safe = (phi * phi < xi) & ((1 - phi) ** 2 < 1 - xi)
    first = at_a / (at_b - at_a) * at_c / (at_b - at_c)
    second = (c - a) / (b - a) * at_a / (at_c - at_a) * at_b / (at_c - at_b)
    step = first + second
    return torch.where(safe & torch.isfinite(step), step, 0.5)


def attach_root(function: Callable[[Tensor], Tensor], root: Tensor, *, least_slope: float = 0.0) -> Tensor:
    r"""The same root with gradients: :math:`dx = -\frac{\partial_p f\, dp}{\partial_x f}`.

    Args:
        function: The function whose root was found, elementwise, its parameters carrying a graph.
        root: The root, without a graph.
        least_slope: Slopes :math:`\partial_x f` below this count as this, which bounds the gradient (and biases it
            there). 0 changes nothing.

    Returns:
        The same values; differentiable once with respect to whatever ``function`` depends on.

    Example:
        >>> p = torch.tensor(4.0, requires_grad=True)
        >>> root = attach_root(lambda x: x * x - p, torch.tensor(2.0))
        >>> root.backward()
        >>> root.item(), p.grad.item()  # sqrt(p) and 1 / (2 sqrt(p))
        (2.0, 0.25)
    """
    if not torch.is_grad_enabled():
        return root
    value = function(root.detach())
    if not value.requires_grad:
        return root
    free = root.detach().requires_grad_()
    again = function(free)
    slope = torch.autograd.grad(again, free, torch.ones_like(again))[0].clamp_min(least_slope)
    usable = torch.isfinite(slope) & (slope != 0)
    correction = (value - value.detach()) / torch.where(usable, slope, 1.0)
    return root - torch.where(usable, correction, 0.0)
