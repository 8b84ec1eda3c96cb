"""Expectation maximisation for mixtures of vectors that come in batches, and change while they come."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.distributions.mixture.gaussian_mixture import GaussianMixture

__all__ = ["RunningFit"]

_LEAST_WEIGHT = 1e-4
_PRIOR_ROWS = 1.0  # rows of the whole data that each component is given: keeps components of few rows from collapsing


class RunningFit(nn.Module):
    r"""Sufficient statistics of M mixtures, which forget, and the mixtures that they make.

    With :math:`r_{nk}` the share of component k in row n, and means over a batch of the rows that have the modality,

    .. math::
        s \leftarrow \rho s + (1 - \rho) \, \big\langle r_{nk} (1, z_n, z_n^2) \big\rangle, \qquad
        \rho = (1 - 1/T)^n,

    and weights, means and variances follow from s as in any step of maximisation. Encoders that learn move their
    vectors by a little in every step, so that shares by the present mixture are nearly those by the next one. With
    nothing remembered it is expectation maximisation.

    Args:
        mixture: What is fitted, with a batch shape (M,).

    Source:
        :cite:`cappe2009online`, with a constant step.
    """

    statistics: Tensor

    def __init__(self, mixture: GaussianMixture):
        super().__init__()
        self.register_buffer("statistics", torch.zeros(3, *mixture.means.shape))

    @torch.no_grad()
    def update(self, mixture: GaussianMixture, z: Tensor, observed: Tensor, shares: Tensor, *, memory: float) -> None:
        """Takes a batch in, and moves the mixture.

        Args:
            mixture: The mixture that the shares are of.
            z: Vectors, of shape (M, B, D); anything finite where absent.
            observed: Presence, bool, of shape (M, B). What no row has stays as it is.
            shares: Of the components in each vector, (M, B, K, 1), or in each coordinate, (M, B, K, D).
            memory: Rows T after which a share of 1 / e is left of what was; 0: nothing is.
        """
        part = torch.where(observed[..., None, None], shares, 0.0)  # (M, B, K, D or 1)
        rows = observed.sum(1)[:, None, None]  # (M, 1, 1)
        z = torch.where(observed[..., None], z, 0.0).unsqueeze(2)  # (M, B, 1, D)
        each = torch.stack([part.expand(*part.shape[:3], z.shape[-1]), part * z, part * z * z]).sum(2)  # (3, M, K, D)
        kept = (1.0 - 1.0 / max(memory, 1.0)) ** rows.to(z.dtype)
        kept = torch.where(self.statistics[0].sum(1, keepdim=True) == 0, 0.0, kept)
        moved = kept * self.statistics + (1.0 - kept) * each / rows.clamp_min(1)
        self.statistics.copy_(torch.where(rows > 0, moved, self.statistics))
        count, first, second = self.statistics
        whole, prior = (
            self.statistics.sum(2, keepdim=True),
            _PRIOR_ROWS / max(memory, 1.0) if memory else _PRIOR_ROWS / rows.clamp_min(1),
        )
        centre = whole[1] / whole[0].clamp_min(1e-12)
        spread = (whole[2] / whole[0].clamp_min(1e-12) - centre.square()).clamp_min(0.0)
        means = (first + prior * centre) / (count + prior)
        variances = (second - 2 * means * first + means.square() * count + prior * spread) / (count + prior)
        weights = count.mean(-1) + _LEAST_WEIGHT
        fitted = weights / weights.sum(-1, keepdim=True), means, variances.clamp_min(0.0).sqrt()
        present = (mixture.weights, mixture.means, mixture.scales)
        known = observed.any(1)  # (M,)
        weights, means, scales = (
            torch.where(known.reshape(-1, *[1] * (old.ndim - 1)), new, old) for new, old in zip(fitted, present)
        )
        mixture.assign(weights, means, scales.clamp_min(1.001 * mixture.scale_floor))
