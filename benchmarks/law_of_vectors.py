"""CM2's law against the vectors of encoders that learn: negative log likelihood of a coordinate, in nats.

Command:  OMP_NUM_THREADS=1 python benchmarks/law_of_vectors.py [--cohorts digits] [--seeds 0 1] [--epochs 10]

Training and test rows lack half of the modalities (MCAR 0.5). A line a cohort and seed, on the vectors of test rows:
the law as trained, the same law fitted to the frozen vectors of training rows, independent standard normal margins,
and the first and the largest `law_over_normal` of the history (the law less the normal, on validation rows).
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import amodal
from amodal.missingness import MCAR
from amodal.presence import draw_presence

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from recovery.test_law_of_vectors import nats, refitted, vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", nargs="+", default=["digits"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    print(f"{'cohort':<16} {'seed':>4} {'law':>7} {'refitted':>8} {'normal':>7} {'first':>7} {'largest':>7}")
    for name in given.cohorts:
        cohort = amodal.load_cohort(name)
        train, valid, test = (cohort.split(split) for split in ("train", "valid", "test"))
        test = test.with_observed(draw_presence(MCAR(0.5), test, 0).observed)
        for seed in given.seeds:
            model = amodal.fit(
                "cm2", train, valid, missingness=MCAR(0.5), epochs=given.epochs, seed=seed, patience=None
            )
            law, training, cases = model.method.law, vectors(model, train), vectors(model, test)
            own, best = nats(law, *cases), nats(refitted(law, *training), *cases)
            normal, over = 0.5 * math.log(2 * math.pi * math.e), model.history["law_over_normal"]
            numbers = f"{own:7.3f} {best:8.3f} {normal:7.3f} {over.iloc[0]:+7.3f} {over.max():+7.3f}"
            print(f"{name:<16} {seed:>4} {numbers}", flush=True)


if __name__ == "__main__":
    main()
