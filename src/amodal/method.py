"""What every method promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled
from amodal.errors import AmodalError, ConfigurationError
from amodal.losses.task import logits_to_predictions
from amodal.options import OptionsChecked
from amodal.schema import Schema

__all__ = ["EstimatedMethod", "LatentMethod", "LossTerms", "Method", "SamplingMethod", "inference"]


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


class Method(OptionsChecked, nn.Module, ABC):
    """A way to learn from several modalities of which some are absent.

    A method is a network with an objective and a prediction. It never owns a training loop: what it needs beyond one
    optimiser is declared by the hooks below, which `amodal.fit` honours. It sees batches only, in the units of its
    training data's scaling (inputs and regression targets are standardised before they come here).

    Args:
        schema: The modalities and the task.

    Attributes:
        summary: One line for lists and tables.
        references: Keys of the bibliography, first the method's own paper.
        transductive: Rows of one batch influence one another's predictions, by design.
        couples_rows: The objective of a batch is not the mean of its rows' objectives, by design.
        accepts_empty: A row with no modality at all is a legal input.
        meets_all_patterns: The objective meets every pattern of presence by itself: training needs no further removal.
            Of a method whose options decide this, a class says what holds by default, and `meets_all_patterns_with`.
        optimisers: Names of the optimisers, stepped in this order for each batch.
        PRESETS: Named sets of option values, each a difference from the constructor's defaults; see `amodal.options`.
    """

    summary: ClassVar[str] = ""
    references: ClassVar[tuple[str, ...]] = ()
    transductive: ClassVar[bool] = False
    couples_rows: ClassVar[bool] = False
    accepts_empty: ClassVar[bool] = False
    meets_all_patterns: bool = False
    optimisers: ClassVar[tuple[str, ...]] = ("main",)
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, schema: Schema):
        super().__init__()
        self.schema = schema

    @abstractmethod
    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The loss terms of a batch with targets.

        Args:
            batch: B rows, with target.
            generator: Source of all randomness but dropout's, on the batch's device.

        Returns:
            Named scalar terms and their weights.
        """

    @abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """Predictions in evaluation mode; deterministic.

        Args:
            batch: B rows with any presence (rows without any modality only if `accepts_empty`).

        Returns:
            Probabilities of shape (B, C) for binary (C = 2) and multiclass tasks, (B, K) for multilabel, or means of
            shape (B,) for regression.
        """

    # Hooks -------------------------------------------------------------------------------------------------------

    @classmethod
    def meets_all_patterns_with(cls, options: Mapping[str, Any]) -> bool:
        """Whether `meets_all_patterns` holds for a method with these options; asked before it is built."""
        return cls.meets_all_patterns

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Called once before training with the training batches, for statistics a method needs (buffers)."""

    def parameters_of(self, optimiser: str) -> Iterable[nn.Parameter]:
        """The parameters that one of `optimisers` steps; frozen ones (requires_grad False) are left out."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def clip_groups(self, optimiser: str) -> Iterable[Iterable[nn.Parameter]]:
        """Groups of the parameters of `optimiser` whose gradient norms are clipped apart from one another."""
        return [self.parameters_of(optimiser)]

    def objective_of(self, optimiser: str, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The loss terms that one of `optimisers` minimises; the method's objective unless overridden."""
        return self.objective(batch, generator)

    def learning_rate_scale(self, parameter_name: str) -> float:
        """Factor on the learning rate of one parameter, e.g. smaller for a pretrained encoder."""
        return 1.0

    def after_step(self, step: int) -> None:
        """Called after all optimisers have stepped on a batch: moving averages, constraints."""

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


class SamplingMethod(Method):
    """A method that can draw plausible completions of what is absent, and so say what it could still change.

    Attributes:
        prediction_draws: Number of draws that `predict` averages over.
    """

    prediction_draws: int = 64

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
        """The mean prediction over a fixed set of `prediction_draws` draws; see `Method.predict`."""
        return self.to_predictions(self.prediction_outputs(batch)).mean(0)

    def prediction_outputs(self, batch: Batch) -> Tensor:
        """Outputs (S, B, C) that `predict` averages the predictions of: a hook.

        By default draws from a generator with a fixed seed. A method whose noise is its own may spread a fixed set of
        draws more evenly than chance does.
        """
        return self.draw_outputs(batch, self.prediction_draws, torch.Generator(batch.device).manual_seed(0))

    def to_predictions(self, outputs: Tensor) -> Tensor:
        """Logits to probabilities, or (…, 1) regression outputs to (…)."""
        return logits_to_predictions(outputs, self.schema.task.kind)


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


class EstimatedMethod(Method):
    """A method that is fitted by an algorithm of its own in one call, instead of by gradient steps.

    Attributes:
        redraws: How many times the training rows are handed over under a removal that is redrawn every epoch.
    """

    redraws: int = 10

    @abstractmethod
    def estimate(self, train: Sequence[Batch], valid: Batch | None, generator: torch.Generator) -> None:
        """Fits the method; the result lives in buffers, so that it is saved like any network.

        Args:
            train: All training rows, once for each drawing of the removal.
            valid: All validation rows, or None.
            generator: Source of all randomness.
        """

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """Not minimised by gradients: reports the task loss of the fitted method, for histories."""
        raise AmodalError(f"{type(self).__name__} is not trained by gradients", hint="amodal.fit calls `estimate`.")


@contextmanager
def inference(method: Method) -> Iterator[None]:
    """Evaluation mode without gradients, for a while."""
    training = method.training
    method.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        method.train(training)
