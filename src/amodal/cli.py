"""The command line: amodal demo | data | fit | evaluate | predict | serve | impact | run | report | methods | cite.

Nothing heavy is imported at the top, so that `amodal --help` answers at once; for the same reason the commands are not
named like the package's lazily loaded names, and there are no imports for type checkers only: the argument parser
would resolve both.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from amodal.commands import command, convert_list, switches
from amodal.data_commands import DATA_COMMANDS, prepare_commands
from amodal.errors import AmodalError, ConfigurationError, RunError, UnknownNameError
from amodal.impact_command import impact_command
from amodal.prediction_commands import predict_command, serve_command
from amodal.settings import TrainingSettings

__all__ = ["main", "parse_mechanism"]


def demo_command(out: Path = Path("runs/demo"), seed: int = 0, quick: bool = False) -> None:
    """Train several methods on real data in which modalities are missing, and write a page about it.

    Args:
        out: Folder of the runs and of index.html; what is there already is kept and used.
        seed: Seed of everything.
        quick: A few epochs only, to see that it works.
    """
    from amodal.report.demo import run_demo

    page = run_demo(out, seed=seed, quick=quick, say=print)
    print(f"\nThe page is {page}")


def fit_command(
    method: str,
    *,
    data: str,
    out: Path,
    train_split: str = "train",
    valid_split: str = "valid",
    missingness: str = "auto",
    valid_missingness: str = "same",
    class_weight: Literal["balanced"] | dict[str, float] | None = None,
    options: dict[str, Any] | None = None,
    encoders: dict[str, Any] | None = None,
    width: int = 64,
    seed: int = 0,
    loggers: list[Literal["tensorboard", "mlflow", "wandb"]] | None = None,
    resume: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> None:
    """Train a method on a cohort and write its run folder.

    Args:
        method: Name of a method; see `amodal methods`.
        data: A cohort's folder, or the name of a built-in one; see `amodal data list`.
        out: Folder of the run.
        train_split: Split to train on.
        valid_split: Split for early stopping; "" holds a tenth of the training split back, by group.
        missingness: Further removal in training: auto, natural, balanced, mcar:RATE, mar:RATE, mnar:RATE, count:K, or
            pattern:A+B.
        valid_missingness: Further removal in validation: same, or as above.
        class_weight: How much classes count in training: balanced, or weights by class.
        options: Keyword arguments of the method; `--options.preset paper` chooses a preset.
        encoders: Encoders by modality.
        width: Width of tokens and pooled vectors.
        seed: Seed of everything.
        loggers: More loggers beside history.csv.
        resume: Continue a run that was interrupted.
        quiet: No progress bar.
    """
    import amodal
    from amodal.data_commands import describe_modalities

    cohort = amodal.load_cohort(data)
    print("\n".join(describe_modalities(cohort)))
    model = amodal.fit(
        method,
        cohort.split(train_split),
        _validation(cohort, valid_split),
        missingness="auto" if missingness == "auto" else parse_mechanism(missingness),
        valid_missingness="same" if valid_missingness == "same" else parse_mechanism(valid_missingness),
        class_weight=class_weight,
        options=options,
        encoders=encoders,
        width=width,
        seed=seed,
        out=out,
        resume=resume,
        loggers=tuple(loggers or ()),
        progress=not quiet,
        **settings,
    )
    if model.presence is not None:
        print(model.presence.describe())
    print(_fitted(method, model.experiment["result"]))
    print(f"The run is {out}")


def _fitted(method: str, result: dict[str, Any]) -> str:
    """A line on a training that has ended."""
    loss = result["best_valid_loss"]
    return (
        f"{method}: {result['parameters']:,} parameters, {result['epochs']} epochs in {result['seconds']:.0f} s, "
        f"best validation loss {'undefined' if loss is None else format(loss, '.4f')} "
        f"in epoch {result['best_epoch']}"
    )


def evaluate_command(
    run: Path,
    *,
    data: str,
    split: str = "test",
    missingness: str = "natural",
    patterns: Literal["met", "all"] = "met",
    metrics: list[str] | None = None,
    seed: int = 0,
    resamples: int = 1000,
    out: Path | None = None,
    batch_size: int = 1024,
    device: str = "cpu",
) -> None:
    """Evaluate a run on every pattern of presence, with 95 % intervals.

    Args:
        run: Folder of the run.
        data: A cohort's folder or name.
        split: Split to evaluate on; "" takes all cases.
        missingness: Further removal: natural, balanced, mcar:RATE, mar:RATE, mnar:RATE, count:K, or pattern:A+B.
        patterns: "met" groups the cases by the pattern they have; "all" imposes every pattern on all cases.
        metrics: Metrics to show; null shows the headline ones.
        seed: Seed of removal and bootstrap.
        resamples: Number of bootstrap resamples.
        out: Folder for metrics.json, predictions.parquet and test_presence.npz; null writes them into the run. With
            "all" for patterns.csv and the predictions under each pattern, patterns.npy, which an interruption keeps.
        batch_size: Cases predicted at a time.
        device: cpu or cuda.
    """
    from amodal.evaluation import evaluate as evaluate_model
    from amodal.evaluation import evaluate_patterns
    from amodal.metrics import metrics_for
    from amodal.progress import progress_bar

    model = _trained(run, device)
    cohort = _cohort(data, split)
    task = model.schema.task
    shown = metrics or [name for name in task.traits.headlines if name in metrics_for(task.kind, bins=task.bins)]
    if 0 < cohort.labelled.sum() < len(cohort):
        print(f"judged are the {int(cohort.labelled.sum()):,} of {len(cohort):,} cases that have a label")
    how: dict[str, Any] = {"seed": seed, "resamples": resamples, "batch_size": batch_size}
    if patterns == "all":
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        with progress_bar("patterns") as tell:
            store = None if out is None else out / "patterns.npy"
            imposed = evaluate_patterns(model, cohort, store=store, tell=tell, **how)
        print(_frame(imposed.table(shown)))
        if out is not None:
            imposed.table().to_csv(out / "patterns.csv", index=False)
            print(f"The table and the predictions, (pattern, case, …), are in {out}")
        return
    result = evaluate_model(model, cohort, parse_mechanism(missingness), **how)
    print(result.presence.describe())
    print(_frame(result.table(shown)))
    print(f"The predictions and metrics are in {result.save(out or run)}")


def report_command(
    runs: list[Path],
    *,
    out: Path = Path("report.html"),
    title: str = "",
    data: str = "",
    by: list[str] | str = "",
    tables: Path | None = None,
) -> None:
    """Write one page about evaluated runs: presence, comparison, patterns, calibration, cases.

    Args:
        runs: Folders of runs, each evaluated on the same cases under the same presence.
        out: The page, one file that needs nothing beside itself.
        title: Its title.
        data: A cohort's folder or name, for pictures of cases; "" takes the one that the runs name.
        by: Columns of the cohort by which patients are grouped, such as sex, age and site.
        tables: Folder for the tables as CSV and LaTeX (methods.csv, methods.tex, differences.csv); null writes none.
    """
    from amodal.benchmark import save_tables
    from amodal.report.page import write_page
    from amodal.report.subject import subject_of

    subject = subject_of(runs, title=title, data=data, by=convert_list("by", by))
    print(f"The page is {write_page(subject, out)}")
    if tables is not None:
        tables.mkdir(parents=True, exist_ok=True)
        results, references = subject.stored
        written = save_tables(results, tables, references or results.names[:1])
        print(f"The tables are {', '.join(map(str, written))}")


def run_command(
    methods: list[str],
    *,
    data: str,
    out: Path,
    train_missingness: str = "natural",
    test_missingness: str = "natural",
    rates: list[float] | float | str = "",
    seeds: list[int] | int | str = 0,
    options: dict[str, dict[str, Any]] | None = None,
    references: list[str] | str = "",
    resamples: int = 1000,
    jobs: int = 1,
    where: Literal["here", "ray"] = "here",
    fail_fast: bool = False,
    list: bool = False,
    only: int | None = None,
    collect: bool = False,
    **settings: Any,
) -> None:
    """Compare methods under exactly equal conditions: train, evaluate, tables and a page; goes on where it stopped.

    Args:
        methods: Names of methods, or NAME=METHOD for a variant, with blanks or commas between.
        data: A cohort's folder or name.
        out: Folder of the runs, tables and page.
        train_missingness: What training data lack, drawn once: natural, balanced, mcar:RATE, mar:RATE, mnar:RATE,
            count:K, or pattern:A+B.
        test_missingness: What test data lack, drawn once for each seed, the same for all methods.
        rates: Rates of the degradation curve, such as 0,0.25,0.5.
        seeds: Seeds, such as 0,1,2.
        options: Keyword arguments of methods by name.
        references: Names of those to compare with, such as boosting,per_pattern; "" takes these two where they are.
        resamples: Number of bootstrap resamples.
        jobs: How many to train at a time; on Ray, how many share a GPU.
        where: here, or ray for a cluster (RAY_ADDRESS names it; `out` must be on a disk that its machines share).
        fail_fast: End with the first model that fails, instead of going on with the others.
        list: Only list the models and their numbers, for array jobs.
        only: Train only the model of this number, without tables and page: one task of an array job.
        collect: Train nothing: tables and page of what has finished.
    """
    from amodal.report.comparison import compare_methods, list_models

    seeds_ = convert_list("seeds", seeds, int)
    methods = [name for words in methods for name in words.split(",") if name]
    if list:
        print("\n".join(list_models(methods, seeds_)))
        return

    results = compare_methods(
        methods,
        data,
        out,
        train_missingness=parse_mechanism(train_missingness),
        test_missingness=parse_mechanism(test_missingness),
        rates=convert_list("rates", rates, float),
        seeds=seeds_,
        options=options,
        settings=settings,
        references=convert_list("references", references),
        resamples=resamples,
        jobs=jobs,
        where=where,
        fail_fast=fail_fast,
        only=() if collect else None if only is None else (only,),
    )
    if results.failed:
        raise RunError(
            f"{len(results.failed)} of {len(results.failed) + len(results.runs)} models failed",
            hint="The others are on the page; the same call tries the failed ones again.",
        )


def methods_command() -> None:
    """List the methods."""
    from rich.console import Console
    from rich.table import Table

    from amodal.methods import METHODS

    table = Table("method", "what it is", "draws completions", "paper", box=None)
    for name, kind in METHODS.items():
        from amodal.method import SamplingMethod

        table.add_row(name, kind.summary, "yes" if issubclass(kind, SamplingMethod) else "", ", ".join(kind.references))
    Console().print(table)


def cite_command(run: Path) -> None:
    """Print the BibTeX of the papers that a run uses.

    Args:
        run: Folder of a run.
    """
    from amodal.citation import bibtex

    print(bibtex(run))


def parse_mechanism(text: str) -> Any:
    """Reads a missingness mechanism as the command line writes it; see `amodal.missingness.words`."""
    from amodal.missingness.words import parse_mechanism as parse

    return parse(text)


def _trained(run: Path, device: str) -> Any:
    from amodal.checkpoint import TrainedModel

    return TrainedModel.load(run, device=device)


def _cohort(data: str, split: str) -> Any:
    from amodal.data import load_cohort

    cohort = load_cohort(data)
    return cohort.split(split) if split else cohort


def _validation(cohort: Any, split: str) -> Any:
    """The cases for early stopping; None: some are to be held back from training."""
    if not split:
        return None
    try:
        return cohort.split(split)
    except UnknownNameError as error:
        raise ConfigurationError(
            str(error), hint="To hold a tenth of training back instead: --valid_split ''."
        ) from error


def _frame(frame: Any) -> str:
    return frame.to_string(index=False, float_format=lambda value: f"{value:.3f}")


_COMMANDS: dict[str, Any] = {
    "demo": demo_command,
    "data": DATA_COMMANDS,
    "fit": command(fit_command, TrainingSettings),
    "evaluate": evaluate_command,
    "predict": predict_command,
    "serve": serve_command,
    "impact": impact_command,
    "run": command(run_command, TrainingSettings),
    "report": report_command,
    "methods": methods_command,
    "cite": cite_command,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Words after `amodal`; None takes those of the process.

    Returns:
        Exit status: 0, or 2 for an error that the message explains.
    """
    from jsonargparse import auto_cli

    words = sys.argv[1:] if arguments is None else arguments
    commands: dict[str, Any] = _COMMANDS | {"data": DATA_COMMANDS | {"prepare": prepare_commands(words)}}
    given = _with_runs(_with_flags(words, switches(commands)))
    if given in (["--version"], ["-V"]):
        from amodal import __version__

        print(f"amodal {__version__}")
        return 0
    if int(os.environ.get("RANK") or 0) > 0 and "TORCHELASTIC_RUN_ID" in os.environ:
        from amodal.training.processes import follow

        follow()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        try:
            auto_cli(
                commands,
                args=given,
                prog="amodal",
                description="Learn from several modalities of which some are missing.",
            )
            sys.stdout.flush()
        except BrokenPipeError:  # nobody reads on, as after `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except AmodalError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0


def _with_runs(words: list[str]) -> list[str]:
    """Lets `report` and `run` take runs or methods one after the other: the parser wants one list."""
    if words[:1] not in (["report"], ["run"]) or any(word in ("--help", "-h") for word in words):
        return words
    runs, options = [], []
    for before, word in pairwise(words):
        is_value = before.startswith("--") and "=" not in before
        (options if is_value or word.startswith("-") else runs).append(word)
    return [words[0], *options, *([json.dumps(runs)] if runs else [])]


def _with_flags(words: list[str], flags: set[str]) -> list[str]:
    """Lets a switch stand alone: `--resume` is `--resume=true`."""
    result = []
    for i, word in enumerate(words):
        alone = i + 1 == len(words) or words[i + 1].lower() not in ("true", "false", "yes", "no")
        result.append(f"{word}=true" if word in flags and alone else word)
    return result


if __name__ == "__main__":
    sys.exit(main())
