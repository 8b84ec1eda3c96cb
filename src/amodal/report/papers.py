"""One page, paper against ours: published numbers beside those found here, claimed differences, verdicts, cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from amodal.benchmark import Results
from amodal.metrics.intervals import Difference, Interval
from amodal.report.page import fill_page, write_text
from amodal.report.parts import Section, Table, render
from amodal.report.published import PrintedValue, judge_difference, judge_value, printed_values, remarks_on
from amodal.report.words import duration

__all__ = ["Block", "Exhibit", "paper_page", "write_paper_page"]

RULES = (
    "A value agrees if the paper's interval (printed, or plus and minus two standard deviations over its runs) and "
    "ours (95 %, test cases and seeds resampled together) overlap. A claimed difference agrees if the interval of our "
    "paired difference lies on its side of zero. Verdicts need the paper's data: on made data, or before a run, "
    "nothing can be told about a paper."
)


@dataclass(frozen=True)
class Block:
    """One setting of a table: a cohort, a task, a pairing.

    Args:
        title: Its name.
        cohort: The cohort as the published results name it.
        task: The task as they name it.
        setting: The setting as they name it; "" takes all.
        metrics: Metrics, as this library names them.
        methods: For each published method the name of the runs here; None: not in this version.
        results: What was found; None: not run.
        data: "real", "made" or "": not run, which needs credentials.
        note: What to say about it.
        condition: What the test cases have: "test", or a pattern of presence, as `Results.summary` names it.
    """

    title: str
    cohort: str
    task: str
    setting: str
    metrics: Sequence[str]
    methods: dict[str, str | None]
    results: Results | None = None
    data: str = ""
    note: str = ""
    condition: str = "test"


@dataclass(frozen=True)
class Exhibit:
    """A table or figure of a paper.

    Args:
        paper: "cepa", "cm2" or "primo".
        source: "table 1", …
        title: Its title.
        blocks: Its settings.
        favourite: The paper's own method, with which the others are compared.
    """

    paper: str
    source: str
    title: str
    blocks: Sequence[Block]
    favourite: str


def paper_page(exhibits: Sequence[Exhibit]) -> str:
    """The page of some tables and figures: HTML that needs nothing beside itself."""
    sections = [
        Section(f"{e.paper}-{e.source.replace(' ', '-')}", f"{e.paper.upper()}, {e.source}: {e.title}", _exhibit(e))
        for e in exhibits
    ]
    kicker = f"amodal · paper against ours · {len(exhibits)} tables and figures"
    return fill_page("Paper against ours", kicker, sections)


def write_paper_page(exhibits: Sequence[Exhibit], path: str | Path) -> Path:
    """Writes the page, complete or not at all.

    Raises:
        RunError: If it cannot be written.
    """
    return write_text(path, paper_page(exhibits))


def _exhibit(exhibit: Exhibit) -> Markup:
    parts = [_block(exhibit, block) for block in exhibit.blocks]
    values = {"intro": RULES, "parts": parts, "remarks": remarks_on(exhibit.paper, exhibit.source)}
    return render("papers.html", values)


def _block(exhibit: Exhibit, block: Block) -> dict[str, object]:
    printed = printed_values(exhibit.paper, exhibit.source, cohort=block.cohort, task=block.task, setting=block.setting)
    by_method = {(one.method, one.metric): one for one in printed}
    names = list(dict.fromkeys([*block.methods, *(one.method for one in printed)]))
    rows = []
    for name in names:
        for metric in block.metrics:
            one = by_method.get((name, metric), PrintedValue(name, metric, math.nan, math.nan, math.nan))
            rows.append([name, metric, str(one), *_ours(block, name, metric, one)])
    head = ["method", "metric", "paper", "ours", "verdict"]
    found = {"": "Not run: needs credentials.", "made": "Run on made data.", "real": "Run on the paper's data."}
    cost = "" if block.results is None else f" Trained in {duration(_seconds(block.results))}."
    return {
        "title": block.title,
        "note": " ".join(part for part in (found[block.data] + cost, block.note) if part),
        "table": Table(head, rows),
        "differences": _differences(exhibit, block, by_method),
    }


def _ours(block: Block, name: str, metric: str, printed: PrintedValue) -> tuple[str, str]:
    ours = block.methods.get(name)
    if ours is None:
        return (
            ("not in this version", "cannot be told") if name in block.methods else ("not asked for", "cannot be told")
        )
    if block.results is None:
        return "needs credentials", "cannot be told"
    if ours not in block.results.names:
        failed = [one for one in block.results.failed if one.cell.stem.startswith(ours)]
        return (f"failed: {failed[0].message[:80]}" if failed else "not run"), "cannot be told"
    interval = block.results.summary(ours, metric, (block.condition,)).interval
    verdict = judge_value(printed, interval.low, interval.high, same_data=block.data == "real")
    return _shown(interval, ".3f"), verdict


def _shown(found: Interval | Difference, form: str) -> str:
    """An estimate with its interval, or why there is none."""
    if found.estimate != found.estimate:
        return f"undefined: {found.reason or 'too few test cases'}"
    return f"{found.estimate:{form}} ({found.low:{form}} to {found.high:{form}})"


def _differences(exhibit: Exhibit, block: Block, printed: dict[tuple[str, str], PrintedValue]) -> Table | None:
    """The paper's own method less each rival, as printed and as found, paired."""
    best = block.methods.get(exhibit.favourite)
    if block.results is None or best is None or best not in block.results.names:
        return None
    rows = []
    for name, ours in block.methods.items():
        if ours is None or ours == best or ours not in block.results.names:
            continue
        for metric in block.metrics:
            pair = [printed.get((which, metric)) for which in (exhibit.favourite, name)]
            claimed = float("nan") if None in pair else pair[0].value - pair[1].value  # type: ignore[union-attr]
            found = block.results.difference(best, ours, metric, (block.condition,)).difference
            verdict = judge_difference(claimed, found.low, found.high, same_data=block.data == "real")
            shown = "not given" if claimed != claimed else f"{claimed:+.3f}"
            rows.append([f"{exhibit.favourite} less {name}", metric, shown, _shown(found, "+.3f"), verdict])
    return Table(["difference", "metric", "paper", "ours, paired", "verdict"], rows) if rows else None


def _seconds(results: Results) -> float:
    return sum(float(run.record.get("result", {}).get("seconds", 0.0)) for run in results.runs)
