"""The schema of a user's own table: id, group, split, task and modalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from amodal.data.table.array import Array, Embedding
from amodal.data.table.audio import Audio
from amodal.data.table.cells import MISSING_WORDS, Reading
from amodal.data.table.events import Events
from amodal.data.table.image import Image
from amodal.data.table.manifest import Table, check_columns
from amodal.data.table.numbers import PLAIN, NumberRule
from amodal.data.table.section import Section, load_record, plain_record
from amodal.data.table.source import Source
from amodal.data.table.tabular import Tabular
from amodal.data.table.target import TaskColumns
from amodal.data.table.text import Text
from amodal.errors import SchemaError
from amodal.schema import Schema

__all__ = ["SOURCES", "SplitRule", "TableSchema"]

SOURCES: dict[str, type[Source]] = {
    "tabular": Tabular,
    "events": Events,
    "image": Image,
    "text": Text,
    "audio": Audio,
    "array": Array,
    "embedding": Embedding,
}
"""Kinds of modalities that a schema can name."""


@dataclass(frozen=True)
class SplitRule:
    """The rule for the split of a case.

    Attributes:
        column: The column that says so; "" = drawn.
        fractions: Of the rows, for each split.
        seed: Seed of the draw.
        stratify: Whether every split gets the same mixture of classes.
        values: The split of each word of the column, such as a hospital; None: the column says train, valid, test.
    """

    column: str = ""
    fractions: Mapping[str, float] | None = None
    seed: int = 0
    stratify: bool = True
    values: Mapping[str, str] | None = None

    @classmethod
    def read(cls, given: Any) -> SplitRule:
        """Reads it from a schema: the name of a column, or how to draw."""
        return (
            cls(given) if isinstance(given, str) else cls.read_section(Section("split", {} if given is None else given))
        )

    @classmethod
    def read_section(cls, section: Section) -> SplitRule:
        """Reads it from a section of a schema."""
        if "column" in section:
            inner = section.section("values") if "values" in section else None
            values = {word: inner.text(word) for word in inner.keys()} if inner else None  # noqa: SIM118
            rule = cls(section.text("column"), values=values)
        else:
            inner = section.section("fractions") if "fractions" in section else None
            fractions = {name: inner.number(name) for name in inner.keys()} if inner else None  # noqa: SIM118
            if fractions is not None and (min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-6):
                raise SchemaError("split.fractions must be positive and sum to 1", got=fractions)
            rule = cls("", fractions, section.integer("seed", 0, least=0, most=2**62), section.flag("stratify", True))
        section.done()
        return rule

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `read` takes."""
        if self.column:
            return {"column": self.column} | ({"values": dict(self.values)} if self.values else {})
        fractions = {"fractions": dict(self.fractions)} if self.fractions else {}
        return {**fractions, "seed": self.seed, "stratify": self.stratify}


@dataclass(frozen=True)
class TableSchema:
    """The schema by which a table and the files it names become a cohort.

    Attributes:
        id: Column with distinct ids; "" numbers the rows.
        task: What is predicted.
        sources: The modalities, in order.
        group: Column with groups (patients), which stay in one split; "" = each case its own.
        split: Which split a case is in.
        extras: Columns kept beside, as texts, that are not inputs.
        weight: Column of how much each case counts in training and in metrics; "" = all alike.
        missing: Words that stand for an empty cell.
        numbers: How numbers are written, where a column does not say otherwise.
        timezone: Where clocks without an offset from Greenwich stand, as `Europe/Berlin`; "" = they are taken as they
            are.
        ignore_case: Whether capital and small letters of ids and words are the same.
        encoding: How CSV files are encoded that are neither UTF-8 nor UTF-16, as `cp1252`.
        sheet: The sheet of a manifest that is an Excel workbook; "" = the first.
        duplicates: What becomes of rows of the manifest that are the same in every cell: "error" or "drop".
        name: A short name.
        description: One line for people.
    """

    FORMAT: ClassVar[int] = 1

    id: str
    task: TaskColumns
    sources: tuple[Source, ...]
    group: str = ""
    split: SplitRule = SplitRule()
    extras: tuple[str, ...] = ()
    weight: str = ""
    missing: tuple[str, ...] = MISSING_WORDS
    numbers: NumberRule = PLAIN
    timezone: str = ""
    ignore_case: bool = False
    encoding: str = ""
    sheet: str = ""
    duplicates: str = "error"
    name: str = ""
    description: str = ""

    @classmethod
    def load(cls, path: Path) -> TableSchema:
        """Reads a schema file, YAML or JSON.

        Raises:
            SchemaError: If it cannot be used; the message names the key and the nearest right one.
        """
        return cls.from_json(load_record(path))

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> TableSchema:
        """Reads a schema from plain values.

        Raises:
            SchemaError: If a key is unknown or lacking, or a value cannot be used.
        """
        return cls.read_section(Section("", plain_record(record)))

    @classmethod
    def read_section(cls, section: Section) -> TableSchema:
        """Reads a schema from its outermost section."""
        version = section.integer("format", 1, most=2**31)
        if version > cls.FORMAT:
            raise SchemaError("the schema has a newer format", expected=f"{cls.FORMAT} or older", got=version,
                              hint="Update amodal.")  # fmt: skip
        sources = []
        for name, inner in section.sections("modalities").items():
            kind = inner.choice("kind", SOURCES)
            sources.append(SOURCES[kind].read(name, inner))
        missing = section.texts("missing", MISSING_WORDS)
        schema = cls(
            id=section.text("id", ""),
            task=TaskColumns.read(section.section("task")),
            sources=tuple(sources),
            group=section.text("group", ""),
            split=SplitRule.read(section.raw("split")),
            extras=section.texts("extras", ()),
            weight=section.text("weight", ""),
            missing=tuple(dict.fromkeys(["", *missing])),
            numbers=NumberRule.read(section),
            timezone=_timezone(section),
            ignore_case=section.flag("ignore_case", False),
            encoding=_encoding(section),
            sheet=section.text("sheet", ""),
            duplicates=section.choice("duplicates", ("error", "drop"), "error"),
            name=section.text("name", ""),
            description=section.text("description", ""),
        )
        section.done()
        if not sources:
            raise SchemaError("modalities names no modality", expected=f"one or more of kind {', '.join(SOURCES)}")
        schema._check_target()
        return schema

    def _check_target(self) -> None:
        """The target must not be an input: a leak no later check could see."""
        for source in self.sources:
            shared = set(source.columns()) & set(self.task.cells())
            if shared:
                raise SchemaError(
                    f"modalities.{source.name} reads the target column {sorted(shared)[0]!r}",
                    hint="What is to be predicted cannot be an input; take it out of the modality.",
                )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `from_json` takes."""
        return {
            "format": self.FORMAT,
            "name": self.name,
            "description": self.description,
            "id": self.id,
            "group": self.group,
            "split": self.split.to_json(),
            "extras": list(self.extras),
            **({"weight": self.weight} if self.weight else {}),
            "missing": list(self.missing),
            **self.numbers.to_json(),
            **{
                key: getattr(self, key)
                for key in ("timezone", "ignore_case", "encoding", "sheet")
                if getattr(self, key)
            },
            **({"duplicates": self.duplicates} if self.duplicates != "error" else {}),
            "task": self.task.to_json(),
            "modalities": {source.name: source.to_json() for source in self.sources},
        }

    @property
    def reading(self) -> Reading:
        """The rules for reading cells where a column does not say otherwise."""
        return Reading(frozenset(self.missing), self.numbers, self.timezone, self.ignore_case, self.encoding)

    @property
    def schema(self) -> Schema:
        """Modalities and task, once every source is surveyed."""
        return Schema(tuple(source.modality() for source in self.sources), self.task.task)

    def with_sources(self, sources: tuple[Source, ...]) -> TableSchema:
        """The same with other sources."""
        return replace(self, sources=sources)

    def with_task(self, task: TaskColumns) -> TableSchema:
        """The same with another task."""
        return replace(self, task=task)

    def index_columns(self) -> dict[str, str]:
        """The columns that say who a case is, each with its place in the schema."""
        wanted = {self.id: "id", self.group: "group", self.split.column: "split"}
        wanted |= {self.weight: "weight"} | dict.fromkeys(self.extras, "extras") | self.task.cells()
        return {column: where for column, where in wanted.items() if column}

    def value_columns(self) -> dict[str, str]:
        """The columns of the modalities, each with its place in the schema."""
        return {column: f"modalities.{s.name}" for s in self.sources for column in s.columns()}

    def check(self, manifest: Table) -> None:
        """Raises SchemaError for the first column that a manifest lacks, with the nearest one."""
        check_columns(manifest, self.index_columns() | self.value_columns())


def _timezone(section: Section) -> str:
    from zoneinfo import ZoneInfo

    name = section.text("timezone", "")
    try:
        if name:
            ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise SchemaError(
            "timezone is not known", expected="a name such as Europe/Berlin or UTC", got=repr(name)
        ) from error
    return name


def _encoding(section: Section) -> str:
    import codecs

    name = section.text("encoding", "")
    try:
        return codecs.lookup(name).name if name else ""
    except LookupError as error:
        raise SchemaError("encoding is not known", expected="cp1252, latin-1, …", got=repr(name)) from error
