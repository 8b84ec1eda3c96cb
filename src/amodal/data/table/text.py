"""Texts: a column of the manifest, or files that a column names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from amodal.data.limits import MOST_FILES_IN_A_CELL
from amodal.data.table.cells import texts
from amodal.data.table.files import FileRule, read_files
from amodal.data.table.section import Section
from amodal.data.table.source import Piece, Place, Reader, Rows, Source
from amodal.errors import DataError, SchemaError
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
        separator: What stands between the names of several files in one cell; their texts are joined.
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
    separator: str = ""
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
            section.text("separator", ""),
            section.choice("missing_file", ("error", "absent"), "error"),
            section.choice("unreadable_file", ("error", "absent"), "error"),
            section.integer("longest", 100_000, most=10**8),
            section.text("description", ""),
        )
        section.done()
        if not source.files and (source.ending or source.separator or source.folder):
            raise SchemaError(
                f"{section.where} has a key for files, but `files` is not true", expected="files: true",
                hint="Write it if the column names files; several notes in one cell are one text as they are.",
            )  # fmt: skip
        return source

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `read` takes."""
        keys = (
            "column",
            "files",
            "folder",
            "ending",
            "separator",
            "missing_file",
            "unreadable_file",
            "longest",
            "description",
        )
        return {"kind": self.kind, **{key: getattr(self, key) for key in keys if getattr(self, key) != ""}}

    def columns(self) -> tuple[str, ...]:
        """The manifest's columns that it reads."""
        return (self.column,)

    def modality(self) -> Modality:
        """Name, kind and shape."""
        return Modality(self.name, "text", (), description=self.description)

    def reader(self, place: Place) -> Reader:
        """Opens what it reads."""
        return _TextReader(self, place)


class _TextReader(Reader):
    def __init__(self, source: Text, place: Place):
        self.source, self.place = source, place

    def read(self, rows: Rows) -> Piece:
        source, place = self.source, self.place
        if source.files:
            rule = FileRule(
                source.column, source.folder, source.missing_file, source.unreadable_file,
                ending=source.ending, separator=source.separator, most=MOST_FILES_IN_A_CELL,
            )  # fmt: skip
            found, _ = read_files(place, rows, rule, source.name, _decode)
            found = ["\n\n".join(part) if isinstance(part, list) else part for part in found]
        elif source.column in rows.columns:
            found = texts(rows.columns[source.column], place.missing)
            empty = sum(text is None for text in found)
            spot = f"{source.name}: cells of {source.column}"
            place.problems.enter(spot, len(found), empty=empty, measured=len(found) - empty)
        else:
            found = [None] * len(rows.ids)
        contents = [b"" if text is None else text.encode("utf-8", "replace") for text in found]
        long = np.array([len(content) > source.longest for content in contents], dtype=bool)
        place.problems.add(f"{source.name}: text cut to {source.longest:,} bytes", rows.ids[long])
        contents = [_cut(content, source.longest) for content in contents]
        return Piece(contents, np.array([len(content) > 0 for content in contents], dtype=bool))


def _decode(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"no UTF-8 text: byte {error.start}", hint="Save it as UTF-8.") from error


def _cut(content: bytes, longest: int) -> bytes:
    return content if len(content) <= longest else content[:longest].decode("utf-8", "ignore").encode()
