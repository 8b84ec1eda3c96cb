r"""Distribution functions of the bivariate and multivariate normal and Student t, as logarithms.

Two dimensions are deterministic and precise *relative* to the value, however small; their gradients are the elementary
conditional laws, so they can be differentiated as often as one likes. More dimensions use separation of variables on
fixed scrambled Sobol points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from amodal.distributions.inversion import solve_increasing
from amodal.distributions.normal import LOG_ROOT_TWO_PI, normal_hazards, normal_log_tails, normal_score
from amodal.distributions.quadrature import gauss_legendre
from amodal.distributions.student import log1p_square, student_log_density, student_log_tails, student_score

__all__ = ["bivariate_normal_log_cdf", "bivariate_student_log_cdf", "separated_log_cdf"]

_DROP = 45.0  # nats below the largest integrand at which an integral is cut off


def _integrate(log_integrand, breaks: Sequence[Tensor], nodes: int) -> Tensor:
    """Log of the integral between the smallest and the largest break, Gauss-Legendre on each piece."""
    x, weights = (v.to(breaks[0]) for v in gauss_legendre(nodes))
    ends = torch.stack(torch.broadcast_tensors(*breaks)).sort(0).values  # (P + 1, …)
    lower, width = ends[:-1], ends[1:] - ends[:-1]
    shape = (-1, *[1] * lower.ndim)
    value = log_integrand(lower + width * x.reshape(shape))  # (nodes, P, …)
    floor = torch.finfo(width.dtype).tiny
    return torch.logsumexp(value + weights.log().reshape(shape) + width.clamp_min(floor).log(), (0, 1))


def _normal_forward(a: Tensor, b: Tensor, rho: Tensor) -> Tensor:
    r""":math:`\log\int_{-\infty}^a \phi(x) \Phi((b - \rho x)/s) dx`, the integrand being log-concave."""
    a, b, rho = (x.double() for x in torch.broadcast_tensors(a, b, rho))
    s = torch.sqrt((1 - rho) * (1 + rho))

    def log_integrand(x: Tensor) -> Tensor:
        return -0.5 * x * x - LOG_ROOT_TWO_PI + normal_log_tails((b - rho * x) / s)[0]

    def descent(x: Tensor) -> Tensor:
        return x + rho / s * normal_hazards((b - rho * x) / s)[0]

    far = -(a.abs() + b.abs() / rho.abs().clamp_min(0.1) + 60.0)
    mode = solve_increasing(descent, far, a)
    peak = log_integrand(mode)
    left = solve_increasing(lambda x: log_integrand(x) - peak + _DROP, far - 60.0, mode)
    right = -solve_increasing(lambda x: log_integrand(-x) - peak + _DROP, -a, -mode)
    centre, spread = b / torch.where(rho.abs() < 1e-3, 1e-3, rho), s / rho.abs().clamp_min(1e-3)
    inner = [mode] + [centre + k * spread for k in (-6.0, -2.0, 2.0, 6.0)]
    breaks = [left, *[torch.minimum(torch.maximum(x, left), right) for x in inner], right]
    return _integrate(log_integrand, breaks, 32)


class _BivariateNormal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, rho):  # type: ignore[override]
        value = _normal_forward(a, b, rho).to(a.dtype)
        ctx.save_for_backward(a, b, rho, value)
        return value

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        a, b, rho, value = ctx.saved_tensors
        s = torch.sqrt((1 - rho) * (1 + rho))
        first = -0.5 * a * a - LOG_ROOT_TWO_PI + normal_log_tails((b - rho * a) / s)[0]
        second = -0.5 * b * b - LOG_ROOT_TWO_PI + normal_log_tails((a - rho * b) / s)[0]
        third = -0.5 * (a * a + ((b - rho * a) / s) ** 2) - 2 * LOG_ROOT_TWO_PI - torch.log(s)
        grads = [(grad * torch.exp(x - value)).sum_to_size(y.shape) for x, y in ((first, a), (second, b), (third, rho))]
        return tuple(grads)


def bivariate_normal_log_cdf(a: Tensor, b: Tensor, rho: Tensor) -> Tensor:
    r""":math:`\log P(X \le a, Y \le b)` for standard normals with correlation :math:`\rho`.

    Args:
        a: Bounds, any shape.
        b: Bounds, broadcastable.
        rho: Correlation, broadcastable, inside (-1, 1).

    Returns:
        The broadcast shape; relative error of the probability about 1e-12 in float64.

    Example:
        >>> zero = torch.zeros(1, dtype=torch.float64)
        >>> bivariate_normal_log_cdf(zero, zero, torch.tensor([0.5], dtype=torch.float64)).exp().item()  # 1/3
        0.33333...
    """
    return cast(Tensor, _BivariateNormal.apply(*torch.broadcast_tensors(a, b, rho)))


def _student_forward(x: Tensor, y: Tensor, rho: Tensor, df: float) -> Tensor:
    r""":math:`\log\int t_\nu(z) T_{\nu+1}(\cdot) dz` over z <= x, on the scale of the logit of :math:`T_\nu(z)`."""
    x, y, rho = (v.double() for v in torch.broadcast_tensors(x, y, rho))
    s = torch.sqrt((1 - rho) * (1 + rho))

    def log_integrand(logit: Tensor) -> Tensor:
        log_w, log_1mw = torch.nn.functional.logsigmoid(logit), torch.nn.functional.logsigmoid(-logit)
        z = student_score(log_w, log_1mw, df)
        standardised = (y - rho * z) / s * math.sqrt(df + 1) * torch.exp(-0.5 * log1p_square(z, df)) / math.sqrt(df)
        return log_w + log_1mw + student_log_tails(standardised, df + 1)[0]

    def logit_of(z: Tensor) -> Tensor:
        lower, upper = student_log_tails(z, df)
        return lower - upper

    top = logit_of(x)
    centre = y / torch.where(rho.abs() < 1e-3, 1e-3, rho)
    spread = s * torch.sqrt((df + centre * centre) / (df + 1)) / rho.abs().clamp_min(1e-3)
    inner = [logit_of(centre + k * spread) for k in (-24.0, -8.0, -3.0, -1.0, 1.0, 3.0, 8.0, 24.0)]
    inner += [top - k for k in (1.0, 3.0, 6.0, 12.0, 24.0)] + [torch.zeros_like(top)]
    left = top.clamp(max=0.0) - _DROP
    return _integrate(log_integrand, [left, *[torch.minimum(torch.maximum(v, left), top) for v in inner], top], 20)


class _BivariateStudent(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, rho, df):  # type: ignore[override]
        value = _student_forward(x, y, rho, df).to(x.dtype)
        ctx.df = df
        ctx.save_for_backward(x, y, rho, value)
        return value

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        x, y, rho, value = ctx.saved_tensors
        df = ctx.df
        s = torch.sqrt((1 - rho) * (1 + rho))

        def partial(this: Tensor, other: Tensor) -> Tensor:
            scale = torch.sqrt((df + 1) / (df + this * this)) / s
            return student_log_density(this, df) + student_log_tails((other - rho * this) * scale, df + 1)[0]

        quadratic = (x * x + ((y - rho * x) / s) ** 2) / df
        third = -math.log(2 * math.pi) - torch.log(s) - df / 2 * torch.log1p(quadratic)
        parts = ((partial(x, y), x), (partial(y, x), y), (third, rho))
        return *[(grad * torch.exp(p - value)).sum_to_size(v.shape) for p, v in parts], None


def bivariate_student_log_cdf(x: Tensor, y: Tensor, rho: Tensor, df: float) -> Tensor:
    r""":math:`\log P(X \le x, Y \le y)` for a bivariate t with correlation :math:`\rho` and ``df`` degrees of freedom.

    Args:
        x: Bounds, any shape.
        y: Bounds, broadcastable.
        rho: Correlation, broadcastable, inside (-1, 1).
        df: Degrees of freedom.

    Returns:
        The broadcast shape; relative error of the probability about 1e-10 in float64.
    """
    return cast(Tensor, _BivariateStudent.apply(*torch.broadcast_tensors(x, y, rho), float(df)))


@lru_cache(maxsize=8)
def _sobol(points: int, dim: int) -> Tensor:
    engine = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0)
    return engine.draw(points, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)


def separated_log_cdf(
    bounds: Tensor, rows: Sequence[Sequence[Tensor]], scales: Sequence[Tensor], df: float | None, points: int = 4096
) -> Tensor:
    r"""Log of :math:`P(X_1 \le b_1, …, X_M \le b_M)` by separation of variables.

    The law of each margin given the earlier ones is truncated at its bound; the mean over quasi-random points of the
    product of the truncation probabilities is the result. The points are the same in each call, so the result is
    a smooth function. For a t, one more coordinate draws the common scale.

    Args:
        bounds: Shape (M, N).
        rows: ``rows[i][j]`` for j < i, of the unit-diagonal factor: :math:`y_i = n_i x_i - \sum_j a_{ij} y_j`.
        scales: The :math:`n_i`.
        df: Degrees of freedom, or None for a normal.
        points: Number of points, a power of two; the relative error is about 1e-4 at 4096.

    Returns:
        Shape (N,).

    Source:
        Genz, *Numerical computation of multivariate normal probabilities*, 1992; Genz & Bretz, 2002, for the t.
    """
    size = bounds.shape[0]
    draws = _sobol(points, size if df is not None else size - 1).to(bounds)
    stretch = torch.ones(points, 1, dtype=bounds.dtype, device=bounds.device)
    if df is not None:
        from scipy.special import chdtri

        stretch = torch.as_tensor(chdtri(df, draws[:, -1].cpu().numpy()) / df).to(bounds).sqrt().unsqueeze(1)
    total = torch.zeros((), dtype=bounds.dtype, device=bounds.device)
    known: list[Tensor] = []
    for i in range(size):
        limit = scales[i] * bounds[i] * stretch  # (P, N)
        for j, y in enumerate(known):
            limit = limit - rows[i][j] * y
        log_p, _ = normal_log_tails(limit)
        total = total + log_p
        if i < size - 1:
            log_w = log_p + draws[:, i : i + 1].log()
            known.append(normal_score(log_w, torch.log(-torch.expm1(log_w))))
    return torch.logsumexp(total, 0) - math.log(points)
