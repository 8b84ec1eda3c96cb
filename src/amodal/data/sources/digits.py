"""scikit-learn's handwritten digits, cut into four quadrants: an embedded cohort that can be checked by eye."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from amodal.data.cohort import Cohort
from amodal.data.split import split_groups
from amodal.options import Count, Weight, options_checked
from amodal.schema import Task

__all__ = ["QUADRANTS", "digit_quadrants"]

QUADRANTS: dict[str, tuple[slice, slice]] = {
    "top_left": (slice(0, 4), slice(0, 4)),
    "top_right": (slice(0, 4), slice(4, 8)),
    "bottom_left": (slice(4, 8), slice(0, 4)),
    "bottom_right": (slice(4, 8), slice(4, 8)),
}
"""Rows and columns of each modality in the 8 × 8 scan."""


@options_checked
def digit_quadrants(*, seed: Count = 0, fractions: Mapping[str, Weight] | None = None) -> Cohort:
    """1,797 scans of handwritten digits (8 × 8, ink 0 … 16), each cut into four modalities of 4 × 4.

    Args:
        seed: Seed of the stratified splits.
        fractions: Fraction of the scans for each split; default 0.6 train, 0.1 valid, 0.3 test.

    Returns:
        A cohort in memory; every scan is its own group and has all four quadrants.

    Source:
        :cite:`alpaydin1998digits`, the test part, as bundled with scikit-learn.

    Example:
        >>> cohort = digit_quadrants(seed=1)
        >>> len(cohort.split("test")), cohort.schema["top_left"].shape
        (539, (1, 4, 4))
    """
    from sklearn.datasets import load_digits

    bundle: Any = load_digits()
    target = np.asarray(bundle.target)
    images = bundle.images.reshape(-1, 1, 8, 8).astype(np.uint8)
    fractions = {"train": 0.6, "valid": 0.1, "test": 0.3} if fractions is None else fractions
    ids = np.char.add("digit-", np.char.zfill(np.arange(len(images)).astype(str), 4))
    return Cohort.from_arrays(
        {name: np.ascontiguousarray(images[:, :, rows, columns]) for name, (rows, columns) in QUADRANTS.items()},
        task=Task("multiclass", name="digit", classes=tuple(range(10))),
        target=target,
        ids=ids,
        splits=split_groups(ids, target, fractions, seed=seed),
        name="digits",
        description="Handwritten digits, 8 × 8 scans cut into four quadrants (scikit-learn)",
    )
