"""Text files of a folder or of an archive, alike: nothing is unpacked to disk."""

from __future__ import annotations

import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from amodal.data.limits import LARGEST_MEMBER, Unpacked, read_at_most
from amodal.errors import DataError

__all__ = ["ARCHIVES", "Member", "is_archive", "read_members"]

_TAR_MODES = {".tar": "r:", ".tgz": "r:gz", ".tar.gz": "r:gz", ".tar.xz": "r:xz", ".tar.bz2": "r:bz2"}

ARCHIVES = (".zip", *_TAR_MODES)
"""Endings of the archives that can be read."""


class Member(NamedTuple):
    """One file.

    Attributes:
        path: Its path below the folder or in the archive, with the folder's or archive's own name in front.
        content: Its bytes.
    """

    path: PurePosixPath
    content: bytes


def is_archive(path: Path) -> bool:
    """Whether a path has the ending of an archive that can be read."""
    return path.name.lower().endswith(ARCHIVES)


def read_members(source: Path, wanted: re.Pattern[str]) -> Iterator[Member]:
    """Reads the files whose name matches a pattern, at any depth.

    Args:
        source: A folder, or an archive (.zip, .tar, .tar.gz, .tar.xz, .tar.bz2).
        wanted: What the whole file name, without folders, must match.

    Yields:
        The files: of a folder sorted by path, of an archive in its order.

    Raises:
        DataError: If the source is not there, is neither, is truncated or damaged, or would unpack to more than
            `amodal.data.limits` allows; the message names it.
    """
    if not source.exists():
        raise DataError(f"there is no {source}", expected="a folder or an archive")
    if source.is_dir():
        yield from _read_folder(source, wanted)
        return
    if not is_archive(source):
        raise DataError(f"{source} is neither a folder nor an archive", expected=f"one of {', '.join(ARCHIVES)}")
    read = _read_zip if source.name.lower().endswith(".zip") else _read_tar
    try:
        yield from read(source, wanted)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
        NotImplementedError,
    ) as error:  # fmt: skip  (the last two: encrypted, unknown packing)
        raise DataError(
            f"the archive {source} cannot be read: {error}", hint="It may be truncated; fetch it again."
        ) from error


def _read_folder(folder: Path, wanted: re.Pattern[str]) -> Iterator[Member]:
    for path in sorted(folder.rglob("*")):
        if wanted.fullmatch(path.name) and path.is_file():
            try:
                with open(path, "rb") as file:
                    content = read_at_most(file, LARGEST_MEMBER, str(path))
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
            yield Member(folder.name / PurePosixPath(path.relative_to(folder).as_posix()), content)


def _read_tar(archive: Path, wanted: re.Pattern[str]) -> Iterator[Member]:
    mode: Any = next(mode for ending, mode in _TAR_MODES.items() if archive.name.lower().endswith(ending))
    unpacked = Unpacked(archive.name, archive.stat().st_size)
    with tarfile.open(archive, mode) as opened:
        for entry in opened:
            if not entry.isfile() or not wanted.fullmatch(PurePosixPath(entry.name).name):
                continue
            unpacked.add(entry.name, entry.size)
            stream = opened.extractfile(entry)
            content = read_at_most(stream, LARGEST_MEMBER, entry.name) if stream else b""
            if len(content) != entry.size:
                raise EOFError(f"{entry.name} ends early")
            yield Member(archive.name / PurePosixPath(entry.name), content)


def _read_zip(archive: Path, wanted: re.Pattern[str]) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        unpacked = Unpacked(archive.name, archive.stat().st_size)
        for entry in opened.infolist():
            if wanted.fullmatch(PurePosixPath(entry.filename).name):
                unpacked.add(entry.filename, entry.file_size)
                with opened.open(entry) as stream:
                    content = read_at_most(stream, LARGEST_MEMBER, entry.filename)
                yield Member(archive.name / PurePosixPath(entry.filename), content)
