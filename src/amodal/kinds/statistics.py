"""Summary statistics of series: of each feature, over the cells that were measured."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["STATISTICS", "read_cells", "series_statistics"]

STATISTICS = (
    "mean",
    "min",
    "max",
    "spread",
    "first",
    "last",
    "late_mean",
    "slope",
    "count",
    "since_last",
    "ever",
)
_SLOPE_RIDGE = 0.02


def read_cells(values: Tensor, measured: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Flags of the cells of a series that can be read, with all others blanked.

    Args:
        values: Of shape (P, T, D).
        measured: Cells measured, bool, of shape (P, T, D); None: all.
        lengths: Valid steps, of shape (P,); None: all.

    Returns:
        Values with zeros where nothing can be read (P, T, D); the readable cells, bool (P, T, D); the steps inside
        each row's length, bool (P, T).
    """
    steps = torch.arange(values.shape[1], device=values.device)
    if lengths is None:
        inside = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    else:
        inside = steps < lengths[:, None]  # (P, T)
    readable = inside[..., None].expand(values.shape)
    if measured is not None:
        readable = readable & measured
    return torch.where(readable, values, 0.0), readable, inside


def series_statistics(values: Tensor, readable: Tensor, inside: Tensor, horizon: int) -> Tensor:
    r"""Statistics of each feature over the cells that were measured.

    Over the n readable cells of a feature: mean, minimum, maximum, spread (population standard deviation), first and
    last value, mean over the last quarter of the row's steps (the last value if nothing was measured there), slope per
    horizon :math:`\sum (t-\bar t)(x-\bar x) / (\sum (t-\bar t)^2 + 0.02)` with t in horizons (the constant shrinks
    slopes over a few close cells), :math:`\log(1+n)`, the logarithm of one plus the steps from the last measurement to
    the row's end, both over :math:`\log(1 + T)`, and whether anything was measured. A feature that was never measured
    has zeros, and 1 for the time since.

    Args:
        values: Of shape (P, T, D).
        readable: Cells to use, bool, of shape (P, T, D).
        inside: Steps inside the rows' lengths, bool, of shape (P, T).
        horizon: Full number of steps, the unit of time.

    Returns:
        Of shape (P, D, 11), in the order of `STATISTICS`.
    """
    n_steps = values.shape[1]
    time = torch.arange(n_steps, device=values.device, dtype=values.dtype)[None, :, None]  # (1, T, 1)
    weight = readable.to(values.dtype)
    count = weight.sum(1)  # (P, D)
    ever = count > 0
    some = count.clamp(min=1)
    mean = (values * weight).sum(1) / some
    deviation = torch.where(readable, values - mean[:, None], 0.0)
    spread = (deviation.square().sum(1) / some + 1e-12).sqrt()
    low = torch.where(readable, values, math.inf).amin(1)
    high = torch.where(readable, values, -math.inf).amax(1)
    position = time.long().expand(values.shape)
    first_at = torch.where(readable, position, n_steps - 1).amin(1)
    last_at = torch.where(readable, position, 0).amax(1)
    first = values.gather(1, first_at[:, None])[:, 0]
    last = values.gather(1, last_at[:, None])[:, 0]
    length = inside.sum(1, keepdim=True).to(values.dtype)  # (P, 1)
    late = readable & (time >= (0.75 * length).floor()[..., None])
    n_late = late.sum(1)
    late_mean = torch.where(n_late > 0, torch.where(late, values, 0.0).sum(1) / n_late.clamp(min=1), last)
    moment = time / horizon
    centred = torch.where(readable, moment - ((moment * weight).sum(1) / some)[:, None], 0.0)
    slope = (centred * deviation).sum(1) / (centred.square().sum(1) + _SLOPE_RIDGE)
    scale = math.log1p(horizon)
    since = torch.where(ever, torch.log1p((length - 1 - last_at).clamp(min=0)) / scale, 1.0)
    columns = [mean, low, high, spread, first, last, late_mean, slope]
    columns = [torch.where(ever, column, 0.0) for column in columns]
    return torch.stack([*columns, torch.log1p(count) / scale, since, ever.to(values.dtype)], dim=2)  # (P, D, 11)
