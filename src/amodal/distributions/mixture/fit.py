"""Expectation maximisation for mixtures of Gaussians with diagonal covariance, and its starting points."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["expectation_maximisation", "scattered_start"]

_LEAST_WEIGHT = 1e-4
_PRIOR_ROWS = 1.0  # rows of the whole data that each component is given: keeps components of few rows from collapsing


def _uniform(generator: torch.Generator | None) -> float:
    return float(torch.rand((), generator=generator, device=None if generator is None else generator.device))


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


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
    means = z[chosen]
    return means + 0.01 * spread * _normal(means, generator), spread.expand(components, -1).clone()


def expectation_maximisation(
    z: Tensor,
    observed: Tensor,
    components: int,
    generator: torch.Generator | None = None,
    *,
    steps: int = 15,
    tolerance: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""A mixture of diagonal Gaussians on several vectors a row, some of them absent, one component for the whole row.

    .. math::
        r_{nk} \propto \pi_k \prod_{m \in O_n} N(z_{mn}; \mu_{mk}, \sigma_{mk}^2), \qquad
        \mu_{mk} = \frac{\sum_n r_{nk} z_{mn} + \bar z_m}{\sum_n r_{nk} + 1}, \qquad
        \sigma_{mk}^2 = \frac{\sum_n r_{nk} (z_{mn} - \mu_{mk})^2 + s_m^2}{\sum_n r_{nk} + 1}

    with sums over the rows that have m, whose mean and variance are :math:`\bar z_m` and :math:`s_m^2`: one row's worth
    of prior. With M = 1 and everything observed it is the ordinary fit of one mixture.

    Args:
        z: Vectors, of shape (M, N, D); anything finite where absent.
        observed: Presence, bool, of shape (M, N).
        components: Number of components K.
        generator: Source of randomness of the start: cases far from one another.
        steps: Most steps.
        tolerance: Stop when the mean log likelihood of a row rises by less; None: take all steps.

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
    means = spread * (start + 0.05 * _normal(start, generator))
    scales = 0.5 * spread.expand(means.shape)
    weights = z.new_full((components,), 1 / components)
    before = -torch.inf
    for _ in range(steps):
        t = (z.unsqueeze(2) - means.unsqueeze(1)) / scales.unsqueeze(1)  # (M, N, K, D)
        each = -0.5 * t.square().sum(-1) - scales.log().sum(-1).unsqueeze(1)
        joint = (each * seen).sum(0) + weights.log()  # (N, K)
        share = torch.softmax(joint, -1)
        if tolerance is not None:
            now = float(joint.logsumexp(-1).mean())
            if now - before < tolerance:
                break
            before = now
        weights = (share.mean(0) + _LEAST_WEIGHT) / (1 + components * _LEAST_WEIGHT)
        part = share * seen  # (M, N, K)
        size = part.sum(1).unsqueeze(-1)  # (M, K, 1)
        means = (part.mT @ z + _PRIOR_ROWS * centre.unsqueeze(1)) / (size + _PRIOR_ROWS)
        square = part.mT @ z.square() - 2 * means * (part.mT @ z) + size * means.square()
        scales = ((square + _PRIOR_ROWS * spread.square()) / (size + _PRIOR_ROWS)).clamp_min(1e-12).sqrt()
    return weights, means, scales


def _scattered_cases(z: Tensor, seen: Tensor, components: int, generator: torch.Generator | None) -> Tensor:
    """Cases far from one another in what both observe, what they lack from the nearest that have it: (M, K, D)."""
    n = z.shape[1]
    nearest, starts = seen.sum((0, 2)), []
    for place in range(components):
        total = nearest.cumsum(0)
        pick = int(torch.searchsorted(total, _uniform(generator) * total[-1]).clamp(max=n - 1))
        both = (seen * seen[:, pick : pick + 1]).squeeze(-1)  # (M, N)
        square = ((z - z[:, pick : pick + 1]).square().mean(-1) * both).sum(0)
        distance = torch.where(both.sum(0) > 0, square / both.sum(0).clamp_min(1.0), torch.inf)
        starts.append(torch.stack([_of_nearest(z[m], seen[m, :, 0] > 0, distance, pick) for m in range(len(z))]))
        # Two cases that share nothing are as far apart as cases are on average: 2 in units of the spread.
        distance = torch.where(distance.isinf(), 2.0, distance) * (seen.sum((0, 2)) > 0)
        nearest = torch.minimum(nearest, distance) if place else distance
    return torch.stack(starts, dim=1)


def _of_nearest(z: Tensor, seen: Tensor, distance: Tensor, pick: int, neighbours: int = 10) -> Tensor:
    """The case's own vector, else the mean of those nearest to it, else of all; (D,)."""
    if bool(seen[pick]):
        return z[pick]
    rows = seen.nonzero().flatten()
    order = rows[distance[rows].argsort()][:neighbours]
    order = order[distance[order].isfinite()]
    chosen = order if len(order) else rows
    return z[chosen].mean(0) if len(chosen) else torch.zeros_like(z[0])
