"""The ring: seven fills for absent sensors against the Bayes-optimal accuracy at every number of sensors.

Command:  python recipes/ring.py --out runs/ring
Time:     25 to 60 s a run at 30 epochs, more on a busy core; see the last column of the table it prints
Expected: five seeds with --epochs 30 --schedule cosine --removal balanced --learning-rate 0.003 --draws 5
          --options '{"form": "radial"}' --strategies cf mse ep predictor

          k              1     2     3     4     5     6     8    10    12
          optimal     28.5  60.4  70.3  75.4  78.6  80.9  84.0  85.6  87.0
          cf          27.2  57.8  68.3  73.9  77.4  79.9  83.2  84.7  85.7
          ep          27.7  57.8  68.2  73.8  77.4  79.9  83.2  84.7  85.9
          mse         27.8  58.1  68.6  74.2  77.7  80.0  83.3  84.7  85.9
          predictor   27.1  57.3  67.5  73.0  76.3  79.1  82.5  84.2  85.5

          and one seed with the paper's removal and learning rate: --epochs 30 --schedule cosine --draws 5 --seeds 0
          --options '{"directions": 32, "frequencies": 16}', from which no ordering follows

          k              1     2     3     4     6     8    10    12
          optimal     28.3  60.7  70.0  74.9  80.9  83.5  85.0  86.3
          cf          22.6  53.7  66.2  72.6  79.6  82.8  84.1  84.6
          ep          22.9  53.1  65.9  72.6  79.5  82.5  83.4  84.9
          mse         23.1  53.9  66.5  72.8  79.8  82.6  83.9  84.9
          predictor   23.6  54.4  66.2  72.5  79.3  82.3  83.3  83.9
          learned     24.9  54.7  65.2  71.3  78.3  81.6  83.7  84.6
          zero        25.1  54.6  65.2  71.0  78.5  81.9  83.7  84.8
          mean        20.9  37.1  49.0  57.1  68.8  74.7  79.6  83.5

The defaults, the paper's 100 epochs at a constant rate of 0.001 with each sensor removed with probability one half,
have not been run. That removal leaves one or two of twelve sensors in 2 % of the rows; "balanced" leaves every number
of them equally often. Differences and intervals are in docs/log.md, 2026-11-21.

The synthetic experiment of CEPA (section 3.1, figure 2): the same network with another fill for the slots of absent
sensors. Every strategy of a seed gets the same points; they are drawn anew for each seed, as are the presence in
training and the weights. 500 of the 5,000 training points are held back, and the weights of the epoch with the lowest
validation loss are kept. Accuracy at k is the mean over several draws of k random sensors for each test point; the
optimal accuracy is that of `RingWorld.bayes_predictions` on the same points under the same presence.

"cf, moving weights" is "cf" without the stop-gradient on the kernel's weights. Context diversity is the mean standard
deviation of the contexts' coordinates over the test points, every sensor present with probability one half, divided by
its value at initialisation. Results are written as they come; run the command again to go on where it stopped.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student

from amodal.benchmark import Cell, Swept, fit_cell, fit_values
from amodal.benchmark.recipe import recipe_parser, run_cells
from amodal.checkpoint import TrainedModel, build_method
from amodal.data.cohort import Cohort
from amodal.data.sources.ring import RingWorld, ring_cohort
from amodal.encoders import encode_pooled
from amodal.files import replace_file
from amodal.methods.fills import Fills
from amodal.metrics.collapse import context_diversity
from amodal.schema import Task
from amodal.seeds import forked_rng, mix_seed

STRATEGIES: dict[str, dict[str, Any]] = {
    "cf": {"strategy": "cf"},
    "predictor": {"strategy": "predictor"},
    "mse": {"strategy": "mse"},
    "ep": {"strategy": "ep"},
    "zero": {"strategy": "zero"},
    "cf, moving weights": {"strategy": "cf", "detach_weights": False},
    "learned": {"strategy": "learned"},
    "mean": {"strategy": "mean"},
}
REMOVALS: dict[str, dict[str, Any]] = {"half": {}, "balanced": {"drop": "balanced"}}
COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12)
MAP_COUNTS, MAP_SIDE = (2, 4, 8, 12), 60


def removals(cohort: Cohort, counts: Sequence[int], draws: int, seed: int) -> dict[int, list[np.ndarray]]:
    """For each k some presences (N, M) with exactly k random sensors of every point."""
    generator = np.random.default_rng((seed, 17))
    shape = cohort.observed.shape
    return {k: [generator.random(shape).argsort(1).argsort(1) < k for _ in range(draws)] for k in counts}


def accuracies(predictions: list[np.ndarray], target: np.ndarray) -> float:
    """Mean accuracy over draws."""
    return float(np.mean([(p.argmax(1) == target).mean() for p in predictions]))


def diversity(model: TrainedModel, test: Cohort, seed: int) -> tuple[float, float]:
    """Context diversity of the test points: at the end over at the beginning, and at the end."""
    observed = np.random.default_rng((seed, 18)).random(test.observed.shape) < 0.5
    observed[np.arange(len(test)), np.random.default_rng((seed, 19)).integers(observed.shape[1], size=len(test))] = True
    rows = test.with_observed(observed)
    with forked_rng(torch.device("cpu")):
        torch.manual_seed(mix_seed(seed, 0, 0))  # as `amodal.fit` does
        initial = build_method(model.experiment["spec"], model.schema).eval()
    values = []
    for method in (initial, model.method):
        assert isinstance(method, Fills)
        with torch.no_grad():
            contexts = [method.contexts(*encode_pooled(method.encoders, batch)) for batch in model.batches(rows)]
        values.append(context_diversity(torch.cat(contexts)))
    return values[1] / values[0], values[1]


def plane(world: RingWorld) -> tuple[Cohort, np.ndarray]:
    """A grid over the plane as every sensor reads it without noise, and the true sector of each point."""
    axis = np.linspace(-1.6, 1.6, MAP_SIDE)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    readings = world.read(points @ world.directions.T)
    sectors = world.sector(np.arctan2(points[:, 1], points[:, 0]) % (2 * np.pi))
    values = {name: readings[:, [m]].astype(np.float32) for m, name in enumerate(world.names)}
    return Cohort.from_arrays(values, task=Task("multiclass", classes=tuple(range(world.classes)))), sectors


def decision_maps(model: TrainedModel, world: RingWorld) -> np.ndarray:
    """The predicted sector of every point of the grid from k sensors, the same ones for all: (len(k), side, side)."""
    grid, _ = plane(world)
    order = np.random.default_rng(20).permutation(world.sensors)
    seen = [np.tile(np.isin(np.arange(world.sensors), order[:k]), (len(grid), 1)) for k in MAP_COUNTS]
    sectors = [model.predict(grid.with_observed(observed)).argmax(1) for observed in seen]
    return np.stack(sectors).reshape(-1, MAP_SIDE, MAP_SIDE)


@functools.lru_cache(1)
def points_of(seed: int, points: str) -> Cohort:
    return ring_cohort(seed=seed, **json.loads(points))


def cohort_of(cell: Cell) -> Cohort:
    return points_of(cell["seed"], json.dumps(cell["points"]))


def train_and_measure(cell: Cell, cohort: Cohort, folder: Path) -> dict[str, Any]:
    """Trains a strategy and measures it at every number of sensors; "bayes" is the optimal prediction."""
    train, valid, test = (cohort.split(name) for name in ("train", "valid", cell["split"]))
    presences = removals(test, cell["counts"], cell["draws"], cell["seed"])
    world = RingWorld(*_deviations(cell["points"]))
    if cell["strategy"] == "bayes":
        optimal = {k: [world.bayes_predictions(test, p) for p in presences[k]] for k in presences}
        return {"accuracy": {k: accuracies(predicted, test.target) for k, predicted in optimal.items()}}
    model = fit_cell(cell, train, valid)
    predicted = {k: [model.predict(test.with_observed(p)) for p in presences[k]] for k in presences}
    found: dict[str, Any] = {
        "accuracy": {k: accuracies(predictions, test.target) for k, predictions in predicted.items()},
        "epochs": len(model.history),
        "best_epoch": model.experiment["result"]["best_epoch"],
        "maps": decision_maps(model, world).astype(np.uint8),
    }
    if isinstance(model.method, Fills) and model.method.context is not None:
        found["diversity_kept"], found["diversity"] = diversity(model, test, cell["seed"])
        found |= {f"last_{k}": float(model.history.iloc[-1][k]) for k in model.history if "effective" in k}
        found["diversity_by_epoch"] = [float(value) for value in model.history["context_diversity"]]
    return found


def by_count(swept: Swept) -> pd.DataFrame:
    """One row a seed, strategy and number k of sensors."""
    rows = [
        {**row, "k": int(k), "accuracy": accuracy}
        for row, one in zip(swept.frame("strategy", "seed").to_dict("records"), swept.done)
        for k, accuracy in one.record["accuracy"].items()
    ]
    return pd.DataFrame(rows)


def _deviations(points: Mapping[str, Any]) -> tuple[float, float]:
    radius, noise = points.get("radius", "variance"), points.get("noise", "variance")
    return (0.2 if radius == "variance" else 0.04, 0.15 if noise == "variance" else 0.0225)


def curves(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy in percent, one row a strategy and one column a k, with its number of seeds and its seconds."""
    table = 100 * frame.pivot_table(index="strategy", columns="k", values="accuracy")
    table.insert(0, "seeds", frame.groupby("strategy")["seed"].nunique())
    for column in ("diversity_kept", "last_effective_sample_size", "seconds"):
        if column in frame:
            table[column] = frame.groupby("strategy")[column].mean()
    return table


def differences(frame: pd.DataFrame, one: str, others: Sequence[str]) -> pd.DataFrame:
    """Accuracy of one strategy less that of others, in points, on common seeds, with a 95 % interval over the seeds."""
    wide = 100 * frame.pivot_table(index="seed", columns=["strategy", "k"], values="accuracy")
    rows = []
    for other in others:
        if other == one or other not in wide or one not in wide:
            continue
        gaps = (wide[one] - wide[other]).dropna()
        parts = {**{str(k): gaps[k] for k in gaps}, "mean": gaps.mean(axis=1)}
        for k, gap in parts.items():
            half = student.ppf(0.975, len(gap) - 1) * gap.std() / np.sqrt(len(gap)) if len(gap) > 1 else np.nan
            rows.append((f"{one} - {other}", k, len(gap), gap.mean(), gap.mean() - half, gap.mean() + half))
    return pd.DataFrame(rows, columns=["strategies", "k", "seeds", "difference", "low", "high"])


def draw(frame: pd.DataFrame, swept: Swept, out: Path) -> None:
    """Figure 2 of the paper, its three parts, and accuracy against the number of sensors; SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, part in frame.groupby("strategy"):
        mean = 100 * part.groupby("k")["accuracy"].mean()
        optimal = name == "bayes"
        axes.plot(mean.index, mean, "k--" if optimal else "-", label="optimal" if optimal else name, marker=".")
    axes.set(xlabel="sensors present", ylabel="accuracy in %")
    axes.legend(fontsize=8)
    figures = {"accuracy": figure}
    figures["2a-correlation"] = draw_correlation(pyplot)
    figures["2b-diversity"] = draw_diversity(pyplot, swept)
    figures["2c-maps"] = draw_maps(pyplot, swept)
    for name, made in figures.items():
        if made is not None:
            replace_file(out / f"{name}.svg", lambda path, made=made: made.savefig(path, format="svg"))
            pyplot.close(made)


def draw_correlation(pyplot: Any) -> Any:
    """Figure 2a: correlation of the sensors' readings over the training points of seed 0."""
    train = ring_cohort(seed=0).split("train")
    values = train.batch(np.arange(len(train))).values
    figure, axes = pyplot.subplots(figsize=(4.6, 4), layout="constrained")
    readings = np.concatenate([v.numpy() for v in values.values()], axis=1)
    image = axes.imshow(np.corrcoef(readings.T), vmin=-1, vmax=1, cmap="RdBu_r")
    axes.set(xlabel="sensor", ylabel="sensor")
    figure.colorbar(image, label="correlation")
    return figure


def draw_diversity(pyplot: Any, swept: Swept) -> Any:
    """Figure 2b: diversity of the contexts of validation points, epoch by epoch, with and without the stop-gradient."""
    figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    shown = {"cf": ("C0", "with stop-gradient"), "cf, moving weights": ("C3", "without")}
    for name, (colour, label) in shown.items():
        curves = [one.record.get("diversity_by_epoch", []) for one in swept.done if one.cell["strategy"] == name]
        for i, curve in enumerate(curves):
            axes.plot(np.arange(1, len(curve) + 1), curve, colour, alpha=0.7, label=None if i else label)
    axes.set(xlabel="epoch", ylabel="context diversity", ylim=(0, None))
    if axes.lines:
        axes.legend(fontsize=8)
    return figure


def draw_maps(pyplot: Any, swept: Swept) -> Any:
    """Figure 2c: decisions over the plane, a row for each strategy and a column for each number of sensors."""
    first = min(one.cell["seed"] for one in swept.done)
    shown = {
        one.cell["strategy"]: one.arrays["maps"]
        for one in swept.done
        if one.cell["seed"] == first and "maps" in one.arrays
    }
    if not shown:
        return None
    truth = plane(RingWorld())[1].reshape(MAP_SIDE, MAP_SIDE)
    size = (2 * len(MAP_COUNTS), 2 * (len(shown) + 1))
    figure, grid = pyplot.subplots(len(shown) + 1, len(MAP_COUNTS), figsize=size, layout="constrained", squeeze=False)
    look = {"cmap": "twilight", "vmin": 0, "vmax": 16, "origin": "lower", "extent": (-1.6, 1.6, -1.6, 1.6)}
    for row, name in enumerate([*shown, "true sector"]):
        maps = shown.get(name, [truth] * len(MAP_COUNTS))
        for column, k in enumerate(MAP_COUNTS):
            axes = grid[row, column]
            axes.imshow(maps[column], **look)
            axes.set(xticks=[], yticks=[], title=f"k = {k}" if row == 0 else "")
        grid[row, 0].set_ylabel(name)
    return figure


def cells(given: Any) -> list[Cell]:
    """The optimum and every strategy, seed by seed."""
    training = {"epochs": given.epochs, "schedule": given.schedule, "learning_rate": given.learning_rate}
    training |= {"warmup": 0.0, "weight_decay": 1e-2, "batch_size": 128, "clip": None, "patience": None}
    measured = {name: getattr(given, name) for name in ("points", "split", "counts", "draws")}
    encoders = {sensor: {"name": "linear", "clip": None} for sensor in RingWorld().names}
    listed = []
    for seed in given.seeds:
        listed.append(Cell(f"bayes-seed{seed}", {"strategy": "bayes", "seed": seed, **measured}))
        for name in given.methods:
            options = {**STRATEGIES[name], **REMOVALS[given.removal], **given.options}
            fitted = fit_values("fills", options=options, encoders=encoders, width=32, seed=seed, **training)
            listed.append(Cell(f"{name}-seed{seed}", {"strategy": name, **measured, **fitted}))
    return listed


def main(words: list[str] | None = None) -> pd.DataFrame:
    parser = recipe_parser(__doc__, "runs/ring", methods=list(STRATEGIES), flag="--strategies", epochs=100, draws=10)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--schedule", default="constant", help="of the learning rate: constant or cosine")
    parser.add_argument(
        "--removal",
        default="half",
        choices=list(REMOVALS),
        help="of sensors in training: each one with probability one half, or a balanced number of them",
    )
    parser.add_argument("--split", default="test", choices=["test", "valid"], help="points to judge by")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="numbers k of sensors")
    parser.add_argument("--points", type=json.loads, default={}, help="options of the cohort, as JSON")
    parser.add_argument("--options", type=json.loads, default={}, help="further options of the method, as JSON")
    given = parser.parse_args(words)
    swept = run_cells(cells(given), train_and_measure, given, cohort_of)
    frame = by_count(swept)
    table = curves(frame)
    gaps = pd.concat(
        [differences(frame, "cf", given.methods)]
        + [differences(frame, "bayes", [name]) for name in given.methods]  # how far from the optimum
    )
    replace_file(given.out / "curves.csv", lambda path: table.to_csv(path))
    replace_file(given.out / "differences.csv", lambda path: gaps.to_csv(path, index=False))
    draw(frame, swept, given.out)
    print(table.to_string(float_format=lambda value: f"{value:.1f}"))
    print(gaps.to_string(index=False, float_format=lambda value: f"{value:.2f}"))
    print(f"The results are in {given.out}")
    return table


if __name__ == "__main__":
    main()
