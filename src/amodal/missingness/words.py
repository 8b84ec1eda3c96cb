"""Mechanisms as the command line writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amodal.errors import AmodalError, ConfigurationError, UnknownNameError
from amodal.missingness import MAR, MCAR, MNAR, BalancedCounts, FixedCount, Mechanism, Natural, Pattern

__all__ = ["parse_mechanism"]


def parse_mechanism(text: str) -> Mechanism:
    """Reads a missingness mechanism as the command line writes it.

    Args:
        text: "natural", "balanced", "mcar:RATE", "mar:RATE", "mnar:RATE", "count:K" or "pattern:A+B".

    Returns:
        The mechanism.

    Raises:
        UnknownNameError: If there is no such mechanism.
        ConfigurationError: If its argument is missing or not a number.

    Example:
        >>> parse_mechanism("mcar:0.5").rate
        0.5
    """
    name, _, argument = text.partition(":")
    kinds: dict[str, tuple[Callable[..., Any], Callable[[str], Any] | None]] = {
        "natural": (Natural, None),
        "balanced": (BalancedCounts, None),
        "mcar": (MCAR, float),
        "mar": (MAR, float),
        "mnar": (MNAR, float),
        "count": (FixedCount, int),
        "pattern": (Pattern, lambda kept: kept.split("+")),
    }
    if name not in kinds:
        raise UnknownNameError("missingness mechanism", name, kinds)
    kind, convert = kinds[name]
    if convert is None:
        return kind()
    try:
        return kind(convert(argument))
    except ValueError as error:
        if isinstance(error, AmodalError):
            raise
        raise ConfigurationError(
            f"mechanism {name!r} needs an argument", expected=f"{name}:NUMBER", got=repr(text)
        ) from error
