"""Points of the unit cube: conversion, checks, precision, and pseudo-observations of data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amodal.errors import ConfigurationError, DataError, ShapeError

__all__ = [
    "as_parameter",
    "as_points",
    "as_presence",
    "blank",
    "full_precision",
    "into_open_interval",
    "open_uniform",
    "pseudo_observations",
    "require_generator",
    "require_inside",
    "require_last_axis",
    "without_autocast",
]

_INSIDE = (
    "Use pseudo_observations(data), or log_density_from_logs with log u and log(1 - u) where u itself rounds to 0 or 1."
)


def as_points(u: Any) -> Tensor:
    """A tensor of at least single precision from a tensor, an array, a frame or nested numbers (then float64)."""
    points = u if isinstance(u, Tensor) else torch.from_numpy(np.array(u))
    if not points.is_floating_point():
        raise ShapeError("u must hold numbers between 0 and 1", expected="floating point", got=points.dtype)
    return full_precision(points)


def as_parameter(value: Any, name: str) -> Tensor:
    """A floating-point tensor from a tensor (in its graph) or from numbers (then float64)."""
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigurationError(f"{name} is not a number", expected="a number, or a tensor", got=repr(value)) from None
    return tensor if tensor.is_floating_point() else tensor.double()


def as_presence(observed: Any, u: Tensor) -> Tensor:
    """Presence as a bool tensor next to u, broadcastable to it."""
    presence = observed if isinstance(observed, Tensor) else torch.from_numpy(np.array(observed))
    if presence.dtype != torch.bool:
        raise ShapeError("observed must be bool, True where present", expected=torch.bool, got=presence.dtype)
    return presence.to(u.device)


def require_last_axis(x: Tensor, dim: int, name: str) -> None:
    """Check that the last axis holds the margins of a copula of that name."""
    if x.ndim == 0 or x.shape[-1] != dim:
        raise ShapeError(
            f"the last axis of u holds the margins of this {name}",
            expected=f"shape (…, {dim})",
            got=f"shape {tuple(x.shape)}",
        )


def require_inside(u: Tensor, observed: Tensor | None, *, closed: bool) -> None:
    """Check that what is observed is a probability.

    Args:
        u: Points, shape (…, M).
        observed: Presence, bool, broadcastable to ``u``.
        closed: Whether 0 and 1 themselves are allowed.

    Raises:
        DataError: Naming the first entry that is not.
    """
    fine = ((u >= 0) & (u <= 1)) if closed else ((u > 0) & (u < 1))
    if observed is not None:
        fine = fine | ~observed
    if bool(fine.all()):
        return
    where = (~fine).nonzero()[0].tolist()
    value = u.expand(fine.shape)[tuple(where)].item()
    raise DataError(
        "u has an entry that is not a probability" if closed else "u has an entry that is not inside (0, 1)",
        expected="0 <= u <= 1" if closed else "0 < u < 1",
        got=f"u{where} = {value}",
        hint=None if closed else _INSIDE,
    )


def require_generator(generator: Any) -> None:
    """Check that a source of randomness is one."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ConfigurationError(
            "generator is not a source of randomness",
            expected="a torch.Generator or None",
            got=repr(generator),
            hint="Write torch.Generator().manual_seed(0) for a seed.",
        )


def blank(u: Tensor, observed: Tensor | None) -> Tensor:
    """One half in place of what is absent."""
    return u if observed is None else torch.where(observed, u, 0.5)


def full_precision(x: Tensor) -> Tensor:
    """Half precision raised to float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which operations keep the precision of their arguments."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def into_open_interval(u: Tensor) -> Tensor:
    """Probabilities that have rounded to 0 or 1, moved to the nearest number inside."""
    limits = torch.finfo(u.dtype)
    return u.clamp(limits.tiny, 1 - limits.eps / 2)


def open_uniform(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform draws strictly inside (0, 1)."""
    w = torch.rand(tuple(shape), dtype=like.dtype, device=like.device, generator=generator)
    return into_open_interval(w)


def pseudo_observations(data: Any, observed: Any = None) -> Tensor:
    r"""Ranks over n + 1 of each column: what a copula is fitted to where the margins are not known.

    .. math:: u_{im} = \frac{\operatorname{rank}(x_{im})}{n_m + 1}

    with :math:`n_m` the number of values in column m; equal values share the mean of their ranks.

    Args:
        data: Numbers of any scale, shape (N, M): array, tensor, frame or nested lists.
        observed: Presence, bool (N, M); NaN counts as absent too.

    Returns:
        Float64, shape (N, M), strictly inside (0, 1); NaN where absent.

    Raises:
        ShapeError: If ``data`` is not (N, M), or ``observed`` of another shape or not bool.

    Example:
        >>> pseudo_observations([[1.0, 30.0], [2.0, 10.0], [float("nan"), 20.0]])
        tensor([[0.3333, 0.7500],
                [0.6667, 0.2500],
                [   nan, 0.5000]], dtype=torch.float64)
    """
    from scipy.stats import rankdata

    values = np.array(data.detach().cpu().numpy() if isinstance(data, Tensor) else data, dtype=np.float64)
    if values.ndim != 2:
        raise ShapeError("pseudo-observations need rows by margins", expected="(N, M)", got=values.shape)
    if observed is not None:
        presence = as_presence(observed, torch.empty(0)).cpu().numpy()
        if presence.shape != values.shape:
            raise ShapeError("observed must have the shape of data", expected=values.shape, got=presence.shape)
        values[~presence] = np.nan
    ranks = rankdata(values, axis=0, nan_policy="omit")
    return torch.from_numpy(ranks / ((~np.isnan(values)).sum(0) + 1.0))
