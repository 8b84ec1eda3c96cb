"""The plan of a MIMIC cohort: its presets, what is left open filled in, and the tables that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from amodal.commands import convert_list
from amodal.data.sources.mimic.emergency import ED_COLUMNS, ED_NAME, ED_TABLES
from amodal.data.sources.mimic.events import Cleaning
from amodal.data.sources.mimic.images import CXR_COLUMNS, CXR_NAME, check_folders, metadata_table
from amodal.data.sources.mimic.notes import note_source
from amodal.data.sources.mimic.phenotypes import diagnosis_tables
from amodal.data.sources.mimic.query import check_tables, find_table
from amodal.data.sources.mimic.samples import HOURLY, TASKS
from amodal.data.sources.mimic.stays import DATABASES, TABLES, Database, event_columns
from amodal.errors import ConfigurationError, UnknownNameError

__all__ = ["MODALITIES", "PRESETS", "Plan", "make_plan", "needed_tables"]

MODALITIES = {
    "mimic3": ("ehr", "static", "notes", "discharge"),
    "mimic4": ("ehr", "static", "notes", "cxr", "report", "discharge", "triage", "complaint", "ed_vitals"),
}
"""Modalities of each database."""

PRESETS: dict[str, dict[str, Any]] = {
    "benchmark": {"bin_hours": 1, "every": 1, "notes_share": 1.0},
    "medfuse": {"bin_hours": 1, "every": 0, "notes_share": 1.0},
    "cm2": {"bin_hours": 2, "every": 0, "notes_share": 1 / 3},
    "cepa": {"bin_hours": 1, "every": 0, "notes_share": 1.0, "pairing": "matched"},
}
"""What each preset sets; the command of MIMIC-III has "multibench" besides."""

BESIDE = {"cxr": "mimic-cxr-jpg", "reports": "mimic-cxr", "notes": "mimic-iv-note", "ed": "mimic-iv-ed"}
"""Databases beside MIMIC-IV, by the argument that names their folder, and the folder's name if it is in the source."""

_EMERGENCY = ("triage", "complaint", "ed_vitals")


@dataclass(frozen=True)
class Plan:
    """What is to be prepared, with everything that was left open filled in.

    Args:
        database: Which.
        task: One of `TASKS`.
        modalities: Some of `MODALITIES`.
        preset: One of `PRESETS`.
        hours: Length of the window; None: from the start of the stay.
        bin_hours: Length of a bin.
        every: Hours between the samples of a stay; 0: one.
        raw: Events at their times instead of bins.
        pairing: "partial" or "matched".
        cleaning: "benchmark" or "units".
        notes_share: Share of each split's stays whose notes are read.
        seed: Of the split, and of the share that has notes.
    """

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
        if self.bin_hours < 1 or self.every < 0 or (self.every % self.bin_hours and self.task in HOURLY):
            raise ConfigurationError(
                "bin_hours or every is out of range",
                expected="bin_hours 1 or more, every 0 or a multiple of it",
                got=f"bin_hours {self.bin_hours}, every {self.every}",
            )
        if self.hours is not None and (self.hours < 1 or self.hours % self.bin_hours):
            raise ConfigurationError(
                "hours is out of range", expected=f"a positive multiple of bin_hours = {self.bin_hours}", got=self.hours
            )
        if self.hours is None and not self.whole_stays:
            raise ConfigurationError(
                "hours is 0", expected="a window, for samples that end with it", got=f"task {self.task}"
            )
        if not 0 < self.notes_share <= 1:
            raise ConfigurationError("notes_share is out of range", expected="0 < share <= 1", got=self.notes_share)

    @property
    def hourly(self) -> bool:
        """Whether a stay has several samples."""
        return self.task in HOURLY and bool(self.every)

    @property
    def whole_stays(self) -> bool:
        """Whether the events of whole stays are read."""
        return self.hourly or (self.hours is None and self.task == "phenotyping")


def make_plan(
    database: Database,
    task: str,
    modalities: Sequence[str] | str,
    preset: str,
    hours: int | None,
    given: Mapping[str, Any],
    **more: Any,
) -> Plan:
    """The plan of a preset with what is given instead of its values.

    Args:
        database: Which.
        task: The task.
        modalities: Names, or one text with commas between them.
        preset: The preset.
        hours: Length of the window; 0: from the start of the stay; None: 48, or the whole stay (phenotyping).
        given: What replaces the preset's values; None does not.
        **more: The plan's other fields.

    Raises:
        UnknownNameError: If a name is not known.
        ConfigurationError: If a value is out of range.
    """
    for what, name, known in (("preset", preset, PRESETS), ("task", task, TASKS), ("database", database, MODALITIES)):
        if name not in known:
            raise UnknownNameError(what if what == "database" else f"{what} of {database}", name, known)
    names = tuple(dict.fromkeys(convert_list("modalities", modalities)))
    for name in names:
        if name not in MODALITIES[database]:
            raise UnknownNameError(f"modality of {database}", name, MODALITIES[database])
    if not names:
        raise ConfigurationError("there is no modality", expected="one or more", got=modalities)
    values = {"pairing": "partial", **PRESETS[preset], **{k: v for k, v in given.items() if v is not None}}
    if hours is None and task != "phenotyping":
        hours = 48
    return Plan(database, task, names, preset, hours or None, **values, **more)


def needed_tables(plan: Plan, source: Path, folders: Mapping[str, Path]) -> list[Path]:
    """The tables that a cohort needs, after a look at their columns: what is missing is said before long work.

    Args:
        plan: What is to be prepared.
        source: Folder of the database.
        folders: Folders of the databases beside it, by the names of `BESIDE`.

    Raises:
        DataError: If a table, a column or a folder is missing; the message names it.
    """
    name = DATABASES[plan.database]
    wanted: list[tuple[Path, Mapping[str, str], str, Mapping[str, Sequence[str]]]] = [
        (source, TABLES[plan.database], name, event_columns(plan.database))
    ]
    if plan.task == "phenotyping":
        tables, columns = diagnosis_tables(plan.database, only_described=plan.cleaning == "benchmark")
        wanted.append((source, tables, name, columns))
    if {"cxr", "report"} & set(plan.modalities):
        check_folders(folders.get("cxr"), folders.get("reports"), with_report="report" in plan.modalities)
        wanted.append(
            (folders["cxr"], {"METADATA": metadata_table(folders["cxr"])}, CXR_NAME, {"METADATA": CXR_COLUMNS})
        )
    kinds: tuple[Literal["notes", "discharge"], ...] = ("notes", "discharge")
    for kind in kinds:
        if kind in plan.modalities:
            notes = note_source(source, plan.database, kind, folder=folders.get("notes"))
            wanted.append((notes.folder, {"NOTES": notes.table}, notes.database, {"NOTES": notes.columns}))
    if set(_EMERGENCY) & set(plan.modalities):
        wanted.append((folders["ed"], ED_TABLES, ED_NAME, ED_COLUMNS))
    for folder, tables, database, columns in wanted:
        check_tables(folder, tables, database=database, columns=columns)
    return [find_table(folder, table, database) for folder, tables, database, _ in wanted for table in tables.values()]
