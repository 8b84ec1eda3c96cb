"""Files that a table names: only within the data folder, and never larger than they say or than is sensible."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amodal.data.limits import LARGEST_ARRAY, LARGEST_BANK, LARGEST_FILE, check_member
from amodal.data.table.cells import texts
from amodal.data.table.section import nearest
from amodal.data.table.source import Place, Rows
from amodal.errors import DataError

__all__ = ["FileRule", "load_array", "open_bank", "read_files", "within"]

_STEP = 2**22


class FileRule(NamedTuple):
    """How a source deals with the files that its column names.

    Attributes:
        column: The manifest's column with the names.
        folder: Folder they lie in, relative to the data folder.
        missing_file: "error" or "absent": what a name without a file means.
        unreadable_file: "error" or "absent": what a file that cannot be read means.
    """

    column: str
    folder: str = ""
    missing_file: str = "error"
    unreadable_file: str = "error"


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
    found = place.side_by_side(lambda cell: _read_one(place, rule, cell, decode), cells)
    outside = [i for i, (state, _) in enumerate(found) if state == "outside"]
    lacking = [i for i, (state, _) in enumerate(found) if state == "missing"]
    broken = [i for i, (state, _) in enumerate(found) if state == "unreadable"]
    if outside and place.problems.strict:
        raise found[outside[0]][1]
    _tell(place, rows, cells, outside, f"{name}: file outside the data folder", "error", [found[i][1] for i in outside])
    _tell(place, rows, cells, lacking, f"{name}: file not there", rule.missing_file, [])
    _tell(place, rows, cells, broken, f"{name}: file unreadable", rule.unreadable_file, [found[i][1] for i in broken])
    values = [content if state == "read" else None for state, content in found]
    return values, np.array([state == "read" for state, _ in found], dtype=bool)


def _read_one(place: Place, rule: FileRule, cell: str | None, decode: Callable[[Path], Any]) -> tuple[str, Any]:
    if cell is None:
        return "empty", None
    try:
        path = within(place.root, rule.folder, cell)
    except DataError as error:
        return "outside", error
    if not path.is_file():
        return "missing", None
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise DataError("the file is too large", expected=f"{LARGEST_FILE} bytes or less", got=size)
        return "read", decode(path)
    except (DataError, OSError) as error:
        return "unreadable", error


def _tell(
    place: Place, rows: Rows, cells: np.ndarray, bad: list[int], what: str, rule: str, errors: list[Exception]
) -> None:
    if not bad:
        return
    ids, got = rows.ids[bad], [cells[i] for i in bad]
    if errors:
        got = [f"{cell} ({error})" for cell, error in zip(got, errors)]
    if rule == "absent" or not place.problems.strict:
        place.problems.add(what, ids, got)
        return
    shown = f"{got[0]!r} in row {ids[0]}" if not errors else f"{cells[bad[0]]!r} in row {ids[0]}: {errors[0]}"
    key = "missing_file" if not errors else "unreadable_file"
    near = None
    if not errors:
        folder = (place.root / str(got[0])).parent
        near = nearest(Path(str(got[0])).name, [p.name for p in folder.iterdir()][:5000] if folder.is_dir() else [])
    raise DataError(
        f"{what}: {shown}" + (f" ({len(bad)} such rows in this part)" if len(bad) > 1 else ""),
        hint=(near + " " if near else "") + f"Correct it, or write `{key}: absent` to take such rows as absent.",
    )


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
