"""Parts of a section: tables, figures with their numbers, and their HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from amodal.report import words

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["Drawing", "Section", "Table", "render", "section"]


@dataclass(frozen=True)
class Table:
    """A table of text; the first column names the rows.

    Args:
        head: Names of the columns.
        rows: As many cells as the head has; a cell is a text, or two of which the second goes beneath the first.
        caption: What it shows.
        strong: Positions of rows to set off.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | tuple[str, str]]]
    caption: str = ""
    strong: Sequence[int] = ()


@dataclass(frozen=True)
class Drawing:
    """A figure with what it says and its numbers.

    Args:
        key: Its id on the page.
        svg: The figure, from `figures`.
        caption: What it shows.
        table: The numbers in it.
        size: "half" beside another one, "third", or "wide".
    """

    key: str
    svg: Markup
    caption: str
    table: Table | None = None
    size: str = "half"


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        key: Its id.
        title: Its heading.
        body: HTML, from `render`.
        folded: Whether it is opened by whoever needs it.
    """

    key: str
    title: str
    body: Markup
    folded: bool = False


def render(template: str, values: Mapping[str, Any]) -> Markup:
    """Fills a template of this package; every value that is not Markup is escaped.

    Args:
        template: Name of the file.
        values: By name.

    Returns:
        HTML.
    """
    return Markup(_environment().get_template(template).render(**values))


def section(key: str, title: str, *, folded: bool = False, **values: object) -> Section:
    """A section from its template, `<key>.html`."""
    return Section(key, title, render(f"{key}.html", values), folded)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("amodal.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "value": words.format_value,
        "interval": words.format_interval,
        "difference": words.format_difference,
        "joined": words.join_words,
        "duration": words.duration,
        "name": words.plain_name,
        "plural": words.plural,
    }
    return environment
