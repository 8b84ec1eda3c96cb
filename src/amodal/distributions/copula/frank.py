"""The Frank copula."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from amodal.distributions.copula.abstract import Copula, TailDependence
from amodal.distributions.copula.archimedean import (
    NOTHING,
    Archimedean,
    by_count,
    exponential,
    fill,
    invert_tau,
    log_geometric,
    plus_one,
    with_complement,
)
from amodal.distributions.log_space import (
    eulerian_weights,
    log1mexp,
    log1mexp_of_log,
    log_expm1_ratio,
    log_neg_log,
    logaddexp,
    softplus_and_log,
)
from amodal.distributions.quadrature import gauss_legendre

__all__ = ["Frank", "frank_tau", "log_logarithmic"]

_LEAST_THETA = 1e-30  # of the inverse: indistinguishable from independence


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

    def _log_density(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None, count: Tensor | int) -> Tensor:
        theta = self._parameters_like(log_u)[0]
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
        return with_complement(torch.where(count > 0, value, log_u[target]))

    def _conditional_quantile(
        self, log_w: Tensor, log_1mw: Tensor, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""The closed inverse of two margins; more are inverted as in every copula.

        .. math:: v = \frac1\theta \log\Bigl(1 + \frac{w (1 - e^{-\theta})}{(1-w) e^{-\theta u} + w e^{-\theta}}\Bigr)

        and its complement likewise, both from positive parts. With -theta, 1 - v given u has the law of v.
        """
        if self.dim > 2:
            return super()._conditional_quantile(log_w, log_1mw, log_u, log_1mu, target, observed)
        signed = self._parameters_like(log_u)[0]
        theta, other = signed.abs().clamp_min(_LEAST_THETA), 1 - target
        negative = signed < 0
        a, b = torch.where(negative, log_1mw, log_w), torch.where(negative, log_w, log_1mw)
        decay = b - theta * torch.exp(log_u[other])
        gain = log1mexp(theta)
        below = softplus_and_log(a + gain - logaddexp(decay, a - theta))[1] - torch.log(theta)
        rise = b + theta * torch.exp(log_1mu[other]) + gain
        above = softplus_and_log(rise - logaddexp(decay, a))[1] - torch.log(theta)
        smaller, larger = with_complement(torch.minimum(below, above))  # the larger from the smaller: it is exact
        below, above = torch.where(below < above, smaller, larger), torch.where(below < above, larger, smaller)
        known = observed[other]
        log_v = torch.where(known, torch.where(negative, above, below), log_w)
        return log_v, torch.where(known, torch.where(negative, below, above), log_1mw)

    def _sample_logs(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return Copula._sample_logs(self, n, generator) if self.dim == 2 else super()._sample_logs(n, generator)

    def _log_frailty(self, theta: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
        return log_logarithmic(theta, n, generator)

    def _psi_logs(self, log_t: Tensor) -> tuple[Tensor, Tensor]:
        theta = self.theta.detach()
        log_h = log1mexp(theta) - torch.exp(log_t)
        log_q = logaddexp(-theta, log1mexp(theta) + log1mexp_of_log(log_t))
        return with_complement(log_neg_log(log_q, log_h) - torch.log(theta))

    def kendall_tau(self) -> Tensor:
        r""":math:`1 - \frac4\theta(1 - D_1(\theta))` with the Debye function, of every pair; the shape of theta."""
        return frank_tau(self.theta)

    @classmethod
    def _theta_of_tau(cls, tau: Tensor) -> Tensor:
        size = invert_tau(frank_tau, tau.abs(), 0.0).clamp_min(_LEAST_THETA)
        return torch.where(tau < 0, -size, size)

    def tail_dependence(self) -> TailDependence:
        """See `Copula.tail_dependence`."""
        return TailDependence(torch.zeros_like(self.theta), torch.zeros_like(self.theta))


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


def log_logarithmic(theta: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    r"""Log of a draw from the logarithmic series with :math:`p = 1 - e^{-\theta}`, the frailty of Frank's copula.

    A geometric whose success probability is :math:`e^{-\theta U}`, U uniform.

    Source:
        Kemp, *Efficient generation of logarithmically distributed pseudo-random variables*, 1981.
    """
    exponent = theta * torch.exp(-exponential((n, *theta.shape), theta, generator))
    exponent = exponent.clamp_min(torch.finfo(theta.dtype).tiny)
    return log_geometric(-exponential((n, *theta.shape), theta, generator), log1mexp(exponent), -exponent)
