"""A table's rows to stores on disk: chunk by chunk, in bounded memory, going on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amodal.data.moments import IMAGE_LEVELS, image_levels
from amodal.data.store import ArrayStore, RaggedStore, Store
from amodal.data.table.manifest import MemoryTable, Table
from amodal.data.table.schema import TableSchema
from amodal.data.table.source import Piece, Place, Problems, Rows, Source
from amodal.data.work import fingerprint
from amodal.errors import DataError
from amodal.files import write_json
from amodal.kinds import SetKind

__all__ = [
    "Built",
    "Ranges",
    "build_stores",
    "cases",
    "chunk_rows",
    "mark_of",
    "places",
]

_CHUNK_BYTES = 64 * 2**20
_MOST_ROWS, _LEAST_ROWS = 8192, 16


class Built(NamedTuple):
    """Values of all modalities.

    Attributes:
        stores: By modality, memory-mapped.
        observed: Presence, bool (N, M).
        ranges: Smallest and largest value of each feature of tables and series.
    """

    stores: dict[str, Store]
    observed: np.ndarray
    ranges: dict[str, list[list[float | None]]]


class Ranges:
    """The smallest and largest value of each feature, over the training rows.

    Args:
        sources: The modalities; those without named features are passed over, of images it is `IMAGE_LEVELS`.
        train: Which rows count, bool (N,).
    """

    def __init__(self, sources: Sequence[Source], train: np.ndarray):
        self.train = train
        widths = {s.name: s.modality().n_features for s in sources if s.modality().traits.takes_measured}
        self.images = {s.name for s in sources if s.modality().traits.on_grid}
        widths |= dict.fromkeys(self.images, len(IMAGE_LEVELS))
        self.found = {name: np.full((2, width), np.nan) for name, width in widths.items()}

    def add(self, name: str, start: int, piece: Piece) -> None:
        """Takes in one modality of some rows."""
        if name not in self.found:
            return
        assert isinstance(piece.values, np.ndarray)
        rows = self.train[start : start + len(piece.observed)] & piece.observed
        rows = rows if piece.sizes is None else np.repeat(rows, piece.sizes)
        if not rows.any():
            return
        values = piece.values[rows]
        assert isinstance(values, np.ndarray)
        values = image_levels(values) if name in self.images else values.reshape(-1, values.shape[-1])  # (n, D)
        range_ = self.found[name]
        range_[0] = np.fmin(range_[0], np.fmin.reduce(values, axis=0))
        range_[1] = np.fmax(range_[1], np.fmax.reduce(values, axis=0))

    def to_json(self) -> dict[str, list[list[float | None]]]:
        """As plain JSON values: (low, high) of each feature, null if it was never measured."""
        return {
            name: [[None if np.isnan(edge) else float(edge) for edge in pair] for pair in range_.T]
            for name, range_ in self.found.items()
        }

    def restore(self, record: dict[str, Any]) -> None:
        """Takes back what `to_json` gave."""
        for name, pairs in record.items():
            self.found[name] = np.array(pairs, dtype=np.float64).T


@contextmanager
def places(
    manifest: Table, schema: TableSchema, root: Path, work: Path, ids: np.ndarray, problems: Problems, *,
    lenient: bool = False, workers: int | None = None, kept: np.ndarray | None = None,
    left_out: frozenset[str] = frozenset(),
) -> Iterator[Place]:  # fmt: skip
    """A place with its threads, which end with it."""
    n_workers = workers or min(16, (os.cpu_count() or 1) + 2)
    with ThreadPoolExecutor(n_workers, thread_name_prefix="table") as threads:
        yield Place(manifest, root, work, ids, schema.reading, problems, threads, lenient, kept=kept, left_out=left_out)


def chunk_rows(sources: Sequence[Source]) -> int:
    """Rows of a chunk, so that all modalities of it stay within some 64 MB."""
    sizes = [int(np.prod(s.modality().shape)) * np.dtype(s.dtype).itemsize for s in sources]
    return int(np.clip(_CHUNK_BYTES // max(1, sum(sizes)), _LEAST_ROWS, _MOST_ROWS))


def mark_of(manifest: Table, schema: TableSchema, root: Path) -> str:
    """The fingerprint of a preparation: the schema, and every table it names."""
    tables = (root / name for source in schema.sources for name in source.tables())
    return fingerprint(schema.to_json(), [manifest.path, *tables])


def build_stores(
    schema: TableSchema, place: Place, kept: np.ndarray, ranges: Ranges, progress: Callable[[int, int], object] | None
) -> Built:
    """Reads all modalities.

    Args:
        schema: The schema, surveyed.
        place: Where the data lie; its `chunk` rows are read at a time.
        kept: Which rows of the manifest are cases, bool (R,).
        ranges: Takes the values' ranges.
        progress: Called with the rows done and all rows after each chunk.

    Raises:
        DataError: If something cannot be read; what was read before stays in the work folder.
    """
    n = len(place.ids)
    readers = {source.name: source.reader(place) for source in schema.sources}
    writers = {source.name: _Writer(place.work, source, n) for source in schema.sources}
    seen = _Raw(place.work / "observed.raw", np.dtype(bool), (len(schema.sources),))
    try:
        done = _restore(place, writers, seen, ranges)  # after the readers, whose problems were counted then
        for rows in cases(place, kept, list(schema.value_columns()), done):
            observed = np.zeros((len(rows.ids), len(schema.sources)), bool)
            for column, (name, reader) in enumerate(readers.items()):
                piece = reader.read(rows)
                writers[name].add(piece)
                ranges.add(name, rows.start, piece)
                observed[:, column] = piece.observed
            seen.add(observed)
            done = rows.start + len(rows.ids)
            _record(place, writers, seen, ranges, done)
            if progress is not None:
                progress(done, n)
    except OSError as error:
        raise DataError(f"cannot write to {place.work}: {error.strerror or error}") from error
    finally:
        for writer in (*writers.values(), seen):
            writer.close()
    observed = np.array(seen.open(n))
    stores = {name: writer.store(observed[:, i]) for i, (name, writer) in enumerate(writers.items())}
    return Built(stores, observed, ranges.to_json())


def cases(place: Place, kept: np.ndarray, columns: list[str], done: int) -> Iterator[Rows]:
    """The manifest's cases in chunks of exactly `place.chunk`, leaving out what was done and what is not kept."""
    import pyarrow as pa

    columns = [column for column in columns if column in place.manifest.names]
    step = place.chunk
    if not columns:
        for start in range(done, len(place.ids), step):
            yield Rows(start, place.ids[start : start + step], {})
        return
    waiting: dict[str, list[Any]] = {name: [] for name in columns}
    at, start, held = 0, 0, 0
    for chunk in place.manifest.chunks(
        columns, max(step, 4096) if not isinstance(place.manifest, MemoryTable) else step
    ):
        n = len(chunk[columns[0]])
        rows = np.flatnonzero(kept[at : at + n])
        at, held = at + n, held + len(rows)
        for name in columns:
            waiting[name].append(chunk[name].take(pa.array(rows, pa.int64())))
        while held >= step or (held and at >= len(kept)):
            size = min(step, held)
            joined = {name: pa.concat_arrays(parts) for name, parts in waiting.items()}
            waiting = {name: [array.slice(size)] for name, array in joined.items()}
            if start + size > done:
                yield Rows(start, place.ids[start : start + size], {k: a.slice(0, size) for k, a in joined.items()})
            start, held = start + size, held - size


# Files of the work folder --------------------------------------------------------------------------------------------


class _Raw:
    """A raw file of rows of one shape, written by appending."""

    def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, ...]):
        self.path, self.dtype, self.shape = path, dtype, shape
        self.file = open(path, "ab")  # noqa: SIM115  (closed by `close`)

    def add(self, rows: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(rows, self.dtype).data)

    def size(self) -> int:
        self.file.flush()
        return self.path.stat().st_size

    def cut(self, size: int) -> None:
        self.file.truncate(size)

    def close(self) -> None:
        self.file.close()

    def open(self, n: int) -> np.ndarray:
        if not n or not self.path.stat().st_size:
            return np.zeros((n, *self.shape), self.dtype)
        return np.memmap(self.path, self.dtype, "r", shape=(n, *self.shape))


class _Writer:
    """The values of one modality on their way to disk."""

    def __init__(self, work: Path, source: Source, n: int):
        self.modality, self.n, self.gaps = source.modality(), n, False
        self.is_text = self.modality.traits.holds_texts
        self.is_set = isinstance(self.modality.traits, SetKind) and not self.is_text
        dtype = np.dtype(np.uint8 if self.is_text else source.dtype)
        *shape, last = self.modality.shape or (1,)
        stored = (*shape, last + bool(self.modality.clock)) if self.modality.shape and not self.is_text else ()
        stored = stored[1:] if self.is_set else stored
        self.values = _Raw(work / f"{source.name}.raw", dtype, stored)
        ragged = self.is_text or self.is_set
        self.lengths = _Raw(work / f"{source.name}.lengths", np.dtype(np.int64), ()) if ragged else None

    def add(self, piece: Piece) -> None:
        if self.is_text:
            assert isinstance(piece.values, list)
            assert self.lengths is not None
            self.values.add(np.frombuffer(b"".join(piece.values), np.uint8))
            self.lengths.add(np.array([len(text) for text in piece.values], dtype=np.int64))
            return
        assert isinstance(piece.values, np.ndarray)
        if piece.values.dtype.kind == "f":
            seen = piece.observed if piece.sizes is None else slice(None)
            self.gaps |= bool(np.isnan(piece.values[seen]).any())
        values = piece.values
        if piece.times is not None:  # see `amodal.data.clocks`
            values = np.concatenate([values, piece.times[..., None]], axis=2)
        self.values.add(values)
        if self.lengths is not None:
            assert piece.sizes is not None
            self.lengths.add(piece.sizes)

    def sizes(self) -> list[int]:
        return [raw.size() for raw in (self.values, self.lengths) if raw is not None]

    def cut(self, sizes: list[int], gaps: bool) -> None:
        self.gaps = gaps
        for raw, size in zip((self.values, self.lengths), sizes):
            if raw is not None:
                raw.cut(size)

    def close(self) -> None:
        self.values.close()
        if self.lengths is not None:
            self.lengths.close()

    def store(self, observed: np.ndarray) -> Store:
        if self.lengths is None:
            return ArrayStore(self.values.open(self.n), gaps=self.gaps)
        offsets = np.concatenate([[0], np.cumsum(self.lengths.open(self.n))]).astype(np.int64)
        return RaggedStore(self.values.open(int(offsets[-1])), offsets, gaps=self.gaps)


def _record(place: Place, writers: dict[str, _Writer], seen: _Raw, ranges: Ranges, done: int) -> None:
    """Notes how far the work is; what comes after is cut off when it is taken up again."""
    if place.lenient:
        return
    state = {
        "done": done,
        "chunk": place.chunk,
        "observed": seen.size(),
        "modalities": {name: {"sizes": w.sizes(), "gaps": w.gaps} for name, w in writers.items()},
        "ranges": ranges.to_json(),
        "problems": place.problems.to_json(),
        "log": place.problems.log_size(),
    }
    write_json(place.work / "state.json", state)


def _restore(place: Place, writers: dict[str, _Writer], seen: _Raw, ranges: Ranges) -> int:
    path = place.work / "state.json"
    state = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if state is None or state["chunk"] != place.chunk or set(state["modalities"]) != set(writers):
        for writer in writers.values():
            writer.cut([0, 0], False)
        seen.cut(0)
        place.problems.restore(None)
        return 0
    for name, part in state["modalities"].items():
        writers[name].cut(part["sizes"], part["gaps"])
    seen.cut(state["observed"])
    ranges.restore(state["ranges"])
    place.problems.restore(state["problems"], state["log"])
    return int(state["done"])
