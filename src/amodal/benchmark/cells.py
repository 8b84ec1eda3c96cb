"""Cells: plain values that decide one result, and the folder that holds what was found.

.. code-block:: text

    folder/
      cell.json             the cell's values, the digest of its data, plain findings, checksums of the other files
      arrays.npz            arrays that were found, by name
      <name>.parquet        data frames that were found
      error.json            instead of these: what ended the computation
"""

from __future__ import annotations

import hashlib
import json
import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from amodal.data import Cohort
from amodal.errors import ConfigurationError, RunError
from amodal.files import plain_json, replace_file, write_json
from amodal.versions import versions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Cell", "Done", "Failed", "Work", "altered_files", "compute_cell", "read_cell", "read_record", "store_error"]

FORMAT = 1
RECORD, ERROR, _ARRAYS = "cell.json", "error.json", "arrays.npz"


@dataclass(frozen=True, eq=False)
class Cell:
    """The plain values that decide one result.

    Args:
        stem: The readable part of its folder's name: "primo-seed0".
        values: Everything that its computation depends on but the data, as plain JSON values; `cell["seed"]` gives one.

    Raises:
        ConfigurationError: If a value is not plain.

    Example:
        >>> Cell("fusion-seed0", {"method": "fusion", "seed": 0})["seed"]
        0
    """

    stem: str
    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        try:
            plain = plain_json(dict(self.values), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"the values of a cell must be plain JSON: {error}", got=self.stem) from error
        object.__setattr__(self, "values", plain)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def identity(self, work: Callable[..., Any], cohort: Cohort | None) -> dict[str, Any]:
        """The identity that a stored result must agree with to be this cell's."""
        return {
            "cell": self.values,
            "data": None if cohort is None else cohort.fingerprint,
            "work": getattr(work, "__qualname__", type(work).__qualname__),
        }


@dataclass(frozen=True, eq=False)
class Done:
    """A finished cell, as its folder has it.

    Attributes:
        cell: What was asked for.
        folder: Where it is.
        record: The plain values that were found.
        seconds: How long the computation took.
    """

    cell: Cell
    folder: Path
    record: dict[str, Any]
    seconds: float

    @cached_property
    def arrays(self) -> dict[str, NDArray]:
        """The arrays that were found."""
        if not (self.folder / _ARRAYS).is_file():
            return {}
        with np.load(self.folder / _ARRAYS, allow_pickle=False) as stored:
            return dict(stored)

    def frame(self, name: str) -> pd.DataFrame:
        """One of the data frames that were found."""
        import pandas as pd

        return pd.read_parquet(self.folder / f"{name}.parquet")


@dataclass(frozen=True, eq=False)
class Failed:
    """A cell that ended in an error, which its folder has too (error.json); it is tried again by the next call.

    Attributes:
        cell: What was asked for.
        folder: Where it is.
        kind: Name of the error's class.
        message: Its text.
    """

    cell: Cell
    folder: Path
    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.cell.stem}: {self.kind}: {self.message}"


Work = Callable[[Cell, Any, Path], Mapping[str, Any]]
"""Computes a cell from its values, its cohort and its folder. It returns what was found by name: plain values, arrays,
data frames, and paths of files that it has written into the folder itself."""


def compute_cell(cell: Cell, work: Work, cohort: Cohort | None, folder: Path) -> Done:
    """Computes a cell and writes its folder, the record last: its presence says that the folder is complete.

    Args:
        cell: The cell.
        work: See `sweep`.
        cohort: The cell's data.
        folder: Where to.

    Raises:
        RunError: If the folder cannot be written.
        AmodalError: Whatever `work` raises.
    """
    started = perf_counter()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error
    for stale in (RECORD, ERROR):
        (folder / stale).unlink(missing_ok=True)
    found = work(cell, cohort, folder)
    plain, files = _write_found(folder, found)
    seconds = round(perf_counter() - started, 3)
    record = {"format": FORMAT, **cell.identity(work, cohort), "record": plain, "seconds": seconds}
    write_json(folder / RECORD, {**record, "files": files, "versions": versions()})
    return Done(cell, folder, json.loads(json.dumps(plain)), seconds)


def _write_found(folder: Path, found: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Writes arrays and frames; the plain values, and the checksum of every file."""
    import pandas as pd

    plain, arrays, paths = {}, {}, []
    for name, value in found.items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, pd.DataFrame):
            paths.append(folder / f"{name}.parquet")
            replace_file(paths[-1], lambda path, frame=value: frame.to_parquet(path, index=False))
        elif isinstance(value, Path):
            paths.append(value)
        else:
            plain[name] = _plain(value)
    if arrays:
        paths.append(folder / _ARRAYS)
        replace_file(paths[-1], lambda path: save_arrays(path, arrays))
    return plain, {path.name: _checksum(path) for path in paths}


def _plain(value: Any) -> Any:
    """As JSON has it: NumPy's numbers as Python's, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_arrays(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Writes arrays into one compressed .npz file, whatever its name ends with."""
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def store_error(cell: Cell, identity: Mapping[str, Any], folder: Path, error: BaseException) -> Failed:
    """Writes what ended a cell into its folder, as error.json."""
    failed = Failed(cell, folder, type(error).__name__, str(error))
    described = {"kind": failed.kind, "message": failed.message, "traceback": traceback.format_exception(error)}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / ERROR, {"format": FORMAT, **identity, **described})
    return failed


# Reading -------------------------------------------------------------------------------------------------------------


def read_cell(cell: Cell, folder: Path, identity: Mapping[str, Any]) -> Done | None:
    """A finished cell; None where it is not finished, or another call has written over one of its files.

    Args:
        cell: The cell.
        folder: Where it is.
        identity: What it must agree with; see `Cell.identity`.

    Raises:
        RunError: If the folder holds another cell, or its record cannot be read.
    """
    record = read_record(folder)
    if record is None:
        return None
    if any(record.get(name) != value for name, value in identity.items()):
        differing = ", ".join(name for name, value in identity.items() if record.get(name) != value)
        raise RunError(f"the folder {folder} holds other results: another {differing}", hint="Choose another folder.")
    if altered_files(folder, record):
        return None
    return Done(cell, folder, record["record"], float(record["seconds"]))


def read_error(cell: Cell, folder: Path, identity: Mapping[str, Any]) -> Failed | None:
    """What ended this cell when it was last computed; None where nothing is stored, or it is of another cell."""
    file = folder / ERROR
    if not file.is_file():
        return None
    stored = json.loads(file.read_text(encoding="utf-8"))
    if any(stored.get(name) != value for name, value in identity.items()):
        return None
    return Failed(cell, folder, stored["kind"], stored["message"])


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a finished cell; None where there is none.

    Raises:
        RunError: If it cannot be read, or its format is not known.
    """
    file = folder / RECORD
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{file} cannot be read: {error}", hint="Remove the folder.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise RunError(f"the format of {file} is not known", hint="Update amodal.")
    return record


def altered_files(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """Names of the files of a finished cell that are gone, or are not as it has written them."""
    return [
        name
        for name, checksum in record["files"].items()
        if not (folder / name).is_file() or _checksum(folder / name) != checksum
    ]


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
