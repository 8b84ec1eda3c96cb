"""The interface of a modality of a table: the columns it reads, and the arrays it makes of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from amodal.data.table.cells import Reading
from amodal.data.table.manifest import Table
from amodal.data.table.problems import Problems
from amodal.data.table.section import Section
from amodal.data.table.several import ONE, Several
from amodal.schema import Modality

__all__ = ["Piece", "Place", "Problems", "Reader", "Rows", "Source", "set_piece"]

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
        times: Of a series with a clock of its own, when each step was, float32 (n, T); NaN beyond the end.
        sizes: Of sets that are no texts, how many members each row has, int64 (n,), 0 where absent; `values` are then
            the members of all rows, one after the other.
    """

    values: np.ndarray | list[bytes]
    observed: np.ndarray
    times: np.ndarray | None = None
    sizes: np.ndarray | None = None


def set_piece(arrays: Sequence[Sequence[np.ndarray]], shape: tuple[int, ...], dtype: Any) -> Piece:
    """The piece of a modality of sets, of the members of each row, arrays of one shape."""
    sizes = np.array([len(own) for own in arrays], dtype=np.int64)
    flat = [array for own in arrays for array in own]
    values = np.stack(flat).astype(dtype, copy=False) if flat else np.zeros((0, *shape), dtype)
    return Piece(values, sizes > 0, sizes=sizes)


@dataclass(frozen=True)
class Place:
    """The place of a table's data and the rules for reading them.

    Attributes:
        manifest: The table of cases.
        root: Folder that all files must lie in.
        work: Folder for temporary files.
        ids: Ids of all cases, str (N,).
        reading: How cells are read where a column does not say otherwise.
        problems: Takes what is odd.
        threads: Reads files side by side.
        lenient: Whether columns and files may be lacking, as at prediction.
        chunk: Rows that are read at a time.
        kept: Which rows of the manifest are cases, bool (R,); None: all.
        left_out: Ids of the manifest's rows that are no cases.
    """

    manifest: Table
    root: Path
    work: Path
    ids: np.ndarray
    reading: Reading
    problems: Problems
    threads: ThreadPoolExecutor
    lenient: bool = False
    chunk: int = 1024
    kept: np.ndarray | None = None
    left_out: frozenset[str] = frozenset()

    @property
    def missing(self) -> frozenset[str]:
        """Words that stand for an empty cell."""
        return self.reading.missing

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

    def set_rule(self) -> Several:
        """How several entries of one cell are parted, which become a set; false where a cell has one."""
        return ONE

    def taken_for(self) -> str:
        """One line on what its cells or files are taken for, once surveyed; "" says nothing beyond kind and shape."""
        return ""

    def unmeasured(self, problems: Problems) -> list[str]:
        """Columns or variables without one measured cell that the schema does not accept, once read."""
        return []

    @abstractmethod
    def reader(self, place: Place) -> Reader:
        """Opens what it reads."""
