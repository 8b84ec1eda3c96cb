"""Random numbers spread evenly over draws: scrambled Sobol points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["spread_normal", "spread_uniform"]


def spread_uniform(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """Uniform numbers, spread evenly over the draws: of a power of two S, each S-th of (0, 1) has one.

    Each draw by itself is uniform on the cube. Means over all of them vary less than those of independent draws, by the
    more the fewer coordinates matter. All numbers of a draw have to come from one call: two sets of points, though
    scrambled differently, depend on each other.

    Args:
        shape: S draws first, then up to 21,201 coordinates in all.
        generator: Source of the scrambling.
        like: A tensor with the device and the floating type of the result.

    Returns:
        Of that shape, strictly inside (0, 1).

    Source:
        :cite:`owen1998scrambling`, as in `torch.quasirandom`.

    Example:
        >>> u = spread_uniform((4, 2), torch.Generator().manual_seed(0), torch.empty(0))
        >>> (4 * u).floor().sort(0).values.T
        tensor([[0., 1., 2., 3.],
                [0., 1., 2., 3.]])
    """
    coordinates = int(torch.Size(shape[1:]).numel())
    seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
    engine = torch.quasirandom.SobolEngine(max(coordinates, 1), scramble=True, seed=seed)
    points = engine.draw(shape[0], dtype=torch.float64)[:, :coordinates].reshape(*shape)
    tiny = torch.finfo(torch.float32).eps / 2
    return points.clamp(tiny, 1.0 - tiny).to(like)


def spread_normal(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal numbers, spread evenly as those of `spread_uniform`.

    Example:
        >>> z = spread_normal((1024,), torch.Generator().manual_seed(0), torch.empty(0))
        >>> bool(abs(z.mean()) < 1e-2), bool(abs(z.std() - 1) < 0.02)
        (True, True)
    """
    return torch.special.ndtri(spread_uniform(shape, generator, like))
