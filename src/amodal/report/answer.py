"""The first section: the answer in a sentence that anybody can read, with one picture, and the exact findings below."""

from __future__ import annotations

import numpy as np

from amodal.benchmark import FinishedRun
from amodal.metrics import Metric
from amodal.missingness import Natural, mechanism_from_json
from amodal.report import figures
from amodal.report.panels import findings, method_forest, metric_series, series_table
from amodal.report.parts import Drawing, Section, section
from amodal.report.pictures import Exhibit, exhibit_case
from amodal.report.subject import Subject
from amodal.report.svg import legend_key
from amodal.report.words import format_interval, format_value, percent, plural, share_in_words
from amodal.schema import Task

__all__ = ["answer", "answer_sentence"]

_EXAMPLES = 8


def answer(subject: Subject) -> Section:
    """The answer, a picture, and the main findings."""
    found = findings(subject)
    drawing, legend = _picture(subject)
    return section(
        "answer",
        "In short",
        question=subject.question,
        sentence=answer_sentence(subject),
        evidence=_evidence(subject),
        examples=_examples(subject),
        drawing=drawing,
        legend=legend,
        findings=found,
    )


def answer_sentence(subject: Subject) -> str:
    """The best method beside the one to compare it with, in counts of cases, computed from the results."""
    results, metric = subject.results, subject.results.headline
    best, other, without_gaps = compared_pair(subject)
    values = [results.summary(name, metric.name).interval.estimate for name in (best, other) if name]
    if np.isnan(values).any():
        return f"{metric.label} cannot be told from these {len(subject.first.ids):,} cases."
    shown = _in_words(metric, results.task, values)
    named = {"best_name": best, "other_name": other, "best": shown[0], "other": shown[-1]}
    named["absent"] = share_in_words(float((~subject.first.test.observed).mean()))
    if subject.answer and without_gaps:
        return subject.answer.format(**named)
    who = "the best method ({best_name})" if other else "{best_name}"
    template = who + " " + _GENERAL.get(metric.name, f"reaches {metric.label} {{best}}")
    whole = subject.first.test.observed.all()
    opening = "With everything there, " if whole else f"With {{absent}} of the {plural(subject.part)} gone, "
    rest = "; {other_name}: {other}." if other else "."
    return (opening + template + rest).format(**named, **_outcomes(results.task))


def compared_pair(subject: Subject) -> tuple[str, str, bool]:
    """The best method, whom to set beside it ("" if it is alone), and whether that one met no gaps in training."""
    best = subject.ranked[0]
    others = [name for name in subject.ranked if name != best]
    if not subject.first.test.observed.all():
        for name in others:
            if _met_no_gaps(subject.results.runs_of(name)[0]):
                return best, name, True
    named = [name for name in others if name in subject.references]
    return best, (named or others or [""])[0], False


def _met_no_gaps(run: FinishedRun) -> bool:
    """Whether a network learnt from complete rows only, and so never had to do without a modality."""
    record, presence = run.record["missingness"], run.train_presence
    return (
        run.experiment.method == "fusion"
        and not record.get("by_objective")
        and isinstance(mechanism_from_json(record["train"]), Natural)
        and presence is not None
        and bool(presence.natural.all() and presence.observed.all())
    )


_GENERAL = {
    "accuracy": "is right in {best} cases",
    "auroc": "ranks {with_it} above {without} in {best} pairs",
    "mae": "is off by {best} on average",
}


def _outcomes(task: Task) -> dict[str, str]:
    """Words for the two cases of a pair."""
    if task.is_classification:
        return {"with_it": f"“{task.classes[-1]}”", "without": f"“{task.classes[0]}”"}
    return {"with_it": "a case with a label", "without": "one without it"}


def _in_words(metric: Metric, task: Task, values: list[float]) -> list[str]:
    """Values as counts of cases where they are shares, else in the target's units."""
    if metric.name not in ("accuracy", "auroc"):
        units = f" {task.units}" if task.units else ""
        return [f"{format_value(value, metric)}{units}" for value in values]
    tenths = [round(10 * value) for value in values]
    same = len(set(tenths)) < len(tenths) or metric.name == "auroc"
    return [f"{round(100 * v)} of 100" if same else f"{tenth} of 10" for v, tenth in zip(values, tenths)]


def _evidence(subject: Subject) -> str:
    """What stands behind the sentence: cases, intervals, and whether the difference is beyond noise."""
    results, metric = subject.results, subject.results.headline
    best, other, _ = compared_pair(subject)
    parts = [
        f"{name} {format_interval(results.summary(name, metric.name).interval, metric)}"
        for name in (best, other)
        if name
    ]
    said = f"{metric.label} on {len(subject.first.ids):,} test cases, with 95 % intervals: {'; '.join(parts)}."
    if other:
        verdict = next(one.verdict for one in results.compare(other, metric.name) if one.name == best)
        said += " The difference is beyond noise." if verdict != "unclear" else " That may be noise."
    return said


def _picture(subject: Subject) -> tuple[Drawing, list[object]]:
    """The two methods as more and more is removed; without that, all methods."""
    results, metric = subject.results, subject.results.headline
    best, other, _ = compared_pair(subject)
    conditions = results.conditions("rate")
    if len(conditions) < 2:
        return method_forest(subject, metric, key="answer-forest"), []
    chosen = [name for name in (best, other) if name]
    absent = [float((~subject.first.condition(name).observed).mean()) for name in conditions]
    series = [one for one in metric_series(subject, metric, [(c,) for c in conditions]) if one.name in chosen]
    svg = figures.draw_curves(
        absent,
        series,
        f"share of {plural(subject.part)} absent",
        metric.label,
        key="answer-curves",
        alt=f"{metric.label} of {' and '.join(chosen)} as more and more {plural(subject.part)} are removed.",
    )
    table = series_table("share absent", [percent(share) for share in absent], series, metric)
    caption = f"{metric.label} of the two as more and more is taken away, with 95 % bands."
    return Drawing("answer-curves", svg, caption, table), [legend_key(name, subject.marks[name]) for name in chosen]


def _examples(subject: Subject) -> list[list[Exhibit]]:
    """The first test cases as the models saw them, where there are pictures."""
    test, run = subject.test, subject.first
    if test is None or not all(modality.traits.on_grid for modality in run.schema.modalities):
        return []
    rows = np.arange(min(_EXAMPLES, len(test)))
    batch = test.batch(rows)
    return [exhibit_case(run.schema, batch, int(row), run.test.observed[row]) for row in rows]
