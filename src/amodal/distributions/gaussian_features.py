r"""Gaussians as linear functions of features, for many data sets and components at once.

A Gaussian's log density is linear in the features :math:`(x x^\top, x, 1)` of a point. With the features of all points
of a data set in one matrix, one product with the components' coefficients gives all log densities, and one product
with the responsibilities gives all the moments an update needs. The two classes differ in which squares they keep.

Shapes: N data sets, S points, D dimensions, K components, Q features. Features are laid out as (N, Q, S): first the P
products, then the D coordinates, then a row of ones, then rows of zeros up to a multiple of eight (aligned rows make
the products faster).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["DiagonalCovariance", "FullCovariance"]

SMALLEST_EIGENVALUE = 1e-6
"""Eigenvalues of a data covariance below this fraction of their mean are raised to it before they are divided by."""


class FullCovariance:
    """Full covariances: the P = D (D + 1) / 2 products are those of each pair of coordinates.

    Args:
        dim: Dimensions D.
        device: Where the points are.
    """

    def __init__(self, dim: int, device: torch.device):
        rows, columns = torch.triu_indices(dim, dim, device=device)
        self.dim, self.products = dim, len(rows)
        self.features = _padded(self.products + dim + 1)
        place = torch.empty(dim, dim, dtype=torch.int64, device=device)
        place[rows, columns] = place[columns, rows] = torch.arange(self.products, device=device)
        self._place, self._upper = place.flatten(), rows * dim + columns
        # A product off the diagonal stands for two entries of the matrix.
        self._multiplicity = torch.where(rows == columns, 1.0, 2.0).double()

    def whiten(self, centred: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Change to the coordinates in which the covariance of the data is the identity.

        Args:
            centred: Points with mean zero, of shape (N, S, D).

        Returns:
            The points (N, D, S); what becomes of the identity matrix (N, D, D); the way back (N, D, D), by which
            columns in the new coordinates are multiplied; and its log determinant (N,). The last three in double
            precision.
        """
        covariance = (centred.mT @ centred).double() / max(centred.shape[1] - 1, 1)
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp(min=_smallest(values))
        forth, back = vectors * values.rsqrt().unsqueeze(-2), vectors * values.sqrt().unsqueeze(-2)
        white = (centred @ forth.to(centred.dtype)).mT
        return white, torch.diag_embed(1.0 / values), back, 0.5 * values.log().sum(-1)

    def blank(self, white: Tensor) -> Tensor:
        """Space for the features (N, Q, S) of points (N, D, S), of which only the row of ones is there yet."""
        return _blank(white, self.products, self.features)

    def expand(self, white: Tensor, out: Tensor | None = None) -> Tensor:
        """Features (N, Q, S) of points (N, D, S), in the space of earlier ones if given."""
        out = self.blank(white) if out is None else out
        start = 0
        for row in range(self.dim):
            stop = start + self.dim - row
            torch.mul(white[:, row : row + 1], white[:, row:], out=out[:, start:stop])
            start = stop
        out[:, start : start + self.dim] = white
        return out

    def scatter(self, moments: Tensor, mean: Tensor, floor: Tensor) -> Tensor:
        """Identity + sum of squares + number of points × floor − mean squared, in double precision.

        Args:
            moments: Sums of features, of shape (N, K, Q).
            mean: What is to be subtracted, of shape (N, K, D), double precision.
            floor: Of shape (N, D, D), double precision.

        Returns:
            Symmetric matrices, of shape (N, K, D, D).
        """
        sums = _pick(moments, self._place).double().unflatten(-1, (self.dim, self.dim))
        sums.addcmul_(mean.unsqueeze(-1), mean.unsqueeze(-2), value=-1.0)
        sums.addcmul_(self.count(moments)[..., None, None].double(), floor.unsqueeze(1))
        sums.diagonal(dim1=-2, dim2=-1).add_(1.0)
        return sums

    def count(self, moments: Tensor) -> Tensor:
        """Sums of the row of ones (N, K)."""
        return moments[..., self.products + self.dim]

    def invert(self, scatter: Tensor) -> tuple[Tensor, Tensor]:
        """Inverses of scatter matrices (N, K, D, D), and the inverses' log determinants (N, K).

        By Gauss-Jordan elimination of one coordinate after the other in all matrices at once, several times faster than
        a factorisation matrix by matrix. No pivoting is needed: their eigenvalues are at least one.
        """
        swept = scatter.flatten(0, 1).permute(1, 2, 0).clone(memory_format=torch.contiguous_format)  # (D, D, N K)
        pivots = torch.empty_like(swept[0])
        for k in range(self.dim):
            pivots[k] = swept[k, k]
            column, row = swept[:, k].clone(), swept[k] / pivots[k]
            swept.addcmul_(column.unsqueeze(1), row.unsqueeze(0), value=-1.0)
            swept[k] = row
            torch.div(column, pivots[k].neg(), out=swept[:, k])
            torch.reciprocal(pivots[k], out=swept[k, k])
        return swept.permute(2, 0, 1).reshape(scatter.shape), -pivots.log().sum(0).view(scatter.shape[:2])

    def coefficients(
        self, inverse: Tensor, scale: Tensor, mean: Tensor, constant: Tensor, dtype: torch.dtype
    ) -> Tensor:
        r"""Coefficients (N, K, Q) of the features in :math:`c - \frac{s}{2} (x - m)^\top A (x - m)`.

        Args:
            inverse: :math:`A`, of shape (N, K, D, D).
            scale: :math:`s`, of shape (N, K).
            mean: :math:`m`, of shape (N, K, D).
            constant: :math:`c`, of shape (N, K).
            dtype: Type of the result.
        """
        squares = _pick(inverse.flatten(-2), self._upper)
        slope = (inverse @ mean.unsqueeze(-1)).squeeze(-1)
        return _coefficients(squares, self._multiplicity, slope, scale, mean, constant, self.features, dtype)

    def restore(self, means: Tensor, covariances: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """Means (N, K, D) and covariances (N, K, D, D) in the coordinates of the data."""
        back = back.unsqueeze(1)
        return (back @ means.unsqueeze(-1)).squeeze(-1), back @ covariances @ back.mT


class DiagonalCovariance:
    """Diagonal covariances: the P = D products are the squares. Methods as in :class:`FullCovariance`.

    Matrices (…, D, D) of that class are vectors (…, D) here.

    Args:
        dim: Dimensions D.
        device: Where the points are.
    """

    def __init__(self, dim: int, device: torch.device):
        self.dim = self.products = dim
        self.features = _padded(2 * dim + 1)

    def whiten(self, centred: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Change to the coordinates in which all variances of the data are one."""
        values = centred.double().square().sum(1) / max(centred.shape[1] - 1, 1)  # (N, D)
        values = values.clamp(min=_smallest(values))
        white = centred.mT * values.rsqrt().unsqueeze(-1).to(centred.dtype)
        return white, 1.0 / values, values.sqrt(), 0.5 * values.log().sum(-1)

    def blank(self, white: Tensor) -> Tensor:
        """Space for the features (N, Q, S) of points (N, D, S), of which only the row of ones is there yet."""
        return _blank(white, self.products, self.features)

    def expand(self, white: Tensor, out: Tensor | None = None) -> Tensor:
        """Features (N, Q, S) of points (N, D, S), in the space of earlier ones if given."""
        out = self.blank(white) if out is None else out
        torch.square(white, out=out[:, : self.dim])
        out[:, self.dim : 2 * self.dim] = white
        return out

    def scatter(self, moments: Tensor, mean: Tensor, floor: Tensor) -> Tensor:
        """One + sum of squares + number of points × floor − mean squared (N, K, D), in double precision."""
        sums = moments[..., : self.dim].double() - mean.square() + 1.0
        return sums.addcmul_(self.count(moments).unsqueeze(-1).double(), floor.unsqueeze(1))

    def count(self, moments: Tensor) -> Tensor:
        """Sums of the row of ones (N, K)."""
        return moments[..., self.products + self.dim]

    def invert(self, scatter: Tensor) -> tuple[Tensor, Tensor]:
        """Inverses (N, K, D), and the log determinants of the diagonal matrices they stand for (N, K)."""
        return scatter.reciprocal(), -scatter.log().sum(-1)

    def coefficients(
        self, inverse: Tensor, scale: Tensor, mean: Tensor, constant: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Coefficients (N, K, Q) of the features in a constant minus half a scaled quadratic form."""
        once = torch.ones(self.dim, dtype=inverse.dtype, device=inverse.device)
        return _coefficients(inverse, once, inverse * mean, scale, mean, constant, self.features, dtype)

    def restore(self, means: Tensor, covariances: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances (N, K, D) in the coordinates of the data."""
        return means * back.unsqueeze(1), covariances * back.square().unsqueeze(1)


def _pick(entries: Tensor, index: Tensor) -> Tensor:
    """Entries of the last axis; gathering is twice as fast as selecting or indexing."""
    return entries.gather(-1, index.expand(*entries.shape[:-1], -1))


def _padded(features: int) -> int:
    return -(-features // 8) * 8


def _smallest(values: Tensor) -> Tensor:
    """Least admissible eigenvalues (N, 1) of covariances with the given ones (N, D)."""
    return (SMALLEST_EIGENVALUE * values.mean(-1, keepdim=True)).clamp(min=torch.finfo(values.dtype).tiny)


def _blank(white: Tensor, products: int, features: int) -> Tensor:
    """Features (N, Q, S) of which only the row of ones is there yet."""
    number, dim, points = white.shape
    blank = white.new_zeros(number, features, points)
    blank[:, products + dim] = 1.0
    return blank


def _coefficients(
    squares: Tensor,
    multiplicity: Tensor,
    slope: Tensor,
    scale: Tensor,
    mean: Tensor,
    constant: Tensor,
    features: int,
    dtype: torch.dtype,
) -> Tensor:
    products, dim = squares.shape[-1], slope.shape[-1]
    scale = scale.unsqueeze(-1)
    found = torch.zeros(*constant.shape, features, dtype=dtype, device=constant.device)
    torch.mul(squares, scale * (-0.5 * multiplicity), out=found[..., :products])
    torch.mul(slope, scale, out=found[..., products : products + dim])
    found[..., products + dim] = constant - 0.5 * ((slope * mean).sum(-1) * scale.squeeze(-1))
    return found
