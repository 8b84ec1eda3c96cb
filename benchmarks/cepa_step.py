"""A training step of CEPA as a ratio to a step of plain fusion, and where its time goes.

Command:  python benchmarks/cepa_step.py
Limit:    about 3, which counts encoder passes (clean and two masked ones, forward and backward) where encoders are
          most of a step. With small encoders the predictor, a transformer over all tokens, is what a step costs.
Reached:  with one pattern a step 1.1 with large images, 1.8 with small ones, 4 with tables and series (one core of an
          EPYC, torch 2.13, other work beside). The paper's preset: 1.1, 2.9, 7. Images gain because the first stage of
          an encoder is shared by the passes; with tables a step of fusion is 5 ms, less than a transformer of two
          passes takes. Predictions are computed where a loss or the fusion reads them, and the alignment takes all
          modalities at once: before, it was 1.2, 2.0, 5.4 (tables) and 5.9 (series).

"tables", "images", "series" and "text" have three modalities of their kind with the default encoders, width 64; the
last row has images of 64 pixels under a wide convolutional network, as a stand-in for encoders that are most of a step.
Times are the least of several, in processor time.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from amodal.batch import Batch
from amodal.encoders import build_encoders
from amodal.method import Method
from amodal.methods import METHODS, method_options
from amodal.schema import Modality, Schema, Task

TASK = Task("multiclass", classes=("a", "b", "c"))
CASES: dict[str, tuple[tuple[Modality, ...], int, dict[str, Any]]] = {
    "tables": (tuple(Modality(n, "tabular", (20,)) for n in "abc"), 64, {}),
    "images": (tuple(Modality(n, "image", (1, 28, 28)) for n in "abc"), 64, {}),
    "series": (tuple(Modality(n, "series", (48, 8)) for n in "abc"), 64, {}),
    "large images": (
        tuple(Modality(n, "image", (3, 96, 96)) for n in "abc"),
        64,
        {n: {"name": "convnet", "channels": 64} for n in "abc"},
    ),
}
ONE = {"preset": "one_pattern"}
METHODS_OF: dict[str, tuple[str, dict[str, Any]]] = {
    "fusion": ("fusion", {}),
    "one pattern, task only": ("cepa", {**ONE, "observed_weight": 0.0, "cross_weight": 0.0, "cf_weight": 0.0}),
    "one pattern, without alignment": ("cepa", {**ONE, "cf_weight": 0.0}),
    "one pattern, random masks": ("cepa", {**ONE, "masking": "random"}),
    "cepa, one pattern": ("cepa", ONE),
    "cepa": ("cepa", {}),
    "cepa, paper": ("cepa", {"preset": "paper"}),
}


def make_batch(schema: Schema, rows: int) -> Batch:
    """Random values, every modality absent from a third of the rows, and no row empty."""
    draw = torch.Generator().manual_seed(0)
    values = {m.name: torch.randn(rows, *m.shape, generator=draw) for m in schema.modalities}
    absent = torch.randint(0, 3, (rows,), generator=draw)
    observed = {name: absent != m for m, name in enumerate(schema.names)}
    return Batch(values, observed, target=torch.randint(0, 3, (rows,), generator=draw))


def step(method: Method, optimiser: torch.optim.Optimizer, batch: Batch) -> None:
    """One step as `amodal.fit` takes it."""
    terms = method.objective(batch, torch.Generator().manual_seed(0))
    optimiser.zero_grad()
    terms.total.backward()
    torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)
    optimiser.step()
    method.after_step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'modalities':<14}{'method':<32}{'ms a step':>10}{'/ fusion':>10}")
    for case, (modalities, width, encoders) in CASES.items():
        schema = Schema(modalities, TASK)
        batch, made = make_batch(schema, options.rows), {}
        for name, (method, given) in METHODS_OF.items():
            torch.manual_seed(0)
            built = build_encoders(schema, width=width, choices=encoders)
            made[name] = METHODS[method](schema, built, **method_options(method, given)).train()
        optimisers = {n: torch.optim.AdamW(list(m.parameters_of("main")), lr=1e-3) for n, m in made.items()}
        best = dict.fromkeys(made, float("inf"))
        for _ in range(options.repeats):  # in turns, so that a busy machine is busy for all of them
            for name in made:
                start = time.process_time()
                step(made[name], optimisers[name], batch)
                best[name] = min(best[name], 1e3 * (time.process_time() - start))
        for name, ms in best.items():
            print(f"{case:<14}{name:<32}{ms:>10.1f}{ms / best['fusion']:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
