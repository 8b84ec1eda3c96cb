"""The Joe copula."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from amodal.distributions.copula.abstract import TailDependence
from amodal.distributions.copula.archimedean import (
    NOTHING,
    Archimedean,
    by_count,
    exponential,
    fill,
    invert_tau,
    log_geometric,
    log_polynomial,
    plus_one,
    with_complement,
)
from amodal.distributions.copula.clayton import log_gamma_draw
from amodal.distributions.log_space import (
    log1mexp,
    log1mexp_of_log,
    log_neg_log,
    log_stirling_second,
    logaddexp,
    some_below,
)

__all__ = ["Joe", "joe_tau", "log_sibuya"]


class Joe(Archimedean):
    r"""Joe copula: upper tail dependence :math:`2 - 2^{1/\theta}`; :math:`\theta = 1` is independence.

    .. math::
        C(u) = 1 - (1 - h)^{1/\theta}, \quad h = \prod_m \bigl(1 - (1-u_m)^\theta\bigr), \quad \theta \ge 1

    .. math::
        \log c = (M-1)\log\theta + (\theta-1)\sum_m\log(1-u_m) - (1-\rho)\log(1-h)
        + \log\sum_{k=0}^{M-1} S_2(M, k+1) (1-\rho)\cdots(k-\rho) \Bigl(\frac{h}{1-h}\Bigr)^k

    with :math:`\rho = 1/\theta` and Stirling numbers of the second kind.

    Example:
        >>> Joe(theta=2.0, dim=3).log_density(torch.tensor([[0.3, 0.4, 0.5]], dtype=torch.float64)).item()
        0.4139411...
    """

    _least: ClassVar[float] = 1.0
    _least_allowed: ClassVar[bool] = True

    @staticmethod
    def _terms(log_u: Tensor, log_1mu: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        r"""log r and log(1 - r) for each margin, :math:`r = 1 - (1-u)^\theta`."""
        if some_below(log_u, -60.0):  # log(1 - u) may have underflowed
            return log1mexp_of_log(torch.log(theta) + log_neg_log(log_1mu, log_u)), log_1mu * theta
        return log1mexp(log_1mu * -theta), log_1mu * theta

    @staticmethod
    def _fold(log_r: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """log h and log(1 - h)."""
        log_h, log_q = log_r[0], log_w[0]
        for r, w in zip(log_r[1:], log_w[1:], strict=True):
            log_q = logaddexp(log_q, log_h + w)
            log_h = log_h + r
        return log_h, log_q

    @staticmethod
    def _log_sum(k: int, log_ratio: Tensor, parameters: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Log of the polynomial of order k - 1 in h / (1 - h); its constant term is 1."""
        if k < 2:
            return torch.zeros_like(log_ratio)
        theta, _, log_excess = parameters
        coefficients: list[Tensor | float] = []
        rising: Tensor | float = 0.0
        for j, log_stirling in enumerate(log_stirling_second(k)[1:], start=1):
            rising = rising + torch.log(j - 1 / theta) if j > 1 else rising
            coefficients.append(rising + log_stirling)
        return plus_one(log_excess - torch.log(theta) + log_polynomial(coefficients, log_ratio))

    def _log_density(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None, count: Tensor | int) -> Tensor:
        parameters = theta, excess, _ = self._parameters_like(log_u)
        log_r, log_w = self._terms(log_u, log_1mu, theta)
        log_h, log_q = self._fold(fill(observed, log_r, 0.0), fill(observed, log_w, NOTHING))
        polynomial = by_count(count, 2, self.dim, lambda k: self._log_sum(k, log_h - log_q, parameters))
        slopes = fill(observed, log_1mu, 0.0).sum(0) * excess
        return polynomial + (count - 1) * torch.log(theta) + slopes - (excess / theta) * log_q

    def _log_cdf(self, log_u: Tensor, log_1mu: Tensor) -> Tensor:
        theta = self._parameters_like(log_u)[0]
        log_h, log_q = self._fold(*self._terms(log_u, log_1mu, theta))
        return log1mexp_of_log(log_neg_log(log_q, log_h) - torch.log(theta))

    def _conditional(self, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor) -> tuple[Tensor, Tensor]:
        parameters = theta, excess, _ = self._parameters_like(log_u)
        count = observed.sum(0)
        some = count > 0
        used = observed | ~some  # rows that know nothing are replaced below
        log_r, log_w = self._terms(log_u, log_1mu, theta)
        log_h, log_q = self._fold(torch.where(used, log_r, 0.0), torch.where(used, log_w, NOTHING))
        growth = plus_one(log_h + log_w[target] - log_q)
        ratio = log_h - log_q

        def log_change(k: int) -> Tensor:
            later = self._log_sum(k, ratio + log_r[target] - growth, parameters)
            return later - self._log_sum(k, ratio, parameters)

        tail = by_count(count.clamp_min(1), 1, self.dim - 1, log_change)
        value = log_r[target] - (excess / theta) * growth + tail
        return with_complement(torch.where(some, value, log_u[target]))

    def _log_frailty(self, theta: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
        return log_sibuya(theta, n, generator)

    def _psi_logs(self, log_t: Tensor) -> tuple[Tensor, Tensor]:
        log_1mu = log1mexp_of_log(log_t) / self.theta.detach()
        log_1mu, log_u = with_complement(log_1mu)
        return log_u, log_1mu

    def kendall_tau(self) -> Tensor:
        r""":math:`1 - 4\sum_{k\ge1} [k(\theta k+2)(\theta(k-1)+2)]^{-1}`, of every pair; the shape of theta."""
        return joe_tau(self.theta)

    @classmethod
    def _theta_of_tau(cls, tau: Tensor) -> Tensor:
        return invert_tau(joe_tau, tau, 1.0)

    def tail_dependence(self) -> TailDependence:
        """See `Copula.tail_dependence`."""
        return TailDependence(torch.zeros_like(self.theta), 2 - 2 ** (1 / self.theta))


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
    return log_geometric(-exponential((n, *theta.shape), theta, generator), failure, success)
