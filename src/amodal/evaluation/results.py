"""Results of evaluations: metrics by pattern with intervals, as tables and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from amodal.errors import RunError, UnknownNameError
from amodal.files import plain_json, replace_file, write_json
from amodal.metrics import Interval
from amodal.missingness import Mechanism, Natural, Presence, pattern_codes, pattern_label
from amodal.schema import Task
from amodal.seal import seal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Evaluation", "PatternEvaluation", "prediction_columns"]

_NOTHING = "none"


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a model for a cohort under one drawing of who is absent, with the metrics of every pattern.

    Attributes:
        task: What was predicted.
        presence: Who was absent: rates, pattern counts, hash.
        predictions: (N, C), (N, K) or (N,).
        target: The truth.
        ids: The cases.
        groups: Their groups, which the bootstrap resamples whole.
        intervals: {pattern: {metric: Interval}}; the pattern "overall" has all cases.
        counts: Number of cases of each pattern.
        seed: Seed of the removal and of the resamples.
        resamples: Number of bootstrap resamples.
        missingness: What the presence was drawn by.
        weight: How much each case counts in the metrics; None: all alike.
        draw_errors: {pattern: {metric: error}} of a method that averages over draws: standard deviation of the metric
            over other draws of the same number. Empty for other methods.
    """

    task: Task
    presence: Presence
    predictions: NDArray
    target: NDArray
    ids: NDArray
    groups: NDArray
    intervals: dict[str, dict[str, Interval]]
    counts: dict[str, int]
    seed: int
    resamples: int
    missingness: Mechanism = field(default_factory=Natural)
    weight: NDArray | None = None
    draw_errors: dict[str, dict[str, float]] = field(default_factory=dict)

    def table(self, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """One row a pattern, those with most modalities first, and the row "overall" at the end.

        Args:
            metrics: Names of the metrics to show; None shows all.

        Returns:
            Columns: pattern, modalities (how many are present), n, and for each metric its value, `<metric>_low` and
            `<metric>_high` (the 95 % interval; NaN where it is not defined: fewer than ten groups, or all resamples
            agree); `<metric>_over` where a mean does not run over all labels everywhere, `<metric>_draw_error` for a
            method that averages over draws.
        """
        return _table(self.intervals, self.counts, self.presence.names, metrics, self.draw_errors)

    def to_json(self) -> dict[str, object]:
        """Metrics, intervals, realised presence and seed, as plain JSON values."""
        return {
            "seed": self.seed,
            "resamples": self.resamples,
            "missingness": self.missingness.to_json(),
            "rates": self.presence.rates,
            "presence_hash": self.presence.hash,
            "patterns": [
                {
                    "pattern": pattern,
                    "n": self.counts[pattern],
                    "metrics": {name: _interval_json(interval) for name, interval in row.items()},
                    **({"draw_errors": self.draw_errors[pattern]} if self.draw_errors else {}),
                }
                for pattern, row in self.intervals.items()
            ],
        }

    def save(self, folder: str | Path) -> Path:
        """Writes metrics.json, predictions.parquet and test_presence.npz into a folder, each complete or not at all.

        The folder of the evaluated run may be taken: `presence.npz` there is that of the training rows, and stays.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error
        frame = self.frame()
        replace_file(folder / "predictions.parquet", lambda path: frame.to_parquet(path, index=False))
        replace_file(folder / "test_presence.npz", self.presence.save)
        record = plain_json(self.to_json())
        write_json(folder / "metrics.json", seal(record, folder, ("predictions.parquet", "test_presence.npz")))
        return folder

    def frame(self) -> pd.DataFrame:
        """One row a case: id, group, pattern, the prediction's columns, and the target."""
        import pandas as pd

        frame = pd.DataFrame({"id": self.ids, "group": self.groups})
        frame["pattern"] = _labels(self.presence)
        columns = prediction_columns(self.task)
        values = self.predictions if self.predictions.ndim == 2 else self.predictions[:, None]
        for i, column in enumerate(columns):
            frame[column] = values[:, i]
        for column, part in self.task.traits.target_columns(self.target, self.task.classes).items():
            frame[column] = part
        return frame


@dataclass(frozen=True)
class PatternEvaluation:
    """Metrics of a model with every presence pattern imposed in turn on the same cases.

    Attributes:
        task: What was predicted.
        names: Names of the modalities.
        patterns: The P patterns imposed, bool, of shape (P, M).
        predictions: For each pattern, in order: (P, N, C), (P, N, K) or (P, N).
        target: The truth, common to all patterns.
        groups: Groups of the cases.
        intervals: {pattern: {metric: Interval}}; the pattern "mean" is the mean over the patterns, on common resamples.
        seed: Seed of the resamples.
        resamples: Number of bootstrap resamples.
        draw_errors: As in `Evaluation`, but for the mean.
    """

    task: Task
    names: tuple[str, ...]
    patterns: NDArray[np.bool_]
    predictions: NDArray
    target: NDArray
    groups: NDArray
    intervals: dict[str, dict[str, Interval]]
    seed: int
    resamples: int
    draw_errors: dict[str, dict[str, float]] = field(default_factory=dict)

    def table(self, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """As `Evaluation.table`, with the row "mean" at the end."""
        counts = dict.fromkeys(self.intervals, len(self.target))
        return _table(self.intervals, counts, self.names, metrics, self.draw_errors)


def prediction_columns(task: Task) -> list[str]:
    """Names of a prediction's columns in files: `p_<class>` for probabilities, `prediction` for a regression."""
    return task.traits.prediction_columns(task.classes)


def _labels(presence: Presence) -> NDArray[np.str_]:
    codes = pattern_codes(presence.observed)
    unique, inverse = np.unique(codes, return_inverse=True)
    return np.array([pattern_label(int(code), presence.names) for code in unique])[inverse]


def _table(
    intervals: Mapping[str, Mapping[str, Interval]],
    counts: Mapping[str, int],
    names: Sequence[str],
    metrics: Sequence[str] | None,
    draw_errors: Mapping[str, Mapping[str, float]],
) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for pattern, row in intervals.items():
        present = [name for name in pattern.split("+") if name in names]
        record = {
            "pattern": pattern,
            "modalities": len(present) or (0 if pattern == _NOTHING else np.nan),
            "n": counts[pattern],
        }
        for name in metrics or row:
            if name not in row:
                raise UnknownNameError("evaluated metric", name, row)
            record |= {name: row[name].estimate, f"{name}_low": row[name].low, f"{name}_high": row[name].high}
            if any(other[name].note for other in intervals.values()):
                record[f"{name}_over"] = row[name].note or "all"
            if draw_errors:
                record[f"{name}_draw_error"] = draw_errors.get(pattern, {}).get(name, np.nan)
        rows.append(record)
    return pd.DataFrame(rows)


def _interval_json(interval: Interval) -> dict[str, float | str | None]:
    values = {"value": interval.estimate, "low": interval.low, "high": interval.high}
    return {k: None if np.isnan(v) else v for k, v in values.items()} | (
        {key: text for key in ("reason", "note") if (text := getattr(interval, key))}
    )
