"""Growth of time and memory with rows, modalities and classes: one table, as ratios to the smallest case of each.

Command:  OMP_NUM_THREADS=1 python benchmarks/scale.py [--full] [--cases 100] [--only rows modalities classes]

Each case is a process of its own: a made cohort on disk (tables of 8 columns and one of 24 hours × 4, a third absent),
one epoch of `fusion` (width 16, batches of 1,024), predictions of all rows into a Parquet file, an evaluation of a
tenth of the rows with 100 resamples, every pattern imposed on 200 complete rows (up to 8 modalities),
and impact and advice for `--cases` cases with all training rows as donors. Processor seconds of each, and the largest
memory of the process less that of a process that has only imported the library. `--full`, with a million rows, 32
modalities and 5,000 classes, takes some 15 minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL = {"rows": (3_000, 10_000, 30_000), "modalities": (2, 4, 8), "classes": (2, 100, 1_000)}
FULL = {"rows": (10_000, 100_000, 1_000_000), "modalities": (2, 8, 32), "classes": (2, 100, 1_000, 5_000)}


def made(rows: int, modalities: int, classes: int, absent: float = 1 / 3):  # type: ignore[no-untyped-def]
    import numpy as np

    import amodal
    from amodal.schema import Task

    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, rows)
    values = {
        f"table{m}": rng.normal(size=(rows, 8)).astype("float32") + (y % (m + 2))[:, None]
        for m in range(modalities - 1)
    }
    values["series"] = rng.normal(size=(rows, 24, 4)).astype("float32") + (y % 2)[:, None, None]
    observed = {name: rng.random(rows) >= absent for name in values}
    observed["series"] |= ~np.any(list(observed.values()), axis=0)
    names = tuple(f"class{c:04d}" for c in range(classes))
    task = Task("binary" if classes == 2 else "multiclass", classes=names)
    splits = np.array(["train", "valid", "test"])[np.arange(rows) % 10 // 8 + (np.arange(rows) % 10 == 9)]
    y[np.arange(min(classes, rows)) * (rows // max(classes, 1) or 1) % rows] = np.arange(min(classes, rows))
    return amodal.Cohort.from_arrays(values, task=task, target=y, observed=observed, splits=splits)


def case(rows: int, modalities: int, classes: int, cases: int, folder: Path) -> dict[str, float]:
    """Seconds of each part and the largest memory, in a process of its own."""
    import numpy as np

    import amodal
    from amodal.evaluation import evaluate_patterns
    from amodal.prediction_files import predict_to_file

    result: dict[str, float] = {}
    if not (folder / "cohort").exists():
        made(rows, modalities, classes).save(folder / "cohort")
        return {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cohort = amodal.load_cohort(str(folder / "cohort"))

    def timed(name: str, work):  # type: ignore[no-untyped-def]
        started = time.process_time()
        value = work()
        result[name] = time.process_time() - started
        return value

    fit = {"epochs": 1, "width": 16, "batch_size": 1024, "missingness": None, "device": "cpu", "patience": None}
    model = timed("fit", lambda: amodal.fit("fusion", cohort.split("train"), cohort.split("valid"), **fit))
    timed("predict", lambda: predict_to_file(model, cohort, folder / "p.parquet"))
    test = cohort.split("test")
    timed("evaluate", lambda: amodal.evaluate(model, test, resamples=100))
    if modalities <= 8:
        complete = made(max(200, classes), modalities, classes, absent=0.0)
        timed("patterns", lambda: evaluate_patterns(model, complete.take(np.arange(200)), resamples=100))
    some = test.take(np.arange(min(cases, len(test))))
    timed("impact", lambda: amodal.impact(model, some))
    timed("advice", lambda: model.advise(some))
    result["memory, MB"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="up to a million rows, 32 modalities and 5,000 classes")
    parser.add_argument("--cases", type=int, default=100, help="cases whose impact is computed")
    parser.add_argument("--only", nargs="+", choices=("rows", "modalities", "classes"), default=None)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(case(**{**json.loads(given.case), "folder": Path(json.loads(given.case)["folder"])})))
        return
    sizes = FULL if given.full else SMALL
    grids = {
        "rows": [(n, 3, 2) for n in sizes["rows"]],
        "modalities": [(4_000, m, 2) for m in sizes["modalities"]],
        "classes": [(10_000, 3, c) for c in sizes["classes"]],
    }
    for name in given.only or grids:
        print(f"\n{'rows':>9} {'M':>3} {'classes':>7}   processor seconds (ratio to the first line)")
        first: dict[str, float] = {}
        for rows, modalities, classes in grids[name]:
            with tempfile.TemporaryDirectory() as folder:
                sizes_of = {"rows": rows, "modalities": modalities, "classes": classes, "cases": given.cases}
                text = json.dumps({**sizes_of, "folder": folder})
                for _ in range(2):  # makes the cohort, then measures
                    done = subprocess.run(
                        [sys.executable, __file__, "--case", text], stdout=subprocess.PIPE, check=True
                    )
            found = json.loads(done.stdout.decode().splitlines()[-1])
            first = first or found
            cells = "  ".join(
                f"{key} {value:.2f} ({value / max(first[key], 1e-9):.1f})" for key, value in found.items()
            )
            print(f"{rows:>9} {modalities:>3} {classes:>7}   {cells}", flush=True)


if __name__ == "__main__":
    main()
