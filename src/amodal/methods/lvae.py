"""LVAE: a conditional autoencoder of the target whose absent inputs are imputed by distributions and marginalised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.distributions.gaussian.diagonal import (
    DiagonalGaussian,
    DiagonalMixture,
    kl_nats,
    kl_to_mixture_nats,
)
from amodal.distributions.gaussian.experts import log_normal_nats
from amodal.distributions.quasirandom import spread_uniform
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.encoders.decoders import GaussianNetwork, target_features, target_width
from amodal.fusion.latent import MixturePrior, with_presence
from amodal.fusion.network import Head
from amodal.losses.likelihood import target_nats
from amodal.losses.masked import mean_over_labelled, mean_over_rows
from amodal.method import LatentMethod, LossTerms
from amodal.options import Share, Size, Weight
from amodal.patterns import draw_subset
from amodal.schema import Schema

__all__ = ["LVAE"]

LOWEST_LOG_VAR = -6.0
"""Least log variance of imputed features (a deviation of 0.05): few complete rows would make it vanish."""


CHUNK = 2**22
"""Numbers in work at a time when draws are decoded (16 MiB in single precision)."""


class LVAE(LatentMethod):
    r"""A conditional variational autoencoder of the target, whose inputs may be missing and are then latent too.

    The inputs are the encoders' features h. A missing one has an imputer :math:`p_\psi(h_u \mid h_a)` given what is
    present, a, and an amortised posterior :math:`q(h_u \mid h_a, y)`; given all features, z has a prior
    :math:`p(z \mid h)` and a posterior :math:`q(z \mid h, y)`, and the target is decoded by
    :math:`p(y \mid z, h_O)` from z and the modalities O of `always_observed`. With A the absent modalities, the mean
    over rows is minimised of

    .. math::
        \mathbb{E}_{q(h_A \mid h_a, y)} \Big[ -\mathbb{E}_{q(z \mid h, y)} \log p(y \mid z, h_O)
        + \mathrm{KL}(q(z \mid h, y) \,\|\, p(z \mid h)) \Big]
        + \mathrm{KL}(q(h_A \mid h_a, y) \,\|\, p_\psi(h_A \mid h_a))
        - w \log p_\psi(h_W \mid h_{a \setminus W})

    An imputer may also be a mixture of Gaussians, for what is missing and may lie in one of several places: the last
    divergence is then an upper bound of itself, so that the whole remains a bound of the target's likelihood.

    The last term teaches the imputer: W is a random non-empty part of the row's own maskable modalities, hidden from
    it, whose features are targets without a gradient (with one, they would collapse to a constant). A prediction
    draws absent features from the imputer and z from its prior. Posteriors, which know the target, are never used.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        always_observed: Modalities that go to the decoder and have no imputer; None: none. A row that lacks one all
            the same is treated as if its features were zero.
        latent: Width of z.
        hidden: Width of the hidden layers.
        dropout: Dropout of the hidden layers.
        imputer_components: Gaussians in the imputer of each modality.
        imputation: Weight :math:`w` of the imputer's log-likelihood, an average over features.
        annealing: Share of the training over which the divergences' weight rises from zero to one; without it the
            posterior may fall on a prior that has learnt nothing, and stay there.
        prediction_draws: Draws that a prediction averages over.

    Raises:
        UnknownNameError: If a modality is not known.
        ConfigurationError: If every modality is always observed.

    Source:
        :cite:`ramchandran2024lvae`, turned to the prediction of a target as :cite:`madaan2026primo` use it: the target
        is what is generated, modalities are the covariates. Deviations: the paper's variant without Gaussian processes;
        covariates are features; several absent ones are independent given what is present.
    """

    title = "LVAE: target autoencoder"
    summary = "a conditional autoencoder of the target whose absent inputs are imputed and marginalised"
    uses_unlabelled = True
    references = ("ramchandran2024lvae", "madaan2026primo")
    accepts_empty = True

    _always: Tensor
    _maskable: Tensor

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        always_observed: Sequence[str] | None = None,
        latent: Size = 8,
        hidden: Size = 128,
        dropout: Share = 0.0,
        imputer_components: Size = 1,
        imputation: Weight = 1.0,
        annealing: Share = 0.4,
        prediction_draws: Size = 128,
    ):
        super().__init__(schema)
        self.roles = schema.roles(always_observed or ())
        self.roles.check_maskable("lvae")
        maskable = self.roles.maskable_columns
        self.register_columns("_maskable", maskable)
        self.register_columns("_always", self.roles.always_columns)
        self.latent, self.imputation, self.prediction_draws = latent, imputation, prediction_draws
        self.annealing = annealing
        self.encoders = encoders_for(schema, encoders)
        self.width = width_of(self.encoders)
        n, task = len(schema.names), schema.task
        fused, label = n * (self.width + 1), target_width(task)
        networks = {"hidden": hidden, "dropout": dropout}
        imputed = len(maskable) * self.width
        self.imputer = (
            GaussianNetwork(fused, imputed, lowest=LOWEST_LOG_VAR, **networks)
            if imputer_components == 1
            else MixturePrior(fused, (len(maskable), imputer_components, self.width), **networks)
        )
        self.imputed_posterior = GaussianNetwork(fused + label, imputed, lowest=LOWEST_LOG_VAR, **networks)
        self.prior = GaussianNetwork(fused, latent, **networks)
        self.posterior = GaussianNetwork(fused + label, latent, **networks)
        self.head = Head(latent + len(self._always) * (self.width + 1), task.n_outputs, **networks)

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The parts of the bound: the imputer's over all rows, the others over those with a label; see `Method`."""
        features, observed = self._encode(batch)
        target = target_features(batch.labels, self.schema.task).to(features.dtype)
        n, n_maskable = len(batch), len(self._maskable)
        noise = torch.randn(
            n, n_maskable * self.width + self.latent, generator=generator, device=batch.device, dtype=features.dtype
        )
        fused = self._fuse(features, observed)
        imputer = self._impute(fused)
        guess = self._by_modality(self.imputed_posterior(torch.cat([fused, target], dim=1)))
        # Absent features, drawn from their posterior q(h_u | h_a, y), complete the input of prior and posterior of z.
        drawn = guess.draw(noise[:, self.latent :].unflatten(1, (n_maskable, self.width)))
        completed = self._fuse(self._complete(features, observed, drawn), observed)
        prior, q = self.prior(completed), self.posterior(torch.cat([completed, target], dim=1))
        outputs = self._decode(q.draw(noise[:, : self.latent])[None], features, observed)
        # Last term: the imputer's likelihood of a random part W of the present features, given the others.
        absent = ~observed[:, self._maskable]
        removed = draw_subset(~absent, generator)  # W, (B, U)
        reduced = observed.clone()
        reduced[:, self._maskable] &= ~removed
        learnt = self._impute(self._fuse(features, reduced, blank=True))
        each = log_normal_nats(features[:, self._maskable, None].detach(), learnt.components)  # (B, U, K)
        likelihood = (learnt.log_weights + each).logsumexp(-1) / self.width  # (B, U)
        # The four terms of the objective, in the order of the formula above.
        terms = {
            "task": target_nats(outputs, batch.labels, self.schema.task.kind)[0],
            "kl": kl_nats(q, prior),
            "imputed_kl": torch.where(absent, kl_to_mixture_nats(guess, imputer), 0.0).sum(1),
            "imputation": -torch.where(removed, likelihood, 0.0).sum(1),
        }
        reduced = {name: mean_over_labelled(term, batch.labelled) for name, term in terms.items()}
        weights = {"imputation": self.imputation}
        if self.annealing:
            risen = min(1.0, self.clock.progress / self.annealing)
            weights |= {"kl": risen, "imputed_kl": risen}
        return LossTerms(reduced | {"imputation": mean_over_rows(terms["imputation"])}, weights)

    def draw_outputs(
        self, batch: Batch, draws: int, generator: torch.Generator, *, vary: Sequence[str] | None = None
    ) -> Tensor:
        """Outputs (S, B, C): absent features drawn from the imputer, then z from its prior; see `SamplingMethod`.

        Args:
            batch: B rows.
            draws: Number of draws S.
            generator: Source of the draws, on the batch's device.
            vary: Modalities whose features vary; the others', and z if none is named, are drawn once. None: all.
        """
        self.schema.check_names(list(vary or ()))
        features, observed = self._encode(batch)
        latents = self._latents(features, observed, draws, generator, vary)
        return torch.cat([self._decode(z, features, observed) for z in latents])

    def draw_latents(self, batch: Batch, draws: int, generator: torch.Generator) -> Tensor:
        """Latents (S, B, 1, Z), z from its prior given drawn features; see `LatentMethod`."""
        return torch.cat(list(self._latents(*self._encode(batch), draws, generator, None)))[:, :, None]

    def _latents(
        self, features: Tensor, observed: Tensor, draws: int, generator: torch.Generator, vary: Sequence[str] | None
    ) -> Iterator[Tensor]:
        """Latents (s, B, Z), some draws at a time."""
        n = len(self._maskable)
        points = spread_uniform((draws, 1, n * (1 + self.width) + self.latent), generator, features)
        uniform, places = points.split([n, points.shape[-1] - n], -1)
        feature_noise, latent_noise = torch.special.ndtri(places).split([n * self.width, self.latent], -1)
        feature_noise = feature_noise.unflatten(-1, (n, self.width)).clone()
        imputer = self._impute(self._fuse(features, observed))
        if vary is not None:
            fixed = [u for u, name in enumerate(self.roles.maskable) if name not in vary]
            feature_noise[:, :, fixed], uniform[..., fixed] = feature_noise[:1, :, fixed], uniform[:1, :, fixed]
            latent_noise = latent_noise if vary else latent_noise[:1].expand_as(latent_noise)
        step = max(1, CHUNK // (len(features) * features.shape[1] * (self.width + 1)))
        for start in range(0, draws, step):
            part = slice(start, start + step)
            filled = self._complete(
                features, observed, imputer.draw(uniform[part], feature_noise[part])
            )  # (s, B, M, H)
            yield self.prior(self._fuse(filled, observed)).draw(latent_noise[part])

    def _encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features (B, M, H), zero where absent, and presence (B, M)."""
        return encode_pooled(self.encoders, batch)

    def _complete(self, features: Tensor, observed: Tensor, drawn: Tensor) -> Tensor:
        """Features (…, B, M, H) in which those of absent maskable modalities are drawn ones (…, B, U, H)."""
        filled = features.expand(*drawn.shape[:-3], *features.shape).clone()
        filled[..., self._maskable, :] = torch.where(
            observed[:, self._maskable, None], features[:, self._maskable], drawn
        )
        return filled

    def _fuse(self, features: Tensor, seen: Tensor, *, blank: bool = False) -> Tensor:
        """Features (…, B, M, H) with what is seen (B, M), flattened; zero where it is not if `blank`."""
        if blank:
            features = torch.where(seen[..., None], features, 0.0)
        return with_presence(features, seen).flatten(-2)

    def _decode(self, z: Tensor, features: Tensor, observed: Tensor) -> Tensor:
        """Latents (K, B, Z) and the modalities that are always observed to outputs (K, B, C)."""
        condition = self._fuse(features[:, self._always], observed[:, self._always])
        return self.head(torch.cat([z, condition.expand(len(z), *condition.shape)], dim=2))

    def _impute(self, fused: Tensor) -> DiagonalMixture:
        """The imputer of each maskable modality, (B, U, K, H)."""
        if isinstance(self.imputer, MixturePrior):
            log_weights, mean, log_var = self.imputer(fused)
            return DiagonalMixture(log_weights, mean, log_var.clamp(min=LOWEST_LOG_VAR))
        one = self._by_modality(self.imputer(fused))
        return DiagonalMixture(torch.zeros_like(one.mean[..., :1]), one.mean[..., None, :], one.log_var[..., None, :])

    def _by_modality(self, gaussian: DiagonalGaussian) -> DiagonalGaussian:
        """Gaussians (B, U · H) as (B, U, H)."""
        shape = (len(self._maskable), self.width)
        return DiagonalGaussian(gaussian.mean.unflatten(1, shape), gaussian.log_var.unflatten(1, shape))
