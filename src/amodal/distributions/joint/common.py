r"""The joint law with one mixture component for all modalities of a case.

In :class:`~amodal.distributions.joint.variants.CoordinatewiseLaw` the coordinates of an absent modality are independent
given what is observed, so that a completion may take one coordinate from one kind of case and the next from another.
Here one component is chosen for all coordinates of all modalities, and what is observed says which.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from amodal.distributions.copula import GaussianCopula
from amodal.distributions.joint.law import CompletionNoise, JointLaw
from amodal.distributions.joint.normal_completion import normal_completion
from amodal.distributions.normal import normal_log_tails, normal_score

__all__ = ["CommonComponentLaw"]


class CommonComponentLaw(JointLaw):
    r"""All vectors of a case come from the same component; within it, coordinate j of all modalities has a copula.

    .. math::
        p(z) = \sum_k \pi_k \prod_m N(z_m; \mu_{mk}, \operatorname{diag} \sigma_{mk}^2)
        \prod_j c_j\bigl(\Phi(t_{1kj}), …, \Phi(t_{Mkj})\bigr), \qquad t_{mkj} = (z_{mj} - \mu_{mkj}) / \sigma_{mkj}

    A density on all of the space, whose margins are mixtures with the same weights; that of a subset is of the same
    form. With a Gaussian copula each component is a normal distribution. Completions are exact: a component by its
    probability given what is observed, then coordinates given those observed under it. The gradient through the choice
    of the component is that of a relaxed choice. The components have to be enough for the kinds of cases there are.
    """

    joins_scalars: ClassVar[bool] = False
    one_component: ClassVar[bool] = True

    @property
    def log_weights(self) -> Tensor:
        r""":math:`\log\pi`, shape (K,). Weights that learn start alike and have equal gradients, so stay alike."""
        return torch.log_softmax(self.mixture.raw_weights.mean(0), -1)

    def _parts(self, z: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        own = self.mixture.component_log_density(z)  # (M, B, K)
        margins = torch.logsumexp(own + self.log_weights, -1)  # (M, B)
        joint = torch.logsumexp(self._terms(z, observed, own), -1)
        return margins, joint - torch.where(observed, margins, 0.0).sum(0)

    def _terms(self, z: Tensor, observed: Tensor, own: Tensor) -> Tensor:
        """Logarithms of the K terms of the density of what is observed, (B, K), from those of each modality."""
        total = self.log_weights + torch.where(observed.unsqueeze(-1), own, 0.0).sum(0)
        if self.copula is None:
            return total
        t = (z.unsqueeze(2) - self.mixture.means.unsqueeze(1)) / self.mixture.scales.unsqueeze(1)  # (M, B, K, D)
        joint = self.copula.log_density_margins_first(*normal_log_tails(t), observed[:, :, None, None])  # (B, K, D)
        return total + joint.sum(-1)

    def _shares(self, z: Tensor, observed: Tensor) -> Tensor:
        terms = self._terms(z, observed, self.mixture.component_log_density(z))  # (B, K)
        return torch.softmax(terms, -1).expand(self.modalities, -1, -1).unsqueeze(-1)

    def _draw(self, z: Tensor, observed: Tensor, noise: CompletionNoise, joined: bool) -> Tensor:
        if not joined:
            mean, scale = self._component(self.log_weights + noise.gumbel)
            return (mean + scale * noise.normal).expand(-1, -1, z.shape[1], -1)
        if not noise.kept:
            return self._draw_jointly(z, observed, noise, noise.order[0])
        kept = torch.zeros(self.modalities, 1, dtype=torch.bool, device=z.device)
        kept[list(noise.order[: noise.kept])] = True
        first = self._draw_jointly(z, observed, noise, noise.order[0])
        given = torch.where((kept & ~observed).unsqueeze(-1), first[:, 0], z)  # the same in every draw
        if noise.kept == self.modalities:
            return given.unsqueeze(1).expand_as(first)
        rest = self._draw_jointly(given, observed | kept, noise, noise.order[noise.kept])
        return torch.where(kept[:, None, :, None], given.unsqueeze(1), rest)

    def _draw_jointly(self, z: Tensor, observed: Tensor, noise: CompletionNoise, which: int) -> Tensor:
        """All that is absent from one component each row and draw, chosen by one modality's noise, (M, S, B, D)."""
        z = torch.where(observed.unsqueeze(-1), z, 0.0)
        terms = torch.log_softmax(self._terms(z, observed, self.mixture.component_log_density(z)), -1)  # (B, K)
        mean, scale = self._component(terms + noise.gumbel[which])
        if self.copula is None:
            return mean + scale * noise.normal
        t = (torch.where(observed[:, None, :, None], z.unsqueeze(1), mean) - mean) / scale
        return mean + scale * self._scores(t, observed, noise)

    def _scores(self, t: Tensor, observed: Tensor, noise: CompletionNoise) -> Tensor:
        """Normal scores of absent coordinates within the component, given those observed, (M, S, B, D)."""
        draws, rows = t.shape[1:3]
        if not isinstance(self.copula, GaussianCopula):
            return normal_score(*self._complete_logs(*normal_log_tails(t), observed, noise))
        correlation = self.copula.correlation
        correlation = correlation.unsqueeze(0) if correlation.ndim == 2 else correlation
        ranks = normal_score(torch.log(noise.uniform), torch.log1p(-noise.uniform)).expand(t.shape)
        seen = observed.unsqueeze(1).expand(-1, draws, -1).flatten(1)  # draws and rows are rows
        result = normal_completion(correlation, t.flatten(1, 2), seen, ranks.flatten(1, 2).unsqueeze(1), noise.order)
        whole = result.mean + result.spread[:, result.place, 0]
        return whole.unflatten(1, (draws, rows))
