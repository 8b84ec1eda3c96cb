"""How many draws does a prediction of PRIMO need? Independent ones against evenly spread ones, on digits.

Command:  python benchmarks/prediction_draws.py [--epochs 30] [--seeds 0 1] [--run RUN --data DATA --split test]
Measures: for each number of draws, independent (a generator's) and spread (scrambled Sobol points, as `predict` has
          them): the sum of a case's absolute differences in probability to 8,192 spread draws; the share of cases whose
          most probable class differs from theirs; accuracy, negative log likelihood and seconds of processor time. On
          digits under MCAR 0.5, validation rows, mean over seeds; or on the cases given, of a trained PRIMO.
Limit:    8,192 draws.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch

import amodal
from amodal.methods import primo
from amodal.methods.primo import PRIMO
from amodal.missingness import MCAR, realise

DRAWS = (16, 64, 256, 1024)


def predictions(model: amodal.TrainedModel, cases: amodal.Cohort, draws: int, spread: bool) -> np.ndarray:
    """Probabilities (N, C) by so many draws."""
    method = model.method
    assert isinstance(method, PRIMO)
    method.prediction_draws = draws
    if spread:
        return model.predict(cases)
    with mock.patch.object(primo, "spread_uniform", independent):
        return model.predict(cases)


def independent(shape: Sequence[int], generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    """Uniform numbers that are not spread evenly."""
    return torch.rand(shape, generator=generator, dtype=like.dtype).clamp(1e-7, 1 - 1e-7)


def compare(model: amodal.TrainedModel, cases: amodal.Cohort) -> pd.DataFrame:
    assert cases.target is not None
    limit = predictions(model, cases, 8192, True)
    rows = []
    for draws in DRAWS:
        for spread in (False, True):
            started = time.process_time()
            found = predictions(model, cases, draws, spread)
            seconds = time.process_time() - started
            rows.append(
                {
                    "draws": draws,
                    "kind": "spread" if spread else "independent",
                    "difference": np.abs(found - limit).sum(1).mean(),
                    "other class": (found.argmax(1) != limit.argmax(1)).mean(),
                    "accuracy": (found.argmax(1) == cases.target).mean(),
                    "NLL": -np.log(found[np.arange(len(found)), cases.target].clip(1e-12)).mean(),
                    "seconds": seconds,
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--run", type=Path, help="folder of a trained PRIMO")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--split", default="valid")
    parser.add_argument("--absent", nargs="*", default=[], help="modalities withheld from all cases of --data")
    given = parser.parse_args()
    cohort = amodal.load_cohort(given.data)
    cases = cohort.split(given.split)
    if given.run is not None:
        kept = np.tile([name not in given.absent for name in cohort.schema.names], (len(cases), 1))
        tables = [compare(amodal.load(given.run), cases.with_observed(kept))]
    else:
        tables = []
        for seed in given.seeds:
            removed = realise(MCAR(0.5), cases.observed, cases.schema.names, seed=seed).observed
            model = amodal.fit("primo", cohort.split("train"), cases, epochs=given.epochs, seed=seed)
            tables.append(compare(model, cases.with_observed(removed)))
    table = pd.concat(tables).groupby(["draws", "kind"], as_index=False).mean()
    print(table.to_string(index=False, float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
