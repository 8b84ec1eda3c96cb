"""Numbers that stand for nothing: 999, -9 and the like, far from all other values of their column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from amodal.data.cohort import Cohort
from amodal.data.table.problems import Problems
from amodal.schema import Modality

__all__ = ["tell_codes"]

_CODES = frozenset(
    {sign * int(digit * n) for digit in "6789" for n in range(1, 7) for sign in (1, -1)} - {6, 7, 8, 9} | {-1}
)
_DAYS = {-25567: "1900-01-01", -25568: "1899-12-31", 2932896: "9999-12-31", -719162: "0001-01-01",
         -719528: "0000-01-01"}  # since 1970  # fmt: skip
_LEAST = 3
_FAR = 2.0  # spreads of the other values between them and the code


def tell_codes(cohort: Cohort, ranges: Mapping[str, Any], problems: Problems) -> None:
    """Says which columns have a code among their numbers: largest or smallest, several times, and apart from the rest.

    Args:
        cohort: The cases.
        ranges: Smallest and largest value of each feature, by modality.
        problems: Told what was found.
    """
    for modality in cohort.schema.modalities:
        pairs = ranges.get(modality.name, []) if modality.traits.takes_measured else []
        odd = {d: code for d, pair in enumerate(pairs) for code in pair if code in _CODES or code in _DAYS}
        for d, values in _features(cohort, modality, list(odd)):
            code, rest = odd[d], values[values != odd[d]]
            count = len(values) - len(rest)
            if count < _LEAST or len(rest) < _LEAST:
                continue
            low, high = float(rest.min()), float(rest.max())
            if code < 0 <= low or min(abs(code - low), abs(code - high)) > _FAR * max(high - low, 1e-9):
                name = modality.features[d] if modality.features else f"feature {d}"
                shown = _DAYS.get(int(code), f"{code:g}")
                where = f"{modality.name}.{name}: {shown} stands in {count:,} cells, apart from all others"
                problems.say(
                    f"{where} ({low:g} … {high:g}); if it says that nothing is known, list it under `missing`, or "
                    "write `min` and `max`"
                )


def _features(cohort: Cohort, modality: Modality, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """The measured values of some features."""
    parts: dict[int, list[np.ndarray]] = {d: [] for d in wanted}
    for _, cut in cohort.cuts(modality.name) if wanted else ():
        values = cut.values.reshape(-1, cut.values.shape[-1])
        known = np.ones(values.shape, bool) if cut.measured is None else cut.measured.reshape(values.shape)
        for d in wanted:
            parts[d].append(values[known[:, d], d])
    yield from ((d, np.concatenate(part)) for d, part in parts.items() if part)
