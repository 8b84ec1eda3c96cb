"""Functions that compute cells, where other processes can import them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from amodal.benchmark import Cell, fit_cell
from amodal.data import Cohort
from amodal.errors import DataError

COUNT = Path("computed")


def doubled(cell: Cell, cohort: Cohort | None, folder: Path) -> dict:
    """Twice the number, with one finding of every form."""
    with COUNT.open("a") as file:
        file.write(f"{os.getpid()}\n")
    (folder / "note.txt").write_text("made here")
    number = cell["number"]
    frame = pd.DataFrame({"id": ["a", "b"], "value": [number, 2 * number]})
    return {
        "twice": np.float64(2 * number),
        "nested": {1: [np.int64(3), float("nan")]},
        "values": np.arange(number),
        "table": frame,
        "note": folder / "note.txt",
        "rows": None if cohort is None else len(cohort),
    }


def mean_of(cell: Cell, cohort: Cohort, folder: Path) -> dict:
    return {"mean": float(cohort.batch(np.arange(len(cohort))).values["a"].mean())}


def failing(cell: Cell, cohort: Cohort | None, folder: Path) -> dict:
    if cell["number"] == 2:
        raise DataError("there is no two", got=2)
    return {"number": cell["number"]}


def dying(cell: Cell, cohort: Cohort | None, folder: Path) -> dict:
    if (folder / "before").is_file():
        return {"number": cell["number"]}
    (folder / "before").write_text("")
    raise KeyboardInterrupt


def other(cell: Cell, cohort: Cohort, folder: Path) -> dict:
    return {"other": True}


def trained(cell: Cell, cohort: Cohort, folder: Path) -> dict:
    return {"settings": fit_cell(cell, cohort, cohort, missingness=None).experiment["training"]}
