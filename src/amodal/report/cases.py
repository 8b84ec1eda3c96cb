"""Example cases of a report, chosen by printed rules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amodal.batch import Batch
from amodal.benchmark import FinishedRun
from amodal.data import Cohort
from amodal.report.pictures import Exhibit, exhibit_case
from amodal.report.words import format_value
from amodal.schema import Task

__all__ = ["Bar", "Case", "CaseGroup", "choose_cases", "show_cases"]

_BARS = 10  # classes or labels shown of a case
_LEAST = 0.005  # probability of one that is shown


@dataclass(frozen=True)
class Bar:
    """One class of a case: its probability as seen, and with everything there is.

    Args:
        label: The class.
        seen: Probability, in [0, 1], from what the model saw.
        whole: Probability with everything that the data have.
        true: Whether it is the truth.
    """

    label: str
    seen: float
    whole: float
    true: bool


@dataclass(frozen=True)
class Case:
    """One case: what there was, what the model saw, and what it said.

    Args:
        id: Its id.
        truth: In words.
        seen: Names of the modalities that the model saw.
        exhibits: What there is to look at.
        bars: Of classification and multilabel tasks.
        values: Of a regression: (name, value).
    """

    id: str
    truth: str
    seen: tuple[str, ...]
    exhibits: list[Exhibit]
    bars: tuple[Bar, ...] = ()
    values: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class CaseGroup:
    """Cases with something in common.

    Args:
        title: What.
        rule: How they were chosen, in a sentence.
        rows: Positions among the test rows, the first first.
        found: How many there are to choose from.
    """

    title: str
    rule: str
    rows: NDArray[np.int64]
    found: int


def choose_cases(
    task: Task,
    seen: NDArray[np.float64],
    whole: NDArray[np.float64],
    target: NDArray,
    observed: NDArray[np.bool_],
    natural: NDArray[np.bool_],
    *,
    each: int = 3,
    part: str = "modality",
) -> list[CaseGroup]:
    """Chooses cases by rules; ties go to the earlier row.

    Args:
        task: What is predicted.
        seen: Predictions from what the model saw, (N, C), (N, K) or (N,).
        whole: Predictions with everything there is, of the same shape.
        target: The truth.
        observed: What the model saw, bool (N, M).
        natural: What there is, bool (N, M).
        each: Cases of each group, at most.
        part: What people call one of the modalities.

    Returns:
        The groups that have a case.

    Example:
        >>> task = Task("binary", classes=("no", "yes"))
        >>> seen, whole = np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([[0.2, 0.8], [0.3, 0.7]])
        >>> groups = choose_cases(task, seen, whole, np.array([1, 1]), np.eye(2) > 0, np.ones((2, 2)) > 0)
        >>> [(group.title, group.rows.tolist()) for group in groups]
        [('Right with everything, wrong as seen', [0]), ('Right on little', [1])]
    """
    hidden = np.asarray((natural & ~observed).any(axis=1))
    if task.is_classification:
        return _of_classes(seen, whole, target, observed, hidden, each, part)
    difference = whole - seen if task.traits.one_value else np.abs(whole - seen).max(axis=1)
    if task.traits.many_labels:
        known = np.where(np.isnan(target), seen, target)
        errors, better = np.abs(seen - known).mean(1), np.abs(whole - known).mean(1)
    else:
        errors, better = np.abs(seen - target), np.abs(whole - target)
    change = np.abs(difference)
    return _groups(
        [
            (
                "What was absent mattered most",
                "The largest change of the prediction between what was seen and everything, towards the truth.",
                hidden & (better < errors),
                -change,
            ),
            (
                "More misled",
                "The largest change of the prediction between what was seen and everything, away from the truth.",
                hidden & (better > errors),
                -change,
            ),
            (
                "Right on little",
                f"The smallest error of all cases with a single {part} seen.",
                observed.sum(1) == 1,
                errors,
            ),
            (
                "Wrong even so",
                "The largest error of all cases with everything there is.",
                np.ones(len(errors), bool),
                -better,
            ),
        ],
        each,
    )


def _of_classes(
    seen: NDArray, whole: NDArray, target: NDArray, observed: NDArray, hidden: NDArray, each: int, part: str
) -> list[CaseGroup]:
    rows = np.arange(len(target))
    right, right_whole = seen.argmax(1) == target, whole.argmax(1) == target
    of_truth, of_truth_whole = seen[rows, target], whole[rows, target]
    single = observed.sum(1) == 1
    return _groups(
        [
            (
                "Right with everything, wrong as seen",
                "What was absent decided: the largest loss of probability of the truth comes first.",
                hidden & right_whole & ~right,
                of_truth - of_truth_whole,
            ),
            (
                "Right on little",
                f"A single {part} was seen and the answer is right: the highest probability of the truth comes first.",
                hidden & single & right,
                -of_truth,
            ),
            (
                "Wrong, and sure of it",
                "Wrong as seen and with everything: the highest probability of the wrong answer comes first.",
                hidden & ~right & ~right_whole,
                -whole.max(1),
            ),
            (
                "Right as seen, wrong with everything",
                "More was no help: the largest loss of probability of the truth, when all is seen, comes first.",
                hidden & right & ~right_whole,
                of_truth_whole - of_truth,
            ),
        ],
        each,
    )


def _groups(rules: list[tuple[str, str, NDArray[np.bool_], NDArray]], each: int) -> list[CaseGroup]:
    groups = []
    for title, rule, eligible, order in rules:
        rows = np.flatnonzero(eligible)
        if len(rows):
            first = rows[np.argsort(order[rows], kind="stable")[:each]]
            groups.append(CaseGroup(title, rule, first, len(rows)))
    return groups


def show_cases(run: FinishedRun, test: Cohort, whole: NDArray[np.float64], rows: NDArray[np.int64]) -> list[Case]:
    """Makes cases of test rows.

    Args:
        run: The run whose predictions are shown.
        test: Its test rows, with everything that the data have.
        whole: Its predictions with everything.
        rows: Positions of the rows.

    Returns:
        One case a row.
    """
    batch = test.batch(rows)
    return [_case(run, batch, place, int(row), run.test.predictions[row], whole[row]) for place, row in enumerate(rows)]


def _case(run: FinishedRun, batch: Batch, place: int, row: int, seen: NDArray, whole: NDArray) -> Case:
    visible = run.test.observed[row]
    names = tuple(name for name, present in zip(run.schema.names, visible) if present)
    exhibits = exhibit_case(run.schema, batch, place, visible)
    describe = _true_value if run.task.traits.one_value else _true_classes
    truth, show = describe(run.task, run.target[row])
    if run.task.traits.one_value:
        units = f" {run.task.units}" if run.task.units else ""
        values = (
            ("as seen", f"{format_value(float(seen))}{units}"),
            ("with everything", f"{format_value(float(whole))}{units}"),
        )
        return Case(str(run.ids[row]), truth, names, exhibits, values=values)
    order = np.argsort(-np.maximum(np.maximum(seen, whole), show), kind="stable")[:_BARS]
    shown = [i for i in np.sort(order) if show[i] or max(seen[i], whole[i]) >= _LEAST]
    bars = tuple(Bar(str(run.task.classes[i]), float(seen[i]), float(whole[i]), bool(show[i])) for i in shown)
    return Case(str(run.ids[row]), truth, names, exhibits, bars=bars)


def _true_classes(task: Task, target: NDArray) -> tuple[str, NDArray]:
    """The truth in words, and 1 for each class that is true."""
    if task.is_classification:
        return str(task.classes[int(target)]), np.arange(len(task.classes)) == int(target)
    true = np.nan_to_num(target) > 0.5
    return ", ".join(str(name) for name, one in zip(task.classes, true) if one) or "none", true


def _true_value(task: Task, target: NDArray) -> tuple[str, NDArray]:
    return f"{format_value(float(target))} {task.units}".strip(), np.zeros(0)
