"""Splits of MIMIC's stays by patient: by published lists, or drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from amodal.data.split import split_groups
from amodal.errors import ConfigurationError, DataError

__all__ = ["FRACTIONS", "assign_splits", "split_patients"]

FRACTIONS = {
    "mimic3": {"train": 0.7, "valid": 0.15, "test": 0.15},
    "mimic4": {"train": 0.72, "valid": 0.08, "test": 0.2},
}
"""Shares of the patients in each split, of each database, as in the benchmark and in MedFuse."""


def split_patients(
    patients: np.ndarray,
    labels: np.ndarray,
    fractions: Mapping[str, float],
    *,
    test: str | Path | None = None,
    valid: str | Path | None = None,
    seed: int = 0,
) -> np.ndarray:
    """The split of each row: by the lists that are given, the rest drawn by patient.

    Args:
        patients: Number of the patient, int64, of shape (N,).
        labels: What drawn splits are balanced by, of shape (N,).
        fractions: Share of each drawn split.
        test: File of test patients: a number a line, or "number,0 or 1", where 0 means not in the split.
        valid: The same for validation; with `test` alone it is drawn from the other patients.
        seed: Seed of what is drawn.

    Returns:
        "test", "valid" or "train", str, of shape (N,).

    Raises:
        ConfigurationError: If only a list of validation patients is given.
        DataError: If a file is missing, has a line that is no patient, or a patient is in both.
    """
    if test is None and valid is not None:
        raise ConfigurationError("a list of validation patients needs one of test patients", hint="Give both.")
    if test is None:
        return split_groups(patients.astype(str), labels, fractions, seed=seed)
    if valid is not None:
        return assign_splits(patients, test, valid)
    splits = np.full(len(patients), "test", dtype="<U5")
    rest = ~np.isin(patients, list(_read_list(Path(test))))
    shares = {name: fractions[name] for name in ("train", "valid")}
    shares = {name: share / sum(shares.values()) for name, share in shares.items()}
    splits[rest] = split_groups(patients[rest].astype(str), labels[rest], shares, seed=seed)
    return splits


def assign_splits(patients: np.ndarray, test: str | Path, valid: str | Path) -> np.ndarray:
    """The split of each row by lists of patients; see `split_patients`.

    Raises:
        DataError: If a file is missing, has a line that is no patient, or a patient is in both.
    """
    listed = {name: _read_list(Path(file)) for name, file in (("test", test), ("valid", valid))}
    both = listed["test"] & listed["valid"]
    if both:
        raise DataError(f"{len(both)} patients are in both {test} and {valid}", got=sorted(both)[:3])
    splits = np.full(len(patients), "train", dtype="<U5")
    for name, numbers in listed.items():
        splits[np.isin(patients, list(numbers))] = name
    return splits


def _read_list(file: Path) -> set[int]:
    if not file.is_file():
        raise DataError(f"the list of patients is missing: {file}")
    found = set()
    for place, line in enumerate(file.read_text(encoding="utf-8").split(), start=1):
        number, _, flag = line.partition(",")
        if not number.isdecimal() or flag not in ("", "0", "1"):
            raise DataError(f"line {place} of {file} is no patient", expected='"number" or "number,0 or 1"', got=line)
        if flag != "0":
            found.add(int(number))
    return found
