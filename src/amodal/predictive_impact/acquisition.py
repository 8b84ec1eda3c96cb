"""Acquisition one modality at a time, in an order: advice against the yardsticks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from amodal.data.cohort import Cohort
from amodal.errors import ConfigurationError, DataError, UnknownNameError
from amodal.predictive_impact.advice import Advice, check_budget
from amodal.predictive_impact.advising import advise
from amodal.predictive_impact.costs import Costs, read_costs
from amodal.predictive_impact.draws import check_count
from amodal.predictive_impact.predictor import Predictor, check_inputs
from amodal.predictive_impact.sets import values_of_sets
from amodal.predictive_impact.utility import Utility, realised_utility, utility_function

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ORDERS", "acquisition_curve", "fixed_order", "random_start"]

Order = Literal["advised", "ahead", "fixed", "least_certain", "random", "sets", "surest"]
ORDERS: tuple[Order, ...] = ("advised", "ahead", "fixed", "least_certain", "random", "sets", "surest")
_BY_ADVICE = ("advised", "ahead")


def acquisition_curve(
    model: Predictor,
    cohort: Cohort,
    *,
    order: Order = "advised",
    sequence: Sequence[str] | None = None,
    steps: int | None = None,
    start: NDArray[np.bool_] | None = None,
    seed: int = 0,
    utility: Utility | None = None,
    costs: Costs | Mapping[str, Any] | None = None,
    budget: float = np.inf,
    stop: bool = False,
    **advice: Any,
) -> pd.DataFrame:
    """Reveals one more modality of each case at a time, in an order, and measures after each.

    - "advised": case by case, given what has been revealed, the largest expected net gain;
    - "ahead": the same two steps ahead (`amodal.predictive_impact.ahead`);
    - "fixed": the same order for every case, `sequence`, chosen on other cases by `fixed_order`;
    - "least_certain": the same order, and cases of which the model is least certain are served first (`budget_curve`);
    - "random": at random;
    - "sets": the best modality of the set of missing ones that is worth most in similar training cases, which have
      everything that the case lacks (`amodal.predictive_impact.sets`);
    - "surest": the one whose real value leads to the prediction of the largest utility. Only somebody who has seen all
      values can choose so, and it is not the best choice: it knows the values, not the target.

    Args:
        model: A trained model of a classification task.
        cohort: N cases with target, with everything that can be revealed.
        order: How the next modality is chosen.
        sequence: The modalities in order, for "fixed" and "least_certain".
        steps: Number of modalities to reveal; None: until nothing is left.
        start: What is known at first, bool (N, M); None: one random present modality of each case (`random_start`).
        seed: Seed of the start, the random order and the draws.
        utility: What is to be gained; see `advise`.
        costs: Prices; see `advise`.
        budget: What looking may cost for a case; what is above it is not looked at.
        stop: Whether to stop looking at a case when no look pays ("advised", "ahead" and "sets").
        **advice: Further arguments of `advise`: `worth`, `train`, `neighbours`, `draws`, `completions`, …

    Returns:
        One row a case and step, with ``id``, ``step`` (0: at the start), ``acquired`` (the modality, "" at first and
        when nothing more is looked at), ``cost`` (so far), ``priority`` (which cases to serve first in this step),
        ``correct``, ``log_likelihood``, ``utility`` (realised; NaN for a function of one's own) and ``order``.

    Raises:
        UnknownNameError: If the order or the utility is not known.
        DataError: If the cases have no target.
        AmodalError: As `advise`.
    """
    import pandas as pd

    if order not in ORDERS:
        raise UnknownNameError("order of acquisition", order, ORDERS)
    _check(model, cohort, advice.get("draws", 50))
    check_budget(budget)
    names = cohort.schema.names
    if order in ("fixed", "least_certain"):
        if sequence is None:
            raise ConfigurationError(f"the order {order!r} needs a sequence", hint="fixed_order chooses one.")
        model.schema.check_names(list(sequence))
    utility_function(utility, model.schema.task)  # refused before the work, whatever the order
    prices, _ = read_costs(costs, names)
    known = cohort.observed & (random_start(cohort, seed) if start is None else start)
    chooser = _Chooser(model, cohort, order, tuple(sequence or ()), seed, utility, prices, stop, advice)
    spent, acquired = np.zeros(len(cohort)), np.full(len(cohort), "", dtype=object)
    parts, priority = [], np.zeros(len(cohort))
    for step in range(1 + (len(names) if steps is None else steps)):
        if step:
            price = prices.of(names, known)
            possible = cohort.observed & ~known & (spent[:, None] + price <= budget * (1 + 1e-12))
            if not possible.any():
                break
            choice, some, priority = chooser(known, possible, step, price)
            if not some.any():
                break
            spent = spent + np.where(some, price[np.arange(len(choice)), choice], 0.0)
            known = known | (some[:, None] & np.eye(known.shape[1], dtype=bool)[choice])
            acquired = np.where(some, np.array(names, dtype=object)[choice], "")
        frame = _measured(model, cohort, known, utility)
        columns = {"id": cohort.ids, "step": step, "acquired": acquired, "cost": spent, "priority": priority}
        parts.append(pd.DataFrame({**columns, **frame, "order": order}))
    return pd.concat(parts, ignore_index=True)


def random_start(cohort: Cohort, seed: int = 0) -> NDArray[np.bool_]:
    """One random present modality of each case, bool (N, M)."""
    scores = np.where(cohort.observed, np.random.default_rng(seed).random(cohort.observed.shape), -1.0)
    return np.asarray(np.eye(len(cohort.schema.names), dtype=bool)[scores.argmax(axis=1)] & cohort.observed)


def fixed_order(
    model: Predictor,
    valid: Cohort,
    *,
    start: NDArray[np.bool_] | None = None,
    seed: int = 0,
    utility: Utility | None = None,
    costs: Costs | Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """The one order of modalities that does best on validation cases, one after the other.

    Each next modality is the one with the largest rise of the mean realised utility, or, with prices, the largest rise
    for the money.

    Args:
        model: A trained model of a classification task.
        valid: Validation cases with target.
        start: What is known at first, bool (N, M); None: one random present modality of each case.
        seed: Seed of the start.
        utility: What is to be gained; a function of one's own counts as the log-likelihood.
        costs: Prices; see `advise`.

    Raises:
        DataError: If the cases have no target.
        AmodalError: As `advise`.
    """
    _check(model, valid, 1)
    names = valid.schema.names
    prices, _ = read_costs(costs, names)
    known = valid.observed & (random_start(valid, seed) if start is None else start)
    wanted = None if callable(utility) else utility
    order: list[str] = []
    before = float(np.mean(_measured(model, valid, known, wanted)["utility"]))
    while len(order) < len(names):
        rises = {}
        price = prices.of(names, known)
        for m, name in enumerate(names):
            if name not in order:
                more = known | (valid.observed & (np.arange(len(names)) == m))
                paid = float(np.where(more[:, m] & ~known[:, m], price[:, m], 0.0).mean())
                after = float(np.mean(_measured(model, valid, more, wanted)["utility"]))
                rise = after - before
                rises[name] = (rise / paid if paid > 0 and rise > 0 else rise, rise, m)
        best = max(rises, key=lambda name: (rises[name][0], -rises[name][2]))
        order.append(best)
        before += rises[best][1]
        known = known | (valid.observed & (np.arange(len(names)) == rises[best][2]))
    return tuple(order)


@dataclass
class _Chooser:
    """The choice of each case's next modality, of whether it gets one, and of the order of cases."""

    model: Predictor
    cohort: Cohort
    order: Order
    sequence: tuple[str, ...]
    seed: int
    utility: Utility | None
    prices: Costs
    stop: bool
    advice: Mapping[str, Any]

    def __call__(
        self, known: NDArray[np.bool_], possible: NDArray[np.bool_], step: int, price: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:
        random = np.random.default_rng((self.seed, step))
        names, pays = self.cohort.schema.names, possible
        priority = random.random(len(known))
        if self.order == "random":
            score = random.random(possible.shape)
        elif self.order in ("fixed", "least_certain"):
            rank = {name: -float(place) for place, name in enumerate(self.sequence)}
            score = np.tile([rank.get(name, -float(len(names))) for name in names], (len(known), 1))
            if self.order == "least_certain":
                p = self.model.predict(self.cohort.with_observed(known), on_empty="silent")
                priority = -(p * np.log(np.maximum(p, 1e-30))).sum(axis=1)
        elif self.order in _BY_ADVICE:
            found = self._advise(known)
            score = found.net if found.ahead is None else found.ahead
            if self.stop:
                pays = possible & (score > found.least_gain)
            worth = np.where(possible, found.worth * found.gain, -np.inf)
            ratio = np.divide(worth, price, out=np.where(worth > 0, 1e30, worth), where=price > 0)
            priority = np.where(possible, ratio, -np.inf).max(axis=1)
        elif self.order == "sets":
            score, worth_it = self._by_sets(known)
            pays = possible & (worth_it[:, None] | (not self.stop))
        else:
            score = np.stack([self._revealed(known, m) for m in range(possible.shape[1])], axis=1)
        choice = np.where(possible, np.nan_to_num(score, nan=-np.inf), -np.inf).argmax(axis=1)
        some = pays[np.arange(len(choice)), choice] & possible[np.arange(len(choice)), choice]
        return choice, some, np.where(np.isfinite(priority), priority, 0.0)

    def _advise(self, known: NDArray[np.bool_]) -> Advice:
        steps: Literal[1, 2] = 2 if self.order == "ahead" else 1
        rest = {"seed": self.seed, "utility": self.utility, "costs": self.prices, "steps": steps}
        return advise(self.model, self.cohort.with_observed(known), **(rest | dict(self.advice)))

    def _by_sets(self, known: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        train = self.advice.get("train")
        train = self.model.training_cases if train is None else train
        if train is None:
            raise ConfigurationError("the order by sets needs training cases", hint="Pass train=<the training cohort>.")
        options = {name: self.advice[name] for name in ("worth", "neighbours") if name in self.advice}
        cases = self.cohort.with_observed(known)
        return values_of_sets(
            self.model, cases, train, utility=self.utility, costs=self.prices, seed=self.seed, **options
        )

    def _revealed(self, known: NDArray[np.bool_], m: int) -> NDArray[np.float64]:
        """Utility (N,) of the prediction with modality m as it is."""
        more = known | (np.arange(known.shape[1]) == m)
        predicted = torch.from_numpy(self.model.predict(self.cohort.with_observed(more), on_empty="silent"))
        return utility_function(self.utility, self.model.schema.task)(predicted).numpy()


def _measured(
    model: Predictor, cohort: Cohort, known: NDArray[np.bool_], utility: Utility | None
) -> dict[str, NDArray[Any]]:
    assert cohort.target is not None
    predicted = model.predict(cohort.with_observed(known), on_empty="silent")
    of_target = predicted[np.arange(len(cohort)), cohort.target]
    return {
        "correct": predicted.argmax(axis=1) == cohort.target,
        "log_likelihood": np.log(np.maximum(of_target, np.finfo(np.float32).tiny)),
        "utility": realised_utility(utility, predicted, cohort.target, model.schema.task),
    }


def _check(model: Predictor, cohort: Cohort, draws: int) -> None:
    check_count("draws", draws)
    check_inputs(model, cohort)
    if not model.schema.task.is_classification:
        raise ConfigurationError("curves of acquisition are for classification only", got=model.schema.task.kind)
    if not len(cohort):
        raise DataError("there are no cases to acquire for", expected="at least one")
    if not cohort.labelled.all():
        raise DataError(
            "a curve needs cases with a label",
            got=f"{int((~cohort.labelled).sum())} of {len(cohort)} without one",
            hint="Take those with one: cohort.take(cohort.labelled).",
        )
    if cohort.schema.names != model.schema.names:
        raise DataError("a curve needs the model's modalities in its order", expected=model.schema.names)
