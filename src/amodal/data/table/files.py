"""Files that a table names: only within the data folder, and never larger than they say or than is sensible."""

from __future__ import annotations

import json
import os
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np

from amodal.data.limits import LARGEST_ARRAY, LARGEST_BANK, LARGEST_FILE, check_member, check_most
from amodal.data.table.cells import texts
from amodal.data.table.section import nearest
from amodal.data.table.several import ONE, Several, parted
from amodal.data.table.source import Place, Rows
from amodal.errors import DataError

__all__ = ["FileRule", "load_array", "open_bank", "read_files", "within"]

_STEP = 2**22
_MOST_NAMES = 100_000
_BROKEN = (ValueError, EOFError, SyntaxError, RecursionError, MemoryError, TokenError)
"""What numpy raises where the head of an array is nonsense: it reads it as Python's literals."""


class FileRule(NamedTuple):
    """The rule for files that a column names.

    Attributes:
        column: The manifest's column with the names.
        folder: Folder they lie in, relative to the data folder.
        missing_file: "error" or "absent": what a name without a file means.
        unreadable_file: "error" or "absent": what a file that cannot be read means.
        ending: What the names lack, such as ".png".
        several: How the names of several files in one cell are parted.
        folders: Whether a name may be that of a folder.
    """

    column: str
    folder: str = ""
    missing_file: str = "error"
    unreadable_file: str = "error"
    ending: str = ""
    several: Several = ONE
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
) -> tuple[list[list[Any]], np.ndarray]:
    """Reads the files that some rows name, side by side.

    Args:
        place: Where the data lie.
        rows: The rows.
        rule: Column, folder, and what to do with files that are lacking or cannot be read.
        name: The modality, for messages.
        decode: A file to its content; raises DataError if it cannot be read.

    Returns:
        What was read of each row, a list of one or (with a separator) several, empty where absent; and presence, bool
        (n,).

    Raises:
        DataError: If a file lies outside the data folder, is missing or cannot be read, and the rule says error.
    """
    n = len(rows.ids)
    if rule.column not in rows.columns:
        return [[] for _ in range(n)], np.zeros(n, bool)
    cells = texts(rows.columns[rule.column], place.missing)
    folders, problems = _Folders(), place.problems
    spot = f"{name}: {'files' if rule.several else 'cells'} of {rule.column}"
    names = rule.several.limited(cells, problems, rows.ids, f"{name}: file", spot)
    pairs = [(i, word) for i, own in enumerate(names) for word in own]
    states = place.side_by_side(lambda pair: _read_one(place, rule, pair[1], decode, folders), pairs)
    named = [_Named(*pair, *state) for pair, state in zip(pairs, states)]
    if not rule.several:
        problems.enter(spot, n - len(named), empty=n - len(named))
    problems.enter(spot, 0, measured=sum(file.state == "read" for file in named))
    outside = [file for file in named if file.state == "outside"]
    if outside and problems.strict:
        problems.fail(outside[0].content)
    _tell(place, rows, rule, outside, f"{name}: file outside the data folder", spot)
    for state, what in (("missing", "file not there"), ("unreadable", "file unreadable")):
        _tell(place, rows, rule, [file for file in named if file.state == state], f"{name}: {what}", spot)
    spelt = [file for file in named if file.name in folders.spelt]
    problems.add(f"{name}: file found under another spelling", rows.ids[[file.row for file in spelt]],
                 [f"{file.name} → {folders.spelt[file.name]}" for file in spelt])  # fmt: skip
    found: list[list[Any]] = [[] for _ in range(n)]
    for file in named:
        if file.state == "read":
            found[file.row].append(file.content)
    observed = np.array([bool(own) for own in found], dtype=bool)
    if rule.several:
        empty = np.array([not own for own in names], dtype=bool)
        whole = f"{name}: cells of {rule.column}"
        problems.enter(whole, n, empty=int(empty.sum()), measured=int(observed.sum()))
        problems.add(f"{name}: no file of the cell can be read", rows.ids[~observed & ~empty], lost=whole)
    return found, observed


class _Named(NamedTuple):
    """A file that a cell names: its row, its name, "read", "outside", "missing" or "unreadable", and content or why."""

    row: int
    name: str
    state: str
    content: Any


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


def _read_one(
    place: Place, rule: FileRule, name: str, decode: Callable[[Path], Any], folders: _Folders
) -> tuple[str, Any]:
    """State of a file, with its content, the error, or advice."""
    is_there = Path.exists if rule.folders else Path.is_file
    try:
        path = within(place.root, rule.folder, name + rule.ending)
        if not is_there(path):
            windows = within(place.root, rule.folder, (name + rule.ending).replace("\\", "/"))
            same = windows if is_there(windows) else folders.same(windows)
            if same is None or not is_there(same):
                return "missing", _advice(place, rule, name, windows, folders)
            within(place.root, "", str(same))
            folders.spelt[name], path = same.name, same
    except DataError as error:
        return "outside", error
    try:
        if path.is_file():
            check_most("the file has", path.stat().st_size, LARGEST_FILE, "bytes")
        return "read", decode(path)
    except (DataError, OSError) as error:
        return "unreadable", _explained(path, error)


def _explained(path: Path, error: Exception) -> Exception:
    """The error of a file, or what the file is instead: nothing, a pointer, or a page that a download left."""
    if not path.is_file():
        return error
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        return DataError("the file is empty", hint="Copy it again.")
    if start.startswith(b"version https://git-lfs"):
        return DataError("it is a pointer of Git LFS, not the file", hint="Fetch the files with `git lfs pull`.")
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return DataError("it is a web page, as a download that failed leaves", hint="Download it again.")
    return error


def _advice(place: Place, rule: FileRule, name: str, path: Path, folders: _Folders) -> str:
    if path.is_dir():
        return "It is a folder; one with the slices of a volume needs `depth`."
    for separator in () if rule.several else (";", "|", ",", "\n", " "):
        parts = parted(name, separator)
        if len(parts) > 1 and within(place.root, rule.folder, parts[0] + rule.ending).is_file():
            return f"The cell names {len(parts)} files: write `separator: {json.dumps(separator)}`."
    return folders.advice(path)


def _tell(place: Place, rows: Rows, rule: FileRule, bad: list[_Named], what: str, spot: str) -> None:
    """Counts files that are lacking or cannot be read, or raises DataError where the rule says error."""
    if not bad:
        return
    ids, errors = rows.ids[[file.row for file in bad]], [f.content if isinstance(f.content, Exception) else None
                                                        for f in bad]  # fmt: skip
    got = [file.name + (f" ({error})" if error else "") for file, error in zip(bad, errors)]
    key = "unreadable_file" if errors[0] else "missing_file"
    if getattr(rule, key) == "absent" or not place.problems.strict:
        place.problems.add(what, ids, got, lost=spot)
        return
    shown = f"{bad[0].name!r} in row {ids[0]}" + (f": {str(errors[0]).removesuffix('.')}" if errors[0] else "")
    unit = "files" if rule.several else "rows"
    near = "" if errors[0] else f"{bad[0].content} "
    error = DataError(
        f"{what}: {shown}" + (f" ({len(bad)} such {unit} in this part)" if len(bad) > 1 else ""),
        hint=f"{near}Correct it, or write `{key}: absent` to take such {unit} as absent.",
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
    except (OSError, *_BROKEN) as error:
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
    except (zipfile.BadZipFile, *_BROKEN) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path.name} is no array that can be read: {error}", hint="Is it truncated?") from error
    return _checked(array, path)


def _checked(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.kind not in "fiubU":
        raise DataError(f"{path.name} has dtype {array.dtype}", expected="numbers")
    return array
