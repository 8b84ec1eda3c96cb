"""AV-MNIST: one of two modalities is missing for half of the training cases, and for all or none of the test cases.

Command:  amodal data prepare avmnist --mnist DIR --fsdd DIR --esc50 DIR --out data/avmnist
          python recipes/avmnist.py --data data/avmnist --out runs/avmnist
          python recipes/avmnist.py --data data/avmnist --out runs/avmnist --bias "primo, predictive"
Time:     at full size, seconds an epoch on a core: unimodal 9 (vision) and 75 (audio), multimodal 80, primo 45 (audio
          may be missing) and 70 to 90 (vision); on a busy machine twice that. Validation included; prediction and V
          take a minute a run.
Expected: --epochs 8 --cases 500 --draws 200, and --seeds and --models as named (points less unimodal, multimodal,
          paired by case; the multimodal network is that with audio missing)
          --absent audio      seeds  accuracy missing     complete             V missing   complete
          unimodal            0-2           0.661
          multimodal          0-2                                0.702
          primo, predictive   0-2           0.657 (-0.3)         0.731 (+2.9)          0.263      0.184
          primo, all latent   0-1           0.655 (-0.8)         0.726 (+2.1)          0.284      0.177
          primo, paper        0             0.657 (-0.2)         0.656 (-4.4)          0.021      0.022
          primo, paper, 128   0             0.656 (-0.3)         0.656 (-4.4)          0.031      0.031
          --absent vision
          unimodal            0-1           0.440
          primo, all latent   0-1           0.442 (+0.2)         0.715 (+0.9)          0.243      0.174
          unimodal            0             0.448
          primo, predictive   0             0.435 (-1.3)         0.717 (+1.6)          0.221      0.194
          "primo, all latent" was run on another machine, as was what it is compared with. The paper, 30 epochs:
          audio missing 0.642 (x_o), 0.631 (PRIMO), complete 0.711 (both), 0.682 (PRIMO); vision missing 0.404, 0.376,
          complete 0.713, 0.683. More in docs/log.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import amodal
from amodal.benchmark import Cell, Done, Swept, fit_cell, fit_values
from amodal.benchmark.recipe import accuracy_and_nll, mean_and_spread, recipe_parser, run_cells
from amodal.files import replace_file
from amodal.metrics import resample_counts
from amodal.missingness import MCAR, Natural
from amodal.predictive_impact.bias import distance_table
from amodal.predictive_impact.strata import ecdf
from amodal.presence import draw_presence

NAMES = ("vision", "audio")
STATES = ("missing", "complete")
# method, its options, whether it learns from complete rows only
MODELS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "unimodal": ("unimodal", {"dropout": 0.0}, False),
    "multimodal": ("i2m2", {"dropout": 0.0}, True),
    "modality_dropout": ("modality_dropout", {"dropout": 0.0}, False),
    "primo, paper": ("primo", {"preset": "paper"}, False),
    "primo, paper, 128": ("primo", {"preset": "paper", "latent": 128}, False),  # the other reading of its "128"
    "primo": ("primo", {}, False),
    "primo, also masked": ("primo", {"also_masked": True}, False),
    "primo, removal": ("primo", {"also_masked": True}, False),
    # Neither modality reaches the decoder but through a latent, also the one that is always there.
    "primo, all latent": ("primo", {"also_masked": True, "always_observed": []}, False),
    "primo, predictive": ("primo", {"preset": "predictive", "always_observed": []}, False),
    "mvae": ("mvae", {}, False),
    "mmvae": ("mmvae", {}, False),
}
# These learn from rows of which either modality is removed further, anew in every epoch (the default of `amodal.fit`).
REMOVAL = ("modality_dropout", "primo, removal", "primo, all latent", "primo, predictive")
DEFAULT = ["unimodal", "multimodal", "modality_dropout", "primo, paper", "primo, all latent", "primo, predictive"]
SHOWN = ("primo, predictive", "primo, all latent", "primo")  # whose V the figures show: the first of them that was run
# The epoch with the fewest wrong validation predictions, as in MultiBench: the loss prefers one before networks grow
# overconfident of the sounds they know.
TRAINING = {"learning_rate": 5e-4, "weight_decay": 1e-2, "batch_size": 128, "clip": 8.0} | {
    "patience": None,
    "best_by": "error",
}


def options_for(name: str, present: str) -> dict[str, Any]:
    """Options of a model when `present` is the modality that is always there."""
    method, options, _ = MODELS[name]
    if method == "unimodal":
        return {**options, "modality": present}
    return {"always_observed": [present], **options} if method == "primo" else options


def values_of(name: str, absent: str, seed: int, epochs: int) -> dict[str, Any]:
    """The values that decide a trained model when `absent` may be missing."""
    options = options_for(name, NAMES[1 - NAMES.index(absent)])
    training = {"epochs": epochs, **TRAINING}
    encoders = dict.fromkeys(NAMES, "lenet")
    fitted = fit_values(MODELS[name][0], options=options, encoders=encoders, width=128, seed=seed, **training)
    return {"model": name, "complete_only": MODELS[name][2], "removal": name in REMOVAL, **fitted}


def train(cell: Cell, rows: amodal.Cohort, valid: amodal.Cohort) -> amodal.TrainedModel:
    """Trains a cell's model on rows that lack what they lack."""
    if cell["complete_only"]:
        rows, valid = (some.take(some.observed.all(axis=1)) for some in (rows, valid))
    removal = "auto" if cell["removal"] else Natural()
    return fit_cell(cell, rows, valid, missingness=removal, valid_missingness=Natural())


def states(cohort: amodal.Cohort, absent: str) -> dict[str, amodal.Cohort]:
    """All cases with one modality withheld, and with both."""
    kept = np.tile([name != absent for name in NAMES], (len(cohort), 1))
    return {"missing": cohort.with_observed(kept), "complete": cohort}


def validation_accuracy(name: str, model: amodal.TrainedModel, valid: amodal.Cohort, absent: str) -> dict[str, float]:
    """Accuracy on all validation cases, for choosing among variants of a model."""
    return {
        f"validation {state}": float((model.predict(rows).argmax(1) == rows.target).mean())
        for state, rows in states(valid, absent).items()
        if (name, state) not in (("unimodal", "complete"), ("multimodal", "missing"))
    }


def measure(name: str, model: amodal.TrainedModel, test: amodal.Cohort, absent: str, draws: int, cases: int):
    """Accuracy and likelihood, and for models that draw, V and plausible labels of the first `cases` test cases."""
    found: dict[str, Any] = {}
    for state, rows in states(test, absent).items():
        if (name, state) in (("unimodal", "complete"), ("multimodal", "missing")):
            continue
        predicted = model.predict(rows)
        found |= accuracy_and_nll(predicted, test.target, state)
        found[f"predicted_{state}"] = predicted.astype(np.float32)
        if name.startswith("primo") and cases:
            some = rows.take(np.arange(min(cases, len(rows))))
            result = amodal.impact(model, some, draws=draws, completions="own", plausible="paper", vary=[])
            found[f"V {state}"] = float(result.variability.mean())
            found[f"V_{state}"], found[f"mass_{state}"] = result.variability, result.plausible_labels.mass
    return found


def masked(cohort: amodal.Cohort, absent: str, seed: int) -> amodal.Cohort:
    """Half of the rows lack a modality, once and for all."""
    rates = {name: 0.5 if name == absent else 0.0 for name in NAMES}
    return cohort.with_observed(draw_presence(MCAR(rates), cohort, seed).observed)


def train_and_measure(cell: Cell, cohort: amodal.Cohort, folder: Path) -> dict[str, Any]:
    """Table 1: a model in one direction."""
    rows, valid = (masked(cohort.split(split), cell["absent"], cell["seed"]) for split in ("train", "valid"))
    model = train(cell, rows, valid)
    found = measure(cell["model"], model, cohort.split("test"), cell["absent"], cell["draws"], cell["cases"])
    found |= validation_accuracy(cell["model"], model, cohort.split("valid"), cell["absent"])
    result = model.experiment["result"]
    return found | {
        "rows": len(rows),
        "epochs": result["epochs"],
        "seconds an epoch": result["seconds"] / result["epochs"],
    }


def cells(given: argparse.Namespace) -> list[Cell]:
    """One for each seed, direction and model."""
    return [
        Cell(
            f"{absent}-{name}-seed{seed}",
            {"absent": absent, "draws": given.draws, "cases": given.cases}
            | values_of(name, absent, seed, given.epochs),
        )
        for seed in given.seeds
        for absent in given.absent
        for name in given.methods
    ]


def predict_for_bias(cell: Cell, cohort: amodal.Cohort, folder: Path) -> dict[str, np.ndarray]:
    """Figure 10: what an oracle of one half of the training rows, or a model of the other, half masked, predicts."""
    absent, seed = cell["absent"], cell["of"]
    rows, valid, test = (cohort.split(split) for split in ("train", "valid", "test"))
    order = np.random.default_rng(seed).permutation(len(rows))
    ours, theirs = (rows.take(np.sort(half)) for half in np.array_split(order, 2))
    if not cell["oracle"]:
        theirs, valid = masked(ours, absent, seed), masked(valid, absent, seed)
    model, view = train(cell, theirs, valid), states(test, absent)
    return {state: model.predict(view[state]) for state in cell["states"]}


def bias(given: argparse.Namespace, cohort: amodal.Cohort) -> pd.DataFrame:
    """Distances between the predictions of a model and of two oracles, with the noise floor of two seeds."""
    seed, tables = given.seeds[0], []
    for absent in given.absent:
        listed = [
            (name, s, [state], True, direction)
            for name, state, direction in (("unimodal", "missing", absent), ("multimodal", "complete", NAMES[0]))
            for s in (seed, seed + 1)
        ]
        cells = [
            Cell(
                f"bias-{direction}-{name}-seed{s}",
                {"absent": direction, "of": seed, "oracle": oracle, "states": shown}
                | values_of(name, direction, s, given.epochs),
            )
            for name, s, shown, oracle, direction in [*listed, (given.bias, seed, [*STATES], False, absent)]
        ]
        uni, again, multi, more, model = (one.arrays for one in run_cells(cells, predict_for_bias, given, cohort).done)
        predictions = {f"PRIMO, {state}": model[state] for state in STATES}
        predictions |= {"unimodal oracle": uni["missing"], "multimodal oracle": multi["complete"]}
        repeats = {"unimodal oracle": [again["missing"]], "multimodal oracle": [more["complete"]]}
        tables.append(distance_table(predictions, repeats=repeats).assign(absent=absent))
    found = pd.concat(tables, ignore_index=True)
    replace_file(given.out / "bias.csv", lambda path: found.to_csv(path, index=False))
    return found


def limited(cohort: amodal.Cohort, limit: int | None) -> amodal.Cohort:
    """The first rows of each split."""
    if limit is None:
        return cohort
    return cohort.take(np.concatenate([np.flatnonzero(cohort.splits == s)[:limit] for s in ("train", "valid", "test")]))


def table(swept: Swept) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds, a row a direction and model."""
    frame = swept.frame("absent", "model", "seed")
    shown = ["accuracy missing", "accuracy complete", "NLL missing", "NLL complete", "V missing", "V complete"]
    shown = [name for name in [*shown, "seconds an epoch"] if name in frame]
    return mean_and_spread(frame[["absent", "model", "seed", *shown]], ["absent", "model"], MODELS)


def differences(swept: Swept, test: amodal.Cohort, resamples: int = 2000) -> pd.DataFrame:
    """Accuracy less that of the network with one modality (missing) or both (complete), paired by test case.

    Intervals are for test cases, given the seeds, over which a case's correctness is averaged. Where a direction has no
    multimodal network of its own, the other direction's stands in: it learns from as many complete rows.
    """
    counts = resample_counts(len(test), resamples, np.random.default_rng(0)).astype(np.float32)
    rows = []
    for absent in dict.fromkeys(one.cell["absent"] for one in swept.done):
        for state, reference in (("missing", "unimodal"), ("complete", "multimodal")):
            right = {
                name: correct_cases(swept, absent, name, state, test.target)
                for name in dict.fromkeys(one.cell["model"] for one in swept.done)
            }
            other = NAMES[1 - NAMES.index(absent)]
            if right.get("multimodal", 0) is None:
                right["multimodal"] = correct_cases(swept, other, "multimodal", state, test.target)
            right = {name: case for name, case in right.items() if case is not None}
            for name, case in right.items() if reference in right else ():
                gap = case - right[reference]
                low, high = np.quantile(counts @ gap.astype(np.float32) / counts.sum(1), [0.025, 0.975])
                if name != reference:
                    rows.append((absent, state, name, reference, gap.mean(), low, high))
    return pd.DataFrame(rows, columns=["absent", "state", "model", "less", "accuracy", "2.5 %", "97.5 %"])


def correct_cases(swept: Swept, absent: str, name: str, state: str, target: Any) -> np.ndarray | None:
    """The share of seeds that get each test case right, (N,); None if there is no run or it does not predict that."""
    runs = [one for one in swept.done if (one.cell["absent"], one.cell["model"]) == (absent, name)]
    right = [one.arrays[f"predicted_{state}"].argmax(1) == target for one in runs if f"predicted_{state}" in one.arrays]
    return np.mean(right, axis=0) if right else None


def shown_run(swept: Swept, absent: str) -> Done | None:
    """The first model of `SHOWN` that was run, of the first seed."""
    runs = {one.cell["model"]: one for one in reversed(swept.done) if one.cell["absent"] == absent}
    return next((runs[name] for name in SHOWN if name in runs and "V_missing" in runs[name].arrays), None)


def extremes(run: Done, n: int) -> list[tuple[int, float, np.ndarray]]:
    """The n test cases of largest and the n of smallest V: position, V and mass of each label."""
    value, mass = run.arrays["V_missing"], run.arrays["mass_missing"]
    order = value.argsort(kind="stable")
    return [(int(case), float(value[case]), mass[case]) for case in [*order[::-1][:n], *order[:n]]]


def gallery(swept: Swept, test: amodal.Cohort, out: Path, n: int = 4) -> pd.DataFrame:
    """Figure 6: the test cases of largest and of smallest V, with the labels that stay plausible and their mass.

    Beside the table, a picture for each direction: what was seen of these cases, and the labels' masses below.
    """
    rows = []
    assert test.target is not None
    for absent in dict.fromkeys(one.cell["absent"] for one in swept.done):
        run = shown_run(swept, absent)
        found = [] if run is None else extremes(run, n)
        for case, value, mass in found:
            labels = [f"{c} {mass[c]:.0%}" for c in mass.argsort()[::-1] if mass[c] > 0]
            rows.append((absent, test.ids[case], int(test.target[case]), value, ", ".join(labels)))
        if found:
            draw_gallery(test, absent, found, out / f"figure6-{absent}.png")
    return pd.DataFrame(rows, columns=["absent", "case", "truth", "V missing", "plausible labels"])


def draw_gallery(test: amodal.Cohort, absent: str, found: list[tuple[int, float, np.ndarray]], file: Path) -> None:
    from matplotlib.figure import Figure

    assert test.target is not None
    seen = test.batch(np.array([case for case, _, _ in found])).values[NAMES[1 - NAMES.index(absent)]].numpy()
    figure = Figure(figsize=(1.3 * len(found), 3.2), layout="constrained")
    panels = figure.subplots(2, len(found), squeeze=False)
    for (picture, bars), image, (case, value, mass) in zip(panels.T, seen, found):
        picture.imshow(image[0], cmap="gray")
        picture.set_title(f"V = {value:.2f}", fontsize=9)
        picture.set_axis_off()
        bars.bar(range(10), mass, color=["#c2460b" if c == test.target[case] else "#9a9a9a" for c in range(10)])
        bars.set(ylim=(0, 1), yticks=[])
        bars.set_xticks(range(10), [str(c) for c in range(10)], fontsize=7)
    figure.supxlabel(f"{absent} missing; mass of the plausible digits (red: the truth)", fontsize=9)
    replace_file(file, lambda path: figure.savefig(path, dpi=150))


def draw_figures(swept: Swept, absent: Sequence[str], out: Path) -> None:
    """Figures 4 and 5: the distribution functions of V, missing and complete."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(absent), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(absent), squeeze=False)[0], absent):
        axes.set(title=f"{name} may be missing", xlabel="V", ylabel="share of cases", xlim=(0, 0.9), ylim=(0, 1.02))
        run = shown_run(swept, name)
        for state, colour in (("missing", "#c2460b"), ("complete", "#0068a8")) if run is not None else ():
            value, share = ecdf(run.arrays[f"V_{state}"])
            steps = np.append(0.0, value), np.append(0.0, share)
            label = f"{state}, mean {run.arrays[f'V_{state}'].mean():.3f}"
            axes.step(*steps, where="post", color=colour, label=label)
        axes.legend()
    replace_file(out / "variability.png", lambda path: figure.savefig(path, dpi=150))


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    parser = recipe_parser(
        __doc__, "runs/avmnist", methods=list(MODELS), chosen=DEFAULT, flag="--models", epochs=30, draws=500
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of the cohort")
    parser.add_argument("--absent", nargs="+", choices=NAMES, default=["audio", "vision"])
    parser.add_argument("--cases", type=int, default=1000, help="test cases that get a V")
    parser.add_argument("--limit", type=int, help="rows of each split, at most")
    parser.add_argument("--bias", choices=MODELS, help="instead of all this the analysis of bias, of this model")
    given = parser.parse_args(arguments)
    cohort = limited(amodal.load_cohort(given.data), given.limit)
    if given.bias:
        found = bias(given, cohort)
        print(found.to_string(index=False, float_format="{:.3f}".format))
        return found
    swept = run_cells(cells(given), train_and_measure, given, cohort)
    found, test = table(swept), cohort.split("test")
    print(found.to_string())
    paired = differences(swept, test)
    if len(paired):
        print(paired.to_string(index=False, float_format="{:+.3f}".format))
    examples = gallery(swept, test, given.out)
    if len(examples):
        print(examples.to_string(index=False, float_format="{:.3f}".format))
        draw_figures(swept, given.absent, given.out)
    return found


if __name__ == "__main__":
    main()
