"""The ring: twelve noisy readings of one hidden point in the plane, whose Bayes-optimal prediction can be computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from amodal.data.cohort import Cohort
from amodal.errors import ConfigurationError, ShapeError
from amodal.options import Count, Size, options_checked
from amodal.schema import Task

__all__ = ["Reading", "RingWorld", "ring_cohort"]

Reading = Literal["variance", "deviation"]
"""What the second argument of N(·, ·) in the paper means."""

_ENTRIES = 12_000_000  # numbers of an array of likelihoods that is worked on at once


@dataclass(frozen=True)
class RingWorld:
    r"""A point on a noisy ring, seen by M scalar sensors; the class is the sector of its angle.

    .. math::
        r \sim N(1, \sigma_r^2), \quad \theta \sim U[0, 2\pi), \quad
        z_m = r \cos(\theta - m\pi/M) + \varepsilon_m, \quad \varepsilon_m \sim N(0, \sigma^2),

    rounded to the nearest multiple of a step and then clipped to [−limit, limit]. The class is
    :math:`\lfloor C \theta / 2\pi \rfloor`.

    Args:
        radius_std: Standard deviation :math:`\sigma_r` of the radius.
        noise_std: Standard deviation :math:`\sigma` of a reading.
        sensors: Number of sensors M.
        classes: Number of sectors C.
        step: Step of the readings.
        limit: Largest reading.

    Raises:
        ConfigurationError: If a size is not positive.

    Source:
        :cite:`choi2025cepa`, section 3.1 and appendix C.4. Rounding to the *nearest* step, and rounding before
        clipping, are this library's reading.
    """

    radius_std: float = 0.2
    noise_std: float = 0.15
    sensors: int = 12
    classes: int = 16
    step: float = 0.05
    limit: float = 2.0

    def __post_init__(self) -> None:
        for what in ("radius_std", "noise_std", "sensors", "step", "limit"):
            if not getattr(self, what) > 0:
                raise ConfigurationError(f"{what} of a ring is out of range", expected="> 0", got=getattr(self, what))
        if self.classes < 2:
            raise ConfigurationError("classes of a ring are out of range", expected="2 or more", got=self.classes)

    @property
    def directions(self) -> np.ndarray:
        """Directions of the sensors: unit rows, of shape (M, 2)."""
        angles = np.arange(self.sensors) * np.pi / self.sensors
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sensors in a cohort."""
        return tuple(f"sensor_{m}" for m in range(self.sensors))

    def sample(self, n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draws n points: readings (n, M), classes (n,) int64, and radius and angle (n, 2)."""
        radius = generator.normal(1.0, self.radius_std, n)
        angle = generator.uniform(0, 2 * np.pi, n)
        points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        noise = generator.normal(0.0, self.noise_std, (n, self.sensors))
        return self.read(points @ self.directions.T + noise), self.sector(angle), np.stack([radius, angle], axis=1)

    def read(self, values: np.ndarray) -> np.ndarray:
        """Readings of the sensors: values rounded to the step, then clipped."""
        return np.clip(np.round(values / self.step) * self.step, -self.limit, self.limit)

    def sector(self, angle: np.ndarray) -> np.ndarray:
        """The class of an angle, int64."""
        turns = np.mod(angle, 2 * np.pi) / (2 * np.pi)
        return np.minimum((turns * self.classes).astype(np.int64), self.classes - 1)

    # The optimal prediction --------------------------------------------------------------------------------------

    def bayes_predictions(self, values: Cohort | np.ndarray, observed: np.ndarray | None = None) -> np.ndarray:
        r"""The optimal prediction from the sensors that are present, by integration over angle and radius.

        .. math::
            P(c \mid z_O) \propto \int_{\text{sector } c} \int p(r) \prod_{m \in O} P(z_m \mid r, \theta)\, dr\, d\theta

        with the probability of the interval that is rounded (and clipped) to a reading, not the density at it.

        Args:
            values: A cohort, or readings (N, M); those of absent sensors are not read.
            observed: Presence, bool (N, M); None: the cohort's, or everything.

        Returns:
            Probabilities of the classes, of shape (N, C).

        Raises:
            ShapeError: If readings or presence have another shape.
        """
        if isinstance(values, Cohort):
            observed = values.observed if observed is None else values.observed & observed
            batch = values.batch(np.arange(len(values)))
            values = np.concatenate([batch.values[name].double().numpy() for name in self.names], axis=1)
        values = np.asarray(values, dtype=float)
        observed = np.ones(values.shape, dtype=bool) if observed is None else np.asarray(observed)
        if values.ndim != 2 or values.shape[1] != self.sensors or observed.shape != values.shape:
            raise ShapeError(
                "readings and presence of a ring do not fit",
                expected=f"(N, {self.sensors}), and bool of the same shape",
                got=f"{values.shape} and {observed.shape}",
            )
        table, prior = self._likelihoods
        position = np.rint(np.where(observed, values, 0.0) / self.step).astype(np.int64) + self._top
        position = np.clip(position, 0, 2 * self._top)
        posterior = np.empty((len(values), self.classes))
        size = max(1, _ENTRIES // len(prior))
        for start in range(0, len(values), size):
            rows = slice(start, start + size)
            log_joint = np.repeat(prior[None], len(values[rows]), axis=0)  # (n, A · R)
            for m in range(self.sensors):
                seen = np.flatnonzero(observed[rows, m])
                log_joint[seen] += table[m, position[rows, m][seen]]
            joint = np.exp(log_joint - log_joint.max(1, keepdims=True))
            sectors = joint.reshape(len(joint), self.classes, -1).sum(2)
            posterior[rows] = sectors / sectors.sum(1, keepdims=True)
        return posterior

    def bayes_accuracy(
        self, counts: Iterable[int], *, n: int = 2000, generator: np.random.Generator
    ) -> dict[int, float]:
        """Largest accuracy that any method can have when k sensors, chosen at random for each point, are present.

        It is the mean of the largest posterior probability over n points, which varies less from sample to sample than
        the share of right answers.

        Args:
            counts: Numbers k of sensors.
            n: Number of points.
            generator: Source of points and presence.

        Returns:
            {k: accuracy}.

        Example:
            >>> accuracy = RingWorld().bayes_accuracy([1, 12], n=400, generator=np.random.default_rng(0))
            >>> bool(0.2 < accuracy[1] < 0.4), bool(0.8 < accuracy[12] < 0.95)
            (True, True)
        """
        readings = self.sample(n, generator)[0]
        result = {}
        for k in counts:
            if not 0 <= k <= self.sensors:
                raise ConfigurationError("the count of sensors is out of range", expected=f"0 … {self.sensors}", got=k)
            observed = generator.random(readings.shape).argsort(1) < k
            result[k] = float(self.bayes_predictions(readings, observed).max(1).mean())
        return result

    @property
    def _top(self) -> int:
        return round(self.limit / self.step)

    @cached_property
    def _likelihoods(self) -> tuple[np.ndarray, np.ndarray]:
        """Log probability of every reading at every grid point, (M, readings, A · R), and the log prior (A · R,)."""
        from scipy.special import ndtr

        width = np.hypot(self.noise_std, self.step / np.sqrt(12))  # what one reading leaves open
        a = self.classes * max(8, int(np.ceil(2 * np.pi / self.classes / (0.5 * width))))
        angles = (np.arange(a) + 0.5) * 2 * np.pi / a  # midpoints: no grid point lies on a border
        r = 1 + 2 * max(8, int(np.ceil(4.5 * self.radius_std / (0.6 * width))))
        radii = 1 + self.radius_std * np.linspace(-4.5, 4.5, r)
        prior = np.tile(-0.5 * ((radii - 1) / self.radius_std) ** 2, a)
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, None] * radii[:, None]  # (A, R, 2)
        borders = (np.arange(2 * self._top) - self._top + 0.5) * self.step  # between neighbouring readings
        table = np.empty((self.sensors, 2 * self._top + 1, len(prior)), dtype=np.float32)
        for m, direction in enumerate(self.directions):
            centre = points.reshape(-1, 2) @ direction  # (A · R,)
            below = ndtr((borders[:, None] - centre) / self.noise_std)
            probability = np.diff(below, axis=0, prepend=0, append=1)
            table[m] = np.log(np.maximum(probability, 1e-30))
        return table, prior.astype(np.float32)


@options_checked
def ring_cohort(
    *,
    n_train: Size = 5000,
    n_valid: Size = 500,
    n_test: Size = 2000,
    radius: Reading = "variance",
    noise: Reading = "variance",
    seed: Count = 0,
) -> Cohort:
    """Twelve sensors that look at one hidden point on a ring; the class is one of sixteen sectors.

    The paper writes N(1.0, 0.04) for the radius and N(0, 0.0225) for the noise. Read as variances the standard
    deviations are 0.2 and 0.15 (0.0225 = 0.15²), which is the default; read as deviations they are 0.04 and 0.0225,
    and the noise then almost disappears behind the step of 0.05.

    Args:
        n_train: Points for training, those held back for validation among them.
        n_valid: Of these, points held back for validation; the paper mentions none.
        n_test: Points for testing.
        radius: Whether 0.04 is the radius's "variance" or "deviation".
        noise: Whether 0.0225 is the noise's "variance" or "deviation".
        seed: Seed of the points.

    Returns:
        A cohort in memory, all sensors present, the radius and the angle (radians) of each point in `extras`. Its
        distribution is `RingWorld`, with the same standard deviations.

    Raises:
        UnknownNameError: If a reading is not known.
        ConfigurationError: If a number of points is out of range.

    Source:
        :cite:`choi2025cepa`, section 3.1 and appendix C.4.

    Example:
        >>> cohort = ring_cohort(n_train=100, n_valid=10, n_test=50)
        >>> len(cohort.split("train")), len(cohort.schema.names), cohort.schema.task.n_outputs
        (90, 12, 16)
    """
    if not n_valid < n_train:
        raise ConfigurationError(
            "numbers of points are out of range",
            expected="n_valid < n_train",
            got=f"n_train={n_train}, n_valid={n_valid}",
        )
    world = RingWorld(0.2 if radius == "variance" else 0.04, 0.15 if noise == "variance" else 0.0225)
    readings, sectors, polar = world.sample(n_train + n_test, np.random.default_rng(seed))
    return Cohort.from_arrays(
        {name: readings[:, [m]].astype(np.float32) for m, name in enumerate(world.names)},
        task=Task("multiclass", name="sector", classes=tuple(range(world.classes))),
        target=sectors,
        splits=np.repeat(["train", "valid", "test"], [n_train - n_valid, n_valid, n_test]),
        extras={"radius": polar[:, 0], "angle": polar[:, 1]},
        name="ring",
        description="Twelve noisy scalar sensors of a hidden point on a ring; sixteen sectors",
    )
