"""Taming outliers of standardised values without learning anything."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["soft_clip"]


def soft_clip(values: Tensor, scale: float = 3.0) -> Tensor:
    r"""Bounds values smoothly: nearly the identity within one `scale`, never beyond it.

    .. math::
        f(x) = \frac{x}{\sqrt{1 + (x / s)^2}}

    Args:
        values: Of any shape, standardised, finite.
        scale: The bound s, in standard deviations, positive.

    Returns:
        Of the same shape, within ±s, finite for every finite input.

    Example:
        >>> soft_clip(torch.tensor([0.0, 1.0, -4.0, 1e30]))
        tensor([ 0.0000,  0.9487, -2.4000,  3.0000])
    """
    # hypot does not overflow where a square would; s·x/hypot(s, x) is the formula above
    return scale * (values / torch.hypot(values, torch.full((), scale, dtype=values.dtype, device=values.device)))
