"""Standardisation: statistics of present, measured training values, applied to batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.data.moments import moments, quartiles, usable
from amodal.errors import ConfigurationError, DataError
from amodal.schema import Schema

__all__ = ["Scaling"]

_QUANTILE_ROWS = 100_000


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
            if not modality.traits.is_numeric:
                continue
            mean, scale = moments(cohort.cuts(modality.name), modality)
            if robust:
                mean, narrow = quartiles(_thinned(cohort).cuts(modality.name), modality)
                scale = np.where(usable(narrow, mean) == narrow, narrow, scale)
            scale = usable(scale, mean)
            for part, vector in ((means, mean), (scales, scale)):
                part[modality.name] = modality.traits.as_features(torch.from_numpy(vector.astype(np.float32)))
        target_mean, target_scale = 0.0, 1.0
        if cohort.schema.task.traits.scales_target and cohort.target is not None:
            target = cohort.target.astype(np.float64)
            target_mean = float(target.mean())
            target_scale = float(usable(target.std(keepdims=True), np.array(target_mean))[0])
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
        names = [modality.name for modality in schema.modalities if modality.traits.is_numeric]
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


def _thinned(cohort: Cohort) -> Cohort:
    if len(cohort) <= _QUANTILE_ROWS:
        return cohort
    return cohort.take(np.linspace(0, len(cohort) - 1, _QUANTILE_ROWS).astype(np.int64))
