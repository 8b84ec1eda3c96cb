"""Preparing a table: rows a second, memory, and how it compares with pandas merely reading the same CSV.

Command:  python benchmarks/prepare_table.py [--rows 1000000]
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from amodal.data.table import prepare

SCHEMA = {
    "id": "id",
    "group": "patient",
    "task": {"kind": "binary", "column": "y", "classes": [0, 1]},
    "modalities": {
        "clinical": {
            "kind": "tabular", "columns": {"age": {"min": 0, "max": 120}, "sex": {"type": "category"}, "k": {}},
        },
        "note": {"kind": "text", "column": "note"},
        "vitals": {
            "kind": "events", "file": "events.csv", "id": "id", "time": "hour", "variable": "name", "value": "value",
            "stop": 24, "step": 1,
        },
    },
}  # fmt: skip


def write_tables(folder: Path, rows: int) -> None:
    """A manifest of so many rows, and three events for seven tenths of them, in random order."""
    rng = np.random.default_rng(0)
    ids = np.char.add("c", np.arange(rows).astype(str))
    note = np.where(np.arange(rows) % 3, "a note of some words " * 5, "")
    pd.DataFrame({
        "id": ids, "patient": np.arange(rows) // 3, "y": np.arange(rows) % 2, "age": rng.integers(20, 90, rows),
        "sex": rng.choice(["F", "M"], rows), "k": rng.normal(4, 1, rows).round(2), "note": note,
    }).to_csv(folder / "cohort.csv", index=False)  # fmt: skip
    some = np.repeat(rng.permutation(rows)[: int(0.7 * rows)], 3)
    pd.DataFrame({
        "id": ids[some], "hour": np.tile([0, 7, 14], len(some) // 3), "name": "HR",
        "value": rng.normal(80, 10, len(some)).round(1),
    }).to_csv(folder / "events.csv", index=False)  # fmt: skip


def own_megabytes() -> float:
    """Memory of this process that is not a mapped file; NaN where the system does not say."""
    status = Path("/proc/self/status")
    found = re.search(r"RssAnon:\s+(\d+)", status.read_text()) if status.is_file() else None
    return int(found[1]) / 1e3 if found else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tables(folder, rows)
        start = time.perf_counter()
        frames = [pd.read_csv(folder / "cohort.csv"), pd.read_csv(folder / "events.csv")]
        reading = time.perf_counter() - start
        n_events = len(frames[1])
        del frames
        most = before = own_megabytes()

        def watch(done: int, total: int) -> None:
            nonlocal most
            most = max(most, own_megabytes())

        start = time.perf_counter()
        prepare(folder / "cohort.csv", SCHEMA, folder / "out", progress=watch)
        seconds = time.perf_counter() - start
        size = sum(file.stat().st_size for file in (folder / "out").rglob("*") if file.is_file()) / 1e6
    print(f"{rows:,} rows and {n_events:,} events: {seconds:.0f} s, {rows / seconds:,.0f} rows a second")
    print(f"{seconds / reading:.1f} times as long as pandas.read_csv takes for the two files")
    print(f"memory rose by {most - before:.0f} MB on the way to {size:.0f} MB on disk")


if __name__ == "__main__":
    main()
