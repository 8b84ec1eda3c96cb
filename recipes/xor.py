"""XOR: does PRIMO say what a missing number could still change? Accuracy and V where both are known exactly.

Command:  python recipes/xor.py --out runs/xor
Time:     on a core to itself about 35 s for a PRIMO and 10 s for another model, seven minutes for all
Expected: mean ± standard deviation over four seeds; L: x_o < 0, R: x_o > 0

                   bayes            unimodal         multimodal       modality_dropout  primo, paper     primo
accuracy missing   0.6591 ± 0.0055  0.6568 ± 0.0048                   0.6564 ± 0.0056   0.6576 ± 0.0055  0.6543 ± 0.0026
NLL missing        0.5117 ± 0.0056  0.5122 ± 0.0056                   0.5120 ± 0.0056   0.5165 ± 0.0050  0.5135 ± 0.0064
V missing L        0.4993 ± 0.0001                                                      0.2935 ± 0.0107  0.4945 ± 0.0012
V missing R        0.0771 ± 0.0002                                                      0.0309 ± 0.0069  0.0440 ± 0.0048
accuracy complete  1.0000 ± 0.0000                   0.9997 ± 0.0001  0.9993 ± 0.0004   0.9831 ± 0.0017  0.9995 ± 0.0006
NLL complete       0.0000 ± 0.0000                   0.0014 ± 0.0002  0.0031 ± 0.0006   0.2729 ± 0.0066  0.0052 ± 0.0012
V complete L       0.0000 ± 0.0000                                                      0.2480 ± 0.0086  0.0050 ± 0.0026
complete L         1.0000 ± 0.0000                   0.9998 ± 0.0001  0.9997 ± 0.0003   0.9972 ± 0.0027  0.9996 ± 0.0005
V complete R       0.0000 ± 0.0000                                                      0.0329 ± 0.0062  0.0055 ± 0.0021
complete R         1.0000 ± 0.0000                   0.9996 ± 0.0004  0.9986 ± 0.0007   0.9559 ± 0.0045  0.9994 ± 0.0008
gap L              0.4993 ± 0.0001                                                      0.0455 ± 0.0022  0.4895 ± 0.0035
gap R              0.0771 ± 0.0002                                                     -0.0020 ± 0.0015  0.0385 ± 0.0061

Beside the figures, one picture for each PRIMO (the first seed): latents, predictions and V along x_o.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import amodal
from amodal.checkpoint import inference
from amodal.data.xor import XorClusters, xor_cohort
from amodal.files import replace_file
from amodal.missingness import MCAR, Natural
from amodal.removal import draw_presence

PRIMO = {"always_observed": ["x_o"], "latent": 2, "prediction_draws": 200}
PAPER = {"learning_rate": 1e-3, "weight_decay": 1e-4, "schedule": "constant", "warmup": 0.0, "clip": None}
# method, its options, whether complete rows only, settings of training (the others: the library's)
MODELS: dict[str, tuple[str, dict[str, Any], bool, dict[str, Any]]] = {
    "unimodal": ("unimodal", {"modality": "x_o"}, False, {}),
    "multimodal": ("fusion", {"dropout": 0.0}, True, {}),
    "modality_dropout": ("modality_dropout", {"dropout": 0.0}, False, {}),
    "primo, paper": ("primo", {**PRIMO, "preset": "paper"}, False, PAPER),
    "primo": ("primo", PRIMO, False, {}),
}
BASELINES: dict[str, tuple[str, dict[str, Any], bool, dict[str, Any]]] = {
    "mvae": ("mvae", {"latent": 2, "prediction_draws": 200}, False, {}),
    "mmvae": ("mmvae", {"latent": 2, "prediction_draws": 200}, False, {}),
    "cmmd": ("cmmd", {"always_observed": ["x_o"], "latent": 2}, False, {}),
    "lvae": ("lvae", {"always_observed": ["x_o"], "latent": 2, "prediction_draws": 200}, False, {}),
}
NOT_APPLICABLE = (("unimodal", "complete"), ("multimodal", "missing"), ("cmmd", "complete"))
SIDES = ("L", "R")


def measure(name: str, model: amodal.TrainedModel, test: amodal.Cohort, draws: int) -> dict[str, float]:
    """Accuracy, likelihood and, for PRIMO, V of one model, with x_m missing and present, by side of x_o."""
    left = test.batch(np.arange(len(test))).values["x_o"].numpy()[:, 0] < 0
    rows = {"missing": np.tile([True, False], (len(test), 1)), "complete": np.ones((len(test), 2), dtype=bool)}
    found: dict[str, float] = {}
    for state, presence in rows.items():
        if (name, state) in NOT_APPLICABLE:
            continue
        cases = test.with_observed(presence)
        if name.startswith("primo"):
            result = amodal.impact(model, cases, draws=draws, plausible=False, vary=[])
            predicted = result.prediction
            for side, chosen in zip(SIDES, (left, ~left)):
                found[f"V {state} {side}"] = float(result.variability[chosen].mean())
        else:
            predicted = model.predict(cases)
        correct = predicted.argmax(1) == test.target
        found[f"accuracy {state}"] = float(correct.mean())
        found[f"NLL {state}"] = float(-np.log(np.clip(predicted[np.arange(len(test)), test.target], 1e-12, 1)).mean())
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


def run(
    out: Path,
    names: Sequence[str],
    seeds: Sequence[int],
    *,
    points: int = 40_000,
    labels: str = "drawn",
    draws: int = 200,
    epochs: int = 20,
    **settings: Any,
) -> pd.DataFrame:
    """Trains each model for each seed and measures it.

    Args:
        out: Folder of the results, one file a run.
        names: Keys of `MODELS` or `BASELINES`.
        seeds: Seeds of points, removal and training.
        points: Number of points drawn.
        labels: "drawn" or "centre"; see `XorClusters`.
        draws: Draws of V and of PRIMO's predictions.
        epochs: Passes over the training points.
        **settings: Further arguments of `amodal.fit`, for all models.

    Returns:
        One row a model and seed.
    """
    for seed in seeds:
        cohort = xor_cohort(n=points, labels=labels, seed=seed)  # type: ignore[arg-type]
        train, test = cohort.split("train"), cohort.split("test")
        train = train.with_observed(draw_presence(MCAR({"x_o": 0.0, "x_m": 0.5}), train, seed).observed)
        optimal = out / f"bayes-seed{seed}.json"
        if not optimal.is_file():
            write(optimal, {"model": "bayes", "seed": seed, **ideal(test, XorClusters(labels=labels))})  # type: ignore[arg-type]
        for name in names:
            file = out / f"{name.replace(', ', '-')}-seed{seed}.json"
            if file.is_file():
                continue
            method, options, complete_only, own = {**MODELS, **BASELINES}[name]
            rows = train.take(train.observed.all(axis=1)) if complete_only else train
            started = time.time()
            model = amodal.fit(
                method,
                rows,
                missingness=Natural(),
                options=options,
                encoders={part: {"name": "mlp", "dropout": 0.0} for part in ("x_o", "x_m")},
                width=128,
                seed=seed,
                **{"epochs": epochs, "batch_size": 256, "patience": None, **own, **settings},
            )
            record = {
                "model": name,
                "seed": seed,
                **measure(name, model, test, draws),
                "seconds": time.time() - started,
            }
            write(file, record)
            if name.startswith("primo") and seed == seeds[0]:
                draw_picture(model, test, XorClusters(labels=labels), file.with_suffix(".svg"))  # type: ignore[arg-type]
            shown = "  ".join(f"{key} {value:.3f}" for key, value in record.items() if isinstance(value, float))
            print(f"{name} seed {seed}: {shown}", flush=True)
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(out.glob("*-seed*.json"))]
    return pd.DataFrame(records)


def draw_picture(model: amodal.TrainedModel, test: amodal.Cohort, world: XorClusters, file: Path) -> None:
    """Latents and predictions of a PRIMO: where draws lie with x_m missing and present, and V along x_o.

    Args:
        model: A trained PRIMO with a latent of two dimensions.
        test: Cases with both numbers.
        world: The truth.
        file: An .svg or .png file.
    """
    from matplotlib.figure import Figure

    some = test.take(np.arange(min(600, len(test))))
    numbers = some.batch(np.arange(len(some))).values
    x_o, x_m = (numbers[name].numpy()[:, 0] for name in ("x_o", "x_m"))
    order = np.argsort(x_o)
    figure = Figure(figsize=(10.5, 6.2), layout="constrained")
    panels = figure.subplots(2, 3)
    for row, missing in zip(panels, (True, False)):
        state = "x_m missing" if missing else "complete"
        cases = some.with_observed(np.tile([True, not missing], (len(some), 1)))
        result = amodal.impact(model, cases, draws=200, plausible=False, vary=[])
        with inference(model.method):
            batch = next(model.batches(cases, len(cases)))
            own = np.arange(len(cases))  # a draw has the same noise for all cases: each case shows another one
            latents = model.method.draw_latents(batch, len(own), torch.Generator().manual_seed(0))  # type: ignore[operator]
            one = model.method.draw(batch, len(own), torch.Generator().manual_seed(0))[own, own, 1]  # type: ignore[operator]
            latents = latents[own, own, 0]
        row[0].scatter(*latents.numpy().T, c=one.numpy(), s=7, cmap="coolwarm", vmin=0, vmax=1)
        row[0].set(title=f"{state}: a draw of each case", xlabel="latent 1", ylabel="latent 2")
        row[1].scatter(x_o, x_m, c=result.prediction[:, 1], s=7, cmap="coolwarm", vmin=0, vmax=1)
        row[1].set(title="mean prediction of 1", xlabel="x_o", ylabel="x_m")
        row[2].scatter(x_o, result.variability, s=6, color="#0068a8", label="V")
        known = None if missing else x_m
        row[2].plot(x_o[order], world.ideal_variability(x_o, known)[order], color="#c2460b", label="ideal")
        row[2].set(title="V of each case", xlabel="x_o", ylabel="V", ylim=(-0.02, 0.52))
        row[2].legend()
    replace_file(file, lambda path: figure.savefig(path, format=file.suffix[1:]))


def write(file: Path, record: Mapping[str, Any]) -> None:
    replace_file(file, lambda path: Path(path).write_text(json.dumps(record, indent=1), encoding="utf-8"))


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds, one row a model; the gap is V missing less V complete."""
    gaps = {f"gap {side}": frame[f"V missing {side}"] - frame[f"V complete {side}"] for side in SIDES}
    frame = frame.drop(columns="seconds").assign(**gaps, seconds=frame["seconds"])
    grouped = frame.drop(columns="seed").groupby("model", sort=False)
    mean, spread = grouped.mean(), grouped.std()
    result = mean.map("{:.4f}".format) + spread.map(lambda value: "" if np.isnan(value) else f" ± {value:.4f}")
    result = result.where(mean.notna(), "")
    result.insert(0, "seeds", grouped.size())
    return result.reindex([name for name in ("bayes", *MODELS, *BASELINES) if name in result.index])


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/xor"))
    parser.add_argument("--models", nargs="+", choices=[*MODELS, *BASELINES], default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--points", type=int, default=40_000)
    parser.add_argument("--labels", choices=("drawn", "centre"), default="drawn")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--draws", type=int, default=200)
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    frame = run(
        given.out,
        given.models,
        given.seeds,
        points=given.points,
        labels=given.labels,
        epochs=given.epochs,
        draws=given.draws,
    )
    found = table(frame)
    print(found.T.to_string())
    return found


if __name__ == "__main__":
    main()
