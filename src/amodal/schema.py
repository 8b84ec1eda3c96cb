"""Schema of a data set: its modalities and its task."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar

from amodal.errors import ConfigurationError, SchemaError, UnknownNameError
from amodal.kinds import ModalityKind, TaskKind, modality_kind, task_kind

__all__ = ["Modality", "Roles", "Schema", "Task", "check_schema", "class_order", "feature_order", "put_in_order"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]*")


@dataclass(frozen=True)
class Modality:
    """One kind of input: its name, kind and the shape of one sample.

    Args:
        name: Letters, digits, `_` and `-`, beginning with a letter or `_`.
        kind: A name of `amodal.kinds.MODALITY_KINDS`: "tabular" (D,), "series" (T, D), "image" (C, H, W) or "text" ();
            a series' T is the longest one.
        shape: Shape of one sample, without the batch axis.
        features: Names of the D features (tabular, series), or of the channels; may be empty.
        units: Units of the features, as many as `features`; may be empty.
        description: One line for people.
        clock: Of a series whose steps have times of their own: where its clock starts and stops; (): a regular grid.

    Raises:
        SchemaError: If name, kind, shape, features and clock do not fit together.
        UnknownNameError: If the kind is not known.

    Example:
        >>> Modality("vitals", "series", (48, 2), features=("HR", "Temp"), units=("1/min", "degC")).n_features
        2
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    features: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    description: str = ""
    clock: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        axes = modality_kind(self.kind).axes
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise SchemaError(
                "a modality's name is not usable",
                expected="letters, digits, _ and -, beginning with a letter or _",
                got=repr(self.name),
            )
        object.__setattr__(self, "shape", tuple(operator.index(n) for n in self.shape))
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "clock", tuple(float(time) for time in self.clock))
        object.__setattr__(self, "units", tuple(self.units))
        if len(self.shape) != len(axes) or any(n < 1 for n in self.shape):
            raise SchemaError(
                f"modality {self.name!r} has a shape that is not that of kind {self.kind!r}",
                expected=f"{self.traits.axes_of_sample} with positive sizes",
                got=self.shape,
            )
        if self.clock and not (self.traits.takes_lengths and len(self.clock) == 2 and self.clock[0] < self.clock[1]):
            raise SchemaError(
                f"modality {self.name!r} has a clock that is not usable",
                expected="start and stop, of a series",
                got=self.clock,
            )
        for what in ("features", "units"):
            given = getattr(self, what)
            if given and len(given) != self.n_features:
                raise SchemaError(
                    f"modality {self.name!r} has another number of {what}", expected=self.n_features, got=len(given)
                )

    @property
    def traits(self) -> ModalityKind:
        """Everything that depends on its kind."""
        return modality_kind(self.kind)

    @property
    def n_features(self) -> int:
        """D of tabular and series, number of channels of images, 1 for text."""
        return self.traits.n_features(self.shape)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; without a clock where there is none."""
        record = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return record if self.clock else {key: value for key, value in record.items() if key != "clock"}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Modality:
        """The inverse of `to_json`."""
        return cls(**_known_keys(cls, record, "modality"))


@dataclass(frozen=True)
class Task:
    """A prediction task: kind, name and classes or units.

    Args:
        kind: A name of `amodal.kinds.TASK_KINDS`: "binary", "multiclass", "multilabel" or "regression".
        name: The target's name.
        classes: Labels of the classes (binary: two, the second is the positive one; multiclass: C; multilabel: K).
            Labels are strings, integers or booleans; targets are their positions.
        units: Units of a regression target.
        bins: Increasing inner edges that cut a regression target into ordered bins, for agreement (kappa).

    Raises:
        SchemaError: If classes or bins do not fit the kind.
        UnknownNameError: If the kind is not known.

    Example:
        >>> Task("binary", name="death", classes=("survived", "died")).n_outputs
        2
    """

    kind: str
    name: str = "target"
    classes: tuple[str | int | bool, ...] = ()
    units: str = ""
    bins: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        traits = task_kind(self.kind)
        object.__setattr__(self, "classes", tuple(_plain_label(label) for label in self.classes))
        object.__setattr__(self, "bins", tuple(float(edge) for edge in self.bins))
        n = len(self.classes)
        if not traits.takes_classes(n) or len(set(self.classes)) != n:
            raise SchemaError(
                f"the classes do not fit a {self.kind} task",
                expected=f"{traits.n_classes} distinct classes",
                got=self.classes,
            )
        if self.bins and (not traits.one_value or not _increase(self.bins)):
            raise SchemaError("bins are the increasing inner edges of a regression target", got=self.bins)

    @property
    def traits(self) -> TaskKind:
        """Everything that depends on its kind."""
        return task_kind(self.kind)

    @property
    def n_outputs(self) -> int:
        """Width of the output layer: C for binary (two) and multiclass, K for multilabel, 1 for regression."""
        return len(self.classes) or 1

    @property
    def is_classification(self) -> bool:
        """Whether exactly one class is true for each sample."""
        return self.traits.one_class

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Task:
        """The inverse of `to_json`."""
        return cls(**_known_keys(cls, record, "task"))


@dataclass(frozen=True)
class Schema:
    """The modalities of a data set, in order, and its task.

    Args:
        modalities: One or more, with distinct names; their order is the order of everything.
        task: What is predicted.

    Raises:
        SchemaError: If there is no modality, or a name comes twice.

    Example:
        >>> schema = Schema((Modality("a", "tabular", (3,)), Modality("b", "text", ())), Task("regression"))
        >>> schema.names
        ('a', 'b')
    """

    FORMAT: ClassVar[int] = 1

    modalities: tuple[Modality, ...]
    task: Task

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", tuple(self.modalities))
        names = [modality.name for modality in self.modalities]
        if not names:
            raise SchemaError("a schema needs at least one modality")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SchemaError(f"modalities have the same name: {', '.join(twice)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities, in order."""
        return tuple(modality.name for modality in self.modalities)

    def __getitem__(self, name: str) -> Modality:
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise UnknownNameError("modality", name, self.names)

    def check_names(self, names: Sequence[str]) -> None:
        """Raises UnknownNameError for the first name that is not a modality of this schema."""
        for name in names:
            self[name]

    def roles(self, always_observed: Sequence[str] = ()) -> Roles:
        """The modalities divided into those that are always observed and those that may be missing.

        Raises:
            UnknownNameError: If a name is not a modality of this schema.
        """
        self.check_names(list(always_observed))
        return Roles(self.names, frozenset(always_observed))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, with the format's version."""
        return {
            "format": self.FORMAT,
            "modalities": [modality.to_json() for modality in self.modalities],
            "task": self.task.to_json(),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Schema:
        """The inverse of `to_json`.

        Raises:
            SchemaError: If keys are missing or unknown, or the format is newer than this version can read.
        """
        version = record.get("format")
        if not isinstance(version, int) or version > cls.FORMAT:
            raise SchemaError(
                "the schema's format is not readable",
                expected=f"format {cls.FORMAT} or older",
                got=version,
                hint="Update amodal.",
            )
        if "modalities" not in record or "task" not in record:
            raise SchemaError("the schema is incomplete", expected="modalities and task", got=sorted(record))
        return cls(tuple(Modality.from_json(m) for m in record["modalities"]), Task.from_json(record["task"]))


@dataclass(frozen=True)
class Roles:
    """Roles of the modalities in a method: always observed, or maskable; by name and by column, in the schema's order.

    Args:
        names: All modalities.
        fixed: Those that are always observed.

    Example:
        >>> roles = Roles(("age", "ct", "mri"), frozenset({"age"}))
        >>> roles.maskable, roles.maskable_columns, roles.always_columns
        (('ct', 'mri'), [1, 2], [0])
    """

    names: tuple[str, ...]
    fixed: frozenset[str]

    @property
    def maskable(self) -> tuple[str, ...]:
        """Names of the modalities that may be missing."""
        return tuple(name for name in self.names if name not in self.fixed)

    @property
    def maskable_columns(self) -> list[int]:
        """Columns of the modalities that may be missing."""
        return [m for m, name in enumerate(self.names) if name not in self.fixed]

    @property
    def always_columns(self) -> list[int]:
        """Columns of the modalities that are always observed."""
        return [m for m, name in enumerate(self.names) if name in self.fixed]

    def check_maskable(self, method: str) -> None:
        """Raises ConfigurationError if no modality may be missing, in the name of a method that needs one."""
        if not self.maskable:
            raise ConfigurationError(
                f"{method} needs a modality that may be missing",
                got="every modality in always_observed",
                hint="Leave one out of always_observed.",
            )


def _known_keys(cls: type, record: Mapping[str, Any], what: str) -> dict[str, Any]:
    known = fields(cls)
    unknown = sorted(set(record) - {field.name for field in known})
    missing = sorted({field.name for field in known if field.default is MISSING} - set(record))
    if unknown or missing:
        raise SchemaError(
            f"the record of a {what} has other keys", expected=[field.name for field in known], got=sorted(record)
        )
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}


def _plain_label(label: Any) -> str | int | bool:
    """A label as plain Python, so that schemas are plain JSON; numpy's scalars come from almost every data set."""
    import numpy as np

    plain = label.item() if isinstance(label, np.generic) else label
    if not isinstance(plain, str | int | bool):
        raise SchemaError(
            "a class has a label of another type", expected="strings, integers or booleans", got=repr(label)
        )
    return str(plain) if isinstance(plain, str) else plain


def _increase(edges: tuple[float, ...]) -> bool:
    return all(math.isfinite(edge) for edge in edges) and all(a < b for a, b in pairwise(edges))


def check_schema(expected: Schema, given: Schema) -> None:
    """Checks that given modalities are those a model knows, or some of them.

    Features may come in another order (`feature_order`); other names, and other units, are refused.

    Raises:
        SchemaError: If none is known, or one has another kind or shape, other features or other units.
    """
    shared = [name for name in given.names if name in expected.names]
    if not shared:
        raise SchemaError(
            "the data have none of the model's modalities",
            expected=", ".join(expected.names),
            got=", ".join(given.names),
        )
    for name in shared:
        ours, theirs = expected[name], given[name]
        if ours.kind != theirs.kind or not ours.traits.fits(ours.shape, theirs.shape):
            raise SchemaError(
                f"modality {name!r} is not the one the model was trained on",
                expected=f"{ours.kind} {ours.shape}",
                got=f"{theirs.kind} {theirs.shape}",
            )
        order = feature_order(ours, theirs)
        if ours.units and theirs.units:
            units = theirs.units if order is None else [theirs.units[place] for place in order]
            for place, (unit, other) in enumerate(zip(ours.units, units)):
                if unit != other:
                    what = f"feature {ours.features[place]!r}" if ours.features else f"feature {place}"
                    raise SchemaError(
                        f"{what} of modality {name!r} has other units than in training", expected=unit, got=other
                    )


def feature_order(expected: Modality, given: Modality) -> list[int] | None:
    """Positions in the given features of the expected ones; None if they are in order, or not named on either side.

    Raises:
        SchemaError: If the names are not the same; the message has those that are lacking and those that are too many.
    """
    if not expected.features or not given.features or expected.features == given.features:
        return None
    return put_in_order(f"modality {expected.name!r} has other features", given.features, expected.features)


def class_order(expected: Task, given: Task) -> list[int] | None:
    """Positions in the given classes of the expected ones; None if they are the same in the same order.

    Raises:
        SchemaError: If the tasks are of different kinds, or have other classes or units.
    """
    if expected.kind != given.kind or (expected.units and given.units and expected.units != given.units):
        raise SchemaError(
            "the targets are not of the task the model was trained for",
            expected=f"{expected.kind} {expected.units}".strip(),
            got=f"{given.kind} {given.units}".strip(),
        )
    if expected.classes == given.classes:
        return None
    return put_in_order("the targets have other classes", given.classes, expected.classes)


def put_in_order(problem: str, given: Sequence[Any], expected: Sequence[Any]) -> list[int]:
    """Positions in `given` of each of `expected`: the same distinct names in any order.

    Raises:
        SchemaError: If they are not the same names; the message begins with `problem`.
    """
    places = {name: place for place, name in enumerate(given)}
    if len(given) != len(expected) or any(name not in places for name in expected):
        without = [name for name in expected if name not in places]
        too_many = [name for name in given if name not in expected]
        parts = [f"{what} {_listed(names)}" for what, names in (("without", without), ("with", too_many)) if names]
        raise SchemaError(
            problem,
            expected=_listed(expected),
            got="; ".join(parts) or _listed(given),
            hint="They may come in any order, under the names that training had.",
        )
    return [places[name] for name in expected]


def _listed(names: Sequence[Any]) -> str:
    shown = ", ".join(map(str, names[:8]))
    return f"{shown}, … ({len(names)})" if len(names) > 8 else shown
