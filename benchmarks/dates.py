"""Dates of a column, parsed a column at a time, and how that compares with one call of datetime for each cell.

Command:  python benchmarks/dates.py [--rows 200000]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import numpy as np

from amodal.data.table.times import moments


def seconds(function: Callable[[], object]) -> float:
    """The least of three measurements, of this process's own time."""
    times = []
    for _ in range(3):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def one_by_one(words: np.ndarray, form: str) -> np.ndarray:
    """One call of `datetime.strptime` for each cell."""
    return np.array([datetime.strptime(word, form).replace(tzinfo=UTC).timestamp() for word in words])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    rng = np.random.default_rng(0)
    when = np.datetime64("2000-01-01T00:00") + rng.integers(0, 20 * 365 * 24 * 60, rows).astype("m8[m]")
    for form in ("%Y-%m-%d %H:%M", "%d.%m.%Y %H:%M"):
        words = np.array([moment.item().strftime(form) for moment in when], dtype=object)
        assert np.array_equal(moments(words, (form,)).seconds, one_by_one(words, form))
        ours, theirs = seconds(partial(moments, words, (form,))), seconds(partial(one_by_one, words, form))
        each = f"{ours / rows * 1e6:.2f} µs a cell, one call each {theirs / rows * 1e6:.2f}"
        print(f"{form}: {each}, {theirs / ours:.1f} times as long")


if __name__ == "__main__":
    main()
