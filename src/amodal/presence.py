"""Presence of a cohort's rows, drawn from a missingness mechanism."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.data.cohort import Cohort
from amodal.missingness import Mechanism, Presence, realise

__all__ = ["draw_presence"]


def draw_presence(mechanism: Mechanism, cohort: Cohort, seed: int | Sequence[int]) -> Presence:
    """Draws the presence of a cohort's rows from a mechanism.

    Args:
        mechanism: The missingness mechanism.
        cohort: N cases.
        seed: One integer or several.

    Returns:
        Presence of the N cases after natural absence and removal.

    Example:
        >>> import amodal
        >>> from amodal.missingness import MCAR
        >>> presence = draw_presence(MCAR(0.5), amodal.load_cohort("digits"), seed=0)
        >>> presence.observed.shape, bool(presence.observed.any(axis=1).all())
        ((1797, 4), True)
    """
    scores = cohort.scores() if mechanism.needs_scores else None
    entropy = np.random.SeedSequence(seed)
    return realise(mechanism, cohort.observed, cohort.schema.names, seed=entropy, scores=scores)
