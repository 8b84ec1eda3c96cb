"""Normalising flows, built of zuko's transforms. Needs the extra `flows`."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions.transforms import AffineTransform

from amodal.errors import ConfigurationError, RunError

__all__ = ["glow"]


def glow(width: int, *, steps: int, hidden: int, literal: bool = False) -> Any:
    r"""A flow of Glow, of zuko's parts: in each step a scale and shift, a rotation, and a coupling.

    A coupling leaves the first half of the coordinates as it is, and from it computes t and a for the others:

    .. math:: y = (x + t) \cdot s, \qquad s = 0.1 + \operatorname{sigmoid}(a + 2)

    with t = a = 0 at first.

    Args:
        width: Width D.
        steps: Number of steps.
        hidden: Width of both hidden layers of a coupling.
        literal: Couplings alone, so that half of the coordinates pass unchanged, with s = sigmoid(a + 2), which can
            come near 0.

    Returns:
        A module that gives the transform (a torch `Transform` with `call_and_ladj`) when it is called.

    Raises:
        RunError: If zuko is not installed.
        ConfigurationError: If the width is 1.

    Source:
        :cite:`kingma2018glow`, for vectors. Deviations: rotations for general linear maps, whose scales are those of
        the first part; scales of couplings are bounded; no initialisation by data.

    Example:
        >>> transform = glow(4, steps=2, hidden=8)()
        >>> x = torch.randn(3, 4)
        >>> z, log_det = transform.call_and_ladj(x)
        >>> torch.allclose(transform.inv(z), x, atol=1e-5), log_det.shape
        (True, torch.Size([3]))
    """
    try:
        from zuko.flows import GeneralCouplingTransform
        from zuko.lazy import LazyComposedTransform, UnconditionalTransform
        from zuko.transforms import CouplingTransform, MonotonicAffineTransform, RotationTransform
    except ModuleNotFoundError as error:
        raise RunError("flows need the package zuko", hint="pip install 'amodal[flows]'") from error
    if width < 2:
        raise ConfigurationError(
            "a flow needs coordinates to couple", expected="encoders of width 2 or more", got=width
        )
    half = width // 2

    class Halves(CouplingTransform):
        """A coupling whose halves are slices: positions by a mask would be looked for in every step."""

        def __init__(self, meta: Any):
            torch.distributions.Transform.__init__(self)
            self.meta, self.idx_a, self.idx_b = meta, slice(None, half), slice(half, None)

    class HalfCoupling(GeneralCouplingTransform):
        def forward(self, c: Any = None) -> Any:
            return Halves(partial(self.meta, c))

    parts = []
    for _ in range(steps):
        if not literal:
            parts += [
                UnconditionalTransform(MonotonicAffineTransform, torch.zeros(width), torch.zeros(width)),
                UnconditionalTransform(RotationTransform, torch.randn(width, width) / math.sqrt(width)),
            ]
        coupling = HalfCoupling(
            width,
            mask=(torch.arange(width) < half),  # type: ignore[arg-type]
            univariate=_literal_scale if literal else _bounded_scale,
            hidden_features=(hidden, hidden),
        )
        last = cast(nn.Linear, coupling.hyper[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        parts.append(coupling)
    return LazyComposedTransform(*parts)


def _literal_scale(shift: Tensor, raw: Tensor) -> AffineTransform:
    scale = torch.sigmoid(raw + 2)
    return AffineTransform(shift * scale, scale)


def _bounded_scale(shift: Tensor, raw: Tensor) -> AffineTransform:
    scale = 0.1 + torch.sigmoid(raw + 2)
    return AffineTransform(shift * scale, scale)
