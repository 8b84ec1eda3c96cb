"""Time and memory of preparing MIMIC-III: made tables of a tenth of its size, or the open demo in a folder MIMIC3_DEMO.

Command:  python benchmarks/prepare_mimic.py --folder /tmp/made        (33 million charted rows, 300 MB on disk)
          python benchmarks/prepare_mimic.py --source MIMIC3_DEMO
Prints a row a task: seconds of the clock and of the processors, largest memory of the process, charted rows a second of
the processors, and what 330 million rows would take at that rate.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = 330_000_000


def count_rows(source: Path) -> int:
    from amodal.data.sources.mimic.query import open_tables

    with open_tables(source, {"CHARTED": "CHARTEVENTS"}, database="MIMIC-III") as connection:
        return connection.execute("SELECT COUNT(*) FROM CHARTED").fetchall()[0][0]


def prepare_one(source: Path, task: str) -> None:
    """Prepares one cohort in this process and prints its cost."""
    from amodal.data.sources.mimic.cohort import prepare_mimic

    with tempfile.TemporaryDirectory() as out:
        clock, used = time.perf_counter(), time.process_time()
        cohort = prepare_mimic("mimic3", source, Path(out) / "cohort", task=task)
        clock, used = time.perf_counter() - clock, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"{task}: {len(cohort):,} samples, {clock:.1f} s, {used:.1f} processor-s, {peak:,.0f} MB", end="")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, help="tables of MIMIC-III")
    parser.add_argument("--folder", type=Path, help="where made tables are, or are written; a temporary one without")
    parser.add_argument("--patients", type=int, help="5,400 in --folder, 40 without")
    parser.add_argument("--other-rows", type=int, default=60, help="charted rows an hour beside the 17 variables")
    parser.add_argument("--tasks", nargs="+", default=["mortality", "phenotyping"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.one:
        prepare_one(given.source, given.one)
        return
    with tempfile.TemporaryDirectory() as temporary:
        prepare_all(given, given.source or given.folder or Path(temporary) / "made")


def prepare_all(given: argparse.Namespace, source: Path) -> None:
    """Makes the tables, unless they are there, and prepares the tasks."""
    if given.source is None:
        from amodal.data.sources.mimic.made.tables import make

        if not source.exists():
            used = time.process_time()
            patients = given.patients or (5400 if given.folder else 40)
            make("mimic3", source, patients=patients, other_rows=given.other_rows)
            print(f"made in {time.process_time() - used:.1f} processor-s", flush=True)
    rows = count_rows(source)
    print(f"{rows:,} charted rows in {source}", flush=True)
    for task in given.tasks:
        one = [sys.executable, __file__, "--source", str(source), "--one", task]
        line = subprocess.run(one, check=True, capture_output=True, text=True).stdout
        used = float(line.split(" processor-s")[0].split()[-1])
        print(f"{line}, {rows / used / 1e6:.2f} million rows a processor-s, "
              f"so {ROWS / rows * used / 60:.1f} processor-min for 330 million", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
