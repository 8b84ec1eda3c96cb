"""In-hospital death on PhysioNet 2012 (set a), natural absence, five folds by stay: networks against boosted trees.

Command:  python recipes/cinc2012.py --source DIR_WITH_SET_A --out runs/cinc2012
Time:     see the last column of the table it prints (two cores)
Expected: see docs/log.md, 2026-11-21

Every method gets the same folds, and the same tenth of each fold's training stays for early stopping. Nothing is chosen
on the test folds. Results are written as they come; run the command again to go on where it stopped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amodal.benchmark import Experiment, FinishedRun, run_all
from amodal.benchmark.recipe import recipe_parser, tell_run
from amodal.data.cohort import Cohort
from amodal.data.sources.cinc2012.cohort import prepare
from amodal.files import replace_file
from amodal.metrics import METRICS, paired_difference, resample_counts

SERIES = ("vitals", "blood_gas", "chemistry", "haematology", "liver", "cardiac", "urine")
SUMMARY = {
    "encoders": {name: {"name": "summary", "dropout": 0.3} for name in SERIES}
    | {"descriptors": {"name": "mlp", "dropout": 0.3}},
    "options": {"dropout": 0.3},
    "settings": {"learning_rate": 1e-3, "epochs": 30},
}
METHODS: dict[str, dict[str, Any]] = {
    "boosting": {"method": "boosting"},
    "fusion": {"method": "fusion"},
    "fusion_summary": {"method": "fusion", **SUMMARY},
    "modality_dropout_summary": {"method": "modality_dropout", **SUMMARY},
}


def experiments(names: list[str], seeds: list[int], n_folds: int, settings: dict[str, Any]) -> list[Experiment]:
    """One for each method, seed and fold: every stay is predicted by the model of the folds that do not hold it."""
    return [
        Experiment(
            cohort="cinc2012",
            name=name,
            removal=None,
            patterns="met",
            fold=(fold, n_folds),
            seed=seed,
            **{**METHODS[name], "settings": {**METHODS[name].get("settings", {}), **settings}},
        )
        for seed in seeds
        for name in names
        for fold in range(n_folds)
    ]


def predictions(run: FinishedRun) -> pd.DataFrame:
    """One row a stay: fold, seed, method, id, group, target, probability, seconds."""
    columns = {"id": run.ids, "group": run.groups, "target": run.target, "probability": run.test.predictions[:, 1]}
    assert run.experiment.fold is not None
    head = {"method": run.name, "seed": run.seed, "fold": run.experiment.fold[0]}
    return pd.DataFrame(columns).assign(**head, seconds=run.record["result"]["seconds"])


def summarise(frame: pd.DataFrame, reference: str = "boosting", resamples: int = 1000) -> pd.DataFrame:
    """Mean over folds and seeds of AUROC and AUPRC, and the paired difference of pooled AUROC to the reference.

    Args:
        frame: Made by `predictions`, of all runs.
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
    parser = recipe_parser(__doc__, "runs/cinc2012", methods=list(METHODS), seeds=[0])
    parser.add_argument("--source", type=Path, required=True, help="folder or archive with PhysioNet's own files")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--settings", type=json.loads, default={}, help="further arguments of amodal.fit, as JSON")
    given = parser.parse_args(words)
    folder = given.out / "cohort"
    cohort = Cohort.open(folder) if folder.is_dir() else prepare(given.source, folder)
    listed = experiments(given.methods, given.seeds, given.folds, given.settings)
    results = run_all(listed, given.out, cohort=cohort, jobs=given.jobs, tell=tell_run)
    frame = pd.concat([predictions(run) for run in results.runs], ignore_index=True)
    table = summarise(frame)
    replace_file(given.out / "results.csv", lambda path: table.to_csv(path, index=False))
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    print(f"The results are in {given.out / 'results.csv'}")
    return table


if __name__ == "__main__":
    main()
