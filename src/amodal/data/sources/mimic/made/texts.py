"""Made notes, reports and X-rays of a stay: what they show is the truth with noise."""

from __future__ import annotations

import numpy as np

__all__ = ["discharge_text", "draw_xray", "note_text", "report_text"]

_FRAIL = (
    "walks without help, eats well, alert and independent.",
    "walks with one person, appetite fair, awake and oriented.",
    "needs help to sit up, eats little, tires quickly.",
    "frail and cachectic, bedbound, does not eat, skin breakdown noted.",
)
_CHEST = (
    "The lungs are clear. No effusion.",
    "Minor basal atelectasis. No consolidation.",
    "Patchy opacity at the right base, small effusion.",
    "Extensive bilateral opacities with moderate effusions and edema.",
)
_CARE = ("Line changed.", "Family at the bedside.", "Turned every two hours.", "Labs drawn.", "Dressing dry.", "")
_SIDE = 256


def note_text(frailty: float, generator: np.random.Generator) -> str:
    """A nursing note."""
    care = _CARE[int(generator.integers(len(_CARE)))]
    found = _level(_FRAIL, frailty, generator)
    return f"Nursing note [**Hospital 3**]\nPatient {found} {care}\nElectronically signed by X"


def report_text(chest: float, generator: np.random.Generator) -> str:
    """A radiology report in sections."""
    found = _level(_CHEST, chest, generator)
    return (
        "                                 FINAL REPORT\n EXAMINATION: CHEST (PORTABLE AP)\n\n COMPARISON: None.\n\n"
        f" FINDINGS: {found} Heart size is normal.\n\n IMPRESSION: {found}\n"
    )


def discharge_text(frailty: float, died: bool, generator: np.random.Generator) -> str:
    """A discharge summary, which tells the outcome."""
    end = "The patient expired." if died else "Discharged home in stable condition."
    return f"Discharge summary\nHospital course: {_level(_FRAIL, frailty, generator)} {end}"


def draw_xray(chest: float, generator: np.random.Generator) -> np.ndarray:
    """A frontal chest image with opacities that grow with `chest`, uint8 (256, 256)."""
    y, x = np.mgrid[0:_SIDE, 0:_SIDE].astype(np.float32) / _SIDE - 0.5
    image = 170.0 - 120 * np.exp(-((((np.abs(x) - 0.2) / 0.14) ** 2 + (y / 0.32) ** 2) ** 2))
    size = 0.05 + 0.05 * max(0.0, chest + 1.5)
    for side in (-0.2, 0.2):
        shift = 0.03 * generator.standard_normal(2)
        blob = np.exp(-((x - side - shift[0]) ** 2 + (y - 0.12 - shift[1]) ** 2) / (2 * size**2))
        image += (18 + 22 * max(0.0, chest + 1.0)) * blob
    image += 6 * generator.standard_normal((_SIDE, _SIDE)).astype(np.float32)
    return image.clip(0, 255).astype(np.uint8)


def _level(words: tuple[str, ...], value: float, generator: np.random.Generator) -> str:
    """One of four sentences: the one of a quarter of the values, one in six times a neighbouring one."""
    place = int(np.searchsorted([-0.67, 0.0, 0.67], value))
    if generator.random() < 1 / 6:
        place = min(3, max(0, place + int(generator.choice([-1, 1]))))
    return words[place]
