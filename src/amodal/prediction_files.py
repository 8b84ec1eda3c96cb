"""Prediction of a cohort of any size into a file: in parts that are stored as they come, and kept when interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.evaluation import prediction_columns
from amodal.stored_parts import table_in_parts, weights_digest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["predict_to_file", "prediction_frame"]

_PART_BYTES = 2**25  # of predictions in memory at a time


def prediction_frame(model: TrainedModel, ids: np.ndarray, values: np.ndarray) -> pd.DataFrame:
    """Predictions as a table: id, the prediction's columns, and for classes the most probable one.

    Args:
        model: The model.
        ids: Str (N,).
        values: Of `TrainedModel.predict`.
    """
    import pandas as pd

    frame = pd.DataFrame(values, columns=prediction_columns(model.schema.task))
    frame.insert(0, "id", ids)
    if model.schema.task.is_classification:
        frame["predicted"] = [str(model.schema.task.classes[i]) for i in values.argmax(1)]
    return frame


def predict_to_file(
    model: TrainedModel,
    cohort: Cohort,
    out: Path,
    *,
    batch_size: int = 1024,
    on_empty: str = "warn",
    part_rows: int | None = None,
    tell: Callable[[int, int], object] | None = None,
) -> None:
    """Predicts a cohort into a CSV or Parquet file, in memory that does not grow with its rows.

    Parts of the predictions are stored in a folder beside `out` as they come (`out` + ".parts"), and joined at the
    end. The same call after an interruption keeps the parts that are there, if they are of the same model and cases.

    Args:
        model: The model.
        cohort: N cases.
        out: The file, .csv or .parquet.
        batch_size: Rows a batch.
        on_empty: As of `TrainedModel.predict`.
        part_rows: Rows a part; None: as many as take 32 MB.
        tell: Called with the rows done and N after each part.

    Raises:
        DataError: If a case has nothing observed and `on_empty` is "error".
        RunError: If the parts' folder holds something else.
    """
    if on_empty == "error":  # before any work
        model.predict(cohort.take(np.flatnonzero(~cohort.observed.any(axis=1))), on_empty="error")
    width = len(prediction_columns(model.schema.task))
    part_rows = part_rows or max(batch_size, _PART_BYTES // (8 * (width + 4)))
    identity = {
        "model": weights_digest(model.method),
        "schema": model.schema.to_json(),
        "cohort": cohort.fingerprint,
        "on_empty": on_empty,
    }

    def make(rows: np.ndarray) -> pd.DataFrame:
        some = cohort.take(rows)
        return prediction_frame(model, some.ids, model.predict(some, batch_size=batch_size, on_empty=on_empty))

    table_in_parts(out, identity, len(cohort), part_rows, make, tell=tell)
