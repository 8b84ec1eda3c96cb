"""Stays in intensive care of MIMIC-III and MIMIC-IV, by the benchmark's rules, with what is known of each.

No transfer between units (MIMIC-III: ward and care unit; MIMIC-IV: care unit), one stay an admission after that, 18
years or more. **Readmission** within 30 days: death in hospital, or the next of the patient's stays above starts less
than 30 whole days after this discharge. Readmissions that are no such stay cannot be seen, and death after discharge
does not count. :cite:`harutyunyan2019multitask,wu2025cm2`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from amodal.data.sources.mimic.query import columns_of, find_table, open_tables
from amodal.errors import DataError

__all__ = ["DATABASES", "STATIC", "STAY_COLUMNS", "TABLES", "Database", "Stays", "create_stays", "event_columns",
           "read_stays"]  # fmt: skip

Database = Literal["mimic3", "mimic4"]

DATABASES = {"mimic3": "MIMIC-III", "mimic4": "MIMIC-IV"}
"""Names of the databases for people."""

TABLES = {
    "mimic3": {name: name for name in ("ICUSTAYS", "ADMISSIONS", "PATIENTS", "CHARTEVENTS", "LABEVENTS")},
    "mimic4": {
        "ICUSTAYS": "icu/icustays",
        "ADMISSIONS": "hosp/admissions",
        "PATIENTS": "hosp/patients",
        "CHARTEVENTS": "icu/chartevents",
        "LABEVENTS": "hosp/labevents",
    },
}
"""Tables of stays and events, by the name of their view."""

_BOTH = {
    "ADMISSIONS": ("hadm_id", "admittime", "dischtime", "deathtime", "admission_type"),
    "CHARTEVENTS": ("hadm_id", "charttime", "itemid", "value", "valueuom"),
    "LABEVENTS": ("hadm_id", "charttime", "itemid", "value", "valueuom"),
}
_STAY = ("subject_id", "hadm_id", "first_careunit", "last_careunit", "intime", "outtime", "los")
STAY_COLUMNS = {
    "mimic3": _BOTH
    | {
        "ICUSTAYS": (*_STAY, "icustay_id", "first_wardid", "last_wardid"),
        "PATIENTS": ("subject_id", "gender", "dob", "dod"),
    },
    "mimic4": _BOTH | {"ICUSTAYS": (*_STAY, "stay_id"), "PATIENTS": ("subject_id", "gender", "anchor_age", "dod")},
}
"""Columns that the tables must have."""

_STAY_TABLES = ("ICUSTAYS", "ADMISSIONS", "PATIENTS")
_OLDEST = 90.0  # ages above 89 are hidden upstream: shifted by centuries in MIMIC-III, 91 in MIMIC-IV

STATIC = (
    ("Age", "years"),
    ("Female", "1 = yes"),
    ("Emergency admission", "1 = yes"),
    ("Urgent admission", "1 = yes"),
    ("Elective admission", "1 = yes"),
)
"""Features that do not change over a stay, with their units; ages above 89 are 90."""


class Stays(NamedTuple):
    """Stays in intensive care, in the order of their numbers.

    Attributes:
        stay: Number of the stay, int64, of shape (N,).
        admission: Number of the admission, int64, of shape (N,).
        patient: Number of the patient, int64, of shape (N,).
        start: When the stay begins, datetime64[us], of shape (N,).
        hours: Length of the stay, float64, of shape (N,).
        died: Died in hospital, bool, of shape (N,).
        readmitted: Died in hospital or came back within 30 days, bool, of shape (N,).
        death: Hour of death after the start, of those with a time of death, float64, of shape (N,); else infinite.
        static: Values of `STATIC`, float32, of shape (N, 5).
    """

    stay: np.ndarray
    admission: np.ndarray
    patient: np.ndarray
    start: np.ndarray
    hours: np.ndarray
    died: np.ndarray
    readmitted: np.ndarray
    death: np.ndarray
    static: np.ndarray

    @property
    def age(self) -> np.ndarray:
        """In years, float64, of shape (N,)."""
        return self.static[:, 0].astype(np.float64)

    def take(self, rows: np.ndarray) -> Stays:
        """Some of the rows."""
        return Stays(*(column[rows] for column in self))


def event_columns(database: Database) -> dict[str, tuple[str, ...]]:
    """Columns that the tables of stays and events must have."""
    columns: dict[str, tuple[str, ...]] = {**STAY_COLUMNS[database]}
    columns["CHARTEVENTS"] = (*columns["CHARTEVENTS"], "icustay_id" if database == "mimic3" else "stay_id")
    return columns


def read_stays(source: Path, database: Database) -> Stays:
    """All stays of adults without transfer, one an admission, with both labels.

    Args:
        source: Folder of the tables: MIMIC-III's own, or MIMIC-IV's with hosp/ and icu/.
        database: Which.

    Raises:
        DataError: If a table or a column is missing or cannot be read; the message names the file.
    """
    tables = {name: TABLES[database][name] for name in _STAY_TABLES}
    with open_tables(source, tables, database=DATABASES[database], columns=STAY_COLUMNS[database]) as connection:
        return create_stays(connection, database, source)


def create_stays(connection: Any, database: Database, source: Path) -> Stays:
    """Makes the temporary table `stays`, and reads it.

    Args:
        connection: With the views ICUSTAYS, ADMISSIONS and PATIENTS.
        database: Which.
        source: Folder of the tables, for messages.

    Raises:
        DataError: If a table has a stay, an admission or a patient twice, or there is no stay of an adult.
    """
    _check_keys(connection, database, source)
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
            SELECT i.*, {age} AS age, UPPER(COALESCE(p.gender, '')) = 'F' AS female, UPPER(a.admission_type) AS kind,
                   CAST(a.admittime AS TIMESTAMP) AS admitted, CAST(a.dischtime AS TIMESTAMP) AS discharged,
                   CAST(NULLIF(a.deathtime, '') AS TIMESTAMP) AS death, CAST(NULLIF(p.dod, '') AS TIMESTAMP) AS dod
            FROM whole i JOIN single USING (admission) JOIN ADMISSIONS a ON CAST(a.hadm_id AS BIGINT) = i.admission
            JOIN PATIENTS p ON CAST(p.subject_id AS BIGINT) = i.patient
        ), labelled AS (
            SELECT *, {inside.format("death")} OR {inside.format("dod")} AS died,
                   LEAD(admitted) OVER (PARTITION BY patient ORDER BY admitted, discharged) AS back
            FROM adult WHERE age >= 18
        )
        SELECT stay, admission, patient, intime, hours, died, died OR COALESCE(
                   FLOOR(DATE_DIFF('second', discharged, back) / 86400.0) < 30, FALSE) AS readmitted,
               COALESCE(DATE_DIFF('second', intime, death) / 3600.0, 'inf') AS death,
               CASE WHEN age < 89.5 THEN age ELSE {_OLDEST} END AS age, female,
               COALESCE(kind LIKE '%EMER%', FALSE) AS emergency, COALESCE(kind LIKE '%URGENT%', FALSE) AS urgent,
               COALESCE(kind LIKE '%ELECTIVE%' OR kind LIKE '%SURGICAL SAME DAY%', FALSE) AS elective
        FROM labelled WHERE hours IS NOT NULL
        """
    )
    frame = columns_of(connection, "SELECT * FROM stays ORDER BY stay")
    if not len(frame["stay"]):
        raise DataError(f"no stay of an adult without transfer is in {_file(source, database, 'ICUSTAYS')}")
    stay, admission, patient = (frame[name].astype(np.int64) for name in ("stay", "admission", "patient"))
    start, hours = frame["intime"].astype("datetime64[us]"), frame["hours"].astype(np.float64)
    died, readmitted = (frame[name].astype(bool) for name in ("died", "readmitted"))
    static = [frame[name].astype(np.float32) for name in ("age", "female", "emergency", "urgent", "elective")]
    death = frame["death"].astype(np.float64)
    return Stays(stay, admission, patient, start, hours, died, readmitted, death, np.stack(static, axis=1))


def _check_keys(connection: Any, database: Database, source: Path) -> None:
    """Each stay, admission and patient has one row: tables that were put together twice would double samples."""
    keys = {"ICUSTAYS": "icustay_id" if database == "mimic3" else "stay_id", "ADMISSIONS": "hadm_id",
            "PATIENTS": "subject_id"}  # fmt: skip
    for table, key in keys.items():
        query = f"SELECT {key}, COUNT(*) FROM {table} GROUP BY {key} HAVING COUNT(*) > 1 ORDER BY {key} LIMIT 1"
        for value, count in connection.execute(query).fetchall():
            raise DataError(f"{_file(source, database, table)} has {count} rows for {key} {value}", expected="one")


def _file(source: Path, database: Database, table: str) -> Path:
    return find_table(source, TABLES[database][table], DATABASES[database])
