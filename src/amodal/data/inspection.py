"""Inspection of a cohort: presence, ranges, and suspicious features before a model is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from amodal.data.cohort import Cohort
from amodal.kinds import SetKind
from amodal.schema import Modality

__all__ = ["FeatureSummary", "Inspection", "Suspicion", "inspect_cohort"]

_ROWS = 50_000
_AUROC = 0.995
_CORRELATION = 0.9995
_LEAST = 20
_P_VALUE = 1e-4


class FeatureSummary(NamedTuple):
    """The values of one feature of a table or series, over the rows looked at.

    Attributes:
        modality: Its modality.
        name: Its name.
        units: Its units.
        measured: Share of the present rows in which it was measured at all.
        low: Smallest value.
        quantiles: 5 %, 50 % and 95 %.
        high: Largest value.
    """

    modality: str
    name: str
    units: str
    measured: float
    low: float
    quantiles: tuple[float, float, float]
    high: float


class Suspicion(NamedTuple):
    """Something that may be a mistake or a leak.

    Attributes:
        kind: "constant", "target", "identifier", "presence" or "copies".
        where: Modality, and feature if it is one.
        detail: What was seen, and what it may mean.
    """

    kind: str
    where: str
    detail: str


@dataclass(frozen=True)
class Inspection:
    """A cohort looked at.

    Attributes:
        rates: Share of cases that have each modality, by class or tenth of a regression target: {label: (M,)}.
        features: Ranges of tables and series.
        suspicions: What may be a mistake or a leak.
        rows: Rows looked at for ranges and suspicions.
    """

    rates: dict[str, np.ndarray]
    features: tuple[FeatureSummary, ...]
    suspicions: tuple[Suspicion, ...]
    rows: int


def inspect_cohort(cohort: Cohort, *, rows: int = _ROWS) -> Inspection:
    """Looks at presence, ranges, and features or presences that give the target away.

    Args:
        cohort: N cases.
        rows: Rows to look at, evenly over the cohort, for everything but presence.

    Returns:
        Rates by class, ranges, and suspicions: constant features; features that tell the target (AUROC at least 0.995
        for some class, or rank correlation at least 0.9995); whole numbers that are distinct in every row; modalities
        and features whose presence depends on the class (Fisher's exact test at 1e-4 after Bonferroni's correction and
        a difference of at least 0.5, or presence in one class only); images and texts that stand in two splits.
    """
    thinned = cohort
    if len(cohort) > rows:
        thinned = cohort.take(np.linspace(0, len(cohort) - 1, rows).astype(np.int64))
    labels = _labels(thinned)
    suspicions: list[Suspicion] = []
    features: list[FeatureSummary] = []
    for column, modality in enumerate(cohort.schema.modalities):
        if modality.traits.takes_measured:
            values = _row_values(thinned, modality)  # (N, D)
            features += _summaries(thinned, modality, thinned.observed[:, column])
            suspicions += _suspect_features(modality, values, thinned, labels)
        else:
            suspicions += _copies(thinned, modality)
    suspicions += _suspect_presence(thinned, labels)
    return Inspection(_rates(cohort), tuple(features), tuple(suspicions), len(thinned))


def _labels(cohort: Cohort) -> dict[str, np.ndarray]:
    """One bool (N,) for each class or label; none for regression."""
    task, target = cohort.schema.task, cohort.target
    return {} if target is None else task.traits.outcomes(target, task.classes)


def _rates(cohort: Cohort) -> dict[str, np.ndarray]:
    task, target = cohort.schema.task, cohort.target
    groups = {} if target is None else task.traits.groups(target, task.classes)
    of_groups = {name: cohort.observed[rows].mean(0) for name, rows in groups.items() if rows.any()}
    return {"all": cohort.observed.mean(0), **of_groups}


def _row_values(cohort: Cohort, modality: Modality) -> np.ndarray:
    """One value for each case and feature, float64 (N, D): its mean over time; NaN where nothing was measured."""
    values = np.full((len(cohort), modality.n_features), np.nan)
    for rows, cut in cohort.cuts(modality.name):
        cells = cut.values.astype(np.float64).reshape(len(rows), -1, modality.n_features)
        known = _known(cut.values, cut.measured, cut.lengths).reshape(cells.shape)
        counts = known.sum(1)
        total = np.where(known, cells, 0.0).sum(1)
        values[rows] = np.divide(total, counts, out=np.full(total.shape, np.nan), where=counts > 0)
    return values


def _known(values: np.ndarray, measured: np.ndarray | None, lengths: np.ndarray | None) -> np.ndarray:
    known = np.ones(values.shape, bool) if measured is None else measured
    if lengths is not None:
        inside = np.arange(values.shape[1]) < lengths[:, None]
        known = known & inside.reshape(*inside.shape, *[1] * (values.ndim - 2))
    return known


def _summaries(cohort: Cohort, modality: Modality, seen: np.ndarray) -> Iterator[FeatureSummary]:
    cells: list[list[np.ndarray]] = [[] for _ in range(modality.n_features)]
    having = np.zeros(modality.n_features)
    for rows, cut in cohort.cuts(modality.name):
        known = _known(cut.values, cut.measured, cut.lengths).reshape(len(rows), -1, modality.n_features)
        values = cut.values.reshape(known.shape)
        having += known.any(1).sum(0)
        for d in range(modality.n_features):
            cells[d].append(values[..., d][known[..., d]])
    for d, parts in enumerate(cells):
        numbers = np.concatenate(parts) if parts else np.zeros(0)
        low, first, middle, last, high = (
            np.quantile(numbers.astype(np.float64), [0, 0.05, 0.5, 0.95, 1]) if len(numbers) else np.full(5, np.nan)
        )
        yield FeatureSummary(
            modality.name,
            modality.features[d] if modality.features else f"feature {d}",
            modality.units[d] if modality.units else "",
            float(having[d] / max(1, seen.sum())),
            float(low),
            (float(first), float(middle), float(last)),
            float(high),
        )


def _suspect_features(
    modality: Modality, values: np.ndarray, cohort: Cohort, labels: dict[str, np.ndarray]
) -> Iterator[Suspicion]:
    from scipy.stats import spearmanr

    target = cohort.target
    for d in range(modality.n_features):
        where = f"{modality.name}.{modality.features[d] if modality.features else f'feature {d}'}"
        known = ~np.isnan(values[:, d])
        column = values[known, d]
        if len(column) < 2:
            continue
        if column.min() == column.max():
            yield Suspicion("constant", where, f"the same value, {column[0]:g}, wherever it was measured")
            continue
        whole = not modality.traits.takes_lengths and bool((column == np.round(column)).all())
        if whole and len(column) >= _LEAST and len(np.unique(column)) == len(column):
            yield Suspicion(
                "identifier", where, "a whole number that is distinct in every row: an id, not a measurement?"
            )
        told = known & cohort.labelled
        for label, positive in labels.items():
            auroc = _auroc(values[told, d], positive[told])
            if auroc is not None and max(auroc, 1 - auroc) >= _AUROC:
                yield Suspicion(
                    "target", where, f"tells {label!r} by itself (AUROC {auroc:.3f}): is it known before the outcome?"
                )
        if not labels and target is not None and told.sum() >= _LEAST:
            correlation = float(np.asarray(spearmanr(values[told, d], target[told]))[0])
            if abs(correlation) >= _CORRELATION:
                yield Suspicion("target", where, f"is the target in other words (rank correlation {correlation:.4f})")


def _auroc(values: np.ndarray, positive: np.ndarray) -> float | None:
    from scipy.stats import rankdata

    n, n_positive = len(values), int(positive.sum())
    if n < _LEAST or not 5 <= n_positive <= n - 5:
        return None
    ranks = rankdata(values)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * (n - n_positive)))


def _suspect_presence(cohort: Cohort, labels: dict[str, np.ndarray]) -> Iterator[Suspicion]:
    """Modalities, and features within them, that are present for one class and absent for the others."""
    columns = {name: cohort.observed[:, m] for m, name in enumerate(cohort.schema.names)}
    for modality in cohort.schema.modalities:
        if modality.traits.takes_measured and not modality.traits.takes_lengths:
            known = ~np.isnan(_row_values(cohort, modality))
            seen = columns[modality.name]
            for d, name in enumerate(modality.features):
                if not (known[:, d] == seen).all():
                    columns[f"{modality.name}.{name}"] = known[:, d]
    n_tests, labelled = max(1, len(columns) * len(labels)), cohort.labelled
    for where, present in columns.items():
        for label, positive in labels.items():
            detail = _depends(present[labelled], positive[labelled], label, _P_VALUE / n_tests)
            if detail:
                yield Suspicion("presence", where, detail)


def _depends(present: np.ndarray, positive: np.ndarray, label: str, level: float) -> str | None:
    table = np.array([[(present & positive).sum(), (~present & positive).sum()],
                      [(present & ~positive).sum(), (~present & ~positive).sum()]])  # fmt: skip
    if (table.sum(0) == 0).any() or (table.sum(1) == 0).any():
        return None
    with_label, without = (row[0] / row.sum() for row in table)
    alone = min(with_label, without) == 0
    if not (alone or abs(with_label - without) >= 0.5) or _p_value(table) > level:
        return None
    shares = f"{with_label:.0%} of {label!r}, {without:.0%} of the others"
    if alone:
        there = label if with_label else f"not {label}"
        return f"there only for {there!r} ({shares}): presence alone gives the target away"
    return f"there for {shares}: presence nearly gives the target away"


def _p_value(table: np.ndarray) -> float:
    from scipy.stats import fisher_exact

    result: Any = fisher_exact(table)
    return float(result.pvalue)


def _copies(cohort: Cohort, modality: Modality) -> Iterator[Suspicion]:
    """Images or texts that stand in two splits, byte for byte."""
    splits: dict[bytes, set[str]] = {}
    kind = modality.traits
    for rows, cut in cohort.cuts(modality.name):
        if isinstance(kind, SetKind):
            values, *others = (None if part is None else torch.from_numpy(part) for part in cut[:3])
            assert values is not None
            members = kind.members(values, *others)
            rows, values, lengths = rows[members.rows.numpy()], members.values.numpy(), members.lengths
        else:
            values, lengths = cut.values, cut.lengths
        for i, row in enumerate(rows):
            content = values[i] if lengths is None else values[i, : int(lengths[i])]
            digest = hashlib.blake2b(content.tobytes(), digest_size=16)
            if cohort.splits[row]:
                splits.setdefault(digest.digest(), set()).add(str(cohort.splits[row]))
    shared = sum(len(found) > 1 for found in splits.values())
    if shared:
        plural = kind.of.plural if isinstance(kind, SetKind) else kind.plural
        detail = f"{shared:,} {plural} stand in more than one split: the same case, or a template?"
        yield Suspicion("copies", modality.name, detail)
