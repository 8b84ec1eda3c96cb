"""Method: the base classes of everything that is trained and predicts, with their hooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeGuard

import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled
from amodal.errors import AmodalError, ConfigurationError
from amodal.losses.masked import mean_over_labelled, mean_over_observed, select
from amodal.losses.task import logits_to_predictions, task_loss
from amodal.options import OptionsChecked
from amodal.patterns import repeat_rows
from amodal.schema import Schema, Task

__all__ = [
    "Clock",
    "EstimatedMethod",
    "LatentMethod",
    "LossTerms",
    "Method",
    "NetworkMethod",
    "OneLatent",
    "OptimiserSettings",
    "SamplingMethod",
    "base_outputs",
    "draws_itself",
    "inference",
]


@dataclass(frozen=True)
class LossTerms:
    """Named, unweighted terms of an objective, and their weights apart.

    Args:
        terms: A scalar tensor for each name, each already a mean over the batch's rows.
        weights: Weight of each term; a term that is not named has weight 1.

    Example:
        >>> terms = LossTerms({"task": torch.tensor(2.0), "kl": torch.tensor(4.0)}, {"kl": 0.5})
        >>> terms.total.item()
        4.0
    """

    terms: Mapping[str, Tensor]
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = set(self.weights) - set(self.terms)
        assert not unknown, f"weights without a term: {sorted(unknown)}"

    @property
    def total(self) -> Tensor:
        """The weighted sum, a scalar."""
        return torch.stack([self.weights.get(name, 1.0) * term for name, term in self.terms.items()]).sum()


@dataclass(frozen=True)
class Clock:
    """Position of the training: step, epoch and their totals, counted from 0.

    Attributes:
        step: Steps taken before this one, over all epochs.
        epoch: The present epoch.
        steps: Steps of the whole training, if it is not stopped early.
        epochs: Epochs of the whole training.
    """

    step: int = 0
    epoch: int = 0
    steps: int = 1
    epochs: int = 1

    @property
    def progress(self) -> float:
        """Share of the whole training that is done, from 0 to 1."""
        return min(1.0, self.step / max(1, self.steps))


@dataclass(frozen=True)
class OptimiserSettings:
    """Settings of one optimiser where they differ from those of the training; None takes the training's.

    Attributes:
        kind: "adamw", "adam" or "sgd".
        learning_rate: Peak learning rate.
        weight_decay: Weight decay.
        betas: Decay rates of Adam's averages.
        momentum: Momentum of SGD.
    """

    kind: Literal["adamw", "adam", "sgd"] | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.0


class Method(OptionsChecked, nn.Module, ABC):
    """A way to learn from several modalities of which some are absent: a network with objectives and a prediction.

    It never owns a training loop: what it needs beyond one optimiser is declared by the hooks below, which `amodal.fit`
    honours. It sees batches only, in the units of its training data's scaling (inputs and regression targets are
    standardised before). A prediction is a function of its own row: neither the other rows of the batch nor its size
    may change it. What a method needs from other cases it stores after training, in `remember`.

    Args:
        schema: The modalities and the task.

    Attributes:
        title: A name for people, in pages: at most 24 characters.
        summary: One line for lists and tables.
        references: Keys of the bibliography, first the method's own paper.
        preferred_encoders: Encoders by kind of modality, as in `choices` of `amodal.encoders.build_encoders`, for
            modalities for which the user chose none.
        couples_rows: The objective of a batch is not the mean of its rows' objectives, by design.
        accepts_empty: A row with no modality at all is a legal input.
        meets_all_patterns: The objective meets every pattern of presence by itself, so that training needs no further
            removal. Asked of the instance: options may decide it.
        uses_unlabelled: Rows without a label teach it something, so that they are in its batches (`Batch.labelled`
            tells them; `task_term` leaves them out). Otherwise training leaves them out, and says so. Asked of the
            instance.
        optimisers: The optimisers by name, stepped in this order for each batch.
        alternates: Each optimiser steps on an objective of its own, computed after the step of the one before
            (`objective_of`), at the cost of a forward pass each. Otherwise all step on the `objectives` of one pass.
        clock: Where training is; set before every epoch and every step. After training it stands at the end.
        weight_average: Share that a moving average of the weights keeps in each step; what is validated, kept and
            predicted with is the average. 0: there is none. `amodal.fit(weight_average=…)` goes before it.
        PRESETS: Named sets of option values, each a difference from the constructor's defaults; see `amodal.options`.
    """

    title: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    references: ClassVar[tuple[str, ...]] = ()
    preferred_encoders: ClassVar[Mapping[str, str | Mapping[str, Any]]] = {}
    couples_rows: ClassVar[bool] = False
    accepts_empty: ClassVar[bool] = False
    meets_all_patterns: bool = False
    uses_unlabelled: bool = False
    optimisers: Mapping[str, OptimiserSettings] = {"main": OptimiserSettings()}
    alternates: bool = False
    weight_average: ClassVar[float] = 0.0
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, schema: Schema):
        super().__init__()
        self.schema = schema
        self.clock = Clock()
        self._memories: set[str] = set()

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The loss terms of a batch with targets, for a method with one optimiser.

        Args:
            batch: B rows, with target.
            generator: Source of all randomness but dropout's, on the batch's device.

        Returns:
            Named scalar terms and their weights.
        """
        raise AmodalError(
            f"{type(self).__name__} has no objective", hint="A method defines `objective`, `objectives` or both."
        )

    @abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """Predictions in evaluation mode; deterministic, and row by row.

        Args:
            batch: B rows with any presence (rows without any modality only if `accepts_empty`).

        Returns:
            Probabilities of shape (B, C) for binary (C = 2) and multiclass tasks, (B, K) for multilabel, or means of
            shape (B,) for regression.
        """

    # Hooks of training ---------------------------------------------------------------------------------------------

    def objectives(self, batch: Batch, generator: torch.Generator) -> Mapping[str, LossTerms]:
        """The loss terms of every optimiser, from one forward pass.

        Each optimiser receives the gradient of its own terms with respect to its own parameters, and no other; all
        gradients are taken before the first of them steps.

        Args:
            batch: B rows, with target.
            generator: As in `objective`.

        Returns:
            Terms for each name in `optimisers`.
        """
        return {"main": self.objective(batch, generator)}

    def objective_of(self, optimiser: str, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The loss terms of one optimiser of a method that `alternates`, from a forward pass of its own."""
        return self.objectives(batch, generator)[optimiser]

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Called once before training with the training batches, for statistics a method needs (buffers)."""

    def begin_epoch(self) -> None:
        """Called before every epoch, with `clock` set; which parameters have `requires_grad` may change here."""

    def after_step(self) -> None:
        """Called after all optimisers have stepped on a batch: moving averages, constraints."""

    def remember(self, batches: Iterable[Batch]) -> None:
        """Called before every validation, and once more after training with the best weights; in evaluation mode.

        A method whose predictions compare a case with training cases stores here what it needs of them, in buffers made
        by `register_memory`.

        Args:
            batches: All training rows in order, with targets and as they came: nothing further removed.
        """

    def estimated_parts(self) -> Iterable[EstimatedMethod]:
        """Parts that are fitted by an algorithm of their own, before the first step."""
        return ()

    def adjust(self, rows: Iterable[tuple[Batch, Tensor]]) -> None:
        """Called once after `remember`, with the best weights, in evaluation mode and without gradients.

        What a method chooses by validation rows is chosen here and stored in buffers: weights of its parts, a rule that
        joins them.

        Args:
            rows: Batches of validation rows, with targets, and how much each row counts, (B,); they can be gone through
                several times. Where training was for more than one presence, each case comes several times, as it is
                and under removals; its rows together count as much as the case.
        """

    def register_memory(self, name: str, row: Tensor) -> None:
        """Makes a buffer whose number of rows is known after training only: saved, and restored at its stored size.

        Args:
            name: The attribute.
            row: An example of one row, of shape (…); the buffer begins with none, of shape (0, …).
        """
        self.register_buffer(name, row.new_zeros(0, *row.shape))
        self._memories.add(name)

    def register_columns(self, name: str, columns: Sequence[int]) -> None:
        """Makes a tensor of positions, such as those of some modalities, that moves with the method and is not saved.

        A list as an index would be sent to the device in every step.
        """
        self.register_buffer(name, torch.tensor(list(columns), dtype=torch.int64), persistent=False)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        for name in self._memories:  # a memory takes the size of what is stored
            stored = state_dict.get(prefix + name)
            own = getattr(self, name)
            if stored is not None and stored.shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def parameters_of(self, optimiser: str) -> Iterable[nn.Parameter]:
        """The parameters that one of `optimisers` steps; frozen ones (requires_grad False) are left out.

        Read again after every `begin_epoch`.
        """
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def clip_groups(self, optimiser: str) -> Iterable[Iterable[nn.Parameter]]:
        """Groups of the parameters of `optimiser` whose gradient norms are clipped apart from one another."""
        return [self.parameters_of(optimiser)]

    def learning_rate_scale(self, parameter_name: str) -> float:
        """Factor on the learning rate of one parameter, e.g. smaller for a pretrained encoder."""
        return 1.0

    # Hooks of validation -------------------------------------------------------------------------------------------

    def part_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of independent sub-models, each of which keeps its own best weights (evaluation mode).

        Args:
            batch: Validation rows with target, without further removal.

        Returns:
            For each sub-model, by the prefix of its keys in the state dict, the task losses (n,) of the rows it is
            judged by. Empty (the usual case): the whole method is judged by its predictions.
        """
        return {}

    def representations(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Vectors that are watched for collapse in every epoch (evaluation mode, one batch).

        Args:
            batch: Validation rows.

        Returns:
            For each name vectors of shape (B, M, D), and which of them count, bool (B, M). By default "pooled", the
            pooled vectors of the method's submodule `encoders`, where present; nothing without such a submodule.
        """
        encoders = dict(self.named_children()).get("encoders")
        return {"pooled": encode_pooled(encoders, batch)} if isinstance(encoders, PerModality) else {}

    def monitor(self, batch: Batch) -> dict[str, float]:
        """Further quantities that are worth a column in the history (evaluation mode, one batch)."""
        return {}

    # What every method can use -------------------------------------------------------------------------------------

    def presence(self, batch: Batch) -> Tensor:
        """Presence of all modalities in the schema's order, bool, of shape (B, M)."""
        return torch.stack([batch.observed[name] for name in self.schema.names], dim=1)

    def to_predictions(self, outputs: Tensor) -> Tensor:
        """Logits to probabilities, or (…, 1) regression outputs to (…)."""
        return logits_to_predictions(outputs, self.schema.task.kind)

    def task_term(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The task's loss of a batch's outputs, a mean over the rows whose label is known: a scalar.

        Args:
            outputs: Outputs (B, C), or (n · B, C): those of all rows under one pattern of presence after another.
            batch: B rows with target.
        """
        target = repeat_rows(batch.labels, len(outputs) // max(1, len(batch)))
        return mean_over_labelled(task_loss(outputs, target, self.schema.task.kind), batch.labelled)

    def own_term(self, outputs: Tensor, observed: Tensor, batch: Batch) -> Tensor:
        """The task's loss of each modality's own outputs, a mean over the labelled rows that have it; then their sum.

        Args:
            outputs: Of shape (B, M, C); what stands where a modality is absent does not matter.
            observed: Which of them count, bool, of shape (B, M).
            batch: B rows with target.

        Returns:
            A scalar; a modality that no labelled row has adds zero.
        """
        kind, counted = self.schema.task.kind, observed & batch.labelled[:, None]
        parts = zip(outputs.unbind(1), counted.unbind(1))
        means = [mean_over_observed(task_loss(select(own, seen), batch.labels, kind), seen) for own, seen in parts]
        return torch.stack(means).sum()


def base_outputs(batches: Iterable[Batch], task: Task) -> Tensor:
    """Outputs (C,) for rows of which nothing is known, from the targets of training rows.

    They are log odds of each label, logarithms of the class frequencies (half a case added to each), or the mean.

    Args:
        batches: Training rows.
        task: The task.
    """
    total, count = torch.zeros(2, task.n_outputs, dtype=torch.float64)
    for batch in batches:
        if batch.target is None:
            continue
        target = batch.target[batch.labelled].cpu()
        if task.is_classification and not target.is_floating_point():
            target = torch.nn.functional.one_hot(target, task.n_outputs)
        target = target.double().view(len(target), task.n_outputs)
        known = ~target.isnan()
        total += torch.where(known, target, 0.0).sum(0)
        count += known.sum(0)
    return task.traits.constant_outputs(total, count)


@contextmanager
def inference(method: Method) -> Iterator[None]:
    """Evaluation mode without gradients; the mode is put back afterwards."""
    was = method.training
    method.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        method.train(was)


class NetworkMethod(Method):
    """A method that is one network: outputs for every row, trained by the task's loss, read out as they are."""

    @abstractmethod
    def outputs(self, batch: Batch) -> Tensor:
        """Outputs of the network (B, C): logits, or regression means."""

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The task's loss, averaged over the rows with a label; see `Method.objective`."""
        return LossTerms({"task": self.task_term(self.outputs(batch), batch)})

    def predict(self, batch: Batch) -> Tensor:
        """Probabilities (B, C) or (B, K), or means (B,); see `Method.predict`."""
        return self.to_predictions(self.outputs(batch))


class SamplingMethod(Method):
    """A method that can draw plausible completions of what is absent, and so say what it could still change.

    Draws are spread evenly over their law (`amodal.distributions.quasirandom`): rows share their noise, so that the
    error of few draws is common to a whole cohort, and no interval over cases would show it.

    Attributes:
        prediction_draws: Number of draws that `predict` averages over.
        draws_mean: What the draws are: "completions" of modalities, each of which can vary by itself, the width of
            "one latent" for all modalities, which says nothing about a modality by itself, or "nothing": the options
            are such that none can be drawn. Asked of the instance.
        averages_draws: Whether a prediction is a mean over draws, and so leaves something open by their number.
    """

    prediction_draws: int = 64
    averages_draws: ClassVar[bool] = True
    draws_mean: Literal["completions", "one latent", "nothing"] = "completions"

    @abstractmethod
    def draw_outputs(
        self, batch: Batch, draws: int, generator: torch.Generator, *, vary: Sequence[str] | None = None
    ) -> Tensor:
        """Outputs (logits, or regression means) under plausible completions of what is absent.

        The noise of a draw is the same for every row of the batch (common random numbers), so that a row's draws do
        not depend on its neighbours.

        Args:
            batch: B rows.
            draws: Number of completions S.
            generator: Source of the draws, on the batch's device.
            vary: Modalities whose completion varies over the draws; the others are drawn once and kept. None: all.

        Returns:
            Outputs of shape (S, B, C), logits for classification and multilabel tasks, (S, B, 1) for regression.
        """

    def draw(
        self, batch: Batch, draws: int, generator: torch.Generator, *, vary: Sequence[str] | None = None
    ) -> Tensor:
        """Predictions under S plausible completions: (S, B, C) probabilities, or (S, B) means for regression."""
        if draws < 1:
            raise ConfigurationError("the number of draws is out of range", expected="1 or more", got=draws)
        return self.to_predictions(self.draw_outputs(batch, draws, generator, vary=vary))

    def predict(self, batch: Batch) -> Tensor:
        """The mean prediction over `prediction_draws` draws of a fixed seed; see `Method.predict`."""
        return self.predict_by(batch, seed=0)

    def predict_by(self, batch: Batch, *, seed: int, draws: int | None = None) -> Tensor:
        """The mean prediction over draws of a seed: another seed shows what the number of draws leaves open.

        Args:
            batch: B rows.
            seed: Seed of the draws.
            draws: Their number; None: `prediction_draws`.
        """
        generator = torch.Generator(batch.device).manual_seed(seed)
        return self.draw(batch, draws or self.prediction_draws, generator).mean(0)


def draws_itself(method: Method) -> TypeGuard[SamplingMethod]:
    """Whether a method can draw what it leaves open."""
    return isinstance(method, SamplingMethod) and method.draws_mean != "nothing"


class LatentMethod(SamplingMethod):
    """A method whose completions are draws of latent variables, which can be looked at."""

    @abstractmethod
    def draw_latents(self, batch: Batch, draws: int, generator: torch.Generator) -> Tensor:
        """The latents behind `draw_outputs` with a generator in the same state.

        Args:
            batch: B rows.
            draws: Number of draws S.
            generator: Source of the draws, on the batch's device.

        Returns:
            Latents of shape (S, B, U, Z), U latents of Z dimensions each.
        """


class OneLatent(LatentMethod):
    """A method with one latent for all modalities, which varies as a whole or, if `vary` names none, not at all.

    Attributes:
        head: Latents (S, B, Z) to outputs (S, B, C).
    """

    head: nn.Module

    @abstractmethod
    def sample_latent(self, batch: Batch, draws: int, generator: torch.Generator, *, varies: bool) -> Tensor:
        """Latents (S, B, Z) given what is present, the same in every draw unless they vary."""

    def draw_outputs(
        self, batch: Batch, draws: int, generator: torch.Generator, *, vary: Sequence[str] | None = None
    ) -> Tensor:
        """Outputs (S, B, C) for draws of the latent; see `SamplingMethod.draw_outputs`."""
        self.schema.check_names(list(vary or ()))
        return self.head(self.sample_latent(batch, draws, generator, varies=vary is None or len(vary) > 0))

    def draw_latents(self, batch: Batch, draws: int, generator: torch.Generator) -> Tensor:
        """Latents (S, B, 1, Z); see `LatentMethod.draw_latents`."""
        return self.sample_latent(batch, draws, generator, varies=True)[:, :, None]


class EstimatedMethod(Method):
    """A method that is fitted by an algorithm of its own in one call, instead of by gradient steps.

    Attributes:
        redraws: How many times the training rows are handed over under a removal that is redrawn every epoch.
    """

    redraws: int = 10

    @abstractmethod
    def estimate(self, train: Sequence[Batch], valid: Sequence[Batch], generator: torch.Generator) -> None:
        """Fits the method; the result lives in buffers, so that it is saved like any network.

        Args:
            train: All training rows as they are, and again for each drawing of the removal if there is any.
            valid: All validation rows likewise; empty where there are none.
            generator: Source of all randomness.
        """

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """Not minimised by gradients: reports the task loss of the fitted method, for histories."""
        raise AmodalError(f"{type(self).__name__} is not trained by gradients", hint="amodal.fit calls `estimate`.")
