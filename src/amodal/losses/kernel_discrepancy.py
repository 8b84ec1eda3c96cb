"""Kernel discrepancy between two samples: zero in the mean where they are of one distribution."""

from __future__ import annotations

from torch import Tensor

from amodal.errors import ShapeError

__all__ = ["maximum_mean_discrepancy"]


def maximum_mean_discrepancy(one: Tensor, other: Tensor) -> Tensor:
    r"""Squared maximum mean discrepancy of two samples, the biased estimate.

    .. math::
        \overline{k(a, a')} + \overline{k(b, b')} - 2 \, \overline{k(a, b)}, \qquad
        k(a, b) = \exp(-\|a - b\|^2 / Z^2)

    with averages over all pairs, those of a point with itself included.

    Args:
        one: Points, of shape (n, Z).
        other: Points, of shape (m, Z).

    Returns:
        A scalar, 0 or more; 0 for a sample and itself.

    Raises:
        ShapeError: If the points are not of one space, or there are none.

    Source:
        :cite:`mancisidor2024cmmd`, whose code has this kernel.

    Example:
        >>> import torch
        >>> points = torch.tensor([[0.0], [1.0]])
        >>> maximum_mean_discrepancy(points, points).item()
        0.0
    """
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or not len(one) or not len(other):
        raise ShapeError("samples must be (n, Z) and (m, Z)", got=f"{tuple(one.shape)} and {tuple(other.shape)}")
    within = _kernel(one, one).mean() + _kernel(other, other).mean()
    return within - 2 * _kernel(one, other).mean()


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    away = (a[:, None] - b[None]).square().sum(-1)  # (n, m)
    return (-away / a.shape[1] ** 2).exp()
