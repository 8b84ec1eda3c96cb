"""Kinds of modality: axes, cells, fixed vectors, and the names of encoder, decoder and picture."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from amodal.batch import Present
from amodal.kinds.statistics import STATISTICS, read_cells, series_statistics
from amodal.kinds.words import count_words, triple_shares

__all__ = ["Image", "ModalityKind", "Series", "Tabular", "Text"]

_SIMILARITY_CELLS = 64  # of an image's channel, or buckets of a text
_LEARNED_STATISTICS = ("mean", "min", "max", "spread", "first", "last", "count", "late_mean")


class ModalityKind(ABC):
    """Everything that depends on the kind of a modality. Subclass it for a new kind.

    Attributes:
        name: Its name in schemas.
        axes: Names of the axes of one sample, without the batch's.
        plural: The noun for several samples, for messages and pages.
        encoder: Name of the default encoder, in `amodal.encoders.ENCODERS`.
        decoder: Name of the decoder, in `amodal.encoders.decoders.DECODERS`.
        picture: Name of how a sample is shown on a page, in `amodal.report.pictures.PICTURES`.
        feature_axis: Axis of a sample along which the features lie, by which values are standardised; None: there are
            no numbers to standardise.
        takes_measured: Whether single cells may be unmeasured (NaN) in a sample that is present.
        takes_lengths: Whether samples may be shorter than the modality's shape along their first axis.
        in_order: Whether the entries along a sample's first axis come in an order, of which the last one sums up.
        holds_texts: Whether a sample is a string, of any length, stored as UTF-8 bytes.
        on_grid: Whether the last two axes are a plane: bytes are kept as they are, a sample can be shown as a picture,
            and tokens lie on a grid.
    """

    name: ClassVar[str]
    axes: ClassVar[tuple[str, ...]]
    plural: ClassVar[str]
    encoder: ClassVar[str]
    decoder: ClassVar[str]
    picture: ClassVar[str]
    feature_axis: ClassVar[int | None]
    takes_measured: ClassVar[bool] = False
    takes_lengths: ClassVar[bool] = False
    in_order: ClassVar[bool] = False
    holds_texts: ClassVar[bool] = False
    on_grid: ClassVar[bool] = False

    @property
    def axes_of_sample(self) -> str:
        """The axes of one sample in words, such as "(T, D)"."""
        return f"({', '.join(self.axes)}{',' * (len(self.axes) == 1)})"

    @property
    def axes_of_rows(self) -> str:
        """The axes of N samples in words, such as "(N, T, D)"."""
        return "a list of N str" if self.holds_texts else f"({', '.join(('N', *self.axes))})"

    @property
    def is_numeric(self) -> bool:
        """Whether its values are numbers that are standardised."""
        return self.feature_axis is not None

    def n_features(self, shape: tuple[int, ...]) -> int:
        """Number D of features of a sample of this shape: the size of the feature axis, or 1."""
        return 1 if self.feature_axis is None else shape[self.feature_axis]

    def as_features(self, vector: Tensor) -> Tensor:
        """One number a feature (D,) in the shape that broadcasts to a sample."""
        assert self.feature_axis is not None
        return vector.reshape([-1 if axis == self.feature_axis else 1 for axis in range(len(self.axes))])

    def fits(self, expected: tuple[int, ...], shape: tuple[int, ...]) -> bool:
        """Whether a network made for samples of one shape takes samples of another; lengths may differ."""
        skip = int(self.takes_lengths)
        return expected[skip:] == shape[skip:]

    def blank(self, n: int, shape: tuple[int, ...]) -> Tensor:
        """Values of n rows that are absent: zeros."""
        return torch.zeros(n, *shape)

    def cells(self, values: Tensor, measured: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """All cells of some rows, with their features last.

        Args:
            values: Of shape (n, …); NaN where not measured, and anything beyond `lengths`.
            measured: Bool of the same shape; None: all.
            lengths: Valid entries along axis 1, of shape (n,); None: all.

        Returns:
            Cells (cells, D), float64, zero where not measured; and 1.0 where measured, of the same shape (None: all).
        """
        assert self.feature_axis is not None
        keep = measured
        if lengths is not None:
            inside = torch.arange(values.shape[1]) < lengths[:, None]  # (n, T)
            inside = inside.view(*inside.shape, *[1] * (values.ndim - 2)).expand(values.shape)
            keep = inside if keep is None else keep & inside
        axis = self.feature_axis + 1
        values, keep = values.movedim(axis, -1), None if keep is None else keep.movedim(axis, -1)
        cells = values.reshape(-1, values.shape[-1]).to(torch.float64, copy=True)
        if keep is None:
            return cells, None
        keep = keep.reshape(cells.shape).double()
        return cells.nan_to_num_(0.0, 0.0, 0.0).mul_(keep), keep

    def level(
        self, values: Tensor, measured: Tensor | None, lengths: Tensor | None, mean: Tensor, scale: Tensor
    ) -> Tensor:
        """One number for each row: the mean of its measured cells, each standardised by its feature.

        Args:
            values: As for `cells`.
            measured: As for `cells`.
            lengths: As for `cells`.
            mean: Of each feature, float64 (D,).
            scale: Of each feature, float64 (D,), positive.

        Returns:
            Float64, of shape (n,); NaN for rows without a measured cell.
        """
        n = len(values)
        cells, keep = self.cells(values, measured, lengths)
        standard = cells.sub_(mean).div_(scale)
        if keep is None:
            return standard.view(n, -1).mean(1)
        return standard.mul_(keep).view(n, -1).sum(1) / keep.view(n, -1).sum(1)  # 0 / 0 is NaN, as promised

    @abstractmethod
    def summary(self, present: Present, shape: tuple[int, ...], *, size: int = 256) -> Tensor:
        """A vector of fixed length for each row, for learners without an encoder.

        Args:
            present: P rows that have the modality; P may be 0.
            shape: The modality's shape.
            size: Most entries, where the kind can choose: of an image, and of a text.

        Returns:
            Of shape (P, F); NaN where not measured.
        """

    def similarity_vector(self, present: Present, shape: tuple[int, ...]) -> Tensor:
        """A short vector of fixed length for each row, in which similar rows are close; no NaN.

        Args:
            present: P rows that have the modality.
            shape: The modality's shape.

        Returns:
            Of shape (P, F): the summary with 0 where not measured, unless the kind has a shorter one.
        """
        return self.summary(present, shape, size=_SIMILARITY_CELLS).nan_to_num(0.0).float()


class Tabular(ModalityKind):
    """Tables: one number a feature, (D,)."""

    name, plural = "tabular", "tables"
    axes = ("D",)
    encoder, decoder, picture = "mlp", "cells", "values"
    feature_axis = 0
    takes_measured = True

    def summary(self, present: Present, shape: tuple[int, ...], *, size: int = 256) -> Tensor:
        """The cells."""
        if present.measured is None:
            return present.values
        return torch.where(present.measured, present.values, math.nan)


class Series(ModalityKind):
    """Series on a regular grid of times: (T, D), each row up to its own length."""

    name, plural = "series", "series"
    axes = ("T", "D")
    encoder, decoder, picture = "gru", "cells", "curves"
    feature_axis = 1
    takes_measured = takes_lengths = in_order = True

    def summary(self, present: Present, shape: tuple[int, ...], *, size: int = 256) -> Tensor:
        """Mean, minimum, maximum, spread, first and last value, count and late mean of each feature: (P, D * 8).

        All but the count are NaN where a feature was never measured.
        """
        cells = read_cells(present.values.double(), present.measured, present.lengths)
        statistics = series_statistics(*cells, shape[0])  # (P, D, 11)
        ever = statistics[..., STATISTICS.index("ever")] > 0
        columns = [statistics[..., STATISTICS.index(name)] for name in _LEARNED_STATISTICS]
        columns = [c if n == "count" else torch.where(ever, c, math.nan) for n, c in zip(_LEARNED_STATISTICS, columns)]
        return torch.stack(columns, dim=2).flatten(1)

    def similarity_vector(self, present: Present, shape: tuple[int, ...]) -> Tensor:
        """Means, then last values (P, 2 * D); 0 where never measured."""
        statistics = series_statistics(*read_cells(present.values, present.measured, present.lengths), shape[0])
        return torch.cat([statistics[..., STATISTICS.index(name)] for name in ("mean", "last")], dim=1)


class Image(ModalityKind):
    """Images: (C, H, W)."""

    name, plural = "image", "images"
    axes = ("C", "H", "W")
    encoder, decoder, picture = "convnet", "pixels", "picture"
    feature_axis = 0
    on_grid = True

    def summary(self, present: Present, shape: tuple[int, ...], *, size: int = 256) -> Tensor:
        """The pixels; of an image of more than `size` values, means over as many blocks, at its own proportions."""
        channels, height, width = shape
        if channels * height * width > size:
            shrink = math.sqrt(size / (channels * height * width))
            height, width = max(1, math.floor(height * shrink)), max(1, math.floor(width * shrink))
        return functional.adaptive_avg_pool2d(present.values.double(), (height, width)).flatten(1)

    def similarity_vector(self, present: Present, shape: tuple[int, ...]) -> Tensor:
        """Means over at most 8 × 8 blocks of each channel."""
        height, width = (min(side, math.isqrt(_SIMILARITY_CELLS)) for side in shape[1:])
        return functional.adaptive_avg_pool2d(present.values.float(), (height, width)).flatten(1)


class Text(ModalityKind):
    """Texts: strings of any length, (), as UTF-8 bytes (B, L) with lengths in a batch."""

    name, plural = "text", "texts"
    axes = ()
    encoder, decoder, picture = "hashing", "words", "text"
    feature_axis = None
    holds_texts = True

    def blank(self, n: int, shape: tuple[int, ...]) -> Tensor:
        """Texts of no byte, in a batch one byte wide."""
        return torch.zeros(n, 1, dtype=torch.uint8)

    def level(
        self, values: Tensor, measured: Tensor | None, lengths: Tensor | None, mean: Tensor, scale: Tensor
    ) -> Tensor:
        """The length in bytes."""
        assert lengths is not None
        return lengths.double()

    def summary(self, present: Present, shape: tuple[int, ...], *, size: int = 256) -> Tensor:
        """Counts of words in each of `size` buckets."""
        return count_words(present.values, present.lengths, size)

    def similarity_vector(self, present: Present, shape: tuple[int, ...]) -> Tensor:
        """Square roots of the shares of hashed character triples in 64 buckets."""
        return triple_shares(present.values, present.lengths, _SIMILARITY_CELLS)
