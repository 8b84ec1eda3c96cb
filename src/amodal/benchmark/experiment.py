"""One experiment: everything that decides a trained and evaluated model, as plain values."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from amodal.errors import ConfigurationError, UnknownNameError
from amodal.missingness import Mechanism, Natural, mechanism_from_json

__all__ = ["Experiment", "describe_mechanism"]


@dataclass(frozen=True)
class Experiment:
    """A method on a cohort under stated missingness; two equal experiments give the same numbers.

    Missingness has three places, and they are apart. What the *data* lack is the same for every method compared:
    `train_missingness` (drawn once, for training and validation rows) and `test_missingness`. What a method removes
    *further* while it trains, redrawn every epoch, is part of how it is trained: `removal`.

    Args:
        method: A name in `amodal.METHODS`.
        cohort: Name of a built-in cohort, or a cohort's folder.
        name: What tables call it; "" takes the method's name.
        options: Keyword arguments of the method.
        encoders: Encoders by modality; see `amodal.encoders`.
        width: Width of tokens and pooled vectors.
        train_missingness: What training and validation data lack beyond natural absence, drawn once.
        removal: Further removal in training, redrawn every epoch: "auto" (`amodal.fit`'s own choice), a mechanism, or
            None.
        test_missingness: What test data lack beyond natural absence, drawn once.
        rates: Rates of the degradation curve: the test rows are predicted again under MCAR at each.
        patterns: "all" predicts the complete test rows again under each of the 2^M − 1 patterns; "met" does not.
        seed: Seed of weights, order and noise in training, and of all missingness.
        settings: Fields of `amodal.training.TrainingSettings`.
        cohort_options: Keyword arguments of the cohort's function.
        splits: Names of the training, validation and test split.
        resamples: Number of bootstrap resamples.

    Raises:
        ConfigurationError: If a value is out of range.
        UnknownNameError: If `patterns` or `removal` is not known.

    Example:
        >>> from amodal.missingness import MCAR
        >>> experiment = Experiment("fusion", removal=None, test_missingness=MCAR(0.5))
        >>> experiment.setting
        'digits, training data complete, test data MCAR(0.5)'
        >>> Experiment.from_json(experiment.to_json()) == experiment
        True
    """

    method: str
    cohort: str = "digits"
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    encoders: Mapping[str, Any] = field(default_factory=dict)
    width: int = 64
    train_missingness: Mechanism = field(default_factory=Natural)
    removal: Mechanism | str | None = "auto"
    test_missingness: Mechanism = field(default_factory=Natural)
    rates: tuple[float, ...] = ()
    patterns: Literal["all", "met"] = "all"
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    cohort_options: Mapping[str, Any] = field(default_factory=dict)
    splits: tuple[str, str, str] = ("train", "valid", "test")
    resamples: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "cohort", str(self.cohort))
        object.__setattr__(self, "name", self.name or self.method)
        object.__setattr__(self, "rates", tuple(float(rate) for rate in self.rates))
        object.__setattr__(self, "splits", tuple(self.splits))
        for what in ("train_missingness", "test_missingness"):
            if not isinstance(getattr(self, what), Mechanism):
                raise ConfigurationError(
                    f"{what} is not a mechanism",
                    expected="one of amodal.missingness, Natural() for none",
                    got=repr(getattr(self, what)),
                )
        if not (self.removal is None or isinstance(self.removal, Mechanism) or self.removal == "auto"):
            raise UnknownNameError("removal", self.removal, ("auto",))
        if self.patterns not in ("all", "met"):
            raise UnknownNameError("value of patterns", self.patterns, ("all", "met"))
        if any(not 0 <= rate < 1 for rate in self.rates):
            raise ConfigurationError("a rate is out of range", expected="0 <= rate < 1", got=self.rates)
        if self.resamples < 2:
            raise ConfigurationError("resamples is out of range", expected="2 or more", got=self.resamples)
        if len(self.splits) != 3:
            raise ConfigurationError("splits must name three", expected="(train, valid, test)", got=self.splits)

    @property
    def setting(self) -> str:
        """What methods must have in common to be compared: the cohort and what its data lack, in words."""
        options = "".join(f", {key} {value}" for key, value in sorted(self.cohort_options.items()))
        lacking = describe_mechanism(self.train_missingness), describe_mechanism(self.test_missingness)
        return f"{self.cohort}{options}, training data {lacking[0]}, test data {lacking[1]}"

    @property
    def key(self) -> str:
        """A digest of everything, eight hexadecimal digits."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def folder_name(self) -> str:
        """A name for its folder that a person can read and no other experiment has."""
        readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.name).strip("-.")[:60] or "run"
        return f"{readable}-seed{self.seed}-{self.key}"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values.

        Raises:
            ConfigurationError: If an option is not a plain JSON value.
        """
        record = {item.name: getattr(self, item.name) for item in fields(self)}
        for what in ("train_missingness", "test_missingness", "removal"):
            if isinstance(record[what], Mechanism):
                record[what] = record[what].to_json()
        try:
            return json.loads(json.dumps(record, default=_plain, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"an experiment's values must be plain JSON: {error}") from error

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Experiment:
        """The inverse of `to_json`.

        Raises:
            UnknownNameError: If a key or a mechanism is not known.
        """
        known = cls.__dataclass_fields__
        for key in record:
            if key not in known:
                raise UnknownNameError("key of an experiment", key, known)
        values = dict(record)
        for what in ("train_missingness", "test_missingness", "removal"):
            if isinstance(values.get(what), Mapping):
                values[what] = mechanism_from_json(values[what])
        for what in ("rates", "splits"):
            if what in values:
                values[what] = tuple(values[what])
        return cls(**values)


def describe_mechanism(mechanism: Mechanism) -> str:
    """What data lack, in a word: "complete" stands for nothing beyond natural absence.

    Example:
        >>> from amodal.missingness import MCAR, Natural
        >>> describe_mechanism(MCAR(0.25)), describe_mechanism(Natural())
        ('MCAR(0.25)', 'complete')
    """
    if isinstance(mechanism, Natural):
        return "complete"
    shown = []
    for item in fields(mechanism):  # type: ignore[arg-type]
        value = getattr(mechanism, item.name)
        if item.default is MISSING:
            shown.append(_short(value))
        elif value != item.default:
            shown.append(f"{item.name.replace('_', ' ')} {_short(value)}")
    return type(mechanism).__name__ + (f"({', '.join(shown)})" if shown else "")


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, tuple | list | set | frozenset):
        return "+".join(sorted(map(str, value)))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "item"):  # NumPy's numbers
        return value.item()  # type: ignore[union-attr]
    raise TypeError(f"{value!r} is a {type(value).__name__}")
