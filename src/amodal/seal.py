"""Seals of a run's folder: checksums of its files and of its record, compared whenever the folder is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amodal.errors import AmodalError, RunError

__all__ = ["check_seal", "naming_the_folder", "seal"]


def seal(record: Mapping[str, Any], folder: Path, files: Sequence[str]) -> dict[str, Any]:
    """A record with the SHA-256 of files of its folder (those that are there) and, last, of itself.

    Args:
        record: Plain JSON values.
        folder: The folder.
        files: Names of files in it.
    """
    digests = {name: _digest_of(folder / name) for name in files if (folder / name).is_file()}
    sealed = {**record, "files": digests}
    return {**sealed, "checksum": _checksum(sealed)}


def check_seal(
    record: Mapping[str, Any], folder: Path, name: str, hint: str = "Bring the file back, or train again."
) -> dict[str, Any]:
    """The record without its seal, after a comparison of all checksums.

    Args:
        record: As it was read.
        folder: Its folder.
        name: Name of the record's file, for messages.
        hint: What to do about a file that was altered.

    Raises:
        RunError: If the record or a file was altered or is not there; the message names it.
    """
    rest = {key: value for key, value in record.items() if key != "checksum"}
    files = rest.get("files")
    if record.get("checksum") != _checksum(rest) or not isinstance(files, dict):
        raise RunError(f"{folder / name} was altered: its checksum is another", hint=hint)
    for file, digest in files.items():
        if not (folder / file).is_file():
            raise RunError(f"a file of the run is not there: {folder / file}")
        if _digest_of(folder / file) != digest:
            raise RunError(f"{folder / file} was altered: its checksum is another", hint=hint)
    return {key: value for key, value in rest.items() if key != "files"}


@contextmanager
def naming_the_folder(folder: Path) -> Iterator[None]:
    """Turns whatever unreadable content raises into a RunError that names the folder."""
    try:
        yield
    except AmodalError:
        raise
    except Exception as error:  # of any kind: it comes from the content of files
        raise RunError(f"the run at {folder} cannot be used: {type(error).__name__}: {error}") from error


def _digest_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error


def _checksum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
