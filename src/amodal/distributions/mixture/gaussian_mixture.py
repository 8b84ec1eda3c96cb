r"""Gaussian mixtures with diagonal covariances: the margins of a joint law.

.. math::
    f(z) = \sum_{k=1}^K \pi_k\, N(z; \mu_k, \operatorname{diag} \sigma_k^2)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from amodal.distributions.log_space import log1mexp
from amodal.distributions.mixture.fit import expectation_maximisation, scattered_start
from amodal.distributions.mixture.margins import mixture_margins
from amodal.distributions.mixture.quantile import mixture_quantile
from amodal.distributions.normal import normal_log_tails
from amodal.errors import ConfigurationError, DataError, ShapeError

__all__ = ["GaussianMixture"]

_LOG_TWO_PI = math.log(2 * math.pi)


class GaussianMixture(nn.Module):
    r"""A Gaussian mixture in D dimensions, or several side by side.

    The parameters are ``raw_weights`` (softmax), ``means`` and ``raw_scales`` (softplus above a floor, since the
    likelihood is unbounded as a scale goes to zero).

    With a ``batch_shape`` there are that many mixtures, and points have the shape (\*batch_shape, …, D): one mixture
    for each of M modalities takes (M, B, D).

    Args:
        components: Number of components K, at least 1. They start apart, at standard normal draws; where data are at
            hand, :meth:`start_at` is better.
        dim: Dimension D.
        batch_shape: Shape of independent mixtures.
        scale_floor: Least :math:`\sigma`.
        learnable: Whether the parameters learn by gradients; otherwise they are buffers, for `RunningFit`.
        generator: Source of randomness for the starting means.

    Raises:
        ConfigurationError: If a size is not positive, or the floor negative.
    """

    raw_weights: Tensor
    means: Tensor
    raw_scales: Tensor

    def __init__(
        self,
        components: int,
        dim: int,
        *,
        batch_shape: Sequence[int] = (),
        scale_floor: float = 1e-3,
        learnable: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        for name, value in (("components", components), ("dim", dim)):
            if not isinstance(value, int) or value < 1:
                raise ConfigurationError(
                    f"{name} of a mixture is too small", expected=f"{name} >= 1", got=f"{name} = {value!r}"
                )
        if not scale_floor >= 0:
            raise ConfigurationError("scale_floor is negative", expected="scale_floor >= 0", got=scale_floor)
        self.components, self.dim, self.scale_floor = components, dim, float(scale_floor)
        self.batch_shape = torch.Size(batch_shape)
        shape = (*self.batch_shape, components)
        self.learnable = learnable
        start = {
            "raw_weights": torch.zeros(shape),
            "means": torch.randn(*shape, dim, generator=generator),
            "raw_scales": torch.full((*shape, dim), math.log(math.expm1(1.0))),
        }
        for name, value in start.items():
            if learnable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    @classmethod
    def from_parameters(cls, weights: Any, means: Any, scales: Any, *, scale_floor: float = 1e-3) -> Self:
        """A mixture with given parameters.

        Args:
            weights: Shape (…, K), non-negative, summing to one.
            means: Shape (…, K, D).
            scales: Standard deviations, broadcastable to the means, above ``scale_floor``.
            scale_floor: Least scale that learning may reach.

        Raises:
            ShapeError: If shapes disagree.
            ConfigurationError: If weights or scales are out of range.

        Example:
            >>> mixture = GaussianMixture.from_parameters([0.5, 0.5], [[-3.0], [3.0]], [[1.0], [1.0]])
            >>> mixture.marginal_logs(torch.zeros(1, 1))[1].exp().item()
            0.5
        """
        weights, means, scales = (torch.as_tensor(x) for x in (weights, means, scales))
        means = means if means.is_floating_point() else means.float()
        if means.ndim < 2 or weights.shape != means.shape[:-1]:
            raise ShapeError(
                "weights and means of a mixture disagree",
                expected="(…, K) and (…, K, D)",
                got=f"{tuple(weights.shape)} and {tuple(means.shape)}",
            )
        one = torch.ones((), dtype=torch.float64)
        if not bool((weights >= 0).all()) or not torch.allclose(weights.sum(-1).double(), one, atol=1e-5):
            raise ConfigurationError(
                "weights of a mixture are not probabilities",
                expected="non-negative, summing to one",
                got=weights.tolist(),
            )
        if not bool((scales > scale_floor).all()):
            raise ConfigurationError(
                "a scale of a mixture is not above the floor",
                expected=f"scales > {scale_floor:g}",
                got=scales.min().item(),
                hint="Pass a smaller scale_floor, or standardise the data.",
            )
        mixture = cls(*means.shape[-2:], batch_shape=means.shape[:-2], scale_floor=scale_floor).to(means)
        mixture.assign(weights.to(means), means, scales.to(means))
        return mixture

    @torch.no_grad()
    def assign(self, weights: Tensor, means: Tensor, scales: Tensor) -> None:
        """Sets weights (…, K), means (…, K, D) and scales (…, K, D), the last above the floor."""
        excess = (scales - self.scale_floor).expand(self.means.shape)
        self.raw_weights.copy_(weights.clamp_min(torch.finfo(means.dtype).tiny).log())
        self.means.copy_(means)
        self.raw_scales.copy_(excess + log1mexp(excess))

    # ---------------------------------------------------------------- parameters

    @property
    def log_weights(self) -> Tensor:
        r""":math:`\log\pi`, shape (…, K)."""
        return torch.log_softmax(self.raw_weights, -1)

    @property
    def weights(self) -> Tensor:
        r""":math:`\pi`, shape (…, K)."""
        return torch.softmax(self.raw_weights, -1)

    @property
    def scales(self) -> Tensor:
        r"""Standard deviations :math:`\sigma`, shape (…, K, D)."""
        return nn.functional.softplus(self.raw_scales) + self.scale_floor

    def extra_repr(self) -> str:
        """The settings that the printed module shows."""
        batch = f", batch_shape={tuple(self.batch_shape)}" if self.batch_shape else ""
        return f"components={self.components}, dim={self.dim}{batch}"

    def _spread(self, parameter: Tensor, z: Tensor) -> Tensor:
        """Axes of length one between the batch shape of a parameter and its own axes, for the rows of z."""
        if z.ndim == 0 or z.shape[-1] != self.dim or z.shape[: len(self.batch_shape)] != self.batch_shape:
            raise ShapeError(
                "points do not fit the mixture",
                expected=f"shape ({', '.join(str(s) for s in (*self.batch_shape, '…', self.dim))})",
                got=f"shape {tuple(z.shape)}",
            )
        batch = len(self.batch_shape)
        rows = z.ndim - 1 - batch if batch else 0
        return parameter.reshape(*self.batch_shape, *[1] * rows, *parameter.shape[batch:])

    def _standard(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`t_k = (z - \mu_k)/\sigma_k`, shape (…, K, D), and :math:`\sigma`."""
        scales = self._spread(self.scales, z)
        return (z.unsqueeze(-2) - self._spread(self.means, z)) / scales, scales

    # ---------------------------------------------------------------- densities and distribution functions

    def component_log_density(self, z: Tensor) -> Tensor:
        r""":math:`\log N(z; \mu_k, \operatorname{diag}\sigma_k^2)` for each component: (…, D) to (…, K)."""
        t, scales = self._standard(z)
        return -0.5 * (t * t).sum(-1) - torch.log(scales).sum(-1) - 0.5 * self.dim * _LOG_TWO_PI

    def log_density(self, z: Tensor) -> Tensor:
        r""":math:`\log f(z)`.

        Args:
            z: Points, shape (…, D), or (\*batch_shape, …, D).

        Returns:
            Shape (…,).

        Raises:
            ShapeError: If ``z`` does not end in D.
        """
        return torch.logsumexp(self.component_log_density(z) + self._spread(self.log_weights, z), -1)

    def component_log_cdf(self, z: Tensor) -> Tensor:
        r""":math:`\sum_j \log\Phi(t_{kj})` for each component: (…, D) to (…, K).

        For D = 256 it is about -1000: never form its exponential.
        """
        return normal_log_tails(self._standard(z)[0])[0].sum(-1)

    def joint_log_cdf(self, z: Tensor) -> Tensor:
        r""":math:`\log\sum_k \pi_k \prod_j \Phi(t_{kj})`, shape (…,)."""
        return torch.logsumexp(self.component_log_cdf(z) + self._spread(self.log_weights, z), -1)

    # ---------------------------------------------------------------- one coordinate, or one direction, at a time

    def _margins(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._spread(self.log_weights, z), self._spread(self.means, z), self._spread(self.scales, z)

    def marginal_logs(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Of each coordinate: :math:`\log f_j`, :math:`\log F_j` and :math:`\log(1 - F_j)`.

        Args:
            z: Points, shape (…, D).

        Returns:
            Three tensors of the shape of ``z``.
        """
        return mixture_margins(z, *self._margins(z))

    def marginal_quantile(self, u: Tensor) -> Tensor:
        r""":math:`F_j^{-1}(u_j)`, with gradients to ``u`` and to all parameters (implicit).

        Args:
            u: Probabilities strictly inside (0, 1), shape (…, D).

        Raises:
            DataError: If an entry is not inside (0, 1).
        """
        if not bool(((u > 0) & (u < 1)).all()):
            raise DataError("u has an entry that is not inside (0, 1)", expected="0 < u < 1")
        return mixture_quantile(torch.log(u), torch.log1p(-u), *self._margins(u))

    def projected(self, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""The law of :math:`w^\top z`, a mixture in one dimension.

        .. math::
            w^\top z \sim \sum_k \pi_k\, N\bigl(w^\top\mu_k,\; \textstyle\sum_j w_j^2 \sigma_{kj}^2\bigr)

        Args:
            direction: w, shape (…, D).

        Returns:
            Log weights (…, K), means (…, K, 1) and scales (…, K, 1), the arguments of
            :func:`~amodal.distributions.mixture.margins.mixture_margins` and ``mixture_quantile``.
        """
        w = direction.unsqueeze(-2)  # (…, 1, D)
        variance = ((w * self.scales) ** 2).sum(-1, keepdim=True)
        return self.log_weights, (w * self.means).sum(-1, keepdim=True), variance.sqrt()

    # ---------------------------------------------------------------- draws and fits

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws of shape (\\*batch_shape, n, D), without gradients."""
        choice = torch.multinomial(self.weights.reshape(-1, self.components), n, replacement=True, generator=generator)
        index = choice.reshape(*self.batch_shape, n, 1).expand(*self.batch_shape, n, self.dim)
        mean, scale = (part.gather(-2, index) for part in (self.means, self.scales))
        return mean + scale * torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)

    @torch.no_grad()
    def start_at(self, z: Tensor, *, generator: torch.Generator | None = None) -> Self:
        """The mixture itself, its components at well-separated points of data, their scales at the data's spread.

        Args:
            z: Points, shape (N, D), or (\\*batch_shape, N, D).
            generator: Source of randomness.
        """
        starts = [scattered_start(part, self.components, generator) for part in z.reshape(-1, *z.shape[-2:])]
        means = torch.stack([m for m, _ in starts]).reshape(self.means.shape)
        scales = torch.stack([s for _, s in starts]).reshape(self.means.shape)
        uniform = torch.full_like(self.raw_weights, 1 / self.components)
        self.assign(uniform, means.to(self.means), scales.clamp_min(2 * self.scale_floor).to(self.means))
        return self

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        z: Tensor,
        components: int,
        *,
        observed: Tensor | None = None,
        scale_floor: float = 1e-3,
        iterations: int = 200,
        tolerance: float = 1e-7,
        generator: torch.Generator | None = None,
    ) -> Self:
        """A mixture, or several side by side, by expectation maximisation from components that start apart.

        Args:
            z: Points, shape (N, D); or (M, N, D) for M mixtures, each of its own points.
            components: Number of components K.
            observed: Which points count, bool, of shape (N,) or (M, N); all if not given.
            scale_floor: Least scale.
            iterations: Most iterations.
            tolerance: Stop when the mean log likelihood of a coordinate rises by less.
            generator: Source of randomness for the start.

        Raises:
            ShapeError: If ``z`` has another number of axes.
            DataError: If there are fewer points than components, or a point is not finite.

        Example:
            >>> generator = torch.Generator().manual_seed(0)
            >>> z = torch.randn(400, 1, generator=generator) + torch.tensor([[-3.0], [3.0]]).repeat(200, 1)
            >>> sorted(round(m) for m in GaussianMixture.fit(z, 2, generator=generator).means.flatten().tolist())
            [-3, 3]
        """
        if z.ndim not in (2, 3) or not z.is_floating_point():
            raise ShapeError(
                "a mixture is fitted to points", expected="(N, D) or (M, N, D), floating point", got=tuple(z.shape)
            )
        present = torch.ones(z.shape[:-1], dtype=torch.bool, device=z.device) if observed is None else observed
        fits = []
        for part, seen in zip(z.reshape(-1, *z.shape[-2:]), present.reshape(-1, z.shape[-2]), strict=True):
            points = part[seen].double()
            if len(points) < components or not bool(torch.isfinite(points).all()):
                raise DataError(
                    "a mixture cannot be fitted to these points",
                    expected=f"at least {components} points, all finite",
                    got=f"{len(points)} points, {int((~torch.isfinite(points)).any(1).sum())} of them not finite",
                )
            everything = torch.ones(1, len(points), dtype=torch.bool, device=z.device)
            rise = tolerance * z.shape[-1]
            fits.append(
                expectation_maximisation(
                    points.unsqueeze(0), everything, components, generator, steps=iterations, tolerance=rise
                )
            )
        weights = torch.stack([w for w, _, _ in fits]).reshape(*z.shape[:-2], components).to(z)
        means, scales = (
            torch.cat([fit[i] for fit in fits]).reshape(*z.shape[:-2], components, z.shape[-1]).to(z) for i in (1, 2)
        )
        return cls.from_parameters(weights, means, scales.clamp_min(1.001 * scale_floor), scale_floor=scale_floor)
