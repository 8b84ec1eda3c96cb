"""Cohorts on disk: a Parquet manifest, memory-mapped arrays and a record with checksums, in one folder.

.. code-block:: text

    folder/
      schema.json           format version, modalities, task, size and SHA-256 of every file, and of itself
      manifest.parquet      one row a sample: id, group, split, target, observed_<modality>, extra_<column>
      arrays/<modality>.<role>.npy
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amodal.data.store import ArrayStore, RaggedStore, Store, Stream, presence_digest
from amodal.errors import AmodalError, DataError
from amodal.files import clear_leftovers, scratch_path
from amodal.schema import Schema

__all__ = ["FORMAT", "Parts", "check_place", "read_folder", "write_folder"]

FORMAT = 1
"""Version of the layout; raised when an older amodal could not read it."""

_RECORD, _MANIFEST, _ARRAYS = "schema.json", "manifest.parquet", "arrays"
_SPARE_BYTES = 2**20
_VERIFIED_BYTES = 2**28  # read through in a fraction of a second


class Parts(NamedTuple):
    """The parts of a cohort's folder.

    Attributes:
        schema: Modalities and task.
        stores: Values of each modality.
        ids: Str, of shape (N,).
        groups: Str, of shape (N,).
        splits: Str, of shape (N,).
        target: As in `Cohort.target`.
        observed: bool, of shape (N, M).
        extras: Small columns (N,).
        name: A short name.
        description: One line for people.
        source: How it was read, as plain JSON values; None: not known.
    """

    schema: Schema
    stores: Mapping[str, Store]
    ids: np.ndarray
    groups: np.ndarray
    splits: np.ndarray
    target: np.ndarray | None
    observed: np.ndarray
    extras: Mapping[str, np.ndarray]
    name: str
    description: str
    source: Mapping[str, Any] | None = None


# Writing -------------------------------------------------------------------------------------------------------------


def write_folder(folder: Path, parts: Parts, rows: np.ndarray, *, overwrite: bool = False) -> None:
    """Writes a cohort under a temporary name next to its final one, then renames it.

    Args:
        folder: Where to.
        parts: What to write; columns have N rows.
        rows: Rows of the stores that belong to the N samples, int64 (N,).
        overwrite: Replace a cohort that is already there.

    Raises:
        DataError: If something is there already, or it cannot be written; what was there stays.
    """
    check_place(folder, overwrite)
    folder = Path(os.path.realpath(folder))  # a link stays one, and what it names is replaced
    scratch = scratch_path(folder)
    try:
        scratch.mkdir(parents=True)
        clear_leftovers(folder)
        _write_files(scratch, parts, rows)
        _move(scratch, folder)
    except OSError as error:
        raise DataError(
            f"cannot write the cohort folder {folder}: {error.strerror or error}",
            hint="Choose a place with enough space and permission; what was there before is untouched.",
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_place(folder: Path, overwrite: bool) -> None:
    """Refuses a folder that is in use; said before long work, and again when it is done.

    Raises:
        DataError: If something is there that is no cohort, or a cohort that is not to be replaced.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / _RECORD).is_file():
        raise DataError(f"{folder} is there already and is no cohort folder", hint="Choose another place.")
    if not overwrite:
        raise DataError(f"there is a cohort in {folder} already", hint="Pass overwrite=True to replace it.")


def _move(scratch: Path, folder: Path) -> None:
    """Puts a finished folder in its place; an older cohort there is removed only when the new one is in place."""
    if not folder.exists():
        os.rename(scratch, folder)
        return
    older = scratch_path(folder)
    os.rename(folder, older)
    try:
        os.rename(scratch, folder)
    except OSError:
        os.rename(older, folder)
        raise
    shutil.rmtree(older, ignore_errors=True)


def _write_files(folder: Path, parts: Parts, rows: np.ndarray) -> None:
    streams = {
        name: store.streams(rows, parts.observed[:, column])
        for column, (name, store) in enumerate(parts.stores.items())
    }
    arrays = {f"{_ARRAYS}/{name}.{role}.npy": s for name, roles in streams.items() for role, s in roles.items()}
    needed = sum(stream.dtype.itemsize * int(np.prod(stream.shape)) for stream in arrays.values()) + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"there is not enough space for a cohort in {folder.parent}",
            expected=f"{needed / 1e6:.1f} MB",
            got=f"{free / 1e6:.1f} MB",
        )
    (folder / _ARRAYS).mkdir()
    files = {name: _write_array(folder / name, stream) for name, stream in arrays.items()}
    _write_manifest(folder / _MANIFEST, parts)
    files[_MANIFEST] = _fingerprint(folder / _MANIFEST)
    record: dict[str, Any] = {
        "format": FORMAT,
        "name": parts.name,
        "description": parts.description,
        "samples": len(parts.ids),
        "schema": parts.schema.to_json(),
        "stores": {name: _describe(store) for name, store in parts.stores.items()},
        "files": files,
    }
    if parts.source is not None:
        record["source"] = dict(parts.source)
    record["checksum"] = _checksum(record)
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / _RECORD).write_text(text + "\n", encoding="utf-8")


def _describe(store: Store) -> dict[str, Any]:
    if isinstance(store, RaggedStore):
        return {"kind": "ragged", "gaps": store.gaps, "width": store.width}
    assert isinstance(store, ArrayStore)
    return {"kind": "array", "gaps": store.gaps, "lengths": store.lengths is not None}


def _write_array(path: Path, stream: Stream) -> dict[str, Any]:
    digest = hashlib.sha256()
    # Through the file, never through a memory map: a full disk is then an error and not a signal that kills.
    with open(path, "xb") as file:
        for piece in stream.file_pieces():
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _write_manifest(path: Path, parts: Parts) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    columns: dict[str, Any] = {"id": pa.array(parts.ids)}
    if parts.groups is not parts.ids and not np.array_equal(parts.groups, parts.ids):
        columns["group"] = pa.array(parts.groups)
    columns["split"] = pa.array(parts.splits).dictionary_encode()
    if parts.target is not None and parts.target.ndim == 2:
        flat = pa.array(parts.target.reshape(-1), from_pandas=False)
        columns["target"] = pa.FixedSizeListArray.from_arrays(flat, parts.target.shape[1])
    elif parts.target is not None:
        columns["target"] = pa.array(parts.target, from_pandas=False)
    for column, name in enumerate(parts.schema.names):
        columns[f"observed_{name}"] = pa.array(parts.observed[:, column])
    for name, column in parts.extras.items():
        columns[f"extra_{name}"] = pa.array(column, from_pandas=False)
    parquet.write_table(pa.table(columns), path)


# Reading -------------------------------------------------------------------------------------------------------------


def read_folder(folder: Path, *, verify: bool | None = None) -> Parts:
    """Opens a cohort folder: columns in memory, arrays memory-mapped.

    The record's and the manifest's checksums and the size, type and shape of every array are compared always, the
    checksums of the arrays of small folders, and of larger ones if asked, since that means reading all of them.

    Args:
        folder: The folder.
        verify: Compare the checksums of the arrays, too; None: if they are 256 MB or less.

    Raises:
        DataError: If a file is missing, truncated or altered, or the format is newer; the message names the file.
    """
    record = _read_record(folder)
    if verify is None:
        verify = sum(file["bytes"] for file in record["files"].values()) <= _VERIFIED_BYTES
    for name, expected in record["files"].items():
        _check_file(folder / name, expected, hashed=verify or name == _MANIFEST)
    try:
        schema = Schema.from_json(record["schema"])
    except AmodalError as error:
        raise DataError(f"the schema in {folder / _RECORD} cannot be used: {error}") from error
    n = record["samples"]
    stores = {name: _open_store(folder, name, record["stores"][name], n) for name in schema.names}
    parts = _read_manifest(folder / _MANIFEST, schema, stores, record)
    for column, (name, store) in enumerate(stores.items()):
        files = {role: record["files"].get(f"{_ARRAYS}/{name}.{role}.npy") for role in ("values", "offsets", "lengths")}
        digests = {role: file["sha256"] for role, file in files.items() if file is not None}
        store.recorded = {**digests, "presence": presence_digest(parts.observed[:, column])}
    return parts


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / _RECORD
    if not path.is_file():
        raise DataError(f"{folder} is no cohort folder: {_RECORD} is not there")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version, checksum = record["format"], record["checksum"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path} cannot be read: it is truncated or no record of a cohort ({error})") from error
    if not isinstance(version, int) or version > FORMAT:
        raise DataError(
            f"{path} has a newer format than this version of amodal can read",
            expected=f"format {FORMAT} or older",
            got=version,
            hint="Update amodal.",
        )
    if _checksum(record) != checksum:
        raise DataError(f"{path} has a wrong checksum: it was altered", hint="Write the cohort again.")
    return record


def _check_file(path: Path, expected: Mapping[str, Any], *, hashed: bool) -> None:
    if not path.is_file():
        raise DataError(f"a file of the cohort is missing: {path}")
    size = path.stat().st_size
    if size != expected["bytes"]:
        state = "truncated" if size < expected["bytes"] else "too long"
        raise DataError(f"{path} is {state}", expected=f"{expected['bytes']} bytes", got=f"{size} bytes")
    if hashed and _fingerprint(path)["sha256"] != expected["sha256"]:
        raise DataError(f"{path} has a wrong checksum: it was altered", hint="Write the cohort again.")


def _open_store(folder: Path, name: str, record: Mapping[str, Any], n: int) -> Store:
    def array(role: str) -> np.ndarray:
        path = folder / _ARRAYS / f"{name}.{role}.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # np.load raises whatever a header's text leads to
            raise DataError(f"{path} cannot be read ({error})", hint="Write the cohort again.") from error

    if record["kind"] == "ragged":
        store: Store = RaggedStore(array("values"), array("offsets"), width=record["width"], gaps=record["gaps"])
    else:
        store = ArrayStore(
            array("values"), gaps=record["gaps"], lengths=array("lengths") if record["lengths"] else None
        )
    if len(store) != n:
        raise DataError(f"arrays of modality {name!r} in {folder} have another number of rows", expected=n,
                        got=len(store))  # fmt: skip
    return store


def _read_manifest(path: Path, schema: Schema, stores: dict[str, Store], record: Mapping[str, Any]) -> Parts:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path, read_dictionary=["split"])
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        ids = _to_numpy(columns["id"])
        observed = np.stack([_to_numpy(columns[f"observed_{name}"]) for name in schema.names], axis=1)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path} cannot be read ({error})", hint="Write the cohort again.") from error
    return Parts(
        schema=schema,
        stores=stores,
        ids=ids,
        groups=_to_numpy(columns["group"]) if "group" in columns else ids,
        splits=_to_numpy(columns["split"]),
        target=_to_numpy(columns["target"]) if "target" in columns else None,
        observed=observed,
        extras={name[6:]: _to_numpy(column) for name, column in columns.items() if name.startswith("extra_")},
        name=record["name"],
        description=record["description"],
        source=record.get("source"),
    )


def _to_numpy(column: Any) -> np.ndarray:
    """An Arrow column as numpy; strings as str arrays, lists of fixed size as (N, K)."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        words = np.array(column.dictionary.to_pylist() or [""], dtype=str)
        return words[column.indices.to_numpy(zero_copy_only=False)]
    if pa.types.is_fixed_size_list(column.type):
        flat = column.flatten().to_numpy(zero_copy_only=False)
        return np.array(flat.reshape(len(column), column.type.list_size))
    array = column.to_numpy(zero_copy_only=False)
    return array.astype(str) if pa.types.is_string(column.type) else np.array(array)  # a copy that can be written


def _fingerprint(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _checksum(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record without its checksum, independent of layout and order."""
    rest = {key: value for key, value in record.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
