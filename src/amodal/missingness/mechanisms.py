r"""Mechanisms by what removal depends on: nothing, observed values, or the removed values themselves.

All mechanisms act on top of natural absence: they only remove, and no row that has something loses everything.

**Rates.** A rate is the probability that an entry that is naturally present is removed, for each modality, averaged
over the rows that have it, *after* the repair that keeps at least one modality. With M complete modalities it can
therefore be at most :math:`1 - 1/M`, and less for modalities that are often alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np

from amodal.errors import ConfigurationError, DataError, UnknownNameError
from amodal.missingness.calibration import (
    intercept,
    intercepts_after_repair,
    largest_scale,
    probabilities_before_repair,
    sigmoid,
)
from amodal.missingness.mechanism import Mechanism, check_names

__all__ = [
    "MAR",
    "MCAR",
    "MECHANISMS",
    "MNAR",
    "BalancedCounts",
    "FixedCount",
    "Natural",
    "Pattern",
    "mechanism_from_json",
]

Rate = float | Mapping[str, float]


@dataclass(frozen=True)
class Natural(Mechanism):
    """Removes nothing: presence is as it is in the data."""

    def _draw(
        self, observed: np.ndarray, names: tuple[str, ...], generator: np.random.Generator, scores: np.ndarray
    ) -> np.ndarray:
        return observed.copy()


@dataclass(frozen=True)
class MCAR(Mechanism):
    r"""Removal completely at random: each entry by its own coin, whatever its or any other's value.

    Every present entry of modality m is drawn with probability :math:`q_m`; a row that would lose everything gets one
    of its modalities back, each with the same chance. :math:`q` is solved for so that the marginals after this repair
    are the rates (see the module's text).

    Args:
        rate: One rate for every modality, or rates by name (0 for those not named), each in [0, 1).
        before_repair: Take the rates as :math:`q` itself, a Bernoulli rate before the repair. What is realised is then
            lower; with this reading published curves go up to 0.9.

    Raises:
        ConfigurationError: If a rate is outside [0, 1), or (when drawn) cannot be reached while every row keeps one
            modality; the message names the largest rate that can.

    Source:
        The kinds of missingness: :cite:`rubin1976inference`.

    Example:
        >>> complete = np.ones((100_000, 4), dtype=bool)
        >>> present = MCAR(0.5).draw(complete, "abcd", np.random.default_rng(0))
        >>> (~present).mean(axis=0).round(2), bool(present.any(axis=1).all())
        (array([0.5, 0.5, 0.5, 0.5]), True)
    """

    rate: Rate
    before_repair: bool = False

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def _draw(
        self, observed: np.ndarray, names: tuple[str, ...], generator: np.random.Generator, scores: np.ndarray
    ) -> np.ndarray:
        rates = _rates_by_name(self.rate, names)
        q = rates if self.before_repair else _solve(rates, self.rate, probabilities_before_repair, observed)
        order, coins = generator.random(observed.shape), generator.random(observed.shape)
        return _keep_last(observed & (coins >= q), observed, order)


@dataclass(frozen=True)
class MAR(Mechanism):
    r"""Removal at random in Rubin's sense: it depends only on values that stay observed.

    Each row visits its modalities in a random order that does not depend on any value. Until one is kept, the visited
    ones are removed by coins with `MCAR`'s constant probabilities :math:`q_m` (the last one is kept in any case). The
    first one kept, the *anchor* a, decides about those that follow: they are removed with probability
    :math:`\sigma(\alpha_m + \beta s_a)`, s the anchor's score. :math:`\alpha_m` is set so that this is :math:`q_m` on
    average; hence the rates, and for :math:`\beta = 0` the very draws, are those of `MCAR`.

    That this is missing at random: given an order, the probability of keeping exactly the modalities r is a product of
    constants and of functions of :math:`s_a` with :math:`a \in r`, and the order is independent of the values. So
    :math:`P(R = r \mid x)` is a function of :math:`x_r` alone, for every r and x. The intercepts, too, are computed
    from the scores of anchors only.

    Args:
        rate: One rate for every modality, or rates by name (0 for those not named), each in [0, 1).
        strength: :math:`\beta`: log odds of removal per unit of the anchor's score; negative reverses the direction.

    Raises:
        ConfigurationError: If a rate is outside [0, 1), the strength is not finite, or (when drawn) a rate cannot be
            reached while every row keeps one modality.

    Source:
        :cite:`rubin1976inference`, definition 1; for every pattern and value, as in :cite:`seaman2013missing`.
    """

    needs_scores: ClassVar[bool] = True
    rate: Rate
    strength: float = 2.0

    def __post_init__(self) -> None:
        _check_rate(self.rate)
        _check_strength(self.strength)

    def _draw(
        self, observed: np.ndarray, names: tuple[str, ...], generator: np.random.Generator, scores: np.ndarray
    ) -> np.ndarray:
        q = _solve(_rates_by_name(self.rate, names), self.rate, probabilities_before_repair, observed)
        order, coins = generator.random(observed.shape), generator.random(observed.shape)
        kept = _keep_last(observed & (coins >= q), observed, order)
        anchor = np.where(kept, order, 2.0).argmin(axis=1)[:, None]  # (N, 1): the first one kept
        after = observed & (order > np.take_along_axis(order, anchor, axis=1))
        steer = np.take_along_axis(scores, anchor, axis=1)  # (N, 1)
        alpha = np.array([intercept(steer[after[:, m], 0], self.strength, mean) for m, mean in enumerate(q)])
        return np.where(after, coins >= sigmoid(alpha + self.strength * steer), kept)


@dataclass(frozen=True)
class MNAR(Mechanism):
    r"""Removal not at random: each entry's own value decides, so that the values seen are a biased selection.

    Entry (i, m) is drawn with probability :math:`\sigma(\alpha_m + \beta s_{im})`, s its own score; a row that would
    lose everything gets one of its modalities back, each with the same chance. :math:`\alpha` is solved for so that
    the marginals after this repair are the rates; for :math:`\beta = 0` the very draws are those of `MCAR`.

    Args:
        rate: One rate for every modality, or rates by name (0 for those not named), each in [0, 1).
        strength: :math:`\beta`: log odds of removal per unit of the score; positive removes high values.

    Raises:
        ConfigurationError: If a rate is outside [0, 1), the strength is not finite, or (when drawn) a rate cannot be
            reached while every row keeps one modality.

    Source:
        :cite:`rubin1976inference`; "self-masking" in :cite:`mohan2021graphical`.
    """

    needs_scores: ClassVar[bool] = True
    rate: Rate
    strength: float = 2.0

    def __post_init__(self) -> None:
        _check_rate(self.rate)
        _check_strength(self.strength)

    def _draw(
        self, observed: np.ndarray, names: tuple[str, ...], generator: np.random.Generator, scores: np.ndarray
    ) -> np.ndarray:
        def solve(rates: np.ndarray, observed: np.ndarray) -> np.ndarray | None:
            return intercepts_after_repair(rates, observed, scores, self.strength)

        alpha = _solve(_rates_by_name(self.rate, names), self.rate, solve, observed)
        order, coins = generator.random(observed.shape), generator.random(observed.shape)
        return _keep_last(observed & (coins >= sigmoid(alpha + self.strength * scores)), observed, order)


@dataclass(frozen=True)
class FixedCount(Mechanism):
    """Removes the same number of modalities from every row, a uniformly drawn subset.

    Args:
        removed: How many, from 0 to M - 1. A row that naturally has k of the M loses at most k - 1.

    Raises:
        ConfigurationError: If the number is negative, or (when drawn) leaves nothing of M modalities.

    Example:
        >>> complete = np.ones((3, 4), dtype=bool)
        >>> FixedCount(3).draw(complete, "abcd", np.random.default_rng(0)).sum(axis=1)
        array([1, 1, 1])
    """

    removed: int

    def __post_init__(self) -> None:
        _check_count("removed", self.removed)

    def _draw(
        self, observed: np.ndarray, names: tuple[str, ...], generator: np.random.Generator, scores: np.ndarray
    ) -> np.ndarray:
        _check_leaves_one("removed", self.removed, names)
        most = np.maximum(observed.sum(axis=1) - 1, 0)
        return _remove_counts(observed, np.minimum(self.removed, most), generator)


@dataclass(frozen=True)
class BalancedCounts(Mechanism):
    r"""Removes a number of modalities that is uniform on :math:`\{0, …, k - 1\}`, then a uniform subset of that size.

    k is the number a row naturally has. For three complete modalities this is the protocol of :cite:`choi2025cepa`: a
    third of the rows complete, a third with one removed, a third with two. With `least=1` it is that paper's protocol
    for testing: half with one removed, half with two.

    Args:
        least: The smallest number removed, from 0 to M - 1; a row that naturally has k loses at most k - 1.
        equal: Whether each number comes equally often, not on average only: of rows that naturally have k, in their
            order, each k - `least` after one another have every number once. `amodal.fit` takes them in the order of
            its batches, so that a batch of 16 has 5, 5 and 6 of three modalities' numbers.

    Raises:
        ConfigurationError: If `least` is negative, or (when drawn) leaves nothing of M modalities.

    Source:
        :cite:`choi2025cepa`, appendix D, for M modalities.

    Example:
        >>> complete = np.ones((90_000, 3), dtype=bool)
        >>> kept = BalancedCounts().draw(complete, "abc", np.random.default_rng(0)).sum(axis=1)
        >>> (np.bincount(kept)[1:] / len(kept)).round(1)
        array([0.3, 0.3, 0.3])
        >>> halves = BalancedCounts(least=1, equal=True).draw(complete[:10], "abc", np.random.default_rng(0))
        >>> np.bincount(halves.sum(axis=1))[1:]
        array([5, 5])
    """

    least: int = 0
    equal: bool = False

    def __post_init__(self) -> None:
        _check_count("least", self.least)

    def _draw(
        self, observed: np.ndarray, names: tuple[str, ...], generator: np.random.Generator, scores: np.ndarray
    ) -> np.ndarray:
        _check_leaves_one("least", self.least, names)
        most = np.maximum(observed.sum(axis=1) - 1, 0)
        least = np.minimum(self.least, most)
        if not self.equal:
            return _remove_counts(observed, generator.integers(least, most + 1), generator)
        counts = np.zeros(len(observed), np.int64)
        for k in np.unique(most):
            rows = np.flatnonzero(most == k)
            numbers = np.arange(min(self.least, k), k + 1)
            blocks = np.tile(numbers, (-(-len(rows) // len(numbers)), 1))
            counts[rows] = generator.permuted(blocks, axis=1).reshape(-1)[: len(rows)]
        return _remove_counts(observed, counts, generator)


@dataclass(frozen=True)
class Pattern(Mechanism):
    """Keeps only the named modalities, the same ones in every row.

    Args:
        kept: Names of the modalities to keep.
        on_empty: What to do with rows that naturally have none of them: "keep" leaves such a row as it naturally is;
            "error" refuses.

    Raises:
        ConfigurationError: If no modality is named, or `on_empty` is neither of the two.
        UnknownNameError: When drawn, if a name is not a modality.
        DataError: When drawn with `on_empty="error"`, if a row has none of them.

    Example:
        >>> complete = np.ones((2, 3), dtype=bool)
        >>> Pattern({"a", "c"}).draw(complete, "abc", np.random.default_rng(0)).astype(int).tolist()
        [[1, 0, 1], [1, 0, 1]]
    """

    kept: Iterable[str]
    on_empty: Literal["keep", "error"] = "keep"

    def __post_init__(self) -> None:
        kept = (self.kept,) if isinstance(self.kept, str) else tuple(sorted(set(self.kept)))
        object.__setattr__(self, "kept", kept)
        if not kept:
            raise ConfigurationError("a pattern keeps at least one modality", got="no names")
        if self.on_empty not in ("keep", "error"):
            raise ConfigurationError("`on_empty` is unknown", expected="'keep' or 'error'", got=repr(self.on_empty))

    def _draw(
        self, observed: np.ndarray, names: tuple[str, ...], generator: np.random.Generator, scores: np.ndarray
    ) -> np.ndarray:
        kept = set(self.kept)
        check_names(sorted(kept), names)
        present = observed & np.array([name in kept for name in names])
        empty = np.asarray(observed.any(axis=1) & ~present.any(axis=1))
        if self.on_empty == "error" and empty.any():
            raise DataError(
                f"{int(empty.sum())} of {len(observed)} rows have none of {', '.join(sorted(kept))}",
                got=f"rows {np.flatnonzero(empty)[:5].tolist()} first",
                hint='Use on_empty="keep" to leave such rows as they naturally are.',
            )
        return np.where(empty[:, None], observed, present)


MECHANISMS: dict[str, type[Mechanism]] = {
    "MCAR": MCAR,
    "MAR": MAR,
    "MNAR": MNAR,
    "FixedCount": FixedCount,
    "BalancedCounts": BalancedCounts,
    "Pattern": Pattern,
    "Natural": Natural,
}


def mechanism_from_json(record: Mapping[str, Any]) -> Mechanism:
    """The inverse of `Mechanism.to_json`.

    Args:
        record: The class's name under "mechanism", and its arguments.

    Returns:
        The mechanism.

    Raises:
        UnknownNameError: If the mechanism or an argument is not known.
        ConfigurationError: If "mechanism" or an argument without a default is missing, or a value cannot be used.

    Example:
        >>> mechanism_from_json({"mechanism": "MCAR", "rate": 0.5})
        MCAR(rate=0.5, before_repair=False)
    """
    arguments = dict(record)
    name = arguments.pop("mechanism", None)
    if name not in MECHANISMS:
        raise UnknownNameError("mechanism", name, MECHANISMS)
    known = {field.name for field in fields(MECHANISMS[name])}  # type: ignore[arg-type]
    for key in arguments:
        if key not in known:
            raise UnknownNameError(f"argument of {name}", key, known)
    try:
        return MECHANISMS[name](**arguments)
    except TypeError as error:
        raise ConfigurationError(f"the record of a {name} cannot be used: {error}", got=dict(record)) from error


def _keep_last(kept: np.ndarray, observed: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Gives rows that lost everything the last of their present modalities in a random order back."""
    lost = observed.any(axis=1) & ~kept.any(axis=1)
    last = np.where(observed, order, -1.0).argmax(axis=1)
    kept = kept.copy()
    kept[lost, last[lost]] = True
    return kept


def _remove_counts(observed: np.ndarray, counts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Removes `counts[i]` of row i's present modalities, every subset of that size with the same chance."""
    order = np.where(observed, generator.random(observed.shape), 2.0)
    rank = order.argsort(axis=1).argsort(axis=1)  # present ones first, in random order
    return observed & (rank >= counts[:, None])


def _solve(
    rates: np.ndarray, asked: Rate, solver: Callable[[np.ndarray, np.ndarray], np.ndarray | None], observed: np.ndarray
) -> np.ndarray:
    """Solves for what reaches the rates, or says which rates could be reached."""
    found = solver(rates, observed)
    if found is not None:
        return found
    scale = largest_scale(lambda factor: solver(factor * rates, observed) is not None, 1.0)
    if isinstance(asked, Mapping):
        largest = {name: np.floor(1e4 * scale * rate) / 1e4 for name, rate in asked.items()}
        limit = "rates of at most " + ", ".join(f"{name} {rate:.4g}" for name, rate in largest.items())
    else:
        limit = f"a rate of at most {np.floor(1e4 * scale * asked) / 1e4:.4g}"
    raise ConfigurationError(
        "the rate cannot be reached while every row keeps at least one modality",
        expected=limit,
        got=dict(asked) if isinstance(asked, Mapping) else asked,
        hint="Rates are marginals after the repair that keeps one modality; "
        "MCAR(rate, before_repair=True) takes the rate before it.",
    )


def _rates_by_name(rate: Rate, names: tuple[str, ...]) -> np.ndarray:
    if not isinstance(rate, Mapping):
        return np.full(len(names), float(rate))
    check_names(rate, names)
    return np.array([float(rate.get(name, 0.0)) for name in names])


def _check_rate(rate: Rate) -> None:
    for name, value in rate.items() if isinstance(rate, Mapping) else [("", rate)]:
        usable = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not usable or not 0 <= value < 1:
            which = f"the rate of modality {name!r}" if name else "the rate"
            raise ConfigurationError(f"{which} is out of range", expected="0 <= rate < 1", got=repr(value))


def _check_strength(strength: float) -> None:
    usable = isinstance(strength, int | float | np.number) and not isinstance(strength, bool)
    if not usable or not np.isfinite(strength):
        raise ConfigurationError("the strength must be a finite number", got=repr(strength))


def _check_count(name: str, count: int) -> None:
    if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 0:
        raise ConfigurationError(f"`{name}` must be a number of modalities", expected="0 or more", got=repr(count))


def _check_leaves_one(name: str, count: int, names: tuple[str, ...]) -> None:
    if count >= len(names):
        raise ConfigurationError(
            f"`{name}` leaves nothing of {len(names)} modalities", expected=f"at most {len(names) - 1}", got=count
        )
