"""Texts: a column of the manifest, or files that a column names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from amodal.data.sets import join_texts
from amodal.data.table.cells import ODD_WORDS, texts
from amodal.data.table.files import FileRule, read_files
from amodal.data.table.markup import has_html, is_rtf, without_html
from amodal.data.table.section import Section
from amodal.data.table.several import ONE, Several
from amodal.data.table.source import Piece, Place, Reader, Rows, Source
from amodal.data.table.words import broken_letters
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
        markup: "html" takes HTML's tags away, "none" reads texts as they stand, and counts those with tags.
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
    markup: str = "none"
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
            section.choice("markup", ("none", "html"), "none"),
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
            "markup",
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
        if not self.files:
            self._tell_repeated(place)
        return replace(
            self, several=self.several.surveyed(place.manifest, self.column, place.missing, twice=not self.files)
        )

    def _tell_repeated(self, place: Place) -> None:
        """Says a short text that stands in many rows, and may mean that there is none."""
        counts: Counter[str] = Counter()
        for chunk in place.manifest.chunks([self.column], 65536):
            cells = texts(chunk[self.column], place.missing)
            counts.update(cell for cell in cells if cell is not None and len(cell) <= _SHORT)
        for cell, count in counts.most_common(3):
            if cell.casefold() in ODD_WORDS or count >= max(_OFTEN, 0.02 * len(place.ids)):
                said = f"{self.name}: {cell!r} is the text of {count:,} rows"
                place.problems.say(f"{said}; list it under `missing` if it says that there is none")

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
            notes, _ = read_files(place, rows, rule, source.name, self._decoded)
        elif source.column in rows.columns:
            notes = self._cells(rows)
        else:
            notes = [[] for _ in rows.ids]
        long = [row for row, own in zip(rows.ids, notes) for note in own if len(note.encode("utf-8", "replace")) > most]
        if source.markup == "none":
            marked = [row for row, own in zip(rows.ids, notes) for note in own if has_html(note)]
            place.problems.add(f"{source.name}: {_MARKED}", marked)
        broken = [(row, broken_letters(note)) for row, own in zip(rows.ids, notes) for note in own]
        broken = [(row, letters) for row, letters in broken if letters]
        what = f"{source.name}: letters that a conversion has broken, read as they stand"
        place.problems.add(what, [row for row, _ in broken], [letters for _, letters in broken])
        place.problems.add(f"{source.name}: text cut to {most:,} bytes", long)
        contents = [join_texts([_cut(note, most) for note in own]).encode("utf-8", "replace") for own in notes]
        return Piece(contents, np.array([len(content) > 0 for content in contents], dtype=bool))

    def _cells(self, rows: Rows) -> list[list[str]]:
        """The notes that stand in the cells themselves."""
        source, place = self.source, self.place
        cells, spot = texts(rows.columns[source.column], place.missing), f"{source.name}: cells of {source.column}"
        empty = sum(text is None for text in cells)
        cells = self._plain(cells, rows.ids, spot)
        measured = sum(text is not None for text in cells)
        place.problems.enter(spot, len(cells), empty=empty, measured=measured)
        if not source.several:
            return [[] if cell is None else [cell] for cell in cells]
        spot = f"{source.name}: notes of {source.column}"
        notes = source.several.limited(cells, place.problems, rows.ids, f"{source.name}: note", spot, twice=True)
        place.problems.enter(spot, 0, measured=sum(map(len, notes)))
        return notes

    def _plain(self, cells: np.ndarray, ids: np.ndarray, spot: str) -> np.ndarray:
        """Cells without markup, None where nothing is left, which is counted; RTF is refused."""
        name, problems = self.source.name, self.place.problems
        rtf = np.array([cell is not None and is_rtf(cell) for cell in cells], dtype=bool)
        problems.grave(
            f"{name}: the text is an RTF document", ids[rtf], cells[rtf], expected="plain text",
            hint="Its words must be taken out first: open and save it as text, or convert the column with a program.",
            lost=spot,
        )  # fmt: skip
        cells = cells.copy()
        cells[rtf] = None
        if self.source.markup == "none":
            return cells
        between = " " if self.source.several else "\n"
        plain = [None if cell is None else without_html(cell).replace("\n", between) or None for cell in cells]
        gone = np.array([cell is not None and left is None for cell, left in zip(cells, plain)], dtype=bool)
        problems.add(f"{name}: HTML without a word, left out", ids[gone], lost=spot)
        return np.array([*plain, None], dtype=object)[:-1]

    def _decoded(self, path: Path) -> str:
        """The text of a file, without markup where the schema says so."""
        text = _decode(path, self.place.reading.encoding)
        text = without_html(text) if self.source.markup == "html" else text
        if not text:
            raise DataError("the file holds no text")
        return text


_MARKED = "text with HTML tags, read as it stands (`markup: html` takes them away)"
_SHORT, _OFTEN = 24, 5  # letters, and rows, of a text that is said
_FOREIGN = {b"{\\rtf": "an RTF document", b"%PDF-": "a PDF document", b"PK\x03\x04": "a zip archive (.docx, .odt)",
            b"\xd0\xcf\x11\xe0": "a document of old Word"}  # fmt: skip


def _decode(path: Path, encoding: str) -> str:
    """The text of a file: UTF-8, UTF-16 that says so, or the encoding that the schema states for what is neither."""
    content = path.read_bytes()
    foreign = next((what for start, what in _FOREIGN.items() if content.startswith(start)), None)
    if foreign is not None:
        raise DataError(f"it is {foreign}, no plain text", hint="Save the words as UTF-8 text.")
    try:
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            text = content.decode("utf-16")
        else:
            text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not encoding:
            raise DataError(
                f"no UTF-8 text: byte {error.start}",
                hint="Save it as UTF-8, or write `encoding: cp1252` at the top of the schema if it comes from Windows.",
            ) from error
        text = _in_encoding(content, encoding)
    if "\0" in text:
        raise DataError("it holds bytes of zero, as no text does", hint="Save the words as UTF-8 text.")
    return text.strip()


def _in_encoding(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"neither UTF-8 nor {encoding}: byte {error.start}", hint="See `encoding`.") from error


def _cut(text: str, longest: int) -> str:
    return text.encode("utf-8", "replace")[:longest].decode("utf-8", "ignore")
