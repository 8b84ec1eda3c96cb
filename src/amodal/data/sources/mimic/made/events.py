"""Made charted and laboratory events: columns for a table's rows, from the truth of some stays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from amodal.data.sources.mimic.made.truth import MadeStays

__all__ = ["MadeEvents", "charted_events", "laboratory_events", "urine_events"]


class _Item(NamedTuple):
    """A number that is measured again and again."""

    mimic3: int
    mimic4: int
    every: float  # hours
    mean: float
    severity: float
    chest: float
    noise: float
    low: float
    high: float
    units: str
    digits: int = 0


_CHARTED = (
    _Item(211, 220045, 1, 86, 9, 0, 6, 20, 220, "bpm"),
    _Item(455, 220179, 1, 122, -9, 0, 8, 40, 240, "mmHg"),
    _Item(8441, 220180, 1, 62, -5, 0, 6, 15, 140, "mmHg"),
    _Item(456, 220181, 1, 80, -7, 0, 6, 20, 170, "mmHg"),
    _Item(618, 220210, 1, 19, 2, 1.5, 2, 5, 60, "insp/min"),
    _Item(646, 220277, 1, 97, -1, -0.5, 1, 50, 100, "%"),
    _Item(678, 223761, 4, 98.4, 0.5, 0.2, 0.5, 90, 107, "?F", 1),
    _Item(3420, 223835, 6, 45, 4, 5, 5, 21, 100, "%"),
    _Item(807, 220621, 6, 132, 8, 0, 20, 40, 600, "mg/dL"),
    _Item(763, 224639, 1000, 81, 0, 0, 15, 35, 200, "kg", 1),
)
_LABS = (
    _Item(50820, 50820, 8, 7.38, -0.04, -0.01, 0.03, 6.8, 7.8, "units", 2),
    _Item(50931, 50931, 12, 130, 8, 0, 20, 40, 600, "mg/dL"),
    _Item(50821, 50821, 8, 105, -3, -14, 12, 30, 500, "mm Hg"),
    _Item(51006, 51006, 12, 26, 6, 0, 6, 3, 200, "mg/dL"),
    _Item(51301, 51301, 12, 11, 2, 0.6, 2, 0.5, 90, "K/uL", 1),
    _Item(50882, 50882, 12, 24, -1.5, 0, 2, 5, 50, "mEq/L"),
    _Item(50983, 50983, 12, 139, 0, 0, 3, 110, 170, "mEq/L"),
    _Item(50971, 50971, 12, 4.1, 0.1, 0, 0.4, 1.5, 9, "mEq/L", 1),
    _Item(50885, 50885, 24, 1.0, 0.3, 0, 0.3, 0.1, 50, "mg/dL", 1),
)
_EYES = ("None", "To Pain", "To Speech", "Spontaneously")
_VERBAL = ("No Response", "Incomprehensible sounds", "Inappropriate Words", "Confused", "Oriented")
_MOTOR = ("No response", "Abnormal extension", "Abnormal Flexion", "Flex-withdraws", "Localizes Pain", "Obeys Commands")
_NUMBERED = {  # as CareVue writes them
    "mimic3": (
        ("1 No Response", "2 To pain", "3 To speech", "4 Spontaneously"),
        ("1 No Response", "2 Incomp sounds", "3 Inapprop words", "4 Confused", "5 Oriented"),
        ("1 No Response", "2 Abnorm extensn", "3 Abnorm flexion", "4 Flex-withdraws", "5 Localizes Pain",
         "6 Obeys Commands"),
    ),
    "mimic4": (_EYES, _VERBAL, _MOTOR),
}  # fmt: skip
_SCALES = {"mimic3": (184, 723, 454), "mimic4": (220739, 223900, 223901)}
_OTHER_ITEMS = 228_000


class MadeEvents(NamedTuple):
    """Events of some stays, in any order.

    Attributes:
        row: Position of the stay, (R,).
        time: datetime64[s], (R,).
        item: Number of the item, (R,).
        value: The value as text, (R,).
        number: The value as a number, (R,).
        units: Units, (R,).
    """

    row: np.ndarray
    time: np.ndarray
    item: np.ndarray
    value: np.ndarray
    number: np.ndarray
    units: np.ndarray


def charted_events(
    stays: MadeStays, database: str, generator: np.random.Generator, *, other_rows: int = 0
) -> list[MadeEvents]:
    """Vital signs, the coma scale, and rows of other items that no cohort uses.

    Args:
        stays: The stays.
        database: "mimic3" or "mimic4": decides the items.
        generator: Decides the values.
        other_rows: Rows of other items an hour, so that tables become as long as the real ones.
    """
    made = [_numbers(stays, item, getattr(item, database), generator) for item in _CHARTED]
    for item, words in zip(_SCALES[database], _NUMBERED[database]):
        row, hour = _times(stays, 4, generator)
        awake = len(words) - 0.4 - 0.9 * np.maximum(0, _severity(stays, row, hour) + 0.3)
        place = (awake + 0.5 * generator.standard_normal(len(row))).astype(np.int64).clip(0, len(words) - 1)
        made.append(_events(stays, row, hour, item, np.array(words)[place], place + 1.0, ""))
    if other_rows:
        row, hour = _times(stays, 1 / other_rows, generator)
        item = _OTHER_ITEMS + generator.integers(0, 500, len(row))
        number = generator.integers(0, 100, len(row)).astype(float)
        made.append(_events(stays, row, hour, item, number.astype(np.int64).astype(str), number, ""))
    return made


def laboratory_events(stays: MadeStays, generator: np.random.Generator) -> list[MadeEvents]:
    """Laboratory values."""
    return [_numbers(stays, item, item.mimic3, generator) for item in _LABS]


def urine_events(stays: MadeStays, database: str, generator: np.random.Generator) -> MadeEvents:
    """Urine every two hours, less in severe illness."""
    row, hour = _times(stays, 2, generator)
    number = np.round(150 - 40 * stays.severity[row] + 40 * generator.standard_normal(len(row))).clip(0, 800)
    item = 40055 if database == "mimic3" else 226559
    return _events(stays, row, hour, item, number.astype(np.int64).astype(str), number, "mL")


def _numbers(stays: MadeStays, item: _Item, number: int, generator: np.random.Generator) -> MadeEvents:
    row, hour = _times(stays, item.every, generator)
    offset = generator.standard_normal(len(stays))[row]  # of the patient, beside the truth
    value = item.mean + item.severity * _severity(stays, row, hour) + item.chest * stays.chest[row]
    value += item.noise * (0.7 * offset + 0.7 * generator.standard_normal(len(row)))
    value = np.round(value.clip(item.low, item.high), item.digits)
    text = value.astype(np.int64).astype(str) if not item.digits else value.astype(str)
    return _events(stays, row, hour, number, text, value, item.units)


def _severity(stays: MadeStays, row: np.ndarray, hour: np.ndarray) -> np.ndarray:
    """Severity at an hour: it rises over the last 24 hours of those who die."""
    rising = np.maximum(0, 1 - (stays.hours[row] - hour) / 24)
    return stays.severity[row] + 1.5 * rising * stays.died[row]


def _times(stays: MadeStays, every: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Position of the stay and hour of each measurement; one in ten is left out."""
    counts = np.maximum(1, np.floor(stays.hours / every)).astype(np.int64)
    row = np.repeat(np.arange(len(stays)), counts)
    place = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    hour = ((place + 0.1 + 0.8 * generator.random(len(row))) * every) % stays.hours[row]
    kept = generator.random(len(row)) < 0.9
    return row[kept], hour[kept]


def _events(
    stays: MadeStays,
    row: np.ndarray,
    hour: np.ndarray,
    item: int | np.ndarray,
    value: np.ndarray,
    number: np.ndarray,
    units: str,
) -> MadeEvents:
    time = stays.start[row] + (hour * 60).astype(np.int64).astype("timedelta64[m]")
    return MadeEvents(row, time, np.broadcast_to(item, row.shape), value, number, np.broadcast_to(units, row.shape))
