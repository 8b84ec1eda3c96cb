"""Fitting copulas: Kendall's tau of data, maximum likelihood, choice of family, intervals of parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from amodal.errors import ConfigurationError, DataError, ShapeError

if TYPE_CHECKING:
    from amodal.distributions.copula.abstract import Copula
    from amodal.distributions.copula.elliptical_families import StudentTCopula

__all__ = [
    "complete_presence",
    "fit_student",
    "maximise_likelihood",
    "nearest_correlation",
    "pairwise_kendall_tau",
    "parameter_intervals",
    "select_family",
]

AnyCopula = TypeVar("AnyCopula", bound="Copula")
AnyStudent = TypeVar("AnyStudent", bound="StudentTCopula")


def complete_presence(u: Any, observed: Any) -> tuple[Tensor, Tensor]:
    """Points (N, M) in float64 with absent entries at one half, and presence (N, M).

    Raises:
        ShapeError: If ``u`` is not (N, M), or ``observed`` of another shape or not bool.
        DataError: If an observed entry is not strictly inside (0, 1), or no row has two observed margins.
    """
    points = torch.as_tensor(u).detach().double()
    if points.ndim != 2 or points.shape[1] < 2:
        raise ShapeError("a fit needs points by margins", expected="(N, M), M >= 2", got=tuple(points.shape))
    presence = torch.ones_like(points, dtype=torch.bool) if observed is None else torch.as_tensor(observed)
    if presence.shape != points.shape or presence.dtype != torch.bool:
        raise ShapeError(
            "observed must be bool, in the shape of u",
            expected=tuple(points.shape),
            got=f"{tuple(presence.shape)} of {presence.dtype}",
        )
    if not bool((((points > 0) & (points < 1)) | ~presence).all()):
        raise DataError(
            "u has an entry that is not inside (0, 1)", expected="0 < u < 1", hint="Use ranks / (n + 1) of the data."
        )
    if not bool((presence.sum(1) >= 2).any()):
        raise DataError("no row has two observed margins", hint="Dependence cannot be learned from margins alone.")
    return torch.where(presence, points, 0.5), presence


def pairwise_kendall_tau(u: Tensor, observed: Tensor) -> Tensor:
    """Kendall's tau of each pair over the rows that have both; 0 where fewer than two have.

    Args:
        u: Shape (N, M).
        observed: Presence, bool (N, M).

    Returns:
        Shape (M, M), ones on the diagonal.
    """
    from scipy.stats import kendalltau

    dim = u.shape[1]
    taus = torch.eye(dim, dtype=torch.float64)
    for i in range(dim):
        for j in range(i):
            both = observed[:, i] & observed[:, j]
            value: Any = kendalltau(u[both, i].numpy(), u[both, j].numpy())[0] if int(both.sum()) > 1 else 0.0
            taus[i, j] = taus[j, i] = 0.0 if math.isnan(value) else float(value)
    return taus


def nearest_correlation(matrix: Tensor, least: float = 1e-3) -> Tensor:
    """A correlation matrix near a symmetric one: eigenvalues raised to ``least``, then unit diagonal."""
    values, vectors = torch.linalg.eigh(matrix)
    raised = (vectors * values.clamp_min(least)) @ vectors.mT
    scale = raised.diagonal().rsqrt()
    raised = raised * scale.unsqueeze(0) * scale.unsqueeze(1)
    return (raised + raised.mT) / 2 * (1 - torch.eye(len(raised))) + torch.eye(len(raised), dtype=raised.dtype)


def _log_likelihood(copula: Copula, u: Tensor, observed: Tensor) -> Tensor:
    presence = None if bool(observed.all()) else observed
    return copula.log_density_from_logs(torch.log(u), torch.log1p(-u), presence).sum()


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
        loss = -_log_likelihood(copula, points, presence) / len(points)
        loss.backward()
        return loss

    optimiser.step(closure)  # type: ignore[arg-type]
    for parameter, required in zip(parameters, before, strict=True):
        parameter.requires_grad_(required)
        parameter.grad = None
    return copula


def fit_student(
    family: type[AnyStudent], start: AnyStudent, u: Tensor, observed: Tensor, df: float | None, iterations: int
) -> AnyStudent:
    """Maximum likelihood of a Student t copula; degrees of freedom by golden section on their logarithm."""
    from scipy.optimize import minimize_scalar

    def fitted(value: float) -> tuple[float, AnyStudent]:
        copula = family(start.correlation.detach(), df=value)
        maximise_likelihood(copula, u, observed, iterations=iterations)
        with torch.no_grad():
            return -float(_log_likelihood(copula, u, observed)), copula

    if df is not None:
        return fitted(df)[1]
    best = minimize_scalar(
        lambda x: fitted(math.exp(x))[0], bounds=(0.0, math.log(100.0)), method="bounded", options={"xatol": 0.02}
    )
    return fitted(math.exp(best.x))[1]


def select_family(
    u: Any, families: Sequence[str] | None = None, *, observed: Any = None, rotations: bool = True
) -> Copula:
    """Fit several families and keep the one with the least Akaike information criterion.

    Args:
        u: Points, shape (N, M).
        families: Names as in :func:`~amodal.distributions.copula.copula_family`; all but the Student t if not given.
        observed: Presence, bool (N, M).
        rotations: Whether to try the rotations of the asymmetric families too, for two margins.

    Returns:
        The fitted copula of the best family.

    Example:
        >>> from amodal.distributions.copula import Clayton
        >>> u = Clayton(theta=2.0).sample(400, generator=torch.Generator().manual_seed(0))
        >>> select_family(u)
        Clayton(theta=2.2..., dim=2)
    """
    from amodal.distributions.copula import FAMILIES, copula_family
    from amodal.distributions.copula.rotation import Rotated

    points, presence = complete_presence(u, observed)
    names = tuple(FAMILIES) if families is None else tuple(families)
    if families is None:
        names = tuple(name for name in names if name != "student_t")
    if not names:
        raise ConfigurationError("select_family needs a family to choose from", expected="at least one name")
    turned = ("clayton", "gumbel", "joe")
    candidates: list[Copula] = []
    for name in names:
        family = copula_family(name)
        candidates.append(family.fit(points, observed=presence))
        if rotations and points.shape[1] == 2 and name in turned:
            candidates += [Rotated.fit_base(family, points, degrees, presence) for degrees in (90, 180, 270)]
    with torch.no_grad():
        scores = [2 * _free_parameters(c) - 2 * float(_log_likelihood(c, points, presence)) for c in candidates]
    return candidates[scores.index(min(scores))]


def _free_parameters(copula: Copula) -> int:
    return sum(p.numel() for p in copula.parameters()) + (1 if hasattr(copula, "df") else 0)


def parameter_intervals(copula: Copula, u: Any, *, observed: Any = None, level: float = 0.95) -> dict[str, Tensor]:
    r"""Confidence intervals of a fitted copula from the observed information.

    Intervals of the unconstrained parameters, carried over by the delta method to :math:`\theta` or to the entries of
    R below its diagonal.

    Args:
        copula: A copula at its maximum likelihood, without a batch shape.
        u: The points it was fitted to, shape (N, M).
        observed: Presence, bool (N, M).
        level: Coverage.

    Returns:
        ``{"theta": (2,)}`` or ``{"correlation": (M(M-1)/2, 2)}``: lower and upper ends.
    """
    from scipy.stats import norm

    points, presence = complete_presence(u, observed)
    (raw,) = copula.parameters()
    required = raw.requires_grad
    raw.requires_grad_(True)
    try:
        gradient = torch.autograd.grad(-_log_likelihood(copula, points, presence), raw, create_graph=True)[0].flatten()
        information = torch.stack([torch.autograd.grad(g, raw, retain_graph=True)[0].flatten() for g in gradient])
        name, value = _natural(copula)
        jacobian = torch.stack([torch.autograd.grad(v, raw, retain_graph=True)[0].flatten() for v in value.flatten()])
    finally:
        raw.requires_grad_(required)
    covariance = jacobian @ torch.linalg.solve(information, jacobian.mT)
    half = norm.ppf(0.5 + level / 2) * covariance.diagonal().clamp_min(0).sqrt()
    ends = torch.stack([value.detach().flatten() - half, value.detach().flatten() + half], -1)
    return {name: ends[0] if name == "theta" else ends}


def _natural(copula: Copula) -> tuple[str, Tensor]:
    from amodal.distributions.copula.archimedean import Archimedean
    from amodal.distributions.copula.elliptical import Elliptical
    from amodal.distributions.copula.rotation import Rotated

    if isinstance(copula, Rotated):
        return _natural(copula.base)
    if isinstance(copula, Archimedean):
        return "theta", copula.theta
    if isinstance(copula, Elliptical):
        below = torch.tril_indices(copula.dim, copula.dim, -1)
        return "correlation", copula.correlation[below[0], below[1]]
    raise ConfigurationError("this copula has no natural parameter to give an interval for", got=type(copula).__name__)
