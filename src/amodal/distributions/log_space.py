r"""Probabilities kept as logarithms: complements, double logarithms and the coefficients of copula densities.

A probability :math:`u` next to 0 is exact as :math:`\log u`, next to 1 as :math:`\log(1-u)`. Everything here therefore
takes and gives logarithms, and every branch is guarded *inside* (the argument is replaced before the function is
applied), because the gradient of an unselected branch is ``0 * inf = nan`` otherwise.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

__all__ = [
    "FEW_MARGINS",
    "LOG_HALF",
    "cholesky_factor",
    "eulerian_weights",
    "log1mexp",
    "log1mexp_of_log",
    "log_complement",
    "log_expm1_ratio",
    "log_neg_log",
    "log_stirling_second",
    "logaddexp",
    "softplus_and_log",
    "some_above",
    "some_below",
    "switch_at",
]

LOG_HALF = math.log(0.5)
FEW_MARGINS = 6
"""Margins of which a GPU computes with all patterns of presence, instead of waiting for those that occur."""
_TINY_LOG = -16.0  # below, two terms of a series in e^x are exact to 2e-14


def some_below(x: Tensor, limit: float) -> bool:
    """Whether a rare branch is needed: some element lies below the limit. On a GPU always, to spare the wait."""
    return x.numel() > 0 and (x.is_cuda or bool(x.detach().amin() < limit))


def some_above(x: Tensor, limit: float) -> bool:
    """Whether some element lies above the limit; on a GPU always."""
    return x.numel() > 0 and (x.is_cuda or bool(x.detach().amax() > limit))


def cholesky_factor(matrix: Tensor) -> Tensor:
    """Lower Cholesky factors (…, M, M). On a GPU a matrix that has none gives NaN, to spare the wait for an error."""
    return torch.linalg.cholesky_ex(matrix)[0] if matrix.is_cuda else torch.linalg.cholesky(matrix)


def log1mexp(x: Tensor) -> Tensor:
    r""":math:`\log(1 - e^{-x})` for x > 0, with full relative precision at both ends.

    Args:
        x: Any shape, positive.

    Returns:
        The same shape; non-positive.

    Source:
        Maechler, *Accurately computing log(1 - exp(-|a|))*, 2012: two branches that meet at log 2.

    Example:
        >>> log1mexp(torch.tensor([1e-12, 0.6931471805599453, 50.0], dtype=torch.float64)).tolist()
        [-27.631..., -0.693..., -1.928...e-22]
    """
    return cast(Tensor, _Log1mExp.apply(x))


class _Log1mExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[override]
        ctx.save_for_backward(x)
        near = torch.log(-torch.expm1(-torch.clamp(x, max=1.0)))
        return switch_at(x, -LOG_HALF, near, torch.log1p(-torch.exp(-torch.clamp(x, min=0.5))))

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return grad * torch.exp(-x) / -torch.expm1(-x)


def switch_at(x: Tensor, limit: float, below: Tensor, above: Tensor) -> Tensor:
    """``torch.where(x < limit, below, above)`` of two *finite* tensors, several times faster on a CPU.

    At the limit itself the two are averaged, so they must agree there.
    """
    return torch.lerp(above, below, torch.sign(limit - x).add_(1.0).mul_(0.5))


class _LogAddExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):  # type: ignore[override]
        ctx.save_for_backward(a, b)
        return torch.logaddexp(a, b)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        a, b = ctx.saved_tensors
        difference = a - b
        first, second = grad * torch.sigmoid(difference), grad * torch.sigmoid(-difference)
        return first.sum_to_size(a.shape), second.sum_to_size(b.shape)


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    r""":math:`\log(e^a + e^b)` whose second derivative is finite too, however far apart a and b are."""
    return cast(Tensor, _LogAddExp.apply(a, b))


def log1mexp_of_log(log_x: Tensor) -> Tensor:
    r""":math:`\log(1 - e^{-x})` given :math:`\log x`, also where x underflows."""
    if not some_below(log_x, _TINY_LOG):
        return log1mexp(torch.exp(log_x))
    tiny = log_x < _TINY_LOG
    x = torch.exp(torch.where(tiny, 0.0, log_x))
    return torch.where(tiny, log_x - 0.5 * torch.exp(torch.where(tiny, log_x, _TINY_LOG)), log1mexp(x))


def log_complement(log_u: Tensor) -> Tensor:
    r""":math:`\log(1-u)` from :math:`\log u` (or the other way round).

    Example:
        >>> log_complement(torch.tensor([0.25]).log()).exp().item()
        0.75
    """
    return log1mexp(-log_u)


def log_neg_log(log_u: Tensor, log_1mu: Tensor) -> Tensor:
    r""":math:`\log(-\log u)` from both logarithms, also where :math:`\log u` has underflowed to zero.

    Args:
        log_u: :math:`\log u`, any shape.
        log_1mu: :math:`\log(1-u)`, the same shape.

    Returns:
        The same shape; for :math:`1-u < 10^{-7}` the series :math:`\log(1-u) + (1-u)/2` is used.
    """
    if not some_below(log_1mu, _TINY_LOG):
        return torch.log(-log_u)
    near_one = log_1mu < _TINY_LOG
    series = log_1mu + 0.5 * torch.exp(torch.where(near_one, log_1mu, _TINY_LOG))
    return torch.where(near_one, series, torch.log(-torch.where(near_one, -1.0, log_u)))


def log_expm1_ratio(y: Tensor) -> Tensor:
    r""":math:`\log\frac{1-e^{-y}}{y}` for any real y: smooth through :math:`y=0`, where it is 0.

    The derivative has a hand-written form, since differentiating :math:`\log(1-e^{-y}) - \log y` cancels near zero.

    Example:
        >>> log_expm1_ratio(torch.tensor([-1.0, 0.0, 1.0])).exp()
        tensor([1.7183, 1.0000, 0.6321])
    """
    return cast(Tensor, _LogExpm1Ratio.apply(y))


class _LogExpm1Ratio(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):  # type: ignore[override]
        ctx.save_for_backward(y)
        size, near = y.abs(), torch.clamp(y, -0.1, 0.1)
        square = near * near
        series = near * -0.5 + square * (1 / 24 - square * (1 / 2880 - square / 181440))
        size_far = torch.clamp(size, min=0.01)
        return switch_at(size, 0.05, series, torch.log(-torch.expm1(-size_far) / size_far) + torch.relu(-y))

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        (y,) = ctx.saved_tensors
        near = torch.clamp(y, -0.1, 0.1)
        square = near * near
        series = -0.5 + near * (1 / 12 - square * (1 / 720 - square / 30240))
        # 1 / (e^y - 1) = sign / (1 - e^{-|y|}) - [y > 0], so that nothing overflows
        sign, size = torch.sign(y), torch.clamp(y.abs(), min=0.01)
        large = sign * (-1.0 / torch.expm1(-size) - 1.0 / size) - 0.5 * (sign + 1.0)
        return grad * switch_at(y.abs(), 0.05, series, large)


class _SoftplusAndLog(torch.autograd.Function):
    @staticmethod
    def forward(ctx, raw):  # type: ignore[override]
        value = torch.nn.functional.softplus(raw, threshold=50.0)
        log_value = torch.log(value)
        if some_below(raw, -16.0):
            log_value = torch.where(raw < -16.0, raw - 0.5 * value, log_value)
        ctx.save_for_backward(raw, log_value)
        return value, log_value

    @staticmethod
    def backward(ctx, grad, grad_log):  # type: ignore[override]
        raw, log_value = ctx.saved_tensors
        log_sigmoid = torch.nn.functional.logsigmoid(raw)
        return grad * torch.exp(log_sigmoid) + grad_log * torch.exp(log_sigmoid - log_value)


def softplus_and_log(raw: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\log(1 + e^a)` and its logarithm, whose derivative stays near 1 where the former underflows."""
    return cast("tuple[Tensor, Tensor]", _SoftplusAndLog.apply(raw))


@lru_cache(maxsize=64)
def log_stirling_second(n: int) -> tuple[float, ...]:
    r""":math:`\log S_2(n, k)` for k = 1 … n, Stirling numbers of the second kind, from exact integers.

    Example:
        >>> [round(math.exp(value)) for value in log_stirling_second(4)]
        [1, 7, 6, 1]
    """
    row = [1]
    for size in range(2, n + 1):
        row = [(k * row[k - 1] if k < size else 0) + (row[k - 2] if k > 1 else 0) for k in range(1, size + 1)]
    return tuple(math.log(value) for value in row)


@lru_cache(maxsize=64)
def eulerian_weights(n: int) -> tuple[float, ...]:
    r"""Eulerian numbers :math:`A(n, k)/n!`, k = 0 … n-1, which sum to one; ``n = 0`` gives ``(1.0,)``.

    The polylogarithm of order -n is :math:`h E_n(h) / (1-h)^{n+1}` with :math:`E_n(h) = \sum_k A(n,k) h^k`.

    Example:
        >>> [round(6 * value) for value in eulerian_weights(3)]
        [1, 4, 1]
    """
    row = [1]
    for size in range(2, n + 1):
        row = [
            (k + 1) * (row[k] if k < size - 1 else 0) + (size - k) * (row[k - 1] if k > 0 else 0) for k in range(size)
        ]
    total = math.factorial(max(n, 1))
    return tuple(value / total for value in row)
