"""The Gaussian copula."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amodal.distributions.copula.abstract import TailDependence
from amodal.distributions.copula.elliptical import Elliptical
from amodal.distributions.copula.elliptical_cdf import bivariate_log_cdf
from amodal.distributions.normal import normal_log_tails, normal_score

__all__ = ["GaussianCopula"]


class GaussianCopula(Elliptical):
    r"""Gaussian copula: no tail dependence; :math:`\tau_{ij} = \frac2\pi\arcsin R_{ij}`.

    .. math::
        \log c(u) = -\tfrac12\log\det R - \tfrac12 \xi^\top (R^{-1} - I) \xi, \qquad \xi_m = \Phi^{-1}(u_m)

    (In :cite:`wu2025cm2` the prefactor for two margins lacks the square of :math:`\rho`, and in general the powers of
    :math:`2\pi`, which cancel, have the wrong sign.)

    Example:
        >>> copula = GaussianCopula(correlation=[[1.0, 0.5], [0.5, 1.0]])
        >>> copula.log_density(torch.tensor([[0.3, 0.4]], dtype=torch.float64)).item()
        0.1758811...
    """

    def _scores(self, log_u: Tensor, log_1mu: Tensor) -> Tensor:
        return normal_score(log_u, log_1mu)

    def _log_tails(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return normal_log_tails(scores)

    def _mixing(self, n: int, generator: torch.Generator | None) -> Tensor | float:
        return 1.0

    def _log_density(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None, count: Tensor | int) -> Tensor:
        scores = self._scores(log_u, log_1mu)
        if observed is not None:
            scores = torch.where(observed, scores, 0.0)
        factor = self._factor(scores, observed)
        total = torch.zeros((), dtype=scores.dtype, device=scores.device)
        for y, score, scale in zip(factor.solve(scores), scores.unbind(0), factor.scales, strict=True):
            # (xi^2 - y^2) / 2 - log L_ii, without the difference of two large squares
            total = total + 0.5 * (score - y) * (score + y) + torch.log(scale)
        return total

    def spearman_rho(self) -> Tensor:
        r""":math:`\frac6\pi \arcsin \frac{R_{ij}}2`, shape (…, M, M), 1 on the diagonal."""
        return torch.asin(self.correlation / 2) * (6 / math.pi)

    def tail_dependence(self) -> TailDependence:
        """None, for any correlation below one: zeros of the shape (…, M, M), ones on the diagonal."""
        unit = torch.eye(self.dim, dtype=self.correlation.dtype, device=self.correlation.device)
        return TailDependence(*[unit.expand(self.correlation.shape)] * 2)

    def _log_cdf(self, log_u: Tensor, log_1mu: Tensor) -> Tensor:
        scores = self._scores(log_u, log_1mu)
        if self.dim == 2:
            return bivariate_log_cdf(scores[0], scores[1], self.correlation[..., 0, 1].to(scores.dtype))
        return self._separated(scores, None)

    def _conditional(self, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor) -> tuple[Tensor, Tensor]:
        factor, scores, known = self._ordered(log_u, log_1mu, target, observed)
        y = scores[-1] * factor.scales[-1]
        for a, earlier in zip(factor.rows[-1], known, strict=True):
            y = y - a * earlier
        return normal_log_tails(y)

    def _conditional_quantile(
        self, log_w: Tensor, log_1mw: Tensor, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        factor, _, known = self._ordered(log_u, log_1mu, target, observed)
        y = normal_score(log_w, log_1mw)
        for a, earlier in zip(factor.rows[-1], known, strict=True):
            y = y + a * earlier
        return normal_log_tails(y / factor.scales[-1])
