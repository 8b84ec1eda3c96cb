"""Which settings of CEPA? Folds of the digits' training and validation rows; the test rows are never looked at.

Command:  python recipes/cepa_selection.py --out runs/cepa-selection
Time:     15 to 60 s of processor time a fit, 13 settings on three folds
Expected: with --epochs 20, accuracy and NLL, means over k and the first two folds: modality_dropout 0.877, 0.354; cepa
          0.895, 0.301; see docs/log.md, 2026-11-30. With 30 epochs and three folds, before CEPA hid inputs and its
          alignment conditioned: modality_dropout 0.885, 0.338; "one", cepa with one pattern a step, 0.884, 0.331; cepa
          0.901, 0.286; see docs/log.md, 2026-11-21

Every setting is trained on two of three folds; the third one stops it early and judges it, by the negative log
likelihood and the accuracy given k modalities, means over all choices of k, and by their means over k. "longer" is four
times the epochs, without an early stop, and so as many patterns of each row as the four a step of "cepa". With
`--train-rate` the training rows of a fold lack modalities themselves (MCAR, drawn once). Run the
command again to go on where it stopped. Other settings: `--also NAME='{"m": METHOD, option: value, …}'`.
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import amodal
from amodal.benchmark import Cell, fit_cell, fit_values
from amodal.benchmark.recipe import recipe_parser, run_cells
from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.data.split import folds
from amodal.missingness import MCAR, realise

QUADRANTS = ("top_left", "top_right", "bottom_left", "bottom_right")
ONE = {"m": "cepa", "preset": "one_pattern"}
PATCHES = {"m": "cepa", "encoder": "patches"}
SETTINGS: dict[str, dict[str, Any]] = {
    "modality_dropout": {"m": "modality_dropout"},
    "modality_dropout, longer": {"m": "modality_dropout", "times": 4},
    "modality_dropout, 4 patterns": {"m": "modality_dropout", "patterns": 4},
    "cepa": {"m": "cepa"},
    "cepa, masks of modalities": {"m": "cepa", "masking": "modality"},
    "cepa, no alignment": {"m": "cepa", "cf_weight": 0.0},
    "patches": PATCHES,
    "patches, 5 % of the neighbours": {**PATCHES, "alignment": {"name": "conditional", "neighbours": 0.05}},
    "patches, 25 % of the neighbours": {**PATCHES, "alignment": {"name": "conditional", "neighbours": 0.25}},
    "patches, with the diagonal": {**PATCHES, "alignment": {"name": "conditional", "diagonal": True}},
    "patches, marginal alignment": {**PATCHES, "alignment": "marginal"},
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


def values_of(name: str, setting: dict[str, Any], fold: int, n_folds: int, epochs: int, rate: float) -> dict[str, Any]:
    """A cell's values: of a setting the method ("m"), its options, its encoder, and the epochs it gets ("times")."""
    options = dict(setting)
    method, times, encoder = options.pop("m", "cepa"), options.pop("times", 1), options.pop("encoder", None)
    encoders = dict.fromkeys(QUADRANTS, encoder) if encoder else {}
    longer = {"patience": None} if times > 1 else {}
    fitted = fit_values(method, options=options, encoders=encoders, seed=fold, epochs=times * epochs, **longer)
    return {"name": name, "fold": fold, "folds": n_folds, "train_rate": rate, **fitted}


def train_and_judge(cell: Cell, cohort: Cohort, folder: Path) -> dict[str, float]:
    """Trains a setting on all folds but one; that one stops it early and judges it."""
    cohort = cohort.take(np.flatnonzero(np.isin(cohort.splits, ["train", "valid"])))
    fold_of = folds(cohort.groups, cohort.target, cell["folds"], seed=0)
    train, valid = (cohort.take(np.flatnonzero(rows)) for rows in (fold_of != cell["fold"], fold_of == cell["fold"]))
    train = lacking(train, cell["train_rate"], 5) if cell["train_rate"] else train
    model = fit_cell(cell, train, valid)
    return {"valid_loss": float(model.history["valid_loss"].min()), **judged(model, valid)}


def main(words: list[str] | None = None) -> pd.DataFrame:
    parser = recipe_parser(
        __doc__, "runs/cepa-selection", methods=list(SETTINGS), flag="--names", seeds=None, epochs=30
    )
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME=JSON", help="further settings")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--train-rate", type=float, default=0.0, help="what training rows lack, MCAR, drawn once")
    given = parser.parse_args(words)
    chosen = {name: SETTINGS[name] for name in given.methods}
    for name, _, text in (word.partition("=") for word in given.also):
        chosen[name] = json.loads(text)
    cells = [
        Cell(f"{name}-fold{fold}", values_of(name, setting, fold, given.folds, given.epochs, given.train_rate))
        for fold in range(given.folds)
        for name, setting in chosen.items()
    ]
    frame = run_cells(cells, train_and_judge, given, amodal.load_cohort("digits")).frame("name", "fold")
    means = {column: "mean" for column in frame.columns if column not in ("name", "fold")}
    table = frame.groupby("name").agg({"fold": "count", **means}).sort_values("nll")
    print(table.rename(columns={"fold": "folds"}).to_string(float_format="%.4f"))
    print(f"The results are in {given.out}")
    return table


if __name__ == "__main__":
    main()
