r"""MIMIC-III and MIMIC-IV as the papers have them: five tasks, from the upstream tables to a cohort's folder.

**ehr**: bins of the benchmark's 17 variables in 76 columns, gaps filled with the last value, then the normal one, and
indicators of what was measured (`variables`); or, with ``raw=True``, the events at their times. **static**: age, sex,
kind of admission. **notes**, **discharge**: texts (`notes`). MIMIC-IV also **cxr** and **report** (`images`), and
**triage**, **complaint** and **ed_vitals** of the emergency department (`emergency`). All but ehr and static may be
absent: ``pairing="partial"`` keeps all stays, "matched" those that have everything.

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

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from amodal.data.cohort import Cohort
from amodal.data.folder import check_place
from amodal.data.sources.mimic.emergency import TRIAGE, VITALS, read_emergency
from amodal.data.sources.mimic.events import Cleaning, Events, load_events, read_events, save_events
from amodal.data.sources.mimic.images import SIDE, choose_images, decode_images
from amodal.data.sources.mimic.notes import Wanted, note_source, read_discharge, read_notes
from amodal.data.sources.mimic.phenotypes import packaged_phenotypes, read_definitions, read_diagnoses
from amodal.data.sources.mimic.plan import BESIDE, Plan, make_plan, needed_tables
from amodal.data.sources.mimic.samples import TASKS, Samples, select_samples
from amodal.data.sources.mimic.series import RAW_COLUMNS, RAW_UNITS, UNITS, binned_series, raw_series
from amodal.data.sources.mimic.splits import FRACTIONS, split_patients
from amodal.data.sources.mimic.stays import DATABASES, STATIC, Database
from amodal.data.sources.mimic.variables import COLUMNS
from amodal.data.store import ArrayStore, Store
from amodal.data.values import read_modality
from amodal.data.work import fingerprint, working_folder
from amodal.errors import DataError
from amodal.files import write_json
from amodal.schema import Modality, Schema, Task

__all__ = ["prepare_mimic"]


def prepare_mimic(
    database: Database,
    source: str | Path,
    out: str | Path,
    *,
    task: str = "mortality",
    modalities: list[str] | str = "ehr",
    cxr: Path | None = None,
    reports: Path | None = None,
    notes: Path | None = None,
    ed: Path | None = None,
    preset: Literal["benchmark", "medfuse", "cm2", "cepa"] = "benchmark",
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
    restart: bool = False,
    say: Callable[[str], object] | None = None,
) -> Cohort:
    """Writes a cohort of MIMIC-III or MIMIC-IV as a folder.

    What was read stays beside `out` while the work goes on, and an interrupted preparation is taken up from there.

    Args:
        database: "mimic3" or "mimic4".
        source: Folder of the tables (.csv, .csv.gz or .parquet): MIMIC-III 1.4, or MIMIC-IV 2.x or 3.x with hosp/ and
            icu/.
        out: Folder to write.
        task: mortality, readmission, phenotyping, length_of_stay or decompensation.
        modalities: Some of ehr, static, notes, discharge, and of MIMIC-IV also cxr, report, triage, complaint and
            ed_vitals: "ehr,cxr,report". A discharge summary tells the outcome. With report, images without one do not
            count.
        cxr: Folder of MIMIC-CXR-JPG, with its table of metadata and files/; null: mimic-cxr-jpg in `source`.
        reports: Folder of MIMIC-CXR's reports, with files/; null: mimic-cxr in `source`.
        notes: Folder of MIMIC-IV-Note; null: mimic-iv-note in `source`.
        ed: Folder of MIMIC-IV-ED, with ed/; null: mimic-iv-ed in `source`.
        preset: benchmark, medfuse, cm2 or cepa: decides what is left open below.
        hours: Length of the window; 0: from the start of the stay (of samples that end later); null: 48, or the whole
            stay (phenotyping).
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
        fractions: Share of each split where no files are given; null: 0.70 train, 0.15 valid, 0.15 test of MIMIC-III,
            0.72, 0.08 and 0.20 of MIMIC-IV.
        seed: Seed of the split by patient and of the share that has notes.
        overwrite: Replace a cohort that is there.
        restart: Begin anew instead of taking up an interrupted preparation.
        say: Called with a line on progress now and then; None: silent.

    Returns:
        The cohort, opened from the folder.

    Raises:
        UnknownNameError: If a database, task, modality or preset is not known.
        ConfigurationError: If a value is out of range.
        DataError: If a table, a column or an image is missing or cannot be read (the message names the file), `out` is
            in use, or no stay is left.
    """
    source, out = Path(source), Path(out)
    given = {"bin_hours": bin_hours, "every": every, "notes_share": notes_share, "pairing": pairing}
    plan = make_plan(database, task, modalities, preset, hours, given, raw=raw, cleaning=cleaning, seed=seed)
    beside = {"cxr": cxr, "reports": reports, "notes": notes, "ed": ed}
    folders = {name: source / BESIDE[name] if one is None else Path(one) for name, one in beside.items()}
    lists = {"test": test_patients, "valid": valid_patients}
    definitions = packaged_phenotypes() if phenotypes is None else read_definitions(phenotypes)
    check_place(out, overwrite)
    files = needed_tables(plan, source, folders)
    options = [vars(plan), fractions, [str(folder) for folder in folders.values()]]
    files += [Path(file) for file in (*lists.values(), phenotypes) if file is not None]
    with working_folder(out, fingerprint(options, files), not restart) as work:
        place = _Place(plan, source, folders, work, say)
        cohort = _read_cohort(place, definitions, lambda patients, died: split_patients(
            patients, died, fractions or FRACTIONS[database], seed=seed, **lists))  # fmt: skip
        place.tell(f"writing {len(cohort):,} samples")
        cohort.save(out, overwrite=overwrite)
    return Cohort.open(out)


class _Place(NamedTuple):
    """Where a cohort is read from, and where what was read is kept."""

    plan: Plan
    source: Path
    folders: Mapping[str, Path]
    work: Path
    say: Callable[[str], object] | None

    def tell(self, line: str) -> None:
        if self.say is not None:
            self.say(line)

    def events(self) -> Events:
        """The stays with their events, read once."""
        plan, kept = self.plan, self.work / "events.npz"
        if not kept.is_file():
            self.tell("reading the tables of events")
            found = read_events(
                self.source,
                plan.database,
                hours=None if plan.whole_stays else plan.hours,
                bin_hours=plan.bin_hours,
                raw=plan.raw,
                cleaning=plan.cleaning,
            )
            save_events(kept, found)
        return load_events(kept)

    def once(self, name: str, read: Callable[[], Any]) -> Any:
        """Plain JSON values, read once."""
        kept = self.work / f"{name}.json"
        if not kept.is_file():
            self.tell(f"reading {name}")
            write_json(kept, read())
        return json.loads(kept.read_text(encoding="utf-8"))


class _Rows(NamedTuple):
    """A modality of all samples: its description, its store, and who has it."""

    modality: Modality
    store: Store
    observed: np.ndarray


def _read_cohort(
    place: _Place, definitions: Sequence[Any], split: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Cohort:
    plan, events = place.plan, place.events()
    samples = select_samples(events, plan.task, hours=plan.hours, every=plan.every)  # type: ignore[arg-type]
    if not len(samples.row):
        lasts = "" if plan.hours is None else f" lasts {plan.hours} hours and"
        raise DataError(f"no stay in {place.source}{lasts} has an event of the variables in them")
    task, target = TASKS[plan.task], samples.target
    if plan.task == "phenotyping":
        task = replace(task, classes=tuple(phenotype.name for phenotype in definitions))
        described = plan.cleaning == "benchmark"
        labels = read_diagnoses(
            place.source, plan.database, events.stays.admission, tuple(definitions), only_described=described
        )
        target = labels[samples.row].astype(np.float32)
    stays = events.stays.take(samples.row)
    splits = split(stays.patient, stays.died.astype(np.int64))
    cohort = _cohort(plan, events, samples, task, target, splits, _modalities(place, events, samples, splits))
    if plan.pairing == "partial":
        return cohort
    matched = np.flatnonzero(cohort.observed.all(axis=1))
    if not len(matched):
        raise DataError(f"no stay has all of {', '.join(plan.modalities)}", hint="Take pairing=partial.")
    return cohort.take(matched)


def _modalities(place: _Place, events: Events, samples: Samples, splits: np.ndarray) -> dict[str, _Rows]:
    """The modalities of the plan, in its order."""
    plan, stays = place.plan, events.stays.take(samples.row)
    wanted = Wanted(stays.admission, stays.patient, stays.start, samples.end, events.reference[samples.row])
    there = np.ones(len(samples.row), bool)
    asked, parts = set(plan.modalities), {}
    if "ehr" in asked:
        parts["ehr"] = _series(plan, events, samples)
    if "static" in asked:
        parts["static"] = _Rows(_table("static", STATIC), ArrayStore(stays.static), there)
    if {"cxr", "report"} & asked:
        parts |= _images(place, wanted)
    if "notes" in asked:
        parts["notes"] = _notes(place, wanted, _share(stays.stay, splits, plan.notes_share, plan.seed))
    if "discharge" in asked:
        folder = place.folders["notes"]
        texts = place.once("discharge", lambda: read_discharge(place.source, plan.database, wanted, folder=folder))
        parts["discharge"] = _texts("discharge", texts, folder if plan.database == "mimic4" else place.source)
    if {"triage", "complaint", "ed_vitals"} & asked:
        parts |= _emergency(place, wanted, asked)
    return {name: parts[name] for name in plan.modalities}


def _table(name: str, features: Sequence[tuple[str, str]]) -> Modality:
    names, units = zip(*features)
    return Modality(name, "tabular", (len(features),), names, units)


def _images(place: _Place, wanted: Wanted) -> dict[str, _Rows]:
    with_report, folders = "report" in place.plan.modalities, place.folders

    def choose() -> list[list[str | None]]:
        found = choose_images(folders["cxr"], folders["reports"], wanted, with_report=with_report)
        return [[None if file is None else str(file) for file in found.files], found.reports]

    names, reports = place.once("images", choose)
    files = [None if name is None else Path(name) for name in names]
    seen = np.array([file is not None for file in files])
    if not seen.any():
        words = " with a report" * with_report
        raise DataError(f"no stay has a frontal image in its window in {folders['cxr']}{words}")
    place.tell(f"decoding {len(set(names) - {None}):,} images")
    store = decode_images(files, place.work / "images.raw", say=place.say)
    parts = {"cxr": _Rows(Modality("cxr", "image", (1, SIDE, SIDE)), store, seen)}
    if with_report:
        parts["report"] = _texts("report", reports, folders["reports"])
    return parts


def _notes(place: _Place, wanted: Wanted, chosen: np.ndarray) -> _Rows:
    plan, folder = place.plan, place.folders["notes"]
    rule = "cm2" if plan.preset == "cm2" else "known"
    texts = place.once("notes", lambda: read_notes(place.source, plan.database, wanted, folder=folder, rule=rule))
    where = note_source(place.source, plan.database, "notes", folder=folder)
    if not any(texts):
        enough = "more than five notes" if rule == "cm2" else "notes"
        raise DataError(f"no stay has {enough} in {where.folder / where.table}", hint="The open demo has none.")
    return _texts("notes", [text if has else None for text, has in zip(texts, chosen)], where.folder)


def _emergency(place: _Place, wanted: Wanted, asked: set[str]) -> dict[str, _Rows]:
    found, parts = read_emergency(place.folders["ed"], wanted), {}
    if not found.visited.any():
        raise DataError(f"no stay has a visit in {place.folders['ed']}")
    if "triage" in asked:
        parts["triage"] = _Rows(_table("triage", TRIAGE), found.triage, found.visited)
    if "complaint" in asked:
        parts["complaint"] = _texts("complaint", found.complaints, place.folders["ed"])
    if "ed_vitals" in asked:
        names, units = zip(*VITALS)
        series = Modality("ed_vitals", "series", (found.vitals.width or 1, len(VITALS)), names, units)
        parts["ed_vitals"] = _Rows(series, found.vitals, np.diff(found.vitals.offsets) > 0)
    return parts


def _series(plan: Plan, events: Events, samples: Samples) -> _Rows:
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
    plan: Plan,
    events: Events,
    samples: Samples,
    task: Task,
    target: np.ndarray | None,
    splits: np.ndarray,
    parts: Mapping[str, _Rows],
) -> Cohort:
    stays = events.stays.take(samples.row)
    ids = stays.stay.astype(str)
    if plan.hourly:
        ids = np.char.add(np.char.add(ids, "@"), samples.end.astype(np.int64).astype(str))
    window = "whole stays" if plan.hours is None else f"{plan.hours} h"
    extras = {"age": stays.age, "hours": stays.hours, "female": stays.static[:, 1].astype(bool)}
    if plan.hourly:
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
