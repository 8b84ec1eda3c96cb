r"""Elliptical copulas: the parts that the Gaussian and the Student t copula share, with a full correlation matrix R.

With :math:`R = L L^\top` and scores :math:`\xi`, only :math:`y = L^{-1}\xi` and the diagonal of L are needed. L is
parametrised so that they come without a division: rows :math:`(a_{i1}, …, a_{i,i-1}, 1)/n_i` with free
:math:`a_{ij}` and :math:`n_i` their length give

.. math::
    y_i = n_i \xi_i - \sum_{j<i} a_{ij} y_j, \qquad -\log L_{ii} = \log n_i .

Dropping margins takes the sub-matrix of R. In one batch of rows with different patterns, the correlations of absent
margins are set to zero and their scores too: both their factors then cancel, row by row.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from amodal.distributions.copula.abstract import Copula
from amodal.distributions.copula.elliptical_cdf import separated_log_cdf
from amodal.distributions.copula.fit import nearest_correlation, pairwise_kendall_tau, require_fittable
from amodal.distributions.copula.points import as_parameter
from amodal.distributions.log_space import FEW_MARGINS, cholesky_factor
from amodal.errors import ConfigurationError, ShapeError

__all__ = ["Elliptical", "Factor"]


class Factor(NamedTuple):
    """Unit-diagonal triangular factor: ``rows[i][j]`` for j < i, and ``scales[i]``, each broadcastable to the rows."""

    rows: list[list[Tensor]]
    scales: list[Tensor]

    def solve(self, scores: Tensor) -> list[Tensor]:
        """y from the scores, margins first."""
        known: list[Tensor] = []
        for row, scale, score in zip(self.rows, self.scales, scores.unbind(0), strict=True):
            y = score * scale
            for a, earlier in zip(row, known, strict=True):
                y = y - a * earlier
            known.append(y)
        return known


class Elliptical(Copula):
    """A copula of an elliptical law, with correlation matrix R.

    Args:
        correlation: R, shape (M, M), or (…, M, M) with axes that broadcast against the leading axes of ``u``; for two
            margins a number, their correlation. A tensor that requires a gradient stays in its graph; everything else
            becomes ``raw_correlation``.
        learnable: Whether ``raw_correlation`` requires a gradient.

    Raises:
        ShapeError: If R is not square.
        ConfigurationError: If R is not a correlation matrix or is singular, or if M is below 2.
    """

    def __init__(self, correlation: Any, *, learnable: bool = False):
        attached = isinstance(correlation, Tensor) and correlation.requires_grad
        value = as_parameter(correlation, "correlation")
        if value.ndim == 0:  # two margins by their correlation
            value = torch.stack([torch.ones_like(value), value, value, torch.ones_like(value)]).reshape(2, 2)
        if value.ndim < 2 or value.shape[-1] != value.shape[-2]:
            raise ShapeError(
                "correlation must be a matrix",
                expected="(M, M), or a number for two margins",
                got=f"shape {tuple(value.shape)}",
            )
        super().__init__(value.shape[-1])
        _require_correlation(value.detach())
        self._given: Tensor | None = value if attached else None
        if not attached:
            cholesky = torch.linalg.cholesky(value.double())
            free = cholesky / cholesky.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
            below = torch.tril_indices(self.dim, self.dim, -1)
            free = free[..., below[0], below[1]].to(value.dtype)
            self.raw_correlation = nn.Parameter(free, requires_grad=learnable)

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the correlation beyond its last two axes."""
        return self.raw_correlation.shape[:-1] if self._given is None else self._given.shape[:-2]

    @property
    def correlation(self) -> Tensor:
        """The correlation matrix R, shape (…, M, M)."""
        if self._given is not None:
            return self._given
        rows = self._unit_rows()
        rows = rows / rows.norm(dim=-1, keepdim=True)
        unit = torch.eye(self.dim, dtype=rows.dtype, device=rows.device)
        return (rows @ rows.mT) * (1 - unit) + unit

    def _unit_rows(self) -> Tensor:
        """The free entries below a unit diagonal, (…, M, M)."""
        below = torch.tril_indices(self.dim, self.dim, -1, device=self.raw_correlation.device)
        unit = torch.eye(self.dim, dtype=self.raw_correlation.dtype, device=self.raw_correlation.device)
        rows = unit.expand(*self.raw_correlation.shape[:-1], -1, -1).clone()
        rows[..., below[0], below[1]] = self.raw_correlation
        return rows

    def _factor(self, like: Tensor, observed: Tensor | None = None, order: Sequence[int] | None = None) -> Factor:
        """The factor of R, or of the part of R that each row observes, margins in the given order."""
        if observed is None and order is None and self._given is None:
            return self._factor_of_all(like)
        matrix = self.correlation
        if order is not None:
            matrix = matrix[..., list(order), :][..., :, list(order)]
        if observed is not None:
            matrix = _observed_part(matrix, observed)
        cholesky = cholesky_factor(matrix)
        if observed is not None:
            cholesky = _to_rows(cholesky, observed, len(self.batch_shape))
        scales = 1 / cholesky.diagonal(dim1=-2, dim2=-1)
        unit = (cholesky * scales.unsqueeze(-1)).to(like.dtype)
        scales = scales.to(like.dtype)
        rows = [[unit[..., i, j] for j in range(i)] for i in range(self.dim)]
        return Factor(rows, [scales[..., i] for i in range(self.dim)])

    def _factor_of_all(self, like: Tensor) -> Factor:
        """The factor from the free entries, with as many axes as the scores (M, …)."""
        free = self.raw_correlation.to(like.dtype).movedim(-1, 0)  # (M(M-1)/2, …)
        free = free.reshape(len(free), *[1] * (like.ndim - free.ndim), *free.shape[1:])
        rows = [[free[i * (i - 1) // 2 + j] for j in range(i)] for i in range(self.dim)]
        return Factor(rows, [_length(row, free[0]) for row in rows])

    def margin(self, indices: Sequence[int]) -> Self:
        """The copula of some margins: the sub-matrix of R, attached to this one's parameters."""
        part = type(self).__new__(type(self))
        Copula.__init__(part, len(indices))
        part._given = self.correlation[..., list(indices), :][..., :, list(indices)]
        part._copy_settings(self)
        return part

    def _copy_settings(self, other: Self) -> None:
        """Copy to a margin the settings other than the correlation."""

    def kendall_tau(self) -> Tensor:
        r""":math:`\frac2\pi \arcsin R_{ij}`, shape (…, M, M), 1 on the diagonal."""
        return torch.asin(self.correlation) * (2 / math.pi)

    @classmethod
    def from_kendall_tau(cls, tau: Any, dim: int = 2, *, learnable: bool = False) -> Self:
        r"""R with :math:`R_{ij} = \sin(\pi\tau_{ij}/2)`.

        Args:
            tau: A number or tensor (every pair alike, its shape the shape of the parameters).
            dim: Number of margins.
            learnable: Whether the correlation requires a gradient.
        """
        value = as_parameter(tau, "tau").detach()
        if not bool((value.abs() < 1).all()):
            raise ConfigurationError("Kendall's tau is out of range", expected="-1 < tau < 1", got=f"tau = {tau}")
        rho = torch.sin(value * (math.pi / 2))[..., None, None]
        unit = torch.eye(dim, dtype=value.dtype, device=value.device)
        return cls(rho * (1 - unit) + unit, learnable=learnable)

    @classmethod
    def _initial(cls, u: Tensor, observed: Tensor) -> Self:
        taus = pairwise_kendall_tau(u, observed)[0]
        require_fittable(cls.__name__, taus, len(u), positive=False)
        return cls(nearest_correlation(torch.sin(taus * (math.pi / 2))))

    @property
    def parameter_count(self) -> int:
        """The entries of R below its diagonal."""
        return self.correlation.numel() // self.dim**2 * (self.dim * (self.dim - 1) // 2)

    def extra_repr(self) -> str:
        """The settings that the printed module shows."""
        if self.dim == 2 and not self.batch_shape:
            return f"correlation={self.correlation[0, 1].item():.4g}"
        return f"dim={self.dim}, batch_shape={tuple(self.batch_shape)}"

    # ---------------------------------------------------------------- shared by both laws

    @abstractmethod
    def _scores(self, log_u: Tensor, log_1mu: Tensor) -> Tensor:
        """Scores of the margins."""

    def _ordered(
        self, log_u: Tensor, log_1mu: Tensor, target: int, observed: Tensor
    ) -> tuple[Factor, Tensor, list[Tensor]]:
        """Factor with the target last, scores in that order (absent ones 0), and the earlier y."""
        order = [m for m in range(self.dim) if m != target] + [target]
        observed = observed[order]
        seen = observed.clone()
        seen[-1] = True
        factor = self._factor(log_u, seen, order)
        scores = torch.where(seen, self._scores(log_u[order], log_1mu[order]), 0.0)
        known = Factor(factor.rows[:-1], factor.scales[:-1]).solve(scores[:-1])
        return factor, scores, known

    @abstractmethod
    def _log_tails(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """log u and log(1 - u) of scores."""

    @abstractmethod
    def _mixing(self, n: int, generator: torch.Generator | None) -> Tensor | float:
        """The common scale that divides a normal draw, shape (n, …)."""

    def _separated(self, scores: Tensor, df: float | None) -> Tensor:
        """Separation of variables, some rows at a time."""
        factor = self._factor(scores)
        shape = scores.shape[1:]
        flat = scores.reshape(self.dim, -1)
        if self.batch_shape:
            rows = [[a.expand(shape).reshape(-1) for a in row] for row in factor.rows]
            scales = [n.expand(shape).reshape(-1) for n in factor.scales]
        else:
            rows, scales = factor.rows, factor.scales
        parts = []
        for start in range(0, flat.shape[1], 256):
            here = slice(start, start + 256)
            cut = [[a[here] if a.ndim else a for a in row] for row in rows]
            parts.append(separated_log_cdf(flat[:, here], cut, [n[here] if n.ndim else n for n in scales], df))
        return torch.cat(parts).reshape(shape)

    def _sample_logs(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        like = self.correlation.detach()
        shape = (self.dim, n, *self.batch_shape)
        normal = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
        scores = torch.einsum("...ij,jn...->in...", torch.linalg.cholesky(like), normal)
        return self._log_tails(scores / self._mixing(n, generator))


def _length(row: list[Tensor], like: Tensor) -> Tensor:
    total = torch.ones_like(like)
    for a in row:
        total = total + a * a
    return torch.sqrt(total)


def _require_correlation(matrix: Tensor) -> None:
    fine = torch.isfinite(matrix).all() and torch.allclose(matrix, matrix.mT, atol=1e-6)
    unit = matrix.diagonal(dim1=-2, dim2=-1)
    if not bool(fine) or not torch.allclose(unit, torch.ones_like(unit), atol=1e-6):
        raise ConfigurationError(
            "correlation is not a correlation matrix",
            expected="symmetric, finite, ones on the diagonal",
            got=matrix.tolist() if matrix.numel() <= 16 else f"shape {tuple(matrix.shape)}",
            hint="Divide a covariance by the outer product of its standard deviations.",
        )
    least = torch.linalg.eigvalsh(matrix.double()).min().item()
    if least < 1e-10:
        raise ConfigurationError(
            "correlation is singular or not positive definite",
            expected="a smallest eigenvalue above 1e-10",
            got=f"{least:.3g}",
            hint="Remove margins that others determine, or shrink the matrix towards the identity.",
        )


def _observed_part(matrix: Tensor, observed: Tensor) -> Tensor:
    """R with the correlations of absent margins zero: one matrix a pattern where R is shared, else one a row."""
    patterns = _patterns(observed, matrix.ndim - 2)
    part = observed.movedim(0, -1) if patterns is None else patterns[0]
    pair = part.unsqueeze(-1) & part.unsqueeze(-2)
    unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.where(pair, matrix, unit)


def _patterns(observed: Tensor, batch_axes: int) -> tuple[Tensor, Tensor] | None:
    """Distinct patterns (P, 1 …, M) and the index of each row, unless patterns vary along the axes of R itself."""
    rows = observed.shape[1:]
    rows = (*[1] * (batch_axes - len(rows)), *rows)
    shared = rows[len(rows) - batch_axes :]
    if any(size != 1 for size in shared) or observed.shape[0] > 60:
        return None
    powers = 2 ** torch.arange(observed.shape[0], device=observed.device)
    codes = (observed.reshape(-1, *rows) * powers.reshape(-1, *[1] * len(rows))).sum(0)
    if codes.is_cuda and len(powers) <= FEW_MARGINS:  # all there may be, to spare the wait
        distinct, index = torch.arange(2 ** len(powers), device=codes.device), codes
    else:
        distinct, index = torch.unique(codes, return_inverse=True)
    part = (distinct.unsqueeze(-1) // powers) % 2 == 1
    return part.reshape(part.shape[0], *[1] * batch_axes, -1), index.reshape(rows[: len(rows) - batch_axes])


def _to_rows(cholesky: Tensor, observed: Tensor, batch_axes: int) -> Tensor:
    """Factors of the rows from factors of the patterns."""
    patterns = _patterns(observed, batch_axes)
    return cholesky if patterns is None else cholesky[patterns[1]]
