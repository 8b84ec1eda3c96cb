"""Statistics over the present rows of one modality, chunk by chunk, so that no store is read into memory at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from amodal.data.store import Cut
from amodal.schema import Modality

__all__ = [
    "IMAGE_LEVELS",
    "Cuts",
    "beyond_levels",
    "each_image",
    "image_levels",
    "level_range",
    "moments",
    "quartiles",
    "summaries",
    "usable",
]

Cuts = Iterable[tuple[np.ndarray, Cut]]
"""Positions of present rows with what was cut of them, as `Cohort.cuts` yields."""

IQR_OF_NORMAL = 1.3489795003921634
"""Interquartile range of a normal distribution with standard deviation 1."""

IMAGE_LEVELS = ("mean level", "contrast")
"""What the range of an image modality is of: the mean of each image and its standard deviation."""


def image_levels(values: np.ndarray) -> np.ndarray:
    """Mean level and standard deviation of each image, float64 (n, 2); `values` are (n, C, H, W)."""
    return np.array([[v.mean(dtype=np.float64), v.std(dtype=np.float64)] for v in values]).reshape(-1, 2)


def each_image(values: np.ndarray, lengths: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The images (T, C, H, W) of some rows, of which each may have several, and the row of each (T,).

    Args:
        values: Images (n, C, H, W), or sets of them (n, K, C, H, W).
        lengths: Members of each set, (n,); None for images.
    """
    if lengths is None:
        return values, np.arange(len(values))
    rows, places = np.nonzero(np.arange(values.shape[1]) < lengths[:, None])
    return values[rows, places], rows


def level_range(cuts: Cuts) -> np.ndarray:
    """Smallest, largest and upper quartile of `IMAGE_LEVELS` over present images, (2, 3); NaN where there is none."""
    images = (each_image(cut.values, cut.lengths)[0] for _, cut in cuts)
    levels = np.concatenate([np.zeros((0, 2)), *map(image_levels, images)])  # (n, 2)
    if not len(levels):
        return np.full((2, 3), np.nan)
    return np.stack([levels.min(0), levels.max(0), np.quantile(levels, 0.75, axis=0)], axis=1)


def beyond_levels(levels: np.ndarray, pairs: np.ndarray, slack: np.ndarray) -> np.ndarray:
    """Flags of `IMAGE_LEVELS` (n, 2) beyond all of training's, pairs (2, …) of low and high, by over a slack.

    Returns:
        Bool (n, 2).
    """
    return (levels < pairs[:, 0] - slack[:, 0]) | (levels > pairs[:, 1] + slack[:, 1])


def moments(cuts: Cuts, modality: Modality) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the measured cells, by feature (images: by channel).

    Chunks are merged by the update of Chan, Golub and LeVeque, in float64.

    Returns:
        Mean and standard deviation (with divisor n), float64, each of shape (D,); 0 where nothing was measured.

    Source:
        :cite:`chan1983variance`.
    """
    width = modality.n_features
    count, mean, squares = (torch.zeros(width, dtype=torch.float64) for _ in range(3))
    for _, cut in cuts:
        away, keep = _cells(cut, modality)  # (n, D) each
        every = torch.ones(len(away), dtype=torch.float64)  # products with it are sums over rows, at the speed of BLAS
        n = torch.full((width,), float(len(away)), dtype=torch.float64) if keep is None else every @ keep
        part_mean = (every @ away) / n.clamp(min=1)
        away -= part_mean
        if keep is not None:
            away *= keep
        part_squares = every @ away.square_()
        total = (count + n).clamp(min=1)
        shift = part_mean - mean
        mean += shift * n / total
        squares += part_squares + shift**2 * count * n / total
        count += n
    return mean.numpy(), (squares / count.clamp(min=1)).sqrt().numpy()


def usable(scale: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Scales (D,) with 1 where a feature is constant but for the rounding of float32."""
    return np.where(scale > 1e-7 * np.abs(mean), scale, 1.0)


def quartiles(cuts: Cuts, modality: Modality) -> tuple[np.ndarray, np.ndarray]:
    """Median and interquartile range over 1.349 of the measured cells, by feature; all of them are held in memory.

    Returns:
        Two float64 arrays of shape (D,); 0 where nothing was measured.
    """
    parts = [_cells(cut, modality) for _, cut in cuts]
    centre, scale = np.zeros(modality.n_features), np.zeros(modality.n_features)
    for feature in range(modality.n_features):
        known = [c[:, feature] if keep is None else c[keep[:, feature] > 0, feature] for c, keep in parts]
        if sum(map(len, known)):
            low, centre[feature], high = np.quantile(torch.cat(known).numpy(), [0.25, 0.5, 0.75])
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
    centre, spread = torch.from_numpy(mean), torch.from_numpy(scale)
    for rows, cut in cuts:
        summary[rows] = modality.traits.level(*_tensors(cut), centre, spread).numpy()
    return summary


def _tensors(cut: Cut) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Values, measured cells and lengths; storage has NaN where nothing was measured, and anything in padding."""
    values, measured, lengths = (None if part is None else torch.from_numpy(part) for part in cut[:3])
    assert values is not None
    return values, measured, lengths


def _cells(cut: Cut, modality: Modality) -> tuple[Tensor, Tensor | None]:
    return modality.traits.cells(*_tensors(cut))
