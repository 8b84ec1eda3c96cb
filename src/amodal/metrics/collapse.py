"""Numbers that show whether representations have collapsed: to a point, to a line, or to one answer for every case."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from amodal.errors import ShapeError

__all__ = ["context_diversity", "effective_rank", "effective_sample_size", "spread"]


def effective_rank(features: Tensor | ArrayLike, *, centre: bool = True) -> float:
    r"""Number of dimensions that a set of representations really uses.

    .. math:: \exp\Bigl( -\sum_k p_k \log p_k \Bigr), \qquad p_k = \sigma_k \Big/ \sum_l \sigma_l,

    the exponential of the entropy of the normalised singular values.

    Args:
        features: Representations, of shape (N, D).
        centre: Whether to subtract the mean first, so that a common offset does not count as a dimension.

    Returns:
        A number between 1 and min(N, D); 0 if all rows are equal (with ``centre``) or zero, and NaN for fewer than two
        rows or entries that are not finite, where nothing can be said.

    Raises:
        ShapeError: If the representations are not a matrix.

    Source:
        :cite:`roy2007effective`.

    Example:
        >>> round(effective_rank([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), 6)
        2.0
        >>> round(effective_rank([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]), 6)
        1.0
    """
    rows = _matrix(features)
    if len(rows) < 2 or not np.isfinite(rows).all():
        return float("nan")
    if centre:
        rows = rows - rows.mean(0)
    # What rounding leaves of a set that has no spread is no dimension.
    eps = max(rows.shape) * np.finfo(np.float64).eps
    noise = eps * float(np.abs(_matrix(features)).max(initial=0.0))
    # Eigenvalues of the smaller Gram matrix are squares of the singular values, and much cheaper. Values below 1e-7 of
    # the largest are rounding there; they would add less than 1e-5 to the entropy.
    gram = rows.T @ rows if len(rows) >= rows.shape[1] else rows @ rows.T
    squares = np.linalg.eigvalsh(gram)
    values = np.sqrt(squares[squares > eps * squares.max(initial=0.0)].clip(min=0))
    values = values[values > noise]
    if len(values) == 0:
        return 0.0
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def spread(features: Tensor | ArrayLike) -> np.ndarray:
    """Standard deviation of each dimension over the rows.

    Args:
        features: Representations, of shape (N, D).

    Returns:
        Standard deviations (divided by N), of shape (D,); zero where a dimension is constant, and NaN for fewer than
        two rows.

    Raises:
        ShapeError: If the representations are not a matrix.

    Example:
        >>> spread([[1.0, 5.0], [3.0, 5.0]])
        array([1., 0.])
    """
    rows = _matrix(features)
    return rows.std(0) if len(rows) > 1 else np.full(rows.shape[1], np.nan)


def context_diversity(contexts: Tensor | ArrayLike, initial: float | None = None) -> float:
    """Mean over the dimensions of the contexts' standard deviation over the rows.

    Args:
        contexts: Contexts, of shape (N, E).
        initial: Diversity at initialisation, to report what is left of it: 1 is all, 0 is collapse.

    Returns:
        The diversity, divided by ``initial`` if that is given; NaN for fewer than two rows.

    Raises:
        ShapeError: If the contexts are not a matrix.

    Source:
        The quantity of :cite:`choi2025cepa`, figure 2b, which does not define it; the definition is this library's.

    Example:
        >>> context_diversity([[0.0, 0.0], [2.0, 4.0]], initial=3.0)
        0.5
    """
    diversity = float(spread(contexts).mean())
    return diversity if initial is None else diversity / initial


def effective_sample_size(weights: Tensor | ArrayLike) -> np.ndarray:
    r"""Effective number of weighted cases: :math:`(\sum_j w_{ij})^2 / \sum_j w_{ij}^2`.

    Args:
        weights: Weights of at least zero, normalised or not, of shape (Q, N).

    Returns:
        Numbers between 1 and N, of shape (Q,); 0 where all weights are zero.

    Raises:
        ShapeError: If the weights are not a matrix.

    Example:
        >>> effective_sample_size([[1.0, 1.0, 0.0], [3.0, 0.0, 0.0]])
        array([2., 1.])
    """
    rows = _matrix(weights)
    total = np.square(rows).sum(1)
    return np.divide(np.square(rows.sum(1)), total, out=np.zeros(len(rows)), where=total > 0)


def _matrix(values: Tensor | ArrayLike) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2:
        raise ShapeError("representations must be a matrix", expected="(N, D)", got=rows.shape)
    return rows
