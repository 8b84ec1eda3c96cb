"""Training settings: the options of `amodal.fit`, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from amodal.errors import ConfigurationError, UnknownNameError

__all__ = ["TrainingSettings", "settings_from"]

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training; every value ends up in the run's experiment.json.

    Args:
        epochs: Passes over the training rows, at most.
        batch_size: Rows a step; None chooses by the number of rows (about 30 steps an epoch, between 16 and 256).
        learning_rate: Peak learning rate.
        weight_decay: Decoupled weight decay ("adamw") or L2 penalty ("adam").
        optimiser: "adamw" or "adam".
        schedule: "cosine" (to zero over all epochs), or "constant"; both after `warmup`.
        warmup: Fraction of all steps over which the learning rate rises linearly.
        patience: Stop after so many epochs without a better validation loss (or error); None never stops early.
        time_limit: Seconds after which training ends with the epoch at hand; None: no limit. A resumed run counts anew.
        best_by: Which epoch's weights are kept: those of the lowest validation "loss", or of the lowest validation
            "error", the share of wrong predictions (classes and labels only). Where a network grows overconfident the
            first may choose an epoch long before the second. Sub-models that are chosen one by one, those of
            `per_pattern`, go by their loss.
        clip: Largest gradient norm; None does not clip.
        precision: "32-true", or autocast to half precision: "bf16-mixed" or "16-mixed".
        device: "auto", "cpu" or "cuda".
        devices: Number of processes on each node.
        nodes: Number of nodes.
        workers: Worker processes of each loader.
        labelled_share: Least share of rows with a label in each batch, for a method that learns from others, too. Where
            fewer have one, an epoch is as long as it takes to see each of them once, and at least 25 steps.
        redraw: Whether the removal of training modalities is drawn anew every epoch, or once.
        weight_average: Share that a moving average of the weights keeps in each step, from 0 (none) to below 1; the
            average is validated, kept and predicted with. None: as the method has it.
        recalibrate: Whether predictions are recalibrated after training, by the number of modalities present, on the
            validation rows; see `amodal.recalibration`. A regression has nothing to recalibrate.

    Raises:
        ConfigurationError: If a value is out of range.
    """

    epochs: int = 60
    batch_size: int | None = None
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    optimiser: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.05
    patience: int | None = 12
    time_limit: float | None = None
    best_by: Literal["loss", "error"] = "loss"
    clip: float | None = 1.0
    precision: str = "32-true"
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    workers: int = 0
    labelled_share: float = 0.25
    redraw: bool = True
    weight_average: float | None = None
    recalibrate: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "devices", "nodes", "workers", "batch_size", "patience"):
            value = getattr(self, name)
            optional = name in ("batch_size", "patience")
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            expected = "a whole number or None" if optional else "a whole number"
            _require(whole or (optional and value is None), name, expected, repr(value))
        for name in (
            "learning_rate",
            "weight_decay",
            "warmup",
            "clip",
            "time_limit",
            "labelled_share",
            "weight_average",
        ):
            value = getattr(self, name)
            finite = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
            _require(
                finite or (name in ("clip", "time_limit", "weight_average") and value is None),
                name,
                "a finite number",
                repr(value),
            )
        at_least = {"epochs": 1, "devices": 1, "nodes": 1, "workers": 0, "weight_decay": 0}
        for name, low in at_least.items():
            _require(getattr(self, name) >= low, name, f"{low} or more", getattr(self, name))
        _require(self.learning_rate > 0, "learning_rate", "more than 0", self.learning_rate)
        _require(0 <= (self.weight_average or 0) < 1, "weight_average", "0 <= weight_average < 1", self.weight_average)
        _require(0 <= self.warmup < 1, "warmup", "0 <= warmup < 1", self.warmup)
        _require(0 <= self.labelled_share < 1, "labelled_share", "0 <= share < 1", self.labelled_share)
        for name in ("batch_size", "patience", "clip", "time_limit"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, "None or more than 0", value)
        for name, known in (
            ("optimiser", ("adamw", "adam")),
            ("schedule", ("cosine", "constant")),
            ("best_by", ("loss", "error")),
            ("precision", _PRECISIONS),
        ):
            if getattr(self, name) not in known:
                raise UnknownNameError(name, getattr(self, name), known)


def settings_from(given: Mapping[str, Any]) -> TrainingSettings:
    """Settings from keyword arguments.

    Raises:
        UnknownNameError: If a name is not a setting.
        ConfigurationError: If a value is out of range.
    """
    known = TrainingSettings.__dataclass_fields__
    for name in given:
        if name not in known:
            raise UnknownNameError("setting of fit", name, known)
    return TrainingSettings(**given)


def _require(right: bool, name: str, expected: str, got: object) -> None:
    if not right:
        raise ConfigurationError(f"{name} is out of range", expected=expected, got=got)
