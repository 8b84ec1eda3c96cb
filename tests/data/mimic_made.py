"""Made events, notes, images and reports beside the open demos' own stays, in the databases' layout."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

CHART = ("hadm_id", "stay_id", "itemid", "charttime", "value", "valueuom")
LABS = ("hadm_id", "itemid", "charttime", "value", "valueuom")
STAYS = (
    "subject_id", "hadm_id", "stay_id", "first_careunit", "last_careunit", "intime", "outtime", "los",
)  # fmt: skip
NOTES = ("note_id", "subject_id", "hadm_id", "note_type", "note_seq", "charttime", "storetime", "text")
REPORT = "FINAL REPORT\n COMPARISON: None.\n\n FINDINGS: Clear lungs.\n Heart normal.\n\n IMPRESSION: No edema.\n"


def write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A gzipped table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(text.getvalue())


def read(path: Path) -> list[dict[str, str]]:
    """A gzipped table's rows."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def link(source: Path, folder: Path, *, without: Sequence[str] = ()) -> Path:
    """A folder with links to the files of another."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and file.name not in without:
            (folder / file.name).symlink_to(file)
    return folder


def add_notes(folder: Path, stays: Iterable[tuple[int, int, str]], count: int = 7) -> None:
    """NOTEEVENTS with some notes an hour apart for (admission, patient, time) of each stay."""
    columns = ("row_id", "subject_id", "hadm_id", "chartdate", "charttime", "category", "iserror", "text")
    rows: list[tuple[object, ...]] = []
    for admission, patient, start in stays:
        for i in range(count):
            taken = np.datetime64(start.replace(" ", "T")) + np.timedelta64(i + 2, "h")
            text = f"the lungs are clear {i}\nElectronically signed by A"
            when = str(taken).replace("T", " ")
            rows.append((len(rows), patient, admission, when[:10], when, "Nursing", "", text))
        rows.append((len(rows), patient, admission, start[:10], "", "Discharge summary", "", "died"))
    write(folder / "NOTEEVENTS.csv.gz", columns, rows)


def add_mimic4_events(demo: Path, folder: Path) -> list[dict[str, str]]:
    """MIMIC-IV's demo with made charted and laboratory events: a heart rate every four hours, a glucose."""
    link(demo / "hosp", folder / "hosp")
    link(demo / "icu", folder / "icu")
    stays = read(demo / "icu" / "icustays.csv.gz")
    rows, labs = [], []
    for i, stay in enumerate(stays):
        start = np.datetime64(stay["intime"].replace(" ", "T"))
        for hour in range(1, 48, 4):
            when = str(start + np.timedelta64(hour, "h")).replace("T", " ")
            rows.append((stay["hadm_id"], stay["stay_id"], 220045, when, 60 + i % 50, "bpm"))
        labs.append((stay["hadm_id"], 50931, str(start + np.timedelta64(3, "h")).replace("T", " "), 100, "mg/dL"))
    write(folder / "icu" / "chartevents.csv.gz", CHART, rows)
    write(folder / "hosp" / "labevents.csv.gz", LABS, labs)
    return stays


def add_images(cxr: Path, reports: Path, stays: Sequence[dict[str, str]], every: int = 2) -> None:
    """An X-ray at hour 5 for every other stay, with a report."""
    from PIL import Image

    columns = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime")
    rows = []
    for i, stay in enumerate(stays[::every]):
        when = str(np.datetime64(stay["intime"].replace(" ", "T")) + np.timedelta64(5, "h"))
        day, clock = when.split("T")
        rows.append((f"d{i}", stay["subject_id"], 50000 + i, "AP", day.replace("-", ""), f"{clock.replace(':', '')}.5"))
        folder = Path("files", f"p{stay['subject_id'][:2]}", f"p{stay['subject_id']}")
        image = cxr / folder / f"s{50000 + i}" / f"d{i}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((60, 80), 10 + i, np.uint8)).save(image)
        text = reports / folder / f"s{50000 + i}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(REPORT, encoding="utf-8")
    write(cxr / "mimic-cxr-2.0.0-metadata.csv.gz", columns, rows)
