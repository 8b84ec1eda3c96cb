"""Figures and further tables of an entry, drawn from its runs: degradation curves, copulas, sweeps, t-tests.

Each function takes the results of the entry's settings by title and gives drawings and tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from amodal.benchmark import FinishedRun, Results
from amodal.metrics import Interval, metrics_for
from amodal.report.copulas import copulas_of_epochs, draw_copula_densities, draw_sweep
from amodal.report.figures import Series, draw_curves
from amodal.report.parts import Drawing, Table
from amodal.report.published import read_published
from amodal.report.svg import COLOURS, MARKERS, Mark, drawing, inline_svg

Shown = tuple[list[Drawing], list[Table]]
FAMILIES = ("gumbel", "gaussian", "frank")
EPOCHS = (5, 50, 100)
SAMPLE_RATES = tuple(round(0.1 * step, 1) for step in range(10))


def degradation(found: Mapping[str, Results]) -> Shown:
    """Each metric under growing absence, for two rates that the paper's axis may be, and all numbers as tables.

    **entry rate before repair**: each modality is removed with this probability; a case that would lose all keeps one.
    **sample rate**: this share of the cases loses modalities, half of them one, half two, as in the paper's evaluation.
    """
    drawings, tables = [], []
    for title, results in found.items():
        names = results.conditions("rate")
        rates = [results.runs[0].condition(name).rate for name in names]
        lost = [float((~results.runs[0].condition(name).observed).mean()) for name in names]
        for metric in results.metrics if results.task.kind != "regression" else ("mae", "kappa"):
            if metric not in ("auroc", "auprc", "mae", "kappa"):
                continue
            entry = {n: [results.summary(n, metric, (c,)).interval for c in names] for n in results.names}
            sample = {n: _by_sample_rate(results, n, metric) for n in results.names}
            for what, at, curves in (
                ("entry rate before repair", rates, entry),
                ("sample rate", SAMPLE_RATES, sample),
            ):
                marks = [Mark(COLOURS[i % 6], MARKERS[i % 9]) for i in range(len(curves))]
                series = [Series(n, mark, curves[n]) for n, mark in zip(curves, marks)]
                key = f"degradation-{title}-{metric}-{what}".replace(" ", "-")
                said = f"{title}: {metric} by {what}, " + ", ".join(
                    f"{n} {one[0].estimate:.3f} to {one[-1].estimate:.3f}" for n, one in curves.items()
                )
                drawings.append(
                    Drawing(
                        key, draw_curves(at, series, what, metric, key=key, alt=said), f"{title}: {metric} by {what}."
                    )
                )
                realised = (
                    "" if what == "sample rate" else "; absent after repair " + ", ".join(f"{x:.0%}" for x in lost)
                )
                head = ["method", *(f"{rate:.0%}" for rate in at)]
                rows = [[n, *(f"{one.estimate:.3f}" for one in curves[n])] for n in curves]
                tables.append(Table(head, rows, f"{title}: {metric} by {what}{realised}"))
    return drawings, tables


def _by_sample_rate(results: Results, name: str, metric: str) -> list[Interval]:
    """The metric where a share of the cases has lost one modality or two, from predictions under imposed patterns."""
    return [_at_sample_rate(results, name, metric, rate) for rate in SAMPLE_RATES]


def _at_sample_rate(results: Results, name: str, metric: str, rate: float) -> Interval:
    values, drawn = [], []
    for run in results.runs_of(name):
        function = metrics_for(run.task.kind, bins=run.task.bins)[metric]
        predictions, rows = _degraded(run, rate)
        target, counts = run.target[rows], results.counts[:, rows]
        values.append(float(function(predictions[rows], target)))
        drawn.append(np.asarray(function(predictions[rows], target, weight=counts)))
    return Interval.from_values(float(np.mean(values)), np.mean(drawn, axis=0))


def _degraded(run: FinishedRun, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (N, …) in which a share of the complete cases lacks modalities, and which cases these are, (N,)."""
    patterns = [condition for condition in run.conditions if condition.kind == "pattern"]
    generator = np.random.default_rng(
        (run.seed, 23)
    )  # the same cases for every method; those of lower rates among them
    rows = patterns[0].rows
    order = generator.permutation(len(rows))
    removed = 1 + np.argsort(generator.random(len(rows))) % 2  # one or two, each of half of the cases
    removed[order[round(rate * len(rows)) :]] = 0
    result = np.full(patterns[0].predictions.shape, np.nan)
    whole = patterns[0].observed.shape[1]
    for count in range(3):
        fitting = [c for c in patterns if int(c.observed[rows][0].sum()) == whole - count]
        chosen = generator.integers(len(fitting), size=len(rows))
        for place, condition in enumerate(fitting):
            here = (removed == count) & (chosen == place)
            result[here] = condition.predictions[here]
    return result, rows


def copula_densities(found: Mapping[str, Results]) -> Shown:
    """CM2's figure 2: the fitted densities of three families, of the epoch whose weights were kept."""
    runs = {run.experiment.options["family"]: run for results in found.values() for run in results.runs[:1]}
    fitted = {
        family: copula
        for family, run in runs.items()
        for copula in copulas_of_epochs(run.history, family, [_best(run)]).values()
    }
    if not fitted:
        return [], []
    figure = draw_copula_densities(fitted, key="cm2-figure-2-densities")
    return [Drawing("cm2-figure-2-densities", figure, "Fitted densities, with normal margins.", size="wide")], []


def copula_over_epochs(found: Mapping[str, Results]) -> Shown:
    """CM2's figure 3: the parameter of the Gumbel copula and its correlation (alpha - 1) / alpha, epoch by epoch."""
    run = next(iter(found.values())).runs[0]
    shown = run.history[["epoch", "theta"]].dropna()
    alpha, epoch = shown["theta"].to_numpy(), shown["epoch"].to_numpy() + 1
    with drawing(560, 210) as figure:
        for axes, values, label in zip(figure.subplots(1, 2), (alpha, 1 - 1 / alpha), ("alpha", "(alpha - 1) / alpha")):
            axes.plot(epoch, values, color=COLOURS[0], marker="o" if len(epoch) < 3 else None)
            axes.grid(axis="y")
            axes.set_title(label)
            axes.set_xlabel("epoch")
        said = f"At the end alpha {alpha[-1]:.3f}, correlation {1 - 1 / alpha[-1]:.3f}."
        svg = inline_svg(figure, "cm2-figure-3-alpha", said)
    return [Drawing("cm2-figure-3-alpha", svg, f"{said} The paper's correlation converges to 0.601.", size="wide")], []


def densities_by_epoch(found: Mapping[str, Results]) -> Shown:
    """CM2's figure 4: the density of the Gumbel copula after 5, 50 and 100 epochs, or the last ones there are."""
    run = next(iter(found.values())).runs[0]
    last = int(run.history["epoch"].max())
    epochs = sorted({min(number - 1, last) for number in EPOCHS})
    figure = draw_copula_densities(copulas_of_epochs(run.history, "gumbel", epochs), key="cm2-figure-4-densities")
    return [Drawing("cm2-figure-4-densities", figure, "Densities by epoch, with normal margins.", size="wide")], []


def _best(run: FinishedRun) -> int:
    """The epoch whose weights were kept."""
    return int(run.history["epoch"].iloc[int(run.history["valid_loss"].argmin())])


def components(found: Mapping[str, Results]) -> Shown:
    """CM2's figure 5: AUROC and AUPRC by the number of components."""
    drawings = []
    tasks = dict.fromkeys(title.split(",")[0] for title in found)
    for task in tasks:
        mine = {title: results for title, results in found.items() if title.startswith(f"{task},")}
        numbers = [int(results.runs[0].experiment.options["components"]) for results in mine.values()]
        for metric in ("auroc", "auprc"):
            key = f"cm2-figure-5-{task}-{metric}"
            values = [results.summary(results.names[0], metric).interval for results in mine.values()]
            known = next(iter(mine.values())).metrics[metric]
            figure = draw_sweep(numbers, values, known, key=key, label="components K")
            drawings.append(Drawing(key, figure, f"{task}: {metric} by the number of components."))
    return drawings, []


def t_tests(found: Mapping[str, Results]) -> Shown:
    """CM2's table 11: its t-tests between bootstrap values beside the p-value of the paired difference."""
    published = read_published()
    published = published[(published.paper == "cm2") & (published.source == "table 11")]
    head = ["cm2 against", "metric", "paper's p", "our t-test's p (no evidence)", "our paired difference", "its p"]
    tables = []
    for title, results in found.items():
        task, rows = next(printed for name, printed in _TASKS.items() if name in title), []
        for name in (n for n in results.names if n != "cm2"):
            for metric in ("auroc", "auprc"):
                here = (published.task == task) & (published.method == name) & (published.metric == f"p_value_{metric}")
                claimed = [f"{value:.1e}" for value in published[here].value]
                gap = results.difference("cm2", name, metric).difference
                rows.append([
                    name, metric, claimed[0] if claimed else "not given", _t_test(results, name, metric),
                    f"{gap.estimate:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})", f"{gap.p_value:.3f}",
                ])  # fmt: skip
        tables.append(Table(head, rows, title))
    return [], tables


_TASKS = {"mortality": "ihm", "readmission": "readmission"}


def _t_test(results: Results, name: str, metric: str) -> str:
    """Student's t between bootstrap values of the first seed: its p is set by the number of resamples."""
    from amodal.metrics import resample_counts, two_sample_bootstrap_t_test

    drawn: list[Any] = []
    for place, which in enumerate((name, "cm2")):
        run = results.runs_of(which)[0]
        counts = resample_counts(run.groups, 1000, np.random.default_rng((place, 11)))
        drawn.append(np.asarray(results.metrics[metric](run.test.predictions, run.target, weight=counts)))
    if any(np.isnan(values).all() for values in drawn):
        return "undefined"
    return f"{two_sample_bootstrap_t_test(*drawn).p_value:.1e}"
