"""Made data written as the tables and files of MIMIC-III or MIMIC-IV, some patients at a time."""

from __future__ import annotations

import gzip
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from amodal.data.sources.mimic.made.emergency import emergency_tables
from amodal.data.sources.mimic.made.events import MadeEvents, charted_events, laboratory_events, urine_events
from amodal.data.sources.mimic.made.texts import discharge_text, draw_xray, note_text, report_text
from amodal.data.sources.mimic.made.truth import Absence, MadeStays, make_stays
from amodal.data.sources.mimic.phenotypes import packaged_phenotypes
from amodal.errors import ConfigurationError, DataError, UnknownNameError

__all__ = ["make"]

_KINDS = {"mimic3": ("ELECTIVE", "EMERGENCY", "URGENT"), "mimic4": ("ELECTIVE", "EW EMER.", "URGENT")}
_RESPIRATORY = ("Pleurisy", "Pneumonia", "Respiratory failure", "Other lower", "Other upper", "Chronic obstructive")
_NEOPLASM = {"mimic3": "1629", "mimic4": "C3490"}
_DAY = np.timedelta64(1, "D")


def make(
    database: Literal["mimic3", "mimic4"],
    out: str | Path,
    *,
    patients: int = 1000,
    absence: Absence = "mar",
    images: bool = True,
    other_rows: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Writes made data in the upstream layout; `truth.csv` beside the tables has what decided each outcome.

    Args:
        database: "mimic3": notes; "mimic4": hosp/ and icu/, mimic-cxr-jpg/ with X-rays, mimic-cxr/ with reports,
            mimic-iv-note/ and mimic-iv-ed/.
        out: Folder to write.
        patients: How many patients.
        absence: Mechanism of absence of X-rays and notes: "mcar", "mar" or "mnar"; see `truth`.
        images: Whether MIMIC-IV's X-rays are drawn.
        other_rows: Charted rows an hour that no cohort uses, so that tables become as long as the real ones.
        seed: Decides everything.
        progress: Told after each part how many patients of how many are written.

    Returns:
        The folder.

    Raises:
        UnknownNameError: If the database or the mechanism is not known.
        ConfigurationError: If a number is out of range.
        DataError: If something is at `out` already, or it cannot be written.
    """
    out = Path(out)
    if database not in _KINDS:
        raise UnknownNameError("database", database, _KINDS)
    if absence not in ("mcar", "mar", "mnar"):
        raise UnknownNameError("mechanism of absence", absence, ("mcar", "mar", "mnar"))
    if patients < 1 or other_rows < 0:
        raise ConfigurationError(
            "a number is out of range", expected="patients 1 or more, other_rows 0 or more", got=(patients, other_rows)
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"there is something in {out} already", hint="Choose another folder.")
    scratch = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        scratch.mkdir(parents=True)
        with _Tables(scratch) as tables:
            written = 0
            for part, stays in enumerate(make_stays(patients, absence=absence, seed=seed)):
                generator = np.random.default_rng((seed, part, 1))
                _write_part(tables, stays, database, images, other_rows, generator)
                if database == "mimic4":
                    _write_emergency(tables, stays, np.random.default_rng((seed, part, 2)))
                written += len(np.unique(stays.patient))
                if progress is not None:
                    progress(written, patients)
            _describe(tables, database)
        record = {"database": database, "patients": patients, "absence": absence, "seed": seed, "images": images}
        text = json.dumps(record | {"made": "No real record is in here; see amodal.data.sources.mimic.made.truth"})
        (scratch / "made.json").write_text(text + "\n", encoding="utf-8")
        if out.is_dir():
            out.rmdir()
        scratch.rename(out)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return out


class _Tables:
    """Gzipped CSV files that grow part by part, each with a header."""

    def __init__(self, folder: Path):
        self.folder, self._files = folder, {}

    def __enter__(self) -> _Tables:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def add(self, name: str, columns: Mapping[str, Any]) -> None:
        """Adds rows to a table, columns as arrays or as one value for all."""
        import pyarrow as pa
        from pyarrow import csv

        n = next(len(column) for column in columns.values() if isinstance(column, np.ndarray | list))
        arrays = {
            key: pa.array(column if isinstance(column, np.ndarray | list) else [column] * n)
            for key, column in columns.items()
        }
        first = name not in self._files
        if first:
            path = self.folder / f"{name}.csv.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[name] = gzip.open(path, "wb", compresslevel=1)  # noqa: SIM115
        options = csv.WriteOptions(include_header=first, quoting_style="needed")
        csv.write_csv(pa.table(arrays), self._files[name], options)


def _write_part(
    tables: _Tables, stays: MadeStays, database: str, images: bool, other_rows: int, generator: np.random.Generator
) -> None:
    codes = _diagnoses(stays, database, generator)
    if database == "mimic3":
        _mimic3_patients(tables, stays, codes)
    else:
        _mimic4_patients(tables, stays, codes)
    names = ("CHARTEVENTS", "LABEVENTS", "OUTPUTEVENTS") if database == "mimic3" else (
        "icu/chartevents", "hosp/labevents", "icu/outputevents")  # fmt: skip
    for events in charted_events(stays, database, generator, other_rows=other_rows):
        tables.add(names[0], _event_columns(stays, events, database, "chart"))
    for events in laboratory_events(stays, generator):
        tables.add(names[1], _event_columns(stays, events, database, "lab"))
    tables.add(names[2], _event_columns(stays, urine_events(stays, database, generator), database, "output"))
    if database == "mimic3":
        _mimic3_notes(tables, stays, generator)
    else:
        _mimic4_notes(tables, stays, generator)
        if images:
            _mimic4_images(tables, stays, generator)
    names = ("stay", "severity", "chest", "frailty", "death_probability", "died", "has_image", "has_notes")
    tables.add("truth", {name: getattr(stays, name) for name in names})


def _write_emergency(tables: _Tables, stays: MadeStays, generator: np.random.Generator) -> None:
    for name, columns in emergency_tables(stays, generator).items():
        for key, column in columns.items():
            if isinstance(column, np.ndarray) and column.dtype.kind == "M":
                columns[key] = _times(column)
        tables.add(f"mimic-iv-ed/ed/{name}", columns)


def _event_columns(stays: MadeStays, events: MadeEvents, database: str, table: str) -> dict[str, Any]:
    old, row = database == "mimic3", events.row
    columns = {"subject_id": stays.patient[row], "hadm_id": stays.admission[row]}
    if table != "lab":
        columns["icustay_id" if old else "stay_id"] = stays.stay[row]
    columns |= {"itemid": events.item, "charttime": _times(events.time), "value": events.value}
    if table != "output":
        columns["valuenum"] = events.number
    columns["valueuom"] = events.units
    if old and table != "lab":
        columns["iserror" if table == "output" else "error"] = np.full(len(row), "")
    upper = {key.upper(): column for key, column in columns.items()}
    return upper if old else columns


def _times(moments: np.ndarray) -> Any:
    """Times as upstream writes them, whole seconds; "" for none."""
    import pyarrow as pa

    known = pa.array(moments.astype("datetime64[s]")).cast(pa.string())
    return known.fill_null("").to_numpy(zero_copy_only=False)


def _death_times(stays: MadeStays) -> np.ndarray:
    return np.where(stays.died, stays.discharge, np.datetime64("NaT"))


def _dates_of_death(stays: MadeStays) -> np.ndarray:
    later = np.where(np.isfinite(stays.later_death), stays.later_death, 0)
    known = stays.died | np.isfinite(stays.later_death)
    return np.where(known, stays.discharge + later.astype(np.int64) * _DAY, np.datetime64("NaT"))


def _firsts(stays: MadeStays) -> np.ndarray:
    """Position of one stay of each patient: the last one, which knows the date of death."""
    order = np.argsort(stays.start, kind="stable")
    return order[len(order) - 1 - np.unique(stays.patient[order][::-1], return_index=True)[1]]


def _units(stays: MadeStays) -> tuple[np.ndarray, np.ndarray]:
    first = np.full(len(stays), "MICU")
    return first, np.where(stays.transferred, "SICU", "MICU")


def _mimic3_patients(tables: _Tables, stays: MadeStays, codes: tuple[np.ndarray, np.ndarray]) -> None:
    one = _firsts(stays)
    birth = stays.start - (stays.age * 365.0 * 86400).astype(np.int64).astype("timedelta64[s]")
    birth = np.where(stays.age > 89, birth - 210 * 365 * _DAY, birth).astype("datetime64[D]")
    dead = _dates_of_death(stays)
    tables.add(
        "PATIENTS",
        {
            "ROW_ID": one, "SUBJECT_ID": stays.patient[one], "GENDER": np.where(stays.female, "F", "M")[one],
            "DOB": _times(birth[one]), "DOD": _times(dead.astype("datetime64[D]")[one]),
            "EXPIRE_FLAG": (~np.isnat(dead)).astype(int)[one],
        },
    )  # fmt: skip
    tables.add("ADMISSIONS", {key.upper(): value for key, value in _admissions(stays, "mimic3").items()})
    first, last = _units(stays)
    tables.add(
        "ICUSTAYS",
        {
            "SUBJECT_ID": stays.patient, "HADM_ID": stays.admission, "ICUSTAY_ID": stays.stay, "DBSOURCE": "made",
            "FIRST_CAREUNIT": first, "LAST_CAREUNIT": last, "FIRST_WARDID": 50, "LAST_WARDID": 50,
            "INTIME": _times(stays.start), "OUTTIME": _times(_ends(stays)), "LOS": np.round(stays.hours / 24, 4),
        },
    )  # fmt: skip
    tables.add(
        "SERVICES",
        {
            "SUBJECT_ID": stays.patient, "HADM_ID": stays.admission, "TRANSFERTIME": _times(stays.start),
            "PREV_SERVICE": "", "CURR_SERVICE": np.where(stays.kind == 0, "CSURG", "MED"),
        },
    )  # fmt: skip
    row, code = codes
    tables.add(
        "DIAGNOSES_ICD",
        {"SUBJECT_ID": stays.patient[row], "HADM_ID": stays.admission[row], "SEQ_NUM": 1, "ICD9_CODE": code},
    )


def _mimic4_patients(tables: _Tables, stays: MadeStays, codes: tuple[np.ndarray, np.ndarray]) -> None:
    one = _firsts(stays)
    age = np.where(stays.age > 89, 91, stays.age.astype(np.int64))
    tables.add(
        "hosp/patients",
        {
            "subject_id": stays.patient[one], "gender": np.where(stays.female, "F", "M")[one], "anchor_age": age[one],
            "anchor_year": 2150, "anchor_year_group": "2014 - 2016",
            "dod": _days(_dates_of_death(stays)[one]),
        },
    )  # fmt: skip
    tables.add("hosp/admissions", _admissions(stays, "mimic4"))
    first, last = _units(stays)
    tables.add(
        "icu/icustays",
        {
            "subject_id": stays.patient, "hadm_id": stays.admission, "stay_id": stays.stay, "first_careunit": first,
            "last_careunit": last, "intime": _times(stays.start), "outtime": _times(_ends(stays)),
            "los": stays.hours / 24,
        },
    )  # fmt: skip
    row, code = codes
    tables.add(
        "hosp/diagnoses_icd",
        {
            "subject_id": stays.patient[row], "hadm_id": stays.admission[row], "seq_num": 1, "icd_code": code,
            "icd_version": 10,
        },
    )  # fmt: skip


def _days(moments: np.ndarray) -> np.ndarray:
    return np.array([text[:10] for text in _times(moments)])


def _ends(stays: MadeStays) -> np.ndarray:
    return stays.start + (stays.hours * 3600).astype(np.int64).astype("timedelta64[s]")


def _admissions(stays: MadeStays, database: str) -> dict[str, Any]:
    return {
        "subject_id": stays.patient, "hadm_id": stays.admission,
        "admittime": _times(stays.start - np.timedelta64(6, "h")), "dischtime": _times(stays.discharge),
        "deathtime": _times(_death_times(stays)), "admission_type": np.array(_KINDS[database])[stays.kind],
        "insurance": "Other", "hospital_expire_flag": stays.died.astype(int),
    }  # fmt: skip


def _diagnoses(stays: MadeStays, database: str, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions of stays, and a code for each phenotype and each neoplasm that they have."""
    rows, codes = [np.arange(len(stays))], [np.full(len(stays), _always(database))]
    older = stays.age - 65
    logits = [
        (_code(p, database), -1.6 + 1.5 * stays.chest) if p.name.startswith(_RESPIRATORY)
        else (_code(p, database), -1.6 + (stays.severity if p.kind == "acute" else 0.04 * older))
        for p in packaged_phenotypes()
    ]  # fmt: skip
    for code, logit in [*logits, (_NEOPLASM[database], -2.3 + 0.05 * older)]:
        row = np.flatnonzero(generator.random(len(stays)) < 1 / (1 + np.exp(-logit)))
        rows.append(row)
        codes.append(np.full(len(row), code))
    return np.concatenate(rows), np.concatenate(codes)


def _always(database: str) -> str:
    return "V5869" if database == "mimic3" else "Z7901"


def _code(phenotype: Any, database: str) -> str:
    """A code of the phenotype, one that MIMIC-III's table of codes has: of four or five digits."""
    if database == "mimic4":
        return phenotype.icd10[0]
    return next(code for code in sorted(phenotype.icd9, key=lambda code: (-len(code), code)))


def _describe(tables: _Tables, database: str) -> None:
    if database != "mimic3":
        return
    codes = sorted({_code(p, database) for p in packaged_phenotypes()} | {_always(database), _NEOPLASM[database]})
    tables.add("D_ICD_DIAGNOSES", {"ICD9_CODE": codes, "SHORT_TITLE": "made", "LONG_TITLE": "made"})


def _mimic3_notes(tables: _Tables, stays: MadeStays, generator: np.random.Generator) -> None:
    rows: list[tuple[int, np.datetime64 | None, str, str]] = []
    for row in range(len(stays)):
        if stays.has_notes[row]:
            for hour in np.sort(generator.uniform(1.1, 47, int(generator.integers(6, 10)))):
                moment = stays.start[row] + np.timedelta64(int(hour * 60), "m")
                rows.append((row, moment, "Nursing", note_text(stays.frailty[row], generator)))
        text = discharge_text(stays.frailty[row], bool(stays.died[row]), generator)
        rows.append((row, None, "Discharge summary", text))
    row = np.array([r[0] for r in rows])
    moments = np.array([np.datetime64("NaT") if r[1] is None else r[1] for r in rows])
    dates = np.where(np.isnat(moments), stays.discharge[row], moments)
    tables.add(
        "NOTEEVENTS",
        {
            "ROW_ID": stays.stay[row] * 100 + np.arange(len(row)) % 100, "SUBJECT_ID": stays.patient[row],
            "HADM_ID": stays.admission[row], "CHARTDATE": _days(dates), "CHARTTIME": _times(moments),
            "CATEGORY": [r[2] for r in rows], "DESCRIPTION": "Report", "ISERROR": "", "TEXT": [r[3] for r in rows],
        },
    )  # fmt: skip


def _mimic4_notes(tables: _Tables, stays: MadeStays, generator: np.random.Generator) -> None:
    row = np.flatnonzero(stays.has_notes)
    columns = {
        "note_id": [f"{stays.stay[r]}-RR" for r in row], "subject_id": stays.patient[row],
        "hadm_id": stays.admission[row], "note_type": "RR", "note_seq": 1,
        "charttime": _times(stays.start[row] + np.timedelta64(5, "h")),
        "storetime": _times(stays.start[row] + np.timedelta64(8, "h")),
        "text": [note_text(stays.frailty[r], generator) for r in row],
    }  # fmt: skip
    tables.add("mimic-iv-note/note/radiology", columns)
    columns = {
        "note_id": [f"{s}-DS" for s in stays.stay], "subject_id": stays.patient, "hadm_id": stays.admission,
        "note_type": "DS", "note_seq": 1, "charttime": _times(stays.discharge), "storetime": _times(stays.discharge),
        "text": [discharge_text(f, bool(d), generator) for f, d in zip(stays.frailty, stays.died)],
    }  # fmt: skip
    tables.add("mimic-iv-note/note/discharge", columns)


def _mimic4_images(tables: _Tables, stays: MadeStays, generator: np.random.Generator) -> None:
    from PIL import Image

    row = np.flatnonzero(stays.has_image)
    moments = stays.start[row] + generator.integers(60, 46 * 60, len(row)).astype("timedelta64[m]")
    texts = _times(moments)
    study = stays.stay[row] + 20_000_000
    for place, r in enumerate(row):
        number = str(stays.patient[r])
        folder = Path("files", f"p{number[:2]}", f"p{number}")
        image = tables.folder / "mimic-cxr-jpg" / folder / f"s{study[place]}" / f"made-{study[place]}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_xray(stays.chest[r], generator)).save(image, quality=60)
        report = tables.folder / "mimic-cxr" / folder / f"s{study[place]}.txt"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(report_text(stays.chest[r], generator), encoding="utf-8")
    tables.add(
        "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata",
        {
            "dicom_id": [f"made-{s}" for s in study], "subject_id": stays.patient[row], "study_id": study,
            "ViewPosition": "AP", "Rows": 256, "Columns": 256, "StudyDate": [t[:10].replace("-", "") for t in texts],
            "StudyTime": [t[11:].replace(":", "") + ".5" for t in texts],
        },
    )  # fmt: skip
