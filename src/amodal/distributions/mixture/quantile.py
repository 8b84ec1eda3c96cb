r"""Quantiles of univariate Gaussian mixtures, many at once, differentiable in everything.

There is no closed form. Newton's method on the logit scale, kept inside a bracket, needs about six evaluations of the
distribution function; where very many quantiles of few mixtures are wanted, a table of each mixture's quantiles gives a
start so near that one is enough for nearly all. Elements that are done are left out of what follows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from amodal.distributions.mixture.margins import mixture_margins
from amodal.distributions.normal import LOG_ROOT_TWO_PI, normal_log_tails, normal_score

__all__ = ["QuantileTable", "mixture_quantile", "quantile_table"]

_NEAR = {torch.float32: 3e-4, torch.float64: 1e-8}  # a Newton step this small (in least scales) was the last one needed
_NODES, _END = 97, 6.0
_UNWATCHED = 8  # iterations on a GPU before it is waited for, to see whether they were enough
_FEW = 0.25  # share of unfinished elements below which they are taken out


class QuantileTable(NamedTuple):
    """Quantiles of mixtures at evenly spaced normal scores, with their slopes in the score.

    Attributes:
        z: Of shape (L, G, D).
        slope: Its derivative in the score, of shape (L, G, D).
    """

    z: Tensor
    slope: Tensor

    def at(self, score: Tensor, law: Tensor) -> Tensor:
        """Cubic interpolation; beyond the ends, straight on.

        Args:
            score: Normal scores, of shape (P, S, D).
            law: Which mixture each of the P is of, int64, of shape (P,).

        Returns:
            About the quantiles, of shape (P, S, D).
        """
        nodes, dim = self.z.shape[1:]
        place = (score + _END) * ((nodes - 1) / (2 * _END))
        left = place.floor().clamp_(0, nodes - 2)
        x = place - left
        inner = x.clamp(0.0, 1.0)
        index = (left.long() + law[:, None, None] * nodes).mul_(dim).add_(torch.arange(dim, device=score.device))
        width = 2 * _END / (nodes - 1)
        z, slope = self.z.reshape(-1), self.slope.reshape(-1) * width
        z0, z1, s0, s1 = (part.take(index + shift) for part in (z, slope) for shift in (0, dim))
        rise = z1 - z0
        cubic = z0 + inner * (s0 + inner * (3 * rise - 2 * s0 - s1 + inner * (s0 + s1 - 2 * rise)))
        return cubic + (x - inner) * torch.where(x > 0, s1, s0)


def quantile_table(log_weights: Tensor, means: Tensor, scales: Tensor) -> QuantileTable:
    """The table of L times D mixtures, without a graph.

    Args:
        log_weights: Shape (L, K).
        means: Shape (L, K, D).
        scales: Shape (L, K, D).
    """
    with torch.no_grad():
        law = [part.unsqueeze(1) for part in (log_weights, means, scales)]
        score = torch.linspace(-_END, _END, _NODES, dtype=means.dtype, device=means.device)[:, None]
        score = score.expand(len(means), -1, means.shape[-1])  # (L, G, D)
        lower, upper = normal_log_tails(score)
        z = mixture_quantile(lower, upper, *law)
        density, _, _ = mixture_margins(z, *law)
        slope = torch.exp(-0.5 * score * score - LOG_ROOT_TWO_PI - density)
        span = (z[:, -1:] - z[:, :1]) / (2 * _END)
        return QuantileTable(z, torch.minimum(slope, 10 * span))  # in a gap the slope has no bound


def mixture_quantile(
    log_u: Tensor,
    log_1mu: Tensor,
    log_weights: Tensor,
    means: Tensor,
    scales: Tensor,
    *,
    start: Tensor | None = None,
    least_slope: float = 0.0,
    iterations: int = 100,
) -> Tensor:
    r"""Quantiles of univariate Gaussian mixtures, from both logarithms of the probability.

    Bracketed by the quantiles of the components; gradients by the implicit function theorem,
    :math:`dz = (du - \partial_p F\, dp)/f(z)`.

    Args:
        log_u: :math:`\log u`, shape (…, D).
        log_1mu: :math:`\log(1-u)`, the same shape.
        log_weights: :math:`\log\pi`, shape (…, K).
        means: :math:`\mu`, shape (…, K, D).
        scales: :math:`\sigma`, shape (…, K, D).
        start: About the quantiles, the shape of the result; changes nothing but the time.
        least_slope: Bounds the gradient where the density is tiny, in a gap between components: slopes of
            :math:`\log F - \log(1-F)` below this count as this. 0: the exact gradient.
        iterations: Most evaluations; about six are needed for most elements, and some tens in wide gaps.

    Returns:
        z with :math:`F(z) = u`, shape (…, D).
    """
    goal = log_u - log_1mu
    with torch.no_grad():
        shape = torch.broadcast_shapes(goal.shape, (*means.shape[:-2], means.shape[-1]))
        law = (log_weights, means, scales)
        z, unsure = torch.empty(0), None
        if start is not None:
            z, unsure = _step(goal, law, start.expand(shape))
        share = 1.0 if unsure is None or not unsure.numel() else float(unsure.float().mean())
        if unsure is None or share > _FEW:
            root = _bracketed(log_u.expand(shape), log_1mu.expand(shape), law, iterations)
        elif share:
            root = _rest(z, unsure, log_u.expand(shape), log_1mu.expand(shape), law, iterations)
        else:
            root = z
    if not torch.is_grad_enabled():
        return root
    density, lower, upper = mixture_margins(root, log_weights, means, scales)
    value = lower - upper - goal
    if not value.requires_grad:
        return root
    slope = (torch.exp(density - lower) + torch.exp(density - upper)).detach().clamp_min(least_slope)
    usable = torch.isfinite(slope) & (slope != 0)
    correction = (value - value.detach()) / torch.where(usable, slope, 1.0)
    return root - torch.where(usable, correction, 0.0)


Law = tuple[Tensor, Tensor, Tensor]


def _step(goal: Tensor, law: Law, z: Tensor) -> tuple[Tensor, Tensor]:
    """One step of Newton's method from z, and which elements it may not have brought to the root."""
    density, lower, upper = mixture_margins(z, *law)
    slope = torch.exp(density - lower).add_(torch.exp(density - upper))
    step = (goal - lower).add_(upper).div_(slope)
    near = _NEAR[z.dtype] * law[2].amin(-2)
    return z + step, ~(step.abs_() <= near)  # NaN is not near


def _bracketed(log_u: Tensor, log_1mu: Tensor, law: Law, iterations: int) -> Tensor:
    """Newton's method inside a bracket, which is halved where a step would leave it."""
    log_weights, means, scales = law
    goal = log_u - log_1mu
    each = means + scales * normal_score(log_u, log_1mu).unsqueeze(-2)  # (…, K, D)
    slack = 1e-3 * scales.amax(-2) + 4 * torch.finfo(each.dtype).eps * each.abs().amax(-2)
    low, high = each.amin(-2) - slack, each.amax(-2) + slack
    z = (log_weights.exp().unsqueeze(-1) * each).sum(-2)
    near = _NEAR[z.dtype] * scales.amin(-2)
    for used in range(1, iterations + 1):
        density, lower, upper = mixture_margins(z, log_weights, means, scales)
        excess = lower - upper - goal
        above = excess > 0
        low, high = torch.where(above, low, z), torch.where(above, z, high)
        trial = z - excess / (torch.exp(density - lower) + torch.exp(density - upper))
        inside = (trial >= low) & (trial <= high)
        trial = torch.where(inside, trial, 0.5 * (low + high))
        unsure = (trial - z).abs() > torch.maximum(near, 4 * torch.finfo(z.dtype).eps * z.abs())
        z = trial
        if z.is_cuda and used % _UNWATCHED:
            continue
        share = float(unsure.float().mean()) if unsure.numel() else 0.0
        if not share:
            break
        if share < _FEW and z.numel() > 64 and used < iterations:
            return _rest(z, unsure, log_u, log_1mu, law, iterations - used)
    return z


def _rest(z: Tensor, unsure: Tensor, log_u: Tensor, log_1mu: Tensor, law: Law, iterations: int) -> Tensor:
    """The same numbers with the unsure elements solved by themselves."""
    log_weights, means, scales = law
    place = unsure.nonzero(as_tuple=True)
    components = means.shape[-2]
    full = (*z.shape[:-1], components, z.shape[-1])
    own = [part.expand(full).movedim(-2, -1)[place].unsqueeze(-1) for part in (means, scales)]  # (n, K, 1)
    weights = log_weights.expand(*z.shape[:-1], components)[place[:-1]]  # (n, K)
    solved = _bracketed(log_u[place].unsqueeze(-1), log_1mu[place].unsqueeze(-1), (weights, own[0], own[1]), iterations)
    return z.index_put(place, solved.squeeze(-1))
