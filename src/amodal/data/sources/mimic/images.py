"""Chest X-rays of MIMIC-IV's stays, with their reports: MIMIC-CXR-JPG and MIMIC-CXR, joined by patient and time.

Of a sample the last frontal image (view AP) from the start of the stay to the sample's end. It is resized to a shorter
side of 256 and cut to 224 by 224. A report may have been written after the sample's end: it is used without a look at
the time, as in the papers. :cite:`hayat2022medfuse,wu2025cm2`
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from amodal.data.sources.mimic.computed import ComputedArrays
from amodal.data.sources.mimic.notes import Wanted
from amodal.data.sources.mimic.query import columns_of, find_table, open_tables
from amodal.data.sources.mimic.texts import report_text
from amodal.data.store import ArrayStore
from amodal.errors import DataError

__all__ = ["CXR_COLUMNS", "CXR_NAME", "SIDE", "Images", "check_folders", "choose_images", "decode_images",
           "metadata_table"]  # fmt: skip

SIDE = 224
"""Height and width of an image."""

_RESIZED = 256
_METADATA = ("mimic-cxr-2.1.0-metadata", "mimic-cxr-2.0.0-metadata")
CXR_NAME = "MIMIC-CXR-JPG"
CXR_COLUMNS = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime")
"""Columns that the table of metadata must have."""


class Images(NamedTuple):
    """The image of each sample.

    Attributes:
        files: File of each sample's image; None where it has none.
        reports: Its report; None where it has none, or reports are not read.
    """

    files: list[Path | None]
    reports: list[str | None]


def check_folders(cxr: Path | None, reports: Path | None, *, with_report: bool) -> None:
    """Whether the folders of images and reports are there.

    Raises:
        DataError: If not; the message names the folder.
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


def metadata_table(cxr: Path) -> str:
    """The table of metadata in MIMIC-CXR-JPG's folder: of version 2.1.0 or 2.0.0."""
    return next((name for name in _METADATA if _exists(cxr, name)), _METADATA[-1])


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
    check_folders(cxr, reports, with_report=with_report)
    assert cxr is not None
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


def decode_images(files: list[Path | None], place: Path, *, say: Callable[[str], object] | None = None) -> ArrayStore:
    """The images as a store, uint8, of shape (N, 1, 224, 224), each file read once.

    They are appended to a file that is gone on with where it ended.

    Args:
        files: File of each row's image; None where it has none.
        place: File of the decoded images.
        say: Called with a line on progress now and then; None: silent.

    Raises:
        DataError: If an image cannot be read, or `place` not be written; the message names it.
    """
    listed = list(dict.fromkeys(file for file in files if file is not None))
    size = SIDE * SIDE
    try:
        with place.open("ab") as out:
            done = out.tell() // size
            out.truncate(done * size)  # of an image that was being written nothing is used
            for number in range(done, len(listed)):
                out.write(_read_image(listed[number]).tobytes())
                if say is not None and number % 1000 == 999:
                    say(f"{number + 1:,} of {len(listed):,} images")
    except OSError as error:
        raise DataError(f"cannot write {place}: {error.strerror or error}") from error
    decoded = np.memmap(place, np.uint8, "r", shape=(len(listed), 1, SIDE, SIDE))
    number_of = {file: number for number, file in enumerate(listed)}
    numbers = np.array([-1 if file is None else number_of[file] for file in files])
    return ComputedArrays(lambda rows: decoded[numbers[rows]], (len(files), 1, SIDE, SIDE), np.uint8)


def _candidates(cxr: Path, wanted: Wanted) -> list[list]:
    """Sample, patient, study and image of each frontal image in a sample's window, the latest first."""
    tables, columns = {"METADATA": metadata_table(cxr)}, {"METADATA": CXR_COLUMNS}
    with open_tables(cxr, tables, database=CXR_NAME, columns=columns) as connection:
        connection.register("wanted", wanted.frame())
        frame = columns_of(
            connection,
            """
            WITH taken AS (
                SELECT dicom_id, CAST(subject_id AS BIGINT) AS patient, CAST(study_id AS BIGINT) AS study,
                       TRY_STRPTIME(StudyDate || LPAD(SPLIT_PART(StudyTime, '.', 1), 6, '0'), '%Y%m%d%H%M%S') AS moment
                FROM METADATA WHERE ViewPosition = 'AP' AND StudyTime <> ''
            )
            SELECT w.sample, w.patient, study, dicom_id FROM taken JOIN wanted w USING (patient)
            WHERE moment >= w.start AND DATE_DIFF('second', w.start, moment) / 3600.0 <= w.end
            ORDER BY w.sample, moment DESC, dicom_id DESC
            """,
        )
    return [frame[name].tolist() for name in ("sample", "patient", "study", "dicom_id")]


def _exists(folder: Path, table: str) -> bool:
    try:
        find_table(folder, table, CXR_NAME)
    except DataError:
        return False
    return True


def _study(root: Path, patient: int, study: int) -> Path:
    return root / "files" / f"p{str(patient)[:2]}" / f"p{patient}" / f"s{study}"


def _read_report(file: Path) -> str | None:
    return report_text(file.read_text(encoding="utf-8", errors="replace")) if file.is_file() else None


def _read_image(file: Path) -> np.ndarray:
    """An X-ray, its shorter side 256, the middle 224 of both, uint8 (1, 224, 224)."""
    from amodal.data.table.image import Image, decode_image

    try:
        whole = decode_image(file, Image("cxr", "", size=(_RESIZED, _RESIZED), fit="crop"))
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    edge = (_RESIZED - SIDE) // 2
    return whole[:, edge : edge + SIDE, edge : edge + SIDE]
