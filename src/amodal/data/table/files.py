"""Files that a table names: only within the data folder, and never larger than they say or than is sensible."""

from __future__ import annotations

import json
import os
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amodal.data.limits import LARGEST_ARRAY, LARGEST_BANK, LARGEST_FILE, check_member, check_most
from amodal.data.table.cells import texts
from amodal.data.table.section import nearest
from amodal.data.table.source import Place, Rows
from amodal.errors import DataError

__all__ = ["FileRule", "load_array", "open_bank", "read_files", "within"]

_STEP = 2**22
_MOST_NAMES = 100_000


class FileRule(NamedTuple):
    """The rule for files that a column names.

    Attributes:
        column: The manifest's column with the names.
        folder: Folder they lie in, relative to the data folder.
        missing_file: "error" or "absent": what a name without a file means.
        unreadable_file: "error" or "absent": what a file that cannot be read means.
        ending: What the names lack, such as ".png".
        separator: What stands between the names of several files in one cell; "" = a cell names one file.
        most: Files that one cell may name.
        folders: Whether a name may be that of a folder.
    """

    column: str
    folder: str = ""
    missing_file: str = "error"
    unreadable_file: str = "error"
    ending: str = ""
    separator: str = ""
    most: int = 1
    folders: bool = False


def within(root: Path, folder: str, name: str) -> Path:
    """The file that a name means, which must lie within the data folder, also after links are followed.

    Raises:
        DataError: If it does not.
    """
    base = os.path.realpath(root)
    try:
        path = os.path.realpath(os.path.join(base, folder, name))
    except (OSError, ValueError) as error:
        raise DataError(f"{name[:80]!r} is no name of a file", got=str(error)) from error
    if os.path.commonpath([base, path]) != base:
        raise DataError(
            f"the file {name[:200]!r} lies outside the data folder",
            expected=f"a path within {root}",
            hint="Move it there, or choose a higher folder with --root.",
        )
    return Path(path)


def read_files(
    place: Place, rows: Rows, rule: FileRule, name: str, decode: Callable[[Path], Any]
) -> tuple[list[Any], np.ndarray]:
    """Reads the files that some rows name, side by side.

    Args:
        place: Where the data lie.
        rows: The rows.
        rule: Column, folder, and what to do with files that are lacking or cannot be read.
        name: The modality, for messages.
        decode: A file to its content; raises DataError if it cannot be read.

    Returns:
        What was read, None where absent, and presence, bool (n,).

    Raises:
        DataError: If a file lies outside the data folder, is missing or cannot be read, and the rule says error.
    """
    n = len(rows.ids)
    if rule.column not in rows.columns:
        return [None] * n, np.zeros(n, bool)
    cells = texts(rows.columns[rule.column], place.missing)
    folders = _Folders()
    spot = f"{name}: cells of {rule.column}"
    found = place.side_by_side(lambda cell: _read_cell(place, rule, cell, decode, folders), cells)
    outside = [i for i, (state, _) in enumerate(found) if state == "outside"]
    lacking = [i for i, (state, _) in enumerate(found) if state == "missing"]
    broken = [i for i, (state, _) in enumerate(found) if state == "unreadable"]
    if outside and place.problems.strict:
        place.problems.fail(found[outside[0]][1])
    states = Counter(state for state, _ in found)
    place.problems.enter(spot, n, empty=states["empty"], measured=states["read"])
    _tell(place, rows, rule, cells, outside, f"{name}: file outside the data folder", found)
    _tell(place, rows, rule, cells, lacking, f"{name}: file not there", found)
    _tell(place, rows, rule, cells, broken, f"{name}: file unreadable", found)
    spelt = [i for i, cell in enumerate(cells) if cell in folders.spelt]
    place.problems.add(f"{name}: file found under another spelling", rows.ids[spelt],
                       [f"{cells[i]} → {folders.spelt[cells[i]]}" for i in spelt])  # fmt: skip
    values = [content if state == "read" else None for state, content in found]
    return values, np.array([state == "read" for state, _ in found], dtype=bool)


class _Folders:
    """The names in folders, listed once each, to find a file under another spelling or the nearest name.

    Attributes:
        spelt: Names of the table that were found under another spelling, each with that.
    """

    def __init__(self) -> None:
        self.spelt: dict[str, str] = {}
        self._listed: dict[Path, list[str]] = {}

    def names(self, folder: Path) -> list[str]:
        """The names in a folder; none if it is not there."""
        if folder not in self._listed:
            with_limit = (entry.name for entry in os.scandir(folder)) if folder.is_dir() else ()
            self._listed[folder] = [name for name, _ in zip(with_limit, range(_MOST_NAMES))]
        return self._listed[folder]

    def same(self, path: Path) -> Path | None:
        """The one file whose name differs in capitals, form of Unicode or blanks only; None if there is none or two."""
        same = [name for name in self.names(path.parent) if _plain(name) == _plain(path.name)]
        return path.parent / same[0] if len(same) == 1 else None

    def advice(self, path: Path) -> str:
        """The nearest name, and the line of the schema that would find it."""
        names = self.names(path.parent)
        stems = [name for name in names if name.partition(".")[0] == path.name or Path(name).stem == path.name]
        if stems:
            return f"Did you mean {stems[0]!r}? Then write `ending: {stems[0][len(path.name) :]}`."
        if not names:
            return f"There is no folder {path.parent.name!r}, or it is empty: see `folder` and --root."
        return nearest(path.name, names) or f"{path.parent.name!r} holds {', '.join(sorted(names)[:3])}, …"


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()


def _read_cell(
    place: Place, rule: FileRule, cell: str | None, decode: Callable[[Path], Any], folders: _Folders
) -> tuple[str, Any]:
    """State of a cell's file: "empty", "read", "outside", "missing" or "unreadable", with content, error or advice."""
    if cell is None:
        return "empty", None
    if not rule.separator:
        return _read_one(place, rule, cell, cell, decode, folders)
    parts = [part.strip() for part in cell.split(rule.separator) if part.strip()]
    if len(parts) > rule.most:
        return "unreadable", DataError(
            f"the cell names {len(parts)} files",
            expected=f"{rule.most} or fewer",
            hint=f"Write `images: {len(parts)}`.",
        )
    contents = []
    for part in parts:
        state, content = _read_one(place, rule, part, cell, decode, folders)
        if state != "read":
            return state, content
        contents.append(content)
    return ("read", contents) if contents else ("empty", None)


def _read_one(
    place: Place, rule: FileRule, name: str, cell: str, decode: Callable[[Path], Any], folders: _Folders
) -> tuple[str, Any]:
    is_there = Path.exists if rule.folders else Path.is_file
    try:
        path = within(place.root, rule.folder, name + rule.ending)
        if not is_there(path):
            windows = within(place.root, rule.folder, (name + rule.ending).replace("\\", "/"))
            same = windows if is_there(windows) else folders.same(windows)
            if same is None or not is_there(same):
                return "missing", _advice(place, rule, name, windows, folders)
            within(place.root, "", str(same))
            folders.spelt[cell], path = same.name, same
    except DataError as error:
        return "outside", error
    try:
        if path.is_file():
            check_most("the file has", path.stat().st_size, LARGEST_FILE, "bytes")
        return "read", decode(path)
    except (DataError, OSError) as error:
        return "unreadable", error


def _advice(place: Place, rule: FileRule, name: str, path: Path, folders: _Folders) -> str:
    for separator in () if rule.separator else (";", "|", ","):
        parts = [part.strip() for part in name.split(separator) if part.strip()]
        if len(parts) > 1 and within(place.root, rule.folder, parts[0] + rule.ending).is_file():
            return f"The cell names {len(parts)} files: write `separator: {json.dumps(separator)}`."
    return folders.advice(path)


def _tell(
    place: Place, rows: Rows, rule: FileRule, cells: np.ndarray, bad: list[int], what: str, found: list[tuple[str, Any]]
) -> None:
    """Counts files that are lacking or cannot be read, or raises DataError where the rule says error."""
    if not bad:
        return
    ids, errors = rows.ids[bad], [found[i][1] if isinstance(found[i][1], Exception) else None for i in bad]
    got = [str(cells[i]) + (f" ({error})" if error else "") for i, error in zip(bad, errors)]
    key = "unreadable_file" if errors[0] else "missing_file"
    if getattr(rule, key) == "absent" or not place.problems.strict:
        lost = f"{what.partition(':')[0]}: cells of {rule.column}"
        place.problems.add(what, ids, got, lost=lost)
        return
    shown = f"{str(cells[bad[0]])!r} in row {ids[0]}" + (f": {str(errors[0]).removesuffix('.')}" if errors[0] else "")
    near = "" if errors[0] else f"{found[bad[0]][1]} "
    error = DataError(
        f"{what}: {shown}" + (f" ({len(bad)} such rows in this part)" if len(bad) > 1 else ""),
        hint=f"{near}Correct it, or write `{key}: absent` to take such rows as absent.",
    )
    place.problems.fail(error)


def load_array(path: Path, key: str | None = None) -> np.ndarray:
    """Reads an .npy file, or one array of an .npz file, never a pickle.

    Args:
        path: The file.
        key: Name of the array in an .npz file; None: the only one.

    Raises:
        DataError: If it is no array of numbers, is truncated, or would unpack to more than is sensible.
    """
    if path.suffix.lower() == ".npz":
        with _archive(path) as archive:
            member = _member(archive, path, key)
            check_member(path.name, member, LARGEST_ARRAY)
            with archive.open(member) as file:
                return _load(file, path, member.file_size)
    with open(path, "rb") as file:
        return _load(file, path, path.stat().st_size)


def open_bank(path: Path, key: str | None, work: Path) -> np.ndarray:
    """Opens an array with a row for each of many cases, memory-mapped however it is packed.

    Args:
        path: .npy or .npz.
        key: Name of the array in an .npz file; None: the only one.
        work: Folder to unpack into.

    Raises:
        DataError: As for `load_array`.
    """
    if path.suffix.lower() == ".npz":
        unpacked = work / f"{path.stem}.{key or 'array'}.npy"
        if not unpacked.is_file():
            with _archive(path) as archive:
                member = _member(archive, path, key)
                check_member(path.name, member, LARGEST_BANK)
                scratch = unpacked.with_suffix(".tmp")
                try:
                    with archive.open(member) as packed, open(scratch, "wb") as plain:
                        while part := packed.read(_STEP):
                            plain.write(part)
                except (zipfile.BadZipFile, EOFError, OSError) as error:
                    raise DataError(f"{path} cannot be unpacked: {error}") from error
                os.replace(scratch, unpacked)
        path = unpacked
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is no array that can be read: {error}") from error
    return _checked(array, path)


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path.name} is no .npz archive: {error}", hint="Is it truncated?") from error


def _member(archive: zipfile.ZipFile, path: Path, key: str | None) -> zipfile.ZipInfo:
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    if key is None and len(names) == 1:
        return archive.infolist()[0]
    if key is None or key not in names:
        raise DataError(
            f"{path.name} has no array {key!r}" if key else f"{path.name} has several arrays",
            expected=f"one of {', '.join(names[:12])}",
            hint=nearest(key or "", names) or "Name it by `key`.",
        )
    return archive.infolist()[names.index(key)]


def _load(file: Any, path: Path, size: int) -> np.ndarray:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        needed = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
        if dtype.hasobject:
            raise DataError(f"{path.name} holds Python objects", expected="numbers", hint="They are never unpickled.")
        if needed > min(size, LARGEST_ARRAY):
            raise DataError(f"{path.name} is smaller than its header says", expected=f"{needed} bytes", got=size)
        content = file.read(needed)
        if len(content) < needed:
            raise DataError(f"{path.name} is smaller than its header says", expected=needed, got=len(content))
        array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path.name} is no array that can be read: {error}", hint="Is it truncated?") from error
    return _checked(array, path)


def _checked(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.kind not in "fiubU":
        raise DataError(f"{path.name} has dtype {array.dtype}", expected="numbers")
    return array
