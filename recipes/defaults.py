"""Methods as they come, and with other encoders or settings, against boosted trees: folds of the rows not for testing.

Command:  python recipes/defaults.py --data data/support2 --folds 4 --out runs/defaults/support2
          --data takes a cohort's folder or the name of a built-in one
Time:     see the last column of the table it prints
Expected: see docs/log.md, 2026-11-30

Training and validation rows of the cohort are cut into folds by group; test rows are never touched, so that defaults
may be chosen by what is printed. Every method gets the same folds, the same tenth of each fold's training rows to
stop and recalibrate by, and the same removals. The held rows are predicted as they are, and again under MCAR 0.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

import amodal
from amodal.benchmark import Experiment, FinishedRun, run_all
from amodal.benchmark.recipe import recipe_parser, tell_run
from amodal.data.cohort import Cohort
from amodal.files import replace_file
from amodal.metrics import METRICS, paired_difference, resample_counts
from amodal.schema import Schema

_SMOOTH = {"options": {"dropout": 0.3}, "settings": {"learning_rate": 1e-3}}
_BY_SUMMARY = {"name": "modality_dropout", "encoders": {"series": "summary"}}
_THREE = ("modality_dropout", _BY_SUMMARY, _BY_SUMMARY)
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "boosting": {"method": "boosting"},
    "modality_dropout": {"method": "modality_dropout"},
    "late_fusion": {"method": "late_fusion"},
    "ensemble": {"method": "ensemble"},
    "two alike": {"method": "ensemble", "options": {"members": ("modality_dropout", "modality_dropout", "boosting")}},
    "a summary": {"method": "ensemble", "options": {"members": ("modality_dropout", _BY_SUMMARY, "boosting")}},
    "two summaries": {"method": "ensemble", "options": {"members": (*_THREE, "boosting")}},
    "fusion": {"method": "fusion"},
    "average": {"method": "late_fusion", "options": {"join": "average"}},
    "one pattern": {"method": "modality_dropout", "options": {"patterns": 1}},
    "no average": {"method": "modality_dropout", "settings": {"weight_average": 0.0}},
    "summaries": {"method": "modality_dropout", "encoders": {"series": "summary", "tabular": "mlp"}},
    "gru": {"method": "modality_dropout", "encoders": {"series": "gru"}},
    "smooth": {"method": "modality_dropout", "encoders": {"series": "summary", "tabular": "mlp"}, **_SMOOTH},
    "smooth gru": {"method": "modality_dropout", "encoders": {"series": "gru", "tabular": "mlp"}, **_SMOOTH},
}
"""Arguments by name; `encoders` by kind of modality, with a dropout of 0.3."""


def experiments(names: list[str], cohort: str, schema: Schema, n_folds: int, seed: int) -> list[Experiment]:
    """One for each configuration and fold."""
    return [
        Experiment(
            cohort=cohort,
            name=name,
            patterns="met",
            rates=(0.5,),
            fold=(fold, n_folds),
            seed=seed,
            **{**CONFIGURATIONS[name], "encoders": encoders(CONFIGURATIONS[name].get("encoders", {}), schema)},
        )
        for name in names
        for fold in range(n_folds)
    ]


def encoders(by_kind: dict[str, str], schema: Schema) -> dict[str, Any]:
    """Encoders of the modalities of some kinds, with a dropout of 0.3; the defaults for the others."""
    return {m.name: {"name": by_kind[m.kind], "dropout": 0.3} for m in schema.modalities if m.kind in by_kind}


def predictions(run: FinishedRun) -> pd.DataFrame:
    """One row a case and presence: configuration, presence, id, group, target, modalities present, probabilities."""
    parts = [
        ("as it is", run.test),
        *(("MCAR 0.5", condition) for condition in run.conditions if condition.kind == "rate"),
    ]
    frames = [
        pd.DataFrame(condition.predictions).assign(
            name=run.name,
            presence=presence,
            id=run.ids,
            group=run.groups,
            target=run.target,
            modalities=condition.observed.sum(1),
            seconds=run.record["result"]["seconds"],
        )
        for presence, condition in parts
    ]
    return pd.concat(frames, ignore_index=True)


def summarise(frame: pd.DataFrame, reference: str, resamples: int = 1000) -> pd.DataFrame:
    """Metrics of all folds together, and differences to a reference on the same cases, with 95 % intervals.

    Args:
        frame: Of `predictions`, all runs.
        reference: Name of the configuration that the others are compared with.
        resamples: Bootstrap resamples of whole groups.
    """
    columns = [c for c in frame.columns if isinstance(c, int)]
    headline = "auroc" if len(columns) == 2 else "accuracy"
    rows = []
    for presence, part in frame.groupby("presence", sort=False):
        part = part.sort_values(["name", "id"])
        by_name = dict(list(part.groupby("name", sort=False)))
        base = by_name[reference]
        counts = resample_counts(base["group"].to_numpy(str), resamples, np.random.default_rng(0))
        for name in dict.fromkeys(frame["name"]):
            mine, row = by_name[name], {"presence": presence, "configuration": name}
            for metric in (headline, "nll"):
                row[metric] = METRICS[metric](mine[columns].to_numpy(), mine["target"].to_numpy())
                if name != reference:
                    found = paired_difference(
                        METRICS[metric],
                        mine[columns].to_numpy(),
                        base[columns].to_numpy(),
                        mine["target"].to_numpy(),
                        counts=counts,
                    )
                    row[f"{metric} less"] = f"{found.estimate:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
            row["seconds"] = mine["seconds"].mean()
            rows.append(row)
    return pd.DataFrame(rows).fillna("")


def by_number(frame: pd.DataFrame, fewest: int = 100) -> pd.DataFrame:
    """NLL by the number of modalities present, of numbers with that many cases."""
    columns = [c for c in frame.columns if isinstance(c, int)]
    loss = {}
    for (name, number), part in frame.groupby(["name", "modalities"], sort=False):
        if len(part) >= fewest:
            loss[name, number] = METRICS["nll"](part[columns].to_numpy(), part["target"].to_numpy())
    table = pd.Series(loss).unstack()
    return table.reindex(list(dict.fromkeys(frame["name"])))[sorted(table.columns)]


def main(words: list[str] | None = None) -> pd.DataFrame:
    chosen = ["boosting", "modality_dropout", "late_fusion", "ensemble"]
    parser = recipe_parser(__doc__, "runs/defaults", methods=list(CONFIGURATIONS), chosen=chosen, seeds=None)
    parser.add_argument("--data", default="digits", help="a cohort's folder, or the name of a built-in one")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--only", type=int, help="how many of the folds to run; all by default")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    whole = amodal.load_cohort(given.data)
    cohort: Cohort = whole.take(np.flatnonzero(whole.splits != "test"))
    listed = experiments(given.methods, given.data, cohort.schema, given.folds, given.seed)
    listed = [one for one in listed if given.only is None or (one.fold or (0, 0))[0] < given.only]
    results = run_all(listed, given.out, cohort=cohort, jobs=given.jobs, tell=tell_run)
    frame = pd.concat([predictions(run) for run in results.runs], ignore_index=True)
    table = summarise(frame, given.methods[0])
    replace_file(given.out / "results.csv", lambda path: table.to_csv(path, index=False))
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    print("NLL by the number of modalities present, both presences together:")
    print(by_number(frame).to_string(float_format=lambda value: f"{value:.4f}"))
    return table


if __name__ == "__main__":
    main()
