"""Preparing the PhysioNet 2012 ICU data: against the limit (unpacking alone), and against reading file by file.

Command:  python benchmarks/prepare_cinc2012.py --source DIR_OR_ARCHIVE [--repeats 3]   (skipped without)
Measures: seconds (the best of several) to read all files into memory (the limit: nothing can be faster), to read them
          into arrays of 48 hours, and to write the whole cohort; and of the usual loop, pandas' read_csv and a pivot
          for each stay, estimated from 200 stays and without cleaning or writing.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from amodal.data.sources.cinc2012.cohort import HOURS, prepare, read_stays
from amodal.data.sources.cinc2012.records import Sources, find_sources


def best_of(repeats: int, call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def loop(found: Sources, n_stays: int) -> None:
    for record in found.records[:n_stays]:
        frame = pd.read_csv(io.BytesIO(record.content))
        frame["hour"] = frame["Time"].str.slice(0, 2).astype(int).clip(upper=HOURS - 1)
        frame.pivot_table(index="hour", columns="Parameter", values="Value").reindex(range(HOURS)).to_numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="the challenge's files, which have to be downloaded")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.source is None:
        print("skipped: pass --source with the files of PhysioNet 2012, set a")
        return

    found = find_sources(options.source)
    some = min(200, len(found.records))
    with tempfile.TemporaryDirectory() as folder:
        seconds = {
            "files into memory (limit)": best_of(options.repeats, lambda: find_sources(options.source)),
            "arrays of 48 hours": best_of(options.repeats, lambda: read_stays(options.source)),
            "cohort folder": best_of(
                options.repeats, lambda: prepare(options.source, Path(folder) / "cohort", overwrite=True)
            ),
            "loop over files (peer)": best_of(1, lambda: loop(found, some)) * len(found.records) / some,
        }
    limit = seconds["files into memory (limit)"]
    print(f"{len(found.records)} stays\n")
    print(f"{'':<28}{'seconds':>9}{'of limit':>10}")
    for what, duration in seconds.items():
        print(f"{what:<28}{duration:>9.2f}{duration / limit:>10.1f}")


if __name__ == "__main__":
    main()
