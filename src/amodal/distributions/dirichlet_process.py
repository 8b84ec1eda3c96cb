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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from amodal.distributions.gaussian_features import DiagonalCovariance, FullCovariance
from amodal.distributions.kmeans import kmeans_assignment
from amodal.errors import ConfigurationError, ShapeError

__all__ = ["DirichletProcessMixture", "fit_dirichlet_process_mixture"]

BATCH_BYTES = {"cpu": 14 * 2**20, "accelerator": 2**30}
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

    def fit(part: slice) -> DirichletProcessMixture:
        with torch.no_grad():
            ascent = _Ascent(points[part], components, concentration, form, floor[part], seed)
            return ascent.run(tolerance, max_iterations)

    kind = "cpu" if points.device.type == "cpu" else "accelerator"
    bytes_each = points.shape[1] * form.features * points.element_size()
    fitted = _run_parts(fit, len(points), batch_size or max(1, BATCH_BYTES[kind] // bytes_each), points.device)
    fields = DirichletProcessMixture.__dataclass_fields__
    return DirichletProcessMixture(*(torch.cat([getattr(part, name) for part in fitted]) for name in fields))


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


def _run_parts(
    work: Callable[[slice], DirichletProcessMixture], number: int, size: int, device: torch.device
) -> list[DirichletProcessMixture]:
    """Do the work part by part; on a processor one part a core, rather than all cores on every small product."""
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    size = min(size, -(-number // workers))
    parts = [slice(start, start + size) for start in range(0, number, size)]
    if workers == 1 or len(parts) == 1:
        return [work(part) for part in parts]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(work, parts))
    finally:
        torch.set_num_threads(workers)


@dataclass(frozen=True)
class _Posterior:
    """Variational parameters of n mixtures in whitened coordinates, double precision."""

    counts: Tensor  # (n, K)
    means: Tensor  # (n, K, D)
    scatter: Tensor  # (n, K, D, D) or (n, K, D)
    natural: Tensor  # (n, K, Q): coefficients of the features in the expected log joint density, in bits
    bound: Tensor  # (n,): lower bound without the entropy of the assignments, in nats

    def at(self, index: Tensor) -> _Posterior:
        return _Posterior(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def store(self, index: Tensor, other: _Posterior) -> None:
        for name in self.__dataclass_fields__:
            getattr(self, name)[index] = getattr(other, name)


class _Ascent:
    """Coordinate ascent for one batch of data sets."""

    def __init__(
        self,
        points: Tensor,
        components: int,
        concentration: float,
        form: FullCovariance | DiagonalCovariance,
        floor: Tensor,
        seed: int,
    ):
        self.form, self.concentration = form, concentration
        self.centre = points.mean(1, keepdim=True)
        centred = points - self.centre
        white, identity, self.back, self.log_volume = form.whiten(centred)
        self.floor = floor.reshape(-1, *[1] * (identity.ndim - 1)) * identity
        self.features = form.expand(white)  # (n, Q, S)
        self.member = kmeans_assignment(centred, components, seed=seed)  # (n, K, S)

    def run(self, tolerance: float, max_iterations: int) -> DirichletProcessMixture:
        """Iterate every data set to its own convergence."""
        number, device = len(self.features), self.features.device
        features, floor = self.features, self.floor
        current = self._update(self.member @ features.mT, floor)
        final, final_bound = current.at(torch.arange(number, device=device)), current.bound.clone()
        iterations = torch.full((number,), max_iterations, device=device)
        converged = torch.zeros(number, dtype=torch.bool, device=device)
        active, running = torch.arange(number, device=device), ~converged
        bound = torch.full_like(final_bound, -torch.inf)
        for iteration in range(1, max_iterations + 1):
            moments, entropy = _moments(current.natural.to(features.dtype), features)
            current = self._update(moments, floor)
            previous, bound = bound, current.bound + entropy
            stopped = running & ((bound - previous).abs() < tolerance)
            iterations[active[stopped]], converged[active[stopped]] = iteration, True
            leaving = running if iteration == max_iterations else stopped
            running = running & ~leaving
            final.store(active[leaving], current.at(leaving))
            final_bound[active[leaving]] = bound[leaving]
            if not running.any():
                break
            if running.float().mean() < 0.85:
                active, bound, features, floor = active[running], bound[running], features[running], floor[running]
                current, running = current.at(running), running[running]
        return self._result(final, final_bound, iterations, converged)

    def _update(self, moments: Tensor, floor: Tensor) -> _Posterior:
        """The update of sticks, means and precisions from sums of features (n, K, Q) weighted by responsibilities."""
        form, dim = self.form, self.form.dim
        counts = form.count(moments).double() + 10 * torch.finfo(torch.float64).eps  # (n, K)
        sums = moments[..., form.products : form.products + dim].double()  # (n, K, D)
        mean_precision, freedom = 1.0 + counts, dim + counts
        means = sums / mean_precision.unsqueeze(-1)
        scatter = form.scatter(moments, means * mean_precision.sqrt().unsqueeze(-1), floor)
        inverse, log_det = form.invert(scatter)

        log_weights, log_beta = self._sticks(counts)
        halves = 0.5 * (freedom.unsqueeze(-1) - torch.arange(dim, device=freedom.device))  # (n, K, D)
        constant = log_weights + 0.5 * (
            log_det + halves.digamma().sum(-1) - dim / mean_precision - dim * math.log(math.pi)
        )
        natural = form.coefficients(inverse, freedom, means, constant) * (1.0 / math.log(2.0))
        # Log normalisers of the Wishart, the Gaussian and the Beta distributions.
        wishart = 0.5 * freedom * (log_det + dim * math.log(2.0)) + halves.lgamma().sum(-1)
        bound = (wishart - 0.5 * dim * mean_precision.log() + log_beta).sum(-1)
        return _Posterior(counts, means, scatter, natural, bound)

    def _stick_parameters(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the Beta distributions of the stick's fractions, each (n, K)."""
        later = counts.flip(-1).cumsum(-1).flip(-1) - counts
        return 1.0 + counts, self.concentration + later.clamp(min=0.0)

    def _sticks(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Expected log weights of the components and log normalisers of the Beta distributions, each (n, K)."""
        taken, left = self._stick_parameters(counts)
        total = taken + left
        log_left = left.digamma() - total.digamma()
        before = log_left.cumsum(-1) - log_left
        return taken.digamma() - total.digamma() + before, taken.lgamma() + left.lgamma() - total.lgamma()

    def _result(
        self, final: _Posterior, bound: Tensor, iterations: Tensor, converged: Tensor
    ) -> DirichletProcessMixture:
        dtype = self.features.dtype
        taken, left = self._stick_parameters(final.counts)
        log_left = (left / (taken + left)).log()
        weights = taken / (taken + left) * (log_left.cumsum(-1) - log_left).exp()
        freedom = self.form.dim + final.counts
        scale = freedom.reshape(*freedom.shape, *[1] * (final.scatter.ndim - 2))
        means, covariances = self.form.restore(final.means, final.scatter / scale, self.back)
        return DirichletProcessMixture(
            assignment=_most_responsible(final.natural.to(dtype), self.features),
            weights=(weights / weights.sum(-1, keepdim=True)).to(dtype),
            means=(means + self.centre.double()).to(dtype),
            covariances=covariances.to(dtype),
            counts=final.counts.to(dtype),
            # Every component's Wishart normaliser feels the change of coordinates.
            lower_bound=bound - freedom.sum(-1) * self.log_volume,
            iterations=iterations,
            converged=converged,
        )


def _moments(natural: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of features weighted by responsibilities (n, K, Q), and the entropy of the assignments (n,) in nats.

    Block by block, so that a block's features are still in the cache for the second product.
    """
    kind = "cpu" if features.device.type == "cpu" else "accelerator"
    size = max(1, BLOCK_BYTES[kind] // (features[0].numel() * features.element_size()))
    moments = torch.empty_like(natural)
    entropy = torch.empty(len(features), dtype=torch.float64, device=features.device)
    for block, coefficients, sums, bits in zip(*(x.split(size) for x in (features, natural, moments, entropy))):
        logits = coefficients @ block  # (n, K, S), to the base of 2: exp2 is several times faster than exp
        logits.sub_(logits.amax(1, keepdim=True))
        weight = logits.exp2()
        total = weight.sum(1, keepdim=True)
        mean_logit = logits.mul_(weight).sum(1) / total.squeeze(1)
        torch.sum(total.squeeze(1).log2() - mean_logit, -1, dtype=torch.float64, out=bits)
        torch.bmm(weight.div_(total), block.mT, out=sums)
    return moments, entropy * math.log(2.0)


def _most_responsible(natural: Tensor, features: Tensor) -> Tensor:
    """Index of the component with the largest responsibility for each point (n, S)."""
    best = torch.full((len(features), features.shape[2]), -torch.inf, dtype=features.dtype, device=features.device)
    index = torch.zeros_like(best, dtype=torch.int64)
    logits = natural @ features
    for component in range(natural.shape[1]):
        better = logits[:, component] > best
        best = torch.where(better, logits[:, component], best)
        index.masked_fill_(better, component)
    return index
