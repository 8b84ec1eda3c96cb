r"""Which statistic of a vector the copula joins: five variants of the joint law, four of them laws.

* :class:`CoordinatewiseLaw`: coordinate j of all modalities has a copula of its own.
* :class:`~amodal.distributions.joint.common.CommonComponentLaw`: the same within a component common to all modalities.
* :class:`KendallLaw`: the Kendall transform of each component's joint distribution function, one copula.
* :class:`ProjectionLaw`: one learned projection of each modality, one copula.
* :class:`PrintedLaw`: the joint distribution function itself, as printed in the paper. Not a density.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from amodal.distributions.copula import GaussianCopula
from amodal.distributions.copula.points import full_precision, without_autocast
from amodal.distributions.joint.common import CommonComponentLaw
from amodal.distributions.joint.law import CompletionNoise, JointLaw
from amodal.distributions.joint.mixture_copula import (
    component_tuples,
    coordinatewise_log_density,
    kendall_log_density,
    projection_log_density,
    tuple_log_terms,
)
from amodal.distributions.log_space import log1mexp
from amodal.distributions.mixture.kendall_transform import kendall_log_cdf
from amodal.distributions.mixture.margins import mixture_margins
from amodal.distributions.mixture.quantile import mixture_quantile, quantile_table
from amodal.distributions.mixture.sampling import choose_relaxed
from amodal.distributions.normal import normal_log_tails, normal_score
from amodal.errors import ConfigurationError, UnknownNameError

__all__ = ["JOINT_LAWS", "CoordinatewiseLaw", "KendallLaw", "PrintedLaw", "ProjectionLaw", "joint_law"]

_TEMPERATURE = 0.5
_MOST_TUPLES = 4096
_LEAST_SLOPE = 0.05
_ENOUGH = 500  # draws of a modality from which on a table of its quantiles pays


def _margins(z: Tensor, observed: Tensor, log_density: Tensor) -> Tensor:
    """Sum over the observed modalities of (M, B)."""
    return torch.where(observed, log_density, 0.0).sum(0)


def _unless_complete(observed: Tensor) -> Tensor | None:
    """None where every row has everything: complete rows have the faster path."""
    return None if bool(observed.all()) else observed


class CoordinatewiseLaw(JointLaw):
    r"""Coordinate j of all modalities is an M-vector with univariate mixtures for margins and a copula of its own.

    .. math:: \log p(z) = \sum_j \Bigl[\sum_m \log f_{mj}(z_{mj}) + \log c_j(F_{1j}(z_{1j}), …, F_{Mj}(z_{Mj}))\Bigr]

    A density on all of the space. Completions are exact: quantiles of conditional laws, differentiated implicitly in
    everything, mixture weights included. Their gradients are unbiased, but bounded in wide gaps between components,
    which few draws fall into.
    """

    joins_scalars: ClassVar[bool] = False

    def log_density(self, z: Tensor, observed: Tensor) -> Tensor:
        """See `JointLaw.log_density`."""
        with without_autocast(z):
            z = full_precision(z)
            if self.copula is not None:
                return coordinatewise_log_density(self.mixture, self.copula, z, _unless_complete(observed))
            blanked = torch.where(observed.unsqueeze(-1), z, 0.0)
            return _margins(z, observed, self.mixture.marginal_log_density(blanked).sum(-1))

    def dependence(self, z: Tensor, observed: Tensor) -> Tensor:
        """See `JointLaw.dependence`."""
        if self.copula is None:
            return z.new_zeros(z.shape[1])
        with without_autocast(z):
            z = torch.where(observed.unsqueeze(-1), full_precision(z), 0.0)
            _, lower, upper = self.mixture.marginal_logs(z)
            return self.copula.log_density_margins_first(lower, upper, observed.unsqueeze(-1)).sum(-1)

    def _draw(self, z: Tensor, observed: Tensor, noise: CompletionNoise, joined: bool) -> Tensor:
        margin, row = (~observed).nonzero(as_tuple=True)  # only what is absent is drawn: N of M times B
        score, logs = self._absent_scores(z, observed, noise, joined, margin, row)  # (N, S, D)
        mixture = self.mixture
        start = None
        if score.shape[0] * score.shape[1] > _ENOUGH * self.modalities:
            table = quantile_table(mixture.log_weights, mixture.means, mixture.scales)
            start = table.at(score.detach(), margin)
        law = [part[margin].unsqueeze(1) for part in (mixture.log_weights, mixture.means, mixture.scales)]
        drawn = mixture_quantile(*logs, *law, start=start, least_slope=_LEAST_SLOPE)
        whole = drawn.new_zeros(observed.numel(), *drawn.shape[1:])
        whole = whole.index_copy(0, margin * observed.shape[1] + row, drawn)
        return whole.unflatten(0, observed.shape).transpose(1, 2)  # (M, S, B, D)

    def _absent_scores(
        self, z: Tensor, observed: Tensor, noise: CompletionNoise, joined: bool, margin: Tensor, row: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Normal scores of the ranks of absent coordinates, and both logarithms of the ranks, (N, S, D)."""
        if joined:
            _, lower, upper = self.mixture.marginal_logs(z)
            if isinstance(self.copula, GaussianCopula):
                score = self._normal_completion(lower, upper, observed, noise).at(margin, row)
                return score, normal_log_tails(score)
            logs = self._complete_logs(lower.unsqueeze(1), upper.unsqueeze(1), observed, noise, joined)
            lower, upper = (part[margin, :, row] for part in logs)
        else:
            uniform = noise.uniform.expand(-1, -1, z.shape[1], -1)[margin, :, row]
            lower, upper = torch.log(uniform), torch.log1p(-uniform)
        return normal_score(lower, upper), (lower, upper)


class KendallLaw(JointLaw):
    r"""One copula of the Kendall transforms of the components' joint distribution functions, nearest to the paper.

    .. math:: \log p(z) = \log\sum_{k_1 … k_M} \Bigl[\prod_m \pi_{m k_m} N_{m k_m}(z_m)\Bigr] c(u_{1k_1}, …, u_{Mk_M})

    A density. One scalar a modality, "how far up the orthant". The number of tuples grows as :math:`K^M`. Completions
    are exact; the gradient through the choice of a component is that of a relaxed choice.

    Raises:
        ConfigurationError: If there are more than 4096 tuples of components.
    """

    def __init__(self, modalities: int, dim: int, *, components: int = 3, **settings):  # type: ignore[no-untyped-def]
        if isinstance(components, int) and components > 1 and components**modalities > _MOST_TUPLES:
            raise ConfigurationError(
                "there are too many tuples of components",
                expected=f"components ** modalities <= {_MOST_TUPLES}",
                got=f"{components} ** {modalities}",
                hint='Take fewer components, or the variant "coordinatewise".',
            )
        super().__init__(modalities, dim, components=components, **settings)

    def log_density(self, z: Tensor, observed: Tensor) -> Tensor:
        """See `JointLaw.log_density`."""
        with without_autocast(z):
            z = full_precision(z)
            if self.copula is not None:
                return kendall_log_density(self.mixture, self.copula, z, _unless_complete(observed))
            blanked = torch.where(observed.unsqueeze(-1), z, 0.0)
            return _margins(z, observed, self.mixture.log_density(blanked))

    def dependence(self, z: Tensor, observed: Tensor) -> Tensor:
        """See `JointLaw.dependence`."""
        if self.copula is None:
            return z.new_zeros(z.shape[1])
        with without_autocast(z):
            z = torch.where(observed.unsqueeze(-1), full_precision(z), 0.0)
            margins = _margins(z, observed, self.mixture.log_density(z))
            return kendall_log_density(self.mixture, self.copula, z, _unless_complete(observed)) - margins

    def _draw(self, z: Tensor, observed: Tensor, noise: CompletionNoise, joined: bool) -> Tensor:
        lower = upper = z[:, None, :, :1]
        if joined:
            assert self.copula is not None
            terms, logs = tuple_log_terms(self.mixture, self.copula, z, observed)  # (K^M, B), 2 x (M, B, K)
            chances = terms.detach().softmax(0).T.cumsum(1)  # (B, K^M)
            pick = noise.pick.expand(-1, z.shape[1]).T.contiguous()  # (B, S)
            place = torch.searchsorted(chances.contiguous(), pick).clamp(max=chances.shape[1] - 1)
            component = component_tuples(self.modalities, self.mixture.components).to(z.device)[:, place]  # (M, B, S)
            lower, upper = (part.gather(-1, component).mT.unsqueeze(-1) for part in logs)  # (M, S, B, 1)
        else:
            lower = lower.expand(-1, noise.pick.shape[0], -1, -1)
        lower, upper = self._complete_logs(lower, lower if not joined else upper, observed, noise, joined)
        mixture = self.mixture
        g = -kendall_log_cdf(normal_score(lower, upper), self.dim)  # (M, S, B, 1)
        share = 0.5 * torch.special.erfc(noise.normal * 0.5**0.5)  # uniform
        share = -share.clamp(1e-30, 1 - 1e-7).log()
        log_cdf = -g * share / share.sum(-1, keepdim=True)  # of each coordinate
        log_cdf = log_cdf.clamp(max=-1e-30)
        choice = choose_relaxed(mixture.log_weights[:, None, None] + noise.gumbel, _TEMPERATURE)  # (M, S, R, K)
        mean = torch.einsum("msrk,mkd->msrd", choice, mixture.means)
        scale = torch.einsum("msrk,mkd->msrd", choice, mixture.scales)
        return mean + scale * normal_score(log_cdf, log1mexp(-log_cdf))


class ProjectionLaw(JointLaw):
    r"""One copula of one learned projection of each modality.

    .. math:: \log p(z) = \sum_m \log f_m(z_m) + \log c\bigl(G_1(w_1^\top z_1), …, G_M(w_M^\top z_M)\bigr)

    A density, and the cheapest. Completions are exact; the gradient through the choice of a component is that of a
    relaxed choice. All that ties the modalities is one direction in each.
    """

    def __init__(self, modalities: int, dim: int, **settings):  # type: ignore[no-untyped-def]
        super().__init__(modalities, dim, **settings)
        self.direction = nn.Parameter(torch.randn(modalities, dim)) if self.copula is not None else None

    def log_density(self, z: Tensor, observed: Tensor) -> Tensor:
        """See `JointLaw.log_density`."""
        with without_autocast(z):
            z = full_precision(z)
            if self.copula is not None and self.direction is not None:
                return projection_log_density(self.mixture, self.copula, self.direction, z, observed)
            blanked = torch.where(observed.unsqueeze(-1), z, 0.0)
            return _margins(z, observed, self.mixture.log_density(blanked))

    def dependence(self, z: Tensor, observed: Tensor) -> Tensor:
        """See `JointLaw.dependence`."""
        if self.copula is None:
            return z.new_zeros(z.shape[1])
        with without_autocast(z):
            lower, upper = self._projected_logs(torch.where(observed.unsqueeze(-1), full_precision(z), 0.0))
            return self.copula.log_density_margins_first(lower.squeeze(-1), upper.squeeze(-1), observed)

    def _projected_logs(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Both logarithms of the distribution function of each projection, (M, B, 1)."""
        assert self.direction is not None
        law = (part.unsqueeze(1) for part in self.mixture.projected(self.direction))
        projected = (z * self.direction.unsqueeze(1)).sum(-1, keepdim=True)
        _, lower, upper = mixture_margins(projected, *law)
        return lower, upper

    def _draw(self, z: Tensor, observed: Tensor, noise: CompletionNoise, joined: bool) -> Tensor:
        mixture, log_weights = self.mixture, self.mixture.log_weights[:, None, None]
        if self.direction is None or not joined:
            choice = choose_relaxed(log_weights + noise.gumbel, _TEMPERATURE)
            drawn = _from_components(mixture.means, mixture.scales, choice, noise.normal)
            return drawn.expand(-1, -1, z.shape[1], -1)
        lower, upper = (part.unsqueeze(1) for part in self._projected_logs(z))
        lower, upper = self._complete_logs(lower, upper, observed, noise, joined)
        law = [part[:, None, None] for part in mixture.projected(self.direction)]  # weights (M,1,1,K), (M,1,1,K,1)
        t = mixture_quantile(lower, upper, *law, least_slope=_LEAST_SLOPE)  # (M, S, B, 1)
        standard = (t - law[1].squeeze(-1)) / law[2].squeeze(-1)
        responsibility = law[0] - torch.log(law[2].squeeze(-1)) - 0.5 * standard * standard
        choice = choose_relaxed(responsibility + noise.gumbel, _TEMPERATURE)  # (M, S, B, K)
        drawn = _from_components(mixture.means, mixture.scales, choice, noise.normal)
        variance = torch.einsum("msbk,mkd->msbd", choice, mixture.scales**2)
        w = self.direction[:, None, None]
        gain = variance * w / (variance * w * w).sum(-1, keepdim=True)
        return drawn + gain * (t - (drawn * w).sum(-1, keepdim=True))


def _from_components(means: Tensor, scales: Tensor, choice: Tensor, normal: Tensor) -> Tensor:
    """Draws (M, S, B, D) from the chosen components."""
    mean, scale = (torch.einsum("msbk,mkd->msbd", choice, part) for part in (means, scales))
    return mean + scale * normal


class PrintedLaw(JointLaw):
    r"""The formula as printed in the paper, with the joint distribution function of a vector as the copula's argument.

    .. math:: \log c\bigl(F_1(z_1), …, F_M(z_M)\bigr) + \sum_m \log f_m(z_m), \qquad
        F_m(z) = \sum_k \pi_{mk} \prod_j \Phi\bigl((z_j - \mu_{mkj})/\sigma_{mkj}\bigr)

    **Invalid**: for vectors of more than one coordinate :math:`F_m(z_m)` is not uniform, so this is no density (it
    integrates to 92 with eight coordinates and a Gumbel copula of parameter 2), and what maximises it says nothing
    about dependence. Kept, in log space, for comparisons only. It has no conditional law.

    Source:
        :cite:`wu2025cm2`, section 3.2.
    """

    conditional: ClassVar[bool] = False

    def log_density(self, z: Tensor, observed: Tensor) -> Tensor:
        """What the paper maximises: not the logarithm of a density."""
        with without_autocast(z):
            z = torch.where(observed.unsqueeze(-1), full_precision(z), 0.0)
            return _margins(z, observed, self.mixture.log_density(z)) + self.dependence(z, observed)

    def dependence(self, z: Tensor, observed: Tensor) -> Tensor:
        """The copula's term."""
        if self.copula is None:
            return z.new_zeros(z.shape[1])
        with without_autocast(z):
            z = torch.where(observed.unsqueeze(-1), full_precision(z), 0.0)
            log_cdf = self.mixture.joint_log_cdf(z).clamp(max=-1e-6)
            return self.copula.log_density_margins_first(log_cdf, log1mexp(-log_cdf), observed)

    def _draw(self, z: Tensor, observed: Tensor, noise: CompletionNoise, joined: bool) -> Tensor:
        choice = choose_relaxed(self.mixture.log_weights[:, None, None] + noise.gumbel, _TEMPERATURE)
        drawn = _from_components(self.mixture.means, self.mixture.scales, choice, noise.normal)
        return drawn.expand(-1, -1, z.shape[1], -1)


JOINT_LAWS: dict[str, type[JointLaw]] = {
    "coordinatewise": CoordinatewiseLaw,
    "common": CommonComponentLaw,
    "kendall": KendallLaw,
    "projection": ProjectionLaw,
    "printed": PrintedLaw,
}
"""The variants by name."""


def joint_law(
    variant: str,
    modalities: int,
    dim: int,
    *,
    components: int = 3,
    family: str = "gaussian",
    shared: bool = False,
    scale_floor: float = 0.05,
) -> JointLaw:
    """A joint law by the name of its variant; see `JointLaw` for the arguments.

    Raises:
        UnknownNameError: If the variant or the family is not known.

    Example:
        >>> law = joint_law("kendall", 2, 4, components=2, family="gumbel")
        >>> law.log_density(torch.zeros(2, 5, 4), torch.ones(2, 5, dtype=torch.bool)).shape
        torch.Size([5])
    """
    if variant not in JOINT_LAWS:
        raise UnknownNameError("variant of the joint law", variant, JOINT_LAWS)
    settings = {"components": components, "family": family, "shared": shared, "scale_floor": scale_floor}
    return JOINT_LAWS[variant](modalities, dim, **settings)
