"""CSV files as they come: titles, repeated names, other encodings, quotes, damage."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from amodal.data.table import Prepared, prepare
from amodal.data.table.check import check
from amodal.errors import AmodalError

N = 12
ROWS = "id,y,x\n" + "".join(f"p{i},{'ab'[i % 2]},{i}\n" for i in range(N))
NOTES = 'id,y,x,n\n' + "".join(f'p{i},{"ab"[i % 2]},{i},"a, \\"b\\" {i}"\n' for i in range(N))  # fmt: skip
PLAIN = {"t": {"kind": "tabular", "columns": {"x": {}}}}


def made(folder: Path, content: str | bytes, name: str = "m.csv", modalities: Any = PLAIN, **top: Any) -> Prepared:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    schema = {"id": "id", "task": {"kind": "binary", "column": "y", "classes": ["a", "b"]},
              "split": {"fractions": {"train": 0.5, "test": 0.5}, "stratify": False}, "modalities": modalities,
              **top}  # fmt: skip
    return prepare(folder / name, schema, folder / "out", overwrite=True)


class Case(NamedTuple):
    """A file, the schema's top, and what is said of it, or the words of the error."""

    name: str
    content: str | bytes
    words: tuple[str, ...] = ()
    top: dict[str, Any] = {}  # noqa: RUF012
    file: str = "m.csv"


READ = [
    Case("names that come again", ROWS.replace("p6,", "id,y,x\np6,") + "id , y,x\n",
         ("2 rows are the names of the columns again, and left out",)),
    Case("the same row with other blanks", ROWS + "p3 ,b,3.0\n", ("the same row again, left out",),
         {"duplicates": "drop"}),
    Case("empty lines above the names", "\n\r\n" + ROWS),
    Case("old line ends", ROWS.replace("\n", "\r")),
    Case("UTF-16 without its mark", ROWS.encode("utf-16-le"), (), {"encoding": "utf-16-le"}),
    Case("UTF-16, high byte first", b"\xfe\xff" + ROWS.encode("utf-16-be")),
    Case("two packed files in one", gzip.compress(ROWS[:40].encode()) + gzip.compress(ROWS[40:].encode()), (), {},
         "m.csv.gz"),
]  # fmt: skip
SHORTENED = ROWS.replace("p1,", "1.23457E+11,")
SAID = [
    Case("ids that a spreadsheet has shortened", SHORTENED, ("'1.23457E+11' is a number as spreadsheets shorten it",)),
    Case("quotes with a backslash", NOTES, ("quotes within texts are written as \\\"",)),
    Case("true among numbers", ROWS.replace("p1,b,1", "p1,b,TRUE"), ("true and false are taken as the numbers 1 and",)),
]  # fmt: skip
REFUSED = [
    Case("a title above the names", "# exported in 2026\n" + ROWS,
         ("'id', which m.csv does not have", "the first line has 1 names", "a title above the names must go")),
    Case("a title with separators", "Export,,\n" + ROWS, ("a column without a name: column 2", "a title above")),
    Case("an index without a name", "".join(f",{line}\n" for line in ROWS.splitlines()),
         ("a column without a name: column 1",)),
    Case("zeros", ROWS.replace("p7", "p\0007"), ("bytes of zero, first in line 9",)),
    Case("UTF-16 without its mark, unsaid", ROWS.encode("utf-16-le"), ("bytes of zero", "UTF-16 without its mark")),
    Case("UTF-32", ROWS.encode("utf-32"), ("bytes of zero",)),
    Case("another encoding than stated", ROWS.replace("p1", "pü").encode("cp1252"),
         ("neither UTF-8 nor utf-16", "encoding: cp1252"), {"encoding": "utf-16"}),
    Case("rows of one id that differ", ROWS + "p3,b,4\n",
         ("more than once: p3", "'3' and '4' in 'x' of p3", "`group`")),
    Case("ids that are the same word", ROWS.replace("p1,", "1,").replace("p2,", "1.0,"), ("more than once: 1",)),
    Case("a quote before a number", ROWS.replace("p3,b,3", 'p3,b,"3').replace("p6,a,6", 'p6,a,6"'),
         ("not a number: '3\\np4,a,4", "a quote before it not closed")),
    Case("a quote after a number", ROWS.replace("p5,b,5", 'p5,b,5"'), ("A quote that stands alone",)),
    Case("ids that are words for an empty cell", ROWS.replace("p3,", "n/a,"), ("a word for an empty cell, in 1 rows",)),
    Case("no rows", "id,y,x\n", ("m.csv has no rows",)),
    Case("nothing", " \n\n", ("is empty", "the names of the columns")),
    Case("truncated", gzip.compress(ROWS.encode())[:50], ("cannot be read", "truncated"), {}, "m.csv.gz"),
    Case("not packed", ROWS, ("cannot be read",), {}, "m.csv.gz"),
]  # fmt: skip


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_every_value_is_there(case: Case, tmp_path: Path):
    prepared = made(tmp_path, case.content, case.file, **case.top)
    assert prepared.cohort.batch(np.arange(N)).values["t"][:, 0].tolist() == list(range(N))
    for word in case.words:
        assert word in prepared.problems.describe() + "\n".join(prepared.problems.taken)
    assert not any(prepared.problems.balance().values())


@pytest.mark.parametrize("case", SAID, ids=lambda case: case.name)
def test_what_is_odd_is_said(case: Case, tmp_path: Path):
    assert case.words[0] in "\n".join(made(tmp_path, case.content).problems.taken)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_files_that_are_refused(case: Case, tmp_path: Path):
    with pytest.raises(AmodalError) as caught:
        made(tmp_path, case.content, case.file, **case.top)
    for word in case.words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def test_quotes_with_a_backslash_are_read(tmp_path: Path):
    prepared = made(tmp_path, NOTES, modalities={**PLAIN, "n": {"kind": "text", "column": "n"}})
    note = bytes(prepared.cohort.batch(np.arange(1)).values["n"][0].tolist()).rstrip(b"\0").decode()
    assert note == 'a, "b" 0'


def test_notes_of_any_length_beside_a_separator_at_the_end_of_every_line(tmp_path: Path):
    long = "word " * 40_000
    text = "id,y,x,n,\n" + "".join(f"p{i},{'ab'[i % 2]},{i},{long if i == 1 else 'w'},\n" for i in range(N))
    prepared = made(tmp_path, text, modalities={**PLAIN, "n": {"kind": "text", "column": "n", "longest": 300_000}})
    assert len(bytes(prepared.cohort.batch(np.arange(2)).values["n"][1].tolist())) == len(long.strip())


LABS = {**PLAIN, "l": {"kind": "tabular", "file": "l.csv", "id": "id", "columns": ["k"]}}
SECOND = [
    ("no rows", "id,k\n", ("modalities.l: not one measured cell in 'k'", "may_be_empty: true")),
    ("nothing", "", ("l.csv is empty",)),
    ("a title", "Laboratory\n" + ROWS.replace("x", "k"), ("'k', which l.csv does not have", "a title above the names")),
    ("shortened ids", "id,k\n" + "1.23457E+11,5\n" * N, ("no id of l.csv", "as spreadsheets shorten it")),
]


@pytest.mark.parametrize(("name", "content", "words"), SECOND, ids=[case[0] for case in SECOND])
def test_second_tables_that_are_refused(name: str, content: str, words: tuple[str, ...], tmp_path: Path):
    (tmp_path / "l.csv").write_text(content)
    with pytest.raises(AmodalError) as caught:
        made(tmp_path, ROWS, modalities=LABS)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def test_a_check_says_what_differs_and_what_is_above_the_names(tmp_path: Path):
    schema = {"id": "id", "task": {"kind": "binary", "column": "y", "classes": ["a", "b"]}, "modalities": PLAIN}
    (tmp_path / "m.csv").write_text(ROWS + "p3,b,4\n")
    assert "'3' and '4' in 'x' of p3" in check(tmp_path / "m.csv", schema).describe()
    (tmp_path / "m.csv").write_text("Export\n" + ROWS)
    with pytest.raises(AmodalError, match="a title above the names must go"):
        check(tmp_path / "m.csv", schema)


def test_variables_that_are_nearly_the_same_are_said(tmp_path: Path):
    rows = "".join(f"p{i},1,{'HR' if i % 2 else 'HR [bpm]'},{60 + i}\n" for i in range(N))
    (tmp_path / "e.csv").write_text("id,t,v,x\n" + rows)
    events = {"kind": "events", "file": "e.csv", "id": "id", "time": "t", "variable": "v", "value": "x", "stop": 4,
              "step": 1}  # fmt: skip
    taken = "\n".join(made(tmp_path, ROWS, modalities={"s": events}).problems.taken)
    assert "e.csv: 'HR' and 'HR [bpm]' are taken as two variables" in taken
