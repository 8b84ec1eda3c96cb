"""Bootstrap resamples as counts, and the evaluation of weighted statistics over all of them at once.

A resample of N cases is written as how often it holds each case, so that a thousand resamples are one (R, N) array of
small integers. A metric then sorts its cases once and weighs them R times, instead of being called R times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amodal.errors import ConfigurationError, DataError, ShapeError

__all__ = [
    "FEWEST_GROUPS",
    "Value",
    "as_value",
    "ratio",
    "resample_counts",
    "too_few_groups",
    "weighted",
    "weighted_mean",
    "weighted_sums",
]

Value = float | NDArray[np.float64]
"""One number, or one for each of R resamples, of shape (R,)."""

_BLOCK = 2**18  # cells of the (R, N) weights worked on at a time: the temporaries stay inside the cache


def resample_counts(groups: ArrayLike, resamples: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Draws bootstrap resamples of whole groups, as counts.

    Each resample draws as many groups as there are, with replacement, and holds every case of a group as often as the
    group was drawn: with one case a group this is the ordinary bootstrap, with several it is the clustered one, whose
    resamples vary in size. Draw the counts once and hand them to every metric, every subset of cases
    (``counts[:, rows]``) and every method that is compared.

    Args:
        groups: Group (patient) of each case, of shape (N,); for ungrouped cases their number N as one integer.
        resamples: Number of resamples R, at least 1.
        generator: Source of randomness.

    Returns:
        Counts of shape (R, N), one byte each (N = 1e6 and R = 1,000 take a gigabyte).

    Raises:
        ShapeError: If `groups` is neither a number nor of one axis.
        DataError: If a case has no group, or there is no case.
        ConfigurationError: If `resamples` is not a positive integer, or `generator` is not a NumPy generator.

    Source:
        :cite:`efron1993bootstrap`, chapter 6; resampling of whole clusters: :cite:`davison1997bootstrap`, section 3.8.

    Example:
        >>> resample_counts(["ann", "ann", "bob"], 3, np.random.default_rng(0))
        array([[0, 0, 2],
               [1, 1, 1],
               [2, 2, 0]], dtype=uint8)
    """
    (counts,) = count_blocks(groups, resamples, generator, cells=None)
    return counts


def count_blocks(
    groups: ArrayLike, resamples: int, generator: np.random.Generator, *, cells: int | None
) -> Iterator[NDArray[np.uint8]]:
    """The rows of `resample_counts`, in blocks of at most `cells` cells; the numbers do not depend on the blocks."""
    if not isinstance(resamples, int | np.integer) or resamples < 1:
        raise ConfigurationError("resamples must be a positive integer", got=resamples)
    if not isinstance(generator, np.random.Generator):
        raise ConfigurationError(
            "resampling needs a generator",
            expected="a numpy.random.Generator",
            got=type(generator).__name__,
            hint="Pass generator=numpy.random.default_rng(seed).",
        )
    n_groups, group_of_case = _index_groups(groups)
    n_cases = n_groups if group_of_case is None else len(group_of_case)
    step = int(resamples) if cells is None else max(1, cells // n_cases)
    for start in range(0, int(resamples), step):
        rows = min(step, int(resamples) - start)
        drawn = _draw_groups(n_groups, rows, generator)  # (rows, G)
        yield drawn if group_of_case is None else np.take(drawn, group_of_case, axis=1)  # (rows, N)


def _index_groups(groups: ArrayLike) -> tuple[int, NDArray[np.intp] | None]:
    """Number of groups, and the group's index of each case (None: every case is its own group)."""
    names = np.asarray(groups)
    if names.ndim == 0 and np.issubdtype(names.dtype, np.integer):
        n_groups, index = int(names), None
    elif names.ndim == 1:
        missing = _is_missing(names)
        if missing.any():
            raise DataError("a case has no group", got=f"a missing value in row {int(np.argmax(missing))}")
        unique, index = np.unique(names.astype(str) if names.dtype == object else names, return_inverse=True)
        n_groups = len(unique)
    else:
        raise ShapeError("groups need one value a case", expected="shape (N,), or the number N", got=names.shape)
    if n_groups < 1:
        raise DataError("there is no case to resample", expected="at least one", got=n_groups)
    return n_groups, index


def _is_missing(names: NDArray) -> NDArray[np.bool_]:
    if names.dtype == object:
        import pandas

        return np.asarray(pandas.isna(names))
    return names != names  # NaN and NaT alone differ from themselves


def _draw_groups(n_groups: int, rows: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Counts of each group in `rows` draws of `n_groups` with replacement, (rows, G)."""
    counts = np.empty((rows, n_groups), np.uint8)
    step = max(1, _BLOCK // n_groups)
    for start in range(0, rows, step):
        size = min(step, rows - start)
        drawn = generator.integers(0, n_groups, size=(size, n_groups))
        drawn += np.arange(size)[:, None] * n_groups
        block = np.bincount(drawn.ravel(), minlength=size * n_groups)
        assert block.max() <= 255, "a count is Binomial(G, 1/G): above 255 has a probability below 1e-500"
        counts[start : start + size] = block.reshape(size, n_groups)
    return counts


FEWEST_GROUPS = 10
"""Independent groups (patients) below which no percentile interval is given: it would be far too narrow."""


def too_few_groups(counts: NDArray, fewest: int = FEWEST_GROUPS) -> str | None:
    """The reason why there are too few independent groups for an interval, in a sentence; None if there are enough.

    Args:
        counts: Counts of shape (R, N); cases of one group have the same ones.
        fewest: Groups needed.

    Example:
        >>> too_few_groups(resample_counts(["ann", "ann", "bob"], 20, np.random.default_rng(0)))
        'An interval needs at least 10 groups, and there are 2.'
    """
    few = counts[:256, :4096]  # enough to tell groups apart, and cheap
    n_groups = len(np.unique(few.T, axis=0)) if few.size else 0
    return None if n_groups >= fewest else f"An interval needs at least {fewest} groups, and there are {n_groups}."


def weighted(
    statistic: Callable[[NDArray], NDArray[np.float64]], weight: ArrayLike | None, n_cases: int
) -> NDArray[np.float64]:
    """Evaluates a weighted statistic of N cases for no weight, one weight, or R of them.

    Args:
        statistic: From weights of shape (r, N) to values of shape (r, …). It is called on blocks of a few rows, so that
            its temporaries stay small whatever R is.
        weight: None (every case once), or counts or real weights of shape (N,) or (R, N).
        n_cases: Number of cases N.

    Returns:
        Values of shape (…) without weight or for one of shape (N,), else (R, …).

    Raises:
        ShapeError: If `weight` has another shape.
        DataError: If a weight is negative, not finite, or not a number.

    Example:
        >>> weighted(lambda w: w @ np.array([1.0, 3.0]), [[1, 0], [1, 1]], 2)
        array([1., 4.])
    """
    array = np.ones(n_cases, np.uint8) if weight is None else np.asarray(weight)
    if array.dtype.kind not in "biuf":
        raise DataError("weights must be numbers", expected="counts or real weights", got=f"dtype {array.dtype}")
    if array.ndim not in (1, 2) or array.shape[-1] != n_cases:
        raise ShapeError("weights do not fit the cases", expected=f"({n_cases},) or (R, {n_cases})", got=array.shape)
    if array.ndim == 1:
        return statistic(_checked(array[None]))[0]
    step = max(1, _BLOCK // max(n_cases, 1))
    starts = range(0, max(len(array), 1), step)
    return np.concatenate([statistic(_checked(array[start : start + step])) for start in starts])


def weighted_sums(columns: NDArray[np.float64], weight: ArrayLike | None) -> NDArray[np.float64]:
    """Weighted sums of K values a case: (N, K) to (K,), or to (R, K) for R weights.

    Example:
        >>> weighted_sums(np.array([[1.0, 1.0], [3.0, 1.0]]), [[1, 1], [3, 1]])
        array([[4., 2.],
               [6., 4.]])
    """
    return weighted(lambda block: block.astype(np.float64) @ columns, weight, len(columns))


def weighted_mean(values: NDArray[np.float64], weight: ArrayLike | None) -> Value:
    """Weighted mean of one value a case, (N,); NaN where the weights sum to zero.

    Example:
        >>> weighted_mean(np.array([1.0, 3.0]), [[1, 1], [3, 1], [0, 0]])
        array([2. , 1.5, nan])
    """
    sums = weighted_sums(np.stack([values, np.ones(len(values))], axis=1), weight)
    return as_value(ratio(sums[..., 0], sums[..., 1]))


def as_value(values: NDArray[np.float64]) -> Value:
    """A plain float for an array without axes, else the array."""
    return float(values) if np.ndim(values) == 0 else values


def _checked(block: NDArray) -> NDArray:
    if block.dtype.kind == "f":
        block = block.astype(np.float64, copy=False)
        if not np.isfinite(block).all():
            raise DataError("weights must be finite", got="NaN or infinity")
    if block.dtype.kind in "if" and block.size and block.min() < 0:
        raise DataError("weights must not be negative", got=block.min())
    return block.view(np.uint8) if block.dtype == bool else block


def ratio(numerator: NDArray, denominator: NDArray) -> NDArray[np.float64]:
    """Elementwise quotient, NaN (and no warning) where the denominator is not positive."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    return np.divide(numerator, denominator, out=np.full(shape, np.nan), where=denominator > 0)
