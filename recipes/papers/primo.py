"""PRIMO: table 2 on MIMIC-III in MultiBench's form, and where its other tables and figures are made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entry import CohortSpec, Entry, Rival, Setting

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


_MIMIC3 = "python recipes/mimic3.py --data COHORT"
ENTRIES = (
    Entry("primo", "table 1", "AV-MNIST", command="python recipes/avmnist.py"),
    Entry("primo", "table 2", "MIMIC-III: static features and 24 hours of a series",
          tuple(_setting(task) for task in _TASKS), favourite="primo", seeds=(0, 1, 2, 3, 4), encoders=encoders),
    Entry("primo", "figure 3", "XOR: accuracy and V", command="python recipes/xor.py"),
    Entry("primo", "figure 7", "plausible labels by age and condition", command=_MIMIC3),
    Entry("primo", "figure 8", "distributions of V", command=_MIMIC3),
    Entry("primo", "figure 9", "patients of largest and smallest V (also 13 to 15, --patients 12)", command=_MIMIC3),
    Entry("primo", "figure 10", "XOR: the predictions of the two oracles", command="python recipes/xor.py"),
)  # fmt: skip
