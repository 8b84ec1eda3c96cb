"""k-means for many small problems at once.

Every problem gets the same stream of random numbers, so that its answer depends neither on which other problems are
solved with it nor on how they are cut into batches. The stream and the steps are those of scikit-learn's ``KMeans``,
which makes that library an oracle for each single problem.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["kmeans_assignment", "kmeans_seeds"]


def kmeans_seeds(points: Tensor, clusters: int, *, seed: int = 0) -> Tensor:
    r"""Greedy k-means++ seeding of N problems at once.

    The first seed is a point drawn uniformly; every further one is the best, by the sum of squared distances that
    remains, of :math:`2 + \lfloor \log K \rfloor` candidates drawn in proportion to their squared distance to the
    nearest seed so far.

    Args:
        points: The points of each problem, of shape (N, S, D).
        clusters: How many seeds K, at most S.
        seed: Seed of the stream of random numbers that all problems share; the same as scikit-learn's
            ``random_state`` of a k-means with one start.

    Returns:
        Indices of the seeds among the points, of shape (N, K), int64.

    Source:
        :cite:`arthur2007kmeans`; the greedy version as in :cite:`pedregosa2011scikit`.

    Example:
        >>> points = torch.tensor([[[0.0], [0.1], [9.0], [9.1]]])
        >>> sorted((kmeans_seeds(points, 2)[0] // 2).tolist())
        [0, 1]
    """
    problems, draws, _ = points.shape
    # RandomState, not Generator: its stream is frozen for good, and it is the one of the oracle.
    stream = np.random.RandomState(seed)
    candidates = 2 + int(math.log(clusters))
    first = min(int(stream.random_sample() * draws), draws - 1)
    norms = points.square().sum(-1)  # (N, S)
    chosen = torch.full((problems, clusters), first, dtype=torch.int64, device=points.device)
    nearest = _squared_distances(points, norms, chosen[:, :1]).squeeze(1)  # (N, S)
    for place in range(1, clusters):
        uniform = torch.from_numpy(stream.uniform(size=candidates)).to(points.device)
        cumulative = nearest.cumsum(-1, dtype=torch.float64)
        tried = torch.searchsorted(cumulative, uniform * cumulative[:, -1:]).clamp_(max=draws - 1)  # (N, candidates)
        distances = torch.minimum(_squared_distances(points, norms, tried), nearest.unsqueeze(1))
        best = distances.sum(-1).argmin(-1, keepdim=True)  # (N, 1)
        chosen[:, place] = tried.gather(1, best).squeeze(1)
        nearest = distances.gather(1, best.unsqueeze(-1).expand(-1, -1, draws)).squeeze(1)
    return chosen


def kmeans_assignment(
    points: Tensor, clusters: int, *, seed: int = 0, max_iterations: int = 300, tolerance: float = 1e-4
) -> Tensor:
    """Clusters of N problems at once by k-means (Lloyd's iterations from greedy k-means++ seeds).

    A problem stops when its centres move by no more than `tolerance` times the mean variance of its points; problems
    that have stopped cost nothing more. A cluster that loses all its points takes the point farthest from its centre.

    Args:
        points: The points of each problem, of shape (N, S, D).
        clusters: How many clusters K, at most S.
        seed: Seed of the stream of random numbers that all problems share.
        max_iterations: Largest number of iterations.
        tolerance: Squared movement of the centres, in units of the mean variance, at which a problem has converged.

    Returns:
        Membership, one-hot over the K clusters, of shape (N, K, S), of the dtype of `points`.

    Source:
        :cite:`lloyd1982least`; stopping and empty clusters as in :cite:`pedregosa2011scikit`.

    Example:
        >>> points = torch.tensor([[[0.0], [0.1], [9.0], [9.1]]])
        >>> kmeans_assignment(points, 2)[0].sum(-1)
        tensor([2., 2.])
    """
    centred = points - points.mean(1, keepdim=True)
    limit = tolerance * centred.square().mean((1, 2))
    seeds = kmeans_seeds(centred, clusters, seed=seed)
    centres = centred.gather(1, seeds.unsqueeze(-1).expand(-1, -1, centred.shape[-1]))  # (N, K, D)
    final = centres.clone()
    augmented = torch.cat([centred, torch.ones_like(centred[..., :1])], -1).mT.contiguous()  # (N, D + 1, S)
    active, columns = torch.arange(len(points), device=points.device), augmented
    running = torch.ones_like(active, dtype=torch.bool)
    for _ in range(max_iterations):
        moved = _lloyd_step(columns, centres)
        final[active[running]] = moved[running]
        running &= (moved - centres).square().sum((1, 2)) > limit[active]
        centres = moved
        if not running.any():
            break
        if running.float().mean() < 0.8:
            active, centres, columns = active[running], centres[running], columns[running]
            running = torch.ones_like(active, dtype=torch.bool)
    return _nearest_centre(augmented, final)


def _squared_distances(points: Tensor, norms: Tensor, index: Tensor) -> Tensor:
    """Squared distances (N, J, S) of all points (N, S, D) to the points with the given indices (N, J)."""
    targets = points.gather(1, index.unsqueeze(-1).expand(-1, -1, points.shape[-1]))
    products = torch.baddbmm(norms.unsqueeze(1), targets, points.mT, alpha=-2.0)
    products.add_(norms.gather(1, index).unsqueeze(-1)).clamp_(min=0.0)
    # A point's distance to itself is zero, which rounding must not turn into a chance of being drawn.
    return products.scatter_(2, index.unsqueeze(-1), 0.0)


def _nearest_centre(columns: Tensor, centres: Tensor) -> Tensor:
    """One-hot membership (N, K, S) of points with a row of ones below, (N, D + 1, S); the first of equals wins."""
    score = torch.cat([-2.0 * centres, centres.square().sum(-1, keepdim=True)], -1) @ columns  # (N, K, S)
    # 1 where the difference is 0: arithmetic is several times faster here than comparing to bool and converting.
    member = score.sub_(score.amin(1, keepdim=True)).sign_().neg_().add_(1.0)
    tied = (member.sum((1, 2)) > columns.shape[2]).nonzero().flatten()
    if len(tied):
        member[tied] *= member[tied].cumsum(1) == 1
    return member


def _lloyd_step(columns: Tensor, centres: Tensor) -> Tensor:
    """New centres (N, K, D) from the old ones and points with a row of ones below, (N, D + 1, S)."""
    member = _nearest_centre(columns, centres)
    sums = member @ columns.mT  # (N, K, D + 1): sums of members, and their number
    for problem in (sums[..., -1] == 0).any(-1).nonzero().flatten().tolist():
        _fill_empty_clusters(columns[problem], centres[problem], member[problem], sums[problem])
    counts = sums[..., -1:]
    return torch.where(counts > 0, sums[..., :-1] / counts.clamp(min=1.0), centres)


def _fill_empty_clusters(columns: Tensor, centres: Tensor, member: Tensor, sums: Tensor) -> None:
    """Give each empty cluster of one problem the point farthest from its centre, in place of `sums` (K, D + 1)."""
    owner = member.argmax(0)  # (S,)
    distance = (columns[:-1] - centres[owner].mT).square().sum(0)
    if distance.max() <= 0.0:  # fewer distinct points than clusters
        return
    empty = (sums[:, -1] == 0).nonzero().flatten()
    for cluster, point in zip(empty.tolist(), distance.topk(len(empty)).indices.tolist()):
        sums[cluster] += columns[:, point]
        sums[owner[point]] -= columns[:, point]
