"""Gaussian modalities whose Bayes-optimal prediction is known in closed form under every pattern of presence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from amodal.data.cohort import Cohort
from amodal.data.split import split_groups
from amodal.errors import ConfigurationError, ShapeError
from amodal.options import Count, Share, Size, Weight, at_least, options_checked
from amodal.schema import Task

__all__ = ["GaussianModalities", "gaussian_cohort"]


@dataclass(frozen=True, eq=False)
class GaussianModalities:
    r"""A known distribution of several modalities and a target.

    Classification: :math:`x \mid y = c \sim N(\mu_c, \Sigma)` with :math:`P(y = c) = \pi_c` and one covariance for all
    classes. Regression: :math:`x \sim N(\mu_1, \Sigma)` and :math:`y \mid x \sim N(w^\top x + b, \sigma^2)`. Here
    :math:`x` is all modalities side by side, and :math:`\Sigma` correlates them.

    Args:
        dims: Number of features of each modality, D in all.
        means: :math:`\mu`, of shape (C, D); C = 1 for regression.
        covariance: :math:`\Sigma`, of shape (D, D).
        priors: :math:`\pi`, of shape (C,); ``[1.]`` for regression.
        weights: :math:`w`, of shape (D,); None for classification.
        bias: :math:`b`.
        noise: :math:`\sigma`.

    Raises:
        ShapeError: If the sizes disagree.
        ConfigurationError: If the covariance is not positive definite, or the priors do not sum to 1.
    """

    dims: Mapping[str, int]
    means: np.ndarray
    covariance: np.ndarray
    priors: np.ndarray
    weights: np.ndarray | None = None
    bias: float = 0.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        width = sum(self.dims.values())
        shapes = {
            "means": (self.means, (len(self.priors), width)),
            "covariance": (self.covariance, (width, width)),
            "weights": (np.zeros(width) if self.weights is None else self.weights, (width,)),
        }
        for what, (array, shape) in shapes.items():
            if array.shape != shape:
                raise ShapeError(f"{what} of Gaussian modalities have another shape", expected=shape, got=array.shape)
        if not np.allclose(self.covariance, self.covariance.T) or np.linalg.eigvalsh(self.covariance).min() <= 0:
            raise ConfigurationError("the covariance must be symmetric and positive definite")
        if (self.priors < 0).any() or abs(self.priors.sum() - 1) > 1e-9:
            raise ConfigurationError("the priors must sum to 1", got=self.priors.tolist())

    @classmethod
    def random(
        cls,
        dims: int | Sequence[int] | Mapping[str, int] = (4, 4, 4),
        *,
        task: str = "multiclass",
        n_classes: int = 3,
        correlation: float = 0.5,
        separation: float = 2.0,
        noise: float = 0.5,
        generator: np.random.Generator,
    ) -> GaussianModalities:
        r"""Draws the parameters.

        Every feature has variance 1 (within a class). Features share two latent factors, across modalities:
        :math:`\Sigma = (1 - \rho) I + \rho A A^\top` with random unit rows in :math:`A`.

        Args:
            dims: Features of each modality; without names they are called a, b, c, …; a number: one modality.
            task: "binary", "multiclass" or "regression".
            n_classes: Number of classes C; two for binary.
            correlation: :math:`\rho` in [0, 1).
            separation: Average distance of a class mean from the centre, over all features.
            noise: Standard deviation of a regression target around :math:`w^\top x`, whose own is about 1.
            generator: Source of the parameters.
        """
        if not 0 <= correlation < 1:
            raise ConfigurationError("correlation is out of range", expected="0 <= correlation < 1", got=correlation)
        if task not in ("binary", "multiclass", "regression"):
            raise ConfigurationError("there is no such synthetic task", expected="binary, multiclass or regression",
                                     got=repr(task))  # fmt: skip
        named = _named(dims)
        width = sum(named.values())
        loadings = generator.normal(size=(width, 2))
        loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
        covariance = (1 - correlation) * np.eye(width) + correlation * loadings @ loadings.T
        if task == "regression":
            weights = generator.normal(size=width)
            weights /= np.sqrt(weights @ covariance @ weights)
            return cls(named, np.zeros((1, width)), covariance, np.ones(1), weights, 0.0, noise)
        n_classes = 2 if task == "binary" else n_classes
        means = generator.normal(size=(n_classes, width)) * separation / np.sqrt(width)
        return cls(named, means, covariance, np.full(n_classes, 1 / n_classes))

    @property
    def task(self) -> Task:
        """The task of its cohorts; classes are called c0, c1, …"""
        if self.weights is not None:
            return Task("regression", name="y")
        names = tuple(f"c{position}" for position in range(len(self.priors)))
        return Task("binary" if len(names) == 2 else "multiclass", name="y", classes=names)

    def columns(self, name: str) -> slice:
        """Columns of a modality among the D features."""
        start = 0
        for other, width in self.dims.items():
            if other == name:
                return slice(start, start + width)
            start += width
        raise KeyError(name)

    def sample(self, n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws n samples: features (n, D) float64, and classes (n,) int64 or values (n,) float64."""
        classes = generator.choice(len(self.priors), n, p=self.priors)
        noise = generator.normal(size=(n, self.means.shape[1])) @ np.linalg.cholesky(self.covariance).T
        features = self.means[classes] + noise
        if self.weights is None:
            return features, classes.astype(np.int64)
        return features, features @ self.weights + self.bias + self.noise * generator.normal(size=n)

    def cohort(self, n: int, *, generator: np.random.Generator, fractions: Mapping[str, float] | None = None) -> Cohort:
        """Draws a cohort of n samples with splits (default 0.6 train, 0.1 valid, 0.3 test), all modalities present."""
        features, target = self.sample(n, generator)
        fractions = {"train": 0.6, "valid": 0.1, "test": 0.3} if fractions is None else fractions
        splits = split_groups(np.arange(n), target, fractions, seed=int(generator.integers(2**31)))
        return Cohort.from_arrays(
            {name: features[:, self.columns(name)].astype(np.float32) for name in self.dims},
            task=self.task,
            target=target,
            splits=splits,
            name="synthetic",
            description="Gaussian modalities with a known optimal prediction",
        )

    def bayes_predictions(
        self, values: Cohort | Mapping[str, np.ndarray] | np.ndarray, observed: np.ndarray | None = None
    ) -> np.ndarray:
        r"""The optimal prediction from what is present.

        Classification: :math:`P(y = c \mid x_o) \propto \pi_c N(x_o; \mu_{c,o}, \Sigma_{oo})`. Regression:
        :math:`E[y \mid x_o] = w_o^\top x_o + w_a^\top E[x_a \mid x_o] + b` with
        :math:`E[x_a \mid x_o] = \mu_a + \Sigma_{ao} \Sigma_{oo}^{-1} (x_o - \mu_o)`.

        Args:
            values: A cohort (also with measured cells missing), {name: (N, D_m)} or (N, D).
            observed: Presence, bool (N, M); default: the cohort's, or everything.

        Returns:
            Probabilities (N, C), or means (N,) for regression.
        """
        features, known = self._features(values, observed)
        columns = len(self.priors) if self.weights is None else 1
        result = np.zeros((len(features), columns))
        for pattern, rows in _by_pattern(known):
            result[rows] = self._predict_pattern(features[rows], pattern)
        return result if self.weights is None else result[:, 0]

    def completions(
        self,
        values: Cohort | Mapping[str, np.ndarray] | np.ndarray,
        observed: np.ndarray | None = None,
        *,
        draws: int,
        generator: np.random.Generator,
    ) -> np.ndarray:
        """Draws what is absent from its true distribution given what is present.

        Args:
            values: As for `bayes_predictions`.
            observed: As for `bayes_predictions`.
            draws: Number of draws S.
            generator: Source of the draws.

        Returns:
            Complete features, float64, of shape (S, N, D).
        """
        features, known = self._features(values, observed)
        drawn = np.repeat(features[None], draws, axis=0)  # (S, N, D)
        for pattern, rows in _by_pattern(known):
            gain, rest = _conditional(self.covariance, pattern)
            posterior = self._class_posterior(features[rows], pattern)  # (n, C)
            cumulative = posterior.cumsum(1)
            uniform = generator.random((draws, len(rows), 1)) * cumulative[:, -1:]
            classes = (uniform > cumulative).sum(-1)  # (S, n)
            centres = self.means[classes]  # (S, n, D)
            expected = centres[..., ~pattern] + (features[rows][:, pattern] - centres[..., pattern]) @ gain.T
            noise = generator.normal(size=expected.shape) @ np.linalg.cholesky(rest).T if rest.size else 0.0
            drawn[np.ix_(np.arange(draws), rows, np.flatnonzero(~pattern))] = expected + noise
        return drawn

    def _features(self, values, observed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """All features (N, D) with NaN where unknown, and which are known (N, D)."""
        if isinstance(values, Cohort):
            batch = values.batch(np.arange(len(values)))
            observed = values.observed if observed is None else values.observed & observed
            parts = []
            for name in self.dims:
                part = batch.values[name].double().numpy().copy()
                if name in batch.measured:
                    part[~batch.measured[name].numpy()] = np.nan
                parts.append(part)
            values = np.concatenate(parts, axis=1)
        elif isinstance(values, Mapping):
            values = np.concatenate([np.asarray(values[name], dtype=float) for name in self.dims], axis=1)
        features = np.array(values, dtype=float)
        if features.ndim != 2 or features.shape[1] != sum(self.dims.values()):
            raise ShapeError(
                "values have another shape", expected=f"(N, {sum(self.dims.values())})", got=features.shape
            )
        known = ~np.isnan(features)
        if observed is not None:
            observed = np.asarray(observed)
            if observed.dtype != bool or observed.shape != (len(features), len(self.dims)):
                raise ShapeError("observed must be bool (N, M)", expected=(len(features), len(self.dims)),
                                 got=f"{observed.dtype} {observed.shape}")  # fmt: skip
            known &= np.repeat(observed, list(self.dims.values()), axis=1)
        return np.where(known, features, np.nan), known

    def _class_posterior(self, features: np.ndarray, pattern: np.ndarray) -> np.ndarray:
        """P(y = c | x_o), of shape (n, C)."""
        log_joint = np.log(self.priors)[None]
        if pattern.any():
            factor = np.linalg.cholesky(self.covariance[np.ix_(pattern, pattern)])
            away = features[:, None, pattern] - self.means[None, :, pattern]  # (n, C, O)
            white = np.linalg.solve(factor, away.reshape(-1, pattern.sum()).T).T.reshape(away.shape)
            log_joint = log_joint - 0.5 * (white**2).sum(-1)
        weight = np.exp(log_joint - log_joint.max(1, keepdims=True))
        return np.broadcast_to(weight / weight.sum(1, keepdims=True), (len(features), len(self.priors)))

    def _predict_pattern(self, features: np.ndarray, pattern: np.ndarray) -> np.ndarray:
        if self.weights is None:
            return self._class_posterior(features, pattern)
        gain, _ = _conditional(self.covariance, pattern)
        full = np.broadcast_to(self.means[0], features.shape).copy()
        full[:, pattern] = features[:, pattern]
        full[:, ~pattern] += (features[:, pattern] - self.means[0, pattern]) @ gain.T
        return (full @ self.weights + self.bias)[:, None]


@options_checked
def gaussian_cohort(
    *,
    n: Size = 2000,
    dims: tuple[Size, ...] | Mapping[str, Size] = (4, 4, 4),
    task: Literal["binary", "multiclass", "regression"] = "multiclass",
    n_classes: Annotated[int, at_least(2)] = 3,
    correlation: Share = 0.5,
    separation: Weight = 2.0,
    noise: Weight = 0.5,
    seed: Count = 0,
    fractions: Mapping[str, Weight] | None = None,
) -> Cohort:
    """A cohort of `GaussianModalities.random` with its parameters and samples from one seed.

    To compare with the optimal prediction, draw the distribution and the cohort yourself:

    Example:
        >>> generator = np.random.default_rng(0)
        >>> world = GaussianModalities.random((2, 2), task="binary", generator=generator)
        >>> cohort = world.cohort(1000, generator=generator)
        >>> optimal = world.bayes_predictions(cohort.split("test"))
        >>> optimal.shape
        (300, 2)
    """
    generator = np.random.default_rng(seed)
    world = GaussianModalities.random(
        dims,
        task=task,
        n_classes=n_classes,
        correlation=correlation,
        separation=separation,
        noise=noise,
        generator=generator,
    )
    return world.cohort(n, generator=generator, fractions=fractions)


def _named(dims: int | Sequence[int] | Mapping[str, int]) -> dict[str, int]:
    if isinstance(dims, Mapping):
        return dict(dims)
    sizes = [dims] if isinstance(dims, int) else list(dims)
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = list(letters) if len(sizes) <= len(letters) else [f"m{position}" for position in range(len(sizes))]
    return dict(zip(names, sizes))


def _by_pattern(known: np.ndarray):
    """Distinct rows of `known` (N, D) with the positions that have each."""
    patterns, which = np.unique(known, axis=0, return_inverse=True)
    which = which.reshape(-1)
    return [(pattern, np.flatnonzero(which == code)) for code, pattern in enumerate(patterns)]


def _conditional(covariance: np.ndarray, pattern: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Gain :math:`\Sigma_{ao} \Sigma_{oo}^{-1}` and covariance of the absent given the present."""
    across = covariance[np.ix_(~pattern, pattern)]
    gain = np.linalg.solve(covariance[np.ix_(pattern, pattern)], across.T).T if pattern.any() else across
    return gain, covariance[np.ix_(~pattern, ~pattern)] - gain @ across.T
