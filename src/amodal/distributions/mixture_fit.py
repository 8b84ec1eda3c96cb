"""Expectation maximisation for Gaussian mixtures and mixtures of factor analysers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["expectation_maximisation", "scattered_start"]

_LEAST_WEIGHT = 1e-4


def _uniform(generator: torch.Generator | None) -> float:
    return float(torch.rand((), generator=generator, device=None if generator is None else generator.device))


def scattered_start(z: Tensor, components: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Starting means at points chosen with probability proportional to the squared distance to those before.

    Args:
        z: Points, shape (N, D).
        components: Number of components K.
        generator: Source of randomness.

    Returns:
        Means (K, D), no two alike even where points repeat, and scales (K, D): the spread of the data.

    Source:
        Arthur & Vassilvitskii, *k-means++*, 2007.
    """
    spread = z.std(0, unbiased=False)
    spread = torch.where(spread > 0, spread, spread.mean() if bool(spread.mean() > 0) else torch.ones_like(spread))
    scaled = z / spread
    chosen = [min(int(_uniform(generator) * len(z)), len(z) - 1)]
    nearest = ((scaled - scaled[chosen[0]]) ** 2).sum(1)
    for _ in range(components - 1):
        total = nearest.cumsum(0)
        pick = int(torch.searchsorted(total, _uniform(generator) * total[-1]).clamp(max=len(z) - 1))
        chosen.append(pick)
        nearest = torch.minimum(nearest, ((scaled - scaled[pick]) ** 2).sum(1))
    device = z.device if generator is None else generator.device
    jitter = torch.randn(components, z.shape[1], generator=generator, device=device, dtype=z.dtype).to(z.device)
    return z[chosen] + 0.01 * spread * jitter, spread.expand(components, -1).clone()


def _log_densities(z: Tensor, means: Tensor, scales: Tensor, factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Component log densities (N, K), and the mean (N, K, R) and covariance (K, R, R) of the factors given a point."""
    scaled = factors / scales.unsqueeze(-1)
    precision = torch.eye(factors.shape[-1], dtype=z.dtype, device=z.device) + scaled.mT @ scaled
    cholesky = torch.linalg.cholesky(precision)
    t = (z.unsqueeze(1) - means) / scales  # (N, K, D)
    inner = torch.einsum("nkd,kdr->nkr", t, scaled)
    latent = torch.cholesky_solve(inner.unsqueeze(-1), cholesky).squeeze(-1)
    quadratic = (t * t).sum(-1) - (inner * latent).sum(-1)
    log_det = scales.log().sum(-1) + cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_density = -0.5 * quadratic - log_det - 0.5 * z.shape[1] * math.log(2 * math.pi)
    return log_density, latent, torch.cholesky_inverse(cholesky)


def expectation_maximisation(
    z: Tensor,
    components: int,
    rank: int,
    scale_floor: float,
    iterations: int,
    tolerance: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    r"""Fit by expectation maximisation, in float64, on points centred and scaled to unit spread.

    Each component is a factor analyser, :math:`z = \mu_k + W_k x + \varepsilon`; with rank 0, a diagonal Gaussian.
    A component that loses its points starts again at the point that fits worst.

    Args:
        z: Points, shape (N, D).
        components: K.
        rank: R.
        scale_floor: Least scale.
        iterations: Most iterations.
        tolerance: Least rise of the mean log likelihood of a coordinate.
        generator: Source of randomness for the start.

    Returns:
        Weights (K,), means (K, D), scales (K, D) and factors (K, D, R), or None for rank 0.

    Source:
        Ghahramani & Hinton, *The EM algorithm for mixtures of factor analyzers*, 1996.
    """
    centre, unit = z.double().mean(0), z.double().std(0, unbiased=False)
    unit = torch.where(unit > 0, unit, torch.ones_like(unit))
    points = (z.double() - centre) / unit
    floor = 1.001 * scale_floor / unit + 1e-9
    means, scales = scattered_start(points, components, generator)
    scales = torch.maximum(scales, floor)
    weights = torch.full((components,), 1 / components, dtype=torch.float64, device=z.device)
    device = z.device if generator is None else generator.device
    factors = torch.randn(components, z.shape[1], rank, generator=generator, dtype=torch.float64, device=device)
    factors = 0.3 * factors.to(z.device)
    last = -math.inf
    for _ in range(iterations):
        log_density, latent, covariance = _log_densities(points, means, scales, factors)
        joint = log_density + weights.log()
        evidence = torch.logsumexp(joint, 1)
        shares = torch.exp(joint - evidence.unsqueeze(1))  # (N, K)
        weights = shares.mean(0)
        if bool((weights < _LEAST_WEIGHT).any()):
            lost = int(weights.argmin())
            means[lost], scales[lost] = points[int(evidence.argmin())], torch.maximum(torch.ones_like(floor), floor)
            weights = torch.full_like(weights, 1 / components)
            continue
        means, scales, factors = _maximise(points, shares, latent, covariance, floor)
        value = float(evidence.mean()) / z.shape[1]
        if value - last < tolerance:
            break
        last = value
    weights = weights / weights.sum()
    return weights, means * unit + centre, scales * unit, (factors * unit.unsqueeze(-1)) if rank else None


def _maximise(
    z: Tensor, shares: Tensor, latent: Tensor, covariance: Tensor, floor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Regression of the points on the factors and a constant, for each component."""
    rank = latent.shape[-1]
    one = torch.ones(*latent.shape[:-1], 1, dtype=z.dtype, device=z.device)
    design = torch.cat([latent, one], -1)  # (N, K, R + 1)
    total = shares.sum(0)
    cross = torch.einsum("nk,nd,nkr->kdr", shares, z, design)
    moments = torch.einsum("nk,nkr,nks->krs", shares, design, design)
    moments[:, :rank, :rank] += total[:, None, None] * covariance
    loadings = torch.linalg.solve(moments, cross.mT).mT  # (K, D, R + 1)
    squares = torch.einsum("nk,nd->kd", shares, z * z)
    variance = (squares - (loadings * cross).sum(-1)) / total.unsqueeze(-1)
    scales = torch.maximum(variance.clamp_min(0.0).sqrt(), floor)
    return loadings[..., rank], scales, loadings[..., :rank]
