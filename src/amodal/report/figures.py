"""The drawings of a report; each takes plain arrays and returns an inline SVG."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from amodal.metrics import Interval, Metric
from amodal.report.svg import COLOURS, INK, MARKERS, MUTED, PAPER, RULE, Mark, clean, drawing, inline_svg, short
from amodal.report.words import format_value, percent, plain_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "GROUP_MARKS",
    "Series",
    "draw_curves",
    "draw_decision_curves",
    "draw_forest",
    "draw_heat",
    "draw_history",
    "draw_presence",
    "draw_reliability",
    "draw_risks",
    "mark_id",
    "save_presence",
]


def mark_id(name: str) -> str:
    """The id, in an SVG, of what is drawn under a name."""
    return "drawn-" + re.sub(r"[^A-Za-z0-9-]", lambda sign: "_" if sign[0] == "_" else f"_{ord(sign[0]):x}_", name)


GROUP_MARKS = tuple(Mark(colour, marker) for colour, marker in zip(COLOURS, MARKERS))
"""How the groups of a reliability panel look, in order."""

_ON_DARK, _ON_PALE = "#fefefe", "#10202e"  # in cells, whose colours are the same on a light and a dark page
_ROW = 19  # CSS pixels of one row of a figure that lists things


@dataclass(frozen=True)
class Series:
    """Values with intervals under one name, for curves and dots.

    Args:
        name: Of a method.
        mark: How it looks.
        intervals: One for each position.
    """

    name: str
    mark: Mark
    intervals: Sequence[Interval]

    def column(self, part: str) -> NDArray[np.float64]:
        """The estimates, lows or highs."""
        return np.array([getattr(interval, part) for interval in self.intervals], dtype=float)


def draw_presence(patterns: NDArray[np.bool_], counts: Sequence[int], names: Sequence[str], *, key: str) -> Markup:
    """Patterns of presence: a row a pattern, with its dots and the number of cases that have it.

    Args:
        patterns: Bool, of shape (P, M).
        counts: Cases of each pattern (P,).
        names: Names of the M modalities.
        key: Begins the ids.

    Returns:
        The figure.
    """
    with drawing(*_presence_size(patterns, names)) as figure:
        _fill_presence(figure, patterns, counts, names)
        shares = ", ".join(f"{_words(names, pattern)}: {n}" for pattern, n in list(zip(patterns, counts))[:6])
        return inline_svg(
            figure, key, f"{len(patterns)} presence patterns and the number of cases with each. {shares}."
        )


def save_presence(
    patterns: NDArray[np.bool_], counts: Sequence[int], names: Sequence[str], path: Path, form: Literal["svg", "png"]
) -> None:
    """The picture of `draw_presence` as a file of its own, on white.

    Args:
        patterns: Bool, of shape (P, M).
        counts: Cases of each pattern (P,).
        names: Names of the M modalities.
        path: The file.
        form: "svg" or "png".
    """
    with drawing(*_presence_size(patterns, names)) as figure:
        _fill_presence(figure, patterns, counts, names)
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) if form == "svg" else None
        figure.savefig(path, format=form, dpi=192, facecolor="white", metadata=metadata)


def _presence_size(patterns: NDArray[np.bool_], names: Sequence[str]) -> tuple[float, float]:
    return 440, 62 + 17 * len(patterns) + 6 * max(len(short(name)) for name in names)


def _fill_presence(figure: Figure, patterns: NDArray[np.bool_], counts: Sequence[int], names: Sequence[str]) -> None:
    n_patterns, n_names = patterns.shape
    total = max(sum(counts), 1)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[max(n_names, 3), 9])
    _dots(left, patterns, names)
    _names_on_top(left)
    right.barh(np.arange(n_patterns), counts, height=0.62, color=COLOURS[0])
    for row, count in enumerate(counts):
        right.annotate(
            f"{count:,}  ({percent(count / total, 0)})",
            (count, row),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
    right.set_xlim(0, max(counts, default=1) * 1.38 or 1)
    right.set_xlabel("cases")
    right.tick_params(axis="y", length=0)
    right.spines["left"].set_visible(False)


def draw_forest(
    rows: Sequence[Series], label: str, *, key: str, zero: bool = False, alt: str, titles: Sequence[str] = ("",)
) -> Markup:
    """Methods one below the other, each a point with its interval; one panel for each position of the series.

    Args:
        rows: One series a method, all of the same length.
        label: Name of the value's axis.
        key: Begins the ids.
        zero: Whether the values are differences, and zero is drawn.
        alt: For a person who cannot see it.
        titles: One for each panel.

    Returns:
        The figure.
    """
    n_panels = len(titles)
    with drawing(440, 62 + _ROW * 1.35 * len(rows) + (34 if any(titles) else 0)) as figure:
        panels = figure.subplots(1, n_panels, sharey=True, sharex=True, squeeze=False)[0]
        figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr]
        for i, (axes, title) in enumerate(zip(panels, titles)):
            axes.grid(axis="x")
            if zero:
                axes.axvline(0, color=MUTED, linewidth=1.2)
            for y, row in enumerate(rows):
                _interval(axes, f"{row.name} {i}" if i else row.name, row.intervals[i], y, row.mark)
            axes.set_title("\n".join(wrap(clean(title, 40), 18)) if n_panels > 1 else title, color=INK)
            axes.set_xlabel(label if i == 0 else "")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        _name_rows(panels[0], [row.name for row in rows])
        return inline_svg(figure, key, alt)


def draw_heat(
    patterns: NDArray[np.bool_],
    names: Sequence[str],
    series: Sequence[Series],
    metric: Metric,
    *,
    key: str,
    alt: str,
) -> Markup:
    """A value under each pattern: a row a pattern, its modalities as dots, and beside them a cell for each method.

    Args:
        patterns: Bool, of shape (P, M), in the order of the rows.
        names: Names of the M modalities.
        series: One for each method, with P intervals.
        metric: What the values are; better is darker, and the best of a row is bold.
        key: Begins the ids.
        alt: For a person who cannot see it.

    Returns:
        The figure.
    """
    from matplotlib.patches import Rectangle

    n_patterns, n_names = patterns.shape
    values = np.stack([one.column("estimate") for one in series], axis=1)  # (P, methods)
    sign = 1 if metric.higher_is_better else -1
    widths = np.stack([one.column("high") - one.column("low") for one in series], axis=1)
    shade = _shades(sign * values, float(np.nanmedian(widths)) if not np.isnan(widths).all() else 0.0)
    longest = max(len(short(name)) for name in (*names, *(one.name for one in series)))
    with drawing(500, 26 + 25 * n_patterns + 5.2 * longest) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[max(n_names, 3), 2.2 * len(series)])
        _dots(left, patterns, names)
        colours = _ramp(shade)
        for row, column in np.ndindex(values.shape):
            right.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colours[row, column], linewidth=0))
            value = float(values[row, column])
            best = not np.isnan(value) and sign * value >= np.nanmax(sign * values[row])
            right.text(
                column,
                row,
                _cell(value, metric),
                ha="center",
                va="center",
                fontweight="bold" if best else "normal",
                color=_ON_DARK if shade[row, column] > 0.55 else _ON_PALE,
            )
        right.set_xticks(range(len(series)), [short(one.name) for one in series])
        right.set_xlim(-0.5, len(series) - 0.5)
        for axes in (left, right):
            _names_on_top(axes)
            for spine in axes.spines.values():
                spine.set_visible(False)
        for row in np.flatnonzero(np.diff(patterns.sum(1))):
            right.axhline(row + 0.5, color=PAPER, linewidth=3)
        right.vlines(np.arange(len(series) - 1) + 0.5, -0.5, n_patterns - 0.5, color=PAPER, linewidth=1.5)
        left.set_ylim(n_patterns - 0.5, -0.5)
        return inline_svg(figure, key, alt)


def draw_curves(
    x: Sequence[float],
    series: Sequence[Series],
    x_label: str,
    label: str,
    *,
    key: str,
    alt: str,
    whole: bool = False,
    width: int = 440,
) -> Markup:
    """A value over a number, one line a method, with the intervals as bands (as bars over whole numbers).

    Args:
        x: Positions.
        series: One for each method, with an interval for each position.
        x_label: Name of the horizontal axis.
        label: Name of the value's axis.
        key: Begins the ids.
        alt: For a person who cannot see it.
        whole: Whether positions are whole numbers.
        width: In CSS pixels.

    Returns:
        The figure.
    """
    with drawing(width, 270) as figure:
        axes = figure.subplots()
        axes.grid(axis="y")
        positions = np.asarray(x, dtype=float)
        shifts = np.linspace(-0.12, 0.12, len(series)) if whole and len(series) > 1 else np.zeros(len(series))
        for shift, one in zip(shifts, series):
            middle, low, high = (one.column(part) for part in ("estimate", "low", "high"))
            style: dict[str, Any] = {"color": one.mark.colour, "linestyle": one.mark.line}
            axes.plot(positions + shift, middle, marker=one.mark.marker, gid=mark_id(one.name), **style)
            if whole:
                axes.vlines(positions + shift, low, high, color=one.mark.colour, linewidth=1.1)
            else:
                axes.fill_between(positions, low, high, color=one.mark.colour, alpha=0.11, linewidth=0)
        if whole:
            axes.set_xticks(positions)
        axes.set_xlabel(x_label)
        axes.set_ylabel(label)
        return inline_svg(figure, key, alt)


def draw_reliability(
    curves: Mapping[str, tuple[Mark, tuple[NDArray[np.float64], NDArray[np.float64]]]],
    *,
    key: str,
    alt: str,
    title: str,
    labels: tuple[str, str],
    diagonal: tuple[float, float] = (0.0, 1.0),
) -> Markup:
    """Stated against realised, one line a group of cases; on the diagonal what is said comes true.

    Args:
        curves: Mark, and stated and realised values bin by bin, by the name of the group.
        key: Begins the ids.
        alt: For a person who cannot see it.
        title: Above the panel.
        labels: Of the two axes.
        diagonal: Smallest and largest value.

    Returns:
        The figure.
    """
    with drawing(290, 300) as figure:
        axes = figure.subplots()
        axes.plot(diagonal, diagonal, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for name, (mark, (stated, realised)) in curves.items():
            known = ~np.isnan(stated)
            axes.plot(
                stated[known],
                realised[known],
                color=mark.colour,
                marker=mark.marker,
                markersize=4.5,
                linewidth=1.5,
                gid=mark_id(name),
            )
        margin = 0.02 * (diagonal[1] - diagonal[0])
        axes.set_xlim(diagonal[0] - margin, diagonal[1] + margin)
        axes.set_ylim(diagonal[0] - margin, diagonal[1] + margin)
        axes.set_aspect("equal")
        axes.set_title(title, color=INK)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.grid()
        return inline_svg(figure, key, alt)


def draw_risks(
    edges: NDArray[np.float64], counts: Mapping[str, NDArray[np.int64]], *, key: str, title: str, alt: str
) -> Markup:
    """Predicted risks by outcome: a panel an outcome, one above the other on the same axis.

    Args:
        edges: Edges of the bins, of shape (B + 1,).
        counts: Cases in each bin, (B,), by outcome.
        key: Begins the ids.
        title: Above the panels.
        alt: For a person who cannot see it.

    Returns:
        The figure.
    """
    with drawing(440, 210) as figure:
        panels = figure.subplots(len(counts), 1, sharex=True, squeeze=False)[:, 0]
        for i, (axes, (name, values)) in enumerate(zip(panels, counts.items())):
            axes.bar(edges[:-1], values, width=np.diff(edges), align="edge", color=COLOURS[i])
            axes.set_gid(mark_id(name))
            axes.set_ylabel(name)
            axes.set_xlim(edges[0], edges[-1])
        panels[0].set_title(title, color=INK)
        panels[-1].set_xlabel("predicted risk")
        return inline_svg(figure, key, alt)


def draw_decision_curves(
    thresholds: NDArray[np.float64],
    series: Sequence[Series],
    everyone: NDArray[np.float64],
    *,
    top: float,
    key: str,
    alt: str,
) -> Markup:
    """Net benefit over the risk from which one acts, one line a method, beside acting on everyone and on nobody.

    Args:
        thresholds: Of shape (T,).
        series: One for each method, with an interval for each threshold; the first has its band drawn.
        everyone: Net benefit of acting on everyone, (T,).
        top: Largest net benefit to show.
        key: Begins the ids.
        alt: For a person who cannot see it.

    Returns:
        The figure.
    """
    with drawing(440, 270) as figure:
        axes = figure.subplots()
        axes.grid(axis="y")
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.plot(thresholds, everyone, color=MUTED, linestyle=(0, (4, 3)), gid=mark_id("everyone"))
        for one in series:
            middle, low, high = (one.column(part) for part in ("estimate", "low", "high"))
            axes.plot(thresholds, middle, color=one.mark.colour, linestyle=one.mark.line, gid=mark_id(one.name))
            if one is series[0]:
                axes.fill_between(thresholds, low, high, color=one.mark.colour, alpha=0.12, linewidth=0)
        axes.set_ylim(-0.2 * top, 1.15 * top)
        axes.set_xlabel("act from this risk on")
        axes.set_ylabel("net benefit")
        return inline_svg(figure, key, alt)


def draw_history(
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], best: int, *, key: str, title: str
) -> Markup:
    """Losses over the epochs of one run, and the epoch whose weights were kept.

    Args:
        curves: Epochs and losses, by name ("training", "validation").
        best: The epoch kept, counted as the epochs are.
        key: Begins the ids.
        title: Above the panel.

    Returns:
        The figure.
    """
    looks = {"training": (MUTED, ":"), "validation": (COLOURS[0], "-")}
    with drawing(290, 200) as figure:
        axes = figure.subplots()
        axes.grid(axis="y")
        axes.axvline(best, color=RULE, linewidth=4)
        for name, (epochs, losses) in curves.items():
            colour, line = looks.get(name, (COLOURS[1], "-"))
            axes.plot(epochs, losses, color=colour, linestyle=line, label=name)
        lowest = [losses[epochs == best] for epochs, losses in curves.values()]
        for values in lowest[-1:]:
            axes.plot([best] * len(values), values, "o", color=COLOURS[0], markeredgecolor=PAPER)
        axes.set_title(title, color=INK)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.legend(loc="upper right", handlelength=1.6, labelspacing=0.25)
        return inline_svg(
            figure, key, f"{title}: {' and '.join(curves)} loss by epoch; the weights of epoch {best} are kept."
        )


# Parts -----------------------------------------------------------------------------------------------------------


def _dots(axes: Axes, patterns: NDArray[np.bool_], names: Sequence[str]) -> None:
    """A matrix of dots, filled where present."""
    n_patterns, n_names = patterns.shape
    x, y = np.meshgrid(np.arange(n_names), np.arange(n_patterns))
    axes.scatter(x[~patterns], y[~patterns], s=34, facecolor=PAPER, edgecolor=MUTED, linewidth=0.8)
    axes.scatter(x[patterns], y[patterns], s=34, color=INK)
    axes.set_xticks(range(n_names), [short(plain_name(name)) for name in names])
    axes.set_yticks([])
    axes.set_xlim(-0.6, n_names - 0.4)
    axes.set_ylim(n_patterns - 0.4, -0.6)
    axes.tick_params(axis="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _names_on_top(axes: Axes) -> None:
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", labelrotation=50, labeltop=True, labelbottom=False)
    axes.tick_params(axis="both", length=0)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("left")
        label.set_rotation_mode("anchor")


def _shades(values: NDArray[np.float64], noise: float = 0.0) -> NDArray[np.float64]:
    """Values from the lowest to the highest as [0, 1]; NaN stays.

    Differences smaller than the usual width of an interval do not span the whole range, so that noise looks like noise.
    """
    known = values[~np.isnan(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    spare = max(0.0, noise - (high - low)) / 2
    return (values - low + spare) / ((high - low + 2 * spare) or 1.0)


def _ramp(shade: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shades in [0, 1] as colours from pale to dark blue, even to the eye; transparent where NaN."""
    stops = np.array([[0.925, 0.953, 0.976], [0.53, 0.73, 0.88], [0.13, 0.47, 0.71], [0.03, 0.24, 0.43]])
    known = np.nan_to_num(shade)
    colours = np.stack([np.interp(known, np.linspace(0, 1, len(stops)), stops[:, i]) for i in range(3)], axis=-1)
    return np.concatenate([colours, ~np.isnan(shade)[..., None]], axis=-1)


def _cell(value: float, metric: Metric) -> str:
    """A number as a cell has room for: two decimals where there are bounds."""
    if np.isnan(value):
        return "–"
    return f"{value:.2f}" if np.isfinite(metric.bounds[1]) else format_value(value, metric)


def _interval(
    axes: Axes, name: str, interval: Interval, y: float, mark: Mark, *, size: float = 6.5, width: float = 1.8
) -> None:
    if np.isnan(interval.estimate):
        return
    if not np.isnan(interval.low):
        axes.plot([interval.low, interval.high], [y, y], color=mark.colour, linewidth=width, solid_capstyle="round")
    face = PAPER if mark.dashed else mark.colour
    axes.plot(
        [interval.estimate],
        [y],
        mark.marker,
        color=mark.colour,
        markerfacecolor=face,
        markersize=size,
        zorder=3,
        gid=mark_id(name),
    )


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    for label in axes.get_yticklabels():
        label.set_color(INK)


def _words(names: Sequence[str], pattern: NDArray[np.bool_]) -> str:
    return " and ".join(plain_name(name) for name, present in zip(names, pattern) if present) or "nothing"
