r"""SIGReg: embeddings pushed towards a standard normal, one random projection at a time.

The one-sample relative of :mod:`amodal.losses.characteristic_function`: its reference is a fixed law and not another
sample, and it knows no context. In distributed training each process takes the statistic of its own rows; the official
code averages the characteristic function over processes first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amodal.errors import ConfigurationError, ShapeError
from amodal.losses.masked import connected_zero

__all__ = ["epps_pulley", "sigreg"]


def epps_pulley(
    projected: Tensor,
    *,
    points: int = 17,
    max_frequency: float = 3.0,
    scale_by_n: bool = True,
) -> Tensor:
    r"""Epps-Pulley statistic of samples against the standard normal, in each column.

    .. math:: T = N \int_{-t}^{t} \bigl| \varphi_N(s) - e^{-s^2/2} \bigr|^2 \, e^{-s^2/2} \, ds, \qquad
        \varphi_N(s) = \frac1N \sum_n e^{i s u_n},

    by the trapezoid rule on equally spaced points of [0, t], doubled by symmetry. For independent standard normal
    samples its expectation is 1.0527 whatever N (1.0525 by 17 points); for samples that are all zero it is 0.4022 N.

    Args:
        projected: Samples, of shape (N, S).
        points: Number of points of the half line, zero included.
        max_frequency: The largest frequency t.
        scale_by_n: Whether to multiply by N, as a test statistic does. A loss then weighs more in larger batches.

    Returns:
        One statistic for each column, of shape (S,), float32 at least, also under autocast. Zeros, connected to the
        graph, if there is no sample.

    Raises:
        ShapeError: If the samples are not a matrix.
        ConfigurationError: If there are fewer than two points or the largest frequency is not positive.

    Source:
        :cite:`balestriero2025lejepa`, with the quadrature of its official code.

    Example:
        >>> import torch
        >>> round(epps_pulley(torch.zeros(10, 1)).item(), 3)
        4.02
    """
    if projected.dim() != 2:
        raise ShapeError("samples must be a matrix", expected="(N, S)", got=tuple(projected.shape))
    if points < 2 or not 0 < max_frequency < math.inf:
        raise ConfigurationError(
            "the quadrature is not defined",
            expected="points >= 2, max_frequency > 0",
            got=(points, max_frequency),
        )
    u = projected.to(torch.promote_types(projected.dtype, torch.float32))
    n = u.shape[0]
    if n == 0:
        return connected_zero(u).expand(u.shape[1])
    step = max_frequency / (points - 1)
    normal = torch.exp(-0.5 * (step * torch.arange(points, dtype=u.dtype, device=u.device)) ** 2)
    trapezoid = torch.full_like(normal, 2 * step)
    trapezoid[[0, -1]] = step
    cosines, sines = _mean_waves(u, step, points)  # (points, S)
    distance = (cosines - normal[:, None]).square() + sines.square()
    statistic = (trapezoid * normal) @ distance
    return statistic * n if scale_by_n else statistic


def sigreg(
    embeddings: Tensor,
    directions: Tensor,
    *,
    points: int = 17,
    max_frequency: float = 3.0,
    scale_by_n: bool = True,
    clip: float | None = None,
) -> Tensor:
    r"""Sketched isotropic Gaussian regularisation: the mean Epps-Pulley statistic over random directions.

    Args:
        embeddings: Embeddings, of shape (…, N, D); leading axes (views) are averaged over.
        directions: Unit columns, of shape (D, S), drawn anew for each call
            (:func:`~amodal.losses.projections.random_directions`).
        points: As in :func:`epps_pulley`.
        max_frequency: As in :func:`epps_pulley`.
        scale_by_n: As in :func:`epps_pulley`.
        clip: Statistics below this value count as zero, so that nothing pulls at what passes the test.

    Returns:
        A scalar of at least zero, shape (). It is a statistic of the sample and has no value for each row.

    Raises:
        ShapeError: If the shapes do not fit each other.
        ConfigurationError: If the quadrature is not defined.

    Source:
        :cite:`balestriero2025lejepa`.

    Example:
        >>> import torch
        >>> from amodal.losses.projections import random_directions
        >>> g = torch.Generator().manual_seed(0)
        >>> normal, A = torch.randn(1000, 8, generator=g), random_directions(8, 256, generator=g)
        >>> bool(sigreg(normal, A) < 1.5), bool(sigreg(3 * normal, A) > 100)
        (True, True)
    """
    if embeddings.dim() < 2 or directions.dim() != 2 or embeddings.shape[-1] != directions.shape[0]:
        raise ShapeError(
            "embeddings and directions do not fit each other",
            expected="(…, N, D) and (D, S)",
            got=f"{tuple(embeddings.shape)} and {tuple(directions.shape)}",
        )
    with torch.autocast(embeddings.device.type, enabled=False):
        x = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        projected = x @ directions.to(x.dtype)  # (…, N, S)
        columns = projected.movedim(-2, 0).flatten(1)  # (N, … S)
        statistic = epps_pulley(columns, points=points, max_frequency=max_frequency, scale_by_n=scale_by_n)
        if clip is not None:
            statistic = torch.where(statistic < clip, torch.zeros_like(statistic), statistic)
        return statistic.mean()


def _mean_waves(u: Tensor, step: float, points: int) -> tuple[Tensor, Tensor]:
    """Means over the samples of the cosine and the sine at equally spaced frequencies, each (points, S)."""
    angles = step * torch.arange(points, dtype=u.dtype, device=u.device)[:, None, None] * u  # (points, N, S)
    return angles.cos().mean(1), angles.sin().mean(1)
