r"""Kendall's tau of the Archimedean families as differentiable functions of theta, and their inverses."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from amodal.errors import UnknownNameError

__all__ = ["frank_tau", "joe_tau", "theta_from_tau"]


@lru_cache(maxsize=8)
def gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on (0, 1), float64."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy(0.5 * (nodes + 1)), torch.from_numpy(0.5 * weights)


def frank_tau(theta: Tensor) -> Tensor:
    r"""Kendall's tau of the Frank copula, an odd function of any real theta.

    .. math::
        \tau = 1 - \frac4\theta \bigl(1 - D_1(\theta)\bigr) =
        \frac4\theta\Bigl(\int_0^1 \frac{\theta x}{e^{\theta x} - 1} dx - 1\Bigr) + 1

    For \|theta\| < 0.1 a series, which cancels nothing.

    Example:
        >>> frank_tau(torch.tensor([-5.0, 0.0, 5.0], dtype=torch.float64)).tolist()
        [-0.4567..., 0.0, 0.4567...]
    """
    small = theta.abs() < 0.1
    series = theta / 9 - theta**3 / 900 + theta**5 / 52920
    size = torch.where(small, 1.0, theta).abs()
    nodes, weights = (x.to(dtype=theta.dtype, device=theta.device) for x in gauss_legendre(64))
    end = size.clamp(max=40.0)  # beyond, the integrand is below e^{-40}
    t = end.unsqueeze(-1) * nodes
    debye = end * (weights * t / torch.expm1(t)).sum(-1) / size
    return torch.where(small, series, torch.sign(theta) * (1 - 4 / size * (1 - debye)))


_DIGAMMA_2 = 0.4227843350984671394  # 1 - Euler's constant
_POLYGAMMA_2 = (  # derivatives of digamma at 2, from values of the zeta function
    math.pi**2 / 6 - 1,
    2 - 2 * 1.2020569031595942854,
    math.pi**4 / 15 - 6,
    24 - 24 * 1.0369277551433699263,
)


def joe_tau(theta: Tensor) -> Tensor:
    r"""Kendall's tau of the Joe copula.

    .. math::
        \tau = 1 - 4\sum_{k\ge1} \frac{1}{k(\theta k+2)(\theta(k-1)+2)}
             = 1 - x \frac{\digamma(1+x) - \digamma(2)}{x - 1}, \qquad x = 2/\theta

    Next to x = 1 (theta = 2) the divided difference is a series in x - 1.

    Example:
        >>> joe_tau(torch.tensor([2.0, 5.0], dtype=torch.float64)).tolist()
        [0.3550659..., 0.6772...]
    """
    x = 2 / theta
    step = x - 1
    near = step.abs() < 1e-3
    first, second, third, fourth = _POLYGAMMA_2
    series = first + step * (second / 2 + step * (third / 6 + step * fourth / 24))
    safe = torch.where(near, 1.0, step)
    divided = (torch.digamma(1 + torch.where(near, 2.0, x)) - _DIGAMMA_2) / safe
    return 1 - x * torch.where(near, series, divided)


def theta_from_tau(family: str, tau: Tensor) -> Tensor:
    """Theta of a family whose Kendall's tau is given.

    Args:
        family: "Clayton", "Gumbel", "Frank" or "Joe".
        tau: Values inside the family's range.

    Returns:
        The same shape and dtype.
    """
    if family == "Clayton":
        return (2 * tau / (1 - tau)).clamp_min(1e-30)
    if family == "Gumbel":
        return 1 / (1 - tau)
    if family == "Frank":
        size = _invert(frank_tau, tau.abs(), 0.0, 1e9)
        return torch.sign(tau) * size.clamp_min(1e-30)
    if family == "Joe":
        return _invert(joe_tau, tau, 1.0, 1e9)
    raise UnknownNameError("Archimedean family", family, ("Clayton", "Frank", "Gumbel", "Joe"))


def _invert(function, tau: Tensor, lower: float, upper: float) -> Tensor:
    """Solve on the scale of log(1 + theta - lower), in float64."""
    from amodal.distributions.inversion import solve_increasing

    goal = tau.double()
    high = torch.full_like(goal, upper).log()
    root = solve_increasing(lambda s: function(lower + torch.expm1(s)) - goal, torch.zeros_like(goal), high)
    return (lower + torch.expm1(root)).to(tau.dtype)
