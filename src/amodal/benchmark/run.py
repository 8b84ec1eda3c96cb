"""Trains and evaluates experiments, each into a folder of its own, and reads such folders back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from amodal.benchmark.experiment import Experiment
from amodal.benchmark.results import Results
from amodal.benchmark.stored import FinishedRun, read_run
from amodal.data import Cohort, load_cohort
from amodal.errors import ConfigurationError, RunError, UnknownNameError
from amodal.evaluation import Evaluation, evaluate
from amodal.files import replace_file, write_json
from amodal.missingness import MCAR, all_patterns, pattern_codes, pattern_label
from amodal.removal import draw_presence
from amodal.training import fit

if TYPE_CHECKING:
    from amodal.checkpoint import TrainedModel

__all__ = ["Progress", "run_all", "run_experiment"]

_LARGEST_M = 6  # modalities of which all patterns (63) are imposed


@dataclass(frozen=True)
class Progress:
    """What `run_all` tells after each experiment.

    Args:
        done: How many are finished.
        total: How many there are.
        run: The one that has just finished.
        seconds: How long it took here; 0 if it was there already.
    """

    done: int
    total: int
    run: FinishedRun
    seconds: float


def run_experiment(experiment: Experiment, folder: str | Path, *, cohort: Cohort | None = None) -> FinishedRun:
    """Trains and evaluates one experiment, unless its folder holds it already.

    The folder is that of `amodal.fit` and of `amodal evaluate` together, with `conditions.npz` (predictions of the
    test rows under each rate and each imposed pattern) and, written last, `benchmark.json` (the experiment).
    `presence.npz` is that of the training rows. Training that was interrupted is continued.

    Args:
        experiment: What to do.
        folder: Folder of the run.
        cohort: The cohort, if it is loaded already; None loads the one that the experiment names.

    Returns:
        The finished run, as its folder has it.

    Raises:
        RunError: If the folder holds another experiment.
        AmodalError: Whatever `amodal.fit` and `amodal.evaluate` raise.
    """
    folder = Path(folder)
    if _is_finished(folder, experiment):
        return read_run(folder)
    cohort = load_cohort(experiment.cohort, **experiment.cohort_options) if cohort is None else cohort
    train, valid, test = (cohort.split(name) for name in experiment.splits)
    train, valid = (
        part.with_observed(draw_presence(experiment.train_missingness, part, (experiment.seed, place)).observed)
        for part, place in ((train, 10), (valid, 11))
    )
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
    _write(folder, experiment, result, _conditions(model, test, experiment))
    return read_run(folder)


def run_all(
    experiments: Sequence[Experiment],
    out: str | Path,
    *,
    cohort: Cohort | None = None,
    jobs: int = 1,
    where: Literal["here", "ray"] = "here",
    tell: Callable[[Progress], object] | None = None,
) -> Results:
    """Runs experiments, each into its own folder under `out`; those that are there already are not run again.

    After each one `out/results.csv` has the rows of all that are finished, so that a long comparison can be watched,
    and interrupted: the same call goes on where it stopped.

    Args:
        experiments: What to do; see `amodal.benchmark.grid`.
        out: Folder of the folders.
        cohort: The cohort of all of them, if it is loaded already.
        jobs: How many to run at a time, each in a process with one thread; 1 runs them here, one after the other. On
            Ray, the cluster's processors and GPUs decide.
        where: "here", or "ray": on the Ray cluster that RAY_ADDRESS names (one is started on this machine if none is
            named), an experiment a task, with a GPU of its own where the cluster has any. `out` must be on a disk that
            all machines share.
        tell: Called after each one.

    Returns:
        The results, in the order of `experiments`.

    Raises:
        RunError: If `out` cannot be written, or methods did not meet the same conditions.
        ConfigurationError: If Ray is asked for and not installed.
        UnknownNameError: If `where` is not known.
        AmodalError: Of the first experiment that fails; what was finished before stays.
    """
    if where not in ("here", "ray"):
        raise UnknownNameError("value of where", where, ("here", "ray"))
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {out}: {error.strerror or error}") from error
    places = {experiment.key: out / experiment.folder_name for experiment in experiments}
    finished: dict[str, FinishedRun] = {}

    def note(key: str, seconds: float) -> None:
        finished[key] = read_run(places[key])
        _write_rows(out / "results.csv", [finished[e.key] for e in experiments if e.key in finished])
        if tell is not None:
            tell(Progress(len(finished), len(places), finished[key], seconds))

    waiting = []
    for experiment in {experiment.key: experiment for experiment in experiments}.values():
        if _is_finished(places[experiment.key], experiment):
            note(experiment.key, 0.0)
        else:
            waiting.append(experiment)
    execute = _on_ray(waiting, places, cohort) if where == "ray" else _execute(waiting, places, cohort, jobs)
    for key, seconds in execute:
        note(key, seconds)
    return Results([finished[experiment.key] for experiment in experiments])


def _execute(experiments: list[Experiment], places: dict[str, Path], cohort: Cohort | None, jobs: int) -> Any:
    """Runs experiments, here or in processes, and yields (key, seconds) as they finish."""
    if jobs == 1 or len(experiments) < 2:
        for experiment in experiments:
            yield _timed(experiment, places[experiment.key], cohort)
        return
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=min(jobs, len(experiments)), return_as="generator_unordered")
    yield from parallel(delayed(_in_process)(e, places[e.key], cohort) for e in experiments)  # type: ignore[misc]


def _on_ray(experiments: list[Experiment], places: dict[str, Path], cohort: Cohort | None) -> Any:
    """Runs experiments as tasks of a Ray cluster, and yields (key, seconds) as they finish."""
    if not experiments:
        return
    try:
        import ray
    except ImportError as error:
        raise ConfigurationError(
            "running on a cluster needs the package ray", hint="pip install 'amodal[ray]'"
        ) from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus)(_in_process)
    shared = None if cohort is None else ray.put(cohort)
    running = [task.remote(e, places[e.key].resolve(), shared) for e in experiments]
    while running:
        done, running = ray.wait(running)
        try:
            yield ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            for other in running:
                ray.cancel(other)
            raise error.cause from error


def _in_process(experiment: Experiment, folder: Path, cohort: Cohort | None) -> tuple[str, float]:
    import torch

    torch.set_num_threads(1)
    return _timed(experiment, folder, cohort)


def _timed(experiment: Experiment, folder: Path, cohort: Cohort | None) -> tuple[str, float]:
    started = perf_counter()
    run_experiment(experiment, folder, cohort=cohort)
    return experiment.key, perf_counter() - started


def _is_finished(folder: Path, experiment: Experiment) -> bool:
    """Whether a folder holds this experiment, complete.

    Raises:
        RunError: If it holds another one.
    """
    try:
        stored = json.loads((folder / "benchmark.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{folder / 'benchmark.json'} cannot be read: {error}", hint="Remove the folder.") from error
    if stored.get("experiment") != experiment.to_json():
        raise RunError(f"the folder {folder} holds another experiment", hint="Choose another folder.")
    return True


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
    made = _Imposed()
    for rate in experiment.rates:
        removed = (
            test if not rate else test.with_observed(draw_presence(MCAR(rate), test, (experiment.seed, 2)).observed)
        )
        predicted = model.predict(removed, on_empty="silent")
        made.add(f"rate {rate:g}", "rate", rate, removed.observed, predicted)
    n_modalities = len(test.schema.names)
    complete = test.observed.all(axis=1)
    if experiment.patterns == "met" or n_modalities > _LARGEST_M or not complete.any():
        return made
    rows = np.flatnonzero(complete)
    for pattern in all_patterns(n_modalities)[::-1]:
        observed = test.observed & pattern
        part = model.predict(test.take(rows).with_observed(observed[rows]))
        predicted = np.full((len(test), *part.shape[1:]), np.nan)
        predicted[rows] = part
        label = pattern_label(int(pattern_codes(pattern[None])[0]), test.schema.names)
        made.add(label, "pattern", float("nan"), observed, predicted)
    return made


def _write(folder: Path, experiment: Experiment, result: Evaluation, made: _Imposed) -> None:
    """Writes everything beside the model; benchmark.json is last: its presence says that the folder is complete."""
    frame = result.frame()
    replace_file(folder / "predictions.parquet", lambda path: frame.to_parquet(path, index=False))
    write_json(folder / "metrics.json", result.to_json())
    arrays = {
        "names": np.array(made.names, dtype=str),
        "kinds": np.array(made.kinds, dtype=str),
        "rates": np.array(made.rates, dtype=float),
        "observed": np.packbits(np.array(made.observed, dtype=bool)),
        "predictions": _compact(np.array(made.predictions, dtype=float)),
    }
    replace_file(folder / "conditions.npz", lambda path: _save_arrays(path, arrays))
    write_json(folder / "benchmark.json", {"format": 1, "experiment": experiment.to_json()})


def _save_arrays(path: Path, arrays: dict[str, NDArray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _compact(values: NDArray[np.float64]) -> NDArray:
    """In half the space where nothing is lost by it."""
    single = values.astype(np.float32)
    return single if np.array_equal(single.astype(np.float64), values, equal_nan=True) else values


def _write_rows(path: Path, runs: list[FinishedRun]) -> None:
    """Writes the rows of several runs' results.csv into one."""
    import pandas as pd

    frame = pd.concat([run.rows() for run in runs], ignore_index=True)
    replace_file(path, lambda temporary: frame.to_csv(temporary, index=False))
