"""Notes of stays: MIMIC-III's NOTEEVENTS, and the radiology notes and discharge summaries of MIMIC-IV-Note.

A note counts if it was known by the end of the sample: MIMIC-III by its time of charting (notes without a time of day,
and those marked as errors, are left out), MIMIC-IV by the time of storage. MIMIC-IV's notes are of the admission, or of
no admission and not more than a day before the stay. A **discharge summary** is written after the stay and tells the
outcome: it is a modality of its own, for comparison with papers that use it.

As in CM2's release (``rule="cm2"``): hours are counted from the first event after the first hour and rounded down, and
a stay with five notes or fewer has none. :cite:`wu2025cm2`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from amodal.data.sources.mimic.query import columns_of, find_table, open_tables
from amodal.data.sources.mimic.stays import Database
from amodal.data.sources.mimic.texts import join_notes
from amodal.errors import DataError

__all__ = ["NoteRule", "NoteSource", "Wanted", "note_source", "read_discharge", "read_notes"]

NoteRule = Literal["known", "cm2"]

_KEPT = 5
_NOTE_COLUMNS = ("subject_id", "hadm_id", "charttime", "storetime", "text")


class NoteSource(NamedTuple):
    """Where notes are.

    Attributes:
        folder: Folder of the database.
        table: The table below it.
        database: What messages call it.
        columns: Columns that it must have.
    """

    folder: Path
    table: str
    database: str
    columns: tuple[str, ...]


class Wanted(NamedTuple):
    """Samples whose notes or images are wanted.

    Attributes:
        admission: Number of the admission, int64, of shape (N,).
        patient: Number of the patient, int64, of shape (N,).
        start: When the stay begins, datetime64[us], of shape (N,).
        end: Hour at which the sample ends, float64, of shape (N,).
        reference: Hour from which CM2's rule counts, float64, of shape (N,).
    """

    admission: np.ndarray
    patient: np.ndarray
    start: np.ndarray
    end: np.ndarray
    reference: np.ndarray

    def frame(self) -> Any:
        """As a data frame, with the number of each sample."""
        import pandas as pd

        return pd.DataFrame({"sample": np.arange(len(self.end)), **self._asdict()})


def read_notes(
    source: Path, database: Database, wanted: Wanted, *, folder: Path | None = None, rule: NoteRule = "known"
) -> list[str | None]:
    """The last five notes of each sample as one text, the latest first.

    Args:
        source: Folder of the tables.
        database: Which.
        wanted: The samples.
        folder: Folder of MIMIC-IV-Note.
        rule: Which notes count; see above.

    Returns:
        A text for each sample; None where it has none.

    Raises:
        DataError: If a table is missing or cannot be read; the message names it.
    """
    if database == "mimic3":
        hour = "DATE_DIFF('second', w.start, CAST(n.charttime AS TIMESTAMP)) / 3600.0"
        counts = f"FLOOR({hour} - w.reference) <= w.end" if rule == "cm2" else f"{hour} <= w.end"
        query = f"""
            SELECT w.sample, n.text, CAST(n.charttime AS TIMESTAMP) AS moment, CAST(n.row_id AS BIGINT) AS number
            FROM NOTES n JOIN wanted w ON TRY_CAST(n.hadm_id AS BIGINT) = w.admission
            WHERE n.charttime <> '' AND COALESCE(n.iserror, '') <> '1' AND TRIM(n.text) <> '' AND {counts}
        """
        return _last_texts(note_source(source, database, "notes"), wanted, query, rule)
    known = "CAST(COALESCE(NULLIF(n.storetime, ''), n.charttime) AS TIMESTAMP)"
    hour = f"DATE_DIFF('second', w.start, {known}) / 3600.0"
    query = f"""
        SELECT w.sample, n.text, {known} AS moment, 0 AS number
        FROM NOTES n JOIN wanted w ON CAST(n.subject_id AS BIGINT) = w.patient
        WHERE n.charttime <> '' AND TRIM(n.text) <> '' AND {hour} <= w.end AND (
            TRY_CAST(n.hadm_id AS BIGINT) = w.admission OR (COALESCE(n.hadm_id, '') = '' AND {hour} >= -24))
    """
    return _last_texts(note_source(source, database, "notes", folder=folder), wanted, query, rule)


def read_discharge(source: Path, database: Database, wanted: Wanted, *, folder: Path | None = None) -> list[str | None]:
    """The discharge summary of each sample's admission; see `read_notes`."""
    if database == "mimic3":
        query = """
            SELECT w.sample, n.text, CAST(n.chartdate AS TIMESTAMP) AS moment, CAST(n.row_id AS BIGINT) AS number
            FROM NOTES n JOIN wanted w ON TRY_CAST(n.hadm_id AS BIGINT) = w.admission
            WHERE LOWER(n.category) = 'discharge summary' AND COALESCE(n.iserror, '') <> '1' AND TRIM(n.text) <> ''
        """
        return _last_texts(note_source(source, database, "discharge"), wanted, query, "known")
    query = """
        SELECT w.sample, n.text, CAST(n.charttime AS TIMESTAMP) AS moment, 0 AS number
        FROM NOTES n JOIN wanted w ON TRY_CAST(n.hadm_id AS BIGINT) = w.admission WHERE TRIM(n.text) <> ''
    """
    return _last_texts(note_source(source, database, "discharge", folder=folder), wanted, query, "known")


def note_source(
    source: Path, database: Database, kind: Literal["notes", "discharge"], *, folder: Path | None = None
) -> NoteSource:
    """Where notes or discharge summaries are: MIMIC-III's table, or MIMIC-IV-Note's folder, or its folder note/.

    Raises:
        DataError: If MIMIC-IV-Note's folder or table is missing; the message names it.
    """
    if database == "mimic3":
        columns = ("row_id", "hadm_id", "charttime", "iserror", "text")
        if kind == "discharge":
            columns = ("row_id", "hadm_id", "chartdate", "category", "iserror", "text")
        return NoteSource(source, "NOTEEVENTS", "MIMIC-III", columns)
    if folder is None or not folder.is_dir():
        raise DataError(
            f"the folder of MIMIC-IV-Note is missing: {folder}",
            hint="Give it with notes=…, on the command line --notes.",
        )
    table = "radiology" if kind == "notes" else "discharge"
    table = f"note/{table}" if (folder / "note").is_dir() else table
    find_table(folder, table, "MIMIC-IV-Note")
    return NoteSource(folder, table, "MIMIC-IV-Note", _NOTE_COLUMNS)


def _last_texts(notes: NoteSource, wanted: Wanted, query: str, rule: NoteRule) -> list[str | None]:
    folder, table, database, columns = notes
    with open_tables(folder, {"NOTES": table}, database=database, columns={"NOTES": columns}) as connection:
        connection.register("wanted", wanted.frame())
        frame = columns_of(
            connection,
            f"""
            SELECT sample, text, COUNT(*) OVER (PARTITION BY sample) AS total FROM ({query})
            QUALIFY ROW_NUMBER() OVER (PARTITION BY sample ORDER BY moment DESC, number DESC, text DESC) <= {_KEPT}
            ORDER BY sample, moment DESC, number DESC, text DESC
            """,
        )
    texts: list[str | None] = [None] * len(wanted.end)
    starts, ends = (np.searchsorted(frame["sample"], np.arange(len(texts)), side=side) for side in ("left", "right"))
    for sample in np.flatnonzero(ends > starts).tolist():
        start, end = int(starts[sample]), int(ends[sample])
        if rule == "known" or frame["total"][start] > _KEPT:
            texts[sample] = join_notes(frame["text"][start:end].tolist(), more_than=0)
    return texts
