"""Events of MIMIC-III's and MIMIC-IV's stays by the benchmark's rules: 17 variables, in bins or as they were charted.

**Which.** Charted and laboratory events of an admission among the stays; those that name another stay, or have no value
once cleaned, are left out. Output events hold none of the variables' items and are not read.

**Ties.** Where several are at one time, the last of them in order counts: in the order of numbers for the ten variables
that are cleaned, of text for the others. Of a bin, the last counts.

**Cleaning** as the published benchmark does under Python 3 (``cleaning="benchmark"``): "a/b" pressures split; oxygen
fractions divided by 100 unless in torr, also those below 1; saturations up to 1 times 100; laboratory text that is no
number left out; 79 degrees and more taken for Fahrenheit; ounces, pounds and inches converted; no value is left out for
being impossible. ``cleaning="units"`` divides oxygen fractions above 1 only, and takes for Fahrenheit also what an item
or a unit says is. Not from upstream: category strings that it does not know are left out (it stops at them).
:cite:`harutyunyan2019multitask`
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from amodal.data.sources.mimic.query import columns_of, open_tables
from amodal.data.sources.mimic.stays import DATABASES, TABLES, Database, Stays, create_stays, event_columns
from amodal.data.sources.mimic.variables import VARIABLES
from amodal.files import replace_file

__all__ = ["Bins", "Cleaning", "Events", "load_events", "read_events", "save_events"]

Cleaning = Literal["benchmark", "units"]

EDGE = 1e-6  # hours: how far outside a window or below the edge of a bin a time may be

_FAHRENHEIT, _POUNDS, _OUNCES, _INCHES = (3654, 678, 223761, 679), (3581, 226531), (3582,), (226707, 1394)
_PLACE = {variable.name: place for place, variable in enumerate(VARIABLES)}
_CLEANED = tuple(
    _PLACE[name]
    for name in (
        "Capillary refill rate", "Diastolic blood pressure", "Fraction inspired oxygen", "Glucose", "Height",
        "Oxygen saturation", "Systolic blood pressure", "Temperature", "Weight", "pH",
    )
)  # fmt: skip


class Bins(NamedTuple):
    """The last value of each stay, bin and variable, in this order; or, of raw events, of each time.

    Attributes:
        row: Position of the stay, int32, of shape (R,).
        time: The bin, int32, or the hour, float32, of shape (R,).
        variable: Position in `VARIABLES`, int8, of shape (R,).
        value: The number, or the position of the category, float32, of shape (R,).
    """

    row: np.ndarray
    time: np.ndarray
    variable: np.ndarray
    value: np.ndarray


class Events(NamedTuple):
    """Stays with their events.

    Attributes:
        stays: All stays of adults without transfer, one an admission.
        bins: Their values; `row` is the position in `stays`.
        first: Hour of the first event in the window, float64, of shape (N,); infinite where there is none.
        reference: Hour of the first event after the first hour, float64, of shape (N,); infinite where there is none.
    """

    stays: Stays
    bins: Bins
    first: np.ndarray
    reference: np.ndarray


def read_events(
    source: Path,
    database: Database,
    *,
    hours: int | None = 48,
    bin_hours: int = 1,
    raw: bool = False,
    cleaning: Cleaning = "benchmark",
) -> Events:
    """All stays, and the values of their events, in one pass through the tables.

    Args:
        source: Folder of the tables: MIMIC-III's own, or MIMIC-IV's with hosp/ and icu/.
        database: Which.
        hours: Length of the window from the start of a stay; None: the whole stay.
        bin_hours: Length of a bin.
        raw: Values at the times of the events instead of in bins.
        cleaning: "benchmark" or "units"; see above.

    Raises:
        DataError: If a table or a column is missing or cannot be read; the message names the file.
    """
    with open_tables(
        source, TABLES[database], database=DATABASES[database], columns=event_columns(database)
    ) as connection:
        stays = create_stays(connection, database, source)
        connection.execute(
            "CREATE TEMP TABLE places AS SELECT *, ROW_NUMBER() OVER (ORDER BY stay) - 1 AS place FROM stays"
        )
        time = "hour" if raw else f"GREATEST(0, FLOOR(hour / {bin_hours} - {EDGE}))"
        connection.execute(
            f"""
            CREATE TEMP TABLE bins AS
            SELECT CAST(place AS INTEGER) AS place, CAST({time} AS {"FLOAT" if raw else "INTEGER"}) AS time,
                   CAST(variable AS TINYINT) AS variable, CAST(ARG_MAX(value, ROW(
                       hour, CASE WHEN variable IN {_CLEANED} THEN value ELSE 0 END, text)) AS FLOAT) AS value,
                   MIN(hour) AS first, MIN(CASE WHEN hour > 1 THEN hour END) AS later
            FROM ({_events(database, hours, cleaning)}) GROUP BY ALL
            """
        )
        found = columns_of(connection, "SELECT place, time, variable, value FROM bins ORDER BY place, time, variable")
        starts = columns_of(
            connection,
            "SELECT place, MIN(first) AS first, COALESCE(MIN(later), 'inf') AS later FROM bins GROUP BY place",
        )
    first, reference = (np.full(len(stays.stay), np.inf) for _ in range(2))
    first[starts["place"].astype(np.int64)] = starts["first"]
    reference[starts["place"].astype(np.int64)] = starts["later"]
    return Events(stays, Bins(*(found[name] for name in ("place", "time", "variable", "value"))), first, reference)


def save_events(path: Path, events: Events) -> None:
    """Writes events as arrays, complete or not at all."""
    parts = {"stays": events.stays, "bins": events.bins}
    arrays = {f"{name}.{key}": column for name, part in parts.items() for key, column in part._asdict().items()}

    def write(place: Path) -> None:
        with place.open("wb") as file:
            np.savez(file, first=events.first, reference=events.reference, **arrays)

    replace_file(path, write)


def load_events(path: Path) -> Events:
    """The inverse of `save_events`."""
    with np.load(path, allow_pickle=False) as arrays:
        stays = Stays(*(arrays[f"stays.{key}"] for key in Stays._fields))
        bins = Bins(*(arrays[f"bins.{key}"] for key in Bins._fields))
        return Events(stays, bins, arrays["first"], arrays["reference"])


def _events(database: Database, hours: int | None, cleaning: Cleaning) -> str:
    """The query of the cleaned events (place, hour, variable, value, text) of the window, of table `places`."""
    key = "icustay_id" if database == "mimic3" else "stay_id"
    variable_of = [(item, place) for place, variable in enumerate(VARIABLES) for item in variable.items]
    category_of = [
        (place, text, code) for place, variable in enumerate(VARIABLES) for code, text in enumerate(variable.categories)
    ]
    columns = (
        "CAST(hadm_id AS BIGINT) AS admission, {0} AS stay, charttime, CAST(itemid AS BIGINT) AS item, value, "
        "LOWER(COALESCE(valueuom, '')) AS unit"
    )
    items = ", ".join(str(item) for item, _ in variable_of)
    return f"""
        WITH item_map(item, variable) AS (VALUES {", ".join(map(str, variable_of))}),
        categories(variable, category, code) AS (VALUES {", ".join(f"({v}, '{t}', {c})" for v, t, c in category_of)}),
        recorded AS (
            SELECT {columns.format(f"TRY_CAST({key} AS BIGINT)")} FROM CHARTEVENTS
            WHERE hadm_id <> '' AND TRY_CAST(itemid AS BIGINT) IN ({items})
            UNION ALL SELECT {columns.format("CAST(NULL AS BIGINT)")} FROM LABEVENTS
            WHERE hadm_id <> '' AND TRY_CAST(itemid AS BIGINT) IN ({items})
        ), timed AS (
            SELECT s.place, DATE_DIFF('second', s.intime, CAST(r.charttime AS TIMESTAMP)) / 3600.0 AS hour, m.variable,
                   TRIM(r.value) AS text, TRY_CAST(TRIM(r.value) AS DOUBLE) AS number, r.unit, r.item, s.hours
            FROM recorded r JOIN places s ON r.admission = s.admission AND COALESCE(r.stay, s.stay) = s.stay
            JOIN item_map m ON m.item = r.item WHERE r.charttime <> '' AND r.value <> ''
        ), cleaned AS (
            SELECT t.place, t.hour, t.variable, t.text, COALESCE(c.code, CASE {_cleaning(cleaning)} END) AS value
            FROM timed t LEFT JOIN categories c ON c.variable = t.variable AND c.category = {_category()}
            WHERE t.hour > -{EDGE} AND t.hour < {"t.hours" if hours is None else hours} + {EDGE}
        )
        SELECT * FROM cleaned WHERE value IS NOT NULL AND ISFINITE(value)
        """


def _category() -> str:
    """The category that a text stands for."""
    refill, total = _PLACE["Capillary refill rate"], _PLACE["GCS total"]
    return f"""CASE WHEN t.variable = {refill} THEN CASE
        WHEN LOWER(t.text) LIKE 'brisk%' OR LOWER(t.text) LIKE 'normal%' THEN '0.0'
        WHEN LOWER(t.text) LIKE 'delayed%' OR LOWER(t.text) LIKE 'abnormal%' THEN '1.0' END
        WHEN t.variable = {total} THEN CAST(CAST(t.number AS BIGINT) AS VARCHAR) ELSE t.text END"""


def _cleaning(cleaning: Cleaning) -> str:
    """Branches of the number that a text stands for; none for categories."""
    laboratory = "CASE WHEN REGEXP_FULL_MATCH(text, '\\d+(\\.\\d*)?|\\.\\d+') THEN number END"
    heavy = f"item IN {_OUNCES + _POUNDS} OR unit LIKE '%oz%' OR unit LIKE '%lb%'"
    ounces = f"CASE WHEN item = {_OUNCES[0]} OR unit LIKE '%oz%' THEN number / 16 ELSE number END"
    percent, fahrenheit = "unit NOT LIKE '%torr%'", "number >= 79"
    if cleaning == "units":
        percent += " AND number > 1"
        fahrenheit += f" OR item IN {_FAHRENHEIT} OR unit LIKE '%f%'"
    rules = {
        "Systolic blood pressure": "COALESCE(number, TRY_CAST(SPLIT_PART(text, '/', 1) AS DOUBLE))",
        "Diastolic blood pressure": "COALESCE(number, TRY_CAST(SPLIT_PART(text, '/', 2) AS DOUBLE))",
        "Fraction inspired oxygen": f"CASE WHEN {percent} THEN number / 100 ELSE number END",
        "Glucose": laboratory,
        "pH": laboratory,
        "Oxygen saturation": f"({laboratory}) * CASE WHEN number <= 1 THEN 100 ELSE 1 END",
        "Temperature": f"CASE WHEN {fahrenheit} THEN (number - 32) * 5 / 9 ELSE number END",
        "Height": f"CASE WHEN item IN {_INCHES} OR unit LIKE '%in%' THEN ROUND(number * 2.54) ELSE number END",
        "Weight": f"({ounces}) * CASE WHEN {heavy} THEN 0.453592 ELSE 1 END",
    }
    numbers = {v.name: rules.get(v.name, "number") for v in VARIABLES if not v.categories}
    return " ".join(f"WHEN t.variable = {_PLACE[name]} THEN {rule}" for name, rule in numbers.items())
