r"""Dirichlet-process mixtures of Gaussians, fitted by variational inference to many small data sets at once.

The model of one data set is the truncated stick-breaking mixture

.. math::
    v_k \sim \mathrm{Beta}(1, \alpha), \quad \pi_k = v_k \prod_{j<k} (1 - v_j), \\
    \Lambda_k \sim \mathcal{W}(W_0^{-1}, \nu_0), \quad
    \mu_k \mid \Lambda_k \sim \mathcal{N}(m_0, (\beta_0 \Lambda_k)^{-1})

with the priors that scikit-learn's ``BayesianGaussianMixture`` takes by default: :math:`m_0` the mean and :math:`W_0`
the covariance of the data, :math:`\beta_0 = 1`, :math:`\nu_0 = D`. Updates, start and stopping are the same too, so
that library is an oracle for each single data set.

Speed comes from the layout (:mod:`amodal.distributions.gaussian_features`), and from data sets leaving the batch when
they have converged. Points are whitened by the prior first, which bounds the dynamic range, so that single precision
is enough for them; everything of the size of the parameters is computed in double precision.
"""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from amodal.distributions.gaussian_features import DiagonalCovariance, FullCovariance
from amodal.distributions.kmeans import kmeans_assignment
from amodal.errors import ConfigurationError, ShapeError

__all__ = ["DirichletProcessMixture", "fit_dirichlet_process_mixture"]

BATCH_BYTES = {"cpu": 28 * 2**20, "accelerator": 2**30}
"""Bytes of features in work at once; of a processor, what its last cache takes for each core."""

BLOCK_BYTES = {"cpu": 2 * 2**20, "accelerator": 2**30}
"""Bytes of features in one pair of matrix products."""


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

    ascent = _Ascent(points, form, components, concentration, floor, seed, tolerance, max_iterations)
    with torch.no_grad():
        ascent.run(batch_size)
    return DirichletProcessMixture(**ascent.results)


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
class _Posterior:
    """Variational parameters of n mixtures in whitened coordinates, double precision."""

    counts: Tensor  # (n, K)
    means: Tensor  # (n, K, D)
    scatter: Tensor  # (n, K, D, D) or (n, K, D)
    natural: Tensor  # (n, K, Q): coefficients of the features in the expected log joint density, in bits; working type
    bound: Tensor  # (n,): lower bound without the entropy of the assignments, in nats

    def at(self, index: Tensor) -> _Posterior:
        return _Posterior(*(value[index] for value in vars(self).values()))

    def join(self, other: _Posterior) -> _Posterior:
        return _Posterior(*(torch.cat(pair) for pair in zip(vars(self).values(), vars(other).values())))


@dataclass
class _Work:
    """The n data sets that are being fitted."""

    index: Tensor  # (n,): place among all data sets
    running: Tensor  # (n,), bool: False for those that have left but still take up room
    age: Tensor  # (n,): updates made
    bound: Tensor  # (n,): lower bound after the last update, in nats
    features: Tensor  # (n, Q, S)
    floor: Tensor  # (n, D, D) or (n, D): the covariance floor in whitened coordinates
    back: Tensor  # (n, D, D) or (n, D): from whitened coordinates to those of the centred data
    log_volume: Tensor  # (n,): log determinant of `back`

    def at(self, index: Tensor) -> _Work:
        return _Work(*(value[index] for value in vars(self).values()))

    def join(self, other: _Work) -> _Work:
        return _Work(*(torch.cat(pair) for pair in zip(vars(self).values(), vars(other).values())))


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
        shapes = {"weights": (), "means": (dim,), "covariances": matrix, "counts": ()}
        self.results = {name: points.new_empty(number, components, *shape) for name, shape in shapes.items()}
        self.results["assignment"] = points.new_empty(number, draws, dtype=torch.int64)
        self.results["lower_bound"] = points.new_empty(number, dtype=torch.float64)
        self.results["iterations"] = points.new_empty(number, dtype=torch.int64)
        self.results["converged"] = points.new_empty(number, dtype=torch.bool)

    def run(self, batch_size: int | None) -> None:
        """Fit everything; on a processor one batch a core, rather than all cores on every small product."""
        number, draws, _ = self.points.shape
        cores = torch.get_num_threads() if self.points.device.type == "cpu" else 1
        room = BATCH_BYTES[_kind(self.points)] // (draws * self.form.features * self.points.element_size())
        size = batch_size or max(2, min(room, -(-number // cores)))
        entry = -(-size // 2)
        waiting = deque(slice(start, min(start + entry, number)) for start in range(0, number, entry))
        workers = min(cores, -(-number // size))
        if workers == 1:
            return self._work_off(waiting, size)
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(workers) as pool:
                for finished in [pool.submit(self._work_off, waiting, size) for _ in range(workers)]:
                    finished.result()
        finally:
            torch.set_num_threads(cores)

    @torch.no_grad()
    def _work_off(self, waiting: deque[slice], size: int) -> None:
        """Keep up to `size` data sets in work until none is left."""
        work, current = None, None
        while True:
            if work is None or current is None or len(work.index) <= size // 2:
                try:
                    entering = self._enter(waiting.popleft())
                except IndexError:  # nobody waits; other threads take from the same queue
                    entering = None
                if entering is not None and work is not None and current is not None:
                    work, current = work.join(entering[0]), current.join(entering[1])
                elif entering is not None:
                    work, current = entering
            if work is None or current is None:
                return
            current = self._step(work, current)
            share = work.running.float().mean().item()
            if share == 0.0:
                work, current = None, None
            elif share < 0.85:
                work, current = work.at(work.running), current.at(work.running)

    def _enter(self, part: slice) -> tuple[_Work, _Posterior]:
        """Data sets with their start from k-means."""
        points = self.points[part]
        centred = points - points.mean(1, keepdim=True)
        white, identity, back, log_volume = self.form.whiten(centred)
        index = torch.arange(part.start, part.stop, device=points.device)
        work = _Work(
            index=index,
            running=torch.ones_like(index, dtype=torch.bool),
            age=torch.zeros_like(index),
            bound=torch.full_like(log_volume, -torch.inf),
            features=self.form.expand(white),
            floor=self.floor[part].reshape(-1, *[1] * (identity.ndim - 1)) * identity,
            back=back,
            log_volume=log_volume,
        )
        member = kmeans_assignment(centred, self.components, seed=self.seed)  # (n, K, S)
        return work, self._update(member @ work.features.mT, work.floor)

    def _step(self, work: _Work, current: _Posterior) -> _Posterior:
        """One update of everything in work; results of those that end with it are written down."""
        moments, entropy = _moments(current.natural, work.features)
        updated = self._update(moments, work.floor)
        bound = updated.bound + entropy
        converged = work.running & ((bound - work.bound).abs() < self.tolerance)
        work.age += 1
        work.bound = bound
        leaving = converged | (work.running & (work.age >= self.max_iterations))
        if leaving.any():
            self._record(work.at(leaving), updated.at(leaving), converged[leaving])
            work.running = work.running & ~leaving
        return updated

    def _record(self, work: _Work, final: _Posterior, converged: Tensor) -> None:
        """Results of data sets in the coordinates of the data."""
        taken, left = self._stick_parameters(final.counts)
        log_left = (left / (taken + left)).log()
        weights = taken / (taken + left) * (log_left.cumsum(-1) - log_left).exp()
        freedom = self.form.dim + final.counts
        scale = freedom.reshape(*freedom.shape, *[1] * (final.scatter.ndim - 2))
        means, covariances = self.form.restore(final.means, final.scatter / scale, work.back)
        found = {
            "assignment": (final.natural @ work.features).argmax(1),
            "weights": weights / weights.sum(-1, keepdim=True),
            "means": means + self.points[work.index].double().mean(1, keepdim=True),
            "covariances": covariances,
            "counts": final.counts,
            # Every component's Wishart normaliser feels the change of coordinates.
            "lower_bound": work.bound - freedom.sum(-1) * work.log_volume,
            "iterations": work.age,
            "converged": converged,
        }
        for name, values in found.items():
            self.results[name][work.index] = values.to(self.results[name].dtype)

    def _update(self, moments: Tensor, floor: Tensor) -> _Posterior:
        """The update of sticks, means and precisions from sums of features (n, K, Q) weighted by responsibilities."""
        form, dim = self.form, self.form.dim
        counts = form.count(moments).double() + 10 * torch.finfo(torch.float64).eps  # (n, K)
        sums = moments[..., form.products : form.products + dim].double()  # (n, K, D)
        mean_precision, freedom = 1.0 + counts, dim + counts
        means = sums / mean_precision.unsqueeze(-1)
        scatter = form.scatter(moments, means * mean_precision.sqrt().unsqueeze(-1), floor)
        inverse, log_det = form.invert(scatter)

        taken, left = self._stick_parameters(counts)
        halves = 0.5 * (freedom.unsqueeze(-1) - torch.arange(dim, device=freedom.device))  # (n, K, D)
        arguments = torch.cat([halves, torch.stack([taken, left, taken + left], -1)], -1)  # one call for all of them
        digamma, lgamma = arguments.digamma(), arguments.lgamma()
        log_left = digamma[..., -2] - digamma[..., -1]
        log_weights = digamma[..., -3] - digamma[..., -1] + log_left.cumsum(-1) - log_left
        constant = dim / mean_precision + dim * math.log(math.pi) - log_det - digamma[..., :dim].sum(-1)
        bits = 1.0 / math.log(2.0)
        constant = bits * (log_weights - 0.5 * constant)
        natural = form.coefficients(inverse, bits * freedom, means, constant, moments.dtype)
        # Log normalisers of the Wishart, the Gaussian and the Beta distributions.
        wishart = 0.5 * freedom * (log_det + dim * math.log(2.0)) + lgamma[..., :dim].sum(-1)
        beta = lgamma[..., -3] + lgamma[..., -2] - lgamma[..., -1]
        bound = (wishart - 0.5 * dim * mean_precision.log() + beta).sum(-1)
        return _Posterior(counts, means, scatter, natural, bound)

    def _stick_parameters(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the Beta distributions of the stick's fractions, each (n, K)."""
        later = counts.sum(-1, keepdim=True) - counts.cumsum(-1)
        return 1.0 + counts, self.concentration + later.clamp(min=0.0)


def _kind(tensor: Tensor) -> str:
    return "cpu" if tensor.device.type == "cpu" else "accelerator"


def _moments(natural: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of features weighted by responsibilities (n, K, Q), and the entropy of the assignments (n,) in nats.

    Block by block, so that a block's features are still in the cache for the second product.
    """
    size = max(1, BLOCK_BYTES[_kind(features)] // (features[0].numel() * features.element_size()))
    moments = torch.empty_like(natural)
    entropy = torch.empty(len(features), dtype=torch.float64, device=features.device)
    for block, coefficients, sums, bits in zip(*(x.split(size) for x in (features, natural, moments, entropy))):
        logits = coefficients @ block  # (n, K, S), to the base of 2: exp2 is several times faster than exp
        # Not below 2^-64: smaller weights change nothing, and denormal numbers are slow.
        logits.sub_(logits.amax(1, keepdim=True)).clamp_(min=-64.0)
        weight = logits.exp2()
        total = weight.sum(1, keepdim=True)
        mean_logit = logits.mul_(weight).sum(1) / total.squeeze(1)
        torch.sum(total.squeeze(1).log2() - mean_logit, -1, dtype=torch.float64, out=bits)
        torch.bmm(weight.div_(total), block.mT, out=sums)
    return moments, entropy * math.log(2.0)
