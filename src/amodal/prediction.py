"""Prediction of new cases from a table, with notes on each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.data.moments import IMAGE_LEVELS, beyond_levels, each_image, image_levels
from amodal.data.table import Problems, Table, open_cases, table_source
from amodal.evaluation import prediction_columns
from amodal.missingness.patterns import pattern_codes, pattern_label

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Predictions", "predict_cases", "predict_table", "row_notes"]


class Predictions(NamedTuple):
    """Predictions of cases, with notes on each.

    Attributes:
        ids: Str (N,).
        values: As of `TrainedModel.predict`.
        observed: Presence, bool (N, M).
        notes: What each case should be told.
        further: What was asked of the cases besides.
        taken: What holds for all cases: columns that are not there, rows that are none.
    """

    ids: np.ndarray
    values: np.ndarray
    observed: np.ndarray
    notes: list[list[str]]
    further: Any = None
    taken: tuple[str, ...] = ()


def predict_cases(
    model: TrainedModel,
    table: Table,
    source: Mapping[str, Any] | None,
    *,
    root: Path,
    batch_size: int = 1024,
    workers: int | None = None,
    further: Callable[[Cohort], Any] | None = None,
) -> Predictions:
    """Predicts the cases of a table.

    Args:
        model: The model.
        table: The new cases.
        source: How they are read (`amodal.data.table.table_source`).
        root: Folder that all files must lie in.
        batch_size: Rows a batch.
        workers: Threads that read files; None chooses.
        further: What else to ask of the cases while they are open.

    Returns:
        The predictions; see `predict_table` for the notes.

    Raises:
        RunError: If there is no record of a table.
        DataError: If there are no rows, ids come twice, or no column is known.
    """
    problems = Problems(strict=False, by_row=True)
    with open_cases(table, source, root=root, problems=problems, workers=workers) as cohort:
        values = model.predict(cohort, batch_size=batch_size, on_empty="silent")
        notes = row_notes(model, cohort, (source or {}).get("ranges", {}))
        notes_of_rows = [[*problems.rows.get(str(row), []), *notes.get(str(row), [])] for row in cohort.ids]
        asked = None if further is None else further(cohort)
        return Predictions(cohort.ids, values, cohort.observed, notes_of_rows, asked, tuple(problems.taken))


def predict_table(
    model: TrainedModel, table: Table, *, root: Path, batch_size: int = 1024, workers: int | None = None
) -> pd.DataFrame:
    """Predicts the cases of a table, with any subset of the columns and files that the model was trained on.

    Args:
        model: Trained on a cohort that was prepared from a table.
        table: The new cases; without the id's column its rows are numbered.
        root: Folder that all files must lie in.
        batch_size: Rows a batch.
        workers: Threads that read files; None chooses.

    Returns:
        A row a case: id, the predictions, for classes the most probable one, `observed` (what was there) and `notes`:
        unknown categories, cells that are no numbers, files that are not there, values out of range or beyond those of
        training, a pattern that training never met, nothing observed at all; "" if there is nothing to tell. What holds
        for all rows is in `attrs["taken"]`.

    Raises:
        RunError: If the model was not trained on a table.
        DataError: If there are no rows, ids come twice, or no column is known.
    """
    import pandas as pd

    source = table_source(model.experiment)
    found = predict_cases(model, table, source, root=root, batch_size=batch_size, workers=workers)
    frame = pd.DataFrame(found.values, columns=prediction_columns(model.schema.task))
    frame.insert(0, "id", found.ids)
    if model.schema.task.is_classification:
        frame["predicted"] = [str(model.schema.task.classes[i]) for i in found.values.argmax(1)]
    codes = pattern_codes(found.observed)
    frame["observed"] = [pattern_label(int(code), model.schema.names) if code else "" for code in codes]
    frame["notes"] = ["; ".join(notes) for notes in found.notes]
    frame.attrs["taken"] = list(found.taken)
    return frame


def row_notes(model: TrainedModel, cohort: Cohort, ranges: Mapping[str, Any]) -> dict[str, list[str]]:
    """Notes on each case: values beyond training's, modalities never met together, nothing observed.

    Args:
        model: The model.
        cohort: N cases.
        ranges: Smallest and largest training value of each feature, by modality.

    Returns:
        Notes by id; ids without any are left out.
    """
    notes: dict[str, list[str]] = {}

    def tell(rows: np.ndarray, note: str) -> None:
        for row in cohort.ids[rows]:
            notes.setdefault(str(row), []).append(note)

    for modality in cohort.schema.modalities:
        pairs = np.array(ranges.get(modality.name, []), dtype=np.float64).reshape(-1, 2)  # (D, 2)
        if not len(pairs):
            continue
        for rows, cut in cohort.cuts(modality.name):
            if modality.traits.on_grid:
                images, of = each_image(cut.values, cut.lengths)
                at = rows[of]
                _tell_levels(modality.name, image_levels(images), pairs, lambda bad, note, at=at: tell(at[bad], note))
                continue
            values = cut.values.reshape(len(rows), -1, cut.values.shape[-1])  # (n, T or 1, D)
            known = np.ones_like(values, bool) if cut.measured is None else cut.measured.reshape(values.shape)
            if cut.lengths is not None:
                known = known & (np.arange(values.shape[1]) < cut.lengths[:, None])[..., None]
            slack = 1e-6 * np.maximum(1.0, np.abs(pairs))
            beyond = ((values < pairs[:, 0] - slack[:, 0]) | (values > pairs[:, 1] + slack[:, 1])) & known
            for d in np.flatnonzero(beyond.any((0, 1))):
                name = modality.features[d] if modality.features else f"feature {d}"
                low, high = pairs[d]
                what = f"{modality.name}.{name} beyond the training data's {low:g} … {high:g}"
                tell(rows[beyond[:, :, d].any(1)], what)
    seen = _patterns_met(model, cohort)
    tell(np.flatnonzero(~seen & cohort.observed.any(1)), "training never met just these modalities together")
    if not model.method.accepts_empty:
        tell(np.flatnonzero(~cohort.observed.any(1)), "nothing observed: the training data's average is predicted")
    return notes


def _tell_levels(name: str, levels: np.ndarray, pairs: np.ndarray, tell: Callable[[np.ndarray, str], None]) -> None:
    """Tells images that are darker, brighter, flatter or starker than every image of training."""
    beyond = beyond_levels(levels, pairs, 0.5 + 0.01 * np.abs(pairs))  # (n, 2)
    for d, what in enumerate(IMAGE_LEVELS):
        for i in np.flatnonzero(beyond[:, d]):
            low, high = pairs[d]
            tell(np.array([i]), f"{name}: {what} {levels[i, d]:.3g} beyond the training images' {low:.3g} … {high:.3g}")


def _patterns_met(model: TrainedModel, cohort: Cohort) -> np.ndarray:
    """Whether training met each case's pattern, bool (N,).

    Methods that meet every pattern by themselves have met it. Where training removed modalities, the removal differs
    from epoch to epoch: then every part of a natural pattern counts as met.
    """
    presence = model.presence
    if presence is None or model.method.meets_all_patterns or set(presence.names) != set(cohort.schema.names):
        return np.ones(len(cohort), bool)
    order = [cohort.schema.names.index(name) for name in presence.names]
    codes = pattern_codes(cohort.observed[:, order])
    met = set(pattern_codes(presence.observed).tolist())
    natural = {int(code) for code in pattern_codes(presence.natural)}
    removes = bool((presence.observed != presence.natural).any())
    known = {
        int(code): int(code) in met or (removes and any(int(code) & whole == int(code) for whole in natural))
        for code in np.unique(codes)
    }
    return np.array([known[int(code)] for code in codes], dtype=bool)
