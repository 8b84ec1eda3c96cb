"""CEPA (Choi and Lee): tables 1 to 3 on MIMIC-IV with chest X-rays and texts, and where its figures are made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entry import CohortSpec, Entry, Rival, Script, Setting, recipe
from figures import degradation

from amodal.missingness import BalancedCounts

_CLINICAL = recipe("mimic4_cepa")
_NAMES = ("smil", "muse", "shaspec", "m3care", "drim", "dicmor", "fusemoe", "simmlm", "robult", "m3jepa")
_METRICS = {"mortality": ("auroc", "auprc"), "phenotyping": ("auroc", "auprc"), "length_of_stay": ("mae", "kappa")}
_PUBLISHED = "mimic4+cxr+text"
_NOTE = (
    "Texts are radiology reports; the paper's include discharge summaries, which tell the outcome. Training rows lose "
    "none, one or two modalities, each as often in a batch; test rows one or two, each half of them."
)


def encoders(kinds: Mapping[str, str], networks: Path | None) -> dict[str, Any]:
    """The paper's encoders: hub names, or folders siglip2 and cxr-bert in `networks`."""
    names = (_CLINICAL.CXR_MODEL, _CLINICAL.TXT_MODEL)
    if networks is not None:
        names = (str(networks / "siglip2"), str(networks / "cxr-bert"))
    text = next(name for name, kind in kinds.items() if kind == "text")
    return _CLINICAL.encoders(*names, name=text, max_tokens=512)


def _setting(task: str, rivals: Mapping[str, Rival], published: str) -> Setting:
    return Setting(
        title=task.replace("_", " "),
        cohort=CohortSpec("mimic4", task, "ehr,cxr,report", preset="cepa", pairing="matched", hours=48),
        published=(_PUBLISHED, task, published),
        rivals=rivals,
        metrics=_METRICS[task],
        settings={
            "optimiser": "adam", "learning_rate": _CLINICAL.LEARNING_RATES[task], "weight_decay": 0.0,
            "schedule": "constant", "warmup": 0.0, "batch_size": 16, "epochs": 100, "patience": 10, "clip": 1.0,
        },
        test=BalancedCounts(least=1, equal=True),
        impose=True,
        note=_NOTE,
    )  # fmt: skip


def _rivals(task: str) -> dict[str, Rival]:
    left_out = ("muse", "dicmor") if task == "length_of_stay" else ()  # as in the paper: they need classes
    rivals = {name: Rival(name, {"dropout": 0.3}, "thirds") for name in _NAMES if name not in left_out}
    return rivals | {"cepa": Rival("cepa", {"preset": "paper"}, "thirds")}


def _ablation(source: str, title: str, variants: Mapping[str, dict[str, Any]]) -> Entry:
    settings = tuple(
        _setting("mortality", {"cepa": Rival("cepa", {"preset": "paper", **options}, "thirds")}, published)
        for published, options in variants.items()
    )
    named = tuple(
        Setting(**{**vars(one), "title": f"mortality, {published.removeprefix('50% missing, ')}"})
        for one, published in zip(settings, variants)
    )
    return Entry("cepa", source, title, named, favourite="cepa", encoders=encoders)


ENTRIES = (
    Entry(
        "cepa",
        "table 1",
        "ten rivals on three clinical tasks at 50 % missing",
        tuple(_setting(task, _rivals(task), "50% missing") for task in _METRICS),
        favourite="cepa",
        encoders=encoders,
    ),
    _ablation(
        "table 2",
        "the parts of the objective",
        {
            "50% missing, obs": {"cross_weight": 0.0, "cf_weight": 0.0},
            "50% missing, obs+cross": {"cf_weight": 0.0},
            "50% missing, obs+cf": {"cross_weight": 0.0},
            "50% missing, obs+cross+cf": {},
        },
    ),
    _ablation(
        "table 3",
        "what is hidden",
        {
            "50% missing, no masking": {"masking": "none"},
            "50% missing, random masking": {"masking": "random"},
            "50% missing, block masking": {"masking": "block"},
            "50% missing, cross-modal masking": {},
        },
    ),
    Entry(
        "cepa",
        "figure 2",
        "the ring: how latents are predicted",
        scripts=(
            Script(
                "ring",
                (),
                (
                    "--points",
                    '{"n_train": 300, "n_valid": 50, "n_test": 60}',
                    "--draws",
                    "2",
                    "--strategies",
                    "cf",
                    "mse",
                    "cf, moving weights",
                ),
                {
                    "2a-correlation.svg": "(a) Correlation of the sensors' readings.",
                    "2b-diversity.svg": "(b) Diversity of contexts with and without the stop-gradient.",
                    "2c-maps.svg": "(c) Decisions over the plane by strategy and number of sensors.",
                    "accuracy.svg": "Accuracy by the number of sensors; the paper gives none.",
                    "differences.csv": "Paired differences of accuracy to cf and to the optimum",
                },
            ),
        ),
        seeds=(0, 1, 2, 3, 4),
    ),
    Entry(
        "cepa",
        "figure 3",
        "degradation from 0 to 90 % missing",
        tuple(_setting(task, _rivals(task), "") for task in _METRICS),
        favourite="cepa",
        encoders=encoders,
        draw=degradation,
        note="The paper prints curves only, and does not say of what its ratio is: with one of three modalities kept, "
        "no more than two thirds of the entries can be absent. Both readings that reach 90 % are drawn.",
    ),
)
