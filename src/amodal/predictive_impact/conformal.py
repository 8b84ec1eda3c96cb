r"""Sets of labels with a promise: the true one is among them in a stated share of cases.

Split conformal prediction: the score of a label is one less its probability, and the threshold is the score below
which the true label of a stated share of calibration cases lies. The promise holds for cases that are exchangeable
with the calibration cases: lacking the same modalities in the same way, above all.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amodal.errors import ConfigurationError, DataError, ShapeError

__all__ = ["conformal_labels", "conformal_threshold"]


def conformal_threshold(probabilities: ArrayLike, target: ArrayLike, coverage: float = 0.9) -> float:
    r"""The largest score of a label that belongs to a set.

    The :math:`\lceil (n + 1)\, \mathrm{coverage} \rceil`-th smallest score :math:`1 - p_y` of the n calibration cases.

    Args:
        probabilities: Predictions of the calibration cases, of shape (n, C).
        target: Their classes (n,); negative ones are unknown and left out.
        coverage: Share of cases whose true label is to be in its set, above 0 and below 1.

    Raises:
        ConfigurationError: If the coverage is out of range.
        ShapeError: If shapes do not fit.
        DataError: If there are too few calibration cases for such a coverage.

    Source:
        :cite:`vovk2005algorithmic`; as in :cite:`angelopoulos2023conformal`, section 1.

    Example:
        >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
        >>> round(conformal_threshold(p, [0, 1, 0, 0], coverage=0.75), 2)
        0.4
    """
    if not 0 < coverage < 1:
        raise ConfigurationError("a coverage is out of range", expected="above 0 and below 1", got=coverage)
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(target)
    if p.ndim != 2 or y.shape != (len(p),):
        raise ShapeError("calibration cases do not fit", expected="(n, C) and (n,)", got=f"{p.shape} and {y.shape}")
    known = np.nan_to_num(y.astype(np.float64), nan=-1) >= 0
    scores = np.sort(1.0 - p[known, y[known].astype(np.int64)])
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    if rank > len(scores):
        raise DataError(
            f"too few calibration cases for a coverage of {coverage:g}",
            expected=f"at least {math.ceil(coverage / (1 - coverage) - 1e-9)} with a known class",
            got=len(scores),
        )
    return float(scores[rank - 1])


def conformal_labels(probabilities: ArrayLike, threshold: float) -> list[tuple[int, ...]]:
    """Sets of labels whose score is at most the threshold, by falling probability.

    Args:
        probabilities: Predictions, of shape (N, C).
        threshold: Of `conformal_threshold`.

    Example:
        >>> conformal_labels([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05]], threshold=0.7)
        [(0, 1), (0,)]
    """
    p: NDArray[np.float64] = np.asarray(probabilities, dtype=np.float64)
    order = np.argsort(-p, axis=1, kind="stable")
    return [tuple(int(c) for c in row if 1.0 - q[c] <= threshold + 1e-12) for row, q in zip(order, p)]
