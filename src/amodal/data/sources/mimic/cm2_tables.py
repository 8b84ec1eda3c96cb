r"""MIMIC-III's and MIMIC-IV's tables read as in CM2's experiments: stays, 17 variables in two-hour bins, notes, X-rays.

**Stays.** No transfer between units (MIMIC-III: ward and care unit; MIMIC-IV: care unit), one stay an admission after
that, 18 years or more. Of those, samples last 48 hours and have an event of the variables in them.

**Events.** Charted and laboratory events of an admission among the stays; those that name another stay, or have no
value once cleaned, are left out. Where several are at one time, the last of them in order counts: in the order of
numbers for the ten variables that are cleaned, of text for the others; of a bin, the last. Cleaning: "a/b" pressures
split; oxygen fractions above 1 divided by 100 unless in torr; saturations up to 1 times 100; laboratory text that is no
number left out; Fahrenheit (by item, by unit, or 79 and more), ounces, pounds and inches converted. Output events hold
none of the variables' items and are not read.

**Readmission** within 30 days: death in hospital, or the next of the patient's stays above starts less than 30 whole
days after this discharge. Readmissions that are no such stay cannot be seen, and death after discharge does not count.

Rules and item numbers are those of CM2's release (its MIMIC-III item list is empty; MIMIC-IV's has both). Not from the
release: category strings that it does not know, and notes marked as errors, are left out.
:cite:`harutyunyan2019multitask,wu2025cm2`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from amodal.data.sources.mimic.query import columns_of, open_tables
from amodal.data.sources.mimic.variables import VARIABLES

__all__ = ["Bins", "Database", "Images", "Notes", "Stays", "read_images", "read_notes", "read_stays", "read_tables"]

Database = Literal["mimic3", "mimic4"]

_NAMES = {"mimic3": "MIMIC-III", "mimic4": "MIMIC-IV"}
_TABLES = {
    "mimic3": {name: name for name in ("ICUSTAYS", "ADMISSIONS", "PATIENTS", "CHARTEVENTS", "LABEVENTS")},
    "mimic4": {
        "ICUSTAYS": "icu/icustays",
        "ADMISSIONS": "hosp/admissions",
        "PATIENTS": "hosp/patients",
        "CHARTEVENTS": "icu/chartevents",
        "LABEVENTS": "hosp/labevents",
    },
}
_STAY_TABLES = ("ICUSTAYS", "ADMISSIONS", "PATIENTS")
_EDGE = 1e-6  # hours

_FAHRENHEIT, _POUNDS, _OUNCES, _INCHES = (3654, 678, 223761, 679), (3581, 226531), (3582,), (226707, 1394)
_PLACE = {variable.name: place for place, variable in enumerate(VARIABLES)}
_CLEANED = tuple(
    _PLACE[name]
    for name in (
        "Capillary refill rate", "Diastolic blood pressure", "Fraction inspired oxygen", "Glucose", "Height",
        "Oxygen saturation", "Systolic blood pressure", "Temperature", "Weight", "pH",
    )
)  # fmt: skip


class Stays(NamedTuple):
    """Stays in intensive care, in the order of their numbers.

    Attributes:
        stay: Number of the stay, int64, of shape (N,).
        admission: Number of the admission, int64, of shape (N,).
        patient: Number of the patient, int64, of shape (N,).
        hours: Length of the stay, float64, of shape (N,).
        died: Died in hospital, bool, of shape (N,).
        readmitted: Died in hospital or came back within 30 days, bool, of shape (N,).
        age: In years, float64, of shape (N,).
    """

    stay: np.ndarray
    admission: np.ndarray
    patient: np.ndarray
    hours: np.ndarray
    died: np.ndarray
    readmitted: np.ndarray
    age: np.ndarray

    def take(self, rows: np.ndarray) -> Stays:
        """Some of the rows."""
        return Stays(*(column[rows] for column in self))


class Bins(NamedTuple):
    """The last value of each stay, bin and variable.

    Attributes:
        stay: Number of the stay, int64, of shape (R,).
        time_bin: The bin, int64, of shape (R,).
        variable: Position in `VARIABLES`, int64, of shape (R,).
        value: The number, or the position of the category, float64, of shape (R,).
    """

    stay: np.ndarray
    time_bin: np.ndarray
    variable: np.ndarray
    value: np.ndarray


class Notes(NamedTuple):
    """Notes of stays, by stay, the latest first.

    Attributes:
        stay: Number of the stay, int64, of shape (R,).
        text: The text as written, object, of shape (R,).
    """

    stay: np.ndarray
    text: np.ndarray


class Images(NamedTuple):
    """Chest X-rays of stays, by stay, the latest first.

    Attributes:
        stay: Number of the stay, int64, of shape (R,).
        patient: Number of the patient, int64, of shape (R,).
        study: Number of the study, int64, of shape (R,).
        dicom: Name of the image, object, of shape (R,).
    """

    stay: np.ndarray
    patient: np.ndarray
    study: np.ndarray
    dicom: np.ndarray


def read_stays(source: Path, database: Database) -> Stays:
    """All stays of adults without transfer, one an admission, with both labels.

    Args:
        source: Folder of the tables: MIMIC-III's own, or MIMIC-IV's with hosp/ and icu/.
        database: Which.

    Raises:
        DataError: If a table is missing or cannot be read; the message names it.
    """
    tables = {name: _TABLES[database][name] for name in _STAY_TABLES}
    with open_tables(source, tables, database=_NAMES[database]) as connection:
        return _stays(connection, database)


def read_tables(source: Path, database: Database, *, hours: int = 48, bin_hours: int = 2) -> tuple[Stays, Bins, dict]:
    """Samples and their values.

    Args:
        source: Folder of the tables.
        database: Which.
        hours: Length of the window from the start of a stay; stays have to last as long.
        bin_hours: Length of a bin.

    Returns:
        The stays that last long enough and have an event of the variables in the window; the last value in each bin;
        and, for each stay by number, when its first event after the first hour is, in hours.

    Raises:
        DataError: If a table is missing or cannot be read; the message names it.
    """
    with open_tables(source, _TABLES[database], database=_NAMES[database]) as connection:
        stays = _stays(connection, database)
        connection.execute(_events(database, hours))
        frame = columns_of(
            connection,
            f"""
            SELECT stay, CAST(GREATEST(0, FLOOR(hour / {bin_hours} - {_EDGE})) AS BIGINT) AS time_bin, variable, value
            FROM events QUALIFY ROW_NUMBER() OVER (
                PARTITION BY stay, time_bin, variable
                ORDER BY hour DESC, CASE WHEN variable IN {_CLEANED} THEN value END DESC, text DESC
            ) = 1 ORDER BY stay, time_bin, variable
            """,
        )
        first = columns_of(
            connection, "SELECT stay, MIN(hour) AS hour FROM events WHERE hour > 1 GROUP BY stay ORDER BY stay"
        )
    stay, time_bin, variable = (frame[name].astype(np.int64) for name in ("stay", "time_bin", "variable"))
    bins = Bins(stay, time_bin, variable, frame["value"].astype(np.float64))
    kept = (stays.hours >= hours) & np.isin(stays.stay, bins.stay)
    return stays.take(np.flatnonzero(kept)), bins, dict(zip(first["stay"].tolist(), first["hour"].tolist()))


def read_notes(source: Path, stays: Stays, reference: dict, *, hours: int = 48) -> Notes:
    """MIMIC-III's notes up to some hours after a stay's reference time; there is no lower bound.

    Notes without a time of day, discharge summaries among them, and those marked as errors are left out. Hours are
    whole ones, rounded down, as in the release: a note 48 h 59 min after the reference time is in.

    Args:
        source: Folder of MIMIC-III's tables.
        stays: The stays.
        reference: Reference time of each stay by number, in hours from its start; stays without one have no notes.
        hours: The last whole hour.

    Raises:
        DataError: If a table is missing or cannot be read; the message names it.
    """
    import pandas as pd

    wanted = pd.DataFrame({"stay": stays.stay, "admission": stays.admission})
    wanted["reference"] = [reference.get(number, np.nan) for number in stays.stay.tolist()]
    tables = {"NOTEEVENTS": "NOTEEVENTS", "ICUSTAYS": "ICUSTAYS"}
    with open_tables(source, tables, database="MIMIC-III") as connection:
        connection.register("wanted", wanted.dropna())
        frame = columns_of(
            connection,
            f"""
            SELECT w.stay, n.text FROM NOTEEVENTS n JOIN wanted w ON TRY_CAST(n.hadm_id AS BIGINT) = w.admission
            JOIN ICUSTAYS i ON CAST(i.icustay_id AS BIGINT) = w.stay
            WHERE n.charttime <> '' AND COALESCE(n.iserror, '') <> '1' AND TRIM(n.text) <> '' AND FLOOR(
                DATE_DIFF('second', CAST(i.intime AS TIMESTAMP), CAST(n.charttime AS TIMESTAMP)) / 3600.0 - w.reference
            ) <= {hours}
            ORDER BY w.stay, CAST(n.charttime AS TIMESTAMP) DESC, CAST(n.row_id AS BIGINT) DESC
            """,
        )
    return Notes(frame["stay"].astype(np.int64), frame["text"])


def read_images(source: Path, cxr: Path, stays: Stays, *, hours: int = 48) -> Images:
    """Frontal chest X-rays (view AP) of a stay's patient within some hours of its start.

    Args:
        source: Folder of MIMIC-IV's tables.
        cxr: Folder of MIMIC-CXR-JPG, with its table of metadata.
        stays: The stays.
        hours: Length of the window.

    Raises:
        DataError: If a table is missing or cannot be read; the message names it.
    """
    import pandas as pd

    wanted = pd.DataFrame({"stay": stays.stay, "patient": stays.patient})
    starts = {"ICUSTAYS": _TABLES["mimic4"]["ICUSTAYS"]}
    with open_tables(source, starts, database="MIMIC-IV") as connection:
        connection.register("wanted", wanted)
        times = connection.sql(
            "SELECT w.stay, w.patient, CAST(i.intime AS TIMESTAMP) AS start FROM wanted w "
            "JOIN ICUSTAYS i ON CAST(i.stay_id AS BIGINT) = w.stay"
        ).df()
    with open_tables(cxr, {"METADATA": "mimic-cxr-2.0.0-metadata"}, database="MIMIC-CXR-JPG") as connection:
        connection.register("times", times)
        frame = columns_of(
            connection,
            f"""
            WITH taken AS (
                SELECT dicom_id, CAST(subject_id AS BIGINT) AS patient, CAST(study_id AS BIGINT) AS study,
                       STRPTIME(StudyDate || LPAD(SPLIT_PART(StudyTime, '.', 1), 6, '0'), '%Y%m%d%H%M%S') AS moment
                FROM METADATA WHERE ViewPosition = 'AP'
            )
            SELECT t.stay, t.patient, study, dicom_id FROM taken JOIN times t USING (patient)
            WHERE moment BETWEEN t.start AND t.start + INTERVAL {hours} HOUR ORDER BY t.stay, moment DESC, dicom_id DESC
            """,
        )
    stay, patient, study = (frame[name].astype(np.int64) for name in ("stay", "patient", "study"))
    return Images(stay, patient, study, frame["dicom_id"])


def _stays(connection: Any, database: Database) -> Stays:
    """Makes the temporary table `stays`, and reads it."""
    if database == "mimic3":
        key, same_unit = "icustay_id", "first_careunit = last_careunit AND first_wardid = last_wardid"
        age = "DATE_DIFF('second', CAST(p.dob AS TIMESTAMP), i.intime) / 86400.0 / 365"
    else:
        key, same_unit, age = "stay_id", "first_careunit = last_careunit", "CAST(p.anchor_age AS DOUBLE)"
    inside = "COALESCE({0} BETWEEN admitted AND discharged, FALSE)"
    connection.execute(
        f"""
        CREATE TEMP TABLE stays AS
        WITH whole AS (
            SELECT CAST({key} AS BIGINT) AS stay, CAST(hadm_id AS BIGINT) AS admission,
                   CAST(subject_id AS BIGINT) AS patient, CAST(intime AS TIMESTAMP) AS intime,
                   TRY_CAST(los AS DOUBLE) * 24 AS hours
            FROM ICUSTAYS WHERE {same_unit} AND intime <> '' AND outtime <> ''
        ), single AS (
            SELECT admission FROM whole GROUP BY admission HAVING COUNT(*) = 1
        ), adult AS (
            SELECT i.*, {age} AS age, CAST(a.admittime AS TIMESTAMP) AS admitted,
                   CAST(a.dischtime AS TIMESTAMP) AS discharged, CAST(NULLIF(a.deathtime, '') AS TIMESTAMP) AS death,
                   CAST(NULLIF(p.dod, '') AS TIMESTAMP) AS dod
            FROM whole i JOIN single USING (admission) JOIN ADMISSIONS a ON CAST(a.hadm_id AS BIGINT) = i.admission
            JOIN PATIENTS p ON CAST(p.subject_id AS BIGINT) = i.patient
        ), labelled AS (
            SELECT *, {inside.format("death")} OR {inside.format("dod")} AS died,
                   LEAD(admitted) OVER (PARTITION BY patient ORDER BY admitted, discharged) AS back
            FROM adult WHERE age >= 18
        )
        SELECT stay, admission, patient, intime, hours, age, died, died OR COALESCE(
            FLOOR(DATE_DIFF('second', discharged, back) / 86400.0) < 30, FALSE) AS readmitted FROM labelled
        """
    )
    frame = columns_of(connection, "SELECT * FROM stays ORDER BY stay")
    stay, admission, patient = (frame[name].astype(np.int64) for name in ("stay", "admission", "patient"))
    died, readmitted = (frame[name].astype(bool) for name in ("died", "readmitted"))
    hours, age = (frame[name].astype(np.float64) for name in ("hours", "age"))
    return Stays(stay, admission, patient, hours, died, readmitted, age)


def _events(database: Database, hours: int) -> str:
    """Makes the temporary table `events` (stay, hour, variable, value, text) of the window, of table `stays`."""
    key = "icustay_id" if database == "mimic3" else "stay_id"
    variable_of = [(item, place) for place, variable in enumerate(VARIABLES) for item in variable.items]
    category_of = [
        (place, text, code) for place, variable in enumerate(VARIABLES) for code, text in enumerate(variable.categories)
    ]
    columns = (
        "CAST(hadm_id AS BIGINT) AS admission, {0} AS stay, charttime, CAST(itemid AS BIGINT) AS item, value, "
        + ("LOWER(COALESCE(valueuom, '')) AS unit")
    )
    items = ", ".join(str(item) for item, _ in variable_of)
    return f"""
        CREATE TEMP TABLE events AS
        WITH item_map(item, variable) AS (VALUES {", ".join(map(str, variable_of))}),
        categories(variable, category, code) AS (VALUES {", ".join(f"({v}, '{t}', {c})" for v, t, c in category_of)}),
        recorded AS (
            SELECT {columns.format(f"TRY_CAST({key} AS BIGINT)")} FROM CHARTEVENTS
            WHERE hadm_id <> '' AND TRY_CAST(itemid AS BIGINT) IN ({items})
            UNION ALL SELECT {columns.format("CAST(NULL AS BIGINT)")} FROM LABEVENTS
            WHERE hadm_id <> '' AND TRY_CAST(itemid AS BIGINT) IN ({items})
        ), timed AS (
            SELECT s.stay, DATE_DIFF('second', s.intime, CAST(r.charttime AS TIMESTAMP)) / 3600.0 AS hour, m.variable,
                   TRIM(r.value) AS text, TRY_CAST(TRIM(r.value) AS DOUBLE) AS number, r.unit, r.item
            FROM recorded r JOIN stays s ON r.admission = s.admission AND COALESCE(r.stay, s.stay) = s.stay
            JOIN item_map m ON m.item = r.item WHERE r.charttime <> '' AND r.value <> ''
        ), cleaned AS (
            SELECT t.stay, t.hour, t.variable, t.text, COALESCE(c.code, CASE {_cleaning()} END) AS value
            FROM timed t LEFT JOIN categories c ON c.variable = t.variable AND c.category = {_category()}
            WHERE t.hour > -{_EDGE} AND t.hour < {hours + _EDGE}
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


def _cleaning() -> str:
    """Branches of the number that a text stands for; none for categories."""
    laboratory = "CASE WHEN REGEXP_FULL_MATCH(text, '\\d+(\\.\\d*)?|\\.\\d+') THEN number END"
    heavy = f"item IN {_OUNCES + _POUNDS} OR unit LIKE '%oz%' OR unit LIKE '%lb%'"
    ounces = f"CASE WHEN item = {_OUNCES[0]} OR unit LIKE '%oz%' THEN number / 16 ELSE number END"
    rules = {
        "Systolic blood pressure": "COALESCE(number, TRY_CAST(SPLIT_PART(text, '/', 1) AS DOUBLE))",
        "Diastolic blood pressure": "COALESCE(number, TRY_CAST(SPLIT_PART(text, '/', 2) AS DOUBLE))",
        "Fraction inspired oxygen": "CASE WHEN number > 1 AND unit NOT LIKE '%torr%' THEN number / 100 ELSE number END",
        "Glucose": laboratory,
        "pH": laboratory,
        "Oxygen saturation": f"({laboratory}) * CASE WHEN number <= 1 THEN 100 ELSE 1 END",
        "Temperature": f"CASE WHEN item IN {_FAHRENHEIT} OR unit LIKE '%f%' OR number >= 79 THEN (number - 32) * 5 / 9 "
        "ELSE number END",
        "Height": f"CASE WHEN item IN {_INCHES} OR unit LIKE '%in%' THEN ROUND(number * 2.54) ELSE number END",
        "Weight": f"({ounces}) * CASE WHEN {heavy} THEN 0.453592 ELSE 1 END",
    }
    numbers = {v.name: rules.get(v.name, "number") for v in VARIABLES if not v.categories}
    return " ".join(f"WHEN t.variable = {_PLACE[name]} THEN {rule}" for name, rule in numbers.items())
