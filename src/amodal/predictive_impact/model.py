"""`amodal.impact`: from a trained model and cases to V, its parts by modality, and plausible labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.data.cohort import Cohort
from amodal.errors import ConfigurationError, DataError
from amodal.losses.task import logits_to_predictions
from amodal.method import SamplingMethod, inference
from amodal.predictive_impact.donors import DonorCompletions
from amodal.predictive_impact.draws import check_count
from amodal.predictive_impact.plausible import PlausibleLabels, plausible_labels
from amodal.predictive_impact.predictor import Predictor, check_inputs, refuse_empty
from amodal.predictive_impact.result import Impact
from amodal.predictive_impact.variability import (
    modality_standard_error,
    modality_variability,
    standard_error,
    variability,
    variability_bound,
)
from amodal.schema import Task

__all__ = ["Completions", "completions_of", "impact"]

_NUMBERS = 2**24  # outputs in work at a time
_INNER = 20  # draws of one modality for each draw of the others: V of so many is 2.5 % low
_ROWS = 1024


class Completions(Protocol):
    """Where outputs under plausible completions come from."""

    @property
    def how(self) -> str:
        """The same in words."""
        ...

    def outputs(
        self, batch: Batch, draws: int, generator: torch.Generator, *, vary: Sequence[str] | None = None
    ) -> Tensor:
        """Outputs (S, B, C); see `SamplingMethod.draw_outputs`."""
        ...


class _OwnCompletions(NamedTuple):
    method: SamplingMethod
    how: str = "completions drawn by the method itself"

    def outputs(
        self, batch: Batch, draws: int, generator: torch.Generator, *, vary: Sequence[str] | None = None
    ) -> Tensor:
        return self.method.draw_outputs(batch, draws, generator, vary=vary)


def impact(
    model: Predictor,
    cohort: Cohort,
    *,
    draws: int = 200,
    seed: int = 0,
    vary: Literal["missing", "all"] | Sequence[str] = "missing",
    train: Cohort | None = None,
    neighbours: int = 50,
    plausible: bool = True,
) -> Impact:
    r"""How much what is missing could still change each prediction.

    Predictions are drawn under plausible completions of each case: by the method itself if it can, or with the missing
    modalities of similar training cases (`DonorCompletions`; the result says which). The spread of these predictions
    is V (eq. 9 of the paper). A modality's own V is from nested draws: the others are held while it varies.

    A method with latents, such as PRIMO, also varies what it leaves open about modalities that are there, so that a
    complete case has a V too, V_complete; completions from training cases leave nothing open. To compare the two V of
    a case, ask twice: ``impact(model, cohort)`` and ``impact(model, cohort.with_observed(...))``. All cases
    are given the same random numbers, so that such a difference has little noise, and a case's V does not
    depend on the other cases.

    Args:
        model: A trained model.
        cohort: N cases, whatever they lack.
        draws: Number of completions of each case.
        seed: Seed of all draws.
        vary: Modalities that get a V of their own: "missing" (for each case those it lacks), "all", or names.
        train: Training cases, for methods that cannot draw completions themselves; others do not look at them.
        neighbours: Number of similar training cases to choose from.
        plausible: Whether to find the plausible labels (classification only).

    Returns:
        V with its standard error, by case and by modality, the mean predictions and the plausible labels.

    Raises:
        ConfigurationError: If there are no draws, or the method cannot draw and there are no training cases.
        UnknownNameError: If `vary` names a modality that the model does not have.
        DataError: If there are no cases, a case has nothing observed and the method cannot take it, or no
            training case has what a case lacks.

    Source:
        :cite:`madaan2026primo`, section 2.2; V by modality, for other tasks and for other methods is this library's.

    Example:
        >>> import amodal
        >>> cohort = amodal.load_cohort("digits")
        >>> train, test = cohort.split("train"), cohort.split("test").take(np.arange(8))
        >>> model = amodal.fit("fusion", train, epochs=1)
        >>> without = test.with_observed(np.array([[True, True, False, False]] * 8))
        >>> result = amodal.impact(model, without, draws=20, train=train)
        >>> result.variability.shape, sorted(result.per_modality)
        ((8,), ['bottom_left', 'bottom_right', 'top_left', 'top_right'])
    """
    check_count("draws", draws)
    check_inputs(model, cohort)
    if not len(cohort):
        raise DataError("there are no cases to take the impact of", expected="at least one")
    names = model.schema.names
    if vary not in ("missing", "all"):
        model.schema.check_names([vary] if isinstance(vary, str) else list(vary))
        vary = [vary] if isinstance(vary, str) else list(vary)
    source = completions_of(model, train, neighbours)
    rows = min(_ROWS, max(1, _NUMBERS // (draws * model.schema.task.n_outputs)))
    parts = []
    with inference(model.method):
        for batch in model.batches(cohort, rows):
            refuse_empty(model, batch)
            parts.append(_impact_of_batch(model, source, batch, draws, seed, vary, plausible))
    columns = {key: np.concatenate([part.columns[key] for part in parts]) for key in parts[0].columns}
    labels = None if parts[0].labels is None else _joined([part.labels for part in parts if part.labels is not None])
    observed = columns["observed"]
    return Impact(
        ids=cohort.ids,
        names=names,
        observed=observed,
        task=model.schema.task,
        prediction=columns["prediction"],
        variability=columns["variability"],
        standard_error=columns["standard_error"],
        normalised=columns["normalised"],
        per_modality={name: columns[f"V {name}"] for name in names},
        per_modality_error={name: columns[f"error {name}"] for name in names},
        plausible_labels=labels,
        draws=draws,
        how=source.how,
        notes=_notes(model, cohort, observed, isinstance(source, DonorCompletions), draws),
    )


def completions_of(model: Predictor, train: Cohort | None = None, neighbours: int = 50) -> Completions:
    """Where the completions of a model's cases come from: its method, or similar training cases.

    Args:
        model: A trained model.
        train: Training cases, needed if the method cannot draw.
        neighbours: Number of similar training cases to choose from.

    Raises:
        ConfigurationError: If the method cannot draw and there are no training cases.
    """
    train = model.training_cases if train is None else train
    if isinstance(model.method, SamplingMethod):
        return _OwnCompletions(model.method)
    if train is None:
        raise ConfigurationError(
            f"{type(model.method).__name__} cannot draw completions of what is missing, and there are no training "
            "cases to take them from",
            hint="Pass train=<the training cohort> (on the command line --train_split), or train a method that draws "
            "itself (`amodal methods` lists them).",
        )
    return DonorCompletions(model, train, neighbours=neighbours)


class _Part(NamedTuple):
    columns: dict[str, np.ndarray]
    labels: PlausibleLabels | None


def _impact_of_batch(
    model: Predictor,
    source: Completions,
    batch: Batch,
    draws: int,
    seed: int,
    vary: str | list[str],
    plausible: bool,
) -> _Part:
    task, scale = model.schema.task, model.scaling.target_scale
    outputs = source.outputs(batch, draws, _generator(seed, batch))
    predictions = logits_to_predictions(outputs, task.kind).double()
    mean = predictions.mean(0)
    value, error = _value_and_error(predictions, task)
    normalised = torch.full_like(value, torch.nan)
    if task.is_classification:
        bound = variability_bound(mean)
        normalised = torch.where(bound > 1e-9, value / bound.clamp(min=1e-9), 0.0).clamp(max=1.0)
    elif task.traits.scales_target:
        mean, value, error = model.scaling.unscale(mean), value * scale, error * scale
    found = {"prediction": mean, "variability": value, "standard_error": error, "normalised": normalised}
    columns = {key: column.cpu().numpy() for key, column in found.items()} | {"observed": batch.presence.cpu().numpy()}
    for m, name in enumerate(model.schema.names):
        asked = ~batch.observed[name] if vary == "missing" else torch.full_like(batch.observed[name], True)
        if isinstance(vary, list) and name not in vary:
            asked = torch.zeros_like(asked)
        own = torch.full((2, len(batch)), torch.nan, dtype=torch.float64, device=batch.device)
        rows = asked.nonzero().squeeze(1)
        if len(rows):
            nested = _nested(source, batch.take(rows), name, draws, (seed + 1) * 1009 + m, task.kind)
            own[:, rows] = torch.stack(_nested_value_and_error(nested, task)) * scale
        columns[f"V {name}"], columns[f"error {name}"] = own.cpu().numpy()
    labels = plausible_labels(outputs.cpu().numpy()) if plausible and task.is_classification else None
    return _Part(columns, labels)


def _nested(source: Completions, batch: Batch, name: str, draws: int, seed: int, kind: str) -> Tensor:
    """Predictions (K_out, K_in, B, …): for each draw of the others, draws of one modality."""
    inner = min(draws, _INNER)
    generators = (_generator(seed * 10_007 + k, batch) for k in range(-(-draws // inner)))
    outputs = [source.outputs(batch, inner, generator, vary=[name]) for generator in generators]
    return logits_to_predictions(torch.stack(outputs), kind).double()


def _value_and_error(predictions: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """V and its standard error, each (B,), of predictions (S, B, …)."""
    distributions, spread = task.traits.distributions(predictions)
    return variability(distributions) * spread, standard_error(distributions) * spread


def _nested_value_and_error(predictions: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """V of one modality and its standard error, each (B,), of predictions (K_out, K_in, B, …)."""
    distributions, spread = task.traits.distributions(predictions.flatten(0, 1))
    nested = distributions.view(*predictions.shape[:3], -1)
    return modality_variability(nested) * spread, modality_standard_error(nested) * spread


def _generator(seed: int, batch: Batch) -> torch.Generator:
    return torch.Generator(batch.device).manual_seed(seed)


def _joined(parts: list[PlausibleLabels]) -> PlausibleLabels:
    labels = [labels for part in parts for labels in part.labels]
    return PlausibleLabels(
        labels, np.concatenate([part.mass for part in parts]), np.concatenate([part.fraction for part in parts])
    )


def _notes(model: Predictor, cohort: Cohort, observed: np.ndarray, donors: bool, draws: int) -> tuple[str, ...]:
    notes, known, given = [], model.schema.names, cohort.schema.names
    if unknown := [repr(name) for name in given if name not in known]:
        notes.append(f"The model does not know {', '.join(unknown)}: not used.")
    if lacking := [repr(name) for name in known if name not in given]:
        notes.append(f"The data have no {', '.join(lacking)}: missing in every case.")
    if observed.all():
        notes.append("Nothing is missing in any case: this is V_complete only. Remove modalities to see V_missing.")
    if donors and observed.all(axis=1).any():
        notes.append("Completions from training cases leave nothing open in complete cases: their V is 0.")
    if draws == 1:
        notes.append("V of a single draw is 0; its error is unknown.")
    if model.schema.task.traits.impact_note:
        notes.append(model.schema.task.traits.impact_note)
    return tuple(notes)
