"""A comparison in one call: methods on one cohort under one removal and several seeds, to tables and a page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from amodal.benchmark import Experiment, Progress, Results, run_all, save_tables
from amodal.data import load_cohort
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.missingness import Mechanism, Natural
from amodal.report.page import write_page
from amodal.report.subject import Subject
from amodal.report.words import counted, duration, format_interval

__all__ = ["compare_methods", "list_models", "progress_line"]


def compare_methods(
    methods: Sequence[str],
    data: str,
    out: Path,
    *,
    train_missingness: Mechanism | None = None,
    test_missingness: Mechanism | None = None,
    rates: Sequence[float] = (),
    seeds: Sequence[int] = (0,),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    resamples: int = 1000,
    references: Sequence[str] = (),
    jobs: int = 1,
    where: Literal["here", "ray"] = "here",
    fail_fast: bool = False,
    only: Collection[int] | None = None,
    say: Callable[[str], object] = print,
) -> Results:
    """Trains and evaluates methods under exactly equal conditions, and writes tables and a page about them.

    What is in `out` from an earlier call is used and not computed again: an interrupted comparison goes on, and a
    method or a seed is added by asking for it.

    Args:
        methods: Names in `amodal.METHODS`, or "name=method" for a variant whose options stand under its name.
        data: A cohort's folder, or the name of a built-in one.
        out: Folder of the runs, of results.csv, methods.csv, methods.tex, differences.csv and index.html.
        train_missingness: What training and validation data lack beyond natural absence, drawn once; None: nothing.
        test_missingness: What test data lack, drawn once for each seed, the same for all methods; None: nothing.
        rates: Rates of the degradation curve.
        seeds: Seeds; each gives all methods the same presence.
        options: Keyword arguments by name.
        settings: Fields of `amodal.training.TrainingSettings`, for all.
        resamples: Number of bootstrap resamples.
        references: Whom to compare with; none: the yardsticks that are there.
        jobs: How many to train at a time.
        where: "here", or "ray" for a cluster; see `amodal.benchmark.run_all`.
        fail_fast: End with the first model that fails, instead of going on with the others.
        only: Numbers of the models to train, from 0 in the order of seeds and then methods, as the tasks of an array
            job do: tables and page are then left alone. None: all; (): none, only tables and page of what is there.
        say: Takes one line of text for each step.

    Returns:
        The results; `failed` has the models that ended in an error.

    Raises:
        UnknownNameError: If a method is not known, or `options` or `references` name one that is not compared.
        ConfigurationError: If two methods have the same name, or a value is out of range.
        RunError: If `out` cannot be written, or every model failed.
    """
    started, out = perf_counter(), Path(out)
    named = _named(methods)
    experiments = _experiments(
        named,
        dict(options or {}),
        references,
        seeds,
        cohort=data,
        train_missingness=train_missingness or Natural(),
        test_missingness=test_missingness or Natural(),
        rates=tuple(rates),
        settings=dict(settings or {}),
        resamples=resamples,
    )
    _check_numbers(only, len(experiments))
    cohort = load_cohort(data)
    with_seeds = f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
    say(f"{counted(len(experiments), 'model')}: {', '.join(named)}, with {with_seeds}; {jobs} at a time")
    results = run_all(
        experiments,
        out,
        jobs=jobs,
        where=where,
        fail_fast=fail_fast,
        only=only,
        tell=lambda progress: say(progress_line(progress)),
    )
    if only:
        return results
    title = f"{counted(len(named), 'method') if len(named) > 1 else next(iter(named))} on {cohort.name or data}"
    subject = Subject(results, title=title, cohort=cohort, references=references)
    save_tables(results, out, subject.stored[1] or results.names[:1])
    page = write_page(subject, out / "index.html")
    say(f"Trained, evaluated and written in {duration(perf_counter() - started)}. The page is {page}")
    return results


def _check_numbers(only: Collection[int] | None, n_models: int) -> None:
    for number in only or ():
        if not 0 <= number < n_models:
            raise ConfigurationError("there is no such model", expected=f"0 … {n_models - 1}", got=number)


def list_models(methods: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """The models of `compare_methods` with their numbers, a line each.

    Example:
        >>> list_models(["fusion", "wide=fusion"], (0, 1))
        ['0 fusion seed 0', '1 wide seed 0', '2 fusion seed 1', '3 wide seed 1']
    """
    names = [f"{name} seed {seed}" for seed in seeds for name in _named(methods)]
    return [f"{number} {name}" for number, name in enumerate(names)]


def progress_line(progress: Progress) -> str:
    """One line about a run that has ended: who, how long it took, and its headline with interval, or its error."""
    run = progress.run
    if run is None:
        return f"[{progress.done:>2}/{progress.total}] failed: {progress.failure}"
    results = Results([run])
    value = format_interval(results.summary(run.name, results.headline.name).interval)
    took = duration(progress.seconds) if progress.seconds else "there already"
    seed = f" seed {run.experiment.seed}" if run.experiment.seed else ""
    label = results.headline.label.lower()
    return f"[{progress.done:>2}/{progress.total}] {run.name + seed:<24} {took:>13}   {label} {value}"


def _experiments(
    named: Mapping[str, str],
    options: Mapping[str, Mapping[str, Any]],
    references: Sequence[str],
    seeds: Sequence[int],
    **common: Any,
) -> list[Experiment]:
    """The experiments: for each seed all methods."""
    for name in (*options, *references):
        if name not in named:
            raise UnknownNameError("method in this comparison", name, named)
    return [
        Experiment(method, name=name, options=options.get(name, {}), seed=seed, **common)
        for seed in seeds
        for name, method in named.items()
    ]


def _named(methods: Sequence[str]) -> dict[str, str]:
    from amodal.methods import METHODS

    if not methods:
        raise ConfigurationError("there is nothing to compare", expected="at least one method")
    named: dict[str, str] = {}
    for given in methods:
        name, _, method = given.partition("=")
        method = method or name
        if method not in METHODS:
            raise UnknownNameError("method", method, METHODS)
        if name in named:
            raise ConfigurationError("two methods have the same name", got=name, hint="Tell them apart: NAME=METHOD.")
        named[name] = method
    return named
