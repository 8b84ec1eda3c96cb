"""Draws, in log space, of the positive variables whose Laplace transforms are the Archimedean generators.

All as logarithms: a Joe or Gumbel frailty has no mean, and its draws leave the range of floating point.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amodal.distributions.log_space import log1mexp, log_neg_log

__all__ = ["log_gamma_draw", "log_logarithmic", "log_sibuya", "log_stable"]


def _log_uniform(theta: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """log of a uniform on (0, 1), shape (n, …)."""
    draws = torch.empty((n, *theta.shape), dtype=theta.dtype, device=theta.device)
    return -draws.exponential_(generator=generator).clamp_min(torch.finfo(theta.dtype).tiny)


def log_gamma_draw(shape_parameter: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""Log of a Gamma(a, 1) draw, also for small a, where the draw itself underflows.

    Uses :math:`G_a = G_{a+1} U^{1/a}`.

    Args:
        shape_parameter: a > 0, any shape.
        generator: Source of randomness.

    Returns:
        The same shape.
    """
    boosted = torch._standard_gamma((shape_parameter + 1).contiguous(), generator=generator)
    return boosted.log() + _log_uniform(shape_parameter[0], shape_parameter.shape[0], generator) / shape_parameter


def log_stable(theta: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    r"""Log of a positive stable draw of index :math:`1/\theta`: Laplace transform :math:`\exp(-t^{1/\theta})`.

    Source:
        Chambers, Mallows & Stuck, *A method for simulating stable random variables*, 1976 (Kanter's form).
    """
    alpha, rest = 1 / theta, (theta - 1).clamp_min(1e-30) / theta
    uniform = torch.rand((n, *theta.shape), dtype=theta.dtype, device=theta.device, generator=generator)
    angle = math.pi * uniform.clamp(torch.finfo(theta.dtype).eps, 1 - torch.finfo(theta.dtype).eps)
    log_exponential = (-_log_uniform(theta, n, generator)).log()
    spread = (rest / alpha) * (torch.sin(rest * angle).log() - log_exponential)
    return torch.sin(alpha * angle).log() - torch.sin(angle).log() / alpha + spread


def _log_geometric(log_uniform: Tensor, log_failure: Tensor, log_success: Tensor) -> Tensor:
    """Log of a geometric draw on {1, 2, …}; where it is huge, of the exponential it then is."""
    log_ratio = (-log_uniform).log() - log_neg_log(log_failure, log_success)
    whole = torch.floor(torch.exp(log_ratio.clamp(max=30.0))) + 1
    return torch.where(log_ratio < 30.0, whole.log(), log_ratio)


def log_logarithmic(theta: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    r"""Log of a draw from the logarithmic series with :math:`p = 1 - e^{-\theta}`, the frailty of Frank's copula.

    A geometric whose success probability is :math:`e^{-\theta U}`, U uniform.

    Source:
        Kemp, *Efficient generation of logarithmically distributed pseudo-random variables*, 1981.
    """
    exponent = theta * _log_uniform(theta, n, generator).exp()
    exponent = exponent.clamp_min(torch.finfo(theta.dtype).tiny)
    return _log_geometric(_log_uniform(theta, n, generator), log1mexp(exponent), -exponent)


def log_sibuya(theta: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    r"""Log of a Sibuya(:math:`1/\theta`) draw: Laplace transform :math:`1 - (1 - e^{-t})^{1/\theta}`, Joe's frailty.

    A geometric whose success probability is Beta(:math:`\alpha, 1-\alpha`), :math:`\alpha = 1/\theta`.

    Source:
        Devroye, *A triptych of discrete distributions related to the stable law*, 1993.
    """
    alpha, rest = 1 / theta, ((theta - 1) / theta).clamp_min(1e-30)
    first = log_gamma_draw(alpha.expand(n, *theta.shape), generator)
    second = log_gamma_draw(rest.expand(n, *theta.shape), generator)
    total = torch.logaddexp(first, second)
    tiny = torch.finfo(theta.dtype).tiny
    success, failure = (first - total).clamp(max=-tiny), (second - total).clamp(max=-tiny)
    return _log_geometric(_log_uniform(theta, n, generator), failure, success)
