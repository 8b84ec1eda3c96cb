"""Networks around latent variables: priors and posteriors given fused features, and decoders of draws."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from amodal.batch import Batch
from amodal.distributions.gaussian.diagonal import DiagonalGaussian, DiagonalMixture
from amodal.distributions.quasirandom import spread_normal
from amodal.encoders import PerModality, encode_pooled
from amodal.encoders.decoders import GaussianNetwork

__all__ = [
    "LOG_VAR_RANGE",
    "FixedScaleNorm",
    "GaussianExperts",
    "LatentDecoder",
    "MixturePrior",
    "NormalisedPosterior",
    "draw_alike",
    "with_presence",
]

LOG_VAR_RANGE = (-10.0, 5.0)
"""Range of the log variances of priors and posterior: a tiny variance would make divergences explode."""


class MixturePrior(nn.Module):
    """One hidden layer, then weights, means and log variances of U mixtures of K Gaussians in Z dimensions.

    Args:
        in_width: Width of the input.
        shape: U, K and Z.
        hidden: Width of the hidden layer.
        dropout: Its dropout.
    """

    def __init__(self, in_width: int, shape: tuple[int, int, int], *, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.shape, n_latents, n_components = shape, shape[0], shape[1]
        self.layers = _hidden_layer(in_width, hidden, dropout)
        self.log_weights = nn.Linear(hidden, n_latents * n_components) if n_components > 1 else None
        self.mean, self.log_var = _gaussian_heads(hidden, n_latents * n_components * shape[2])
        if n_components > 1:
            nn.init.normal_(self.mean.bias, std=0.5)  # components that start alike stay alike

    def forward(self, fused: Tensor) -> DiagonalMixture:
        """Mixtures (B, U, K, Z) given inputs (B, in_width)."""
        h = self.layers(fused)
        mean, log_var = self.mean(h).unflatten(1, self.shape), self.log_var(h).clamp(*LOG_VAR_RANGE)
        logits = h.new_zeros(len(h), self.shape[0]) if self.log_weights is None else self.log_weights(h)
        log_weights = logits.unflatten(1, self.shape[:2]).log_softmax(-1)
        return DiagonalMixture(log_weights, mean, log_var.unflatten(1, self.shape))


class NormalisedPosterior(nn.Module):
    """One hidden layer, then means, normalised over the batch, and log variances of U Gaussians in Z dimensions.

    Args:
        in_width: Width of the input.
        shape: U and Z.
        gamma: Fixed scale of the means; None: not normalised.
        hidden: Width of the hidden layer.
        dropout: Its dropout.
    """

    def __init__(
        self, in_width: int, shape: tuple[int, int], gamma: float | None, *, hidden: int, dropout: float = 0.0
    ):
        super().__init__()
        self.shape = shape
        self.layers = _hidden_layer(in_width, hidden, dropout)
        self.mean, self.log_var = _gaussian_heads(hidden, shape[0] * shape[1])
        self.norm = None if gamma is None else FixedScaleNorm(shape[0] * shape[1], gamma)

    def forward(self, fused: Tensor) -> DiagonalGaussian:
        """Gaussians (B, U, Z) given inputs (B, in_width)."""
        h = self.layers(fused)
        mean, log_var = self.mean(h), self.log_var(h).clamp(*LOG_VAR_RANGE)
        if self.norm is not None:
            mean = self.norm(mean)
        return DiagonalGaussian(mean.unflatten(1, self.shape), log_var.unflatten(1, self.shape))


class FixedScaleNorm(nn.Module):
    r"""Batch normalisation with a scale that is not learned and an offset that is, so that a mean cannot collapse.

    .. math:: \tilde\mu = \gamma \, (\mu - \bar\mu_B) / \sqrt{\mathrm{var}_B + \epsilon} + \beta

    Args:
        width: Number of coordinates D.
        gamma: The scale :math:`\gamma`.

    Source:
        :cite:`zhu2020batch`.
    """

    def __init__(self, width: int, gamma: float):
        super().__init__()
        self.gamma = gamma
        self.statistics = nn.BatchNorm1d(width, affine=False)
        self.offset = nn.Parameter(torch.zeros(width))

    def forward(self, mean: Tensor) -> Tensor:
        """Means (B, D), by the batch's statistics in training if there are two rows or more."""
        own = self.statistics
        if self.training and len(mean) < 2:
            standard = functional.batch_norm(mean, own.running_mean, own.running_var, eps=own.eps)
        else:
            standard = own(mean)
        return self.gamma * standard + self.offset


class LatentDecoder(nn.Module):
    """A condition (B, O) and latents (S, B, D) to outputs (S, B, C), with one hidden layer.

    The first layer's product with the condition is computed once for all draws.

    Args:
        condition: Width O of the condition; 0: none.
        latents: Width D of the latents.
        n_outputs: Number of outputs C.
        hidden: Width of the hidden layer.
        dropout: Its dropout.
    """

    def __init__(self, condition: int, latents: int, n_outputs: int, *, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.condition = nn.Linear(condition, hidden, bias=False) if condition else None
        self.latents = nn.Linear(latents, hidden)
        self.activation = nn.Sequential(nn.GELU(), nn.Dropout(dropout))
        self.out = nn.Linear(hidden, n_outputs)

    def forward(self, condition: Tensor, z: Tensor) -> Tensor:
        """Outputs for every draw."""
        h = self.latents(z)  # (S, B, hidden)
        if self.condition is not None:
            h = h + self.condition(condition)
        return self.out(self.activation(h))


class GaussianExperts(PerModality):
    """Gaussian experts: for each modality a network from its pooled feature to a Gaussian of the shared latent.

    Args:
        names: The modalities.
        width: Width D of the features.
        latent: Width Z of the latent.
        hidden: Width of the hidden layers.
        dropout: Their dropout.
    """

    def __init__(self, names: Iterable[str], width: int, latent: int, *, hidden: int, dropout: float = 0.0):
        super().__init__({name: GaussianNetwork(width, latent, hidden=hidden, dropout=dropout) for name in names})

    def of_batch(self, encoders: PerModality, batch: Batch) -> tuple[DiagonalGaussian, Tensor]:
        """Each modality's Gaussian (B, M, Z), meaningless where it is absent, and presence (B, M)."""
        features, observed = encode_pooled(encoders, batch)
        experts = [expert(features[:, m]) for m, (_, expert) in enumerate(self.items())]
        return DiagonalGaussian(*(torch.stack(parts, dim=1) for parts in zip(*experts))), observed


def draw_alike(gaussian: DiagonalGaussian, draws: int, generator: torch.Generator, *, varies: bool = True) -> Tensor:
    """Draws (S, B, Z) from Gaussians (B, Z), spread evenly, with the same noise for every row.

    Args:
        gaussian: The Gaussians.
        draws: Number of draws S.
        generator: Source of the noise.
        varies: Whether the draws differ from one another; otherwise all are the first one.
    """
    mean = gaussian.mean
    noise = spread_normal((draws, 1, mean.shape[-1]), generator, mean)
    return gaussian.draw(noise if varies else noise[:1].expand_as(noise))


def with_presence(features: Tensor, observed: Tensor) -> Tensor:
    """Features (…, B, M, D) with presence (B, M) as one more coordinate: (…, B, M, D + 1)."""
    flags = observed[..., None].to(features.dtype).expand(*features.shape[:-1], 1)
    return torch.cat([features, flags], dim=-1)


def _hidden_layer(in_width: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_width, hidden), nn.GELU(), nn.Dropout(dropout))


def _gaussian_heads(hidden: int, width: int) -> tuple[nn.Linear, nn.Linear]:
    mean, log_var = nn.Linear(hidden, width), nn.Linear(hidden, width)
    nn.init.zeros_(log_var.bias)
    return mean, log_var
