"""Series, figures and tables of results that several sections use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from amodal.benchmark import Comparison, FinishedRun
from amodal.metrics import Interval, Metric
from amodal.missingness import Natural, mechanism_from_json
from amodal.report import figures
from amodal.report.figures import Series
from amodal.report.parts import Drawing, Table
from amodal.report.subject import Subject
from amodal.report.words import (
    difference_cell,
    format_difference,
    format_interval,
    format_value,
    interval_cell,
    join_words,
    percent,
    plain_name,
    removal_in_words,
)

__all__ = [
    "Win",
    "against",
    "compared",
    "count_wins",
    "difference_forest",
    "findings",
    "label",
    "method_forest",
    "metric_series",
    "removal",
    "series_table",
    "shown_metrics",
]


def shown_metrics(subject: Subject) -> list[Metric]:
    """The metrics of the main table: headlines, and one or two that see what they do not."""
    traits = subject.results.task.traits
    names = [*traits.headlines, *traits.second_metrics]
    return [subject.results.metrics[name] for name in names if name in subject.results.metrics]


def metric_series(subject: Subject, metric: Metric, groups: Sequence[Sequence[str]]) -> list[Series]:
    """A series a method: its metric under each group of conditions, averaged over the group."""
    return [
        Series(name, subject.marks[name], [subject.results.summary(name, metric.name, g).interval for g in groups])
        for name in subject.results.names
    ]


def series_table(head: str, positions: Sequence[str], series: Sequence[Series], metric: Metric) -> Table:
    """The numbers of a figure: a row a position, a column a method."""
    rows = [
        [position, *(interval_cell(one.intervals[i], metric) for one in series)] for i, position in enumerate(positions)
    ]
    return Table([head, *(one.name for one in series)], rows, f"{metric.label} with 95 % intervals")


def method_forest(subject: Subject, metric: Metric, key: str = "forest") -> Drawing:
    """The methods' headline on the test rows, the best at the top."""
    rows = [
        Series(name, subject.marks[name], [subject.results.summary(name, metric.name).interval])
        for name in subject.ranked
    ]
    told = "; ".join(f"{row.name} {format_interval(row.intervals[0], metric)}" for row in rows)
    svg = figures.draw_forest(rows, metric.label, key=key, alt=f"{metric.label} of each method. {told}.")
    hollow = " Hollow: the methods compared with." if subject.references else ""
    caption = f"{metric.label} on the test data, with 95 % intervals.{hollow}"
    return Drawing(key, svg, caption)


def difference_forest(subject: Subject, metric: Metric) -> Drawing:
    """Paired differences to each reference."""
    rows = []
    for name in subject.ranked:
        found = [
            None if name == reference else subject.results.difference(name, reference, metric.name)
            for reference in subject.references
        ]
        rows.append(Series(name, subject.marks[name], [_as_interval(one) for one in found]))
    titles = [f"against {name}" for name in subject.references]
    better = "right" if metric.higher_is_better else "left"
    svg = figures.draw_forest(
        rows,
        f"difference in {metric.label}",
        key="differences",
        zero=True,
        titles=titles,
        alt=f"Paired differences in {metric.label} to {join_words(subject.references)}; the table has the numbers.",
    )
    caption = f"Paired differences on the same resamples; {better} of zero is better."
    return Drawing("differences", svg, caption)


def _as_interval(comparison: Comparison | None) -> Interval:
    if comparison is None:
        return Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    found = comparison.difference
    return Interval(found.estimate, found.low, found.high, found.resamples, found.undefined, found.reason)


def compared(subject: Subject) -> tuple[str, ...]:
    """The methods that the others are compared with in words: the references, or else the best."""
    if len(subject.results.names) < 2:
        return ()
    return tuple(subject.references) or (subject.ranked[0],)


def against(subject: Subject, name: str, reference: str, metric: Metric) -> str | tuple[str, str]:
    """A cell: the paired difference to a reference."""
    if name == reference:
        return "–"
    return difference_cell(subject.results.difference(name, reference, metric.name).difference, metric)


def findings(subject: Subject) -> list[Markup]:
    """The main findings, in sentences."""
    results, metric, best, top = subject.results, subject.results.headline, subject.best, subject.ranked[0]
    value = format_interval(results.summary(top, metric.name).interval, metric)
    said = [
        Markup("<b>{}</b> reaches {} {} on {:,} test cases with {}.").format(
            top,
            label(metric),
            value,
            len(subject.first.ids),
            removal_in_words(subject.first.experiment.test_missingness, subject.part),
        )
    ]
    if top in subject.references and top != best:
        said.insert(0, Markup("Nothing here beats <b>{}</b>.").format(top))
        value = format_interval(results.summary(best, metric.name).interval, metric)
        said.append(Markup("Of the others <b>{}</b> comes next: {}.").format(best, value))
    others = [name for name in compared(subject) if name != best] or [n for n in subject.ranked if n != best][:1]
    for other in others:
        found = next(one for one in results.compare(other, metric.name) if one.name == best)
        sentence = {
            "better": "Beyond noise, that is better than <b>{}</b>: {}.",
            "worse": "Beyond noise, that is worse than <b>{}</b>: {}.",
            "unclear": "No difference from <b>{}</b> can be told from noise: {}.",
        }[found.verdict]
        if found.verdict == "unclear" and (found.difference.low > 0 or found.difference.high < 0):
            sentence = "The difference from <b>{}</b> is beyond noise alone, not among all methods compared: {}."
        said.append(Markup(sentence).format(other, format_difference(found.difference, metric)))
    return said + _of_patterns(subject, others) + _of_rates(subject)


def label(metric: Metric) -> str:
    """A metric inside a sentence: lower case, unless it is an abbreviation."""
    return metric.label.lower() if metric.label[1:].islower() else metric.label


def _of_patterns(subject: Subject, others: Sequence[str]) -> list[Markup]:
    conditions, metric = subject.pattern_conditions, subject.results.headline
    if not subject.imposes_patterns or not metric.higher_is_better or not others:
        return []
    shares = [
        Markup("{} of <b>{}</b>’s").format(
            format_interval(subject.results.ratio(subject.best, other, metric.name, conditions)), other
        )
        for other in others
    ]
    sentence = Markup("Averaged over all {} patterns of presence, its {} is {}.")
    return [sentence.format(len(conditions), label(metric), Markup(" and ").join(shares))]


def _of_rates(subject: Subject) -> list[Markup]:
    """The method that loses most as more is absent."""
    conditions, metric = subject.results.conditions("rate"), subject.results.headline
    if len(conditions) < 2:
        return []
    first, last = conditions[0], conditions[-1]
    ends = {
        name: [subject.results.summary(name, metric.name, (c,)).interval.estimate for c in (first, last)]
        for name in subject.results.names
    }
    sign = 1 if metric.higher_is_better else -1
    most = max(ends, key=lambda name: sign * (ends[name][0] - ends[name][1]))
    absent = [float((~subject.first.condition(c).observed).mean()) for c in (first, last)]
    told = {
        name: f"from {format_value(ends[name][0], metric)} to {format_value(ends[name][1], metric)}" for name in ends
    }
    rest = Markup("; <b>{}</b> goes {}").format(subject.best, told[subject.best]) if most != subject.best else ""
    sentence = Markup("Going from {} to {} absent costs <b>{}</b> most: {} {}{}.")
    return [sentence.format(*(percent(share, 0) for share in absent), most, label(metric), told[most], rest)]


@dataclass(frozen=True)
class Win:
    """Comparison of two methods, pattern by pattern.

    Args:
        name: The other method.
        ahead: Patterns in which the method looked at is ahead of it.
        beyond: Of these, beyond noise (adjusted for the number of patterns).
        behind: Patterns in which it is behind beyond noise.
        patterns: Number of patterns.
        exceptions: Patterns in which it is not ahead, at most three.
    """

    name: str
    ahead: int
    beyond: int
    behind: int
    patterns: int
    exceptions: tuple[str, ...]


def count_wins(subject: Subject, name: str, metric: Metric) -> Win:
    """Compares the method looked at with another, under every pattern."""
    conditions = subject.pattern_conditions
    found = subject.results.compare_under(subject.best, name, metric.name, conditions)
    sign = 1 if metric.higher_is_better else -1
    gains = np.array([sign * one.difference.estimate for one in found])
    clear = np.array([one.verdict != "unclear" for one in found])
    lost = tuple(plain_name(c.removeprefix("met:")) for c, gain in zip(conditions, gains) if not gain > 0)
    return Win(
        name,
        int((gains > 0).sum()),
        int(((gains > 0) & clear).sum()),
        int(((gains < 0) & clear).sum()),
        len(conditions),
        lost[:3],
    )


def removal(run: FinishedRun, part: str) -> str:
    """The further removal during a method's training, from the run's record."""
    record = run.record["missingness"]
    if record.get("by_objective"):
        return "nothing further: its training covers every pattern by itself"
    mechanism = mechanism_from_json(record["train"])
    return "nothing" if isinstance(mechanism, Natural) else removal_in_words(mechanism, part)
