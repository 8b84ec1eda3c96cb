"""Notes on the assumptions behind numbers on impact, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from amodal.data.cohort import Cohort
from amodal.predictive_impact.donors import DonorCompletions
from amodal.predictive_impact.own import OwnCompletions
from amodal.predictive_impact.predictor import Predictor
from amodal.schema import Schema, Task

if TYPE_CHECKING:
    from amodal.predictive_impact.completions import Completions

__all__ = ["notes_on_cohort", "notes_on_donors", "notes_on_gap", "notes_on_task"]

_LARGE_GAP = 0.1


def notes_on_cohort(schema: Schema, cohort: Cohort, observed: np.ndarray) -> list[str]:
    """Modalities that only one side has, and cases that lack nothing."""
    notes, known, given = [], schema.names, cohort.schema.names
    if unknown := [repr(name) for name in given if name not in known]:
        notes.append(f"The model does not know {', '.join(unknown)}: not used.")
    if lacking := [repr(name) for name in known if name not in given]:
        notes.append(f"The data have no {', '.join(lacking)}: missing in every case.")
    if observed.all():
        notes.append("Nothing is missing in any case: this is V_complete only. Remove modalities to see V_missing.")
    return notes


def notes_on_donors(source: Completions, observed: np.ndarray) -> list[str]:
    """Notes on completions from training cases."""
    if not isinstance(source, DonorCompletions) or observed.all():
        return []
    notes = []
    if observed.all(axis=1).any():
        notes.append("Completions from training cases leave nothing open in complete cases: their V is 0.")
    if not source.pool.grouped:
        notes.append(
            "The training cases have no groups: a case is not completed with itself, but another record of the same "
            "person would not be noticed."
        )
    if source.neighbours == 1:
        notes.append("With one neighbour there is nothing to vary: V and gains are 0, whatever is missing.")
    elif source.neighbours < 10:
        notes.append(f"V and gains from {source.neighbours} neighbours are low, and their errors unsure.")
    return notes


def notes_on_gap(gap: np.ndarray, model: Predictor, source: Completions) -> list[str]:
    """A warning where completions and predictions disagree, by more than few draws explain."""
    task = model.schema.task
    limit = _LARGE_GAP * (model.scaling.target_scale if task.traits.one_value else 1.0)
    if isinstance(source, OwnCompletions):
        limit *= max(1.0, 10.0 / source.draws**0.5)
    large = int((gap > limit).sum())
    if not large:
        return []
    units = f" {task.units}".rstrip() if task.traits.one_value else " in total variation"
    return [
        f"In {large} of {len(gap)} cases the predictions to be expected do not average to the present one (gap above "
        f"{limit:.3g}{units}; mean {np.nanmean(gap):.3g}): there the numbers are less sure than their errors say."
    ]


def notes_on_task(task: Task, draws: int, source: Completions, odds_ratio: float | None) -> list[str]:
    """Notes on V for a task, and on few draws."""
    notes = []
    if isinstance(source, OwnCompletions):
        if draws == 1:
            notes.append("V of a single draw is 0; its error is unknown.")
        if not source.by_modality:
            notes.append(
                "The method draws one latent for all modalities: V is how much that leaves open, not what is missing, "
                "and there is nothing to say by modality. Pass completions='training_cases' for that."
            )
    if task.traits.impact_note:
        notes.append(task.traits.impact_note)
    if odds_ratio is not None:
        notes.append(
            f"The sensitivity range is V if those who lack a modality differ by an odds ratio of up to {odds_ratio:g}."
        )
    return notes
