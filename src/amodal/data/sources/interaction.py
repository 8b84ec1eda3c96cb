"""Interaction: three numbers, the first noise; a label of one, of two together, or of two copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from amodal.data.cohort import Cohort
from amodal.data.split import split_groups
from amodal.errors import UnknownNameError
from amodal.schema import Task

__all__ = ["interaction_cohort"]

_RULES = ("alone", "copy", "xor")


def interaction_cohort(
    rule: Literal["alone", "copy", "xor"] = "xor",
    *,
    n: int = 2000,
    seed: int = 0,
    fractions: Mapping[str, float] | None = None,
) -> Cohort:
    """Three standard normal numbers, each a modality: "noise", "a" and "b".

    With only the noise seen, what looking at a and b changes is known: of the prediction, which is one half,

    ===========  ====================================  ===============  ===============  ==============
    rule         label                                 a next, b next   a last, b last   both (V)
    ===========  ====================================  ===============  ===============  ==============
    ``alone``    a > 0                                 0.5, 0           0.5, 0           0.5
    ``copy``     a > 0, and b is a                     0.5, 0.5         0, 0             0.5
    ``xor``      the signs of a and b differ           0, 0             0.5, 0.5         0.5
    ===========  ====================================  ===============  ===============  ==============

    Args:
        rule: How the label is made.
        n: Number of cases.
        seed: Seed of cases and splits.
        fractions: Fraction of the cases for each split; default 0.8 train, 0.1 valid, 0.1 test.

    Raises:
        UnknownNameError: If there is no such rule.

    Example:
        >>> interaction_cohort("copy", n=100)
        <Cohort 'interaction': 100 samples, noise, a, b>
    """
    if rule not in _RULES:
        raise UnknownNameError("rule of the label", rule, _RULES)
    noise, a, b = np.random.default_rng(seed).normal(size=(3, n)).astype(np.float32)
    b = a.copy() if rule == "copy" else b
    target = ((a > 0) != (b > 0)) if rule == "xor" else a > 0
    fractions = {"train": 0.8, "valid": 0.1, "test": 0.1} if fractions is None else fractions
    return Cohort.from_arrays(
        {"noise": noise[:, None], "a": a[:, None], "b": b[:, None]},
        task=Task("binary", name=rule, classes=("no", "yes")),
        target=target.astype(np.int64),
        splits=split_groups(np.arange(n), target.astype(np.int64), fractions, seed=seed),
        name="interaction",
        description="Noise and two numbers: one decides, both together, or either",
    )
