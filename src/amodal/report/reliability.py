"""The section on calibration, by the number of present modalities."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from amodal.benchmark import FinishedRun
from amodal.metrics import expected_calibration_error, reliability_curve
from amodal.recalibration import Recalibration, recalibration_from
from amodal.report import figures
from amodal.report.parts import Drawing, Section, Table, section
from amodal.report.subject import Subject
from amodal.report.svg import Mark, legend_key
from amodal.report.words import format_value
from amodal.schema import Task

__all__ = ["calibration"]

_FEWEST = 30  # cases that make a curve
_BINS = 10

Pooled = dict[int, tuple[NDArray[np.float64], NDArray]]
"""Predictions and targets by the number of modalities present."""

Curves = dict[str, tuple[Mark, tuple[NDArray[np.float64], NDArray[np.float64]]]]
"""Mark, stated and realised values, by the name of a group of cases."""


def calibration(subject: Subject) -> Section | None:
    """One panel a method, one curve for each number of modalities present; None if there are too few cases."""
    counts = sorted({int(k) for k in subject.patterns.sum(1)})
    names = sorted(subject.results.names, key=lambda name: name != subject.best)  # that one first
    pooled = {name: _pool(subject.results.runs_of(name), subject) for name in names}
    marks = dict(zip(_spread_out(sorted({k for parts in pooled.values() for k in parts})), figures.GROUP_MARKS))
    drawings, rows = [], []
    for i, (name, parts) in enumerate(pooled.items()):
        if not parts:
            continue
        runs = subject.results.runs_of(name)
        rows.append([name, *(_error(subject.results.task, *parts[k]) if k in parts else "–" for k in counts)])
        if any(_recalibration(run) for run in runs):
            before = _pool(runs, subject, before=True)
            cells = (_error(subject.results.task, *before[k]) if k in before else "–" for k in counts)
            rows.append([f"{name}, before recalibration", *cells])
        curves = {
            f"{k} present": (mark, _curve(subject.results.task, *parts[k], _range(subject)))
            for k, mark in marks.items()
            if k in parts
        }
        if curves:
            drawings.append(_panel(subject, i, name, curves))
    if not drawings:
        return None
    traits = subject.results.task.traits
    kind = "mean absolute gap" if traits.one_value else "calibration error"
    table = Table(["method", *(f"{k} present" for k in counts)], rows, kind)
    return section(
        "calibration",
        "Can the numbers be believed?",
        drawings=drawings[:1],
        others=drawings[1:],
        legend=[legend_key(f"{k} present", mark) for k, mark in marks.items()],
        table=table,
        traits=traits,
        imposed=subject.imposes_patterns,
        recalibrated=any(_recalibration(run) for run in subject.results.runs),
    )


def _panel(subject: Subject, i: int, name: str, curves: Curves) -> Drawing:
    task = subject.results.task
    low, high = _range(subject)
    labels = task.traits.reliability_axes
    key = f"reliability-{i}"
    bins = [f"{len(curve[0][~np.isnan(curve[0])])} bins with {group}" for group, (_, curve) in curves.items()]
    svg = figures.draw_reliability(
        curves,
        key=key,
        title=name,
        labels=labels,
        diagonal=(low, high),
        alt=f"Reliability of {name}: {labels[0]} against {labels[1]}, {', '.join(bins)}.",
    )
    numbers = Table(
        ["cases", *labels],
        [
            [group, format_value(float(a)), format_value(float(b))]
            for group, (_, (stated, realised)) in curves.items()
            for a, b in zip(stated, realised)
            if not np.isnan(a)
        ],
    )
    return Drawing(key, svg, "", numbers, size="third")


def _recalibration(run: FinishedRun) -> Recalibration | None:
    return recalibration_from(run.record, n_modalities=len(run.schema.names), n_outputs=run.schema.task.n_outputs)


def _before(run: FinishedRun, predictions: NDArray, sizes: NDArray) -> NDArray:
    """Predictions of a run as they were before its recalibration."""
    found = _recalibration(run)
    if found is None:
        return predictions
    return found.undo(torch.from_numpy(predictions), torch.from_numpy(sizes), run.schema.task.traits).numpy()


def _pool(runs: tuple[FinishedRun, ...], subject: Subject, *, before: bool = False) -> Pooled:
    """All predictions of a method's runs, by how many modalities were present; `before` their recalibration."""
    parts: dict[int, list[tuple[NDArray, NDArray]]] = {}
    for run in runs:
        conditions = [c for c in run.conditions if c.kind == "pattern"] if subject.imposes_patterns else [run.test]
        for condition in conditions:
            sizes = condition.observed.sum(1)
            for k in np.unique(sizes[condition.rows]).tolist():
                rows = condition.rows & (sizes == k)
                predictions = condition.predictions[rows]
                if before:
                    predictions = _before(run, predictions, sizes[rows])
                parts.setdefault(k, []).append((predictions, run.target[rows]))
    joined = {k: (np.concatenate([p for p, _ in v]), np.concatenate([t for _, t in v])) for k, v in parts.items()}
    return {k: pair for k, pair in joined.items() if k and len(pair[0]) >= _FEWEST}


def _curve(
    task: Task, predictions: NDArray, target: NDArray, limits: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Stated and realised values of bins with as many cases each."""
    if not task.traits.one_value:
        curve = reliability_curve(predictions, target, bins=_BINS, binning="mass")
        return curve.stated, curve.realised
    chunks = np.array_split(np.argsort(predictions, kind="stable"), min(_BINS, max(1, len(predictions) // 5)))
    stated, realised = (np.array([values[rows].mean() for rows in chunks]) for values in (predictions, target))
    return stated.clip(*limits), realised.clip(*limits)


def _error(task: Task, predictions: NDArray, target: NDArray) -> str:
    if not task.traits.one_value:
        return format_value(float(expected_calibration_error(predictions, target, debiased=True)))
    stated, realised = _curve(task, predictions, target, (-np.inf, np.inf))
    return format_value(float(np.abs(stated - realised).mean()))


def _range(subject: Subject) -> tuple[float, float]:
    if not subject.results.task.traits.one_value:
        return 0.0, 1.0
    low, high = np.quantile(subject.first.target, [0.01, 0.99])
    return float(low), float(high) if high > low else float(low) + 1.0


def _spread_out(counts: list[int]) -> list[int]:
    """At most four of the counts, the ends among them."""
    if len(counts) <= 4:
        return counts
    return [counts[round(i * (len(counts) - 1) / 3)] for i in range(4)]
