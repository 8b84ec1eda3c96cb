"""Every benchmark once, in small, and one table of their ratios beside those of the last release.

Command:  python benchmarks/run_all.py [NAME …] [--save]        (`make bench`; about five minutes of one core)
Measures: each script runs in a process of its own, with the small settings below, on one thread. What it prints is in
          runs/bench/NAME.txt; one figure of it, a ratio wherever there is one, goes into the table. Ratios of processor
          times differ from run to run by a tenth, on a busy machine by more. `--save` makes the table of this run the
          one to compare with: benchmarks/last_release.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import amodal

FOLDER = Path(__file__).resolve().parent
LAST = FOLDER / "last_release.json"
LIMIT = 180  # seconds of the clock


@dataclass(frozen=True)
class Small:
    """A benchmark in small.

    Args:
        what: What the figure is.
        figure: A pattern with one group, which finds it in what the script prints.
        words: Arguments that make it small.
    """

    what: str
    figure: str
    words: str = ""


BENCHMARKS = {
    "absence_cost": Small("epoch at rate 0.75, to nothing absent", r"^ *0\.75 +\S+ +\S+ +(\S+)"),
    "bootstrap": Small("loop over scikit-learn, to AUROC", r"^auroc +\S+ +\S+ +(\S+)", "--cases 2000 --resamples 200"),
    "cepa_step": Small("step of CEPA on tables, to fusion", r"^tables +(?!fusion).* (\S+)$", "--repeats 2"),
    "cf_loss": Small("loss of 128 rows, to its products", r"128  loss  +\S+ +(\S+)", "--batches 128 --repeats 2"),
    "changes": Small("V to change, worst quarter, two classes", r"^binary +.* (\S+) +\S+$", "binary"),
    "cm2_step": Small("step of CM2, to fusion", r"^default +(\S+)", "--rounds 2"),
    "command_line_help": Small("amodal --help, to its parser's import", r"([\d.]+) times importing"),
    "copula_draws": Small("draws of Frank, M = 3, to the Gaussian", r"^frank +3 +(\S+)", "--rounds 2 --points 1000"),
    "copula_loss": Small("loss by coordinates, Gaussian, M = 2", r"^gaussian +2 +\S+ +(\S+)", "--rounds 2"),
    "dates": Small("datetime a cell, to a column at a time", r"([\d.]+) times as long", "--rows 20000"),
    "distance_to_bayes": Small(
        "nats behind the best there is, 1 of 3 there", r"^fusion +\d+ +(\S+)", "fusion --rows 1000"
    ),
    "drop_out": Small("torch's dropout, to ours", r"^ *65536 +\S+ +\S+ +(\S+)", "--sizes 65536 --rounds 5"),
    "gpu": Small("share of the device's peak", r"(\d+) checks", "--out runs/bench/gpu.json"),
    "hidden_tokens": Small("R² of a hidden token by visible ones", r"^convnet +\d+ +(\S+)"),
    "impact_memory": Small("memory of 500 cases, GB", r"predictive_impact +(\S+) GB", "--cases 500 --draws 200"),
    "known_factors": Small("shared factor in DRIM's unique code, R²", r"^ +0\.8 +\S+ +\S+ +(\S+)", "--epochs 2"),
    "known_looks": Small("accuracy after two looks ahead", r"^ahead .* (\S+)$"),
    "law_of_vectors": Small("law of the vectors, nats", r"^digits +\d+ +(\S+)", "--epochs 2"),
    "lenet": Small("training step, to torch's layers", r"^.*train.* (\S+) +\S+$", "--batch 16 --rounds 2"),
    "loader": Small(
        "memory-mapped, to sample by sample", r"^amodal, memory-mapped +\S+ +(\S+)", "--samples 5000 --seconds 0.5"
    ),
    "method_cost": Small("step of PRIMO, to fusion", r"^primo +(\S+)", "fusion primo"),
    "plausible_labels": Small(
        "scikit-learn, to ours, core for core",
        r"ms +\S+ +(\S+) +\S+%",
        "--cases 100 --draws 200 --oracle 5 --threads 1",
    ),
    "prediction_draws": Small("", r"(?!)", "--epochs 2 --seeds 0"),
    "prepare_cinc2012": Small("cohort folder, to reading the files", r"^cohort folder +\S+ +(\S+)"),
    "prepare_mimic": Small(
        "million charted rows a second", r"([\d.]+) million rows", "--patients 40 --tasks mortality"
    ),
    "prepare_table": Small("to reading the files with pandas", r"([\d.]+) times as long", "--rows 20000"),
    "recalibration": Small("", r"(?!)"),
    "set_pooling": Small("AUROC by attention, 50 bags", r"^ +50 +\d+ +(\S+)", "--bags 50 --seeds 0"),
    "scale": Small("fit with 32 modalities, to 2", r"^ +4000 +32 .*?fit \S+ \((\S+)\)", "--only modalities"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[], help="benchmarks; all of them, if none is named")
    parser.add_argument("--save", action="store_true", help="make this run the one to compare with")
    given = parser.parse_args()
    out = Path("runs/bench")
    out.mkdir(parents=True, exist_ok=True)
    last = json.loads(LAST.read_text(encoding="utf-8")) if LAST.is_file() else {"release": "none", "figures": {}}
    chosen = given.names or sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != Path(__file__).stem)
    figures: dict[str, float] = {}
    lines, failed = [], []
    for name in chosen:
        started = time.perf_counter()
        said, figure = run(name, out)
        took = time.perf_counter() - started
        print(f"{name:<18} {said:<14} {took:5.0f} s", flush=True)
        failed += [name] if said == "failed" else []
        if figure is not None:
            figures[name] = figure
            if given.save:  # at once: a later benchmark may be interrupted
                record = {"release": amodal.__version__, "figures": last["figures"] | figures}
                LAST.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        before = last["figures"].get(name)
        shown = [f"{value:10.2f}" if value is not None else f"{'–':>10}" for value in (figure, before)]
        change = f"{figure / before:9.2f}" if figure and before else f"{'–':>9}"
        lines.append(f"{name:<18} {BENCHMARKS[name].what:<42} {' '.join(shown)} {change}")
    print(f"\n{'benchmark':<18} {'figure':<42} {'now':>10} {last['release'][:10]:>10} {'now/last':>9}")
    print("\n".join(lines))
    if given.save:
        print(f"{LAST} has these figures as those of {amodal.__version__}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; what they printed is in {out}")


def run(name: str, out: Path) -> tuple[str, float | None]:
    """Runs one benchmark: what became of it, and its figure."""
    small = BENCHMARKS[name]
    command = [sys.executable, str(FOLDER / f"{name}.py"), *small.words.split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return "too slow", None
    (out / f"{name}.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        return "failed", None
    if "skipped:" in done.stdout:
        return "skipped", None
    found = re.findall(small.figure, done.stdout, re.MULTILINE)
    return "ran", float(found[0]) if found else None


if __name__ == "__main__":
    main()
