"""The section on impact: what a missing modality could still change, where to look next, and what happened then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amodal.batch import Batch
from amodal.benchmark import FinishedRun
from amodal.checkpoint import TrainedModel
from amodal.data import Cohort
from amodal.method import SamplingMethod
from amodal.methods import METHODS
from amodal.metrics import Interval, resample_counts
from amodal.predictive_impact import change_curve, rank_correlation, realised_change, variability_bound
from amodal.predictive_impact.advice import Advice
from amodal.predictive_impact.advising import advise
from amodal.predictive_impact.model import impact as impact_of
from amodal.predictive_impact.result import Impact
from amodal.report import figures
from amodal.report.bedside import describe_case
from amodal.report.impact_cases import Candidate, ImpactCase, PlausibleLabel
from amodal.report.parts import Drawing, Section, Table, section
from amodal.report.pictures import exhibit_case
from amodal.report.subject import Subject
from amodal.report.svg import legend_key
from amodal.report.words import format_interval, format_value

__all__ = ["impact"]

_MOST = 80  # cases looked at: a method that draws predicts each of their completions with draws of its own
_DRAWS, _ADVICE_DRAWS = 200, 50
_FEWEST = 30  # cases that make a curve
_EACH = 2  # cases of each rule
_LABELS = 5  # plausible labels shown of a case


@dataclass(frozen=True)
class _Looks:
    """Impact and advice for N cases, and the effect of revealing each modality.

    Args:
        rows: Positions of the cases among the test rows (N,).
        seen: What was seen, bool (N, M).
        open: What could be revealed, bool (N, M).
        result: V and plausible labels.
        advice: Expected gains.
        one: Predictions with each modality revealed (M, N, C); NaN where it cannot be.
        whole: Predictions with everything (N, C).
        target: The truth (N,).
    """

    rows: NDArray[np.int64]
    seen: NDArray[np.bool_]
    open: NDArray[np.bool_]
    result: Impact
    advice: Advice
    one: NDArray[np.float64]
    whole: NDArray[np.float64]
    target: NDArray[np.int64]

    @property
    def advised(self) -> NDArray[np.int64]:
        """Position of the modality to look at next, of those that can be revealed (N,)."""
        return np.where(self.open, self.advice.gain, -np.inf).argmax(axis=1)

    @property
    def settling(self) -> NDArray[np.int64]:
        """Position of the modality that turns out to make the prediction surest (N,)."""
        sure = np.where(np.isnan(self.one), 0.0, np.nan_to_num(self.one) * np.log(np.nan_to_num(self.one) + 1e-12))
        return np.where(self.open, sure.sum(axis=2).T, -np.inf).argmax(axis=1)

    def after(self, choice: NDArray[np.int64]) -> NDArray[np.float64]:
        """Predictions after revealing one modality each (N, C)."""
        return self.one[choice, np.arange(len(choice))]

    @property
    def moved(self) -> NDArray[np.float64]:
        """Distance that each prediction moves when one modality is revealed, (N, M); NaN where it cannot be."""
        return np.stack(
            [
                np.where(
                    can, realised_change(self.result.prediction, np.where(can[:, None], p, 1.0 / p.shape[1])), np.nan
                )
                for p, can in zip(self.one, self.open.T)
            ],
            axis=1,
        )


def impact(subject: Subject) -> Section | None:
    """V, plausible labels and advice of the best method that draws completions; None if there is none, or no data."""
    run = _drawing_run(subject)
    test = subject.test
    if run is None or test is None or not (test.observed & ~run.test.observed).any():
        return None
    model = TrainedModel.load(run.folder)
    looks = _look(run, model, test, _lenders(subject, run))
    return section(
        "impact",
        "What could still change?",
        method=run.name,
        n_cases=len(looks.rows),
        n_hidden=int((test.observed & ~run.test.observed).any(axis=1).sum()),
        part=subject.part,
        how=looks.advice.how,
        task=run.task,
        looking=_looking_table(looks, run),
        gained=format_interval_signed(_paired(looks, run)),
        drawings=_curve(looks),
        legend=[
            legend_key(name, mark)
            for name, mark in zip(("V, everything revealed", "advice, one revealed"), figures.GROUP_MARKS)
        ],
        correlation=_correlation(looks, run),
        groups=[
            (title, rule, [_case(run, test, looks, int(i)) for i in chosen], found)
            for title, rule, chosen, found in _choose(looks, subject.part)
        ],
    )


def _drawing_run(subject: Subject) -> FinishedRun | None:
    """The first run of the best method that can draw completions of classes."""
    if not subject.results.task.is_classification:
        return None
    for name in subject.ranked:
        run = subject.results.runs_of(name)[0]
        if issubclass(METHODS[run.experiment.method], SamplingMethod):
            return run
    return None


def _lenders(subject: Subject, run: FinishedRun) -> Cohort | None:
    """The training cases, whose values stand in for what might be seen."""
    assert subject.cohort is not None
    name = run.experiment.splits[0]
    return subject.cohort.split(name) if name in subject.cohort.splits else None


def _look(run: FinishedRun, model: TrainedModel, test: Cohort, train: Cohort | None) -> _Looks:
    rows = np.flatnonzero((test.observed & ~run.test.observed).any(axis=1))[:_MOST]
    cases, seen = test.take(rows), run.test.observed[rows]
    withheld, can = cases.with_observed(seen), cases.observed & ~seen
    one = np.full((seen.shape[1], *(len(rows), run.task.n_outputs)), np.nan)
    for m, revealed in enumerate(np.eye(seen.shape[1], dtype=bool)):
        some = np.flatnonzero(can[:, m])
        if len(some):
            one[m, some] = model.predict(cases.take(some).with_observed(seen[some] | revealed), on_empty="silent")
    return _Looks(
        rows,
        seen,
        can,
        impact_of(model, withheld, draws=_DRAWS, seed=run.seed, vary=(), train=train),
        advise(model, withheld, draws=_ADVICE_DRAWS, seed=run.seed, train=train),
        one,
        model.predict(cases, on_empty="silent"),
        np.asarray(run.target)[rows],
    )


# In numbers ----------------------------------------------------------------------------------------------------------


def _random_right(looks: _Looks) -> NDArray[np.float64]:
    """Chance (N,) of a right answer after revealing one of the modalities that can be, each equally likely."""
    right = np.nan_to_num(looks.one).argmax(axis=2) == looks.target  # (M, N)
    return (right & looks.open.T).sum(axis=0) / looks.open.sum(axis=1)


def _looking_table(looks: _Looks, run: FinishedRun) -> Table:
    """Accuracy before and after one look, by how it was chosen."""
    n = np.arange(len(looks.rows))
    right: dict[str, NDArray[np.float64]] = {"as seen": looks.result.prediction.argmax(1) == looks.target}
    right["after the look advised"] = looks.after(looks.advised).argmax(1) == looks.target
    right["after a random look"] = _random_right(looks)
    right["after the surest look"] = looks.after(looks.settling).argmax(1) == looks.target
    right["with everything"] = looks.whole.argmax(1) == looks.target
    counts = _counts(looks, run)
    rows = []
    for name, values in right.items():
        interval = _mean(np.asarray(values, dtype=float)[n], counts)
        rows.append([name, format_interval(interval)])
    return Table(["prediction", "accuracy"], rows, "Accuracy on these cases, with 95 % intervals", strong=[1])


def _paired(looks: _Looks, run: FinishedRun) -> Interval:
    """Accuracy after the look advised less that after a random one."""
    right = looks.after(looks.advised).argmax(1) == looks.target
    return _mean(right - _random_right(looks), _counts(looks, run))


def _counts(looks: _Looks, run: FinishedRun) -> NDArray[np.float64]:
    groups = np.asarray(run.groups)[looks.rows]
    return np.asarray(resample_counts(groups, 1000, np.random.default_rng((run.seed, 17))), dtype=float)


def _mean(values: NDArray[np.float64], counts: NDArray[np.float64]) -> Interval:
    return Interval.from_values(float(values.mean()), counts @ values / counts.sum(axis=1))


def format_interval_signed(interval: Interval) -> str:
    """A difference with its interval, with signs.

    Example:
        >>> format_interval_signed(Interval(0.021, -0.002, 0.05, 1000, 0))
        '+0.021 (−0.002 to +0.050)'
    """
    value, low, high = (format_value(x, signed=True) for x in (interval.estimate, interval.low, interval.high))
    return f"{value} ({low} to {high})"


def _changes(looks: _Looks) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Predicted and realised change: V against everything revealed, the advice's against one modality."""
    expected, moved = looks.advice.change[looks.open], looks.moved[looks.open]
    return {
        "V, everything revealed": (
            looks.result.variability,
            realised_change(looks.result.prediction, looks.whole.astype(looks.result.prediction.dtype)),
        ),
        "advice, one revealed": (expected, moved),
    }


def _curve(looks: _Looks) -> list[Drawing]:
    """Realised against predicted change."""
    if len(looks.rows) < _FEWEST:
        return []
    curves, rows = {}, []
    for mark, (name, (predicted, realised)) in zip(figures.GROUP_MARKS, _changes(looks).items()):
        curve = change_curve(predicted, realised, bins=8)
        curves[name] = mark, (curve["predicted"].to_numpy(), curve["realised"].to_numpy())
        rows += [
            [name, f"{n:,.0f}", format_value(a), format_value(b)] for n, a, b in curve.iloc[:, :3].to_numpy().tolist()
        ]
    svg = figures.draw_reliability(
        curves,
        key="impact-curve",
        title="predicted and realised change",
        labels=("predicted", "realised"),
        alt="How far predictions moved when something was revealed, against what V and the advice had said.",
    )
    caption = "On the dashed line, predictions move as far as was said; below it, less."
    table = Table(["change by", "cases", "predicted", "realised"], rows, "mean predicted and realised change")
    return [Drawing("impact-curve", svg, caption, table, size="third")]


def _correlation(looks: _Looks, run: FinishedRun) -> list[tuple[str, str]]:
    """Rank correlations of predicted with realised change."""
    if len(looks.rows) < _FEWEST:
        return []
    groups = np.asarray(run.groups)[looks.rows]
    by_change = (groups, np.repeat(groups[:, None], looks.seen.shape[1], axis=1)[looks.open])
    return [
        (name, format_interval(rank_correlation(a, b, generator=np.random.default_rng(run.seed), groups=g)))
        for (name, (a, b)), g in zip(_changes(looks).items(), by_change)
    ]


# Case by case --------------------------------------------------------------------------------------------------------

_Rule = tuple[str, str, NDArray[np.int64], int]


def _choose(looks: _Looks, part: str) -> list[_Rule]:
    """Cases by rules: title, rule, positions, and how many there are to choose from."""
    value, moved = looks.result.variability, looks.moved[np.arange(len(looks.rows)), looks.advised]
    answer, after = looks.result.prediction.argmax(1), looks.after(looks.advised).argmax(1)
    every = np.ones(len(value), dtype=bool)
    rules: list[tuple[str, str, NDArray[np.bool_], NDArray[np.float64]]] = [
        (
            "The look changed the answer",
            "Another class is the most probable after the look advised: the largest movement comes first.",
            answer != after,
            -moved,
        ),
        ("Most is open", "The largest V: all that is absent is expected to move the prediction most.", every, -value),
        (
            "Little was seen, little is open",
            f"A single {part} was seen: the smallest V comes first.",
            looks.seen.sum(1) == 1,
            value,
        ),
        (
            "Promised more than came",
            "The largest V less what really moved when everything was revealed.",
            every,
            realised_change(looks.result.prediction, looks.whole.astype(value.dtype)) - value,
        ),
    ]
    chosen = []
    for title, rule, eligible, order in rules:
        rows = np.flatnonzero(eligible)
        if len(rows):
            chosen.append((title, rule, rows[np.argsort(order[rows], kind="stable")[:_EACH]], len(rows)))
    return chosen


def _case(run: FinishedRun, test: Cohort, looks: _Looks, i: int) -> ImpactCase:
    names, row = run.schema.names, int(looks.rows[i])
    batch: Batch = test.batch(np.array([row]))
    m = int(looks.advised[i])
    seen, revealed = looks.seen[i], looks.seen[i] | (np.arange(len(names)) == m)
    after, prediction = looks.one[m, i], looks.result.prediction[i]
    moved = looks.moved[i]
    candidates = [
        Candidate(name, float(looks.advice.change[i, k]), float(looks.advice.gain[i, k]), float(moved[k]), k == m)
        for k, name in enumerate(names)
        if not seen[k]
    ]
    answers = tuple(str(run.task.classes[int(p.argmax())]) for p in (prediction, after, looks.whole[i]))
    return ImpactCase(
        id=str(run.ids[row]),
        truth=str(run.task.classes[int(looks.target[i])]),
        seen=tuple(name for name, here in zip(names, seen) if here),
        before=exhibit_case(run.schema, batch, 0, seen),
        after=exhibit_case(run.schema, batch, 0, revealed),
        labels=_labels(run, looks, i, after),
        candidates=candidates,
        variability=float(looks.result.variability[i]),
        bound=float(variability_bound(prediction[None])[0]),
        answers=(answers[0], answers[1], answers[2]),
        moved=float(moved[m]),
        words=describe_case(looks.result, looks.advice, i),
    )


def _labels(run: FinishedRun, looks: _Looks, i: int, after: NDArray[np.float64]) -> list[PlausibleLabel]:
    found = looks.result.plausible_labels
    assert found is not None
    truth = int(looks.target[i])
    shown = [int(c) for c in found.labels[i][:_LABELS]]
    shown += [truth] if truth not in shown else []
    return [
        PlausibleLabel(
            str(run.task.classes[c]), float(found.mass[i][c]), float(after[c]), float(looks.whole[i][c]), c == truth
        )
        for c in shown
    ]
