"""A made hospital extract as it leaves a German clinic: semicolons, decimal commas, units in cells, dd.mm.yyyy, several visits, images.

`python tests/data/table/hospital.py FOLDER [plain]` writes it; `plain` writes the same with points, ISO dates and commas.
"""  # noqa: E501

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

VITALS = {"Herzfrequenz": ("1/min", 82, 14, 0), "Temperatur": ("°C", 37.1, 0.6, 1), "RR syst": ("mmHg", 126, 18, 0),
          "SpO2": ("%", 96, 2, 0), "Atemfrequenz": ("1/min", 17, 4, 0)}  # fmt: skip
DOSES = "Urin"


def write_extract(folder: Path, *, patients: int = 1500, events: int = 142_000, german: bool = True, seed: int = 0):
    """Writes faelle.csv, labor.csv, kurve.csv and bilder/; returns the numbers of visits and of repeated events."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    visits = [(p, v) for p in range(patients) for v in range(1 + (rng.random() < 0.45) + (rng.random() < 0.2))]
    died = rng.random(len(visits)) < 0.25
    number = _german if german else str
    start = np.datetime64("2024-01-01T00:00") + rng.integers(0, 500 * 24 * 60, len(visits)).astype("m8[m]")
    _cases(folder, rng, visits, died, start, german, number, _images(folder, visits, died, seed))
    _labs(folder, rng, visits, died, german, number)
    return len(visits), _events(folder, rng, visits, died, start, events, german, number)


def _images(folder, visits, died, seed):
    """Chest films of some visits, up to three each; the cell of every visit, with names parted by bars."""
    rng, cells = np.random.default_rng(seed + 1), []
    (folder / "bilder").mkdir(exist_ok=True)
    for i in range(len(visits)):
        names = [
            f"{100000 + i:08d}_{k + 1}.png" for k in range(int(rng.choice([0, 1, 2, 3], p=[0.6, 0.25, 0.1, 0.05])))
        ]
        for name in names:
            film = rng.normal(90 + 40 * died[i], 30, (40, 32)).clip(0, 255).astype(np.uint8)
            Image.fromarray(film).save(folder / "bilder" / name, compress_level=1)
        cells.append("|".join(name.upper() if rng.random() < 0.02 else name for name in names))
    return cells


def _cases(folder, rng, visits, died, start, german, number, images):
    rows = []
    for i, (p, _) in enumerate(visits):
        complaint = "Dyspnoe" if died[i] else "Brustschmerz"
        note = f'Patient kommt mit {rng.choice([complaint, "Schwindel"])}; bekannte Hypertonie, "stabil".\nVerlegung.'
        rows.append([
            f"{100000 + i:08d}", f"{p:06d}", _moment(start[i], german), f"{int(rng.integers(18, 96))} J",
            rng.choice(["m", "w", "W", "m "]),
            number(round(float(rng.normal(78, 15)), 1)) if rng.random() < 0.9 else "",
            note if rng.random() < 0.8 else "", images[i], "ja" if died[i] else "nein",
        ])  # fmt: skip
    head = [
        "Fallnummer",
        "Patientennummer",
        "Aufnahme",
        "Alter",
        "Geschlecht",
        "Gewicht [kg]",
        "Notiz",
        "Röntgen",
        "verstorben",
    ]
    _write(folder / "faelle.csv", head, rows, german, blank=True)


def _labs(folder, rng, visits, died, german, number):
    rows = []
    for i in range(len(visits)):
        if rng.random() < 0.15:
            continue
        crp = float(rng.gamma(2, 20)) * (1.6 if died[i] else 1)
        tiny = rng.random()
        rows.append([
            f"{100000 + i:08d}",
            "<0,5" if tiny < 0.05 else ">300" if tiny > 0.98 else number(round(crp, 1)),
            number(round(float(rng.normal(4.2, 0.5)), 2)) + " mmol/l",
            _grouped(int(rng.normal(240_000, 60_000)), german) if rng.random() < 0.95 else "n.b.",
            number(round(float(rng.normal(13, 2)), 1)) if rng.random() < 0.9 else "",
            number(round(float(rng.normal(1.1, 0.4)), 2)) if rng.random() < 0.9 else "hämolytisch",
        ])  # fmt: skip
    _write(folder / "labor.csv", ["Fall", "CRP [mg/l]", "Kalium", "Thrombozyten", "Hb", "Kreatinin"], rows, german)


def _events(folder, rng, visits, died, start, events, german, number):
    names = [*VITALS, DOSES]
    cases = rng.integers(0, len(visits), events)
    which = rng.integers(0, len(names), events)
    minutes = rng.integers(0, 66 * 60, events)
    noise = rng.normal(size=events)
    rows = []
    for case, k, minute, z in zip(cases, which, minutes, noise):
        if names[k] == DOSES:
            units, value = "ml", str(int(50 + 10 * abs(z)))
        else:
            units, middle, spread, digits = VITALS[names[k]]
            value = middle + spread * z + (spread if died[case] and names[k] == "Herzfrequenz" else 0)
            value = min(value, 100.0) if units == "%" else value
            if units == "°C" and minute % 7 == 0:
                units, value = "°F", value * 9 / 5 + 32
            value = number(round(float(value), digits)) if digits else str(round(value))
        rows.append([f"{100000 + case:08d}", _moment(start[case] + np.timedelta64(int(minute), "m"), german),
                     names[k], value, units])  # fmt: skip
    twice = rng.choice(events, events // 100, replace=False)
    rows += [rows[i] for i in twice]
    _write(folder / "kurve.csv", ["Fallnummer", "Zeitpunkt", "Größe", "Wert", "Einheit"], rows, german)
    return len({tuple(row) for row in (rows[i] for i in twice)})


def _german(number: float | int) -> str:
    return str(number).replace(".", ",")


def _grouped(number: int, german: bool) -> str:
    return f"{number:,}".replace(",", ".") if german else str(number)


def _moment(moment: np.datetime64, german: bool) -> str:
    when = moment.astype("M8[m]").item()
    return when.strftime("%d.%m.%Y %H:%M" if german else "%Y-%m-%d %H:%M")


def _write(path: Path, head: list[str], rows: list[list[str]], german: bool, blank: bool = False) -> None:
    with open(path, "w", encoding="utf-8-sig" if german else "utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=";" if german else ",", lineterminator="\r\n" if german else "\n")
        writer.writerows([head, *rows, *([[""] * len(head)] if blank and german else [])])


if __name__ == "__main__":
    print(write_extract(Path(sys.argv[1]), german="plain" not in sys.argv[2:]))
