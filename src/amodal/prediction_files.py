"""Prediction of a cohort of any size into a file: in parts that are stored as they come, and kept when interrupted."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.errors import RunError
from amodal.evaluation import prediction_columns
from amodal.files import replace_file, write_json

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
    starts = range(0, len(cohort), part_rows)
    parts = _open_parts(out, _identity(model, cohort, part_rows, on_empty))
    with _each_warning_once():
        for number, start in enumerate(starts):
            rows, file = np.arange(start, min(start + part_rows, len(cohort))), parts / f"{number:06d}.parquet"
            if not file.is_file():
                some = cohort.take(rows)
                frame = prediction_frame(model, some.ids, model.predict(some, batch_size=batch_size, on_empty=on_empty))
                replace_file(file, lambda path, frame=frame: frame.to_parquet(path, index=False))
            if tell is not None:
                tell(int(rows[-1]) + 1, len(cohort))
    replace_file(out, lambda path: _join(sorted(parts.glob("*.parquet")), path, out.suffix))
    shutil.rmtree(parts)


def _identity(model: TrainedModel, cohort: Cohort, part_rows: int, on_empty: str) -> dict[str, Any]:
    """Everything that decides the parts: weights, cases, and the cut."""
    weights = hashlib.sha256()
    for name, tensor in model.method.state_dict().items():
        weights.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return {
        "model": weights.hexdigest(),
        "schema": model.schema.to_json(),
        "cohort": cohort.fingerprint,
        "rows": len(cohort),
        "part_rows": part_rows,
        "on_empty": on_empty,
    }


def _open_parts(out: Path, identity: dict[str, Any]) -> Path:
    """The folder of the parts: of an interrupted call with the same identity, or a new one."""
    folder = out.with_name(out.name + ".parts")
    record = folder / "parts.json"
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) == json.loads(json.dumps(identity)):
        return folder
    if folder.exists() and not record.is_file() and any(folder.iterdir()):
        raise RunError(
            f"{folder} holds something else than parts of predictions", hint="Remove it, or choose another file."
        )
    shutil.rmtree(folder, ignore_errors=True)  # parts of another model or other cases
    folder.mkdir(parents=True)
    write_json(record, identity)
    return folder


def _join(parts: list[Path], path: Path, suffix: str) -> None:
    import pandas as pd
    import pyarrow.parquet as parquet

    if suffix == ".csv":
        for number, part in enumerate(parts):
            pd.read_parquet(part).to_csv(path, mode="a", header=number == 0, index=False)
        return
    with parquet.ParquetWriter(path, parquet.read_schema(parts[0])) as writer:
        for part in parts:
            writer.write_table(parquet.read_table(part))


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Holds back what parts warn of, and tells the first few different warnings at the end."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    different = {str(warning.message): warning for warning in caught}
    for text, warning in list(different.items())[:3]:
        warnings.warn(text, warning.category, stacklevel=4)
    if len(different) > 3:
        warnings.warn(f"{len(different) - 3} more warnings of this kind for other rows", stacklevel=4)
