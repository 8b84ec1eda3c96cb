"""Bootstrap values of a mean over several seeds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["resample_seeds"]


def resample_seeds(drawn: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Bootstrap values of a mean over seeds, the seeds resampled too; see `Results`.

    Args:
        drawn: Values of S seeds on R resamples of the cases, (S, R).
        generator: Source of the seeds drawn.

    Returns:
        Of shape (R,).

    Example:
        >>> resample_seeds(np.array([[1.0, 2.0, 3.0]]), np.random.default_rng(0))
        array([1., 2., 3.])
    """
    n_seeds, n_resamples = drawn.shape
    mean = drawn.mean(axis=0)
    if n_seeds == 1:
        return mean
    picked = generator.integers(0, n_seeds, size=(n_seeds, n_resamples))
    return mean + math.sqrt(n_seeds / (n_seeds - 1)) * (np.take_along_axis(drawn, picked, axis=0).mean(axis=0) - mean)
