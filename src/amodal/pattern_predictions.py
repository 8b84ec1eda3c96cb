"""Predictions of the same cases under several patterns of presence, in memory or in a file, kept when interrupted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amodal.checkpoint import TrainedModel
from amodal.data.cohort import Cohort
from amodal.files import replace_file, write_json
from amodal.stored_parts import open_parts, weights_digest

__all__ = ["PatternPredictions"]


class PatternPredictions:
    """Predictions under each pattern in turn, in memory or in a file that an interrupted call has begun.

    Args:
        model: The model.
        cohort: N cases.
        patterns: The patterns, bool (P, M).
        store: The file (.npy, float64, (P, N, …)); None: in memory.
        batch_size: Rows a batch.

    Attributes:
        draw_errors: By name of the pattern what other draws would have changed in the metrics; None: there are none.
    """

    def __init__(self, model: TrainedModel, cohort: Cohort, patterns: NDArray, store: Path | None, batch_size: int):
        self.model, self.store, self.batch_size = model, store, batch_size
        traits, outputs = model.schema.task.traits, model.schema.task.n_outputs
        shape = (len(patterns), len(cohort), *(() if traits.one_value else (outputs,)))
        self.done = np.zeros(len(patterns), dtype=bool)
        self.draw_errors: dict[str, Mapping[str, float] | None] = {}
        self.parts: Path | None = None
        if store is None:
            self.values = np.empty(shape)
            return
        identity = {
            "model": weights_digest(model.method),
            "schema": model.schema.to_json(),
            "cohort": cohort.fingerprint,
            "patterns": patterns.tolist(),
        }
        self.parts = open_parts(store, identity)
        done, errors, values = (self.parts / name for name in ("done.npy", "draw_errors.json", "predictions.npy"))
        if done.is_file():
            self.done, self.values = np.load(done), np.lib.format.open_memmap(values, "r+")
            if errors.is_file():
                self.draw_errors = json.loads(errors.read_text(encoding="utf-8"))
        else:
            self.values = np.lib.format.open_memmap(values, "w+", np.float64, shape)

    def of(self, place: int, cases: Cohort) -> NDArray:
        """Those under one pattern, (N, …)."""
        if not self.done[place]:
            self.values[place] = self.model.predict(cases, batch_size=self.batch_size)
            self.done[place] = True
            if self.parts is not None:
                assert isinstance(self.values, np.memmap)
                self.values.flush()
                replace_file(self.parts / "done.npy", lambda path: np.save(path, self.done))
        return np.array(self.values[place])

    def keep_errors(self, label: str, errors: Mapping[str, float] | None) -> None:
        """Takes in the draw errors of a pattern."""
        self.draw_errors[label] = errors
        if self.parts is not None and errors is not None:
            write_json(self.parts / "draw_errors.json", self.draw_errors)

    def finish(self) -> NDArray:
        """All of them, (P, N, …); the file takes the place of its parts."""
        if self.store is None or self.parts is None:
            return self.values
        del self.values
        (self.parts / "predictions.npy").replace(self.store)
        shutil.rmtree(self.parts)
        return np.load(self.store, mmap_mode="r")
