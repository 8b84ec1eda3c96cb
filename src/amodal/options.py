"""Options: checked against the annotations of what takes them, and merged with a preset, before anything is built.

The signature of a class or function is the one description of its options: names, defaults, types (`int`, `Literal`,
`tuple[float, float]`, `Mapping[str, float]`, unions) and conditions, as in ``Annotated[int, at_least(1)]``.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from amodal.errors import ConfigurationError, UnknownNameError

__all__ = [
    "Choice",
    "Condition",
    "Count",
    "OptionsChecked",
    "Positive",
    "Share",
    "Size",
    "Weight",
    "above",
    "annotation_of",
    "at_least",
    "at_most",
    "below",
    "check_options",
    "one_of",
    "options_checked",
    "resolve_choice",
    "resolve_options",
]


@dataclass(frozen=True)
class Condition:
    """A condition on an option's value, as metadata of `Annotated`.

    Args:
        text: The condition in words: "1 or more".
        holds: Whether a value of the right type meets it.
        names: The values that meet it, if it is a choice of one name.
    """

    text: str
    holds: Callable[[Any], bool] = field(repr=False)
    names: Collection[str] = ()


def at_least(low: float) -> Condition:
    """A number not below `low`."""
    return Condition(f"{low} or more", lambda value: value >= low)


def above(low: float) -> Condition:
    """A number larger than `low`."""
    return Condition(f"more than {low}", lambda value: value > low)


def at_most(high: float) -> Condition:
    """A number not above `high`."""
    return Condition(f"at most {high}", lambda value: value <= high)


def below(high: float) -> Condition:
    """A number smaller than `high`."""
    return Condition(f"less than {high}", lambda value: value < high)


def one_of(names: Collection[str]) -> Condition:
    """A name in a registry."""
    return Condition(f"one of {', '.join(names)}", lambda value: value in names, names)


Size = Annotated[int, at_least(1)]
Count = Annotated[int, at_least(0)]
Weight = Annotated[float, at_least(0)]
Positive = Annotated[float, above(0)]
Share = Annotated[float, at_least(0), below(1)]


@dataclass(frozen=True)
class Choice:
    """A name in a registry, or ``{"name": name, option: value, …}``, as metadata of `Annotated`.

    Args:
        kind: What the registry holds: "fusion".
        registry: What each name builds.
        outside: Parameters that are not options.
    """

    kind: str
    registry: Mapping[str, Callable[..., Any]] = field(repr=False)
    outside: Collection[str] = ()


def resolve_options(
    build: Callable[..., Any], options: Mapping[str, Any], *, owner: str, outside: Collection[str] = ()
) -> dict[str, Any]:
    """All options of a class or function: those given, checked; those of the preset; and the defaults.

    A class may hold further sets of values as ``PRESETS = {name: {option: value}}``, each a difference from the
    defaults, which are the preset "default". The option "preset" then chooses one of them; what is given wins over it.
    It is no argument of the constructor.

    Args:
        build: The class or function.
        options: The given options, plain JSON values (lists for tuples), "preset" among them.
        owner: What the options belong to, for messages: "cepa", "encoder 'mlp'".
        outside: Parameters that are not options.

    Returns:
        A value for every option.

    Raises:
        UnknownNameError: If an option, a preset, or one of an option's known values is not known.
        ConfigurationError: If a value has another type than its annotation says, is out of range, or is needed.

    Example:
        >>> def network(*, width: Size = 8, fill: Literal["zero", "mean"] = "zero"): ...
        >>> resolve_options(network, {"width": 4}, owner="network")
        {'width': 4, 'fill': 'zero'}
    """
    parameters = {n: p for n, p in inspect.signature(build).parameters.items() if n not in outside}
    presets = getattr(build, "PRESETS", None)
    if not isinstance(options, Mapping):
        raise ConfigurationError(f"the options of {owner} cannot be read", expected="a mapping", got=repr(options))
    given = dict(options)
    for name in given:
        if name not in parameters and (presets is None or name != "preset"):
            raise UnknownNameError(f"option of {owner}", name, [*parameters, *(["preset"] if presets else [])])
    if presets is not None:
        preset, known = given.pop("preset", "default"), ["default", *presets]
        if preset not in known:
            raise UnknownNameError(f"preset of {owner}", preset, known)
        given = {**presets.get(preset, {}), **given}
    checked = check_options(build, given, owner=owner)
    for name, parameter in parameters.items():
        if name not in checked and parameter.default is parameter.empty:
            expected = _describe(annotation_of(build, name))
            raise ConfigurationError(f"{owner} needs the option {name!r}", expected=expected, got="nothing")
    return {name: checked.get(name, parameter.default) for name, parameter in parameters.items()}


def resolve_choice(choice: Any, what: Choice, *, default: str | None = None) -> tuple[Any, dict[str, Any]]:
    """The class that a choice from a registry names, and all its options.

    Args:
        choice: A name, or a mapping with "name" (unless there is a default) and options.
        what: The registry.
        default: The name if the mapping has none.

    Raises:
        UnknownNameError: If the name or an option is not known.
        ConfigurationError: If the choice is neither, or an option cannot be used.
    """
    if not isinstance(choice, str | Mapping):
        raise ConfigurationError(
            f"the choice of {what.kind} cannot be read", expected=_describe_choice(what), got=repr(choice)
        )
    options: dict[str, Any] = {"name": choice} if isinstance(choice, str) else dict(choice)
    name = options.pop("name", default)
    if not isinstance(name, str) or name not in what.registry:
        raise UnknownNameError(what.kind, name, what.registry)
    build = what.registry[name]
    return build, resolve_options(build, options, owner=f"{what.kind} {name!r}", outside=what.outside)


def check_options(build: Callable[..., Any], options: Mapping[str, Any], *, owner: str) -> dict[str, Any]:
    """The given options, each checked against its annotation and in its type (a tuple for a list)."""
    return {name: _checked(value, annotation_of(build, name), f"{name} of {owner}") for name, value in options.items()}


def options_checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function, or a constructor, that checks its keyword arguments against their annotations before it runs."""
    known = frozenset(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        owner = type(args[0]).__name__ if function.__name__ == "__init__" else function.__name__
        given = {name: value for name, value in options.items() if name in known}
        return function(*args, **options | check_options(function, given, owner=owner))

    return checked


class OptionsChecked:
    """Classes whose constructors check their keyword arguments against their annotations before they run."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = options_checked(cls.__dict__["__init__"])


# Annotations ---------------------------------------------------------------------------------------------------------


class _Unfit(Exception):
    """A value does not fit an annotation."""


@functools.cache
def annotation_of(build: Callable[..., Any], name: str) -> Any:
    """The annotation of one parameter; others are not read: they may name what is imported for type checkers only."""
    function: Any = inspect.unwrap(build.__init__ if inspect.isclass(build) else build)
    alone = SimpleNamespace(__annotations__={name: function.__annotations__.get(name, Any)})
    return get_type_hints(alone, globalns=function.__globals__, include_extras=True)[name]


def _checked(value: Any, annotation: Any, name: str) -> Any:
    """The value in the type of its annotation; errors as of `resolve_options`."""
    try:
        return _fit(value, annotation)
    except _Unfit:
        words = [_words(member) for member in _members(annotation) if member is not NoneType]
        names = [word for some in words for word in some]
        if all(words):
            raise UnknownNameError(name, value, names) from None
        near = difflib.get_close_matches(value, names, n=1) if isinstance(value, str) else []
        raise ConfigurationError(
            f"{name} is out of range",
            expected=_describe(annotation),
            got=textwrap.shorten(repr(value), 80, placeholder=" …"),
            hint=f"Did you mean {near[0]!r}?" if near else None,
        ) from None


def _fit(value: Any, annotation: Any) -> Any:
    """The value in the type of its annotation: an int for `np.int64`, a float for an int, a tuple for a list.

    Raises:
        _Unfit: If it is of another type, or does not meet a condition.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if origin is Annotated:
        return _conditioned(_fit(value, arguments[0]), arguments[1:])
    if origin in (Union, UnionType):
        return _fit_one_of(value, arguments)
    if origin is Literal:
        return _or_unfit(any(type(word) is type(value) and word == value for word in arguments), value)
    if origin in (tuple, list, Sequence):
        return _fit_sequence(value, origin, arguments)
    if origin in (dict, Mapping):
        pairs = _or_unfit(isinstance(value, Mapping), value).items()
        return {_fit(k, arguments[0]): _fit(v, arguments[1]) for k, v in pairs}
    if annotation in (int, float):
        fits = isinstance(value, Integral if annotation is int else Real) and not isinstance(value, bool)
        number: Any = value if fits else math.nan
        return annotation(_or_unfit(-math.inf < number < math.inf, number))
    return _or_unfit(isinstance(value, (str, Path) if annotation is Path else annotation), value)


def _or_unfit(fits: bool, value: Any) -> Any:
    if not fits:
        raise _Unfit
    return value


def _conditioned(value: Any, conditions: Sequence[Any]) -> Any:
    for condition in conditions:
        if isinstance(condition, Choice):
            resolve_choice(value, condition)
        elif isinstance(condition, Condition):
            _or_unfit(condition.holds(value), value)
    return value


def _fit_one_of(value: Any, annotations: Sequence[Any]) -> Any:
    for annotation in annotations:
        try:
            return _fit(value, annotation)
        except _Unfit:
            continue
    raise _Unfit


def _fit_sequence(value: Any, origin: Any, items: Sequence[Any]) -> Any:
    several = isinstance(value, list | tuple)
    fixed = origin is tuple and items[-1] is not Ellipsis
    _or_unfit(several and (not fixed or len(value) == len(items)), value)
    fitted = [_fit(part, items[i] if fixed else items[0]) for i, part in enumerate(value)]
    return tuple(fitted) if origin is tuple else fitted


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _words(annotation: Any) -> Sequence[str]:
    """The names that an annotation allows, if it allows nothing else."""
    if get_origin(annotation) is Annotated:
        return [name for c in get_args(annotation)[1:] if isinstance(c, Condition) for name in c.names]
    return [str(word) for word in get_args(annotation)] if get_origin(annotation) is Literal else ()


def _describe(annotation: Any) -> str:
    """An annotation in words: "a whole number, 1 or more, or None"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        choice = next((c for c in arguments[1:] if isinstance(c, Choice)), None)
        if choice is not None:
            return _describe_choice(choice)
        return ", ".join([_describe(arguments[0]), " and ".join(c.text for c in arguments[1:])])
    if origin in (Union, UnionType):
        return ", or ".join(_describe(member) for member in arguments)
    if origin is Literal:
        return " or ".join(repr(word) for word in arguments)
    if origin in (tuple, list, Sequence):
        fixed = origin is tuple and arguments[-1] is not Ellipsis
        return f"a list of {len(arguments) if fixed else 'values'}, each {_describe(arguments[0])}"
    if origin in (dict, Mapping):
        return f"a mapping to values that are {_describe(arguments[1])}"
    known = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", NoneType: "None"}
    return known.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _describe_choice(choice: Choice) -> str:
    return f"the name of a {choice.kind}, or {{'name': name, option: value, …}}"
