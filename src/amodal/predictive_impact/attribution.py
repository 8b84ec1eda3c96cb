r"""Attribution of a prediction to the modalities that are present.

A model that predicts under every pattern of presence says itself what it would have predicted without a modality. With
:math:`v(S)` the prediction from the modalities S, the Shapley value of each of those present is exact over the
:math:`2^{|O|}` patterns, and the values add up to the prediction less the one from nothing (the training prior).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from amodal.data.cohort import Cohort
from amodal.errors import ConfigurationError, DataError, UnknownNameError
from amodal.metrics.intervals import Interval
from amodal.metrics.resampling import resample_counts
from amodal.predictive_impact.predictor import Predictor, check_inputs
from amodal.predictive_impact.shapley import shapley_shares, subsets
from amodal.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Attribution", "attribute"]

_MOST = 10  # present modalities: 1,024 patterns


@dataclass(frozen=True, eq=False)
class Attribution:
    """Contributions of each present modality to a prediction.

    Attributes:
        ids: Ids of the N cases.
        groups: Groups of the cases.
        names: Names of the M modalities.
        explained: What is explained of each case, (N,): the class or label whose probability it is; "" for a value.
        values: Contributions, (N, M): they add up to `prediction` less `base`; NaN where a modality is absent.
        base: Prediction from nothing, (N,).
        prediction: What is explained, (N,): a probability, or a value in the target's units.
    """

    ids: np.ndarray
    groups: np.ndarray
    names: tuple[str, ...]
    explained: np.ndarray
    values: NDArray[np.float64]
    base: NDArray[np.float64]
    prediction: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)

    def table(self) -> pd.DataFrame:
        """One row a case: ``id``, ``explained``, ``prediction``, ``base``, and ``because[NAME]`` for each modality."""
        import pandas as pd

        columns = {"id": self.ids, "explained": self.explained, "prediction": self.prediction, "base": self.base}
        return pd.DataFrame(columns | {f"because[{name}]": v for name, v in zip(self.names, self.values.T)})

    def over_cohort(self, *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
        """Mean contribution of each modality where it is present.

        Args:
            resamples: Bootstrap resamples of groups behind the 95 % intervals.
            seed: Seed of these.

        Returns:
            One row a modality, the largest first: ``modality``, ``cases``, ``size`` (mean absolute contribution),
            ``low``, ``high``, ``signed`` (mean contribution).
        """
        import pandas as pd

        counts = np.asarray(resample_counts(self.groups, resamples, np.random.default_rng(seed)), dtype=np.float64)
        rows = []
        for name, value in zip(self.names, self.values.T):
            here = ~np.isnan(value)
            if not here.any():
                continue
            size, weight = np.abs(value[here]), counts[:, here]
            total = weight.sum(axis=1)
            drawn = np.divide(weight @ size, total, out=np.full(len(total), np.nan), where=total > 0)
            interval = Interval.from_values(float(size.mean()), drawn)
            rows.append((name, int(here.sum()), interval.estimate, interval.low, interval.high, value[here].mean()))
        columns = ["modality", "cases", "size", "low", "high", "signed"]
        return pd.DataFrame(rows, columns=columns).sort_values("size", ascending=False, ignore_index=True)


def attribute(model: Predictor, cohort: Cohort, *, explain: str | None = None, progress: bool = False) -> Attribution:
    """Says which present modalities drove each prediction.

    Args:
        model: A trained model.
        cohort: N cases, each with at most ten modalities present.
        explain: The class or label whose probability is explained; None: the most probable class of each case (for
            several labels, the most probable label).
        progress: Whether to show a progress bar.

    Raises:
        UnknownNameError: If the task has no such class.
        ConfigurationError: If a case has more than ten modalities.
        DataError: If there are no cases.

    Source:
        :cite:`shapley1953value`; over patterns of presence as :cite:`covert2021explaining`, "removal".

    Example:
        >>> import amodal
        >>> cohort = amodal.load_cohort("digits")
        >>> model = amodal.fit("fusion", cohort.split("train"), epochs=1)
        >>> found = attribute(model, cohort.split("test").take(np.arange(3)))
        >>> bool(np.allclose(found.values.sum(axis=1), found.prediction - found.base))
        True
    """
    check_inputs(model, cohort)
    if not len(cohort):
        raise DataError("there are no cases to explain", expected="at least one")
    names, task = model.schema.names, model.schema.task
    observed = np.zeros((len(cohort), len(names)), dtype=bool)
    for column, name in enumerate(cohort.schema.names):
        if name in names:
            observed[:, names.index(name)] = cohort.observed[:, column]
    if observed.sum(axis=1).max() > _MOST:
        raise ConfigurationError(
            "too many modalities to look at every pattern",
            expected=f"at most {_MOST} present",
            got=int(observed.sum(1).max()),
        )
    place, explained = _explained(model, cohort, explain)
    values = np.full(observed.shape, np.nan)
    base, prediction = np.zeros(len(cohort)), np.zeros(len(cohort))
    patterns = np.unique(observed, axis=0)
    columns = [names.index(name) if name in names else -1 for name in cohort.schema.names]
    with progress_bar("attribution", quiet=not progress) as tell:
        for done, pattern in enumerate(patterns):
            rows = np.flatnonzero((observed == pattern).all(axis=1))
            present = [name for name, there in zip(names, pattern) if there]
            worth = {}
            for chosen in subsets(present):
                kept = np.array([column >= 0 and names[column] in chosen for column in columns])
                part = cohort.take(rows)
                predicted = model.predict(part.with_observed(np.tile(kept, (len(rows), 1))), on_empty="silent")
                worth[chosen] = predicted if task.traits.one_value else predicted[np.arange(len(rows)), place[rows]]
            for name, share in shapley_shares(worth, present).items():
                values[rows, names.index(name)] = share
            base[rows], prediction[rows] = worth[()], worth[tuple(present)]
            if tell is not None:
                tell(done + 1, len(patterns))
    return Attribution(cohort.ids, cohort.groups, names, explained, values, base, prediction)


def _explained(model: Predictor, cohort: Cohort, explain: str | None) -> tuple[NDArray[np.int64], np.ndarray]:
    """Column (N,) of the predictions that is explained, and its name (N,)."""
    task = model.schema.task
    if task.traits.one_value:
        return np.zeros(len(cohort), dtype=np.int64), np.full(len(cohort), "", dtype=object)
    classes = np.array([str(name) for name in task.classes], dtype=object)
    if explain is None:
        with torch.no_grad():
            place = model.predict(cohort, on_empty="silent").argmax(axis=1)
    else:
        if str(explain) not in classes.tolist():
            raise UnknownNameError("class", str(explain), classes.tolist())
        place = np.full(len(cohort), classes.tolist().index(str(explain)))
    return place, classes[place]
