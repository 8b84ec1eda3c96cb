r"""Student's t in log space: both tails and scores, with gradients in the argument (not in the degrees of freedom).

Scores have closed forms for 1, 2 and 4 degrees of freedom, which is what training should use. Everything else is
computed by SciPy in float64, without a graph and on the CPU, and the gradient, which *is* elementary, is attached.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from torch import Tensor

from amodal.distributions.log_space import some_below

__all__ = ["student_log_density", "student_log_tails", "student_score", "student_score_slopes"]

_DEEP = -650.0  # log p below which p would underflow in float64
_SHALLOW = {torch.float32: -75.0, torch.float64: -650.0}  # where the closed forms hold


def student_log_density(x: Tensor, df: float | Tensor) -> Tensor:
    r"""Log density of Student's t with ``df`` degrees of freedom at x."""
    df = torch.as_tensor(df, dtype=x.dtype, device=x.device)
    constant = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - 0.5 * torch.log(df * math.pi)
    return constant - (df + 1) / 2 * log1p_square(x, df)


def log1p_square(x: Tensor, df: float | Tensor) -> Tensor:
    r""":math:`\log(1 + x^2/\nu)`, also where the square overflows."""
    size = x.abs() / torch.as_tensor(df, dtype=x.dtype, device=x.device) ** 0.5
    large = size > 1e8
    return torch.where(
        large, 2 * torch.log(torch.where(large, size, 1.0)), torch.log1p(torch.where(large, 1.0, size) ** 2)
    )


def _series(log_z: np.ndarray, half: np.ndarray) -> np.ndarray:
    r"""log of :math:`a B(a, 1/2)\, z^{-a} I_z(a, 1/2)` by its positive series; z up to about a half."""
    z = np.exp(log_z)
    term, total = np.ones_like(z), np.ones_like(z)
    for n in range(80):
        term = term * (half + 0.5 + n) / (half + 1 + n) * z
        total = total + term
    return 0.5 * np.log1p(-z) + np.log(total)


def _log_beta_scale(half: np.ndarray) -> np.ndarray:
    from scipy.special import betaln

    return np.log(half) + betaln(half, 0.5)


def _far_log_tail(x: np.ndarray, df: np.ndarray) -> np.ndarray:
    log_z = -np.logaddexp(0.0, 2 * np.log(x) - np.log(df))
    return df / 2 * log_z + _series(log_z, df / 2) - _log_beta_scale(df / 2) - math.log(2.0)


def _far_log_score(log_p: np.ndarray, df: np.ndarray) -> np.ndarray:
    """log a with log T(-a) = log p far out; a fixed point that contracts by about z / df a step."""
    start = (log_p + math.log(2.0) + _log_beta_scale(df / 2)) / (df / 2)
    log_z = np.minimum(start, -0.5)
    for _ in range(12):
        log_z = np.minimum(start - _series(log_z, df / 2) / (df / 2), -0.5)
    return 0.5 * (np.log(df) + np.log1p(-np.exp(log_z)) - log_z)


def _smaller_tail(x: Tensor, df: Tensor) -> Tensor:
    """log T(-\\|x\\|)."""
    from scipy.special import stdtr

    size, nu = np.broadcast_arrays(x.abs().double().cpu().numpy(), df.double().cpu().numpy())
    tail = np.where(nu == 1, np.arctan2(1.0, size) / math.pi, stdtr(nu, -size))  # SciPy has 1e-9 only at nu = 1
    with np.errstate(divide="ignore"):
        result = np.log(tail)
    far = result < _DEEP
    if far.any():
        result = result.copy()
        result[far] = _far_log_tail(size[far], nu[far])
    return torch.as_tensor(result, dtype=x.dtype, device=x.device)


class _StudentLogTails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, df):  # type: ignore[override]
        smaller = _smaller_tail(x, df)
        larger = torch.log1p(-torch.exp(smaller))
        negative = x < 0
        lower, upper = torch.where(negative, smaller, larger), torch.where(negative, larger, smaller)
        ctx.save_for_backward(x, df, lower, upper)
        return lower, upper

    @staticmethod
    def backward(ctx, grad_lower, grad_upper):  # type: ignore[override]
        x, df, lower, upper = ctx.saved_tensors
        log_density = student_log_density(x, df)
        grad = grad_lower * torch.exp(log_density - lower) - grad_upper * torch.exp(log_density - upper)
        return grad.sum_to_size(x.shape), None


def student_log_tails(x: Tensor, df: float | Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\log T_\nu(x)` and :math:`\log T_\nu(-x)`.

    Args:
        x: Any shape.
        df: Degrees of freedom, a number or a tensor that broadcasts against x; it gets no gradient.

    Returns:
        Two tensors.

    Example:
        >>> lower, upper = student_log_tails(torch.tensor([-1.0, 0.0], dtype=torch.float64), 1.0)
        >>> lower.exp().tolist()
        [0.25, 0.5]
    """
    df = torch.as_tensor(df, dtype=x.dtype, device=x.device)
    return cast("tuple[Tensor, Tensor]", _StudentLogTails.apply(x, df))


_CLOSED = (1.0, 2.0, 4.0)


def _closed_score(log_p: Tensor, df: float) -> tuple[Tensor, Tensor]:
    """The upper quantile a of a tail p <= 1/2, and -da / d log p, for 1, 2 or 4 degrees of freedom."""
    p = torch.exp(log_p)
    if df == 1:
        sine = torch.sin(math.pi * p)
        return torch.cos(math.pi * p) / sine, math.pi * p / (sine * sine)
    if df == 2:
        root = torch.rsqrt(2 * p * (1 - p))
        return (1 - 2 * p) * root, p * root**3
    # With y = x / sqrt(4 + x^2) and e = 1 - y: e^2 (3 - e) = 4p, by Newton's method from its leading term
    e = torch.exp(0.5 * (log_p + math.log(4 / 3)))
    goal = 4 * p
    for _ in range(3 if p.dtype == torch.float32 else 5):
        square = e * e
        e = (3 * square - 2 * square * e + goal).div_(6 * e - 3 * square)
    root = torch.rsqrt(e * (2 - e))
    return 2 * (1 - e) * root, (2 / 3) * (3 - e) * (e * root) ** 2 * root**3


def student_score_slopes(log_u: Tensor, log_1mu: Tensor, df: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r""":func:`student_score` and its derivatives in :math:`\log u` and :math:`\log(1-u)`, without a graph."""
    log_p = torch.minimum(log_u, log_1mu)
    side = torch.sign(log_u - log_1mu)  # 1 in the upper half
    shallow = _SHALLOW[log_p.dtype]
    if not isinstance(df, Tensor) and df in _CLOSED and (log_p.is_cuda or not some_below(log_p, shallow)):
        a, slope = _closed_score(log_p.clamp_min(shallow), df)
    else:
        wide = torch.as_tensor(df, dtype=torch.float64, device=log_p.device)
        a = _general_score(log_p.double(), wide)
        slope = torch.exp(log_p - student_log_density(a, wide))
        limit = torch.finfo(log_u.dtype).max / 1e3
        a, slope = a.clamp(max=limit).to(log_u.dtype), slope.clamp(max=limit).to(log_u.dtype)
    in_log_u = slope * (0.5 - 0.5 * side)
    return a * side, in_log_u, in_log_u - slope


class _StudentScore(torch.autograd.Function):
    @staticmethod
    def forward(ctx, log_u, log_1mu, df):  # type: ignore[override]
        score, *slopes = student_score_slopes(log_u, log_1mu, df)
        ctx.df, ctx.shape = df, log_u.shape
        ctx.save_for_backward(score, *slopes)
        return score

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        score, in_log_u, in_log_1mu = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is wanted
            upper = in_log_1mu != 0
            log_p = torch.where(upper, student_log_tails(-score, ctx.df)[0], student_log_tails(score, ctx.df)[0])
            slope = torch.exp(log_p - student_log_density(score, ctx.df))
            in_log_u, in_log_1mu = torch.where(upper, 0.0, slope), torch.where(upper, -slope, 0.0)
        return (grad * in_log_u).sum_to_size(ctx.shape), (grad * in_log_1mu).sum_to_size(ctx.shape), None


def _general_score(log_p: Tensor, df: Tensor) -> Tensor:
    """The upper quantile of a tail for any degrees of freedom, in float64: SciPy, and beyond its range a series."""
    from scipy.special import stdtrit

    tail, nu = np.broadcast_arrays(log_p.cpu().numpy(), df.cpu().numpy())
    a = -stdtrit(nu, np.exp(np.maximum(tail, _DEEP)))
    deep = tail < _DEEP
    if deep.any():
        a = np.array(a)
        a[deep] = np.exp(np.minimum(_far_log_score(tail[deep], nu[deep]), 700.0))
    return torch.as_tensor(a, device=log_p.device)


def student_score(log_u: Tensor, log_1mu: Tensor, df: float | Tensor) -> Tensor:
    r""":math:`T_\nu^{-1}(u)` from both logarithms.

    Args:
        log_u: :math:`\log u`, any shape.
        log_1mu: :math:`\log(1-u)`, the same shape.
        df: Degrees of freedom, a number or a tensor that broadcasts; it gets no gradient.

    Returns:
        The score; scores beyond the range of the dtype stop at its end.

    Source:
        Shaw, *Sampling Student's T distribution: use of the inverse cumulative distribution function*, 2006, for the
        closed forms; Hill's and Boost's algorithms, as SciPy has them, for the rest.

    Example:
        >>> u = torch.tensor([0.25, 0.5, 0.975], dtype=torch.float64)
        >>> student_score(u.log(), torch.log1p(-u), 4.0).tolist()
        [-0.7406..., 0.0, 2.7764...]
    """
    return cast(Tensor, _StudentScore.apply(log_u, log_1mu, df))
