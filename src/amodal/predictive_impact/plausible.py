r"""The labels that remain plausible for a case while something is missing.

Two answers. `labels_by_share` counts, for each class, the share of the completions under which it is the most probable
one: the same whenever it is asked, and in the order of the mean prediction. `plausible_labels` is the paper's: a
case's logits under many completions form a cloud, a Dirichlet-process mixture divides it into clusters, and each
cluster is labelled by the class its members predict on average. The cloud is clustered as logits, not as
probabilities, because a mixture of Gaussians does not suit the corners of a simplex; softmax ignores what is common to
all classes, so that is removed first. How a mixture divides a broad cloud hangs on its start and on the draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Generic, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from amodal.distributions.clustering.dirichlet_process import DirichletProcessMixture, fit_dirichlet_process_mixture
from amodal.errors import ConfigurationError, DataError
from amodal.predictive_impact.draws import ArrayOrTensor, case_slices, check_draws, like, take_cases

if TYPE_CHECKING:
    pass

__all__ = ["PlausibleLabels", "labels_by_share", "plausible_labels"]

SMALLEST_SPREAD = 1e-3
"""Logits that differ by less than this over all draws are one cluster."""

FULL_COVARIANCE_CLASSES = 10
"""With more classes the clusters' covariances are diagonal: full ones would have more entries than there are draws."""

IMPOSSIBLE = 104.0
"""A logit so far below the draw's largest stands for a probability of zero: single precision has no smaller one."""


class PlausibleLabels(NamedTuple, Generic[ArrayOrTensor]):
    """The plausible labels of N cases of C classes.

    Attributes:
        labels: For each case its plausible labels (class indices): by :func:`labels_by_share` in the order of the mean
            prediction, by :func:`plausible_labels` those with most mass first.
        mass: Share of the draws of each label, of shape (N, C); rows sum to one. It is no probability of the label.
        fraction: Share of the clusters with each label, of shape (N, C); rows sum to one. This is what the paper's
            figures show. It over-represents small clusters, and a cloud that is not Gaussian takes several. Without
            clusters it is `mass`.
    """

    labels: list[tuple[int, ...]]
    mass: ArrayOrTensor
    fraction: ArrayOrTensor

    @property
    def number(self) -> np.ndarray:
        """Number of distinct plausible labels of each case, of shape (N,)."""
        return np.array([len(labels) for labels in self.labels], dtype=np.int64)


def labels_by_share(
    probabilities: Tensor, weights: Tensor | None = None, *, present: Tensor | None = None, smallest: float = 0.05
) -> PlausibleLabels[Tensor]:
    """Plausible labels by the share of completions under which each class is the most probable.

    Args:
        probabilities: Predictions under S completions, of shape (S, N, C).
        weights: Weights of the completions, of shape (S, N), one in sum over S; None: equal.
        present: Predictions whose order the labels have, and whose most probable class always is among them, of shape
            (N, C); None: the mean over the completions.
        smallest: Smallest share of a plausible label.

    Returns:
        Labels by falling prediction, with their shares.

    Raises:
        ShapeError: If there are not three axes.
        ConfigurationError: If there are no draws, or `smallest` is not between 0 and 1.

    Example:
        >>> draws = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]])[:, None]
        >>> found = labels_by_share(draws)
        >>> found.labels, found.mass
        ([(0, 1)], tensor([[0.6667, 0.3333]]))
    """
    check_draws(probabilities, "probabilities", "S", "N", "C")
    if not 0 <= smallest < 1:
        raise ConfigurationError(
            "the smallest share of a plausible label is out of range", expected="0 to 1", got=smallest
        )
    if weights is None:
        weights = torch.full_like(probabilities[..., 0], 1.0 / len(probabilities))
    first = one_hot(probabilities.argmax(-1), probabilities.shape[-1]).to(weights.dtype)  # (S, N, C)
    share = (first * weights[..., None]).sum(0)
    order = (probabilities * weights[..., None]).sum(0) if present is None else present
    listed = (share >= max(smallest, 1e-12)) | one_hot(order.argmax(-1), share.shape[-1]).bool()
    ranked = torch.sort(order, dim=-1, descending=True, stable=True).indices.tolist()
    labels = [tuple(c for c in row if chosen[c]) for row, chosen in zip(ranked, listed.tolist())]
    return PlausibleLabels(labels, share, share)


def plausible_labels(
    logits: ArrayOrTensor,
    *,
    components: int = 10,
    concentration: float = 0.1,
    covariance_floor: float = 1e-4,
    smallest_cluster: float = 0.01,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    seed: int = 0,
    double_precision: bool = False,
) -> PlausibleLabels[ArrayOrTensor]:
    r"""Plausible labels of each case, from a Dirichlet-process mixture of its logits over draws.

    Each case's logits are centred over the classes and written in C − 1 orthonormal contrasts (in all C coordinates
    their covariance is singular), clustered, and every cluster with at least `smallest_cluster` of the draws counts;
    its label is the largest entry of its members' mean predicted distribution. For more than ten classes covariances
    are diagonal, and the C centred logits themselves are the coordinates, so that renaming classes changes nothing.

    Two kinds of case need no mixture. If all draws agree on the most probable class, so does every possible cluster.
    If no logit varies by more than 1e-3 over the draws, they are one cluster. A case's answer does not depend on the
    other cases. It does depend on the seed where the cloud itself is ambiguous: a single broad cloud across a boundary
    between classes can be divided in several ways, as it can by scikit-learn.

    Args:
        logits: Logits (or log probabilities) under S completions, of shape (S, N, C); minus infinity for a class
            of probability zero.
        components: Largest number of clusters.
        concentration: Concentration of the Dirichlet process; small values favour few clusters.
        covariance_floor: Smallest variance of a cluster, in units of the mean variance of the case's coordinates.
        smallest_cluster: Share of the draws below which a cluster does not count.
        tolerance: Change of the lower bound at which a mixture has converged, nats.
        max_iterations: Largest number of updates of a mixture.
        seed: Seed of the mixtures' starts, as in scikit-learn.
        double_precision: Work in float64, at half the speed.

    Returns:
        Labels, and their shares of the draws and of the clusters.

    Raises:
        ShapeError: If there are not three axes.
        ConfigurationError: If there are no draws or fewer than two classes, or a setting is out of range.
        DataError: If a logit is NaN or plus infinity, or all of a draw are minus infinity.

    Source:
        :cite:`madaan2026primo`, section 2.2; the mixture is that of :cite:`blei2006dirichlet`.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> draws = torch.randn(200, 1, 3, generator=generator)
        >>> draws[:120, :, 0] += 9.0
        >>> draws[120:, :, 2] += 9.0
        >>> plausible = plausible_labels(draws)
        >>> plausible.labels
        [(0, 2)]
        >>> plausible.mass
        tensor([[0.6000, 0.0000, 0.4000]])
    """
    check_draws(logits, "logits", "S", "N", "C")
    draws, cases, classes = logits.shape
    if classes < 2:
        raise ConfigurationError("plausible labels need at least two classes", got=tuple(logits.shape))
    if components < 1:
        raise ConfigurationError("a mixture needs at least one component", got=components)
    if not 0.0 <= smallest_cluster <= 1.0 / components:
        raise ConfigurationError(
            "a cluster must be allowed to be smaller than the average one",
            expected=f"0 <= smallest_cluster <= {1.0 / components:.3g}",
            got=smallest_cluster,
        )
    dtype = torch.float64 if double_precision else torch.float32
    fit = partial(
        fit_dirichlet_process_mixture,
        components=min(components, draws),
        concentration=concentration,
        tolerance=tolerance,
        max_iterations=max_iterations,
        seed=seed,
    )
    mass, fraction = [], []
    for part in case_slices((2 * draws, cases, classes), 1):  # clouds and distributions are both in memory
        cloud = _finite(take_cases(logits, part, 1)).to(dtype).transpose(0, 1)  # (n, S, C)
        shares = _shares_of_cases(cloud, fit, covariance_floor, smallest_cluster)
        mass.append(shares[0])
        fraction.append(shares[1])
    empty = torch.zeros(0, classes, dtype=dtype)
    mass, fraction = torch.cat(mass or [empty]), torch.cat(fraction or [empty])
    return PlausibleLabels(_labels_by_mass(mass), like(mass, logits), like(fraction, logits))


def _finite(logits: Tensor) -> Tensor:
    """The logits less their draw's largest, none of them farther below it than `IMPOSSIBLE`."""
    top = logits.amax(-1, keepdim=True)
    if not bool(torch.isfinite(top).all()):
        raise DataError(
            "logits must be numbers, and in every draw at least one of them finite",
            got=f"{int((~torch.isfinite(top)).sum())} draws with NaN, plus infinity, or minus infinity throughout",
        )
    return (logits - top).clamp(min=-IMPOSSIBLE)  # not added to the largest, which would swallow it if it is huge


def _shares_of_cases(
    cloud: Tensor, fit: Callable[..., DirichletProcessMixture], floor: float, smallest: float
) -> tuple[Tensor, Tensor]:
    """Shares of draws and of clusters by label, each (n, C), for logits (n, S, C) of which each draw's largest is 0."""
    classes = cloud.shape[-1]
    best = cloud.argmax(-1)  # (n, S)
    centred = cloud - cloud.mean(-1, keepdim=True)
    still = (centred.amax(1) - centred.amin(1)).amax(-1) < SMALLEST_SPREAD
    probabilities = cloud.exp()  # in three steps several times faster than a softmax over so short an axis
    probabilities /= probabilities.sum(-1, keepdim=True)
    agreed = (best == best[:, :1]).all(1)
    label = torch.where(agreed, best[:, 0], probabilities.mean(1).argmax(-1))
    mass = one_hot(label, classes).to(cloud.dtype)
    fraction = mass.clone()
    rest = (~(still | agreed)).nonzero().flatten()
    if len(rest):
        for cases, points in _clouds(cloud[rest]):
            centred = points - points.mean(1, keepdim=True)
            floors = floor / (len(centred[0]) - 1) * centred.square().mean(-1).sum(-1, dtype=torch.float64)
            covariance = "full" if points.shape[-1] < FULL_COVARIANCE_CLASSES else "diagonal"
            assignment = fit(points, covariance=covariance, covariance_floor=floors).assignment
            chosen = rest[cases]
            mass[chosen], fraction[chosen] = _shares_of_labels(assignment, probabilities[chosen], smallest)
    return mass, fraction


def _clouds(logits: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Cases (n',) and the points (n', S, D) that stand for their logits (n, S, C).

    Classes that are impossible in all draws of a case are left out, so that they do not shape its cloud; cases with
    equally many possible classes go together.
    """
    lowest = logits.amax(-1, keepdim=True) - IMPOSSIBLE
    possible = (logits > lowest).any(1)  # (n, C)
    numbers, order = possible.sum(-1), torch.sort(possible.int(), dim=-1, descending=True, stable=True).indices
    for number in numbers.unique().tolist():
        cases = (numbers == number).nonzero().flatten()
        if number == logits.shape[-1]:
            part = logits[cases]
        else:
            columns = order[cases, None, :number].expand(-1, logits.shape[1], -1)
            part = logits[cases].gather(-1, columns)
        part = part - part.mean(-1, keepdim=True)
        yield cases, part @ _contrasts(number).to(part) if number <= FULL_COVARIANCE_CLASSES else part


def _contrasts(classes: int) -> Tensor:
    """Orthonormal contrasts between classes, of shape (C, C - 1) (Helmert's)."""
    columns = torch.ones(classes, classes, dtype=torch.float64).triu().diagonal_scatter(-torch.arange(classes).double())
    return (columns / columns.norm(dim=0).clamp(min=1.0))[:, 1:]


def _shares_of_labels(assignment: Tensor, probabilities: Tensor, smallest: float) -> tuple[Tensor, Tensor]:
    """Shares of draws and of clusters by label, each (n, C), from clusters (n, S) and probabilities (n, S, C)."""
    member = one_hot(assignment).to(probabilities.dtype)  # (n, S, K)
    size = member.sum(1)  # (n, K)
    label = (member.mT @ probabilities).argmax(-1)  # (n, K)
    counts = (size > 0) & (size >= smallest * member.shape[1] * (1.0 - 1e-9))
    shares = []
    for weight in (size * counts, counts.to(size.dtype)):
        total = torch.zeros_like(probabilities[:, 0]).scatter_add_(1, label, weight)
        shares.append(total / total.sum(-1, keepdim=True))
    return shares[0], shares[1]


def _labels_by_mass(mass: Tensor) -> list[tuple[int, ...]]:
    shares = mass.cpu().numpy()
    order = np.argsort(-shares, axis=1, kind="stable")
    return [tuple(row[:number]) for row, number in zip(order.tolist(), (shares > 0).sum(1).tolist())]
