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

__all__ = ["student_log_density", "student_log_tails", "student_score"]

_DEEP = -650.0  # log p below which p would underflow in float64


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


def _closed_score(p: Tensor, df: float) -> Tensor:
    """The upper quantile a of a tail p <= 1/2 for 1, 2 or 4 degrees of freedom."""
    if df == 1:
        return torch.cos(math.pi * p) / torch.sin(math.pi * p)
    spread = 4 * p * (1 - p)
    if df == 2:
        return (1 - 2 * p) * torch.sqrt(2 / spread)
    # 4 cos(arccos(sqrt(s)) / 3) / sqrt(s) - 4 = x^2, without its cancellation next to s = 1
    root = torch.sqrt(spread)
    angle = torch.atan2(1 - 2 * p, root) / 3  # arccos(root), as 1 - s = (1 - 2p)^2
    sine = torch.sin(angle)
    # cos(angle) - cos(3 angle) = 4 sin(angle)^2 cos(angle)
    return 4 * sine * torch.sqrt(torch.cos(angle) / root)


class _StudentScore(torch.autograd.Function):
    @staticmethod
    def forward(ctx, log_u, log_1mu, df):  # type: ignore[override]
        from scipy.special import stdtrit

        lower = log_u < log_1mu
        log_p = torch.minimum(log_u, log_1mu).double()
        value = float(df) if df.ndim == 0 else math.nan
        if value in (1.0, 2.0, 4.0):
            a = _closed_score(torch.exp(log_p.clamp_min(_DEEP)), value)
        else:
            clamped, nu = np.broadcast_arrays(log_p.clamp_min(_DEEP).cpu().numpy(), df.double().cpu().numpy())
            a = torch.as_tensor(-stdtrit(nu, np.exp(clamped)), device=log_u.device)
        deep = log_p < _DEEP
        if bool(deep.any()):
            nu = df.double().expand(a.shape)[deep.expand(a.shape)].cpu().numpy()
            far = _far_log_score(log_p.expand(a.shape)[deep.expand(a.shape)].cpu().numpy(), nu)
            a = a.clone()
            a[deep.expand(a.shape)] = torch.as_tensor(np.exp(np.minimum(far, 700.0)), device=a.device)
        limit = torch.finfo(log_u.dtype).max / 1e3
        score = torch.where(lower, -a, a).clamp(-limit, limit).to(log_u.dtype)
        ctx.save_for_backward(log_u, log_1mu, df, score, lower)
        return score

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        log_u, log_1mu, df, score, lower = ctx.saved_tensors
        log_p = torch.where(lower, log_u, log_1mu)
        slope = grad * torch.exp(log_p - student_log_density(score, df))  # |dx / d log p| = p / t(x)
        slope = slope.sum_to_size(log_u.shape)
        return torch.where(lower, slope, 0.0), torch.where(lower, 0.0, -slope), None


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
    df = torch.as_tensor(df, dtype=log_u.dtype, device=log_u.device)
    return cast(Tensor, _StudentScore.apply(log_u, log_1mu, df))
