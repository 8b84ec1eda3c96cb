"""The independence copula, and rotations of copulas of two margins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from amodal.distributions.copula.abstract import Copula, TailDependence
from amodal.distributions.copula.fit import complete_presence
from amodal.distributions.log_space import log1mexp
from amodal.errors import ConfigurationError

__all__ = ["Independence", "Rotated"]


class Independence(Copula):
    """The independence copula: density one.

    Args:
        dim: Number of margins.

    Example:
        >>> Independence(dim=3).log_cdf(torch.tensor([[0.5, 0.5, 0.5]])).exp()
        tensor([0.1250])
    """

    def __init__(self, dim: int = 2):
        super().__init__(dim)

    @property
    def batch_shape(self) -> torch.Size:
        """No parameters, no shape."""
        return torch.Size()

    def margin(self, indices: Sequence[int]) -> Independence:
        """Independence of fewer margins."""
        return Independence(len(indices))

    def kendall_tau(self) -> Tensor:
        """Zero."""
        return torch.zeros(())

    def spearman_rho(self) -> Tensor:
        """Zero."""
        return torch.zeros(())

    def tail_dependence(self) -> TailDependence:
        """None."""
        return TailDependence(torch.zeros(()), torch.zeros(()))

    @property
    def parameter_count(self) -> int:
        """No parameters."""
        return 0

    @classmethod
    def from_kendall_tau(cls, tau: Any = 0.0, dim: int = 2, *, learnable: bool = False) -> Self:
        """Independence whatever tau, so that families can be built alike; it has nothing to learn."""
        return cls(dim)

    @classmethod
    def fit(cls, u: Any, *, observed: Any = None, iterations: int = 100) -> Self:
        """Nothing to fit but the number of margins."""
        return cls(complete_presence(u, observed)[0].shape[-1])

    def _log_density(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None, count: Tensor | int) -> Tensor:
        return (log_u[0] * 0.0).expand(log_u.shape[1:]) if observed is None else torch.zeros_like(log_u[0])

    def _log_cdf(self, log_u: Tensor, log_1mu: Tensor) -> Tensor:
        return log_u.sum(0)

    def _conditional(self, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor) -> tuple[Tensor, Tensor]:
        return log_u[target], log_1mu[target]

    def _conditional_quantile(
        self, log_w: Tensor, log_1mw: Tensor, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        return log_w, log_1mw


class Rotated(Copula):
    r"""A copula of two margins, turned: negative dependence and the other tail for families that lack them.

    .. math::
        c_{90}(u, v) = c(1-u, v), \qquad c_{180}(u, v) = c(1-u, 1-v), \qquad c_{270}(u, v) = c(u, 1-v)

    Args:
        base: A copula of two margins.
        degrees: 90, 180 or 270.

    Raises:
        ConfigurationError: For other angles, or more than two margins.

    Example:
        >>> from amodal.distributions.copula import Clayton
        >>> Rotated(Clayton(theta=2.0), 90).kendall_tau().item()
        -0.5
    """

    _signed_pair: ClassVar[bool] = True
    _FLIPS: ClassVar[dict[int, tuple[bool, bool]]] = {90: (True, False), 180: (True, True), 270: (False, True)}

    def __init__(self, base: Copula, degrees: int):
        super().__init__(base.dim)
        if base.dim != 2:
            raise ConfigurationError("rotation is for two margins", expected="dim = 2", got=f"dim = {base.dim}")
        if degrees not in self._FLIPS:
            raise ConfigurationError("no such rotation", expected="90, 180 or 270 degrees", got=degrees)
        self.base, self.degrees = base, degrees

    @classmethod
    def fit_base(cls, family: type[Copula], u: Tensor, degrees: int, observed: Tensor | None = None) -> Rotated:
        """Maximum likelihood of a rotated family."""
        flips = torch.tensor(cls._FLIPS[degrees])
        return cls(family.fit(torch.where(flips, 1 - u, u), observed=observed), degrees)

    @property
    def batch_shape(self) -> torch.Size:
        """That of the base."""
        return self.base.batch_shape

    def margin(self, indices: Sequence[int]) -> Rotated:
        """Two margins have no smaller copula; both, in order, are this one."""
        if list(indices) != [0, 1]:
            raise ConfigurationError("a pair has no smaller copula", expected="[0, 1]", got=list(indices))
        return self

    def kendall_tau(self) -> Tensor:
        """That of the base, negated by a quarter turn; a matrix where the base has one."""
        return self._turned(self.base.kendall_tau())

    def spearman_rho(self) -> Tensor:
        """That of the base, negated by a quarter turn; a matrix where the base has one."""
        return self._turned(self.base.spearman_rho())

    def _turned(self, measure: Tensor) -> Tensor:
        if self.degrees == 180:
            return measure
        if measure.ndim == len(self.batch_shape) + 2:  # a matrix, whose diagonal stays
            return measure * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=measure.dtype, device=measure.device)
        return -measure

    def tail_dependence(self) -> TailDependence:
        """Ends exchanged by a half turn; none after a quarter turn, where one margin is high and the other low."""
        lower, upper = self.base.tail_dependence()
        if self.degrees == 180:
            return TailDependence(upper, lower)
        nothing = torch.zeros_like(lower)
        if lower.ndim == len(self.batch_shape) + 2:
            nothing = nothing + torch.eye(2, dtype=lower.dtype, device=lower.device)
        return TailDependence(nothing, nothing)

    @property
    def parameter_count(self) -> int:
        """That of the base."""
        return self.base.parameter_count

    @classmethod
    def from_kendall_tau(cls, tau: Any, dim: int = 2, *, learnable: bool = False) -> Self:
        """Not defined without a family: rotate ``Family.from_kendall_tau(-tau)`` instead."""
        raise ConfigurationError(
            "Rotated needs a family", hint="Write Rotated(Family.from_kendall_tau(-tau), 90) for a negative tau."
        )

    def _turn(self, log_u: Tensor, log_1mu: Tensor) -> tuple[Tensor, Tensor]:
        flips = self._FLIPS[self.degrees]
        pairs = [(log_1mu[m], log_u[m]) if flip else (log_u[m], log_1mu[m]) for m, flip in enumerate(flips)]
        return torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])

    def _log_density(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None, count: Tensor | int) -> Tensor:
        return self.base._log_density(*self._turn(log_u, log_1mu), observed, count)

    def _log_cdf(self, log_u: Tensor, log_1mu: Tensor) -> Tensor:
        base = self.base._log_cdf(*self._turn(log_u, log_1mu))
        tiny = torch.finfo(base.dtype).tiny
        if self.degrees == 180:  # u + v - 1 + C(1-u, 1-v) = C(1-u, 1-v) - (1 - u - v)
            value = torch.exp(base) - (1 - torch.exp(log_u).sum(0))
            return torch.log(value.clamp_min(tiny))
        kept = log_u[1] if self.degrees == 90 else log_u[0]  # v - C(1-u, v), or u - C(u, 1-v)
        return kept + log1mexp((kept - base).clamp_min(tiny))

    def _conditional(self, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = self.base._conditional(*self._turn(log_u, log_1mu), target, observed)
        return (upper, lower) if self._FLIPS[self.degrees][target] else (lower, upper)

    def _conditional_quantile(
        self, log_w: Tensor, log_1mw: Tensor, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        flip = self._FLIPS[self.degrees][target]
        w = (log_1mw, log_w) if flip else (log_w, log_1mw)
        lower, upper = self.base._conditional_quantile(*w, *self._turn(log_u, log_1mu), target, observed)
        return (upper, lower) if flip else (lower, upper)

    def _sample_logs(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._turn(*self.base._sample_logs(n, generator))
