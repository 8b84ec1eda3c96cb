"""Files as people have them: workbooks, broken quotes, notes of other programs, long sounds, names that are near."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.io import wavfile

from amodal.data.table import Prepared, Problems, open_cases, open_table, prepare
from amodal.errors import AmodalError

N = 12
TASK = {"kind": "binary", "column": "y", "classes": ["a", "b"]}
SPLIT = {"fractions": {"train": 0.5, "test": 0.5}, "stratify": False}
COLUMN = {"t": {"kind": "tabular", "columns": {"x": {}}}}
NOTES = {"n": {"kind": "text", "column": "n", "files": True}}


def rows(change: Callable[[int], str] = str, name: str = "x") -> str:
    return f"id,y,{name}\n" + "".join(f"p{i},{'ab'[i % 2]},{change(i)}\n" for i in range(N))


def made(folder: Path, modalities: dict[str, Any], manifest: str = "m.csv", **top: Any) -> Prepared:
    schema = {"id": "id", "task": TASK, "split": SPLIT, "modalities": modalities, **top}
    return prepare(folder / manifest, schema, folder / "out", overwrite=True)


def first(prepared: Prepared, name: str = "t", n: int = 3) -> list:
    return prepared.cohort.batch(np.arange(n)).values[name].tolist()


# Workbooks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def workbook(tmp_path: Path):
    """A workbook with three sheets: words, cases (zeros of ids and per cent by their format) and laboratory."""
    book = pytest.importorskip("openpyxl").Workbook()
    book.active.title = "Info"
    book.active.append(["read me"])
    cases, labs = book.create_sheet("Fälle"), book.create_sheet("Labor")
    cases.append(["id", "y", "x"])
    labs.append(["id", "k"])
    for i in range(N):
        cases.append([i + 1, "ab"[i % 2], i / 20])
        cases.cell(i + 2, 1).number_format, cases.cell(i + 2, 3).number_format = "00000", "0.0%"
        labs.append([f"{i + 1:05d}", 3 + i])
    book.save(tmp_path / "w.xlsx")
    return book


def test_sheets_are_named_and_cells_are_read_as_they_are_shown(tmp_path: Path, workbook: Any):
    labs = {"kind": "tabular", "file": "w.xlsx", "sheet": "Labor", "id": "id", "columns": ["k"]}
    modalities = {"t": {"kind": "tabular", "columns": {"x": {"units": "%"}}}, "l": labs}
    prepared = made(tmp_path, modalities, "w.xlsx", sheet="Fälle")
    assert prepared.cohort.ids[0] == "00001"
    assert first(prepared) == [[0], [5], [10]]
    assert first(prepared, "l") == [[3], [4], [5]]
    with pytest.raises(AmodalError, match=r"no sheet 'Falle'.*'Info', 'Fälle', 'Labor'.*Did you mean 'Fälle'"):
        made(tmp_path, modalities, "w.xlsx", sheet="Falle")
    with pytest.raises(
        AmodalError, match=r"'id', which w.xlsx does not have.*the first of 3 sheets, 'Info'.*`sheet: …`"
    ):
        made(tmp_path, modalities, "w.xlsx")
    source = {"table": {**prepared.cohort.source["table"]}}  # new cases as CSV: there are no sheets, and that is fine
    (tmp_path / "new.csv").write_text("id,x\n7,5 %\n")
    problems = Problems(strict=False, by_row=True)
    with open_cases(open_table(tmp_path / "new.csv", "", "Fälle"), source, root=tmp_path, problems=problems) as cohort:
        assert cohort.batch(np.arange(1)).values["t"].tolist() == [[5]]


def test_numbers_of_a_workbook_have_their_own_decimal_mark(tmp_path: Path):
    book = pytest.importorskip("openpyxl").Workbook()
    book.active.append(["id", "x"])
    for cell in (7.412, "7,412", 12, "12,5"):
        book.active.append([f"n{len(book.active._cells)}", cell])
    book.save(tmp_path / "new.xlsx")
    (tmp_path / "m.csv").write_text(rows(lambda i: f'"7,{400 + i}"' if i else '"12,5"'))
    prepared = made(tmp_path, COLUMN)
    assert "decimal comma" in prepared.problems.taken[0]
    problems = Problems(strict=False, by_row=True)
    table = open_table(tmp_path / "new.xlsx")
    with open_cases(table, prepared.cohort.source, root=tmp_path, problems=problems) as cohort:
        assert np.allclose(cohort.batch(np.arange(4)).values["t"][:, 0], [7.412, 7.412, 12, 12.5])
    assert not problems.counts


def test_formulas_without_a_stored_result_are_refused(tmp_path: Path, workbook: Any):
    workbook["Fälle"]["C5"] = "=1+2"
    workbook.save(tmp_path / "w.xlsx")
    with pytest.raises(
        AmodalError, match=r"the cell C5 of sheet 'Fälle' has a formula without a stored result.*save it"
    ):
        made(tmp_path, COLUMN, "w.xlsx", sheet="Fälle")


# What is read, and what is said -------------------------------------------------------------------------------------

SAID = [
    ("groups that lost zeros", rows(lambda i: ["7", "007"][i % 2], "g"), {"group": "g"}, "'007' and '7'"),
    ("groups with other marks", rows(lambda i: ["MRN-1", "MRN 1"][i % 2], "g"), {"group": "g"}, "nearly the same"),
    ("splits of other names", rows(lambda i: ["train", "val"][i % 2], "g"), {"split": "g"}, "splits are called 'val'"),
    ("categories in two cases", rows(lambda i: ["m", "M"][i % 2], "g"), {}, "'m' and 'M' are taken as two categories"),
    ("a category with broken letters", rows(lambda i: ["MÃ¼de", "wach"][i % 2], "g"), {}, "'MÃ¼de' has letters that"),
    ("a category for nothing", rows(lambda i: ["m", "?"][i % 2], "g"), {}, "'?' is taken as a category"),
]


@pytest.mark.parametrize(("name", "text", "top", "said"), SAID, ids=[case[0] for case in SAID])
def test_what_is_odd_is_said(name: str, text: str, top: dict, said: str, tmp_path: Path):
    (tmp_path / "m.csv").write_text(text)
    prepared = made(tmp_path, {"t": {"kind": "tabular", "columns": {"g": {"type": "category"}}}}, **top)
    assert said in "\n".join(prepared.problems.taken)


def test_words_that_no_category_has_are_counted_where_they_become_another(tmp_path: Path):
    (tmp_path / "m.csv").write_text(rows(lambda i: ["u", "v", "w;u"][i % 3]))
    column = {"type": "category", "categories": ["u"], "other": True}
    counted = "column 'x': none of the categories, taken as (other)"
    assert made(tmp_path, {"t": {"kind": "tabular", "columns": {"x": column}}}).problems.counts == {counted: 8}
    column["separator"] = ";"
    prepared = made(tmp_path, {"t": {"kind": "tabular", "columns": {"x": column}}})
    assert prepared.problems.counts == {counted: 8}
    assert first(prepared) == [[1, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize(("code", "shown"), [("999", "999"), ("-9", "-9"), ("1900-01-01", "1900-01-01")])
def test_codes_among_numbers_are_said(code: str, shown: str, tmp_path: Path):
    kind = {"type": "date"} if "-01" in code else {}
    (tmp_path / "m.csv").write_text(rows(lambda i: code if i % 3 == 0 else f"2024-01-0{i % 9 + 1}" if kind else f"{i}"))
    taken = "\n".join(made(tmp_path, {"t": {"kind": "tabular", "columns": {"x": kind}}}).problems.taken)
    assert f"t.x: {shown} stands in 4 cells, apart from all others" in taken
    (tmp_path / "m.csv").write_text(rows(lambda i: f"{90 + i}"))
    assert "apart from" not in "\n".join(made(tmp_path, COLUMN).problems.taken)


def test_any_number_of_words_is_hashed(tmp_path: Path):
    (tmp_path / "m.csv").write_text(rows(lambda i: f"w{i};w{i % 2}" if i else ""))
    column = {"type": "category", "code": "hash", "buckets": 8, "separator": ";"}
    cohort = made(tmp_path, {"t": {"kind": "tabular", "columns": {"x": column}}}).cohort
    assert cohort.schema["t"].features[0] == "x#0"
    values = cohort.batch(np.arange(N)).values["t"]
    assert cohort.observed[:, 0].tolist() == [False] + [True] * (N - 1)
    assert values[1:].sum(1).tolist() == [2] * (N - 1), "every word counts once"
    assert (values[2] - values[4]).abs().sum() in (0, 2), "the shared word falls into the same bucket"
    assert np.array_equal(values, made(tmp_path, {"t": {"kind": "tabular", "columns": {"x": column}}}).cohort.batch(
        np.arange(N)).values["t"])  # fmt: skip


def test_texts_that_stand_again_and_again_are_said(tmp_path: Path):
    (tmp_path / "m.csv").write_text(rows(lambda i: "k.A." if i % 2 else f"note {i}", "n"))
    taken = "\n".join(made(tmp_path, {"n": {"kind": "text", "column": "n"}}).problems.taken)
    assert "n: 'k.A.' is the text of 6 rows; list it under `missing`" in taken


def test_sounds_are_cut_with_a_count_and_odd_rates_are_refused(tmp_path: Path):
    for i in range(N):
        wavfile.write(tmp_path / f"{i}.wav", 4000, np.ones(4000 if i == 3 else 2000, np.int16))
    (tmp_path / "m.csv").write_text(rows(lambda i: f"{i}.wav", "w"))
    sound = {"x": {"kind": "audio", "column": "w", "rate": 4000, "seconds": 0.5, "bands": 8}}
    counts = made(tmp_path, sound).problems.counts
    assert counts == {"x: sound longer than 0.5 s, its beginning is read (`seconds`)": 1}
    wavfile.write(tmp_path / "3.wav", 999_999_937, np.ones(2000, np.int16))
    with pytest.raises(AmodalError, match=r"'3.wav' in row p3: the sound has 999,999,937 samples a second"):
        made(tmp_path, sound)


# What is refused -----------------------------------------------------------------------------------------------------

NOTE_FILES = [
    ("RTF", b"{\\rtf1\\ansi note}", ("an RTF document", "Save the words as UTF-8")),
    ("PDF", b"%PDF-1.4 note", ("a PDF document",)),
    ("Word", b"PK\x03\x04\x14\x00word", ("a zip archive (.docx, .odt)",)),
    ("old Word", b"\xd0\xcf\x11\xe0note", ("old Word",)),
    ("Windows", "Müde".encode("cp1252"), ("no UTF-8 text: byte 1", "encoding: cp1252")),
    ("nothing", b" \n", ("the file holds no text", "unreadable_file: absent")),
    ("zeros", b"a\0b", ("bytes of zero",)),
]


@pytest.mark.parametrize(("name", "content", "words"), NOTE_FILES, ids=[case[0] for case in NOTE_FILES])
def test_files_of_notes_that_are_none(name: str, content: bytes, words: tuple[str, ...], tmp_path: Path):
    for i in range(N):
        (tmp_path / f"{i}.txt").write_bytes(content if i == 3 else b"note")
    (tmp_path / "m.csv").write_text(rows(lambda i: f"{i}.txt", "n"))
    with pytest.raises(AmodalError) as caught:
        made(tmp_path, NOTES)
    for word in ("'3.txt' in row p3", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(("encoding", "top"), [("cp1252", {"encoding": "cp1252"}), ("utf-16", {}), ("utf-8-sig", {})])
def test_files_of_notes_in_other_encodings(encoding: str, top: dict, tmp_path: Path):
    for i in range(N):
        (tmp_path / f"{i}.txt").write_bytes("Müde".encode(encoding))
    (tmp_path / "m.csv").write_text(rows(lambda i: f"{i}.txt", "n"))
    batch = made(tmp_path, NOTES, **top).cohort.batch(np.arange(1))
    assert bytes(batch.values["n"][0].tolist()).decode() == "Müde"


def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path: Path):
    text = "id,y,x,note\n" + "".join(
        f"p{i},{'ab'[i % 2]},{i},{chr(34) + 'hot' if i == 3 else 'ok' + chr(34) if i == 6 else 'fine'}\n"
        for i in range(N)
    )
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(AmodalError, match=r"a cell of 'note' holds whole rows, such as that of p4.*quote"):
        made(tmp_path, COLUMN)
    (tmp_path / "m.csv").write_text(text.replace("ok" + chr(34), "ok").replace(chr(34) + "hot", '"hot\n1,2,3,4"'))
    assert len(made(tmp_path, COLUMN).cohort) == N, "a note with a table of its own is a note"


RENAMED = [
    ("case", "Age", "'Age', which is nearly 'age'"),
    ("marks", "age ", ""),
    ("units", "CRP [mg/dl]", "'CRP [mg/dl]', which is nearly 'CRP [mg/l]'"),
]


@pytest.mark.parametrize(("name", "column", "words"), RENAMED, ids=[case[0] for case in RENAMED])
def test_columns_of_new_cases_that_only_have_another_spelling(name: str, column: str, words: str, tmp_path: Path):
    (tmp_path / "m.csv").write_text("id,y,age,CRP [mg/l]\n" + "".join(f"p{i},{'ab'[i % 2]},{i},5\n" for i in range(N)))
    modalities = {"t": {"kind": "tabular", "columns": ["age", "CRP [mg/l]"]}}
    record = made(tmp_path, modalities).cohort.source
    problems = Problems(strict=False, by_row=True)
    table = pd.DataFrame({"id": ["n1"], column: ["5"]})
    table.to_csv(tmp_path / "new.csv", index=False)
    if words:
        with pytest.raises(AmodalError, match="nearly") as caught, open_cases(
            open_table(tmp_path / "new.csv"), record, root=tmp_path, problems=problems
        ):  # fmt: skip
            pass
        assert words in str(caught.value)
        return
    with open_cases(open_table(tmp_path / "new.csv"), record, root=tmp_path, problems=problems) as cohort:
        assert cohort.batch(np.arange(1)).values["t"].tolist() == [[5, 0]]
