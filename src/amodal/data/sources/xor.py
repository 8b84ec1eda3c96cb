"""XOR of two numbers: a cohort with a known impact of each missing modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from amodal.data.cohort import Cohort
from amodal.data.split import split_groups
from amodal.errors import ConfigurationError, ShapeError, UnknownNameError
from amodal.options import Count, Positive, Size, Weight, options_checked
from amodal.schema import Task

__all__ = ["XorClusters", "xor_cohort"]

_CENTRES = np.array([(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0)])
_NODES = 64  # of the Gauss-Hermite rule: a smooth integrand is exact to rounding


@dataclass(frozen=True)
class XorClusters:
    r"""Two numbers from three equally likely round clusters, at (−1, −1), (−1, 1) and (1, −1), and a label.

    The label is 1 where the signs differ: those of the two numbers (``"drawn"``), which decide it completely, or those
    of the cluster's centre (``"centre"``), which leave it open where clusters overlap.

    Args:
        spread: Standard deviation :math:`\sigma` of a cluster in each direction.
        labels: Whose signs make the label: ``"drawn"`` or ``"centre"``.

    Raises:
        ConfigurationError: If the spread is not positive.
        UnknownNameError: If `labels` is neither.

    Source:
        :cite:`madaan2026primo`, sections 4.1 and C.1, which can be read both ways; "drawn" is the letter of 4.1.
    """

    spread: float = 0.5
    labels: Literal["drawn", "centre"] = "drawn"

    def __post_init__(self) -> None:
        if not self.spread > 0:
            raise ConfigurationError("the clusters' spread must be positive", got=self.spread)
        if self.labels not in ("drawn", "centre"):
            raise UnknownNameError("labels of xor", self.labels, ("drawn", "centre"))

    def sample(self, n: int, generator: np.random.Generator, *, clusters: int = 3) -> tuple[np.ndarray, np.ndarray]:
        """Draws points and labels.

        Args:
            n: Number of points.
            generator: Source of the draws.
            clusters: 3, or 4: n points from four clusters, of which those of the fourth, at (1, 1), are dropped.

        Returns:
            Points (n', 2) and labels, int64 (n',); n' is n for three clusters, about three quarters of it for four.

        Raises:
            ConfigurationError: For another number of clusters.
        """
        if clusters not in (3, 4):
            raise ConfigurationError("there are three clusters, or four of which one is dropped", got=clusters)
        cluster = generator.integers(clusters, size=n)
        noise = generator.normal(size=(n, 2))[cluster < 3]
        centre = _CENTRES[cluster[cluster < 3]]
        points = centre + self.spread * noise
        return points, _differ(points if self.labels == "drawn" else centre).astype(np.int64)

    def bayes_predictions(self, x_o: ArrayLike, x_m: ArrayLike | None = None) -> np.ndarray:
        """The exact posterior of the label.

        Args:
            x_o: First number of each case, of shape (N,); NaN where missing.
            x_m: Second number, of shape (N,); NaN where missing; None: missing for all.

        Returns:
            Probabilities of the labels 0 and 1, of shape (N, 2).

        Raises:
            ShapeError: If the two differ in length.

        Example:
            >>> world = XorClusters()
            >>> world.bayes_predictions([-1.0, -1.0], [np.nan, 1.0]).round(3)
            array([[0.5, 0.5],
                   [0. , 1. ]])
        """
        known = _columns(x_o, x_m)
        cluster = self._cluster_posterior(known)  # (N, 3)
        if self.labels == "centre":
            one = cluster @ _differ(_CENTRES)
        else:
            positive = np.where(np.isnan(known)[:, None], self._positive(), (known > 0)[:, None])  # (N, 3, 2)
            one = (
                cluster * (positive[..., 0] * (1 - positive[..., 1]) + positive[..., 1] * (1 - positive[..., 0]))
            ).sum(1)
        return np.clip(np.stack([1 - one, one], axis=1), 0.0, 1.0) + 0.0

    def ideal_variability(self, x_o: ArrayLike, x_m: ArrayLike | None = None) -> np.ndarray:
        r"""V of exact predictions under completions from the true distribution.

        .. math:: V = \mathbb{E}_{x_m \mid x_o} \, | P(y = 1 \mid x_o, x_m) - P(y = 1 \mid x_o) |

        which is :math:`2 p (1 - p)` where the completed case decides the label, and 0 where nothing is missing.

        Args:
            x_o: First number, of shape (N,), not missing.
            x_m: Second number, of shape (N,); NaN where missing; None: missing for all.

        Returns:
            V, of shape (N,).

        Raises:
            ConfigurationError: If a first number is missing.

        Example:
            >>> XorClusters().ideal_variability([-1.0, 2.0], [np.nan, 0.3]).round(3)
            array([0.5, 0. ])
        """
        known = _columns(x_o, x_m)
        if np.isnan(known[:, 0]).any():
            raise ConfigurationError("the ideal V is known where x_o is observed", got="NaN in x_o")
        mean = self.bayes_predictions(known[:, 0])[:, 1]
        if self.labels == "drawn":
            value = 2 * mean * (1 - mean)
        else:
            nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
            cluster = self._cluster_posterior(np.stack([known[:, 0], np.full(len(known), np.nan)], axis=1))
            value = np.zeros(len(known))
            for centre, share in zip(_CENTRES, cluster.T):
                for node, weight in zip(nodes, weights / weights.sum()):
                    x = np.full(len(known), centre[1] + self.spread * node)
                    value += share * weight * np.abs(self.bayes_predictions(known[:, 0], x)[:, 1] - mean)
        return np.where(np.isnan(known[:, 1]), value, 0.0)

    def _cluster_posterior(self, known: np.ndarray) -> np.ndarray:
        """Probabilities (N, 3) of the clusters given what is known (N, 2)."""
        away = (known[:, None] - _CENTRES) / self.spread  # (N, 3, 2)
        log_joint = -0.5 * np.where(np.isnan(away), 0.0, away**2).sum(-1)
        weight = np.exp(log_joint - log_joint.max(1, keepdims=True))
        return weight / weight.sum(1, keepdims=True)

    def _positive(self) -> np.ndarray:
        """Probability (3, 2) that a number of a cluster is positive."""
        from scipy.special import ndtr

        return ndtr(_CENTRES / self.spread)


@options_checked
def xor_cohort(
    *,
    n: Size = 40_000,
    labels: Literal["drawn", "centre"] = "drawn",
    clusters: Literal[3, 4] = 3,
    spread: Positive = 0.5,
    seed: Count = 0,
    fractions: Mapping[str, Weight] | None = None,
) -> Cohort:
    """Two numbers, x_o and x_m, and their exclusive or: only for x_o < 0 does the label depend on x_m much.

    Args:
        n: Number of points drawn.
        labels: Whose signs make the label; see `XorClusters`.
        clusters: 3, or 4: of four equally likely clusters the points of one are dropped.
        spread: Standard deviation of a cluster.
        seed: Seed of points and splits.
        fractions: Fraction of the points for each split; default 0.7 train, 0.3 test.

    Returns:
        A cohort of two tables with one feature each, all present.

    Source:
        :cite:`madaan2026primo`, sections 4.1 and C.1.

    Example:
        >>> xor_cohort(n=1000)
        <Cohort 'xor': 1000 samples, x_o, x_m>
    """
    generator = np.random.default_rng(seed)
    points, target = XorClusters(spread, labels).sample(n, generator, clusters=clusters)
    fractions = {"train": 0.7, "test": 0.3} if fractions is None else fractions
    splits = split_groups(np.arange(len(points)), target, fractions, seed=int(generator.integers(2**31)))
    return Cohort.from_arrays(
        {"x_o": points[:, :1].astype(np.float32), "x_m": points[:, 1:].astype(np.float32)},
        task=Task("binary", name="xor", classes=(0, 1)),
        target=target,
        splits=splits,
        name="xor",
        description="Exclusive or of the signs of two numbers, three clusters",
    )


def _differ(points: np.ndarray) -> np.ndarray:
    return (points[:, 0] > 0) != (points[:, 1] > 0)


def _columns(x_o: ArrayLike, x_m: ArrayLike | None) -> np.ndarray:
    """Both numbers side by side, (N, 2), NaN where missing."""
    first = np.asarray(x_o, dtype=float).reshape(-1)
    second = np.full(len(first), np.nan) if x_m is None else np.asarray(x_m, dtype=float).reshape(-1)
    if len(first) != len(second):
        raise ShapeError("x_o and x_m differ in length", expected=len(first), got=len(second))
    return np.stack([first, second], axis=1)
