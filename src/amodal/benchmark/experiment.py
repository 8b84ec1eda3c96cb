"""One experiment: everything that decides a trained and evaluated model, as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from amodal.errors import ConfigurationError, UnknownNameError
from amodal.missingness import Mechanism, Natural, mechanism_from_json

__all__ = ["Experiment", "describe_mechanism", "describe_rate"]


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
        rates: Rates of the degradation curve: the test rows are predicted again under MCAR at each; a number for all
            modalities alike, or rates by modality (0 for those not named).
        patterns: "all" predicts the complete test rows again under each of the 2^M − 1 patterns; "met" does not.
        rows: Training and validation rows to learn from: "all", or those that are "complete" after `train_missingness`.
            The test rows are the same.
        fold: (i, n) tests the i-th of n folds by group, i from 0, drawn with `seed`, and holds a tenth of the others
            back for validation; None takes the cohort's `splits`.
        seed: Seed of weights, order and noise in training, of all missingness, and of folds.
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
    rates: tuple[float | Mapping[str, float], ...] = ()
    patterns: Literal["all", "met"] = "all"
    rows: Literal["all", "complete"] = "all"
    fold: tuple[int, int] | None = None
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    cohort_options: Mapping[str, Any] = field(default_factory=dict)
    splits: tuple[str, str, str] = ("train", "valid", "test")
    resamples: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "cohort", str(self.cohort))
        object.__setattr__(self, "name", self.name or self.method)
        rates = (dict(rate) if isinstance(rate, Mapping) else float(rate) for rate in self.rates)
        object.__setattr__(self, "rates", tuple(rates))
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
        values = [v for rate in self.rates for v in (rate.values() if isinstance(rate, Mapping) else (rate,))]
        if any(not 0 <= value < 1 for value in values):
            raise ConfigurationError("a rate is out of range", expected="0 <= rate < 1", got=self.rates)
        if self.rows not in ("all", "complete"):
            raise UnknownNameError("value of rows", self.rows, ("all", "complete"))
        if self.fold is not None:
            object.__setattr__(self, "fold", tuple(self.fold))
            if len(self.fold) != 2 or not 0 <= self.fold[0] < self.fold[1] or self.fold[1] < 2:
                raise ConfigurationError("fold is out of range", expected="(i, n), 0 <= i < n, n >= 2", got=self.fold)
        if self.resamples < 2:
            raise ConfigurationError("resamples is out of range", expected="2 or more", got=self.resamples)
        if len(self.splits) != 3:
            raise ConfigurationError("splits must name three", expected="(train, valid, test)", got=self.splits)

    @property
    def setting(self) -> str:
        """The setting that compared methods share: the cohort and the mechanism of absence, in words."""
        options = "".join(f", {key} {value}" for key, value in sorted(self.cohort_options.items()))
        part = "" if self.fold is None else f", fold {self.fold[0] + 1} of {self.fold[1]}"
        lacking = describe_mechanism(self.train_missingness), describe_mechanism(self.test_missingness)
        return f"{self.cohort}{options}{part}, training data {lacking[0]}, test data {lacking[1]}"

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
        for what in ("rates", "splits", "fold"):
            if values.get(what) is not None:
                values[what] = tuple(values[what])
        return cls(**values)


def describe_mechanism(mechanism: Mechanism) -> str:
    """A mechanism in one word: "complete" stands for nothing removed beyond natural absence.

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


def describe_rate(rate: float | Mapping[str, float]) -> str:
    """A rate in a word.

    Example:
        >>> describe_rate(0.5), describe_rate({"a": 0.25, "b": 0.0})
        ('0.5', 'a 0.25, b 0')
    """
    return _short(rate)


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
