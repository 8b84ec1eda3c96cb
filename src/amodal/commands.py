"""Commands made of the functions that they call: signature, types and help stand once, where the work is done."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

__all__ = ["command", "convert_list", "switches"]


def command(
    function: Callable[..., Any], source: Callable[..., Any], *, without: Collection[str] = (), summary: str = ""
) -> Callable[..., Any]:
    """A function whose keyword arguments `**more` are spelled out: those of another function or of a dataclass.

    Args:
        function: What the command does; its `**more` takes what `source` describes.
        source: A function or dataclass with annotations, defaults and a docstring with "Args:".
        without: Parameters of `source` that are no arguments of the command.
        summary: First line of the help; "" takes the function's own.

    Returns:
        A function with the parameters of both, and with both descriptions of arguments.

    Example:
        >>> def greet(name: str, **more):
        ...     return name, more
        >>> def tone(*, loud: bool = False): ...
        >>> spelled = command(greet, tone)
        >>> list(inspect.signature(spelled).parameters), spelled("you", loud=True)
        (['name', 'loud'], ('you', {'loud': True}))
    """
    own = [p for p in _parameters(function) if p.kind is not inspect.Parameter.VAR_KEYWORD]
    taken = {*without, *(parameter.name for parameter in own)}
    added = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in _parameters(source) if p.name not in taken]
    described = _arguments(source) | _arguments(function)

    def spelled(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    lines = [f"    {p.name}: {described[p.name]}" for p in (*own, *added) if p.name in described]
    spelled.__name__, spelled.__qualname__ = function.__name__, function.__qualname__
    spelled.__module__ = function.__module__
    spelled.__doc__ = "\n".join([summary or _summary(function), "", "Args:", *lines])
    spelled.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    spelled.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
    return spelled


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(function.__init__ if isinstance(function, type) else function)
    return [p.replace(annotation=hints.get(p.name, Any)) for p in inspect.signature(function).parameters.values()]


def _summary(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _arguments(function: Callable[..., Any]) -> dict[str, str]:
    """Descriptions of a function's arguments from its docstring, one line each."""
    text = (inspect.getdoc(function) or "").partition("\nArgs:\n")[2]
    text = re.split(r"\n(?=\S)", text)[0]
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", text, flags=re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


def switches(commands: Mapping[str, Any] | Callable[..., Any]) -> set[str]:
    """The arguments of some commands that are false by default, as they are written: "--quiet"."""
    if isinstance(commands, Mapping):
        return set().union(*(switches(part) for part in commands.values()))
    return {f"--{p.name}" for p in inspect.signature(commands).parameters.values() if p.default is False}


def convert_list(what: str, given: Any, convert: Callable[[str], Any] = str) -> list[Any]:
    """A list as a command line or a file gives it: [0, 1], "0,1" or 0.

    Raises:
        ConfigurationError: If an entry cannot be read.
    """
    from amodal.errors import ConfigurationError

    words = [word.strip() for word in given.split(",")] if isinstance(given, str) else given
    try:
        return [convert(word) for word in (words if isinstance(words, list | tuple) else [words]) if word != ""]
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{what} cannot be read", expected="a list, or values with commas between", got=given
        ) from error
