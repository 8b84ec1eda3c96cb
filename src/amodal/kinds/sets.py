"""Sets: several images, texts or tables of one case, in no order, as one modality."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from amodal.batch import Present
from amodal.kinds.modality import Image, ModalityKind, Tabular, Text

__all__ = ["BETWEEN_TEXTS", "ImageSet", "Members", "SetKind", "TableSet", "TextSet"]

BETWEEN_TEXTS = 0x1E
"""The byte between the texts of a set: ASCII's record separator."""


class Members(NamedTuple):
    """The members of all sets of a batch, one after the other.

    Attributes:
        rows: The row that each belongs to, int64 (T,), increasing.
        places: Its place in that row's set, int64 (T,).
        values: Of shape (T, …), as samples of the kind that the set is of.
        measured: Measured cells, bool, of the shape of `values`; None: all.
        lengths: Valid entries along axis 1, int64 (T,); None: all.
    """

    rows: Tensor
    places: Tensor
    values: Tensor
    measured: Tensor | None
    lengths: Tensor | None


class SetKind(ModalityKind):
    """Sets of up to K samples of another kind; a set without a member is absent.

    Attributes:
        of: The kind of the members.
    """

    of: ClassVar[ModalityKind]

    @abstractmethod
    def members(self, values: Tensor, measured: Tensor | None, lengths: Tensor | None) -> Members:
        """The members of some rows, which all have the modality.

        Args:
            values: Of shape (P, …).
            measured: Measured cells; None: all.
            lengths: As in a batch, of shape (P,); None: every row is full.
        """

    def member_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one member of a set of this shape."""
        return shape[1:]

    def fits(self, expected: tuple[int, ...], shape: tuple[int, ...]) -> bool:
        """Whether the members are alike; their number may differ."""
        return shape[1:] == expected[1:]

    def summary(self, present: Present, shape: tuple[int, ...], *, size: int = 256) -> Tensor:
        """The mean of the members' summaries, NaN where no member was measured, and the log of one plus their number.

        Shape (P, F + 1).
        """
        mean, count = self._mean(present, shape, lambda kind, one, inner: kind.summary(one, inner, size=size))
        return torch.cat([mean, count.log1p()[:, None].to(mean.dtype)], dim=1)

    def similarity_vector(self, present: Present, shape: tuple[int, ...]) -> Tensor:
        """The mean of the members' vectors."""
        mean, _ = self._mean(present, shape, lambda kind, one, inner: kind.similarity_vector(one, inner))
        return mean.nan_to_num(0.0).float()

    def _mean(self, present: Present, shape: tuple[int, ...], vector) -> tuple[Tensor, Tensor]:
        """Means over the members of each row (P, F), NaN where there is none, and the number of members (P,)."""
        members = self.members(*present[1:])
        each = vector(self.of, Present(*members[:1], *members[2:]), self.member_shape(shape)).double()  # (T, F)
        n = len(present.values)
        known = ~each.isnan()
        total = each.new_zeros(n, each.shape[1]).index_add(0, members.rows, torch.where(known, each, 0.0))
        counts = each.new_zeros(n, each.shape[1]).index_add(0, members.rows, known.to(each.dtype))
        return total / counts, torch.bincount(members.rows, minlength=n).double()


class _StackedSet(SetKind):
    """Sets of samples of one shape, stacked along a first axis, each row up to its own number."""

    takes_lengths = True

    def members(self, values: Tensor, measured: Tensor | None, lengths: Tensor | None) -> Members:
        """Rows of the stack within each set's length; see `SetKind.members`."""
        n, width = values.shape[:2]
        if lengths is None:
            lengths = torch.full((n,), width, dtype=torch.int64, device=values.device)
        rows, places = (torch.arange(width, device=values.device) < lengths[:, None]).nonzero(as_tuple=True)
        return Members(rows, places, values[rows, places], None if measured is None else measured[rows, places], None)


class ImageSet(_StackedSet):
    """Sets of up to K images: (K, C, H, W)."""

    name, plural = "image_set", "sets of images"
    of = Image()
    axes = ("K", *Image.axes)
    encoder, decoder, picture = Image.encoder, Image.decoder, "pictures"
    feature_axis = 1
    on_grid = True


class TableSet(_StackedSet):
    """Sets of up to K tables, such as embeddings or visits: (K, D)."""

    name, plural = "table_set", "sets of tables"
    of = Tabular()
    axes = ("K", *Tabular.axes)
    encoder, decoder, picture = Tabular.encoder, Tabular.decoder, "curves"
    feature_axis = 1
    takes_measured = True


class TextSet(SetKind):
    """Sets of up to K texts: (K,), in a batch UTF-8 bytes (B, L) with `BETWEEN_TEXTS` between two of them."""

    name, plural = "text_set", "sets of texts"
    of = Text()
    axes = ("K",)
    encoder, decoder, picture = Text.encoder, Text.decoder, "text"
    feature_axis = None
    holds_texts = True

    blank, level = Text.blank, Text.level

    def members(self, values: Tensor, measured: Tensor | None, lengths: Tensor | None) -> Members:
        """The texts between the separators; see `SetKind.members`."""
        device = values.device
        if lengths is None:
            lengths = torch.full((len(values),), values.shape[1], dtype=torch.int64, device=device)
        position = torch.arange(values.shape[1], device=device)
        inside = position < lengths[:, None]  # (P, L)
        between = (values == BETWEEN_TEXTS) & inside
        number = between.long().cumsum(1)  # of the text that a byte belongs to
        begun = torch.where(between, position + 1, 0).cummax(1).values if values.shape[1] else position.expand(0, 0)
        counts = between.sum(1) + 1  # (P,)
        ends = counts.cumsum(0)
        rows = torch.repeat_interleave(torch.arange(len(values), device=device), counts)
        first = ends - counts
        places = torch.arange(len(rows), device=device) - first[rows]
        kept = (inside & ~between).nonzero(as_tuple=True)
        at, within = first[kept[0]] + number[kept], kept[1] - begun[kept]
        sizes = torch.bincount(at, minlength=len(rows))
        texts = torch.zeros(len(rows), max(1, int(sizes.max()) if len(sizes) else 1), dtype=torch.uint8, device=device)
        texts[at, within] = values[kept]
        return Members(rows, places, texts, None, sizes)
