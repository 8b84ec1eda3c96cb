r"""The abstract copula: densities, conditional laws, draws and fits that every family has.

A copula is the joint law of M uniform variables. Points are tensors whose **last** axis holds the margins,
``u`` of shape (…, M); every result has the shape of the leading axes. Parameters may have a shape of their own, which
broadcasts against those leading axes: one :math:`\theta` of shape (D,) for each of D coordinates and ``u`` of shape
(B, D, M), say.

Each density takes ``observed``: a margin that is absent is integrated out, its entry may hold anything, and its
gradient is zero. Inside, tensors are *margins first*, (M, …): reductions over a short last axis are slow.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from amodal.distributions.copula.densities import CopulaLaw, farthest
from amodal.distributions.copula.fit import (
    complete_presence,
    log_likelihood,
    maximise_likelihood,
    pairwise_kendall_tau,
    require_fittable,
)
from amodal.distributions.copula.points import (
    blank,
    into_open_interval,
    open_uniform,
    require_generator,
    require_inside,
    without_autocast,
)
from amodal.distributions.log_space import LOG_HALF
from amodal.distributions.quadrature import gauss_legendre
from amodal.errors import ConfigurationError

__all__ = ["Copula", "TailDependence"]


class TailDependence(NamedTuple):
    r"""The limiting probability that one margin is extreme given that another is.

    Attributes:
        lower: :math:`\lim_{q \to 0} P(V \le q \mid U \le q)`.
        upper: :math:`\lim_{q \to 1} P(V > q \mid U > q)`.
    """

    lower: Tensor
    upper: Tensor


class Copula(CopulaLaw):
    r"""Joint law of M variables that are each uniform on (0, 1).

    Parameters are kept unconstrained (``nn.Parameter``), in float64 where they were given as Python numbers, and used
    in the dtype of the point; half precision is raised to float32, under autocast too.

    Args:
        dim: Number of margins M, at least 2.

    Raises:
        ConfigurationError: If ``dim`` is below 2.
    """

    # ---------------------------------------------------------------- sampling

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points.

        Args:
            n: Number of draws.
            generator: Source of randomness, on the device of the parameters.

        Returns:
            Shape (n, M), or (n, …, M) where the parameters have a shape; the dtype of the parameters.

        Raises:
            ConfigurationError: If n is not a number of draws, or the generator not one.
        """
        require_generator(generator)
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise ConfigurationError("n is not a number of draws", expected="a whole number, 0 or more", got=repr(n))
        log_u = self._sample_logs(n, generator)[0]
        return into_open_interval(log_u.exp()).movedim(0, -1)

    def sample_given(
        self, u: Any, observed: Any, *, generator: torch.Generator | None = None, differentiable: bool = False
    ) -> Tensor:
        """Draw the absent margins from their joint law given the observed ones, row by row.

        Args:
            u: Points, shape (…, M). Absent entries may hold anything, NaN included.
            observed: Presence of each margin, bool, broadcastable to the shape of ``u``. Rows with nothing observed
                are drawn from the copula itself.
            generator: Source of randomness, on the device of ``u``.
            differentiable: Whether gradients reach the parameters and the observed entries through the draws.

        Returns:
            The shape of ``u``: observed entries unchanged, absent ones drawn, strictly inside (0, 1).

        Raises:
            DataError: If an observed entry is NaN or not strictly inside (0, 1).

        Example:
            >>> from amodal.distributions.copula import Gumbel
            >>> u = torch.tensor([[0.9, float("nan"), 0.8]], dtype=torch.float64).expand(1000, 3)
            >>> drawn = Gumbel(theta=2.0, dim=3).sample_given(
            ...     u, [True, False, True], generator=torch.Generator().manual_seed(0))
            >>> round(drawn[:, 1].mean().item(), 2)
            0.8
        """
        require_generator(generator)
        u, observed = self._enter(u, observed)
        if observed is None:
            raise ConfigurationError("sample_given needs to know which margins are observed", expected="a bool tensor")
        require_inside(u, observed, closed=False)
        observed = observed.expand(torch.broadcast_shapes(u.shape, observed.shape, (*self.batch_shape, self.dim)))
        u = blank(u, observed).expand(observed.shape)
        log_u, log_1mu, seen = self._enter_logs(torch.log(u), torch.log1p(-u), observed)
        assert seen is not None
        with without_autocast(log_u), torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
            drawn = self._sample_given_logs(log_u, log_1mu, seen, generator)[0]
            drawn = into_open_interval(drawn.exp()).movedim(0, -1)
            return torch.where(observed, u, drawn.to(u.dtype))

    def complete_margins_first(
        self, log_u: Tensor, log_1mu: Tensor, observed: Tensor, uniform: Tensor, order: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Absent margins given the observed ones from uniforms that are handed in (inverse Rosenblatt transform).

        For callers that want the same noise for several rows, or gradients through a draw; nothing is checked.

        Args:
            log_u: :math:`\log u`, shape (M, …), float32 or float64; finite where absent too.
            log_1mu: :math:`\log(1-u)`, the same shape.
            observed: Presence, bool, broadcastable to the same shape.
            uniform: Independent uniforms inside (0, 1), the same shape; those of observed margins are not used.
            order: In which order the margins are drawn, each given those before; None: as they come.

        Returns:
            Both logarithms, completed; differentiable.
        """
        observed = observed.expand(log_u.shape)
        log_u, log_1mu = (torch.where(observed, part, LOG_HALF) for part in (log_u, log_1mu))
        # Further out a condition says no more, and the gradient of what it says is the product of 0 and infinity.
        reach = farthest(log_u.dtype)
        near, near_1m = (part.clamp(-reach, -math.exp(-reach)) for part in (log_u, log_1mu))
        with without_autocast(log_u):
            drawn = self._fill_in(near, near_1m, observed, uniform, range(self.dim) if order is None else order)
        return torch.where(observed, log_u, drawn[0]), torch.where(observed, log_1mu, drawn[1])

    def _sample_logs(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        like = next(iter(self.parameters()), torch.zeros((), dtype=torch.get_default_dtype()))
        blank = torch.full((self.dim, n, *self.batch_shape), LOG_HALF, dtype=like.dtype, device=like.device)
        return self._sample_given_logs(blank, blank, torch.zeros_like(blank, dtype=torch.bool), generator)

    def _sample_given_logs(
        self, log_u: Tensor, log_1mu: Tensor, observed: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        return self._fill_in(log_u, log_1mu, observed, generator, range(self.dim))

    def _fill_in(
        self,
        log_u: Tensor,
        log_1mu: Tensor,
        observed: Tensor,
        source: torch.Generator | Tensor | None,
        order: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        """Margin after margin from its law given all that is known by then (inverse Rosenblatt transform).

        ``source`` is a generator, or the uniforms themselves, shape (M, …).
        """
        log_us, log_1mus, known = list(log_u.unbind(0)), list(log_1mu.unbind(0)), list(observed.unbind(0))
        shape = log_u.shape[1:]
        for target in order:
            wanted = ~known[target]
            if not wanted.is_cuda and not bool(wanted.any()):
                continue
            w = source[target] if isinstance(source, Tensor) else open_uniform(shape, log_u, source)
            points = torch.stack(log_us), torch.stack(log_1mus)
            drawn = self._conditional_quantile(torch.log(w), torch.log1p(-w), *points, target, torch.stack(known))
            log_us[target] = torch.where(wanted, drawn[0], log_us[target])
            log_1mus[target] = torch.where(wanted, drawn[1], log_1mus[target])
            known[target] = torch.ones_like(wanted)
        return torch.stack(log_us), torch.stack(log_1mus)

    # ---------------------------------------------------------------- parameters and fitting

    @abstractmethod
    def kendall_tau(self) -> Tensor:
        """Kendall's tau: of every pair alike (the shape of the parameter), or a matrix (…, M, M) where pairs differ."""

    @classmethod
    @abstractmethod
    def from_kendall_tau(cls, tau: Any, dim: int = 2, *, learnable: bool = False) -> Self:
        """The copula whose pairs all have this Kendall's tau."""

    @abstractmethod
    def tail_dependence(self) -> TailDependence:
        """Lower and upper tail dependence of each pair, in the shape of :meth:`kendall_tau`."""

    def spearman_rho(self) -> Tensor:
        r"""Spearman's rho of each pair, in the shape of :meth:`kendall_tau`.

        .. math:: \rho_S = 12 \int_0^1 \int_0^1 u\, h^{-1}(w \mid u)\, dw\, du - 3

        with the inverse of the conditional distribution function, by quadrature where there is no closed form.
        """
        pair = self if self.dim == 2 else self.margin([0, 1])
        assert isinstance(pair, Copula)
        return _spearman_of_pair(pair)

    @classmethod
    def fit(cls, u: Any, *, observed: Any = None, iterations: int = 100) -> Self:
        """Maximum likelihood, started from the pairwise Kendall's tau of the data.

        Args:
            u: Points, shape (N, M), strictly inside (0, 1) where observed; see ``pseudo_observations``.
            observed: Presence, bool (N, M); rows enter by the likelihood of their observed margins.
            iterations: Most iterations of L-BFGS.

        Returns:
            A fixed copula; ``requires_grad_()`` makes it learnable.

        Raises:
            DataError: If fewer than ten rows have two margins, a margin determines another, or the data depend
                negatively and the family cannot.
        """
        points, presence = complete_presence(u, observed)
        return maximise_likelihood(cls._initial(points, presence), points, presence, iterations=iterations)

    @classmethod
    def _initial(cls, u: Tensor, observed: Tensor) -> Self:
        """The start of the fit: the mean Kendall's tau of the pairs, not at the end of its range."""
        taus = pairwise_kendall_tau(u, observed)[0]
        negative = cls._signed_pair and u.shape[-1] == 2
        mean = require_fittable(cls.__name__, taus, len(u), positive=not negative)
        return cls.from_kendall_tau(min(max(mean, -0.95 if negative else 0.02), 0.95), u.shape[-1])

    _signed_pair: ClassVar[bool] = False
    """Whether two margins may depend negatively."""

    @property
    @abstractmethod
    def parameter_count(self) -> int:
        """Number of free parameters, for information criteria."""

    @torch.no_grad()
    def aic(self, u: Any, *, observed: Any = None) -> float:
        r"""Akaike's information criterion :math:`2k - 2\ell`, k parameters, of points as in :meth:`fit`."""
        return 2 * self.parameter_count - 2 * float(log_likelihood(self, *complete_presence(u, observed)))

    @torch.no_grad()
    def bic(self, u: Any, *, observed: Any = None) -> float:
        r"""The Bayesian information criterion :math:`k \log n - 2\ell`, n rows with at least two margins."""
        points, presence = complete_presence(u, observed)
        rows = int((presence.sum(1) >= 2).sum())
        return self.parameter_count * math.log(rows) - 2 * float(log_likelihood(self, points, presence))


def _spearman_of_pair(pair: Copula) -> Tensor:
    """Spearman's rho of two margins, by Gauss and Legendre's rule on nodes that crowd at the ends."""
    x, weights = gauss_legendre(64)
    nodes, weights = x * x * (3 - 2 * x), weights * 6 * x * (1 - x)
    u, w = torch.meshgrid(nodes, nodes, indexing="ij")
    lead = (-1, *[1] * len(pair.batch_shape))
    u, w, each = u.reshape(lead), w.reshape(lead), torch.outer(weights, weights).reshape(lead)
    v = pair.conditional_quantile(w, torch.stack([u, torch.full_like(u, 0.5)], -1), 1)
    return 12 * (each * u * v).sum(0) - 3
