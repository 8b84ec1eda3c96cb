"""Advice on a cohort: the expected change, gain and price of a look at each missing modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.errors import ConfigurationError, DataError
from amodal.method import inference
from amodal.predictive_impact.advice import Advice, check_budget
from amodal.predictive_impact.ahead import after_the_next
from amodal.predictive_impact.completions import Completions, CompletionsFrom, completions_of
from amodal.predictive_impact.costs import Costs, read_costs
from amodal.predictive_impact.draws import check_count
from amodal.predictive_impact.looks import (
    by_label,
    by_pattern,
    chunk_of,
    expected_change,
    expected_gain,
    gain_error,
    looks_at,
    to_numpy,
)
from amodal.predictive_impact.notes import notes_on_cohort, notes_on_donors, notes_on_gap
from amodal.predictive_impact.own import OwnCompletions
from amodal.predictive_impact.plausible import labels_by_share
from amodal.predictive_impact.predictor import Predictor, check_inputs, predictions_of
from amodal.predictive_impact.sensitivity import check_odds_ratio, sensitivity_range
from amodal.predictive_impact.utility import Utility, perfect_information, utility_function
from amodal.progress import progress_bar
from amodal.schema import Task

__all__ = ["advise"]


def advise(
    model: Predictor,
    cohort: Cohort,
    *,
    draws: int = 50,
    seed: int = 0,
    utility: Utility | None = None,
    costs: Costs | Mapping[str, Any] | None = None,
    worth: float = 1.0,
    budget: float = np.inf,
    least_gain: float = 0.0,
    steps: Literal[1, 2] = 1,
    completions: CompletionsFrom | None = None,
    train: Cohort | None = None,
    neighbours: int = 50,
    odds_ratio: float | None = None,
    progress: bool = False,
) -> Advice:
    r"""Says what looking at each missing modality, and at nothing else, is expected to be worth.

    .. math::
        \mathrm{gain}_u = \mathbb{E}_{x_u \mid x_o} U\big(p(\cdot \mid x_o, x_u)\big)
        - U\big(\mathbb{E}_{x_u \mid x_o} p(\cdot \mid x_o, x_u)\big)

    U is the utility of a prediction (`utility_function`). With the negative entropy (``"log_likelihood"``) the gain is
    the mutual information of target and modality given what is known, in nats; with the largest probability
    (``"accuracy"``) it is the expected gain in accuracy; with payoffs it is in their unit. No gain is above the
    expected value of perfect information, for the negative entropy the entropy of the prediction. Of a multilabel task
    the former is added up over the labels, the latter their mean. Of a regression the gain is the expected fall in
    squared error, the variance of the predictions to be expected (``"squared_error"``).

    With training cases, plausible values of a modality are those of similar training cases (`DonorCompletions`), and
    the model predicts from what is known and that value, so the advice is about the model's own next prediction. A
    method's own draws order modalities worse (`docs/log.md`).

    Args:
        model: A trained model.
        cohort: N cases.
        draws: Plausible values of each modality, where they are drawn.
        seed: Seed of all draws.
        utility: What is to be gained; None: the log-likelihood, or the squared error of a regression.
        costs: Price of each modality, {name: price} or `Costs`; None: everything is free.
        worth: What one unit of gain is worth in the unit of the prices; 1 where they have one unit.
        budget: What looking may cost for a case.
        least_gain: Net gain that a look must exceed to be advised.
        steps: 1, or 2: also value each look by the best look after it (`Advice.ahead`), for modalities that matter only
            together. Takes about as many times longer as there are missing modalities times neighbours over ten.
        completions: "own" or "training_cases"; None: training cases if there are any.
        train: Training cases; None: those the model remembers.
        neighbours: Number of similar training cases.
        odds_ratio: Also give the range of gains if those who lack a modality differ by this odds ratio.
        progress: Whether to show a progress bar.

    Returns:
        Expected change and gain of each missing modality of each case.

    Raises:
        ConfigurationError: If a number is out of range, or the method cannot draw and there are no training cases.
        UnknownNameError: If a utility or a modality with a price is not known.
        ShapeError: If a utility does not give one number for each prediction.
        DataError: If there are no cases, or no training case has what a case lacks.

    Source:
        :cite:`lindley1956measure`, and as EVPPI :cite:`strong2014estimating`, for one modality at a time.
    """
    _check_cases(model, cohort)
    _check_numbers(draws, budget, odds_ratio, worth, steps)
    names, task = model.schema.names, model.schema.task
    prices, notes = read_costs(costs, names)
    source = completions_of(
        model,
        cohort,
        completions=completions,
        train=train,
        neighbours=neighbours,
        draws=draws,
        seed=seed,
        prefer="training_cases",
    )
    _check_source(model, source)
    work = _Work(model, source, utility_function(utility, task), utility, prices, worth, steps, odds_ratio)
    columns = work.over(cohort, draws, progress)
    observed = columns["observed"]
    gap = np.nanmax(np.where(observed, 0.0, columns["gap"]), axis=1)
    return Advice(
        cohort.ids,
        names,
        observed,
        columns["change"],
        columns["gain"],
        source.how,
        columns["gain_error"],
        columns["gap"],
        columns["everything"],
        columns["evpi"],
        columns["price"],
        worth,
        budget,
        least_gain,
        columns.get("ahead"),
        columns.get("outcomes"),
        columns.get("by_label"),
        columns.get("gain_by_label"),
        columns.get("sensitivity"),
        _in_words(utility, task),
        task,
        (
            *notes,
            *_note_on_budget(budget, columns["price"], observed),
            *notes_on_cohort(model.schema, cohort, observed),
            *notes_on_donors(source, observed),
            *notes_on_gap(gap, model, source),
            *work.notes,
        ),
    )


def _check_cases(model: Predictor, cohort: Cohort) -> None:
    check_inputs(model, cohort)
    if not len(cohort):
        raise DataError("there are no cases to advise on", expected="at least one")


def _check_numbers(draws: int, budget: float, odds_ratio: float | None, worth: float, steps: int) -> None:
    check_count("draws", draws)
    check_budget(budget)
    check_odds_ratio(odds_ratio)
    if not (np.isfinite(worth) and worth > 0):
        raise ConfigurationError("the worth of a unit of gain is out of range", expected="above 0", got=worth)
    if steps not in (1, 2):
        raise ConfigurationError("advice looks one or two steps ahead", expected="1 or 2", got=steps)


def _check_source(model: Predictor, source: Completions) -> None:
    if isinstance(source, OwnCompletions) and not source.by_modality:
        raise ConfigurationError(
            f"{type(model.method).__name__} draws one latent for all modalities, which says nothing about a modality",
            hint="Pass train=<the training cohort>.",
        )


def _note_on_budget(budget: float, prices: np.ndarray, observed: np.ndarray) -> list[str]:
    cheapest = np.where(observed, np.inf, prices).min()
    if not budget < cheapest < np.inf:
        return []
    return [f"The budget of {budget:g} is below the cheapest look, {cheapest:g}: nothing can be looked at."]


def _in_words(utility: Utility | None, task: Task) -> str:
    if isinstance(utility, str):
        return utility
    if utility is None:
        return next(iter(task.traits.utilities))
    return "a utility of one's own" if callable(utility) else "the best action of a table of payoffs"


def _of_coins(p: torch.Tensor) -> torch.Tensor:
    """Minus the entropy of each label (…, K)."""
    return torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)


@dataclass
class _Work:
    """Advice on one batch at a time."""

    model: Predictor
    source: Completions
    value: Any
    utility: Utility | None
    prices: Costs
    worth: float
    steps: int
    odds_ratio: float | None
    notes: dict[str, None] = field(default_factory=dict)

    def over(self, cohort: Cohort, draws: int, progress: bool) -> dict[str, np.ndarray]:
        """All columns of a cohort, batch by batch."""
        parts: list[dict[str, np.ndarray]] = []
        with inference(self.model.method), progress_bar("advice", quiet=not progress) as tell:
            for batch in self.model.batches(cohort, min(256, chunk_of(self.model, draws)), check_levels=True):
                parts.append(self.of_batch(batch))
                if tell is not None:
                    tell(sum(len(part["observed"]) for part in parts), len(cohort))
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def of_batch(self, batch: Batch) -> dict[str, np.ndarray]:
        """All columns of a batch."""
        task, names = self.model.schema.task, batch.modalities
        n, m = len(batch), len(names)
        observed = batch.presence.cpu().numpy()
        columns: dict[str, Any] = {key: np.full((n, m), np.nan) for key in ("change", "gain", "gain_error", "gap")}
        columns |= {"everything": np.zeros(n), "evpi": np.full(n, np.nan)}
        if task.is_classification:
            columns["outcomes"] = np.full((n, m, task.n_outputs), np.nan)
        if task.traits.many_labels:
            columns |= {key: np.full((n, m, task.n_outputs), np.nan) for key in ("by_label", "gain_by_label")}
        if self.odds_ratio is not None:
            columns["sensitivity"] = np.full((n, m, 2), np.nan)
        columns |= {"observed": observed, "price": self.prices.of(names, observed)}
        if self.steps == 2:
            columns["ahead"] = np.full((n, m), np.nan)
        for rows, part, missing in by_pattern(batch):
            where = rows.cpu().numpy()
            present = predictions_of(self.model, part)
            bound = perfect_information(self.value, present.double(), self.utility, task)
            columns["evpi"][where] = to_numpy(bound)
            for name, law in looks_at(self.source, part, missing, present):
                at = names.index(name)
                found = self._of_look(*law.after([name]), bound)
                for key, array in (found | {"gap": to_numpy(law.gap)}).items():
                    columns[key][where, at] = array
                self.notes |= dict.fromkeys(law.notes)
            if missing:
                columns["everything"][where] = self._together(part, missing, present, bound, columns["gain"][where])
            if self.steps == 2 and missing:
                net = self.worth * columns["gain"][where] - columns["price"][where]
                later = after_the_next(self.source, part, missing, present, self.value, self.prices, self.worth)
                columns["ahead"][where] = net + np.where(observed[where], np.nan, later)
        return columns

    def _of_look(self, predictions: torch.Tensor, weights: torch.Tensor, bound: torch.Tensor) -> dict[str, np.ndarray]:
        kind = self.model.schema.task.traits
        p, w = predictions.double(), weights.double()
        gain = expected_gain(p, w, self.value)
        found = {
            "change": to_numpy(expected_change(p, w, kind)[0]),
            "gain": to_numpy(torch.where(bound.isnan(), gain, torch.minimum(gain, bound))),
            "gain_error": to_numpy(gain_error(p, w, self.value)),
        }
        if kind.one_class:
            found["outcomes"] = to_numpy(labels_by_share(p, w).mass)
        if kind.many_labels:
            found["by_label"] = to_numpy(by_label(p, w))
            found["gain_by_label"] = to_numpy(expected_gain(p, w, _of_coins))
        if self.odds_ratio is not None:

            def value(tilted: torch.Tensor) -> torch.Tensor:
                return expected_gain(p, tilted, self.value)

            scale = self.model.scaling.target_scale
            ends = sensitivity_range(value, p, w, self.odds_ratio, kind=kind, scale=scale)
            found["sensitivity"] = to_numpy(torch.stack(ends, dim=1))
        return found

    def _together(
        self, batch: Batch, missing: tuple[str, ...], present: torch.Tensor, bound: torch.Tensor, gains: np.ndarray
    ) -> np.ndarray:
        """Gain of looking at all that is missing (b,)."""
        if len(missing) == 1:
            return np.nanmax(gains, axis=1)
        law = self.source.law(batch, missing, present)
        self.notes |= dict.fromkeys(law.notes)
        return self._of_look(*law.after(missing), bound)["gain"]
