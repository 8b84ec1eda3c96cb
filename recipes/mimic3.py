"""MIMIC-III: what 24 hours of measurements add to five static features, and for whom, when they are missing.

Command:  amodal data prepare mimic3 --source DIR --task mortality --out data/mimic3-mortality   (icd9_1, icd9_7 alike)
          python recipes/mimic3.py --data data/mimic3-mortality --out runs/mimic3-mortality
Time:     not measured: the data are credentialed. On the open demo (94 admissions), seconds.
Expected: of the paper, accuracy of static alone, PRIMO with the series missing, both, and PRIMO complete, five runs:
          mortality  76.4  76.2  77.9  77.1;   neoplasms  91.4  91.4  91.4  91.4;   respiratory  56.2  55.0  68.2  65.8
          Not run here. Neoplasms are at the majority's rate throughout: read AUROC.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import amodal
from amodal.files import replace_file
from amodal.impact.strata import plausible_labels_by_stratum, variability_by_stratum
from amodal.metrics import auroc
from amodal.missingness import MCAR, Natural
from amodal.removal import draw_presence

NAMES = ("static", "series")
AGES = ((0, "under 45"), (45, "45-64"), (65, "65-79"), (80, "80 and over"))
# method, its options, whether it learns from complete rows only
MODELS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "static": ("unimodal", {"modality": "static", "dropout": 0.0}, False),
    "both": ("fusion", {"dropout": 0.0}, True),
    "modality_dropout": ("modality_dropout", {"dropout": 0.0}, False),
    "primo, paper": ("primo", {"preset": "paper", "always_observed": ["static"]}, False),
    "primo": ("primo", {"always_observed": ["static"]}, False),
}


def half_missing(cohort: amodal.Cohort, seed: int) -> amodal.Cohort:
    """Half of the rows lack the series, once and for all."""
    return cohort.with_observed(draw_presence(MCAR({"static": 0.0, "series": 0.5}), cohort, seed).observed)


def measure(name: str, model: amodal.TrainedModel, test: amodal.Cohort, draws: int) -> dict[str, Any]:
    """Accuracy, AUROC and likelihood with the series withheld and given; V of PRIMO by age."""
    found: dict[str, Any] = {}
    withheld = test.with_observed(np.tile([True, False], (len(test), 1)))
    for state, rows in (("missing", withheld), ("complete", test)):
        if (name, state) in (("static", "complete"), ("both", "missing")):
            continue
        predicted = model.predict(rows)
        found[f"accuracy {state}"] = float((predicted.argmax(1) == test.target).mean())
        found[f"NLL {state}"] = float(-np.log(np.clip(predicted[np.arange(len(test)), test.target], 1e-12, 1)).mean())
        if len(np.unique(test.target)) == predicted.shape[1]:
            found[f"AUROC {state}"] = float(auroc(predicted, test.target))
        if name.startswith("primo") and draws:
            result = amodal.impact(model, rows, draws=draws, vary=[])
            found[f"V {state}"] = float(result.variability.mean())
            by_age = variability_by_stratum(result.variability, ages(test))
            found[f"V by age, {state}"] = by_age.reset_index().to_dict("records")
            labels = plausible_labels_by_stratum(result.plausible_labels, ages(test))
            found[f"plausible by age, {state}"] = labels.reset_index().to_dict("records")
    return found


def ages(cohort: amodal.Cohort) -> np.ndarray:
    """Group of age of each case."""
    years = cohort.batch(np.arange(len(cohort))).values["static"][:, 0].numpy() / 365.242
    place = np.searchsorted([edge for edge, _ in AGES], years, side="right") - 1
    return np.array([label for _, label in AGES])[place]


def run(given: argparse.Namespace) -> pd.DataFrame:
    """Trains every model for every seed; what is there already is kept."""
    cohort = amodal.load_cohort(given.data)
    for seed in given.seeds:
        rows, valid = (half_missing(cohort.split(split), seed) for split in ("train", "valid"))
        for name in given.models:
            file = given.out / f"{name.replace(', ', '-')}-seed{seed}.json"
            if file.is_file():
                continue
            method, options, complete_only = MODELS[name]
            some = [r.take(r.observed.all(axis=1)) if complete_only else r for r in (rows, valid)]
            started = time.time()
            model = amodal.fit(
                method,
                *some,
                missingness="auto" if method == "modality_dropout" else Natural(),
                valid_missingness=Natural(),
                options=options,
                width=64,
                seed=seed,
                epochs=given.epochs,
                batch_size=128,
                learning_rate=5e-4,
                patience=None,
            )
            record = {"model": name, "seed": seed, **measure(name, model, cohort.split("test"), given.draws)}
            record["seconds"] = time.time() - started
            text = json.dumps(record, indent=1, default=str)
            replace_file(file, lambda path, text=text: path.write_text(text, encoding="utf-8"))
            shown = "  ".join(f"{key} {value:.3f}" for key, value in record.items() if isinstance(value, float))
            print(f"{name} seed {seed}: {shown}", flush=True)
    files = sorted(given.out.glob("*-seed*.json"))
    return pd.DataFrame([json.loads(file.read_text(encoding="utf-8")) for file in files])


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds, a row a model."""
    numbers = frame.drop(columns="seed").select_dtypes("number").columns
    grouped = frame.groupby("model")[list(numbers)]
    mean, spread = grouped.mean(), grouped.std()
    result = mean.map("{:.4f}".format) + spread.map(lambda value: "" if np.isnan(value) else f" ± {value:.4f}")
    result = result.where(mean.notna(), "")
    result.insert(0, "seeds", grouped.size())
    return result.reindex([name for name in MODELS if name in result.index])


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of the cohort")
    parser.add_argument("--out", type=Path, default=Path("runs/mimic3"))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--draws", type=int, default=500)
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    found = table(run(given))
    print(found.T.to_string())
    return found


if __name__ == "__main__":
    main()
