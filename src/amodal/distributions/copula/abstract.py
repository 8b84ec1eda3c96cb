r"""What every copula promises: the abstract class.

A copula is the joint law of M uniform variables. Points are tensors whose **last** axis holds the margins,
``u`` of shape (…, M); every result has the shape of the leading axes. Parameters may have a shape of their own, which
broadcasts against those leading axes: one :math:`\theta` of shape (D,) for each of D coordinates and ``u`` of shape
(B, D, M), say.

Each density takes ``observed``: a margin that is absent is integrated out, its entry may hold anything, and its
gradient is zero. Inside, tensors are *margins first*, (M, …): reductions over a short last axis are slow.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from amodal.distributions.copula.points import (
    blank,
    full_precision,
    into_open_interval,
    open_uniform,
    require_inside,
    without_autocast,
)
from amodal.distributions.fused import Kernel, Plain, fused
from amodal.distributions.inversion import attach_root, solve_increasing
from amodal.distributions.log_space import LOG_HALF
from amodal.errors import ConfigurationError, DataError, ShapeError

__all__ = ["Copula"]


class Copula(nn.Module, ABC):
    r"""Joint law of M variables that are each uniform on (0, 1).

    Parameters are kept unconstrained (``nn.Parameter``), in float64 where they were given as Python numbers, and used
    in the dtype of the point; half precision is raised to float32, under autocast too.

    Args:
        dim: Number of margins M, at least 2.

    Raises:
        ConfigurationError: If ``dim`` is below 2.
    """

    def __init__(self, dim: int):
        super().__init__()
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 2:
            raise ConfigurationError("a copula joins at least two margins", expected="dim >= 2", got=f"dim = {dim!r}")
        self.dim = dim

    # ---------------------------------------------------------------- densities

    def log_density(self, u: Any, observed: Any = None) -> Tensor:
        r"""Log density :math:`\log c(u)`, of the observed margins only where ``observed`` is given.

        Args:
            u: Points, shape (…, M), strictly inside (0, 1) where observed.
            observed: Presence of each margin, bool, broadcastable to the shape of ``u``.

        Returns:
            Shape (…,). Rows with fewer than two observed margins give 0.

        Raises:
            DataError: If an observed entry is NaN, or not strictly inside (0, 1): a density has no limit there that
                holds for all families.
        """
        u, observed = self._enter(u, observed)
        require_inside(u, observed, closed=False)
        u = blank(u, observed)
        return self.log_density_from_logs(torch.log(u), torch.log1p(-u), observed)

    def log_density_from_logs(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None = None) -> Tensor:
        r"""Log density from :math:`\log u` and :math:`\log(1-u)`: precise however near u is to 0 or to 1.

        The fast path of training: shapes are checked, values are not.

        Args:
            log_u: :math:`\log u`, shape (…, M). A view made by ``torch.stack(list, 0).movedim(0, -1)`` is fastest.
            log_1mu: :math:`\log(1-u)`, the same shape.
            observed: Presence, bool, broadcastable to the same shape.

        Returns:
            Shape (…,).
        """
        return self.log_density_margins_first(*self._enter_logs(log_u, log_1mu, observed))

    def log_density_margins_first(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None = None) -> Tensor:
        r"""The same with the margins on the *first* axis, for callers that hold them so: nothing is checked or moved.

        Args:
            log_u: :math:`\log u`, shape (M, …), float32 or float64; finite where absent too.
            log_1mu: :math:`\log(1-u)`, the same shape.
            observed: Presence, bool, of as many axes and broadcastable.

        Returns:
            Shape (…,).
        """
        with without_autocast(log_u):
            if observed is None:
                parts = self.kernel(log_u, log_1mu)
                if parts is None:
                    return self._log_density(log_u, log_1mu, None, self.dim)
                return fused(parts[0], parts[1], log_u, log_1mu, *parts[2])
            count = observed.sum(0)
            enough = count >= 2
            used = observed | ~enough  # rows without a pair are evaluated in full at (1/2, …) and then set to zero
            result = self._log_density(log_u, log_1mu, used, torch.where(enough, count, self.dim))
            return torch.where(enough, result, 0.0)

    def log_cdf(self, u: Any, observed: Any = None) -> Tensor:
        r"""Log distribution function :math:`\log C(u)`; a margin that is absent counts as :math:`u_m = 1`.

        Args:
            u: Points, shape (…, M), in [0, 1] where observed.
            observed: Presence of each margin, bool, broadcastable to the shape of ``u``.

        Returns:
            Shape (…,): minus infinity where an entry is 0, and the law of the other margins where one is 1.

        Raises:
            DataError: If an observed entry is NaN or outside [0, 1].
        """
        u, observed = self._enter(u, observed)
        require_inside(u, observed, closed=True)
        present = u < 1 if observed is None else observed & (u < 1)
        impossible = ((u <= 0) & present).any(-1)
        plain = bool(present.all()) and not bool(impossible.any())
        u = u if plain else torch.where(present & (u > 0), u, 0.5)
        log_u, log_1mu, seen = self._enter_logs(torch.log(u), torch.log1p(-u), None if plain else present)
        with without_autocast(log_u):
            result = self._log_cdf(log_u, log_1mu) if seen is None else self._log_cdf_by_pattern(log_u, log_1mu, seen)
        return torch.where(impossible, -torch.inf, result)

    # ---------------------------------------------------------------- conditional law of one margin

    def conditional_cdf(self, u: Any, target: int, observed: Any = None) -> Tensor:
        r"""Conditional distribution function (h-function) :math:`P(U_t \le u_t \mid U_O = u_O)`.

        Args:
            u: Points, shape (…, M).
            target: The margin t.
            observed: The margins conditioned on, bool, broadcastable to ``u``; all the others if not given. The
                entry of the target itself is ignored.

        Returns:
            Shape (…,).

        Example:
            >>> from amodal.distributions.copula import Clayton
            >>> Clayton(theta=2.0).conditional_cdf(torch.tensor([[0.5, 0.5]]), target=1)
            tensor([0.4320])
        """
        target = self._target(target)
        u, observed = self._enter(u, observed)
        needed = self._conditioned(u, observed, target)
        seen = needed.clone()
        seen[..., target] = True
        require_inside(u, seen, closed=False)
        u = blank(u, seen)
        return self.conditional_logs(torch.log(u), torch.log1p(-u), target, needed)[0].exp()

    def conditional_logs(
        self, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Logarithms of the conditional distribution function h and of 1 - h, from those of u and 1 - u.

        Args:
            log_u: :math:`\log u`, shape (…, M).
            log_1mu: :math:`\log(1-u)`, the same shape.
            target: The margin whose law is wanted.
            observed: The margins conditioned on, bool; all the others if not given.

        Returns:
            :math:`\log h` and :math:`\log(1-h)`, each of shape (…,).
        """
        target = self._target(target)
        needed = self._conditioned(log_u, observed, target)
        log_u, log_1mu, needed_first = self._enter_logs(log_u, log_1mu, needed, keep=target)
        assert needed_first is not None
        with without_autocast(log_u):
            return self._conditional(log_u, log_1mu, target, needed_first)

    def conditional_quantile(self, w: Any, u: Any, target: int, observed: Any = None) -> Tensor:
        r"""Inverse of :meth:`conditional_cdf`: the :math:`u_t` with :math:`P(U_t \le u_t \mid U_O = u_O) = w`.

        Differentiable with respect to ``w``, the observed margins and the parameters, by the implicit function theorem
        where there is no closed form.

        Args:
            w: Probabilities, shape (…,), strictly inside (0, 1).
            u: Points, shape (…, M); the entry of the target is ignored.
            target: The margin t.
            observed: The margins conditioned on, bool; all the others if not given.

        Returns:
            Shape (…,).
        """
        target = self._target(target)
        u, observed = self._enter(u, observed)
        needed = self._conditioned(u, observed, target)
        require_inside(u, needed, closed=False)
        w = torch.as_tensor(w, dtype=u.dtype, device=u.device)
        if not bool(((w > 0) & (w < 1)).all()):
            raise DataError("w has a value that is not a probability inside (0, 1)", expected="0 < w < 1")
        u = blank(u, needed)
        log_u, log_1mu, seen = self._enter_logs(torch.log(u), torch.log1p(-u), needed)
        assert seen is not None
        with without_autocast(log_u):
            return self._conditional_quantile(torch.log(w), torch.log1p(-w), log_u, log_1mu, target, seen)[0].exp()

    # ---------------------------------------------------------------- sampling

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points.

        Args:
            n: Number of draws.
            generator: Source of randomness, on the device of the parameters.

        Returns:
            Shape (n, M), or (n, …, M) where the parameters have a shape; the dtype of the parameters.
        """
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
        """
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
        reach = _farthest(log_u.dtype)
        near, near_1m = (part.clamp(-reach, -math.exp(-reach)) for part in (log_u, log_1mu))
        with without_autocast(log_u):
            drawn = self._fill_in(near, near_1m, observed, uniform, range(self.dim) if order is None else order)
        return torch.where(observed, log_u, drawn[0]), torch.where(observed, log_1mu, drawn[1])

    # ---------------------------------------------------------------- parameters and fitting

    @property
    @abstractmethod
    def batch_shape(self) -> torch.Size:
        """Shape of the parameters beyond what one copula needs; broadcasts against the leading axes of ``u``."""

    @abstractmethod
    def margin(self, indices: Sequence[int]) -> Copula:
        """The copula of some of the margins (at least two), sharing this one's parameters."""

    @abstractmethod
    def kendall_tau(self) -> Tensor:
        """Kendall's tau: of every pair alike (the shape of the parameter), or a matrix (…, M, M) where pairs differ."""

    @classmethod
    @abstractmethod
    def from_kendall_tau(cls, tau: Any, dim: int = 2, *, learnable: bool = False) -> Self:
        """The copula whose pairs all have this Kendall's tau."""

    @classmethod
    def fit(cls, u: Any, *, observed: Any = None, iterations: int = 100) -> Self:
        """Maximum likelihood, started from the pairwise Kendall's tau of the data.

        Args:
            u: Points, shape (N, M), strictly inside (0, 1) where observed.
            observed: Presence, bool (N, M); rows enter by the likelihood of their observed margins.
            iterations: Most iterations of L-BFGS.

        Returns:
            A fixed copula; ``requires_grad_()`` makes it learnable.
        """
        from amodal.distributions.copula.fit import complete_presence, maximise_likelihood

        points, presence = complete_presence(u, observed)
        copula = cls._initial(points, presence)
        return maximise_likelihood(copula, points, presence, iterations=iterations)

    @classmethod
    def _initial(cls, u: Tensor, observed: Tensor) -> Self:
        from amodal.distributions.copula.fit import pairwise_kendall_tau

        taus = pairwise_kendall_tau(u, observed)
        upper = torch.triu(torch.ones_like(taus, dtype=torch.bool), 1)
        return cls.from_kendall_tau(taus[upper].mean().clamp(cls._lowest_start, 0.95), u.shape[-1])

    _lowest_start: float = 0.02

    # ---------------------------------------------------------------- for the families, margins first

    def kernel(self, log_u: Tensor, log_1mu: Tensor) -> tuple[Plain, Kernel, tuple[Tensor, ...]] | None:
        """A fused form of the complete density, where the family has one in the range of these values.

        Args:
            log_u: Margins first, (M, …).
            log_1mu: The same shape.

        Returns:
            The density in ordinary operations, its kernel (see ``fused``), and the parameters; the first two take
            log u, log(1 - u) and the parameters. None where there is no such form.
        """
        return None

    @abstractmethod
    def _log_density(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None, count: Tensor | int) -> Tensor:
        """Log density of (M, …); at least two margins are observed in each row, ``count`` says how many."""

    @abstractmethod
    def _log_cdf(self, log_u: Tensor, log_1mu: Tensor) -> Tensor:
        """Log distribution function of (M, …), all margins observed."""

    @abstractmethod
    def _conditional(self, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor) -> tuple[Tensor, Tensor]:
        """log h and log(1 - h) of (M, …); ``observed`` is False at the target and may be False everywhere."""

    def _conditional_quantile(
        self, log_w: Tensor, log_1mw: Tensor, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """log and log complement of the inverse of h, found on the logit scale."""
        shape = torch.broadcast_shapes(log_w.shape, log_u.shape[1:], observed.shape[1:], self.batch_shape)
        goal = (log_w - log_1mw).expand(shape)
        log_us, log_1mus = list(log_u.expand(-1, *shape).unbind(0)), list(log_1mu.expand(-1, *shape).unbind(0))

        def excess(logit: Tensor) -> Tensor:
            log_us[target] = nn.functional.logsigmoid(logit)
            log_1mus[target] = nn.functional.logsigmoid(-logit)
            log_h, log_1mh = self._conditional(torch.stack(log_us), torch.stack(log_1mus), target, observed)
            return log_h - log_1mh - goal

        end = torch.full(shape, _farthest(log_u.dtype), dtype=log_u.dtype, device=log_u.device)
        logit = attach_root(excess, solve_increasing(excess, -end, end))
        return nn.functional.logsigmoid(logit), nn.functional.logsigmoid(-logit)

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
            if not bool(wanted.any()):
                continue
            w = source[target] if isinstance(source, Tensor) else open_uniform(shape, log_u, source)
            points = torch.stack(log_us), torch.stack(log_1mus)
            drawn = self._conditional_quantile(torch.log(w), torch.log1p(-w), *points, target, torch.stack(known))
            log_us[target] = torch.where(wanted, drawn[0], log_us[target])
            log_1mus[target] = torch.where(wanted, drawn[1], log_1mus[target])
            known[target] = torch.ones_like(wanted)
        return torch.stack(log_us), torch.stack(log_1mus)

    def _log_cdf_by_pattern(self, log_u: Tensor, log_1mu: Tensor, observed: Tensor) -> Tensor:
        """Group rows by their pattern and evaluate the copula of the margins present in each."""
        shape = torch.broadcast_shapes(log_u.shape[1:], self.batch_shape)
        log_u, log_1mu = log_u.expand(-1, *shape), log_1mu.expand(-1, *shape)
        observed = observed.expand(-1, *shape)
        result = torch.zeros(shape, dtype=log_u.dtype, device=log_u.device)
        for pattern in torch.unique(observed.reshape(self.dim, -1), dim=1).unbind(1):
            present = pattern.nonzero().flatten().tolist()
            here = (observed == pattern.reshape(-1, *[1] * len(shape))).all(0)
            if len(present) == 1:
                result = torch.where(here, log_u[present[0]], result)
            elif present:
                part = self if len(present) == self.dim else self.margin(present)
                result = torch.where(here, part._log_cdf(log_u[present], log_1mu[present]), result)
        return result

    # ---------------------------------------------------------------- the door

    def _enter(self, u: Any, observed: Any) -> tuple[Tensor, Tensor | None]:
        u = torch.as_tensor(u)
        if not u.is_floating_point():
            raise ShapeError("u must hold numbers between 0 and 1", expected="a floating-point tensor", got=u.dtype)
        self._require_last_axis(u)
        return full_precision(u), None if observed is None else self._presence(observed, u)

    def _require_last_axis(self, u: Tensor) -> None:
        if u.ndim == 0 or u.shape[-1] != self.dim:
            raise ShapeError(
                f"the last axis of u holds the margins of this {type(self).__name__}",
                expected=f"shape (…, {self.dim})",
                got=f"shape {tuple(u.shape)}",
            )

    def _presence(self, observed: Any, u: Tensor) -> Tensor:
        observed = torch.as_tensor(observed, device=u.device)
        if observed.dtype != torch.bool:
            raise ShapeError("observed must be bool, True where present", expected=torch.bool, got=observed.dtype)
        self._require_last_axis(observed)
        return observed

    def _enter_logs(
        self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None, keep: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """To full precision and margins first, absent entries blanked to one half."""
        self._require_last_axis(log_u)
        if log_u.shape != log_1mu.shape:
            raise ShapeError("log u and log(1 - u) must agree", expected=tuple(log_u.shape), got=tuple(log_1mu.shape))
        log_u, log_1mu = full_precision(log_u).movedim(-1, 0), full_precision(log_1mu).movedim(-1, 0)
        if observed is None:
            return log_u, log_1mu, None
        seen = self._presence(observed, log_u)
        seen = seen.reshape(*[1] * (log_u.ndim - seen.ndim), *seen.shape).movedim(-1, 0)
        used = seen
        if keep is not None:
            used = seen.clone()
            used[keep] = True
        if used.is_cuda or not bool(used.all()):
            log_u, log_1mu = torch.where(used, log_u, LOG_HALF), torch.where(used, log_1mu, LOG_HALF)
        return log_u, log_1mu, seen

    def _target(self, target: int) -> int:
        if not -self.dim <= target < self.dim:
            raise ShapeError("there is no such margin", expected=f"0 <= target < {self.dim}", got=target)
        return target % self.dim

    def _conditioned(self, u: Tensor, observed: Tensor | None, target: int) -> Tensor:
        """The margins conditioned on, without the target, in the shape of u."""
        if observed is None:
            needed = torch.ones(u.shape, dtype=torch.bool, device=u.device)
        else:
            observed = self._presence(observed, u)
            needed = observed.expand(torch.broadcast_shapes(observed.shape, u.shape)).clone()
        needed[..., target] = False
        return needed


def _farthest(dtype: torch.dtype) -> float:
    """How far from zero the logarithm of a probability may be that a conditional law is asked about."""
    return 80.0 if dtype == torch.float32 else 300.0
