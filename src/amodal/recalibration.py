"""Recalibration of predictions by the number of modalities present, learnt from validation rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amodal.errors import RunError
from amodal.kinds import TaskKind

__all__ = ["MANY", "Recalibration", "fit_recalibration"]

MANY = 1000  # cases of the rarer of two classes from which on a monotone curve is tried
_SPREAD = 0.05  # scale of log slopes around the common one
_COMMON = 0.1  # and of the common one around 0
_STEEPEST = math.log(20.0)


@dataclass(frozen=True)
class Recalibration:
    r"""Slopes on log-probabilities (of labels: log odds) by the number of present modalities, and a monotone curve.

    With the outputs :math:`z_c` of a prediction (logarithms of probabilities, or log odds of labels) and those of the
    mean prediction, :math:`\bar z_c`, the recalibrated outputs of a row in which k modalities are present are

    .. math:: z'_c = \bar z_c + s_k (z_c - \bar z_c)

    so that a slope below 1 draws predictions towards the base rates, not towards equal probabilities. The ranks of
    predictions stay within each k.

    Args:
        slopes: :math:`s_k` for k = 0 … M.
        centre: :math:`\bar z_c`, one a class or label.
        curve: For two classes, log odds and what they become, each increasing; linear between and parallel beyond.
            Applied after the slopes; empty: none.
        cases: Validation cases behind each slope.

    Raises:
        RunError: If the numbers cannot be those of a recalibration.

    Source:
        Temperature scaling, :cite:`guo2017calibration`, section 4.2, with a slope for each number of modalities and
        the mean prediction as its fixed point; isotonic regression, :cite:`zadrozny2002transforming`.
    """

    slopes: tuple[float, ...]
    centre: tuple[float, ...]
    curve: tuple[tuple[float, float], ...] = ()
    cases: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        numbers = [*self.slopes, *self.centre, *(x for point in self.curve for x in point)]
        increasing = all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(self.curve))
        if not all(map(math.isfinite, numbers)) or min(self.slopes, default=0.0) <= 0 or not increasing:
            raise RunError(
                "a recalibration cannot be used",
                expected="finite positive slopes, a finite centre and an increasing curve",
                got=str(self.to_json())[:200],
            )

    def __call__(self, predictions: Tensor, present: Tensor, traits: TaskKind) -> Tensor:
        """Recalibrated predictions.

        Args:
            predictions: Probabilities, of shape (…, B, C).
            present: Number of modalities present in each row, (B,).
            traits: The kind of the task.

        Returns:
            Of the same shape.
        """
        slope = predictions.new_tensor(self.slopes, dtype=torch.float64)[present][:, None]  # (B, 1)
        centre = predictions.new_tensor(self.centre, dtype=torch.float64)
        outputs = centre + slope * (traits.outputs(predictions.double()) - centre)
        return traits.predictions(self._bend(outputs, self.curve)).to(predictions.dtype)

    def undo(self, predictions: Tensor, present: Tensor, traits: TaskKind) -> Tensor:
        """The predictions that became these: the inverse of a call."""
        slope = predictions.new_tensor(self.slopes, dtype=torch.float64)[present][:, None]
        centre = predictions.new_tensor(self.centre, dtype=torch.float64)
        outputs = self._bend(traits.outputs(predictions.double()), tuple((b, a) for a, b in self.curve))
        return traits.predictions(centre + (outputs - centre) / slope).to(predictions.dtype)

    @staticmethod
    def _bend(outputs: Tensor, curve: Sequence[tuple[float, float]]) -> Tensor:
        """Outputs (…, 2) with their log odds bent along a curve; without one as they are."""
        if not curve:
            return outputs
        odds = (outputs[..., 1] - outputs[..., 0]).contiguous()
        at, to = outputs.new_tensor(curve).T.contiguous()
        right = torch.searchsorted(at, odds).clamp(1, len(at) - 1)
        share = (odds - at[right - 1]) / (at[right] - at[right - 1])
        inside = to[right - 1] + share * (to[right] - to[right - 1])
        bent = torch.where(
            odds < at[0], to[0] + odds - at[0], torch.where(odds > at[-1], to[-1] + odds - at[-1], inside)
        )
        return torch.stack([torch.zeros_like(bent), bent], dim=-1)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "slopes": list(self.slopes),
            "centre": list(self.centre),
            "curve": [list(point) for point in self.curve],
            "cases": list(self.cases),
        }

    @classmethod
    def from_json(cls, stored: Any, *, n_modalities: int, n_outputs: int) -> Recalibration:
        """The inverse of `to_json`, checked.

        Raises:
            RunError: If the values do not fit the model or are no recalibration.
        """
        try:
            curve = tuple((float(a), float(b)) for a, b in stored["curve"])
            slopes, centre = (tuple(map(float, stored[key])) for key in ("slopes", "centre"))
            cases = tuple(map(int, stored["cases"]))
        except (TypeError, KeyError, ValueError) as error:
            raise RunError(f"the stored recalibration cannot be read: {error!r}") from error
        if len(slopes) != n_modalities + 1 or len(centre) != n_outputs or (curve and n_outputs != 2):
            raise RunError(
                "the stored recalibration does not fit the model",
                expected=f"{n_modalities + 1} slopes and {n_outputs} entries of the centre",
                got=f"{len(slopes)} and {len(centre)}",
            )
        return cls(slopes, centre, curve, cases)


def fit_recalibration(
    predictions: np.ndarray,
    target: np.ndarray,
    present: np.ndarray,
    weight: np.ndarray,
    traits: TaskKind,
    n_modalities: int,
    case: np.ndarray,
) -> Recalibration:
    r"""The recalibration of the largest posterior density given validation rows.

    The logarithm of each slope has a Cauchy prior around that of the common slope, of scale 0.05, and this one around
    0, of 0.1. So few rows move little (they also chose the best epoch, which makes predictions of them look better than
    they are), and what is far off is corrected; for the common slope all rows of a case together count once.
    With `MANY` cases of both classes a monotone curve is added where cross-validated by case it lowers the loss.

    Args:
        predictions: Probabilities, of shape (N, C); a case may come several times, under different presence.
        target: As the task has it, N rows.
        present: Number of modalities present in each row, (N,).
        weight: How much each row counts, (N,); those of a case that comes several times with one number add up to one.
        traits: The kind of the task, one with probabilities.
        n_modalities: Number of modalities M.
        case: Which case each row is of, integers (N,).
    """
    outputs = traits.outputs(torch.from_numpy(predictions).double())
    mean = np.average(predictions, axis=0, weights=weight)
    centre = traits.outputs(torch.from_numpy(mean[None]).double())[0]
    truth = torch.from_numpy(target)
    _, place = np.unique(case, return_inverse=True)
    pairs = np.unique(np.stack([place, present]), axis=1)  # a case and a number it comes with
    numbers = np.bincount(pairs[0])

    def best(rows: np.ndarray, weight: np.ndarray, around: float, spread: float) -> float:
        from scipy.optimize import minimize_scalar

        chosen = torch.from_numpy(rows)
        z, y, w = outputs[chosen], truth[chosen], torch.from_numpy(weight[rows])

        def cost(log_slope: float) -> float:
            losses = traits.loss(centre + math.exp(log_slope) * (z - centre), y, "sum")
            return float((w * losses).sum()) + math.log1p(((log_slope - around) / spread) ** 2)

        grid = np.sort(
            [*np.linspace(-_STEEPEST, _STEEPEST, 25), around]
        )  # there may be two minima: around, and the data's
        start = int(np.argmin([cost(point) for point in grid]))
        bounds = grid[max(0, start - 1)], grid[min(len(grid) - 1, start + 1)]
        least: Any = minimize_scalar(cost, bounds=bounds, method="bounded")
        return float(least.x)

    common = best(np.arange(len(present)), weight / numbers[place], 0.0, _COMMON)
    rows_of = [np.flatnonzero(present == k) for k in range(n_modalities + 1)]
    slopes = tuple(math.exp(best(rows, weight, common, _SPREAD) if len(rows) else common) for rows in rows_of)
    found = Recalibration(
        slopes, tuple(centre.tolist()), cases=tuple(round(float(weight[rows].sum())) for rows in rows_of)
    )
    if not traits.one_class or predictions.shape[1] != 2 or np.bincount(target, weight, 2).min() < MANY:
        return found
    straight = found(torch.from_numpy(predictions), torch.from_numpy(present), traits)
    odds = (traits.outputs(straight.double()) @ torch.tensor([-1.0, 1.0], dtype=torch.float64)).numpy()
    curve = _monotone(odds, target, weight)
    if len(curve) < 2 or not _curve_pays(odds, target, weight, place):
        return found
    return Recalibration(found.slopes, found.centre, curve, found.cases)


def _monotone(odds: np.ndarray, target: np.ndarray, weight: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Log odds at the middles of the blocks of an isotonic regression, and the log odds of what came true there."""
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(odds, kind="stable")
    fitted = isotonic_regression(target[order].astype(float), sample_weight=weight[order])
    points: list[tuple[float, float]] = []
    for block in np.split(np.arange(len(order)), np.flatnonzero(np.diff(fitted)) + 1):
        rows = order[block]
        size = weight[rows].sum()
        share = (size * fitted[block[0]] + 0.5) / (size + 1.0)
        point = (float(np.average(odds[rows], weights=weight[rows])), math.log(share / (1 - share)))
        if size >= 20 and (not points or (point[0] > points[-1][0] and point[1] > points[-1][1])):
            points.append(point)
    return tuple(points)


def _curve_pays(odds: np.ndarray, target: np.ndarray, weight: np.ndarray, place: np.ndarray) -> bool:
    """Whether a curve of four fifths of the cases lowers the loss of the fifth, on the mean over the five."""
    fold = np.random.default_rng(0).permutation(place.max() + 1)[place] % 5
    gain = 0.0
    for i in range(5):
        rest, held = fold != i, fold == i
        outputs = np.stack([np.zeros(held.sum()), odds[held]], axis=1)
        bent = Recalibration._bend(torch.from_numpy(outputs), _monotone(odds[rest], target[rest], weight[rest]))
        losses = [
            np.logaddexp(0.0, np.where(target[held] == 1, -z, z))
            for z in (odds[held], (bent[:, 1] - bent[:, 0]).numpy())
        ]
        gain += float((weight[held] * (losses[0] - losses[1])).sum())
    return gain > 0


def recalibration_from(record: Mapping[str, Any], *, n_modalities: int, n_outputs: int) -> Recalibration | None:
    """The recalibration that a run's record holds, or None."""
    stored = record.get("recalibration")
    return None if stored is None else Recalibration.from_json(stored, n_modalities=n_modalities, n_outputs=n_outputs)
