r"""The Gaussian and the Student t copula. See ``elliptical`` for what they share."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from amodal.distributions.copula import kernels as copula_kernels
from amodal.distributions.copula.elliptical import Elliptical, Factor
from amodal.distributions.copula.elliptical_cdf import bivariate_normal_log_cdf, bivariate_student_log_cdf
from amodal.distributions.copula.points import full_precision, without_autocast
from amodal.distributions.fused import Kernel, Plain, fused
from amodal.distributions.log_space import some_below
from amodal.distributions.normal import normal_log_tails, normal_score, normal_score_slopes
from amodal.distributions.student import log1p_square, student_log_tails, student_score, student_score_slopes
from amodal.errors import ConfigurationError

__all__ = ["GaussianCopula", "StudentTCopula"]

_LEAST_DF, _MOST_DF = 0.5, 1000.0


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

    def score_kernel(self, like: Tensor) -> tuple[Plain, Kernel, tuple[Tensor, ...]] | None:
        """Like :meth:`kernel`, of the normal scores instead of the logarithms."""
        if self._given is not None or like.is_cuda:
            return None
        return self._plain_of_scores, self._kernel_of_scores, (self._free_first(like),)

    def log_density_from_scores(self, scores: Tensor) -> Tensor:
        r"""Log density from the normal scores :math:`\xi`, for those who have them already.

        Args:
            scores: Shape (…, M).

        Returns:
            Shape (…,).
        """
        self._require_last_axis(scores)
        with without_autocast(scores):
            scores = full_precision(scores).movedim(-1, 0)
            parts = self.score_kernel(scores)
            if parts is None:
                return self._of_scores(scores, self._factor(scores))
            return fused(parts[0], parts[1], scores, *parts[2])

    @staticmethod
    def _of_scores(scores: Tensor, factor: Factor) -> Tensor:
        total = torch.zeros((), dtype=scores.dtype, device=scores.device)
        for y, score, scale in zip(factor.solve(scores), scores.unbind(0), factor.scales, strict=True):
            total = total + 0.5 * (score - y) * (score + y) + torch.log(scale)
        return total

    def _log_density(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None, count: Tensor | int) -> Tensor:
        scores = self._scores(log_u, log_1mu)
        if observed is not None:
            scores = torch.where(observed, scores, 0.0)
        return self._of_scores(scores, self._factor(scores, observed))

    def _kernel_of_scores(self, scores: Tensor, free: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return copula_kernels.gaussian(scores, free)

    def _plain_of_scores(self, scores: Tensor, free: Tensor) -> Tensor:
        return self._of_scores(scores, self._factor_of(free))

    def _scores_and_slopes(self, log_u: Tensor, log_1mu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return normal_score_slopes(log_u, log_1mu)

    def _log_cdf(self, log_u: Tensor, log_1mu: Tensor) -> Tensor:
        scores = self._scores(log_u, log_1mu)
        if self.dim == 2:
            return bivariate_normal_log_cdf(scores[0], scores[1], self.correlation[..., 0, 1].to(scores.dtype))
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


class StudentTCopula(Elliptical):
    r"""Student t copula: tail dependence at both ends; :math:`\tau_{ij} = \frac2\pi\arcsin R_{ij}`.

    .. math::
        \log c(u) = \log\frac{\Gamma(\frac{\nu+M}2)\,\Gamma(\frac\nu2)^{M-1}}{\Gamma(\frac{\nu+1}2)^M}
        - \tfrac12\log\det R - \tfrac{\nu+M}2\log\Bigl(1 + \frac{x^\top R^{-1} x}{\nu}\Bigr)
        + \tfrac{\nu+1}2\sum_m \log\Bigl(1 + \frac{x_m^2}{\nu}\Bigr), \qquad x_m = T_\nu^{-1}(u_m)

    Args:
        correlation: R, as for :class:`Elliptical`.
        df: Degrees of freedom :math:`\nu`, 0.5 to 1000; no gradient. 1, 2 and 4 have closed-form quantiles and are much
            the fastest; others are evaluated by SciPy on the CPU.
        learnable: Whether the correlation requires a gradient.

    Raises:
        ConfigurationError: Also if ``df`` is out of range.

    Example:
        >>> copula = StudentTCopula(correlation=[[1.0, 0.5], [0.5, 1.0]], df=4.0)
        >>> copula.log_density(torch.tensor([[0.3, 0.4]], dtype=torch.float64)).item()
        0.2739738...
    """

    def __init__(self, correlation: Any, df: float = 4.0, *, learnable: bool = False):
        if not _LEAST_DF <= float(df) <= _MOST_DF:
            raise ConfigurationError(
                "df of StudentTCopula is out of range",
                expected=f"{_LEAST_DF:g} <= df <= {_MOST_DF:g}",
                got=f"df = {df}",
                hint="With very many degrees of freedom use GaussianCopula.",
            )
        super().__init__(correlation, learnable=learnable)
        self.df = float(df)

    def _copy_settings(self, other: Self) -> None:
        self.df = other.df

    def extra_repr(self) -> str:
        """What the printed module shows."""
        return f"{super().extra_repr()}, df={self.df:g}"

    def _scores(self, log_u: Tensor, log_1mu: Tensor) -> Tensor:
        return student_score(log_u, log_1mu, self.df)

    def _log_tails(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return student_log_tails(scores, self.df)

    def _mixing(self, n: int, generator: torch.Generator | None) -> Tensor | float:
        like = self.correlation
        half = torch.full((n, *self.batch_shape), self.df / 2, dtype=like.dtype, device=like.device)
        return torch.sqrt(torch._standard_gamma(half, generator=generator) * (2 / self.df))

    def _log_density(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None, count: Tensor | int) -> Tensor:
        scores = self._scores(log_u, log_1mu)
        if observed is not None:
            scores = torch.where(observed, scores, 0.0)
        return self._of_scores(scores, self._factor(scores, observed), count)

    def _kernel_of_scores(self, scores: Tensor, free: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return copula_kernels.student(scores, free, self.df, self._constants()[self.dim])

    def _plain_of_scores(self, scores: Tensor, free: Tensor) -> Tensor:
        return self._of_scores(scores, self._factor_of(free), self.dim)

    def _scores_and_slopes(self, log_u: Tensor, log_1mu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return student_score_slopes(log_u, log_1mu, self.df)

    def kernel(self, log_u: Tensor, log_1mu: Tensor) -> tuple[Plain, Kernel, tuple[Tensor, ...]] | None:
        """The kernel, where squares of scores stay in range."""
        least = -min(30.0 * self.df, 70.0)
        far = some_below(log_u, least) or some_below(log_1mu, least)
        return None if far else super().kernel(log_u, log_1mu)

    def _of_scores(self, scores: Tensor, factor: Factor, count: Tensor | int) -> Tensor:
        # Scores reach 1e24: the quadratic form is taken of scores in units of the largest, where that is large.
        unit = scores.detach().abs().amax(0).clamp_min(1.0)
        quadratic = torch.zeros((), dtype=scores.dtype, device=scores.device)
        log_det = torch.zeros((), dtype=scores.dtype, device=scores.device)
        for y, scale in zip(factor.solve(scores / unit), factor.scales, strict=True):
            quadratic, log_det = quadratic + y * y, log_det + torch.log(scale)
        log_unit = 2 * torch.log(unit)
        joint = log_unit + torch.log(torch.exp(-log_unit) + quadratic / self.df)
        margins = log1p_square(scores, self.df).sum(0)
        half = self.df / 2
        constant = torch.tensor(self._constants(), dtype=scores.dtype, device=scores.device)[count]
        return constant + log_det - (half + 0.5 * count) * joint + (half + 0.5) * margins

    def _constants(self) -> list[float]:
        """The ratio of gamma functions, by the number of margins."""
        half = self.df / 2
        return [
            math.lgamma(half + k / 2) + (k - 1) * math.lgamma(half) - k * math.lgamma(half + 0.5)
            for k in range(self.dim + 1)
        ]

    def _log_cdf(self, log_u: Tensor, log_1mu: Tensor) -> Tensor:
        scores = self._scores(log_u, log_1mu)
        if self.dim == 2:
            rho = self.correlation[..., 0, 1].to(scores.dtype)
            return bivariate_student_log_cdf(scores[0], scores[1], rho, self.df)
        return self._separated(scores, self.df)

    def _conditional_scale(self, known: list[Tensor], observed: Tensor, target: int) -> tuple[Tensor, Tensor]:
        r"""Degrees of freedom :math:`\nu + o` and the scale :math:`\sqrt{(\nu + q)/(\nu + o)}` of the conditional t."""
        others = torch.cat([observed[:target], observed[target + 1 :]])
        df = self.df + others.sum(0).to(known[0].dtype)
        quadratic = torch.stack([y * y for y in known]).sum(0)
        return df, torch.sqrt((self.df + quadratic) / df)

    def _conditional(self, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor) -> tuple[Tensor, Tensor]:
        dtype = log_u.dtype
        log_u, log_1mu = log_u.double(), log_1mu.double()  # squares of scores leave the range of float32
        factor, scores, known = self._ordered(log_u, log_1mu, target, observed)
        df, scale = self._conditional_scale(known, observed, target)
        y = scores[-1] * factor.scales[-1]
        for a, earlier in zip(factor.rows[-1], known, strict=True):
            y = y - a * earlier
        lower, upper = student_log_tails(y / scale, df)
        return lower.to(dtype), upper.to(dtype)

    def _conditional_quantile(
        self, log_w: Tensor, log_1mw: Tensor, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        dtype = log_u.dtype
        log_u, log_1mu = log_u.double(), log_1mu.double()
        factor, _, known = self._ordered(log_u, log_1mu, target, observed)
        df, scale = self._conditional_scale(known, observed, target)
        y = student_score(log_w.double(), log_1mw.double(), df) * scale
        for a, earlier in zip(factor.rows[-1], known, strict=True):
            y = y + a * earlier
        lower, upper = student_log_tails(y / factor.scales[-1], self.df)
        return lower.to(dtype), upper.to(dtype)

    @classmethod
    def fit(cls, u: Any, *, observed: Any = None, iterations: int = 100, df: float | None = None) -> Self:
        """Maximum likelihood of R, and of the degrees of freedom unless they are given.

        Args:
            u: Points, shape (N, M).
            observed: Presence, bool (N, M).
            iterations: Most iterations of L-BFGS for each value of ``df``.
            df: Degrees of freedom to keep; otherwise profiled over 1 to 100.
        """
        from amodal.distributions.copula.fit import complete_presence, fit_student

        points, presence = complete_presence(u, observed)
        return fit_student(cls, cls._initial(points, presence), points, presence, df, iterations)
