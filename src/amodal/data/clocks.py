"""Series with clocks of their own: their times lie in the store as a last column, so that one file holds both."""

from __future__ import annotations

from typing import Any

import numpy as np

from amodal.data.store import ArrayStore, Cut, RaggedStore, Store
from amodal.errors import DataError, ShapeError

__all__ = ["add_times", "split_times"]


def add_times(name: str, store: Store, times: Any, observed: np.ndarray) -> tuple[float, float]:
    """Adds the times of a series to its store.

    Args:
        name: The modality, for messages.
        store: Its values.
        times: Numbers (N, T) or, for a ragged store, a list of N arrays (T_i,), None where the series is absent.
        observed: Presence, bool (N,).

    Returns:
        Where the clock starts and stops: the smallest and the largest time of a present row.

    Raises:
        ShapeError: If there is not one time for each step.
        DataError: If a time of a present row is NaN or infinite, or all times are equal.
    """
    if isinstance(store, RaggedStore):
        rows = [np.zeros(0) if row is None else np.asarray(row, np.float32).reshape(-1) for row in times]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        expected = np.diff(store.offsets)
        if len(rows) != len(store) or (lengths != expected).any():
            raise ShapeError(f"times[{name!r}]: one for each step of each row", expected=expected.tolist()[:5],
                             got=lengths.tolist()[:5])  # fmt: skip
        flat = np.concatenate([*rows, np.zeros(0, np.float32)])
        inside = np.repeat(observed, lengths)
        store.flat = np.concatenate([store.flat, flat[:, None]], axis=1)
    else:
        assert isinstance(store, ArrayStore)
        flat = np.asarray(times, np.float32)
        if flat.shape != store.values.shape[:2] or store.values.ndim != 3:
            raise ShapeError(f"times[{name!r}]: one for each step of each row", expected=store.values.shape[:2],
                             got=flat.shape)  # fmt: skip
        ends = np.full(len(flat), flat.shape[1]) if store.lengths is None else store.lengths
        inside = (np.arange(flat.shape[1]) < ends[:, None]) & observed[:, None]
        store.values = np.concatenate([store.values, flat[..., None]], axis=2)
    known = flat[inside]
    if not np.isfinite(known).all():
        raise DataError(f"times[{name!r}] has NaN or infinite times in present rows", expected="a number for each step")
    if not len(known) or known.min() == known.max():
        raise DataError(f"times[{name!r}] are all the same", expected="a clock that runs", got=known[:1].tolist())
    return float(known.min()), float(known.max())


def split_times(cut: Cut) -> Cut:
    """Values and times of a cut whose last column is its times.

    A step whose time is NaN is beyond the end of its row: where the store knows no lengths, they are counted from that.
    """
    times = cut.values[..., -1]
    lengths = cut.lengths
    if lengths is None and np.isnan(times).any():
        lengths = (~np.isnan(times)).sum(1)
    measured = None if cut.measured is None else np.ascontiguousarray(cut.measured[..., :-1])
    return Cut(np.ascontiguousarray(cut.values[..., :-1]), measured, lengths, np.ascontiguousarray(times))
