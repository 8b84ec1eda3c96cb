"""Notes with markup: HTML is counted or taken away, RTF is refused, in cells and in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from amodal.data.table import Prepared, Problems, open_cases, open_table, prepare
from amodal.data.table.markup import has_html, without_html
from amodal.errors import AmodalError

N = 12
MARKED = "n: text with HTML tags, read as it stands (`markup: html` takes them away)"


def made(folder: Path, notes: list[str], files: bool = False, **change: Any) -> Prepared:
    filled = [*notes, *["plain words"] * (N - len(notes))]
    for i, note in enumerate(filled if files else []):
        (folder / f"{i}.txt").write_text(note)
        filled[i] = f"{i}.txt"
    frame = pd.DataFrame({"id": [f"p{i}" for i in range(N)], "y": ["a", "b"] * (N // 2), "n": filled})
    frame.to_csv(folder / "m.csv", index=False)
    schema = {"id": "id", "task": {"kind": "binary", "column": "y", "classes": ["a", "b"]},
              "split": {"fractions": {"train": 0.5, "test": 0.5}, "stratify": False},
              "modalities": {"n": {"kind": "text", "column": "n", "files": files, **change}}}  # fmt: skip
    return prepare(folder / "m.csv", schema, folder / "out", overwrite=True)


def texts(prepared: Prepared, n: int) -> list[str]:
    values = prepared.cohort.batch(np.arange(n)).values["n"]
    return [bytes(row.tolist()).rstrip(b"\0").decode() for row in values]


STRIPPED = [
    ("<p>Dyspnoe&nbsp;seit 3&nbsp;d</p>", "Dyspnoe seit 3 d"),
    ("<html><head><style>p {color: red}</style></head><body>CRP &lt; 5<br/>K&lt;Na</body></html>", "CRP < 5\nK<Na"),
    ("<table><tr><td>Na</td><td>140</td></tr><tr><td>K</td><td>4,1</td></tr></table>", "Na 140\nK 4,1"),
    ("<!-- of the editor --><b>M&uuml;de</b>, <I CLASS='x'>blass</I>", "Müde, blass"),
    ("p<0.05, RR<120 and a<br", "p<0.05, RR<120 and a<br"),
    ("<script>if (a < b) {}</script>done", "done"),
]


@pytest.mark.parametrize(("text", "plain"), STRIPPED)
def test_only_tags_go(text: str, plain: str):
    assert without_html(text) == plain
    assert without_html(plain) == plain


def test_what_is_no_html():
    for text in ("<5 mg", "K<Na", "a<b>c", "R&D", "x < y > z", "<unclear>", "5 <i"):
        assert not has_html(text), text


@pytest.mark.parametrize("files", [False, True])
def test_tags_are_counted_or_taken_away(files: bool, tmp_path: Path):
    notes = ["<p>CRP&nbsp;&lt;&nbsp;5</p>", "<div>hot<br>dry</div>"]
    as_it_stands = made(tmp_path, notes, files)
    assert as_it_stands.problems.counts == {MARKED: 2}
    assert texts(as_it_stands, 1) == notes[:1]
    stripped = made(tmp_path, notes, files, markup="html")
    assert not stripped.problems.counts
    assert texts(stripped, 2) == ["CRP < 5", "hot\ndry"]


def test_notes_of_tags_alone_are_counted(tmp_path: Path):
    prepared = made(tmp_path, ["x", "<p> </p>"], markup="html")
    assert prepared.problems.counts == {"n: HTML without a word, left out": 1}
    assert prepared.cohort.observed[:2, 0].tolist() == [True, False]
    assert not any(prepared.problems.balance().values())
    with pytest.raises(AmodalError, match=r"'1.txt' in row p1.*the file holds no text"):
        made(tmp_path, ["x", "<p> </p>"], files=True, markup="html")


def test_several_notes_of_a_cell_are_parted_after_their_tags_went(tmp_path: Path):
    prepared = made(tmp_path, ["<p style='a;b'>one</p>;two&nbsp;"], separator=";", markup="html")
    assert texts(prepared, 1)[0].split("\x1e") == ["one", "two"]


def test_rtf_is_refused_and_noted_of_new_cases(tmp_path: Path):
    with pytest.raises(AmodalError, match=r"n: the text is an RTF document: '{\\\\rtf1 note}' in row p1"):
        made(tmp_path, ["x", "{\\rtf1 note}"])
    record = made(tmp_path, ["x"]).cohort.source
    (tmp_path / "new.csv").write_text("id,n\nq0,{\\rtf1 note}\nq1,<b>x</b>\n")
    problems = Problems(strict=False, by_row=True)
    with open_cases(open_table(tmp_path / "new.csv"), record, root=tmp_path, problems=problems) as cohort:
        assert cohort.observed[:, 0].tolist() == [False, True]
    assert problems.rows == {"q0": ["n: the text is an RTF document: '{\\\\rtf1 note}', left out"], "q1": [MARKED]}


def test_broken_letters_are_counted(tmp_path: Path):
    prepared = made(tmp_path, ["MÃ¼de", "M\ufffdde", "Müde", "Ãngstlich"])
    assert prepared.problems.counts == {"n: letters that a conversion has broken, read as they stand": 2}
