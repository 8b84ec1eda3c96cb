"""Draws of predictions as they come in: numpy or torch, checked at the door, worked on some cases at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from amodal.errors import ConfigurationError, DataError, ShapeError

__all__ = [
    "ArrayOrTensor",
    "case_slices",
    "check_count",
    "check_draws",
    "check_probabilities",
    "like",
    "map_cases",
    "take_cases",
]

ArrayOrTensor = TypeVar("ArrayOrTensor", np.ndarray, Tensor)
"""Numpy in, numpy out; torch in, torch out."""

CHUNK = 2**24
"""Numbers in work at a time (64 MiB in single precision), unless a single case has more."""


def check_count(what: str, count: int) -> None:
    """Refuse a number, of draws say, that is not a positive integer.

    Raises:
        ConfigurationError: Then.
    """
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise ConfigurationError(f"the number of {what} is out of range", expected="1 or more", got=repr(count))


def check_draws(draws: np.ndarray | Tensor, name: str, *axes: str) -> None:
    """Refuse what is not an array with the named axes, and zero draws.

    Raises:
        ShapeError: For another type or another number of axes.
        ConfigurationError: If an axis but that of the cases, N, is empty.
    """
    expected = f"a numpy array or torch tensor of shape ({', '.join(axes)})"
    if not isinstance(draws, np.ndarray | Tensor):
        raise ShapeError(f"{name} cannot be used", expected=expected, got=type(draws).__name__)
    shape = tuple(draws.shape)
    if len(shape) != len(axes):
        raise ShapeError(f"{name} have the wrong axes", expected=expected, got=shape)
    for axis, size in zip(axes, shape):
        if size == 0 and axis != "N":
            hint = "Ask for at least one draw." if axis in ("S", "K_out", "K_in") else None
            raise ConfigurationError(f"{name} have nothing along {axis}", expected=f"{axis} >= 1", got=shape, hint=hint)


def check_probabilities(part: Tensor, name: str) -> Tensor:
    """The same tensor, if its last axis holds distributions over classes.

    Raises:
        DataError: If entries are negative or not finite, or do not sum to one.
    """
    total = part.sum(-1)
    if not (bool((part >= -1e-6).all()) and bool(((total - 1.0).abs() < 1e-2).all())):
        raise DataError(
            f"{name} must be probabilities over the last axis",
            expected="entries of at least 0 that sum to 1",
            got=f"entries from {float(part.min()):.3g}, sums from {float(total.min()):.3g} to {float(total.max()):.3g}",
            hint="Logits become probabilities by a softmax over the last axis.",
        )
    return part


def case_slices(shape: tuple[int, ...], axis: int) -> Iterator[slice]:
    """Slices of the cases, which lie along the given axis, each of about `CHUNK` numbers."""
    cases = shape[axis]
    step = max(1, CHUNK * cases // max(math.prod(shape), 1))
    return (slice(start, min(start + step, cases)) for start in range(0, cases, step))


def take_cases(draws: np.ndarray | Tensor, cases: slice, axis: int) -> Tensor:
    """Some cases as a tensor of at least single precision; of a memory map only these are read."""
    index = (*[slice(None)] * axis, cases)
    part = draws[index].detach() if isinstance(draws, Tensor) else torch.from_numpy(np.array(draws[index]))
    return part if part.dtype in (torch.float32, torch.float64) else part.float()


def like(result: Tensor, original: ArrayOrTensor) -> ArrayOrTensor:
    """The result as the kind of array that came in."""
    return result if isinstance(original, Tensor) else result.cpu().numpy()  # type: ignore[return-value]


def map_cases(function: Callable[[Tensor], Tensor], draws: ArrayOrTensor, axis: int) -> ArrayOrTensor:
    """A function of draws, applied to some cases at a time; its results (n, …) put together."""
    parts = [function(take_cases(draws, cases, axis)) for cases in case_slices(tuple(draws.shape), axis)]
    if not parts:  # no cases: one made-up case says of what shape and type nothing is
        one = (*draws.shape[:axis], 1, *draws.shape[axis + 1 :])
        parts = [function(torch.full(one, 1.0 / one[-1]))[:0]]
    return like(torch.cat(parts), draws)
