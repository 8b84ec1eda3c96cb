"""Clinical tables of stored predictions: by label, at thresholds, by group of patients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from amodal.cases import align_rows
from amodal.errors import ConfigurationError, ShapeError
from amodal.evaluation import Evaluation
from amodal.metrics import Difference, Interval, Metric, bootstrap, metrics_for, resample_counts
from amodal.metrics.clinical import calibration_fit, errors_at_thresholds, net_benefit
from amodal.metrics.intervals import without_agreement
from amodal.metrics.resampling import FEWEST_GROUPS, too_few_groups
from amodal.schema import Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Predicted",
    "absence_by_group",
    "at_thresholds",
    "by_group",
    "by_label",
    "calibration_table",
    "decision_curve",
]

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5)
_MOST_BANDS = 8  # distinct numbers beyond which a column is cut into quarters


class Predicted(NamedTuple):
    """Predictions of N cases with what came true, who they are, and what was known of them.

    Attributes:
        task: What was predicted.
        predictions: (N, C), (N, K) or (N,).
        target: The truth; NaN where a label is unknown.
        groups: Group (patient) of each case; intervals resample them whole.
        observed: Presence, bool (N, M).
        names: Names of the M modalities.
        resamples: Number of bootstrap resamples.
        seed: Their seed.
        ids: Ids of the N cases, by which columns of pandas are aligned; None: all go by position.
    """

    task: Task
    predictions: NDArray
    target: NDArray
    groups: NDArray
    observed: NDArray[np.bool_]
    names: tuple[str, ...]
    resamples: int = 1000
    seed: int = 0
    ids: NDArray | None = None

    @classmethod
    def of(cls, evaluation: Evaluation) -> Predicted:
        """The predictions of an evaluation."""
        e = evaluation
        return cls(
            e.task, e.predictions, e.target, e.groups, e.presence.observed, e.presence.names, e.resamples, e.seed, e.ids
        )

    @property
    def counts(self) -> NDArray[np.uint8]:
        """The resamples of the groups, (R, N); those of the evaluation."""
        return resample_counts(self.groups, self.resamples, np.random.default_rng((self.seed, 3)))

    def outcomes(self) -> dict[str, tuple[NDArray, NDArray, NDArray]]:
        """For each outcome its risks, whether it came true, and the rows (n,) in which that is known.

        Raises:
            ConfigurationError: If the task is a regression.
        """
        if self.task.traits.one_value:
            raise ConfigurationError("a regression has no risks", expected="classes or labels", got=self.task.kind)
        classes = self.task.classes
        if self.task.traits.many_labels:
            rows = [np.flatnonzero(~np.isnan(self.target[:, k])) for k in range(len(classes))]
            return {
                str(c): (self.predictions[r, k], self.target[r, k] > 0.5, r)
                for k, (c, r) in enumerate(zip(classes, rows))
            }
        every, first = np.arange(len(self.target)), 1 if len(classes) == 2 else 0
        return {str(c): (self.predictions[:, k], self.target == k, every) for k, c in enumerate(classes) if k >= first}


def by_label(predicted: Predicted, metrics: Sequence[str] = ("auroc", "auprc", "brier", "ece")) -> pd.DataFrame:
    """Metrics of every label (or class against the rest).

    Args:
        predicted: The predictions.
        metrics: Names of metrics of a binary task.

    Returns:
        One row a label: label, n (rows in which it is known), positives, and each metric with `_low` and `_high`.
    """
    import pandas as pd

    counts, known = predicted.counts, metrics_for("binary")
    rows = []
    for label, (risk, true, places) in predicted.outcomes().items():
        row: dict[str, Any] = {"label": label, "n": len(true), "positives": int(true.sum())}
        for name in metrics:
            row |= _cells(name, bootstrap(known[name], risk, true.astype(int), counts=counts[:, places]))
        rows.append(row)
    return pd.DataFrame(rows)


def at_thresholds(predicted: Predicted, thresholds: Sequence[float] = THRESHOLDS) -> pd.DataFrame:
    """Sensitivity, specificity and predictive values of "positive from this risk on", with intervals.

    Args:
        predicted: The predictions.
        thresholds: Risks.

    Returns:
        One row a label and threshold: label, threshold, called_positive, and each rate with `_low` and `_high`.
    """
    import pandas as pd

    counts, rows = predicted.counts, []
    for label, (risk, true, places) in predicted.outcomes().items():
        own, drawn = (errors_at_thresholds(risk, true, thresholds, weight=w) for w in (None, counts[:, places]))
        few = too_few_groups(counts[:, places])
        for i, threshold in enumerate(thresholds):
            row: dict[str, Any] = {"label": label, "threshold": threshold, "called_positive": own.called_positive[i]}
            for name in own._fields[:4]:
                row |= _cells(name, _interval(getattr(own, name)[i], getattr(drawn, name)[:, i], few))
            rows.append(row)
    return pd.DataFrame(rows)


def decision_curve(predicted: Predicted, thresholds: Sequence[float] | None = None) -> pd.DataFrame:
    """Net benefit of treating by the model, treating all and treating nobody, over the risk from which one treats.

    Args:
        predicted: The predictions.
        thresholds: Risks; None: 0.01 to 0.99 in steps of 0.01.

    Returns:
        One row a label and threshold: label, threshold, model with `_low` and `_high`, all, none, and `gain`, model
        less the better of the two, with `_low` and `_high`.
    """
    import pandas as pd

    at = np.linspace(0.01, 0.99, 99) if thresholds is None else np.asarray(thresholds, dtype=float)
    counts, rows = predicted.counts, []
    for label, (risk, true, places) in predicted.outcomes().items():
        few = too_few_groups(counts[:, places])
        parts = [
            [net_benefit(risks, true, at, weight=weight) for risks in (risk, np.ones_like(risk))]
            for weight in (None, counts[:, places])
        ]
        (model, everyone), (drawn, drawn_all) = parts
        gain, drawn_gain = model - np.maximum(everyone, 0), drawn - np.maximum(drawn_all, 0)
        for i, threshold in enumerate(at):
            row: dict[str, Any] = {"label": label, "threshold": float(threshold)}
            row |= _cells("model", _interval(model[i], drawn[:, i], few))
            row |= {"all": float(everyone[i]), "none": 0.0}
            rows.append(row | _cells("gain", _interval(gain[i], drawn_gain[:, i], few)))
    return pd.DataFrame(rows)


def calibration_table(predicted: Predicted) -> pd.DataFrame:
    """Calibration slope, intercept and observed over expected of every label, with intervals.

    Returns:
        One row a label: label, n, and each of the three with `_low` and `_high`.
    """
    import pandas as pd

    counts, rows = predicted.counts, []
    for label, (risk, true, places) in predicted.outcomes().items():
        own, drawn = (calibration_fit(risk, true, weight=w) for w in (None, counts[:, places]))
        few = too_few_groups(counts[:, places])
        row: dict[str, Any] = {"label": label, "n": len(true)}
        for name in own._fields:
            row |= _cells(name, _interval(float(getattr(own, name)), getattr(drawn, name), few))
        rows.append(row)
    return pd.DataFrame(rows)


def absence_by_group(predicted: Predicted, by: Any, *, bands: Sequence[float] | None = None) -> pd.DataFrame:
    """Absence by group of patients: the share of cases of each group that lack each modality.

    Args:
        predicted: The predictions.
        by: Sex, age, site, … of each case, of shape (N,); numbers are cut into bands. A series of pandas with labels of
            its own is aligned by the cases' ids.
        bands: Inner edges of the bands of numbers; None: quarters, where there are many different numbers.

    Returns:
        One row a group: group, n, patients, and the share absent of each modality.
    """
    import pandas as pd

    rows = []
    for name, places in _parts(_aligned(by, predicted), bands, len(predicted.groups)).items():
        absent = (~predicted.observed[places]).mean(0)
        row = {"group": name, "n": len(places), "patients": len(set(predicted.groups[places].tolist()))}
        rows.append(row | dict(zip(predicted.names, absent.tolist())))
    return pd.DataFrame(rows)


def by_group(
    predicted: Predicted, by: Any, metrics: Sequence[str] | None = None, *, bands: Sequence[float] | None = None
) -> pd.DataFrame:
    """Metrics of each group of patients, and their differences from the largest one.

    Intervals resample whole patients, the same for all groups, so that differences are about the same resamples. Groups
    of fewer than ten patients have no interval, and say so.

    Args:
        predicted: The predictions.
        by: As for `absence_by_group`.
        metrics: Names of metrics; None: the task's headlines.
        bands: As for `absence_by_group`.

    Returns:
        One row a group and metric: group, n, patients, metric, value with `_low` and `_high`, difference from
        `reference` with `_low`, `_high` and p_value, and a note where something is not defined.
    """
    import pandas as pd

    known = metrics_for(predicted.task.kind, bins=predicted.task.bins)
    chosen = {name: known[name] for name in metrics or [n for n in predicted.task.traits.headlines if n in known]}
    parts, counts = _parts(_aligned(by, predicted), bands, len(predicted.groups)), predicted.counts
    largest = max(parts, key=lambda name: len(parts[name]))
    rows = []
    for metric_name, metric in chosen.items():
        reference = _of_rows(predicted, metric, parts[largest], counts)
        for name, places in parts.items():
            value, drawn, interval = _of_rows(predicted, metric, places, counts)
            patients = len(set(predicted.groups[places].tolist()))
            few = f"fewer than {FEWEST_GROUPS} patients: no interval" if patients < FEWEST_GROUPS else ""
            row: dict[str, Any] = {"group": name, "n": len(places), "patients": patients, "metric": metric_name}
            row |= _cells("value", interval) | {"reference": largest}
            if name != largest:
                found = Difference.from_values(value - reference[0], drawn - reference[1])
                row |= _cells("difference", found) | {"p_value": found.p_value}
            rows.append(row | {"note": few or interval.reason or interval.note or ""})
    return pd.DataFrame(rows)


def _of_rows(
    predicted: Predicted, metric: Metric, places: NDArray, counts: NDArray
) -> tuple[float, NDArray[np.float64], Interval]:
    """A metric of some rows: its value, its values on the resamples (R,), and its interval."""
    p, y, c = predicted.predictions[places], predicted.target[places], counts[:, places]
    drawn = np.asarray(metric(p, y, weight=c))
    drawn = drawn if too_few_groups(c) is None else np.full(len(drawn), np.nan)
    return float(metric(p, y)), drawn, bootstrap(metric, p, y, counts=c)


def _aligned(by: Any, predicted: Predicted) -> Any:
    """A column with the cases' order, where it has labels that are not positions."""
    import pandas as pd

    if not isinstance(by, pd.Series) or predicted.ids is None or by.index.equals(pd.RangeIndex(len(by))):
        return by
    return align_rows("by", by.set_axis(by.index.astype(str)), pd.Index(predicted.ids.astype(str)), len(predicted.ids))


def _parts(by: Any, bands: Sequence[float] | None, n: int) -> dict[str, NDArray[np.intp]]:
    """Rows of each group by its name; those without a value are a group of their own."""
    import pandas as pd

    by = np.asarray(by) if isinstance(by, list | tuple | np.ndarray) else by
    if np.shape(by) != (n,):
        raise ShapeError("`by` has another number of rows", expected=n, got=" × ".join(map(str, np.shape(by))))
    column = pd.Series(by).reset_index(drop=True)
    column = column.mask(column.isin([""]))  # an empty text is no value
    numeric = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
    if numeric and (bands is not None or column.nunique() > _MOST_BANDS):
        known = column.dropna().astype(float)
        known = known[np.isfinite(known)]
        inner = list(bands) if bands is not None else sorted(set(np.quantile(known, [0.25, 0.5, 0.75]).tolist()))
        if not inner or not np.isfinite(inner).all() or not (np.diff(inner) > 0).all():
            raise ConfigurationError("bands need edges in increasing order", expected="finite numbers", got=bands)
        edges = [-np.inf, *inner, np.inf]
        digits = next(n for n in (6, 9, 12, 17) if len({f"{edge:.{n}g}" for edge in inner}) == len(inner))
        shown = [f"{edge:.{digits}g}" for edge in inner]
        names = [f"below {shown[0]}", *(f"{a} to {b}" for a, b in pairwise(shown)), f"{shown[-1]} and above"]
        cut = pd.Series(pd.cut(column.astype(float), edges, right=False, labels=names), index=column.index)
        column, order = cut.astype(object), [name for name in names if (cut == name).any()]
    elif isinstance(column.dtype, pd.CategoricalDtype):
        order = [name for name in column.cat.categories if (column == name).any()]
    else:
        order = sorted(column.dropna().unique().tolist(), key=str)
    named = column.map(str, na_action="ignore").astype(object)
    parts = {name: np.flatnonzero((named == name).to_numpy(dtype=bool)) for name in map(str, order)}
    unknown = np.flatnonzero(column.isna().to_numpy())
    if len(unknown):  # together with those that somebody has called so
        parts["unknown"] = np.union1d(parts.get("unknown", unknown), unknown)
    return parts


def _interval(estimate: float, drawn: NDArray, problem: str | None) -> Interval:
    drawn = drawn if problem is None else np.full(len(drawn), np.nan)
    return without_agreement(Interval.from_values(float(estimate), drawn, reason=problem))


def _cells(name: str, found: Interval | Difference) -> dict[str, Any]:
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
