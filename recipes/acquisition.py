"""Acquisition on digits: does looking first where advice says pay, and does a larger V mean a larger change?

Command:  python recipes/acquisition.py --out runs/acquisition
Time:     40 minutes on one core of a busy machine, five models of each method
Expected: mean over five seeds (95 % interval for test digits and seeds); every case begins with one random quadrant

accuracy after one more quadrant, and what it is above random order
                  primo                                              modality_dropout
random            0.9358                                             0.9265
advised           0.9573  +0.0215 (0.0057 to 0.0368)                 0.9506  +0.0241 (0.0098 to 0.0383)
oracle            0.9622  +0.0263 (0.0111 to 0.0419)                 0.9677  +0.0412 (0.0266 to 0.0562)
advised, latents  0.9395  +0.0037 (-0.0134 to 0.0204)

rank correlation with the realised change      primo                    modality_dropout
V, everything revealed                         0.874 (0.849 to 0.897)   0.754 (0.710 to 0.792)
V of one quadrant                              0.759 (0.736 to 0.781)   0.323 (0.292 to 0.353)
advice, one quadrant                           0.736 (0.713 to 0.758)   0.661 (0.634 to 0.687)

figure.svg has accuracy against the number of quadrants, and the realised against the predicted change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import amodal
from amodal.benchmark import Cell, fit_cell, fit_values
from amodal.benchmark.inference import resample_seeds
from amodal.benchmark.recipe import recipe_parser, run_cells
from amodal.files import replace_file
from amodal.metrics import Interval, resample_counts
from amodal.predictive_impact import acquisition_curve, advise, change_curve, rank_correlation, realised_change

MODELS = ("primo", "modality_dropout")
# order of acquisition, and whether plausible values come from training cases (else: the method's latents)
ORDERS = {"random": ("random", True), "advised": ("advised", True), "oracle": ("oracle", True)}
BY_LATENTS = {"advised, latents": ("advised", False)}
SETTINGS = {"batch_size": 64}
WHOLE = "everything"


def curves(
    model: amodal.TrainedModel, train: amodal.Cohort, cases: amodal.Cohort, seed: int, draws: int
) -> pd.DataFrame:
    """One row a case, step and order: which quadrant was looked at, and whether the prediction is right then.

    Args:
        model: A trained model.
        train: Training cases.
        cases: Cases of which everything can be revealed; all orders begin with the same random quadrant of each.
        seed: Seed of start and draws.
        draws: Plausible values of each quadrant.
    """
    able = "primo" in model.experiment["spec"]["method"]
    parts = []
    for name, (order, from_training) in (ORDERS | (BY_LATENTS if able else {})).items():
        found = acquisition_curve(
            model,
            cases,
            order=order,  # type: ignore[arg-type]
            train=train if from_training else None,
            seed=seed,
            draws=draws,
        )
        parts.append(found.assign(order=name))
    return pd.concat(parts, ignore_index=True)


def changes(
    model: amodal.TrainedModel, train: amodal.Cohort, cases: amodal.Cohort, seed: int, draws: int
) -> pd.DataFrame:
    """One row a case and withheld quadrant (or `WHOLE`): V, the change it promises, and what really happens.

    Args:
        model: A trained model.
        train: Training cases.
        cases: Complete cases; all but one random quadrant of each are withheld.
        seed: Seed of the start and the draws.
        draws: Plausible values of each quadrant.

    Returns:
        Columns id, revealed, V (of this quadrant, or in total), expected (change of the prediction by advice; NaN for
        `WHOLE`), realised, started_right, ended_right.
    """
    start = np.eye(cases.observed.shape[1], dtype=bool)[np.random.default_rng(seed).integers(0, 4, len(cases))]
    withheld = cases.with_observed(start)
    result = amodal.impact(model, withheld, draws=2 * draws, seed=seed, train=train, plausible=False)
    advice = advise(model, withheld, draws=draws, seed=seed, train=train)
    before, whole = model.predict(withheld), model.predict(cases)
    parts = [_changed(cases, np.arange(len(cases)), WHOLE, result.variability, np.nan, result.prediction, whole)]
    for m, name in enumerate(cases.schema.names):
        rows = np.flatnonzero(~start[:, m])
        after = model.predict(cases.take(rows).with_observed((start | np.eye(4, dtype=bool)[m])[rows]))
        value, expected = result.per_modality[name][rows], advice.change[rows, m]
        parts.append(_changed(cases, rows, name, value, expected, before[rows], after))
    return pd.concat(parts, ignore_index=True)


def _changed(
    cases: amodal.Cohort, rows: np.ndarray, name: str, value: np.ndarray, expected: Any, before: Any, after: Any
) -> pd.DataFrame:
    assert cases.target is not None
    return pd.DataFrame(
        {
            "id": cases.ids[rows],
            "revealed": name,
            "V": value,
            "expected": expected,
            "realised": realised_change(np.asarray(before, dtype=float), np.asarray(after, dtype=float)),
            "started_right": before.argmax(1) == cases.target[rows],
            "ended_right": after.argmax(1) == cases.target[rows],
        }
    )


def train_and_measure(cell: Cell, cohort: amodal.Cohort, folder: Path) -> dict[str, pd.DataFrame]:
    """Trains one model, and measures it on the test digits (the first `cases` of them)."""
    train, valid, test = (cohort.split(name) for name in ("train", "valid", "test"))
    test = test if cell["cases"] is None else test.take(np.arange(cell["cases"]))
    model = fit_cell(cell, train, valid)
    return {what: measure(model, train, test, cell["seed"], cell["draws"]) for what, measure in MEASURES.items()}


MEASURES = {"curves": curves, "changes": changes}


def accuracy_table(frame: pd.DataFrame, step: int) -> pd.DataFrame:
    """Accuracy after a number of further quadrants, by model and order, and the paired difference to random order.

    Intervals are 95 % bootstrap intervals for test digits and seeds together.
    """
    rows = []
    for model, part in frame[frame["step"] == step].groupby("model", sort=False):
        right = {
            order: one.pivot(index="seed", columns="id", values="correct").to_numpy(dtype=float)
            for order, one in part.groupby("order", sort=False)
        }  # (seeds, N)
        for order, values in right.items():
            difference = _mean(values - right["random"])
            better = "" if order == "random" else f"{difference.estimate:+.4f} ({_ends(difference)})"
            rows.append((model, order, f"{values.mean():.4f} ({_ends(_mean(values))})", better))
    return pd.DataFrame(rows, columns=["model", "order", f"accuracy after {step} more", "less random"])


def reliability_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of predicted with realised change, and the mean of both, by model and prediction."""
    rows = []
    for model, part in frame.groupby("model", sort=False):
        for label, column, chosen in _predictions_of_change(part):
            found = rank_correlation(
                chosen[column], chosen["realised"], generator=np.random.default_rng(0), groups=chosen["id"]
            )
            text = f"{found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})"
            rows.append((model, label, text, chosen[column].mean(), chosen["realised"].mean()))
    return pd.DataFrame(rows, columns=["model", "predicted by", "rank correlation", "predicted", "realised"])


def reliability_curves(frame: pd.DataFrame, bins: int = 6) -> pd.DataFrame:
    """Mean predicted and realised change in bins of as many cases each."""
    parts = []
    for model, part in frame.groupby("model", sort=False):
        for label, column, chosen in _predictions_of_change(part):
            curve = change_curve(chosen[column], chosen["realised"], bins=bins)
            parts.append(curve.assign(model=model, by=label)[["model", "by", "cases", "predicted", "realised"]])
    return pd.concat(parts, ignore_index=True)


def draw_figure(acquired: pd.DataFrame, changed: pd.DataFrame, file: Path) -> None:
    """Accuracy against the number of quadrants known, by order; realised against predicted change; a row a model."""
    from matplotlib.figure import Figure

    models = list(acquired["model"].unique())
    figure = Figure(figsize=(9, 3.4 * len(models)), layout="constrained")
    panels = figure.subplots(len(models), 2, squeeze=False)
    curves = reliability_curves(changed)
    for (left, right), model in zip(panels, models):
        accuracy = acquired[acquired["model"] == model].groupby(["order", "step"], sort=False)["correct"].mean()
        for order, line in accuracy.groupby("order", sort=False):
            left.plot(1 + line.index.get_level_values("step"), line, marker="o", ms=4, label=order)
        left.set(title=model, xlabel="quadrants known", ylabel="accuracy", xticks=range(1, 5))
        left.legend()
        for by, curve in curves[curves["model"] == model].groupby("by", sort=False):
            right.plot(curve["predicted"], curve["realised"], marker="o", ms=4, label=by)
        right.axline((0, 0), slope=1, color="grey", lw=0.7)
        right.set(title=model, xlabel="predicted change", ylabel="realised change", xlim=(0, 0.9), ylim=(0, 0.9))
        right.legend()
    replace_file(file, figure.savefig)


def _predictions_of_change(part: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    whole = part["revealed"] == WHOLE
    return [
        ("V, everything revealed", "V", part[whole]),
        ("V of one quadrant", "V", part[~whole]),
        ("advice, one quadrant", "expected", part[~whole]),
    ]


def _mean(values: np.ndarray) -> Interval:
    """The mean of (seeds, N) values with an interval for cases and seeds."""
    n = values.shape[1]
    counts = resample_counts(n, 2000, np.random.default_rng(0)).astype(float)
    drawn = values @ counts.T / n  # (seeds, resamples)
    return Interval.from_values(float(values.mean()), resample_seeds(drawn, np.random.default_rng(1)))


def _ends(interval: Interval) -> str:
    return f"{interval.low:.4f} to {interval.high:.4f}"


def main(arguments: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    parser = recipe_parser(
        __doc__, "runs/acquisition", methods=list(amodal.METHODS), chosen=MODELS, flag="--models", epochs=60, draws=50
    )
    parser.add_argument("--cases", type=int, default=None, help="how many test digits")
    given = parser.parse_args(arguments)
    measured = {"cases": given.cases, "draws": given.draws}
    cells = [
        Cell(f"{name}-seed{seed}", measured | fit_values(name, seed=seed, epochs=given.epochs, **SETTINGS))
        for seed in given.seeds
        for name in given.methods
    ]
    done = run_cells(cells, train_and_measure, given, amodal.load_cohort("digits")).done
    acquired, changed = (
        pd.concat([one.frame(what).assign(model=one.cell["method"], seed=one.cell["seed"]) for one in done])
        for what in MEASURES
    )
    tables = {f"step {step}": accuracy_table(acquired, step) for step in sorted(acquired["step"].unique())}
    tables |= {"reliability": reliability_table(changed), "curves": reliability_curves(changed)}
    for table in tables.values():
        print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"), end="\n\n")
    draw_figure(acquired, changed, given.out / "figure.svg")
    return tables


if __name__ == "__main__":
    main()
