"""The 17 variables of the MIMIC benchmark as CM2 uses them: items, categories, normal values, and the 76 columns.

Items, categories, their order, and normal values are those of CM2's released MIMIC-IV configuration, which has
MIMIC-III's items (CareVue) too. There are no ranges of possible values: the released pipeline has a table of them and
does not use it. The item list mixes fluids (pH of urine, 51491 and 51094, and of other fluids, 50831; glucose of urine,
51478); they are kept, so that figures can be compared. Capillary refill and the total of the coma scale have CareVue
items only, so that in MIMIC-IV both stay at their normal value throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["COLUMNS", "VARIABLES", "ClinicalVariable", "encode_bins", "ordinal_codes"]


class ClinicalVariable(NamedTuple):
    """One variable.

    Attributes:
        name: Its name.
        normal: Its value before it is first measured: a number, or one of the categories.
        items: Numbers in the tables of charted and laboratory events.
        units: Units of the values after cleaning.
        categories: Its categories, in the order of their columns; none for a number.
    """

    name: str
    normal: float | str
    items: tuple[int, ...]
    units: str = ""
    categories: tuple[str, ...] = ()


_EYE = ("To Pain", "3 To speech", "1 No Response", "4 Spontaneously", "None", "To Speech", "Spontaneously", "2 To pain")
_MOTOR = (
    "1 No Response", "3 Abnorm flexion", "Abnormal extension", "No response", "4 Flex-withdraws", "Localizes Pain",
    "Flex-withdraws", "Obeys Commands", "Abnormal Flexion", "6 Obeys Commands", "5 Localizes Pain", "2 Abnorm extensn",
)  # fmt: skip
_VERBAL = (
    "1 No Response", "No Response", "Confused", "Inappropriate Words", "Oriented", "No Response-ETT", "5 Oriented",
    "Incomprehensible sounds", "1.0 ET/Trach", "4 Confused", "2 Incomp sounds", "3 Inapprop words",
)  # fmt: skip
_TOTAL = ("11", "10", "13", "12", "15", "14", "3", "5", "4", "7", "6", "9", "8")

VARIABLES = (
    ClinicalVariable("Capillary refill rate", "0.0", (3348, 115, 8377), categories=("0.0", "1.0")),
    ClinicalVariable(
        "Diastolic blood pressure",
        59.0,
        (8368, 220051, 225310, 8555, 8441, 220180, 8502, 8440, 8503, 8504, 8507, 8506, 224643),
        "mmHg",
    ),
    ClinicalVariable("Fraction inspired oxygen", 0.21, (3420, 223835, 3422, 189, 727), "fraction"),
    ClinicalVariable("GCS eye opening", "4 Spontaneously", (184, 220739), categories=_EYE),
    ClinicalVariable("GCS motor response", "6 Obeys Commands", (454, 223901), categories=_MOTOR),
    ClinicalVariable("GCS total", "15", (198,), categories=_TOTAL),
    ClinicalVariable("GCS verbal response", "5 Oriented", (723, 223900), categories=_VERBAL),
    ClinicalVariable("Glucose", 128.0, (50931, 807, 811, 1529, 50809, 51478, 3745, 225664, 220621, 226537), "mg/dL"),
    ClinicalVariable("Heart rate", 86.0, (211, 220045), "1/min"),
    ClinicalVariable("Height", 170.0, (226707, 226730, 1394), "cm"),
    ClinicalVariable(
        "Mean blood pressure",
        77.0,
        (52, 220052, 225312, 224, 6702, 224322, 456, 220181, 3312, 3314, 3316, 3322, 3320),
        "mmHg",
    ),
    ClinicalVariable("Oxygen saturation", 98.0, (834, 50817, 8498, 220227, 646, 220277), "%"),
    ClinicalVariable("Respiratory rate", 19.0, (618, 220210, 3603, 224689, 614, 651, 224422, 615, 224690), "1/min"),
    ClinicalVariable(
        "Systolic blood pressure",
        118.0,
        (51, 220050, 225309, 6701, 455, 220179, 3313, 3315, 442, 3317, 3323, 3321, 224167, 227243),
        "mmHg",
    ),
    ClinicalVariable("Temperature", 36.6, (3655, 677, 676, 223762, 3654, 678, 223761, 679), "degC"),
    ClinicalVariable("Weight", 81.0, (763, 224639, 226512, 3580, 3693, 3581, 226531, 3582), "kg"),
    ClinicalVariable(
        "pH",
        7.4,
        (50820, 51491, 3839, 1673, 50831, 51094, 780, 1126, 223830, 4753, 4202, 860, 220274),
        "",
    ),
)
"""The variables, in the order of their columns."""

_WORDS = {
    "None": 0, "To Pain": 2, "To Speech": 3, "Spontaneously": 4, "No response": 1, "Abnormal extension": 2,
    "Abnormal Flexion": 3, "Flex-withdraws": 4, "Localizes Pain": 5, "Obeys Commands": 6, "No Response": 1,
    "No Response-ETT": 1, "Incomprehensible sounds": 2, "Inappropriate Words": 3, "Confused": 4, "Oriented": 5,
}  # fmt: skip

COLUMNS: tuple[str, ...] = (
    *(f"{v.name}: {c}" if c else v.name for v in VARIABLES for c in (v.categories or ("",))),
    *(f"{v.name} measured" for v in VARIABLES),
)
"""Names of the 76 columns: 47 of categories and 12 of numbers, variable by variable, then 17 indicators."""


def encode_bins(
    row: np.ndarray, time_bin: np.ndarray, variable: np.ndarray, value: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """One value a variable and bin to the benchmark's 76 columns.

    What is not measured in a bin has the value of the bin before, and the normal value before the first one. The
    indicators tell what was measured in this bin.

    Args:
        row: Row of each value, int64, of shape (R,); at most one for each row, bin and variable.
        time_bin: Its bin, int64, of shape (R,).
        variable: Its position in `VARIABLES`, int64, of shape (R,).
        value: The number, or the position of the category, float64, of shape (R,).
        shape: Numbers of rows N and of bins T.

    Returns:
        float32, of shape (N, T, 76), not standardised.

    Example:
        >>> found = encode_bins(np.array([0]), np.array([1]), np.array([8]), np.array([100.0]), (1, 3))
        >>> [found[0, :, COLUMNS.index(name)].tolist() for name in ("Heart rate", "Heart rate measured")]
        [[86.0, 100.0, 100.0], [0.0, 1.0, 0.0]]
    """
    n, bins = shape
    grid = np.full((n, bins, len(VARIABLES)), np.nan, np.float32)
    grid[row, time_bin, variable] = value
    known = ~np.isnan(grid)
    last = np.maximum.accumulate(np.where(known, np.arange(bins)[:, None], -1), axis=1)  # (N, T, V)
    filled = np.take_along_axis(grid, np.maximum(last, 0), axis=1)
    out = np.zeros((n, bins, len(COLUMNS)), np.float32)
    start = 0
    for v, what in enumerate(VARIABLES):
        normal = what.categories.index(str(what.normal)) if what.categories else float(what.normal)
        column = np.where(last[..., v] < 0, np.float32(normal), filled[..., v])
        width = len(what.categories) or 1
        if what.categories:
            out[..., start : start + width] = column[..., None] == np.arange(width)
        else:
            out[..., start] = column
        start += width
    out[..., start:] = known
    return out


def ordinal_codes() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function that gives categories their points of the scale, and leaves numbers as they are.

    Example:
        >>> place = [v.name for v in VARIABLES].index("GCS verbal response")
        >>> words = VARIABLES[place].categories.index("Confused"), VARIABLES[place].categories.index("1.0 ET/Trach")
        >>> ordinal_codes()(np.array([place, place, 8]), np.array([*words, 72.5])).tolist()
        [4.0, 1.0, 72.5]
    """
    widest = max(len(v.categories) for v in VARIABLES)
    table = np.full((len(VARIABLES), widest), np.nan)
    for place, variable in enumerate(VARIABLES):
        for code, word in enumerate(variable.categories):
            table[place, code] = _WORDS[word] if word in _WORDS else float(word.split(" ")[0])
    categorical = np.array([bool(v.categories) for v in VARIABLES])

    def codes(variable: np.ndarray, value: np.ndarray) -> np.ndarray:
        is_code = categorical[variable]
        return np.where(is_code, table[variable, np.where(is_code, value, 0).astype(np.int64)], value)

    return codes
