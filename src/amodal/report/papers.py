"""One page, paper against ours: published numbers beside those found here, claimed differences, verdicts, cost."""

from __future__ import annotations

import base64
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from amodal.benchmark import Results
from amodal.errors import DataError
from amodal.metrics.intervals import Difference, Interval
from amodal.report.page import fill_page, write_text
from amodal.report.parts import Drawing, Section, Table, render
from amodal.report.published import PrintedValue, judge_difference, judge_value, printed_values, remarks_on
from amodal.report.svg import LegendKey
from amodal.report.words import duration, join_words

__all__ = ["Block", "Exhibit", "file_drawing", "file_table", "paper_page", "write_paper_page"]

RULES = (
    "A value agrees if the paper's interval (printed, or plus and minus two standard deviations over its runs) and "
    "ours (95 %, test cases and seeds resampled together) overlap. A claimed difference agrees if the interval of our "
    "paired difference lies on its side of zero. Verdicts need the paper's data: on made data, or before a run, "
    "nothing can be told about a paper."
)
_DATA = {"": "Not run: needs credentials.", "made": "Run on made data.", "real": "Run on the paper's data.",
         "other": "Run on open or generated data, as far as the paper describes them."}  # fmt: skip
_TITLES = {"auroc": "AUROC", "auprc": "AUPRC", "mae": "MAE", "kappa": "kappa", "accuracy": "accuracy"}
_UNTOLD = "cannot be told"


@dataclass(frozen=True)
class Block:
    """One setting of a table: a cohort, a task, a pairing.

    Args:
        title: Its name.
        cohort: The cohort as the published results name it.
        task: The task as they name it.
        setting: The setting as they name it; "" takes all.
        metrics: Metrics, as this library names them.
        methods: For each published method the name of the runs here.
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
    methods: dict[str, str]
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
        drawings: Its figures.
        tables: Further tables.
        legend: What the figures' marks stand for.
        note: What to say about figures and tables.
        data: Of an exhibit without blocks, as in `Block`, or "other".
    """

    paper: str
    source: str
    title: str
    blocks: Sequence[Block]
    favourite: str
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    legend: Sequence[LegendKey] = ()
    note: str = ""
    data: str = ""

    @property
    def key(self) -> str:
        """Its id on the page."""
        return f"{self.paper}-{self.source.replace(' ', '-')}"

    @property
    def name(self) -> str:
        """The paper and the table's or figure's number."""
        return f"{self.paper.upper()}, {self.source}"


class _Cell(NamedTuple):
    """A number of the paper beside ours."""

    paper: tuple[str, str]
    ours: tuple[str, str]
    verdict: str
    reason: str = ""  # why ours is undefined


def paper_page(exhibits: Sequence[Exhibit]) -> str:
    """The page of some tables and figures: HTML that needs nothing beside itself."""
    judged = [[_Judged(exhibit, block) for block in exhibit.blocks] for exhibit in exhibits]
    sections = [
        Section("overview", "Overview", render("papers_overview.html", {"rules": RULES,
                "table": _overview(exhibits, judged)})),
        *(Section(e.key, f"{e.name}: {e.title}", _exhibit(e, blocks)) for e, blocks in zip(exhibits, judged)),
    ]  # fmt: skip
    count = len(exhibits)
    kicker = f"amodal · paper against ours · {count} table{'s' * (count > 1)} and figure{'s' * (count > 1)}"
    return fill_page("Paper against ours", kicker, sections)


def write_paper_page(exhibits: Sequence[Exhibit], path: str | Path) -> Path:
    """Writes the page, complete or not at all.

    Raises:
        RunError: If it cannot be written.
    """
    return write_text(path, paper_page(exhibits))


def file_drawing(path: Path, key: str, caption: str) -> Drawing:
    """A picture that a recipe has written, as part of the page.

    Args:
        path: File ending in .svg or .png.
        key: Its id on the page.
        caption: What it shows.

    Raises:
        DataError: If it is not there.
    """
    kinds = {".svg": "image/svg+xml", ".png": "image/png"}
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"a figure is missing: {path}") from error
    source = f"data:{kinds[path.suffix]};base64,{base64.b64encode(content).decode('ascii')}"
    picture = Markup('<img class="paper" src="{}" alt="{}">').format(Markup(source), caption)
    return Drawing(key, picture, caption, size="wide" if _is_wide(content) else "half")


def _is_wide(content: bytes) -> bool:
    """Whether a picture is much wider than high, from its head."""
    if content.startswith(b"\x89PNG"):
        width, height = (int.from_bytes(content[start : start + 4]) for start in (16, 20))
    else:
        size = re.search(rb'viewBox="0 0 ([\d.]+) ([\d.]+)"', content[:2000])
        width, height = (float(size[1]), float(size[2])) if size else (1, 1)
    return width > 1.6 * height


def file_table(path: Path, caption: str, *, most: int = 60) -> Table:
    """A CSV file that a recipe has written, as a table of text.

    Args:
        path: The file.
        caption: What it shows.
        most: Rows that are shown.

    Raises:
        DataError: If it is not there.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"a table is missing or cannot be read: {path}") from error
    rows = [[_text(value) for value in row] for row in frame.head(most).to_numpy(dtype=object).tolist()]
    left = f" (the first {most} of {len(frame)} rows)" if len(frame) > most else ""
    return Table([str(column) for column in frame.columns], rows, caption + left)


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def _overview(exhibits: Sequence[Exhibit], judged: Sequence[Sequence[_Judged]]) -> Table:
    head = ["", "shows", "runs", "values", "differences", "training time"]
    rows = []
    for exhibit, blocks in zip(exhibits, judged):
        kinds = dict.fromkeys(block.block.data for block in blocks) or {exhibit.data: None}
        runs = {"": "not run", "made": "made data", "real": "the paper's data", "other": "open or generated data"}
        values = [cell.verdict for block in blocks for row in block.values.values() for cell in row]
        gaps = [cell.verdict for block in blocks for row in block.gaps.values() for cell in row]
        seconds = sum(block.seconds for block in blocks)
        name = Markup('<a href="#{}">{}</a>').format(exhibit.key, exhibit.name)
        shown = join_words([runs[kind] for kind in kinds])
        time = duration(seconds) if seconds else ""
        rows.append([name, exhibit.title, shown, _counted(values), _counted(gaps), time])
    return Table(head, rows)


def _counted(verdicts: Sequence[str]) -> tuple[str, str]:
    """How many values were compared, and with which verdicts."""
    if not verdicts:
        return "", ""
    found = Counter(verdicts)
    words = {"agrees": "agree", "does not agree": "do not agree", _UNTOLD: "cannot be told"}
    return str(len(verdicts)), ", ".join(f"{found[key]} {word}" for key, word in words.items() if found[key])


def _exhibit(exhibit: Exhibit, judged: Sequence[_Judged]) -> Markup:
    values = {
        "note": exhibit.note if judged else f"{_DATA[exhibit.data]} {exhibit.note}".strip(),
        "legend": exhibit.legend,
        "drawings": exhibit.drawings,
        "tables": exhibit.tables,
        "parts": [block.shown() for block in judged],
        "remarks": remarks_on(exhibit.paper, exhibit.source),
    }
    return render("papers.html", values)


class _Judged:
    """A block with its verdicts: a row of cells for each method, and for each difference to the paper's own method."""

    def __init__(self, exhibit: Exhibit, block: Block):
        self.exhibit, self.block = exhibit, block
        printed = printed_values(
            exhibit.paper, exhibit.source, cohort=block.cohort, task=block.task, setting=block.setting
        )
        self.printed = {(one.method, one.metric): one for one in printed}
        names = dict.fromkeys([*block.methods, *(one.method for one in printed if one.metric in block.metrics)])
        self.values = {name: [self._value(name, metric) for metric in block.metrics] for name in names}
        self.gaps = self._differences()

    @property
    def seconds(self) -> float:
        """Time that training took."""
        runs = () if self.block.results is None else self.block.results.runs
        return sum(float(run.record.get("result", {}).get("seconds", 0.0)) for run in runs)

    def shown(self) -> dict[str, object]:
        """What the page shows."""
        block = self.block
        cost = "" if block.results is None else f"Trained in {duration(self.seconds)}."
        rows = [*self.values.values(), *self.gaps.values()]
        reasons = dict.fromkeys(cell.reason for row in rows for cell in row if cell.reason)
        return {
            "title": block.title,
            "note": " ".join(part for part in (_DATA[block.data], cost, block.note, *reasons) if part),
            "table": self._table("method", self.values),
            "differences": self._table(f"{self.exhibit.favourite} less", self.gaps) if self.gaps else None,
        }

    def _table(self, first: str, rows: dict[str, list[_Cell]]) -> Table:
        titles = [_TITLES.get(metric, metric) for metric in self.block.metrics]
        head = [first, *(f"{title}, {whose}" for title in titles for whose in ("paper", "ours"))]
        return Table(head, [[name, *(part for cell in row for part in cell[:2])] for name, row in rows.items()])

    def _value(self, name: str, metric: str) -> _Cell:
        printed = self.printed.get((name, metric), PrintedValue(name, metric, math.nan, math.nan, math.nan))
        whole, _, rest = str(printed).partition(" (")
        paper = (whole, rest.removesuffix(")")) if printed.value == printed.value else ("not given", "")
        ours = self._why_not(name)
        if ours is not None:
            return _Cell(paper, (ours, ""), _UNTOLD)
        results, run = self.block.results, self.block.methods[name]
        assert results is not None
        found = results.summary(run, metric, (self.block.condition,)).interval
        verdict = judge_value(printed, found.low, found.high, same_data=self.block.data == "real")
        return _Cell(paper, *self._shown(found, ".3f", verdict))

    def _why_not(self, name: str) -> str | None:
        """Why there is no value of a method; None if there is one."""
        block = self.block
        if name not in block.methods:
            return "not asked for"
        ours = block.methods[name]
        if block.results is None:
            return "needs credentials"
        if ours in block.results.names:
            return None
        failed = [one for one in block.results.failed if one.cell.stem.startswith(ours)]
        return f"failed: {failed[0].message[:80]}" if failed else "not run"

    def _differences(self) -> dict[str, list[_Cell]]:
        """The paper's own method less each rival, as printed and as found, paired."""
        block, best = self.block, self.block.methods.get(self.exhibit.favourite)
        if block.results is None or best is None or best not in block.results.names:
            return {}
        return {
            name: [self._difference(name, best, run, metric) for metric in block.metrics]
            for name, run in block.methods.items()
            if run != best and run in block.results.names
        }

    def _difference(self, name: str, best: str, ours: str, metric: str) -> _Cell:
        assert self.block.results is not None
        pair = [self.printed.get((which, metric)) for which in (self.exhibit.favourite, name)]
        claimed = math.nan if pair[0] is None or pair[1] is None else pair[0].value - pair[1].value
        found = self.block.results.difference(best, ours, metric, (self.block.condition,)).difference
        verdict = judge_difference(claimed, found.low, found.high, same_data=self.block.data == "real")
        paper = ("not given" if claimed != claimed else f"{claimed:+.3f}", "")
        return _Cell(paper, *self._shown(found, "+.3f", verdict))

    def _shown(self, found: Interval | Difference, form: str, verdict: str) -> tuple[tuple[str, str], str, str]:
        """An estimate with its interval and verdict, or why there is none."""
        if found.estimate != found.estimate:
            return ("undefined", ""), _UNTOLD, found.reason or "There are too few test cases."
        ends = f"{found.low:{form}} to {found.high:{form}}" if found.low == found.low else "no interval"
        told = f"{ends}; {verdict}" if self.block.data == "real" else ends
        return (f"{found.estimate:{form}}", told), verdict, ""
