"""The Clayton copula."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.distributions.copula.abstract import TailDependence
from amodal.distributions.copula.archimedean import Archimedean, by_count, exponential, fill, plus_one, with_complement
from amodal.distributions.log_space import log1mexp

__all__ = ["Clayton", "log_gamma_draw"]


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

    def _log_density(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None, count: Tensor | int) -> Tensor:
        theta = self._parameters_like(log_u)[0]
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
        return with_complement(-(1 / theta + observed.sum(0)) * growth)

    def _conditional_quantile(
        self, log_w: Tensor, log_1mw: Tensor, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        theta = self._parameters_like(log_u)[0]
        growth = -log_w / (1 / theta + observed.sum(0))
        log_t = self._log_one_plus_t(log_u, theta, observed)
        return with_complement(-plus_one(log_t + growth + log1mexp(growth)) / theta)

    def _log_frailty(self, theta: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
        return log_gamma_draw((1 / theta).expand(n, *theta.shape), generator)

    def _psi_logs(self, log_t: Tensor) -> tuple[Tensor, Tensor]:
        return with_complement(-plus_one(log_t) / self.theta.detach())

    def kendall_tau(self) -> Tensor:
        r""":math:`\theta/(\theta+2)`, of every pair; the shape of theta."""
        return self.theta / (self.theta + 2)

    @classmethod
    def _theta_of_tau(cls, tau: Tensor) -> Tensor:
        return (2 * tau / (1 - tau)).clamp_min(1e-30)

    def tail_dependence(self) -> TailDependence:
        """See `Copula.tail_dependence`."""
        return TailDependence(2 ** (-1 / self.theta), torch.zeros_like(self.theta))


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
    return boosted.log() - exponential(shape_parameter.shape, shape_parameter, generator) / shape_parameter
