"""The emergency department's part of an admission: MIMIC-IV-ED's triage, chief complaint and vital signs.

Of each sample the last visit that ended in its admission (by the admission's number) and began before the stay.
Patients who did not come through the emergency department have none of it: absence that depends on how somebody was
admitted. Temperatures of 79 and more are Fahrenheit and are converted; what is no number counts as not measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from amodal.data.sources.mimic.notes import Wanted
from amodal.data.sources.mimic.query import columns_of, open_tables
from amodal.data.store import ArrayStore, RaggedStore

__all__ = ["ED_COLUMNS", "ED_NAME", "ED_TABLES", "TRIAGE", "VITALS", "Emergency", "read_emergency"]

ED_NAME = "MIMIC-IV-ED"
ED_TABLES = {"EDSTAYS": "ed/edstays", "TRIAGE": "ed/triage", "VITALSIGN": "ed/vitalsign"}
"""Tables by the name of their view."""

_MEASURED = (
    ("temperature", "Temperature", "degC"),
    ("heartrate", "Heart rate", "1/min"),
    ("resprate", "Respiratory rate", "1/min"),
    ("o2sat", "Oxygen saturation", "%"),
    ("sbp", "Systolic blood pressure", "mmHg"),
    ("dbp", "Diastolic blood pressure", "mmHg"),
)
_TRIAGE = (*_MEASURED, ("pain", "Pain", "0 to 10"), ("acuity", "Acuity", "1 worst, 5 least"))
ED_COLUMNS = {
    "EDSTAYS": ("subject_id", "hadm_id", "stay_id", "intime"),
    "TRIAGE": ("stay_id", *(column for column, *_ in _TRIAGE), "chiefcomplaint"),
    "VITALSIGN": ("stay_id", "charttime", *(column for column, *_ in _MEASURED)),
}
"""Columns that the tables must have."""

TRIAGE = tuple((name, units) for _, name, units in _TRIAGE)
"""Features of triage with their units."""

VITALS = (("Hours", "h"), *((name, units) for _, name, units in _MEASURED))
"""Columns of the vital signs with their units; hours are counted from the stay's start and mostly negative."""


class Emergency(NamedTuple):
    """What the emergency department knew of each sample.

    Attributes:
        triage: Values (N, 8).
        vitals: Rows (T_i, 7).
        complaints: Chief complaint; None where there is none.
        visited: Whether there was a visit, bool (N,).
    """

    triage: ArrayStore
    vitals: RaggedStore
    complaints: list[str | None]
    visited: np.ndarray


def read_emergency(folder: Path, wanted: Wanted) -> Emergency:
    """What the emergency department knew of each sample.

    Args:
        folder: Folder of MIMIC-IV-ED, with ed/.
        wanted: The samples.

    Raises:
        DataError: If a table is missing or cannot be read; the message names it.
    """
    n = len(wanted.end)
    with open_tables(folder, ED_TABLES, database=ED_NAME, columns=ED_COLUMNS) as connection:
        connection.register("wanted", wanted.frame())
        connection.execute(
            """
            CREATE TEMP TABLE visits AS
            SELECT w.sample, w.start, w."end", e.stay_id AS visit FROM EDSTAYS e
            JOIN wanted w ON TRY_CAST(e.hadm_id AS BIGINT) = w.admission WHERE CAST(e.intime AS TIMESTAMP) <= w.start
            QUALIFY ROW_NUMBER() OVER (PARTITION BY w.sample ORDER BY CAST(e.intime AS TIMESTAMP) DESC, visit DESC) = 1
            """
        )
        triage = columns_of(
            connection,
            f"SELECT v.sample, TRIM(t.chiefcomplaint) AS complaint, {_numbers(_TRIAGE)} FROM visits v "
            "JOIN TRIAGE t ON t.stay_id = v.visit ORDER BY v.sample",
        )
        hour = "DATE_DIFF('second', v.start, CAST(t.charttime AS TIMESTAMP)) / 3600.0"
        vitals = columns_of(
            connection,
            f"SELECT v.sample, {hour} AS hour, {_numbers(_MEASURED)} FROM visits v "
            f"JOIN VITALSIGN t ON t.stay_id = v.visit WHERE t.charttime <> '' AND {hour} <= v.\"end\" "
            "ORDER BY v.sample, hour",
        )
    values = np.full((n, len(_TRIAGE)), np.nan, np.float32)
    values[triage["sample"]] = _stack(triage, _TRIAGE)
    complaints: list[str | None] = [None] * n
    for sample, text in zip(triage["sample"].tolist(), triage["complaint"].tolist()):
        complaints[sample] = str(text) if text else None
    visited = np.zeros(n, bool)
    visited[triage["sample"]] = ~np.isnan(values[triage["sample"]]).all(axis=1)
    rows = np.column_stack([vitals["hour"], _stack(vitals, _MEASURED)]).astype(np.float32)
    counts = np.bincount(vitals["sample"].astype(np.int64), minlength=n)
    offsets = np.concatenate([[0], counts.cumsum()]).astype(np.int64)
    series = RaggedStore(rows, offsets, width=max(1, int(counts.max(initial=0))), gaps=True)
    return Emergency(ArrayStore(values, gaps=True), series, complaints, visited)


def _numbers(columns: tuple[tuple[str, str, str], ...]) -> str:
    read = {c: f"COALESCE(TRY_CAST(t.{c} AS DOUBLE), 'nan')" for c, *_ in columns}
    if "temperature" in read:
        number = read["temperature"]
        read["temperature"] = f"CASE WHEN {number} >= 79 THEN ({number} - 32) * 5 / 9 ELSE {number} END"
    return ", ".join(f"{expression} AS {column}" for column, expression in read.items())


def _stack(frame: dict[str, np.ndarray], columns: tuple[tuple[str, str, str], ...]) -> np.ndarray:
    return np.stack([frame[column].astype(np.float32) for column, *_ in columns], axis=1)
