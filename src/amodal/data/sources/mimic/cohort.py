r"""MIMIC-III and MIMIC-IV as the papers have them: five tasks, from the upstream tables to a cohort's folder.

**ehr**: bins of the benchmark's 17 variables in 76 columns, gaps filled with the last value, then the normal one, and
indicators of what was measured (`variables`); or, with ``raw=True``, the events at their times. **static**: age, sex,
kind of admission. **notes**, **discharge**: texts (`notes`). MIMIC-IV also **cxr** and **report** (`images`). All but
ehr and static may be absent: ``pairing="partial"`` keeps all stays, "matched" those that have everything.

Presets set what is not given: "benchmark" is YerevaNN's mimic3-benchmarks, hour by hour; "cm2" has bins of two hours
and the notes of a third of the stays; "cepa" has one sample a stay also of length of stay, and only stays that have
everything; "multibench" is MultiBench's form of MIMIC-III with tasks of its own (`multibench`).

The equality with upstream on the open demo is a test: 57 stays, labels, columns and 207,936 cells. Where cohorts differ
from the papers' releases: numbers are stored as they are and standardised by `amodal.fit` (there by the training rows,
categories and indicators too); notes, or sections of a report, are one text (in CM2's release each is encoded by
itself); images are not augmented; which third of the stays has notes is drawn by another generator. The credentialed
data are neither shipped nor fetched. :cite:`harutyunyan2019multitask,hayat2022medfuse,wu2025cm2,johnson2016mimic`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from amodal.commands import convert_list
from amodal.data.cohort import Cohort
from amodal.data.folder import check_place
from amodal.data.sources.mimic.events import Cleaning, Events, read_events
from amodal.data.sources.mimic.images import SIDE, choose_images, image_store
from amodal.data.sources.mimic.notes import Wanted, read_discharge, read_notes
from amodal.data.sources.mimic.phenotypes import packaged_phenotypes, read_definitions, read_diagnoses
from amodal.data.sources.mimic.samples import HOURLY, TASKS, Samples, select_samples
from amodal.data.sources.mimic.series import RAW_COLUMNS, RAW_UNITS, UNITS, binned_series, raw_series
from amodal.data.sources.mimic.splits import FRACTIONS, split_patients
from amodal.data.sources.mimic.stays import DATABASES, STATIC, Database
from amodal.data.sources.mimic.variables import COLUMNS
from amodal.data.store import ArrayStore, Store
from amodal.data.values import read_modality
from amodal.errors import ConfigurationError, DataError, UnknownNameError
from amodal.schema import Modality, Schema, Task

__all__ = ["MODALITIES", "PRESETS", "prepare_mimic3", "prepare_mimic4"]

MODALITIES = {
    "mimic3": ("ehr", "static", "notes", "discharge"),
    "mimic4": ("ehr", "static", "notes", "cxr", "report", "discharge"),
}
"""Modalities of each database."""

PRESETS: dict[str, dict[str, Any]] = {
    "benchmark": {"bin_hours": 1, "every": 1, "notes_share": 1.0},
    "medfuse": {"bin_hours": 1, "every": 0, "notes_share": 1.0},
    "cm2": {"bin_hours": 2, "every": 0, "notes_share": 1 / 3},
    "cepa": {"bin_hours": 1, "every": 0, "notes_share": 1.0, "pairing": "matched"},
}
"""What each preset sets; `prepare_mimic3` has "multibench" besides."""


@dataclass(frozen=True)
class _Plan:
    """What is to be prepared, with everything that was left open."""

    database: Database
    task: str
    modalities: tuple[str, ...]
    preset: str
    hours: int | None
    bin_hours: int
    every: int
    raw: bool
    pairing: str
    cleaning: Cleaning
    notes_share: float
    seed: int

    def __post_init__(self) -> None:
        if self.hours is not None and (self.hours < 1 or self.hours % self.bin_hours):
            raise ConfigurationError(
                "hours is out of range", expected=f"a positive multiple of bin_hours = {self.bin_hours}", got=self.hours
            )
        if self.bin_hours < 1 or self.every < 0 or (self.every % self.bin_hours and self.task in HOURLY):
            raise ConfigurationError(
                "bin_hours or every is out of range",
                expected="bin_hours 1 or more, every 0 or a multiple of it",
                got=f"bin_hours {self.bin_hours}, every {self.every}",
            )
        if not 0 < self.notes_share <= 1:
            raise ConfigurationError("notes_share is out of range", expected="0 < share <= 1", got=self.notes_share)


def prepare_mimic3(
    source: str | Path,
    out: str | Path,
    *,
    task: str = "mortality",
    modalities: list[str] | str = "ehr",
    preset: Literal["benchmark", "medfuse", "cm2", "cepa", "multibench"] = "benchmark",
    hours: int | None = None,
    bin_hours: int | None = None,
    every: int | None = None,
    raw: bool = False,
    pairing: Literal["partial", "matched"] | None = None,
    cleaning: Cleaning = "benchmark",
    notes_share: float | None = None,
    phenotypes: Path | None = None,
    test_patients: Path | None = None,
    valid_patients: Path | None = None,
    fractions: Mapping[str, float] | None = None,
    seed: int = 42,
    overwrite: bool = False,
) -> Cohort:
    """Writes a cohort of MIMIC-III as a folder.

    Args:
        source: Folder of MIMIC-III's tables (.csv, .csv.gz or .parquet); of the preset "multibench" also `im.pk`.
        out: Folder to write.
        task: mortality, readmission, phenotyping, length_of_stay or decompensation; of "multibench" mortality (six
            classes) or icd9_0 … icd9_20.
        modalities: Some of ehr, static, notes, discharge: "ehr,notes". A discharge summary tells the outcome.
        preset: benchmark, medfuse, cm2, cepa or multibench: decides what is left open below.
        hours: Length of the window; null: 48, or the whole stay (phenotyping).
        bin_hours: Length of a bin; null: the preset's.
        every: Hours between the samples of a stay, of length_of_stay and decompensation, 0: one sample, at the end of
            the window; null: the preset's.
        raw: Events at their times instead of bins.
        pairing: partial: all stays; matched: those that have every modality; null: the preset's.
        cleaning: benchmark: as upstream; units: oxygen fractions and Fahrenheit by what value and unit say, and
            all codes of diagnoses.
        notes_share: Share of each split's stays whose notes are read; null: the preset's.
        phenotypes: The benchmark's file of definitions; null: those that come with amodal.
        test_patients: File with the benchmark's test patients: a number a line, or "number,0 or 1".
        valid_patients: The same for validation.
        fractions: Share of each split where no files are given; null: 0.70 train, 0.15 valid, 0.15 test.
        seed: Seed of the split by patient and of the share that has notes.
        overwrite: Replace a cohort that is there.

    Returns:
        The cohort, opened from the folder.

    Raises:
        UnknownNameError: If a task, modality or preset is not known.
        ConfigurationError: If a value is out of range.
        DataError: If a table or a column is missing or cannot be read (the message names the file), `out` is in use, or
            no stay is left.
    """
    if preset == "multibench":
        from amodal.data.sources.mimic.multibench import prepare

        return prepare(source, out, task=task, seed=seed, fractions=fractions, overwrite=overwrite)
    check_place(Path(out), overwrite)
    given = {"bin_hours": bin_hours, "every": every, "notes_share": notes_share, "pairing": pairing}
    plan = _plan("mimic3", task, modalities, preset, hours, given, raw=raw, cleaning=cleaning, seed=seed)
    lists = {"test": test_patients, "valid": valid_patients}
    return _prepare(plan, Path(source), Path(out), {}, phenotypes, lists, fractions, overwrite)


def prepare_mimic4(
    source: str | Path,
    out: str | Path,
    *,
    task: str = "mortality",
    modalities: list[str] | str = "ehr",
    cxr: Path | None = None,
    reports: Path | None = None,
    notes: Path | None = None,
    preset: Literal["benchmark", "medfuse", "cm2", "cepa"] = "benchmark",
    hours: int | None = None,
    bin_hours: int | None = None,
    every: int | None = None,
    raw: bool = False,
    pairing: Literal["partial", "matched"] | None = None,
    cleaning: Cleaning = "benchmark",
    phenotypes: Path | None = None,
    test_patients: Path | None = None,
    valid_patients: Path | None = None,
    fractions: Mapping[str, float] | None = None,
    seed: int = 42,
    overwrite: bool = False,
) -> Cohort:
    """Writes a cohort of MIMIC-IV as a folder.

    Args:
        source: Folder of MIMIC-IV 2.x or 3.x, with hosp/ and icu/ (.csv, .csv.gz or .parquet).
        out: Folder to write.
        task: mortality, readmission, phenotyping, length_of_stay or decompensation.
        modalities: Some of ehr, static, notes, cxr, report, discharge: "ehr,cxr,report". A discharge summary tells the
            outcome. With report, images without one do not count.
        cxr: Folder of MIMIC-CXR-JPG, with its table of metadata and files/; null: mimic-cxr-jpg in `source`.
        reports: Folder of MIMIC-CXR's reports, with files/; null: mimic-cxr in `source`.
        notes: Folder of MIMIC-IV-Note; null: mimic-iv-note in `source`.
        preset: benchmark, medfuse, cm2 or cepa: decides what is left open below.
        hours: Length of the window; null: 48, or the whole stay (phenotyping).
        bin_hours: Length of a bin; null: the preset's.
        every: Hours between the samples of a stay, of length_of_stay and decompensation, 0: one sample, at the end of
            the window; null: the preset's.
        raw: Events at their times instead of bins.
        pairing: partial: all stays; matched: those that have every modality; null: the preset's.
        cleaning: benchmark: as upstream; units: oxygen fractions and Fahrenheit by what value and unit say.
        phenotypes: A file of definitions in the benchmark's form; null: those that come with amodal.
        test_patients: File with the test patients: a number a line, or "number,0 or 1".
        valid_patients: The same for validation.
        fractions: Share of each split where no files are given; null: 0.72 train, 0.08 valid, 0.20 test.
        seed: Seed of the split by patient.
        overwrite: Replace a cohort that is there.

    Returns:
        The cohort, opened from the folder.

    Raises:
        UnknownNameError, ConfigurationError, DataError: As `prepare_mimic3`; also for images that cannot be read.
    """
    check_place(Path(out), overwrite)
    source = Path(source)
    given = {"bin_hours": bin_hours, "every": every, "pairing": pairing}
    plan = _plan("mimic4", task, modalities, preset, hours, given, raw=raw, cleaning=cleaning, seed=seed)
    beside = {"cxr": (cxr, "mimic-cxr-jpg"), "reports": (reports, "mimic-cxr"), "notes": (notes, "mimic-iv-note")}
    folders = {name: source / usual if folder is None else Path(folder) for name, (folder, usual) in beside.items()}
    lists = {"test": test_patients, "valid": valid_patients}
    return _prepare(plan, source, Path(out), folders, phenotypes, lists, fractions, overwrite)


def _plan(
    database: Database,
    task: str,
    modalities: Sequence[str] | str,
    preset: str,
    hours: int | None,
    given: Mapping[str, Any],
    **more: Any,
) -> _Plan:
    if preset not in PRESETS:
        raise UnknownNameError(f"preset of {database}", preset, PRESETS)
    if task not in TASKS:
        raise UnknownNameError(f"task of {database}", task, TASKS)
    names = tuple(dict.fromkeys(convert_list("modalities", modalities)))
    for name in names:
        if name not in MODALITIES[database]:
            raise UnknownNameError(f"modality of {database}", name, MODALITIES[database])
    if not names:
        raise ConfigurationError("there is no modality", expected="one or more", got=modalities)
    values = {"pairing": "partial", **PRESETS[preset], **{k: v for k, v in given.items() if v is not None}}
    if hours is None and task != "phenotyping":
        hours = 48
    return _Plan(database, task, names, preset, hours, **values, **more)


class _Rows(NamedTuple):
    """A modality of all samples: its description, its store, and who has it."""

    modality: Modality
    store: Store
    observed: np.ndarray


def _prepare(
    plan: _Plan,
    source: Path,
    out: Path,
    folders: Mapping[str, Path],
    phenotypes: Path | None,
    lists: Mapping[str, Path | None],
    fractions: Mapping[str, float] | None,
    overwrite: bool,
) -> Cohort:
    definitions = packaged_phenotypes() if phenotypes is None else read_definitions(phenotypes)
    whole = plan.hours is None or (plan.task in HOURLY and bool(plan.every))
    events = read_events(
        source,
        plan.database,
        hours=None if whole else plan.hours,
        bin_hours=plan.bin_hours,
        raw=plan.raw,
        cleaning=plan.cleaning,
    )
    samples = select_samples(events, plan.task, hours=plan.hours, every=plan.every)  # type: ignore[arg-type]
    if not len(samples.row):
        lasts = "" if plan.hours is None else f" lasts {plan.hours} hours and"
        raise DataError(f"no stay in {source}{lasts} has an event of the variables in them")
    task, target = TASKS[plan.task], samples.target
    if plan.task == "phenotyping":
        task = replace(task, classes=tuple(phenotype.name for phenotype in definitions))
        labels = read_diagnoses(
            source,
            plan.database,
            events.stays.admission,
            definitions,
            only_described=plan.cleaning == "benchmark",
        )
        target = labels[samples.row].astype(np.float32)
    stays = events.stays.take(samples.row)
    splits = split_patients(
        stays.patient, stays.died.astype(np.int64), fractions or FRACTIONS[plan.database], seed=plan.seed, **lists
    )
    parts = _modalities(plan, source, folders, events, samples, splits)
    cohort = _cohort(plan, events, samples, task, target, splits, parts)
    if plan.pairing == "matched":
        matched = np.flatnonzero(cohort.observed.all(axis=1))
        if not len(matched):
            raise DataError(f"no stay has all of {', '.join(plan.modalities)}", hint="Take pairing=partial.")
        cohort = cohort.take(matched)
    cohort.save(out, overwrite=overwrite)
    return Cohort.open(out)


def _modalities(
    plan: _Plan, source: Path, folders: Mapping[str, Path], events: Events, samples: Samples, splits: np.ndarray
) -> dict[str, _Rows]:
    """The modalities of the plan, in its order."""
    n, stays = len(samples.row), events.stays.take(samples.row)
    wanted = Wanted(stays.admission, stays.patient, stays.start, samples.end, events.reference[samples.row])
    there = np.ones(n, bool)
    parts: dict[str, _Rows] = {}
    if "ehr" in plan.modalities:
        parts["ehr"] = _series(plan, events, samples)
    if "static" in plan.modalities:
        names, units = zip(*STATIC)
        parts["static"] = _Rows(
            Modality("static", "tabular", (len(STATIC),), names, units), ArrayStore(stays.static), there
        )
    if {"cxr", "report"} & set(plan.modalities):
        with_report = "report" in plan.modalities
        images = choose_images(folders["cxr"], folders["reports"], wanted, with_report=with_report)
        seen = np.array([file is not None for file in images.files])
        if not seen.any():
            words = " with a report" * with_report
            raise DataError(f"no stay has a frontal image in its window in {folders['cxr']}{words}")
        parts["cxr"] = _Rows(Modality("cxr", "image", (1, SIDE, SIDE)), image_store(images.files), seen)
        if with_report:
            parts["report"] = _texts("report", images.reports, folders["reports"])
    if "notes" in plan.modalities:
        rule = "cm2" if plan.preset == "cm2" else "known"
        texts = read_notes(source, plan.database, wanted, folder=folders.get("notes"), rule=rule)
        if not any(texts):
            enough = "more than five notes" if rule == "cm2" else "notes"
            place = source / "NOTEEVENTS" if plan.database == "mimic3" else folders["notes"]
            raise DataError(f"no stay has {enough} in {place}", hint="The open demo has none.")
        chosen = _share(stays.stay, splits, plan.notes_share, plan.seed)
        parts["notes"] = _texts("notes", [t if has else None for t, has in zip(texts, chosen)], source)
    if "discharge" in plan.modalities:
        texts = read_discharge(source, plan.database, wanted, folder=folders.get("notes"))
        parts["discharge"] = _texts("discharge", texts, folders.get("notes", source))
    return {name: parts[name] for name in plan.modalities}


def _series(plan: _Plan, events: Events, samples: Samples) -> _Rows:
    there = np.ones(len(samples.row), bool)
    if plan.raw:
        ragged = raw_series(events.bins, samples.row, samples.end, hours=plan.hours)
        shape = (ragged.width or 1, len(RAW_COLUMNS))
        return _Rows(Modality("ehr", "series", shape, RAW_COLUMNS, RAW_UNITS), ragged, np.diff(ragged.offsets) > 0)
    steps = None if plan.hours is None else plan.hours // plan.bin_hours
    store = binned_series(events.bins, samples.row, samples.end, steps=steps, bin_hours=plan.bin_hours)
    longest = steps or getattr(store, "width", None) or 1
    return _Rows(Modality("ehr", "series", (longest, len(COLUMNS)), COLUMNS, UNITS), store, there)


def _texts(name: str, texts: Sequence[str | None], place: Path) -> _Rows:
    if not any(texts):
        raise DataError(f"no stay has a text for {name} in {place}")
    taken = read_modality(name, list(texts), ids=np.arange(len(texts)).astype(str), kind="text")
    return _Rows(Modality(name, "text", ()), taken.store, taken.observed)


def _share(stays: np.ndarray, splits: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A share of each split's stays, drawn in the order of their numbers as text; bool (N,) of the rows."""
    generator, chosen = np.random.default_rng(seed), []
    for name in ("train", "valid", "test"):
        numbers = np.unique(stays[splits == name].astype(str))
        chosen.append(generator.permutation(numbers)[: round(share * len(numbers))])
    return np.isin(stays.astype(str), np.concatenate(chosen))


def _cohort(
    plan: _Plan,
    events: Events,
    samples: Samples,
    task: Task,
    target: np.ndarray | None,
    splits: np.ndarray,
    parts: Mapping[str, _Rows],
) -> Cohort:
    stays = events.stays.take(samples.row)
    ids = stays.stay.astype(str)
    hourly = plan.task in HOURLY and bool(plan.every)
    if hourly:
        ids = np.char.add(np.char.add(ids, "@"), samples.end.astype(np.int64).astype(str))
    window = "whole stays" if plan.hours is None else f"{plan.hours} h"
    extras = {"age": stays.age, "hours": stays.hours, "female": stays.static[:, 1].astype(bool)}
    if hourly:
        extras |= {"stay": stays.stay, "hour": samples.end}
    return Cohort(
        schema=Schema(tuple(part.modality for part in parts.values()), task),
        stores={name: part.store for name, part in parts.items()},
        ids=ids,
        groups=stays.patient.astype(str),
        splits=splits,
        target=target,
        observed=np.stack([part.observed for part in parts.values()], axis=1),
        extras=extras,
        name=f"{plan.database}-{plan.task}",
        description=f"{DATABASES[plan.database]}, {task.name}, {window}: {len(ids):,} samples of "
        f"{len(np.unique(stays.stay)):,} stays",
        source={"mimic": {k: list(v) if isinstance(v, tuple) else v for k, v in vars(plan).items()}},
    )
