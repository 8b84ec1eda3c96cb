"""The variables of the PhysioNet/CinC Challenge 2012: units, ranges, what to repair, and whose modality they are.

The ranges are those of a living adult and wide on purpose: extreme values are what the outcome depends on. A blood
pressure of 0 is a line that was flushed or disconnected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["DESCRIPTORS", "VARIABLES", "Repair", "Variable"]


class Repair(NamedTuple):
    """Values within [low, high] were in another unit: they become `scale` · value + `offset`."""

    low: float
    high: float
    scale: float
    offset: float = 0.0


@dataclass(frozen=True)
class Variable:
    """One upstream parameter.

    Attributes:
        name: Upstream's name.
        units: Units.
        low: Smallest value of a living adult.
        high: Largest one.
        repairs: What to do with values in another unit, before.
        added: Whether several values in an hour are added up, not averaged.
    """

    name: str
    units: str
    low: float
    high: float
    repairs: tuple[Repair, ...] = ()
    added: bool = False


_WEIGHT = Variable("Weight", "kg", 20, 350)

DESCRIPTORS: tuple[Variable, ...] = (
    Variable("Age", "years", 14, 120),
    Variable("Gender", "1 = male", 0, 1),
    Variable("Height", "cm", 110, 230, (Repair(300, 550, 1 / 2.54),)),
    Variable("ICUType", "", 1, 4),
    _WEIGHT,
)
"""What is known on admission; -1 = unknown."""

VARIABLES: dict[str, tuple[Variable, ...]] = {
    "vitals": (
        Variable("HR", "1/min", 10, 300),
        Variable("RespRate", "1/min", 1, 80),
        Variable("Temp", "degC", 22, 44, (Repair(72, 113, 1 / 1.8, -32 / 1.8), Repair(0.5, 6, 1.8, 32))),
        Variable("SysABP", "mmHg", 20, 300),
        Variable("DiasABP", "mmHg", 10, 200),
        Variable("MAP", "mmHg", 15, 250),
        Variable("NISysABP", "mmHg", 20, 300),
        Variable("NIDiasABP", "mmHg", 10, 200),
        Variable("NIMAP", "mmHg", 15, 250),
        Variable("GCS", "3-15", 3, 15),
        _WEIGHT,
    ),
    "blood_gas": (
        Variable("pH", "", 6.5, 8.0, (Repair(650, 800, 0.01), Repair(65, 80, 0.1))),
        Variable("PaCO2", "mmHg", 5, 200),
        Variable("PaO2", "mmHg", 10, 700),
        Variable("SaO2", "%", 20, 100),
        Variable("FiO2", "0.21-1", 0.2, 1.0, (Repair(20, 100, 0.01),)),
        Variable("Lactate", "mmol/L", 0.1, 40),
        Variable("MechVent", "1 = yes", 0, 1),
    ),
    "chemistry": (
        Variable("Na", "mEq/L", 80, 200),
        Variable("K", "mEq/L", 1, 15),
        Variable("Mg", "mmol/L", 0.2, 10),
        Variable("HCO3", "mmol/L", 2, 60),
        Variable("BUN", "mg/dL", 1, 300),
        Variable("Creatinine", "mg/dL", 0.1, 30),
        Variable("Glucose", "mg/dL", 10, 2000),
        Variable("Cholesterol", "mg/dL", 10, 1000),
    ),
    "haematology": (
        Variable("HCT", "%", 5, 75),
        Variable("Platelets", "10^3/uL", 1, 2000),
        Variable("WBC", "10^3/uL", 0.05, 500),
    ),
    "liver": (
        Variable("Albumin", "g/dL", 0.5, 7),
        Variable("ALP", "IU/L", 2, 5000),
        Variable("ALT", "IU/L", 1, 50000),
        Variable("AST", "IU/L", 1, 50000),
        Variable("Bilirubin", "mg/dL", 0.05, 100),
    ),
    "cardiac": (
        Variable("TroponinI", "ug/L", 0, 500),
        Variable("TroponinT", "ug/L", 0, 100),
    ),
    "urine": (Variable("Urine", "mL", 0, 5000, added=True),),
}
"""The variables of each series."""
