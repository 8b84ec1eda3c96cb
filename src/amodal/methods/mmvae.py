"""MMVAE: one latent whose posterior is a mixture of the observed modalities' experts."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from amodal.batch import Batch, rows_where
from amodal.distributions.gaussian.diagonal import DiagonalGaussian
from amodal.distributions.gaussian.experts import (
    laplace_noise,
    log_laplace_nats,
    log_normal_nats,
    log_uniform_mixture_nats,
)
from amodal.distributions.quasirandom import spread_uniform
from amodal.encoders import PerModality, encoders_for, width_of
from amodal.encoders.decoders import build_decoders, reconstruction_nats
from amodal.fusion.latent import GaussianExperts
from amodal.fusion.network import Head
from amodal.losses.likelihood import target_nats
from amodal.losses.masked import mean_over_rows
from amodal.method import LossTerms, OneLatent
from amodal.options import Share, Size, Weight
from amodal.schema import Schema

__all__ = ["MMVAE"]


class MMVAE(OneLatent):
    r"""A variational autoencoder of all modalities at once, whose posterior is a mixture of experts.

    With O the observed modalities of a row, draws :math:`z_m^k \sim q_m(z \mid x_m)` and

    .. math::
        w_m^k = \frac{p(z_m^k) \, p(y \mid z_m^k)^{\lambda_y} \prod_{n \in O} p(x_n \mid z_m^k)^{\lambda_x}}
        {\frac{1}{|O|} \sum_{n \in O} q_n(z_m^k \mid x_n)}

    the mean over rows of :math:`-\frac{1}{|O|} \sum_{m \in O} \log \frac{1}{K} \sum_k w_m^k` is minimised ("looser",
    which the authors found better), or of :math:`-\log \frac{1}{K |O|} \sum_{m, k} w_m^k` ("tight"). Each expert has to
    explain all modalities and the target. Log-likelihoods of modalities are averages over their cells.

    Each draw of z comes from one modality. A prediction is therefore an average of predictions from one modality each,
    never a joint function of them: what only two modalities together could tell cannot be learnt.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        bound: "looser" or "tight"; see above.
        gradient: That of the experts: "plain" reparameterisation, or "dreg", doubly reparameterised as published:
            the experts' densities in the weights are held fixed, and the gradient reaching each draw is multiplied by
            its normalised weight. The bound's value is the same. Of rows with one observed modality, or with one draw,
            both gradients have the same expectation, and "dreg" varies less; otherwise they differ in expectation, too.
        law: Of the prior (of variance one) and of the experts: "normal", or "laplace" as published.
        latent: Width of z.
        hidden: Width of the hidden layers of experts and decoders.
        dropout: Dropout of the hidden layers of experts and head.
        training_draws: Draws K of each expert in training. The paper has 30; with several, the bound rewards the best
            of them, and single draws predict less surely.
        label_weight: Exponent :math:`\lambda_y` of the target's likelihood.
        reconstruction: Exponent :math:`\lambda_x` of the modalities' likelihoods.
        prediction_draws: Draws of z that a prediction averages over, spread evenly, also over the observed modalities.

    Source:
        :cite:`shi2019mmvae`, equations 3 and 4. Deviations: the target is decoded from z and has no expert of its own;
        normal distributions and the plain reparameterised gradient by default, a fixed prior; likelihoods are
        averaged over cells; the mixture runs over what is observed.
    """

    title = "MMVAE: expert mixture"
    summary = "a variational autoencoder whose posterior is a mixture of the observed modalities' experts"
    uses_unlabelled = True
    references = ("shi2019mmvae",)
    draws_mean = "one latent"
    accepts_empty = True

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        bound: Literal["looser", "tight"] = "looser",
        gradient: Literal["plain", "dreg"] = "plain",
        law: Literal["normal", "laplace"] = "normal",
        latent: Size = 16,
        hidden: Size = 128,
        dropout: Share = 0.0,
        training_draws: Size = 1,
        label_weight: Weight = 10.0,
        reconstruction: Weight = 1.0,
        prediction_draws: Size = 128,
    ):
        super().__init__(schema)
        self.bound, self.gradient, self.law = bound, gradient, law
        self.latent, self.training_draws = latent, training_draws
        self.label_weight, self.reconstruction = label_weight, reconstruction
        self.prediction_draws = prediction_draws
        self.encoders = encoders_for(schema, encoders)
        width = width_of(self.encoders)
        self.experts = GaussianExperts(schema.names, width, latent, hidden=hidden, dropout=dropout)
        self.decoders = build_decoders(schema, latent=latent, hidden=hidden)
        self.head = Head(latent, schema.task.n_outputs, hidden=hidden, dropout=dropout)

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The negative bound, a mean over all rows; rows without any modality add zero; see `Method.objective`."""
        experts, observed = self.experts.of_batch(self.encoders, batch)
        shape = (observed.shape[1], self.training_draws, len(batch), self.latent)
        noise = self._noise(shape, generator, experts.mean)
        drawn: list[tuple[Tensor, Tensor, Tensor]] = []  # draws, their log weights, their rows
        strata = experts.mean.new_full((len(batch), observed.shape[1]), -math.inf)
        found = rows_where(*observed.unbind(1))
        within = iter(rows_where(*(column for rows in found for column in observed[rows].unbind(1))))
        for m, rows in enumerate(found):
            positions = [next(within) for _ in found]
            if len(rows) == 0:
                continue
            some = DiagonalGaussian(*(part[rows] for part in experts))
            z = DiagonalGaussian(some.mean[:, m], some.log_var[:, m]).draw(noise[m][:, rows])  # (K, P, Z)
            log_weights = self._log_weights(batch.take(rows), z, some, observed[rows], positions)
            # log 1/K sum_k w_m^k, of the rows that have modality m
            mean_weight = log_weights.logsumexp(0) - math.log(self.training_draws)
            column = strata[:, m].index_copy(0, rows, mean_weight)
            drawn.append((z, log_weights, rows))
            strata = torch.cat([strata[:, :m], column[:, None], strata[:, m + 1 :]], dim=1)
        n = observed.sum(1).clamp_min(1)
        seen = observed.any(1)
        if self.gradient == "dreg":
            _weigh_gradients(drawn, strata + math.log(self.training_draws), per_stratum=self.bound == "looser")
        if self.bound == "looser":  # the mean over modalities outside the logarithm
            value = torch.where(observed, strata, 0.0).sum(1) / n
        else:  # "tight": inside
            safe = torch.where(seen[:, None], strata, 0.0)
            value = torch.where(seen, safe.logsumexp(1) - n.log(), 0.0)
        # connected to the graph even if nothing is observed
        return LossTerms({"bound": mean_over_rows(-value) + 0.0 * experts.mean.sum()})

    def _log_weights(
        self, batch: Batch, z: Tensor, experts: DiagonalGaussian, observed: Tensor, positions: list[Tensor]
    ) -> Tensor:
        """Logarithms of the importance weights of draws (K, P, Z): (K, P)."""
        standard = DiagonalGaussian(torch.zeros_like(z), torch.zeros_like(z))
        label = -target_nats(self.head(z), batch.labels, self.schema.task.kind)
        inputs = reconstruction_nats(self.decoders, batch, z, observed, positions)
        log_density = log_laplace_nats if self.law == "laplace" else log_normal_nats
        if self.gradient == "dreg":
            experts = DiagonalGaussian(*(part.detach() for part in experts))
        # Numerator and denominator of w_m^k.
        joint = log_density(z, standard) + self.label_weight * label + self.reconstruction * inputs
        return joint - log_uniform_mixture_nats(z, experts, observed, log_density)

    def _noise(self, shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
        """Noise of the law with mean zero and variance one."""
        draw = torch.rand if self.law == "laplace" else torch.randn
        noise = draw(shape, generator=generator, device=like.device, dtype=like.dtype)
        return laplace_noise(noise) if self.law == "laplace" else noise

    def sample_latent(self, batch: Batch, draws: int, generator: torch.Generator, *, varies: bool) -> Tensor:
        """Latents (S, B, Z) spread evenly over the modalities present, from the prior without any; see `OneLatent`."""
        experts, observed = self.experts.of_batch(self.encoders, batch)
        spread = spread_uniform((draws, 1 + self.latent), generator, experts.mean)
        uniform, place = spread[:, 0], spread[:, None, 1:]  # (S,), (S, 1, Z)
        noise = laplace_noise(place) if self.law == "laplace" else torch.special.ndtri(place)
        if not varies:
            noise, uniform = noise[:1].expand_as(noise), uniform[:1].expand_as(uniform)
        # Each draw of a row belongs to the modality at a random rank among those observed.
        n = observed.sum(1)
        rank = (uniform[:, None] * n).floor().clamp(max=(n - 1).clamp_min(0))  # (S, B)
        place = observed.long().cumsum(1) - 1
        chosen = ((place[None] == rank[..., None]) & observed).long().argmax(-1)  # (S, B)
        index = chosen[..., None].expand(*chosen.shape, self.latent)
        mean, log_var = (part.gather(1, index.transpose(0, 1)).transpose(0, 1) for part in experts)  # (S, B, Z)
        seen = observed.any(1)[:, None]
        return DiagonalGaussian(torch.where(seen, mean, 0.0), torch.where(seen, log_var, 0.0)).draw(noise)


def _weigh_gradients(drawn: list[tuple[Tensor, Tensor, Tensor]], strata: Tensor, *, per_stratum: bool) -> None:
    """Multiplies the gradient that reaches each draw by its normalised weight.

    Args:
        drawn: For each modality the draws (K, P, Z), their log weights (K, P), and the rows (P,) that have it.
        strata: Logarithms of the sums of weights of each modality's draws, of shape (B, M); minus infinity if absent.
        per_stratum: Whether weights are normalised over the draws of one modality, or of all.
    """
    everything = strata.detach().logsumexp(1)  # (B,)
    for z, log_weights, rows in drawn:
        fixed = log_weights.detach()
        share = (fixed - (fixed.logsumexp(0) if per_stratum else everything[rows])).exp()[..., None]
        if z.requires_grad:
            z.register_hook(lambda gradient, share=share: gradient * share)
