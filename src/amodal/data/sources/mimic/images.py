"""Chest X-rays of MIMIC-IV's stays, with their reports: MIMIC-CXR-JPG and MIMIC-CXR, joined by patient and time.

Of a sample the last frontal image (view AP) from the start of the stay to the sample's end. It is resized to a shorter
side of 256 and cut to 224 by 224. A report may have been written after the sample's end: it is used without a look at
the time, as in the papers. :cite:`hayat2022medfuse,wu2025cm2`
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from amodal.data.sources.mimic.computed import ComputedArrays
from amodal.data.sources.mimic.notes import Wanted
from amodal.data.sources.mimic.query import columns_of, find_table, open_tables
from amodal.data.sources.mimic.texts import report_text
from amodal.errors import DataError

__all__ = ["SIDE", "Images", "choose_images", "image_store"]

SIDE = 224
"""Height and width of an image."""

_RESIZED = 256
_METADATA = ("mimic-cxr-2.1.0-metadata", "mimic-cxr-2.0.0-metadata")
_COLUMNS = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime")


class Images(NamedTuple):
    """The image of each sample.

    Attributes:
        files: File of each sample's image; None where it has none.
        reports: Its report; None where it has none, or reports are not read.
    """

    files: list[Path | None]
    reports: list[str | None]


def choose_images(cxr: Path | None, reports: Path | None, wanted: Wanted, *, with_report: bool) -> Images:
    """The last frontal image of each sample.

    Args:
        cxr: Folder of MIMIC-CXR-JPG, with its table of metadata and files/.
        reports: Folder of MIMIC-CXR's reports, with files/.
        wanted: The samples.
        with_report: Whether images without a report that can be read do not count, as in CM2's experiments.

    Raises:
        DataError: If a folder, a table or an image is missing; the message names it.
    """
    if cxr is None or not cxr.is_dir():
        raise DataError(
            f"the folder of MIMIC-CXR-JPG is missing: {cxr}", hint="Give it with cxr=…, on the command line --cxr."
        )
    if with_report and (reports is None or not reports.is_dir()):
        raise DataError(
            f"the folder of MIMIC-CXR's reports is missing: {reports}",
            hint="Give it with reports=…, on the command line --reports.",
        )
    files: list[Path | None] = [None] * len(wanted.end)
    texts: list[str | None] = [None] * len(wanted.end)
    for sample, patient, study, dicom in zip(*_candidates(cxr, wanted)):
        if files[sample] is not None:
            continue
        if with_report:
            assert reports is not None
            texts[sample] = _read_report(_study(reports, patient, study).with_suffix(".txt"))
        if not with_report or texts[sample] is not None:
            files[sample] = _study(cxr, patient, study) / f"{dicom}.jpg"
    for file in dict.fromkeys(file for file in files if file is not None):
        if not file.is_file():
            raise DataError(f"an image of MIMIC-CXR-JPG is missing: {file}")
    return Images(files, texts)


def image_store(files: list[Path | None]) -> ComputedArrays:
    """The images as a store that reads them while it is written, uint8, of shape (N, 1, 224, 224).

    Args:
        files: File of each row's image; rows with None are never read.
    """

    def read(rows: np.ndarray) -> np.ndarray:
        return np.stack([_read_image(file) for file in (files[row] for row in rows.tolist()) if file is not None])

    return ComputedArrays(read, (len(files), 1, SIDE, SIDE), np.uint8)


def _candidates(cxr: Path, wanted: Wanted) -> list[list]:
    """Sample, patient, study and image of each frontal image in a sample's window, the latest first."""
    table = next((name for name in _METADATA if _exists(cxr, name)), _METADATA[-1])
    with open_tables(cxr, {"METADATA": table}, database="MIMIC-CXR-JPG", columns={"METADATA": _COLUMNS}) as connection:
        connection.register("wanted", wanted.frame())
        frame = columns_of(
            connection,
            """
            WITH taken AS (
                SELECT dicom_id, CAST(subject_id AS BIGINT) AS patient, CAST(study_id AS BIGINT) AS study,
                       STRPTIME(StudyDate || LPAD(SPLIT_PART(StudyTime, '.', 1), 6, '0'), '%Y%m%d%H%M%S') AS moment
                FROM METADATA WHERE ViewPosition = 'AP'
            )
            SELECT w.sample, w.patient, study, dicom_id FROM taken JOIN wanted w USING (patient)
            WHERE moment >= w.start AND DATE_DIFF('second', w.start, moment) / 3600.0 <= w.end
            ORDER BY w.sample, moment DESC, dicom_id DESC
            """,
        )
    return [frame[name].tolist() for name in ("sample", "patient", "study", "dicom_id")]


def _exists(folder: Path, table: str) -> bool:
    try:
        find_table(folder, table, "MIMIC-CXR-JPG")
    except DataError:
        return False
    return True


def _study(root: Path, patient: int, study: int) -> Path:
    return root / "files" / f"p{str(patient)[:2]}" / f"p{patient}" / f"s{study}"


def _read_report(file: Path) -> str | None:
    return report_text(file.read_text(encoding="utf-8", errors="replace")) if file.is_file() else None


@lru_cache(maxsize=64)  # samples of one stay often share theirs
def _read_image(file: Path) -> np.ndarray:
    """An X-ray, its shorter side 256, the middle 224 of both, uint8 (1, 224, 224)."""
    from amodal.data.table.image import Image, decode_image

    try:
        whole = decode_image(file, Image("cxr", "", size=(_RESIZED, _RESIZED), fit="crop"))
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    edge = (_RESIZED - SIDE) // 2
    return whole[:, edge : edge + SIDE, edge : edge + SIDE]
