"""Cost of a whole CM2 training step, forward and backward, as a ratio to plain fusion with the same encoders.

Command:
    OMP_NUM_THREADS=1 python benchmarks/cm2_step.py

Setting: B = 64 rows, three modalities (a series of 48 × 8 by a GRU, tables of 20 and of 10 by MLPs), a third of the
entries absent, latent width 32, K = 3, one thread. The peer is one step of `fusion` (concatenation) on the same batch.
"none" is CM2 without law: projections and removal only. Each figure is the median over rounds of the ratio of two
processor times measured next to each other.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from amodal.batch import Batch
from amodal.methods import METHODS
from amodal.schema import Modality, Schema, Task

SCHEMA = Schema(
    (Modality("vitals", "series", (48, 8)), Modality("labs", "tabular", (20,)), Modality("history", "tabular", (10,))),
    Task("binary", classes=("no", "yes")),
)
VARIANTS: dict[str, dict[str, Any]] = {
    "none": {"completion": "none", "alignment": "none"},
    "default": {},
    "detached": {"sample_gradient": "detached"},
    "marginal": {"completion": "marginal"},
    "alignment alone": {"completion": "none"},
    "four draws": {"training_draws": 4},
    "kendall": {"variant": "kendall"},
    "projection": {"variant": "projection"},
    **{family: {"family": family} for family in ("student_t", "gumbel", "clayton", "frank", "joe")},
}


def make_batch(rows: int, generator: torch.Generator) -> Batch:
    values = {m.name: torch.randn(rows, *m.shape, generator=generator) for m in SCHEMA.modalities}
    observed = {name: torch.rand(rows, generator=generator) < 2 / 3 for name in values}
    return Batch(values, observed, target=torch.randint(0, 2, (rows,), generator=generator))


def seconds(method: torch.nn.Module, batch: Batch, repeats: int) -> float:
    start = time.process_time()
    for step in range(repeats):
        method.zero_grad()
        method.objective(batch, torch.Generator().manual_seed(step)).total.backward()  # type: ignore[operator]
    return (time.process_time() - start) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = make_batch(64, torch.Generator().manual_seed(0))
    peer = METHODS["fusion"](SCHEMA)
    print(f"{'CM2':<16}{'ratio to fusion':>16}")
    for name, options in VARIANTS.items():
        method = METHODS["cm2"](SCHEMA, **options)  # type: ignore[call-arg]
        method.prepare([batch])
        pairs = [
            (seconds(method, batch, given.repeats), seconds(peer, batch, given.repeats))
            for _ in range(given.rounds + 1)
        ][1:]
        print(f"{name:<16}{statistics.median(a / b for a, b in pairs):>16.2f}", flush=True)


if __name__ == "__main__":
    main()
