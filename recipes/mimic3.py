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

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import amodal
from amodal.benchmark import Cell, Done, Swept, fit_cell, fit_values
from amodal.benchmark.recipe import accuracy_and_nll, mean_and_spread, recipe_parser, run_cells
from amodal.files import replace_file
from amodal.metrics import auroc
from amodal.missingness import MCAR, Natural
from amodal.predictive_impact.strata import ecdf, plausible_labels_by_stratum, variability_by_stratum
from amodal.presence import draw_presence

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


def measure(name: str, model: amodal.TrainedModel, test: amodal.Cohort, draws: int) -> dict[str, Any]:
    """Accuracy, AUROC and likelihood with the series withheld and given; V of PRIMO by age and by condition.

    And, as arrays, of each case V in both states and the share of clusters with each label.
    """
    found: dict[str, Any] = {}
    withheld = test.with_observed(np.tile([True, False], (len(test), 1)))
    for state, rows in (("missing", withheld), ("complete", test)):
        if (name, state) in (("static", "complete"), ("both", "missing")):
            continue
        predicted = model.predict(rows)
        found |= accuracy_and_nll(predicted, test.target, state)
        if len(np.unique(test.target)) == predicted.shape[1]:
            found[f"AUROC {state}"] = float(auroc(predicted, test.target))
        if name.startswith("primo") and draws:
            result = amodal.impact(model, rows, draws=draws, completions="own", plausible="paper", vary=[])
            found[f"V {state}"] = float(result.variability.mean())
            for by, strata in (("age", ages(test)), ("condition", conditions(test))):
                value = variability_by_stratum(result.variability, strata)
                found[f"V by {by}, {state}"] = records(value)
                labels = plausible_labels_by_stratum(result.plausible_labels, strata)
                found[f"plausible by {by}, {state}"] = records(labels)
            found[f"V_{state}"], found[f"fraction_{state}"] = result.variability, result.plausible_labels.fraction
    return found


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


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.reset_index().astype({"stratum": str}).to_dict("records")


def train_and_measure(cell: Cell, cohort: amodal.Cohort, folder: Path) -> dict[str, Any]:
    """Trains one model and measures it on the test cases."""
    rows, valid = (half_missing(cohort.split(split), cell["seed"]) for split in ("train", "valid"))
    some = [r.take(r.observed.all(axis=1)) if cell["complete_only"] else r for r in (rows, valid)]
    removal = "auto" if cell["method"] == "modality_dropout" else Natural()
    model = fit_cell(cell, *some, missingness=removal, valid_missingness=Natural())
    return measure(cell["model"], model, cohort.split("test"), cell["draws"])


def cells(given: Any) -> list[Cell]:
    """One for each seed and model, seed by seed."""
    training = {"epochs": given.epochs, "batch_size": 128, "learning_rate": 5e-4, "patience": None}
    return [
        Cell(
            f"{name}-seed{seed}",
            {"model": name, "draws": given.draws, "complete_only": MODELS[name][2]}
            | fit_values(MODELS[name][0], options=MODELS[name][1], seed=seed, **training),
        )
        for seed in given.seeds
        for name in given.methods
    ]


def draw_figures(out: Path, swept: Swept, cohort: amodal.Cohort, seed: int, patients: int) -> None:
    """Figures 7, 8 and 9 of PRIMO, if it has run."""
    shown: list[Done] = [one for one in swept.done if (one.cell["model"], one.cell["seed"]) == ("primo", seed)]
    if not shown or not shown[0].arrays:
        return
    record, arrays = shown[0].record, shown[0].arrays
    test, classes = cohort.split("test"), [str(c) for c in cohort.schema.task.classes]
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


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    parser = recipe_parser(__doc__, "runs/mimic3", methods=list(MODELS), flag="--models", epochs=30, draws=500)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the cohort")
    parser.add_argument("--patients", type=int, default=4, help="patients in each row of figure 9")
    given = parser.parse_args(arguments)
    cohort = amodal.load_cohort(given.data)
    swept = run_cells(cells(given), train_and_measure, given, cohort)
    found = mean_and_spread(swept.frame("model", "seed"), ["model"], MODELS)
    print(found.T.to_string())
    draw_figures(given.out, swept, cohort, given.seeds[0], given.patients)
    return found


if __name__ == "__main__":
    main()
