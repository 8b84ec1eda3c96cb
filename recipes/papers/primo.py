"""PRIMO: tables 1 and 2 and figures 3 to 15, on XOR, AV-MNIST and MIMIC-III in MultiBench's form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entry import CohortSpec, Entry, Rival, Script, Setting

from amodal.missingness import MCAR

_TASKS = {"mortality": "mortality", "icd9_1": "icd9_140_239", "icd9_7": "icd9_460_519"}
_RIVALS = {
    "unimodal": Rival("unimodal", {"modality": "static", "dropout": 0.0}, None),
    "multimodal": Rival("fusion", {"dropout": 0.0}, None, rows="complete"),
    "primo": Rival("primo", {"preset": "paper", "always_observed": ["static"]}, None),
}


def encoders(kinds: Mapping[str, str], networks: Path | None) -> dict[str, Any]:
    """A two-layer perceptron and a GRU."""
    return {"static": {"name": "mlp"}, "series": {"name": "gru"}}


def _setting(task: str) -> Setting:
    return Setting(
        title=_TASKS[task],
        cohort=CohortSpec("mimic3", task, preset="multibench"),
        published=("mimic3", _TASKS[task], ""),
        rivals=_RIVALS,
        metrics=("accuracy",),
        settings={"epochs": 30, "batch_size": 128, "learning_rate": 5e-4, "patience": None},
        train=MCAR({"static": 0.0, "series": 0.5}),
        conditions={
            "time series missing": ("static", ("unimodal", "primo")),
            "complete": ("static+series", ("multimodal", "primo")),
        },
        note="Half of the training series are withheld. Accuracy at the majority's rate says nothing: read AUROC.",
    )


_AVMNIST = CohortSpec("avmnist")
_AVMNIST_RIVALS = {
    "multimodal": Rival("i2m2", {"dropout": 0.0}, None, rows="complete"),
    "primo": Rival("primo", {"preset": "paper"}, None),
}


def _avmnist(absent: str, other: str) -> Setting:
    """Table 1: one of the two modalities is missing for half of the training cases."""
    rivals = {"unimodal": Rival("unimodal", {"modality": other, "dropout": 0.0}, None), **_AVMNIST_RIVALS}
    options = {**rivals["primo"].options, "always_observed": [other]}
    return Setting(
        title=f"{absent} may be missing",
        cohort=_AVMNIST,
        published=("avmnist", "digit", ""),
        rivals=rivals | {"primo": Rival("primo", options, None)},
        metrics=("accuracy",),
        settings={"epochs": 30, "batch_size": 128, "learning_rate": 5e-4, "patience": None},
        train=MCAR({absent: 0.5, other: 0.0}),
        conditions={
            f"{absent} missing": (other, ("unimodal", "primo")),
            f"complete, {absent} maskable": ("vision+audio", ("multimodal", "primo")),
        },
        note="AV-MNIST is made anew from MNIST, FSDD and ESC-50: the paper gives no amount of noise or degradation.",
    )


def _avmnist_script(words: tuple[str, ...], files: Mapping[str, str]) -> Script:
    small = ("--limit", "200", "--cases", "20", "--draws", "20")
    return Script("avmnist", ("--data", "{cohort}", *words), small, files, cohort=_AVMNIST)


def _xor(words: tuple[str, ...], files: Mapping[str, str]) -> Script:
    return Script("xor", words, ("--points", "600", "--draws", "20"), files)


def _mimic3(file: str, said: Mapping[str, str], *words: str) -> tuple[Script, ...]:
    """The recipe of MIMIC-III for some tasks, of each one picture."""
    return tuple(
        Script("mimic3", ("--data", "{cohort}", *words), ("--draws", "20"), {file: text},
               cohort=CohortSpec("mimic3", task, preset="multibench"))
        for task, text in said.items()
    )  # fmt: skip


_NAMED = {"mortality": "Mortality", "icd9_1": "ICD-9 140-239 (neoplasms)", "icd9_7": "ICD-9 460-519 (respiratory)"}
_PATIENTS = "patients of largest (above) and smallest V, series missing"
_MANY = ("--patients", "12")
_V = "V missing and complete; the paper's mean, missing, is"
_EACH = {task: f"{name}: {_PATIENTS}." for task, name in _NAMED.items()}
_AUDIO, _VISION = ("--absent", "audio"), ("--absent", "vision")
_SEEDS = (0, 1, 2, 3, 4)


def _figure(number: int, title: str, scripts: tuple[Script, ...], note: str = "") -> Entry:
    return Entry("primo", f"figure {number}", title, scripts=scripts, favourite="primo", seeds=_SEEDS, note=note)


ENTRIES = (
    Entry("primo", "table 1", "AV-MNIST", (_avmnist("audio", "vision"), _avmnist("vision", "audio")),
          favourite="primo", seeds=(0, 1, 2)),
    Entry("primo", "table 2", "MIMIC-III: static features and 24 hours of a series",
          tuple(_setting(task) for task in _TASKS), favourite="primo", seeds=_SEEDS, encoders=encoders),
    _figure(3, "XOR: accuracy, and V missing less V complete",
            (_xor((), {"figure3.svg": "Accuracy, and the gap of V of each case."}),)),
    _figure(4, "AV-MNIST: distribution of V, audio missing",
            (_avmnist_script(_AUDIO, {"variability.png": f"{_V} 0.37."}),)),
    _figure(5, "AV-MNIST: distribution of V, vision missing",
            (_avmnist_script(_VISION, {"variability.png": f"{_V} 0.57."}),)),
    _figure(6, "AV-MNIST: cases of largest and smallest V", (
        _avmnist_script(_AUDIO, {"figure6-audio.png": "Audio missing."}),
        _avmnist_script(_VISION, {"figure6-vision.png": "Vision missing."}),
    )),
    _figure(7, "MIMIC-III: plausible labels by age and by chronic condition", _mimic3("figure7.svg", {
        "mortality": "Mortality by age (left) and by condition (right).", "icd9_1": "Neoplasms, alike.",
    })),
    _figure(8, "MIMIC-III: distributions of V, series missing and complete", _mimic3("figure8.svg", _NAMED)),
    _figure(9, "MIMIC-III: single patients", _mimic3("figure9.svg", _EACH)),
    _figure(10, "AV-MNIST: distances to the oracles' predictions, vision missing",
            (_avmnist_script((*_VISION, "--bias", "primo, paper"), {
                "bias.csv": "Mean total variation distance between predictions, and of two seeds of an oracle"}),)),
    _figure(11, "XOR: predictions under missing and complete modalities",
            (_xor((), {"figure11.svg": "A column a method; above x_m missing, below complete."}),)),
    _figure(12, "XOR: latents by method", (_xor((), {"figure12.svg": "Latents; above x_m missing, below complete."}),)),
    *(
        _figure(number, f"MIMIC-III: single patients, {_NAMED[task]}",
                _mimic3("figure9.svg", {task: _EACH[task]}, *_MANY))
        for number, task in ((13, "mortality"), (14, "icd9_1"), (15, "icd9_7"))
    ),
)  # fmt: skip
