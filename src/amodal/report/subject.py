"""Subject of a report: results of one setting, their data, and what to show."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amodal.benchmark import FinishedRun, Results, read_run
from amodal.data import Cohort, load_cohort
from amodal.errors import AmodalError, UnknownNameError
from amodal.methods import METHODS
from amodal.report.svg import COLOURS, GREYS, MARKERS, LegendKey, Mark, legend_key

__all__ = ["YARDSTICKS", "Subject", "subject_of"]

_MADE = ("method", "options", "encoders", "width", "rows", "train_missingness", "removal")  # how a model is made
YARDSTICKS = ("per_pattern", "boosting")
"""Methods that others are compared with where they are there: one dedicated model a pattern, and boosted trees."""


_MOST_PATTERNS, _FEW_CASES = 24, 30  # of more patterns that the rows have, those of fewer cases are left out


@dataclass(frozen=True)
class Subject:
    """The subject of a report.

    Its results have names for people: a run that is named as its method takes the method's `title`.

    Args:
        results: Results of one setting.
        title: The page's title.
        question: What is asked, in a sentence or two.
        notes: Further paragraphs on how it was done.
        cohort: The data; None: the report has no pictures of cases.
        references: Names of the methods to compare with; those of `YARDSTICKS` that are there, if none is named.
        focus: The method whose cases are shown; None: the best that is no reference.
        commands: What to type to get this page again.
        by: Columns of the cohort (`Cohort.extras`) by which patients are grouped.
        titles: Names for people, by name in the results; they go before those of the methods.
        answer: The answer in a sentence, with {absent}, {best}, {best_name}, {other} and {other_name} to be filled in
            from the results; "" takes one that suits any data. See `amodal.report.answer`.
        part: What people call one of the modalities.

    Attributes:
        codes: The names that runs and tables have, by the names for people.

    Raises:
        UnknownNameError: If `references` or `focus` name no method of the results.
    """

    results: Results
    title: str
    question: str = ""
    notes: Sequence[str] = ()
    cohort: Cohort | None = None
    references: Sequence[str] = ()
    focus: str | None = None
    commands: Sequence[str] = field(default_factory=tuple)
    by: Sequence[str] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    answer: str = ""
    part: str = "modality"
    codes: Mapping[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        methods = {name: self.results.runs_of(name)[0].experiment.method for name in self.results.names}
        yardsticks = [name for wanted in YARDSTICKS for name, method in methods.items() if method == wanted]
        named = tuple(self.references) or tuple(yardsticks if len(methods) > 1 else ())
        for name in (*named, *([self.focus] if self.focus else [])):
            if name not in methods:
                raise UnknownNameError("method in these results", name, methods)
        shown = {name: self.titles.get(name) or _title_of(name, method) for name, method in methods.items()}
        if len(set(shown.values())) < len(shown):
            shown = {name: name for name in shown}
        object.__setattr__(self, "results", _renamed(self.results, shown))
        object.__setattr__(self, "codes", {title: name for name, title in shown.items()})
        object.__setattr__(self, "references", tuple(shown[name] for name in named))
        object.__setattr__(self, "focus", self.focus and shown[self.focus])

    @property
    def first(self) -> FinishedRun:
        """The first run, for what all runs have in common."""
        return self.results.runs[0]

    @property
    def stored(self) -> tuple[Results, list[str]]:
        """The results under the names that runs and tables have, and the references among them."""
        return _renamed(self.results, self.codes), [self.codes[name] for name in self.references]

    @cached_property
    def marks(self) -> dict[str, Mark]:
        """Marks of the methods in every figure: references grey and dashed, the others in colours."""
        marks: dict[str, Mark] = {}
        for names, colours in (([n for n in self.results.names if n not in self.references], COLOURS),
                               (self.references, GREYS)):  # fmt: skip
            for i, name in enumerate(names):
                turn = i // 18  # colours and shapes repeat together after so many: the shapes move on by one then
                mark = Mark(colours[i % len(colours)], MARKERS[(i + turn) % len(MARKERS)], dashed=colours is GREYS)
                marks[name] = mark
        return marks

    @property
    def legend(self) -> list[LegendKey]:
        """The methods' marks, the best method first."""
        return [legend_key(name, self.marks[name]) for name in self.ranked]

    @cached_property
    def ranked(self) -> tuple[str, ...]:
        """The methods by the headline metric on the test rows, the best first; undefined ones last."""
        metric = self.results.headline
        values = {n: self.results.summary(n, metric.name).interval.estimate for n in self.results.names}
        sign = -1 if metric.higher_is_better else 1
        return tuple(sorted(values, key=lambda name: (np.isnan(values[name]), sign * values[name])))

    @property
    def best(self) -> str:
        """The method to look at: `focus`, or the best that is no reference (the best of all if every one is)."""
        others = [name for name in self.ranked if name not in self.references]
        return self.focus or (others or list(self.ranked))[0]

    @cached_property
    def test(self) -> Cohort | None:
        """The test rows of the cohort, in the runs' order; None if the cohort is not at hand or is another one."""
        if self.cohort is None:
            return None
        places = {name: i for i, name in enumerate(self.cohort.ids.astype(str).tolist())}
        rows = [places.get(name, -1) for name in self.first.ids.tolist()]
        return None if min(rows, default=-1) < 0 else self.cohort.take(np.array(rows))

    @cached_property
    def pattern_conditions(self) -> tuple[str, ...]:
        """Conditions for looking at patterns: each imposed on the same cases, or else those that the rows have."""
        return self.results.conditions("pattern") or self._met[0]

    @property
    def patterns_left_out(self) -> int:
        """Number of patterns that the rows have and that are too rare to be looked at."""
        return 0 if self.imposes_patterns else self._met[1]

    @cached_property
    def _met(self) -> tuple[tuple[str, ...], int]:
        """Patterns that the rows have, of many those of thirty cases or more; and how many are left out."""
        met = [name for name in self.results.conditions("met") if name != "met:none"]
        if len(met) <= _MOST_PATTERNS:
            return tuple(met), 0
        shown = [name for name in met if self.results.number_of_cases(name) >= _FEW_CASES][:_MOST_PATTERNS]
        return tuple(shown), len(met) - len(shown)

    @property
    def imposes_patterns(self) -> bool:
        """Whether every pattern was imposed on the same cases."""
        return bool(self.results.conditions("pattern"))

    @cached_property
    def patterns(self) -> NDArray[np.bool_]:
        """Presence (P, M) of `pattern_conditions`."""
        names = self.first.schema.names
        labels = [condition.removeprefix("met:").split("+") for condition in self.pattern_conditions]
        return np.array([[name in label for name in names] for label in labels], dtype=bool).reshape(-1, len(names))


def _title_of(name: str, method: str) -> str:
    """The name for people of a run's name: the method's title, unless somebody has named the run."""
    return METHODS[method].title if name == method and method in METHODS else name


def _renamed(results: Results, names: Mapping[str, str]) -> Results:
    runs = [replace(run, experiment=replace(run.experiment, name=names[run.name])) for run in results.runs]
    return Results(runs, results.failed)


def subject_of(
    folders: Sequence[str | Path], *, title: str = "", data: str | Path = "", by: Sequence[str] = ()
) -> Subject:
    """The subject of a report on run folders.

    Args:
        folders: Folders of trained and evaluated runs, on the same cases under the same presence. Runs of one method
            that differ in their seeds alone are averaged; those that differ in more, or not even in that, are told
            apart by their folders' names.
        title: The page's title.
        data: Folder or name of the cohort, for pictures of cases; "": the one that the runs name, if it can be had.
        by: Columns of the cohort by which patients are grouped.

    Returns:
        The subject.

    Raises:
        RunError: If a folder cannot be read, or the runs did not meet the same conditions.
        DataError, UnknownNameError: If `data` is given and cannot be opened.
    """
    runs = _told_apart([read_run(folder) for folder in folders])
    results = Results(runs)
    names = " ".join(shlex.quote(str(folder)) for folder in folders)
    return Subject(
        results,
        title=title or _title(results),
        cohort=load_cohort(data) if data else _open_cohort(runs[0]),
        commands=[f"amodal report {names}"],
        by=by,
    )


def _told_apart(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Runs under names that only those share which differ in their seeds alone."""

    def made(run: FinishedRun) -> str:
        record = run.experiment.to_json()
        settings = {key: value for key, value in record["settings"].items() if "device" not in key}
        return json.dumps([settings, *(record[key] for key in _MADE)], sort_keys=True, default=str)

    times, kinds = Counter((run.name, run.seed) for run in runs), {(run.name, made(run)) for run in runs}
    of_one_kind = Counter(name for name, _ in kinds)
    unclear = [run for run in runs if times[run.name, run.seed] > 1 or of_one_kind[run.name] > 1]
    folders = {id(run): run.folder.resolve() for run in unclear}
    parts = next((n for n in range(1, 9) if len({f.parts[-n:] for f in folders.values()}) == len(unclear)), 1)
    return [
        replace(run, experiment=replace(run.experiment, name="/".join(folders[id(run)].parts[-parts:])))
        if id(run) in folders
        else run
        for run in runs
    ]


def _title(results: Results) -> str:
    name = results.task.name
    name = name.capitalize() if name.islower() else name
    first = results.runs[0]
    alone = _title_of(first.name, first.experiment.method)
    return f"{name}: {f'{len(results.names)} methods compared' if len(results.names) > 1 else alone}"


def _open_cohort(run: FinishedRun) -> Cohort | None:
    """The cohort of a run, if it can be had."""
    try:
        return load_cohort(run.experiment.cohort, **run.experiment.cohort_options)
    except AmodalError:
        return None
