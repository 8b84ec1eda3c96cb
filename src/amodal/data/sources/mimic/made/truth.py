"""The planted truth of made data: patients, stays, what decides each outcome, and who lacks which modality.

Three hidden numbers of a stay are independent and standard normal:

| number | seen in |
| --- | --- |
| severity | vital signs and coma scale of the series, more so in the last 24 hours of those who die; triage |
| chest | the X-ray's opacity, the report's words; weakly in respiratory rate and oxygen pressure of the series |
| frailty | the words of notes and discharge summaries |

Death in hospital has the log-odds ``-2.2 + 1.2 severity + 0.8 chest + 0.8 frailty + 0.03 (age - 65)``; readmission
within 30 days of those who live ``-1.6 + 1.0 frailty``; the logarithm of the stay's hours is ``4.3 + 0.25 severity``
with a standard deviation of 0.6. An acute phenotype has the log-odds ``-1.6 + severity``, a respiratory one ``-1.6 +
1.5 chest``, others ``-1.6 + 0.04 (age - 65)``; a neoplasm ``-2.3 + 0.05 (age - 65)``: of static features only.

X-rays (with their reports) and notes are each absent from about 40 % of the stays: at random ("mcar"), depending on
age, which is always observed ("mar": log-odds ``-0.4 + 0.05 (age - 65)``), or on what they would have shown ("mnar":
``-0.4 - 1.0 chest`` and ``-0.4 - 1.0 frailty``: those of the healthy are absent). Stays in which the unit changes
exist, and are no samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Absence", "MadeStays", "make_stays"]

Absence = Literal["mcar", "mar", "mnar"]

_CHUNK = 500  # patients at a time
_BASE = np.datetime64("2130-01-01T00:00:00")


@dataclass(frozen=True)
class MadeStays:
    """Some stays, one an admission, with their truth; every attribute has the shape (N,).

    Attributes:
        patient: Number of the patient.
        admission: Number of the admission.
        stay: Number of the stay.
        age: In years.
        female: Sex.
        kind: 0 elective, 1 emergency, 2 urgent.
        transferred: Whether the unit changes, so that the stay is no sample.
        start: When the stay begins, datetime64[s]; the admission begins six hours earlier.
        hours: Length of the stay.
        died: Death in hospital, at the end of the stay.
        later_death: Days from discharge to a death afterwards; infinite if there is none.
        severity: Hidden.
        chest: Hidden.
        frailty: Hidden.
        death_probability: Of death in hospital.
        has_image: Whether there are X-rays and reports.
        has_notes: Whether there are notes.
    """

    patient: np.ndarray
    admission: np.ndarray
    stay: np.ndarray
    age: np.ndarray
    female: np.ndarray
    kind: np.ndarray
    transferred: np.ndarray
    start: np.ndarray
    hours: np.ndarray
    died: np.ndarray
    later_death: np.ndarray
    severity: np.ndarray
    chest: np.ndarray
    frailty: np.ndarray
    death_probability: np.ndarray
    has_image: np.ndarray
    has_notes: np.ndarray

    def __len__(self) -> int:
        return len(self.stay)

    @property
    def discharge(self) -> np.ndarray:
        """End of the admission: at death, or a day after the stay; datetime64[s]."""
        after = np.where(self.died, 0, 24 * 3600)
        return self.start + (self.hours * 3600 + after).astype("timedelta64[s]")


def make_stays(patients: int, *, absence: Absence = "mar", seed: int = 0) -> Iterator[MadeStays]:
    """The stays of made patients, some patients at a time; a patient has one or two admissions.

    Args:
        patients: How many.
        absence: Mechanism of absence of X-rays and notes; see above.
        seed: Decides everything; the first patients of a longer call are the same.
    """
    for first in range(0, patients, _CHUNK):
        generator = np.random.default_rng((seed, first))
        n = _CHUNK  # whole chunks are drawn, so that the first patients do not depend on how many there are
        age, female = generator.uniform(25, 95, n), generator.random(n) < 0.45
        start = _BASE + generator.integers(0, 3650 * 86400, n).astype("timedelta64[s]")
        number = 10_000_000 + first + np.arange(n)
        one = _stays(number, age, female, start, 0, absence, generator)
        back = ~one.died & (generator.random(n) < _odds(-1.6 + one.frailty))
        gap = generator.uniform(3, 28, n)
        later = ~one.died & ~back & (generator.random(n) < 0.1)
        gap = np.where(later, generator.uniform(60, 700, n), gap)
        again = one.discharge + (gap * 86400).astype("timedelta64[s]")
        two = _stays(number, age, female, again, 1, absence, generator)
        kept = np.arange(n) < patients - first
        second = kept & (back | later)
        lasting = np.where(second, np.inf, one.later_death)  # who comes back has not died in between
        yield MadeStays(
            *(
                np.concatenate([a[kept], b[second]])
                for a, b in zip((vars(one) | {"later_death": lasting}).values(), vars(two).values())
            )
        )


def _odds(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def _stays(
    patient: np.ndarray,
    age: np.ndarray,
    female: np.ndarray,
    start: np.ndarray,
    which: int,
    absence: Absence,
    generator: np.random.Generator,
) -> MadeStays:
    n = len(patient)
    severity, chest, frailty = generator.standard_normal((3, n))
    probability = _odds(-2.2 + 1.2 * severity + 0.8 * chest + 0.8 * frailty + 0.03 * (age - 65))
    died = generator.random(n) < probability
    hours = np.exp(4.3 + 0.25 * severity + 0.6 * generator.standard_normal(n)).clip(6, 600)
    later = np.where(generator.random(n) < _odds(-2.5 + 0.8 * frailty), generator.uniform(1, 400, n), np.inf)
    logit = {
        "mcar": np.full((2, n), -0.4),
        "mar": np.tile(-0.4 + 0.05 * (age - 65), (2, 1)),
        "mnar": -0.4 - np.stack([chest, frailty]),
    }[absence]
    lacks_image, lacks_notes = generator.random((2, n)) < _odds(logit)
    return MadeStays(
        patient=patient,
        admission=20_000_000 + 2 * (patient - 10_000_000) + which,
        stay=30_000_000 + 2 * (patient - 10_000_000) + which,
        age=age + 0.1 * which,
        female=female,
        kind=generator.integers(0, 3, n),
        transferred=generator.random(n) < 0.08,
        start=start.astype("datetime64[s]") + np.timedelta64(6, "h"),
        hours=hours,
        died=died,
        later_death=np.where(died, np.inf, later),
        severity=severity,
        chest=chest,
        frailty=frailty,
        death_probability=probability,
        has_image=~lacks_image,
        has_notes=~lacks_notes,
    )
