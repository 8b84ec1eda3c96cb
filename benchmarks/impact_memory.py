"""Memory of many draws for many cases: V of 10,000 cases by 2,000 draws each, from a PRIMO that is not trained.

Command:  python benchmarks/impact_memory.py [--cases 10000] [--draws 2000] [--classes 10]
Measures: the process's largest resident memory and the seconds for `amodal.impact` on all cases (V and its error), and
          for the draws alone, which are kept whole: 4 bytes for each case, draw and class.
Limit:    2 GB in all, with 10,000 cases, 2,000 draws and 10 classes.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import pandas as pd
import torch

import amodal
from amodal.data.scale import Scaling
from amodal.method import inference
from amodal.methods.primo import PRIMO


def largest() -> float:
    """Largest resident memory so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=10)
    given = parser.parse_args()
    draw = np.random.default_rng(0)
    values = {name: draw.normal(size=(given.cases, 5)).astype(np.float32) for name in ("a", "b")}
    observed = np.tile([True, False], (given.cases, 1))
    task = amodal.Task("multiclass", classes=tuple(range(given.classes)))
    cohort = amodal.Cohort.from_arrays(values, task=task, observed=observed)
    scaling = Scaling({name: torch.zeros(5) for name in values}, {name: torch.ones(5) for name in values})
    method = PRIMO(cohort.schema, always_observed=["a"]).eval()
    prior = np.full(given.classes, 1 / given.classes)
    model = amodal.TrainedModel(method, cohort.schema, scaling, prior, {}, pd.DataFrame())
    print(f"{given.cases:,} cases, {given.draws:,} draws, {given.classes} classes; before: {largest():.2f} GB")
    started = time.perf_counter()
    result = amodal.impact(model, cohort, draws=given.draws, completions="own", plausible=False, vary=[])
    took = time.perf_counter() - started
    print(f"amodal.predictive_impact   {largest():.2f} GB  {took:6.1f} s  mean V {result.variability.mean():.4f}")
    started = time.perf_counter()
    with inference(method):
        batch = next(model.batches(cohort, given.cases))
        outputs = method.draw_outputs(batch, given.draws, torch.Generator().manual_seed(0))
    size = outputs.numel() * outputs.element_size() / 1e9
    print(
        f"draws kept      {largest():.2f} GB  {time.perf_counter() - started:6.1f} s  of which the draws {size:.2f} GB"
    )


if __name__ == "__main__":
    main()
