"""The result of `amodal.impact`: V of each case with its error, by modality, and the labels that remain plausible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from amodal.predictive_impact.plausible import PlausibleLabels
from amodal.schema import Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Impact"]


@dataclass(frozen=True, eq=False, repr=False)
class Impact:
    """Variability of each prediction over what is missing.

    Attributes:
        ids: Ids of the N cases.
        names: Names of the M modalities.
        observed: What was present, bool, of shape (N, M).
        task: What is predicted.
        prediction: The model's predictions: probabilities (N, C) or (N, K), or values (N,).
        variability: V of each case, of shape (N,): the expected change if everything that is missing is looked at, as
            the total variation distance to the mean prediction (eq. 9); the mean over labels for multilabel tasks, the
            mean absolute deviation in the target's units for regression. For a complete case V_complete, what the model
            leaves open even so.
        standard_error: Its standard error, of shape (N,): from the number of draws, or of donors.
        normalised: V over the largest that the prediction allows, of shape (N,); NaN for other tasks than classes.
        per_modality: For each modality the expected change if it, and nothing else, is looked at next, of shape (N,);
            NaN where it is present or was not asked for.
        per_modality_error: Standard errors of these.
        if_last: For each modality the expected change if it is looked at after all the others that are missing, (N,).
            What it is above `per_modality` is synergy, what it is below redundancy; with one modality missing both
            are V.
        shares: For each modality its Shapley share of V, (N,): they add up to V. NaN with more than four missing.
        gap: Distance between the mean of the predictions to be expected and the prediction, (N,): 0 for a model and
            completions that agree.
        by_label: V of each label, (N, K), of multilabel tasks; None for others.
        label_shares: Share of the completions under which each label is likelier than not, (N, K), of multilabel tasks:
            a label between 5 and 95 % is open; None for others.
        interval: The middle nine tenths of the values to be expected (N, 2), of regression; None for others.
        ranges: The middle nine tenths of each probability to be expected, (N, C, 2) or (N, K, 2), of up to 20 classes
            or labels; None for others.
        sensitivity: Smallest and largest V under the odds ratio asked for, (N, 2); None if none was.
        plausible_labels: The labels that remain plausible, with their shares; None for other tasks than classes, or if
            they were not asked for.
        promised_labels: For each case a set of labels that holds the true one with the coverage asked for; None if none
            was.
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
    if_last: Mapping[str, np.ndarray]
    shares: Mapping[str, np.ndarray]
    gap: np.ndarray
    by_label: np.ndarray | None
    label_shares: np.ndarray | None
    interval: np.ndarray | None
    sensitivity: np.ndarray | None
    plausible_labels: PlausibleLabels | None
    promised_labels: list[tuple[int, ...]] | None
    draws: int
    how: str
    notes: tuple[str, ...] = field(default=())
    ranges: np.ndarray | None = None

    @property
    def complete(self) -> np.ndarray:
        """Whether a case has everything, bool, of shape (N,)."""
        return np.asarray(self.observed.all(axis=1))

    @property
    def interaction(self) -> dict[str, np.ndarray]:
        """For each modality `if_last` less `per_modality`: synergy with what else is missing, redundancy below 0."""
        return {name: self.if_last[name] - self.per_modality[name] for name in self.names}

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        lines = [f"<Impact: {_number(len(self), 'case')}, {_number(self.draws, 'completion')} each, {self.how}>"]
        for what, rows in (("something missing", ~self.complete), ("complete", self.complete)):
            if rows.any():
                value = self.variability[rows]
                lines.append(
                    f"V, {what}: mean {value.mean():.3f}, largest {value.max():.3f} ({_number(rows.sum(), 'case')})"
                )
        return "\n".join([*lines, *self.notes])

    def table(self) -> pd.DataFrame:
        """One row a case: id, pattern, prediction, V with its error, what each modality would change, plausible labels.

        Returns: Columns ``id``, ``observed`` (names joined by "+"), ``complete``, ``predicted`` (classes and
            regression), ``variability``, ``standard_error``, ``normalised`` (classes), ``gap``; for each modality
            ``change[NAME]`` (if it is looked at next), ``standard_error[NAME]``, ``if_last[NAME]`` and
            ``share[NAME]``; ``variability[LABEL]`` of several labels; ``low`` and ``high`` of a value;
            ``sensitivity_low`` and ``sensitivity_high`` if an odds ratio was asked for; ``plausible`` and ``share``
            (joined by "|"); ``promised``.
        """
        import pandas as pd

        names = np.array(self.names)
        columns: dict[str, object] = {
            "id": self.ids,
            "observed": ["+".join(names[seen]) for seen in self.observed],
            "complete": self.complete,
        }
        if self.task.is_classification:
            columns["predicted"] = [str(self.task.classes[i]) for i in self.prediction.argmax(axis=1)]
        elif self.task.traits.one_value:
            columns["predicted"] = self.prediction
        columns |= {"variability": self.variability, "standard_error": self.standard_error}
        if self.task.is_classification:
            columns["normalised"] = self.normalised
        columns["gap"] = self.gap
        for name in self.names:
            columns[f"change[{name}]"] = self.per_modality[name]
            columns[f"standard_error[{name}]"] = self.per_modality_error[name]
            columns[f"if_last[{name}]"] = self.if_last[name]
            columns[f"share[{name}]"] = self.shares[name]
        if self.by_label is not None:
            columns |= {f"variability[{label}]": v for label, v in zip(self.task.classes, self.by_label.T)}
        if self.label_shares is not None:
            columns |= {f"share[{label}]": v for label, v in zip(self.task.classes, self.label_shares.T)}
        if self.interval is not None:
            columns["low"], columns["high"] = self.interval.T
        if self.sensitivity is not None:
            columns["sensitivity_low"], columns["sensitivity_high"] = self.sensitivity.T
        if self.plausible_labels is not None:
            mass = np.asarray(self.plausible_labels.mass)
            columns["plausible"] = [self._joined(row) for row in self.plausible_labels.labels]
            columns["share"] = [
                "|".join(f"{mass[i, c]:.3f}" for c in row) for i, row in enumerate(self.plausible_labels.labels)
            ]
        if self.promised_labels is not None:
            columns["promised"] = [self._joined(row) for row in self.promised_labels]
        return pd.DataFrame(columns)

    def _joined(self, labels: tuple[int, ...]) -> str:
        return "|".join(str(self.task.classes[c]) for c in labels)


def _number(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
