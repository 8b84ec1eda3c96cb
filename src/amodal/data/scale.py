"""Standardisation: statistics of present, measured training values, applied to batches."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.data.moments import (
    IMAGE_LEVELS,
    beyond_levels,
    each_image,
    image_levels,
    level_range,
    moments,
    quartiles,
    usable,
)
from amodal.errors import ConfigurationError, DataError
from amodal.schema import Schema

__all__ = ["LevelCheck", "Scaling"]

_QUANTILE_ROWS = 100_000
_MANY = 20  # images that are all below a quarter of training's upper quartile: by chance in 0.3 % of cases
_SHARE_BEYOND = 0.1  # of new images; below, chance alone may put them beyond a small training set


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
        levels: Of each image modality the smallest, largest and upper quartile of mean level and contrast of training
            images, (2, 3), by which predictions tell images on another scale; empty for runs that did not record them.
    """

    means: Mapping[str, Tensor]
    scales: Mapping[str, Tensor]
    target_mean: float = 0.0
    target_scale: float = 1.0
    clip: float = 10.0
    levels: Mapping[str, np.ndarray] = field(default_factory=dict)

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
            target = cohort.target[cohort.labelled].astype(np.float64)
            target_mean = float(target.mean())
            target_scale = float(usable(target.std(keepdims=True), np.array(target_mean))[0])
        images = [modality.name for modality in cohort.schema.modalities if modality.traits.on_grid]
        levels = {name: level_range(cohort.cuts(name)) for name in images}
        return cls(means, scales, target_mean, target_scale, float(clip), levels)

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
        return Batch(
            values, batch.observed, batch.measured, batch.lengths, target, batch.ids, batch.labelled, batch.times
        )

    def unscale(self, predictions):
        """Regression predictions (…) back to the target's units; a tensor or an array, as it came."""
        return predictions * self.target_scale + self.target_mean

    def to_arrays(self) -> dict[str, np.ndarray]:
        """As plain arrays, for a file of tensors."""
        arrays = {f"mean.{name}": mean.numpy() for name, mean in self.means.items()}
        arrays |= {f"scale.{name}": scale.numpy() for name, scale in self.scales.items()}
        arrays |= {f"levels.{name}": pairs for name, pairs in self.levels.items()}
        return arrays | {"target": np.array([self.target_mean, self.target_scale]), "clip": np.array([self.clip])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], schema: Schema) -> Scaling:
        """The inverse of `to_arrays`.

        Raises:
            DataError: If an array is missing or does not fit the schema.
        """
        names = [modality.name for modality in schema.modalities if modality.traits.is_numeric]
        needed = {f"{part}.{name}" for part in ("mean", "scale") for name in names} | {"target", "clip"}
        levels = {f"levels.{m.name}": m.name for m in schema.modalities if m.traits.on_grid}  # absent of older runs
        if set(arrays) - set(levels) != needed:
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
        ranges = {name: np.array(arrays[key], dtype=np.float64) for key, name in levels.items() if key in arrays}
        for name, pairs in ranges.items():
            if pairs.shape != (2, 3):
                raise DataError(f"levels of modality {name!r} are damaged", expected="(2, 3)", got=pairs.shape)
        mean, scale = (float(number) for number in arrays["target"])
        return cls(parts["mean"], parts["scale"], mean, scale, float(arrays["clip"][0]), ranges)


class LevelCheck:
    """Images to predict whose mean level or contrast lies clearly beyond all of training's.

    Clearly is by a quarter of training's range and, on the dark side, below half of its lowest level: a model trained
    on bytes tells the same images divided by 255. Where training has black images as well, that shows only in many: all
    of them are below a quarter of training's upper quartile.

    Args:
        ranges: `Scaling.levels`.
    """

    def __init__(self, ranges: Mapping[str, np.ndarray]):
        self.ranges = ranges
        self.found: dict[str, list[np.ndarray]] = {name: [] for name in ranges}

    def add(self, batch: Batch) -> None:
        """Takes in the present images of a batch in raw units."""
        for name in self.ranges:
            _, values, _, lengths = batch.present(name)
            images, _ = each_image(values.numpy(), None if lengths is None else lengths.numpy())
            self.found[name].append(image_levels(images))

    def warn(self, stacklevel: int = 2) -> None:
        """Warns of each modality of which a tenth or more of the images lie beyond, or all far below most."""
        for name, pairs in self.ranges.items():
            levels = np.concatenate([np.zeros((0, 2)), *self.found[name]])  # (n, 2)
            problem = _level_problem(levels, pairs) if len(levels) else None
            if problem is not None:
                warnings.warn(
                    f"modality {name!r}: {problem}. If they are on another scale (bytes 0 … 255 and the same divided "
                    "by 255), bring them to that of training.",
                    stacklevel=stacklevel + 1,
                )


def _level_problem(levels: np.ndarray, pairs: np.ndarray) -> str | None:
    margin = 0.25 * (pairs[:, 1] - pairs[:, 0]) + 0.01 * np.abs(pairs[:, :2]).max()
    lower = np.where(pairs[:, 0] > 0, np.minimum(margin, pairs[:, 0] / 2), margin)
    beyond = beyond_levels(levels, pairs, np.stack([lower, margin], axis=1))  # (n, 2)
    n = len(levels)
    if beyond.any(1).mean() >= _SHARE_BEYOND:
        which, text = (
            np.asarray(beyond.any(0)),
            f"{int(beyond.any(1).sum())} of {n} images lie beyond all of training's",
        )
    elif n >= _MANY:
        low = (pairs[:, 0] >= 0) & (levels.max(0) < pairs[:, 2] / 4)  # decibels have no zero to be near
        which, text = np.asarray(low), f"all {n} images lie far below most of training's"
    else:
        return None
    said = "; ".join(
        f"{level} {levels[:, d].min():.3g} … {levels[:, d].max():.3g}, in training {low:.3g} … {high:.3g}, "
        f"of a quarter {upper:.3g} or more"
        for d, (level, (low, high, upper)) in enumerate(zip(IMAGE_LEVELS, pairs))
        if which[d]
    )
    return f"{text} ({said})" if said else None


def _thinned(cohort: Cohort) -> Cohort:
    if len(cohort) <= _QUANTILE_ROWS:
        return cohort
    return cohort.take(np.linspace(0, len(cohort) - 1, _QUANTILE_ROWS).astype(np.int64))
