"""Which settings of CEPA? Folds of the digits' training and validation rows; the test rows are never looked at.

Command:  python recipes/cepa_selection.py --out runs/cepa-selection.jsonl
Time:     15 to 60 s of processor time a fit, 13 settings on three folds
Expected: accuracy and NLL, means over k and three folds: modality_dropout 0.885, 0.338; "one", cepa with one pattern a
          step, 0.884, 0.331; cepa 0.901, 0.286; see docs/log.md, 2026-11-21

Every setting is trained on two of three folds; the third one stops it early and judges it, by the negative log
likelihood and the accuracy given k modalities, means over all choices of k, and by their means over k. "longer" is four
times the epochs, without an early stop, and so as many patterns of each row as the four a step of "cepa". With
`--train-rate` the training rows of a fold lack modalities themselves (MCAR, drawn once). Results are written as they
come, a line a fit; run the command again to go on where it stopped. Other settings: `--also NAME='{"m": METHOD, option:
value, …}'`.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import amodal
from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.data.split import folds
from amodal.missingness import MCAR, realise

ONE = {"m": "cepa", "preset": "one_pattern"}
SETTINGS: dict[str, dict[str, Any]] = {
    "modality_dropout": {"m": "modality_dropout"},
    "modality_dropout, longer": {"m": "modality_dropout", "times": 4},
    "cepa": {"m": "cepa"},
    "cepa, task only": {"m": "cepa", "observed_weight": 0.0, "cross_weight": 0.0, "cf_weight": 0.0},
    "one, tokens as they are": {**ONE, "targets": "detached"},
    "one, tokens as they are, 0.001": {
        **ONE,
        "targets": "detached",
        "observed_weight": 0.001,
        "cross_weight": 0.001,
    },
    "one": ONE,
    "one, 0.001": {**ONE, "observed_weight": 0.001, "cross_weight": 0.001},
    "one, 0.001, random masks": {**ONE, "observed_weight": 0.001, "cross_weight": 0.001, "masking": "random"},
    "one, 0.001, CF 1": {**ONE, "observed_weight": 0.001, "cross_weight": 0.001, "cf_weight": 1.0},
    "one, task only": {**ONE, "observed_weight": 0.0, "cross_weight": 0.0, "cf_weight": 0.0},
    "one, dropout 0.3": {**ONE, "dropout": 0.3},
    "one, task only, dropout 0.3": {
        **ONE,
        "observed_weight": 0.0,
        "cross_weight": 0.0,
        "cf_weight": 0.0,
        "dropout": 0.3,
    },
}


def lacking(cohort: Cohort, rate: float, seed: int) -> Cohort:
    """The cohort without what MCAR removes."""
    return cohort.with_observed(realise(MCAR(rate), cohort.observed, cohort.schema.names, seed=seed).observed)


def judged(model: TrainedModel, rows: Cohort) -> dict[str, float]:
    """Accuracy and negative log likelihood given k modalities: means over rows and all choices of k."""
    scores: dict[str, float] = {}
    m, true = len(rows.schema.names), np.arange(len(rows))
    for k in range(1, m + 1):
        seen = [np.isin(np.arange(m), chosen) for chosen in combinations(range(m), k)]
        every = [model.predict(rows.with_observed(np.tile(kept, (len(rows), 1)))) for kept in seen]
        scores[f"accuracy {k}"] = float(np.mean([(p.argmax(1) == rows.target).mean() for p in every]))
        scores[f"nll {k}"] = float(np.mean([-np.log(p[true, rows.target].clip(1e-12)).mean() for p in every]))
    for what in ("accuracy", "nll"):
        scores[what] = float(np.mean([scores[f"{what} {k}"] for k in range(1, m + 1)]))
    return scores


def run(
    out: Path,
    settings: dict[str, dict[str, Any]],
    n_folds: int,
    epochs: int,
    train_rate: float = 0.0,
    **training: Any,
) -> pd.DataFrame:
    """Trains every setting on every fold that is not in the file yet.

    Args:
        out: File of the results.
        settings: For each name the method ("m"), its options, and how many times the epochs it gets ("times", 1).
        n_folds: Number of folds.
        epochs: Epochs of each fit.
        train_rate: What the training rows lack, MCAR.
        **training: Further arguments of `amodal.fit`.

    Returns:
        One row a fit.
    """
    cohort = amodal.load_cohort("digits")
    cohort = cohort.take(np.flatnonzero(np.isin(cohort.splits, ["train", "valid"])))
    fold_of = folds(cohort.groups, cohort.target, n_folds, seed=0)
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    records = [json.loads(line) for line in lines]
    done = {(record["name"], record["fold"]) for record in records}
    for fold in range(n_folds):
        train, valid = (cohort.take(np.flatnonzero(rows)) for rows in (fold_of != fold, fold_of == fold))
        train = lacking(train, train_rate, 5) if train_rate else train
        for name, setting in settings.items():
            if (name, fold) in done:
                continue
            started, options = time.time(), dict(setting)
            method = options.pop("m", "cepa")
            times = options.pop("times", 1)
            longer = {"patience": None} if times > 1 else {}
            settings_ = {"epochs": times * epochs, **longer, **training}
            model = amodal.fit(method, train, valid, options=options, seed=fold, **settings_)
            record = {
                "name": name,
                "fold": fold,
                "valid_loss": float(model.history["valid_loss"].min()),
                **judged(model, valid),
                "seconds": round(time.time() - started, 1),
            }
            records.append(record)
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print(record, flush=True)
    return pd.DataFrame(records)


def main(words: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/cepa-selection.jsonl"))
    parser.add_argument("--names", nargs="+", default=list(SETTINGS))
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME=JSON", help="further settings")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--train-rate", type=float, default=0.0, help="what training rows lack, MCAR, drawn once")
    parser.add_argument("--epochs", type=int, default=30)
    given = parser.parse_args(words)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    chosen = {name: SETTINGS[name] for name in given.names}
    for name, _, text in (word.partition("=") for word in given.also):
        chosen[name] = json.loads(text)
    frame = run(given.out, chosen, given.folds, given.epochs, given.train_rate)
    means = {column: "mean" for column in frame.columns if column not in ("name", "fold")}
    table = frame.groupby("name").agg({"fold": "count", **means}).sort_values("nll")
    print(table.rename(columns={"fold": "folds"}).to_string(float_format="%.4f"))
    print(f"The results are in {given.out}")
    return table


if __name__ == "__main__":
    main()
