"""Which missing modality to look at next: what observing it is expected to change, and to be worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.errors import ConfigurationError, DataError, ShapeError, UnknownNameError
from amodal.losses.task import logits_to_predictions
from amodal.method import SamplingMethod, inference
from amodal.predictive_impact.donors import DonorCompletions
from amodal.predictive_impact.draws import check_count
from amodal.predictive_impact.predictor import Predictor, check_inputs
from amodal.schema import Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Advice", "acquisition_curve", "advise"]

Utility = Literal["log_likelihood", "accuracy", "squared_error"] | Callable[[Tensor], Tensor]
Order = Literal["advised", "random", "oracle"]
_INNER = 32  # draws of the other latents for each of one
_ROWS = 256


@dataclass(frozen=True, eq=False)
class Advice:
    """What each missing modality of each case is expected to do.

    Attributes:
        ids: Ids of the N cases.
        names: Names of the M modalities.
        observed: What is present, bool, of shape (N, M).
        change: Expected distance between the prediction now and with the modality observed, of shape (N, M); NaN where
            it is observed already. Total variation; its mean over labels (multilabel); the absolute difference in the
            target's units (regression).
        gain: Expected gain in utility, of shape (N, M); NaN likewise.
        how: Where the plausible values come from.
    """

    ids: np.ndarray
    names: tuple[str, ...]
    observed: np.ndarray
    change: np.ndarray
    gain: np.ndarray
    how: str

    def __len__(self) -> int:
        return len(self.ids)

    def ranking(self, by: Literal["gain", "change"] = "gain") -> list[tuple[str, ...]]:
        """The missing modalities of each case, the most useful first.

        Raises:
            UnknownNameError: If `by` is neither "gain" nor "change".
        """
        if by not in ("gain", "change"):
            raise UnknownNameError("way to rank", by, ("gain", "change"))
        score = np.where(self.observed, -np.inf, self.gain if by == "gain" else self.change)
        order = np.argsort(-score, axis=1, kind="stable")
        return [tuple(self.names[m] for m in row if not seen[m]) for row, seen in zip(order, self.observed)]

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        """The modality to look at next and its gain, both of shape (N,): "" and NaN where nothing is missing."""
        best = np.where(self.observed, -np.inf, self.gain).argmax(axis=1)
        nothing = self.observed.all(axis=1)
        names = np.where(nothing, "", np.array(self.names, dtype=object)[best])
        return names, np.where(nothing, np.nan, self.gain[np.arange(len(best)), best])

    def table(self) -> pd.DataFrame:
        """One row for each missing modality of each case, by rank: id, rank, modality, gain, change."""
        import pandas as pd

        rows = []
        for i, ranked in enumerate(self.ranking()):
            for rank, name in enumerate(ranked, start=1):
                m = self.names.index(name)
                rows.append((self.ids[i], rank, name, self.gain[i, m], self.change[i, m]))
        return pd.DataFrame(rows, columns=["id", "rank", "modality", "gain", "change"])


def advise(
    model: Predictor,
    cohort: Cohort,
    *,
    draws: int = 50,
    seed: int = 0,
    utility: Utility | None = None,
    train: Cohort | None = None,
    neighbours: int = 50,
) -> Advice:
    r"""Ranks what each case lacks by what observing it, and nothing else, is expected to be worth.

    .. math::
        \mathrm{gain}_u = \mathbb{E}_{x_u \mid x_o} U\big(p(\cdot \mid x_o, x_u)\big)
        - U\big(\mathbb{E}_{x_u \mid x_o} p(\cdot \mid x_o, x_u)\big)

    U is the utility of a prediction, its expected value if the prediction is right. With the negative entropy
    (``"log_likelihood"``) the gain is the expected gain in log-likelihood, which is the mutual information of target
    and modality given what is known; with the largest probability (``"accuracy"``) it is the expected gain in
    accuracy. Both gains are zero or positive: their reference is the mean of the predictions to be expected. Of a
    multilabel task the former is added up over the labels, the latter their mean. Of a regression the gain is the
    expected fall in squared error, the variance of the predictions to be expected (``"squared_error"``).

    A utility of your own is that of the best decision under a prediction: with payoffs of each action in each class,
    ``lambda p: (p @ payoffs).amax(-1)``.

    With training cases, plausible values of a modality are those of similar training cases (`DonorCompletions`), and
    the model predicts from what is known and that value, so the advice is about the model's own next prediction.
    Without, the method's latents stand in: one is held while the others are averaged over, which assumes that a
    modality's own latent is what observing it would settle.

    Args:
        model: A trained model.
        cohort: N cases.
        draws: Plausible values of each modality.
        seed: Seed of all draws.
        utility: "log_likelihood", "accuracy", or a function of probabilities (…, C) that gives (…); for regression
            "squared_error", or a function of values (…) that gives (…). None: the first of these.
        train: Training cases; None: those the model remembers, else the method's own draws.
        neighbours: Number of similar training cases to choose from.

    Returns:
        Expected change and gain of each missing modality of each case.

    Raises:
        ConfigurationError: If there are no draws, or the method cannot draw and there are no training cases.
        UnknownNameError: If the utility has a name that the task does not know.
        ShapeError: If a function does not give one utility for each prediction.
        DataError: If there are no cases, or no training case has what a case lacks.

    Source:
        The expected value of sample information of :cite:`lindley1956measure`, for one modality at a time.
    """
    _check(model, cohort, draws)
    task = model.schema.task
    value = _utility(utility, task)
    train = model.training_cases if train is None else train
    source = None if train is None else DonorCompletions(model, train, neighbours=neighbours)
    if source is None and not isinstance(model.method, SamplingMethod):
        raise ConfigurationError(
            f"{type(model.method).__name__} cannot draw plausible values of what is missing, and there are no "
            "training cases to take them from",
            hint="Pass train=<the training cohort>.",
        )
    names, parts = model.schema.names, []
    with inference(model.method):
        for batch in model.batches(cohort, _ROWS):
            found = torch.full((2, len(batch), len(names)), torch.nan, device=batch.device)
            for m, name in enumerate(names):
                rows = (~batch.observed[name]).nonzero().squeeze(1)
                if not len(rows):
                    continue
                part = batch.take(rows)
                after = _predictions_after(model, source, part, name, draws, (seed + 1) * 1009 + m)  # (S, n, C)
                mean = after.mean(0)
                found[0, rows, m] = task.traits.distance(after, mean).mean(0)
                found[1, rows, m] = value(after).mean(0) - value(mean)
            parts.append((batch.presence.cpu().numpy(), found.cpu().numpy()))
    observed = np.concatenate([presence for presence, _ in parts])
    change, gain = np.concatenate([found for _, found in parts], axis=1)
    how = "the method's latents, one held while the others are averaged over" if source is None else source.how
    return Advice(cohort.ids, names, observed, change, gain, how)


def acquisition_curve(
    model: Predictor,
    cohort: Cohort,
    *,
    order: Order = "advised",
    steps: int | None = None,
    seed: int = 0,
    draws: int = 50,
    utility: Utility | None = None,
    train: Cohort | None = None,
    start: np.ndarray | None = None,
    neighbours: int = 50,
) -> pd.DataFrame:
    """Reveals one more modality of each case at a time, in an order, and measures after each.

    The next modality is chosen case by case, given what has been revealed: the one with the largest expected gain
    ("advised"), a random one ("random"), or the one whose real value leads to the prediction of the largest utility
    ("oracle": it knows the values, not the target).

    Args:
        model: A trained model of a classification task.
        cohort: N cases with target, with everything that can be revealed.
        order: How the next modality is chosen.
        steps: Number of modalities to reveal; None: until nothing is left.
        seed: Seed of the start, the random order and the draws.
        draws: Plausible values of each modality ("advised").
        utility: What is to be gained; see `advise`.
        train: Training cases; see `advise`.
        start: What is known at first, bool (N, M); None: one random present modality of each case.
        neighbours: Number of similar training cases to choose from.

    Returns:
        One row a case and step, with ``id``, ``step`` (0: at the start), ``acquired`` (the modality, "" at first and
        when nothing is left), ``correct``, ``log_likelihood`` and ``order``.

    Raises:
        UnknownNameError: If the order or the utility is not known.
        DataError: If the cases have no target.
        AmodalError: As `advise`.
    """
    if order not in ("advised", "random", "oracle"):
        raise UnknownNameError("order of acquisition", order, ("advised", "random", "oracle"))
    if not model.schema.task.is_classification:
        raise ConfigurationError("curves of acquisition are for classification only", got=model.schema.task.kind)
    _check(model, cohort, draws)
    if cohort.target is None:
        raise DataError("a curve needs cases with a target")
    if cohort.schema.names != model.schema.names:
        raise DataError("a curve needs the model's modalities in its order", expected=model.schema.names)
    generator = np.random.default_rng(seed)
    scores = np.where(cohort.observed, generator.random(cohort.observed.shape), -1.0)
    first = np.eye(len(cohort.schema.names), dtype=bool)[scores.argmax(axis=1)]
    known: np.ndarray = np.asarray(cohort.observed & (first if start is None else start))
    chooser = _Chooser(model, cohort, order, seed, draws, utility, train, neighbours)
    parts, acquired = [], np.full(len(cohort), "", dtype=object)
    for step in range(1 + (len(cohort.schema.names) if steps is None else steps)):
        if step:
            open_ = cohort.observed & ~known
            if not open_.any():
                break
            choice = chooser(known, open_, step)
            some = np.asarray(open_.any(axis=1))
            known = known | (some[:, None] & np.eye(known.shape[1], dtype=bool)[choice])
            acquired = np.where(some, np.array(cohort.schema.names, dtype=object)[choice], "")
        parts.append(_measured(model, cohort, known, step, acquired, order))
    return _concatenated(parts)


class _Chooser:
    """Which modality (N,) each case gets next, of those that are open (N, M)."""

    def __init__(
        self,
        model: Predictor,
        cohort: Cohort,
        order: Order,
        seed: int,
        draws: int,
        utility: Utility | None,
        train: Cohort | None,
        neighbours: int,
    ):
        self.model, self.cohort, self.order, self.seed = model, cohort, order, seed
        self.draws, self.train, self.neighbours = draws, train, neighbours
        self.utility: Utility | None = utility

    def __call__(self, known: np.ndarray, open_: np.ndarray, step: int) -> np.ndarray:
        if self.order == "random":
            score = np.random.default_rng((self.seed, step)).random(open_.shape)
        elif self.order == "advised":
            score = advise(
                self.model,
                self.cohort.with_observed(known),
                draws=self.draws,
                seed=self.seed,
                utility=self.utility,
                train=self.train,
                neighbours=self.neighbours,
            ).gain
        else:
            score = np.stack([self._revealed(known, m) for m in range(open_.shape[1])], axis=1)
        return np.where(open_, score, -np.inf).argmax(axis=1)

    def _revealed(self, known: np.ndarray, m: int) -> np.ndarray:
        """Utility (N,) of the prediction with modality m as it is."""
        more = known | (np.arange(known.shape[1]) == m)
        predicted = self.model.predict(self.cohort.with_observed(more), on_empty="silent")
        return _utility(self.utility, self.model.schema.task)(torch.from_numpy(predicted)).numpy()


def _predictions_after(
    model: Predictor, source: DonorCompletions | None, batch: Batch, name: str, draws: int, seed: int
) -> Tensor:
    """Predictions (S, B, C), or (S, B) in the target's units, with plausible values of one modality."""
    kind = model.schema.task.kind
    if source is not None:
        generator = torch.Generator(batch.device).manual_seed(seed)
        after = logits_to_predictions(source.outputs(batch, draws, generator, only=[name]), kind)
    else:
        assert isinstance(model.method, SamplingMethod)
        others, parts = [other for other in model.schema.names if other != name], []
        for k in range(draws):
            generator = torch.Generator(batch.device).manual_seed(seed * 10_007 + k)
            parts.append(model.method.draw(batch, _INNER, generator, vary=others).mean(0))
        after = torch.stack(parts)
    return model.scaling.unscale(after) if model.schema.task.traits.scales_target else after


def _measured(
    model: Predictor, cohort: Cohort, known: np.ndarray, step: int, acquired: np.ndarray, order: str
) -> pd.DataFrame:
    import pandas as pd

    assert cohort.target is not None
    predicted = model.predict(cohort.with_observed(known), on_empty="silent")
    of_target = predicted[np.arange(len(cohort)), cohort.target]
    return pd.DataFrame(
        {
            "id": cohort.ids,
            "step": step,
            "acquired": acquired,
            "correct": predicted.argmax(axis=1) == cohort.target,
            "log_likelihood": np.log(np.maximum(of_target, np.finfo(np.float32).tiny)),
            "order": order,
        }
    )


def _concatenated(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(parts, ignore_index=True)


def _utility(utility: Utility | None, task: Task) -> Callable[[Tensor], Tensor]:
    """Utilities (…) of predictions (…, C), or (…) for a regression."""
    if callable(utility):
        return _checked(utility, task)
    known = task.traits.utilities
    if utility is None:
        return next(iter(known.values()))
    if utility not in known:
        raise UnknownNameError(f"utility of a {task.kind} task", utility, known)
    return known[utility]


def _checked(utility: Callable[[Tensor], Tensor], task: Task) -> Callable[[Tensor], Tensor]:
    def value(predictions: Tensor) -> Tensor:
        shape = predictions.shape if task.traits.one_value else predictions.shape[:-1]
        found = utility(predictions)
        if not isinstance(found, Tensor) or found.shape != shape:
            raise ShapeError(
                "a utility must give one number for each prediction",
                expected=f"a tensor of shape {tuple(shape)} for predictions {tuple(predictions.shape)}",
                got=tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__,
            )
        return found

    return value


def _check(model: Predictor, cohort: Cohort, draws: int) -> None:
    check_count("draws", draws)
    check_inputs(model, cohort)
    if not len(cohort):
        raise DataError("there are no cases to advise on", expected="at least one")
