"""Prices of looking at modalities, with prices that fall once another modality of a group has been looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amodal.errors import ConfigurationError, UnknownNameError

__all__ = ["Costs", "read_costs"]


@dataclass(frozen=True)
class Costs:
    """The cost of a look at each modality.

    Args:
        prices: Price of each modality; one without a price is free.
        groups: For each group {modality: its price once another member of the group has been looked at}: a second test
            on the same blood is cheaper.

    Raises:
        ConfigurationError: If a price is negative or no number, or a reduced price is above the full one.

    Source:
        Groups with common costs as in :cite:`turney1995cost`.

    Example:
        >>> costs = Costs({"exercise": 87.3, "thallium": 102.9}, {"nuclear": {"exercise": 87.3, "thallium": 1.0}})
        >>> costs.of(("exercise", "thallium"), np.array([[False, False], [True, False]]))
        array([[ 87.3, 102.9],
               [ 87.3,   1. ]])
    """

    prices: Mapping[str, float]
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, prices in (("price", self.prices), *((f"price in group {g!r}", p) for g, p in self.groups.items())):
            for name, price in prices.items():
                number = isinstance(price, int | float | np.number) and not isinstance(price, bool)
                if not number or not math.isfinite(price) or price < 0:
                    raise ConfigurationError(
                        f"the {what} of {name!r} cannot be used", expected="a number of 0 or more", got=price
                    )
                if price > self.prices.get(name, math.inf) or name not in self.prices:
                    raise ConfigurationError(
                        f"the {what} of {name!r} is above its full price",
                        expected=f"at most {self.prices.get(name, 'a price of its own in `prices`')}",
                        got=price,
                    )

    def check(self, names: Sequence[str]) -> tuple[str, ...]:
        """Notes on modalities without a price.

        Raises:
            UnknownNameError: If a price is of something else than these modalities.
        """
        for name in self.prices:
            if name not in names:
                raise UnknownNameError("modality with a price", name, names)
        free = [name for name in names if name not in self.prices]
        return (f"No price is given for {', '.join(free)}: taken as free.",) if free else ()

    def of(self, names: Sequence[str], observed: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Price of a look at each modality (N, M), given what has been looked at, bool (N, M)."""
        result = np.tile([float(self.prices.get(name, 0.0)) for name in names], (len(observed), 1))
        for reduced in self.groups.values():
            members = [m for m, name in enumerate(names) if name in reduced]
            for m in members:
                others = [k for k in members if k != m]
                cheaper = observed[:, others].any(axis=1)
                result[cheaper, m] = np.minimum(result[cheaper, m], float(reduced[names[m]]))
        return result


def read_costs(costs: Costs | Mapping[str, Any] | None, names: Sequence[str]) -> tuple[Costs, tuple[str, ...]]:
    """Prices as they may be given, and notes on them.

    Args:
        costs: `Costs`, {modality: price}, {"prices": …, "groups": …}, or None: everything is free.
        names: The modalities.

    Raises:
        ConfigurationError: If it is something else, or a price cannot be used.
        UnknownNameError: If a price is of something else than these modalities.
    """
    if costs is None:
        return Costs({}), ()
    if isinstance(costs, Mapping):
        whole = "prices" in costs and isinstance(costs["prices"], Mapping)
        if whole and set(costs) - {"prices", "groups"}:
            raise ConfigurationError("costs cannot be read", expected="prices and groups", got=", ".join(costs))
        costs = Costs(costs["prices"], costs.get("groups", {})) if whole else Costs(costs)
    if not isinstance(costs, Costs):
        raise ConfigurationError(
            "costs cannot be used",
            expected="{modality: price} or amodal.predictive_impact.Costs",
            got=type(costs).__name__,
        )
    return costs, costs.check(names)
