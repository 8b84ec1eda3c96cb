"""In-hospital death on PhysioNet 2012 (set a), natural absence, five folds by stay: networks against boosted trees.

Command:  python recipes/cinc2012.py --source DIR_WITH_SET_A --out runs/cinc2012
Time:     see the last column of the table it prints (two cores)
Expected: see docs/log.md, 2026-11-21

Every method gets the same folds, and the same tenth of each fold's training stays for early stopping. Nothing is chosen
on the test folds. Results are written as they come; run the command again to go on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import amodal
from amodal.data.cohort import Cohort
from amodal.data.sources.cinc2012.cohort import prepare
from amodal.data.split import folds, split_groups
from amodal.files import replace_file
from amodal.metrics import METRICS, paired_difference, resample_counts

SERIES = ("vitals", "blood_gas", "chemistry", "haematology", "liver", "cardiac", "urine")
SUMMARY = {
    "encoders": {name: {"name": "summary", "dropout": 0.3} for name in SERIES}
    | {"descriptors": {"name": "mlp", "dropout": 0.3}},
    "options": {"dropout": 0.3},
    "learning_rate": 1e-3,
    "epochs": 30,
}
METHODS: dict[str, dict[str, Any]] = {
    "boosting": {"method": "boosting"},
    "fusion": {"method": "fusion"},
    "fusion_summary": {"method": "fusion", **SUMMARY},
    "modality_dropout_summary": {"method": "modality_dropout", **SUMMARY},
}


def run(cohort: Cohort, out: Path, names: list[str], n_folds: int, seed: int, **settings: Any) -> pd.DataFrame:
    """Predicts every stay once with each method, by the model of the folds that do not hold it.

    Args:
        cohort: The stays.
        out: Folder of the results.
        names: Keys of `METHODS`.
        n_folds: Number of folds.
        seed: Seed of folds, validation rows and training.
        **settings: Further arguments of `amodal.fit`.

    Returns:
        One row a stay and method: fold, seed, method, id, group, target, probability, seconds.
    """
    fold_of = folds(cohort.groups, cohort.target, n_folds, seed=seed)
    for name in names:
        for fold in range(n_folds):
            file = out / f"{name}-seed{seed}-fold{fold}of{n_folds}.parquet"
            if file.is_file():
                continue
            rest = cohort.take(np.flatnonzero(fold_of != fold))
            parts = split_groups(rest.groups, rest.target, {"train": 0.9, "valid": 0.1}, seed=seed)
            test = cohort.take(np.flatnonzero(fold_of == fold))
            started = time.time()
            model = amodal.fit(
                train=rest.take(np.flatnonzero(parts == "train")),
                valid=rest.take(np.flatnonzero(parts == "valid")),
                missingness=None,
                seed=seed,
                **METHODS[name],
                **settings,
            )
            frame = pd.DataFrame(
                {
                    "method": name,
                    "seed": seed,
                    "fold": fold,
                    "id": test.ids,
                    "group": test.groups,
                    "target": test.target,
                    "probability": model.predict(test)[:, 1],
                    "seconds": time.time() - started,
                }
            )
            replace_file(file, lambda path, frame=frame: frame.to_parquet(path, index=False))
            auroc = METRICS["auroc"](frame["probability"].to_numpy(), frame["target"].to_numpy())
            print(f"{name} seed {seed} fold {fold}: AUROC {auroc:.4f} in {frame['seconds'][0]:.0f} s", flush=True)
    return pd.concat([pd.read_parquet(file) for file in sorted(out.glob("*.parquet"))], ignore_index=True)


def summarise(frame: pd.DataFrame, reference: str = "boosting", resamples: int = 1000) -> pd.DataFrame:
    """Mean over folds and seeds of AUROC and AUPRC, and the paired difference of pooled AUROC to the reference.

    Args:
        frame: Made by `run`.
        reference: The method to compare with.
        resamples: Number of bootstrap resamples (whole stays).

    Returns:
        One row a method.
    """
    wide = frame.groupby(["method", "id"], sort=True).agg(
        {"probability": "mean", "target": "first", "group": "first"}
    )  # over seeds
    rows = []
    for name in dict.fromkeys(frame["method"]):
        mine = frame[frame["method"] == name]
        cells = [
            [METRICS[m](part["probability"].to_numpy(), part["target"].to_numpy()) for m in ("auroc", "auprc")]
            for _, part in mine.groupby(["seed", "fold"])
        ]
        auroc, auprc = np.mean(cells, axis=0)
        row = {
            "method": name,
            "cells": len(cells),
            "auroc": auroc,
            "auprc": auprc,
            "auroc_sd": np.std(cells, axis=0)[0],
        }
        if name != reference and reference in wide.index:
            mine, theirs = wide.loc[name], wide.loc[reference].reindex(wide.loc[name].index)
            counts = resample_counts(mine["group"].to_numpy(str), resamples, np.random.default_rng(0))
            found = paired_difference(
                METRICS["auroc"],
                mine["probability"].to_numpy(),
                theirs["probability"].to_numpy(),
                mine["target"].to_numpy(),
                counts=counts,
            )
            row |= {"pooled_difference": found.estimate, "low": found.low, "high": found.high}
        row["seconds_a_fold"] = frame.loc[frame["method"] == name, "seconds"].mean()
        rows.append(row)
    return pd.DataFrame(rows)


def main(words: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="folder or archive with PhysioNet's own files")
    parser.add_argument("--out", type=Path, default=Path("runs/cinc2012"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--settings", type=json.loads, default={}, help="further arguments of amodal.fit, as JSON")
    given = parser.parse_args(words)
    given.out.mkdir(parents=True, exist_ok=True)
    folder = given.out / "cohort"
    cohort = Cohort.open(folder) if folder.is_dir() else prepare(given.source, folder)
    for seed in given.seeds:
        frame = run(cohort, given.out, given.methods, given.folds, seed, **given.settings)
    table = summarise(frame)
    replace_file(given.out / "results.csv", lambda path: table.to_csv(path, index=False))
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    print(f"The results are in {given.out / 'results.csv'}")
    return table


if __name__ == "__main__":
    main()
