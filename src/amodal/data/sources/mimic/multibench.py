r"""MIMIC-III in MultiBench's form: five static features and 24 hours of twelve variables; from the tables, or its file.

**static** (a table): age in days, AIDS, haematologic malignancy, metastatic cancer, kind of admission (0 medical,
1 scheduled surgical, 2 unscheduled surgical). **series** (24, 12): coma scale, systolic pressure, heart rate,
temperature, PaO2/FiO2, urine, urea nitrogen, white cells, bicarbonate, sodium, potassium, bilirubin.

**Hours** are counted from an admission's first measurement, over its whole length: values in an hour are averaged; gaps
are filled forwards, then backwards, but for urine; what remains gets the admission's mean; a variable that was never
measured counts as not measured (MultiBench has 0 there, before standardising: ``zero_unmeasured=True``). PaO2/FiO2 is
of the filled series. The first 24 hours are kept, of admissions that last longer. :cite:`purushotham2018benchmarking`

Each patient has one admission, the first one in intensive care. The credentialed data are neither shipped nor fetched.
:cite:`johnson2016mimic,liang2021multibench`
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from amodal.data.cohort import Cohort
from amodal.data.folder import check_place
from amodal.data.sources.mimic.multibench_pickle import read_arrays
from amodal.data.sources.mimic.multibench_tables import (
    ICD9_GROUPS,
    RAW,
    Events,
    read_admissions,
    read_events,
    read_icd9,
)
from amodal.data.split import split_groups
from amodal.errors import DataError, UnknownNameError
from amodal.schema import Task

__all__ = ["HOURS", "SERIES", "STATIC", "TASKS", "Tensors", "fill_series", "mortality_classes", "prepare"]

HOURS = 24
"""Steps of the series."""

STATIC = (
    ("Age", "days"),
    ("AIDS", "1 = yes"),
    ("Haematologic malignancy", "1 = yes"),
    ("Metastatic cancer", "1 = yes"),
    ("Admission", "0 medical, 1 scheduled, 2 unscheduled surgery"),
)
"""Names and units of the static features."""

SERIES = (
    *((v.name, v.units) for v in RAW[:4]),
    ("PaO2/FiO2", "mmHg"),
    *((v.name, v.units) for v in RAW[6:]),
)
"""Names and units of the variables of the series."""

TASKS: dict[str, Task] = {
    "mortality": Task(
        "multiclass",
        name="mortality",
        classes=("survived a year", "died within 1 day", "2 days", "3 days", "30 days of leaving", "1 year of leaving"),
    ),
    **{
        f"icd9_{i}": Task("binary", name=f"icd9_{g if isinstance(g, str) else f'{g[0]}-{g[1]}'}", classes=("no", "yes"))
        for i, g in enumerate(ICD9_GROUPS)
    },
}
"""What can be predicted: when a patient died, or if a group of diagnoses was made (1: neoplasms, 7: respiratory)."""

_URINE, _PAO2, _FIO2 = 6, 4, 5


class Tensors(NamedTuple):
    """The content of MultiBench's file.

    Attributes:
        ids: Str, of shape (N,).
        static: float32, of shape (N, 5).
        series: float32, of shape (N, 24, 12); NaN = never measured in this admission.
        flags: Died in hospital, within 1, 2, 3 days, 30 days, a year; bool, of shape (N, 6).
        groups: Diagnoses by group, bool, of shape (N, G).
    """

    ids: np.ndarray
    static: np.ndarray
    series: np.ndarray
    flags: np.ndarray
    groups: np.ndarray


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    task: str = "mortality",
    split: Literal["stratified", "multibench"] = "stratified",
    zero_unmeasured: bool = False,
    seed: int = 0,
    fractions: Mapping[str, float] | None = None,
    overwrite: bool = False,
) -> Cohort:
    """Writes the cohort as a folder.

    Args:
        source: Folder of MIMIC-III's tables (.csv or .csv.gz), or MultiBench's `im.pk`, of which only arrays are read.
        out: Folder to write.
        task: "mortality", or "icd9_0" … "icd9_20".
        split: By label, or as MultiBench's loader splits rows: shuffled with Python's seed 10, the first tenth for
            validation, the next for testing.
        zero_unmeasured: Whether variables that were never measured are 0, as in MultiBench's loader.
        seed: Seed of the stratified split.
        fractions: Fraction of the rows for each split, if stratified; default 0.8 train, 0.1 valid, 0.1 test.
        overwrite: Replace a cohort that is there.

    Returns:
        The cohort, opened from the folder.

    Raises:
        DataError: If a table or the file is missing or cannot be read (the message names it), or `out` not be written.
        UnknownNameError: If task or split is not known.
    """
    if task not in TASKS:
        raise UnknownNameError("task of mimic3", task, TASKS)
    if split not in ("stratified", "multibench"):
        raise UnknownNameError("split of mimic3", split, ("stratified", "multibench"))
    check_place(Path(out), overwrite)
    source = Path(source)
    tensors = read_tables(source) if source.is_dir() else read_multibench(source)
    target = _target(tensors, task)
    if split == "multibench":
        splits = multibench_splits(len(target))
    else:
        fractions = fractions or {"train": 0.8, "valid": 0.1, "test": 0.1}
        splits = split_groups(tensors.ids, target, fractions, seed=seed)
    unmeasured = np.isnan(tensors.series)
    Cohort.from_arrays(
        {
            "static": tensors.static,
            "series": np.where(unmeasured, 0, tensors.series) if zero_unmeasured else tensors.series,
        },
        task=TASKS[task],
        target=target,
        ids=tensors.ids,
        splits=splits,
        observed=np.ones((len(target), 2), bool),
        features={"static": [name for name, _ in STATIC], "series": [name for name, _ in SERIES]},
        units={"static": [units for _, units in STATIC], "series": [units for _, units in SERIES]},
        name="mimic3",
        description=f"MIMIC-III, first admissions to intensive care, first {HOURS} h: {len(target)} admissions, "
        f"{unmeasured.all(1).mean():.0%} of variables never measured",
    ).save(out, overwrite=overwrite)
    return Cohort.open(out)


def read_tables(source: Path) -> Tensors:
    """Builds the arrays from MIMIC-III's tables.

    Raises:
        DataError: If a table is missing or cannot be read, or no admission lasts longer than 24 hours.
    """
    who, events = read_admissions(source), read_events(source)
    starts = np.searchsorted(events.admission, who.admission)
    ends = np.searchsorted(events.admission, who.admission, side="right")
    kept, series = [], []
    for row, (start, end) in enumerate(zip(starts, ends)):
        one = Events(*(column[start:end] for column in events))
        if len(one.minute) and one.minute[-1] - one.minute[0] > 60 * HOURS:
            kept.append(row)
            series.append(fill_series(one))
    if not kept:
        raise DataError(f"no admission in {source} has measurements over more than {HOURS} hours")
    rows = np.array(kept)
    conditions, groups = read_icd9(source, who.admission[rows])
    static = np.column_stack([who.age[rows], conditions, who.kind[rows]])
    return Tensors(
        who.admission[rows].astype(str), static.astype(np.float32), np.stack(series), who.flags[rows], groups
    )


def fill_series(events: Events) -> np.ndarray:
    """One admission's measurements as its first 24 hours of twelve variables, filled.

    Args:
        events: Its measurements, sorted by time.

    Returns:
        float32, of shape (24, 12); NaN where a variable was never measured.
    """
    hour = (events.minute - events.minute[0]) // 60
    cell = hour * len(RAW) + events.variable
    size = (int(hour[-1]) + 1) * len(RAW)
    counts = np.bincount(cell, minlength=size)
    sums = np.bincount(cell, weights=events.value, minlength=size)
    grid = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0).reshape(-1, len(RAW))
    for column in range(len(RAW)):
        grid[:, column] = _filled(grid[:, column], carry=column != _URINE)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = grid[:, _PAO2] / grid[:, _FIO2]
    grid[:, _PAO2] = _filled(np.where(np.isinf(ratio), np.nan, ratio), carry=True)
    return np.delete(grid, _FIO2, axis=1)[:HOURS].astype(np.float32)


def _filled(values: np.ndarray, *, carry: bool) -> np.ndarray:
    """A column (T,) filled forwards and backwards, if it may be carried, then with its mean; all NaN stays."""
    known = ~np.isnan(values)
    if not known.any():
        return values
    if not carry:
        return np.where(known, values, values[known].mean())
    last = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    return values[np.where(last < 0, np.argmax(known), last)]


def read_multibench(path: Path) -> Tensors:
    """Reads MultiBench's `im.pk`, of which only arrays are accepted; see `amodal.data.sources.mimic.multibench_pickle`.

    Raises:
        DataError: If it is missing, truncated, holds anything but arrays, or lacks one of those needed.
    """
    arrays = read_arrays(path)
    shapes = {
        "ep_tdata": (-1, HOURS, len(SERIES)),
        "adm_features_all": (-1, len(STATIC)),
        "adm_labels_all": (-1, 6),
        "y_icd9": (-1, -1),
    }
    n = len(arrays["ep_tdata"]) if "ep_tdata" in arrays else 0
    for name, shape in shapes.items():
        if name not in arrays:
            raise DataError(f"{path} lacks the array {name!r}", expected=", ".join(shapes))
        wanted, got = (n, *shape[1:]), arrays[name].shape
        if len(got) != len(wanted) or any(w not in (-1, g) for w, g in zip(wanted, got)):
            raise DataError(f"array {name!r} in {path} does not fit", expected=wanted, got=got)
    series, static = (_finite_or_nan(arrays[name]) for name in ("ep_tdata", "adm_features_all"))
    return Tensors(
        np.array([f"row-{i:05d}" for i in range(n)]),
        np.nan_to_num(static, nan=0.0),
        series,
        arrays["adm_labels_all"] > 0,
        arrays["y_icd9"] > 0,
    )


def mortality_classes(flags: np.ndarray) -> np.ndarray:
    """The six classes of mortality: the first of the flags 1 … 5 that is set, or 0.

    Args:
        flags: Died in hospital, within 1, 2, 3 days, 30 days, a year; bool, of shape (N, 6). Left as they are.

    Returns:
        int64, of shape (N,).

    Example:
        >>> mortality_classes(np.array([[True, False, True, True, True, True], [False] * 6])).tolist()
        [2, 0]
    """
    later = flags[:, 1:]
    return np.where(later.any(1), later.argmax(1) + 1, 0).astype(np.int64)


def multibench_splits(n: int) -> np.ndarray:
    """The split of each row in MultiBench's loader, str (N,)."""
    order = list(range(n))
    random.Random(10).shuffle(order)
    splits = np.full(n, "train", dtype="<U5")
    splits[order[: n // 10]] = "valid"
    splits[order[n // 10 : n // 5]] = "test"
    return splits


def _target(tensors: Tensors, task: str) -> np.ndarray:
    if task == "mortality":
        return mortality_classes(tensors.flags)
    group = int(task.removeprefix("icd9_"))
    if group >= tensors.groups.shape[1]:
        raise DataError(f"the data have no labels of {task}", expected=f"up to icd9_{tensors.groups.shape[1] - 1}")
    return tensors.groups[:, group].astype(np.int64)


def _finite_or_nan(array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float32)
    return np.where(np.isfinite(array), array, np.float32(np.nan))
