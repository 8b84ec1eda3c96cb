"""Account of what a preparation read, lost and assumed: every cell and row is measured, empty or counted."""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from amodal.errors import DataError

__all__ = ["LIMITS", "Problems"]

_SHOWN = 5
_KEPT = 100
_LEAST = 10
_SAYS_LOST = re.compile("left out|not measured|not there|there is no|^no ")

LIMITS = {"unmatched": 0.5, "outside_window": 0.5, "no_origin": 0.1, "half_time": 0.0, "out_of_range": 0.5}
"""Shares of rows or cells beyond which a loss is an error, where a schema's `accept` does not say otherwise."""


@dataclass
class Problems:
    """Problems in the data: counted, with the first few, and at prediction by row.

    Every cell or row that is read is *entered* under a place (a file, or a column of a modality), and is later
    measured, empty, or lost for a reason that is counted: `balance` is zero everywhere.

    Args:
        strict: Whether the grave kinds are errors, as they are when a cohort is prepared.
        by_row: Whether to keep everything by id.
        log: A CSV file that takes every id with its reason; None: none.
    """

    strict: bool = True
    by_row: bool = False
    log: Path | None = None
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, list[str]] = field(default_factory=dict)
    cells: dict[str, Counter[str]] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    _start: int = 0

    def __post_init__(self) -> None:
        if self.log is not None:
            self._start = self.log.stat().st_size if self.log.is_file() else 0

    def add(
        self, what: str, ids: Iterable[str], got: Iterable[object] = (), *, telling: str | None = None, lost: str = ""
    ) -> None:
        """Counts one kind of problem.

        Args:
            what: The kind, as people read it, with the column.
            ids: Ids of the rows.
            got: What stood there, as many as `ids`, or nothing.
            telling: What to tell a row at prediction; `what` and the cell by default.
            lost: The place whose cells or rows are lost by it; "" = nothing is.
        """
        ids, got = list(ids), list(got)
        if not ids:
            return
        self.counts[what] += len(ids)
        if lost:
            self._place(lost)["lost"] += len(ids)
        kept = self.examples.setdefault(what, [])
        for row, cell in _pairs(ids[: _KEPT - len(kept)], got[: _KEPT - len(kept)]):
            kept.append(row if cell is None else f"{row}: {_short(cell)}")
        if self.by_row:
            after = ", left out" if lost and not _SAYS_LOST.search(what) else ""
            for row, cell in _pairs(ids, got):
                shown = f"{what}: {_short(cell)}{after}" if cell is not None else f"{what}{after}"
                self.rows.setdefault(row, []).append(telling or shown)
        if self.log is not None:
            self._write(what, ids, got)

    def say(self, line: str) -> None:
        """Notes what something was taken for; a line that was said already is not said again."""
        if line not in self.taken:
            self.taken.append(line)

    def enter(self, place: str, n: int, *, empty: int = 0, measured: int = 0) -> None:
        """Counts cells or rows of a place: how many came, how many of them are empty, how many are measured."""
        found = self._place(place)
        found["in"] += n
        found["empty"] += empty
        found["measured"] += measured

    def balance(self) -> dict[str, int]:
        """By place, the cells or rows that were neither measured nor empty nor counted as lost; all zero."""
        return {p: c["in"] - c["measured"] - c["empty"] - c["lost"] for p, c in self.cells.items()}

    def _place(self, place: str) -> Counter[str]:
        return self.cells.setdefault(place, Counter({"in": 0, "measured": 0, "empty": 0, "lost": 0}))

    def grave(self, what: str, ids: Any, got: Any = (), *, expected: str, hint: str, lost: str = "") -> None:
        """Raises DataError if strict, else counts.

        Args:
            what: The kind, as people read it, with the column.
            ids: Ids of the rows; none is fine.
            got: What stood there.
            expected: What would have been right.
            hint: What to do about it.
            lost: As for `add`.
        """
        if not len(ids):
            return
        if not self.strict:
            self.add(what, ids, got, lost=lost)
            return
        pairs = _pairs(ids[:_SHOWN], got[:_SHOWN])
        shown = ", ".join(row if cell is None else f"{_short(cell)} in row {row}" for row, cell in pairs)
        more = f", … ({len(ids)} rows)" if len(ids) > _SHOWN else ""
        raise DataError(f"{what}: {shown}{more}", expected=expected, hint=hint)

    def fail(self, error: DataError) -> None:
        """Raises an error; a check of everything collects it instead."""
        raise error

    def check_share(
        self, key: str, what: str, n: int, of: int, accept: Mapping[str, float], where: str, *, got: str, hint: str = ""
    ) -> None:
        """Raises DataError if strict and a share of rows or cells is lost that no schema accepts.

        Args:
            key: One of `LIMITS`.
            what: What happened to them, in words.
            n: How many.
            of: Of how many.
            accept: The schema's own limits.
            where: The place in the schema that could accept it.
            got: What stood there, in words.
            hint: What else to look at.
        """
        limit = accept.get(key, LIMITS[key])
        if not self.strict or of < _LEAST or n <= limit * of:
            return
        enough = min(1.0, math.ceil(n / of * 100) / 100)
        raise DataError(
            f"{what}: {n:,} of {of:,} ({n / of:.0%})",
            expected=f"at most {limit:.0%}",
            got=got,
            hint=f"{hint} If it is right, write `accept: {{{key}: {enough:g}}}` under {where}.".strip(),
        )

    def describe(self) -> str:
        """Every kind with its count and first rows, a line each."""
        return "\n".join(_lines(self.counts, self.examples))

    def to_json(self) -> dict[str, Any]:
        """Counts, the first rows of each kind, cells by place and what was taken for what, as plain JSON values."""
        return {
            "counts": dict(self.counts),
            "first": self.examples,
            "cells": {place: dict(counts) for place, counts in self.cells.items()},
            "taken": self.taken,
        }

    def summary(self, shown: int = 3) -> dict[str, Any]:
        """`to_json` with only so many rows of each kind, for a cohort's record."""
        return self.to_json() | {"first": {what: rows[:shown] for what, rows in self.examples.items()}}

    def restore(self, record: Mapping[str, Any] | None, log_size: int = 0) -> None:
        """Takes back what `to_json` gave, and the log as long as it was then; None keeps what this run counted."""
        if record is None:
            if self.log is not None and self._start:
                rest = self.log.read_bytes()[self._start :]
                self.log.write_bytes(rest)
            return
        self.counts, self.examples = Counter(record["counts"]), {k: list(v) for k, v in record["first"].items()}
        self.cells = {place: Counter(counts) for place, counts in record["cells"].items()}
        self.taken = list(record["taken"])
        if self.log is not None and self.log.is_file():
            os.truncate(self.log, log_size)

    def log_size(self) -> int:
        """Bytes of the log."""
        return self.log.stat().st_size if self.log is not None and self.log.is_file() else 0

    def _write(self, what: str, ids: Sequence[str], got: Sequence[object]) -> None:
        assert self.log is not None
        rows, first, counts = np.unique(np.array(ids, dtype=str), return_index=True, return_counts=True)
        with open(self.log, "a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if not self.log.stat().st_size:
                writer.writerow(["id", "reason", "count", "first_cell"])
            writer.writerows(
                [row, what, int(count), _short(got[i]) if got else ""] for row, i, count in zip(rows, first, counts)
            )


def _lines(counts: Counter[str], examples: Mapping[str, Sequence[str]]) -> list[str]:
    lines = []
    for what, count in counts.most_common():
        first = ", ".join(examples[what][:3])
        lines.append(f"  {count:>8,}  {what} ({first}{', …' if count > 3 else ''})")
    return lines


def _pairs(ids: Iterable[str], got: Iterable[object]) -> list[tuple[str, object]]:
    rows, cells = [str(row) for row in ids], list(got)
    return list(zip(rows, cells if cells else [None] * len(rows)))


def _short(cell: object) -> str:
    text = f"{cell:g}" if isinstance(cell, float) else str(cell)
    text = repr(text.strip("\u2060")) if isinstance(cell, str) else text
    return f"{text[:60]}…" if len(text) > 60 else text
