"""CM2 (Wu et al.): tables 2 to 7 and 9 to 11 on MIMIC-III with notes and MIMIC-IV with X-rays, and figures 2 to 5."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from entry import CohortSpec, Entry, Rival, Setting, recipe
from figures import FAMILIES, components, copula_densities, copula_over_epochs, densities_by_epoch, t_tests

_CLINICAL = recipe("mimic_cm2")
_TASKS = {"mortality": "ihm", "readmission": "readmission"}
_PUBLISHED = {"ehr,notes": "mimic3+notes", "ehr,cxr": "mimic4+cxr", "ehr,cxr,report": "mimic4+cxr+report"}
_GRID = {"learning_rate": (1e-4, 5e-5, 1e-5), "dropout": (0.0, 0.1, 0.2, 0.3), "components": (1, 2, 3, 4, 5, 6),
         "w_alignment": (256e-5, 256 * 5e-6, 256e-6)}  # fmt: skip
_PAPER: dict[str, Any] = {"preset": "paper", "family": "frank", "dropout": 0.3}
_CM2 = Rival("cm2", _PAPER, None)
_RIVALS = {name: Rival(name, {"dropout": 0.3}, None) for name in ("mmtm", "daft", "unified", "medfuse", "drfuse")}
_LATER = {name: Rival(name, {"dropout": 0.3}, None) for name in ("lsmt", "interleaved")}


def encoders(
    kinds: Mapping[str, str], networks: Path | None, *, image: str = "resnet34", series: str = "plain_lstm"
) -> dict[str, Any]:
    """The paper's: a two-layer LSTM, ResNet-34 with initial weights, TinyBERT (folder tinybert in `networks`)."""
    text = _CLINICAL.TEXT_NETWORK if networks is None else str(networks / "tinybert")
    chosen = _CLINICAL.encoders(list(kinds), image, text, 512)
    if series != "plain_lstm":
        chosen["ehr"] = {"name": series, "layers": 2, "dropout": 0.3}
    return chosen


def _setting(
    task: str,
    modalities: str,
    pairing: str,
    rivals: Mapping[str, Rival],
    published: str,
    title: str = "",
    **backbone: str,
) -> Setting:
    database = "mimic3" if modalities == "ehr,notes" else "mimic4"
    small = database == "mimic3" or modalities.count(",") > 1
    return Setting(
        title=title or f"{_PUBLISHED[modalities]}, {task}, {pairing}",
        cohort=CohortSpec(database, task, modalities, preset="cm2", pairing=pairing),
        published=(_PUBLISHED[modalities], _TASKS[task], published),
        rivals=rivals,
        metrics=("auroc", "auprc"),
        settings={
            "optimiser": "adam", "learning_rate": 1e-4, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0,
            "batch_size": 16 if small else 32, "epochs": 100, "patience": 15, "clip": None,
        },
        backbone=backbone,
        note="Patience is by validation loss, the paper's by validation AUROC.",
    )  # fmt: skip


def _both(cohorts: tuple[str, ...], pairing: str, rivals: Mapping[str, Rival], published: str) -> tuple[Setting, ...]:
    return tuple(_setting(task, names, pairing, rivals, published) for names in cohorts for task in _TASKS)


def _variants(source: str, title: str, variants: Mapping[str, dict[str, Any]], note: str = "") -> Entry:
    """A table of variants of CM2 on MIMIC-IV with X-rays; keys are the published settings."""
    settings = tuple(
        _setting(
            task,
            "ehr,cxr",
            "matched" if published.startswith("totally") else "partial",
            {"cm2": Rival("cm2", _PAPER | options, None)},
            published,
            f"{task}, {published}",
        )
        for published, options in variants.items()
        for task in _TASKS
    )
    return Entry("cm2", source, title, settings, favourite="cm2", encoders=encoders, grid=_GRID, note=note)


def _drawn(source: str, title: str, draw: Callable[..., Any], settings: tuple[Setting, ...], note: str = "") -> Entry:
    """A figure, or a table without published values of metrics."""
    return Entry("cm2", source, title, settings, favourite="cm2", encoders=encoders, grid=_GRID, draw=draw, note=note)


_GUMBEL = _setting(
    "mortality", "ehr,cxr", "matched", {"cm2": Rival("cm2", _PAPER | {"family": "gumbel"}, None)}, "",
    "mortality, gumbel",
)  # fmt: skip
_TWO = ("ehr,notes", "ehr,cxr")
_WITHOUT = {
    "full": {},
    "w/o copula": {"family": "independence"},
    "w/o gps": {"sample_gradient": "detached"},
    "w/o fusion": {"fusion": "concatenate"},
}
_BACKBONES = tuple(
    (f"{a}+{b}", series, image)
    for a, series in (("lstm", "plain_lstm"), ("transformer", "series_transformer"))
    for b, image in (("resnet", "resnet34"), ("vit", "vit"))
)
ENTRIES = (
    Entry("cm2", "table 2", "totally matched stays", _both(_TWO, "matched", _RIVALS | {"cm2": _CM2}, "totally matched"),
          favourite="cm2", encoders=encoders, grid=_GRID),
    Entry("cm2", "table 3", "partially matched stays",
          _both(_TWO, "partial", _RIVALS | {"cm2": _CM2}, "partially matched"),
          favourite="cm2", encoders=encoders, grid=_GRID),
    _variants("table 4", "kinds of alignment", {
        "totally matched, alignment=copula": {},
        "totally matched, alignment=cosine": {"alignment": "cosine", "w_alignment": 1.0},
        "totally matched, alignment=kl": {"alignment": "kl", "w_alignment": 1.0},
    }),
    _variants("table 5", "the parts of the method", {
        f"{pairing} matched, {what}": options
        for pairing in ("totally", "partially") for what, options in _WITHOUT.items()
        if pairing == "partially" or what != "w/o gps"
    }, "The released script of 'w/o gps' (gradient-preserving sampling) trains the full model: its flag takes the text "
       "'False' for true. Here no gradient passes through the samples."),
    _variants("table 6", "families of copulas", {
        f"{pairing} matched, copula={family}": {"family": family}
        for pairing in ("totally", "partially") for family in ("gumbel", "gaussian", "frank")
    }),
    Entry("cm2", "table 7", "three modalities",
          _both(("ehr,cxr,report",), "matched", _RIVALS | {"cm2": _CM2}, "totally matched, three modalities"),
          favourite="cm2", encoders=encoders, grid=_GRID),
    Entry("cm2", "table 9", "later rivals",
          _both(("ehr,cxr",), "matched", _LATER | {"cm2": _CM2}, "totally matched")
          + _both(("ehr,cxr",), "partial", _LATER | {"cm2": _CM2}, "partially matched"),
          favourite="cm2", encoders=encoders, grid=_GRID),
    Entry("cm2", "table 10", "encoders (with --encoders paper)", tuple(
        _setting(task, "ehr,cxr", "matched", _RIVALS | _LATER | {"cm2": _CM2}, f"totally matched, {names}",
                 f"{task}, {names}", series=series, image=image)
        for names, series, image in _BACKBONES for task in _TASKS
    ), favourite="cm2", encoders=encoders, grid=_GRID),
    _drawn("table 11", "t-tests between bootstrap values", t_tests,
           _both(("ehr,cxr",), "matched", _RIVALS | {"cm2": _CM2}, ""),
           "The paper names no cohort; MIMIC-IV, totally matched, is taken. The size of its p-values is that of the "
           "number of resamples: beside them stands the p-value of the paired difference over test cases and seeds."),
    _drawn("figure 2", "fitted densities of three families", copula_densities, tuple(
        _setting("mortality", "ehr,cxr", "matched", {"cm2": Rival("cm2", _PAPER | {"family": family}, None)}, "",
                 f"mortality, {family}") for family in FAMILIES)),
    _drawn("figure 3", "the parameter of the Gumbel copula over training", copula_over_epochs, (_GUMBEL,)),
    _drawn("figure 4", "densities of the Gumbel copula at epochs 5, 50 and 100", densities_by_epoch, (_GUMBEL,)),
    _drawn("figure 5", "the number of components K", components, tuple(
        _setting(task, "ehr,cxr", "matched", {"cm2": Rival("cm2", _PAPER | {"components": k}, None)}, "",
                 f"{task}, K = {k}") for task in _TASKS for k in (1, 2, 3, 4, 5)),
        "The paper prints curves only, and does not name the pairing; totally matched is taken."),
)  # fmt: skip
