"""Random directions and frequencies at which characteristic functions are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.errors import ConfigurationError

__all__ = ["random_directions", "random_frequencies"]


def random_directions(
    dim: int,
    count: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Directions drawn uniformly from the unit sphere.

    Args:
        dim: Dimension D of the space.
        count: Number P of directions.
        generator: Source of the draws, on ``device``. None takes torch's global one.
        device: Where the result lives.
        dtype: Floating type of the result.

    Returns:
        Unit columns, of shape (D, P).

    Raises:
        ConfigurationError: If a size is not positive.

    Example:
        >>> import torch
        >>> A = random_directions(16, 4, generator=torch.Generator().manual_seed(0))
        >>> A.shape, torch.allclose(A.norm(dim=0), torch.ones(4))
        (torch.Size([16, 4]), True)
    """
    if dim < 1 or count < 1:
        raise ConfigurationError("directions need positive sizes", expected="dim >= 1, count >= 1", got=(dim, count))
    draws = torch.randn(dim, count, generator=generator, device=device, dtype=dtype)
    return draws / draws.norm(dim=0, keepdim=True).clamp_min(torch.finfo(dtype).tiny)


def random_frequencies(
    count: int,
    max_frequency: float = 5.0,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Frequencies drawn uniformly from (0, max_frequency].

    The paper draws from [-max_frequency, max_frequency] in one place and asks for positive ones in another. A squared
    difference of characteristic functions is even in the frequency, so that both are the same in distribution.

    Args:
        count: Number F of frequencies.
        max_frequency: The largest frequency, in radians for each unit of a projected feature.
        generator: Source of the draws, on ``device``. None takes torch's global one.
        device: Where the result lives.
        dtype: Floating type of the result.

    Returns:
        Frequencies, of shape (F,).

    Raises:
        ConfigurationError: If the count or the largest frequency is not positive.

    Source:
        :cite:`choi2025cepa`, section 2.4 and appendix D.3.

    Example:
        >>> import torch
        >>> f = random_frequencies(1000, 5.0, generator=torch.Generator().manual_seed(0))
        >>> f.min().item() > 0, f.max().item() <= 5
        (True, True)
    """
    if count < 1 or not 0 < max_frequency < float("inf"):
        raise ConfigurationError(
            "frequencies cannot be drawn", expected="count >= 1, max_frequency > 0", got=(count, max_frequency)
        )
    return max_frequency * (1 - torch.rand(count, generator=generator, device=device, dtype=dtype))
