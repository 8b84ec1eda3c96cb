"""Gauss and Legendre's rule on the unit interval."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["gauss_legendre"]


@lru_cache(maxsize=8)
def gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of n points on (0, 1), float64.

    Example:
        >>> nodes, weights = gauss_legendre(4)
        >>> round((weights * nodes**7).sum().item(), 12)  # exact up to degree 2n - 1: 1/8
        0.125
    """
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy(0.5 * (nodes + 1)), torch.from_numpy(0.5 * weights)
