"""Closed form of the kernel that random projections and frequencies estimate."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amodal.errors import ConfigurationError
from amodal.losses.characteristic_function.frequency_features import chebyshev

__all__ = ["radial_kernel"]

# Beyond these arguments the kernel has reached its asymptote: with many dimensions to the last digit, with few to 1e-4.
_LARGEST_SPREAD = 6.0
_LARGEST_ARGUMENT = 900.0
_MANY_DIMENSIONS = 32

# Intervals of a table, and the largest squared length it is made for, times the squared largest frequency and by the
# dimension. An interval is then a hundredth of the kernel's own width, and its cubic off by less than 1e-9.
_KNOTS = 4096
_WIDEST_TABLE = 200

# A series of at most this many terms stands for the kernel where that is possible, for so many lengths at a time.
_MOST_TERMS = 128
_CHUNK = 2**15


def radial_kernel(squared: Tensor, dim: int, max_frequency: float = 5.0) -> Tensor:
    r"""Mean of :math:`\cos(\tau a^\top \delta)` over directions and frequencies, for differences of given length.

    With :math:`a` uniform on the unit sphere in D dimensions and :math:`\tau` uniform on [-t, t],

    .. math::
        G(\delta) = \mathbb{E}_{a, \tau} \cos(\tau a^\top \delta)
        = \mathbb{E}_{a_1} \frac{\sin(t \lVert\delta\rVert a_1)}{t \lVert\delta\rVert a_1}
        = {}_1F_2\bigl(\tfrac12; \tfrac32, \tfrac D2; -\tfrac14 t^2 \lVert\delta\rVert^2\bigr)
        \approx \frac{\sqrt\pi}{2c} \operatorname{erf}(c), \quad c = \frac{t \lVert\delta\rVert}{\sqrt{2D}} .

    The expectation over the coordinate :math:`a_1`, whose density is proportional to :math:`(1 - a^2)^{(D-3)/2}`, is
    taken by Gauss-Gegenbauer quadrature, which is exact to rounding for any D, where the approximation by the error
    function is off by up to 0.3 % at D = 256 and useless for D < 10. For arguments beyond :math:`c = 6` (D >= 32) or
    :math:`t \lVert\delta\rVert = 900` (D < 32) the asymptote
    :math:`\sqrt\pi\,\Gamma(D/2) / \Gamma((D-1)/2) / (t\lVert\delta\rVert)` takes over. A table of cubics (float32) or a
    Chebyshev series (float64) in the squared length is evaluated instead of the quadrature where it is as precise.

    Args:
        squared: Squared lengths :math:`\lVert\delta\rVert^2`, of any shape.
        dim: Number D of dimensions of the differences.
        max_frequency: The largest frequency t.

    Returns:
        Values in (-0.22, 1], of the shape of ``squared``. Differentiable once, also where a length is zero.

    Raises:
        ConfigurationError: If the dimension or the largest frequency is not positive.

    Source:
        The expectation of :cite:`choi2025cepa`, eq. 12, with its appendix D.3; derived here.

    Example:
        >>> import torch
        >>> radial_kernel(torch.tensor([0.0, 4.0]), dim=3, max_frequency=1.0)
        tensor([1.0000, 0.8027])
    """
    if dim < 1 or not 0 < max_frequency < math.inf:
        raise ConfigurationError(
            "the kernel is not defined", expected="dim >= 1 and max_frequency > 0", got=(dim, max_frequency)
        )
    return _RadialKernel.apply(squared, dim, max_frequency)  # pyright: ignore[reportReturnType]


class _RadialKernel(torch.autograd.Function):
    """Value and derivative are computed together, and only the latter is kept."""

    @staticmethod
    def forward(ctx: Any, squared: Tensor, dim: int, max_frequency: float) -> Tensor:
        flat = squared.clamp_min(0).flatten()
        largest = flat.max().item() if flat.numel() else 0.0
        if not math.isfinite(largest):
            value, slope = _by_quadrature(flat, dim, max_frequency, largest)
        elif squared.dtype == torch.float64:
            value, slope = _by_series(flat, dim, max_frequency, largest)
        else:
            value, slope = _by_table(flat, dim, max_frequency, largest)
        ctx.save_for_backward(slope.view_as(squared))
        return value.view_as(squared)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise ConfigurationError("the radial kernel has no second derivative", hint="Take another form of the loss")
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None


def _by_table(squared: Tensor, dim: int, max_frequency: float, largest: float) -> tuple[Tensor, Tensor]:
    """As `_by_quadrature`, from cubics between the knots of a table that is made once for a power of two of lengths."""
    reach = 2.0 ** math.ceil(math.log2(max(largest, 2.0**-20)) + 1e-9)
    if reach * max_frequency**2 > _WIDEST_TABLE * dim:  # a narrow peak, on which the knots would be too far apart
        return _by_quadrature(squared, dim, max_frequency, largest)
    width = reach / _KNOTS
    place = squared / width
    knot = place.long().clamp_max_(_KNOTS - 1)
    x = place - knot
    c0, c1, c2, c3 = _table(dim, max_frequency, reach).to(squared)[knot].unbind(1)
    value = torch.addcmul(c0, x, torch.addcmul(c1, x, torch.addcmul(c2, x, c3)))
    slope = torch.addcmul(c1, x, torch.addcmul(2 * c2, x, c3, value=3))
    return value, slope.mul_(1 / width)


@functools.lru_cache(maxsize=64)
def _table(dim: int, max_frequency: float, reach: float) -> Tensor:
    """Coefficients (K, 4) of the Hermite cubics on K intervals of [0, reach], in units of an interval; float32."""
    knots = torch.linspace(0, reach, _KNOTS + 1, dtype=torch.float64)
    value, slope = _by_quadrature(knots, dim, max_frequency, reach)
    slope = slope * (reach / _KNOTS)
    rise, left, right = value.diff(), slope[:-1], slope[1:]
    return torch.stack([value[:-1], left, 3 * rise - 2 * left - right, left + right - 2 * rise], dim=1).float()


def _by_series(squared: Tensor, dim: int, max_frequency: float, largest: float) -> tuple[Tensor, Tensor]:
    """As `_by_quadrature`, by a Chebyshev series where one reaches the same precision."""
    series = _series(dim, max_frequency, largest)
    if series is None:
        return _by_quadrature(squared, dim, max_frequency, largest)
    coefficients = torch.from_numpy(series).to(squared)  # (2, J)
    parts = [
        coefficients @ chebyshev(part * (2 / max(largest, torch.finfo(squared.dtype).tiny)) - 1, series.shape[1])
        for part in squared.split(_CHUNK)
    ]
    value, slope = torch.cat(parts, 1)
    return value, slope


def _series(dim: int, max_frequency: float, largest: float) -> np.ndarray | None:
    """Chebyshev coefficients (2, J) of the kernel and its derivative by the squared length, on [0, largest].

    None if the kernel is a narrow peak at zero on that interval, and the series would have more than
    :data:`_MOST_TERMS` terms.
    """
    tolerance = 1e-13
    for count in (32, 64, _MOST_TERMS):
        angles = (np.arange(count) + 0.5) * math.pi / count
        squared = torch.from_numpy(largest / 2 * (1 + np.cos(angles)))
        values = torch.stack(_by_quadrature(squared, dim, max_frequency, largest)).numpy()  # (2, J)
        coefficients = 2 / count * values @ np.cos(np.outer(angles, np.arange(count)))
        coefficients[:, 0] /= 2
        small = np.abs(coefficients) < tolerance * np.abs(values).max(1, keepdims=True)
        if small[:, -4:].all():
            needed = count - int(np.argmin(small.all(0)[::-1]))
            return coefficients[:, : max(needed, 2)]
    return None


def _by_quadrature(squared: Tensor, dim: int, max_frequency: float, largest: float) -> tuple[Tensor, Tensor]:
    """The kernel and its derivative by the squared length, for a vector of lengths."""
    x = squared.sqrt() * max_frequency
    nodes, weights = (
        torch.tensor(numbers, dtype=x.dtype, device=x.device)
        for numbers in _half_rule(dim, math.sqrt(largest) * max_frequency)
    )
    parts = []
    for part in x.split(max(1, _CHUNK * 32 // len(nodes))):
        sinc, by_square = _sinc_and_slope(part[:, None] * nodes)  # (n, nodes)
        parts.append(torch.stack([sinc @ weights, by_square @ (weights * nodes**2)]))
    value, slope = torch.cat(parts, 1)  # of the kernel, and by x ** 2
    if dim > 1:
        limit = _argument_of_asymptote(dim)
        far, safe = x > limit, x.clamp_min(limit)
        asymptote = math.sqrt(math.pi) * math.exp(math.lgamma(dim / 2) - math.lgamma((dim - 1) / 2)) / safe
        value = torch.where(far, asymptote, value)
        slope = torch.where(far, -asymptote / (2 * safe.square()), slope)
    return value, slope * max_frequency**2


def _sinc_and_slope(z: Tensor) -> tuple[Tensor, Tensor]:
    """sin(z) / z and its derivative by z ** 2, by a series where both would cancel."""
    small = z < 0.3
    square = torch.where(small, z * z, torch.zeros_like(z))
    safe = torch.where(small, torch.ones_like(z), z)
    sinc = safe.sin() / safe
    slope = (safe.cos() - sinc) / (2 * safe * safe)
    near = 1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72)))
    near_slope = -1 / 6 + square / 60 * (1 - square / 28 * (1 - square / 54 * (1 - square / 88)))
    return torch.where(small, near, sinc), torch.where(small, near_slope, slope)


def _argument_of_asymptote(dim: int) -> float:
    return _LARGEST_SPREAD * math.sqrt(2 * dim) if dim >= _MANY_DIMENSIONS else _LARGEST_ARGUMENT


def _half_rule(dim: int, largest: float) -> tuple[list[float], list[float]]:
    """Positive nodes and weights for the first coordinate of a point on the sphere, good up to an argument."""
    if dim >= _MANY_DIMENSIONS:
        return _gegenbauer(dim, 48)
    needed = (min(largest, _LARGEST_ARGUMENT) if math.isfinite(largest) else _LARGEST_ARGUMENT) / 2 + 16
    return _gegenbauer(dim, next(count for count in (32, 64, 128, 256, 512) if count >= needed))


@functools.lru_cache(maxsize=128)
def _gegenbauer(dim: int, count: int) -> tuple[list[float], list[float]]:
    from scipy import special

    if dim == 1:
        return [1.0], [1.0]
    if dim == 2:
        nodes, weights = special.roots_chebyt(count)
    else:
        nodes, weights = special.roots_gegenbauer(count, dim / 2 - 1)
    half = nodes > 0
    kept = np.asarray(weights)[half] > 1e-18 * np.sum(weights)
    weights = np.asarray(weights)[half][kept]
    return np.asarray(nodes)[half][kept].tolist(), (weights / weights.sum()).tolist()
