"""Times of the rows of a long table: numbers, durations, or dates counted from a date of each case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from amodal.data.table.cells import moment_texts, texts
from amodal.data.table.numbers import NumberRule, numbers
from amodal.data.table.reading import check_clocks, read_moments, tell_half
from amodal.data.table.source import Place, Rows
from amodal.data.table.times import COUNTS, SECONDS, Moments, durations

__all__ = ["EventTimes", "named"]


def named(columns: Sequence[str]) -> str:
    """Columns in words."""
    return " and ".join(map(repr, columns))


class EventTimes:
    """Reads the times of a long table's rows.

    Args:
        source: What the schema says of them, as `Events` has it.
        place: Where the data lie.
        tally: Takes how many rows have no date to count from ("no_origin"), one of two cells ("half"), and a time of
            day ("clocks").
    """

    def __init__(self, source: Any, place: Place, tally: Counter[str]):
        self.source, self.place, self.problems, self.tally = source, place, place.problems, tally
        self.where, self.rows_of = f"modalities.{source.name}", f"{source.name}: rows of {source.file}"
        self.accepts_half = source.accept.get("half_time", 0.0) > 0
        self.origin = self._origins() if source.since else None

    def _lose(self, what: str, ids: np.ndarray, got: Any = ()) -> None:
        self.problems.add(f"{self.source.file}: {what}", ids, got, lost=self.rows_of)

    def _origins(self) -> Moments | None:
        """The date from which each case's times are counted."""
        since, manifest, place = self.source.since, self.place.manifest, self.place
        if not set(since) <= set(manifest.names):
            return None
        parts = [moment_texts(chunk, since, place.missing) for chunk in manifest.chunks(since, 65536)]
        cells, half = (np.concatenate(part) for part in zip(*parts))
        if place.kept is not None:
            cells, half = cells[place.kept], half[place.kept]
        what = f"column {named(since)}"
        tell_half(self.problems, place.ids[half], what, where=self.where, accepted=self.accepts_half)
        return read_moments(cells, self.source.since_format, place, place.ids, what, "since_format", "")

    def read(self, at: np.ndarray, rows: Rows) -> np.ndarray:
        """Times in the source's units, float64 (n,), NaN where there is none, which is counted.

        Args:
            at: Positions of the rows' cases, int64 (n,).
            rows: The rows.
        """
        source = self.source
        what = f"column {named(source.time)} of {source.file}"
        if not source.since:
            return self._spans(rows, what)
        cells, half = moment_texts(rows.columns, source.time, self.place.missing)
        tell_half(self.problems, rows.ids[half], what, where=self.where, lost=self.rows_of, accepted=self.accepts_half)
        self.tally["half"] += int(half.sum())
        self.tally["clocks"] += sum(cell is not None and ":" in cell for cell in cells)
        empty = np.array([cell is None for cell in cells], dtype=bool)
        self._lose(f"no time in {named(source.time)}", rows.ids[empty & ~half])
        found = read_moments(cells, source.format, self.place, rows.ids, what, "format", self.rows_of)
        if self.origin is None:
            self._lose(f"there is no {named(source.since)} to count times from", rows.ids[~np.isnan(found.seconds)])
            return np.full(len(cells), np.nan)
        check_clocks(found, self.origin, self.place, f"{what} and {named(source.since)}")
        origin = self.origin.seconds[at]
        lacking = np.isnan(origin) & ~np.isnan(found.seconds)
        self._lose(f"{named(source.since)} is empty, no date to count times from", rows.ids[lacking])
        self.tally["no_origin"] += int(lacking.sum())
        return (found.seconds - origin) / SECONDS[source.time_units]

    def _spans(self, rows: Rows, what: str) -> np.ndarray:
        """Times that are numbers in the source's units, or durations as people write them."""
        import pyarrow as pa

        cells = rows.columns[self.source.time[0]]
        if not pa.types.is_string(cells.type):
            found = numbers(cells, self.place.missing)
            times, bad, empty = found.values, found.bad, found.empty
        else:
            plain = numbers(cells, self.place.missing, NumberRule(decimal="."))
            times, bad, empty = plain.values, plain.bad, plain.empty
            if bad.any() or plain.units is not None:
                times, bad = durations(texts(cells, self.place.missing), self.source.time_units)
        self._lose(f"no time in {named(self.source.time)}", rows.ids[empty])
        self.problems.grave(
            f"{what}: not a number",
            rows.ids[bad].tolist(),
            [str(cell) for cell in cells.take(np.flatnonzero(bad)).to_pylist()],
            expected=f"{self.source.time_units} as numbers, or durations like 1 d 03:30",
            hint="If they are dates, name the manifest's column with the date to count from by `since`.",
            lost=self.rows_of,
        )
        return times

    def tell_days(self) -> None:
        """Says that no date has a time of day, where steps are shorter than a day."""
        source = self.source
        short = not source.step or source.step * SECONDS[source.time_units] < SECONDS["days"]
        plain = source.since and len(source.time) == 1 and not COUNTS.keys() & source.format
        if short and plain and self.tally["matched"] and not self.tally["clocks"]:
            self.problems.say(
                f"{source.file}: no date in {named(source.time)} has a time of day, and all are taken as midnight; if "
                "it stands in a column of its own, write `time: [date, time]`"
            )
