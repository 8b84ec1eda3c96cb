"""Variants of the joint law, by the scalar of a vector that the copula joins."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from amodal.distributions.copula import GaussianCopula
from amodal.distributions.joint.common import CommonComponentLaw
from amodal.distributions.joint.law import CompletionNoise, JointLaw, choose_relaxed, of_choice
from amodal.distributions.log_space import log1mexp
from amodal.distributions.mixture.kendall_transform import kendall_log_cdf, kendall_score
from amodal.distributions.mixture.margins import mixture_margins
from amodal.distributions.mixture.quantile import mixture_quantile, quantile_table
from amodal.distributions.normal import normal_log_tails, normal_score
from amodal.errors import ConfigurationError, UnknownNameError

__all__ = ["JOINT_LAWS", "CoordinatewiseLaw", "KendallLaw", "PrintedLaw", "ProjectionLaw", "joint_law"]

_MOST_TUPLES = 4096
_LEAST_SLOPE = 0.05
_ENOUGH = 500  # draws of a modality from which on a table of its quantiles pays


class CoordinatewiseLaw(JointLaw):
    r"""Coordinate j of all modalities is an M-vector with univariate mixtures for margins and a copula of its own.

    .. math:: \log p(z) = \sum_j \Bigl[\sum_m \log f_{mj}(z_{mj}) + \log c_j(F_{1j}(z_{1j}), …, F_{Mj}(z_{Mj}))\Bigr]

    A density on all of the space. Completions are exact: quantiles of conditional laws, differentiated implicitly in
    everything, mixture weights included. Their gradients are unbiased, but bounded in wide gaps between components,
    which few draws fall into.
    """

    joins_scalars: ClassVar[bool] = False

    def _parts(self, z: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        log_f, lower, upper = self.mixture.marginal_logs(z)  # (M, B, D)
        if self.copula is None:
            return log_f.sum(-1), log_f.new_zeros(z.shape[1])
        log_c = self.copula.log_density_margins_first(lower, upper, observed.unsqueeze(-1))  # (B, D)
        return log_f.sum(-1), log_c.sum(-1)

    def _shares(self, z: Tensor, observed: Tensor) -> Tensor:
        mixture = self.mixture
        t = (z.unsqueeze(2) - mixture.means.unsqueeze(1)) / mixture.scales.unsqueeze(1)  # (M, B, K, D)
        terms = mixture.log_weights[:, None, :, None] - mixture.scales.log().unsqueeze(1) - 0.5 * t * t
        return torch.softmax(terms, 2)

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
            logs = self._complete_logs(lower.unsqueeze(1), upper.unsqueeze(1), observed, noise)
            lower, upper = (part[margin, :, row] for part in logs)
        else:
            uniform = noise.uniform.expand(-1, -1, z.shape[1], -1)[margin, :, row]
            lower, upper = torch.log(uniform), torch.log1p(-uniform)
        return normal_score(lower, upper), (lower, upper)


@lru_cache(maxsize=32)
def _component_tuples(modalities: int, components: int) -> Tensor:
    """Each modality's component in each tuple of components: shape (M, K^M)."""
    return torch.cartesian_prod(*[torch.arange(components)] * modalities).reshape(-1, modalities).T


class KendallLaw(JointLaw):
    r"""One copula of the Kendall transforms of the components' joint distribution functions, nearest to the paper.

    .. math::
        \log p(z) = \log\sum_{k_1 … k_M} \Bigl[\prod_m \pi_{m k_m} N_{m k_m}(z_m)\Bigr] c(u_{1k_1}, …, u_{Mk_M}),
        \qquad u_{mk} = P\Bigl(\mathrm{Gamma}(D, 1) > -\sum_j \log\Phi(t_{mkj})\Bigr)

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

    def _parts(self, z: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        mixture = self.mixture
        density = mixture.component_log_density(z) + mixture.log_weights.unsqueeze(1)  # (M, B, K)
        margins = torch.logsumexp(density, -1)
        if self.copula is None:
            return margins, margins.new_zeros(z.shape[1])
        joint = torch.logsumexp(self._tuple_terms(z, observed, density)[0], 0)
        return margins, joint - torch.where(observed, margins, 0.0).sum(0)

    def _tuple_terms(self, z: Tensor, observed: Tensor, density: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        r"""The logarithm of each term of the sum over tuples, of shape (K^M, B), whose softmax is their posterior.

        Also :math:`\log u_{mk}` and :math:`\log(1 - u_{mk})`, (M, B, K). An absent modality enters by the weight of its
        component alone. ``density``: of each component with its weight, (M, B, K).
        """
        assert self.copula is not None
        logs = normal_log_tails(kendall_score(self.mixture.component_log_cdf(z), self.dim))  # (M, B, K)
        density = torch.where(observed.unsqueeze(-1), density, self.mixture.log_weights.unsqueeze(1))
        tuples = _component_tuples(self.modalities, self.mixture.components).to(z.device)
        index = (tuples + self.mixture.components * torch.arange(len(tuples), device=z.device)[:, None]).flatten()
        parts = torch.stack([density, *logs]).mT.flatten(1, 2)  # (3, M K, B)
        density, lower, upper = parts.index_select(1, index).unflatten(1, tuples.shape).unbind(0)  # (M, K^M, B)
        log_c = self.copula.log_density_margins_first(lower, upper, observed.unsqueeze(1))
        return density.sum(0) + log_c, logs

    def _draw(self, z: Tensor, observed: Tensor, noise: CompletionNoise, joined: bool) -> Tensor:
        mixture = self.mixture
        if joined:
            density = mixture.component_log_density(z) + mixture.log_weights.unsqueeze(1)
            terms, logs = self._tuple_terms(z, observed, density)  # (K^M, B), 2 x (M, B, K)
            chances = terms.detach().softmax(0).T.cumsum(1)  # (B, K^M)
            pick = noise.pick.expand(-1, z.shape[1]).T.contiguous()  # (B, S)
            place = torch.searchsorted(chances.contiguous(), pick).clamp(max=chances.shape[1] - 1)
            component = _component_tuples(self.modalities, mixture.components).to(z.device)[:, place]  # (M, B, S)
            lower, upper = (part.gather(-1, component).mT.unsqueeze(-1) for part in logs)  # (M, S, B, 1)
            lower, upper = self._complete_logs(lower, upper, observed, noise)
        else:
            uniform = noise.uniform.expand(-1, -1, z.shape[1], -1)
            lower, upper = torch.log(uniform), torch.log1p(-uniform)
        g = -kendall_log_cdf(normal_score(lower, upper), self.dim)  # (M, S, B, 1)
        # How g is shared among the coordinates is Dirichlet(1, …, 1): exponentials over their sum.
        share = 0.5 * torch.special.erfc(noise.normal * 0.5**0.5)  # uniform
        share = -share.clamp(1e-30, 1 - 1e-7).log()
        log_cdf = -g * share / share.sum(-1, keepdim=True)  # of each coordinate
        log_cdf = log_cdf.clamp(max=-1e-30)
        mean, scale = self._component(mixture.log_weights[:, None, None] + noise.gumbel)
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

    def _parts(self, z: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        margins = self.mixture.log_density(z)
        if self.copula is None:
            return margins, margins.new_zeros(z.shape[1])
        lower, upper = self._projected_logs(z)
        return margins, self.copula.log_density_margins_first(lower.squeeze(-1), upper.squeeze(-1), observed)

    def _projected_logs(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Both logarithms of the distribution function of each projection, (M, B, 1)."""
        assert self.direction is not None
        law = (part.unsqueeze(1) for part in self.mixture.projected(self.direction))
        projected = (z * self.direction.unsqueeze(1)).sum(-1, keepdim=True)
        _, lower, upper = mixture_margins(projected, *law)
        return lower, upper

    def _draw(self, z: Tensor, observed: Tensor, noise: CompletionNoise, joined: bool) -> Tensor:
        if self.direction is None or not joined:
            return self._from_margins(noise).expand(-1, -1, z.shape[1], -1)
        lower, upper = (part.unsqueeze(1) for part in self._projected_logs(z))
        lower, upper = self._complete_logs(lower, upper, observed, noise)
        law = [part[:, None, None] for part in self.mixture.projected(self.direction)]  # (M,1,1,K), (M,1,1,K,1)
        t = mixture_quantile(lower, upper, *law, least_slope=_LEAST_SLOPE)  # (M, S, B, 1)
        standard = (t - law[1].squeeze(-1)) / law[2].squeeze(-1)
        responsibility = law[0] - torch.log(law[2].squeeze(-1)) - 0.5 * standard * standard
        choice = choose_relaxed(responsibility + noise.gumbel)  # (M, S, B, K)
        scales = self.mixture.scales
        drawn = of_choice(choice, self.mixture.means) + of_choice(choice, scales) * noise.normal  # (M, S, B, D)
        variance = of_choice(choice, scales**2)
        # Moved along the covariance of z and w'z to where the projection is t: exact given the component.
        w = self.direction[:, None, None]
        gain = variance * w / (variance * w * w).sum(-1, keepdim=True)
        return drawn + gain * (t - (drawn * w).sum(-1, keepdim=True))


class PrintedLaw(JointLaw):
    r"""The formula as printed in the paper, with the joint distribution function of a vector as the copula's argument.

    .. math::
        \log c\bigl(F_1(z_1), …, F_M(z_M)\bigr) + \sum_m \log f_m(z_m), \qquad
        F_m(z) = \sum_k \pi_{mk} \prod_j \Phi\bigl((z_j - \mu_{mkj})/\sigma_{mkj}\bigr)

    **Invalid**: for vectors of more than one coordinate :math:`F_m(z_m)` is not uniform, so this is no density (it
    integrates to 92 with eight coordinates and a Gumbel copula of parameter 2), and what maximises it says nothing
    about dependence. Kept, in log space, for comparisons only. It has no conditional law.

    Source:
        :cite:`wu2025cm2`, section 3.2.
    """

    conditional: ClassVar[bool] = False

    def _parts(self, z: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        margins = self.mixture.log_density(z)
        if self.copula is None:
            return margins, margins.new_zeros(z.shape[1])
        log_cdf = self.mixture.joint_log_cdf(z).clamp(max=-1e-6)
        return margins, self.copula.log_density_margins_first(log_cdf, log1mexp(-log_cdf), observed)

    def _draw(self, z: Tensor, observed: Tensor, noise: CompletionNoise, joined: bool) -> Tensor:
        return self._from_margins(noise).expand(-1, -1, z.shape[1], -1)


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
    learnable_margins: bool = True,
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
    settings["learnable_margins"] = learnable_margins
    return JOINT_LAWS[variant](modalities, dim, **settings)
