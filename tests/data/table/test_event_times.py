"""Times of events: a date and its time of day in two columns, dates without a time of day."""

from __future__ import annotations

from datetime import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from amodal.data.table import Prepared, Problems, open_cases, open_table, prepare
from amodal.data.table.guess import guess_schema
from amodal.errors import AmodalError

N = 12
TASK = {"kind": "binary", "column": "y", "classes": ["a", "b"]}
SPLIT = {"fractions": {"train": 0.5, "test": 0.5}, "stratify": False}
EVENTS = {"kind": "events", "file": "e.csv", "id": "id", "time": ["d", "t"], "variable": "v", "value": "x", "stop": 4,
          "step": 1, "since": ["came", "at"]}  # fmt: skip
PLAIN = [("2026-01-01", f"13:{10 + i}") for i in range(N)]


def manifest(at: str = "12:00") -> pd.DataFrame:
    return pd.DataFrame({"id": [f"p{i}" for i in range(N)], "y": ["a", "b"] * (N // 2), "came": "01.01.2026",
                         "at": ["12:00", at, *["12:00"] * (N - 2)]})  # fmt: skip


def made(folder: Path, times: list[tuple[str, str]], change: dict[str, Any], at: str = "12:00") -> Prepared:
    """Prepares events at these days and times of day, the values 60, 61, …; those beyond N are of p0."""
    manifest(at).to_csv(folder / "m.csv", index=False)
    rows = [(f"p{i % N if i < N else 0}", *pair, "HR", 60 + i) for i, pair in enumerate(times)]
    pd.DataFrame(rows, columns=["id", "d", "t", "v", "x"]).to_csv(folder / "e.csv", index=False)
    modalities = {"s": {key: value for key, value in {**EVENTS, **change}.items() if value is not None}}
    schema = {"id": "id", "task": TASK, "split": SPLIT, "modalities": modalities}
    return prepare(folder / "m.csv", schema, folder / "out", overwrite=True)


def hours(prepared: Prepared) -> np.ndarray:
    """The step of the one value of each case."""
    batch = prepared.cohort.batch(np.arange(N))
    assert batch.measured["s"].sum((1, 2)).tolist() == [1] * N
    return batch.measured["s"][:, :, 0].int().argmax(1).numpy()


READ = [
    ("ISO", PLAIN, {}),
    ("German", [("1.1.2026", clock) for _, clock in PLAIN], {}),
    ("with their word", [(day, f"{clock} Uhr") for day, clock in PLAIN], {}),
    ("four digits", [(day, clock.replace(":", "")) for day, clock in PLAIN], {}),
    ("as databases have them", [(f"{day} 00:00:00.000", f"1899-12-30 {clock}:00") for day, clock in PLAIN], {}),
    ("a format, as for one cell", [("01/01/2026", clock) for _, clock in PLAIN], {"format": "%d/%m/%Y %H:%M"}),
    ("half a day", [(day, f"01:{clock[3:]} PM") for day, clock in [("01.01.2026", c) for _, c in PLAIN]],
     {"format": "%d.%m.%Y %I:%M %p"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "times", "change"), READ, ids=[case[0] for case in READ])
def test_dates_and_times_of_day_are_one_moment(name: str, times: list, change: dict, tmp_path: Path):
    prepared = made(tmp_path, times, change)
    assert (hours(prepared) == 1).all(), "an hour and some minutes after noon"
    assert not any(prepared.problems.balance().values())
    assert prepared.cohort.source["table"]["modalities"]["s"]["time"] == ["d", "t"]


@pytest.mark.parametrize("form", ["xlsx", "parquet"])
def test_cells_that_are_times_of_day(form: str, tmp_path: Path):
    made(tmp_path, PLAIN, {})
    frame = pd.read_csv(tmp_path / "e.csv")
    frame["d"], frame["t"] = pd.Timestamp("2026-01-01"), [time(13, 10 + i) for i in range(N)]
    getattr(frame, {"xlsx": "to_excel", "parquet": "to_parquet"}[form])(tmp_path / f"e.{form}", index=False)
    schema = {"id": "id", "task": TASK, "split": SPLIT, "modalities": {"s": {**EVENTS, "file": f"e.{form}"}}}
    assert (hours(prepare(tmp_path / "m.csv", schema, tmp_path / "out", overwrite=True)) == 1).all()


HALF = "a date without a time of day, or the other way round"
REFUSED = [
    ("no time of day", [*PLAIN, ("2026-01-01", "")], {}, "12:00", (HALF, ": p0", "accept: {half_time: 1}")),
    ("no date", [*PLAIN, ("", "13:00")], {}, "12:00", (HALF, ": p0")),
    ("an origin without a time of day", PLAIN, {}, "", ("column 'came' and 'at'", HALF, ": p1")),
    ("more than is accepted", [*PLAIN, *[("", "13:00")] * 3], {"accept": {"half_time": 0.1}}, "12:00",
     ("3 of 15 (20%)", "accept: {half_time: 0.2}")),
    ("an hour that no day has", [*PLAIN, ("2026-01-01", "25:00")], {}, "12:00", ("not a date: '2026-01-01 25:00'",)),
    ("a time of day alone", PLAIN, {"time": "t"}, "12:00", ("not a date: '13:10'", "`time: [date, time]`")),
    ("nothing to count from", PLAIN, {"since": None}, "12:00", ("modalities.s.time", "`since`")),
    ("three columns", PLAIN, {"time": ["d", "t", "x"]}, "12:00", ("[column of dates, column of times of day]",)),
    ("a column that is not there", PLAIN, {"time": ["d", "tt"]}, "12:00", ("'tt'", "Did you mean 't'?")),
    ("day or month", [("01/02/2026", clock) for _, clock in PLAIN], {}, "12:00",
     ("column 'd' and 't' of e.csv: day and month cannot be told apart in '01/02/2026 13:10'",)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "times", "change", "at", "words"), REFUSED, ids=[case[0] for case in REFUSED])
def test_pairs_that_are_refused(name: str, times: list, change: dict, at: str, words: tuple, tmp_path: Path):
    with pytest.raises(AmodalError) as caught:
        made(tmp_path, times, change, at)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def test_half_a_time_is_counted_where_the_schema_accepts_it(tmp_path: Path):
    prepared = made(tmp_path, [*PLAIN, ("", "13:00"), ("", "")], {"accept": {"half_time": 0.2}}, at="")
    counts = prepared.problems.counts
    assert counts[f"column 'd' and 't' of e.csv: {HALF}, left out"] == 1
    assert counts[f"column 'came' and 'at': {HALF}, left out"] == 1
    assert counts["e.csv: no time in 'd' and 't'"] == 1
    assert counts["e.csv: 'came' and 'at' is empty, no date to count times from"] == 1
    assert prepared.cohort.observed[:, 0].tolist() == [True, False, *[True] * (N - 2)]
    assert not any(prepared.problems.balance().values())


def test_new_cases_have_the_same_pairs(tmp_path: Path):
    record = made(tmp_path, PLAIN, {}).cohort.source
    new = tmp_path / "new"
    new.mkdir()
    manifest().head(2).to_csv(new / "n.csv", index=False)
    (new / "e.csv").write_text("id,d,t,v,x\np0,2026-01-01,13:30,HR,80\np1,2026-01-01,,HR,90\n")
    problems = Problems(strict=False, by_row=True)
    with open_cases(open_table(new / "n.csv"), record, root=new, problems=problems) as cohort:
        assert cohort.batch(np.arange(2)).values["s"][:, 1, 0].tolist() == [80, 0]
    assert problems.rows["p1"] == [f"column 'd' and 't' of e.csv: {HALF}, left out"]
    assert not any(problems.balance().values())


def test_dates_without_a_time_of_day_are_said(tmp_path: Path):
    said = "no date in 'd' has a time of day, and all are taken as midnight"
    prepared = made(tmp_path, PLAIN, {"time": "d", "since": "came"})
    assert (hours(prepared) == 0).all()
    assert said in "\n".join(prepared.problems.taken)
    days = made(tmp_path, PLAIN, {"time": "d", "since": "came", "time_units": "days"})
    assert said not in "\n".join(days.problems.taken)


def test_days_of_a_table_are_counted_from_a_date_and_its_time_of_day(tmp_path: Path):
    frame = manifest()
    frame["seen"] = "2026-01-02"
    frame.to_csv(tmp_path / "m.csv", index=False)
    column = {"type": "date", "since": ["came", "at"]}
    schema = {"id": "id", "task": TASK, "split": SPLIT,
              "modalities": {"t": {"kind": "tabular", "columns": {"seen": column}}}}  # fmt: skip
    cohort = prepare(tmp_path / "m.csv", schema, tmp_path / "out").cohort
    assert cohort.batch(np.arange(N)).values["t"][:, 0].tolist() == [0.5] * N
    manifest(at="").assign(seen="2026-01-02").to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(AmodalError, match=f"column 'came' and 'at': {HALF}: p1"):
        prepare(tmp_path / "m.csv", schema, tmp_path / "out", overwrite=True)


def test_a_first_schema_finds_the_pair(tmp_path: Path):
    days = [f"2026-01-{i + 1:02d}" for i in range(N)]
    frame = manifest().assign(age=[40 + 7 * i % 30 for i in range(N)], came=days, at=[f"12:0{i % 6}" for i in range(N)])
    frame.to_csv(tmp_path / "m.csv", index=False)
    rows = [(f"p{i % N}", days[i % N], f"13:{i % 60:02d}", ["HR", "RR"][i % 2], 60 + 7 * i % 13) for i in range(60)]
    pd.DataFrame(rows, columns=["id", "date", "clock", "name", "value"]).to_csv(tmp_path / "e.csv", index=False)
    text = guess_schema(tmp_path / "m.csv", target="y", events=[tmp_path / "e.csv"])
    assert "    time: [date, clock]" in text
    assert "    since: [came, at]" in text
    assert "at: {type" not in text
    (tmp_path / "s.yaml").write_text(text)
    values = prepare(tmp_path / "m.csv", tmp_path / "s.yaml", tmp_path / "out").cohort.batch(np.arange(N))
    assert values.measured["e"].any(2).int().argmax(1).tolist() == [1] * N
