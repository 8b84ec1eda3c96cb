"""Expectation maximisation for Gaussian mixtures and mixtures of factor analysers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["common_components", "expectation_maximisation", "scattered_start"]

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


def common_components(
    z: Tensor, observed: Tensor, components: int, generator: torch.Generator | None = None, *, steps: int = 15
) -> tuple[Tensor, Tensor, Tensor]:
    """A mixture of diagonal Gaussians on several vectors a row, some of them absent, with one component for all.

    Expectation and maximisation on what the rows observe, from cases far from one another.

    Args:
        z: Vectors, of shape (M, N, D); anything finite where absent.
        observed: Presence, bool, of shape (M, N).
        components: Number of components K.
        generator: Source of randomness.
        steps: Number of steps.

    Returns:
        Weights (K,), means (M, K, D) and scales (M, K, D).
    """
    seen = observed.to(z.dtype).unsqueeze(-1)  # (M, N, 1)
    z = torch.where(observed.unsqueeze(-1), z, 0.0)
    count = seen.sum(1).clamp_min(1.0)  # (M, 1)
    centre = z.sum(1) / count  # (M, D)
    variance = ((z - centre.unsqueeze(1)).square() * seen).sum(1) / count
    spread = torch.where(variance > 0, variance, 1.0).sqrt().unsqueeze(1)  # (M, 1, D)
    start = _scattered_cases(z / spread, seen, components, generator)
    device = z.device if generator is None else generator.device
    jitter = torch.randn(start.shape, generator=generator, device=device, dtype=z.dtype)
    means = spread * (start + 0.05 * jitter.to(z.device))
    scales = 0.5 * spread.expand(means.shape)
    weights = z.new_full((components,), 1 / components)
    for _ in range(steps):
        t = (z.unsqueeze(2) - means.unsqueeze(1)) / scales.unsqueeze(1)  # (M, N, K, D)
        each = -0.5 * t.square().sum(-1) - scales.log().sum(-1).unsqueeze(1)
        share = torch.softmax((each * seen).sum(0) + weights.log(), -1)  # (N, K)
        weights = (share.mean(0) + _LEAST_WEIGHT) / (1 + components * _LEAST_WEIGHT)
        part = share * seen  # (M, N, K)
        size = part.sum(1).unsqueeze(-1)  # (M, K, 1)
        # One row's worth of the whole data keeps components of few rows from collapsing.
        means = (part.mT @ z + centre.unsqueeze(1)) / (size + 1)
        square = part.mT @ z.square() - 2 * means * (part.mT @ z) + size * means.square()
        scales = ((square + spread.square()) / (size + 1)).clamp_min(1e-12).sqrt()
    return weights, means, scales


def _scattered_cases(z: Tensor, seen: Tensor, components: int, generator: torch.Generator | None) -> Tensor:
    """Cases far from one another in what both observe, what they lack from the nearest that have it: (M, K, D)."""
    n = z.shape[1]
    nearest, found = seen.sum((0, 2)), []
    for place in range(components):
        total = nearest.cumsum(0)
        pick = int(torch.searchsorted(total, _uniform(generator) * total[-1]).clamp(max=n - 1))
        both = (seen * seen[:, pick : pick + 1]).squeeze(-1)  # (M, N)
        square = ((z - z[:, pick : pick + 1]).square().mean(-1) * both).sum(0)
        distance = torch.where(both.sum(0) > 0, square / both.sum(0).clamp_min(1.0), torch.inf)
        found.append(torch.stack([_of_nearest(z[m], seen[m, :, 0] > 0, distance, pick) for m in range(len(z))]))
        # Two cases that share nothing are as far apart as cases are on average: 2 in units of the spread.
        distance = torch.where(distance.isinf(), 2.0, distance) * (seen.sum((0, 2)) > 0)
        nearest = torch.minimum(nearest, distance) if place else distance
    return torch.stack(found, dim=1)


def _of_nearest(z: Tensor, seen: Tensor, distance: Tensor, pick: int, neighbours: int = 10) -> Tensor:
    """The case's own vector, else the mean of those nearest to it, else of all; (D,)."""
    if bool(seen[pick]):
        return z[pick]
    rows = seen.nonzero().flatten()
    order = rows[distance[rows].argsort()][:neighbours]
    order = order[distance[order].isfinite()]
    chosen = order if len(order) else rows
    return z[chosen].mean(0) if len(chosen) else torch.zeros_like(z[0])
