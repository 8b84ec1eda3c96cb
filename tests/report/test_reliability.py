"""The calibration figure says what it draws: read back from the SVG."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from amodal.recalibration import Recalibration
from amodal.report import figures
from amodal.report.figures import GROUP_MARKS, draw_reliability, mark_id
from amodal.report.reliability import calibration
from amodal.report.subject import Subject


def drawn(svg: str, key: str) -> dict[str, str]:
    """The colour of each curve, by the id it was drawn under."""
    groups = re.findall(rf'<g id="{key}-(drawn-[^"]+)">(.*?)</g>', svg, flags=re.DOTALL)
    return {name: re.search(r"stroke: ?([^;\"]+)", body)[1].strip() for name, body in groups}  # type: ignore[index]


def test_every_group_keeps_its_mark_whichever_others_are_drawn():
    line = (np.array([0.2, 0.8]), np.array([0.3, 0.7]))
    marks = dict(zip(("1 present", "2 present", "3 present"), GROUP_MARKS))
    whole = drawn(
        draw_reliability({k: (m, line) for k, m in marks.items()}, key="k", alt="", title="", labels=("", "")), "k"
    )
    part = drawn(
        draw_reliability({"3 present": (marks["3 present"], line)}, key="k", alt="", title="", labels=("", "")), "k"
    )
    assert len(set(whole.values())) == 3
    assert part == {mark_id("3 present"): whole[mark_id("3 present")]}


def test_the_legend_has_the_curves_that_are_drawn_and_no_others(
    make_subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
):
    subject, seen = make_subject(), []
    monkeypatch.setattr("amodal.report.reliability._FEWEST", 20)
    plain = figures.draw_reliability

    def watch(curves, **options):
        seen.append({name: mark for name, (mark, _) in curves.items()})
        return plain(curves, **options)

    monkeypatch.setattr(figures, "draw_reliability", watch)
    section = calibration(subject)
    assert section is not None
    used = {name: mark for marks in seen for name, mark in marks.items()}
    assert all(marks[name] == used[name] for marks in seen for name in marks)
    text = str(section.body)
    assert {name for name in ("1 present", "2 present", "3 present", "4 present") if f"{name}</" in text} >= set(used)


def test_the_error_before_recalibration_stands_beside_the_one_after(make_subject: Callable[..., Subject]):
    subject = make_subject()
    plain = calibration(subject)
    assert plain is not None
    assert "before recalibration" not in str(plain.body)
    name, n = subject.results.names[0], len(subject.first.schema.names)
    found = Recalibration((0.25,) * (n + 1), (0.0,) * subject.results.task.n_outputs)
    for run in subject.results.runs_of(name):
        run.record["recalibration"] = found.to_json()
    try:
        body = str(calibration(subject).body)  # type: ignore[union-attr]
    finally:
        for run in subject.results.runs_of(name):
            del run.record["recalibration"]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", body, flags=re.DOTALL)
    cells = {
        re.sub("<[^>]*>", "", row[0]): row[1:]
        for row in (re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, flags=re.DOTALL) for row in rows)
        if row
    }
    assert cells[name] != cells[f"{name}, before recalibration"]
    assert sum("before recalibration" in key for key in cells) == 1
