"""Workbooks as people keep them: titles, hidden sheets and rows, merged cells, names that come again, damage."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amodal.data.table import Prepared, prepare
from amodal.errors import AmodalError

openpyxl = pytest.importorskip("openpyxl")
N = 12


def fill(sheet: Any, sign: int = 1) -> None:
    sheet.append(["id", "y", "x"])
    for i in range(N):
        sheet.append([f"p{i}", "ab"[i % 2], sign * i])


def made(folder: Path, change: Callable[[Any], object]) -> Prepared:
    """Prepares a workbook with one sheet of cases that was changed."""
    book = openpyxl.Workbook()
    change(book)
    book.save(folder / "m.xlsx")
    schema = {"id": "id", "task": {"kind": "binary", "column": "y", "classes": ["a", "b"]},
              "split": {"fractions": {"train": 0.5, "test": 0.5}, "stratify": False},
              "modalities": {"t": {"kind": "tabular", "columns": {"x": {}}}}}  # fmt: skip
    return prepare(folder / "m.xlsx", schema, folder / "out", overwrite=True)


def hidden_sheet(book: Any) -> None:
    fill(book.active, -1)
    book.active.sheet_state = "hidden"
    fill(book.create_sheet("Cases"))
    book.active = 1


def hidden_rows(book: Any) -> None:
    fill(book.active)
    book.active.row_dimensions[4].hidden = book.active.row_dimensions[7].hidden = True


def merged_below(book: Any) -> None:
    fill(book.active)
    book.active.merge_cells("E1:F1")  # in one row: nothing is lost
    book.active.merge_cells("C14:C15")


def names_again(book: Any) -> None:
    fill(book.active)
    book.active.append(["id", "y", "x"])


def beyond(book: Any) -> None:
    fill(book.active)
    for i in range(N):
        book.active.cell(i + 2, 4, "a remark")


SAID = [
    ("the first sheet is hidden", hidden_sheet, "the first of 2 sheets, 'Cases', is read"),
    ("rows are hidden", hidden_rows, "2 hidden rows, as a filter leaves them, are read like all others"),
    ("cells are merged", merged_below, "cells are merged over rows (C14:C15): the first has the value"),
    ("names that come again", names_again, "1 rows are the names of the columns again, and left out"),
    ("cells beyond the last name", beyond, "the first line has 3 names of columns, most others have 4 filled cells"),
]


@pytest.mark.parametrize(("name", "change", "said"), SAID, ids=[case[0] for case in SAID])
def test_what_a_sheet_hides_is_said(name: str, change: Callable, said: str, tmp_path: Path):
    prepared = made(tmp_path, change)
    assert said in "\n".join(prepared.problems.taken)
    assert prepared.cohort.batch(np.arange(N)).values["t"][:, 0].tolist() == list(range(N))


def title(book: Any) -> None:
    book.active.append(["Export of 2026"])
    fill(book.active)


def merged_title(book: Any) -> None:
    book.active.append(["Patient", None, "Laboratory"])
    book.active.merge_cells("A1:B1")
    fill(book.active)


REFUSED = [
    ("a title", title, ("'id', which m.xlsx does not have", "a title above the names must go")),
    ("a merged title", merged_title, ("a column without a name: column 2", "a title above the names must go")),
    ("nothing", lambda book: None, ("is empty",)),
]


@pytest.mark.parametrize(("name", "change", "words"), REFUSED, ids=[case[0] for case in REFUSED])
def test_sheets_that_are_refused(name: str, change: Callable, words: tuple[str, ...], tmp_path: Path):
    with pytest.raises(AmodalError) as caught:
        made(tmp_path, change)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def test_damaged_workbooks_are_refused(tmp_path: Path):
    made(tmp_path, lambda book: fill(book.active))
    path = tmp_path / "m.xlsx"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for content in (b"<worksheet><sheetData><row", b"", b"\0" * 100):
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, content if "sheet1" in name else part)
        with pytest.raises(AmodalError, match=r"(cannot be read as an Excel workbook|is empty)"):
            prepare(path, {"task": {"kind": "binary", "column": "y", "classes": ["a", "b"]},
                           "modalities": {"t": {"kind": "tabular", "columns": ["x"]}}}, tmp_path / "out2")  # fmt: skip
