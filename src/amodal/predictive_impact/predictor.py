"""The parts of a trained model that impact needs: its method, data description, batches and predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.data.scale import Scaling
from amodal.errors import ConfigurationError, DataError
from amodal.kinds import TaskKind
from amodal.method import Method, SamplingMethod
from amodal.schema import Schema, check_schema

__all__ = ["Predictor", "check_inputs", "distance", "predictions_of", "refuse_empty"]


@runtime_checkable
class Predictor(Protocol):
    """A trained model as this package sees it; `amodal.TrainedModel` is one.

    Attributes:
        method: The network.
        schema: The modalities and the task.
        scaling: The standardisation of its training data.
        prior: Prediction for a case of which nothing is observed.
        training_cases: The cases it was trained on, or None where they are not at hand.
    """

    method: Method
    schema: Schema
    scaling: Scaling
    prior: np.ndarray
    training_cases: Cohort | None

    def change_scale(self, missing: Sequence[str]) -> float:
        """What changes under its own completions are multiplied by, where some modalities are missing."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        ...

    def batches(
        self, cohort: Cohort, batch_size: int = 1024, rows: np.ndarray | None = None, *, check_levels: bool = False
    ) -> Iterator[Batch]:
        """Scaled batches on the model's device, in order; `check_levels`: warn of images beyond those of training."""
        ...

    def recalibrated(self, predictions: Tensor, batch: Batch) -> Tensor:
        """The method's predictions (…, B, D) for a batch, recalibrated for what is present in its rows."""
        ...

    def predict(self, cohort: Cohort, *, batch_size: int = 1024, on_empty: str = "warn") -> np.ndarray:
        """Probabilities (N, C) or (N, K), or values (N,) in the target's units."""
        ...


def check_inputs(model: Predictor, cohort: Cohort, what: str = "cases") -> None:
    """Refuse what is no trained model, and cases that it cannot take.

    Args:
        model: Perhaps a trained model.
        cohort: Perhaps cases with its modalities, or some of them.
        what: What the cases are, for messages.

    Raises:
        ConfigurationError: If they are something else.
        SchemaError: If the cases' modalities do not fit.
    """
    for given, name, kind, expected, hint in (
        (model, "the model", Predictor, "TrainedModel", "amodal.fit and amodal.load give one."),
        (cohort, f"the {what}", Cohort, "Cohort", "Cohort.from_arrays and amodal.load_cohort give one."),
    ):
        if not isinstance(given, kind):
            raise ConfigurationError(f"{name} cannot be used", expected=f"a {expected}",
                                     got=type(given).__name__, hint=hint)  # fmt: skip
    check_schema(model.schema, cohort.schema)


def refuse_empty(model: Predictor, batch: Batch) -> None:
    """Refuse cases of which nothing is observed, unless the method can take them.

    Raises:
        DataError: If there are such cases.
    """
    empty = ~batch.presence.any(1)
    if model.method.accepts_empty or not bool(empty.any()):
        return
    ids = [str(batch.ids[i]) if batch.ids is not None else str(i) for i in empty.nonzero().squeeze(1).tolist()]
    raise DataError(
        f"{len(ids)} cases have nothing observed: {', '.join(ids[:5])}{' …' if len(ids) > 5 else ''}",
        hint=f"{type(model.method).__name__} cannot take such cases; leave them out.",
    )


def predictions_of(model: Predictor, batch: Batch, *, draws: int | None = None) -> Tensor:
    """Predictions (B, D) of standardised rows: D classes or labels, or one value in the target's units.

    A row of which nothing is observed gets the training prior, unless the method predicts such rows itself.

    Args:
        model: The model.
        batch: The rows.
        draws: Most draws that a method averages over which predicts by the mean of draws; None: as many as it makes.
    """
    method = model.method
    if draws is not None and isinstance(method, SamplingMethod) and type(method).predict is SamplingMethod.predict:
        predicted = method.predict_by(batch, seed=0, draws=min(draws, method.prediction_draws))
    else:
        predicted = method.predict(batch)
    predicted = model.recalibrated(predicted.float(), batch)
    if model.schema.task.traits.one_value:
        predicted = model.scaling.unscale(predicted)[:, None]
    if not model.method.accepts_empty:
        prior = torch.as_tensor(model.prior, dtype=predicted.dtype, device=predicted.device)
        predicted = torch.where(batch.presence.any(1, keepdim=True), predicted, prior)
    return predicted


def distance(predictions: Tensor, others: Tensor, kind: TaskKind) -> Tensor:
    """Distances of predictions (…, D) to others: total variation; its mean over labels; the absolute difference."""
    if kind.one_value:
        predictions, others = predictions[..., 0], others[..., 0]
    return kind.distance(predictions, others)
