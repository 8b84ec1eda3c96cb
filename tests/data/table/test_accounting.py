"""Whatever the tables hold: every cell and row is measured, empty or counted, and the file's form does not matter."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from amodal.data.table import Problems, open_cases, open_table, prepare
from amodal.errors import DataError

N = 12
TASK = {"kind": "binary", "column": "y", "classes": ["a", "b"]}
SPLIT = {"fractions": {"train": 0.5, "test": 0.5}, "stratify": False}
EVERYTHING = {"unmatched": 1, "outside_window": 1, "no_origin": 1, "half_time": 1, "out_of_range": 1}
SCHEMA = {
    "id": "id", "task": TASK, "split": SPLIT, "missing": ["", "-"], "censored": "missing",
    "modalities": {
        "t": {"kind": "tabular", "accept": EVERYTHING, "columns": {
            "x": {"min": 0, "max": 90, "may_be_empty": True},
            "c": {"type": "category", "categories": ["u", "v"], "may_be_empty": True},
            "d": {"type": "date", "format": ["%d.%m.%Y"], "since": "came", "since_format": ["%d.%m.%Y"],
                  "may_be_empty": True},
            "s": {"type": "duration", "units": "hours", "may_be_empty": True},
        }},
        "l": {"kind": "tabular", "file": "l.csv", "id": "id", "accept": EVERYTHING,
              "columns": {"k": {"may_be_empty": True}}},
        "e": {"kind": "events", "file": "e.csv", "id": "id", "time": ["t", "h"], "variable": "v", "value": "x",
              "stop": 4, "step": 1, "since": "came", "format": ["%d.%m.%Y %H:%M"], "since_format": ["%d.%m.%Y"],
              "units_column": "w",
              "accept": EVERYTHING, "decimal": ".",
              "variables": {"A": {"units": "m", "min": 0, "max": 90, "may_be_empty": True},
                            "B": {"may_be_empty": True, "aggregate": "sum"}}},
        "i": {"kind": "image", "column": "f", "size": 4, "missing_file": "absent", "unreadable_file": "absent"},
        "n": {"kind": "text", "column": "n", "markup": "html"},
    },
}  # fmt: skip
# Cells that a preparation takes, and cells that it refuses but a prediction takes note of.
TAKEN = {
    "x": ["1", "2.5", "", "-", "<5", ">70", "99", "80"], "c": ["u", "v ", "", "-"],
    "f": ["0.png", "", "no.png", "bad.png"],
    "d": ["2026-01-05", "04.01.2026", "", "-"], "came": ["2026-01-01", "02.01.2026", ""],
    "n": ["note", "", "-", "<p></p>", "<p>a</p>"],
    "s": ["3 h", "2 d", "", "5"], "k": ["1", "", "<3"], "id": [*(f"p{i}" for i in range(N)), "p1 ", "q1", "", "p2.0"],
    "t": ["2026-01-01", "01.01.2026", "", "2027-01-01"], "h": ["01:00", "02:30", ""],
    "v": ["A", "B", "C", ""], "w": ["m", "", "M"],
}  # fmt: skip
REFUSED = {
    "x": ["old", "1-2", "5 mg", "1,234", "inf"], "c": ["w", "U"], "d": ["soon", "13.13.2026", "2026-01-05T00:00Z"],
    "s": ["5 m", "x"], "k": ["y"], "t": ["soon"], "w": ["kg"], "f": ["../../x.png"], "came": ["soon"],
    "n": ["{\\rtf1 a}"], "h": [],
    "v": [], "id": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def images() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(Path(name) / "0.png")
        (Path(name) / "bad.png").write_bytes(b"no image")
        yield Path(name)


def cells(names: list[str], n: int, kinds: dict[str, list[str]]) -> st.SearchStrategy[dict[str, list[str]]]:
    """Columns of n cells each."""
    columns = {k: st.lists(st.sampled_from(kinds[k]), min_size=n, max_size=n) for k in names}
    return st.fixed_dictionaries(columns)


def files(folder: Path, manifest: dict, labs: dict, events: dict) -> None:
    pd.DataFrame({"id": [f"p{i}" for i in range(N)], "y": ["a", "b"] * (N // 2)} | manifest).to_csv(
        folder / "m.csv", index=False
    )
    labs = {"id": [f"p{i}" for i in range(6)] + ["p1", "q1", ""], "k": [*labs["k"], labs["k"][1], "5", "7"]}
    pd.DataFrame(labs).to_csv(folder / "l.csv", index=False)
    pd.DataFrame(events).to_csv(folder / "e.csv", index=False)


def tables(kinds: dict[str, list[str]]) -> st.SearchStrategy[tuple[dict, dict, dict]]:
    return st.tuples(
        cells(["x", "c", "d", "came", "s", "f", "n"], N, kinds),
        cells(["k"], 6, kinds),
        cells(["id", "t", "h", "v", "x", "w"], 20, kinds),
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=tables(TAKEN))
def test_nothing_is_lost_without_a_count_when_a_cohort_is_prepared(images: Path, made: tuple[dict, dict, dict]):
    for name, cell in {"id": "p0", "t": "2026-01-01", "h": "01:00", "v": "A", "x": "1"}.items():
        made[2][name][0] = cell
    made[0]["came"][0], made[0]["f"][0], made[0]["n"][0] = "2026-01-01", "0.png", "note"
    files(images, *made)
    prepared = prepare(images / "m.csv", SCHEMA, images / "out", overwrite=True)
    problems = prepared.problems
    assert not any(problems.balance().values()), problems.balance()
    assert problems.cells["rows of m.csv"] == {"in": N, "measured": N, "empty": 0, "lost": 0}
    assert problems.cells["e: rows of e.csv"]["in"] == 20
    assert problems.cells["l: rows of l.csv"]["in"] == 9
    assert (
        problems.cells["t.x"]["in"]
        == problems.cells["i: cells of f"]["in"]
        == problems.cells["n: cells of n"]["in"]
        == N
    )
    assert cells_of(prepared.cohort, "t").sum(0)[0] == problems.cells["t.x"]["measured"]
    assert cells_of(prepared.cohort, "l").sum() == problems.cells["l.k"]["measured"]
    log = pd.read_csv(images / "out" / "preparation.csv") if problems.counts else pd.DataFrame({"count": []})
    assert log["count"].sum() == sum(problems.counts.values()), "every one stands in the log with its id"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=tables({name: [*TAKEN[name], *REFUSED[name]] for name in TAKEN}))
def test_nothing_is_lost_without_a_note_when_new_cases_are_read(images: Path, made: tuple[dict, dict, dict]):
    files(images, *made)
    problems = Problems(strict=False, by_row=True)
    record = {"table": SCHEMA}
    try:
        with open_cases(open_table(images / "m.csv"), record, root=images, problems=problems) as cohort:
            assert len(cohort) == N
    except DataError:  # one id, two rows that say different things
        return
    assert not any(problems.balance().values()), problems.balance()


def cells_of(cohort: Any, name: str) -> np.ndarray:
    """Measured cells of a table, bool (N, D)."""
    batch = cohort.batch(np.arange(len(cohort)))
    measured = batch.measured.get(name)
    every = np.ones(batch.values[name].shape, bool) if measured is None else measured.numpy()
    return every & batch.observed[name].numpy()[:, None]


# The form of a file --------------------------------------------------------------------------------------------------

FRAMES = st.fixed_dictionaries({
    "a": st.lists(st.one_of(st.none(), st.integers(-99999, 99999).map(lambda k: k / 100)), min_size=N, max_size=N),
    "k": st.lists(st.one_of(st.none(), st.integers(1_600_000_000, 1_600_000_500)), min_size=N, max_size=N),
    "c": st.lists(st.sampled_from(["ä", "b c", "Œ", None]), min_size=N, max_size=N),
    "b": st.lists(st.booleans(), min_size=N, max_size=N),
    "d": st.lists(st.one_of(st.none(), st.datetimes(pd.Timestamp("1950-01-01"), pd.Timestamp("2049-01-01"))),
                  min_size=N, max_size=N),
})  # fmt: skip


def forms(folder: Path, frame: pd.DataFrame) -> list[Path]:
    """The same table in every form."""
    german = frame.assign(d=frame.d.dt.strftime("%d.%m.%Y %H:%M:%S"))
    words = frame.astype({"k": "string", "a": "string"}).assign(d=frame.d.dt.strftime("%Y-%m-%d %H:%M:%S"))
    paths = [folder / name for name in ("a.csv", "b.csv.gz", "c.csv", "d.csv", "e.parquet", "f.parquet", "g.xlsx")]
    frame.to_csv(paths[0], index=False)
    frame.to_csv(paths[1], index=False)
    german.to_csv(paths[2], index=False, sep=";", decimal=",", encoding="utf-8-sig")
    german.to_csv(paths[3], index=False, sep="\t", encoding="utf-16")
    frame.to_parquet(paths[4])
    words.to_parquet(paths[5])
    frame.to_excel(paths[6], index=False)
    return paths


@settings(max_examples=6, deadline=None)
@given(columns=FRAMES)
def test_the_form_of_a_file_does_not_matter(columns: dict[str, list]):
    columns["a"][0], columns["k"][0], columns["c"][0], columns["d"][0] = 0.5, 1_600_000_000, "b c", pd.Timestamp(0)
    frame = pd.DataFrame({
        "id": [f"{i:03d}" for i in range(N)], "y": ["a", "b"] * (N // 2), "a": columns["a"],
        "k": pd.array(columns["k"], dtype="Int64"), "c": columns["c"], "b": columns["b"],
        "d": pd.to_datetime(pd.Series(columns["d"])).dt.floor("s"),
    })  # fmt: skip
    schema = {"id": "id", "task": TASK, "split": SPLIT, "modalities": {"t": {"kind": "tabular", "columns": {
        "a": {}, "k": {}, "c": {"type": "category"}, "b": {"type": "category"}, "d": {"type": "date"}}}}}  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        made = [prepare(path, schema, Path(name) / f"out{i}").cohort for i, path in enumerate(forms(Path(name), frame))]
        first = made[0].batch(np.arange(N))
        for cohort in made[1:]:
            assert cohort.ids.tolist() == made[0].ids.tolist()
            assert cohort.schema == made[0].schema
            np.testing.assert_array_equal(cells_of(cohort, "t"), cells_of(made[0], "t"))
            np.testing.assert_array_equal(cohort.batch(np.arange(N)).values["t"], first.values["t"])
