"""Shared parts of recipes: their command line, their sweep with a line a cell, and their tables over seeds."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from amodal.benchmark.cells import Cell, Done, Work
from amodal.benchmark.run import Progress
from amodal.benchmark.sweep import CellProgress, Swept, sweep
from amodal.data import Cohort

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["accuracy_and_nll", "mean_and_spread", "recipe_parser", "run_cells", "tell_run"]


def recipe_parser(
    doc: str | None,
    out: str,
    *,
    methods: Sequence[str] | None = None,
    chosen: Sequence[str] | None = None,
    flag: str = "--methods",
    seeds: Sequence[int] | None = (0, 1, 2, 3, 4),
    epochs: int | None = None,
    draws: int | None = None,
) -> argparse.ArgumentParser:
    """The parser of a recipe's command line, with the arguments that most recipes have.

    Args:
        doc: The recipe's docstring; its first line is the description.
        out: Where the results go by default.
        methods: Names to choose from; None: the recipe has no such choice.
        chosen: Those that run by default; None: all.
        flag: A second name of `--methods`, where the recipe compares something else: "--models".
        seeds: Seeds by default; None: no such argument.
        epochs: Epochs by default; None: no such argument.
        draws: Draws by default; None: no such argument.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of the results, a folder a cell in it")
    if methods is not None:
        names = list(dict.fromkeys(["--methods", flag]))
        parser.add_argument(*names, dest="methods", nargs="+", choices=methods, default=list(chosen or methods))
    if seeds is not None:
        parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    if epochs is not None:
        parser.add_argument("--epochs", type=int, default=epochs)
    if draws is not None:
        parser.add_argument("--draws", type=int, default=draws)
    parser.add_argument("--jobs", type=int, default=1, help="how many to train at a time")
    return parser


def run_cells(
    cells: Sequence[Cell],
    work: Work,
    given: argparse.Namespace,
    data: Cohort | Callable[[Cell], Cohort] | None = None,
) -> Swept:
    """Computes a recipe's cells as its command line says, and prints a line about each that was not there already."""

    def tell(ended: CellProgress) -> None:
        if not ended.seconds:
            return
        result = ended.result
        numbers = result.record.items() if isinstance(result, Done) else ()
        shown = "  ".join(f"{name} {value:.3f}" for name, value in numbers if isinstance(value, float))
        text = shown if isinstance(result, Done) else f"failed: {result}"
        print(f"{ended.number}/{ended.total} {result.cell.stem} ({ended.seconds:.0f} s): {text}", flush=True)

    return sweep(cells, given.out, work, data=data, jobs=given.jobs, tell=tell)


def tell_run(progress: Progress) -> None:
    """Prints a line about an experiment that has ended, for `run_all`."""
    who = f"failed: {progress.failure}" if progress.run is None else f"{progress.run.name} seed {progress.run.seed}"
    print(f"{progress.done}/{progress.total} {who} ({progress.seconds:.0f} s)", flush=True)


def accuracy_and_nll(predicted: NDArray, target: NDArray, state: str) -> dict[str, float]:
    """Accuracy and negative log likelihood of predicted probabilities (N, C), under names that end with a state.

    Example:
        >>> accuracy_and_nll(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([0, 1]), "complete")["accuracy complete"]
        1.0
    """
    likelihood = np.clip(predicted[np.arange(len(target)), target], 1e-12, 1)
    return {
        f"accuracy {state}": float((predicted.argmax(1) == target).mean()),
        f"NLL {state}": float(-np.log(likelihood).mean()),
    }


def mean_and_spread(frame: pd.DataFrame, by: Sequence[str], order: Mapping[str, Any] | Sequence[str]) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds of every number, as text; "" where there is none.

    Args:
        frame: One row a cell, with a column "seed".
        by: Columns that name a row of the table.
        order: Values of the last of them, in the order of the rows.
    """
    import pandas as pd

    grouped = frame.drop(columns="seed").groupby(list(by), sort=False)
    mean, spread = pd.DataFrame(grouped.mean(numeric_only=True)), pd.DataFrame(grouped.std(numeric_only=True))
    result = mean.map("{:.4f}".format) + spread.map(lambda value: "" if np.isnan(value) else f" ± {value:.4f}")
    result = result.where(mean.notna(), "")
    result.insert(0, "seeds", grouped.size())
    places = {name: place for place, name in enumerate(order)}
    return result.sort_index(level=-1, key=lambda names: names.map(places), kind="stable", sort_remaining=False)
