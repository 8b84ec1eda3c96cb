"""Acquisition in money: heart disease in four hospitals with the published price of every test, and panels of SUPPORT2.

Command:  python recipes/acquisition_costs.py --data shared/data --out runs/acquisition_costs
          --cohorts heart support2; --folder DIR for a prepared cohort, each modality of which then costs one
Time:     two minutes of processor time a model of the heart data
Expected: see docs/log.md

Every case begins with what costs next to nothing (heart: the bedside; SUPPORT2: the descriptors). "heart, HOSPITAL" is
trained on the other three hospitals, "heart, within" on a random part of all. Orders: random, the one fixed order that
did best on validation cases for the money, advice, advice two steps ahead (`--ahead`), and the surest outcome. A
right diagnosis is taken to be worth `--worth` dollars (SUPPORT2: one unit of accuracy is worth five looks).

Data: heart_disease_uci.csv (:cite:`janosi1989heart`), prices of :cite:`turney1995cost` in Canadian dollars; SUPPORT2,
https://archive.ics.uci.edu/dataset/880/support2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

import amodal
from amodal.benchmark import Cell, fit_cell, fit_values
from amodal.benchmark.inference import resample_seeds
from amodal.benchmark.recipe import recipe_parser, run_cells
from amodal.data import split_groups
from amodal.metrics import Interval, resample_counts
from amodal.predictive_impact import acquisition_curve, area_under, fixed_order
from amodal.schema import Task

HOSPITALS = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
HEART = {
    "bedside": ("age", "sex", "cp", "trestbps"),
    "blood": ("chol", "fbs"),
    "ecg": ("restecg",),
    "exercise": ("thalch", "exang", "oldpeak", "slope"),
    "fluoroscopy": ("ca",),
    "thallium": ("thal",),
}
HEART_COSTS = {
    "prices": {"bedside": 4.0, "blood": 10.37, "ecg": 15.5, "exercise": 105.9, "fluoroscopy": 100.9, "thallium": 102.9},
    "groups": {"nuclear": {"exercise": 90.3, "thallium": 1.0}},
}
SUPPORT2 = {
    "descriptors": ("age", "sex", "race", "edu", "income", "dzgroup", "num.co", "diabetes", "dementia", "ca", "hday"),
    "physiology": ("meanbp", "wblc", "hrt", "resp", "temp", "crea", "sod"),
    "coma": ("scoma",),
    "blood_gas": ("pafi", "ph"),
    "liver": ("alb", "bili"),
    "metabolic": ("glucose", "bun", "urine"),
    "own_report": ("adlp",),
    "surrogate": ("adls",),
    "physician": ("prg2m", "prg6m"),
}
MODELS = ("modality_dropout",)
SETTINGS = {"batch_size": 64}
ORDERS: tuple[Literal["random", "fixed", "advised", "ahead", "surest"], ...] = (
    "random",
    "fixed",
    "advised",
    "ahead",
    "surest",
)
SPLITS = {"train": 0.6, "valid": 0.15, "test": 0.25}


def heart(data: Path, test: str, seed: int) -> amodal.Cohort:
    """920 patients; the test split is one hospital, or, "within", a random quarter."""
    frame = pd.read_csv(data / "heart" / "heart_disease_uci.csv", na_values=["?"])
    frame["chol"], frame["trestbps"] = frame["chol"].replace(0, np.nan), frame["trestbps"].replace(0, np.nan)
    target = (frame["num"] > 0).to_numpy(dtype=np.int64)
    ids = np.char.add("patient-", np.arange(len(frame)).astype(str))
    if test == "within":
        splits = split_groups(ids, target, SPLITS, seed=seed)
    else:
        here = (frame["dataset"] == test).to_numpy()
        splits = np.where(here, "test", "").astype("<U8")
        splits[~here] = split_groups(ids[~here], target[~here], {"train": 0.85, "valid": 0.15}, seed=seed)
    return _cohort(frame, HEART, Task("binary", name="disease", classes=("no", "yes")), target, ids, splits)


def support2(data: Path, cases: int | None, seed: int) -> amodal.Cohort:
    """Death in hospital from nine panels, by default of a third of the patients."""
    frame = pd.read_csv(data / "support2" / "support2.csv.gz", index_col=0)
    frame = frame.sample(min(cases or len(frame), len(frame)), random_state=0)
    target, ids = frame["hospdead"].to_numpy(dtype=np.int64), np.char.add("patient-", frame.index.astype(str))
    splits = split_groups(ids, target, SPLITS, seed=seed)
    return _cohort(frame, SUPPORT2, Task("binary", name="hospital death", classes=("no", "yes")), target, ids, splits)


def _cohort(
    frame: pd.DataFrame, panels: dict[str, tuple[str, ...]], task: Task, target: Any, ids: Any, splits: Any
) -> amodal.Cohort:
    values, features = {}, {}
    for panel, columns in panels.items():
        part = frame[list(columns)]
        words = [c for c in columns if not pd.api.types.is_numeric_dtype(part[c])]
        coded = pd.get_dummies(part, columns=words, dtype=float)
        for column in words:  # a category that is not known is unknown, not "none of them"
            ours = [name for name in coded if name.startswith(f"{column}_")]
            coded.loc[part[column].isna(), ours] = np.nan
        values[panel], features[panel] = coded.to_numpy(dtype=np.float32), tuple(map(str, coded.columns))
    return amodal.Cohort.from_arrays(values, task=task, target=target, ids=ids, splits=splits, features=features)


def data_of(folder: Path, prepared: Path | None) -> Callable[[Cell], amodal.Cohort]:
    """The cohort of a cell."""

    def load(cell: Cell) -> amodal.Cohort:
        name, _, test = cell["cohort"].partition(", ")
        if name == "heart":
            return heart(folder, test, cell["seed"])
        if name == "support2":
            return support2(folder, cell["cases"], cell["seed"])
        assert prepared is not None
        return amodal.load_cohort(prepared)

    return load


def train_and_measure(cell: Cell, cohort: amodal.Cohort, folder: Path) -> dict[str, pd.DataFrame]:
    """Trains one model and reveals the test cases' modalities in every order."""
    train, valid, test = (cohort.split(name) for name in ("train", "valid", "test"))
    test = test.take(np.arange(min(len(test), cell["test_cases"])))
    model = fit_cell(cell, train, valid)
    costs = HEART_COSTS if cell["cohort"].startswith("heart") else dict.fromkeys(cohort.schema.names, 1.0)
    worth = cell["worth"] if cell["cohort"].startswith("heart") else 5.0
    first = np.arange(len(cohort.schema.names)) == 0
    start = {part: np.tile(first, (len(one), 1)) for part, one in (("test", test), ("valid", valid))}
    sequence = fixed_order(model, valid, start=start["valid"], utility="accuracy", costs=costs)
    common: dict[str, Any] = {"costs": costs, "utility": "accuracy", "start": start["test"], "sequence": sequence}
    common |= {"seed": cell["seed"], "worth": worth, "train": train, "neighbours": 50}
    orders = [order for order in ORDERS if order != "ahead" or cell["ahead"]]
    parts = [acquisition_curve(model, test, order=order, **common) for order in orders]
    for order in ("advised", "ahead") if cell["ahead"] else ("advised",):
        found = acquisition_curve(model, test, order=order, stop=True, **common)
        parts.append(found.assign(order=f"{order}, until it does not pay"))
    return {"curves": pd.concat(parts, ignore_index=True)}


def area_table(frame: pd.DataFrame, y: str) -> pd.DataFrame:
    """Mean accuracy or log-likelihood over the money, by cohort and order, and what it is above two yardsticks."""
    rows = []
    for cohort, part in frame.groupby("cohort", sort=False):
        part = part[part["order"].isin(ORDERS)]
        until = float(part.groupby(["seed", "order"])["cost"].max().min())
        areas = {
            key: area_under(one, x="cost", y=y, until=until) for key, one in part.groupby(["order", "seed"], sort=False)
        }
        for order in [order for order in ORDERS if any(key[0] == order for key in areas)]:
            against = ["" if order == other else _difference(areas, order, other) for other in ("random", "fixed")]
            rows.append((cohort, order, f"{_mean([areas[key] for key in areas if key[0] == order])}", *against))
    return pd.DataFrame(rows, columns=["cohort", "order", f"mean {y} over the money", "less random", "less fixed"])


def worth_table(frame: pd.DataFrame, worth: float) -> pd.DataFrame:
    """What stopping is worth: accuracy, money spent and worth less money, a case."""
    rows = []
    for cohort, part in frame.groupby("cohort", sort=False):
        unit = worth if str(cohort).startswith("heart") else 5.0
        last = part.sort_values("step").groupby(["order", "seed", "id"], sort=False).last().reset_index()
        nothing = part[(part["step"] == 0) & (part["order"] == "random")].assign(order="nothing")
        everything = last[last["order"] == "random"].assign(order="everything")
        stopped = last[last["order"].str.endswith("pay")]
        for order, one in pd.concat([nothing, everything, stopped]).groupby("order", sort=False):
            correct, cost = one["correct"].astype(float), one["cost"]
            rows.append((cohort, order, correct.mean(), cost.mean(), (unit * correct - cost).mean()))
    return pd.DataFrame(rows, columns=["cohort", "looks", "accuracy", "spent", "worth less spent"])


def _difference(areas: dict[Any, pd.Series], order: str, other: str) -> str:
    seeds = [key[1] for key in areas if key[0] == order]
    return _mean([areas[(order, seed)] - areas[(other, seed)] for seed in seeds])


def _mean(values: list[pd.Series]) -> str:
    """Mean over cases and seeds with an interval for both; test cases differ by seed, and are resampled by seed."""
    drawn = []
    for place, one in enumerate(values):
        counts = resample_counts(len(one), 1000, np.random.default_rng(place)).astype(float)
        drawn.append(counts @ one.to_numpy() / len(one))
    estimate = float(np.mean([one.mean() for one in values]))
    stacked = np.stack(drawn)
    spread = resample_seeds(stacked, np.random.default_rng(1)) if len(stacked) > 1 else stacked[0]
    return str(Interval.from_values(estimate, spread))


def main(arguments: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    parser = recipe_parser(
        __doc__,
        "runs/acquisition_costs",
        methods=list(amodal.METHODS),
        chosen=MODELS,
        flag="--models",
        seeds=(0, 1, 2),
        epochs=60,
    )
    parser.add_argument("--data", type=Path, default=Path("shared/data"), help="folder with heart/ and support2/")
    parser.add_argument("--cohorts", nargs="+", choices=("heart", "support2"), default=["heart", "support2"])
    parser.add_argument("--folder", type=Path, default=None, help="a prepared cohort, each modality of which costs one")
    parser.add_argument("--worth", type=float, default=1000.0, help="what a right diagnosis is worth in dollars")
    parser.add_argument("--cases", type=int, default=2000, help="patients of SUPPORT2")
    parser.add_argument("--test_cases", type=int, default=300)
    parser.add_argument("--ahead", action="store_true", help="also look two steps ahead, at many times the cost")
    given = parser.parse_args(arguments)
    names = [f"heart, {test}" for test in (*HOSPITALS, "within")] if "heart" in given.cohorts else []
    names += ["support2"] if "support2" in given.cohorts else []
    names += [given.folder.name] if given.folder is not None else []
    measured = {"ahead": given.ahead, "worth": given.worth, "cases": given.cases, "test_cases": given.test_cases}
    cells = [
        Cell(
            f"{name.replace(', ', '-').replace(' ', '_')}-{method}-seed{seed}",
            measured | {"cohort": name} | fit_values(method, seed=seed, epochs=given.epochs, **SETTINGS),
        )
        for seed in given.seeds
        for method in given.methods
        for name in names
    ]
    done = run_cells(cells, train_and_measure, given, data_of(given.data, given.folder)).done
    curves = pd.concat([one.frame("curves").assign(cohort=one.cell["cohort"], seed=one.cell["seed"]) for one in done])
    tables = {y: area_table(curves, y) for y in ("correct", "log_likelihood")}
    tables |= {"worth": worth_table(curves, given.worth)}
    for table in tables.values():
        print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"), end="\n\n")
    return tables


if __name__ == "__main__":
    main()
