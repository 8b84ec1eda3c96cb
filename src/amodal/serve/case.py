"""One case as a request gives it, to a table of one row that is read as the training table was."""

from __future__ import annotations

import base64
import binascii
import copy
import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.limits import REQUEST_PIXELS
from amodal.data.table import MemoryTable, TableSchema
from amodal.data.table.array import Array
from amodal.data.table.audio import Audio, decode_sound
from amodal.data.table.column import Column
from amodal.data.table.events import Events
from amodal.data.table.files import load_array
from amodal.data.table.image import Image, decode_image
from amodal.data.table.numbers import PLAIN, NumberRule, numbers
from amodal.data.table.section import nearest
from amodal.data.table.several import ONE
from amodal.data.table.source import Source
from amodal.data.table.tabular import Tabular
from amodal.data.table.text import Text
from amodal.errors import AmodalError
from amodal.kinds.sets import BETWEEN_TEXTS

__all__ = ["BadField", "case_table", "describe_fields", "read_events", "serving_rules", "written"]

_MOST_EVENTS = 100_000
_LARGEST = float(np.finfo(np.float32).max)
_BETWEEN = chr(BETWEEN_TEXTS)


class BadField(Exception):
    """A field of a request that cannot be used.

    Args:
        field: Its name: a modality, or modality and column.
        problem: What is wrong with it.
    """

    def __init__(self, field: str, problem: str):
        super().__init__(problem)
        self.field, self.problem = field, problem


def serving_rules(rules: TableSchema) -> TableSchema:
    """A table's schema with every modality in a column or a file of its own, as requests give them."""

    def own(source: Source) -> Source:
        file = f"{source.name}.csv"
        if isinstance(source, Tabular):
            return replace(source, file=file, id="id")
        if isinstance(source, Events):
            return replace(
                source, file=file, id="id", time=("time",), variable="variable", value="value", units_column="units",
                since=(), format=(),
            )  # fmt: skip
        if isinstance(source, Text):
            own = replace(source.several, separator=_BETWEEN) if source.several else ONE
            return replace(source, column=source.name, files=False, folder="", ending="", several=own)
        if isinstance(source, Array):
            return replace(source, column=source.name, folder="", ending="", file="", key=None, ids="", match="",
                           several=replace(source.several, separator=_BETWEEN) if source.several else ONE)  # fmt: skip
        if isinstance(source, Image):
            most = min(source.most_pixels, REQUEST_PIXELS)
            return replace(source, column=source.name, folder="", ending="", most_pixels=most,
                           several=replace(source.several, separator=_BETWEEN) if source.several else ONE)  # fmt: skip
        if isinstance(source, Audio):
            return replace(source, column=source.name, folder="", ending="",
                           several=replace(source.several, separator=_BETWEEN) if source.several else ONE)  # fmt: skip
        raise TypeError(f"no request can hold a modality of kind {source.kind}")

    return replace(rules.with_sources(tuple(own(source) for source in rules.sources)), id="id")


def case_table(rules: TableSchema, given: Mapping[str, Any], folder: Path, case_id: str = "case") -> MemoryTable:
    """Writes what a request gives of each modality, and checks it.

    Args:
        rules: From `serving_rules`.
        given: By modality: for a table {column: value}, for a text a string, for events a list of {time, variable,
            value, units}, for an array nested lists, for files their bytes or base64 text, for a set a list of these;
            None or lacking = absent.
        folder: An empty folder for files.
        case_id: The case's id.

    Returns:
        The table of one row.

    Raises:
        BadField: If a modality or column is unknown (with the nearest), or a value cannot be used.
    """
    known = {source.name: source for source in rules.sources}
    for name in given:
        if name not in known:
            near = nearest(name, known)
            raise BadField(name, f"unknown modality; known are {', '.join(known)}." + (f" {near}" if near else ""))
    cells = {"id": [case_id]}
    for source in rules.sources:
        value = given.get(source.name)
        if isinstance(source, Tabular):
            _write_table(source, value, folder, case_id)
        elif isinstance(source, Events):
            _write_events(source, value, folder, case_id)
        else:
            cells[source.name] = [_written(source, value, folder)]
    return MemoryTable(cells)


def _written(source: Any, value: Any, folder: Path) -> str:
    """The cell of a modality that stands in one: a text, names of files, or several of them in a set."""
    if value is None or (isinstance(value, str | bytes | list) and not value):
        return ""
    write, rule = _WRITERS[source.kind], source.set_rule()
    if not rule:
        return write(source, value, folder)
    one = replace(source, several=ONE)
    given = value if isinstance(value, list) else [value]
    if isinstance(source, Array) and _depth(given) <= len(source.shape):  # one array, written out
        given = [given]
    if len(given) > rule.most:
        raise BadField(source.name, f"expected {rule.most} or fewer, got {len(given)}")
    parts = [write(replace(one, name=f"{source.name}.{i}"), part, folder) for i, part in enumerate(given)]
    return _BETWEEN.join(part.replace(_BETWEEN, " ") for part in parts)


def describe_fields(
    rules: TableSchema, ranges: Mapping[str, Any], word: str, middle: Mapping[str, list[float]]
) -> list[dict[str, Any]]:
    """The fields of a request, as plain JSON values, for `/schema` and the form.

    Args:
        rules: From `serving_rules`.
        ranges: Smallest and largest training value of each feature, by modality.
        word: What `middle` is: "mean" or "median".
        middle: The middle of each feature's training values, by modality.
    """
    fields = []
    for source in rules.sources:
        modality = source.modality()
        usual = dict(zip(modality.features, zip(ranges.get(source.name, []), middle.get(source.name, []))))
        field: dict[str, Any] = {"name": source.name, "kind": source.kind, "description": modality.description}
        if isinstance(source, Tabular):
            field["columns"] = [
                {
                    "name": c.name,
                    "type": c.type,
                    "units": c.units,
                    "label": _label(c.name, c.units),
                    "min": c.min,
                    "max": c.max,
                    "categories": list(c.categories or ()),
                    "usual": _usual(usual.get(c.name), word) if c.type == "number" else "",
                }
                for c in source.fields
            ]
        elif isinstance(source, Events):
            field["time_units"] = source.time_units
            field["window"] = [source.start, source.stop]
            field["variables"] = [
                {
                    "name": v.name,
                    "units": v.units,
                    "label": _label(v.name, v.units),
                    "usual": _usual(usual.get(v.name), word),
                }
                for v in source.variables
            ]
        elif not isinstance(source, Text):
            field["shape"] = list(modality.shape)[bool(source.set_rule()) :]
        field["most"] = source.set_rule().most  # members of a set; 0: it is none
        fields.append(field)
    return copy.deepcopy(fields)


def _label(name: str, units: str) -> str:
    """A column's name with its units, once."""
    shown = name.replace("_", " ")
    return shown if not units or units.lower() in name.lower() else f"{shown} ({units})"


def _usual(found: Any, word: str) -> str:
    """Training values in words: "34.8 to 39, median 36.9"."""
    if found is None:
        return ""
    (low, high), centre = found
    if low is None or high is None or not np.isfinite(centre):
        return ""
    return f"{low:.4g} to {high:.4g}, {word} {centre:.3g}"


def read_events(field: str, content: bytes) -> list[dict[str, str]]:
    """Events of an uploaded table: columns time, variable and value, and units if you like; commas or semicolons.

    Raises:
        BadField: If it is no such table.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadField(field, "expected a CSV file in UTF-8") from None
    first = text.partition("\n")[0]
    rows = csv.DictReader(text.splitlines(), delimiter=";" if ";" in first else ",")
    try:
        columns = [(name or "").strip().lower() for name in rows.fieldnames or ()]
    except csv.Error as error:
        raise BadField(field, f"expected a CSV file: {error}") from None
    names = dict(zip(columns, rows.fieldnames or ()))
    twice = [name for name in ("time", "variable", "value", "units") if columns.count(name) > 1]
    if twice:
        raise BadField(field, f"expected every column once, got {twice[0]!r} twice")
    if not {"time", "variable", "value"} <= set(names):
        raise BadField(field, f"expected a CSV file with columns time, variable and value, got {first[:100]!r}")
    wanted = [name for name in ("time", "variable", "value", "units") if name in names]
    try:
        return [{name: (row[names[name]] or "").strip() for name in wanted} for row in rows]
    except csv.Error as error:
        raise BadField(field, f"expected a CSV file: {error}") from None


def _write_table(source: Tabular, value: Any, folder: Path, case_id: str) -> None:
    columns = {column.name: column for column in source.fields}
    given = value if isinstance(value, list) and source.most else [value]
    if source.most and len(given) > source.most:
        raise BadField(source.name, f"expected {source.most} or fewer, got {len(given)}")
    since = [name for c in source.fields for name in c.since if name not in columns]
    header = ["id", *columns, *dict.fromkeys(since)]
    rows = [[case_id, *(cells.get(name, "") for name in header[1:])]
            for cells in (_row_cells(source, columns, row) for row in given)]  # fmt: skip
    _write_csv(folder / source.file, header, [row for row in rows if any(row[1:])])


def _row_cells(source: Tabular, columns: Mapping[str, Column], row: Any) -> dict[str, str]:
    """The cells of one row of a table."""
    if row is not None and not isinstance(row, Mapping):
        raise BadField(source.name, "expected an object of columns and values")
    cells = {}
    for name, cell in (row or {}).items():
        if name not in columns:
            near = nearest(name, columns)
            raise BadField(
                f"{source.name}.{name}",
                f"unknown column; known are {', '.join(columns)}." + (f" {near}" if near else ""),
            )
        cells[name] = _cell(f"{source.name}.{name}", cell, columns[name])
    return cells


def _cell(field: str, cell: Any, column: Column) -> str:
    if cell is None or cell == "":
        return ""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        raise BadField(field, f"expected a {column.type}, got {type(cell).__name__}")
    if column.type == "number" and not (isinstance(cell, str) and cell in (column.values or {})):
        return _number(field, cell, column.rule)
    if isinstance(cell, float) and not math.isfinite(cell):
        raise BadField(field, "expected a value, got a number that is not finite")
    text = written(str(cell))
    if "\0" in text or len(text) > 1000:
        raise BadField(field, "expected a short text")
    return text


def written(text: str) -> str:
    """A text as UTF-8 can hold it: halves of surrogate pairs, which JSON may escape, become question marks."""
    return text.encode("utf-8", "replace").decode()


def _number(field: str, given: Any, rule: NumberRule = PLAIN) -> str:
    """A number as the training table writes it, so that it is read in the same way: commas, limits, units and all."""
    shown = f"{str(given)[:60]!r}"
    if isinstance(given, str):
        import pyarrow as pa

        read = numbers(pa.array([written(given)], pa.string()), frozenset(), rule)
        if len(given) > 100 or bool(read.bad[0]):
            raise BadField(field, f"expected a number, got {shown}")
        if abs(float(read.values[0])) > _LARGEST:
            raise BadField(field, f"expected a number below {_LARGEST:.1e}, got {shown}")
        return given
    try:
        number = float(given)
    except (TypeError, ValueError, OverflowError):
        raise BadField(field, f"expected a number, got {shown}") from None
    if isinstance(given, bool) or not math.isfinite(number):
        raise BadField(field, f"expected a finite number, got {shown}")
    if abs(number) > _LARGEST:
        raise BadField(field, f"expected a number below {_LARGEST:.1e}, got {shown}")
    return repr(number).replace(".", rule.decimal or ".")


def _write_events(source: Events, value: Any, folder: Path, case_id: str) -> None:
    if value is not None and (not isinstance(value, list) or len(value) > _MOST_EVENTS):
        raise BadField(source.name, f"expected a list of at most {_MOST_EVENTS:,} events")
    names = {variable.name: variable for variable in source.variables}
    rows = []
    for place, event in enumerate(value or []):
        field = f"{source.name}.{place}"
        if not isinstance(event, Mapping) or not {"time", "variable", "value"} <= set(event):
            raise BadField(field, "expected an object with time, variable and value")
        if event["variable"] not in list(names):
            near = nearest(str(event["variable"])[:100], names)
            raise BadField(f"{field}.variable", f"expected one of {', '.join(names)}." + (f" {near}" if near else ""))
        units = event.get("units") or ""
        variable = names[event["variable"]]
        if units and units not in [variable.units, *(variable.other_units or {})]:
            raise BadField(f"{field}.units", f"expected {variable.units or 'no units'}")
        time, number = _number(f"{field}.time", event["time"]), _number(f"{field}.value", event["value"], source.rule)
        rows.append([case_id, time, variable.name, number, units])
    _write_csv(folder / source.file, ["id", "time", "variable", "value", "units"], rows)


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _text(source: Any, value: Any, folder: Path) -> str:
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise BadField(source.name, "expected UTF-8 text") from None
    if not isinstance(value, str):
        raise BadField(source.name, f"expected a text, got {type(value).__name__}")
    return written(value).replace("\0", " ")


def _file(source: Any, value: Any, folder: Path, suffix: str) -> Path:
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise BadField(source.name, "expected a file, or its bytes as base64") from None
    if not isinstance(value, bytes):
        raise BadField(source.name, f"expected a file, or its bytes as base64, got {type(value).__name__}")
    path = folder / f"{source.name}{suffix}"
    path.write_bytes(value)
    return path


def _checked(source: Any, path: Path, decode: Callable[[Path], object]) -> str:
    try:
        decode(path)
    except AmodalError as error:
        raise BadField(source.name, str(error).replace(f"{path.parent}/", "")) from error
    return path.name


def _image(source: Image, value: Any, folder: Path) -> str:
    path = _with_ending(_file(source, value, folder, ".file"))
    return _checked(source, path, lambda file: decode_image(file, source))


def _with_ending(path: Path) -> Path:
    """A file renamed so that its content can be told by its name: DICOM, NIfTI, or what pillow reads."""
    with open(path, "rb") as file:
        start = file.read(352)
    ending = ".nii.gz" if start[:2] == b"\x1f\x8b" else ".nii" if start[344:347] in (b"n+1", b"n+2") else ".image"
    return path.rename(path.with_suffix(".dcm" if start[128:132] == b"DICM" else ending))


def _audio(source: Audio, value: Any, folder: Path) -> str:
    path = _file(source, value, folder, ".sound")
    if path.read_bytes()[:4] in (b"RIFF", b"RIFX"):
        path = path.rename(path.with_suffix(".wav"))
    return _checked(source, path, lambda file: decode_sound(file, source))


def _array(source: Array, value: Any, folder: Path) -> str:
    if isinstance(value, list):
        return _checked(source, _saved(source, value, folder), lambda file: source.fitted(load_array(file)))
    path = _file(source, value, folder, ".bin")
    start = path.read_bytes()[:8]
    if source.traits.on_grid and start.startswith((b"\x89PNG", b"\xff\xd8")):
        like = Image(
            source.name, size=(source.shape[1], source.shape[2]), channels=source.shape[0], most_pixels=REQUEST_PIXELS
        )
        try:
            pixels = decode_image(path, like)
        except AmodalError as error:
            raise BadField(source.name, str(error)) from error
        np.save(folder / f"{source.name}.npy", pixels)
        return f"{source.name}.npy"
    path = path.rename(path.with_suffix(".npz" if start.startswith(b"PK") else ".npy"))
    return _checked(source, path, lambda file: source.fitted(load_array(file)))


def _depth(value: Any) -> int:
    """How deep lists are nested."""
    depth = 0
    while isinstance(value, list) and value:
        depth, value = depth + 1, value[0]
    return depth


def _saved(source: Array, value: list[Any], folder: Path) -> Path:
    try:
        array = np.array(value, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise BadField(source.name, f"expected numbers of the shape {source.shape}") from None
    if (array.size and (np.abs(array) > np.finfo(np.float32).max).any()) or not np.isfinite(array).all():
        raise BadField(source.name, "expected finite numbers")
    np.save(folder / f"{source.name}.npy", array.astype(np.float32))
    return folder / f"{source.name}.npy"


_WRITERS: dict[str, Callable[[Any, Any, Path], str]] = {
    "text": _text,
    "image": _image,
    "audio": _audio,
    "array": _array,
    "embedding": _array,
}
