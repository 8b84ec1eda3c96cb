r"""Gaussian mixtures with diagonal or low-rank covariances: margins of a copula, and what completions are drawn from.

.. math::
    f(z) = \sum_{k=1}^K \pi_k\, N(z; \mu_k, \Sigma_k), \qquad
    \Sigma_k = \operatorname{diag}(\sigma_k^2) + W_k W_k^\top
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from amodal.distributions.log_space import log1mexp
from amodal.distributions.mixture.kendall_transform import kendall_logs
from amodal.distributions.mixture.margins import component_logs, mixture_margins
from amodal.distributions.mixture.quantile import mixture_quantile
from amodal.distributions.mixture.sampling import attach_implicitly, choose_relaxed
from amodal.distributions.normal import normal_log_tails
from amodal.errors import ConfigurationError, DataError, ShapeError

__all__ = ["GaussianMixture"]

_LOG_TWO_PI = math.log(2 * math.pi)


class GaussianMixture(nn.Module):
    r"""A Gaussian mixture in D dimensions, or several side by side.

    All parameters learn: ``raw_weights`` (softmax), ``means``, ``raw_scales`` (softplus above a floor, since the
    likelihood is unbounded as a scale goes to zero) and, with ``rank`` > 0, ``factors``.

    With a ``batch_shape`` there are that many mixtures, and points have the shape (\*batch_shape, …, D): one mixture
    for each of M modalities takes (M, B, D).

    Args:
        components: Number of components K, at least 1. They start apart, at standard normal draws; where data are at
            hand, :meth:`start_at` is better.
        dim: Dimension D.
        rank: Number of columns of :math:`W_k`; 0 for diagonal covariances.
        batch_shape: Shape of independent mixtures.
        scale_floor: Least :math:`\sigma`.
        generator: Source of randomness for the starting means.

    Raises:
        ConfigurationError: If a size is not positive, or the floor negative.
    """

    def __init__(
        self,
        components: int,
        dim: int,
        *,
        rank: int = 0,
        batch_shape: Sequence[int] = (),
        scale_floor: float = 1e-3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        for name, value, least in (("components", components, 1), ("dim", dim, 1), ("rank", rank, 0)):
            if not isinstance(value, int) or value < least:
                raise ConfigurationError(
                    f"{name} of a mixture is too small", expected=f"{name} >= {least}", got=f"{name} = {value!r}"
                )
        if not scale_floor >= 0:
            raise ConfigurationError("scale_floor is negative", expected="scale_floor >= 0", got=scale_floor)
        self.components, self.dim, self.rank, self.scale_floor = components, dim, rank, float(scale_floor)
        self.batch_shape = torch.Size(batch_shape)
        shape = (*self.batch_shape, components)
        self.raw_weights = nn.Parameter(torch.zeros(shape))
        self.means = nn.Parameter(torch.randn(*shape, dim, generator=generator))
        self.raw_scales = nn.Parameter(torch.full((*shape, dim), math.log(math.expm1(1.0))))
        if rank:
            self.factors = nn.Parameter(0.1 * torch.randn(*shape, dim, rank, generator=generator))

    @classmethod
    def from_parameters(
        cls, weights: Any, means: Any, scales: Any, factors: Any = None, *, scale_floor: float = 1e-3
    ) -> Self:
        """A mixture with given parameters.

        Args:
            weights: Shape (…, K), non-negative, summing to one.
            means: Shape (…, K, D).
            scales: Standard deviations of the diagonal part, broadcastable to the means, above ``scale_floor``.
            factors: Shape (…, K, D, R), or None.
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
        if not bool((weights >= 0).all()) or not torch.allclose(
            weights.sum(-1).double(), torch.ones(()).double(), atol=1e-5
        ):
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
        rank = 0 if factors is None else torch.as_tensor(factors).shape[-1]
        mixture = cls(*means.shape[-2:], rank=rank, batch_shape=means.shape[:-2], scale_floor=scale_floor).to(means)
        mixture._assign(weights.to(means), means, scales.to(means), factors)
        return mixture

    @torch.no_grad()
    def _assign(self, weights: Tensor, means: Tensor, scales: Tensor, factors: Any = None) -> None:
        excess = (scales - self.scale_floor).expand(self.means.shape)
        self.raw_weights.copy_(weights.clamp_min(torch.finfo(means.dtype).tiny).log())
        self.means.copy_(means)
        self.raw_scales.copy_(excess + log1mexp(excess))
        if self.rank:
            self.factors.copy_(torch.as_tensor(factors).to(means))

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
        r"""Standard deviations :math:`\sigma` of the diagonal part, shape (…, K, D)."""
        return nn.functional.softplus(self.raw_scales) + self.scale_floor

    @property
    def marginal_scales(self) -> Tensor:
        """Standard deviations of the coordinates within each component, shape (…, K, D)."""
        scales = self.scales
        return torch.sqrt(scales**2 + (self.factors**2).sum(-1)) if self.rank else scales

    def extra_repr(self) -> str:
        """What the printed module shows."""
        batch = f", batch_shape={tuple(self.batch_shape)}" if self.batch_shape else ""
        return f"components={self.components}, dim={self.dim}, rank={self.rank}{batch}"

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

    def _points(self, z: Any) -> Tensor:
        z = torch.as_tensor(z)
        return z.float() if z.dtype in (torch.float16, torch.bfloat16) else z

    # ---------------------------------------------------------------- densities

    def component_log_density(self, z: Any) -> Tensor:
        r""":math:`\log N(z; \mu_k, \Sigma_k)` for each component.

        Args:
            z: Points, shape (…, D).

        Returns:
            Shape (…, K).
        """
        z = self._points(z)
        scales = self._spread(self.scales, z)
        t = (z.unsqueeze(-2) - self._spread(self.means, z)) / scales  # (…, K, D)
        quadratic = (t * t).sum(-1)
        log_det = torch.log(scales).sum(-1)
        if self.rank:
            scaled = self._spread(self.factors, z) / scales.unsqueeze(-1)  # (…, K, D, R)
            unit = torch.eye(self.rank, dtype=z.dtype, device=z.device)
            cholesky = torch.linalg.cholesky(unit + scaled.mT @ scaled)
            inner = (scaled.mT @ t.unsqueeze(-1)).squeeze(-1)  # (…, K, R)
            cholesky = cholesky.expand(*inner.shape, self.rank)
            solved = torch.linalg.solve_triangular(cholesky, inner.unsqueeze(-1), upper=False).squeeze(-1)
            quadratic = quadratic - (solved * solved).sum(-1)
            log_det = log_det + cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * quadratic - log_det - 0.5 * self.dim * _LOG_TWO_PI

    def log_density(self, z: Any) -> Tensor:
        r""":math:`\log f(z)`.

        Args:
            z: Points, shape (…, D), or (\*batch_shape, …, D).

        Returns:
            Shape (…,).

        Raises:
            ShapeError: If ``z`` does not end in D.
        """
        z = self._points(z)
        return torch.logsumexp(self.component_log_density(z) + self._spread(self.log_weights, z), -1)

    def responsibilities(self, z: Any) -> Tensor:
        """Posterior probability of each component, shape (…, K)."""
        z = self._points(z)
        return torch.softmax(self.component_log_density(z) + self._spread(self.log_weights, z), -1)

    # ---------------------------------------------------------------- one coordinate at a time

    def _marginal_parameters(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(self._spread(p, z) for p in (self.log_weights, self.means, self.marginal_scales))  # type: ignore[return-value]

    def marginal_logs(self, z: Any) -> tuple[Tensor, Tensor, Tensor]:
        r"""Of each coordinate: :math:`\log f_j`, :math:`\log F_j` and :math:`\log(1 - F_j)`.

        Args:
            z: Points, shape (…, D).

        Returns:
            Three tensors of the shape of ``z``.
        """
        z = self._points(z)
        return mixture_margins(z, *self._marginal_parameters(z))

    def marginal_log_density(self, z: Any) -> Tensor:
        r""":math:`\log f_j(z_j)`, the shape of ``z``."""
        return self.marginal_logs(z)[0]

    def marginal_cdf(self, z: Any) -> Tensor:
        r""":math:`F_j(z_j)`, the shape of ``z``."""
        return self.marginal_logs(z)[1].exp()

    def marginal_quantile(self, u: Any) -> Tensor:
        r""":math:`F_j^{-1}(u_j)`, with gradients to ``u`` and to all parameters (implicit).

        Args:
            u: Probabilities strictly inside (0, 1), shape (…, D).

        Raises:
            DataError: If an entry is not inside (0, 1).
        """
        u = self._points(u)
        if not bool(((u > 0) & (u < 1)).all()):
            raise DataError("u has an entry that is not inside (0, 1)", expected="0 < u < 1")
        return self.marginal_quantile_from_logs(torch.log(u), torch.log1p(-u))

    def marginal_quantile_from_logs(self, log_u: Tensor, log_1mu: Tensor) -> Tensor:
        r"""Quantiles from :math:`\log u` and :math:`\log(1-u)`, precise in both tails; the shape of ``log_u``."""
        return mixture_quantile(log_u, log_1mu, *self._marginal_parameters(log_u))

    def projected(self, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""The law of :math:`w^\top z`, a mixture in one dimension.

        .. math::
            w^\top z \sim \sum_k \pi_k\, N(w^\top\mu_k,\; w^\top\Sigma_k w)

        Args:
            direction: w, shape (…, D).

        Returns:
            Log weights (…, K), means (…, K, 1) and scales (…, K, 1), the arguments of
            :func:`~amodal.distributions.mixture.margins.mixture_margins` and ``mixture_quantile``.

        Raises:
            ShapeError: If w does not end in D.
        """
        if direction.shape[-1] != self.dim:
            raise ShapeError("direction does not fit", expected=f"(…, {self.dim})", got=tuple(direction.shape))
        w = direction.unsqueeze(-2)  # (…, 1, D)
        variance = ((w * self.scales) ** 2).sum(-1)
        if self.rank:
            variance = variance + (torch.einsum("...od,...kdr->...kr", w, self.factors) ** 2).sum(-1)
        return self.log_weights, (w * self.means).sum(-1, keepdim=True), variance.sqrt().unsqueeze(-1)

    # ---------------------------------------------------------------- joint distribution function

    def component_log_cdf(self, z: Any) -> Tensor:
        r""":math:`\sum_j \log\Phi\bigl((z_j - \mu_{kj})/\sigma_{kj}\bigr)` for each component, in log space.

        Args:
            z: Points, shape (…, D).

        Returns:
            Shape (…, K). For D = 256 it is about -1000: never form its exponential.

        Raises:
            ConfigurationError: For low-rank covariances, whose orthant probabilities have no closed form.
        """
        self._require_diagonal()
        z = self._points(z)
        t = (z.unsqueeze(-2) - self._spread(self.means, z)) / self._spread(self.scales, z)
        return normal_log_tails(t)[0].sum(-1)

    def _require_diagonal(self) -> None:
        if self.rank:
            raise ConfigurationError(
                "the joint distribution function has no closed form with factors",
                expected="rank = 0",
                got=f"rank = {self.rank}",
                hint="Use marginal_logs, or a diagonal mixture.",
            )

    def kendall_logs(self, z: Any) -> tuple[Tensor, Tensor, Tensor]:
        r"""Of each component, in one pass: log density, and both logarithms of the Kendall transform u.

        :math:`u_k` is uniform on (0, 1) if z comes from component k, as the joint distribution function is not; see
        ``kendall_transform``.

        Args:
            z: Points, shape (…, D).

        Returns:
            :math:`\log N(z; \mu_k, \Sigma_k)`, :math:`\log u_k` and :math:`\log(1 - u_k)`, each of shape (…, K);
            differentiable once.

        Raises:
            ConfigurationError: For low-rank covariances.
        """
        self._require_diagonal()
        z = self._points(z)
        means, scales = self._spread(self.means, z), self._spread(self.scales, z)
        density, lower, upper = component_logs(z, means, scales, lambda log_cdf: kendall_logs(log_cdf, self.dim))
        return density, lower, upper

    def joint_log_cdf(self, z: Any) -> Tensor:
        r""":math:`\log\sum_k \pi_k \prod_j \Phi\bigl((z_j - \mu_{kj})/\sigma_{kj}\bigr)`, shape (…,)."""
        z = self._points(z)
        return torch.logsumexp(self.component_log_cdf(z) + self._spread(self.log_weights, z), -1)

    # ---------------------------------------------------------------- sampling

    def rsample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        gradient: Literal["implicit", "relaxed", "none"] = "implicit",
        temperature: float = 0.5,
    ) -> Tensor:
        """Draw from the mixture, with gradients through the draws.

        Args:
            n: Number of draws.
            generator: Source of randomness, on the device of the parameters.
            gradient: "implicit": unbiased gradients to means, scales, factors *and weights*, by implicit
                differentiation of the conditional distribution functions of the coordinates. "relaxed": the component
                is a straight-through Gumbel-softmax choice, biased but with memory linear in D. "none": detached.
            temperature: Of the relaxation.

        Returns:
            Shape (\\*batch_shape, n, D). The values do not depend on ``gradient``.

        Raises:
            ConfigurationError: For another ``gradient``.

        Source:
            Figurnov, Mohamed & Mnih, *Implicit reparameterization gradients*, 2018; Jang, Gu & Poole, *Categorical
            reparameterization with Gumbel-softmax*, 2017.
        """
        if gradient not in ("implicit", "relaxed", "none"):
            raise ConfigurationError(
                "unknown gradient of a draw", expected="'implicit', 'relaxed' or 'none'", got=repr(gradient)
            )
        like = self.means
        shape = (*self.batch_shape, n)
        options = {"dtype": like.dtype, "device": like.device, "generator": generator}
        uniform = torch.rand(*shape, self.components, **options).clamp_min(torch.finfo(like.dtype).tiny)
        gumbel = -torch.log(-torch.log(uniform))
        noise = torch.randn(*shape, self.dim, **options)
        latent = torch.randn(*shape, self.rank, **options) if self.rank else None
        with torch.set_grad_enabled(gradient == "relaxed" and torch.is_grad_enabled()):
            choice = choose_relaxed(self.log_weights.unsqueeze(-2) + gumbel, temperature)  # (…, n, K)
            z = torch.einsum("...nk,...kd->...nd", choice, self.means)
            z = z + torch.einsum("...nk,...kd->...nd", choice, self.scales) * noise
            if latent is not None:
                z = z + torch.einsum("...nk,...kdr,...nr->...nd", choice, self.factors, latent)
        if gradient == "implicit" and torch.is_grad_enabled():
            return attach_implicitly(z, self.log_weights, self.means, self.scales, self.factors if self.rank else None)
        return z

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw without gradients, shape (\\*batch_shape, n, D)."""
        return self.rsample(n, generator=generator, gradient="none")

    # ---------------------------------------------------------------- fitting

    @torch.no_grad()
    def start_at(self, z: Any, *, generator: torch.Generator | None = None) -> Self:
        """Place the components at well-separated points of data, their scales at the spread of the data.

        Args:
            z: Points, shape (N, D), or (\\*batch_shape, N, D).
            generator: Source of randomness.

        Returns:
            The mixture itself, its components apart.
        """
        from amodal.distributions.mixture.fit import scattered_start

        z = self._points(z)
        flat = z.reshape(-1, *z.shape[-2:])
        starts = [scattered_start(part, self.components, generator) for part in flat]
        means = torch.stack([m for m, _ in starts]).reshape(self.means.shape)
        scales = torch.stack([s for _, s in starts]).reshape(self.means.shape)
        factors = self.factors if self.rank else None
        uniform = torch.full_like(self.raw_weights, 1 / self.components)
        self._assign(uniform, means.to(self.means), scales.clamp_min(2 * self.scale_floor).to(self.means), factors)
        return self

    @classmethod
    def fit(
        cls,
        z: Any,
        components: int,
        *,
        rank: int = 0,
        scale_floor: float = 1e-3,
        iterations: int = 200,
        tolerance: float = 1e-7,
        generator: torch.Generator | None = None,
    ) -> Self:
        """Maximum likelihood by expectation maximisation, from components that start apart.

        Args:
            z: Points, shape (N, D).
            components: Number of components K.
            rank: Columns of the factors (then each component is a factor analyser).
            scale_floor: Least scale.
            iterations: Most iterations.
            tolerance: Stop when the mean log likelihood of a coordinate rises by less.
            generator: Source of randomness for the start.

        Raises:
            DataError: If there are fewer points than components, or a point is not finite.
        """
        from amodal.distributions.mixture.fit import expectation_maximisation

        points = torch.as_tensor(z).detach()
        if points.ndim != 2 or not points.is_floating_point():
            raise ShapeError(
                "a mixture is fitted to points", expected="(N, D), floating point", got=tuple(points.shape)
            )
        mixture = cls(components, points.shape[1], rank=rank, scale_floor=scale_floor, generator=generator).to(points)
        if len(points) < components or not bool(torch.isfinite(points).all()):
            raise DataError(
                "a mixture cannot be fitted to these points",
                expected=f"at least {components} points, all finite",
                got=f"{len(points)} points, {int((~torch.isfinite(points)).any(1).sum())} of them not finite",
            )
        fitted = expectation_maximisation(points, components, rank, scale_floor, iterations, tolerance, generator)
        mixture._assign(*(None if x is None else x.to(points) for x in fitted))  # type: ignore[arg-type]
        return mixture
