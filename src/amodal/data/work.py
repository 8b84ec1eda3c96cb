"""Working folders of preparations: kept when the work is interrupted, so that the next call goes on with them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amodal.errors import AmodalError, DataError

__all__ = ["fingerprint", "working_folder"]


def fingerprint(values: Any, files: Iterable[Path]) -> str:
    """The fingerprint of a preparation: its options, and name, size and date of every file that it reads.

    Args:
        values: The options, as plain JSON values.
        files: The files; those that are not there count, too.
    """
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for path in files:
        state = path.stat() if path.is_file() else None
        digest.update(f"{path.resolve()}\0{state and (state.st_size, state.st_mtime_ns)}\0".encode())
    return digest.hexdigest()


@contextmanager
def working_folder(out: Path, mark: str, resume: bool) -> Iterator[Path]:
    """The folder beside `out` in which a preparation works; it stays when the work is interrupted, to be gone on with.

    Args:
        out: Folder of the cohort.
        mark: The preparation's `fingerprint`: what another one has left is removed.
        resume: Go on with what is there; False: begin anew.

    Raises:
        DataError: If it cannot be made.
    """
    work = out.parent / f".{out.name}.work"
    stamp = work / "fingerprint"
    try:
        same = stamp.is_file() and stamp.read_text(encoding="utf-8") == mark
        if work.exists() and not (resume and same):
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        stamp.write_text(mark, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write to {work}: {error.strerror or error}") from error
    try:
        yield work
    except AmodalError:
        shutil.rmtree(work, ignore_errors=True)  # the data are wrong: nothing to go on with
        raise
    shutil.rmtree(work, ignore_errors=True)
