"""The sections for decisions: risks by outcome, errors at thresholds, net benefit, calibration, and groups."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from amodal.benchmark import FinishedRun
from amodal.clinical import (
    Predicted,
    absence_by_group,
    at_thresholds,
    by_group,
    by_label,
    calibration_table,
    decision_curve,
)
from amodal.errors import UnknownNameError
from amodal.metrics import Interval
from amodal.report import figures
from amodal.report.figures import Series
from amodal.report.parts import Drawing, Section, Table, section
from amodal.report.subject import Subject
from amodal.report.svg import MUTED, LegendKey, Mark, legend_key
from amodal.report.words import format_value, interval_cell, percent

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["decisions", "groups"]

_MOST_LABELS = 3  # that have figures
_CURVE = np.linspace(0.02, 0.9, 45)
_RATES = ("sensitivity", "specificity", "positive_predictive_value", "negative_predictive_value")


def predicted_by(run: FinishedRun) -> Predicted:
    """The stored predictions of a run's test rows."""
    resamples, seed = (int(run.metrics.get(key, default)) for key, default in (("resamples", 1000), ("seed", 0)))
    rows = run.test.rows
    return Predicted(
        run.task,
        run.test.predictions[rows],
        run.target[rows],
        run.groups[rows],
        run.test.observed[rows],
        run.schema.names,
        resamples,
        seed,
    )


def decisions(subject: Subject) -> Section | None:
    """Risks by outcome, errors at thresholds, net benefit and calibration of the method looked at."""
    if subject.results.task.traits.one_value:
        return None
    best = subject.best
    predicted = predicted_by(subject.results.runs_of(best)[0])
    outcomes = predicted.outcomes()
    if not len(predicted.target):
        return None
    drawings = [
        _risks(label, risk, true, i) for i, (label, (risk, true, _)) in enumerate(list(outcomes.items())[:_MOST_LABELS])
    ]
    curves = _decision_curves(subject)
    drawings += [_curves(subject, curves, label, i) for i, label in enumerate(list(outcomes)[:_MOST_LABELS])]
    fit = calibration_table(predicted).to_dict("records")
    thresholds = _thresholds(predicted, best)
    calibration = Table(
        ["outcome", "slope", "intercept", "observed over expected"],
        [
            [row["label"], *(_cell(row, name) for name in ("slope", "intercept", "observed_over_expected"))]
            for row in fit
        ],
        f"Calibration of {best}: 1, 0 and 1 are ideal",
    )
    labels = _by_label(predicted, best) if len(outcomes) > 1 else None
    return section(
        "decisions",
        "What it means for decisions",
        folded=len(outcomes) > 1,
        method=best,
        drawings=drawings,
        n_outcomes=len(outcomes),
        n_shown=min(len(outcomes), _MOST_LABELS),
        legend=[*subject.legend, _treat_all()],
        labels=labels,
        thresholds=thresholds,
        calibration=calibration,
    )


def _thresholds(predicted: Predicted, best: str) -> Table:
    """Errors at thresholds of risk."""
    return Table(
        ["outcome, risk from", "called positive", *(name.replace("_", " ") for name in _RATES)],
        [
            [
                f"{row['label']}, {percent(row['threshold'], 0)}",
                percent(row["called_positive"]),
                *(_cell(row, name) for name in _RATES),
            ]
            for row in at_thresholds(predicted).to_dict("records")
        ],
        f"Errors of {best} at thresholds",
    )


def _by_label(predicted: Predicted, best: str) -> Table:
    """Metrics of each outcome."""
    names = {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier", "ece": "calibration error"}
    return Table(
        ["outcome", "cases", "positive", *names.values()],
        [
            [row["label"], f"{row['n']:,}", f"{row['positives']:,}", *(_cell(row, name) for name in names)]
            for row in by_label(predicted).to_dict("records")
        ],
        f"{best} by outcome",
    )


def groups(subject: Subject) -> Section | None:
    """Absence and metrics by group of patients, for the requested columns.

    Raises:
        UnknownNameError: If the cohort has no such column.
    """
    if not subject.by or subject.test is None:
        return None
    run = subject.results.runs_of(subject.best)[0]
    predicted, tables = predicted_by(run), []
    for name in subject.by:
        if name not in subject.test.extras:
            raise UnknownNameError("column of the cohort", name, subject.test.extras)
        column = subject.test.extras[name][run.test.rows]
        absent = absence_by_group(predicted, column).to_dict("records")
        tables.append(
            Table(
                [name, "cases", "patients", *(f"{m} absent" for m in predicted.names)],
                [
                    [row["group"], f"{row['n']:,}", f"{row['patients']:,}", *(percent(row[m]) for m in predicted.names)]
                    for row in absent
                ],
                f"Who lacks what, by {name}",
            )
        )
        found = by_group(predicted, column).to_dict("records")
        for metric in dict.fromkeys(row["metric"] for row in found):
            rows = [row for row in found if row["metric"] == metric]
            tables.append(
                Table(
                    [name, "cases", "patients", metric, f"less {rows[0]['reference']}", "note"],
                    [
                        [
                            row["group"],
                            f"{row['n']:,}",
                            f"{row['patients']:,}",
                            _cell(row, "value"),
                            _cell(row, "difference") if "difference" in row else "–",
                            row["note"] or "–",
                        ]
                        for row in rows
                    ],
                    f"{metric} of {subject.best} by {name}",
                )
            )
    return section("groups", "By group of patients", tables=tables, method=subject.best)


def _risks(label: str, risk: np.ndarray, true: np.ndarray, i: int) -> Drawing:
    edges = np.linspace(0, 1, 21)
    counts = {name: np.histogram(risk[rows], edges)[0] for name, rows in (("came true", true), ("did not", ~true))}
    middle = {
        name: format_value(float(np.median(risk[rows]))) if rows.any() else "–"
        for name, rows in (("yes", true), ("no", ~true))
    }
    svg = figures.draw_risks(
        edges,
        counts,
        key=f"risks-{i}",
        title=label,
        alt=f"Predicted risks of {label}: median {middle['yes']} where it came true, {middle['no']} where it did not.",
    )
    numbers = Table(
        ["risk", *counts],
        [[f"{a:.2f} to {b:.2f}", *(f"{c[k]:,}" for c in counts.values())] for k, (a, b) in enumerate(pairwise(edges))],
    )
    caption = f"Predicted risks of “{label}” by outcome; medians {middle['yes']} and {middle['no']}."
    return Drawing(f"risks-{i}", svg, caption, numbers)


def _decision_curves(subject: Subject) -> dict[str, pd.DataFrame]:
    """Net benefit of every label by each method."""
    curves = {}
    for name in subject.ranked:
        predicted = predicted_by(subject.results.runs_of(name)[0])._replace(resamples=200)
        curves[name] = decision_curve(predicted, _CURVE.tolist())
    return curves


def _curves(subject: Subject, curves: Mapping[str, pd.DataFrame], label: str, i: int) -> Drawing:
    series, everyone = [], None
    for name in sorted(curves, key=lambda name: name != subject.best):  # that one first
        table = curves[name]
        rows = table[table["label"] == label]
        columns = [np.asarray(rows[c]) for c in ("model", "model_low", "model_high")]
        series.append(Series(name, subject.marks[name], [Interval(a, b, c, 200, 0) for a, b, c in zip(*columns)]))
        everyone = np.asarray(rows["all"])
    assert everyone is not None
    _, true, _ = predicted_by(subject.first).outcomes()[label]
    svg = figures.draw_decision_curves(
        _CURVE,
        series,
        everyone,
        top=max(float(true.mean()), 0.01),
        key=f"benefit-{i}",
        alt=f"Net benefit of acting on {label} by each method, over the risk from which one acts.",
    )
    numbers = Table(
        ["risk from", "all", *(one.name for one in series)],
        [
            [f"{t:.2f}", format_value(float(everyone[k])), *(format_value(one.intervals[k].estimate) for one in series)]
            for k, t in enumerate(_CURVE)
            if k % 4 == 0
        ],
    )
    caption = (
        f"Net benefit of acting on “{label}” from a risk on (decision curve), in true positives a case. Dashed: acting "
        "on everyone; zero: on nobody. A method helps where its line is above both. Band: the 95 % interval of "
        f"{subject.best}."
    )
    return Drawing(f"benefit-{i}", svg, caption, numbers)


def _treat_all() -> LegendKey:
    return legend_key("acting on everyone", Mark(MUTED, "o", dashed=True))


def _cell(row: Mapping[str, Any], name: str) -> tuple[str, str]:
    return interval_cell(Interval(row[name], row[f"{name}_low"], row[f"{name}_high"], 0, 0))
