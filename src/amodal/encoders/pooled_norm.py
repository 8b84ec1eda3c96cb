"""BatchNorm, 2×2 max-pooling and ReLU in one operation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["ConvolutionBlock", "normalised_pool"]


class ConvolutionBlock(nn.Sequential):
    """A convolution without bias, BatchNorm, 2×2 max-pooling and ReLU.

    The maximum and ReLU commute, and this way round ReLU has a quarter of the work. On a CPU in single precision the
    maxima are taken first of all: in training by `normalised_pool`, whose values and gradients are the same up to
    rounding, in prediction where no weight of the norm is negative. Elsewhere torch's own layers run.

    Args:
        n_in: Channels of the input.
        n_out: Channels of the output.
        size: Side of the convolution's kernel, odd; the map keeps its size before pooling.
    """

    def __init__(self, n_in: int, n_out: int, size: int):
        super().__init__(
            nn.Conv2d(n_in, n_out, size, padding=size // 2, bias=False),
            nn.BatchNorm2d(n_out),
            nn.MaxPool2d(2),
            nn.ReLU(),
        )

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C', H // 2, W // 2)."""
        maps, norm = self[0](input), self[1]
        if not isinstance(norm, nn.BatchNorm2d) or maps.device.type != "cpu" or maps.dtype != torch.float32:
            return self[3](self[2](norm(maps)))
        if self.training:
            return normalised_pool(maps, norm)
        if bool((norm.weight >= 0).all()):
            highest = _pairs(_quads(maps.permute(0, 2, 3, 1)))[1]
            return self[3](norm(highest.permute(0, 3, 1, 2)))
        return self[3](self[2](norm(maps)))


def normalised_pool(maps: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    r"""ReLU of the 2×2 maxima of a batch norm in training, with the running statistics updated.

    A normalisation is a rising line for each channel (a falling one where its weight is negative), so that the
    maxima can be taken first and normalised after: everything but the statistics then has a quarter of the numbers to
    work on, and of the backward pass only the spreading of the gradient has all of them. Of equal maxima the left, then
    the upper one gets the gradient.

    Args:
        maps: Of shape (N, C, H, W), single precision, fastest with channels last; H and W at least 2.
        norm: A batch norm of C channels with weight and bias.

    Returns:
        Of shape (N, C, H // 2, W // 2), channels last.
    """
    assert norm.momentum is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    pooled, mean, variance = _NormalisedPool.apply(maps, norm.weight, norm.bias, norm.eps)  # type: ignore[misc]
    n = maps.numel() // maps.shape[1]
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (n / max(n - 1, 1)), norm.momentum)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked += 1
    return pooled


class _NormalisedPool(torch.autograd.Function):
    """Values and gradient of `normalised_pool`. Inside, channels come last: (N, H, W, C)."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        x = maps.permute(0, 2, 3, 1).contiguous()
        n_channels, rows = x.shape[3], x.view(-1, x.shape[2] * x.shape[3])  # long rows: vectorised over W and C
        mean = _over_width(rows.sum(0), n_channels) / (x.numel() // n_channels)
        deviations = rows - mean.repeat(x.shape[2])
        variance = _over_width(deviations.square_().sum(0), n_channels) / (x.numel() // n_channels)
        scale = weight / (variance + eps).sqrt()
        flipped = _flipped(x, scale)
        highest = _pairs(_quads(flipped))[1]  # (N, h, w, C)
        normalised = torch.addcmul(bias - scale * mean, highest, scale.abs())
        ctx.save_for_backward(x, weight, mean, variance, normalised)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return normalised.relu().permute(0, 3, 1, 2), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, variance, normalised = ctx.saved_tensors
        above = torch.ops.aten.threshold_backward(gradients[0].permute(0, 2, 3, 1), normalised, 0)  # (N, h, w, C)
        n, n_channels, width = x.numel() // x.shape[3], x.shape[3], x.shape[2]
        deviation = (variance + ctx.eps).sqrt()
        scale = weight / deviation
        quads = _quads(_flipped(x, scale))
        upper, highest = _pairs(quads)
        standard = (highest * _sign(scale) - mean) / deviation
        of_bias, of_weight = above.sum((0, 1, 2)), (above * standard).sum((0, 1, 2))

        spread = above * scale
        sides = _share(upper[..., :n_channels], highest, spread, dim=3).flatten(3)  # (N, h, w, 2C)
        inner = _share(quads[:, :, 0], upper, sides, dim=2).view(len(x), 2 * quads.shape[1], -1, n_channels)
        if inner.shape == x.shape:
            result = inner
        else:  # an odd last row or column is in the statistics but in no maximum
            result = torch.zeros_like(x)
            result[:, : inner.shape[1], : inner.shape[2]] = inner
        slope = -scale * of_weight / (deviation * n)
        level = -scale * of_bias / n - slope * mean
        rows = result.view(-1, width * n_channels)
        rows.addcmul_(x.view_as(rows), slope.repeat(width)).add_(level.repeat(width))
        return result.permute(0, 3, 1, 2), of_weight, of_bias, None


def _over_width(total: Tensor, n_channels: int) -> Tensor:
    """Sums of each place in a row (W · C,) to sums of each channel (C,)."""
    return total.view(-1, n_channels).sum(0)


def _sign(scale: Tensor) -> Tensor:
    return torch.where(scale < 0, -1.0, 1.0)


def _share(first: Tensor, larger: Tensor, gradient: Tensor, *, dim: int) -> Tensor:
    """The gradient of the larger of two, for the first where it is the larger, and for the second, along a new axis.

    Comparisons are written as numbers: torch has no vector instructions for those that give bools.
    """
    shape = list(gradient.shape)
    shape.insert(dim, 2)
    both = gradient.new_empty(shape)
    of_first, of_second = both.unbind(dim)
    torch.eq(first, larger, out=of_first).mul_(gradient)
    torch.sub(gradient, of_first, out=of_second)
    return both


def _flipped(x: Tensor, scale: Tensor) -> Tensor:
    """The maps, with the opposite sign where the normalisation turns maxima into minima."""
    return x * _sign(scale) if bool((scale < 0).any()) else x


def _quads(x: Tensor) -> Tensor:
    """Maps (N, H, W, C) as (N, h, 2, w, 2C): upper and lower row, left and right channels beside one another."""
    n, height, width, n_channels = x.shape
    h, w = height // 2, width // 2
    return x[:, : 2 * h, : 2 * w].reshape(n, h, 2, w, 2 * n_channels)


def _pairs(quads: Tensor) -> tuple[Tensor, Tensor]:
    """The larger of upper and lower, (N, h, w, 2C), and of all four, (N, h, w, C)."""
    taller = torch.maximum(quads[:, :, 0], quads[:, :, 1])
    n_channels = taller.shape[3] // 2
    return taller, torch.maximum(taller[..., :n_channels], taller[..., n_channels:])
