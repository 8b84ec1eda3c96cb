"""Cost of a training epoch at rates of absence 0, 0.25, 0.5, 0.75, as a ratio to that with nothing absent.

Command:  python benchmarks/absence_cost.py

Encoders run on present rows only, so that the cost must fall with what is absent. Four series of 48 steps, encoded by
LSTMs; steps of the objective and its gradient, processor time, the best of three rounds.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from amodal.data.cohort import Cohort
from amodal.encoders import build_encoders
from amodal.methods import METHODS
from amodal.missingness import MCAR
from amodal.presence import draw_presence
from amodal.schema import Task

N, BATCH, RATES = 1024, 128, (0.0, 0.25, 0.5, 0.75)


def main() -> None:
    rng = np.random.default_rng(0)
    values = {f"series{m}": rng.normal(size=(N, 48, 8)).astype(np.float32) for m in range(4)}
    cohort = Cohort.from_arrays(values, task=Task("binary", classes=(0, 1)), target=rng.integers(0, 2, N))
    torch.manual_seed(0)
    choices = dict.fromkeys(values, "plain_lstm")
    method = METHODS["fusion"](cohort.schema, build_encoders(cohort.schema, choices=choices))  # type: ignore[call-arg]
    base = None
    print(f"{'rate':>5} {'realised':>9} {'seconds an epoch':>17} {'ratio':>6}")
    for rate in RATES:
        presence = draw_presence(MCAR(rate), cohort, 0)
        rows = cohort.with_observed(presence.observed)
        batches = [rows.batch(np.arange(i, i + BATCH)) for i in range(0, N, BATCH)]
        seconds = []
        for _ in range(3):
            started = time.process_time()
            for batch in batches:
                method.zero_grad()
                method.objective(batch, torch.Generator()).total.backward()
            seconds.append(time.process_time() - started)
        best = min(seconds)
        base = base or best
        realised = np.mean(list(presence.rates.values()))
        print(f"{rate:5.2f} {realised:9.3f} {best:17.3f} {best / base:6.2f}")


if __name__ == "__main__":
    main()
