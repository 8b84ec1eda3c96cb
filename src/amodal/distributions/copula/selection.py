"""Choice of a copula family, and intervals of its parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from amodal.distributions.copula.abstract import Copula
from amodal.distributions.copula.archimedean import Archimedean
from amodal.distributions.copula.elliptical import Elliptical
from amodal.distributions.copula.families import FAMILIES, copula_family
from amodal.distributions.copula.fit import IndependenceTest, complete_presence, independence_test, log_likelihood
from amodal.distributions.copula.rotation import Independence, Rotated
from amodal.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FamilySelection", "parameter_intervals", "select_family"]

_MOST_DOUBLINGS = 40


@dataclass(frozen=True)
class FamilySelection:
    """The family that `select_family` chose, and those it compared.

    Attributes:
        copula: The fitted copula of the chosen family.
        table: One row a candidate, the least criterion first: ``family``, ``rotation`` (degrees), ``parameters``,
            ``log_likelihood``, ``aic``, ``bic``, ``tau`` (mean over pairs) and ``chosen``.
        independence: The test of independence made before.
    """

    copula: Copula
    table: pd.DataFrame
    independence: IndependenceTest


def select_family(
    u: Any,
    families: Sequence[str] | None = None,
    *,
    observed: Any = None,
    rotations: bool = True,
    criterion: Literal["aic", "bic"] = "aic",
    level: float = 0.05,
) -> FamilySelection:
    """The family with the least information criterion, or independence where it is not rejected.

    Of many families one nearly always fits noise better than independence by an information criterion, so a test by
    Kendall's tau comes first.

    Args:
        u: Points, shape (N, M), strictly inside (0, 1) where observed; see ``pseudo_observations``.
        families: Names as in :func:`~amodal.distributions.copula.copula_family`; all but the Student t if not given.
        observed: Presence, bool (N, M).
        rotations: Whether to try rotations of the asymmetric families too, for two margins: those whose Kendall's tau
            has the sign of the data's.
        criterion: What decides.
        level: Independence is kept where its test has a p-value above this, if it is one of the families; 1: only where
            it has the least criterion.

    Returns:
        The copula, the table of all candidates and the test.

    Raises:
        DataError: If no family suits the data, or they cannot be fitted at all.

    Example:
        >>> from amodal.distributions.copula import Clayton
        >>> u = Clayton(theta=2.0).sample(400, generator=torch.Generator().manual_seed(0))
        >>> result = select_family(u)
        >>> result.copula
        Clayton(theta=2.2..., dim=2)
        >>> result.table[["family", "rotation", "parameters"]].head(2).to_dict("records")
        [{'family': 'clayton', 'rotation': 0, 'parameters': 1}, {'family': 'joe', 'rotation': 180, 'parameters': 1}]
    """
    points, presence = complete_presence(u, observed)
    names = [name for name in FAMILIES if name != "student_t"] if families is None else list(families)
    if not names:
        raise ConfigurationError("select_family needs a family to choose from", expected="at least one name")
    _require_level(level, 0.0 <= level <= 1.0)
    if criterion not in ("aic", "bic"):
        raise ConfigurationError("unknown criterion", expected="'aic' or 'bic'", got=repr(criterion))
    test = independence_test(points, observed=presence)
    pair = points.shape[1] == 2
    candidates = _candidates(names, points, presence, float(test.tau[0, 1]) if pair and rotations else None)
    rows = [_row(name, copula, points, presence) for name, copula in candidates]
    order = sorted(range(len(rows)), key=lambda i: rows[i][criterion])
    kept = [i for i in order if isinstance(candidates[i][1], Independence) and test.p_value > level]
    chosen = (kept or order)[0]

    import pandas as pd

    table = pd.DataFrame([rows[i] | {"chosen": i == chosen} for i in order])
    return FamilySelection(candidates[chosen][1], table, test)


def _candidates(names: Sequence[str], u: Tensor, observed: Tensor, tau: float | None) -> list[tuple[str, Copula]]:
    """Fitted copulas by family; with the tau of two margins, rotations of its sign too."""
    candidates: list[tuple[str, Copula]] = []
    unsuitable = None
    for name in names:
        family = copula_family(name)
        turns = [0]
        if tau is not None and issubclass(family, Archimedean) and not family._signed_pair:
            turns = [0, 180] if tau >= 0 else [90, 270]
        for degrees in turns:
            try:
                copula = Rotated.fit_base(family, u, degrees, observed) if degrees else family.fit(u, observed=observed)
            except DataError as error:  # the family cannot depend as the data do
                unsuitable = error
            else:
                candidates.append((name, copula))
    if unsuitable is not None and all(isinstance(copula, Independence) for _, copula in candidates):
        raise unsuitable
    return candidates


def _require_level(level: float, fine: bool) -> None:
    if not fine:
        raise ConfigurationError("level is not a probability", expected="between 0 and 1, such as 0.95", got=level)


def _row(name: str, copula: Copula, u: Tensor, observed: Tensor) -> dict[str, Any]:
    with torch.no_grad():
        tau = copula.kendall_tau()
        if tau.ndim == 2:
            below = torch.tril_indices(copula.dim, copula.dim, -1)
            tau = tau[below[0], below[1]].mean()
        return {
            "family": name,
            "rotation": copula.degrees if isinstance(copula, Rotated) else 0,
            "parameters": copula.parameter_count,
            "log_likelihood": float(log_likelihood(copula, u, observed)),
            "aic": copula.aic(u, observed=observed),
            "bic": copula.bic(u, observed=observed),
            "tau": float(tau),
        }


def parameter_intervals(copula: Copula, u: Any, *, observed: Any = None, level: float = 0.95) -> dict[str, Tensor]:
    r"""Confidence intervals of a fitted copula, inside the parameters' domain.

    Of :math:`\theta` by the likelihood ratio, :math:`\{\theta: 2(\hat\ell - \ell(\theta)) \le \chi^2_1\}`, which may
    end at independence; of the entries of R by the observed information on the scale of the inverse hyperbolic tangent,
    the degrees of freedom of a t taken as known. They suppose that the margins are known: after ``pseudo_observations``
    they are a little too narrow.

    Args:
        copula: A copula at its maximum likelihood, without a batch shape.
        u: The points it was fitted to, shape (N, M).
        observed: Presence, bool (N, M).
        level: Coverage.

    Returns:
        ``{"theta": (2,)}`` or ``{"correlation": (M(M-1)/2, 2)}``: lower and upper ends.

    Raises:
        ConfigurationError: For a copula without parameters of its own, or with several sets of them.

    Example:
        >>> from amodal.distributions.copula import Gumbel
        >>> u = Gumbel(theta=1.05).sample(200, generator=torch.Generator().manual_seed(1))
        >>> [round(end, 2) for end in parameter_intervals(Gumbel.fit(u), u)["theta"].tolist()]
        [1.01, 1.14]
    """
    _require_level(level, 0.0 < level < 1.0)
    points, presence = complete_presence(u, observed)
    if isinstance(copula, Rotated):
        flips = torch.tensor(copula._FLIPS[copula.degrees])
        return parameter_intervals(copula.base, torch.where(flips, 1 - points, points), observed=presence, level=level)
    if copula.batch_shape or not list(copula.parameters()):
        raise ConfigurationError(
            "this copula has no parameters of its own to give an interval for",
            expected="a fitted copula of one parameter or one correlation matrix",
            got=f"{type(copula).__name__} with batch_shape {tuple(copula.batch_shape)}",
        )
    if isinstance(copula, Archimedean):
        return {"theta": _ratio_interval(copula, points, presence, level)}
    assert isinstance(copula, Elliptical)
    return {"correlation": _information_intervals(copula, points, presence, level)}


def _ratio_interval(copula: Archimedean, u: Tensor, observed: Tensor, level: float) -> Tensor:
    """The points where the likelihood ratio crosses its critical value, or the end of the domain where it does not."""
    from scipy.optimize import brentq
    from scipy.stats import chi2

    family, dim, centre = type(copula), copula.dim, float(copula.theta.detach())
    lowest = -math.inf if family._signed_pair and dim == 2 else family._least
    best, limit = float(log_likelihood(copula, u, observed).detach()), float(chi2.ppf(level, 1))

    def excess(theta: float) -> float:
        with torch.no_grad():
            return 2 * (best - float(log_likelihood(family(theta, dim), u, observed))) - limit

    def crossing(direction: int) -> float:
        step = 0.1 * max(1.0, abs(centre))
        for _ in range(_MOST_DOUBLINGS):
            end = max(centre + direction * step, lowest + 1e-12)
            if excess(end) > 0:
                return float(brentq(excess, centre, end, rtol=1e-10))  # type: ignore[arg-type]
            if end == lowest + 1e-12:
                return lowest
            step *= 2
        return direction * math.inf  # the likelihood does not fall any more

    return torch.tensor([crossing(-1), crossing(1)], dtype=torch.float64)


def _information_intervals(copula: Elliptical, u: Tensor, observed: Tensor, level: float) -> Tensor:
    """Ends of the entries of R below its diagonal, by the delta method for their artanh (Fisher's z)."""
    from scipy.stats import norm

    (raw,) = copula.parameters()
    required = raw.requires_grad
    raw.requires_grad_(True)
    try:
        gradient = torch.autograd.grad(-log_likelihood(copula, u, observed), raw, create_graph=True)[0].flatten()
        information = torch.stack([torch.autograd.grad(g, raw, retain_graph=True)[0].flatten() for g in gradient])
        below = torch.tril_indices(copula.dim, copula.dim, -1)
        z = torch.atanh(copula.correlation[below[0], below[1]])
        jacobian = torch.stack([torch.autograd.grad(value, raw, retain_graph=True)[0].flatten() for value in z])
    finally:
        raw.requires_grad_(required)
    covariance = jacobian @ torch.linalg.solve(information, jacobian.mT)
    half = norm.ppf(0.5 + level / 2) * covariance.diagonal().clamp_min(0).sqrt()
    return torch.tanh(torch.stack([z.detach() - half, z.detach() + half], -1))
