"""Advice where the truth is known: what a look changes in three worlds, and CUBE-NM, where one step is not enough.

Command:  python benchmarks/known_looks.py
Measures: for `interaction` with only the noise seen, the expected change by a and b if looked at next and last, beside
          the truth; for `context_cube`, accuracy after two looks by advice one and two steps ahead, and how often the
          context came first.
Time:     one minute of one core
"""

from __future__ import annotations

import numpy as np

import amodal
from amodal.predictive_impact import acquisition_curve

SETTINGS = {"width": 32, "seed": 0, "epochs": 30, "batch_size": 64}
TRUTH = {"alone": ((0.5, 0.0), (0.5, 0.0)), "copy": ((0.5, 0.5), (0.0, 0.0)), "xor": ((0.0, 0.0), (0.5, 0.5))}


def interactions() -> None:
    print("rule   V      next a, b (truth)            last a, b (truth)")
    for rule, (first, last) in TRUTH.items():
        cohort = amodal.load_cohort("interaction", rule=rule, n=2500)
        train, valid, test = (cohort.split(name) for name in ("train", "valid", "test"))
        model = amodal.fit("modality_dropout", train, valid, **SETTINGS)
        found = amodal.impact(model, test.with_observed(np.tile([True, False, False], (len(test), 1))))
        numbers = [
            f"{of['a'].mean():.3f}, {of['b'].mean():.3f} ({truth[0]}, {truth[1]})"
            for of, truth in ((found.per_modality, first), (found.if_last, last))
        ]
        print(f"{rule:6} {found.variability.mean():.3f}  {numbers[0]:28} {numbers[1]}", flush=True)


def context_cube(contexts: int = 3, cases: int = 24) -> None:
    cohort = amodal.load_cohort("context_cube", n=2500, contexts=contexts)
    train, test = cohort.split("train"), cohort.split("test").take(np.arange(cases))
    model = amodal.fit("modality_dropout", train, **SETTINGS)
    nothing = np.zeros((cases, contexts + 1), dtype=bool)
    print(f"accuracy with everything {(model.predict(test).argmax(1) == test.target).mean():.3f}")
    for order in ("advised", "ahead"):
        curve = acquisition_curve(model, test, order=order, start=nothing, steps=2, utility="accuracy")
        first = (curve.query("step == 1")["acquired"] == "context").mean()
        right = curve.query("step == 2")["correct"].mean()
        print(f"{order:8} context first {first:.2f}, accuracy after two looks {right:.3f}", flush=True)


if __name__ == "__main__":
    interactions()
    context_cube()
