"""Second tables, joined to the manifest by id, with what did not match."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from amodal.data.table.cells import texts
from amodal.data.table.files import within
from amodal.data.table.manifest import check_columns, open_table
from amodal.data.table.source import Place, Rows
from amodal.errors import DataError

__all__ = ["Joined", "positions"]

_CHUNK = 65536


def positions(place: Place) -> Callable[[np.ndarray], np.ndarray]:
    """A function from ids, object (n,), to the positions of their cases, int64 (n,), -1 = no such case."""
    import pandas as pd

    index = pd.Index(place.ids)
    return lambda ids: np.asarray(index.get_indexer(pd.Index(ids)), dtype=np.int64)


class Joined:
    """A second table, whose rows belong to the manifest's by id.

    Args:
        place: Where the data lie.
        file: The table, relative to the data folder.
        id_column: Its column with ids.
        where: The place in the schema, for messages.
        columns: The columns to read beside.

    Raises:
        DataError: If the table cannot be read.
        SchemaError: If it lacks a column.
    """

    def __init__(self, place: Place, file: str, id_column: str, where: str, columns: Sequence[str]):
        self.place, self.where = place, where
        self.file, self.id_column = file, id_column
        path = within(place.root, "", file)
        self.table = None
        if place.lenient and not path.is_file():
            place.problems.add(f"{where}: {file} is not there", place.ids)
            return
        self.table = open_table(path)
        self.columns = [c for c in columns if c in self.table.names] if place.lenient else list(columns)
        wanted = dict.fromkeys([id_column] if place.lenient else [id_column, *columns], where)
        check_columns(self.table, wanted)

    def rows(self) -> Iterator[tuple[np.ndarray, Rows]]:
        """Goes through the rows that match a case.

        Yields:
            Positions of their cases, int64 (n,), and their cells.
        """
        if self.table is None:
            return
        find = positions(self.place)
        n_matched, n_rows, strangers, seen = 0, 0, set(), np.zeros(len(self.place.ids), bool)
        for chunk in self.table.chunks([self.id_column, *self.columns], _CHUNK):
            ids = texts(chunk[self.id_column], self.place.missing)
            at = find(ids)
            strangers |= {str(row) for row in ids[at < 0]} if len(strangers) < 10**6 else set()
            kept = np.flatnonzero(at >= 0)
            n_matched, n_rows = n_matched + len(kept), n_rows + len(ids)
            seen[at[kept]] = True
            if len(kept):
                cells = {name: chunk[name].take(kept) for name in self.columns}
                yield at[kept], Rows(0, ids[kept].astype(str), cells)
        if n_rows and not n_matched and self.place.problems.strict:
            raise DataError(
                f"{self.where}: no id of {self.file} is an id of the manifest",
                expected=f"ids like {', '.join(map(str, self.place.ids[:3]))}",
                got=", ".join(sorted(strangers)[:3]),
                hint="Is it the right column? Leading zeros and spaces count.",
            )
        self.place.problems.add(f"{self.file}: id that the manifest does not have", sorted(strangers))
        if not self.place.problems.by_row:
            self.place.problems.add(f"{self.file}: no row for this id", self.place.ids[~seen].tolist())

    def matrix(self, name: str, width: int, read: Callable[[Rows], np.ndarray]) -> np.ndarray:
        """One row of numbers for each case, float32 (N, width), NaN where there is none, memory-mapped.

        Raises:
            DataError: If an id has two rows.
        """
        path = self.place.work / f"{name}.joined"
        blank = np.full((min(_CHUNK, max(1, len(self.place.ids))), width), np.nan, np.float32)
        with open(path, "wb") as file:  # written in full first: a full disk is an error here, not a signal later
            for start in range(0, len(self.place.ids), len(blank)):
                file.write(blank[: len(self.place.ids) - start].tobytes())
        values = np.memmap(path, np.float32, "r+", shape=(len(self.place.ids), width))
        taken = np.zeros(len(self.place.ids), bool)
        for at, rows in self.rows():
            again = taken[at]
            again[np.setdiff1d(np.arange(len(at)), np.unique(at, return_index=True)[1])] = True
            if again.any():
                raise DataError(
                    f"{self.where}: {self.file} has several rows for the id {rows.ids[again.argmax()]!r}",
                    expected="one row for an id",
                    hint="Measurements at several times belong into a modality of kind `events`.",
                )
            taken[at] = True
            values[at] = read(rows)
        return values
