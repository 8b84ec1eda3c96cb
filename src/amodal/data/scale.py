"""Standardisation: statistics of present, measured training values, applied to batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.data.store import Cut
from amodal.errors import ConfigurationError, DataError
from amodal.schema import Schema

__all__ = ["Scaling", "summarise"]

_QUANTILE_ROWS = 100_000
_IQR_OF_NORMAL = 1.3489795003921634


@dataclass(frozen=True, eq=False)
class Scaling:
    r"""Standardises tables and series by feature, images by channel, and a regression target; text stays as it is.

    .. math:: x' = \operatorname{clip}((x - \mu) / \sigma, -c, c)

    with statistics of what is present and measured in the training rows only. A feature that is constant in training
    (or never measured) has :math:`\sigma = 1`.

    Args:
        means: Centre of each modality but text, broadcastable to a sample: (D,) or (C, 1, 1), float32.
        scales: Scale of each modality but text, of the same shapes.
        target_mean: Centre of a regression target; 0 otherwise.
        target_scale: Scale of a regression target; 1 otherwise.
        clip: Bound :math:`c` on standardised inputs, so that one wild value (a pH of 735) cannot swamp a batch;
            infinity: none.
    """

    means: Mapping[str, Tensor]
    scales: Mapping[str, Tensor]
    target_mean: float = 0.0
    target_scale: float = 1.0
    clip: float = 10.0

    @classmethod
    def fit(cls, cohort: Cohort, *, robust: bool = False, clip: float = 10.0) -> Scaling:
        """Computes the statistics of some rows, chunk by chunk.

        Args:
            cohort: The training rows, as they are: what is absent now does not count.
            robust: Median and interquartile range (over 1.349, so that they agree on normal data) instead of mean and
                standard deviation, of at most 100,000 rows evenly over the cohort.
            clip: Bound on standardised inputs, in standard deviations; infinity: none.

        Raises:
            ConfigurationError: If `clip` is not positive.
            DataError: If there is no row.
        """
        if not clip > 0:
            raise ConfigurationError("clip is out of range", expected="a positive number or infinity", got=clip)
        if len(cohort) == 0:
            raise DataError("there is no row to take statistics from")
        means, scales = {}, {}
        for modality in cohort.schema.modalities:
            if modality.kind == "text":
                continue
            mean, scale = (_robust_moments if robust else _moments)(cohort, modality.name)
            shape = (-1, 1, 1) if modality.kind == "image" else (-1,)
            means[modality.name] = torch.from_numpy(mean.astype(np.float32)).reshape(shape)
            scales[modality.name] = torch.from_numpy(scale.astype(np.float32)).reshape(shape)
        target_mean, target_scale = 0.0, 1.0
        if cohort.schema.task.kind == "regression" and cohort.target is not None:
            target = cohort.target.astype(np.float64)
            target_mean = float(target.mean())
            target_scale = float(_usable(target.std(keepdims=True), target_mean)[0])
        return cls(means, scales, target_mean, target_scale, float(clip))

    def apply(self, batch: Batch) -> Batch:
        """Standardises a batch in raw units; what is not there stays blank."""
        values = dict(batch.values)
        for name, mean in self.means.items():
            value = values[name]
            scaled = (value - mean.to(value.device)) / self.scales[name].to(value.device)
            values[name] = scaled.clamp_(-self.clip, self.clip)
        target = batch.target
        if target is not None and (self.target_mean, self.target_scale) != (0.0, 1.0):
            target = (target - self.target_mean) / self.target_scale
        return Batch(values, batch.observed, batch.measured, batch.lengths, target, batch.ids)

    def unscale(self, predictions):
        """Regression predictions (…) back to the target's units; a tensor or an array, as it came."""
        return predictions * self.target_scale + self.target_mean

    def to_arrays(self) -> dict[str, np.ndarray]:
        """As plain arrays, for a file of tensors."""
        arrays = {f"mean.{name}": mean.numpy() for name, mean in self.means.items()}
        arrays |= {f"scale.{name}": scale.numpy() for name, scale in self.scales.items()}
        return arrays | {"target": np.array([self.target_mean, self.target_scale]), "clip": np.array([self.clip])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], schema: Schema) -> Scaling:
        """The inverse of `to_arrays`.

        Raises:
            DataError: If an array is missing or does not fit the schema.
        """
        names = [modality.name for modality in schema.modalities if modality.kind != "text"]
        needed = {f"{part}.{name}" for part in ("mean", "scale") for name in names} | {"target", "clip"}
        if set(arrays) != needed:
            raise DataError("the scaling does not fit the schema", expected=sorted(needed), got=sorted(arrays))
        parts: dict[str, dict[str, Tensor]] = {"mean": {}, "scale": {}}
        for part, name in ((part, name) for part in parts for name in names):
            array = np.array(arrays[f"{part}.{name}"], dtype=np.float32)
            if array.size != schema[name].n_features:
                raise DataError(
                    f"{part} of modality {name!r} does not fit the schema",
                    expected=schema[name].n_features,
                    got=array.shape,
                )
            parts[part][name] = torch.from_numpy(array)
        mean, scale = (float(number) for number in arrays["target"])
        return cls(parts["mean"], parts["scale"], mean, scale, float(arrays["clip"][0]))


def summarise(cohort: Cohort, name: str) -> np.ndarray:
    """One number a row: mean of the measured cells, each standardised by feature or channel; length of a text.

    Args:
        cohort: N rows.
        name: The modality.

    Returns:
        float64 (N,); NaN where absent or nothing was measured.
    """
    summary = np.full(len(cohort), np.nan)
    text = cohort.schema[name].kind == "text"
    mean, scale = (np.zeros(1), np.ones(1)) if text else _moments(cohort, name)
    for rows, cut in cohort.cuts(name):
        if text:
            assert cut.lengths is not None
            summary[rows] = cut.lengths
            continue
        cells, keep = _cells(cohort, name, cut)  # (n, cells, D)
        standard = np.where(keep, (cells - mean) / scale, 0.0)
        count = keep.sum((1, 2))
        summary[rows] = np.where(count > 0, standard.sum((1, 2)) / np.maximum(count, 1), np.nan)
    return summary


def _cells(cohort: Cohort, name: str, cut: Cut) -> tuple[np.ndarray, np.ndarray]:
    """A cut as (n, cells, features) in float64, blanked, and which of the cells count."""
    values = cut.values
    keep = np.ones(values.shape, bool) if cut.measured is None else cut.measured.copy()
    if cut.lengths is not None:
        inside = np.arange(values.shape[1]) < cut.lengths[:, None]
        keep &= inside.reshape(*inside.shape, *[1] * (values.ndim - 2))
    if cohort.schema[name].kind == "image":
        values, keep = np.moveaxis(values, 1, -1), np.moveaxis(keep, 1, -1)
    shape = (len(values), int(np.prod(values.shape[1:-1])), values.shape[-1])
    keep = keep.reshape(shape)
    return np.where(keep, values.reshape(shape).astype(np.float64), 0.0), keep


def _moments(cohort: Cohort, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and usable standard deviation by feature (D,), merged over chunks as by Chan, Golub and LeVeque (1979)."""
    width = cohort.schema[name].n_features
    count, mean, spread = np.zeros(width), np.zeros(width), np.zeros(width)
    for _, cut in cohort.cuts(name):
        cells, keep = _cells(cohort, name, cut)
        n = keep.sum((0, 1)).astype(np.float64)
        part_mean = cells.sum((0, 1)) / np.maximum(n, 1)
        part_spread = (np.where(keep, cells - part_mean, 0.0) ** 2).sum((0, 1))
        total = np.maximum(count + n, 1)
        shift = part_mean - mean
        mean = mean + shift * n / total
        spread = spread + part_spread + shift**2 * count * n / total
        count = count + n
    return mean, _usable(np.sqrt(spread / np.maximum(count, 1)), mean)


def _robust_moments(cohort: Cohort, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Median and interquartile range over 1.349 by feature (D,); standard deviation where that range is zero."""
    _, fallback = _moments(cohort, name)
    if len(cohort) > _QUANTILE_ROWS:
        cohort = cohort.take(np.linspace(0, len(cohort) - 1, _QUANTILE_ROWS).astype(np.int64))
    parts = [_cells(cohort, name, cut) for _, cut in cohort.cuts(name)]
    centre, scale = np.zeros(len(fallback)), fallback.copy()
    for feature in range(len(fallback)):
        known = np.concatenate([cells[..., feature][keep[..., feature]] for cells, keep in parts] or [np.zeros(0)])
        if len(known) == 0:
            continue
        low, centre[feature], high = np.quantile(known, [0.25, 0.5, 0.75])
        if high - low > 1e-6 * max(abs(low), abs(high)):
            scale[feature] = (high - low) / _IQR_OF_NORMAL
    return centre, scale


def _usable(scale: np.ndarray, mean: np.ndarray | float) -> np.ndarray:
    """Standard deviations with 1 where a feature is constant but for rounding."""
    return np.where(scale > 1e-7 * np.abs(mean) + 1e-30, scale, 1.0)
