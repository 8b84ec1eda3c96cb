"""Signs of collapse during training, as a table and in words."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from amodal.metrics.monitor import is_loss, signs_of_collapse
from amodal.report.parts import Table
from amodal.report.words import NOTHING

__all__ = ["collapse_warnings", "representation_table"]

_NAMES = {
    "pooled": "pooled vectors",
    "predicted": "predicted vectors",
    "fused": "fused vectors",
}


def representation_table(histories: Mapping[str, tuple[pd.DataFrame, int]]) -> Table | None:
    """Rank and spread of what is watched for collapse, at the epoch whose weights were kept.

    Args:
        histories: For each method its history and the position of that epoch.

    Returns:
        One row a method and set of vectors; None if nothing was watched.
    """
    rows = []
    for method, (history, best) in histories.items():
        at = history.iloc[best]
        watched = [column for column in map(str, history.columns) if column.endswith("_rank") and not is_loss(column)]
        for key in [column.removesuffix("_rank") for column in watched]:
            first = history[f"{key}_spread"].dropna()
            kept = at[f"{key}_spread"] / first.iloc[0] if len(first) and first.iloc[0] > 0 else float("nan")
            numbers = (at[f"{key}_rank"], at[f"{key}_spread"], kept)
            rows.append([method, _NAMES.get(key, f"{key} vectors"), *map(_short, numbers), NOTHING, NOTHING])
            if key == "pooled" and "context_diversity" in history:
                rows[-1][5] = _short(at["context_diversity"])
            if key == "pooled" and "effective_sample_size" in history:
                rows[-1][6] = f"{_short(at['effective_sample_size'])} of {_short(at['neighbours'])}"
    if not rows:
        return None
    head = ["method", "of", "effective rank", "spread", "over that of the first epoch", "diversity of contexts"]
    head += ["neighbours that count"]
    shown = [i for i in range(len(head)) if i < 5 or any(row[i] != NOTHING for row in rows)]
    return Table([head[i] for i in shown], [[row[i] for i in shown] for row in rows])


def collapse_warnings(histories: Mapping[str, tuple[pd.DataFrame, int]]) -> list[str]:
    """One sentence for each sign of collapse up to the epoch whose weights were kept."""
    found = []
    for method, (history, best) in histories.items():
        rows = [
            {str(key): float(value) for key, value in row.items()}
            for row in history.iloc[: best + 1].select_dtypes("number").to_dict("records")
        ]
        found += [f"{method}: {sign}." for sign in signs_of_collapse(rows)]
    return found


def _short(value: float) -> str:
    return NOTHING if pd.isna(value) else f"{value:.3g}"
