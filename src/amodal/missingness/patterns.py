"""Patterns of presence: codes, labels, and the list of all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from amodal.errors import ConfigurationError, ShapeError

__all__ = ["all_patterns", "pattern_codes", "pattern_label"]

_LARGEST_CODED = 62  # modalities that fit the bits of a non-negative int64
_LARGEST_LISTED = 16  # modalities whose patterns can still be listed (65,535)


def pattern_codes(observed: np.ndarray) -> np.ndarray:
    """Codes each row's presence as an integer: bit m is set where modality m is present.

    Args:
        observed: Presence, bool, of shape (N, M).

    Returns:
        Codes, int64, of shape (N,); 0 where nothing is present.

    Raises:
        ShapeError: If `observed` is not a bool array of two axes, or has more than 62 modalities.

    Example:
        >>> pattern_codes(np.array([[True, False], [False, True], [True, True], [False, False]]))
        array([1, 2, 3, 0])
    """
    observed = np.asarray(observed)
    if observed.ndim != 2 or observed.dtype != np.bool_ or observed.shape[1] > _LARGEST_CODED:
        raise ShapeError(
            "presence cannot be coded",
            expected=f"bool of shape (N, M), M <= {_LARGEST_CODED}",
            got=f"{observed.dtype} {observed.shape}",
        )
    codes = np.zeros(len(observed), dtype=np.int64)
    for m in range(observed.shape[1]):
        codes |= observed[:, m].astype(np.int64) << m
    return codes


def pattern_label(code: int, names: Sequence[str]) -> str:
    """Names a pattern by the modalities that are present.

    Args:
        code: A code of `pattern_codes`.
        names: Names of the M modalities, in order.

    Returns:
        The present modalities, joined by `+`; "none" for code 0.

    Raises:
        ConfigurationError: If the code is not one of M modalities.

    Example:
        >>> pattern_label(5, ["vitals", "labs", "notes"])
        'vitals+notes'
    """
    if not 0 <= code < 2 ** len(names):
        raise ConfigurationError("not a pattern's code", expected=f"0 … {2 ** len(names) - 1}", got=code)
    return "+".join(name for m, name in enumerate(names) if int(code) >> m & 1) or "none"


def all_patterns(n_modalities: int) -> np.ndarray:
    r"""Lists the :math:`2^M - 1` patterns in which something is present.

    Args:
        n_modalities: The number of modalities M, from 1 to 16.

    Returns:
        Presence, bool, of shape (2**M - 1, M): ordered by the number present, then lexicographically by which.

    Raises:
        ConfigurationError: If M is out of range.

    Example:
        >>> all_patterns(2).astype(int).tolist()
        [[1, 0], [0, 1], [1, 1]]
    """
    if not 1 <= n_modalities <= _LARGEST_LISTED:
        raise ConfigurationError(
            "the patterns of so many modalities cannot be listed",
            expected=f"1 … {_LARGEST_LISTED} modalities",
            got=n_modalities,
            hint="Use the patterns that occur: np.unique(pattern_codes(observed)).",
        )
    present = [chosen for k in range(1, n_modalities + 1) for chosen in combinations(range(n_modalities), k)]
    patterns = np.zeros((len(present), n_modalities), dtype=bool)
    for row, chosen in enumerate(present):
        patterns[row, list(chosen)] = True
    return patterns
