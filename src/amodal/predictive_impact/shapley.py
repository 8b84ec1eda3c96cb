"""Shapley values over few players, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial

import numpy as np
from numpy.typing import NDArray

__all__ = ["shapley_shares", "subsets"]


def subsets(players: Sequence[str]) -> list[tuple[str, ...]]:
    """All subsets in the players' order, the empty one first.

    Example:
        >>> subsets(["a", "b"])
        [(), ('a',), ('b',), ('a', 'b')]
    """
    return [chosen for size in range(len(players) + 1) for chosen in combinations(players, size)]


def shapley_shares(
    values: Mapping[tuple[str, ...], NDArray[np.float64]], players: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    r"""Share of each player in the value of all.

    .. math::
        \phi_u = \sum_{S \not\ni u} \frac{|S|!\,(n - |S| - 1)!}{n!} \big(v(S \cup u) - v(S)\big)

    The shares add up to :math:`v(\text{all}) - v(\emptyset)`.

    Args:
        values: For each of `subsets` its value, arrays of one shape.
        players: Their names.

    Source:
        :cite:`shapley1953value`.

    Example:
        >>> together = {(): np.zeros(1), ("a",): np.zeros(1), ("b",): np.zeros(1), ("a", "b"): np.ones(1)}
        >>> shapley_shares(together, ["a", "b"])
        {'a': array([0.5]), 'b': array([0.5])}
    """
    n, shares = len(players), {}
    for player in players:
        total = np.zeros_like(next(iter(values.values())), dtype=np.float64)
        for chosen in subsets([other for other in players if other != player]):
            weight = factorial(len(chosen)) * factorial(n - len(chosen) - 1) / factorial(n)
            more = tuple(name for name in players if name in chosen or name == player)
            total += weight * (np.asarray(values[more]) - np.asarray(values[chosen]))
        shares[player] = total
    return shares
