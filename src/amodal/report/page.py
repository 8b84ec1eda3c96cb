"""A report as one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from amodal.errors import ConfigurationError, RunError
from amodal.files import replace_file
from amodal.report.parts import Section, render
from amodal.report.sections import SECTIONS, Builder
from amodal.report.subject import Subject
from amodal.report.words import counted
from amodal.versions import versions

__all__ = ["fill_page", "make_page", "write_page", "write_text"]


def make_page(subject: Subject, builders: Sequence[Builder] = SECTIONS) -> str:
    """Makes a page: HTML that needs nothing beside itself.

    Args:
        subject: What it is about.
        builders: The sections' functions, in order; those that return None are left out.

    Returns:
        The page.

    Raises:
        ConfigurationError: If the results are of more than one setting.
    """
    settings = subject.results.settings
    if len(settings) > 1:
        raise ConfigurationError(
            "a report compares runs of one setting",
            got="; ".join(settings),
            hint="Take one: results.of_setting(…), or make a page for each.",
        )
    sections = [made for made in (build(subject) for build in builders) if made is not None]
    run = subject.first
    methods, cases = counted(len(subject.results.names), "method"), counted(len(run.ids), "test case")
    kicker = f"amodal report · {run.experiment.cohort} · {methods} · {cases}"
    return fill_page(subject.title, kicker, sections)


def write_page(subject: Subject, path: str | Path, builders: Sequence[Builder] = SECTIONS) -> Path:
    """Writes the page of `make_page`, complete or not at all.

    Args:
        subject: What it is about.
        path: File to write.
        builders: The sections' functions.

    Returns:
        The path.

    Raises:
        RunError: If it cannot be written.
    """
    return write_text(path, make_page(subject, builders))


def write_text(path: str | Path, text: str) -> Path:
    """Writes a page, complete or not at all, and the folder that it lies in.

    Raises:
        RunError: If it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def fill_page(title: str, kicker: str, sections: Sequence[Section]) -> str:
    """A page of sections: HTML that needs nothing beside itself.

    Args:
        title: Its title.
        kicker: The line above it.
        sections: What it shows, in order.
    """
    files = resources.files("amodal.report") / "templates"
    style = Markup(files.joinpath("style.css").read_text(encoding="utf-8"))
    values = {"title": title, "kicker": kicker, "sections": sections, "style": style}
    return str(render("page.html", values | {"version": versions().get("amodal", "")}))
