"""The Gumbel copula."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    fold_logaddexp,
    log_polynomial,
    plus_one,
    with_complement,
)
from amodal.distributions.inversion import attach_root
from amodal.distributions.log_space import log1mexp, log1mexp_of_log, log_neg_log, logaddexp

__all__ = ["Gumbel", "log_stable"]

_MOST_STEPS = 60


class Gumbel(Archimedean):
    r"""Gumbel copula: upper tail dependence :math:`2 - 2^{1/\theta}`; :math:`\theta = 1` is independence.

    .. math::
        C(u) = e^{-s}, \quad s = t^{1/\theta}, \quad t = \sum_m (-\log u_m)^\theta, \quad \theta \ge 1, \qquad
        \tau = 1 - 1/\theta

    .. math::
        \log c = -s + \sum_m \bigl[(\theta-1)\log x_m + x_m\bigr] - M\log t + M \log s
        + \log\Bigl(1 + (\theta-1)\sum_{k=1}^{M-1} B_{Mk} s^{k-M}\Bigr)

    with :math:`B_{M+1,k} = B_{M,k-1} + (\theta M - k) B_{Mk}`: all positive, at every order. (The three-dimensional
    density printed in :cite:`wu2025cm2` is another function; the tests hold the comparison.)

    Example:
        >>> Gumbel(theta=2.0, dim=3).log_density(torch.tensor([[0.3, 0.4, 0.5]], dtype=torch.float64)).item()
        0.7101853...
    """

    _least: ClassVar[float] = 1.0
    _least_allowed: ClassVar[bool] = True

    @staticmethod
    def _log_coefficients(k: int, theta: Tensor, excess: Tensor) -> Sequence[Tensor | float]:
        r""":math:`\log B_{k,k-1}, …, \log B_{k,1}`: the coefficients of :math:`s^{-1}, …, s^{1-k}`."""
        if k == 2:
            return [0.0]
        if k == 3:
            return [math.log(3.0), torch.log1p(2 * excess)]
        log_b = [torch.zeros_like(theta)]  # order 2; index i holds the coefficient of s^{i+1}
        for order in range(2, k):
            grown = [torch.log(excess * order + (order - i - 1)) + b for i, b in enumerate(log_b)]
            top = logaddexp(log_b[-1], torch.full_like(theta, math.log(order)))
            log_b = [grown[0], *[logaddexp(grown[i], log_b[i - 1]) for i in range(1, len(log_b))], top]
        return log_b[::-1]

    def _log_remainder(self, k: int, log_s: Tensor, parameters: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        theta, excess, log_excess = parameters
        if k < 2:
            return torch.zeros_like(log_s)
        return plus_one(log_excess + log_polynomial(self._log_coefficients(k, theta, excess), -log_s))

    def _log_density(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None, count: Tensor | int) -> Tensor:
        parameters = theta, excess, _ = self._parameters_like(log_u)
        log_x = log_neg_log(log_u, log_1mu)  # (M, …)
        log_t = fold_logaddexp(fill(observed, log_x * theta, NOTHING).unbind(0))
        log_s = log_t / theta
        slopes = fill(observed, log_x * excess - log_u, 0.0).sum(0)
        remainder = by_count(count, 2, self.dim, lambda k: self._log_remainder(k, log_s, parameters))
        return slopes - torch.exp(log_s) - count * (log_s * excess) + remainder

    def _log_cdf(self, log_u: Tensor, log_1mu: Tensor) -> Tensor:
        theta = self._parameters_like(log_u)[0]
        return -torch.exp(fold_logaddexp((log_neg_log(log_u, log_1mu) * theta).unbind(0)) / theta)

    def _conditional(self, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor) -> tuple[Tensor, Tensor]:
        parameters = theta, excess, _ = self._parameters_like(log_u)
        count = observed.sum(0)
        scaled = log_neg_log(log_u, log_1mu) * theta
        some = count > 0
        known = torch.where(observed | ~some, scaled, NOTHING)  # rows that know nothing are replaced below
        log_t = fold_logaddexp(known.unbind(0))
        growth = plus_one(scaled[target] - log_t)  # log of (t + t_target) / t
        log_s = log_t / theta

        def log_h(k: int) -> Tensor:
            later = self._log_remainder(k, log_s + growth / theta, parameters)
            return later - self._log_remainder(k, log_s, parameters) - k * (excess / theta) * growth

        tail = by_count(count.clamp_min(1), 1, self.dim - 1, log_h)
        value = tail - torch.exp(log_s) * torch.expm1(growth / theta)
        return with_complement(torch.where(some, value, log_u[target]))

    def _conditional_quantile(
        self, log_w: Tensor, log_1mw: Tensor, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""Given one margin by Newton's method, given more as in every copula.

        With :math:`x = -\log u` and :math:`s = x e^\delta` the equation :math:`h = w` is

        .. math:: x (e^\delta - 1) + (\theta - 1) \delta = -\log w, \qquad -\log v = (s^\theta - x^\theta)^{1/\theta},

        convex and increasing in :math:`\delta \ge 0`: from above, the iteration falls to the root.
        """
        count = observed.sum(0)
        if not bool((count <= 1).all()):
            return super()._conditional_quantile(log_w, log_1mw, log_u, log_1mu, target, observed)
        theta, excess, _ = self._parameters_like(log_u)
        some = count > 0
        log_x = torch.where(observed, log_neg_log(log_u, log_1mu), 0.0).sum(0)  # of the margin that is known
        goal = (-torch.where(some, log_w, -1.0)).clamp_min(torch.finfo(log_u.dtype).tiny)

        def excess_at(delta: Tensor) -> Tensor:
            return torch.exp(log_x) * torch.expm1(delta) + excess * delta - goal

        with torch.no_grad():
            x = torch.exp(log_x)
            delta = torch.minimum(plus_one(torch.log(goal) - log_x), goal / (x + excess))
            for _ in range(_MOST_STEPS):
                step = excess_at(delta) / (torch.exp(log_x + delta) + excess)
                delta = (delta - step).clamp_min(torch.finfo(delta.dtype).tiny)
                if bool((step.abs() <= 4 * torch.finfo(delta.dtype).eps * delta).all()):
                    break
        delta = attach_root(excess_at, delta)
        log_y = log_x + delta + log1mexp(theta * delta) / theta  # of -log v
        log_v, log_1mv = -torch.exp(log_y), log1mexp_of_log(log_y)
        return torch.where(some, log_v, log_w), torch.where(some, log_1mv, log_1mw)

    def _log_frailty(self, theta: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
        return log_stable(theta, n, generator)

    def _psi_logs(self, log_t: Tensor) -> tuple[Tensor, Tensor]:
        return with_complement(-torch.exp(log_t / self.theta.detach()))

    def kendall_tau(self) -> Tensor:
        r""":math:`1 - 1/\theta`, of every pair; the shape of theta."""
        return 1 - 1 / self.theta

    @classmethod
    def _theta_of_tau(cls, tau: Tensor) -> Tensor:
        return 1 / (1 - tau)

    def tail_dependence(self) -> TailDependence:
        """See `Copula.tail_dependence`."""
        return TailDependence(torch.zeros_like(self.theta), 2 - 2 ** (1 / self.theta))


def log_stable(theta: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    r"""Log of a positive stable draw of index :math:`1/\theta`: Laplace transform :math:`\exp(-t^{1/\theta})`.

    Source:
        Chambers, Mallows & Stuck, *A method for simulating stable random variables*, 1976 (Kanter's form).
    """
    alpha, rest = 1 / theta, (theta - 1).clamp_min(1e-30) / theta
    uniform = torch.rand((n, *theta.shape), dtype=theta.dtype, device=theta.device, generator=generator)
    angle = math.pi * uniform.clamp(torch.finfo(theta.dtype).eps, 1 - torch.finfo(theta.dtype).eps)
    log_exponential = exponential((n, *theta.shape), theta, generator).log()
    spread = (rest / alpha) * (torch.sin(rest * angle).log() - log_exponential)
    return torch.sin(alpha * angle).log() - torch.sin(angle).log() / alpha + spread
