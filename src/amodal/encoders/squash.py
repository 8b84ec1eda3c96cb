"""Soft clipping and soft steps of standardised values, without parameters."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SOFT_STEP_CUTS", "soft_clip", "soft_steps"]

SOFT_STEP_CUTS = (-1.5, -0.75, 0.0, 0.75, 1.5)
"""Where soft steps rise, in standard deviations."""


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


def soft_steps(values: Tensor, cuts: tuple[float, ...] = SOFT_STEP_CUTS, sharpness: float = 4.0) -> Tensor:
    r"""Each value with smooth steps of it, so that a linear map of the result can bend, as a tree's splits do.

    .. math::
        x \mapsto \bigl(x,\ \sigma(k (x - c_1)) - \tfrac12,\ \dots,\ \sigma(k (x - c_K)) - \tfrac12\bigr)

    Args:
        values: Standardised, of shape (…, D).
        cuts: Where the K steps rise, in standard deviations.
        sharpness: Slope k of the steps.

    Returns:
        Of shape (…, D · (1 + K)); a feature's own values lie side by side.

    Source:
        A smooth form of the piecewise linear encoding of :cite:`gorishniy2022embeddings`, with cuts that are the same
        for all features instead of their quantiles.

    Example:
        >>> soft_steps(torch.tensor([[0.0, 9.0]]), cuts=(0.0,))
        tensor([[0.0000, 0.0000, 9.0000, 0.5000]])
    """
    steps = [torch.sigmoid(sharpness * (values - cut)) - 0.5 for cut in cuts]
    return torch.stack([values, *steps], dim=-1).flatten(-2)
