r"""Dirichlet-process mixtures of Gaussians, fitted by variational inference to many small data sets at once.

The model of one data set is the truncated stick-breaking mixture

.. math::
    v_k \sim \mathrm{Beta}(1, \alpha), \quad \pi_k = v_k \prod_{j<k} (1 - v_j), \\
    \Lambda_k \sim \mathcal{W}(W_0^{-1}, \nu_0), \quad
    \mu_k \mid \Lambda_k \sim \mathcal{N}(m_0, (\beta_0 \Lambda_k)^{-1})

with the priors that scikit-learn's ``BayesianGaussianMixture`` takes by default: :math:`m_0` the mean and :math:`W_0`
the covariance of the data, :math:`\beta_0 = 1`, :math:`\nu_0 = D`. Updates, start and stopping are the same too, so
that library is an oracle for each single data set.

Speed comes from the layout (:mod:`amodal.distributions.clustering.gaussian_features`), and from data sets leaving the
batch when they have converged. Points are whitened by the prior first, which bounds the dynamic range, so that single
precision is enough for them; everything of the size of the parameters is computed in double precision.
"""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor

from amodal.distributions.clustering.gaussian_features import (
    DiagonalCovariance,
    FullCovariance,
    Room,
    kind_of_device,
    most_responsible,
    weighted_moments,
)
from amodal.distributions.clustering.kmeans import kmeans_assignment
from amodal.errors import ConfigurationError, ShapeError

__all__ = ["DirichletProcessMixture", "fit_dirichlet_process_mixture"]

BATCH_BYTES = {"cpu": 8 * 2**20, "accelerator": 2**28}
"""Bytes of points in work at once; on a processor, for each core."""


@dataclass(frozen=True)
class DirichletProcessMixture:
    """N fitted mixtures of K Gaussians in D dimensions (the variational posterior).

    Attributes:
        assignment: The component with the largest responsibility for each point, of shape (N, S), int64.
        weights: Expected weights of the components, of shape (N, K); they sum to one.
        means: Posterior means of the components' means, of shape (N, K, D).
        covariances: Inverses of the expected precisions, of shape (N, K, D, D), or (N, K, D) if diagonal.
        counts: Expected number of points of each component, of shape (N, K).
        lower_bound: Evidence lower bound in nats up to a constant of the model, of shape (N,), double precision.
        iterations: Updates made, of shape (N,), int64.
        converged: Whether the last update changed the bound by less than the tolerance, of shape (N,), bool.
    """

    assignment: Tensor
    weights: Tensor
    means: Tensor
    covariances: Tensor
    counts: Tensor
    lower_bound: Tensor
    iterations: Tensor
    converged: Tensor


def fit_dirichlet_process_mixture(
    points: Tensor,
    components: int = 10,
    *,
    concentration: float = 0.1,
    covariance: Literal["full", "diagonal"] = "full",
    covariance_floor: float | Tensor = 1e-6,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    seed: int = 0,
    batch_size: int | None = None,
) -> DirichletProcessMixture:
    r"""Fit a truncated Dirichlet-process mixture of Gaussians to each of N data sets.

    Each starts from k-means and stops by itself, when an update changes its lower bound by less than `tolerance`; its
    answer does not depend on the others. All share one stream of random numbers, the one that scikit-learn draws
    for ``random_state=seed``. A mixture that has not converged within `max_iterations` is returned as it is and says
    so.

    Directions in which the data hardly vary (variance below a millionth of the mean variance) get a prior of that
    millionth; scikit-learn fails when the covariance of the data is singular.

    Args:
        points: The data sets, of shape (N, S, D); float64 for scikit-learn's answer to rounding, float32 for half the
            time.
        components: Truncation K, at most S.
        concentration: :math:`\alpha` of the process; small values favour few components.
        covariance: Form of the components' covariances.
        covariance_floor: Variance added to every component in all directions, a number or one for each data set (N,).
        tolerance: Change of the lower bound, in nats for a whole data set, below which it has converged.
        max_iterations: Largest number of updates.
        seed: Seed of the start.
        batch_size: How many data sets are in work at once; bounds memory. By default as many as suit the device. On a
            processor, batches are shared out over as many threads as torch may use.

    Returns:
        The fitted mixtures.

    Raises:
        ShapeError: If `points` does not have three axes, or has fewer points than components.
        ConfigurationError: If points are not finite, or a setting is out of range.

    Source:
        :cite:`blei2006dirichlet`; the updates as in :cite:`bishop2006pattern`, section 10.2; priors and start as in
        :cite:`pedregosa2011scikit`.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> near = torch.randn(1, 60, 2, generator=generator)
        >>> far = torch.randn(1, 40, 2, generator=generator) + 30
        >>> mixture = fit_dirichlet_process_mixture(torch.cat([near, far], 1), components=2)
        >>> sorted(mixture.assignment[0].bincount().tolist())
        [40, 60]
    """
    _check_settings(points, components, concentration, covariance, tolerance, max_iterations)
    if points.dtype not in (torch.float32, torch.float64):
        points = points.float()
    floor = torch.as_tensor(covariance_floor, dtype=torch.float64, device=points.device).expand(len(points))
    form = (FullCovariance if covariance == "full" else DiagonalCovariance)(points.shape[-1], points.device)

    ascent = _Ascent(points.detach(), form, components, concentration, floor, seed, tolerance, max_iterations)
    return ascent.run(batch_size)


def _check_settings(
    points: Tensor, components: int, concentration: float, covariance: str, tolerance: float, max_iterations: int
) -> None:
    if points.ndim != 3 or 0 in points.shape:
        raise ShapeError(
            "points cannot be clustered", expected="shape (N, S, D) without zeros", got=tuple(points.shape)
        )
    if not 1 <= components <= points.shape[1]:
        raise ShapeError(
            "the number of components does not suit the number of points",
            expected=f"1 <= components <= S = {points.shape[1]}",
            got=components,
            hint="Draw more points or allow fewer components.",
        )
    if not torch.isfinite(points).all():
        raise ConfigurationError("points contain NaN or infinite values", hint="Remove or clip them before the fit.")
    if concentration <= 0 or tolerance < 0 or max_iterations < 1:
        raise ConfigurationError(
            "a setting of the mixture is out of range",
            expected="concentration > 0, tolerance >= 0, max_iterations >= 1",
            got=f"{concentration}, {tolerance}, {max_iterations}",
        )
    if covariance not in ("full", "diagonal"):
        raise ConfigurationError("unknown form of covariance", expected="'full' or 'diagonal'", got=repr(covariance))


@dataclass
class _Rows:
    """Tensors with one row for each of n data sets."""

    def remove(self, gone: Tensor) -> None:
        """Take out rows, of which `gone` (n,) is true; the last that remain move to their places."""
        number = len(gone) - int(gone.sum())
        places = gone[:number].nonzero().flatten()
        self._shorten(places, number + (~gone[number:]).nonzero().flatten(), number)

    def _shorten(self, places: Tensor, movers: Tensor, number: int) -> None:
        for name, value in vars(self).items():
            if isinstance(value, _Rows):
                value._shorten(places, movers, number)
            else:
                value[places] = value[movers]
                setattr(self, name, value[:number])

    def join(self, other: Self) -> Self:
        """These rows, then the others."""
        pairs = zip(vars(self).values(), vars(other).values())
        return type(self)(*(a.join(b) if isinstance(a, _Rows) else torch.cat([a, b]) for a, b in pairs))


@dataclass
class _Posterior(_Rows):
    """The result of an update, in whitened coordinates."""

    natural: Tensor  # (n, K, Q): coefficients of the features in the expected log joint density, in bits
    bound: Tensor  # (n,): lower bound without the entropy of the assignments, in nats, double precision


@dataclass
class _Work(_Rows):
    """The data sets that are being fitted."""

    index: Tensor  # (n,): place among all data sets
    age: Tensor  # (n,): updates made
    bound: Tensor  # (n,): lower bound after the last update, in nats
    white: Tensor  # (n, D + wrap, S): whitened points
    floor: Tensor  # (n, D): the covariance floor in whitened coordinates
    current: _Posterior


class _Ascent:
    """Coordinate ascent. Data sets that have converged make room for those that wait."""

    def __init__(
        self,
        points: Tensor,
        form: FullCovariance | DiagonalCovariance,
        components: int,
        concentration: float,
        floor: Tensor,
        seed: int,
        tolerance: float,
        max_iterations: int,
    ):
        self.points, self.form, self.components, self.concentration = points, form, components, concentration
        self.floor, self.seed, self.tolerance, self.max_iterations = floor, seed, tolerance, max_iterations
        number, draws, dim = points.shape
        matrix = (dim,) * (2 if isinstance(form, FullCovariance) else 1)
        self.steps_down = torch.arange(dim, dtype=torch.float64, device=points.device)  # D degrees of freedom
        self.above = (self.steps_down / 2).floor()  # of each half of these, how many lie whole numbers above it
        double = partial(torch.empty, dtype=torch.float64, device=points.device)
        self.moments = points.new_empty(number, components, form.features)  # all else follows from these
        self.bound, self.white_floor = double(number), double(number, dim)
        self.back, self.log_volume = double(number, *matrix), double(number)
        self.assignment = points.new_empty(number, draws, dtype=torch.int64)
        self.iterations = points.new_empty(number, dtype=torch.int64)
        self.converged = points.new_empty(number, dtype=torch.bool)

    def run(self, batch_size: int | None) -> DirichletProcessMixture:
        """Fit everything; on a processor one batch a core, rather than all cores on every small product."""
        number = len(self.points)
        cores = torch.get_num_threads() if self.points.device.type == "cpu" else 1
        room = BATCH_BYTES[kind_of_device(self.points)] // (self.points[0].numel() * self.points.element_size())
        size = batch_size or max(2, min(room, -(-number // cores)))
        entry = -(-size // 2)
        waiting = deque(slice(start, min(start + entry, number)) for start in range(0, number, entry))
        workers = min(cores, -(-number // size))
        if workers == 1:
            self._work_off(waiting, size)
            return self._results()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(workers) as pool:
                for finished in [pool.submit(self._work_off, waiting, size) for _ in range(workers)]:
                    finished.result()
        finally:
            torch.set_num_threads(cores)
        return self._results()

    @torch.no_grad()
    def _work_off(self, waiting: deque[slice], size: int) -> None:
        """Keep up to `size` data sets in work until none is left."""
        work, room = None, None
        while True:
            if work is None or len(work.index) <= size // 2:
                try:
                    entering = self._enter(waiting.popleft())
                    work = entering if work is None else work.join(entering)
                except IndexError:  # none is waiting: other threads take from the same queue
                    if work is None:
                        return
            room = room or Room(work.white, self.components, self.form, most=size)
            self._step(work, room)
            if len(work.index) == 0:
                work = None

    def _enter(self, part: slice) -> _Work:
        """Data sets with their start from k-means."""
        points = self.points[part]
        centred = points - points.mean(1, keepdim=True)
        white, identity, self.back[part], self.log_volume[part] = self.form.whiten(centred)
        member = kmeans_assignment(centred, self.components, seed=self.seed)  # (n, K, S)
        floor = self.white_floor[part] = self.floor[part].unsqueeze(-1) * identity
        index = torch.arange(part.start, part.stop, device=points.device)
        return _Work(
            index=index,
            age=torch.zeros_like(index),
            bound=torch.full_like(self.log_volume[part], -torch.inf),
            white=white,
            floor=floor,
            current=self._update(self._start(member, white), floor),
        )

    def _start(self, member: Tensor, white: Tensor) -> Tensor:
        """Sums of the features (n, K, Q) of the members (n, K, S) of each cluster."""
        blocks = zip(member.split(64), white.split(64))
        return torch.cat([some @ self.form.expand(points).mT for some, points in blocks])

    def _step(self, work: _Work, room: Room) -> None:
        """One update of everything in work; what ends with it is written down."""
        moments, entropy = weighted_moments(work.current.natural, work.white, self.form, room)
        work.current = self._update(moments, work.floor)
        previous, work.bound = work.bound, work.current.bound + entropy
        work.age += 1
        converged = (work.bound - previous).abs() < self.tolerance
        leaving = converged | (work.age >= self.max_iterations)
        if leaving.any():
            index = work.index[leaving]
            self.moments[index], self.bound[index] = moments[leaving], work.bound[leaving]
            self.iterations[index], self.converged[index] = work.age[leaving], converged[leaving]
            features = self.form.expand(work.white[leaving])
            self.assignment[index] = most_responsible(work.current.natural[leaving], features)
            work.remove(leaving)

    def _results(self) -> DirichletProcessMixture:
        """The stored results in the coordinates of the data."""
        dtype, dim = self.points.dtype, self.form.dim
        packed, counts, means = self._means(self.moments)
        scatter = self.form.scatter(packed, means * (1.0 + counts).sqrt(), self.white_floor)
        freedom = dim + counts
        covariances = self.form.unpack(scatter / freedom)
        means, covariances = self.form.restore(means.permute(1, 2, 0), covariances, self.back)
        taken, left = self._stick_parameters(counts)
        log_left = (left / (taken + left)).log()
        weights = taken / (taken + left) * (log_left.cumsum(-1) - log_left).exp()
        return DirichletProcessMixture(
            assignment=self.assignment,
            weights=(weights / weights.sum(-1, keepdim=True)).to(dtype),
            means=(means + self.points.mean(1, keepdim=True).double()).to(dtype),
            covariances=covariances.to(dtype),
            counts=counts.to(dtype),
            # Every component's Wishart normaliser feels the change of coordinates.
            lower_bound=self.bound - freedom.sum(-1) * self.log_volume,
            iterations=self.iterations,
            converged=self.converged,
        )

    def _means(self, moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Moments (Q, n, K), counts (n, K) and posterior means (D, n, K) in double precision, of moments (n, K, Q)."""
        # Two steps are faster than one that transposes and converts; and it must be a copy, which is overwritten later.
        packed = moments.permute(2, 0, 1).clone(memory_format=torch.contiguous_format).double()
        ones = self.form.products + self.form.dim
        counts = packed[ones] + 10 * torch.finfo(torch.float64).eps
        return packed, counts, packed[self.form.products : ones] / (1.0 + counts)

    def _update(self, moments: Tensor, floor: Tensor) -> _Posterior:
        """The update of sticks, means and precisions from sums of features (n, K, Q) weighted by responsibilities."""
        form, dim = self.form, self.form.dim
        packed, counts, means = self._means(moments)
        mean_precision, freedom = 1.0 + counts, dim + counts
        negated = form.scatter(packed, means * mean_precision.sqrt(), floor)
        log_det = -form.invert(negated)

        taken, left = self._stick_parameters(counts)
        halves = 0.5 * (freedom - self.steps_down[:, None, None])  # (D, n, K)
        arguments = torch.cat([halves[-2:], torch.stack([taken, left, taken + left])])
        digamma, lgamma = arguments.digamma(), arguments.lgamma()
        # Both of all halves, by their recurrences from the smallest two: f(x + 1) = f(x) + log x, or + 1 / x.
        lowest = 1.0 + self.above[-2:]
        lgamma_of_halves = _combined(lowest, lgamma[:-3]) + _combined(self.above, halves.log())
        digamma_of_halves = _combined(lowest, digamma[:-3]) + _combined(self.above, halves.reciprocal_())
        log_left = digamma[-2] - digamma[-1]
        log_weights = digamma[-3] - digamma[-1] + log_left.cumsum(-1) - log_left
        constant = dim / mean_precision + dim * math.log(math.pi) - log_det - digamma_of_halves
        bits = 1.0 / math.log(2.0)
        constant = bits * (log_weights - 0.5 * constant)
        form.coefficients(negated, bits * freedom, means, constant, out=packed)
        # Log normalisers of the Wishart, the Gaussian and the Beta distributions.
        wishart = 0.5 * freedom * (log_det + dim * math.log(2.0)) + lgamma_of_halves
        beta = lgamma[-3] + lgamma[-2] - lgamma[-1]
        bound = (wishart - 0.5 * dim * mean_precision.log() + beta).sum(-1)
        natural = torch.empty_like(moments).copy_(packed.permute(1, 2, 0))
        return _Posterior(natural, bound)

    def _stick_parameters(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the Beta distributions of the stick's fractions, each (n, K)."""
        later = counts.sum(-1, keepdim=True) - counts.cumsum(-1)
        return 1.0 + counts, self.concentration + later.clamp(min=0.0)


def _combined(weights: Tensor, rows: Tensor) -> Tensor:
    """Weighted sum (n, K) of rows (R, n, K)."""
    return (weights @ rows.flatten(1)).view(rows.shape[1:])
