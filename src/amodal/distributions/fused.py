"""Functions that compute their own derivatives: one node in the graph instead of dozens.

A copula density is a few dozen elementwise operations on small tensors, where autograd's bookkeeping costs several
times the arithmetic. A *kernel* returns the value and its derivative with respect to each input in one pass. A *plain*
version of the same function, written in ordinary operations, is kept beside it: it is what the kernel is tested
against, and what runs when a gradient of the gradient is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from amodal.distributions.log_space import log_neg_log, some_below

__all__ = ["Kernel", "Plain", "fused", "log_neg_log_slopes", "softplus_and_log"]

Plain = Callable[..., Tensor]
Kernel = Callable[..., tuple[Tensor, Sequence["Tensor | None"]]]


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plain, kernel, *inputs):  # type: ignore[override]
        value, slopes = kernel(*inputs)
        ctx.plain, ctx.given = plain, [s is not None for s in slopes]
        ctx.save_for_backward(*inputs, *(s for s in slopes if s is not None))
        return value

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        count = len(ctx.given)
        inputs = ctx.saved_tensors[:count]
        needed = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # a graph of the gradient is wanted
            wanted = [x for x, need in zip(inputs, needed, strict=True) if need]
            found = iter(torch.autograd.grad(ctx.plain(*inputs), wanted, grad, create_graph=True, allow_unused=True))
            return None, None, *(next(found) if need else None for need in needed)
        slopes = iter(ctx.saved_tensors[count:])
        results: list[Tensor | None] = []
        for x, need, given in zip(inputs, needed, ctx.given, strict=True):
            slope = next(slopes) if given else None
            results.append((slope * grad).sum_to_size(x.shape) if need and slope is not None else None)
        return None, None, *results


def fused(plain: Callable[..., Tensor], kernel: Kernel, *inputs: Tensor) -> Tensor:
    """Evaluate a kernel where a gradient is wanted, and the plain version where none is.

    Args:
        plain: The function in ordinary operations.
        kernel: Returns the value and, for each input, its derivative (or None where it is zero), in a shape that
            multiplies the gradient of the value and sums to the shape of the input.
        inputs: Arguments of both.

    Returns:
        The value.
    """
    if not torch.is_grad_enabled() or not any(x.requires_grad for x in inputs):
        return plain(*inputs)
    return cast(Tensor, _Fused.apply(plain, kernel, *inputs))


def log_neg_log_slopes(log_u: Tensor, log_1mu: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    r""":math:`\log(-\log u)` and its derivatives in :math:`\log u` and :math:`\log(1-u)` (None where all are zero)."""
    slope = 1.0 / log_u
    if not some_below(log_1mu, -16.0):
        return torch.log(-log_u), slope, None
    near_one = log_1mu < -16.0
    in_log_1mu = torch.where(near_one, 1.0 + 0.5 * torch.exp(log_1mu), 0.0)
    return log_neg_log(log_u, log_1mu), torch.where(near_one, 0.0, slope), in_log_1mu


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
