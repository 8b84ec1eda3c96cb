r"""Copula densities of two and three margins together with their derivatives, as kernels for ``fused``.

Each kernel takes margins-first logarithms (M, …) and parameters, and returns the log density and its derivatives. The
plain versions are the ``_plain`` densities of the families, for any M; formulas and notation are the same. Kernels work
in linear space where nothing can leave the range of float32; the ``usable`` functions say where that is. On a GPU they
are not used: whether a value is in range would have to be waited for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from amodal.distributions.fused import log_neg_log_slopes
from amodal.distributions.log_space import log_expm1_ratio, some_above, some_below

__all__ = ["clayton", "frank", "frank_usable", "gaussian", "gumbel", "joe", "joe_usable", "student"]

Slopes = Sequence["Tensor | None"]


def _two_terms(log_a: Tensor | float, log_b: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\log(a e^x + b e^{2x})` and the share of its second term."""
    second = x * 2 + log_b
    total = torch.logaddexp(x + log_a, second)
    return total, second.sub_(total).exp_()


def gumbel(log_u: Tensor, log_1mu: Tensor, excess: Tensor, log_excess: Tensor) -> tuple[Tensor, Slopes]:
    """Gumbel; parameters theta - 1 and its logarithm."""
    margins, theta = log_u.shape[0], excess + 1
    log_x, in_log_u, in_log_1mu = log_neg_log_slopes(log_u, log_1mu)
    scaled = log_x * theta
    log_t = torch.logaddexp(scaled[0], scaled[1])
    if margins == 3:
        log_t = torch.logaddexp(log_t, scaled[2])
    shares = scaled.sub_(log_t).exp_()  # x_m^theta / t
    log_s = log_t / theta
    s = torch.exp(log_s)
    if margins == 2:
        weight = torch.sigmoid(y := log_excess - log_s)
        in_log_s = -weight
    else:
        inner, share = _two_terms(math.log(3.0), torch.log1p(2 * excess), -log_s)
        weight = torch.sigmoid(y := log_excess + inner)
        in_log_s = weight * (-1.0 - share)
    power = margins * excess
    slopes = (log_x * excess).sub_(log_u).sum(0)
    value = slopes.sub_(s).sub_(log_s * power).add_(softplus(y, threshold=50.0))
    in_log_s = in_log_s.sub_(s).sub_(power)
    in_log_x = shares * in_log_s + excess
    in_theta = log_x.sum(0).sub_(log_s, alpha=margins)
    in_theta.add_((shares.mul_(log_x).sum(0).sub_(log_s)).mul_(in_log_s).div_(theta))
    if margins == 3:
        in_theta.add_(weight * share * (2 / (1 + 2 * excess)))
    return value, (
        (in_log_x * in_log_u).sub_(1.0),
        None if in_log_1mu is None else in_log_x * in_log_1mu,
        in_theta,
        weight,
    )


def clayton(log_u: Tensor, log_1mu: Tensor, theta: Tensor, log_theta: Tensor) -> tuple[Tensor, Slopes]:
    """Clayton; parameters theta and its logarithm (not used)."""
    margins = log_u.shape[0]
    a = log_u * -theta
    log_t = a[0]
    for term in a[1:].unbind(0):
        smaller = torch.minimum(log_t, term)
        log_t = torch.maximum(log_t, term)
        log_t = log_t + (torch.exp(smaller - log_t).mul_(-torch.expm1(-smaller))).log1p_()
    shares = a.sub_(log_t).exp_()  # u_m^-theta / (1 + t)
    total, factor = log_u.sum(0), margins * theta + 1
    k = torch.arange(1, margins, dtype=theta.dtype, device=theta.device).reshape(-1, *[1] * theta.ndim)
    value = torch.log1p(k * theta).sum(0) - total * (1 + theta) - log_t * (factor / theta)
    in_theta = (k / (1 + k * theta)).sum(0) - total + ((shares * log_u).sum(0) * factor + log_t / theta) / theta
    return value, (shares.mul_(factor).sub_(1 + theta), None, in_theta, None)


def frank_usable(log_u: Tensor, theta: Tensor) -> bool:
    """Whether exponentials of theta stay in range, and neither theta nor u is too near to zero to divide by."""
    small, large = some_below(theta.abs(), 0.25), some_above(theta, 60.0) or some_below(theta, -40.0)
    return not (small or large or some_below(log_u, -60.0))


def frank(log_u: Tensor, log_1mu: Tensor, theta: Tensor, log_theta: Tensor) -> tuple[Tensor, Slopes]:
    """Frank; parameters theta and its logarithm (not used). Two margins with either sign, three with theta > 0."""
    u, rest = torch.exp(log_u), torch.exp(log_1mu)
    decay = torch.exp(u * -theta)
    below, above = torch.expm1(u * -theta).div_(-theta), torch.expm1(rest * -theta).div_(-theta)
    if log_u.shape[0] == 2:
        return _frank_pair(u, rest, theta, decay, below, above)
    scale = -torch.expm1(-theta) / theta
    log_scale, end = torch.log(scale), torch.exp(-theta)
    ratio, complement = below / scale, (decay * above).div_(scale)
    h, q = theta * scale, end
    for r, w in zip(ratio.unbind(0), complement.unbind(0), strict=True):
        q = q + h * w
        h = h * r
    value = torch.log1p(h) - 2 * log_scale - theta * u.sum(0) - 3 * torch.log(q)
    gain = h / (1 + h) + 3 * h / q  # derivative in log h
    pull = decay.div_(below).mul_(u)  # of log h in log u
    in_theta = gain * (pull.sum(0) - 2 * end / scale) / theta - 2 * (end / scale - 1) / theta - u.sum(0)
    return value, (pull.mul_(gain).sub_(u * theta), None, in_theta, None)


def _frank_pair(
    u: Tensor, rest: Tensor, theta: Tensor, decay: Tensor, below: Tensor, above: Tensor
) -> tuple[Tensor, Slopes]:
    first, second = decay[0] * below[1], decay[1] * above[1]
    total = first + second
    mean = u.sum(0)
    value = log_expm1_ratio(theta) - theta * mean - 2 * torch.log(total)
    h_second = first / total  # of the second margin given the first, and the other way round
    h_first = decay[1] * below[0] / total
    in_u = torch.stack([h_second, h_first]).mul_(2.0).sub_(1.0).mul_(theta).mul_(u)
    inner = (decay[0] * u[1] + rest[1] * (1 - theta * above[1])) * decay[1] / (theta * total)
    at_theta = 1 / torch.expm1(theta) - 1 / theta
    in_theta = at_theta - mean - 2 * (inner - u[0] * h_second - u[1] * (1 - h_second) - 1 / theta)
    return value, (in_u, None, in_theta, None)


def joe_usable(log_u: Tensor) -> bool:
    """Whether log(1 - u) has not underflowed anywhere."""
    return not some_below(log_u, -60.0)


def joe(log_u: Tensor, log_1mu: Tensor, excess: Tensor, log_excess: Tensor) -> tuple[Tensor, Slopes]:
    """Joe; parameters theta - 1 and its logarithm."""
    margins, theta = log_u.shape[0], excess + 1
    log_w = log_1mu * theta  # log of (1 - u)^theta
    log_r = torch.expm1(log_w).neg_().log_()
    log_h, log_q = log_r[0], log_w[0]
    for r, w in zip(log_r[1:].unbind(0), log_w[1:].unbind(0), strict=True):
        log_q = torch.logaddexp(log_q, log_h + w)
        log_h = log_h + r
    log_ratio = log_h - log_q
    if margins == 2:
        inner, steepness, in_coefficient = log_ratio, 1.0, 0.0
    else:
        inner, share = _two_terms(math.log(3.0), torch.log(2 - 1 / theta), log_ratio)
        steepness, in_coefficient = 1.0 + share, share / (theta * (2 * theta - 1))
    y = inner + (log_excess - torch.log(theta))
    weight = torch.sigmoid(y)
    total = log_1mu.sum(0)
    power = excess / theta
    value = softplus(y, threshold=50.0) + total * excess - log_q * power + (margins - 1) * torch.log(theta)
    odds = log_w.sub_(log_r)
    joint = torch.exp(odds + log_ratio)
    pull = (odds.exp_().add_(joint)).mul_(weight * steepness).add_(joint.mul_(power))  # minus the derivative in log w
    in_theta = (margins - 1) / theta + total - log_q / (theta * theta) - (pull * log_1mu).sum(0)
    in_theta = in_theta + weight * (in_coefficient - 1 / theta)
    return value, (None, pull.mul_(-theta).add_(excess), in_theta, weight)


def _solve(scores: Tensor, free: Tensor) -> tuple[list[Tensor], list[Tensor], list[list[Tensor]]]:
    """y, the scales n, and the rows a of the factor, from the free entries (P, …)."""
    rows = [[free[i * (i - 1) // 2 + j] for j in range(i)] for i in range(scores.shape[0])]
    scales, known = [], []
    for row, score in zip(rows, scores.unbind(0), strict=True):
        squares = [a * a for a in row]
        scales.append(torch.sqrt(1 + sum(squares[1:], squares[0])) if squares else torch.ones_like(free[0]))
        y = score * scales[-1] if row else score
        for a, earlier in zip(row, known, strict=True):
            y = y - a * earlier
        known.append(y)
    return known, scales, rows


def _pull_back(
    scores: Tensor, known: list[Tensor], in_y: list[Tensor], scales: list[Tensor], rows: list[list[Tensor]]
) -> tuple[list[Tensor], Tensor]:
    """Derivatives in the scores and in the free entries, from those in y; the log of the scales included."""
    adjoint, in_free = list(in_y), []
    for i in range(len(known) - 1, -1, -1):
        for a, j in zip(rows[i], range(i), strict=True):
            adjoint[j] = adjoint[j] - a * adjoint[i]
    for i, row in enumerate(rows):
        if row:
            through_scale = (adjoint[i] * scores[i] + 1 / scales[i]) / scales[i]
            in_free += [a * through_scale - adjoint[i] * known[j] for j, a in enumerate(row)]
    in_scores = [v * n if i else v for i, (v, n) in enumerate(zip(adjoint, scales, strict=True))]
    return in_scores, torch.stack(torch.broadcast_tensors(*in_free))


def gaussian(scores: Tensor, free: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Gaussian, from normal scores (M, …) and the free entries of the factor (M(M-1)/2, …)."""
    known, scales, rows = _solve(scores, free)
    y = torch.stack(torch.broadcast_tensors(*known))
    log_det = torch.stack(scales).log().sum(0)
    value = (scores - y).mul_(scores + y).sum(0).mul_(0.5) + log_det
    in_scores, in_free = _pull_back(scores, known, [-v for v in known], scales, rows)
    return value, (torch.stack(torch.broadcast_tensors(*in_scores)).add_(scores), in_free)


def student(scores: Tensor, free: Tensor, df: float, constant: float) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Student t, from its scores (M, …); squares of the scores must stay in range."""
    margins = scores.shape[0]
    known, scales, rows = _solve(scores, free)
    y = torch.stack(torch.broadcast_tensors(*known))
    quadratic = (y * y).sum(0).add_(df)
    squares = (scores * scores).add_(df)
    log_det = torch.stack(scales).log().sum(0)
    log_squares = torch.log(squares).sum(0)
    value = log_squares.mul_((df + 1) / 2).sub_(torch.log(quadratic), alpha=(df + margins) / 2)
    value = value + (log_det + constant - (margins * (df + 1) - df - margins) / 2 * math.log(df))
    weight = (-(df + margins)) / quadratic
    in_scores, in_free = _pull_back(scores, known, [v * weight for v in known], scales, rows)
    margin_part = (scores * (df + 1)).div_(squares)
    return value, (torch.stack(torch.broadcast_tensors(*in_scores)).add_(margin_part), in_free)
