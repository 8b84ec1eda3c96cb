"""Fitting copulas: Kendall's tau of data, the test of independence, maximum likelihood."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from amodal.distributions.copula.points import as_points, as_presence
from amodal.errors import DataError, ShapeError

__all__ = [
    "IndependenceTest",
    "complete_presence",
    "independence_test",
    "log_likelihood",
    "maximise_likelihood",
    "nearest_correlation",
    "pairwise_kendall_tau",
    "require_fittable",
]

AnyCopula = TypeVar("AnyCopula", bound=nn.Module)
LEAST_ROWS = 10


def complete_presence(u: Any, observed: Any) -> tuple[Tensor, Tensor]:
    """Points (N, M) in float64 with absent entries at one half, and presence (N, M).

    Raises:
        ShapeError: If ``u`` is not (N, M), or ``observed`` of another shape or not bool.
        DataError: If an observed entry is not strictly inside (0, 1), or too few rows have two observed margins.
    """
    points = as_points(u).detach().double().cpu()
    if points.ndim != 2 or points.shape[1] < 2:
        raise ShapeError("a fit needs points by margins", expected="(N, M), M >= 2", got=tuple(points.shape))
    presence = torch.ones_like(points, dtype=torch.bool) if observed is None else as_presence(observed, points)
    if presence.shape != points.shape:
        raise ShapeError("observed must have the shape of u", expected=tuple(points.shape), got=tuple(presence.shape))
    if not bool((((points > 0) & (points < 1)) | ~presence).all()):
        raise DataError(
            "u has an entry that is not inside (0, 1)",
            expected="0 < u < 1",
            hint="Use pseudo_observations(data), and observed=… where entries are absent.",
        )
    pairs = int((presence.sum(1) >= 2).sum())
    if pairs < LEAST_ROWS:
        raise DataError(
            "too few rows have two observed margins",
            expected=f"at least {LEAST_ROWS}",
            got=f"{pairs} of {len(points)}",
            hint="Dependence cannot be learned from margins alone, nor from a handful of points.",
        )
    return torch.where(presence, points, 0.5), presence


def pairwise_kendall_tau(u: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Kendall's tau of each pair over the rows that have both, and its p-value; 0 and 1 where fewer than two have.

    Args:
        u: Shape (N, M).
        observed: Presence, bool (N, M).

    Returns:
        Two tensors (M, M), float64; ones on the diagonal.
    """
    from scipy.stats import kendalltau

    dim = u.shape[1]
    taus, p_values = torch.eye(dim, dtype=torch.float64), torch.ones(dim, dim, dtype=torch.float64)
    for i in range(dim):
        for j in range(i):
            both = observed[:, i] & observed[:, j]
            if int(both.sum()) < 2:
                continue
            test: Any = kendalltau(u[both, i].numpy(), u[both, j].numpy())
            if math.isfinite(test.statistic):
                taus[i, j] = taus[j, i] = test.statistic
                p_values[i, j] = p_values[j, i] = test.pvalue
    return taus, p_values


class IndependenceTest(NamedTuple):
    """The test of independence by Kendall's tau.

    Attributes:
        tau: Kendall's tau of each pair, shape (M, M).
        p_values: Of each pair, shape (M, M); ones on the diagonal.
        p_value: Of all pairs together, after Bonferroni: the least times the number of pairs.
    """

    tau: Tensor
    p_values: Tensor
    p_value: float


def independence_test(u: Any, *, observed: Any = None) -> IndependenceTest:
    r"""Test whether margins are independent, pair by pair, by Kendall's tau.

    .. math:: \sqrt{\frac{9 n (n - 1)}{2 (2n + 5)}}\; |\tau_n| \approx N(0, 1) \text{ under independence}

    Where there are ties, with the variance that allows for them. It needs no margins: raw data and their
    pseudo-observations give the same.

    Args:
        u: Points, shape (N, M), strictly inside (0, 1) where observed.
        observed: Presence, bool (N, M); a pair is tested on the rows that have both.

    Returns:
        Taus and p-values of the pairs, and one p-value for all.

    Source:
        Genest & Favre, *Everything you always wanted to know about copula modeling but were afraid to ask*, Journal of
        Hydrologic Engineering 12, 2007.

    Example:
        >>> u = torch.rand(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> round(independence_test(u).p_value, 2)
        0.47
    """
    taus, p_values = pairwise_kendall_tau(*complete_presence(u, observed))
    pairs = len(taus) * (len(taus) - 1) / 2
    return IndependenceTest(taus, p_values, min(1.0, float(p_values.min()) * pairs))


def require_fittable(name: str, taus: Tensor, rows: int, *, positive: bool) -> float:
    """The mean Kendall's tau of the pairs, if a copula can be fitted to data with these.

    Args:
        name: The family's, for the error.
        taus: Of the pairs, shape (M, M).
        rows: Number of rows.
        positive: Whether the family has positive dependence only.

    Raises:
        DataError: If one margin determines another, or the dependence is negative beyond chance and the family's is
            not.
    """
    below = torch.tril_indices(len(taus), len(taus), -1)
    values = taus[below[0], below[1]]
    if bool((values.abs() > 1 - 1e-12).any()):
        i, j = below[:, int(values.abs().argmax())].tolist()
        raise DataError(
            f"margins {j} and {i} determine each other, so no {name} copula has a density for them",
            expected="-1 < Kendall's tau < 1",
            got=f"tau = {taus[i, j]:.3g}",
            hint="Remove one of the two.",
        )
    mean = float(values.mean())
    if positive and mean < -1.96 * math.sqrt(2 * (2 * rows + 5) / (9 * rows * max(rows - 1, 1))):
        raise DataError(
            f"the data depend negatively, which {name} cannot",
            expected="a positive Kendall's tau",
            got=f"tau = {mean:.3f} on average",
            hint="Two margins: Rotated(…, 90), Frank or GaussianCopula; more: GaussianCopula or StudentTCopula.",
        )
    return mean


def nearest_correlation(matrix: Tensor, least: float = 1e-3) -> Tensor:
    """A correlation matrix near a symmetric one: eigenvalues raised to ``least``, then unit diagonal."""
    values, vectors = torch.linalg.eigh(matrix)
    raised = (vectors * values.clamp_min(least)) @ vectors.mT
    scale = raised.diagonal().rsqrt()
    raised = raised * scale.unsqueeze(0) * scale.unsqueeze(1)
    return (raised + raised.mT) / 2 * (1 - torch.eye(len(raised))) + torch.eye(len(raised), dtype=raised.dtype)


def log_likelihood(copula: nn.Module, u: Tensor, observed: Tensor) -> Tensor:
    """Log likelihood of points and presence as `complete_presence` gives them, in nats."""
    return copula.log_density_from_logs(torch.log(u), torch.log1p(-u), observed).sum()  # type: ignore[operator]


def maximise_likelihood(copula: AnyCopula, u: Any, observed: Any = None, *, iterations: int = 100) -> AnyCopula:
    """Climb the likelihood from where the copula stands, in place.

    Args:
        copula: Any copula with parameters of its own, without a batch shape.
        u: Points, shape (N, M), strictly inside (0, 1) where observed.
        observed: Presence, bool (N, M).
        iterations: Most iterations of L-BFGS with a strong Wolfe line search.

    Returns:
        The same copula, its parameters fixed again.
    """
    points, presence = complete_presence(u, observed)
    parameters = list(copula.parameters())
    if not parameters:
        return copula
    before = [p.requires_grad for p in parameters]
    copula.requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=iterations,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -log_likelihood(copula, points, presence) / len(points)
        loss.backward()
        return loss

    optimiser.step(closure)  # type: ignore[arg-type]
    for parameter, required in zip(parameters, before, strict=True):
        parameter.requires_grad_(required)
        parameter.grad = None
    return copula
