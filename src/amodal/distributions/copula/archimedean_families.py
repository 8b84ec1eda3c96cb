r"""The Archimedean families: Clayton, Gumbel, Frank, Joe. See ``archimedean`` for what they share.

Notation in the code: :math:`x = -\log u`; ``count`` margins are observed; h and q = 1 - h are the argument of the
Frank and Joe polynomials and its complement, each built up from positive parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from amodal.distributions.copula import kernels as copula_kernels
from amodal.distributions.copula.abstract import Copula
from amodal.distributions.copula.archimedean import (
    NOTHING,
    Archimedean,
    Parameters,
    by_count,
    fill,
    fold_logaddexp,
    log_polynomial,
    plus_one,
)
from amodal.distributions.copula.archimedean_tau import frank_tau, joe_tau
from amodal.distributions.copula.frailty import log_gamma_draw, log_logarithmic, log_sibuya, log_stable
from amodal.distributions.fused import Kernel
from amodal.distributions.log_space import (
    eulerian_weights,
    log1mexp,
    log1mexp_of_log,
    log_complement,
    log_expm1_ratio,
    log_neg_log,
    log_stirling_second,
    logaddexp,
    some_below,
)

__all__ = ["Clayton", "Frank", "Gumbel", "Joe"]


def _with_complement(log_h: Tensor) -> tuple[Tensor, Tensor]:
    log_h = log_h.clamp(max=-torch.finfo(log_h.dtype).tiny)
    return log_h, log_complement(log_h)


class Clayton(Archimedean):
    r"""Clayton copula: lower tail dependence :math:`2^{-1/\theta}`.

    .. math::
        C(u) = \Bigl(1 + \sum_m (u_m^{-\theta} - 1)\Bigr)^{-1/\theta}, \quad \theta > 0, \qquad
        \tau = \frac{\theta}{\theta + 2}

    .. math::
        \log c = \sum_{k=1}^{M-1} \log(1 + k\theta) - (1+\theta)\sum_m \log u_m - (M + 1/\theta) \log(1 + t)

    Negative :math:`\theta`, possible in low dimension with a density that vanishes on part of the cube, is left out;
    :math:`\theta \to 0` is independence.

    Example:
        >>> Clayton(theta=2.0, dim=3).log_density(torch.tensor([[0.3, 0.4, 0.5]], dtype=torch.float64)).item()
        0.7768496...
    """

    @staticmethod
    def _join(a: Tensor, b: Tensor) -> Tensor:
        r""":math:`\log(e^a + e^b - 1)` for a, b >= 0: the running :math:`\log(1 + t)`."""
        larger, smaller = torch.maximum(a, b), torch.minimum(a, b)
        return larger + torch.log1p(torch.exp(smaller - larger) * -torch.expm1(-smaller))

    def _log_one_plus_t(self, log_u: Tensor, theta: Tensor, observed: Tensor | None) -> Tensor:
        terms = fill(observed, log_u * -theta, 0.0).unbind(0)
        total = terms[0]
        for term in terms[1:]:
            total = self._join(total, term)
        return total

    def _kernel(self, log_u: Tensor, excess: Tensor) -> Kernel | None:
        return copula_kernels.clayton

    def _plain(
        self, log_u: Tensor, log_1mu: Tensor, parameters: Parameters, observed: Tensor | None, count: Tensor | int
    ) -> Tensor:
        theta = parameters[0]
        log_t = self._log_one_plus_t(log_u, theta, observed)
        steps = torch.stack([torch.log1p(theta * k) for k in range(self.dim)]).cumsum(0)
        constant = by_count(count, 2, self.dim, lambda k: steps[k - 1])
        return constant - fill(observed, log_u, 0.0).sum(0) * (1 + theta) - (count + 1 / theta) * log_t

    def _log_cdf(self, log_u: Tensor, log_1mu: Tensor) -> Tensor:
        theta = self._parameters_like(log_u)[0]
        return -self._log_one_plus_t(log_u, theta, None) / theta

    def _conditional(self, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor) -> tuple[Tensor, Tensor]:
        theta = self._parameters_like(log_u)[0]
        log_t = self._log_one_plus_t(log_u, theta, observed)
        a = -log_u[target] * theta
        growth = plus_one(a + log1mexp(a) - log_t)  # log (1 + t + t_target) / (1 + t)
        return _with_complement(-(1 / theta + observed.sum(0)) * growth)

    def _conditional_quantile(
        self, log_w: Tensor, log_1mw: Tensor, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        theta = self._parameters_like(log_u)[0]
        growth = -log_w / (1 / theta + observed.sum(0))
        log_t = self._log_one_plus_t(log_u, theta, observed)
        return _with_complement(-plus_one(log_t + growth + log1mexp(growth)) / theta)

    def _log_frailty(self, theta: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
        return log_gamma_draw((1 / theta).expand(n, *theta.shape), generator)

    def _psi_logs(self, log_t: Tensor) -> tuple[Tensor, Tensor]:
        return _with_complement(-plus_one(log_t) / self.theta.detach())

    def kendall_tau(self) -> Tensor:
        r""":math:`\theta/(\theta+2)`, of every pair; the shape of theta."""
        return self.theta / (self.theta + 2)


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

    def _kernel(self, log_u: Tensor, excess: Tensor) -> Kernel | None:
        return copula_kernels.gumbel

    def _plain(
        self, log_u: Tensor, log_1mu: Tensor, parameters: Parameters, observed: Tensor | None, count: Tensor | int
    ) -> Tensor:
        theta, excess, _ = parameters
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
        return _with_complement(torch.where(some, value, log_u[target]))

    def _log_frailty(self, theta: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
        return log_stable(theta, n, generator)

    def _psi_logs(self, log_t: Tensor) -> tuple[Tensor, Tensor]:
        return _with_complement(-torch.exp(log_t / self.theta.detach()))

    def kendall_tau(self) -> Tensor:
        r""":math:`1 - 1/\theta`, of every pair; the shape of theta."""
        return 1 - 1 / self.theta


class Frank(Archimedean):
    r"""Frank copula: no tail dependence, symmetric in u and 1 - u for two margins.

    .. math::
        C(u) = -\frac1\theta \log\bigl(1 - h\bigr), \quad h = \frac{\prod_m (1 - e^{-\theta u_m})}
        {(1 - e^{-\theta})^{M-1}}, \qquad \tau = 1 - \frac4\theta\bigl(1 - D_1(\theta)\bigr)

    .. math::
        \log c = (M-1)\log\frac{\theta}{1 - e^{-\theta}} - \theta\sum_m u_m + \log E_{M-1}(h) - M\log(1-h)

    with Eulerian polynomials :math:`E_n`. Two margins admit any real :math:`\theta`, zero (independence) included, in
    a form without cancellation of either sign; more margins need :math:`\theta > 0`. (The signs of the exponents of
    the distribution function printed in :cite:`wu2025cm2` are wrong.)

    Example:
        >>> Frank(theta=5.0, dim=3).log_density(torch.tensor([[0.3, 0.4, 0.5]], dtype=torch.float64)).item()
        0.6602783...
    """

    _signed_pair: ClassVar[bool] = True

    def _require_domain(self, theta: Tensor) -> None:
        if self.dim == 2 and bool(torch.isfinite(theta).all()):
            return
        super()._require_domain(theta)

    def _free(self, theta: Tensor) -> Tensor:
        return theta.clone() if self.dim == 2 else super()._free(theta)

    def _excess(self) -> tuple[Tensor, Tensor]:
        if self.dim > 2:
            return super()._excess()
        theta = self.raw_theta if self._given is None else self._given
        return theta, theta  # any real theta; the logarithm is not used

    def margin(self, indices: object) -> Copula:
        """The same generator with fewer margins. A pair taken from more keeps the positive theta, now as ``_given``."""
        part = super().margin(indices)  # type: ignore[arg-type]
        if self.dim > 2 and part.dim == 2:
            part._parameters.pop("raw_theta", None)
            part._given = self.theta
        return part

    @staticmethod
    def _pair_logits(log_u: Tensor, log_1mu: Tensor, target: int, theta: Tensor) -> tuple[Tensor, Tensor]:
        r"""Logarithms of the two positive parts of :math:`(1 - h)(1 - e^{-\theta})/\theta`, for two margins.

        :math:`e^{-\theta u}\frac{1 - e^{-\theta v}}{\theta}` and :math:`e^{-\theta v}\frac{1 - e^{-\theta(1-v)}}
        {\theta}`, v the target: their shares are the conditional distribution function and its complement.
        """
        other = 1 - target
        v, rest = theta * torch.exp(log_u[target]), theta * torch.exp(log_1mu[target])
        below = log_u[target] + log_expm1_ratio(v) - theta * torch.exp(log_u[other])
        return below, log_1mu[target] + log_expm1_ratio(rest) - v

    def _terms(self, log_u: Tensor, log_1mu: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        r"""log r and log(1 - r) for each margin, :math:`r = (1-e^{-\theta u})/(1-e^{-\theta})`."""
        u, rest = theta * torch.exp(log_u), theta * torch.exp(log_1mu)
        scale = log_expm1_ratio(theta)
        return log_u + log_expm1_ratio(u) - scale, log_1mu + log_expm1_ratio(rest) - u - scale

    def _fold(self, log_r: Tensor, log_w: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """log h and log(1 - h)."""
        log_h, log_q = log1mexp(theta), -theta
        for r, w in zip(log_r.unbind(0), log_w.unbind(0), strict=True):
            log_q = logaddexp(log_q, log_h + w)
            log_h = log_h + r
        return log_h, log_q

    @staticmethod
    def _log_eulerian(order: int, log_h: Tensor) -> Tensor:
        if order < 2:
            return torch.zeros_like(log_h)
        weights = eulerian_weights(order)
        h, total = torch.exp(log_h), torch.full_like(log_h, weights[-1])
        for weight in weights[-2::-1]:
            total = total * h + weight
        return torch.log(total) + math.lgamma(order + 1)

    def _kernel(self, log_u: Tensor, excess: Tensor) -> Kernel | None:
        return copula_kernels.frank if copula_kernels.frank_usable(log_u, excess) else None

    def _plain(
        self, log_u: Tensor, log_1mu: Tensor, parameters: Parameters, observed: Tensor | None, count: Tensor | int
    ) -> Tensor:
        theta = parameters[0]
        scale = log_expm1_ratio(theta)
        if self.dim == 2:  # then both margins are observed in every row that counts
            total = logaddexp(*self._pair_logits(log_u, log_1mu, 1, theta))
            return scale - theta * torch.exp(log_u).sum(0) - 2 * total
        log_r, log_w = self._terms(log_u, log_1mu, theta)
        log_h, log_q = self._fold(fill(observed, log_r, 0.0), fill(observed, log_w, NOTHING), theta)
        polynomial = by_count(count, 2, self.dim, lambda k: self._log_eulerian(k - 1, log_h))
        mean = theta * fill(observed, torch.exp(log_u), 0.0).sum(0)
        return polynomial - (count - 1) * scale - mean - count * log_q

    def _log_cdf(self, log_u: Tensor, log_1mu: Tensor) -> Tensor:
        theta = self._parameters_like(log_u)[0]
        if self.dim > 2:
            log_h, log_q = self._fold(*self._terms(log_u, log_1mu, theta), theta)
            return log_neg_log(log_q, log_h) - torch.log(theta)
        product = log_u.sum(0) + log_expm1_ratio(theta * torch.exp(log_u)).sum(0) - log_expm1_ratio(theta)
        # C = -log(1 - theta g) / theta with g = exp(product); the complement 1 - theta g in its positive parts
        g = torch.exp(product)
        complement = logaddexp(*self._pair_logits(log_u, log_1mu, 1, theta)) - log_expm1_ratio(theta)
        small = (theta * g).abs() < 0.5
        near = torch.where(small, theta * g, 0.25)
        ratio = torch.where(near.abs() < 1e-9, 1.0, -torch.log1p(-near) / torch.where(near == 0, 1.0, near))
        far_theta = torch.where(small, 1.0, theta.expand(small.shape))
        far = torch.log((-torch.where(small, -1.0, complement) / far_theta).clamp_min(torch.finfo(g.dtype).tiny))
        return torch.where(small, product + torch.log(ratio), far)

    def _conditional(self, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor) -> tuple[Tensor, Tensor]:
        count = observed.sum(0)
        if self.dim == 2:
            below, above = self._pair_logits(log_u, log_1mu, target, self._parameters_like(log_u)[0])
            known = count > 0
            log_h = torch.where(known, logsigmoid(below - above), log_u[target])
            return log_h, torch.where(known, logsigmoid(above - below), log_1mu[target])
        theta = self._parameters_like(log_u)[0]
        log_r, log_w = self._terms(log_u, log_1mu, theta)
        log_h, log_q = self._fold(fill(observed, log_r, 0.0), fill(observed, log_w, NOTHING), theta)
        growth = plus_one(log_h + log_w[target] - log_q)

        def log_ratio(k: int) -> Tensor:
            later = self._log_eulerian(k - 1, log_h + log_r[target])
            return later - self._log_eulerian(k - 1, log_h) + log_r[target] - k * growth

        value = by_count(count.clamp_min(1), 1, self.dim - 1, log_ratio)
        return _with_complement(torch.where(count > 0, value, log_u[target]))

    def _sample_logs(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return Copula._sample_logs(self, n, generator) if self.dim == 2 else super()._sample_logs(n, generator)

    def _log_frailty(self, theta: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
        return log_logarithmic(theta, n, generator)

    def _psi_logs(self, log_t: Tensor) -> tuple[Tensor, Tensor]:
        theta = self.theta.detach()
        log_h = log1mexp(theta) - torch.exp(log_t)
        log_q = logaddexp(-theta, log1mexp(theta) + log1mexp_of_log(log_t))
        return _with_complement(log_neg_log(log_q, log_h) - torch.log(theta))

    def kendall_tau(self) -> Tensor:
        r""":math:`1 - \frac4\theta(1 - D_1(\theta))` with the Debye function, of every pair; the shape of theta."""
        return frank_tau(self.theta)


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

    def _kernel(self, log_u: Tensor, excess: Tensor) -> Kernel | None:
        return copula_kernels.joe if copula_kernels.joe_usable(log_u) else None

    def _plain(
        self, log_u: Tensor, log_1mu: Tensor, parameters: Parameters, observed: Tensor | None, count: Tensor | int
    ) -> Tensor:
        theta, excess, _ = parameters
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
        return _with_complement(torch.where(some, value, log_u[target]))

    def _log_frailty(self, theta: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
        return log_sibuya(theta, n, generator)

    def _psi_logs(self, log_t: Tensor) -> tuple[Tensor, Tensor]:
        log_1mu = log1mexp_of_log(log_t) / self.theta.detach()
        log_1mu, log_u = _with_complement(log_1mu)
        return log_u, log_1mu

    def kendall_tau(self) -> Tensor:
        r""":math:`1 - 4\sum_{k\ge1} [k(\theta k+2)(\theta(k-1)+2)]^{-1}`, of every pair; the shape of theta."""
        return joe_tau(self.theta)
