r"""Densities, distribution functions and conditional laws of copulas, margins first inside.

Points are tensors whose **last** axis holds the margins, ``u`` of shape (…, M); every result has the shape of the
leading axes. Inside, tensors are *margins first*, (M, …): reductions over a short last axis are slow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amodal.distributions.copula.points import (
    as_points,
    as_presence,
    blank,
    full_precision,
    require_inside,
    require_last_axis,
    without_autocast,
)
from amodal.distributions.inversion import attach_root, solve_increasing
from amodal.distributions.log_space import LOG_HALF
from amodal.errors import ConfigurationError, DataError, ShapeError

__all__ = ["CopulaLaw", "farthest"]


class CopulaLaw(nn.Module, ABC):
    """The law of M variables that are each uniform on (0, 1), by its density and its conditional laws.

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

    @property
    @abstractmethod
    def batch_shape(self) -> torch.Size:
        """Shape of the parameters beyond what one copula needs; broadcasts against the leading axes of ``u``."""

    @abstractmethod
    def margin(self, indices: Sequence[int]) -> CopulaLaw:
        """The copula of some of the margins (at least two), sharing this one's parameters."""

    # ---------------------------------------------------------------- densities

    def log_density(self, u: Any, observed: Any = None) -> Tensor:
        r"""Log density :math:`\log c(u)`, of the observed margins only where ``observed`` is given.

        Args:
            u: Points, shape (…, M), strictly inside (0, 1) where observed: tensor, array, frame or nested numbers.
            observed: Presence of each margin, bool, broadcastable to the shape of ``u``.

        Returns:
            Shape (…,). Rows with fewer than two observed margins give 0.

        Raises:
            DataError: If an observed entry is NaN, or not strictly inside (0, 1): a density has no limit there that
                holds for all families.
            ShapeError: If ``u`` does not end in M, or does not broadcast with the parameters.
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
            if observed is not None and not observed.is_cuda and bool(observed.all()):
                observed = None  # complete rows need no selection
            if observed is None:
                return self._log_density(log_u, log_1mu, None, self.dim)
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
        log_u, log_1mu, needed = self._enter_logs(torch.log(u), torch.log1p(-u), needed, keep=target)
        assert needed is not None
        with without_autocast(log_u):
            return self._conditional(log_u, log_1mu, target, needed)[0].exp()

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
        try:
            torch.broadcast_shapes(w.shape, u.shape[:-1])
        except RuntimeError:
            raise ShapeError("w does not fit u", expected=tuple(u.shape[:-1]), got=tuple(w.shape)) from None
        if not bool(((w > 0) & (w < 1)).all()):
            raise DataError("w has a value that is not a probability inside (0, 1)", expected="0 < w < 1")
        u = blank(u, needed)
        log_u, log_1mu, seen = self._enter_logs(torch.log(u), torch.log1p(-u), needed)
        assert seen is not None
        with without_autocast(log_u):
            return self._conditional_quantile(torch.log(w), torch.log1p(-w), log_u, log_1mu, target, seen)[0].exp()

    # ---------------------------------------------------------------- for the families, margins first

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

        end = torch.full(shape, farthest(log_u.dtype), dtype=log_u.dtype, device=log_u.device)
        logit = attach_root(excess, solve_increasing(excess, -end, end))
        return nn.functional.logsigmoid(logit), nn.functional.logsigmoid(-logit)

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

    # ---------------------------------------------------------------- arguments

    def _enter(self, u: Any, observed: Any) -> tuple[Tensor, Tensor | None]:
        """Points and presence as tensors that fit this copula."""
        u = as_points(u)
        require_last_axis(u, self.dim, type(self).__name__)
        observed = None if observed is None else self._presence(observed, u)
        try:
            torch.broadcast_shapes(u.shape[:-1], self.batch_shape, () if observed is None else observed.shape[:-1])
        except RuntimeError:
            raise ShapeError(
                f"u and observed do not broadcast with the parameters of this {type(self).__name__}",
                expected=f"leading axes that fit {tuple(self.batch_shape)}",
                got=f"u of shape {tuple(u.shape)}"
                + ("" if observed is None else f", observed of shape {tuple(observed.shape)}"),
            ) from None
        return u, observed

    def _presence(self, observed: Any, u: Tensor) -> Tensor:
        presence = as_presence(observed, u)
        require_last_axis(presence, self.dim, type(self).__name__)
        return presence

    def _enter_logs(
        self, log_u: Tensor, log_1mu: Tensor, observed: Tensor | None, keep: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """To full precision and margins first, absent entries blanked to one half."""
        require_last_axis(log_u, self.dim, type(self).__name__)
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


def farthest(dtype: torch.dtype) -> float:
    """The largest distance from zero of the logarithm of a probability at which a conditional law is evaluated."""
    return 80.0 if dtype == torch.float32 else 300.0
