"""MIMIC-III: what 24 hours of measurements add to five static features, and for whom, when they are missing.

Command:  amodal data prepare mimic3 --source DIR --task mortality --out data/mimic3-mortality   (icd9_1, icd9_7 alike)
          python recipes/mimic3.py --data data/mimic3-mortality --out runs/mimic3-mortality
Time:     not measured: the data are credentialed. On the open demo (94 admissions), seconds.
Expected: of the paper, accuracy of static alone, PRIMO with the series missing, both, and PRIMO complete, five runs:
          mortality  76.4  76.2  77.9  77.1;   neoplasms  91.4  91.4  91.4  91.4;   respiratory  56.2  55.0  68.2  65.8
          Not run here. Neoplasms are at the majority's rate throughout: read AUROC.

Beside the table, of PRIMO and the first seed: figure7.svg (plausible labels by age and by chronic condition),
figure8.svg (distributions of V, series missing and present) and figure9.svg (patients of largest and of smallest V;
figures 13 to 15 with --patients 12).
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
from amodal.metrics import auroc
from amodal.missingness import MCAR, Natural
from amodal.predictive_impact.strata import ecdf, plausible_labels_by_stratum, variability_by_stratum
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


CONDITIONS = (("metastatic cancer", 3), ("haematologic malignancy", 2), ("AIDS", 1))  # and their place in static


def half_missing(cohort: amodal.Cohort, seed: int) -> amodal.Cohort:
    """Half of the rows lack the series, once and for all."""
    return cohort.with_observed(draw_presence(MCAR({"static": 0.0, "series": 0.5}), cohort, seed).observed)


def measure(
    name: str, model: amodal.TrainedModel, test: amodal.Cohort, draws: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Accuracy, AUROC and likelihood with the series withheld and given; V of PRIMO by age and by condition.

    Returns:
        These, and of each case V in both states and the share of clusters with each label.
    """
    found: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
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
            for by, strata in (("age", ages(test)), ("condition", conditions(test))):
                value = variability_by_stratum(result.variability, strata)
                found[f"V by {by}, {state}"] = value.reset_index().to_dict("records")
                labels = plausible_labels_by_stratum(result.plausible_labels, strata)
                found[f"plausible by {by}, {state}"] = labels.reset_index().to_dict("records")
            arrays[f"V_{state}"], arrays[f"fraction_{state}"] = result.variability, result.plausible_labels.fraction
    return found, arrays


def ages(cohort: amodal.Cohort) -> pd.Categorical:
    """Group of age of each case, ordered."""
    years = cohort.batch(np.arange(len(cohort))).values["static"][:, 0].numpy() / 365.242
    place = np.searchsorted([edge for edge, _ in AGES], years, side="right") - 1
    return pd.Categorical.from_codes(place, [label for _, label in AGES], ordered=True)


def conditions(cohort: amodal.Cohort) -> pd.Categorical:
    """Chronic condition of each case, ordered: the first of `CONDITIONS` that it has, or none."""
    static = cohort.batch(np.arange(len(cohort))).values["static"].numpy()
    labels = [*(label for label, _ in CONDITIONS), "none of these"]
    has = np.stack([static[:, place] > 0.5 for _, place in CONDITIONS] + [np.ones(len(static), bool)], axis=1)
    return pd.Categorical.from_codes(has.argmax(1), labels, ordered=True)


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
            found, arrays = measure(name, model, cohort.split("test"), given.draws)
            record = {"model": name, "seed": seed, **found, "seconds": time.time() - started}
            if arrays:
                place = file.with_suffix(".npz")
                replace_file(place, lambda path, arrays=arrays: np.savez(path, allow_pickle=False, **arrays))
            text = json.dumps(record, indent=1, default=str)
            replace_file(file, lambda path, text=text: path.write_text(text, encoding="utf-8"))
            shown = "  ".join(f"{key} {value:.3f}" for key, value in record.items() if isinstance(value, float))
            print(f"{name} seed {seed}: {shown}", flush=True)
    files = sorted(given.out.glob("*-seed*.json"))
    return pd.DataFrame([json.loads(file.read_text(encoding="utf-8")) for file in files])


def draw_figures(out: Path, cohort: amodal.Cohort, seed: int, patients: int) -> None:
    """Figures 7, 8 and 9 of PRIMO, as far as it has run."""
    file = out / f"primo-seed{seed}.npz"
    if not file.is_file():
        return
    with np.load(file, allow_pickle=False) as stored:
        arrays = dict(stored)
    test, classes = cohort.split("test"), [str(c) for c in cohort.schema.task.classes]
    record = json.loads((out / f"primo-seed{seed}.json").read_text(encoding="utf-8"))
    draw_labels_by_stratum(record, classes, out / "figure7.svg")
    draw_variability(arrays, out / "figure8.svg")
    draw_patients(arrays, test, classes, patients, out / "figure9.svg")


def draw_labels_by_stratum(record: dict[str, Any], classes: Sequence[str], file: Path) -> None:
    """Figure 7: mean shares of plausible labels with the series missing, by age and by chronic condition."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, by in zip(panels, ("age", "condition")):
        rows = record[f"plausible by {by}, missing"]
        below = np.zeros(len(rows))
        for c, label in enumerate(classes):
            share = np.array([row[str(c)] for row in rows])
            panel.bar([f"{row['stratum']}\n({row['cases']})" for row in rows], share, bottom=below, label=label,
                      color=f"C{c}")  # fmt: skip
            below += share
        panel.set(title=f"by {by}", ylim=(0, 1))
        panel.tick_params(axis="x", labelsize=8)
    panels[0].set_ylabel("share of clusters, series missing")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(6, len(classes)),
                  fontsize=8)  # fmt: skip
    replace_file(file, figure.savefig)


def draw_variability(arrays: dict[str, np.ndarray], file: Path) -> None:
    """Figure 8: distribution functions of V with the series missing and present."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    panel = figure.subplots()
    for state, colour in (("missing", "#c2460b"), ("complete", "#0068a8")):
        value, share = ecdf(arrays[f"V_{state}"])
        mean = arrays[f"V_{state}"].mean()
        steps = np.append(0.0, value), np.append(0.0, share)
        panel.step(*steps, where="post", color=colour, label=f"series {state}, mean {mean:.3f}")
    panel.set(xlabel="V", ylabel="share of cases", ylim=(0, 1.02))
    panel.legend()
    replace_file(file, figure.savefig)


def draw_patients(
    arrays: dict[str, np.ndarray], test: amodal.Cohort, classes: Sequence[str], patients: int, file: Path
) -> None:
    """Figures 9, 13 to 15: shares of clusters of the patients of largest (above) and smallest V, series missing."""
    from matplotlib.figure import Figure

    order = arrays["V_missing"].argsort(kind="stable")
    shown = min(patients, len(order) // 2)
    if not shown:
        return
    figure = Figure(figsize=(1.9 * shown, 4.6), layout="constrained")
    panels = figure.subplots(2, shown, squeeze=False, sharey=True)
    for row, cases in zip(panels, (order[::-1][:shown], order[:shown])):
        for panel, case in zip(row, cases):
            truth = int(test.target[case])  # type: ignore[index]
            colours = ["#c2460b" if c == truth else "#9a9a9a" for c in range(len(classes))]
            panel.bar(range(len(classes)), arrays["fraction_missing"][case], color=colours)
            panel.set_title(f"V = {arrays['V_missing'][case]:.3f}", fontsize=9)
            panel.set_xticks(range(len(classes)), classes, rotation=90, fontsize=6)
    figure.supylabel("share of clusters (red: the truth)", fontsize=9)
    replace_file(file, figure.savefig)


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
    parser.add_argument("--patients", type=int, default=4, help="patients in each row of figure 9")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    found = table(run(given))
    print(found.T.to_string())
    draw_figures(given.out, amodal.load_cohort(given.data), given.seeds[0], given.patients)
    return found


if __name__ == "__main__":
    main()
