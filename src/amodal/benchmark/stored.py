"""A finished run's folder, read back: who it was, what it predicted, and under which presence."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from amodal.benchmark.cells import altered_files, read_record
from amodal.benchmark.experiment import Experiment
from amodal.checkpoint import read_experiment
from amodal.errors import DataError, RunError
from amodal.evaluation import prediction_columns
from amodal.missingness import Natural, Presence, mechanism_from_json
from amodal.schema import Schema, Task
from amodal.seal import check_seal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Condition", "FinishedRun", "read_run"]


@dataclass(frozen=True, eq=False)
class Condition:
    """The test rows under one presence, and what was predicted then.

    Args:
        name: "test", "rate 0.3", or a pattern's label.
        kind: "test" (the presence the run was evaluated under), "rate" (a point of the degradation curve) or
            "pattern" (one pattern imposed on all complete rows).
        observed: Presence, bool, of shape (N, M).
        predictions: Of shape (N, C), (N, K) or (N,); NaN in rows that the condition leaves out.
        rate: The rate asked for, of a point of the curve; NaN else.
    """

    name: str
    kind: str
    observed: NDArray[np.bool_]
    predictions: NDArray[np.float64]
    rate: float = float("nan")

    @cached_property
    def rows(self) -> NDArray[np.bool_]:
        """The rows that the condition predicts, bool (N,)."""
        return np.asarray(np.isfinite(self.predictions.reshape(len(self.predictions), -1)).all(axis=1))


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A trained and evaluated run, as its folder has it.

    Attributes:
        folder: Where it is.
        experiment: What was asked for.
        setting: What runs must have in common to be compared.
        record: experiment.json: everything resolved, versions, result.
        metrics: metrics.json.
        schema: Modalities and task.
        history: One row an epoch.
        ids: The test cases (N,).
        groups: Their groups (N,).
        target: The truth, as a cohort has it.
        test: The test rows as they were evaluated.
        conditions: The test rows under rates and imposed patterns; may be empty.
        train_presence: Presence of the training rows in the first epoch, if it was stored.
    """

    folder: Path
    experiment: Experiment
    setting: str
    record: dict[str, Any]
    metrics: dict[str, Any]
    schema: Schema
    history: pd.DataFrame
    ids: NDArray
    groups: NDArray
    target: NDArray
    test: Condition
    conditions: tuple[Condition, ...] = ()
    train_presence: Presence | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The name in tables."""
        return self.experiment.name

    @property
    def seed(self) -> int:
        """The seed of training."""
        return self.experiment.seed

    @property
    def task(self) -> Task:
        """The task: the kind of target."""
        return self.schema.task

    def condition(self, name: str) -> Condition:
        """One of the conditions, or "test".

        Raises:
            RunError: If the run was not evaluated under it.
        """
        for condition in (self.test, *self.conditions):
            if condition.name == name:
                return condition
        raise RunError(f"the run in {self.folder} was not evaluated under {name!r}")

    def presence_hash(self, name: str = "test") -> str:
        """Digest of who has what under a condition; equal for all runs that are compared."""
        observed = self.condition(name).observed
        return Presence(observed, self.schema.names, observed).hash

    def rows(self) -> pd.DataFrame:
        """One row a pattern and metric, as the run's own evaluation has it, in columns for results.csv."""
        import pandas as pd

        head = {
            "name": self.name,
            "method": self.experiment.method,
            "seed": self.seed,
            "setting": self.setting,
            "folder": self.folder.name,
            "presence_hash": self.metrics["presence_hash"][:16],
        }
        rows = [
            {**head, "pattern": part["pattern"], "n": part["n"], "metric": metric}
            | {key: value.get(key) for key in ("value", "low", "high")}
            for part in self.metrics["patterns"]
            for metric, value in part["metrics"].items()
        ]
        return pd.DataFrame(rows)


def read_run(folder: str | Path) -> FinishedRun:
    """Reads the folder of a trained and evaluated run; nothing in it is executed.

    Args:
        folder: Made by `run_experiment`, or by `amodal fit` and then `amodal evaluate`.

    Returns:
        The run; one that `run_experiment` did not make has no conditions beside its test rows.

    Raises:
        RunError: If it is incomplete, damaged, of a newer format, or its files do not fit together.
    """
    import pandas as pd

    folder = Path(folder)
    record = read_experiment(folder)
    schema = Schema.from_json(record["schema"])
    for name in ("predictions.parquet", "metrics.json"):
        if not (folder / name).is_file():
            raise RunError(
                f"the run in {folder} has not been evaluated: it lacks {name}",
                hint=f"amodal evaluate {folder} --data COHORT",
            )
    metrics = _read_metrics(folder)
    try:
        frame = pd.read_parquet(folder / "predictions.parquet")
        test = Condition(
            "test", "test", _presence(frame["pattern"].to_numpy(), schema.names), _predictions(frame, schema.task)
        )
        target = _target(frame, schema.task)
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are among these
        raise RunError(f"{folder / 'predictions.parquet'} cannot be read: {error}") from error
    cell = _own_cell(folder)
    experiment = _resolved(record, metrics) if cell is None else Experiment.from_json(cell["cell"]["experiment"])
    history, presence = folder / "history.csv", folder / "presence.npz"
    run = FinishedRun(
        folder=folder,
        experiment=experiment,
        setting=experiment.setting if cell else f"{experiment.cohort}, presence {metrics['presence_hash'][:8]}",
        record=record,
        metrics=metrics,
        schema=schema,
        history=pd.read_csv(history) if history.is_file() and history.stat().st_size > 1 else pd.DataFrame(),
        ids=frame["id"].to_numpy().astype(str),
        groups=frame["group"].to_numpy().astype(str),
        target=target,
        test=test,
        conditions=_read_conditions(folder / "conditions.npz", test) if cell else (),
        train_presence=Presence.load(presence) if presence.is_file() and cell is not None else None,
    )
    if run.presence_hash() != metrics["presence_hash"]:
        raise RunError(
            f"predictions.parquet and metrics.json in {folder} are not of the same evaluation",
            hint="Evaluate the run again.",
        )
    return run


def _own_cell(folder: Path) -> dict[str, Any] | None:
    """The record of the experiment that the folder's evaluation is of; None: the evaluation is another one.

    Raises:
        RunError: If the record cannot be read, or conditions of this experiment are damaged.
    """
    cell = read_record(folder)
    if cell is None or "experiment" not in cell["cell"]:
        return None
    altered = altered_files(folder, cell)
    if "predictions.parquet" in altered or "metrics.json" in altered:
        return None  # of `amodal evaluate`, with other rows or another removal
    if altered:
        raise RunError(
            f"{folder / altered[0]} cannot be read: it is not as it was written",
            hint="Run the experiment again: its evaluation is then made anew.",
        )
    return cell


def _resolved(record: dict[str, Any], metrics: dict[str, Any]) -> Experiment:
    """The experiment behind a run of `amodal.fit` and `amodal.evaluate`, as far as its records say."""
    drawn = mechanism_from_json(record["missingness"]["train"])
    redrawn = bool(record["training"]["redraw"])
    removal = drawn if redrawn and not isinstance(drawn, Natural) else None
    return Experiment(
        record["spec"]["method"],
        cohort=record["data"]["cohort"],
        options=record["spec"]["options"],
        encoders=record["spec"]["encoders"].get("choices", {}),
        width=record["spec"]["encoders"].get("width", 64),
        train_missingness=Natural() if redrawn else drawn,
        removal=removal,
        test_missingness=mechanism_from_json(metrics["missingness"]) if "missingness" in metrics else Natural(),
        seed=record["seed"],
        settings=record["training"],
        patterns="met",
    )


def _read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics, after a comparison with the checksums that an evaluation has written with them."""
    metrics = _read_json(folder / "metrics.json")
    if not isinstance(metrics, dict):
        raise RunError(f"{folder / 'metrics.json'} holds no metrics", hint="Evaluate the run again.")
    if "checksum" in metrics or "files" in metrics:  # those of older versions have none
        return check_seal(metrics, folder, "metrics.json", hint="Evaluate the run again.")
    return metrics


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is not readable JSON: {error}") from error


def _presence(labels: NDArray, names: tuple[str, ...]) -> NDArray[np.bool_]:
    """Presence (N, M) from patterns' labels."""
    unique, inverse = np.unique(labels.astype(str), return_inverse=True)
    parts = [set() if label == "none" and "none" not in names else set(label.split("+")) for label in unique]
    unknown = set().union(*parts) - set(names)
    if unknown:
        raise ValueError(f"patterns name unknown modalities {sorted(unknown)}")
    table = np.array([[name in part for name in names] for part in parts], dtype=bool).reshape(-1, len(names))
    return table[inverse]


def _predictions(frame: pd.DataFrame, task: Task) -> NDArray[np.float64]:
    values = frame[prediction_columns(task)].to_numpy(dtype=np.float64)
    return values[:, 0] if task.traits.one_value else values


def _target(frame: pd.DataFrame, task: Task) -> NDArray:
    """The truth as a cohort has it: positions of classes, labels, or values."""
    return task.traits.read_columns({str(name): column for name, column in frame.items()}, task.classes)


def _read_conditions(path: Path, test: Condition) -> tuple[Condition, ...]:
    if not path.is_file():
        return ()
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            stored = {key: file[key] for key in ("names", "kinds", "rates", "observed", "predictions")}
        shape = (len(stored["names"]), *test.observed.shape)
        observed = np.unpackbits(stored["observed"], count=int(np.prod(shape))).astype(bool).reshape(shape)
        predictions = stored["predictions"].astype(np.float64)
        if len(predictions) and predictions.shape[1:] != test.predictions.shape:
            raise DataError(
                "predictions have another shape", expected=test.predictions.shape, got=predictions.shape[1:]
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} cannot be read: {error}", hint="Remove the folder and run it again.") from error
    return tuple(
        Condition(str(name), str(kind), seen, predicted, float(rate))
        for name, kind, seen, predicted, rate in zip(
            stored["names"], stored["kinds"], observed, predictions, stored["rates"]
        )
    )
