"""Splits and folds: by group, stratified, seeded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from amodal.batch import known_targets
from amodal.errors import ConfigurationError, DataError, ShapeError

__all__ = ["folds", "split_groups"]

_REGRESSION_STRATA = 10
_NO_LABEL = -2  # the stratum of groups without any label


def split_groups(
    groups: np.ndarray,
    target: np.ndarray | None,
    fractions: Mapping[str, float] | None = None,
    *,
    seed: int,
    stratify: bool = True,
) -> np.ndarray:
    """Assigns whole groups to splits.

    Args:
        groups: Group of each row, of shape (N,).
        target: int64 classes (N,), -1 = unknown; float labels (N, K) or values (N,), NaN = unknown; or None.
        fractions: Fraction of the rows for each split; default 0.7 train, 0.1 valid, 0.2 test.
        seed: Seed of the assignment.
        stratify: Give every split the same mixture of classes (of a group: its rarest class; regression: tenths of the
            group's mean) and of groups without any label, and the first split at least one group of each.

    Returns:
        Name of the split of each row, str (N,).

    Raises:
        ConfigurationError: If the fractions are not positive or do not sum to 1.
        DataError: If there are fewer groups than splits.

    Example:
        >>> splits = split_groups(np.arange(10) // 2, None, {"train": 0.8, "test": 0.2}, seed=0)
        >>> (splits == "train").sum(), (splits == "test").sum()
        (np.int64(8), np.int64(2))
    """
    fractions = {"train": 0.7, "valid": 0.1, "test": 0.2} if fractions is None else dict(fractions)
    shares = np.array(list(fractions.values()), dtype=float)
    if len(shares) == 0 or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-6 or "" in fractions:
        raise ConfigurationError("fractions of splits must be positive and sum to 1", got=fractions)
    places = _allot(groups, target if stratify else None, shares, np.random.default_rng(seed), first_gets_all=stratify)
    return np.array(list(fractions))[places]


def folds(groups: np.ndarray, target: np.ndarray | None, n_folds: int, *, seed: int) -> np.ndarray:
    """Assigns whole groups to folds of about equal size and mixture of classes.

    Args:
        groups: Group of each row, of shape (N,).
        target: As for `split_groups`.
        n_folds: Number of folds, 2 or more.
        seed: Seed of the assignment.

    Returns:
        Fold of each row, int64 (N,), 0 … n_folds - 1.

    Raises:
        ConfigurationError: If there are fewer than two folds.
        DataError: If there are fewer groups than folds.
    """
    if n_folds < 2:
        raise ConfigurationError("n_folds is out of range", expected="2 or more", got=n_folds)
    shares = np.full(n_folds, 1 / n_folds)
    return _allot(groups, target, shares, np.random.default_rng(seed), first_gets_all=False)


def _allot(
    groups: np.ndarray,
    target: np.ndarray | None,
    shares: np.ndarray,
    generator: np.random.Generator,
    *,
    first_gets_all: bool,
) -> np.ndarray:
    """Position in `shares` of each row, int64 (N,): stratum by stratum, what one falls short of the next makes up."""
    groups = np.asarray(groups)
    names, of_row = np.unique(groups, return_inverse=True)
    if len(names) < len(shares):
        raise DataError("there are too few groups to split", expected=f"at least {len(shares)}", got=len(names))
    sizes = np.bincount(of_row, minlength=len(names))  # (G,)
    strata = _strata(of_row, target, len(names))
    places = np.zeros(len(names), np.int64)
    got = np.zeros(len(shares))
    rows_so_far = 0
    # Small strata first, so that the large ones even out what their rounding leaves.
    for stratum in sorted(np.unique(strata), key=lambda s: (sizes[strata == s].sum(), s)):
        members = generator.permutation(np.flatnonzero(strata == stratum))
        rows_so_far += sizes[members].sum()
        wanted = np.maximum(shares * rows_so_far - got, 0.0)
        ends = (wanted / wanted.sum()).cumsum() * sizes[members].sum()
        middles = sizes[members].cumsum() - sizes[members] / 2
        place = np.minimum(np.searchsorted(ends, middles, side="right"), len(shares) - 1)
        if first_gets_all:
            place[0] = 0
        places[members] = place
        got += np.bincount(place, weights=sizes[members], minlength=len(shares))
    for empty in np.setdiff1d(np.arange(len(shares)), places):  # few, large groups can leave a split without any
        fullest = np.bincount(places).argmax()
        places[generator.choice(np.flatnonzero(places == fullest))] = empty
    return places[of_row]


def _strata(of_row: np.ndarray, target: np.ndarray | None, n_groups: int) -> np.ndarray:
    """Stratum of each group, int64 (G,)."""
    if target is None:
        return np.zeros(n_groups, np.int64)
    target = np.asarray(target)
    if len(target) != len(of_row):
        raise ShapeError("groups and target have different numbers of rows", expected=len(of_row), got=len(target))
    known = known_targets(torch.from_numpy(target)).numpy()
    labelled = np.bincount(of_row, weights=known, minlength=n_groups) > 0  # (G,)
    if target.ndim == 1 and target.dtype.kind == "f":
        total = np.bincount(of_row, weights=np.where(known, target, 0.0), minlength=n_groups)
        mean = (total / np.bincount(of_row, weights=known, minlength=n_groups).clip(1))[labelled]
        n_bins = max(1, min(_REGRESSION_STRATA, len(mean) // 10))
        strata = np.full(n_groups, _NO_LABEL)
        strata[labelled] = (mean.argsort(kind="stable").argsort(kind="stable") * n_bins) // max(1, len(mean))
        return strata
    if target.ndim == 1:
        classes, position = np.unique(target[known], return_inverse=True)
        has = np.zeros((n_groups, len(classes)), bool)
        has[of_row[known], position] = True
    else:
        has = np.zeros((n_groups, target.shape[1]), bool)
        np.logical_or.at(has, of_row, target == 1)
    if not has.shape[1]:
        return np.full(n_groups, _NO_LABEL)
    common = np.where(has, has.sum(0), n_groups + 1)  # (G, C); the rarest class of a group is its stratum
    return np.where(has.any(1), common.argmin(1), np.where(labelled, -1, _NO_LABEL))
