"""Sweeps: cells of plain values, each computed once, in a folder named by its content; here, in processes or on Ray.

A cell's folder is named by a readable stem and a hash of everything that decides its result: its values, the content of
its data, and the function that computes it. What is in the folder therefore answers this cell and no other one; a cell
with other values, or with other data of the same name, is another folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from amodal.benchmark.cells import ERROR, Cell, Done, Failed, Work, compute_cell, read_cell, read_error, store_error
from amodal.data import Cohort
from amodal.errors import ConfigurationError, RunError, UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CellProgress", "Swept", "sweep"]


@dataclass(frozen=True)
class CellProgress:
    """Progress that `sweep` reports after each cell.

    Args:
        number: How many have ended.
        total: How many there are.
        result: The one that has just ended.
        seconds: How long it took here; 0 if it was there already.
    """

    number: int
    total: int
    result: Done | Failed
    seconds: float


@dataclass(frozen=True)
class Swept:
    """Results of a sweep, in the order of its cells."""

    done: tuple[Done, ...]
    failed: tuple[Failed, ...] = ()

    def frame(self, *names: str) -> pd.DataFrame:
        """One row a finished cell: these of its values, its record's numbers and words, and its seconds."""
        import pandas as pd

        rows = [
            {name: one.cell[name] for name in names}
            | {key: value for key, value in one.record.items() if not isinstance(value, dict | list)}
            | {"seconds": one.seconds}
            for one in self.done
        ]
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Task:
    """A cell with the function and the place of its computation."""

    cell: Cell
    work: Work
    folder: Path
    identity: dict[str, Any]
    fail_fast: bool


def sweep(
    cells: Sequence[Cell],
    out: str | Path,
    work: Work,
    *,
    data: Cohort | Callable[[Cell], Cohort] | None = None,
    jobs: int = 1,
    where: Literal["here", "ray"] = "here",
    fail_fast: bool = False,
    only: Collection[int] | None = None,
    tell: Callable[[CellProgress], object] | None = None,
) -> Swept:
    """Computes cells, each into its own folder under `out`; those that are there already are not computed again.

    Args:
        cells: What to compute; equal ones are computed once.
        out: Folder of the folders.
        work: Computes a cell: `work(cell, cohort, folder)`. A function of a module, so that nothing else than the
            cell's values and the data's content can decide what it finds; see `Work` for what it returns.
        data: The cohort of all cells, or a function that gives each cell's; its content is part of the cell's identity.
        jobs: How many to compute at a time, each in a process with one thread; 1 computes them here, one after the
            other. On Ray, the cluster's processors and GPUs decide, and so many cells share a GPU.
        where: "here", or "ray": on the Ray cluster that RAY_ADDRESS names (one is started on this machine if none is
            named), a cell a task, with a GPU (or, with `jobs` N, an Nth of one) where the cluster has any. `out` must
            be on a disk that all machines share.
        fail_fast: Raise the first error. Otherwise a cell that fails is stored as such, the others are computed, and a
            warning at the end names the failed ones.
        only: Positions in `cells` of those to compute, as the tasks of an array job do; of the others, those that are
            finished already are returned too. None: all.
        tell: Called after each cell.

    Returns:
        Finished and failed cells.

    Raises:
        RunError: If `out` cannot be written, a folder holds another cell, or every cell failed.
        ConfigurationError: If `work` is not a function of a module, `jobs` is below 1, or Ray is asked for and not
            installed.
        UnknownNameError: If `where` is not known.
        AmodalError: With `fail_fast`, whatever the first cell that fails raises.

    Example:
        >>> import tempfile
        >>> def square(cell, cohort, folder):
        ...     return {"square": cell["number"] ** 2}
        >>> with tempfile.TemporaryDirectory() as out:
        ...     swept = sweep([Cell(f"number-{n}", {"number": n}) for n in (2, 3)], out, square)
        ...     [one.record["square"] for one in swept.done]
        [4, 9]
    """
    if where not in ("here", "ray"):
        raise UnknownNameError("value of where", where, ("here", "ray"))
    if not jobs >= 1:
        raise ConfigurationError("jobs is out of range", expected="1 or more", got=jobs)
    _check_work(work)
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {out}: {error.strerror or error}") from error
    cohort_of = data if callable(data) else (lambda _: data)
    tasks: dict[str, _Task] = {}
    names = [_place(cell, work, cohort_of(cell), out, fail_fast, tasks) for cell in cells]
    found: dict[str, Done | Failed] = {}

    def note(name: str, result: Done | Failed, seconds: float) -> None:
        found[name] = result
        if tell is not None:
            tell(CellProgress(len(found), len(tasks), result, seconds))

    waiting, chosen = [], None if only is None else {names[place] for place in only}
    for name, task in tasks.items():
        stored = read_cell(task.cell, task.folder, task.identity)
        if stored is not None:
            note(name, stored, 0.0)
        elif chosen is None or name in chosen:
            waiting.append(task)
        elif (failed := read_error(task.cell, task.folder, task.identity)) is not None:
            note(name, failed, 0.0)
    pairs = ((task, cohort_of(task.cell)) for task in waiting)
    results = _on_ray(pairs, jobs) if where == "ray" and waiting else _here(pairs, min(jobs, len(waiting)))
    for result, seconds in results:
        note(result.folder.name, result, seconds)
    ordered = [found[name] for name in dict.fromkeys(names) if name in found]
    swept = Swept(
        tuple(one for one in ordered if isinstance(one, Done)), tuple(one for one in ordered if isinstance(one, Failed))
    )
    _tell_failures(swept)
    return swept


def _check_work(work: Work) -> None:
    name = getattr(work, "__qualname__", "")
    if not name or "<" in name:  # a closure or a partial function: its values are in no hash
        raise ConfigurationError(
            "what computes cells must be a function of a module",
            expected="a name at module level",
            got=name or repr(work),
            hint="Everything it depends on belongs into the cell's values or the data.",
        )


def _place(cell: Cell, work: Work, cohort: Cohort | None, out: Path, fail_fast: bool, tasks: dict[str, _Task]) -> str:
    """Adds the cell's task; its folder's name: one that a person can read and no other cell has."""
    identity = cell.identity(work, cohort)
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", cell.stem).strip("-.")[:60] or "cell"
    name = f"{readable}-{key}"
    tasks.setdefault(name, _Task(cell, work, out.resolve() / name, identity, fail_fast))
    return name


def _tell_failures(swept: Swept) -> None:
    if not swept.failed:
        return
    total, first = len(swept.done) + len(swept.failed), swept.failed[0]
    if not swept.done and total:
        raise RunError(f"all {total} cells failed; {first}", hint=f"The whole error is {first.folder / ERROR}.")
    listed = "".join(f"\n  {one}" for one in swept.failed)
    warnings.warn(f"{len(swept.failed)} of {total} cells failed, see {ERROR} in their folders:{listed}", stacklevel=3)


# Computing -----------------------------------------------------------------------------------------------------------


def _here(pairs: Iterable[tuple[_Task, Cohort | None]], jobs: int) -> Iterator[tuple[Done | Failed, float]]:
    """Computes tasks here or in processes, and yields results and seconds as they come."""
    if jobs < 2:
        for task, cohort in pairs:
            yield _timed(task, cohort)
        return
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered")
    yield from parallel(delayed(_in_process)(task, cohort) for task, cohort in pairs)  # type: ignore[misc]


def _on_ray(pairs: Iterable[tuple[_Task, Cohort | None]], jobs: int) -> Iterator[tuple[Done | Failed, float]]:
    """Computes tasks on a Ray cluster, and yields results and seconds as they come."""
    try:
        import ray
    except ImportError as error:
        raise ConfigurationError(
            "running on a cluster needs the package ray", hint="pip install 'amodal[ray]'"
        ) from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    gpus = 1 / max(1, jobs) if ray.cluster_resources().get("GPU", 0) else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpus)(_in_process)
    shared: dict[str | None, Any] = {None: None}
    tasks: dict[Any, _Task] = {}
    for task, cohort in pairs:
        if cohort is not None and cohort.fingerprint not in shared:
            shared[cohort.fingerprint] = ray.put(cohort)
        tasks[remote.remote(task, shared[None if cohort is None else cohort.fingerprint])] = task
    running = list(tasks)
    while running:
        done, running = ray.wait(running)
        task = tasks[done[0]]
        try:
            yield ray.get(done[0])
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            if task.fail_fast:
                for other in running:
                    ray.cancel(other)
                raise cause from error
            # The worker died: an error of the cell itself is caught where it happens.
            yield store_error(task.cell, task.identity, task.folder, cause), 0.0


def _in_process(task: _Task, cohort: Cohort | None) -> tuple[Done | Failed, float]:
    import torch

    torch.set_num_threads(1)
    return _timed(task, cohort)


def _timed(task: _Task, cohort: Cohort | None) -> tuple[Done | Failed, float]:
    started = perf_counter()
    try:
        result: Done | Failed = compute_cell(task.cell, task.work, cohort, task.folder)
    except Exception as error:  # of any kind: the other cells are computed all the same
        if task.fail_fast:
            raise
        result = store_error(task.cell, task.identity, task.folder, error)
    return result, perf_counter() - started
