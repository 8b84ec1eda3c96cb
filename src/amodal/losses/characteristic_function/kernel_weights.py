"""Weights of a kernel regression on contexts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from amodal.errors import ConfigurationError, DataError, ShapeError

__all__ = [
    "Bandwidth",
    "Distance",
    "NeighbourShare",
    "effective_sample_size",
    "kernel_weights",
    "median_bandwidth",
    "neighbour_weights",
    "share_widths",
    "squared_distances",
]

Distance = Literal["raw", "per_dimension"]


@dataclass(frozen=True)
class NeighbourShare:
    """A bandwidth of each query's own: its weights' effective sample size is a share of the references.

    Args:
        share: The share, in (0, 1]; at least two references count, where there are two.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigurationError(
                "the share of neighbours is out of range", expected="0 < share <= 1", got=self.share
            )


Bandwidth = float | Tensor | Literal["median"] | NeighbourShare

# Widths are sought among so many powers of two, and the one that is found improved so many times.
_POWERS = 24
_STEPS = 5

# Up to this many multiplications, distances are differenced coordinate by coordinate instead of taken from a product.
_EXACT_UP_TO = 2**17


def kernel_weights(
    query: Tensor, reference: Tensor, bandwidth: Bandwidth = 1.0, *, distance: Distance = "raw"
) -> Tensor:
    r"""Weights of the Nadaraya-Watson estimator with a Gaussian kernel.

    .. math::
        w_{ij} = \frac{\kappa(c_i, c_j)}{\sum_{j'} \kappa(c_i, c_{j'})}, \qquad
        \kappa(c_i, c_j) = \exp\Bigl(-\frac{\lVert c_i - c_j \rVert^2}{2 \sigma^2}\Bigr)

    They are a softmax over the references, so that a query far away from all of them still gets weights, and they are
    computed in float64 (where the device has it): with a small bandwidth the nearest neighbour is decided by digits
    that float32 does not keep.

    Args:
        query: Contexts :math:`c_i` of the queries, of shape (Q, E).
        reference: Contexts :math:`c_j` of the references, of shape (N, E).
        bandwidth: Width :math:`\sigma` of the kernel, in units of the distance, ``"median"`` for the median of the
            distances between queries and references, or a `NeighbourShare`. Infinity gives uniform weights.
        distance: ``"raw"``, as in the equation, or ``"per_dimension"``, which divides squared distances by E. With E
            coordinates of unit variance squared raw distances are about 2E: in high dimension a width of 1 then
            singles out the nearest neighbour, while a width of 1 per dimension keeps most of the sample.

    Returns:
        Weights, of shape (Q, N), float32 or wider; each row adds up to one. Differentiable in both contexts.

    Raises:
        ShapeError: If the two are not matrices of equal width.
        ConfigurationError: If the bandwidth is not positive, or the distance unknown.
        DataError: If a context is not finite.

    Source:
        :cite:`choi2025cepa`, eq. 9.

    Example:
        >>> import torch
        >>> kernel_weights(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [1.0, 1.0]]), bandwidth=1.0)
        tensor([[0.7311, 0.2689]])
    """
    squared = squared_distances(query, reference, distance=distance)
    if isinstance(bandwidth, NeighbourShare):
        width = share_widths(squared, torch.ones_like(squared, dtype=torch.bool), bandwidth.share)
    else:
        width = _median(squared.detach()) if _is_median(bandwidth) else _checked(bandwidth)
    return _softmax(squared, width).to(_at_least_float32(query))


def neighbour_weights(
    observed_context: Tensor,
    predicted_context: Tensor,
    bandwidth: Bandwidth = 1.0,
    *,
    distance: Distance = "raw",
) -> tuple[Tensor, Tensor]:
    """Weights of the rows that have a modality, and of those that lack it, around each row that lacks it.

    Both sides use one bandwidth, and are normalised apart. With a `NeighbourShare` the bandwidth is that of the rows
    that have the modality, and among those that lack it the query itself weighs as much as its nearest neighbour: at a
    distance of zero, where all others are far in many dimensions, it would have nearly all of the weight.

    Args:
        observed_context: Contexts of the rows that have the modality, of shape (n, E).
        predicted_context: Contexts of the rows that lack it, the queries, of shape (n', E).
        bandwidth: As in :func:`kernel_weights`; ``"median"`` is :func:`median_bandwidth` of the two.
        distance: As in :func:`kernel_weights`.

    Returns:
        Weights of shape (n', n) and (n', n'). A query is among its own neighbours on the predicted side.

    Raises:
        ShapeError: If the two are not matrices of equal width.
        ConfigurationError: If the bandwidth is not positive, or the distance unknown.
        DataError: If a context is not finite.

    Source:
        :cite:`choi2025cepa`, eqs. 9 to 11.
    """
    n, dtype = observed_context.shape[0], _at_least_float32(predicted_context)
    squared = _squared_to_both(observed_context, predicted_context, distance)  # (n', n + n')
    if isinstance(bandwidth, NeighbourShare):
        width = share_widths(squared[:, :n], torch.ones_like(squared[:, :n], dtype=torch.bool), bandwidth.share)
        itself = torch.eye(len(squared), dtype=torch.bool, device=squared.device)
        among = with_itself_as_nearest(squared[:, n:], itself)
        return _softmax(squared[:, :n], width).to(dtype), _softmax(among, width).to(dtype)
    width = _median_without_self(squared.detach(), n) if _is_median(bandwidth) else _checked(bandwidth)
    return _softmax(squared[:, :n], width).to(dtype), _softmax(squared[:, n:], width).to(dtype)


def median_bandwidth(observed_context: Tensor, predicted_context: Tensor, *, distance: Distance = "raw") -> Tensor:
    """Median of the distances from each query to all rows of both sides but itself.

    Args:
        observed_context: Contexts of the rows that have the modality, of shape (n, E).
        predicted_context: Contexts of the rows that lack it, the queries, of shape (n', E).
        distance: As in :func:`kernel_weights`.

    Returns:
        A positive scalar, shape (), without a gradient. If most of the contexts coincide, the root of the mean squared
        distance takes the median's place, and 1 if all of them do or there is no pair.

    Raises:
        ShapeError: If the two are not matrices of equal width.
        DataError: If a context is not finite.

    Example:
        >>> import torch
        >>> median_bandwidth(torch.tensor([[1.0], [2.0], [7.0]]), torch.tensor([[0.0]])).item()
        2.0
    """
    squared = _squared_to_both(observed_context.detach(), predicted_context.detach(), distance)
    return _median_without_self(squared, observed_context.shape[0])


def with_itself_as_nearest(squared: Tensor, itself: Tensor) -> Tensor:
    """Squared distances (Q, N) of which that to the query itself, bool (Q, N), is that to its nearest neighbour."""
    nearest = squared.masked_fill(itself, math.inf).amin(1, keepdim=True) if squared.shape[1] else squared
    return torch.where(itself & nearest.isfinite(), nearest, squared) if squared.shape[1] else squared


@torch.no_grad()
def share_widths(squared: Tensor, references: Tensor, share: float) -> Tensor:
    r"""Widths of the kernel at which each query's effective sample size is a share of its references.

    .. math:: \Bigl(\sum_j \kappa_{ij}\Bigr)^2 \Big/ \sum_j \kappa_{ij}^2 = \max(2, s N_i), \qquad
        \kappa_{ij} = \exp\bigl(-D_{ij}^2 / (2 \sigma_i^2)\bigr)

    The left side falls with :math:`\beta = 1/(2\sigma^2)`. It is computed for powers of two, where each kernel is the
    square of the one before, and from the last one above the share on by Newton's method, never out of the interval.

    Args:
        squared: Squared distances :math:`D^2`, of shape (Q, N).
        references: Which of them count, bool, of shape (Q, N).
        share: The share s, in (0, 1].

    Returns:
        Widths, of shape (Q, 1), without a gradient; infinity where all references shall weigh the same.

    Source:
        The perplexity of :cite:`vandermaaten2008tsne` with the effective sample size in the place of the entropy.

    Example:
        >>> import torch
        >>> squared = torch.tensor([[1.0, 4.0, 9.0, 16.0, 25.0, 36.0]])
        >>> width = share_widths(squared, torch.ones(1, 6, dtype=torch.bool), 0.5)
        >>> effective_sample_size(torch.softmax(-squared / (2 * width**2), 1))
        tensor([3.0000])
    """
    if squared.shape[1] == 0:
        return squared.new_ones(len(squared), 1)
    count = references.sum(1, keepdim=True).to(squared.dtype)  # (Q, 1)
    goal = torch.minimum((share * count).clamp(min=2.0), count)
    nearest = squared.masked_fill(~references, math.inf).amin(1, keepdim=True)
    gap = torch.where(references, squared - nearest, 0.0)
    scale = gap.sum(1, keepdim=True) / count.clamp(min=1)  # (Q, 1)
    unit = gap / scale.clamp_min(torch.finfo(gap.dtype).tiny)
    kernel, totals = torch.where(references, torch.exp(unit * -(2.0**-6)), 0.0), []
    for _ in range(_POWERS):
        totals.append(kernel.sum(1))
        kernel = kernel * kernel
    total = torch.stack(totals, dim=1)  # (Q, powers)
    sizes = total[:, :-1].square() / total[:, 1:]  # effective sample sizes, falling
    last = (sizes > goal).sum(1, keepdim=True).clamp(1, _POWERS - 2) - 1  # of two powers with the goal between them
    low, unit = (last - 6).float(), unit.float()
    log2_beta, high = low + 0.5, low + 1
    for _ in range(_STEPS):
        beta = torch.exp2(log2_beta)
        kernel = torch.where(references, torch.exp(-beta * unit), 0.0)
        square = kernel * kernel
        one, two = kernel.sum(1, keepdim=True), square.sum(1, keepdim=True)
        over = (2 * one.log() - two.log()) - goal.float().log()  # of the logarithm of the sample size
        low, high = torch.where(over > 0, log2_beta, low), torch.where(over > 0, high, log2_beta)
        slope = 2 * ((square * unit).sum(1, keepdim=True) / two - (kernel * unit).sum(1, keepdim=True) / one) * beta
        guess = log2_beta - over / (slope * math.log(2)).clamp_max(-1e-6)
        log2_beta = torch.where((guess >= low) & (guess <= high), guess, (low + high) / 2)
    beta = torch.exp2(log2_beta).to(squared.dtype) / scale.clamp_min(torch.finfo(gap.dtype).tiny)
    width = (1 / (2 * beta)).sqrt()
    return torch.where((goal < count) & (scale > 0), width, math.inf)


def effective_sample_size(weights: Tensor) -> Tensor:
    r"""Effective number of neighbours of a query: :math:`1 / \sum_j w_{ij}^2`.

    Args:
        weights: Weights of which each row adds up to one, of shape (Q, N).

    Returns:
        Numbers between 1 (one neighbour has all the weight) and N (all weigh the same), of shape (Q,); zero where
        there is no reference at all.

    Example:
        >>> import torch
        >>> effective_sample_size(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))
        tensor([2., 1.])
    """
    total = weights.square().sum(1)
    return torch.where(total > 0, 1 / total.clamp_min(torch.finfo(total.dtype).tiny), torch.zeros_like(total))


def squared_distances(query: Tensor, reference: Tensor, *, distance: Distance = "raw") -> Tensor:
    """Squared Euclidean distances between the rows of two matrices.

    Args:
        query: Of shape (Q, E).
        reference: Of shape (N, E).
        distance: ``"raw"``, or ``"per_dimension"`` for the mean over the E coordinates instead of their sum.

    Returns:
        Squared distances, of shape (Q, N), float64 where the device has it. Differentiable in both.

    Raises:
        ShapeError: If the two are not matrices of equal width.
        ConfigurationError: If the distance is unknown.
        DataError: If an entry is not finite.

    Example:
        >>> import torch
        >>> squared_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), distance="per_dimension").item()
        12.5
    """
    _check_contexts("query", query, "reference", reference, distance)
    squared = _distances(query, reference, distance)
    _check_finite(squared, query=query, reference=reference)
    return squared


def _squared_to_both(observed_context: Tensor, predicted_context: Tensor, distance: Distance) -> Tensor:
    """Squared distances from the queries to all rows, (n', n + n'), the queries themselves last."""
    _check_contexts("observed", observed_context, "predicted", predicted_context, distance)
    squared = _distances(predicted_context, torch.cat([observed_context, predicted_context]), distance)
    _check_finite(squared, observed=observed_context, predicted=predicted_context)
    return squared


def _distances(query: Tensor, reference: Tensor, distance: Distance) -> Tensor:
    wide = _at_least_float32(query) if query.device.type == "mps" else torch.float64
    exact = query.numel() * reference.shape[0] <= _EXACT_UP_TO
    mode = "donot_use_mm_for_euclid_dist" if exact else "use_mm_for_euclid_dist"
    squared = torch.cdist(query.to(wide), reference.to(wide), compute_mode=mode).square()
    return squared / query.shape[1] if distance == "per_dimension" else squared


def _softmax(squared: Tensor, width: float | Tensor) -> Tensor:
    """Softmax of -squared / (2 width**2), also where the square of the width underflows or overflows."""
    if squared.shape[1] == 0:
        return squared
    nearest = squared.detach().amin(1, keepdim=True)
    return torch.softmax((nearest - squared) / (2 * width) / width, dim=1)


def _median_without_self(squared: Tensor, n: int) -> Tensor:
    """Median bandwidth from (n', n + n') squared distances whose last n' columns are the queries themselves."""
    itself = torch.eye(squared.shape[0], dtype=torch.bool, device=squared.device)
    return _median(torch.cat([squared[:, :n].flatten(), squared[:, n:][~itself]]))


def _median(squared: Tensor) -> Tensor:
    if squared.numel() == 0:
        return squared.new_ones(())
    median = squared.median()
    width = torch.where(median > 0, median, squared.mean()).sqrt()
    return torch.where(width > 0, width, torch.ones_like(width))


def _is_median(bandwidth: Bandwidth) -> bool:
    return isinstance(bandwidth, str) and bandwidth == "median"


def _checked(bandwidth: float | Tensor | Literal["median"]) -> float | Tensor:
    if isinstance(bandwidth, Tensor) and bandwidth.dim() == 0:
        return bandwidth
    if isinstance(bandwidth, str | Tensor) or not bandwidth > 0:
        raise ConfigurationError("the bandwidth is not usable", expected="a number > 0 or 'median'", got=bandwidth)
    return bandwidth


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _check_contexts(name: str, context: Tensor, other_name: str, other: Tensor, distance: str) -> None:
    if context.dim() != 2 or other.dim() != 2 or context.shape[1] != other.shape[1] or context.shape[1] == 0:
        raise ShapeError(
            f"{name} and {other_name} contexts do not fit each other",
            expected="two matrices of equal width",
            got=f"{tuple(context.shape)} and {tuple(other.shape)}",
        )
    if distance not in ("raw", "per_dimension"):
        raise ConfigurationError("unknown distance", expected="'raw' or 'per_dimension'", got=repr(distance))


def _check_finite(squared: Tensor, **contexts: Tensor) -> None:
    if squared.is_cuda or math.isfinite(squared.detach().sum().item()):  # a GPU is not waited for: see the loss
        return
    for name, context in contexts.items():
        bad = (~context.isfinite()).any(1).nonzero().flatten()
        if len(bad):
            raise DataError(
                f"{len(bad)} of {len(context)} {name} contexts are not finite, the first in row {int(bad[0])}",
                hint="Look for absent values that were not blanked before they reached the context",
            )
    raise DataError("distances between contexts overflow", hint="Normalise the contexts")
