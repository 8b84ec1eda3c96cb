"""Columns that must not be inputs: ids, what lies after the outcome or beside it, what tells the target by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from amodal.data.table.look import Look

__all__ = ["event_pair", "reasons", "single_column_score"]

_TELLS = 0.97
_CASES = 20
_AFTER = re.compile(
    r"(died|dead|death|decea|mort|surviv|outcome|expire|alive|verstorben|gestorben|\btod|todes|sterbe|überleb|ueberleb|"
    r"d[ée]c[èe]d|d[ée]c[èe]s|fallec|muert|decedut|discharge|entlass|sortie|alta\b|dimission|follow.?up|futime|"
    r"length.?of.?stay|\blos\b|slos|verweildauer|aufenthaltsdauer|liegedauer|liegezeit|readmi|wiederaufnahme|"
    r"charge|cost\b|costs\b|kosten|billing|totcst|totmcst|\bdnr|cause|todesursache|relapse|rezidiv|progress)",
    re.I,
)
_DIAGNOSIS = re.compile(r"(diagnos|\bicd|\bdrg\b|hauptdiag|nebendiag|entlassdiag|befund$)", re.I)
_EVENT = re.compile(
    r"(event|status|died|dead|death|decea|mort|censor|zensiert|ereignis|verstorben|gestorben|relapse|rezidiv|"
    r"d[ée]c[èe]|fallec|muert)", re.I)  # fmt: skip
_TIME = re.compile(
    r"(time|days?|months?|years?|weeks?|tage|monate|jahre|wochen|zeit|dauer|jours|mois|d[ií]as|meses|follow|futime|surv|"
    r"duration|\bos\b|\bpfs\b|\bdfs\b)", re.I)  # fmt: skip
_AGE = re.compile(r"(\bage\b|\balter\b|birth|geburt|\bâge\b|edad)", re.I)


def event_pair(looks: list[Look]) -> tuple[Look, Look] | None:
    """A follow-up time and an indicator of the event beside it; None if there is no such pair.

    They are known by their names, or one of them is and they stand side by side.
    """
    times = [k for k in looks if k.kind == "number" and k.low >= 0 and k.high > 1 and len(k.words) > 10]
    for time in times:
        if not _TIME.search(time.name.replace("_", " ")) or _AGE.search(time.name):
            continue
        for event in looks:
            two = event is not time and len([w for w in event.words if w not in event.odd]) == 2
            beside = abs(looks.index(event) - looks.index(time)) == 1
            strong = bool(re.search(r"(follow|futime|surv|event|ereignis|\bos\b|\bpfs\b)", time.name, re.I))
            if two and _EVENT.search(event.name) and (beside or strong):
                return time, event
    return None


def reasons(looks: Mapping[str, Look], target: Look) -> dict[str, str]:
    """Columns that must not be inputs, each with the reason.

    Args:
        looks: All columns.
        target: What is predicted.
    """
    why: dict[str, str] = {}
    pair = event_pair(list(looks.values()))
    for look in looks.values():
        if look is target:
            continue
        name = look.name.replace("_", " ")
        if look.kind == "code":
            why[look.name] = "numbers that were given, not measured: an id"
        elif pair and look in pair:
            other = pair[1] if look is pair[0] else pair[0]
            why[look.name] = (
                f"a follow-up time and an indicator of its end, beside {other.name!r}: known only afterwards"
            )
        elif _AFTER.search(name):
            why[look.name] = "it seems to say how the case went on: known only afterwards"
        elif _DIAGNOSIS.search(name):
            why[look.name] = "a diagnosis: often coded after the outcome, and made from the same facts"
        elif look.kind == "date":
            why[look.name] = "a date; as an input count it from another: {type: date, since: …}"
        else:
            score = single_column_score(look, target)
            if score >= _TELLS:
                measure = "rank correlation" if _is_amount(target) else "AUROC"
                why[look.name] = f"it tells the target by itself ({measure} {score:.2f})"
    return why


def single_column_score(look: Look, target: Look) -> float:
    """Association of a column with the target: AUROC of the class it separates best, or absolute rank correlation.

    A column of words is scored by the target's mean for each word in the other half of the rows. Where the column is
    empty is scored too: presence alone may tell the target. 0 where there are too few cases.
    """
    n = min(len(look.cells), len(target.cells))
    if n < _CASES:
        return 0.0
    column = Look(look.name, cells=look.cells[:n])
    numeric = look.kind == "number"
    values = column.numbers() if numeric else np.arange(n, dtype=np.float64)
    words = np.array([c if c is not None and c not in look.odd else "" for c in look.cells[:n]])
    there = ~np.isnan(values) if numeric else words != ""
    if _is_amount(target):
        from scipy.stats import spearmanr

        y = Look("", cells=target.cells[:n]).numbers()
        values = values if numeric else _means(words, y)
        fits = there & ~np.isnan(y) & ~np.isnan(values)
        if fits.sum() < _CASES or len(np.unique(values[fits])) < 2 or len(np.unique(y[fits])) < 2:
            return 0.0
        result: Any = spearmanr(values[fits], y[fits])
        return abs(float(result.statistic))
    labels = np.array([c if c is not None and c not in target.odd else "" for c in target.cells[:n]])
    best = 0.0
    for label, count in target.words.most_common(10):
        y = (labels == label).astype(np.float64)
        known = labels != ""
        if label in target.odd or count < 5:
            continue
        best = max(best, _auroc(there.astype(np.float64), y, known))
        if numeric or len(set(words)) < 0.5 * n:
            best = max(best, _auroc(values if numeric else _means(words, np.where(known, y, np.nan)), y, known & there))
    return best


def _is_amount(target: Look) -> bool:
    return target.kind == "number" and len(target.words) > 10


def _means(words: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The target's mean for each word, of the other half of the rows, NaN for a word that does not stand there."""
    import pandas as pd

    half = np.random.default_rng(0).permutation(len(words)) % 2  # not every second row: tables have an order
    found = np.full(len(words), np.nan)
    for part in (0, 1):
        means: Any = pd.Series(y[half != part]).groupby(words[half != part]).mean()
        found[half == part] = pd.Series(words[half == part]).map(means).to_numpy(dtype=float)
    return found


def _auroc(values: np.ndarray, y: np.ndarray, rows: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    rows = rows & ~np.isnan(values)
    n_true = int(y[rows].sum())
    if rows.sum() < _CASES or n_true < 5 or rows.sum() - n_true < 5:
        return 0.0
    area = float(roc_auc_score(y[rows], values[rows]))
    return max(area, 1 - area)
