"""What every kind of modality of a table has to do: say which columns it reads, and turn rows into arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from amodal.data.table.manifest import Table
from amodal.data.table.section import Section
from amodal.errors import DataError
from amodal.schema import Modality

__all__ = ["Piece", "Place", "Problems", "Reader", "Rows", "Source"]

_SHOWN = 5
_KEPT = 100
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Rows(NamedTuple):
    """Some rows of a manifest, one after the other.

    Attributes:
        start: Position of the first among all rows of the cohort.
        ids: Their ids, str (n,).
        columns: Their cells by column, Arrow arrays of length n; a column may be lacking only at prediction.
    """

    start: int
    ids: np.ndarray
    columns: Mapping[str, Any]


class Piece(NamedTuple):
    """One modality of some rows.

    Attributes:
        values: Of shape (n, …), float32 (NaN = not measured) or uint8; of text a list of n bytes.
        observed: Presence, bool, of shape (n,).
    """

    values: np.ndarray | list[bytes]
    observed: np.ndarray


@dataclass
class Problems:
    """What was odd in the data: counted, with the first few, and at prediction by row.

    Args:
        strict: Whether the grave kinds are errors, as they are when a cohort is prepared.
        by_row: Whether to keep everything by id.
    """

    strict: bool = True
    by_row: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, ids: Iterable[str], got: Iterable[object] = (), *, telling: str | None = None) -> None:
        """Counts one kind of problem.

        Args:
            what: The kind, as people read it, with the column.
            ids: Ids of the rows.
            got: What stood there, as many as `ids`, or nothing.
            telling: What to tell a row at prediction; `what` and the cell by default.
        """
        for row, cell in _pairs(ids, got):
            self.counts[what] += 1
            shown = f"{what}: {_short(cell)}" if cell is not None else what
            if len(self.examples.setdefault(what, [])) < _KEPT:
                self.examples[what].append(row if cell is None else f"{row}: {_short(cell)}")
            if self.by_row:
                self.rows.setdefault(row, []).append(telling or shown)

    def grave(self, what: str, ids: Any, got: Any = (), *, expected: str, hint: str) -> None:
        """Raises DataError if strict, else counts.

        Args:
            what: The kind, as people read it, with the column.
            ids: Ids of the rows; none is fine.
            got: What stood there.
            expected: What would have been right.
            hint: What to do about it.
        """
        if not len(ids):
            return
        if not self.strict:
            self.add(what, ids, got)
            return
        pairs = _pairs(ids[:_SHOWN], got[:_SHOWN])
        shown = ", ".join(row if cell is None else f"{_short(cell)} in row {row}" for row, cell in pairs)
        more = f", … ({len(ids)} rows)" if len(ids) > _SHOWN else ""
        raise DataError(f"{what}: {shown}{more}", expected=expected, hint=hint)

    def describe(self) -> str:
        """Every kind with its count and first rows, a line each."""
        lines = []
        for what, count in self.counts.most_common():
            first = ", ".join(self.examples[what][:3])
            lines.append(f"  {count:>8,}  {what} ({first}{', …' if count > 3 else ''})")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Counts and the first rows of each kind, as plain JSON values."""
        return {"counts": dict(self.counts), "first": self.examples}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Takes back what `to_json` gave."""
        self.counts, self.examples = Counter(record["counts"]), {k: list(v) for k, v in record["first"].items()}


@dataclass(frozen=True)
class Place:
    """Where a table's data lie and how they are read.

    Attributes:
        manifest: The table of cases.
        root: Folder that all files must lie in.
        work: Folder for temporary files.
        ids: Ids of all cases, str (N,).
        missing: Words that stand for an empty cell.
        problems: Takes what is odd.
        threads: Reads files side by side.
        lenient: Whether columns and files may be lacking, as at prediction.
        chunk: Rows that are read at a time.
    """

    manifest: Table
    root: Path
    work: Path
    ids: np.ndarray
    missing: frozenset[str]
    problems: Problems
    threads: ThreadPoolExecutor
    lenient: bool = False
    chunk: int = 1024

    def side_by_side(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """Applies a function to each item, on several threads, in order."""
        return list(self.threads.map(function, items))


class Reader(ABC):
    """Reads one modality, chunk by chunk."""

    @abstractmethod
    def read(self, rows: Rows) -> Piece:
        """Reads some rows; chunks come in order."""

    def finish(self) -> None:  # noqa: B027  (most readers have nothing to do)
        """Told when all rows were read."""


@dataclass(frozen=True)
class Source(ABC):
    """One modality as a schema describes it.

    Attributes:
        name: The modality's name.
    """

    kind: ClassVar[str]
    dtype: ClassVar[str] = "float32"

    name: str

    @classmethod
    @abstractmethod
    def read(cls, name: str, section: Section) -> Source:
        """Reads it from a schema.

        Raises:
            SchemaError: If a key is unknown or lacking, or a value cannot be used.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `read` takes."""

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The manifest's columns that it reads."""

    def tables(self) -> tuple[str, ...]:
        """The files with rows of all cases that it reads, relative to the data folder."""
        return ()

    def surveyed(self, place: Place) -> Source:
        """Itself with everything that the schema leaves open filled in from the data."""
        return self

    @abstractmethod
    def modality(self) -> Modality:
        """Name, kind and shape, once surveyed."""

    def taken_for(self) -> str:
        """One line on what its cells or files are taken for, once surveyed; "" says nothing beyond kind and shape."""
        return ""

    @abstractmethod
    def reader(self, place: Place) -> Reader:
        """Opens what it reads."""


def _pairs(ids: Iterable[str], got: Iterable[object]) -> list[tuple[str, object]]:
    rows, cells = [str(row) for row in ids], list(got)
    return list(zip(rows, cells if cells else [None] * len(rows)))


def _short(cell: object) -> str:
    text = repr(str(cell)) if isinstance(cell, str) else f"{cell:g}" if isinstance(cell, float) else str(cell)
    return f"{text[:60]}…" if len(text) > 60 else text
