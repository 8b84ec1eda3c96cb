"""The sections of a report: each a function from its subject to HTML, or to None."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np

from amodal.checkpoint import TrainedModel
from amodal.citation import bibliography
from amodal.methods import METHODS
from amodal.missingness import pattern_codes, pattern_label
from amodal.report import figures
from amodal.report.answer import answer
from amodal.report.cases import choose_cases, show_cases
from amodal.report.copulas import copula_drawings
from amodal.report.decisions import decisions, groups
from amodal.report.impact import impact
from amodal.report.panels import (
    against,
    compared,
    count_wins,
    difference_forest,
    label,
    method_forest,
    metric_series,
    removal,
    series_table,
    shown_metrics,
)
from amodal.report.parts import Drawing, Section, Table, section
from amodal.report.references import read_bibtex
from amodal.report.reliability import calibration
from amodal.report.representations import collapse_warnings, representation_table
from amodal.report.subject import Subject
from amodal.report.svg import legend_key
from amodal.report.words import (
    duration,
    format_value,
    interval_cell,
    percent,
    plain_name,
    plain_text,
    plural,
    removal_in_words,
    sort_verdicts,
)

__all__ = ["SECTIONS", "Builder"]

Builder = Callable[[Subject], Section | None]


def question(subject: Subject) -> Section:
    """The data, and how it was done."""
    run = subject.first
    modalities = Table(
        ["modality", "kind", "shape of a sample", "absent in test"],
        [
            [plain_name(m.name), m.kind, " × ".join(map(str, m.shape)) or "text", percent(share)]
            for m, share in zip(run.schema.modalities, (~run.test.observed).mean(0))
        ],
    )
    rows = dict(run.record["data"].get("rows", {})) | {"test": len(run.ids)}
    return section(
        "question",
        "The data, and how it was done",
        folded=True,
        notes=list(subject.notes),
        description=subject.cohort.description if subject.cohort else "",
        cohort=run.experiment.cohort,
        task=run.task,
        rows=rows,
        n_groups=len(np.unique(run.groups)),
        modalities=modalities,
    )


def presence(subject: Subject) -> Section:
    """Presence: patterns and rates, in training and in testing."""
    run, names = subject.first, [plain_name(name) for name in subject.first.schema.names]
    trained = run.train_presence.natural if run.train_presence is not None else None
    parts = [] if trained is None else [("training", trained, run.experiment.train_missingness)]
    parts.append(("test", run.test.observed, run.experiment.test_missingness))
    drawings, same = [], []
    for place, observed, mechanism in parts:
        patterns, counts = np.unique(observed, axis=0, return_counts=True)
        if len(patterns) == 1:
            same.append((place, len(observed), [name for name, here in zip(names, patterns[0]) if here]))
            continue
        how = f"with {removal_in_words(mechanism, subject.part)}"
        drawings.append(_who_has_what(place, patterns, counts, names, how))
    rates = Table(
        ["modality", *(f"absent in {place}" for place, _, _ in parts)],
        [[name, *(percent((~observed[:, m]).mean()) for _, observed, _ in parts)] for m, name in enumerate(names)],
    )
    further = Table(
        ["method", "removed further while training"],
        [[name, removal(subject.results.runs_of(name)[0], subject.part)] for name in subject.results.names],
    )
    hashes = [(run.seed, run.metrics["presence_hash"]) for run in subject.results.runs_of(run.name)]
    return section(
        "presence",
        "What was missing",
        folded=True,
        drawings=drawings,
        same=same,
        n_modalities=len(names),
        rates=rates,
        removal=further,
        hashes=hashes,
    )


def _who_has_what(place: str, patterns: np.ndarray, counts: np.ndarray, names: Sequence[str], how: str) -> Drawing:
    """The most frequent patterns (P, M) of the data of one place, and their numbers of cases (P,)."""
    order, total = np.lexsort((-patterns.sum(1), -counts))[:24], int(counts.sum())
    rest = total - int(counts[order].sum())
    rows = [
        [plain_name(pattern_label(int(pattern_codes(pattern[None])[0]), names)), f"{n:,}", percent(n / total)]
        for pattern, n in zip(patterns[order], counts[order])
    ]
    return Drawing(
        f"presence-{place}",
        figures.draw_presence(patterns[order], counts[order].tolist(), names, key=f"presence-{place}"),
        f"Who has what in the {place} data, {how}: each row is a pattern, filled dots are the modalities that are "
        "there." + (f" {rest:,} cases with rarer patterns are left out." if rest else ""),
        Table(["pattern", "cases", "share"], rows),
    )


def comparison(subject: Subject) -> Section:
    """The methods' metrics with intervals, and paired differences to the references."""
    results, metric = subject.results, subject.results.headline
    shown = shown_metrics(subject)
    ranked = subject.ranked
    table = Table(
        ["method", *(m.label for m in shown), *(f"against {name}" for name in subject.references)],
        [
            [
                name,
                *(interval_cell(results.summary(name, m.name).interval, m) for m in shown),
                *(against(subject, name, reference, metric) for reference in subject.references),
            ]
            for name in ranked
        ],
        f"{len(ranked)} methods by every metric, with 95 % intervals" if len(ranked) > 1 else "",
        strong=[0],
    )
    drawings = [method_forest(subject, metric)] if len(results.conditions("rate")) > 1 else []  # else it stands above
    if subject.references and len(results.names) > 1:
        drawings.append(difference_forest(subject, metric))
    verdicts = [sort_verdicts(results.compare(reference, metric.name)) for reference in compared(subject)]
    return section(
        "comparison",
        "The methods compared" if len(results.names) > 1 else "How well it predicts",
        table=table,
        drawings=drawings,
        verdicts=verdicts,
        metric=metric,
        n_methods=len(results.names),
        n_seeds=len(results.seeds),
        n_resamples=len(results.counts),
        spread=[(name, results.summary(name, metric.name).spread) for name in ranked],
        directions=[(m.label, "higher" if m.higher_is_better else "lower") for m in shown],
    )


def patterns(subject: Subject) -> Section | None:
    """The headline under each pattern of presence."""
    conditions, metric, results = subject.pattern_conditions, subject.results.headline, subject.results
    if len(conditions) < 2:
        return None
    names = subject.first.schema.names
    series = metric_series(subject, metric, [(condition,) for condition in conditions])
    sizes = subject.patterns.sum(1)
    by_count = [(k, tuple(np.array(conditions)[sizes == k].tolist())) for k in sorted(set(sizes.tolist()))]
    counted = metric_series(subject, metric, [group for _, group in by_count])
    alt = (
        f"{metric.label} of {len(series)} methods under {len(conditions)} presence patterns; the table has the numbers."
    )
    by_pattern = Drawing(
        "patterns",
        figures.draw_heat(subject.patterns, names, series, metric, key="patterns", alt=alt),
        f"{metric.label} under each pattern. Filled dots are the {plural(subject.part)} that were there; darker is "
        "better, and the best of a row is bold."
        + (f" {rare} rarer patterns are left out." if (rare := subject.patterns_left_out) else ""),
        series_table("pattern", [plain_name(c.removeprefix("met:")) for c in conditions], series, metric),
        size="wide",
    )
    by_number = Drawing(
        "by-count",
        figures.draw_curves(
            [float(k) for k, _ in by_count],
            counted,
            f"{plural(subject.part)} present",
            metric.label,
            key="by-count",
            alt=f"{metric.label} by the number of {plural(subject.part)} present.",
            whole=True,
            width=410,
        ),
        f"{metric.label} by how many {plural(subject.part)} were there: the mean over the patterns with as many.",
        series_table(plural(subject.part), [str(k) for k, _ in by_count], counted, metric),
    )
    shares = {name: results.ratio(subject.best, name, metric.name, conditions) for name in subject.references}
    shares = {name: share for name, share in shares.items() if not np.isnan(share.estimate)}
    return section(
        "patterns",
        "Pattern by pattern",
        drawings=[by_pattern],
        by_number=by_number,
        beside=len(results.conditions("rate")) > 1,  # nearly the same is told by the curve over rates
        part=subject.part,
        legend=subject.legend,
        imposed=subject.imposes_patterns,
        metric=metric,
        label=label(metric),
        best=subject.best,
        means=[(one, results.summary(one, metric.name, conditions).interval) for one in subject.ranked],
        shares=shares if metric.higher_is_better and subject.best not in shares else {},
        wins=[count_wins(subject, other, metric) for other in subject.results.names if other != subject.best],
        n_patterns=len(conditions),
    )


def degradation(subject: Subject) -> Section | None:
    """The headline as more and more is removed."""
    conditions, metric = subject.results.conditions("rate"), subject.results.headline
    if len(conditions) < 2:
        return None
    found = [subject.first.condition(name) for name in conditions]
    realised = [float((~condition.observed).mean()) for condition in found]
    series = metric_series(subject, metric, [(name,) for name in conditions])
    drawing = Drawing(
        "degradation",
        figures.draw_curves(
            realised,
            series,
            f"share of {plural(subject.part)} absent",
            metric.label,
            key="degradation",
            alt=f"{metric.label} of each method as {plural(subject.part)} are removed completely at random.",
        ),
        f"{metric.label} on the same test cases as {plural(subject.part)} are removed completely at random, with "
        "95 % bands.",
        series_table("share absent", [percent(share) for share in realised], series, metric),
    )
    order = sorted(series, key=lambda one: subject.ranked.index(one.name))
    falls = Table(
        ["method", *(f"{percent(realised[i], 0)} absent" for i in (0, -1)), "change"],
        [
            [
                legend_key(one.name, one.mark).svg + one.name,
                *(format_value(one.intervals[i].estimate, metric) for i in (0, -1)),
                format_value(one.intervals[-1].estimate - one.intervals[0].estimate, metric, signed=True),
            ]
            for one in order
        ],
    )
    return section(
        "degradation",
        "As more goes missing",
        drawings=[drawing],
        falls=falls,
    )


def training(subject: Subject) -> Section:
    """Training: losses, epochs, time, and signs of collapse."""
    drawings, rows, histories = [], [], {}
    for i, name in enumerate(subject.results.names):
        run = subject.results.runs_of(name)[0]
        result, history = run.record["result"], run.history
        best = int(result["best_epoch"])
        rows.append(
            [
                name,
                f"{result['parameters']:,}" if result["parameters"] else "–",
                str(result["epochs"]) if len(history) > 1 else "in one go",
                str(best) if len(history) > 1 else "–",
                format_value(result["best_valid_loss"] if result["best_valid_loss"] is not None else float("nan")),
                duration(result["seconds"]),
            ]
        )
        if len(history) > 1:
            histories[name] = (history, best - 1)
            epochs = history["epoch"].to_numpy(dtype=float)
            curves = {}
            if "train_task" in history:  # what an objective has beside it is not comparable with validation
                curves["training"] = (epochs, history["train_task"].to_numpy(dtype=float))
            curves["validation"] = (epochs, history["valid_loss"].to_numpy(dtype=float))
            drawings.append(
                Drawing(
                    f"training-{i}",
                    figures.draw_history(curves, best, key=f"training-{i}", title=name),
                    "",
                    size="third",
                )
            )
    table = Table(["method", "parameters", "epochs", "best epoch", "validation loss", "time"], rows)
    return section(
        "training",
        "Training",
        folded=True,
        drawings=drawings,
        table=table,
        seed=subject.results.seeds[0],
        copulas=copula_drawings(histories, {name: subject.results.runs_of(name)[0] for name in histories}),
        representations=representation_table(histories),
        warnings=collapse_warnings(histories),
    )


def cases(subject: Subject) -> Section | None:
    """Test cases with and without what was absent, chosen by rules."""
    test = subject.test
    run = subject.results.runs_of(subject.best)[0]
    if test is None or not (test.observed & ~run.test.observed).any():
        return None
    whole = next((c for c in run.conditions if c.kind == "rate" and c.rate == 0), None)
    predicted = TrainedModel.load(run.folder).predict(test, on_empty="silent") if whole is None else whole.predictions
    chosen = choose_cases(
        run.task, run.test.predictions, predicted, run.target, run.test.observed, test.observed, part=subject.part
    )
    groups = [(group, show_cases(run, test, predicted, group.rows)) for group in chosen]
    return section(
        "cases", "Cases", groups=groups, method=subject.best, task=run.task, seed=run.seed, n_cases=len(run.ids)
    )


def methods(subject: Subject) -> Section:
    """The methods and their sources."""
    known = {key: read_bibtex(entry) for key, entry in bibliography().items()}
    entries, used = [], []
    for name in subject.results.names:
        run = subject.results.runs_of(name)[0]
        kind = METHODS[run.experiment.method]
        keys = [key for key in kind.references if key in known]
        used += keys
        options = ", ".join(f"{key} = {json.dumps(value)}" for key, value in run.experiment.options.items())
        line = plain_text((kind.__doc__ or kind.summary).strip().split("\n\n")[0])
        entries.append((name, run.experiment.method, options, line, [known[key] for key in keys]))
    used += ["owen2007pigeonhole", "romano2005exact", "efron1993bootstrap"]
    sources = [known[key] for key in dict.fromkeys(used) if key in known]
    return section(
        "methods", "What the methods are", folded=True, entries=entries, sources=sources, references=subject.references
    )


def reproduce(subject: Subject) -> Section:
    """Everything needed to get the same numbers."""
    runs = subject.results.runs
    settings = Table(
        ["method", "seed", "settings", "data fingerprint", "folder"],
        [
            [
                run.name,
                str(run.seed),
                ", ".join(f"{key} {value}" for key, value in run.experiment.settings.items()) or "defaults",
                str(run.record["data"].get("fingerprint", "")),
                run.folder.name,
            ]
            for run in runs
        ],
    )
    records = [
        (
            f"{run.name}, seed {run.seed}",
            json.dumps(
                run.record["spec"] | {"training": run.record["training"], "missingness": run.record["missingness"]},
                indent=2,
                ensure_ascii=False,
            ),
        )
        for run in runs
    ]
    versions = sorted(runs[0].record.get("versions", {}).items())
    return section(
        "reproduce",
        "To reproduce this page",
        folded=True,
        commands=list(subject.commands),
        versions=versions,
        settings=settings,
        records=records,
        setting=runs[0].setting,
        hashes=[(run.seed, run.metrics["presence_hash"]) for run in subject.results.runs_of(runs[0].name)],
    )


SECTIONS: tuple[Builder, ...] = (
    answer,
    impact,
    cases,
    comparison,
    patterns,
    degradation,
    calibration,
    decisions,
    groups,
    methods,
    question,
    presence,
    training,
    reproduce,
)
"""The sections of a report, in order. A further one is a function of the same form."""
