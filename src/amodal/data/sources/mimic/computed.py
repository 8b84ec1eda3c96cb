"""Stores whose rows are computed while they are written, so that a cohort larger than memory can be made."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from amodal.data.store import ArrayStore, RaggedStore, Stream

__all__ = ["ComputedArrays", "ComputedRagged"]


class ComputedArrays(ArrayStore):
    """Rows of equal shape, each computed when it is asked for.

    Args:
        compute: Values (n, …) of the rows at positions (n,).
        shape: Shape of all rows together, (N, …).
        dtype: float32 or uint8.
        lengths: Valid entries along axis 1, integers of shape (N,); None if all are full.
    """

    def __init__(
        self,
        compute: Callable[[np.ndarray], np.ndarray],
        shape: tuple[int, ...],
        dtype: type = np.float32,
        *,
        lengths: np.ndarray | None = None,
    ):
        super().__init__(np.broadcast_to(np.zeros((), dtype), shape), lengths=lengths)
        self._compute = compute

    def streams(self, rows: np.ndarray, seen: np.ndarray) -> dict[str, Stream]:
        """Arrays of a store of some rows; see `Store.streams`."""

        def pieces() -> Iterator[np.ndarray]:
            for part in self.chunks(rows):
                piece = np.zeros((len(rows[part]), *self.values.shape[1:]), self.values.dtype)
                wanted = rows[part][seen[part]]
                if len(wanted):
                    piece[seen[part]] = self._compute(wanted)
                yield piece

        values = Stream(self.values.dtype, (len(rows), *self.values.shape[1:]), pieces())
        if self.lengths is None:
            return {"values": values}
        lengths = np.where(seen, self.lengths[rows], 0).astype(np.int64)
        return {"values": values, "lengths": Stream(lengths.dtype, lengths.shape, iter([lengths]))}


class ComputedRagged(RaggedStore):
    """Rows of different length, each computed when it is asked for.

    Args:
        compute: Entries of the rows at positions (n,), one row after the other, of shape (total, D).
        lengths: Entries of each row, integers of shape (N,).
        features: D.
        gaps: Whether rows have NaN.
    """

    def __init__(
        self, compute: Callable[[np.ndarray], np.ndarray], lengths: np.ndarray, features: int, *, gaps: bool = False
    ):
        offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
        flat = np.broadcast_to(np.zeros((), np.float32), (int(offsets[-1]), features))
        super().__init__(flat, offsets, width=max(1, int(lengths.max(initial=0))), gaps=gaps)
        self._compute = compute

    def streams(self, rows: np.ndarray, seen: np.ndarray) -> dict[str, Stream]:
        """Arrays of a store of some rows; see `Store.streams`."""
        lengths = np.where(seen, np.diff(self.offsets)[rows], 0)
        offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)

        def pieces() -> Iterator[np.ndarray]:
            for part in self.chunks(rows):
                wanted = rows[part][seen[part]]
                if len(wanted):
                    yield self._compute(wanted)

        return {
            "values": Stream(self.flat.dtype, (int(offsets[-1]), *self.flat.shape[1:]), pieces()),
            "offsets": Stream(offsets.dtype, offsets.shape, iter([offsets])),
        }
