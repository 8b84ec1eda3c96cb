"""The drawings of a run with a copula: densities by family and by epoch, dependence over epochs, components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from amodal.benchmark import FinishedRun
from amodal.metrics import Interval, Metric
from amodal.report.parts import Drawing
from amodal.report.svg import COLOURS, INK, MUTED, RULE, drawing, inline_svg, short

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from amodal.distributions.copula import Copula

__all__ = ["copula_drawings", "copulas_of_epochs", "draw_copula_densities", "draw_dependence", "draw_sweep"]

_LEVELS = (0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3)
_REACH = 2.8  # standard deviations on either side


def copula_drawings(
    histories: Mapping[str, tuple[pd.DataFrame, int]], runs: Mapping[str, FinishedRun]
) -> list[Drawing]:
    """Drawings of the copulas of runs over training: dependence, and densities.

    Args:
        histories: For each run its history and the position of the epoch whose weights were kept.
        runs: The runs by the same names.

    Returns:
        The drawings; none if no run has a copula.
    """
    fitted = {name: history for name, (history, _) in histories.items() if "tau" in history}
    over_epochs = draw_dependence(fitted, key="dependence")
    if over_epochs is None:
        return []
    said = "Dependence over epochs: Kendall's tau of the copula, and the correlation of the vectors that it joins."
    drawings = [Drawing("dependence", over_epochs, said, size="wide")]
    for i, (name, history) in enumerate(fitted.items()):
        best = int(history["epoch"].iloc[histories[name][1]])
        epochs = sorted({int(history["epoch"].iloc[0]), (best + 1) // 2, best})
        copulas = copulas_of_epochs(history, runs[name].record["spec"]["resolved"]["family"], epochs)
        if copulas:
            said = f"{name}: the pair copula with the mean Kendall's tau of an epoch, with normal margins."
            densities = draw_copula_densities(copulas, key=f"densities-{i}")
            drawings.append(Drawing(f"densities-{i}", densities, said, size="wide"))
    return drawings


def draw_copula_densities(copulas: Mapping[str, Copula], *, key: str) -> Markup:
    """Contours of the density of two variables with standard normal margins, joined by each copula.

    Normal margins show what uniform ones hide in the corners: which tail holds together. Of a copula of more margins or
    with one parameter for each of several coordinates, pass a `margin` of two with one parameter.

    Args:
        copulas: By title, e.g. the family's name or an epoch.
        key: Begins the ids.

    Returns:
        The figure, one panel a copula.

    Raises:
        ShapeError: If a copula has more than two margins.
    """
    columns = min(4, max(1, len(copulas)))
    rows = -(-len(copulas) // columns)
    with drawing(150 * columns + 20, 165 * rows) as figure:
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
        for axes in panels[len(copulas) :]:
            axes.set_visible(False)
        for axes, (title, copula) in zip(panels, copulas.items()):
            _contours(axes, copula)
            axes.set_title(short(title), color=INK)
        said = ", ".join(f"{title} (Kendall's tau {_tau(copula):.2f})" for title, copula in copulas.items())
        return inline_svg(figure, key, f"Contours of copula densities with normal margins: {said}.")


def draw_dependence(histories: Mapping[str, pd.DataFrame], *, key: str) -> Markup | None:
    """The copula's Kendall's tau and the correlation of the vectors themselves over the epochs.

    A tau that climbs while the vectors' correlation does not is a fit that has lost its data.

    Args:
        histories: For each run its history, with the columns of CM2's `monitor`.
        key: Begins the ids.

    Returns:
        The figure; None if no history has a copula.
    """
    shown = {name: history for name, history in histories.items() if "tau" in history}
    if not shown:
        return None
    with drawing(560, 210) as figure:
        left, right = figure.subplots(1, 2)
        for colour, (name, history) in zip(COLOURS * len(shown), shown.items()):
            for axes, column in ((left, "tau"), (right, "latent_correlation")):
                values = history[["epoch", column]].dropna()
                axes.plot(values["epoch"], values[column], color=colour, label=short(name))
        for axes, title in ((left, "Kendall's tau of the copula"), (right, "correlation of the vectors")):
            axes.axhline(0, color=RULE, linewidth=0.8)
            axes.grid(axis="y")
            axes.set_title(title, color=INK)
            axes.set_xlabel("epoch")
        if len(shown) > 1:
            right.legend(handlelength=1.6, labelspacing=0.25)
        last = ", ".join(f"{name} {history['tau'].dropna().iloc[-1]:.2f}" for name, history in shown.items())
        return inline_svg(figure, key, f"Dependence over epochs; Kendall's tau at the end: {last}.")


def draw_sweep(
    numbers: Sequence[int], intervals: Sequence[Interval], metric: Metric, *, key: str, label: str
) -> Markup:
    """A metric over a number of the model, e.g. components of the mixtures, with its intervals.

    Args:
        numbers: The numbers tried.
        intervals: The metric at each.
        metric: The metric.
        key: Begins the ids.
        label: What the numbers count.

    Returns:
        The figure.
    """
    with drawing(320, 220) as figure:
        axes = figure.subplots()
        middle = np.array([interval.estimate for interval in intervals])
        ends = np.array([[interval.low, interval.high] for interval in intervals]).T
        axes.grid(axis="y")
        axes.errorbar(numbers, middle, yerr=np.abs(ends - middle), color=COLOURS[0], marker="o", capsize=3)
        axes.set_xticks(list(numbers))
        axes.set_xlabel(label)
        axes.set_ylabel(metric.name)
        said = ", ".join(f"{n}: {value:.3f}" for n, value in zip(numbers, middle))
        return inline_svg(figure, key, f"{metric.name} by {label}: {said}.")


def copulas_of_epochs(history: pd.DataFrame, family: str, epochs: Sequence[int]) -> dict[str, Copula]:
    """The pair copula with the mean Kendall's tau that a history has at some epochs.

    Args:
        history: With the columns "epoch" and "tau".
        family: The family's name.
        epochs: Which; those the history lacks are left out.

    Returns:
        For each epoch its copula, by title; what has no tau in the family's range is left out too.
    """
    from amodal.distributions.copula import copula_family
    from amodal.errors import ConfigurationError

    found: dict[str, Copula] = {}
    for epoch in epochs:
        for tau in history.loc[history["epoch"] == epoch, "tau"].dropna():
            try:
                found[f"epoch {epoch}"] = copula_family(family).from_kendall_tau(float(tau), 2)
            except ConfigurationError:
                continue
    return found


def _contours(axes: Axes, copula: Copula) -> None:
    import torch

    from amodal.distributions.normal import normal_log_tails

    grid = torch.linspace(-_REACH, _REACH, 57, dtype=torch.float64)
    scores = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)  # (57, 57, 2)
    with torch.no_grad():
        log_density = copula.log_density_from_logs(*normal_log_tails(scores)) - (scores**2).sum(-1) / 2
    density = (log_density.exp() / (2 * np.pi)).numpy()
    axes.axhline(0, color=RULE, linewidth=0.8)
    axes.axvline(0, color=RULE, linewidth=0.8)
    axes.contour(grid.numpy(), grid.numpy(), density, levels=_LEVELS, colors=COLOURS[0], linewidths=1.1)
    axes.set_aspect("equal")
    axes.set_xticks([-2, 0, 2])
    axes.set_yticks([-2, 0, 2])
    axes.tick_params(colors=MUTED)


def _tau(copula: Copula) -> float:
    tau = copula.kendall_tau().detach()
    return float(tau[0, 1] if tau.ndim == 2 else tau)
