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
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import amodal
from amodal.files import replace_file
from amodal.metrics import resample_counts
from amodal.missingness import MCAR, Natural
from amodal.predictive_impact.bias import distance_table
from amodal.predictive_impact.strata import ecdf
from amodal.removal import draw_presence

NAMES = ("vision", "audio")
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


def train(name: str, rows: amodal.Cohort, valid: amodal.Cohort, present: str, seed: int, epochs: int):
    """Trains one model of `MODELS` on rows that lack what they lack."""
    method, _, complete_only = MODELS[name]
    if complete_only:
        rows, valid = (some.take(some.observed.all(axis=1)) for some in (rows, valid))
    return amodal.fit(
        method,
        rows,
        valid,
        missingness="auto" if name in REMOVAL else Natural(),
        valid_missingness=Natural(),
        options=options_for(name, present),
        encoders=dict.fromkeys(NAMES, "lenet"),
        width=128,
        seed=seed,
        epochs=epochs,
        **TRAINING,
    )


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
    arrays: dict[str, np.ndarray] = {}
    for state, rows in states(test, absent).items():
        if (name, state) in (("unimodal", "complete"), ("multimodal", "missing")):
            continue
        predicted = model.predict(rows)
        likelihood = np.clip(predicted[np.arange(len(test)), test.target], 1e-12, 1)
        found[f"accuracy {state}"] = float((predicted.argmax(1) == test.target).mean())
        found[f"NLL {state}"] = float(-np.log(likelihood).mean())
        arrays[f"predicted {state}"] = predicted.astype(np.float32)
        if name.startswith("primo") and cases:
            result = amodal.impact(model, rows.take(np.arange(min(cases, len(rows)))), draws=draws, vary=[])
            found[f"V {state}"] = float(result.variability.mean())
            arrays[f"V {state}"], arrays[f"mass {state}"] = result.variability, result.plausible_labels.mass
    return found, arrays


def masked(cohort: amodal.Cohort, absent: str, seed: int) -> amodal.Cohort:
    """Half of the rows lack a modality, once and for all."""
    rates = {name: 0.5 if name == absent else 0.0 for name in NAMES}
    return cohort.with_observed(draw_presence(MCAR(rates), cohort, seed).observed)


def run(given: argparse.Namespace) -> pd.DataFrame:
    """Table 1: every model, direction and seed; what is there already is kept."""
    cohort = limited(amodal.load_cohort(given.data), given.limit)
    for seed in given.seeds:
        for absent in given.absent:
            present = NAMES[1 - NAMES.index(absent)]
            rows, valid = (masked(cohort.split(split), absent, seed) for split in ("train", "valid"))
            for name in given.models:
                file = given.out / f"{absent}-{name.replace(', ', '-')}-seed{seed}.json"
                if file.is_file():
                    continue
                started = time.time()
                model = train(name, rows, valid, present, seed, given.epochs)
                trained = time.time() - started
                found, arrays = measure(name, model, cohort.split("test"), absent, given.draws, given.cases)
                found |= validation_accuracy(name, model, cohort.split("valid"), absent)
                replace_file(file.with_suffix(".npz"), lambda path, arrays=arrays: save_arrays(path, arrays))
                epochs = model.experiment["result"]["epochs"]
                record = {"absent": absent, "model": name, "seed": seed, **found}
                record |= {"rows": len(rows), "epochs": epochs, "seconds an epoch": trained / epochs}
                replace_file(file, lambda path, record=record: path.write_text(json.dumps(record, indent=1)))
                shown = "  ".join(f"{key} {value:.3f}" for key, value in record.items() if isinstance(value, float))
                print(f"{absent} absent, {name}, seed {seed}: {shown}", flush=True)
    files = sorted(given.out.glob("*-seed*.json"))
    return pd.DataFrame([json.loads(file.read_text(encoding="utf-8")) for file in files])


def bias(given: argparse.Namespace) -> pd.DataFrame:
    """Figure 10: oracles learn from one half of the training rows, complete; a model from the other, half masked."""
    cohort = limited(amodal.load_cohort(given.data), given.limit)
    found = pd.concat([bias_of(given, cohort, absent) for absent in given.absent], ignore_index=True)
    replace_file(given.out / "bias.csv", lambda path: found.to_csv(path, index=False))
    return found


def bias_of(given: argparse.Namespace, cohort: amodal.Cohort, absent: str) -> pd.DataFrame:
    """The same in one direction. What a network predicts is stored when it is trained; what is there is kept."""
    seed, present = given.seeds[0], NAMES[1 - NAMES.index(absent)]
    rows, valid, test = (cohort.split(split) for split in ("train", "valid", "test"))
    order = np.random.default_rng(seed).permutation(len(rows))
    ours, theirs = (rows.take(np.sort(half)) for half in np.array_split(order, 2))
    view = states(test, absent)

    def predicted(name: str, learnt: amodal.Cohort, checked: amodal.Cohort, shown: list[str], s: int):
        direction = "" if name == "multimodal" else f"{absent}-"  # which learns from the same rows in both
        file = given.out / f"bias-{direction}{name.replace(', ', '-')}-seed{s}.npz"
        if not file.is_file():
            model = train(name, learnt, checked, present, s, given.epochs)
            arrays = {state: model.predict(view[state]) for state in shown}
            replace_file(file, lambda path: save_arrays(path, arrays))
            print(f"bias, {absent} absent: {name}, seed {s}", flush=True)
        with np.load(file, allow_pickle=False) as stored:
            return [stored[state] for state in shown]

    uni, multi = (
        [predicted(name, theirs, valid, [state], s)[0] for s in (seed, seed + 1)]
        for name, state in (("unimodal", "missing"), ("multimodal", "complete"))
    )
    ours, checked = masked(ours, absent, seed), masked(valid, absent, seed)
    missing, complete = predicted(given.bias, ours, checked, ["missing", "complete"], seed)
    table = distance_table(
        {
            "PRIMO, missing": missing,
            "PRIMO, complete": complete,
            "unimodal oracle": uni[0],
            "multimodal oracle": multi[0],
        },
        repeats={"unimodal oracle": [uni[1]], "multimodal oracle": [multi[1]]},
    )
    return table.assign(absent=absent)


def limited(cohort: amodal.Cohort, limit: int | None) -> amodal.Cohort:
    """The first rows of each split."""
    if limit is None:
        return cohort
    return cohort.take(np.concatenate([np.flatnonzero(cohort.splits == s)[:limit] for s in ("train", "valid", "test")]))


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, **{key.replace(" ", "_"): value for key, value in arrays.items()})  # type: ignore[arg-type]


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds, a row a direction and model."""
    shown = ["accuracy missing", "accuracy complete", "NLL missing", "NLL complete", "V missing", "V complete"]
    shown = [name for name in [*shown, "seconds an epoch"] if name in frame]
    grouped = frame.groupby(["absent", "model"])[shown]
    mean, spread = grouped.mean(), grouped.std()
    result = mean.map("{:.4f}".format) + spread.map(lambda value: "" if np.isnan(value) else f" ± {value:.4f}")
    result = result.where(mean.notna(), "")
    result.insert(0, "seeds", grouped.size())
    return result


def differences(given: argparse.Namespace, resamples: int = 2000) -> pd.DataFrame:
    """Accuracy less that of the network with one modality (missing) or both (complete), paired by test case.

    Intervals are for test cases, given the seeds, over which a case's correctness is averaged. Where a direction has no
    multimodal network of its own, the other direction's stands in: it learns from as many complete rows.
    """
    test = limited(amodal.load_cohort(given.data), given.limit).split("test")
    counts = resample_counts(len(test), resamples, np.random.default_rng(0)).astype(np.float32)
    rows = []
    for absent in given.absent:
        for state, reference in (("missing", "unimodal"), ("complete", "multimodal")):
            right = {name: correct_cases(given, absent, name, state, test.target) for name in given.models}
            other = NAMES[1 - NAMES.index(absent)]
            if right.get("multimodal", 0) is None:
                right["multimodal"] = correct_cases(given, other, "multimodal", state, test.target)
            right = {name: case for name, case in right.items() if case is not None}
            for name, case in right.items() if reference in right else ():
                gap = case - right[reference]
                low, high = np.quantile(counts @ gap.astype(np.float32) / counts.sum(1), [0.025, 0.975])
                if name != reference:
                    rows.append((absent, state, name, reference, gap.mean(), low, high))
    return pd.DataFrame(rows, columns=["absent", "state", "model", "less", "accuracy", "2.5 %", "97.5 %"])


def correct_cases(
    given: argparse.Namespace, absent: str, name: str, state: str, target: np.ndarray
) -> np.ndarray | None:
    """The share of seeds that get each test case right, (N,); None if a run is not there or does not predict that."""
    found = []
    for seed in given.seeds:
        file = given.out / f"{absent}-{name.replace(', ', '-')}-seed{seed}.npz"
        if not file.is_file():
            return None
        with np.load(file, allow_pickle=False) as arrays:
            if f"predicted_{state}" not in arrays:
                return None
            found.append(arrays[f"predicted_{state}"].argmax(1) == target)
    return np.mean(found, axis=0)


def shown_file(out: Path, absent: str, seed: int) -> Path | None:
    """Arrays of the first model of `SHOWN` that was run."""
    files = [out / f"{absent}-{name.replace(', ', '-')}-seed{seed}.npz" for name in SHOWN]
    return next((file for file in files if file.is_file()), None)


def extremes(given: argparse.Namespace, absent: str, n: int) -> list[tuple[int, float, np.ndarray]]:
    """The n test cases of largest and the n of smallest V: position, V and mass of each label; empty without a run."""
    file = shown_file(given.out, absent, given.seeds[0])
    if file is None:
        return []
    with np.load(file, allow_pickle=False) as arrays:
        if "V_missing" not in arrays:
            return []
        value, mass = arrays["V_missing"], arrays["mass_missing"]
    order = value.argsort(kind="stable")
    return [(int(case), float(value[case]), mass[case]) for case in [*order[::-1][:n], *order[:n]]]


def gallery(given: argparse.Namespace, cohort: amodal.Cohort, n: int = 4) -> pd.DataFrame:
    """Figure 6: the test cases of largest and of smallest V, with the labels that stay plausible and their mass.

    Beside the table, a picture for each direction: what was seen of these cases, and the labels' masses below.
    """
    rows, test = [], limited(cohort, given.limit).split("test")
    assert test.target is not None
    for absent in given.absent:
        found = extremes(given, absent, n)
        for case, value, mass in found:
            labels = [f"{c} {mass[c]:.0%}" for c in mass.argsort()[::-1] if mass[c] > 0]
            rows.append((absent, test.ids[case], int(test.target[case]), value, ", ".join(labels)))
        if found:
            draw_gallery(test, absent, found, given.out / f"figure6-{absent}.png")
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


def draw_figures(out: Path, absent: Sequence[str], seed: int) -> None:
    """Figures 4 and 5: the distribution functions of V, missing and complete."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(absent), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(absent), squeeze=False)[0], absent):
        axes.set(title=f"{name} may be missing", xlabel="V", ylabel="share of cases", xlim=(0, 0.9), ylim=(0, 1.02))
        file = shown_file(out, name, seed)
        if file is None:
            continue
        with np.load(file, allow_pickle=False) as arrays:
            for state, colour in (("missing", "#c2460b"), ("complete", "#0068a8")):
                if f"V_{state}" in arrays:
                    value, share = ecdf(arrays[f"V_{state}"])
                    mean = arrays[f"V_{state}"].mean()
                    steps = np.append(0.0, value), np.append(0.0, share)
                    axes.step(*steps, where="post", color=colour, label=f"{state}, mean {mean:.3f}")
        axes.legend()
    replace_file(out / "variability.png", lambda path: figure.savefig(path, dpi=150))


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of the cohort")
    parser.add_argument("--out", type=Path, default=Path("runs/avmnist"))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=DEFAULT)
    parser.add_argument("--absent", nargs="+", choices=NAMES, default=["audio", "vision"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--cases", type=int, default=1000, help="test cases that get a V")
    parser.add_argument("--limit", type=int, help="rows of each split, at most")
    parser.add_argument("--bias", choices=MODELS, help="instead of all this the analysis of bias, of this model")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.bias:
        found = bias(given)
        print(found.to_string(index=False, float_format="{:.3f}".format))
        return found
    found = table(run(given))
    print(found.to_string())
    paired = differences(given)
    if len(paired):
        print(paired.to_string(index=False, float_format="{:+.3f}".format))
    examples = gallery(given, amodal.load_cohort(given.data))
    if len(examples):
        print(examples.to_string(index=False, float_format="{:.3f}".format))
        draw_figures(given.out, given.absent, given.seeds[0])
    return found


if __name__ == "__main__":
    main()
