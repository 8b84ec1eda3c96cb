"""What `amodal.impact` gives: V of each case with its error, by modality, and the labels that remain plausible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from amodal.predictive_impact.plausible import PlausibleLabels
from amodal.schema import Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Impact"]


@dataclass(frozen=True, eq=False, repr=False)
class Impact:
    """How much what is missing could still change each prediction.

    Attributes:
        ids: Ids of the N cases.
        names: Names of the M modalities.
        observed: What was present, bool, of shape (N, M).
        task: What is predicted.
        prediction: Mean predictions over the draws: probabilities (N, C) or (N, K), or values (N,).
        variability: V of each case, of shape (N,): eq. 9 for classes, the mean over labels for multilabel tasks, the
            mean absolute deviation in the target's units for regression. For a case that lacks something it is V
            with that missing; for a complete case V_complete, what the model leaves open even so.
        standard_error: Monte-Carlo standard error of `variability`, of shape (N,).
        normalised: V over the largest that the mean prediction allows, of shape (N,); NaN for other tasks than classes.
        per_modality: For some modalities V when only that one varies, of shape (N,); NaN where it was not asked for.
        per_modality_error: Monte-Carlo standard errors of these.
        plausible_labels: The labels that remain plausible, with their mass; None for other tasks than classes, or if
            they were not asked for.
        draws: Number of completions behind `variability`.
        how: Where the completions come from.
        notes: What a reader must know before comparing numbers.
    """

    ids: np.ndarray
    names: tuple[str, ...]
    observed: np.ndarray
    task: Task
    prediction: np.ndarray
    variability: np.ndarray
    standard_error: np.ndarray
    normalised: np.ndarray
    per_modality: Mapping[str, np.ndarray]
    per_modality_error: Mapping[str, np.ndarray]
    plausible_labels: PlausibleLabels | None
    draws: int
    how: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def complete(self) -> np.ndarray:
        """Cases of which nothing is missing: their V is V_complete; bool, of shape (N,)."""
        return np.asarray(self.observed.all(axis=1))

    def __repr__(self) -> str:
        lines = [f"<Impact: {_number(len(self), 'case')}, {_number(self.draws, 'draw')}, {self.how}>"]
        for what, rows in (("something missing", ~self.complete), ("complete", self.complete)):
            if rows.any():
                value = self.variability[rows]
                lines.append(
                    f"V, {what}: mean {value.mean():.3f}, largest {value.max():.3f} ({_number(rows.sum(), 'case')})"
                )
        return "\n".join([*lines, *self.notes])

    def table(self) -> pd.DataFrame:
        """One row a case: id, pattern, prediction, V with its error, V by modality, plausible labels with their mass.

        Returns:
            Columns ``id``, ``observed`` (names joined by "+"), ``complete``, ``predicted`` (classes and regression),
            ``variability``, ``standard_error``, ``normalised`` (classes), ``variability[NAME]`` and
            ``standard_error[NAME]`` for each modality, ``plausible`` and ``mass`` (joined by "|", most mass first).
        """
        import pandas as pd

        names = np.array(self.names)
        frame = pd.DataFrame({"id": self.ids, "observed": ["+".join(names[seen]) for seen in self.observed]})
        frame["complete"] = self.complete
        if self.task.is_classification:
            frame["predicted"] = [str(self.task.classes[i]) for i in self.prediction.argmax(axis=1)]
        elif self.task.traits.one_value:
            frame["predicted"] = self.prediction
        frame["variability"], frame["standard_error"] = self.variability, self.standard_error
        if self.task.is_classification:
            frame["normalised"] = self.normalised
        for name, value in self.per_modality.items():
            frame[f"variability[{name}]"] = value
            frame[f"standard_error[{name}]"] = self.per_modality_error[name]
        if self.plausible_labels is not None:
            labels, mass = self.plausible_labels.labels, np.asarray(self.plausible_labels.mass)
            frame["plausible"] = ["|".join(str(self.task.classes[c]) for c in row) for row in labels]
            frame["mass"] = ["|".join(f"{mass[i, c]:.3f}" for c in row) for i, row in enumerate(labels)]
        return frame


def _number(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
