r"""MIMIC-III and -IV as in CM2's experiments: 48 hours of 17 variables, with notes, or with chest X-rays and reports.

**ehr** (24, 76): two-hour bins of the benchmark's 17 variables (`mimic_cm2_variables`), gaps filled with the last
value, then the normal one, and indicators of what was measured. **notes** (MIMIC-III): the last five notes up to 48
hours, of stays with more than five; as in the paper, of a third of the stays. **cxr** (1, 224, 224; MIMIC-IV): the last
frontal X-ray within 48 hours, resized to 256 and cut to 224. **report** (MIMIC-IV): its report. Everything but the ehr
may be absent; take the rows that have all for the paper's "matched" setting.

Targets: death in hospital ("ihm"), or death or readmission within 30 days ("readm"), on the same stays.

Where this differs from the release: numbers are stored as they are and standardised by `amodal.fit` (there by the
training rows, categories and indicators too; in the release only the 12 numbers, validation rows included); the five
notes, or the four sections, are one text (there each is encoded by itself and the vectors are averaged); images are not
augmented; which third of the stays has notes is drawn by another generator. A report may have been written after the 48
hours. Nothing of this has been run on the credentialed data, which are neither shipped nor fetched.
:cite:`wu2025cm2,hayat2022medfuse,harutyunyan2019multitask,johnson2016mimic`
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from amodal.data.cohort import Cohort
from amodal.data.sources.mimic.cm2_tables import Bins, Stays, read_images, read_notes, read_tables
from amodal.data.sources.mimic.texts import join_notes, report_text
from amodal.data.sources.mimic.variables import COLUMNS, VARIABLES, encode_bins
from amodal.data.split import split_groups
from amodal.errors import ConfigurationError, DataError, UnknownNameError
from amodal.schema import Task

__all__ = ["BIN_HOURS", "HOURS", "TASKS", "assign_splits", "prepare_mimic3", "prepare_mimic4"]

HOURS = 48
"""Length of the window."""

BIN_HOURS = 2
"""Length of a bin."""

TASKS = {
    "ihm": Task("binary", name="in-hospital mortality", classes=("survived", "died")),
    "readm": Task("binary", name="readmission within 30 days", classes=("no", "died or readmitted")),
}
"""What can be predicted."""

_FRACTIONS = {
    "mimic3": {"train": 0.7, "valid": 0.15, "test": 0.15},
    "mimic4": {"train": 0.72, "valid": 0.08, "test": 0.2},
}
_SIDE, _RESIZED = 224, 256


def prepare_mimic3(
    source: str | Path,
    out: str | Path,
    *,
    task: Literal["ihm", "readm"] = "ihm",
    notes_share: float = 1 / 3,
    test_patients: str | Path | None = None,
    valid_patients: str | Path | None = None,
    fractions: Mapping[str, float] | None = None,
    seed: int = 42,
    overwrite: bool = False,
) -> Cohort:
    """Writes MIMIC-III's cohort, ehr and notes, as a folder.

    Args:
        source: Folder of MIMIC-III's tables (.csv or .csv.gz).
        out: Folder to write.
        task: "ihm" or "readm".
        notes_share: Share of each split's stays whose notes are read.
        test_patients: File with the benchmark's test patients: a number a line, or "number,0 or 1".
        valid_patients: The same for validation.
        fractions: Share of each split where no files are given; default 0.70 train, 0.15 valid, 0.15 test.
        seed: Seed of the split by patient and of the share that has notes.
        overwrite: Replace a cohort that is there.

    Returns:
        The cohort.

    Raises:
        UnknownNameError: If the task is not known.
        ConfigurationError: If only one of the two files is given, or a share is out of range.
        DataError: If a table is missing or cannot be read (the message names it), no stay is left, or none has notes.
    """
    if not 0 < notes_share <= 1:
        raise ConfigurationError("notes_share is out of range", expected="0 < share <= 1", got=notes_share)
    source, target_of = Path(source), _check_task(task)
    stays, bins, reference = read_tables(source, "mimic3", hours=HOURS, bin_hours=BIN_HOURS)
    splits = _splits(stays, target_of, "mimic3", fractions, test_patients, valid_patients, seed)
    found = read_notes(source, stays, reference, hours=HOURS)
    chosen = _share(stays.stay, splits, notes_share, seed)
    starts, ends = (np.searchsorted(found.stay, stays.stay, side=side) for side in ("left", "right"))
    notes = [
        join_notes(found.text[start:end].tolist()) if has else None for start, end, has in zip(starts, ends, chosen)
    ]
    if not any(notes):
        raise DataError(
            f"no stay has more than five notes in {source / 'NOTEEVENTS'}",
            hint="The open demo has none: this cohort needs the credentialed table.",
        )
    return _save({"notes": notes}, stays, bins, splits, task, out, "mimic3", overwrite)


def prepare_mimic4(
    source: str | Path,
    cxr: str | Path,
    out: str | Path,
    *,
    reports: str | Path | None = None,
    task: Literal["ihm", "readm"] = "ihm",
    test_patients: str | Path | None = None,
    valid_patients: str | Path | None = None,
    fractions: Mapping[str, float] | None = None,
    seed: int = 42,
    overwrite: bool = False,
) -> Cohort:
    """Writes MIMIC-IV's cohort, ehr and cxr, with reports where they are given, as a folder.

    Args:
        source: Folder of MIMIC-IV, with hosp/ and icu/.
        cxr: Folder of MIMIC-CXR-JPG, with its table of metadata and files/.
        out: Folder to write.
        reports: Folder of MIMIC-CXR's reports, with files/. Then images without a report that can be read do not count,
            as in the paper's tri-modal experiments.
        task: "ihm" or "readm".
        test_patients: File with the test patients; see `prepare_mimic3`.
        valid_patients: The same for validation.
        fractions: Share of each split where no files are given; default 0.72 train, 0.08 valid, 0.20 test.
        seed: Seed of the split by patient.
        overwrite: Replace a cohort that is there.

    Returns:
        The cohort.

    Raises:
        UnknownNameError, ConfigurationError: As `prepare_mimic3`.
        DataError: If a table or an image is missing or cannot be read (the message names it), or no stay is left.
    """
    source, cxr, target_of = Path(source), Path(cxr), _check_task(task)
    stays, bins, _ = read_tables(source, "mimic4", hours=HOURS, bin_hours=BIN_HOURS)
    splits = _splits(stays, target_of, "mimic4", fractions, test_patients, valid_patients, seed)
    images = read_images(source, cxr, stays, hours=HOURS)
    pixels = np.zeros((len(stays.stay), 1, _SIDE, _SIDE), np.uint8)
    seen, texts = np.zeros(len(stays.stay), bool), np.full(len(stays.stay), None, dtype=object)
    row_of = {number: row for row, number in enumerate(stays.stay.tolist())}
    for stay, patient, study, dicom in zip(*(column.tolist() for column in images)):
        row = row_of[stay]
        if seen[row]:
            continue
        if reports is not None:
            texts[row] = _read_report(Path(reports), patient, study)
        if reports is None or texts[row] is not None:
            pixels[row] = _read_image(_study(cxr, patient, study) / f"{dicom}.jpg")
            seen[row] = True
    if not seen.any():
        raise DataError(
            f"no stay has a frontal image within {HOURS} hours in {cxr}" + (" with a report" * bool(reports))
        )
    values: dict[str, Any] = {"cxr": pixels}
    if reports is not None:
        values["report"] = texts.tolist()
    return _save(values, stays, bins, splits, task, out, "mimic4", overwrite, {"cxr": seen})


def assign_splits(patients: np.ndarray, test: str | Path, valid: str | Path) -> np.ndarray:
    """The split of each row by lists of patients.

    Args:
        patients: Number of the patient, int64, of shape (N,).
        test: File of test patients: a number a line, or "number,0 or 1", where 0 means not in the split.
        valid: The same for validation.

    Returns:
        "test", "valid" or "train", str, of shape (N,).

    Raises:
        DataError: If a file is missing, has a line that is neither, or a patient is in both.
    """
    listed = {name: _read_list(Path(file)) for name, file in (("test", test), ("valid", valid))}
    both = listed["test"] & listed["valid"]
    if both:
        raise DataError(f"{len(both)} patients are in both {test} and {valid}", got=sorted(both)[:3])
    splits = np.full(len(patients), "train", dtype="<U5")
    for name, numbers in listed.items():
        splits[np.isin(patients, list(numbers))] = name
    return splits


def _read_list(file: Path) -> set[int]:
    if not file.is_file():
        raise DataError(f"the list of patients is missing: {file}")
    found = set()
    for place, line in enumerate(file.read_text(encoding="utf-8").split(), start=1):
        number, _, flag = line.partition(",")
        if not number.isdecimal() or flag not in ("", "0", "1"):
            raise DataError(f"line {place} of {file} is no patient", expected='"number" or "number,0 or 1"', got=line)
        if flag != "0":
            found.add(int(number))
    return found


def _check_task(task: str) -> str:
    """Which of a stay's labels is the target."""
    if task not in TASKS:
        raise UnknownNameError("task", task, TASKS)
    return "died" if task == "ihm" else "readmitted"


def _splits(
    stays: Stays,
    target: str,
    database: str,
    fractions: Mapping[str, float] | None,
    test: str | Path | None,
    valid: str | Path | None,
    seed: int,
) -> np.ndarray:
    if not len(stays.stay):
        raise DataError(f"no stay lasts {HOURS} hours and has an event of the variables in them")
    if (test is None) != (valid is None):
        raise ConfigurationError("the lists of patients belong together", hint="Give both, for test and validation.")
    if test is not None and valid is not None:
        return assign_splits(stays.patient, test, valid)
    labels = getattr(stays, target).astype(np.int64)
    return split_groups(stays.patient.astype(str), labels, fractions or _FRACTIONS[database], seed=seed)


def _share(stays: np.ndarray, splits: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A share of each split's rows, drawn in the order of the stays, bool (N,)."""
    generator, chosen = np.random.default_rng(seed), np.zeros(len(stays), bool)
    for name in ("train", "valid", "test"):
        rows = np.flatnonzero(splits == name)
        rows = rows[np.argsort(stays[rows].astype(str), kind="stable")]
        chosen[generator.permutation(rows)[: round(share * len(rows))]] = True
    return chosen


def _study(root: Path, patient: int, study: int) -> Path:
    return root / "files" / f"p{str(patient)[:2]}" / f"p{patient}" / f"s{study}"


def _read_report(root: Path, patient: int, study: int) -> str | None:
    file = _study(root, patient, study).with_suffix(".txt")
    return report_text(file.read_text(encoding="utf-8", errors="replace")) if file.is_file() else None


def _read_image(file: Path) -> np.ndarray:
    """An X-ray, its shorter side 256, the middle 224 of both, uint8 (1, 224, 224)."""
    from amodal.data.table.image import Image, decode_image

    if not file.is_file():
        raise DataError(f"an image of MIMIC-CXR-JPG is missing: {file}")
    try:
        whole = decode_image(file, Image("cxr", "", size=(_RESIZED, _RESIZED), fit="crop"))
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    edge = (_RESIZED - _SIDE) // 2
    return whole[:, edge : edge + _SIDE, edge : edge + _SIDE]


def _save(
    others: Mapping[str, Any],
    stays: Stays,
    bins: Bins,
    splits: np.ndarray,
    task: str,
    out: str | Path,
    database: str,
    overwrite: bool,
    observed: Mapping[str, np.ndarray] | None = None,
) -> Cohort:
    used = np.isin(bins.stay, stays.stay)
    kept = Bins(*(column[used] for column in bins))
    shape = (len(stays.stay), HOURS // BIN_HOURS)
    ehr = encode_bins(np.searchsorted(stays.stay, kept.stay), kept.time_bin, kept.variable, kept.value, shape)
    target = getattr(stays, _check_task(task)).astype(np.int64)
    names = {"mimic3": "MIMIC-III", "mimic4": "MIMIC-IV"}
    units = {v.name: v.units for v in VARIABLES}
    Cohort.from_arrays(
        {"ehr": ehr, **others},
        task=TASKS[task],
        target=target,
        ids=stays.stay.astype(str),
        groups=stays.patient.astype(str),
        splits=splits,
        observed=None if observed is None else dict(observed),
        kinds={name: "text" for name in ("notes", "report") if name in others},
        features={"ehr": COLUMNS},
        units={"ehr": [units.get(column, "") for column in COLUMNS]},
        name=f"{database}-{task}",
        description=f"{names[database]}, stays of {HOURS} h and more, {TASKS[task].name}: {len(target)} stays, "
        f"{target.mean():.1%} positive",
        extras={"age": stays.age, "hours": stays.hours},
    ).save(out, overwrite=overwrite)
    return Cohort.open(out)
