"""`amodal demo`: several methods on digits with missing quadrants, and a page about them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from amodal.benchmark import Experiment, FinishedRun, Results, run_all, save_tables
from amodal.data import load_cohort
from amodal.missingness import MCAR
from amodal.report.comparison import progress_line
from amodal.report.page import write_page
from amodal.report.subject import Subject
from amodal.report.words import duration

__all__ = ["demo_experiments", "run_demo"]

_RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
_QUADRANTS = ("top_left", "top_right", "bottom_left", "bottom_right")
_SLOWEST_FIRST = (
    "cepa", "cm2", "per_pattern", "boosting", "primo", "modality_dropout", "late_fusion", "fusion", "unimodal"
)  # fmt: skip


def demo_experiments(*, seed: int = 0, quick: bool = False) -> list[Experiment]:
    """The experiments of the demo, in the order of the page.

    Training data are complete for all methods; what differs is the method, and what it removes itself while training.
    The test data lack half of all quadrants (MCAR 0.5, drawn once, the same for all).

    Args:
        seed: Seed of everything.
        quick: A few epochs and resamples only.

    Returns:
        One experiment a method, and one for each modality alone.
    """
    common: dict[str, Any] = {"cohort": "digits", "test_missingness": MCAR(0.5), "rates": _RATES, "seed": seed}
    common["settings"] = {"batch_size": 64, "epochs": 18}  # a sixth of the default's steps
    trees: dict[str, Any] = {}
    if quick:
        common |= {"rates": (0.0, 0.5), "resamples": 100, "settings": {"epochs": 2}}
        trees = {"options": {"steps": 8, "redraws": 2}}
    alone = [
        Experiment("unimodal", name=f"unimodal ({name})", options={"modality": name}, **common) for name in _QUADRANTS
    ]
    return [
        *alone,
        Experiment("fusion", removal=None, **common),
        Experiment("modality_dropout", **common),
        Experiment("late_fusion", **common),
        Experiment("cepa", **common, options={"preset": "one_pattern"}),  # its default takes twice as long
        Experiment("cm2", **common),
        Experiment("primo", **common),
        Experiment("per_pattern", **common),
        Experiment("boosting", **common, **trees),
    ]


def run_demo(
    out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], object] = print, jobs: int | None = None
) -> Path:
    """Trains and evaluates the demo's methods, and writes tables and a page about them.

    What is in `out` from an earlier call is used and not computed again.

    Args:
        out: Folder of the runs, of results.csv, methods.csv, methods.tex, differences.csv and index.html.
        seed: Seed of everything.
        quick: A few epochs and resamples only, to see that it works.
        say: Takes one line of text for each step.
        jobs: How many methods to train at a time; None: two, where there are two processors.

    Returns:
        The page, out/index.html.

    Raises:
        RunError: If `out` cannot be written.
    """
    out, started = Path(out), perf_counter()
    experiments = demo_experiments(seed=seed, quick=quick)
    ordered = sorted(experiments, key=lambda experiment: _SLOWEST_FIRST.index(experiment.method))
    jobs = jobs or (1 if quick else min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))
    say(f"Training {len(ordered)} models on handwritten digits in four quadrants, {jobs} at a time.")
    say("Half of the quadrants of the test digits are removed (MCAR 0.5), the same for every model.")
    with _waiting(say):
        found = run_all(ordered, out, jobs=jobs, tell=lambda progress: say(progress_line(progress)))
        results = _chosen(found, experiments)
        save_tables(results, out, [name for name in ("per_pattern", "boosting") if name in results.names])
        page = write_page(_subject(results, experiments, seed=seed, quick=quick), out / "index.html")
    say(f"Trained, evaluated and written in {duration(perf_counter() - started)}.")
    return page


def _chosen(results: Results, experiments: list[Experiment]) -> Results:
    """The methods of the page: of the modalities alone only the best, by its validation loss."""
    by_name: dict[str, FinishedRun] = {run.name: run for run in results.runs}
    alone = [run for run in results.runs if run.experiment.method == "unimodal"]
    best = min(alone, key=lambda run: run.record["result"]["best_valid_loss"])
    kept = [e.name for e in experiments if e.method != "unimodal" or e.name == best.name]
    return Results([by_name[name] for name in kept])


def _subject(results: Results, experiments: list[Experiment], *, seed: int, quick: bool) -> Subject:
    notes = [
        "All methods learn from the same complete digits. “Trained without gaps” learns from them as they are; the "
        "others meet every pattern of presence while they learn, each in its own way. Everything else is equal: "
        "encoders, epochs, early stopping, test cases, and which quadrants of them are gone.",
        "“Network per pattern” trains one model for each of the 15 patterns: what one model for all of them has to "
        "reach. “Boosted trees” is what one would otherwise take from the shelf: gradient boosted trees on the pixels. "
        "CEPA, CM2 and PRIMO are the methods of three papers. Of the four quadrants alone, the one that is best on "
        "validation data is shown; all four are in results.csv.",
    ]
    if quick:
        notes.append("This is the quick version: two epochs, to see that it works. Its numbers mean nothing.")
    return Subject(
        results,
        title="Reading digits of which half is missing",
        question="Handwritten digits are cut into four quadrants, and at test time half of the quadrants are taken "
        "away. Which way of training still reads the digit?",
        notes=notes,
        titles={name: _title(name) for name in results.names},
        answer="With {absent} of the picture gone, {best} digits are still read; a network that never met gaps reads "
        "{other}.",
        part="quadrant",
        cohort=load_cohort(experiments[0].cohort),
        commands=[f"amodal demo --seed {seed}" + (" --quick" if quick else "")],
    )


def _title(name: str) -> str:
    """The names that suit digits better than the methods' own; "" leaves these."""
    quadrant = re.fullmatch(r"unimodal \((\w+)\)", name)
    if quadrant:
        return f"Only {quadrant[1].replace('_', ' ')}"
    return {"fusion": "Trained without gaps", "late_fusion": "Predictor per quadrant"}.get(name, "")


@contextmanager
def _waiting(say: Callable[[str], object]) -> Iterator[None]:
    """Something that moves, if a person is looking at the lines on a terminal."""
    from rich.console import Console

    console = Console()
    if say is not print or not console.is_terminal:
        yield
        return
    with console.status("working"):
        yield
