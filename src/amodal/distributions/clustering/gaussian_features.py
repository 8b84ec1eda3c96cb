r"""Gaussians as linear functions of features, for many data sets and components at once.

A Gaussian's log density is linear in the features :math:`(x x^\top, x, 1)` of a point. With the features of all points
of a data set in one matrix, one product with the components' coefficients gives all log densities, and one product
with the responsibilities gives all the moments an update needs. The two classes differ in which squares they keep.

Shapes: N data sets, S points, D dimensions, K components, Q features. Features are laid out as (N, Q, S): first the P
products, then the D coordinates, then a row of ones, then rows of zeros up to a multiple of eight (aligned rows make
the products faster). What an update computes from their sums is laid out as (Q, N, K), so that each step of it is one
operation on long rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["DiagonalCovariance", "FullCovariance", "Room", "kind_of_device", "most_responsible", "weighted_moments"]

BLOCK_BYTES = {"cpu": 2 * 2**20, "accelerator": 2**30}
"""Bytes of features in one pair of matrix products; on a processor they should stay in its caches."""

SMALLEST_EIGENVALUE = 1e-6
"""Eigenvalues of a data covariance below this fraction of their mean are raised to it before they are divided by."""


class FullCovariance:
    """Full covariances: the P = D (D + 1) / 2 products are those of each pair of coordinates.

    Pairs are ordered by their distance d, cyclically: first (i, i) for all i, then (i, i + 1), and so on up to half way
    round. With the coordinates repeated beyond the last ("wrapped"), all pairs of one distance are one product of
    contiguous rows. Symmetric matrices are packed in that order too.

    Args:
        dim: Dimensions D.
        device: Where the points are.
    """

    def __init__(self, dim: int, device: torch.device):
        self.dim, self.products = dim, dim * (dim + 1) // 2
        self.features = _padded(self.products + dim + 1)
        self.wrap = (dim - 1) // 2
        self._bands = []  # (distance, first row, number of rows)
        first = 0
        for distance in range(dim // 2 + 1):
            rows = dim // 2 if 0 < 2 * distance == dim else dim
            self._bands.append((distance, first, rows))
            first += rows
        rows = torch.cat([torch.arange(number) for _, _, number in self._bands])
        columns = torch.cat([(torch.arange(number) + distance) % dim for distance, _, number in self._bands])
        place = torch.empty(dim, dim, dtype=torch.int64)
        place[rows, columns] = place[columns, rows] = torch.arange(self.products)
        self._place = place.to(device)
        self._wrapped_place = torch.cat([self._place, self._place[:, : self.wrap]], 1)

    def whiten(self, centred: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Change to the coordinates in which the covariance of the data is the identity.

        Args:
            centred: Points with mean zero, of shape (N, S, D).

        Returns:
            The points, wrapped (N, D + wrap, S); the diagonal of what becomes of the identity matrix (N, D); the way
            back (N, D, D), by which columns in the new coordinates are multiplied; and its log determinant (N,). The
            last three in double precision.
        """
        covariance = (centred.mT @ centred).double() / max(centred.shape[1] - 1, 1)
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp(min=_smallest(values))
        forth, back = vectors * values.rsqrt().unsqueeze(-2), vectors * values.sqrt().unsqueeze(-2)
        forth = torch.cat([forth, forth[..., : self.wrap]], -1)
        white = (centred @ forth.to(centred.dtype)).mT
        return white.contiguous(), 1.0 / values, back, 0.5 * values.log().sum(-1)

    def blank(self, white: Tensor) -> Tensor:
        """Space for the features (N, Q, S) of wrapped points, of which only the row of ones is there yet."""
        return _blank(white, self.products + self.dim, self.features)

    def factors(self, white: Tensor) -> list[Tensor]:
        """Views of wrapped points (N, D + wrap, S): the two factors of each band of products, then the coordinates."""
        bands = (white[:, start : start + rows] for distance, _, rows in self._bands for start in (0, distance))
        return [*bands, white[:, : self.dim]]

    def targets(self, features: Tensor) -> list[Tensor]:
        """Views of features (N, Q, S): the place of each band, then that of the coordinates."""
        bands = (features[:, first : first + rows] for _, first, rows in self._bands)
        return [*bands, features[:, self.products : self.products + self.dim]]

    def multiply(self, factors: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Write the features of some points, given by :meth:`factors`, to their :meth:`targets`."""
        for left, right, target in zip(factors[:-1:2], factors[1::2], targets):
            torch.mul(left, right, out=target)
        targets[-1].copy_(factors[-1])

    def expand(self, white: Tensor) -> Tensor:
        """Features (N, Q, S) of wrapped points (N, D + wrap, S)."""
        features = self.blank(white)
        self.multiply(self.factors(white), self.targets(features))
        return features

    def scatter(self, moments: Tensor, mean: Tensor, floor: Tensor) -> Tensor:
        """Identity + sum of squares + number of points × floor − mean squared.

        Args:
            moments: Sums of features, of shape (Q, N, K), double precision.
            mean: What is to be subtracted, of shape (D, N, K).
            floor: Diagonal of a matrix, of shape (N, D).

        Returns:
            Packed symmetric matrices, of shape (P, N, K), in the place of the sums.
        """
        packed, mean = moments[: self.products], torch.cat([mean, mean[: self.wrap]])
        packed[: self.dim].addcmul_(moments[self.products + self.dim], floor.mT.unsqueeze(-1)).add_(1.0)
        for distance, first, rows in self._bands:
            packed[first : first + rows].addcmul_(mean[:rows], mean[distance : distance + rows], value=-1.0)
        return packed

    def invert(self, packed: Tensor) -> Tensor:
        """Turn packed matrices (P, N, K) into minus their inverses, in place; the log determinants (N, K) before.

        The sweep of one coordinate after the other in all matrices at once is several times faster than a factorisation
        matrix by matrix. No pivoting is needed: the eigenvalues of these are at least one.

        Source:
            :cite:`goodnight1979sweep`.
        """
        pivots = torch.empty_like(packed[: self.dim])
        column = packed.new_empty(self.dim + self.wrap, *packed.shape[1:])
        scaled = torch.empty_like(pivots)
        bands = [
            (packed[first : first + rows], scaled[:rows], column[distance : distance + rows])
            for distance, first, rows in self._bands
        ]
        for k in range(self.dim):
            torch.index_select(packed, 0, self._wrapped_place[k], out=column)
            pivots[k] = column[k]
            torch.div(column[: self.dim], pivots[k], out=scaled)
            for band, left, right in bands:
                band.addcmul_(left, right, value=-1.0)
            torch.reciprocal(pivots[k], out=scaled[k]).neg_()
            packed.index_copy_(0, self._place[k], scaled)
        return pivots.log_().sum(0)

    def coefficients(self, negated: Tensor, scale: Tensor, mean: Tensor, constant: Tensor, out: Tensor) -> None:
        r"""Coefficients of the features in :math:`c - \frac{s}{2} (x - m)^\top A (x - m)`.

        Args:
            negated: :math:`-A`, packed, of shape (P, N, K).
            scale: :math:`s`, of shape (N, K).
            mean: :math:`m`, of shape (D, N, K).
            constant: :math:`c`, of shape (N, K).
            out: Where to write them, of shape (Q, N, K); `negated` may be its first rows.
        """
        wrapped = torch.cat([mean, mean[: self.wrap]])
        slope = negated[: self.dim] * mean
        for distance, first, rows in self._bands[1:]:
            band = negated[first : first + rows]
            slope[:rows].addcmul_(band, wrapped[distance : distance + rows])
            ahead = self.dim - distance  # rows whose partner is not beyond the last coordinate
            slope[distance:].addcmul_(band[:ahead], mean[:ahead])
            slope[: rows - ahead].addcmul_(band[ahead:], mean[ahead:rows])
        _linear_coefficients(slope, scale, mean, constant, out[self.products :])
        # A product off the diagonal stands for two entries of the matrix.
        torch.mul(negated[: self.dim], 0.5 * scale, out=out[: self.dim])
        torch.mul(negated[self.dim :], scale, out=out[self.dim : self.products])

    def unpack(self, packed: Tensor) -> Tensor:
        """Matrices (N, K, D, D) that are packed in (P, N, K)."""
        return packed[self._place].permute(2, 3, 0, 1)

    def restore(self, means: Tensor, covariances: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """Means (N, K, D) and covariances (N, K, D, D) in the coordinates of the data."""
        back = back.unsqueeze(1)
        return (back @ means.unsqueeze(-1)).squeeze(-1), back @ covariances @ back.mT


class DiagonalCovariance:
    """Diagonal covariances: the P = D products are the squares. Methods as in :class:`FullCovariance`.

    Nothing needs wrapping here, and packed matrices are their diagonals.

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
        return white.contiguous(), 1.0 / values, values.sqrt(), 0.5 * values.log().sum(-1)

    def blank(self, white: Tensor) -> Tensor:
        """Space for the features (N, Q, S) of points (N, D, S), of which only the row of ones is there yet."""
        return _blank(white, self.products + self.dim, self.features)

    def factors(self, white: Tensor) -> list[Tensor]:
        """The points (N, D, S)."""
        return [white]

    def targets(self, features: Tensor) -> list[Tensor]:
        """Views of features (N, Q, S): the place of the squares, then that of the coordinates."""
        return [features[:, : self.dim], features[:, self.dim : 2 * self.dim]]

    def multiply(self, factors: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Write the features of some points, given by :meth:`factors`, to their :meth:`targets`."""
        torch.square(factors[0], out=targets[0])
        targets[1].copy_(factors[0])

    def expand(self, white: Tensor) -> Tensor:
        """Features (N, Q, S) of points (N, D, S)."""
        features = self.blank(white)
        self.multiply(self.factors(white), self.targets(features))
        return features

    def scatter(self, moments: Tensor, mean: Tensor, floor: Tensor) -> Tensor:
        """One + sum of squares + number of points × floor − mean squared (D, N, K), in the place of the sums."""
        packed = moments[: self.dim]
        packed.addcmul_(moments[2 * self.dim], floor.mT.unsqueeze(-1)).add_(1.0)
        return packed.addcmul_(mean, mean, value=-1.0)

    def invert(self, packed: Tensor) -> Tensor:
        """Turn diagonals (D, N, K) into minus their inverses, in place; the log determinants (N, K) before."""
        log_det = packed.log().sum(0)
        packed.reciprocal_().neg_()
        return log_det

    def coefficients(self, negated: Tensor, scale: Tensor, mean: Tensor, constant: Tensor, out: Tensor) -> None:
        """Write the coefficients (Q, N, K) of the features in a constant minus half a scaled quadratic form."""
        _linear_coefficients(negated * mean, scale, mean, constant, out[self.dim :])
        torch.mul(negated, 0.5 * scale, out=out[: self.dim])

    def unpack(self, packed: Tensor) -> Tensor:
        """Diagonals (N, K, D) that are packed in (D, N, K)."""
        return packed.permute(1, 2, 0)

    def restore(self, means: Tensor, covariances: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances (N, K, D) in the coordinates of the data."""
        return means * back.unsqueeze(1), covariances * back.square().unsqueeze(1)


def _padded(features: int) -> int:
    return -(-features // 8) * 8


def _smallest(values: Tensor) -> Tensor:
    """Least admissible eigenvalues (N, 1) of covariances with the given ones (N, D)."""
    return (SMALLEST_EIGENVALUE * values.mean(-1, keepdim=True)).clamp(min=torch.finfo(values.dtype).tiny)


def _blank(white: Tensor, ones: int, features: int) -> Tensor:
    """Features (N, Q, S) of which only the row of ones is there yet."""
    blank = white.new_zeros(len(white), features, white.shape[-1])
    blank[:, ones] = 1.0
    return blank


def _linear_coefficients(slope: Tensor, scale: Tensor, mean: Tensor, constant: Tensor, out: Tensor) -> None:
    """Write the coefficients of the D coordinates and of the row of ones, with zeros below; `slope` is minus A m."""
    dim = len(slope)
    torch.mul(slope, -scale, out=out[:dim])
    torch.addcmul(constant, slope.mul_(mean).sum(0), scale, value=0.5, out=out[dim])
    out[dim + 1 :] = 0.0


def kind_of_device(tensor: Tensor) -> str:
    """A key of settings by device: "cpu" or "accelerator"."""
    return "cpu" if tensor.device.type == "cpu" else "accelerator"


class Room:
    """Memory that is used again in each block: fresh memory would cost a page fault every few thousand numbers."""

    def __init__(self, white: Tensor, components: int, form: FullCovariance | DiagonalCovariance, most: int):
        draws = white.shape[2]
        number = max(1, min(most, BLOCK_BYTES[kind_of_device(white)] // (form.features * draws * white.element_size())))
        self.features = form.blank(white[:1].expand(number, -1, -1))
        self.logits, self.weight = (
            white.new_empty(number, components, draws),
            white.new_empty(number, components, draws),
        )
        self.top, self.total = white.new_empty(number, 1, draws), white.new_empty(number, 1, draws)


def weighted_moments(
    natural: Tensor, white: Tensor, form: FullCovariance | DiagonalCovariance, room: Room
) -> tuple[Tensor, Tensor]:
    """Sums of features weighted by responsibilities (n, K, Q), and the entropy of the assignments (n,) in nats.

    Features are made anew, block by block: a block's stay in the cache for both products, which is cheaper than
    fetching stored ones from memory, and takes little room.
    """
    moments = torch.empty_like(natural)
    entropy = torch.empty(len(white), dtype=torch.float64, device=white.device)
    views = vars(room).values()
    size = len(room.features)
    features, logits, weight, top, total = views
    targets = form.targets(features)
    # Splitting once is cheaper than slicing in each block.
    factors = zip(*(factor.split(size) for factor in form.factors(white)))
    for some, coefficients, sums, bits in zip(factors, *(x.split(size) for x in (natural, moments, entropy))):
        if len(sums) < len(features):  # the last block
            features, logits, weight, top, total = (view[: len(sums)] for view in views)
            targets = form.targets(features)
        form.multiply(some, targets)
        torch.bmm(coefficients, features, out=logits)  # to the base of 2: exp2 is several times faster than exp
        # Not below 2^-64: smaller weights change nothing, and denormal numbers are slow.
        logits.sub_(torch.amax(logits, 1, keepdim=True, out=top)).clamp_(min=-64.0)
        torch.sum(torch.exp2(logits, out=weight), 1, keepdim=True, out=total)
        torch.sum(logits.mul_(weight), 1, keepdim=True, out=top)
        weight.mul_(total.reciprocal_())
        # Of one point: log2 of the total less the mean logit.
        torch.sum(top.mul_(total).add_(total.log2()), (1, 2), dtype=torch.float64, out=bits)
        torch.bmm(weight, features.mT, out=sums)
    return moments, entropy.mul_(-math.log(2.0))


def most_responsible(natural: Tensor, features: Tensor) -> Tensor:
    """The first component with the largest responsibility for each point (n, S); faster than argmax over few rows."""
    logits = natural @ features  # (n, K, S)
    components = natural.shape[1]
    behind = logits.sub_(logits.amax(1, keepdim=True)).sign_()  # 0 for the largest, else -1
    rank = torch.arange(components, 0, -1, dtype=logits.dtype, device=logits.device)[:, None]
    return components - (behind.add_(1.0) * rank).amax(1).long()
