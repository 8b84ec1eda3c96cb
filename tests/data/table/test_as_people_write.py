"""Cells as people write them: what each is read as, or the words in which it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from amodal.data.table import Prepared, prepare
from amodal.errors import AmodalError

N = 12
TASK = {"kind": "binary", "column": "y", "classes": ["a", "b"]}
SPLIT = {"fractions": {"train": 0.5, "test": 0.5}, "stratify": False}
EVENTS = {"kind": "events", "file": "e.csv", "id": "id", "time": "t", "variable": "v", "value": "x", "stop": 4,
          "step": 1}  # fmt: skip


class Read(NamedTuple):
    """Cells of a column x, its schema, the schema's top, the values (None = not measured), and what is said."""

    name: str
    cells: list[str]
    column: dict[str, Any]
    values: list[float | None]
    top: dict[str, Any] = {}  # noqa: RUF012
    said: str = ""


class Refused(NamedTuple):
    """Cells of a column x, its schema, the schema's top, and the words of the error."""

    name: str
    cells: list[str]
    column: dict[str, Any]
    words: tuple[str, ...]
    top: dict[str, Any] = {}  # noqa: RUF012


def _name(value: object) -> str:
    return value if isinstance(value, str) else ""


def table(folder: Path, cells: list[str], column: dict[str, Any], top: dict[str, Any], **more: list[str]) -> Prepared:
    """Prepares a manifest whose column x has these cells, and after them the first one again."""
    filled = [*cells, *[cells[0]] * (N - len(cells))]
    frame = {"id": [f"p{i}" for i in range(N)], "y": ["a", "b"] * (N // 2), "x": filled, **more}
    pd.DataFrame(frame).to_csv(folder / "m.csv", index=False, sep=top.get("sep", ","))
    given = {key: value for key, value in top.items() if key != "sep"}
    schema = {"id": "id", "task": TASK, "split": SPLIT, **given,
              "modalities": {"t": {"kind": "tabular", "columns": {"x": column}}}}  # fmt: skip
    return prepare(folder / "m.csv", schema, folder / "out", overwrite=True)


LIMIT, HALF, GONE = ({"censored": what} for what in ("limit", "half", "missing"))
READ = [
    Read("decimal commas are found", ["1,5", "12,25", "7"], {}, [1.5, 12.25, 7], said="decimal comma ('1,5')"),
    Read("thousands beside decimals", ["1.234,5", "12,5"], {}, [1234.5, 12.5], said="decimal comma"),
    Read("English thousands beside decimals", ["1,234.5", "12.5"], {}, [1234.5, 12.5]),
    Read("several groups of thousands", ["1.234.567", "7"], {}, [1234567, 7]),
    Read("thousands where the schema says so", ["1,234", "7"], {"thousands": ","}, [1234, 7]),
    Read("three decimals where the schema says so", ["1,234", "7"], {"decimal": ","}, [1.234, 7]),
    Read("decimal comma for all tables", ["1,234", "7"], {}, [1.234, 7], {"decimal": ","}),
    Read("three decimals with a point", ["1.234", "0.5"], {}, [1.234, 0.5]),
    Read("blanks in groups", ["12 345,5", "1 000"], {}, [12345.5, 1000]),
    Read("narrow non-breaking blanks", ["12\u202f345", "1\u00a0000"], {}, [12345, 1000]),
    Read("Swiss apostrophes", ["1'234.5", "2’000"], {}, [1234.5, 2000]),
    Read("Unicode minus", ["−3.5", "–2"], {}, [-3.5, -2]),
    Read("plus, no leading digit, no decimals", ["+5", ".5", "5."], {}, [5, 0.5, 5]),
    Read("exponents", ["1e3", "1.5E-2"], {}, [1000, 0.015]),
    Read("full-width digits", ["１２", "3"], {}, [12, 3]),
    Read("both marks, each clear by itself", ["1,5", "2.5"], {}, [1.5, 2.5], said="other decimal mark"),
    Read("limits become themselves", ["<0.5", ">100", "3"], LIMIT, [0.5, 100, 3], said="below a limit, taken"),
    Read("limits become half below", ["<0,5", ">100", "3,5"], HALF, [0.25, 100, 3.5]),
    Read("limits are not measured", ["3", "<0.5", "≤ 1"], GONE, [3, None, None], said="taken as not measured"),
    Read("limits for all tables", ["< 0.5", ">= 7"], {}, [0.5, 7], {"censored": "limit"}),
    Read("units in the cell", ["5.3 mmol/l", "4.1 mmol/L", "4"], {"units": "mmol/l"}, [5.3, 4.1, 4]),
    Read("other units in the cell", ["5 mg/dl", "1 mmol/l"], {"units": "mmol/l",
         "other_units": {"mg/dl": {"scale": 0.5}}}, [2.5, 1]),
    Read("two signs for micro", ["5 µg", "6 μg"], {"units": "µg"}, [5, 6]),
    Read("per cent is a unit", ["45 %", "50%"], {"units": "%"}, [45, 50]),
    Read("flags of a laboratory", ["12.5*", "7 H", "3"], {"flags": ["*", "H"]}, [12.5, 7, 3]),
    Read("marks before a number", ["€ 5,50", "~7", "ca. 8"], {"flags": ["€", "~", "ca."]}, [5.5, 7, 8]),
    Read("units that begin with digits", ["5,2 10^9/l", "6 x 10^9/l", "7"], {"units": "10^9/l",
         "other_units": {"x 10^9/l": {}}}, [5.2, 6, 7]),
    Read("words for numbers beside empty cells", ["neg", "", "2"], {"values": {"neg": "0"}}, [0, None, 2]),
    Read("truth values as Excel writes them", ["TRUE", "FALSE", "1"], {}, [1, 0, 1]),
    Read("whole numbers beyond single precision", ["1600000000", "1600000001", "1600000059"], {},
         [-30, -29, 29], said="is subtracted"),
    Read("a column without a value, if the schema accepts it", ["", "NA"], {"may_be_empty": True}, [None, None]),
    Read("years and months", ["62 y", "18 months", "7.5"], {"type": "duration", "units": "years"}, [62, 1.5, 7.5]),
    Read("days and hours", ["3 d 4 h", "1 Tag", "PT30M"], {"type": "duration", "units": "hours"}, [76, 24, 0.5]),
    Read("ages above a limit", [">89", "90+", "45 y"], {"type": "duration", "units": "years", "censored": "limit"},
         [89, 90, 45], said="above a limit, taken as a number"),
    Read("French hours", ["14h30", "2h"], {"type": "duration", "units": "hours"}, [14.5, 2]),
    Read("clocks of spans", ["27:30:00", "1 day, 2:00:00", "0:15"], {"type": "duration", "units": "hours"},
         [27.5, 26, 0.25]),
    Read("German dates are found", ["31.01.1970", "01.02.1970"], {"type": "date"}, [30, 31], said="%d.%m.%Y"),
    Read("ISO beside German dates", ["31.01.1970", "1970-02-01"], {"type": "date"}, [30, 31]),
    Read("ISO beside a stated format", ["1970-02-01", "31.01.1970"], {"type": "date", "format": "%d.%m.%Y"}, [31, 30]),
    Read("a list of formats", ["31.01.1970", "Feb 1, 1970"], {"type": "date", "format": ["%d.%m.%Y", "%b %d, %Y"]},
         [30, 31]),
    Read("day and month told by one date", ["02/01/1970", "13/01/1970"], {"type": "date"}, [1, 12]),
    Read("months first told by one date", ["01/02/1970", "01/13/1970"], {"type": "date"}, [1, 12]),
    Read("dates of SAS", ["02JAN1970", "03JAN1970"], {"type": "date"}, [1, 2]),
    Read("dates of Excel", ["2", "25570"], {"type": "date", "format": "excel"}, [-25567, 1]),
    Read("seconds of Unix", ["86400", "1970-01-03"], {"type": "date", "format": "unix"}, [1, 2]),
    Read("German months", ["1. März 1970", "2. Mai 1970"], {"type": "date"}, [59, 121]),
    Read("French and Spanish months", ["5 février 1970", "1 marzo 1970"], {"type": "date"}, [35, 59]),
    Read("days with slashes and months", ["02/Jan/1970", "03/Jan/1970"], {"type": "date"}, [1, 2]),
    Read("months first without a comma", ["Jan 2 1970", "Mar 1 1970"], {"type": "date"}, [1, 59]),
    Read("clocks with their word", ["02.01.1970 12:00 Uhr", "03.01.1970 00:00 Uhr"], {"type": "date"}, [1.5, 2]),
    Read("milliseconds of Unix", ["86400000", "1970-01-03"], {"type": "date", "format": "unix_ms"}, [1, 2]),
    Read("days with German weekdays", ["Fr, 02.01.1970", "Samstag, 03.01.1970"], {"type": "date"}, [1, 2]),
    Read("dates with two blanks", ["1970-01-02  12:00", "1970-01-03\u00a000:00"], {"type": "date"}, [1.5, 2]),
    Read("ages as people write them", ["62-jährig", "62 years old", "62y/o"], {"type": "duration", "units": "years"},
         [62, 62, 62]),
    Read("weeks of pregnancy", ["39+4", "40"], {"type": "duration", "units": "weeks"}, [39 + 4 / 7, 40]),
    Read("hours with their minutes", ["2h30m", "1h05"], {"type": "duration", "units": "hours"}, [2.5, 1 + 1 / 12]),
    Read("u for micro", ["5 ug", "6 µg"], {"units": "μg"}, [5, 6]),
    Read("units in brackets", ["5 [mg/l]", "6 (mg/l)"], {"units": "mg/l"}, [5, 6]),
    Read("letters that nobody sees", ["5\u200b", "\u200f6"], {}, [5, 6]),
    Read("zeros before numbers", ["007", "10"], {}, [7, 10], said="zeros before numbers ('007')"),
    Read("a category with zeros", ["01", "1"], {"type": "category", "code": "ordinal"}, [0, 1],
         said="'01' and '1' are taken as two categories"),
    Read("units that begin with a stroke", ["5 /µl", "250/µl"], {"units": "/µl"}, [5, 250]),
    Read("dates of Excel with a decimal comma", ["25570,5", "25571"], {"type": "date", "format": "excel"}, [1.5, 2]),
    Read("midnight as 24:00", ["1970-01-01 24:00", "1970-01-03T24:00:00"], {"type": "date"}, [1, 3]),
    Read("dates with their weekday", ["Fri, 02 Jan 1970", "Sat, 03 Jan 1970"], {"type": "date"}, [1, 2]),
    Read("offsets throughout", ["1970-01-01T12:00:00+12:00", "1970-01-02T00:00:00Z"], {"type": "date"}, [0, 1]),
    Read("offsets beside clocks of a zone", ["1970-01-02T00:00:00Z", "1970-01-02 01:00"], {"type": "date"}, [1, 1],
         {"timezone": "Europe/Berlin"}),
    Read("a clock that stands twice", ["1980-09-28 02:30", "1980-01-01 01:00"], {"type": "date"},
         [3923 + 1 / 48, 3652], {"timezone": "Europe/Berlin"}, "clocks change"),
    Read("semicolons and commas", ["1,5", "2,5"], {}, [1.5, 2.5], {"sep": ";"}),
    Read("a category as floats", ["1.0", "2", "1"], {"type": "category", "categories": ["1", "2"], "code": "ordinal"},
         [0, 1, 0]),
    Read("a category with other blanks", ["a b", " a\u00a0b"], {"type": "category", "categories": ["a b"],
         "code": "ordinal"}, [0, 0]),
    Read("a category in another case", ["m", "M"], {"type": "category", "categories": ["m"], "code": "ordinal"}, [0, 0],
         {"ignore_case": True}),
    Read("composed and decomposed letters", ["Köln", "Ko\u0308ln"], {"type": "category", "categories": ["Köln"],
         "code": "ordinal"}, [0, 0]),
]  # fmt: skip
REFUSED = [
    Refused("commas of what", ["1,234", "7"], {}, ("can be read in two ways", "thousands: ','", "decimal: ','")),
    Refused("limits without a word", ["<0.5", "3"], {}, ("a limit, not a number: '<0.5'", "censored: limit")),
    Refused("a range", ["5-10", "3"], {}, ("not a number: '5-10'", "`values`")),
    Refused("a pair", ["120/80", "3"], {}, ("not a number: '120/80'", "`values`")),
    Refused("a flag", ["12.5*", "3"], {}, ("not a number: '12.5*'", "flags: ['*']")),
    Refused("units that are others", ["5 mg/dl", "3"], {"units": "mmol/l"},
            ("'mg/dl' stands beside the number: '5 mg/dl' in row p0", "other_units: {'mg/dl'")),
    Refused("units that nobody stated", ["5 mmol/l", "3"], {}, ("states no units", "`units: 'mmol/l'`")),
    Refused("per cent that nobody stated", ["45%", "3"], {}, ("'%' stands beside the number", "`units: '%'`")),
    Refused("an age as a number", ["62 y", "50"], {"units": "years"}, ("`type: duration, units: years`",)),
    Refused("m of minutes or months", ["5 m", "3 h"], {"type": "duration", "units": "hours"},
            ("not a duration: '5 m'", "min or mo")),
    Refused("a time of day as a number", ["12:30", "3"], {}, ("not a number: '12:30'", "`type: duration`")),
    Refused("Arabic digits", ["١٢", "3"], {}, ("not a number",)),
    Refused("digits with an underscore", ["1_0", "3"], {}, ("not a number: '1_0'",)),
    Refused("blanks at odd places", ["12 34", "3"], {}, ("not a number: '12 34'",)),
    Refused("an Excel error", ["#DIV/0!", "3"], {}, ("not a number: '#DIV/0!'", "`missing`")),
    Refused("a column without a value", ["", "NA"], {}, ("not one measured cell in 'x'", "may_be_empty: true")),
    Refused("mark of thousands and decimals alike", ["1"], {"decimal": ",", "thousands": ","}, ("the decimal mark",)),
    Refused("day or month", ["02/01/1970", "03/04/1970"], {"type": "date"},
            ("day and month cannot be told apart", "%d/%m/%Y")),
    Refused("two orders in one column", ["13/01/1970", "01/13/1970", "02/03/1970"], {"type": "date"},
            ("day and month cannot be told apart", "'02/03/1970' in row p2")),
    Refused("no date", ["soon", "1970-01-01"], {"type": "date"}, ("not a date: 'soon'", "`format`")),
    Refused("a day that does not exist", ["2026-02-30", "1970-01-01"], {"type": "date"}, ("not a date: '2026-02-30'",)),
    Refused("dates that Excel counts", ["45292", "1970-01-01"], {"type": "date"}, ("not a date", "format: excel")),
    Refused("years of two digits", ["31.01.45", "01.02.26"], {"type": "date"}, ("not a date", "'%d.%m.%y'", "1969")),
    Refused("ages above a limit", [">89", "45"], {"type": "duration", "units": "years"},
            ("a limit", "censored: limit")),
    Refused("times of day alone", ["10:30", "11:00"], {"type": "date"},
            ("not a date: '10:30'", "`time: [date, time]`")),
    Refused("milliseconds", ["1704448800000", "1704448800001"], {"type": "date"}, ("not a date", "format: unix_ms")),
    Refused("numbers that Excel made days of", ["01. Feb", "3.4"], {}, ("'Feb' stands beside", "Has Excel turned")),
    Refused("numbers that Excel made months of", ["Jan 02", "3.4"], {}, ("not a number: 'Jan 02'", "Has Excel turned")),
    Refused("numbers that Excel made dates of", ["2024-02-01", "3.4"], {}, ("not a number", "Has Excel turned")),
    Refused("minus as in bookkeeping", ["(5.5)", "3"], {}, ("not a number: '(5.5)'", "brackets or a minus at the end")),
    Refused("minus at the end", ["5,2-", "3,1"], {}, ("not a number: '5,2-'", "brackets or a minus at the end")),
    Refused("months alone", ["Jan 2024", "Feb 2024"], {"type": "date"}, ("not a date", "format: '%b %Y'")),
    Refused("months and years", ["01/2024", "02/2024"], {"type": "date"}, ("not a date", "format: '%m/%Y'")),
    Refused("lines in a number", ["5\n6", "3"], {}, ("not a number: '5\\n6'", "Several lines in one cell")),
    Refused("lists", ["[1.0, 2.0]", "3"], {}, ("not a number: '[1.0, 2.0]'", "a column of its own")),
    Refused("most out of range", ["700", "3"], {"max": 50}, ("out of range", "accept: {out_of_range: 1}")),
    Refused("zones by letters", ["2024-01-05 10:00 CET"], {"type": "date"}, ("%H:%M CET'", "timezone:")),
    Refused("halves", ["½", "2"], {}, ("not a number: '½'",)),
    Refused("powers of ten", ["1.5x10^3", "2"], {}, ("'x10^3' stands beside", "a factor or a unit")),
    Refused("thousands by a letter", ["5k", "3"], {}, ("'k' stands beside", "other_units: {'k': {scale: 1000}}")),
    Refused("years alone", ["1956", "1960"], {"type": "date"}, ("not a date", "`format: '%Y'`")),
    Refused("days that nobody knows", ["1956-00-00", "1960-01-01"], {"type": "date"}, ("not a date", "`missing`")),
    Refused("a currency", ["€ 5", "3"], {}, ("not a number: '€ 5'", "flags: ['€']")),
    Refused("a titre", ["1:80", "3"], {}, ("not a number: '1:80'", "`values`")),
    Refused("clocks with and without offset", ["1970-01-01T00:00:00Z", "1970-01-01 00:00"], {"type": "date"},
            ("with and without an offset", "timezone: Europe/Berlin")),
    Refused("a zone that is none", ["1"], {}, ("timezone is not known", "Europe/Berlin"), {"timezone": "Berlin"}),
    Refused("an encoding that is none", ["1"], {}, ("encoding is not known", "cp1252"), {"encoding": "windows"}),
    Refused("a category in another case", ["m", "M"], {"type": "category", "categories": ["m"]},
            ("unknown category: 'M'", "'M' is nearly 'm'")),
    Refused("a code that lost its zeros", ["7", "007"], {"type": "category", "categories": ["007"]},
            ("unknown category: '7'", "'7' is nearly '007'")),
    Refused("a share above one", ["1"], {}, ("unknown key",), {"acept": {"unmatched": 2}}),
]  # fmt: skip


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_cells_are_read(case: Read, tmp_path: Path):
    prepared = table(tmp_path, case.cells, case.column, case.top)
    batch = prepared.cohort.batch(np.arange(len(case.cells)))
    values, measured = batch.values["t"][:, 0], batch.measured.get("t")
    there = batch.observed["t"] if measured is None else measured[:, 0] & batch.observed["t"]
    assert there.tolist() == [value is not None for value in case.values]
    np.testing.assert_allclose(values[there], [v for v in case.values if v is not None], rtol=1e-6, atol=1e-6)
    assert case.said in prepared.problems.describe() + "\n".join(prepared.problems.taken)
    assert not any(prepared.problems.balance().values())


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_cells_are_refused(case: Refused, tmp_path: Path):
    with pytest.raises(AmodalError) as caught:
        table(tmp_path, case.cells, case.column, case.top)
    for word in case.words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
    assert not (tmp_path / "out").exists()


# Events --------------------------------------------------------------------------------------------------------------


def events(folder: Path, rows: list[str], change: dict[str, Any], top: dict[str, Any] | None = None) -> Prepared:
    """Prepares events of p0 … p11, admitted at noon on the first of January."""
    manifest = "id,y,came\n" + "".join(f"p{i},{'ab'[i % 2]},01.01.2026 12:00\n" for i in range(N))
    (folder / "m.csv").write_text(manifest)
    (folder / "e.csv").write_text("id,t,v,x,u\n" + "".join(f"{row}\n" for row in rows))
    schema = {"id": "id", "task": TASK, "split": SPLIT, **(top or {}), "modalities": {"s": {**EVENTS, **change}}}
    return prepare(folder / "m.csv", schema, folder / "out", overwrite=True)


MANY = [f"p{i},1,HR,{60 + i}," for i in range(N)]
DATED = {"since": "came"}
EVENTS_READ = [
    ("ids as floats and with blanks", ["p0 ,1,HR,5,", *MANY[1:]], {}, 0, [None, 5, None, None]),
    ("a sum of one event that stands there twice", [*MANY, "p0,2,U,100,", "p0,2,U,100,"],
     {"variables": {"U": {"aggregate": "sum"}, "HR": {}}}, 0, [None, None, 100, None]),
    ("a sum of two events", [*MANY, "p0,2,U,100,", "p0,2,U,100,"],
     {"variables": {"U": {"aggregate": "sum"}, "HR": {}}, "duplicates": "keep"}, 0, [None, None, 200, None]),
    ("times as spans", ["p0,1 h 30 min,HR,5,", "p0,02:15,HR,7,", *MANY[1:]], {}, 0, [None, 5, 7, None]),
    ("German times and values, ISO origins elsewhere", ['p0,01.01.2026 13:10,HR,"5,5",', *[
        f'p{i},2026-01-01 13:00,HR,"6,5",' for i in range(1, N)]], DATED, 0, [None, 5.5, None, None]),
    ("units in the cell of a value", ["p0,1,HR,5 bpm,", *MANY[1:]], {"variables": {"HR": {"units": "bpm"}}}, 0,
     [None, 5, None, None]),
    ("units of the cell before those of the column", ["p0,1,T,100 F,F", *[f"p{i},1,T,37,C" for i in range(1, N)]],
     {"units_column": "u", "variables": {"T": {"units": "C", "other_units": {"F": {"scale": 0.5, "offset": -13}}}}}, 0,
     [None, 37, None, None]),
    ("words for numbers", ["p0,1,HR,neg,", *MANY[1:]], {"values": {"neg": "0"}}, 0, [None, 0, None, None]),
    ("limits", ["p0,1,HR,<5,", *MANY[1:]], {"censored": "half"}, 0, [None, 2.5, None, None]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "rows", "change", "variable", "values"), EVENTS_READ, ids=_name)
def test_events_are_read(name: str, rows: list[str], change: dict, variable: int, values: list, tmp_path: Path):
    prepared = events(tmp_path, rows, change)
    batch = prepared.cohort.batch(np.arange(1))
    there = batch.measured["s"][0, :, variable]
    assert there.tolist() == [value is not None for value in values]
    assert batch.values["s"][0, there, variable].tolist() == [value for value in values if value is not None]
    assert not any(prepared.problems.balance().values())


EVENTS_REFUSED = [
    ("two units of which the schema knows nothing", [*MANY, "p0,1,T,37,C", "p1,1,T,98,F"], {"units_column": "u"},
     ("'T' stands there in 'C' and 'F'", "units: C, other_units: {F:")),
    ("a variable that is not there", MANY, {"variables": ["HR", "HF"]}, ("not one measured cell in 'HF'",)),
    ("most ids match nobody", [*MANY[:2], *[f"q{i},1,HR,5," for i in range(N)]], {},
     ("rows whose id the manifest does not have: 12 of 14 (86%)", "accept: {unmatched: 0.86}", "modalities.s")),
    ("ids that lost a letter", [*MANY[:2], *[f"P{i},1,HR,5," for i in range(2, N)]], {}, ("'P2' is nearly 'p2'",)),
    ("most events outside the window", [f"p{i},99,HR,5," for i in range(N)], {},
     ("events outside the window: 12 of 12 (100%)", "accept: {outside_window: 1}")),
    ("the same event again", [*MANY, MANY[0]], {"duplicates": "error"}, ("stands there again", "duplicates: drop")),
    ("other units in the cell", ["p0,1,HR,5 Hz,", *MANY[1:]], {"variables": {"HR": {"units": "bpm"}}},
     ("'HR' stands there in Hz, not in bpm", "other_units: {Hz:")),
    ("a time that is a date", ["p0,2026-01-01,HR,5,", *MANY[1:]], {}, ("not a number: '2026-01-01'", "`since`")),
    ("times with an offset, origins without", [f"p{i},2026-01-01T13:00:00+01:00,HR,5," for i in range(N)], DATED,
     ("offset from Greenwich", "timezone:")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "rows", "change", "words"), EVENTS_REFUSED, ids=_name)
def test_events_are_refused(name: str, rows: list[str], change: dict, words: tuple[str, ...], tmp_path: Path):
    with pytest.raises(AmodalError) as caught:
        events(tmp_path, rows, change)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def test_too_many_losses_are_accepted_where_the_schema_says_so(tmp_path: Path):
    rows = [*MANY[:2], *[f"q{i},1,HR,5," for i in range(N)]]
    prepared = events(tmp_path, rows, {"accept": {"unmatched": 0.9}})
    assert prepared.problems.counts["e.csv: id that the manifest does not have"] == N
    log = pd.read_csv(tmp_path / "out" / "preparation.csv")
    assert set(log.id[log.reason.str.contains("does not have")]) == {f"q{i}" for i in range(N)}
    assert prepared.cohort.source["preparation"]["counts"] == dict(prepared.problems.counts)


def test_times_are_counted_from_a_cases_own_date_where_others_were_left_out(tmp_path: Path):
    (tmp_path / "m.csv").write_text("id,y,came\np0,,2026-01-01\n" + "".join(
        f"p{i},{'ab'[i % 2]},2026-01-0{1 + i % 9}\n" for i in range(1, N)))  # fmt: skip
    (tmp_path / "e.csv").write_text(
        "id,t,v,x\n" + "".join(f"p{i},2026-01-0{1 + i % 9} 01:00,HR,{i}\n" for i in range(N))
    )
    schema = {"id": "id", "task": TASK | {"without_target": "leave_out"}, "split": SPLIT,
              "modalities": {"s": EVENTS | {"since": "came"}}}  # fmt: skip
    prepared = prepare(tmp_path / "m.csv", schema, tmp_path / "out")
    values = prepared.cohort.batch(np.arange(N - 1)).values["s"][:, 1, 0]
    assert values.tolist() == list(range(1, N)), "an hour after the case's own date"
    assert prepared.problems.counts["e.csv: id of a case that was left out"] == 1


# Targets -------------------------------------------------------------------------------------------------------------


def target(folder: Path, columns: dict[str, list[str]], task: dict[str, Any], **top: Any) -> np.ndarray:
    """The target of a manifest with these columns."""
    n = len(next(iter(columns.values())))
    pd.DataFrame({"x": range(n), **columns}).to_csv(folder / "m.csv", index=False)
    schema = {"task": task, "split": {"fractions": {"train": 1.0}}, **top,
              "modalities": {"t": {"kind": "tabular", "columns": ["x"]}}}  # fmt: skip
    cohort = prepare(folder / "m.csv", schema, folder / "out", overwrite=True).cohort
    assert cohort.target is not None
    return cohort.target


CHEXPERT = {"column": "e", "yes": ["1"], "no": ["0"], "unknown": ["-1"]}
TARGETS_READ = [
    ("classes as floats", {"y": ["1.0", "0.0", "1"]}, {"kind": "binary", "column": "y", "classes": ["0", "1"]},
     [1, 0, 1]),
    ("labels of an extraction tool", {"e": ["1.0", "0.0", "-1.0", ""], "f": ["1.0", "0.0", "1", "0"]},
     {"kind": "multilabel", "columns": {"edema": CHEXPERT, "f": "f"}}, [[1, 1], [0, 0], [np.nan, 1], [np.nan, 0]]),
    ("uncertain taken for yes, empty for no", {"e": ["1.0", "0.0", "-1.0", ""], "f": ["1", "0", "1", "0"]},
     {"kind": "multilabel", "columns": {"edema": {"column": "e", "yes": ["1", "-1"], "no": ["0"], "empty": "no"},
                                        "f": "f"}}, [[1, 1], [0, 0], [1, 1], [0, 0]]),
    ("German words for yes and no", {"e": ["ja", "Nein", "JA "], "f": ["wahr", "FALSCH", "nein"]},
     {"kind": "multilabel", "columns": ["e", "f"]}, [[1, 1], [0, 0], [1, 0]]),
    ("a word for none of the labels", {"d": ["A|B", "keine", "B"]},
     {"kind": "multilabel", "column": "d", "classes": ["A", "B"], "separator": "|", "none": "keine"},
     [[1, 1], [0, 0], [0, 1]]),
    ("lists as programs print them", {"d": ["['A', 'B']", "[]", '["B"]']},
     {"kind": "multilabel", "column": "d", "classes": ["A", "B"], "separator": ","}, [[1, 1], [0, 0], [0, 1]]),
    ("an empty cell for none of the labels", {"d": ["A|B", "", "B"]},
     {"kind": "multilabel", "column": "d", "classes": ["A", "B"], "separator": "|", "empty": "no"},
     [[1, 1], [0, 0], [0, 1]]),
    ("classes with a column each", {"a": ["1", "0", "0"], "b": ["0", "1", "0"], "c": ["0", "0", "1"]},
     {"kind": "multiclass", "columns": ["a", "b", "c"]}, [0, 1, 2]),
    ("a regression with decimal commas", {"d": ["1,5", "2,5"]}, {"kind": "regression", "column": "d"}, [1.5, 2.5]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "columns", "task", "expected"), TARGETS_READ, ids=_name)
def test_targets_are_read(name: str, columns: dict, task: dict, expected: list, tmp_path: Path):
    np.testing.assert_array_equal(target(tmp_path, columns, task), np.array(expected))


ONE_HOT = {label: ["1" if k == i % 3 else "0" for i in range(12)] for k, label in enumerate("abc")}
TARGETS_REFUSED = [
    ("numbers as classes", {"y": ["1.5", "2.5"]}, {"kind": "multiclass", "column": "y",
     "classes": [f"{i}.5" for i in range(120)]}, ("120 numbers such as 0.5", "kind: regression")),
    ("one-hot columns as labels", ONE_HOT, {"kind": "multilabel", "columns": ["a", "b", "c"]},
     ("exactly one label is true", "kind: multiclass", "exclusive: false")),
    ("two classes in a row", {"a": ["1", "0"], "b": ["1", "1"]}, {"kind": "multiclass", "columns": ["a", "b"]},
     ("say yes 2 times in row 0", "kind: multilabel")),
    ("several columns of values", ONE_HOT, {"kind": "regression", "columns": ["a", "b"]},
     ("a regression has one column", "Several outcomes are several cohorts")),
    ("a time beside an event", {"days": ["5", "6"], "died": ["1", "0"]},
     {"kind": "regression", "column": "days", "event": "died"}, ("time to event cannot be predicted", "horizon")),
    ("survival as a kind", {"days": ["5"]}, {"kind": "survival", "column": "days"}, ("time to event", "horizon")),
    ("a limit as an outcome", {"d": ["<5", "6"]}, {"kind": "regression", "column": "d", "censored": "limit"},
     ("limits instead of values", "`unknown`")),
    ("a class in another case", {"y": ["Yes", "no"]}, {"kind": "binary", "column": "y", "classes": ["no", "yes"]},
     ("'Yes' is nearly 'yes'", "ignore_case: true")),
    ("a label that is neither", {"e": ["-1.0", "1"], "f": ["0", "1"]}, {"kind": "multilabel", "columns": ["e", "f"]},
     ("neither yes nor no", "'-1.0'", "unknown: […]")),
    ("a word for none without saying so", {"d": ["A", "keine"]},
     {"kind": "multilabel", "column": "d", "classes": ["A", "B"], "separator": "|"}, ("'keine'", "under `none`")),
    ("none and something", {"d": ["A", "keine|A"]},
     {"kind": "multilabel", "column": "d", "classes": ["A", "B"], "separator": "|", "none": "keine"},
     ("says none and something else", "'keine|A'")),
    ("a word that means two things", {"e": ["1"], "f": ["1"]},
     {"kind": "multilabel", "columns": {"e": {"column": "e", "yes": ["1"], "no": ["1.0"]}, "f": "f"}},
     ("'1' means two things",)),
    ("units beside a regression target", {"d": ["5 d", "6 d"]}, {"kind": "regression", "column": "d"},
     ("'d' stands beside the number", "`units: 'd'`")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "columns", "task", "words"), TARGETS_REFUSED, ids=_name)
def test_targets_are_refused(name: str, columns: dict, task: dict, words: tuple[str, ...], tmp_path: Path):
    with pytest.raises(AmodalError) as caught:
        target(tmp_path, columns, task)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


# Files ---------------------------------------------------------------------------------------------------------------


def test_windows_files_are_read_where_the_schema_says_so(tmp_path: Path):
    (tmp_path / "m.csv").write_bytes("id;y;Größe\r\n1;a;1,5\r\n2;b;2,5\r\n".encode("cp1252"))
    schema = {"id": "id", "task": TASK, "split": {"fractions": {"train": 1.0}},
              "modalities": {"t": {"kind": "tabular", "columns": ["Größe"]}}}  # fmt: skip
    with pytest.raises(AmodalError, match=r"does not have|encoding: cp1252"):
        prepare(tmp_path / "m.csv", schema, tmp_path / "out")
    prepared = prepare(tmp_path / "m.csv", schema | {"encoding": "cp1252"}, tmp_path / "out")
    assert prepared.cohort.batch(np.arange(2)).values["t"].tolist() == [[1.5], [2.5]]


def test_rows_of_nothing_names_with_blanks_and_rows_that_come_again(tmp_path: Path):
    text = "sep=;\nid; y ;x;\n00123;a;1;\n;;;\n00124;b;2;\n00124;b;2;\n ; ;;\n"
    (tmp_path / "m.csv").write_text(text)
    schema: dict[str, Any] = {"id": "id", "task": TASK, "split": {"fractions": {"train": 1.0}},
              "modalities": {"t": {"kind": "tabular", "columns": ["x"]}}}  # fmt: skip
    with pytest.raises(AmodalError, match=r"the same again in every cell.*00124.*duplicates: drop"):
        prepare(tmp_path / "m.csv", schema, tmp_path / "out")
    prepared = prepare(tmp_path / "m.csv", schema | {"duplicates": "drop"}, tmp_path / "out")
    assert prepared.cohort.ids.tolist() == ["00123", "00124"]
    assert "m.csv: 2 rows are empty throughout, and left out" in prepared.problems.taken
    assert prepared.problems.counts == {"m.csv: the same row again, left out": 1}
    assert not any(prepared.problems.balance().values())


def test_the_same_row_of_a_second_table_counts_once(tmp_path: Path):
    (tmp_path / "m.csv").write_text("id,y\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(N)))
    (tmp_path / "l.csv").write_text("id,x\n" + "".join(f"{i}.0,{i}\n" for i in range(N)) + "3,3\n")
    schema = {"id": "id", "task": TASK, "split": SPLIT,
              "modalities": {"t": {"kind": "tabular", "file": "l.csv", "id": "id", "columns": ["x"]}}}  # fmt: skip
    prepared = prepare(tmp_path / "m.csv", schema, tmp_path / "out")
    assert prepared.problems.counts == {"l.csv: the same row again, left out": 1}
    assert prepared.cohort.batch(np.arange(N)).values["t"][:, 0].tolist() == list(range(N))
    (tmp_path / "l.csv").write_text((tmp_path / "l.csv").read_text() + "3,4\n")
    with pytest.raises(AmodalError, match="several rows for the id '3'"):
        prepare(tmp_path / "m.csv", schema, tmp_path / "out", overwrite=True)


def test_splits_are_not_told_apart_by_case(tmp_path: Path):
    (tmp_path / "m.csv").write_text(
        "y,x,s\n" + "".join(f"{'ab'[i % 2]},{i},{['train', 'Train'][i % 2]}\n" for i in range(N))
    )
    schema = {"task": TASK, "split": "s", "modalities": {"t": {"kind": "tabular", "columns": ["x"]}}}
    with pytest.raises(AmodalError, match=r"'Train' and 'train'.*differ in case only.*ignore_case: true"):
        prepare(tmp_path / "m.csv", schema, tmp_path / "out")
    cohort = prepare(tmp_path / "m.csv", schema | {"ignore_case": True}, tmp_path / "out").cohort
    assert set(cohort.splits) == {"train"}
