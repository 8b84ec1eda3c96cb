"""MIMIC-III's tables, read with DuckDB: first admissions, their measurements of the SAPS-II variables, and outcomes.

Item numbers and their units are those of the SAPS-II score, CareVue and MetaVision alike. A value out of its variable's
range cannot be from a living adult and is left out, as are rows that are marked as errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amodal.data.sources.mimic.query import columns_of, open_tables

__all__ = ["ICD9_GROUPS", "RAW", "Admissions", "Events", "Variable", "read_admissions", "read_events", "read_icd9"]


class Variable(NamedTuple):
    """A measured variable.

    Attributes:
        name: Its name.
        units: Its units.
        low: Least possible value.
        high: Largest possible value.
    """

    name: str
    units: str
    low: float
    high: float


RAW = (
    Variable("GCS", "points", 3, 15),
    Variable("SysBP", "mmHg", 1, 400),
    Variable("HR", "1/min", 1, 300),
    Variable("Temp", "degC", 20, 46),
    Variable("PaO2", "mmHg", 10, 800),
    Variable("FiO2", "fraction", 0.2, 1),
    Variable("Urine", "mL", -5000, 10_000),
    Variable("BUN", "mg/dL", 1, 300),
    Variable("WBC", "10^9/L", 0, 1000),
    Variable("HCO3", "mmol/L", 1, 100),
    Variable("Na", "mmol/L", 50, 250),
    Variable("K", "mmol/L", 0.5, 20),
    Variable("Bilirubin", "mg/dL", 0, 150),
)
"""The thirteen variables that are read, in the benchmark's order."""

ICD9_GROUPS = (
    (1, 139), (140, 239), (240, 279), (280, 289), (290, 319), (320, 389), (390, 459), (460, 519), (520, 579),
    (580, 629), (630, 677), (680, 709), (710, 739), (740, 759), (760, 779), (780, 789), (790, 796), (797, 799),
    (800, 999), "V", "E",
)  # fmt: skip
"""Groups of ICD-9 diagnoses: the first and last three-digit code, or the letter."""

# Expressions of the value in RAW's units, by table: (items, position in RAW, expression).
_CHARTED = (
    ((51, 442, 455, 6701, 220179, 220050), 1, "valuenum"),
    ((211, 220045), 2, "valuenum"),
    ((676, 677, 223762), 3, "valuenum"),
    ((678, 679, 223761), 3, "(valuenum - 32) / 1.8"),
    ((190, 223835, 3420, 3422), 5, "CASE WHEN valuenum > 1 THEN valuenum / 100 ELSE valuenum END"),
)
_EYES, _VERBAL, _MOTOR = (184, 220739), (723, 223900), (454, 223901)
_LABS = {50821: 4, 51006: 7, 51300: 8, 51301: 8, 50882: 9, 50824: 10, 50983: 10, 50822: 11, 50971: 11, 50885: 12}
_FIO2_LAB = 50816
_URINE = (
    40055, 43175, 40069, 40094, 40715, 40473, 40085, 40057, 40056, 40405, 40428, 40096, 40651,
    226559, 226560, 226561, 226584, 226563, 226564, 226565, 226567, 226557, 226558, 227488, 227489,
)  # fmt: skip
_IRRIGANT_IN = 227488  # goes in, so that it counts against what comes out

_HEMATOLOGIC = (
    ("20000", "20238"), ("20240", "20248"), ("20250", "20302"), ("20302", "20382"), ("20400", "20522"),
    ("20580", "20702"), ("20720", "20892"), ("2386", "2386"), ("2733", "2733"),
)  # fmt: skip
_METASTATIC = (("1960", "1991"), ("20970", "20975"), ("20979", "20979"), ("78951", "78951"))
_AIDS = (("042", "0449"),)


_COLUMNS = {
    "ICUSTAYS": ("hadm_id", "intime"),
    "SERVICES": ("hadm_id", "transfertime", "curr_service"),
    "ADMISSIONS": ("hadm_id", "subject_id", "admittime", "dischtime", "deathtime", "admission_type",
                   "hospital_expire_flag"),
    "PATIENTS": ("subject_id", "dob", "dod"),
    "CHARTEVENTS": ("hadm_id", "charttime", "itemid", "valuenum", "error"),
    "LABEVENTS": ("hadm_id", "charttime", "itemid", "valuenum"),
    "OUTPUTEVENTS": ("hadm_id", "charttime", "itemid", "value", "iserror"),
    "DIAGNOSES_ICD": ("hadm_id", "icd9_code"),
}  # fmt: skip
"""Columns that the tables must have."""


class Admissions(NamedTuple):
    """Each patient's first admission to intensive care, of those of 15 years and more.

    Attributes:
        admission: Number of the admission, int64, of shape (N,).
        patient: Number of the patient, int64, of shape (N,).
        age: In days, float64, of shape (N,); shifted ages beyond 200 years count as 91.4 years.
        kind: 0 medical, 1 scheduled surgical, 2 unscheduled surgical; int64, of shape (N,).
        flags: Died in hospital, within 1, 2, 3 days of coming to intensive care, and within 30 days and a year of
            leaving the hospital (the latter also if in it); bool, of shape (N, 6).
    """

    admission: np.ndarray
    patient: np.ndarray
    age: np.ndarray
    kind: np.ndarray
    flags: np.ndarray


class Events(NamedTuple):
    """Measurements, sorted by admission and time.

    Attributes:
        admission: Number of the admission, int64, of shape (R,).
        minute: Minutes since 1970, int64, of shape (R,).
        variable: Position in `RAW`, int64, of shape (R,).
        value: float64, of shape (R,).
    """

    admission: np.ndarray
    minute: np.ndarray
    variable: np.ndarray
    value: np.ndarray


def read_admissions(source: Path) -> Admissions:
    """Reads who was admitted, and what became of them.

    Args:
        source: Folder of MIMIC-III's tables, .csv or .csv.gz.

    Raises:
        DataError: If a table is missing or cannot be read; the message names it.
    """
    later = ((4, 30), (5, 365))
    frame = _query(
        source,
        f"""
        WITH stay AS (
            SELECT CAST(hadm_id AS BIGINT) AS hadm, MIN(CAST(intime AS TIMESTAMP)) AS intime
            FROM {{ICUSTAYS}} GROUP BY 1
        ), service AS (
            SELECT CAST(hadm_id AS BIGINT) AS hadm,
                   ARG_MIN(curr_service, CAST(transfertime AS TIMESTAMP)) AS curr FROM {{SERVICES}} GROUP BY 1
        ), first AS (
            SELECT CAST(a.hadm_id AS BIGINT) AS hadm, CAST(a.subject_id AS BIGINT) AS subject,
                   CAST(a.admittime AS TIMESTAMP) AS admitted, CAST(a.dischtime AS TIMESTAMP) AS left_at,
                   CAST(NULLIF(a.deathtime, '') AS TIMESTAMP) AS died, a.admission_type AS how,
                   CAST(a.hospital_expire_flag AS BIGINT) AS in_hospital, s.intime, v.curr,
                   CAST(p.dob AS TIMESTAMP) AS dob, CAST(NULLIF(p.dod, '') AS TIMESTAMP) AS dod,
                   ROW_NUMBER() OVER (PARTITION BY a.subject_id ORDER BY CAST(a.admittime AS TIMESTAMP), a.hadm_id) AS n
            FROM {{ADMISSIONS}} a JOIN stay s ON s.hadm = CAST(a.hadm_id AS BIGINT)
            JOIN {{PATIENTS}} p ON p.subject_id = a.subject_id LEFT JOIN service v ON v.hadm = CAST(a.hadm_id AS BIGINT)
        )
        SELECT hadm, subject, DATE_DIFF('second', dob, admitted) / 86400.0 AS age,
               CASE WHEN NOT COALESCE(curr LIKE '%SURG' OR curr = 'ORTHO', FALSE) THEN 0
                    WHEN how = 'ELECTIVE' THEN 1 ELSE 2 END AS kind,
               in_hospital = 1 AS f0,
               {", ".join(f"COALESCE(died <= intime + INTERVAL {d} DAY, FALSE) AS f{d}" for d in (1, 2, 3))},
               {", ".join(f"COALESCE(dod <= left_at + INTERVAL {d} DAY, FALSE) AS f{i}" for i, d in later)}
        FROM first WHERE n = 1 AND DATE_DIFF('day', dob, admitted) >= 15 * 365.242 ORDER BY hadm
        """,
        ("ICUSTAYS", "SERVICES", "ADMISSIONS", "PATIENTS"),
    )
    age = np.where(frame["age"] > 200 * 365.242, 91.4 * 365.242, frame["age"])
    flags = np.stack([frame[f"f{i}"].astype(bool) for i in range(6)], axis=1)
    return Admissions(frame["hadm"], frame["subject"], age, frame["kind"].astype(np.int64), flags)


def read_events(source: Path) -> Events:
    """Reads all measurements of the variables of `RAW`.

    The coma scale is the sum of its three parts where all are charted at one time.

    Args:
        source: Folder of MIMIC-III's tables, .csv or .csv.gz.

    Raises:
        DataError: If a table is missing or cannot be read; the message names it.
    """
    charted = "CAST(hadm_id AS BIGINT) AS hadm, CAST(charttime AS TIMESTAMP) AS taken"
    parts = [
        f"SELECT hadm, taken, {position} AS variable, {expression} AS value FROM charted WHERE item IN {items}"
        for items, position, expression in _CHARTED
    ]
    scale = (*_EYES, *_VERBAL, *_MOTOR)
    frame = _query(
        source,
        f"""
        WITH charted AS (
            SELECT {charted}, CAST(itemid AS BIGINT) AS item, TRY_CAST(valuenum AS DOUBLE) AS valuenum
            FROM {{CHARTEVENTS}} WHERE COALESCE(error, '') <> '1' AND hadm_id IS NOT NULL
            AND CAST(itemid AS BIGINT) IN {(*scale, *(i for items, _, _ in _CHARTED for i in items))}
        ), coma AS (
            SELECT hadm, taken, MIN(CASE WHEN item IN {_EYES} THEN valuenum END) AS eyes,
                   MIN(CASE WHEN item IN {_VERBAL} THEN valuenum END) AS verbal,
                   MIN(CASE WHEN item IN {_MOTOR} THEN valuenum END) AS motor
            FROM charted WHERE item IN {scale} GROUP BY hadm, taken
        ), lab AS (
            SELECT {charted}, CAST(itemid AS BIGINT) AS item, TRY_CAST(valuenum AS DOUBLE) AS valuenum
            FROM {{LABEVENTS}} WHERE hadm_id IS NOT NULL AND CAST(itemid AS BIGINT) IN {(_FIO2_LAB, *_LABS)}
        ), events AS (
            SELECT hadm, taken, 0 AS variable, eyes + verbal + motor AS value FROM coma
            UNION ALL {" UNION ALL ".join(parts)}
            UNION ALL SELECT hadm, taken, 5, valuenum / 100 FROM lab WHERE item = {_FIO2_LAB}
            UNION ALL SELECT hadm, taken, CASE {" ".join(f"WHEN item = {i} THEN {v}" for i, v in _LABS.items())} END,
                valuenum FROM lab WHERE item <> {_FIO2_LAB}
            UNION ALL SELECT {charted}, 6,
                CASE WHEN CAST(itemid AS BIGINT) = {_IRRIGANT_IN} THEN -1 ELSE 1 END * TRY_CAST(value AS DOUBLE)
                FROM {{OUTPUTEVENTS}} WHERE COALESCE(iserror, '') <> '1' AND hadm_id IS NOT NULL
                AND CAST(itemid AS BIGINT) IN {_URINE}
        )
        SELECT hadm, CAST(EPOCH(taken) AS BIGINT) // 60 AS minute, variable, value FROM events
        WHERE taken IS NOT NULL AND value BETWEEN CASE {_bounds("low")} END AND CASE {_bounds("high")} END
        ORDER BY hadm, minute, variable, value
        """,
        ("CHARTEVENTS", "LABEVENTS", "OUTPUTEVENTS"),
    )
    admission, minute, variable = (frame[name].astype(np.int64) for name in ("hadm", "minute", "variable"))
    return Events(admission, minute, variable, frame["value"])


def read_icd9(source: Path, admission: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads diagnoses.

    Args:
        source: Folder of MIMIC-III's tables, .csv or .csv.gz.
        admission: Numbers of the admissions, of shape (N,).

    Returns:
        Whether each admission has AIDS, a haematologic malignancy, a metastatic cancer, bool (N, 3); and a diagnosis of
        each of `ICD9_GROUPS`, bool (N, 21).

    Raises:
        DataError: If the table is missing or cannot be read.
    """
    frame = _query(
        source,
        "SELECT CAST(hadm_id AS BIGINT) AS hadm, TRIM(icd9_code) AS code FROM {DIAGNOSES_ICD} WHERE icd9_code <> ''",
        ("DIAGNOSES_ICD",),
    )
    place = {number: row for row, number in enumerate(admission.tolist())}
    conditions = np.zeros((len(admission), 3), bool)
    groups = np.zeros((len(admission), len(ICD9_GROUPS)), bool)
    for number, code in zip(frame["hadm"].tolist(), frame["code"].tolist()):
        row = place.get(number)
        if row is None or code is None:
            continue
        for column, ranges in enumerate((_AIDS, _HEMATOLOGIC, _METASTATIC)):
            conditions[row, column] |= any(low <= code <= high for low, high in ranges)
        group = icd9_group(str(code))
        if group is not None:
            groups[row, group] = True
    return conditions, groups


def icd9_group(code: str) -> int | None:
    """Position in `ICD9_GROUPS` of a code without its dot, as MIMIC-III writes it.

    Example:
        >>> icd9_group("4280"), icd9_group("V4581"), icd9_group("E8497"), icd9_group("6791")
        (6, 19, 20, None)
    """
    if code[:1] in ("V", "E"):
        return ICD9_GROUPS.index(code[0])
    if not code[:3].isdigit():
        return None
    for position, group in enumerate(ICD9_GROUPS):
        if isinstance(group, tuple) and group[0] <= int(code[:3]) <= group[1]:
            return position
    return None


def _bounds(which: str) -> str:
    return " ".join(f"WHEN variable = {i} THEN {getattr(variable, which)}" for i, variable in enumerate(RAW))


def _query(source: Path, query: str, tables: tuple[str, ...]) -> dict[str, Any]:
    """Runs a query in which {TABLE} stands for a table; columns as arrays."""
    for table in tables:
        query = query.replace("{" + table + "}", table)
    columns = {table: _COLUMNS[table] for table in tables}
    with open_tables(source, {t: t for t in tables}, database="MIMIC-III", columns=columns) as connection:
        return columns_of(connection, query)
