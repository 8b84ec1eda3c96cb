"""Texts: a column of the manifest, or files that a column names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from amodal.data.sets import join_texts
from amodal.data.table.cells import texts
from amodal.data.table.files import FileRule, read_files
from amodal.data.table.section import Section
from amodal.data.table.several import ONE, Several
from amodal.data.table.source import Piece, Place, Reader, Rows, Source
from amodal.errors import DataError, SchemaError
from amodal.kinds.sets import TextSet
from amodal.schema import Modality

__all__ = ["Text"]


@dataclass(frozen=True)
class Text(Source):
    """A text modality; absent where the cell is empty.

    Attributes:
        column: The manifest's column with the texts, or with the names of their files.
        files: Whether it has names of UTF-8 files.
        folder: Folder they lie in, relative to the data folder.
        ending: What their names in the column lack, such as ".txt".
        several: How several notes in one cell, or the names of several files, are parted; these become a set.
        missing_file: "error" or "absent".
        unreadable_file: "error" or "absent".
        longest: Bytes kept of a text; longer ones are cut, and counted.
        description: One line for people.
    """

    kind: ClassVar[str] = "text"

    column: str = ""
    files: bool = False
    folder: str = ""
    ending: str = ""
    several: Several = ONE
    missing_file: str = "error"
    unreadable_file: str = "error"
    longest: int = 100_000
    description: str = ""

    @classmethod
    def read(cls, name: str, section: Section) -> Text:
        """Reads it from a schema; see `Source.read`."""
        source = cls(
            name,
            section.text("column"),
            section.flag("files", False),
            section.text("folder", ""),
            section.text("ending", ""),
            Several.read(section),
            section.choice("missing_file", ("error", "absent"), "error"),
            section.choice("unreadable_file", ("error", "absent"), "error"),
            section.integer("longest", 100_000, most=10**8),
            section.text("description", ""),
        )
        section.done()
        if not source.files and (source.ending or source.folder):
            raise SchemaError(
                f"{section.where} has a key for files, but `files` is not true", expected="files: true",
                hint="Write it if the column names files.",
            )  # fmt: skip
        return source

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `read` takes."""
        keys = (
            "column",
            "files",
            "folder",
            "ending",
            "missing_file",
            "unreadable_file",
            "longest",
            "description",
        )
        record = {key: getattr(self, key) for key in keys if getattr(self, key) != ""}
        return {"kind": self.kind, **record, **self.several.to_json()}

    def columns(self) -> tuple[str, ...]:
        """The manifest's columns that it reads."""
        return (self.column,)

    def modality(self) -> Modality:
        """Name, kind and shape."""
        if self.several:
            return Modality(self.name, TextSet.name, (self.several.most,), description=self.description)
        return Modality(self.name, "text", (), description=self.description)

    def set_rule(self) -> Several:
        """How several of its entries stand in one cell."""
        return self.several

    def surveyed(self, place: Place) -> Text:
        """Itself with the number of notes of the fullest cell."""
        return replace(self, several=self.several.surveyed(place.manifest, self.column, place.missing))

    def taken_for(self) -> str:
        """One line on what the cells are taken for."""
        what = "UTF-8 files" if self.files else "cells"
        return f"sets of up to {self.several.most} texts of {what}" if self.several else f"texts of {what}"

    def reader(self, place: Place) -> Reader:
        """Opens what it reads."""
        return _TextReader(self, place)


class _TextReader(Reader):
    def __init__(self, source: Text, place: Place):
        self.source, self.place = source, place

    def read(self, rows: Rows) -> Piece:
        source, place, most = self.source, self.place, self.source.longest
        if source.files:
            rule = FileRule(
                source.column, source.folder, source.missing_file, source.unreadable_file,
                ending=source.ending, several=source.several,
            )  # fmt: skip
            notes, _ = read_files(place, rows, rule, source.name, _decode)
        elif source.column in rows.columns:
            notes = self._cells(rows)
        else:
            notes = [[] for _ in rows.ids]
        long = [row for row, own in zip(rows.ids, notes) for note in own if len(note.encode("utf-8", "replace")) > most]
        place.problems.add(f"{source.name}: text cut to {most:,} bytes", long)
        contents = [join_texts([_cut(note, most) for note in own]).encode("utf-8", "replace") for own in notes]
        return Piece(contents, np.array([len(content) > 0 for content in contents], dtype=bool))

    def _cells(self, rows: Rows) -> list[list[str]]:
        """The notes that stand in the cells themselves."""
        source, place = self.source, self.place
        cells = texts(rows.columns[source.column], place.missing)
        empty = sum(text is None for text in cells)
        place.problems.enter(
            f"{source.name}: cells of {source.column}", len(cells), empty=empty, measured=len(cells) - empty
        )
        if not source.several:
            return [[] if cell is None else [cell] for cell in cells]
        spot = f"{source.name}: notes of {source.column}"
        notes = source.several.limited(cells, place.problems, rows.ids, f"{source.name}: note", spot, twice=True)
        place.problems.enter(spot, 0, measured=sum(map(len, notes)))
        return notes


def _decode(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"no UTF-8 text: byte {error.start}", hint="Save it as UTF-8.") from error
    if not text:
        raise DataError("the file holds no text")
    return text


def _cut(text: str, longest: int) -> str:
    return text.encode("utf-8", "replace")[:longest].decode("utf-8", "ignore")
