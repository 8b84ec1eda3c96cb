"""Figures as inline SVG: one style, colours that follow the page, ids that never clash."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "GREYS",
    "INK",
    "MARKERS",
    "MUTED",
    "PAPER",
    "RULE",
    "LegendKey",
    "Mark",
    "clean",
    "drawing",
    "inline_svg",
    "legend_key",
    "short",
]

INK, MUTED, RULE, PAPER = "#1d2733", "#596673", "#dfe3e8", "#ffffff"
COLOURS = ("#0068a8", "#c2460b", "#007a5e", "#8b4a9c", "#8a6400", "#b03a6f")
GREYS = ("#3c4650", "#7b8794")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">")
"""Marks for people who do not see the colours: each method has a shape, too."""

_PX = 72.0  # matplotlib's SVG has 72 units an inch; one unit is one CSS pixel of the page
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper"}
_VARIABLES |= {colour: f"--c{i}" for i, colour in enumerate(COLOURS)}
_VARIABLES |= {colour: f"--g{i}" for i, colour in enumerate(GREYS)}


@dataclass(frozen=True)
class Mark:
    """The mark of one method in every figure of a page."""

    colour: str
    marker: str
    dashed: bool = False

    @property
    def line(self) -> str:
        """Its line style: methods that serve as yardsticks are dashed."""
        return "--" if self.dashed else "-"


_SHAPES = {
    "o": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "s": "M-3.5-3.5h7v7h-7z",
    "D": "M0-5 5 0 0 5-5 0z",
    "^": "M0-4.5 4.5 4h-9z",
    "v": "M0 4.5 4.5-4h-9z",
    "P": "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "X": "M-4.5-2.5-2.5-4.5 0-2 2.5-4.5 4.5-2.5 2 0 4.5 2.5 2.5 4.5 0 2-2.5 4.5-4.5 2.5-2 0z",
    "<": "M-4.5 0 4 4.5v-9z",
    ">": "M4.5 0-4 4.5v-9z",
}


@dataclass(frozen=True)
class LegendKey:
    """One entry of a legend.

    Args:
        label: What it stands for.
        colour: The page's CSS variable.
        shape: SVG path of its mark.
        dashed: Whether its line is dashed and its mark hollow.
    """

    label: str
    colour: str
    shape: str
    dashed: bool

    @property
    def svg(self) -> Markup:
        """Its mark on a piece of its line."""
        line = Markup('<path d="M-12 0H12" style="stroke:{}"{}/>').format(
            self.colour, Markup(' stroke-dasharray="4 3"') if self.dashed else ""
        )
        fill = "var(--paper)" if self.dashed else self.colour
        mark = Markup('<path d="{}" style="stroke:{};fill:{}"/>').format(self.shape, self.colour, fill)
        return Markup('<svg class="key" viewBox="-12 -6 24 12" aria-hidden="true">{}{}</svg>').format(line, mark)


def legend_key(label: object, mark: Mark) -> LegendKey:
    """The legend's entry of a mark."""
    line = clean(label)
    line = line if len(line) <= 40 else f"{line[:26].rstrip()}…{line[-13:].lstrip()}"
    return LegendKey(line, f"var({_VARIABLES[mark.colour]})", _SHAPES[mark.marker], mark.dashed)


@contextmanager
def drawing(width: float, height: float, **layout: Any) -> Iterator[Figure]:
    """A figure of so many CSS pixels, in the page's style.

    Names from data are drawn as they are: dollar signs in them do not start a formula.

    Yields:
        A figure without axes; nothing of pyplot's global state is touched.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "amodal",
        "text.parse_math": False,
        "text.usetex": False,
        "font.family": "DejaVu Sans",
        "font.size": 12,
        "text.color": INK,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": MUTED,
        "axes.labelsize": 12,
        "axes.titlesize": 12.5,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "axes.grid": False,
        "grid.color": RULE,
        "grid.linewidth": 0.8,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelsize": 11.5,
        "ytick.labelsize": 11.5,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "legend.frameon": False,
        "legend.fontsize": 11.5,
        "figure.facecolor": "none",
        "lines.linewidth": 1.8,
        "lines.markersize": 5.5,
        "savefig.facecolor": "none",
    }
    with mpl.rc_context(style):  # type: ignore[arg-type]
        yield Figure(figsize=(width / _PX, height / _PX), layout="constrained", **layout)


def inline_svg(figure: Figure, key: str, alt: str) -> Markup:
    """A figure as an SVG element that can stand in a page with others.

    Colours become the page's CSS variables, fonts the page's, ids begin with `key`; nothing depends on the time or on
    the machine, so that the same numbers give the same text.

    Args:
        figure: The figure, inside its `drawing`.
        key: Begins every id; different for each figure of a page.
        alt: What a person who cannot see it should know.

    Returns:
        The element.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's fonts draw it, not matplotlib's
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<([a-z]+[^<>]*)>", lambda tag: _tag(tag[0], key), text)
    head, _, body = text.partition(">")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    assert size is not None
    body = re.sub(r">\s+<", "><", body).strip()
    return Markup(
        f'<svg class="chart" viewBox="0 0 {size[1]} {size[2]}" style="--w:{float(size[1]):.0f}" '
        f'role="img" aria-label="{html.escape(clean(alt))}">{body}'
    )


def clean(text: object, limit: int | None = None) -> str:
    """One line without control characters, shortened to `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if limit is None or len(line) <= limit else line[: limit - 1].rstrip() + "…"


def short(text: object) -> str:
    """A name as long as an axis can bear; of a longer one both ends, in which names differ."""
    line = clean(text)
    return line if len(line) <= 24 else f"{line[:14].rstrip()}…{line[-9:].lstrip()}"


def _tag(tag: str, key: str) -> str:
    """One start tag: ids made unique, colours and fonts the page's, numbers rounded. Text content is not touched."""
    tag = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', tag)
    tag = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", tag)
    tag = re.sub(r'(?:xlink:)?href="#([^"]+)"', rf'href="#{key}-\1"', tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"font: (?:(?:normal|italic) )?(?:(bold|\d{3}) )?([\d.]+)px [^;\"]*", _font, tag)
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight:{match[1]};" if match[1] else ""
    return f"{weight}font-size:{match[2]}px"
