"""Samples and targets of the benchmark's tasks: which stays, until which hour, and what is to be predicted.

| task | samples | target |
| --- | --- | --- |
| mortality | stays as long as the window, with an event in it | death in hospital |
| readmission | the same | death in hospital, or the next stay within 30 days |
| phenotyping | stays with an event (whole), or those of mortality | 25 groups of discharge diagnoses |
| length_of_stay | each hour after the fourth and after the first event | hours that remain |
| decompensation | the same, of the hours lived | death within 24 hours |

With ``every=0`` the last two have one sample a stay, at the end of the window. :cite:`harutyunyan2019multitask`
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from amodal.data.sources.mimic.events import EDGE, Events
from amodal.schema import Task

__all__ = ["HOURLY", "TASKS", "Samples", "TaskName", "select_samples"]

TaskName = Literal["mortality", "readmission", "phenotyping", "length_of_stay", "decompensation"]

TASKS = {
    "mortality": Task("binary", name="in-hospital mortality", classes=("survived", "died")),
    "readmission": Task("binary", name="readmission within 30 days", classes=("no", "died or readmitted")),
    "phenotyping": Task("multilabel", name="phenotypes", classes=("a phenotype", "another")),
    "length_of_stay": Task(
        "regression", name="remaining length of stay", units="hours",
        bins=tuple(24.0 * days for days in (1, 2, 3, 4, 5, 6, 7, 8, 14)),
    ),
    "decompensation": Task("binary", name="death within 24 hours", classes=("no", "yes")),
}  # fmt: skip
"""What can be predicted; the classes of phenotyping are those of the definitions."""

HOURLY = ("length_of_stay", "decompensation")
"""Tasks with several samples a stay."""

_SHORTEST, _AHEAD = 4.0, 24.0  # hours


class Samples(NamedTuple):
    """Samples of a task.

    Attributes:
        row: Position of each sample's stay, int64, of shape (N,).
        end: Hour of the stay at which it ends, float64, of shape (N,).
        target: What the task says, of shape (N,); None of phenotypes.
    """

    row: np.ndarray
    end: np.ndarray
    target: np.ndarray | None


def select_samples(events: Events, task: TaskName, *, hours: int | None, every: int) -> Samples:
    """The samples of a task.

    Args:
        events: Stays with their events.
        task: Which.
        hours: Length of the window; None: the whole stay (phenotyping).
        every: Hours between the samples of a stay; 0: one, at the end of the window.
    """
    stays, first = events.stays, events.first
    if task in HOURLY and every:
        return _hourly(events, task, every)
    if hours is None:
        row = np.flatnonzero(np.isfinite(first))
        return Samples(row, stays.hours[row], None)
    enough = (stays.hours >= hours - EDGE) & (first < hours + EDGE)
    if task == "decompensation":
        enough &= stays.death >= hours - EDGE
    row = np.flatnonzero(enough)
    end = np.full(len(row), float(hours))
    target = {"mortality": stays.died, "readmission": stays.readmitted}.get(task)
    if target is not None:
        return Samples(row, end, target[row].astype(np.int64))
    return Samples(row, end, _later_target(events, task, row, end))


def _hourly(events: Events, task: TaskName, every: int) -> Samples:
    stays = events.stays
    last = stays.hours if task == "length_of_stay" else np.minimum(stays.hours, stays.death)
    counts = np.where(np.isfinite(events.first), np.floor((last + EDGE) / every) + 1, 0).clip(min=0).astype(np.int64)
    row = np.repeat(np.arange(len(counts)), counts)
    end = (np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)) * float(every)
    kept = (end > _SHORTEST) & (end > events.first[row]) & (end < last[row] + EDGE)
    row, end = row[kept], end[kept]
    return Samples(row, end, _later_target(events, task, row, end))


def _later_target(events: Events, task: TaskName, row: np.ndarray, end: np.ndarray) -> np.ndarray | None:
    stays = events.stays
    if task == "length_of_stay":
        return (stays.hours[row] - end).astype(np.float32)
    if task == "decompensation":
        return (stays.died[row] & (stays.death[row] - end < _AHEAD)).astype(np.int64)
    return None
