"""Points of the unit cube at the door of a copula: what they must be, and in which precision they are used."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from amodal.errors import DataError

__all__ = ["blank", "full_precision", "into_open_interval", "open_uniform", "require_inside", "without_autocast"]

_INSIDE = "Use ranks / (n + 1), or log_density_from_logs with log u and log(1 - u) where u itself rounds to 0 or 1."


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
