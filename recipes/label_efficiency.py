"""Label efficiency: few rows have a label; what do the others teach, and is it the absence that is taught?

Command:  python recipes/label_efficiency.py --cohorts digits --labels 60 200 --seeds 0 1 2 --methods modality_dropout \
              pseudo_labels teacher --out runs/label_efficiency
          --data DIR with support2/support2.csv.gz and cinc2012/set-a.tar.xz for --cohorts support2 cinc2012
Time:     about a minute of processor time a model of digits, five times as long for cepa, cm2 and primo
Expected: see docs/log.md, 2026-11-30

Of the training rows `--labels` keep their label, the same for every method, as equal in number over the classes as can
be, those of a smaller number among those of a larger one; of the validation rows, which choose the epoch, as many (at
most all). Test rows are predicted with k modalities present, every choice of k in turn where they have all, or as they
are and under removal. "pseudo_labels" is the control: the same teacher, from which nothing is withheld. Methods that
learn from labelled rows alone get as many steps, unless 60 epochs in a row are no better.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import amodal
from amodal.benchmark import Cell, fit_cell, fit_values
from amodal.benchmark.recipe import mean_and_spread, recipe_parser, run_cells
from amodal.data.loader import RowBatches
from amodal.data.sources.cinc2012.cohort import prepare as prepare_cinc2012
from amodal.data.table import prepare as prepare_table
from amodal.files import replace_file
from amodal.metrics import metrics_for
from amodal.missingness import all_patterns

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "modality_dropout": ("modality_dropout", {"teacher": "none"}),
    "pseudo_labels": ("modality_dropout", {"teacher": "pseudo_labels"}),
    "teacher": ("modality_dropout", {"teacher": "complete"}),
    "cepa": ("cepa", {}),
    "cm2": ("cm2", {}),
    "primo": ("primo", {}),
    "boosting": ("boosting", {}),
}
LABELS_ONLY = ("modality_dropout", "primo", "boosting")
COHORTS = ("digits", "support2", "cinc2012")
LABELS = (30, 100, 300, 1000, 0)  # 0: all
KEYS = ["cohort", "labels", "seed"]
BATCH = 64
LARGEST_M = 4  # modalities of which every pattern is imposed on complete rows


def few_labels(cohort: amodal.Cohort, n: int, seed: int) -> amodal.Cohort:
    """A view in which n rows (0, or as many as there are: all) keep their label, as equally over classes as can be."""
    if not 0 < n < len(cohort):
        return cohort
    assert cohort.target is not None
    order = np.random.default_rng((seed, 7)).permutation(len(cohort))
    target = cohort.target[order]
    turn = np.zeros(len(cohort), np.int64)  # place of a row among those of its class
    for label in np.unique(target):
        turn[target == label] = np.arange((target == label).sum())
    kept = np.zeros(len(cohort), bool)
    kept[order[turn.argsort(kind="stable")[:n]]] = True
    return cohort.with_labelled(kept)


def scores(model: amodal.TrainedModel, cohort: amodal.Cohort, seed: int) -> dict[str, float]:
    """Headline metric and NLL of rows with k modalities present, for each k."""
    assert cohort.target is not None
    task = cohort.schema.task
    metrics = {name: metrics_for(task.kind)[name] for name in (task.traits.headlines[0], "nll")}
    found: dict[str, list[float]] = {}
    complete = cohort.take(cohort.observed.all(axis=1))
    if len(cohort.schema.names) <= LARGEST_M and len(complete):
        for pattern in all_patterns(len(cohort.schema.names)):
            shown = complete.with_observed(np.broadcast_to(pattern, complete.observed.shape))
            predicted = model.predict(shown)
            for name, metric in metrics.items():
                found.setdefault(f"{name} {pattern.sum()}", []).append(float(metric(predicted, complete.target)))
    else:
        for rate in (0.0, 0.3, 0.6):
            mechanism = amodal.missingness.MCAR(rate) if rate else None
            table = amodal.evaluate(model, cohort, mechanism, seed=seed, resamples=2, on_empty="silent").table(
                [*metrics]
            )
            for name in metrics:
                found[f"{name} rate {rate}"] = [float(table[name].iloc[-1])]
    return {name: float(np.mean(values)) for name, values in sorted(found.items())}


def train_and_measure(cell: Cell, cohort: amodal.Cohort, folder: Path) -> dict[str, float]:
    """Trains one model on few labels; its scores on validation rows with all their labels, and on test rows."""
    train, valid, test = (cohort.split(name) for name in ("train", "valid", "test"))
    train = few_labels(train, cell["labels"], cell["seed"])
    if cell["only_labels"]:
        train = train.take(train.labelled)
    model = fit_cell(cell, train, few_labels(valid, cell["labels"], cell["seed"]))
    of_valid = {f"valid {name}": value for name, value in scores(model, valid, cell["seed"]).items()}
    return of_valid | scores(model, test, cell["seed"])


def cells(
    cohorts: Mapping[str, amodal.Cohort],
    names: Sequence[str],
    labels: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    share: float,
) -> list[Cell]:
    """One for each cohort, number of labels, seed and method; a share of labelled rows in each batch."""
    made = []
    for cohort, data in cohorts.items():
        rows = int((data.splits == "train").sum())
        for n in dict.fromkeys(min(n, rows) if n else rows for n in labels):
            for seed in seeds:
                for name in names:
                    made.append(_cell(cohort, rows, n, seed, name, steps, share))
    return made


def _cell(cohort: str, rows: int, n: int, seed: int, name: str, steps: int, share: float) -> Cell:
    method, options = METHODS[name]
    alone = name in LABELS_ONLY
    batch = min(BATCH, max(8, n // 2)) if alone else BATCH
    labelled = np.arange(n if alone else rows) < n
    per_epoch = len(RowBatches(len(labelled), batch, shuffle=True, labelled=labelled, labelled_share=share))
    settings = {"epochs": max(1, round(steps / per_epoch)), "batch_size": batch, "patience": 60 if alone else 12}
    settings["labelled_share"] = share
    values = fit_values(method, options=options, seed=seed, **settings)
    values |= {"cohort": cohort, "labels": n, "name": name, "only_labels": alone}
    return Cell(f"{cohort}-{n}-{name}-{seed}", values)


def open_cohorts(names: Sequence[str], data: Path, folder: Path) -> dict[str, amodal.Cohort]:
    """The cohorts by name; SUPPORT2 and PhysioNet 2012 are prepared from their files once."""
    made: dict[str, Callable[[Path], Any]] = {
        "support2": lambda out: prepare_table(data / "support2" / "support2.csv.gz", EXAMPLE, out),
        "cinc2012": lambda out: prepare_cinc2012(data / "cinc2012" / "set-a.tar.xz", out),
    }
    cohorts = {}
    for name in names:
        place = folder / "cohorts" / name
        if name in made and not place.is_dir():
            made[name](place)
        cohorts[name] = amodal.load_cohort(str(place) if name in made else name)
    return cohorts


EXAMPLE = Path(amodal.__file__).parent / "data" / "table" / "examples" / "support2.yaml"


def draw_figure(frame: pd.DataFrame, file: Path) -> None:
    """The headline metric with the fewest modalities and with most, against the number of labels; a row a cohort."""
    from matplotlib.figure import Figure

    cohorts = list(frame["cohort"].unique())
    figure = Figure(figsize=(9, 3.2 * len(cohorts)), layout="constrained")
    for panels, cohort in zip(figure.subplots(len(cohorts), 2, squeeze=False), cohorts):
        part = frame[frame["cohort"] == cohort].dropna(axis=1, how="all")
        columns = [c for c in part if not c.startswith(("valid", "nll")) and c not in (*KEYS, "name", "seconds")]
        for panel, column in zip(panels, (columns[0], columns[-1])):
            for name, line in part.groupby("name", sort=False):
                mean = line.groupby("labels")[column].mean()
                panel.plot(mean.index, mean, marker="o", ms=4, label=name)
            panel.set(title=cohort, xlabel="rows with a label", ylabel=column, xscale="log")
            panel.legend()
    replace_file(file, figure.savefig)


def differences(frame: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of every method to modality dropout, seed by seed: mean, and lowest and highest."""
    numbers = [c for c in frame if c not in (*KEYS, "name", "seconds") and not c.startswith("valid")]
    base = frame[frame["name"] == "modality_dropout"].set_index(KEYS)[numbers]
    rows = []
    for name in frame["name"].unique():
        if name == "modality_dropout" or base.empty:
            continue
        less = frame[frame["name"] == name].set_index(KEYS)[numbers] - base
        for (cohort, labels), part in less.dropna(how="all").groupby(["cohort", "labels"], sort=False):
            shown = {c: f"{v.mean():+.3f} ({v.min():+.3f} to {v.max():+.3f})" for c, v in part.dropna(axis=1).items()}
            rows.append({"cohort": cohort, "labels": labels, "name": name, **shown})
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    """Runs the recipe; its tables by name, which are printed, too."""
    parser = recipe_parser(__doc__, "runs/label_efficiency", methods=list(METHODS))
    parser.add_argument("--data", type=Path, default=Path("shared/data"), help="folder with support2/ and cinc2012/")
    parser.add_argument("--cohorts", nargs="+", choices=COHORTS, default=["digits"])
    parser.add_argument("--labels", type=int, nargs="+", default=list(LABELS), help="rows with a label; 0: all")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.25, help="of labelled rows in a batch")
    given = parser.parse_args(arguments)
    cohorts = open_cohorts(given.cohorts, given.data, given.out)
    made = cells(cohorts, given.methods, given.labels, given.seeds, given.steps, given.share)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "epoch .*", UserWarning)  # signs of collapse
        swept = run_cells(made, train_and_measure, given, data=lambda cell: cohorts[cell["cohort"]])
    frame = swept.frame("cohort", "labels", "name", "seed")
    shown = frame[[c for c in frame if not c.startswith("valid")]]
    tables = {
        "scores": mean_and_spread(shown, ["cohort", "labels", "name"], METHODS),
        "less modality_dropout": differences(frame),
    }
    with pd.option_context("display.width", 250, "display.max_columns", 30, "display.max_colwidth", 60):
        for name, table in tables.items():
            print(f"\n{name}\n{table.to_string()}")
    draw_figure(frame, given.out / "figure.svg")
    replace_file(given.out / "scores.csv", lambda path: frame.to_csv(path, index=False))
    return {**tables, "frame": frame}


if __name__ == "__main__":
    main()
