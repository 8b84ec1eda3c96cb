"""Values of stays' events as series: bins of the benchmark's 76 columns, or rows at the times of the events."""

from __future__ import annotations

import numpy as np

from amodal.data.sources.mimic.computed import ComputedArrays, ComputedRagged
from amodal.data.sources.mimic.events import EDGE, Bins
from amodal.data.sources.mimic.variables import COLUMNS, VARIABLES, encode_bins, ordinal_codes

__all__ = ["RAW_COLUMNS", "RAW_UNITS", "UNITS", "binned_series", "raw_series", "steps_of"]

_UNIT_OF = {v.name: v.units for v in VARIABLES}
UNITS = tuple(_UNIT_OF.get(column, "") for column in COLUMNS)
"""Units of the 76 columns."""

RAW_COLUMNS = ("Hours", *(v.name for v in VARIABLES))
"""Columns of a series of raw events: hours from the start of the stay, and the variables; categories as their codes."""

RAW_UNITS = ("h", *(v.units for v in VARIABLES))
"""Their units."""


def steps_of(end: np.ndarray, bin_hours: int) -> np.ndarray:
    """Number of bins of a window from 0 to some hours, as the benchmark counts them.

    Example:
        >>> steps_of(np.array([48.0, 48.5, 0.5]), 2).tolist()
        [24, 25, 1]
    """
    return np.maximum(1, np.floor(end / bin_hours + 1 - EDGE)).astype(np.int64)


def binned_series(
    bins: Bins, row: np.ndarray, end: np.ndarray, *, steps: int | None, bin_hours: int
) -> ComputedArrays | ComputedRagged:
    """The series of samples that end at some hour of their stay.

    Args:
        bins: The last value of each stay, bin and variable.
        row: Position of each sample's stay, integers (N,).
        end: Hour at which each sample ends, (N,).
        steps: Bins that are kept, the last ones of each sample; None: all, from the start of the stay.
        bin_hours: Length of a bin.

    Returns:
        Rows (steps, 76), which may be shorter, or rows (T_i, 76).
    """
    stops = steps_of(end, bin_hours)
    if steps is None:

        def whole(rows: np.ndarray) -> np.ndarray:
            lengths = stops[rows]
            grid = _encode(bins, row[rows], np.zeros(len(rows), np.int64), stops[rows], int(lengths.max()))
            return grid[np.arange(grid.shape[1]) < lengths[:, None]]

        return ComputedRagged(whole, stops, len(COLUMNS))
    lengths = np.minimum(stops, steps)
    starts = stops - lengths

    def window(rows: np.ndarray) -> np.ndarray:
        grid = _encode(bins, row[rows], starts[rows], stops[rows], steps)
        grid[np.arange(steps) >= lengths[rows, None]] = 0
        return grid

    full = bool((lengths == steps).all())
    return ComputedArrays(window, (len(row), steps, len(COLUMNS)), lengths=None if full else lengths)


def _encode(bins: Bins, row: np.ndarray, start: np.ndarray, stop: np.ndarray, steps: int) -> np.ndarray:
    """Bins `start` to `stop` of stays, float32 (n, steps, 76); the last values before them are carried into them."""
    sample, place = _of_stays(bins, row)
    inside = bins.time[place] < stop[sample]
    sample, place = sample[inside], place[inside]
    time = np.maximum(bins.time[place] - start[sample] + 1, 0)  # bin 0 holds what was before, the last of it
    shape = (len(row), steps + 1)
    return encode_bins(sample, time, bins.variable[place].astype(np.int64), bins.value[place], shape)[:, 1:]


def _of_stays(bins: Bins, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in `bins` of the values of some stays, one stay after the other, and whose they are."""
    starts, ends = (np.searchsorted(bins.row, row, side=side) for side in ("left", "right"))
    counts = ends - starts
    sample = np.repeat(np.arange(len(row)), counts)
    return sample, np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts) + np.repeat(starts, counts)


def raw_series(bins: Bins, row: np.ndarray, end: np.ndarray, *, hours: int | None) -> ComputedRagged:
    """The events of samples that end at some hour of their stay, one row a time, in the columns `RAW_COLUMNS`.

    Args:
        bins: The value of each stay, hour and variable.
        row: Position of each sample's stay, integers (N,).
        end: Hour at which each sample ends, (N,).
        hours: Only the last hours of each sample; None: all.

    Returns:
        Rows (T_i, 18); NaN where a variable was not measured.
    """
    # Times of a stay have a running number over all stays, so that rows of a sample are a range of numbers.
    is_new = np.ones(len(bins.row), bool)
    is_new[1:] = (bins.row[1:] != bins.row[:-1]) | (bins.time[1:] != bins.time[:-1])
    number = np.cumsum(is_new) - 1
    hour, stay = bins.time[is_new], bins.row[is_new]
    low = np.full(len(end), -np.inf) if hours is None else end - hours
    keys = _keys(stay, hour)
    first = np.searchsorted(keys, _keys(row, low), side="right" if hours is not None else "left")
    last = np.maximum(first, np.searchsorted(keys, _keys(row, end + EDGE), side="right"))
    codes = ordinal_codes()

    def compute(rows: np.ndarray) -> np.ndarray:
        lengths = last[rows] - first[rows]
        out = np.full((int(lengths.sum()), len(RAW_COLUMNS)), np.nan, np.float32)
        for start, length, begin in zip(np.cumsum(lengths) - lengths, lengths, first[rows]):
            events = slice(*np.searchsorted(number, [begin, begin + length]))
            places = start + number[events] - begin
            out[start : start + length, 0] = hour[begin : begin + length]
            out[places, 1 + bins.variable[events]] = codes(bins.variable[events], bins.value[events])
        return out

    return ComputedRagged(compute, last - first, len(RAW_COLUMNS), gaps=True)


def _keys(stay: np.ndarray, hour: np.ndarray) -> np.ndarray:
    """Stay and hour as one number that orders by both."""
    return stay.astype(np.float64) * 1e5 + np.clip(hour, -1.0, 9e4)
