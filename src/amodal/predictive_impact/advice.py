"""Advice on the missing modality to look at next: the change, worth and cost expected of observing it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from amodal.errors import ConfigurationError, UnknownNameError
from amodal.schema import Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Advice", "check_budget"]

_Rank = Literal["net", "gain", "change", "ratio"]


@dataclass(frozen=True, eq=False)
class Advice:
    """The effect expected of a look at each missing modality of each case.

    Attributes:
        ids: Ids of the N cases.
        names: Names of the M modalities.
        observed: What is present, bool, of shape (N, M).
        change: Expected change of the prediction if the modality, and nothing else, is looked at, of shape (N, M); NaN
            where it is observed already. Total variation; its mean over labels (multilabel); the absolute difference in
            the target's units (regression).
        gain: Expected gain in utility by that look, of shape (N, M); NaN likewise. Health economists call it the
            expected value of partial perfect information (EVPPI).
        how: Where the plausible values come from.
        gain_error: Standard error of `gain`, (N, M).
        gap: Distance between the mean of the predictions to be expected and the present one, (N, M).
        everything: Expected gain if all that is missing is looked at, (N,); 0 where nothing is.
        evpi: Expected value of perfect information, (N,): the gain if the target itself were known, which no look
            exceeds; NaN where it is not defined.
        price: Price of each look, (N, M), given what has been looked at.
        worth: What one unit of gain is worth in the unit of the prices.
        budget: What a case may cost at most.
        least_gain: Net gain that a look must exceed.
        ahead: Value of the look with the best one after it, net of prices and in their unit, (N, M); None unless two
            steps were asked for.
        outcomes: Share of the completions under which each class is the most probable after the look, (N, M, C); None
            for other tasks than classes.
        by_label: Expected change of each label's probability, (N, M, K), of multilabel tasks; None for others.
        gain_by_label: Expected gain in log-likelihood (nats) of each label, (N, M, K), of multilabel tasks; None for
            others.
        sensitivity: Smallest and largest gain under the odds ratio asked for, (N, M, 2); None if none was.
        utility: The utility, in words.
        task: What is predicted.
        notes: What a reader must know.
    """

    ids: np.ndarray
    names: tuple[str, ...]
    observed: np.ndarray
    change: np.ndarray
    gain: np.ndarray
    how: str
    gain_error: np.ndarray | None = None
    gap: np.ndarray | None = None
    everything: np.ndarray | None = None
    evpi: np.ndarray | None = None
    price: np.ndarray | float = 0.0
    worth: float = 1.0
    budget: float = np.inf
    least_gain: float = 0.0
    ahead: np.ndarray | None = None
    outcomes: np.ndarray | None = None
    by_label: np.ndarray | None = None
    gain_by_label: np.ndarray | None = None
    sensitivity: np.ndarray | None = None
    utility: str = "log_likelihood"
    task: Task | None = None
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def net(self) -> np.ndarray:
        """Worth of the expected gain less the price, in the unit of the prices, (N, M)."""
        return self.worth * self.gain - self.price

    @property
    def affordable(self) -> np.ndarray:
        """Whether a look is possible within the budget, bool, of shape (N, M)."""
        return ~self.observed & (np.broadcast_to(self.price, self.gain.shape) <= self.budget * (1 + 1e-12))

    def _score(self, by: str) -> np.ndarray:
        price = np.broadcast_to(self.price, self.gain.shape)
        known = {
            "net": lambda: self.net if self.ahead is None else self.ahead,
            "gain": lambda: self.gain,
            "change": lambda: self.change,
            "ratio": lambda: np.divide(
                self.worth * self.gain, price, out=np.where(self.gain > 0, np.inf, 0.0), where=price > 0
            ),
        }
        if by not in known:
            raise UnknownNameError("way to rank", by, known)
        return known[by]()

    def ranking(self, by: _Rank = "net") -> list[tuple[str, ...]]:
        """The missing modalities of each case, the most useful first, whether or not they pay.

        Args:
            by: "net" (worth less price; without prices the gain), "gain", "change", or "ratio" (worth over price).

        Raises:
            UnknownNameError: If `by` is something else.
        """
        score = np.where(self.observed, -np.inf, self._score(by))
        order = np.argsort(-score, axis=1, kind="stable")
        return [tuple(self.names[m] for m in row if not seen[m]) for row, seen in zip(order, self.observed)]

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        """The modality to look at next and its net gain, both of shape (N,).

        "" and 0 where no look within the budget gains more than it costs (or than `least_gain`): look at nothing; ""
        and NaN where nothing is missing.
        """
        score = np.where(self.affordable, self._score("net"), -np.inf)
        best = score.argmax(axis=1)
        rows = np.arange(len(best))
        pays = score[rows, best] > self.least_gain
        names = np.where(pays, np.array(self.names, dtype=object)[best], "")
        gained = np.where(pays, self.net[rows, best], 0.0)
        return names, np.where(self.observed.all(axis=1), np.nan, gained)

    def allocate(self, budget: float) -> pd.DataFrame:
        """Looks that a budget for all cases buys, at most one a case: those with the most worth for the money first.

        Args:
            budget: What all looks together may cost.

        Returns:
            One row a look in the order of buying: ``id``, ``modality``, ``price``, ``worth`` (of the expected gain),
            ``net``, ``spent`` (so far). Looks that do not pay are not bought. Empty if the budget is below the cheapest
            look that does.

        Raises:
            ConfigurationError: If the budget is negative or no number.

        Source:
            The greedy rule for the knapsack problem of :cite:`dantzig1957discrete`; exact where all prices are equal.
        """
        import pandas as pd

        check_budget(budget)
        names, _ = self.next()
        net, ratio = self.net, self._score("ratio")
        price = np.broadcast_to(self.price, self.gain.shape)
        chosen = [(i, self.names.index(name)) for i, name in enumerate(names) if name]
        chosen.sort(key=lambda one: -ratio[one])
        rows, spent = [], 0.0
        for i, m in chosen:
            if spent + price[i, m] <= budget * (1 + 1e-12):
                spent += float(price[i, m])
                rows.append((self.ids[i], self.names[m], price[i, m], self.worth * self.gain[i, m], net[i, m], spent))
        return pd.DataFrame(rows, columns=["id", "modality", "price", "worth", "net", "spent"])

    def table(self) -> pd.DataFrame:
        """One row for each missing modality of each case, by rank.

        Returns:
            Columns ``id``, ``rank``, ``modality``, ``gain``, ``change``; with errors, prices and gaps ``gain_error``,
            ``price``, ``net``, ``gap``.
        """
        import pandas as pd

        rows, price = [], np.broadcast_to(self.price, self.gain.shape)
        for i, ranked in enumerate(self.ranking()):
            for rank, name in enumerate(ranked, start=1):
                m = self.names.index(name)
                row: dict[str, Any] = {"id": self.ids[i], "rank": rank, "modality": name}
                row |= {"gain": self.gain[i, m], "change": self.change[i, m]}
                if self.gain_error is not None and self.gap is not None:
                    row |= {"gain_error": self.gain_error[i, m], "gap": self.gap[i, m]}
                rows.append(row | {"price": price[i, m], "net": self.net[i, m]})
        return pd.DataFrame(rows)


def check_budget(budget: float) -> None:
    """Refuse a budget that is negative or no number.

    Raises:
        ConfigurationError: Then.
    """
    if isinstance(budget, bool) or not isinstance(budget, int | float | np.number) or not budget >= 0:
        raise ConfigurationError("a budget is out of range", expected="a number of 0 or more", got=budget)
