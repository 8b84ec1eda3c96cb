"""Errors: every kind that amodal raises, with what was expected and what came.

Every message says what was wrong, and, wherever it makes sense, what was expected, what came instead and what to do
about it. The parts are keyword arguments, so that no call site has to assemble the sentence.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "AmodalError",
    "ConfigurationError",
    "DataError",
    "RunError",
    "SchemaError",
    "ShapeError",
    "UnknownNameError",
]


class AmodalError(Exception):
    """Base of all errors that amodal raises on purpose.

    Args:
        problem: What is wrong, naming the argument, row, column or file.
        expected: What would have been right.
        got: What came instead.
        hint: What to do about it.

    Example:
        >>> str(AmodalError("rate is out of range", expected="0 <= rate < 1", got=1.5, hint="Use 0.9."))
        'rate is out of range (expected 0 <= rate < 1, got 1.5). Use 0.9.'
    """

    def __init__(self, problem: str, *, expected: object = None, got: object = None, hint: str | None = None):
        self.problem, self.expected, self.got, self.hint = problem, expected, got, hint
        parts = [f"expected {expected}"] if expected is not None else []
        parts += [f"got {got}"] if got is not None else []
        text = problem + (f" ({', '.join(parts)})" if parts else "")
        super().__init__(f"{text}. {hint}" if hint else text)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels between processes as its text and its parts, whatever its constructor takes."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[AmodalError], args: tuple[Any, ...], parts: dict[str, Any]) -> AmodalError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(parts)
    return error


class ConfigurationError(AmodalError, ValueError):
    """An argument or an option has a value that cannot be used."""


class SchemaError(AmodalError, ValueError):
    """The description of the modalities or of the task is inconsistent, or data do not fit it."""


class ShapeError(AmodalError, ValueError):
    """Arrays have the wrong number of axes, or sizes that disagree."""


class DataError(AmodalError, ValueError):
    """The content of data or of a file cannot be used: duplicate ids, missing targets, truncated files, …"""


class RunError(AmodalError, RuntimeError):
    """A run or its folder cannot be used: incomplete, of a newer format, a device that is not there, …"""


class UnknownNameError(AmodalError, LookupError):
    """A name that is not known, with the nearest known ones.

    Args:
        what: What kind of thing the name should name ("method", "modality", …).
        name: The unknown name.
        known: The known names.

    Example:
        >>> str(UnknownNameError("method", "fushion", ["fusion", "unimodal"]))
        "unknown method 'fushion' (expected one of fusion, unimodal). Did you mean 'fusion'?"
    """

    def __init__(self, what: str, name: object, known: Iterable[str]):
        self.name, self.known = name, sorted(known)
        near = difflib.get_close_matches(str(name), self.known, n=1)
        super().__init__(
            f"unknown {what} {name!r}",
            expected=f"one of {', '.join(self.known)}" if self.known else "none is defined",
            hint=f"Did you mean {near[0]!r}?" if near else None,
        )
