"""The Student t copula."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from amodal.distributions.copula.abstract import Copula, TailDependence
from amodal.distributions.copula.elliptical import Elliptical
from amodal.distributions.copula.elliptical_cdf import bivariate_log_cdf
from amodal.distributions.copula.fit import complete_presence, log_likelihood, maximise_likelihood
from amodal.distributions.student import log1p_square, student_log_tails, student_score
from amodal.errors import ConfigurationError

__all__ = ["StudentTCopula"]

_LEAST_DF, _MOST_DF = 0.5, 1000.0


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
        if not isinstance(df, (int, float)) or not _LEAST_DF <= df <= _MOST_DF:
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
        """The settings that the printed module shows."""
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
        factor = self._factor(scores, observed)
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
            return bivariate_log_cdf(scores[0], scores[1], rho, self.df)
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

    @property
    def parameter_count(self) -> int:
        """The entries of R below its diagonal, and the degrees of freedom."""
        return super().parameter_count + 1

    def spearman_rho(self) -> Tensor:
        """Spearman's rho by quadrature, shape (…, M, M), 1 on the diagonal; see `Copula.spearman_rho`."""
        rho = torch.eye(self.dim, dtype=torch.float64).expand(self.correlation.shape).clone()
        for i in range(self.dim):
            for j in range(i):
                rho[..., i, j] = rho[..., j, i] = Copula.spearman_rho(self.margin([i, j])).detach()
        return rho.to(self.correlation)

    def tail_dependence(self) -> TailDependence:
        r""":math:`2\,T_{\nu+1}\bigl(-\sqrt{(\nu+1)(1-R_{ij})/(1+R_{ij})}\bigr)` at both ends, shape (…, M, M)."""
        r = self.correlation
        tails = student_log_tails(-torch.sqrt((self.df + 1) * (1 - r).clamp_min(0.0) / (1 + r)), self.df + 1)
        return TailDependence(*[2 * tails[0].exp()] * 2)

    @classmethod
    def fit(cls, u: Any, *, observed: Any = None, iterations: int = 100, df: float | None = None) -> Self:
        """Maximum likelihood of R, and of the degrees of freedom unless they are given.

        Args:
            u: Points, shape (N, M).
            observed: Presence, bool (N, M).
            iterations: Most iterations of L-BFGS for each value of ``df``.
            df: Degrees of freedom to keep; otherwise chosen between 1 and 100 by golden section on their logarithm.

        Returns:
            A fixed copula, as in `Copula.fit`.
        """
        from scipy.optimize import minimize_scalar

        points, presence = complete_presence(u, observed)
        start = cls._initial(points, presence).correlation.detach()

        def fitted(value: float) -> tuple[float, Self]:
            copula = maximise_likelihood(cls(start, df=value), points, presence, iterations=iterations)
            with torch.no_grad():
                return -float(log_likelihood(copula, points, presence)), copula

        if df is not None:
            return fitted(df)[1]
        best: Any = minimize_scalar(
            lambda x: fitted(math.exp(x))[0], bounds=(0.0, math.log(100.0)), method="bounded", options={"xatol": 0.02}
        )
        return fitted(math.exp(best.x))[1]
