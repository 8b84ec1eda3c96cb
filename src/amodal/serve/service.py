"""A run that answers: one case at a time to a prediction, and to what its absent modalities could still change."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from amodal.checkpoint import TrainedModel
from amodal.data import Cohort, load_cohort
from amodal.data.scale import Scaling
from amodal.data.table import TableSchema, table_source
from amodal.errors import DataError, RunError
from amodal.method import SamplingMethod
from amodal.prediction import predict_cases
from amodal.predictive_impact import impact
from amodal.serve.case import case_table, describe_fields, serving_rules

__all__ = ["Service"]

_DRAWS = 100


@dataclass
class Service:
    """A model with what it needs to answer requests.

    Attributes:
        model: The model.
        rules: How a request's case is read.
        ranges: Smallest and largest training values.
        name: The run's name.
        train: Training cases, whose values stand in for what is absent; None: only methods that draw completions can
            say what could still change.
    """

    model: TrainedModel
    rules: TableSchema
    ranges: Mapping[str, Any]
    name: str
    train: Cohort | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    @classmethod
    def load(cls, run: Path, device: str = "cpu", *, data: str = "", split: str = "train") -> Service:
        """Loads a run.

        Args:
            run: Its folder.
            device: Where it predicts.
            data: The cohort that it was trained on, for what could still change; "" does without.
            split: The training cases of it.

        Raises:
            RunError: If it cannot be read, or was not trained on a table.
            DataError: If the cohort is another one.
        """
        model = TrainedModel.load(run, device=device)
        source = table_source(model.experiment)
        if not source or "table" not in source:
            raise RunError(
                f"the run at {run} was not trained on a table, so that requests cannot be read for it",
                hint="Prepare the data with `amodal data prepare table` and train on that.",
            )
        rules = serving_rules(TableSchema.from_json(source["table"]))
        train = load_cohort(data).split(split) if data else None
        if train is not None and train.schema.names != model.schema.names:
            raise DataError("the cohort is another one than that of the run", expected=", ".join(model.schema.names),
                            got=", ".join(train.schema.names))  # fmt: skip
        return cls(model, rules, source.get("ranges", {}), run.resolve().name, train)

    @property
    def explains(self) -> bool:
        """Whether it can say what absent modalities could still change."""
        return self.train is not None or isinstance(self.model.method, SamplingMethod)

    def answer(self, read: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Predicts one case.

        Args:
            read: Gives the case by modality; see `amodal.serve.case.case_table`.

        Raises:
            BadField: If a field cannot be used.
        """
        with self._lock, tempfile.TemporaryDirectory(prefix="amodal-serve-") as folder:
            # One request at a time is read, decoded and predicted: memory is that of one, however many wait.
            table = case_table(self.rules, read(), Path(folder))
            source = {"table": self.rules.to_json(), "ranges": self.ranges}
            found = predict_cases(self.model, table, source, root=Path(folder), workers=1, further=self._still_open)
        names = self.model.schema.names
        return {
            "prediction": self._prediction(found.values[0]),
            "observed": [name for name, seen in zip(names, found.observed[0]) if seen],
            "absent": [name for name, seen in zip(names, found.observed[0]) if not seen],
            "still_open": found.further,
            "notes": found.notes[0],
        }

    def _still_open(self, case: Cohort) -> dict[str, Any] | None:
        """What the absent modalities could still change; None if nothing is absent or it is not known."""
        if not self.explains or case.observed.all() or not (case.observed.any() or self.model.method.accepts_empty):
            return None
        try:
            result = impact(self.model, case, draws=_DRAWS, train=self.train)
        except DataError:  # no training case has what this one lacks
            return None
        labels, task = result.plausible_labels, result.task
        ends: Any = None
        if result.interval is not None:
            ends = result.interval[0].tolist()
        elif result.ranges is not None:
            ends = {str(label): pair.tolist() for label, pair in zip(task.classes, result.ranges[0])}
        changes = {name: float(values[0]) for name, values in result.per_modality.items()}
        return {
            "variability": float(result.variability[0]),
            "range": ends,
            "plausible": None if labels is None else [str(task.classes[c]) for c in labels.labels[0]],
            "by_modality": {name: value for name, value in changes.items() if np.isfinite(value)},
            "how": result.how,
        }

    def _prediction(self, value: Any) -> dict[str, Any]:
        task = self.model.schema.task
        prior = np.asarray(self.model.prior, dtype=float)
        if task.traits.one_value:
            return {"name": task.name, "value": float(value), "units": task.units, "base": float(prior[0])}
        base = {str(label): float(share) for label, share in zip(task.classes, prior)}
        numbers = np.asarray(value, dtype=float)
        shares = {str(label): float(share) for label, share in zip(task.classes, numbers)}
        if task.traits.many_labels:
            return {"name": task.name, "probabilities": shares, "base": base}
        predicted = str(task.classes[int(numbers.argmax())])
        return {"name": task.name, "probabilities": shares, "predicted": predicted, "base": base}

    def describe(self) -> dict[str, Any]:
        """The modalities a request may give, and the task."""
        if self.train is None:
            word, centres = "mean", self.model.scaling.means
        else:
            word, centres = "median", self._medians
        middle = {name: [float(value) for value in centre.flatten()] for name, centre in centres.items()}
        fields = describe_fields(self.rules, self.ranges, word, middle)
        return {"modalities": fields, "task": self.model.schema.task.to_json()}

    @cached_property
    def _medians(self) -> Mapping[str, Any]:
        assert self.train is not None
        return Scaling.fit(self.train, robust=True).means
