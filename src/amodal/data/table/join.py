"""Second tables, joined to the manifest by id, with what did not match."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from amodal.data.table.cells import words
from amodal.data.table.files import within
from amodal.data.table.manifest import Table, check_columns, check_renamed, open_table, tell_lacking
from amodal.data.table.problems import Problems
from amodal.data.table.source import Place, Rows
from amodal.data.table.words import is_shortened, near_pairs, say_pairs
from amodal.errors import DataError

__all__ = ["Joined", "positions", "second_table"]

_CHUNK = 65536
_STRANGERS = 100_000


def positions(place: Place) -> Callable[[np.ndarray], np.ndarray]:
    """A function from ids, object (n,), to the positions of their cases, int64 (n,), -1 = no such case."""
    import pandas as pd

    index = pd.Index(place.ids)
    return lambda ids: np.asarray(index.get_indexer(pd.Index(ids)), dtype=np.int64)


def second_table(place: Place, file: str, sheet: str = "") -> Table:
    """Opens a table within the data folder.

    Raises:
        DataError: If it lies outside, or cannot be read.
    """
    return open_table(within(place.root, "", file), place.reading.encoding, sheet)


class Joined:
    """A second table, whose rows belong to the manifest's by id.

    Args:
        place: Where the data lie.
        file: The table, relative to the data folder.
        id_column: Its column with ids.
        name: The modality.
        columns: The columns to read beside.
        accept: Shares of what may be lost.
        sheet: The sheet of a workbook; "" = the first.

    Raises:
        DataError: If the table cannot be read.
        SchemaError: If it lacks a column.
    """

    def __init__(
        self, place: Place, file: str, id_column: str, name: str, columns: Sequence[str], accept: Mapping[str, float],
        sheet: str = "",
    ):  # fmt: skip
        self.place, self.name, self.where, self.accept = place, name, f"modalities.{name}", accept
        self.file, self.id_column = file, id_column
        self.n_strange = 0
        self.rows_of = f"{name}: rows of {file}"
        path = within(place.root, "", file)
        self.table = None
        if place.lenient and not path.is_file():
            place.problems.add(f"{self.where}: {file} is not there", place.ids)
            return
        self.table = second_table(place, file, sheet)
        self.columns = [c for c in columns if c in self.table.names] if place.lenient else list(columns)
        if place.lenient:
            check_renamed(self.table, columns)
            tell_lacking(self.table, columns, self.where, place.problems)
        wanted = dict.fromkeys([id_column] if place.lenient else [id_column, *columns], self.where)
        check_columns(self.table, wanted)

    def rows(self) -> Iterator[tuple[np.ndarray, Rows]]:
        """Goes through the rows that match a case; the others are counted.

        Yields:
            Positions of their cases, int64 (n,), and their cells.

        Raises:
            DataError: If too many rows match no case.
        """
        if self.table is None:
            return
        find, problems = positions(self.place), self.place.problems
        strangers: set[str] = set()
        n_matched = n_rows = 0
        seen = np.zeros(len(self.place.ids), bool)
        for chunk in self.table.chunks([self.id_column, *self.columns], _CHUNK):
            ids = words(chunk[self.id_column], self.place.missing, ignore_case=self.place.reading.ignore_case)
            at = find(ids)
            self._count(ids, at, strangers)
            kept = np.flatnonzero(at >= 0)
            n_matched, n_rows = n_matched + len(kept), n_rows + len(ids)
            seen[at[kept]] = True
            if len(kept):
                cells = {name: chunk[name].take(kept) for name in self.columns}
                yield at[kept], Rows(0, ids[kept].astype(str), cells)
        for remark in self.table.remarks():
            problems.say(remark)
        near = say_pairs(near_pairs(sorted(strangers), self.place.ids[~seen]))
        short = next((word for word in sorted(strangers) if is_shortened(word)), "")
        if short:
            near = f"{short!r} is a number as spreadsheets shorten it: export the table again, with its ids as text."
        self._check(strangers, near, n_rows, n_matched)
        if near:
            problems.say(f"{self.file}: ids that match nobody{':' if short else ', though'} {near}")
        if not problems.by_row:
            problems.add(f"{self.file}: no row for this id", self.place.ids[~seen].tolist())

    def _count(self, ids: np.ndarray, at: np.ndarray, strangers: set[str]) -> None:
        problems = self.place.problems
        empty = np.array([row is None for row in ids], dtype=bool)
        problems.enter(self.rows_of, len(ids))
        problems.add(f"{self.file}: row without an id", [f"row of {self.file}"] * int(empty.sum()), lost=self.rows_of)
        gone = np.array([row in self.place.left_out for row in ids], dtype=bool)
        problems.add(f"{self.file}: id of a case that was left out", ids[gone].tolist(), lost=self.rows_of)
        strange = ids[(at < 0) & ~empty & ~gone]
        self.n_strange += len(strange)
        problems.add(f"{self.file}: id that the manifest does not have", strange.tolist(), lost=self.rows_of)
        if len(strangers) < _STRANGERS:
            strangers |= set(strange.tolist())

    def _check(self, strangers: set[str], near: str, n_rows: int, n_matched: int) -> None:
        problems = self.place.problems
        if n_rows and not n_matched and problems.strict:
            raise DataError(
                f"{self.where}: no id of {self.file} is an id of the manifest",
                expected=f"ids like {', '.join(map(str, self.place.ids[:3]))}",
                got=", ".join(sorted(strangers)[:3]),
                hint=f"Is it the right column? {near or 'Leading zeros and case count.'}",
            )
        problems.check_share(
            "unmatched", f"{self.file}: rows whose id the manifest does not have", self.n_strange, n_rows,
            self.accept, self.where, got=f"ids like {', '.join(sorted(strangers)[:3])}", hint=near,
        )  # fmt: skip

    def matrix(
        self, name: str, width: int, read: Callable[[Rows, Place], np.ndarray], duplicates: str = "drop"
    ) -> np.ndarray:
        """One row of numbers for each case, float32 (N, width), NaN where there is none, memory-mapped.

        Args:
            name: The modality.
            width: Numbers of a row.
            read: Rows to numbers.
            duplicates: What becomes of a row that says the same as one before it: "drop" or "error".

        Raises:
            DataError: If an id has two rows that say different things.
        """
        values = self._blank(name, (width,))
        taken = np.zeros(len(self.place.ids), bool)
        for at, rows in self.rows():
            again = taken[at]
            again[np.setdiff1d(np.arange(len(at)), np.unique(at, return_index=True)[1])] = True
            first = _some(rows, ~again)
            values[at[~again]] = read(first, self.place)
            self.place.problems.enter(self.rows_of, 0, measured=len(first.ids))
            taken[at] = True
            if again.any():
                self._check_again(at[again], _some(rows, again), values, read, duplicates)
        return values

    def _blank(self, name: str, shape: tuple[int, ...]) -> np.memmap:
        """Numbers of each case, float32 (N, …), memory-mapped, all NaN."""
        path, n = self.place.work / f"{name}.joined", len(self.place.ids)
        blank = np.full((min(_CHUNK, max(1, n)), *shape), np.nan, np.float32)
        with open(path, "wb") as file:  # written in full first: a full disk is an error here, not a signal later
            for start in range(0, n, len(blank)):
                file.write(blank[: n - start].tobytes())
        return np.memmap(path, np.float32, "r+", shape=(n, *shape))

    def sets(
        self, name: str, width: int, most: int, read: Callable[[Rows, Place], np.ndarray], duplicates: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """The first rows of numbers of each case, float32 (N, most, width), memory-mapped, and how many, int64 (N,).

        Args:
            name: The modality.
            width: Numbers of a row.
            most: Rows of a case; those beyond are counted, and so are rows without one measured cell.
            read: Rows to numbers.
            duplicates: What becomes of a row that says the same as another of its case: "drop", "error" or "keep".
        """
        values, counts = self._blank(name, (most, width)), np.zeros(len(self.place.ids), np.int64)
        problems = self.place.problems
        for at, rows in self.rows():
            cells = read(rows, self.place)
            blank = np.isnan(cells).all(1)
            again, beyond = np.zeros(len(at), bool), np.zeros(len(at), bool)
            for i in np.flatnonzero(~blank):
                case, n = at[i], counts[at[i]]
                again[i] = duplicates != "keep" and n > 0 and bool(_equal_rows(values[case, :n], cells[i]).any())
                beyond[i] = not again[i] and n == most
                if not again[i] and not beyond[i]:
                    values[case, n], counts[case] = cells[i], n + 1
            if duplicates == "error" and again.any() and problems.strict:
                raise DataError(f"{self.where}: {self.file} says the same again for the id {str(rows.ids[again][0])!r}",
                                hint="Write `duplicates: drop` to take it once, or `keep`.")  # fmt: skip
            problems.add(f"{self.file}: row without a measured cell", rows.ids[blank], lost=self.rows_of)
            problems.add(f"{self.file}: the same row again, left out", rows.ids[again], lost=self.rows_of)
            problems.add(f"{self.file}: beyond the first {most} rows of a case, left out (`most`)", rows.ids[beyond],
                         lost=self.rows_of)  # fmt: skip
            problems.enter(self.rows_of, 0, measured=int((~blank & ~again & ~beyond).sum()))
        return values, counts

    def _check_again(
        self, at: np.ndarray, rows: Rows, values: np.ndarray, read: Callable[[Rows, Place], np.ndarray], rule: str
    ) -> None:
        """Rows of an id that had one already: the same again is counted, anything else is refused."""
        aside = replace(self.place, problems=Problems(strict=False))
        different = ~_equal_rows(read(rows, aside), values[at])
        if different.any() or (rule == "error" and self.place.problems.strict):
            row = int(different.argmax())
            raise DataError(
                f"{self.where}: {self.file} has several rows for the id {str(rows.ids[row])!r}",
                expected="one row for an id",
                hint="Are they visits of one case? `most: 5` takes up to so many as a set. Measurements at several "
                "times belong into a modality of kind `events`."
                if different.any()
                else "They say the same: write `duplicates: drop` to take the first.",
            )
        self.place.problems.add(f"{self.file}: the same row again, left out", rows.ids, lost=self.rows_of)


def _equal_rows(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a == b) | (np.isnan(a) & np.isnan(b))).all(1)


def _some(rows: Rows, which: np.ndarray) -> Rows:
    """Some of the rows."""
    if which.all():
        return rows
    chosen = np.flatnonzero(which)
    return Rows(rows.start, rows.ids[which], {name: cells.take(chosen) for name, cells in rows.columns.items()})
