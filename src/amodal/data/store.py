"""Stores: the values of one modality, dense or ragged, in memory or memory-mapped, cut by whole index arrays."""

from __future__ import annotations

import hashlib
import io
import mmap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from amodal.errors import ShapeError

__all__ = ["ArrayStore", "Cut", "RaggedStore", "Store", "Stream", "presence_digest"]

CHUNK_BYTES = 16 * 2**20
"""How much is read at a time by whatever goes through a whole store."""


class Cut(NamedTuple):
    """Some rows of one modality, as they go into a batch.

    Attributes:
        values: Of shape (n, …): float32, or uint8 for text.
        measured: bool, of the shape of `values`; None if every cell of every row of the store is measured.
        lengths: int64, of shape (n,); None if all rows are full.
        times: float32, of shape (n, T), of a series with a clock of its own (`split_times`); None: there is none.
    """

    values: np.ndarray
    measured: np.ndarray | None
    lengths: np.ndarray | None
    times: np.ndarray | None = None


class Stream(NamedTuple):
    """An array that comes in pieces, so that it need not fit into memory.

    Attributes:
        dtype: Its type.
        shape: Its shape.
        pieces: Its content, along axis 0.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    pieces: Iterator[np.ndarray]

    def file_pieces(self) -> Iterator[bytes | memoryview]:
        """The bytes of a .npy file that holds the array: header, then content."""
        header = io.BytesIO()
        described = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(header, described)
        yield header.getvalue()
        for piece in self.pieces:
            yield np.ascontiguousarray(piece, dtype=self.dtype).data

    def digest(self) -> str:
        """SHA-256 of the .npy file, without writing it."""
        digest = hashlib.sha256()
        for piece in self.file_pieces():
            digest.update(piece)
        return digest.hexdigest()


class Store(ABC):
    """The values of one modality for all rows of a cohort.

    A cell that was not measured is NaN in storage, and nowhere else: `cut` turns it into `measured`. What lies in the
    rows that do not have the modality is arbitrary and is never read.
    """

    gaps: bool
    """Whether any present row has cells that were not measured."""
    recorded: Mapping[str, str] | None = None
    """SHA-256 of each role's file as the cohort's folder records it, and under "presence" that of the presence that
    they were written for; None: the store is in memory."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def cut(self, rows: np.ndarray, seen: np.ndarray) -> Cut:
        """Gathers rows.

        Args:
            rows: Rows of the store, int64, of shape (n,).
            seen: Which of them to read, bool, of shape (n,); the others are zero in the result.

        Returns:
            The n rows, in new arrays.
        """

    @abstractmethod
    def streams(self, rows: np.ndarray, seen: np.ndarray) -> dict[str, Stream]:
        """Arrays of a store of some rows, as they are written.

        Args:
            rows: Rows of the store, int64, of shape (n,).
            seen: Which of them to keep, bool, of shape (n,); the others become zero or empty.

        Returns:
            Arrays by role, for a file each.
        """

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """Average size of one row when cut, for choosing the size of chunks."""

    def digests(self, rows: np.ndarray | None, seen: np.ndarray) -> dict[str, str]:
        """SHA-256 of the files that `streams` would fill; a folder's own checksums where all of it is asked for.

        Args:
            rows: Rows of the store, int64, of shape (n,); None: all, in order.
            seen: Which of them to keep, bool, of shape (n,).

        Returns:
            Hexadecimal digests by role.
        """
        if rows is None and self.recorded is not None and self.recorded["presence"] == presence_digest(seen):
            return {role: digest for role, digest in self.recorded.items() if role != "presence"}
        streams = self.streams(np.arange(len(self)) if rows is None else rows, seen)
        return {role: stream.digest() for role, stream in streams.items()}

    def chunks(self, rows: np.ndarray) -> Iterator[slice]:
        """Slices of `rows` so small that what they cut stays within `CHUNK_BYTES`."""
        step = max(1, CHUNK_BYTES // max(1, self.row_bytes))
        return (slice(start, start + step) for start in range(0, len(rows), step))

    def __getstate__(self) -> dict[str, Any]:
        """Memory-mapped arrays travel to other processes as the name of their file, never by content."""
        return {key: _as_address(value) for key, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({key: v.open() if isinstance(v, _Address) else v for key, v in state.items()})


class ArrayStore(Store):
    """Rows of equal shape.

    Args:
        values: Of shape (N, …): float32, float16 or uint8; NaN = not measured, in floats.
        gaps: Whether present rows have NaN.
        lengths: Valid entries along axis 1, integers of shape (N,); None if all are full.

    Example:
        >>> store = ArrayStore(np.float32([[1, 2], [3, np.nan], [5, 6]]), gaps=True)
        >>> cut = store.cut(np.array([1, 2]), np.array([True, False]))
        >>> cut.values.tolist(), cut.measured.tolist()
        ([[3.0, nan], [0.0, 0.0]], [[True, False], [True, True]])
    """

    def __init__(self, values: np.ndarray, *, gaps: bool = False, lengths: np.ndarray | None = None):
        if lengths is not None and lengths.shape != values.shape[:1]:
            raise ShapeError("lengths have another number of rows", expected=len(values), got=lengths.shape)
        self.values, self.gaps, self.lengths = values, gaps, lengths

    def __len__(self) -> int:
        return len(self.values)

    @property
    def row_bytes(self) -> int:
        """Average size of one row when cut."""
        return 4 * int(np.prod(self.values.shape[1:]))

    def cut(self, rows: np.ndarray, seen: np.ndarray) -> Cut:
        """Gathers rows; see `Store.cut`."""
        if seen.all():
            values = _gather(self.values, rows).astype(np.float32, copy=False)
        else:
            values = np.zeros((len(rows), *self.values.shape[1:]), np.float32)
            values[seen] = _gather(self.values, rows[seen])
        lengths = None if self.lengths is None else np.where(seen, _gather(self.lengths, rows), 0).astype(np.int64)
        return Cut(values, ~np.isnan(values) if self.gaps else None, lengths)

    def streams(self, rows: np.ndarray, seen: np.ndarray) -> dict[str, Stream]:
        """Arrays of a store of some rows; see `Store.streams`."""

        def pieces() -> Iterator[np.ndarray]:
            for part in self.chunks(rows):
                piece = np.zeros((len(rows[part]), *self.values.shape[1:]), self.values.dtype)
                piece[seen[part]] = _gather(self.values, rows[part][seen[part]])
                yield piece

        found = {"values": Stream(self.values.dtype, (len(rows), *self.values.shape[1:]), pieces())}
        if self.lengths is None:
            return found
        lengths = np.where(seen, _gather(self.lengths, rows), 0).astype(np.int64)
        return found | {"lengths": Stream(lengths.dtype, lengths.shape, iter([lengths]))}


class RaggedStore(Store):
    """Rows of different length, one after the other in one array: text as bytes, series, or sets of samples.

    Args:
        flat: All entries, of shape (total, …): uint8, float32 or float16.
        offsets: Row i is `flat[offsets[i]:offsets[i + 1]]`; int64, of shape (N + 1,), increasing from 0 to total.
        width: Rows are padded to this length when cut; None: to the longest row that is cut.
        gaps: Whether present rows have NaN.

    Example:
        >>> store = RaggedStore(np.frombuffer(b"yesno", np.uint8), np.array([0, 3, 5]))
        >>> cut = store.cut(np.array([1, 0]), np.array([True, True]))
        >>> [bytes(row[:n]).decode() for row, n in zip(cut.values, cut.lengths)]
        ['no', 'yes']
    """

    def __init__(self, flat: np.ndarray, offsets: np.ndarray, *, width: int | None = None, gaps: bool = False):
        if offsets.ndim != 1 or len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != len(flat):
            raise ShapeError("offsets of a ragged store must go from 0 to the number of entries", expected=len(flat))
        self.flat, self.offsets, self.width, self.gaps = flat, offsets, width, gaps

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def row_bytes(self) -> int:
        """Average size of one row when cut."""
        entries = self.width or -(-len(self.flat) // max(1, len(self)))
        return max(1, entries) * int(np.prod(self.flat.shape[1:])) * (1 if self._holds_texts else 4)

    @property
    def _holds_texts(self) -> bool:
        return self.flat.dtype == np.uint8 and self.flat.ndim == 1

    def cut(self, rows: np.ndarray, seen: np.ndarray) -> Cut:
        """Gathers rows; see `Store.cut`."""
        starts = _gather(self.offsets, rows)
        lengths = np.where(seen, _gather(self.offsets, rows + 1) - starts, 0)  # (n,)
        width = self.width or max(1, int(lengths.max(initial=0)))
        within = _ranges(lengths)  # (total,)
        source = np.repeat(starts, lengths) + within
        target = np.repeat(np.arange(len(rows)) * width, lengths) + within
        dtype = np.uint8 if self._holds_texts else np.float32
        values = np.zeros((len(rows) * width, *self.flat.shape[1:]), dtype)
        values[target] = _gather(self.flat, source)
        values = values.reshape(len(rows), width, *self.flat.shape[1:])
        return Cut(values, ~np.isnan(values) if self.gaps else None, lengths)

    def streams(self, rows: np.ndarray, seen: np.ndarray) -> dict[str, Stream]:
        """Arrays of a store of some rows; see `Store.streams`."""
        starts = _gather(self.offsets, rows)
        lengths = np.where(seen, _gather(self.offsets, rows + 1) - starts, 0)
        offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)

        def pieces() -> Iterator[np.ndarray]:
            for part in self.chunks(rows):
                yield _gather(self.flat, np.repeat(starts[part], lengths[part]) + _ranges(lengths[part]))

        return {
            "values": Stream(self.flat.dtype, (int(offsets[-1]), *self.flat.shape[1:]), pieces()),
            "offsets": Stream(offsets.dtype, offsets.shape, iter([offsets])),
        }


def presence_digest(observed: np.ndarray) -> str:
    """SHA-256 of presence, a bool array."""
    return hashlib.sha256(repr(observed.shape).encode() + np.packbits(observed).tobytes()).hexdigest()


class _Address(NamedTuple):
    file: str
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    def open(self) -> np.memmap:
        return np.memmap(self.file, self.dtype, "r", self.offset, self.shape)


def _as_address(value: object) -> object:
    # A slice of a memory map keeps the offset of the whole, so only a whole one (its base is the map) has an address.
    if isinstance(value, np.memmap) and isinstance(value.base, mmap.mmap) and value.filename is not None:
        return _Address(str(value.filename), value.offset, value.dtype, value.shape)
    return value


def _gather(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of an array, which may be memory-mapped, as a plain array in memory."""
    return np.asarray(array).take(rows, axis=0)


def _ranges(lengths: np.ndarray) -> np.ndarray:
    """0 … lengths[0] - 1, then 0 … lengths[1] - 1, and so on."""
    ends = lengths.cumsum()
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
