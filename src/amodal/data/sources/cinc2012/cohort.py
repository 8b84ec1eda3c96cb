r"""Intensive care stays of the PhysioNet/Computing in Cardiology Challenge 2012: 48 hours, naturally incomplete.

**Modalities**, as a clinician orders them: `descriptors` (a table) and, as series of 48 hourly steps, `vitals`,
`blood_gas` (with ventilation), `chemistry`, `haematology`, `liver`, `cardiac` (markers) and `urine`. A modality is
observed if anything of it was measured, so absence is natural; stays without any series keep their descriptors.

**Hours.** A value charted at hh:mm belongs to hour hh (48:00 to the last one, later ones are left out and counted).
Several in an hour are averaged; urine, a volume, is added up. `MechVent` is 1 where ventilation was charted and is not
measured elsewhere, as upstream has it.

**Cleaning.** Values in another unit are repaired (`Variable.repairs`): temperatures in Fahrenheit, and those in
Celsius that were converted as if they were Fahrenheit; pH without its decimal point; FiO2 in percent; heights in
centimetres that were converted as if they were inches. What then lies outside the range of `VARIABLES` cannot be from a
living adult and counts as not measured. -1 is unknown. Rows without a parameter's name or a value are skipped. All of
it is counted (`Tally`), and the cohort's description says how much there was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from amodal.data.cohort import Cohort
from amodal.data.folder import check_place
from amodal.data.sources.cinc2012.records import Measurements, Outcomes, find_sources, read_measurements, read_outcomes
from amodal.data.sources.cinc2012.variables import DESCRIPTORS, VARIABLES, Variable
from amodal.data.split import split_groups
from amodal.errors import DataError, UnknownNameError
from amodal.schema import Task

__all__ = ["HOURS", "TASKS", "Stays", "Tally", "cinc2012_cohort", "prepare", "read_stays"]

HOURS = 48
"""Steps of every series."""

TASKS: dict[str, Task] = {
    "death": Task("binary", name="in_hospital_death", classes=("survived", "died")),
    "length_of_stay": Task("regression", name="length_of_stay", units="days", bins=(1, 2, 3, 4, 5, 6, 7, 8, 14)),
}
"""What can be predicted; the bins are those of the benchmarks that report kappa for lengths of stay."""

_ICU_TYPES = ("coronary care", "cardiac surgery recovery", "medical", "surgical")
_AGES = ((45, "under 45"), (65, "45-64"), (80, "65-79"), (np.inf, "80 and over"))


@dataclass(frozen=True)
class Tally:
    """Counts of what was read, repaired, and left out.

    Attributes:
        stays: Number of stays of each set.
        without_record: Outcomes of stays that have no record here, as when files are lacking.
        rows: Rows that were used.
        nameless: Rows skipped because they have no parameter's name.
        empty: Rows skipped because they have no value.
        late: Rows skipped because they were charted after 48 hours.
        unknown: Rows skipped of parameters that are not known, by name.
        repaired: Values converted from another unit, by variable.
        out_of_range: Values that count as not measured, by variable; -1 (unknown) is not among them.
    """

    stays: Mapping[str, int]
    without_record: int
    rows: int
    nameless: int
    empty: int
    late: int
    unknown: Mapping[str, int]
    repaired: Mapping[str, int]
    out_of_range: Mapping[str, int]

    def describe(self) -> str:
        """One sentence."""
        sets = ", ".join(f"set {letter}: {n}" if letter else f"no set: {n}" for letter, n in self.stays.items())
        repaired, outside = sum(self.repaired.values()), sum(self.out_of_range.values())
        skipped = {
            "without a parameter's name": self.nameless,
            "without a value": self.empty,
            "after 48 hours": self.late,
            "of unknown parameters": sum(self.unknown.values()),
        }
        parts = [
            f"{sum(self.stays.values())} stays ({sets})",
            f"{self.rows} rows, {repaired} values repaired, {outside} out of range",
            *(f"{n} rows {why} skipped" for why, n in skipped.items() if n),
            *([f"{self.without_record} outcomes without a record"] if self.without_record else []),
        ]
        return "; ".join(parts)


class Stays(NamedTuple):
    """Stays as arrays, before a task is chosen.

    Attributes:
        ids: Record ids, str, of shape (N,).
        sets: Letter of the set, str, of shape (N,).
        descriptors: float32, of shape (N, 5), columns as in `DESCRIPTORS`; NaN = unknown.
        series: For each key of `VARIABLES`, float32, of shape (N, 48, D); NaN = not measured.
        outcomes: What became of them.
        tally: What was read, repaired and left out.
    """

    ids: np.ndarray
    sets: np.ndarray
    descriptors: np.ndarray
    series: dict[str, np.ndarray]
    outcomes: Outcomes
    tally: Tally


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    task: Literal["death", "length_of_stay"] = "death",
    seed: int = 0,
    fractions: Mapping[str, float] | None = None,
    overwrite: bool = False,
) -> Cohort:
    """Writes the cohort of one or more sets as a folder.

    Args:
        source: Folder or archive in upstream's layout; see `find_sources`.
        out: Folder to write.
        task: What is predicted.
        seed: Seed of the stratified split.
        fractions: Fraction of the stays for each split; default 0.7 train, 0.1 valid, 0.2 test.
        overwrite: Replace a cohort that is there.

    Returns:
        The cohort, opened from the folder.

    Raises:
        DataError: If the source cannot be read (the message names the file), or `out` cannot be written.
        UnknownNameError: If the task is not known.
    """
    check_place(Path(out), overwrite)
    cinc2012_cohort(source, task=task, seed=seed, fractions=fractions).save(out, overwrite=overwrite)
    return Cohort.open(out)


def cinc2012_cohort(
    source: str | Path,
    *,
    task: Literal["death", "length_of_stay"] = "death",
    seed: int = 0,
    fractions: Mapping[str, float] | None = None,
) -> Cohort:
    """Reads the cohort of one or more sets into memory.

    Every stay is its own group (upstream has one stay a patient). Extra columns: `set`, `age_group`, `gender` and
    `icu_type`. For `length_of_stay`, stays whose length is unknown (-1) are left out; the description says how many.

    Args:
        source: Folder or archive in upstream's layout; see `find_sources`.
        task: "death" (in hospital, binary) or "length_of_stay" (days, regression).
        seed: Seed of the stratified split.
        fractions: Fraction of the stays for each split; default 0.7 train, 0.1 valid, 0.2 test.

    Returns:
        The cohort.

    Raises:
        DataError: If the source cannot be read; the message names the file.
        UnknownNameError: If the task is not known.

    Source:
        :cite:`silva2012cinc`, from :cite:`goldberger2000physionet`; bins as in :cite:`harutyunyan2019multitask`.
    """
    if task not in TASKS:
        raise UnknownNameError("task of cinc2012", task, TASKS)
    read = read_stays(source)
    target = read.outcomes.death if task == "death" else read.outcomes.length_of_stay
    known = np.flatnonzero(~np.isnan(target))
    if len(known) == 0:
        raise DataError(f"no stay in {source} has a known {TASKS[task].name}")
    left_out = f"; {len(target) - len(known)} stays without {task} left out" if len(known) < len(target) else ""
    target, ids = target[known], read.ids[known]
    descriptors = read.descriptors[known]
    columns = [column for column in range(len(DESCRIPTORS)) if DESCRIPTORS[column].name != "ICUType"]
    icu_type = descriptors[:, _descriptor("ICUType")]
    one_hot = np.where(np.isnan(icu_type)[:, None], np.nan, icu_type[:, None] == np.arange(1, 5))  # (N, 4)
    table = np.concatenate([descriptors[:, columns], one_hot], axis=1).astype(np.float32)
    return Cohort.from_arrays(
        {"descriptors": table, **{name: values[known] for name, values in read.series.items()}},
        task=TASKS[task],
        target=target if task == "length_of_stay" else target.astype(np.int64),
        ids=ids,
        splits=split_groups(ids, target, fractions, seed=seed),
        features={
            "descriptors": [DESCRIPTORS[c].name for c in columns] + [f"ICUType {kind}" for kind in _ICU_TYPES],
            **{name: [v.name for v in variables] for name, variables in VARIABLES.items()},
        },
        units={
            "descriptors": [DESCRIPTORS[c].units for c in columns] + ["1 = yes"] * len(_ICU_TYPES),
            **{name: [v.units for v in variables] for name, variables in VARIABLES.items()},
        },
        name="cinc2012",
        description=f"PhysioNet/CinC 2012 ICU stays, first 48 h: {read.tally.describe()}{left_out}",
        extras={"set": read.sets[known], **_strata(descriptors)},
    )


def read_stays(source: str | Path) -> Stays:
    """Reads stays as arrays.

    Args:
        source: Folder or archive in upstream's layout; see `find_sources`.

    Returns:
        The stays, sorted by record id.

    Raises:
        DataError: If the source cannot be read; the message names the file.
    """
    found = find_sources(Path(source))
    ids = np.array([record.path.stem for record in found.records])
    outcomes = read_outcomes(found.outcomes, ids)
    rows = read_measurements(found.records)
    late = rows.minute > HOURS * 60
    known = {variable.name for variables in VARIABLES.values() for variable in variables}
    known |= {variable.name for variable in DESCRIPTORS} | {"RecordID"}
    strange = np.array([name not in known for name in rows.names], dtype=bool)
    used = ~late & ~strange[rows.parameter]
    counts = np.bincount(rows.parameter, minlength=len(rows.names))
    counter = _Counter()
    descriptors = np.stack([_admission(rows, variable, len(ids), counter) for variable in DESCRIPTORS], axis=1)
    series = {
        name: np.stack([_hourly(rows, variable, len(ids), counter) for variable in variables], axis=2)
        for name, variables in VARIABLES.items()
    }
    letters, per_set = np.unique(np.array(found.sets), return_counts=True)
    tally = Tally(
        stays=dict(zip(letters.tolist(), per_set.tolist())),
        without_record=outcomes.n_others,
        rows=int(used.sum()),
        nameless=rows.n_nameless,
        empty=rows.n_empty,
        late=int(late.sum()),
        unknown={name: int(n) for name, n, odd in zip(rows.names, counts, strange) if n and odd},
        repaired=counter.repaired,
        out_of_range=counter.out_of_range,
    )
    return Stays(ids, np.array(found.sets), descriptors, series, outcomes, tally)


class _Counter:
    """Counts what cleaning changed, by variable."""

    def __init__(self) -> None:
        self.repaired: dict[str, int] = {}
        self.out_of_range: dict[str, int] = {}

    def clean(self, variable: Variable, values: np.ndarray) -> np.ndarray:
        """Values with other units repaired and NaN where they are unknown or out of range."""
        cleaned = values.copy()
        for repair in variable.repairs:
            other = (values >= repair.low) & (values <= repair.high)
            cleaned[other] = repair.scale * values[other] + repair.offset
            self._add(self.repaired, variable, other)
        outside = (cleaned < variable.low) | (cleaned > variable.high)
        self._add(self.out_of_range, variable, outside & (values != -1))
        return np.where(outside, np.nan, cleaned)

    @staticmethod
    def _add(counts: dict[str, int], variable: Variable, which: np.ndarray) -> None:
        if which.any():
            counts[variable.name] = counts.get(variable.name, 0) + int(which.sum())


def _select(rows: Measurements, name: str) -> np.ndarray:
    if name not in rows.names:
        return np.zeros(0, np.int64)
    return np.flatnonzero((rows.parameter == rows.names.index(name)) & (rows.minute <= HOURS * 60))


def _admission(rows: Measurements, variable: Variable, n_stays: int, counter: _Counter) -> np.ndarray:
    """A descriptor: the value at 00:00, float32 (N,)."""
    chosen = _select(rows, variable.name)
    chosen = chosen[rows.minute[chosen] == 0][::-1]  # the first of several wins
    column = np.full(n_stays, np.nan)
    column[rows.stay[chosen]] = counter.clean(variable, rows.value[chosen])
    return column.astype(np.float32)


def _hourly(rows: Measurements, variable: Variable, n_stays: int, counter: _Counter) -> np.ndarray:
    """A variable's mean or sum in each hour, float32 (N, 48)."""
    chosen = _select(rows, variable.name)
    if variable.name in {descriptor.name for descriptor in DESCRIPTORS}:  # weight: that of 00:00 is a descriptor
        chosen = chosen[rows.minute[chosen] > 0]
    values = counter.clean(variable, rows.value[chosen])
    kept = ~np.isnan(values)
    hour = np.minimum(rows.minute[chosen[kept]] // 60, HOURS - 1)
    cell = rows.stay[chosen[kept]] * HOURS + hour
    sums = np.bincount(cell, weights=values[kept], minlength=n_stays * HOURS)
    counts = np.bincount(cell, minlength=n_stays * HOURS)
    divisor = np.minimum(counts, 1) if variable.added else counts
    grid = np.divide(sums, divisor, out=np.full(len(sums), np.nan), where=counts > 0)
    return grid.reshape(n_stays, HOURS).astype(np.float32)


def _descriptor(name: str) -> int:
    return [variable.name for variable in DESCRIPTORS].index(name)


def _strata(descriptors: np.ndarray) -> dict[str, np.ndarray]:
    """Extra columns of names, "unknown" where a descriptor is."""
    age, gender, kind = (descriptors[:, _descriptor(name)] for name in ("Age", "Gender", "ICUType"))
    edges = np.array([edge for edge, _ in _AGES])
    choices = {
        "age_group": (np.searchsorted(edges, np.nan_to_num(age), side="right"), [label for _, label in _AGES], age),
        "gender": (np.nan_to_num(gender).astype(int), ["female", "male"], gender),
        "icu_type": (np.nan_to_num(kind, nan=1.0).astype(int) - 1, list(_ICU_TYPES), kind),
    }
    return {
        name: np.where(np.isnan(known), "unknown", np.array(labels)[position])
        for name, (position, labels, known) in choices.items()
    }
