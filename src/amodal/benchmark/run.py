"""Trains and evaluates experiments, each into a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from amodal.benchmark.cells import Cell, Done, Failed, compute_cell, read_cell, save_arrays
from amodal.benchmark.experiment import Experiment, describe_rate
from amodal.benchmark.fitting import fit_values
from amodal.benchmark.results import Results
from amodal.benchmark.stored import FinishedRun, read_run
from amodal.benchmark.sweep import CellProgress, sweep
from amodal.data import Cohort, folds, load_cohort, split_groups
from amodal.evaluation import Evaluation, evaluate, labelled_cases
from amodal.files import replace_file
from amodal.missingness import MCAR, all_patterns, pattern_codes, pattern_label
from amodal.presence import draw_presence
from amodal.training import fit

if TYPE_CHECKING:
    from amodal.checkpoint import TrainedModel

__all__ = ["Progress", "run_all", "run_experiment"]

_LARGEST_M = 6  # modalities of which all patterns (63) are imposed


@dataclass(frozen=True)
class Progress:
    """Progress that `run_all` reports after each experiment.

    Args:
        done: How many have ended.
        total: How many there are.
        run: The one that has just finished; None if it failed.
        seconds: How long it took here; 0 if it was there already.
        failure: What ended it, if it failed.
    """

    done: int
    total: int
    run: FinishedRun | None
    seconds: float
    failure: Failed | None = None


def run_experiment(experiment: Experiment, folder: str | Path, *, cohort: Cohort | None = None) -> FinishedRun:
    """Trains and evaluates one experiment, unless its folder holds it already.

    The folder is that of `amodal.fit` and of `amodal evaluate` together, with `conditions.npz` (predictions of the
    test rows under each rate and each imposed pattern) and, written last, `cell.json` (the experiment, its resolved
    defaults, and digests of its data and files). `presence.npz` is that of the training rows. Training that was
    interrupted is continued.

    Args:
        experiment: What to do.
        folder: Folder of the run.
        cohort: The cohort, if it is loaded already; None loads the one that the experiment names.

    Returns:
        The finished run, as its folder has it.

    Raises:
        RunError: If the folder holds another experiment, or one on other data.
        AmodalError: Whatever `amodal.fit` and `amodal.evaluate` raise.
    """
    folder, cell = Path(folder), _cell(experiment)
    cohort = load_cohort(experiment.cohort, **experiment.cohort_options) if cohort is None else cohort
    if read_cell(cell, folder, cell.identity(train_and_evaluate, cohort)) is None:
        compute_cell(cell, train_and_evaluate, cohort, folder)
    return read_run(folder)


def run_all(
    experiments: Sequence[Experiment],
    out: str | Path,
    *,
    cohort: Cohort | None = None,
    jobs: int = 1,
    where: Literal["here", "ray"] = "here",
    fail_fast: bool = False,
    only: Collection[int] | None = None,
    tell: Callable[[Progress], object] | None = None,
) -> Results:
    """Runs experiments, each into its own folder under `out`; those that are there already are not run again.

    An experiment's folder is named by its values, the defaults of everything that they leave open, and the content of
    its cohort: other data at the same path are another folder. After each one `out/results.csv` has the rows of all
    that are finished, so that a long comparison can be watched, and interrupted: the same call goes on where it
    stopped.

    Args:
        experiments: What to do; see `amodal.benchmark.grid`.
        out: Folder of the folders.
        cohort: The cohort of all of them, if it is loaded already.
        jobs: How many to run at a time; see `amodal.benchmark.sweep`.
        where: "here", or "ray"; see `amodal.benchmark.sweep`.
        fail_fast: Raise the first error. Otherwise an experiment that fails is stored as such (error.json), the others
            are run, and a warning at the end names the failed ones.
        only: Positions in `experiments` of those to run, as the tasks of an array job do; of the others, those that are
            finished already are returned too. None: all.
        tell: Called after each one.

    Returns:
        The results of those that finished, in the order of `experiments`.

    Raises:
        RunError: If `out` cannot be written, methods did not meet the same conditions, or every experiment failed.
        ConfigurationError: If Ray is asked for and not installed, or a setting is out of range.
        UnknownNameError: If `where` is not known, or a method, option, encoder or setting of any experiment.
        AmodalError: With `fail_fast`, whatever the first experiment that fails raises.
    """
    out, loaded = Path(out), {}
    cells = [_cell(experiment) for experiment in experiments]
    places = {json.dumps(cell.values, sort_keys=True): place for place, cell in enumerate(cells)}
    finished: dict[int, FinishedRun] = {}

    def cohort_of(cell: Cell) -> Cohort:
        if cohort is not None:
            return cohort
        named = Experiment.from_json(cell["experiment"])
        key = json.dumps([named.cohort, cell["experiment"]["cohort_options"]], sort_keys=True)
        if key not in loaded:
            loaded[key] = load_cohort(named.cohort, **named.cohort_options)
        return loaded[key]

    def note(ended: CellProgress) -> None:
        result, run = ended.result, None
        if isinstance(result, Done):
            run = finished[places[json.dumps(result.cell.values, sort_keys=True)]] = read_run(result.folder)
            _write_rows(out / "results.csv", [finished[place] for place in sorted(finished)])
        if tell is not None:
            failure = result if isinstance(result, Failed) else None
            tell(Progress(ended.number, ended.total, run, ended.seconds, failure))

    swept = sweep(
        cells,
        out,
        train_and_evaluate,
        data=cohort_of,
        jobs=jobs,
        where=where,
        fail_fast=fail_fast,
        only=only,
        tell=note,
    )
    return Results([finished[place] for place in sorted(finished)], failed=swept.failed)


def _cell(experiment: Experiment) -> Cell:
    """The experiment with everything that it leaves open; a name or value that is wrong is told here."""
    resolved = fit_values(
        experiment.method,
        options=experiment.options,
        encoders=experiment.encoders,
        width=experiment.width,
        **experiment.settings,
    )
    values = {"experiment": experiment.to_json(), "settings": resolved["settings"], "defaults": resolved["defaults"]}
    return Cell(f"{experiment.name}-seed{experiment.seed}", values)


def _parts(experiment: Experiment, cohort: Cohort) -> tuple[Cohort, ...]:
    """Training, validation and test rows: of the cohort's splits, or of a fold."""
    if experiment.fold is None:
        return tuple(cohort.split(name) for name in experiment.splits)
    fold, n = experiment.fold
    fold_of = folds(cohort.groups, cohort.target, n, seed=experiment.seed)
    rest, test = (cohort.take(np.flatnonzero(rows)) for rows in (fold_of != fold, fold_of == fold))
    parts = split_groups(rest.groups, rest.target, {"train": 0.9, "valid": 0.1}, seed=experiment.seed)
    return *(rest.take(np.flatnonzero(parts == name)) for name in ("train", "valid")), test


def train_and_evaluate(cell: Cell, cohort: Cohort, folder: Path) -> dict[str, Path]:
    """Trains and evaluates the experiment of a cell in its folder; the files of the evaluation."""
    experiment = Experiment.from_json(cell["experiment"])
    train, valid, test = _parts(experiment, cohort)
    test = labelled_cases(test)
    train, valid = (
        part.with_observed(draw_presence(experiment.train_missingness, part, (experiment.seed, place)).observed)
        for part, place in ((train, 10), (valid, 11))
    )
    if experiment.rows == "complete":
        train, valid = (part.take(np.asarray(part.observed.all(axis=1))) for part in (train, valid))
    model = fit(
        experiment.method,
        train,
        valid,
        missingness=experiment.removal,
        options=experiment.options,
        encoders=experiment.encoders,
        width=experiment.width,
        seed=experiment.seed,
        out=folder,
        resume=True,
        **experiment.settings,
    )
    result = evaluate(
        model,
        test,
        experiment.test_missingness,
        seed=experiment.seed,
        resamples=experiment.resamples,
        on_empty="silent",
    )
    return _write(folder, result, _conditions(model, test, experiment))


# Predictions under imposed conditions ----------------------------------------------------------------------------


@dataclass
class _Imposed:
    """Conditions as they are predicted: names, kinds, rates, presence and predictions, side by side."""

    names: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    observed: list[NDArray[np.bool_]] = field(default_factory=list)
    predictions: list[NDArray] = field(default_factory=list)

    def add(self, name: str, kind: str, rate: float, observed: NDArray[np.bool_], predictions: NDArray) -> None:
        for part, value in zip(vars(self).values(), (name, kind, rate, observed, predictions)):
            part.append(value)


def _conditions(model: TrainedModel, test: Cohort, experiment: Experiment) -> _Imposed:
    """Predicts the test rows under each rate, and the complete ones under each pattern (the others are NaN)."""
    made, imposed = _Imposed(), _imposed_patterns(model, test, experiment)
    for rate in experiment.rates:
        removed = (
            test if not rate else test.with_observed(draw_presence(MCAR(rate), test, (experiment.seed, 2)).observed)
        )
        predicted = _predict(model, removed, imposed)
        kind, common = ("rate", rate) if isinstance(rate, float) else ("rates", float("nan"))
        made.add(f"{kind} {describe_rate(rate)}", kind, common, removed.observed, predicted)
    for label, (observed, predicted) in imposed.items():
        made.add(label, "pattern", float("nan"), observed, predicted)
    return made


def _imposed_patterns(
    model: TrainedModel, test: Cohort, experiment: Experiment
) -> dict[str, tuple[NDArray[np.bool_], NDArray]]:
    """Presence and predictions of the test rows under each pattern, by its name; NaN for rows that are not complete."""
    n_modalities = len(test.schema.names)
    complete = test.observed.all(axis=1)
    if experiment.patterns == "met" or n_modalities > _LARGEST_M or not complete.any():
        return {}
    rows, found = np.flatnonzero(complete), {}
    for pattern in all_patterns(n_modalities)[::-1]:
        observed = test.observed & pattern
        part = model.predict(test.take(rows).with_observed(observed[rows]))
        predicted = np.full((len(test), *part.shape[1:]), np.nan)
        predicted[rows] = part
        found[pattern_label(int(pattern_codes(pattern[None])[0]), test.schema.names)] = observed, predicted
    return found


def _predict(
    model: TrainedModel, removed: Cohort, imposed: Mapping[str, tuple[NDArray[np.bool_], NDArray]]
) -> NDArray[np.float64]:
    """Predictions of rows: those under a pattern that was imposed are there already, as each is of its row alone."""
    if not imposed:
        return model.predict(removed, on_empty="silent")
    predicted = np.full_like(next(iter(imposed.values()))[1], np.nan)
    for observed, values in imposed.values():
        same = (observed == removed.observed).all(axis=1)
        predicted[same] = values[same]
    rest = np.flatnonzero(np.isnan(predicted).reshape(len(predicted), -1).any(axis=1))
    if len(rest):
        predicted[rest] = model.predict(removed.take(rest), on_empty="silent")
    return predicted


def _write(folder: Path, result: Evaluation, made: _Imposed) -> dict[str, Path]:
    """Writes the evaluation's files next to the model."""
    result.save(folder)
    arrays = {
        "names": np.array(made.names, dtype=str),
        "kinds": np.array(made.kinds, dtype=str),
        "rates": np.array(made.rates, dtype=float),
        "observed": np.packbits(np.array(made.observed, dtype=bool)),
        "predictions": _compact(np.array(made.predictions, dtype=float)),
    }
    replace_file(folder / "conditions.npz", lambda path: save_arrays(path, arrays))
    return {name: folder / name for name in ("predictions.parquet", "metrics.json", "conditions.npz")}


def _compact(values: NDArray[np.float64]) -> NDArray:
    """In half the space where nothing is lost by it."""
    single = values.astype(np.float32)
    return single if np.array_equal(single.astype(np.float64), values, equal_nan=True) else values


def _write_rows(path: Path, runs: list[FinishedRun]) -> None:
    """Writes the rows of several runs' results.csv into one."""
    import pandas as pd

    frame = pd.concat([run.rows() for run in runs], ignore_index=True)
    replace_file(path, lambda temporary: frame.to_csv(temporary, index=False))
