r"""Squared differences of weighted characteristic functions, by two matrix products.

For projections :math:`u` of N samples on P directions, weights V of Q queries and F frequencies, the loss needs

.. math:: \ell_q = \frac{1}{PF} \sum_{p, k} \Bigl| \sum_a V_{qa} e^{i \tau_k u_{ap}} \Bigr|^2 ,

which is a product of V with the N × 2PF matrix of cosines and sines. Those 2F columns for each direction are functions
of one bounded scalar, band-limited by the largest frequency, and so nearly linearly dependent: by the Jacobi-Anger
expansion

.. math:: e^{i \tau R x} = \sum_{j < J} (2 - [j = 0]) \, i^j J_j(\tau R) \, T_j(x) + \varepsilon, \qquad |x| \le 1,

they are combinations of J Chebyshev polynomials, with an error :math:`\varepsilon` below the rounding of the floating
type as soon as J exceeds :math:`\tau R` by some ten. With features of unit variance and :math:`\tau \le 5` about 40
polynomials stand for 128 columns, without a single sine of a sample; the frequencies enter through a J × J matrix:

.. math:: \ell_q = \frac1P \sum_p D_{qp}^\top S D_{qp}, \quad D_{qp} = \sum_a V_{qa} T(x_{ap}), \quad
    S = \frac1F \sum_k \operatorname{Re} c_k \bar c_k^\top .

Where the polynomials would be many (features spread so widely that :math:`\tau R` is large) or outnumber the columns
(few frequencies), cosines and sines are used as they are, with S = I / F.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["weighted_cf_difference"]

# Rounding grows with the order, to 1e-5 of the gradient in float32 at twice this number.
_MOST_POLYNOMIALS = 128

# Room for the features of all samples on one chunk of directions.
_CHUNK_BYTES = 2**26


def weighted_cf_difference(
    observed: Tensor,
    predicted: Tensor,
    weights: Tensor,
    frequencies: Tensor,
    chunk: int | None = None,
) -> Tensor:
    r"""Mean over directions and frequencies of the squared modulus of a weighted sum of complex exponentials.

    Memory in training is (n' + Q) · P · J numbers, J being at most 2F, beside one chunk of features. The gradient is
    written out by hand: products with the transposed weights, and no sine or cosine of a sample.

    Args:
        observed: Projections of the first samples, of shape (n, P).
        predicted: Projections of the other samples, of shape (n', P).
        weights: Signed weights V of all samples, of shape (Q, n + n').
        frequencies: Frequencies, of shape (F,), treated as constants.
        chunk: Number of directions to work on at once; None chooses by the room they take.

    Returns:
        One value for each query, of shape (Q,). Differentiable in the projections and in the weights; second
        derivatives go through cosines and sines and take their time and memory.
    """
    return _WeightedDifference.apply(observed, predicted, weights, frequencies, chunk)  # pyright: ignore


class _Basis(NamedTuple):
    """J functions of a projection whose combinations are the cosines and sines (up to rounding)."""

    frequencies: Tensor  # (F,)
    matrices: Tensor | None = None  # (2, J, J), S and the same with a derivative on the left; None: cosines and sines
    centre: Tensor | None = None  # (P,), subtracted from the projections
    radius: float = 1.0  # and what they are then divided by

    @property
    def size(self) -> int:
        return 2 * len(self.frequencies) if self.matrices is None else self.matrices.shape[1]

    def features(self, projected: Tensor, columns: slice) -> Tensor:
        """The J functions of some directions' projections, of shape (J, N, p)."""
        u = projected[:, columns]
        if self.centre is None:
            angles = self.frequencies[:, None, None] * u
            return torch.cat([angles.cos(), angles.sin()])
        return chebyshev((u - self.centre[columns]) / self.radius, self.size)

    def mixed(self, difference: Tensor) -> Tensor:
        """S times weighted sums of features, both of shape (J, Q, p)."""
        if self.matrices is None:
            return difference / len(self.frequencies)
        return (self.matrices[0] @ difference.flatten(1)).view_as(difference)

    def pushed(self, difference: Tensor) -> Tensor:
        """Coefficients, of shape (J, Q, p), whose sum with the features is the derivative by the projection."""
        if self.matrices is not None:
            return (self.matrices[1] @ difference.flatten(1)).view_as(difference)
        cosines, sines = difference.chunk(2)
        scale = (self.frequencies / len(self.frequencies))[:, None, None]
        return torch.cat([scale * sines, -scale * cosines])  # d cos = -τ sin, d sin = τ cos


class _WeightedDifference(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, observed: Tensor, predicted: Tensor, weights: Tensor, frequencies: Tensor, chunk: int | None
    ) -> Tensor:
        projected = torch.cat([observed, predicted])  # (N, P)
        basis = _choose_basis(projected, frequencies)
        directions = projected.shape[1]
        if chunk is None:
            column = basis.size * projected.shape[0] * projected.element_size()
            chunk = max(1, _CHUNK_BYTES // max(column, 1))
        chunks = [slice(start, start + chunk) for start in range(0, directions, chunk)]
        # Rows of which the backward pass will need the features.
        first = 0 if ctx.needs_input_grad[0] or ctx.needs_input_grad[2] else observed.shape[0]
        value, saved = projected.new_zeros(weights.shape[0]), []
        for columns in chunks:
            features = basis.features(projected, columns)  # (J, N, p)
            difference = torch.bmm(weights.expand(basis.size, -1, -1), features)  # (J, Q, p)
            value += (basis.mixed(difference) * difference).sum((0, 2))
            if any(ctx.needs_input_grad):
                needed = features[:, first:]
                # A copy lets go of the other rows. If everything fits into one chunk it is not worth its time.
                saved += [difference, needed.contiguous() if len(chunks) > 1 else needed]
        ctx.save_for_backward(observed, predicted, weights, frequencies, basis.matrices, *saved)
        ctx.rows = (observed.shape[0], first)
        ctx.scale = 1 / directions
        return value.clamp_min_(0) / directions

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        observed, predicted, weights, frequencies, matrices, *saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # a derivative of this derivative is wanted
            return _differentiable_gradient(
                (observed, predicted, weights), frequencies, gradient, ctx.needs_input_grad[:3]
            )
        n, first = ctx.rows
        basis = _Basis(frequencies, matrices)
        wanted = slice(0 if ctx.needs_input_grad[0] else n, weights.shape[1] if ctx.needs_input_grad[1] else n)
        by_value = (2 * ctx.scale) * gradient
        transposed = (weights[:, wanted] * by_value[:, None]).mT.contiguous()  # (rows, Q)
        by_projection, by_weights = [], None
        for difference, features in zip(saved[::2], saved[1::2], strict=True):
            if wanted.stop > wanted.start:
                pulled = torch.bmm(transposed.expand(basis.size, -1, -1), basis.pushed(difference))  # (J, rows, p)
                pulled *= features[:, wanted.start - first : wanted.stop - first]
                by_projection.append(pulled.sum(0))
            if ctx.needs_input_grad[2]:
                part = torch.matmul(basis.mixed(difference), features.mT).sum(0)  # (Q, N)
                by_weights = part if by_weights is None else by_weights + part
        by_observed = by_predicted = None
        if by_projection:
            both = torch.cat(by_projection, 1) if len(by_projection) > 1 else by_projection[0]
            split = n - wanted.start
            by_observed = both[:split] if ctx.needs_input_grad[0] else None
            by_predicted = both[split:] if ctx.needs_input_grad[1] else None
        if by_weights is not None:
            by_weights = by_weights * by_value[:, None]
        return by_observed, by_predicted, by_weights, None, None


def _differentiable_gradient(
    inputs: tuple[Tensor, Tensor, Tensor], frequencies: Tensor, gradient: Tensor, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
    """The gradient by automatic differentiation of cosines and sines, so that it has derivatives in its turn."""
    observed, predicted, weights = inputs
    angles = (torch.cat([observed, predicted])[:, :, None] * frequencies).flatten(1)  # (N, P F)
    value = (weights @ torch.cat([angles.cos(), angles.sin()], 1)).square().sum(1) / angles.shape[1]
    some = [x for x, want in zip(inputs, wanted, strict=True) if want]
    gradients = iter(torch.autograd.grad(value, some, gradient, create_graph=True))
    by_observed, by_predicted, by_weights = (next(gradients) if want else None for want in wanted)
    return by_observed, by_predicted, by_weights, None, None


def _choose_basis(projected: Tensor, frequencies: Tensor) -> _Basis:
    lowest, highest = torch.aminmax(projected, dim=0)
    *on_host, radius = torch.cat([frequencies, (highest - lowest).max()[None] / 2]).tolist()
    exact = np.asarray(on_host)
    argument = radius * float(np.abs(exact).max())
    count = terms_needed(argument, projected.dtype) if math.isfinite(argument) else 2 * len(exact)
    if count >= min(2 * len(exact), _MOST_POLYNOMIALS):
        return _Basis(frequencies)
    matrices = torch.from_numpy(_expansion(exact, radius, count)).to(projected)
    centre = lowest + (highest - lowest) / 2
    return _Basis(frequencies, matrices, centre, max(radius, torch.finfo(projected.dtype).tiny))


def terms_needed(argument: float, dtype: torch.dtype) -> int:
    r"""Number of Chebyshev polynomials beyond which a plane wave's coefficients are below rounding.

    The coefficients :math:`J_j(z)` fall off like an Airy function of :math:`(j - z) (2/z)^{1/3}` past :math:`j = z`.

    Args:
        argument: Largest frequency times the radius of the projections, z.
        dtype: Floating type of the computation.

    Returns:
        An even number, such that all later coefficients are below 2e-7 in float32 and 1e-16 in float64.
    """
    width, offset = (11.5, 4) if dtype == torch.float64 else (5.5, 2)
    return 2 * math.ceil((argument + width * argument ** (1 / 3) + offset) / 2)


def chebyshev(x: Tensor, count: int) -> Tensor:
    r"""Chebyshev polynomials :math:`T_0 \dots T_{J-1}`, doubling by :math:`T_{b+i} = 2 T_b T_i - T_{b-i}`.

    Args:
        x: Arguments in [-1, 1], of any shape.
        count: Number J of polynomials, at least 2.

    Returns:
        Values, of shape (J, …).

    Example:
        >>> import torch
        >>> chebyshev(torch.tensor([0.5]), 4).flatten()
        tensor([ 1.0000,  0.5000, -0.5000, -1.0000])
    """
    table = x.new_empty((count, *x.shape))
    table[0], table[1] = 1, x
    done = 1  # the highest order there is
    while done < count - 1:
        more = min(done, count - 1 - done)
        block = table[done + 1 : done + 1 + more]
        torch.addcmul(table[done - more : done].flip(0), table[done], table[1 : more + 1], value=-2, out=block)
        block.neg_()
        done += more
    return table


def _expansion(frequencies: np.ndarray, radius: float, count: int) -> np.ndarray:
    """Matrices S and its derivative's, (2, J, J), for frequencies (F,) and projections in [-radius, radius].

    Cosines are even and sines odd, so that half of the nodes and half of the orders do for each.
    """
    nodes, transform = _chebyshev_transform(count)
    angles = np.outer(nodes * radius, frequencies)  # (J / 2, F)
    even = transform[0::2] @ np.cos(angles)  # (J / 2, F)
    odd = transform[1::2] @ np.sin(angles)
    matrices = np.zeros((2, count, count))
    matrices[0, 0::2, 0::2] = even @ even.T
    matrices[0, 1::2, 1::2] = odd @ odd.T
    mixed = (frequencies * odd) @ even.T
    matrices[1, 1::2, 0::2] = -mixed  # d cos = -τ sin
    matrices[1, 0::2, 1::2] = mixed.T  # d sin = τ cos
    matrices /= len(frequencies)
    return matrices


@functools.lru_cache(maxsize=256)
def _chebyshev_transform(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Positive Chebyshev nodes (J / 2,), and the matrix (J, J / 2) from an even or odd function's values there."""
    angles = (np.arange(count // 2) + 0.5) * math.pi / count
    transform = 4 / count * np.cos(np.outer(np.arange(count), angles))
    transform[0] /= 2
    return np.cos(angles), transform
