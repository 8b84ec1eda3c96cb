"""Figures and further tables of an entry, drawn from its runs: degradation curves, copulas, sweeps, t-tests.

Each function takes the results of the entry's settings by title and gives drawings and tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from amodal.benchmark import FinishedRun, Results
from amodal.metrics import Interval
from amodal.report.copulas import copulas_of_epochs, draw_copula_densities, draw_sweep
from amodal.report.figures import Series, draw_curves
from amodal.report.parts import Drawing, Table
from amodal.report.published import read_published
from amodal.report.svg import COLOURS, MARKERS, LegendKey, Mark, drawing, inline_svg, legend_key


class Shown(NamedTuple):
    """What an entry shows: figures, tables, and what the figures' marks stand for."""

    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    legend: Sequence[LegendKey] = ()


FAMILIES = ("gumbel", "gaussian", "frank")
EPOCHS = (5, 50, 100)


def degradation(found: Mapping[str, Results]) -> Shown:
    """Each metric under growing absence, for two rates that the paper's axis may be, and all numbers as tables.

    **entry rate before repair**: each modality of each case is removed with this probability; a case that would lose
    all keeps one. **sample rate**: this share of the cases loses modalities, half of them one, half two, as in the
    paper's evaluation. Predictions are those under imposed patterns, so that nothing is trained or predicted again.
    """
    drawings, marks = [], {}
    for title, results in found.items():
        names = [name for name in ("auroc", "auprc", "mae", "kappa") if name in results.metrics]
        for metric, (what, draw) in itertools.product(names, RATES.items()):
            absent = np.array([_removed(results.runs[0], draw, rate).mean() for rate in STEPS])
            curves = {name: [_degraded(results, name, metric, draw, rate) for rate in STEPS] for name in results.names}
            for name in (name for name in curves if name not in marks):
                marks[name] = Mark(COLOURS[len(marks) % len(COLOURS)], MARKERS[len(marks) % len(MARKERS)])
            series = [Series(name, marks[name], intervals) for name, intervals in curves.items()]
            key = f"degradation-{title}-{metric}-{what}".replace(" ", "-")
            said = f"{title}: {metric} by {what}"
            ends = ", ".join(f"{n} {one[0].estimate:.3f} to {one[-1].estimate:.3f}" for n, one in curves.items())
            svg = draw_curves(STEPS, series, what, metric, key=key, alt=f"{said}: {ends}.")
            rows = [[name, *(f"{one.estimate:.3f}" for one in curves[name])] for name in curves]
            table = Table(
                ["method", *(f"{rate:.0%}" for rate in STEPS)],
                [["absent entries", *(f"{share:.0%}" for share in absent)], *rows],
                said,
            )
            drawings.append(Drawing(key, svg, f"{said}.", table))
    return Shown(drawings, legend=[legend_key(name, mark) for name, mark in marks.items()])


def _entries(rate: float, n: int, m: int, generator: np.random.Generator) -> np.ndarray:
    """What is removed at a rate of entries before repair, bool (n, m): what is at a lower rate is among it."""
    removed = generator.random((n, m)) < rate
    kept = generator.integers(m, size=n)  # of those who would lose all
    removed[np.flatnonzero(removed.all(axis=1)), kept[removed.all(axis=1)]] = False
    return removed


def _samples(rate: float, n: int, m: int, generator: np.random.Generator) -> np.ndarray:
    """What is removed from a share of the cases, bool (n, m): one modality from half of them, two from the others."""
    order = generator.permutation(n)
    count = np.zeros(n, np.int64)
    count[order[: round(rate * n)]] = 1 + np.arange(round(rate * n)) % 2
    return generator.random((n, m)).argsort(axis=1).argsort(axis=1) < count[:, None]


STEPS = tuple(round(0.1 * step, 1) for step in range(10))
RATES = {"entry rate before repair": _entries, "sample rate": _samples}
"""How absence grows, by the name of its rate."""


def _removed(run: FinishedRun, draw: Callable[..., np.ndarray], rate: float) -> np.ndarray:
    """What the complete test cases of a run lose, (n, M): the same for every method with its seed."""
    return draw(rate, int(_complete(run).sum()), run.test.observed.shape[1], np.random.default_rng((run.seed, 23)))


def _complete(run: FinishedRun) -> np.ndarray:
    """The test cases under imposed patterns, bool (N,): those that have everything of themselves."""
    return next(one for one in run.conditions if one.kind == "pattern").rows


def _degraded(results: Results, name: str, metric: str, draw: Callable[..., np.ndarray], rate: float) -> Interval:
    """A method's metric where something is removed: the mean over seeds, with the interval for the test cases."""
    values, drawn, function = [], [], results.metrics[metric]
    for run in results.runs_of(name):
        rows = np.flatnonzero(_complete(run))
        kept, predicted = ~_removed(run, draw, rate), None
        for condition in (one for one in run.conditions if one.kind == "pattern"):
            here = (kept == condition.observed[rows]).all(axis=1)
            predicted = np.zeros_like(condition.predictions[rows]) if predicted is None else predicted
            predicted[here] = condition.predictions[rows[here]]
        assert predicted is not None
        values.append(float(function(predicted, run.target[rows])))
        drawn.append(np.asarray(function(predicted, run.target[rows], weight=results.counts[:, rows])))
    return Interval.from_values(float(np.mean(values)), np.mean(drawn, axis=0))


def copula_densities(found: Mapping[str, Results]) -> Shown:
    """CM2's figure 2: the fitted densities of three families, of the epoch whose weights were kept."""
    runs = {run.experiment.options["family"]: run for results in found.values() for run in results.runs[:1]}
    fitted = {
        family: copula
        for family, run in runs.items()
        for copula in copulas_of_epochs(run.history, family, [_best(run)]).values()
    }
    if not fitted:
        return Shown()
    figure = draw_copula_densities(fitted, key="cm2-figure-2-densities")
    return Shown([Drawing("cm2-figure-2-densities", figure, "Fitted densities, with normal margins.", size="wide")])


def copula_over_epochs(found: Mapping[str, Results]) -> Shown:
    """CM2's figure 3: the parameter of the Gumbel copula and its correlation (alpha - 1) / alpha, epoch by epoch."""
    run = next(iter(found.values())).runs[0]
    shown = run.history[["epoch", "theta"]].dropna()
    alpha, epoch = shown["theta"].to_numpy(), shown["epoch"].to_numpy()
    with drawing(560, 210) as figure:
        for axes, values, label in zip(figure.subplots(1, 2), (alpha, 1 - 1 / alpha), ("alpha", "(alpha - 1) / alpha")):
            axes.plot(epoch, values, color=COLOURS[0], marker="o" if len(epoch) < 3 else None)
            axes.grid(axis="y")
            axes.set_title(label)
            axes.set_xlabel("epoch")
        said = f"At the end alpha {alpha[-1]:.3f}, correlation {1 - 1 / alpha[-1]:.3f}."
        svg = inline_svg(figure, "cm2-figure-3-alpha", said)
    return Shown(
        [Drawing("cm2-figure-3-alpha", svg, f"{said} The paper's correlation converges to 0.601.", size="wide")]
    )


def densities_by_epoch(found: Mapping[str, Results]) -> Shown:
    """CM2's figure 4: the density of the Gumbel copula after 5, 50 and 100 epochs, or the last ones there are."""
    run = next(iter(found.values())).runs[0]
    last = int(run.history["epoch"].max())
    epochs = sorted({min(number, last) for number in EPOCHS})
    figure = draw_copula_densities(copulas_of_epochs(run.history, "gumbel", epochs), key="cm2-figure-4-densities")
    return Shown([Drawing("cm2-figure-4-densities", figure, "Densities by epoch, with normal margins.", size="wide")])


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
    return Shown(drawings)


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
    return Shown(tables=tables)


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
