"""Made visits to the emergency department: most patients who were not planned came through it."""

from __future__ import annotations

from typing import Any

import numpy as np

from amodal.data.sources.mimic.made.truth import MadeStays

__all__ = ["emergency_tables"]

_COMPLAINTS = ("Chest pain", "Dyspnea", "Abd pain", "Altered mental status", "Fever", "s/p Fall", "Weakness")
_FIRST, _EVERY = 5.0, 1.0  # hours before the stay at which the visit begins, and between vital signs
_VITALS = (  # name, mean, by severity, by chest, noise, digits
    ("temperature", 98.4, 0.5, 0.2, 0.6, 1),
    ("heartrate", 88.0, 9.0, 0.0, 8.0, 0),
    ("resprate", 18.0, 2.0, 1.5, 2.0, 0),
    ("o2sat", 97.0, -1.0, -0.5, 1.0, 0),
    ("sbp", 128.0, -9.0, 0.0, 12.0, 0),
    ("dbp", 72.0, -5.0, 0.0, 8.0, 0),
)


def emergency_tables(stays: MadeStays, generator: np.random.Generator) -> dict[str, dict[str, Any]]:
    """The tables edstays, triage and vitalsign: columns by table.

    Nine of ten of those who were no elective admission have a visit that ends as the stay begins. What it measured
    shows severity and chest, with noise; acuity is 1 for the most severe quarter, and so on.

    Args:
        stays: The stays.
        generator: Decides who came, and the values.
    """
    row = np.flatnonzero((stays.kind != 0) & (generator.random(len(stays)) < 0.9))
    visit = stays.stay[row] + 9_000_000
    came = stays.start[row] - np.timedelta64(int(_FIRST * 60), "m")
    acuity = 4 - np.searchsorted([-0.67, 0.0, 0.67], stays.severity[row] + 0.5 * generator.standard_normal(len(row)))
    complaint = (2 * stays.chest[row] + generator.standard_normal(len(row)) + 3.5).clip(0, 6).astype(np.int64)
    pain = generator.integers(0, 11, len(row)).astype(str)
    pain[generator.random(len(row)) < 0.1] = "unable"  # upstream has words there, too
    ids = {"subject_id": stays.patient[row], "stay_id": visit}
    edstays = {"subject_id": stays.patient[row], "hadm_id": stays.admission[row], "stay_id": visit, "intime": came,
               "outtime": stays.start[row], "disposition": "ADMITTED"}  # fmt: skip
    triage = {**ids, **_measured(stays, row, generator), "pain": pain, "acuity": acuity,
              "chiefcomplaint": np.array(_COMPLAINTS)[complaint]}  # fmt: skip
    times = np.arange(0.5, _FIRST, _EVERY)
    again = np.repeat(np.arange(len(row)), len(times))
    moments = came[again] + np.tile((times * 60).astype(np.int64).astype("timedelta64[m]"), len(row))
    vitalsign = {"subject_id": stays.patient[row][again], "stay_id": visit[again], "charttime": moments}
    vitalsign |= _measured(stays, row[again], generator)
    return {"edstays": edstays, "triage": triage, "vitalsign": vitalsign}


def _measured(stays: MadeStays, row: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
    values = {}
    for name, mean, severity, chest, noise, digits in _VITALS:
        number = mean + severity * stays.severity[row] + chest * stays.chest[row]
        values[name] = np.round(number + noise * generator.standard_normal(len(row)), digits)
    return values
