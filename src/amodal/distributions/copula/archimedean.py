r"""Archimedean copulas: the parts that Clayton, Gumbel, Frank and Joe share.

.. math::
    C(u) = \psi\Bigl(\sum_m \psi^{-1}(u_m)\Bigr), \qquad
    c(u) = (-1)^M \psi^{(M)}\Bigl(\sum_m \psi^{-1}(u_m)\Bigr) \prod_m -(\psi^{-1})'(u_m)

Every derivative of these generators is an elementary function times a polynomial whose coefficients are all
**positive** when they are computed by recurrence (the closed sums alternate), so densities of any order stand in log
space without cancellation. Sums such as :math:`1 - \prod_m (1 - p_m)` are likewise built up from positive parts.

Dropping margins keeps the generator: the observed subset has the same :math:`\theta`.

Source:
    Hofert, Maechler & McNeil, *Likelihood inference for Archimedean copulas in high dimensions under known margins*,
    J. Multivariate Anal. 110, 2012.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from amodal.distributions.copula.abstract import Copula
from amodal.distributions.copula.points import as_parameter
from amodal.distributions.inversion import solve_increasing
from amodal.distributions.log_space import log1mexp, log_complement, log_neg_log, logaddexp, softplus_and_log
from amodal.errors import ConfigurationError

__all__ = [
    "NOTHING",
    "Archimedean",
    "Parameters",
    "by_count",
    "exponential",
    "fill",
    "fold_logaddexp",
    "invert_tau",
    "log_geometric",
    "log_polynomial",
    "plus_one",
    "with_complement",
]

_LEAST_EXCESS = 1e-30  # theta at the end of its domain: as near to independence as makes no difference
Parameters = tuple[Tensor, Tensor, Tensor]  # theta, its excess over the least value, the logarithm of that
NOTHING = -1e30  # log 0, finite so that no gradient is 0 * inf


class Archimedean(Copula):
    r"""A copula with one parameter :math:`\theta`, exchangeable in its margins.

    :math:`\theta = \theta_{\min} + \mathrm{softplus}(a)` with a free a (``raw_theta``), except for Frank in two
    dimensions, where any real :math:`\theta` will do.

    Args:
        theta: The parameter: a number, or a tensor whose shape broadcasts against the leading axes of ``u`` (one
            :math:`\theta` for each coordinate, say). A tensor that requires a gradient stays in its graph and is
            used as it is; everything else becomes ``raw_theta``.
        dim: Number of margins.
        learnable: Whether ``raw_theta`` requires a gradient.

    Raises:
        ConfigurationError: If :math:`\theta` is outside the family's domain, or ``dim`` below 2.
    """

    _least: ClassVar[float] = 0.0
    _least_allowed: ClassVar[bool] = False

    def __init__(self, theta: Any, dim: int = 2, *, learnable: bool = False):
        super().__init__(dim)
        attached = isinstance(theta, Tensor) and theta.requires_grad
        value = as_parameter(theta, "theta")
        self._require_domain(value.detach())
        self._given: Tensor | None = value if attached else None
        if not attached:
            self.raw_theta = nn.Parameter(self._free(value), requires_grad=learnable)

    def _require_domain(self, theta: Tensor) -> None:
        fine = (theta >= self._least if self._least_allowed else theta > self._least) & torch.isfinite(theta)
        if bool(fine.all()):
            return
        name, sign = type(self).__name__, ">=" if self._least_allowed else ">"
        negative = "Negative dependence of two margins: Rotated(copula, 90), or Frank with dim = 2."
        raise ConfigurationError(
            f"theta of {name} with {self.dim} margins is outside its domain",
            expected=f"theta {sign} {self._least:g}, finite",
            got=f"theta = {theta[~fine].flatten()[0].item()}",
            hint=f"{negative} Independence() stands at the boundary.",
        )

    def _free(self, theta: Tensor) -> Tensor:
        excess = (theta - self._least).clamp_min(_LEAST_EXCESS)
        return excess + log1mexp(excess)  # inverse of softplus

    def _excess(self) -> tuple[Tensor, Tensor]:
        r""":math:`\theta - \theta_{\min}` and its logarithm, which keeps its gradient where the former underflows."""
        if self._given is not None:
            excess = self._given - self._least
            return excess, torch.log(excess.clamp_min(_LEAST_EXCESS))
        return softplus_and_log(self.raw_theta)

    def _parameters_like(self, x: Tensor) -> Parameters:
        """theta, its excess over the least value, and the logarithm of that, in the dtype of x."""
        excess, log_excess = self._excess()
        return (excess + self._least).to(x.dtype), excess.to(x.dtype), log_excess.to(x.dtype)

    @property
    def theta(self) -> Tensor:
        r"""The parameter :math:`\theta`."""
        return self._given if self._given is not None else self._excess()[0] + self._least

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of theta."""
        return (self.raw_theta if self._given is None else self._given).shape

    def margin(self, indices: Sequence[int]) -> Self:
        """The same generator with fewer margins, sharing ``raw_theta``."""
        part = type(self).__new__(type(self))
        Copula.__init__(part, len(indices))
        part._given = self._given
        if self._given is None:
            part.raw_theta = self.raw_theta
        return part

    def extra_repr(self) -> str:
        """The settings that the printed module shows."""
        theta = self.theta.detach()
        return f"theta={theta.item():.4g}, dim={self.dim}" if theta.ndim == 0 else f"theta={theta}, dim={self.dim}"

    @property
    def parameter_count(self) -> int:
        """One for each theta."""
        return self.theta.numel()

    @classmethod
    @abstractmethod
    def _theta_of_tau(cls, tau: Tensor) -> Tensor:
        """Theta with a Kendall's tau inside the family's range."""

    @classmethod
    def from_kendall_tau(cls, tau: Any, dim: int = 2, *, learnable: bool = False) -> Self:
        r"""The copula with a given Kendall's :math:`\tau`.

        Args:
            tau: A number or a tensor, 0 <= tau < 1 (Frank in two dimensions: -1 < tau < 1).
            dim: Number of margins.
            learnable: Whether the parameter requires a gradient.

        Example:
            >>> from amodal.distributions.copula import Gumbel
            >>> Gumbel.from_kendall_tau(0.5).theta.item()
            2.0
        """
        value = as_parameter(tau, "tau").detach()
        signed = cls._signed_pair and dim == 2
        fine = ((value > -1) if signed else (value >= 0)) & (value < 1)
        if not bool(fine.all()):
            raise ConfigurationError(
                f"no {cls.__name__} copula of {dim} margins has this Kendall's tau",
                expected="-1 < tau < 1" if signed else "0 <= tau < 1",
                got=f"tau = {value[~fine].flatten()[0].item()}",
                hint="Rotated(copula, 90) has negative tau.",
            )
        return cls(cls._theta_of_tau(value), dim, learnable=learnable)

    def _sample_logs(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Marshall & Olkin: exponentials over a common frailty V whose Laplace transform is the generator."""
        theta = self.theta.detach()
        frailty = self._log_frailty(theta, n, generator)
        shape = (self.dim, n, *theta.shape)
        return self._psi_logs(exponential(shape, theta, generator).log() - frailty)

    @abstractmethod
    def _log_frailty(self, theta: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
        """log V, shape (n, …)."""

    @abstractmethod
    def _psi_logs(self, log_t: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\log\psi(t)` and :math:`\log(1-\psi(t))` from :math:`\log t`."""


def fill(observed: Tensor | None, x: Tensor, absent: float) -> Tensor:
    """x with a neutral value in place of the margins that are absent."""
    return x if observed is None else torch.where(observed, x, absent)


def by_count(count: Tensor | int, least: int, most: int, function: Callable[[int], Tensor]) -> Tensor:
    """``function(k)`` with k chosen for each row, evaluated once for each k that can occur."""
    if isinstance(count, int):
        return function(count)
    result = function(least)
    for k in range(least + 1, most + 1):
        result = torch.where(count == k, function(k), result)
    return result


def fold_logaddexp(terms: Sequence[Tensor]) -> Tensor:
    """Log of the sum of exponentials of a few tensors: a chain is faster than a reduction over a short axis."""
    total = terms[0]
    for term in terms[1:]:
        total = logaddexp(total, term)
    return total


def log_polynomial(log_coefficients: Sequence[Tensor | float], log_x: Tensor) -> Tensor:
    r""":math:`\log \sum_{j \ge 1} e^{b_j} x^j`, all coefficients positive."""
    return fold_logaddexp([log_x * j + b for j, b in enumerate(log_coefficients, start=1)])


def plus_one(log_x: Tensor) -> Tensor:
    r""":math:`\log(1 + x)` from :math:`\log x`, exact at both ends."""
    return nn.functional.softplus(log_x, threshold=50.0)


def with_complement(log_h: Tensor) -> tuple[Tensor, Tensor]:
    """log h, moved below zero where it has rounded to it, and log(1 - h)."""
    log_h = log_h.clamp(max=-torch.finfo(log_h.dtype).tiny)
    return log_h, log_complement(log_h)


def invert_tau(function: Callable[[Tensor], Tensor], tau: Tensor, least: float) -> Tensor:
    """Theta above ``least`` whose Kendall's tau, an increasing function of it, is given; found on a log scale."""
    goal = tau.double()
    high = torch.full_like(goal, 1e9).log()
    root = solve_increasing(lambda s: function(least + torch.expm1(s)) - goal, torch.zeros_like(goal), high)
    return (least + torch.expm1(root)).to(tau.dtype)


def exponential(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard exponential draws, positive; minus them are logarithms of uniform draws."""
    draws = torch.empty(tuple(shape), dtype=like.dtype, device=like.device).exponential_(generator=generator)
    return draws.clamp_min(torch.finfo(like.dtype).tiny)


def log_geometric(log_uniform: Tensor, log_failure: Tensor, log_success: Tensor) -> Tensor:
    """Log of a geometric draw on {1, 2, …}; where it is huge, of the exponential it then is."""
    log_ratio = (-log_uniform).log() - log_neg_log(log_failure, log_success)
    whole = torch.floor(torch.exp(log_ratio.clamp(max=30.0))) + 1
    return torch.where(log_ratio < 30.0, whole.log(), log_ratio)
