"""Acquisition on digits: does looking first where advice says pay, and is what is promised what happens?

Command:  python recipes/acquisition.py --seeds 0 1 2 3 4 --out runs/acquisition
Time:     two minutes of processor time a model of modality_dropout, about five of primo
Expected: modality_dropout, seeds 0 to 4, 95 % intervals for cases and seeds; a case begins with one random quadrant

accuracy after one more quadrant               less random               less the fixed order
random     0.937 (0.920 to 0.953)
fixed      0.938 (0.916 to 0.958)      0.001 (-0.017 to 0.020)
advised    0.958 (0.941 to 0.972)      0.021 (0.007 to 0.035)    0.020 (-0.002 to 0.041)
surest     0.972 (0.959 to 0.983)      0.035 (0.020 to 0.051)    0.034 (0.015 to 0.055)

promised                   rank correlation           mean promised   mean realised
V, everything revealed     0.883 (0.858 to 0.904)     0.325           0.326
change, one quadrant       0.886 (0.867 to 0.904)     0.282           0.282
gain, one quadrant         0.764 (0.733 to 0.795)     0.470           0.455

No promised gain is above the entropy of the prediction. figure.svg has accuracy against the number of quadrants, and
the realised against the promised change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

import amodal
from amodal.benchmark import Cell, fit_cell, fit_values
from amodal.benchmark.inference import resample_seeds
from amodal.benchmark.recipe import recipe_parser, run_cells
from amodal.files import replace_file
from amodal.metrics import Interval, resample_counts
from amodal.predictive_impact import (
    acquisition_curve,
    advise,
    area_under,
    change_curve,
    fixed_order,
    random_start,
    rank_correlation,
    realised_change,
)

MODELS = ("primo", "modality_dropout")
ORDERS: tuple[Literal["random", "fixed", "advised", "surest"], ...] = ("random", "fixed", "advised", "surest")
OWN = "advised, own draws"
SETTINGS = {"batch_size": 64}
WHOLE = "everything"


def curves(
    model: amodal.TrainedModel, train: amodal.Cohort, valid: amodal.Cohort, cases: amodal.Cohort, seed: int, draws: int
) -> pd.DataFrame:
    """One row a case, step and order: which quadrant was looked at, and what the prediction is worth then.

    Args:
        model: A trained model.
        train: Training cases.
        valid: Validation cases, on which the one fixed order is chosen.
        cases: Cases of which everything can be revealed; all orders begin with the same random quadrant of each.
        seed: Seed of start and draws.
        draws: Plausible values of each quadrant, where a method draws them.
    """
    sequence, start = fixed_order(model, valid, seed=seed), random_start(cases, seed)
    common: dict[str, Any] = {"start": start, "seed": seed, "sequence": sequence}
    parts = [acquisition_curve(model, cases, order=order, train=train, **common) for order in ORDERS]
    if "primo" in model.experiment["spec"]["method"]:
        own = acquisition_curve(model, cases, completions="own", draws=draws, **common)
        parts.append(own.assign(order=OWN))
    return pd.concat(parts, ignore_index=True)


def changes(
    model: amodal.TrainedModel, train: amodal.Cohort, cases: amodal.Cohort, seed: int, draws: int
) -> pd.DataFrame:
    """One row a case and withheld quadrant (or `WHOLE`): what is promised, and what really happens.

    Args:
        model: A trained model.
        train: Training cases.
        cases: Complete cases; all but one random quadrant of each are withheld.
        seed: Seed of the start and the draws.
        draws: Plausible values of each quadrant, where a method draws them.

    Returns:
        Columns id, revealed, change and gain (promised; of `WHOLE` V and the gain of everything), own (V by the
        method's own draws; NaN if it draws none), realised and realised_gain, evpi (the bound of the gain), gap.
    """
    start = random_start(cases, seed)
    withheld = cases.with_observed(start)
    result = amodal.impact(model, withheld, seed=seed, train=train, plausible=False, vary=[])
    advice = advise(model, withheld, draws=draws, seed=seed, train=train)
    before, whole = model.predict(withheld), model.predict(cases)
    own = np.full(len(cases), np.nan)
    if "primo" in model.experiment["spec"]["method"]:
        own = amodal.impact(
            model, withheld, completions="own", draws=2 * draws, seed=seed, plausible=False, vary=[]
        ).variability
    assert advice.everything is not None
    assert advice.evpi is not None
    assert advice.gap is not None
    every = np.arange(len(cases))
    promised = {"change": result.variability, "gain": advice.everything, "own": own, "gap": result.gap}
    parts = [_changed(cases, every, WHOLE, before, whole, promised | {"evpi": advice.evpi})]
    for m, name in enumerate(cases.schema.names):
        rows = np.flatnonzero(~start[:, m])
        after = model.predict(cases.take(rows).with_observed((start | np.eye(4, dtype=bool)[m])[rows]))
        promised = {"change": advice.change[rows, m], "gain": advice.gain[rows, m], "evpi": advice.evpi[rows]}
        promised |= {"gap": advice.gap[rows, m], "own": np.full(len(rows), np.nan)}
        parts.append(_changed(cases, rows, name, before[rows], after, promised))
    return pd.concat(parts, ignore_index=True)


def _changed(
    cases: amodal.Cohort, rows: np.ndarray, name: str, before: Any, after: Any, promised: dict[str, np.ndarray]
) -> pd.DataFrame:
    assert cases.target is not None
    target, at = cases.target[rows], np.arange(len(rows))
    ratio = np.maximum(after[at, target], 1e-12) / np.maximum(before[at, target], 1e-12)
    realised = {"realised": realised_change(np.asarray(before, dtype=float), np.asarray(after, dtype=float))}
    return pd.DataFrame(
        {"id": cases.ids[rows], "revealed": name, **promised, **realised, "realised_gain": np.log(ratio)}
    )


def train_and_measure(cell: Cell, cohort: amodal.Cohort, folder: Path) -> dict[str, pd.DataFrame]:
    """Trains one model, and measures it on the test digits (the first `cases` of them)."""
    train, valid, test = (cohort.split(name) for name in ("train", "valid", "test"))
    test = test if cell["cases"] is None else test.take(np.arange(cell["cases"]))
    model = fit_cell(cell, train, valid)
    seed, draws = cell["seed"], cell["draws"]
    return {
        "curves": curves(model, train, valid, test, seed, draws),
        "changes": changes(model, train, test, seed, draws),
    }


def accuracy_table(frame: pd.DataFrame, step: int) -> pd.DataFrame:
    """Accuracy after a number of further quadrants, by model and order, with paired differences to two yardsticks.

    Intervals are 95 % bootstrap intervals for test digits and seeds together.
    """
    part = frame[frame["step"] == step]
    return _compared(
        {
            key: one.set_index("id")["correct"].astype(float)
            for key, one in part.groupby(["model", "order", "seed"], sort=False)
        },
        f"accuracy after {step} more",
    )


def area_table(frame: pd.DataFrame, y: str) -> pd.DataFrame:
    """Mean accuracy or log-likelihood over the number of quadrants, by model and order, compared in the same way."""
    areas = {key: area_under(one, y=y) for key, one in frame.groupby(["model", "order", "seed"], sort=False)}
    return _compared(areas, f"mean {y} over the looks")


def _compared(scores: dict[Any, pd.Series], title: str) -> pd.DataFrame:
    """One row a model and order from scores of cases by (model, order, seed)."""
    rows = []
    for model in dict.fromkeys(key[0] for key in scores):
        orders = [order for order in (*ORDERS, OWN) if any(key[:2] == (model, order) for key in scores)]
        values = {
            order: pd.DataFrame({key[2]: one for key, one in scores.items() if key[:2] == (model, order)}).to_numpy().T
            for order in orders
        }  # (seeds, N)
        for order in orders:
            against = [
                "" if order == other or other not in values else f"{_mean(values[order] - values[other])}"
                for other in ("random", "fixed")
            ]
            rows.append((model, order, str(_mean(values[order])), *against))
    return pd.DataFrame(rows, columns=["model", "order", title, "less random", "less fixed"])


def reliability_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of what is promised with what is realised, and the means of both, by model and promise."""
    rows = []
    for model, part in frame.groupby("model", sort=False):
        for label, promised, realised, chosen in _promises(part):
            found = rank_correlation(
                chosen[promised], chosen[realised], generator=np.random.default_rng(0), groups=chosen["id"]
            )
            rows.append((model, label, str(found), chosen[promised].mean(), chosen[realised].mean()))
    return pd.DataFrame(rows, columns=["model", "promised", "rank correlation", "mean promised", "mean realised"])


def bounds_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Share of looks whose promised gain is above the entropy of the prediction, and the gap, by model."""
    rows = [
        (model, len(part), float((part["gain"] > part["evpi"] + 1e-6).mean()), part["gap"].mean(), part["gap"].max())
        for model, part in frame.groupby("model", sort=False)
    ]
    return pd.DataFrame(rows, columns=["model", "looks", "gain above entropy", "mean gap", "largest gap"])


def quarters_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Promised and realised gain of one look in nats, in four parts of equally many looks by rising promise."""
    parts = []
    for model, part in frame[frame["revealed"] != WHOLE].groupby("model", sort=False):
        curve = change_curve(part["gain"], part["realised_gain"], bins=4)
        parts.append(curve.assign(model=model)[["model", "cases", "predicted", "realised", "standard_error", "excess"]])
    return pd.concat(parts, ignore_index=True)


def reliability_curves(frame: pd.DataFrame, bins: int = 6) -> pd.DataFrame:
    """Mean promised and realised change in bins of as many cases each."""
    parts = []
    for model, part in frame.groupby("model", sort=False):
        for label, promised, realised, chosen in _promises(part):
            curve = change_curve(chosen[promised], chosen[realised], bins=bins)
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
        for by, curve in curves[(curves["model"] == model) & ~curves["by"].str.startswith("gain")].groupby(
            "by", sort=False
        ):
            right.plot(curve["predicted"], curve["realised"], marker="o", ms=4, label=by)
        right.axline((0, 0), slope=1, color="grey", lw=0.7)
        right.set(title=model, xlabel="predicted change", ylabel="realised change", xlim=(0, 0.9), ylim=(0, 0.9))
        right.legend()
    replace_file(file, figure.savefig)


def _promises(part: pd.DataFrame) -> list[tuple[str, str, str, pd.DataFrame]]:
    whole = part["revealed"] == WHOLE
    promises = [
        ("V, everything revealed", "change", "realised", part[whole]),
        ("change, one quadrant", "change", "realised", part[~whole]),
        ("gain, one quadrant", "gain", "realised_gain", part[~whole]),
    ]
    if part["own"].notna().any():
        promises.append(("V by own draws, everything revealed", "own", "realised", part[whole]))
    return promises


def _mean(values: np.ndarray) -> Interval:
    """The mean of (seeds, N) values with an interval for cases and seeds."""
    n = values.shape[1]
    counts = resample_counts(n, 2000, np.random.default_rng(0)).astype(float)
    drawn = values @ counts.T / n  # (seeds, resamples)
    return Interval.from_values(float(values.mean()), resample_seeds(drawn, np.random.default_rng(1)))


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
        for what in ("curves", "changes")
    )
    tables = {f"step {step}": accuracy_table(acquired, step) for step in sorted(acquired["step"].unique())}
    tables |= {f"area {y}": area_table(acquired, y) for y in ("correct", "log_likelihood")}
    tables |= {"reliability": reliability_table(changed), "bounds": bounds_table(changed)}
    tables |= {"quarters": quarters_table(changed), "curves": reliability_curves(changed)}
    for table in tables.values():
        print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"), end="\n\n")
    draw_figure(acquired, changed, given.out / "figure.svg")
    return tables


if __name__ == "__main__":
    main()
