"""Statistics over the present rows of one modality, chunk by chunk, so that no store is read into memory at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from amodal.data.store import Cut
from amodal.schema import Modality

__all__ = ["Cuts", "moments", "quartiles", "summaries"]

Cuts = Iterable[tuple[np.ndarray, Cut]]
"""Positions of present rows with what was cut of them, as `Cohort.cuts` yields."""

IQR_OF_NORMAL = 1.3489795003921634
"""Interquartile range of a normal distribution with standard deviation 1."""


def moments(cuts: Cuts, modality: Modality) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the measured cells, by feature (images: by channel).

    Chunks are merged by the update of :cite:`chan1983variance`, in float64.

    Returns:
        Mean and standard deviation (with divisor n), float64, each of shape (D,); 0 where nothing was measured, and a
        standard deviation of exactly 0 where a feature is constant.
    """
    width = modality.n_features
    count, mean, squares = np.zeros(width), np.zeros(width), np.zeros(width)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for _, cut in cuts:
        cells, keep = _cells(cut, modality)  # (n, D) each
        n = np.full(width, float(len(cells))) if keep is None else keep.sum(0).astype(np.float64)
        known = True if keep is None else keep
        low = np.minimum(low, cells.min(0, initial=np.inf, where=known))
        high = np.maximum(high, cells.max(0, initial=-np.inf, where=known))
        part_mean = cells.sum(0, where=known, dtype=np.float64) / np.maximum(n, 1)
        part_squares = np.square(cells - part_mean).sum(0, where=known)
        total = np.maximum(count + n, 1)
        shift = part_mean - mean
        mean += shift * n / total
        squares += part_squares + shift**2 * count * n / total
        count += n
    return mean, np.where(high > low, np.sqrt(squares / np.maximum(count, 1)), 0.0)


def quartiles(cuts: Cuts, modality: Modality) -> tuple[np.ndarray, np.ndarray]:
    """Median and interquartile range over 1.349 of the measured cells, by feature; all of them are held in memory.

    Returns:
        Two float64 arrays of shape (D,); 0 where nothing was measured.
    """
    parts = [_cells(cut, modality) for _, cut in cuts]
    centre, scale = np.zeros(modality.n_features), np.zeros(modality.n_features)
    for feature in range(modality.n_features):
        known = [c[:, feature] if keep is None else c[keep[:, feature], feature] for c, keep in parts]
        if sum(map(len, known)):
            low, centre[feature], high = np.quantile(np.concatenate(known), [0.25, 0.5, 0.75])
            scale[feature] = (high - low) / IQR_OF_NORMAL
    return centre, scale


def summaries(cuts: Cuts, modality: Modality, n: int, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """One number for each row: the mean of its measured cells, each standardised by its feature; the length of a text.

    Args:
        cuts: The present rows.
        modality: What they are of.
        n: Number N of all rows.
        mean: Of each feature, of shape (D,).
        scale: Of each feature, of shape (D,), positive.

    Returns:
        float64, of shape (N,); NaN for rows that are absent or have no measured cell.
    """
    summary = np.full(n, np.nan)
    for rows, cut in cuts:
        if modality.kind == "text":
            assert cut.lengths is not None
            summary[rows] = cut.lengths
            continue
        cells, keep = _cells(cut, modality)
        standard = (cells - mean) / scale
        if keep is None:
            summary[rows] = standard.reshape(len(rows), -1).mean(1)
            continue
        keep = keep.reshape(len(rows), -1)
        count = keep.sum(1)
        total = standard.reshape(len(rows), -1).sum(1, where=keep)
        summary[rows] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return summary


def _cells(cut: Cut, modality: Modality) -> tuple[np.ndarray, np.ndarray | None]:
    """Values as (cells, D), features or channels last, and which were measured (None: all)."""
    values, keep = cut.values, cut.measured
    if cut.lengths is not None:
        inside = np.arange(values.shape[1]) < cut.lengths[:, None]  # (n, T)
        inside = np.broadcast_to(inside.reshape(*inside.shape, *[1] * (values.ndim - 2)), values.shape)
        keep = inside if keep is None else keep & inside
    if modality.kind == "image":
        values, keep = np.moveaxis(values, 1, -1), None if keep is None else np.moveaxis(keep, 1, -1)
    return values.reshape(-1, values.shape[-1]), None if keep is None else keep.reshape(-1, values.shape[-1])
