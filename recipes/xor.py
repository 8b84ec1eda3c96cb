"""XOR: does PRIMO say what a missing number could still change? Accuracy and V where both are known exactly.

Command:  python recipes/xor.py --out runs/xor --bias
Time:     on a core to itself about 35 s for a PRIMO and 10 s for a unimodal or multimodal network; all of it
          on a machine busy with other work 1 h 40
Expected: mean ± standard deviation over four seeds; L: x_o < 0, R: x_o > 0. Columns bayes and primo are of 2026-11-30
          (--methods primo --seeds 0 1 2 3); the others, and the lines of --bias, are older than evenly spread draws

                  bayes            unimodal         multimodal       modality_dropout  primo, paper     primo
accuracy missing  0.6591 ± 0.0055  0.6568 ± 0.0048                   0.6564 ± 0.0056    0.6573 ± 0.0057  0.6586 ± 0.0046
NLL missing       0.5117 ± 0.0056  0.5122 ± 0.0056                   0.5120 ± 0.0056    0.5135 ± 0.0055  0.5126 ± 0.0056
V missing L       0.4993 ± 0.0001                                                       0.2935 ± 0.0107  0.4798 ± 0.0093
V missing R       0.0771 ± 0.0002                                                       0.0309 ± 0.0069  0.0624 ± 0.0137
accuracy complete 1.0000 ± 0.0000                   0.9997 ± 0.0001  0.9993 ± 0.0004    0.9833 ± 0.0013  0.9992 ± 0.0002
NLL complete      0.0000 ± 0.0000                   0.0014 ± 0.0002  0.0031 ± 0.0006    0.2799 ± 0.0059  0.0035 ± 0.0011
V complete L      0.0000 ± 0.0000                                                       0.2480 ± 0.0086  0.0003 ± 0.0001
complete L        1.0000 ± 0.0000                   0.9998 ± 0.0001  0.9997 ± 0.0003    0.9972 ± 0.0023  0.9996 ± 0.0002
V complete R      0.0000 ± 0.0000                                                       0.0329 ± 0.0062  0.0005 ± 0.0002
complete R        1.0000 ± 0.0000                   0.9996 ± 0.0004  0.9986 ± 0.0007    0.9561 ± 0.0042  0.9984 ± 0.0006
gap L             0.4993 ± 0.0001                                                       0.0455 ± 0.0022  0.4795 ± 0.0093
gap R             0.0771 ± 0.0002                                                      -0.0020 ± 0.0015  0.0619 ± 0.0138

                   i2m2             mvae              mmvae             cmmd             lvae             predictive
accuracy missing   0.6563 ± 0.0055  0.6583 ± 0.0056   0.6537 ± 0.0054  0.6589 ± 0.0056  0.6540 ± 0.0020  0.6570 ± 0.0058
NLL missing        0.5124 ± 0.0061  0.5184 ± 0.0054   0.5149 ± 0.0051  0.5121 ± 0.0057  0.5140 ± 0.0051  0.5121 ± 0.0057
V missing L                         0.0674 ± 0.0145   0.0384 ± 0.0042  0.1170 ± 0.0219  0.1283 ± 0.0074  0.4943 ± 0.0032
V missing R                         0.0266 ± 0.0014   0.0420 ± 0.0060  0.1437 ± 0.0387  0.0143 ± 0.0037  0.0513 ± 0.0025
accuracy complete  0.9996 ± 0.0002  0.9826 ± 0.0021   0.8124 ± 0.1853                   0.9989 ± 0.0009  0.9995 ± 0.0002
NLL complete       0.0013 ± 0.0002  0.2690 ± 0.0101   0.4839 ± 0.0019                   0.0084 ± 0.0021  0.0045 ± 0.0017
V complete L                        0.0399 ± 0.0032   0.1232 ± 0.0049                   0.0010 ± 0.0001  0.0122 ± 0.0056
complete L         0.9998 ± 0.0001  0.9976 ± 0.0023   0.7393 ± 0.2851                   0.9998 ± 0.0002  0.9996 ± 0.0002
V complete R                        0.0469 ± 0.0055   0.2121 ± 0.0081                   0.0056 ± 0.0015  0.0081 ± 0.0045
complete R         0.9992 ± 0.0006  0.9534 ± 0.0045   0.9530 ± 0.0078                   0.9970 ± 0.0025  0.9992 ± 0.0005

--bias, seed 0: mean total variation distance to                  primo, paper   primo
PRIMO with x_m missing to the exact posterior; to an oracle       0.013; 0.004   0.007; 0.010   two oracles: 0.004
PRIMO with both to the exact posterior; to an oracle              0.224; 0.223   0.005; 0.004   two oracles: 0.001

"predictive" is PRIMO with that preset. Beside the figures, pictures of the first seed's models: figure3.svg
(accuracies, and V missing less V complete of each case), figure11.svg (predictions), figure12.svg (latents),
variability.svg (V of each case along x_o, and the ideal).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import amodal
from amodal.benchmark import Cell, Swept, fit_cell, fit_values
from amodal.benchmark.recipe import accuracy_and_nll, mean_and_spread, recipe_parser, run_cells
from amodal.checkpoint import inference
from amodal.data.sources.xor import XorClusters, xor_cohort
from amodal.files import replace_file
from amodal.method import LatentMethod, SamplingMethod
from amodal.missingness import MCAR, Natural
from amodal.predictive_impact import distance_table
from amodal.presence import draw_presence

PRIMO = {"always_observed": ["x_o"], "latent": 2}
PAPER = {"learning_rate": 1e-3, "weight_decay": 1e-4, "schedule": "constant", "warmup": 0.0, "clip": None}
# method, its options, whether complete rows only, settings of training (the others: the library's)
MODELS: dict[str, tuple[str, dict[str, Any], bool, dict[str, Any]]] = {
    "unimodal": ("unimodal", {"modality": "x_o"}, False, {}),
    "multimodal": ("fusion", {"dropout": 0.0}, True, {}),
    "modality_dropout": ("modality_dropout", {"dropout": 0.0}, False, {}),
    "primo, paper": ("primo", {**PRIMO, "preset": "paper"}, False, PAPER),
    "primo": ("primo", PRIMO, False, {}),
    "primo, predictive": ("primo", {**PRIMO, "preset": "predictive"}, False, {}),
}
BASELINES: dict[str, tuple[str, dict[str, Any], bool, dict[str, Any]]] = {
    "i2m2": ("i2m2", {"dropout": 0.0}, False, {}),
    "mvae": ("mvae", {"latent": 2, "annealing": 0.0, "prediction_draws": 200}, False, {}),
    "mmvae": ("mmvae", {"latent": 2, "prediction_draws": 200}, False, {}),
    "cmmd": ("cmmd", {"always_observed": ["x_o"], "latent": 2}, False, {}),
    "lvae": ("lvae", {"always_observed": ["x_o"], "latent": 2, "annealing": 0.0, "prediction_draws": 200}, False, {}),
}
ALL = {**MODELS, **BASELINES}
NOT_APPLICABLE = (("unimodal", "complete"), ("multimodal", "missing"), ("cmmd", "complete"))
SIDES = ("L", "R")
STATES = ("missing", "complete")


def in_state(test: amodal.Cohort, state: str) -> amodal.Cohort:
    """All cases with x_m missing, or with both numbers."""
    return test.with_observed(np.tile([True, state == "complete"], (len(test), 1)))


def measure(name: str, model: amodal.TrainedModel, test: amodal.Cohort, draws: int) -> dict[str, float]:
    """Accuracy, likelihood and, if the method draws, V of one model, with x_m missing and present, by side of x_o."""
    left = test.batch(np.arange(len(test))).values["x_o"].numpy()[:, 0] < 0
    found: dict[str, float] = {}
    for state in STATES:
        if (name, state) in NOT_APPLICABLE:
            continue
        cases = in_state(test, state)
        if isinstance(model.method, SamplingMethod):
            result = amodal.impact(model, cases, draws=draws, completions="own", plausible=False, vary=[])
            for side, chosen in zip(SIDES, (left, ~left)):
                found[f"V {state} {side}"] = float(result.variability[chosen].mean())
        predicted = model.predict(cases)
        correct = predicted.argmax(1) == test.target
        found |= accuracy_and_nll(predicted, test.target, state)
        if state == "complete":
            found |= {f"{state} {side}": float(correct[chosen].mean()) for side, chosen in zip(SIDES, (left, ~left))}
    return found


def ideal(test: amodal.Cohort, world: XorClusters) -> dict[str, float]:
    """The same of exact predictions."""
    batch = test.batch(np.arange(len(test)))
    x_o, x_m = (batch.values[name].numpy()[:, 0] for name in ("x_o", "x_m"))
    left, found = x_o < 0, {}
    for state, known in (("missing", None), ("complete", x_m)):
        predicted = world.bayes_predictions(x_o, known)
        correct = predicted.argmax(1) == test.target
        found[f"accuracy {state}"] = correct.mean()
        found[f"NLL {state}"] = -np.log(predicted[np.arange(len(test)), test.target]).mean()
        for side, chosen in zip(SIDES, (left, ~left)):
            found[f"V {state} {side}"] = world.ideal_variability(x_o, known)[chosen].mean()
            if state == "complete":
                found[f"{state} {side}"] = correct[chosen].mean()
    return {key: float(value) for key, value in found.items()}


def values_of(name: str, seed: int, points: int, labels: str, draws: int, **settings: Any) -> dict[str, Any]:
    """Everything that decides what is found of a model of `ALL`, or of exact predictions ("bayes")."""
    values = {"model": name, "seed": seed, "points": points, "labels": labels}
    if name == "bayes":
        return values
    method, options, complete_only, own = ALL[name]
    encoders = {part: {"name": "mlp", "dropout": 0.0} for part in ("x_o", "x_m")}
    given = {"epochs": 20, "batch_size": 256, "patience": None, **own, **settings}
    fitted = fit_values(method, options=options, encoders=encoders, width=128, seed=seed, **given)
    return {**values, "draws": draws, "complete_only": complete_only, **fitted}


def fit(cell: Cell, rows: amodal.Cohort) -> amodal.TrainedModel:
    """Trains a cell's model on rows that lack what they lack."""
    return fit_cell(
        cell, rows.take(rows.observed.all(axis=1)) if cell["complete_only"] else rows, missingness=Natural()
    )


def half_missing(rows: amodal.Cohort, seed: int) -> amodal.Cohort:
    """Half of the rows lack x_m, once and for all."""
    return rows.with_observed(draw_presence(MCAR({"x_o": 0.0, "x_m": 0.5}), rows, seed).observed)


@functools.lru_cache(1)
def points_of(points: int, labels: Any, seed: int) -> amodal.Cohort:
    return xor_cohort(n=points, labels=labels, seed=seed)


def cohort_of(cell: Cell) -> amodal.Cohort:
    return points_of(cell["points"], cell["labels"], cell["seed"])


def train_and_measure(cell: Cell, cohort: amodal.Cohort, folder: Path) -> dict[str, Any]:
    """The measures of one model, and what the pictures show of it."""
    test = cohort.split("test")
    if cell["model"] == "bayes":
        return ideal(test, XorClusters(labels=cell["labels"]))
    model = fit(cell, half_missing(cohort.split("train"), cell["seed"]))
    found = measure(cell["model"], model, test, cell["draws"])
    return found | for_pictures(cell["model"], model, test, cell["draws"])


def measure_bias(cell: Cell, cohort: amodal.Cohort, folder: Path) -> dict[str, pd.DataFrame]:
    """Section 4.4: oracles learn from half of the points, complete; PRIMO from the other half, masked; and the truth.

    Mean distances between all of them, with the noise floor of the oracles (two seeds), for both PRIMOs.
    """
    world, seed = XorClusters(labels=cell["labels"]), cell["seed"]
    train, test = cohort.split("train"), cohort.split("test")
    order = np.random.default_rng(seed).permutation(len(train))
    theirs, ours = (train.take(np.sort(half)) for half in np.array_split(order, 2))
    x_o, x_m = (test.batch(np.arange(len(test))).values[name].numpy()[:, 0] for name in ("x_o", "x_m"))
    exact = {"missing": world.bayes_predictions(x_o), "complete": world.bayes_predictions(x_o, x_m)}
    seen = {state: in_state(test, state) for state in STATES}

    def trained(name: str, rows: amodal.Cohort, s: int = 0) -> amodal.TrainedModel:
        return fit(Cell(name, cell["fits"][name] | {"seed": seed + s}), rows)

    oracles = {
        f"{name} oracle": [trained(name, theirs, s).predict(seen[state]) for s in (0, 1)]
        for name, state in (("unimodal", "missing"), ("multimodal", "complete"))
    }
    tables = []
    for name in ("primo, paper", "primo"):
        model = trained(name, half_missing(ours, seed))
        predictions = {f"PRIMO, {state}": model.predict(seen[state]) for state in STATES}
        predictions |= {oracle: runs[0] for oracle, runs in oracles.items()}
        predictions |= {f"truth, {state}": exact[state] for state in STATES}
        repeats = {oracle: runs[1:] for oracle, runs in oracles.items()}
        tables.append(distance_table(predictions, repeats=repeats).assign(model=name))
    return {"distances": pd.concat(tables, ignore_index=True)}


def for_pictures(name: str, model: amodal.TrainedModel, test: amodal.Cohort, draws: int) -> dict[str, np.ndarray]:
    """Of some test cases, in both states: the prediction, and if the method draws, one draw of each case and V.

    Arrays x_o, x_m; and for each state mean, one (probability of 1 in one draw), latent (of that draw) and V.
    """
    some = test.take(np.arange(min(1000, len(test))))
    numbers = some.batch(np.arange(len(some))).values
    found = {part: numbers[part].numpy()[:, 0] for part in ("x_o", "x_m")}
    own = np.arange(len(some))  # a draw has the same noise for all cases: each case shows another one
    for state in STATES:
        if (name, state) in NOT_APPLICABLE:
            continue
        cases, method = in_state(some, state), model.method
        found[f"mean {state}"] = found[f"one {state}"] = model.predict(cases)[:, 1]
        if not isinstance(method, LatentMethod):
            continue
        found[f"V {state}"] = amodal.impact(
            model, cases, draws=draws, completions="own", plausible=False, vary=[]
        ).variability
        with inference(method):
            batch = next(model.batches(cases, len(cases)))
            one = method.draw(batch, len(own), torch.Generator().manual_seed(0))
            latent = method.draw_latents(batch, len(own), torch.Generator().manual_seed(0))
        found[f"one {state}"], found[f"latent {state}"] = one[own, own, 1].numpy(), latent[own, own, 0].numpy()
    return {key.replace(" ", "_"): value for key, value in found.items()}


def draw_figures(out: Path, seed: int, frame: pd.DataFrame, swept: Swept, world: XorClusters) -> None:
    """Figures 3, 11 and 12, and V against the ideal, of one seed's models."""
    kept = {one.cell["model"]: one.arrays for one in swept.done if one.cell["seed"] == seed and one.arrays}
    draw_accuracy_and_gap(frame, kept, out / "figure3.svg")
    accuracy = frame.groupby("model")[[f"accuracy {state}" for state in STATES]].mean()
    draw_by_method(kept, "predictions", accuracy, out / "figure11.svg")
    draw_by_method({name: arrays for name, arrays in kept.items() if "latent_missing" in arrays}, "latents",
                   accuracy, out / "figure12.svg")  # fmt: skip
    draw_variability({name: arrays for name, arrays in kept.items() if "V_missing" in arrays}, world, out)


def draw_accuracy_and_gap(frame: pd.DataFrame, kept: Mapping[str, Mapping[str, np.ndarray]], file: Path) -> None:
    """Figure 3: accuracy of every model in both states over the seeds; V missing less V complete of each case."""
    from matplotlib.figure import Figure

    primos = [name for name in ("primo, paper", "primo") if name in kept]
    figure = Figure(figsize=(7 + 3 * len(primos), 4), layout="constrained")
    panels = figure.subplots(1, 1 + len(primos), squeeze=False, width_ratios=[2] + [1] * len(primos))[0]
    names = [name for name in ("bayes", *ALL) if (frame["model"] == name).any()]
    places = np.arange(len(names))
    for state, marker, colour, aside in (("missing", "o", "#c2460b", -0.15), ("complete", "D", "#0068a8", 0.15)):
        found = frame.groupby("model")[f"accuracy {state}"].agg(["mean", "std"]).reindex(names)
        panels[0].errorbar(
            found["mean"], places + aside, xerr=found["std"], fmt=marker, color=colour, ms=5, label=f"x_m {state}"
        )
    panels[0].set_yticks(places, names)
    panels[0].invert_yaxis()
    panels[0].grid(axis="x", alpha=0.3)
    panels[0].set(xlabel="accuracy", title="mean and standard deviation over seeds")
    figure.legend(loc="outside lower left", ncols=2)
    for panel, name in zip(panels[1:], primos):
        gap = kept[name]["V_missing"] - kept[name]["V_complete"]
        dots = panel.scatter(kept[name]["x_o"], kept[name]["x_m"], c=gap, s=6, cmap="viridis", vmin=0, vmax=0.5)
        panel.axvline(0, color="grey", lw=0.5)
        panel.set(title=name, xlabel="x_o", ylabel="x_m")
    if primos:
        figure.colorbar(dots, ax=panels[1:], label="V missing less V complete")
    replace_file(file, figure.savefig)


def draw_by_method(kept: Mapping[str, Mapping[str, np.ndarray]], what: str, accuracy: pd.DataFrame, file: Path) -> None:
    """Figures 11 and 12: one draw of each case, by method and state, coloured by the probability of 1 under it."""
    from matplotlib.figure import Figure

    if not kept:
        return
    figure = Figure(figsize=(2.2 * len(kept), 4.8), layout="constrained")
    panels = figure.subplots(2, len(kept), squeeze=False)
    for column, (name, arrays) in zip(panels.T, kept.items()):
        for panel, state in zip(column, STATES):
            panel.tick_params(labelsize=7)
            right = f" {accuracy.loc[name, f'accuracy {state}']:.3f}" if f"one_{state}" in arrays else ""
            panel.set_title(f"{name}\n{state}{right}", fontsize=9)
            if f"one_{state}" not in arrays:
                say_not_applicable(panel)
                continue
            points = arrays[f"latent_{state}"].T if what == "latents" else (arrays["x_o"], arrays["x_m"])
            panel.scatter(*points, c=arrays[f"one_{state}"], s=4, cmap="coolwarm", vmin=0, vmax=1)
    replace_file(file, figure.savefig)


def say_not_applicable(panel: Any) -> None:
    panel.set_axis_off()
    panel.text(0.5, 0.5, "does not apply", transform=panel.transAxes, ha="center", fontsize=8, color="grey")


def draw_variability(kept: Mapping[str, Mapping[str, np.ndarray]], world: XorClusters, out: Path) -> None:
    """V of each case along x_o, beside the ideal."""
    from matplotlib.figure import Figure

    if not kept:
        return
    figure = Figure(figsize=(2.2 * len(kept), 4.8), layout="constrained")
    panels = figure.subplots(2, len(kept), squeeze=False, sharex=True, sharey=True)
    for column, (name, arrays) in zip(panels.T, kept.items()):
        order = np.argsort(arrays["x_o"])
        for panel, state in zip(column, STATES):
            panel.set_title(f"{name}\n{state}", fontsize=9)
            if f"V_{state}" not in arrays:
                say_not_applicable(panel)
                continue
            known = None if state == "missing" else arrays["x_m"]
            panel.scatter(arrays["x_o"], arrays[f"V_{state}"], s=3, color="#0068a8", label="V")
            panel.plot(arrays["x_o"][order], world.ideal_variability(arrays["x_o"], known)[order], color="#c2460b",
                       label="ideal")  # fmt: skip
            panel.set(ylim=(-0.02, 0.52), xlabel="x_o")
    panels[0, 0].legend(fontsize=8)
    replace_file(out / "variability.svg", figure.savefig)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds, one row a model; the gap is V missing less V complete."""
    drawn = [side for side in SIDES if f"V missing {side}" in frame]
    gaps = {f"gap {side}": frame[f"V missing {side}"] - frame[f"V complete {side}"] for side in drawn}
    frame = frame.drop(columns="seconds").assign(**gaps, seconds=frame["seconds"])
    return mean_and_spread(frame, ["model"], ["bayes", *ALL])


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    parser = recipe_parser(
        __doc__, "runs/xor", methods=list(ALL), flag="--models", seeds=range(4), epochs=20, draws=200
    )
    parser.add_argument("--points", type=int, default=40_000)
    parser.add_argument("--labels", choices=("drawn", "centre"), default="drawn")
    parser.add_argument("--bias", action="store_true", help="also the analysis of bias, of the first seed")
    given = parser.parse_args(arguments)
    common = {"points": given.points, "labels": given.labels, "draws": given.draws, "epochs": given.epochs}
    cells = [
        Cell(f"{name}-seed{seed}", values_of(name, seed, **common))
        for seed in given.seeds
        for name in ("bayes", *given.methods)
    ]
    swept = run_cells(cells, train_and_measure, given, cohort_of)
    frame = swept.frame("model", "seed")
    draw_figures(given.out, given.seeds[0], frame, swept, XorClusters(labels=given.labels))
    found = table(frame)
    print(found.T.to_string())
    if given.bias:
        distances = bias(given, common)
        print(distances.to_string(index=False, float_format="{:.4f}".format))
    return found


def bias(given: Any, common: Mapping[str, Any]) -> pd.DataFrame:
    seed, names = given.seeds[0], ("unimodal", "multimodal", "primo, paper", "primo")
    fits = {name: values_of(name, seed, **common) for name in names}
    cell = Cell(f"bias-seed{seed}", {"seed": seed, "points": given.points, "labels": given.labels, "fits": fits})
    return run_cells([cell], measure_bias, given, cohort_of).done[0].frame("distances")


if __name__ == "__main__":
    main()
