r"""The Kendall transform: a uniform variable from the joint distribution function of a vector.

For D independent coordinates, :math:`F(z) = \prod_j F_j(z_j)` is *not* uniform unless D = 1, so it is no argument of a
copula; :math:`g = -\log F(z)` is a Gamma(D, 1) variable, and :math:`u = P(\mathrm{Gamma}(D, 1) > g)` is uniform.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amodal.distributions.inversion import attach_root, solve_increasing
from amodal.distributions.log_space import log1mexp
from amodal.distributions.normal import normal_score

__all__ = ["kendall_log_cdf", "kendall_score"]

_EXACT_UP_TO = 48
_LEAST = 1e-30  # of -log F: where every coordinate is far above, F rounds to one


def kendall_score(log_cdf: Tensor, dim: int) -> Tensor:
    r"""Normal score of the uniform variable, :math:`\xi = \Phi^{-1}(u)`.

    .. math::
        \xi \approx -\sqrt{9 D} \Bigl[ (g/D)^{1/3} - 1 + \tfrac{1}{9D} \Bigr], \qquad g = -\log F(z)

    Wilson and Hilferty's approximation for D > 48, where the error of u is below 1.2e-4; for fewer dimensions the
    finite sum of the Erlang distribution, in log space. Neither underflows.

    Args:
        log_cdf: :math:`\log F(z) < 0`, any shape.
        dim: D.

    Returns:
        The same shape; ``normal_log_tails`` of it gives :math:`\log u` and :math:`\log(1-u)`.

    Example:
        >>> kendall_score(torch.tensor([0.3]).log(), 1)  # one dimension: F itself is uniform
        tensor([-0.5244])
    """
    g = (-log_cdf).clamp_min(_LEAST)
    if dim > _EXACT_UP_TO:
        return -math.sqrt(9 * dim) * ((g / dim) ** (1 / 3) - 1 + 1 / (9 * dim))
    log_g = torch.log(g).unsqueeze(-1)
    many = dim + 120
    terms = torch.arange(many, dtype=g.dtype, device=g.device)
    log_poisson = terms * log_g - torch.lgamma(terms + 1) - g.unsqueeze(-1)
    log_u = torch.logsumexp(log_poisson[..., :dim], -1)
    log_1mu = torch.logsumexp(log_poisson[..., dim:], -1)
    near_one = g < dim  # then the tail of the sum converges at once, and is the smaller
    half = math.log(0.5)
    log_u_far = log1mexp(-torch.where(near_one, log_1mu, half))
    log_1mu_far = log1mexp(-torch.where(near_one, half, log_u))
    return normal_score(torch.where(near_one, log_u_far, log_u), torch.where(near_one, log_1mu, log_1mu_far))


def kendall_log_cdf(score: Tensor, dim: int) -> Tensor:
    """Inverse of :func:`kendall_score`: the log of F(z) that has this score.

    Args:
        score: Normal score, any shape.
        dim: D.

    Returns:
        The same shape.
    """
    root = math.sqrt(9 * dim)
    if dim > _EXACT_UP_TO:
        return -dim * (1 - 1 / (9 * dim) - score / root).clamp_min(1e-6) ** 3
    start = torch.full_like(score, -40.0), torch.full_like(score, 12.0)

    def excess(log_g: Tensor) -> Tensor:
        return score - kendall_score(-torch.exp(log_g), dim)

    return -torch.exp(attach_root(excess, solve_increasing(excess, *start)))
