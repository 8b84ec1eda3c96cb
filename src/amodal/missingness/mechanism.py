"""Mechanism: the base class of all missingness mechanisms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, final

import numpy as np

from amodal.errors import ConfigurationError, DataError, ShapeError, UnknownNameError

__all__ = ["Mechanism", "check_names"]


class Mechanism(ABC):
    """A missingness mechanism: `draw` returns a subset of what is present, and empties no row."""

    needs_scores: ClassVar[bool] = False

    @final
    def draw(
        self,
        observed: np.ndarray,
        names: Sequence[str],
        generator: np.random.Generator,
        scores: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draws what stays present.

        Args:
            observed: Natural presence, bool, of shape (N, M).
            names: Names of the M modalities.
            generator: The only source of randomness: the same state gives the same result.
            scores: One standardised number for each entry, of shape (N, M), NaN where absent; what `MAR` and `MNAR`
                depend on (`Cohort.scores()`).

        Returns:
            Presence after removal, bool, of shape (N, M); a subset of `observed` that keeps at least one modality of
            every row that has one.

        Raises:
            ShapeError: If the sizes disagree or presence is not bool.
            ConfigurationError: If the mechanism cannot do this with these modalities, or lacks the scores.
            DataError: If a present entry's score is not finite.
            UnknownNameError: If the mechanism names a modality that is not there.
        """
        observed = np.asarray(observed)
        if observed.ndim != 2 or observed.dtype != np.bool_ or observed.shape[1] != len(names) or not len(names):
            raise ShapeError(
                "presence must be bool, with a column for each modality",
                expected=f"bool (N, {len(names)})",
                got=f"{observed.dtype} {observed.shape}",
            )
        checked = _check_scores(self, observed, names, scores) if self.needs_scores else np.zeros(observed.shape)
        return self._draw(observed, tuple(names), generator, checked)

    @abstractmethod
    def _draw(
        self, observed: np.ndarray, names: tuple[str, ...], generator: np.random.Generator, scores: np.ndarray
    ) -> np.ndarray:
        """The presence that `draw` returns; arguments are checked, and the scores are 0 where absent."""

    @final
    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, with the class's name under "mechanism"."""
        record = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}  # type: ignore[call-overload]
        return {"mechanism": type(self).__name__, **record}


def check_names(asked: Iterable[str], names: tuple[str, ...]) -> None:
    """Raises UnknownNameError for the first name that is not a modality."""
    for name in asked:
        if name not in names:
            raise UnknownNameError("modality", name, names)


def _check_scores(
    mechanism: Mechanism, observed: np.ndarray, names: Sequence[str], scores: np.ndarray | None
) -> np.ndarray:
    kind = type(mechanism).__name__
    if scores is None:
        raise ConfigurationError(
            f"{kind} depends on values and needs their scores",
            expected=f"scores of shape {observed.shape}",
            got="none",
            hint="Pass scores=cohort.scores().",
        )
    scores = np.asarray(scores, dtype=float)
    if scores.shape != observed.shape:
        raise ShapeError("scores must have the shape of presence", expected=observed.shape, got=scores.shape)
    bad = observed & ~np.isfinite(scores)
    if bad.any():
        counts = ", ".join(f"{name} {n}" for name, n in zip(names, np.count_nonzero(bad, axis=0)) if n)
        raise DataError(f"{kind} needs a finite score for every present entry; missing: {counts}")
    return np.where(observed, scores, 0.0)
