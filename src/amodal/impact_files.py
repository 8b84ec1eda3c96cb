"""Impact and advice of a cohort of any size into a file: in parts, stored as they come and kept when interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.predictive_impact import Advice, attribute
from amodal.stored_parts import table_in_parts, weights_digest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["add_advice", "impact_to_file"]


def add_advice(frame: pd.DataFrame, advice: Advice) -> None:
    """Columns of the advice, beside those of the impact."""
    frame["next"], frame["net"] = advice.next()
    for m, name in enumerate(advice.names):
        frame[f"gain[{name}]"] = advice.gain[:, m]
    frame["gain_of_all"], frame["evpi"] = advice.everything, advice.evpi


def impact_to_file(
    model: TrainedModel,
    cohort: Cohort,
    out: Path,
    *,
    looks: Mapping[str, Any],
    advised: Mapping[str, Any] | None = None,
    drivers: bool = False,
    part_rows: int = 5000,
    tell: Callable[[int, int], object] | None = None,
) -> tuple[str, ...]:
    """Writes a row of impact and advice for each case, in the cohort's order, in memory that does not grow with them.

    Parts are stored in a folder beside `out` as they come (`out` + ".parts"), and joined at the end. The same call
    after an interruption keeps the parts that are there, if they are of the same model, cases and options.

    Args:
        model: The model.
        cohort: N cases.
        out: The file, .csv or .parquet.
        looks: Arguments of `TrainedModel.impact`.
        advised: Arguments of `TrainedModel.advise`; None: no advice.
        drivers: Whether to add what drove each prediction.
        part_rows: Cases a part.
        tell: Called with the cases done and N after each part.

    Returns:
        What the parts of this call say of their completions, each sentence once.

    Raises:
        RunError: If the parts' folder holds something else.
        AmodalError: As `impact` and `advise`.
    """
    notes: dict[str, None] = {}

    def make(rows: np.ndarray) -> pd.DataFrame:
        some = cohort.take(rows)
        result = model.impact(some, **dict(looks))
        notes.update(dict.fromkeys((result.how, *result.notes)))
        frame = result.table()
        if advised is not None:
            add_advice(frame, model.advise(some, **dict(advised)))
        return (
            frame.join(attribute(model, some).table().drop(columns=["id", "prediction", "base"])) if drivers else frame
        )

    identity = {
        "model": weights_digest(model.method),
        "schema": model.schema.to_json(),
        "cohort": cohort.fingerprint,
        "looks": _plain(looks),
        "advised": None if advised is None else _plain(advised),
        "drivers": drivers,
    }
    table_in_parts(out, identity, len(cohort), part_rows, make, tell=tell)
    return tuple(notes)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as plain values: cohorts as the digests of their content."""
    return {name: value.fingerprint if isinstance(value, Cohort) else value for name, value in options.items()}
