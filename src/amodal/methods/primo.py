"""PRIMO: a latent variable for the information about the target in each missing modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from amodal.batch import Batch
from amodal.distributions.gaussian.diagonal import (
    DiagonalMixture,
    kl_from_standard_nats,
    kl_of_mixtures_nats,
    kl_to_mixture_nats,
)
from amodal.distributions.quasirandom import spread_uniform
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.fusion.latent import LatentDecoder, MixturePrior, NormalisedPosterior, with_presence
from amodal.losses.masked import mean_over_rows, select
from amodal.losses.task import task_loss
from amodal.method import LatentMethod, LossTerms
from amodal.options import Positive, Share, Size, Weight
from amodal.patterns import draw_subset, repeat_rows
from amodal.schema import Schema

__all__ = ["PRIMO"]

LOG_NOISE_RANGE = (-7.0, 5.0)
"""Range of the log variance of a regression's target around the decoder's mean."""

FIRST_LOG_NOISE = -4.0
"""Where it starts: low, for noise that is already there makes a latent unnecessary."""

NOISE_RATE = 10.0
"""Factor on its learning rate: it is one number, and has to follow the decoder."""

CHUNK = 2**22
"""Numbers of a layer in work at a time when draws are decoded (16 MiB in single precision)."""


TIE_WARMUP = 500
"""Steps over which the weight of the one-sided tie rises from zero: at full weight before the priors have learnt
anything, it makes them equal for all inputs."""


class PRIMO(LatentMethod):
    r"""One latent variable for each modality that may be missing; the target depends on that modality through it alone.

    A latent :math:`z_u` holds the information about the target in modality u. Two networks are shared by all patterns
    of presence a, absent features being zero: the prior :math:`p(z_u \mid x_a)` and the posterior
    :math:`q(z_u \mid x_a, y)`, both factorised over u. The decoder :math:`p(y \mid x_O, z)` sees the modalities O of
    `always_observed` and the latents, never another modality. Minimised is the mean over rows of

    .. math::
        - \mathbb{E}_q \log p(y \mid x_O, z)
        + w_\mathrm{kl} \sum_u \mathrm{KL}\big(q(z_u \mid x_a, y) \,\|\, p(z_u \mid x_a)\big)
        + w_\mathrm{anchor} \sum_u \mathrm{KL}\big(p(z_u \mid x_O) \,\|\, N(0, I)\big)
        + w_\mathrm{tie} \sum_{u \in W} \mathrm{KL}\big(p(z_u \mid x_a) \,\|\, p(z_u \mid x_{a \setminus W})\big)
        - w_\mathrm{predict} \log \mathbb{E}_{p(z \mid x_a)} p(y \mid x_O, z),

    where W is a random non-empty subset of the row's maskable modalities (none: no tie), its size uniform, and
    :math:`w_\mathrm{predict}` is larger by `w_predict_missing` where a maskable modality is absent. Predictions are
    means over draws from the prior. With one maskable modality, ``preset="paper"`` is equations 2 to 7 exactly.

    By default (`present`) the latents of present modalities are drawn from their prior in the first term and have no
    part in the second: they carry what their modality says, and not the target. Priors of absent modalities come from a
    network of their own, which the tie fits to the average of the priors that know more.

    At the paper's weights a latent that carries the target pays off at best break-even, so that the prior given
    everything stays nearly as wide as the prior without (see the method's page). The default makes draws mean
    what they are taken for, predictions under plausible completions: `w_kl` below one makes an informative latent pay
    off, the prior is a mixture that can cover several outcomes, the tie moves the prior that knows less (which then
    fits the average of those that know more) and not the one that knows more, and what is used at prediction is
    trained too.

    The posterior's mean is normalised over the batch, with a fixed scale, so that it cannot ignore its inputs: rows of
    a batch influence one another in training (a batch of one row uses running statistics), never in prediction.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        always_observed: Modalities that get no latent and go to the decoder; None: all are maskable. A row that lacks
            one all the same is treated as if its features were zero.
        latent: Width of each latent.
        hidden: Width of the hidden layers of prior, posterior and decoder.
        dropout: Dropout of these hidden layers.
        gamma: Fixed scale of the normalised posterior mean; None: not normalised.
        w_kl: Weight of the divergence of the posterior from the prior.
        w_anchor: Weight of the anchor of the prior with everything maskable absent.
        w_tie: Weight of the tie between priors of a row.
        w_predict: Weight of the predictive term.
        w_predict_missing: What is added to this weight where a maskable modality is absent.
        present: Where the latents of present modalities come from in training: "prior", as in prediction, or
            "posterior". The tie leaves their prior alone and trains that with less, at a weight that rises over the
            first 500 steps; "published": they come from the posterior, and the tie moves both priors at once.
        components: Gaussians in each prior.
        also_masked: Whether each row adds a second bound and predictive term, without the modalities W.
        training_draws: Draws of each row in training that the likelihood is averaged over; the predictive term has
            eight times as many.
        prediction_draws: Draws that a prediction averages over. Where V is large few draws cost accuracy: docs/log.md,
            2026-11-21.

    Raises:
        UnknownNameError: If a modality is not known.
        ConfigurationError: If nothing is maskable.

    Source:
        :cite:`madaan2026primo`, for several modalities as it suggests; the normalised posterior is that of
        :cite:`zhu2020batch`, the predictive term that of :cite:`sohn2015learning`, section 4.2. Deviations: the paper
        gives no value of gamma; targets other than classes: binary likelihoods of the known labels, added up, and a
        normal likelihood with a learned variance; mixtures are compared as in :cite:`hershey2007approximating`.
    """

    title = "PRIMO: latent draws"
    summary = "a latent variable for the information about the target in each missing modality"
    references = ("madaan2026primo", "zhu2020batch", "sohn2015learning", "hershey2007approximating")
    couples_rows = True
    accepts_empty = True
    PRESETS: ClassVar = {
        "paper": {
            "w_kl": 1.0,
            "w_anchor": 1.0,
            "w_predict": 0.0,
            "present": "published",
            "components": 1,
        },
        "predictive": {
            "w_tie": 0.1,
            "present": "posterior",
            "w_predict_missing": 3.0,
            "components": 10,
            "also_masked": True,
            "training_draws": 4,
        },
    }

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
        gamma: Positive | None = 0.6,
        w_kl: Weight = 0.25,
        w_anchor: Weight = 0.01,
        w_tie: Weight = 1.0,
        w_predict: Weight = 1.0,
        w_predict_missing: Weight = 0.0,
        present: Literal["prior", "posterior", "published"] = "prior",
        components: Size = 4,
        also_masked: bool = False,
        training_draws: Size = 1,
        prediction_draws: Size = 256,
    ):
        super().__init__(schema)
        self.weights = {"kl": w_kl, "anchor": w_anchor, "tie": w_tie}
        self.weights |= {"predict": w_predict, "predict_missing": w_predict_missing}
        self.present, self.also_masked = present, also_masked
        self.training_draws, self.prediction_draws = training_draws, prediction_draws
        self.roles = schema.roles(always_observed or ())
        self.roles.check_maskable("primo")
        self.register_columns("_maskable", self.roles.maskable_columns)
        self.register_columns("_always", self.roles.always_columns)

        self.encoders = encoders_for(schema, encoders)
        width = width_of(self.encoders) + 1
        n, task = len(schema.names), schema.task
        target_width = task.traits.n_features(task.n_outputs)
        self.latent_shape = (len(self._maskable), latent)
        prior_shape = (len(self._maskable), components, latent)
        self.prior = MixturePrior(n * width, prior_shape, hidden=hidden, dropout=dropout)
        self.prior_of_absent = None
        if present == "prior":  # with a network of its own the tie cannot make the priors of present ones alike
            self.prior_of_absent = MixturePrior(n * width, prior_shape, hidden=hidden, dropout=dropout)
        self.posterior = NormalisedPosterior(
            n * width + target_width, self.latent_shape, gamma, hidden=hidden, dropout=dropout
        )
        self.decoder = LatentDecoder(
            len(self._always) * width, len(self._maskable) * latent, task.n_outputs, hidden=hidden, dropout=dropout
        )
        self.log_noise = nn.Parameter(torch.full((), FIRST_LOG_NOISE)) if task.traits.one_value else None

    # Training ----------------------------------------------------------------------------------------------------

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The bound, its regularisers and the predictive term, each a mean over all rows; see `Method.objective`."""
        n, target = len(batch), batch.labels
        features, observed = self._encode(batch)
        views = 1 + self.also_masked
        noise = self._normal(self.training_draws, views * n, generator, features)
        # Presence of a row as it is (a), without a random part W of its maskable modalities, and without all of them.
        removed = draw_subset(observed[:, self._maskable], generator)  # W, (B, U)
        reduced, always = observed.clone(), observed.index_fill(1, self._maskable, False)
        reduced[:, self._maskable] &= ~removed
        # Equation 5: the priors given each of the three, from one call of the network that they share.
        fused = torch.cat([self._fuse(features, seen) for seen in (observed, reduced, always)])
        prior = self._prior(fused, torch.cat([observed, reduced, always]))
        p, p_reduced, p_always = (prior.rows(slice(i * n, (i + 1) * n)) for i in range(3))

        # Equations 2 and 3, one expression for both: absent features are zero. `also_masked` adds the reduced rows.
        condition = self._condition(features, observed)  # (B, O), the same for the reduced rows
        encoded = self._encode_target(target).repeat(views, 1)
        q = self.posterior(torch.cat([fused[: views * n], encoded], dim=1))  # equation 5
        z = q.draw(noise)  # equation 6, (K, views * B, U, Z)
        target = repeat_rows(target, views)
        priors = prior.rows(slice(views * n))
        divergence = kl_to_mixture_nats(q, priors)  # (views * B, U)
        seen = torch.cat([observed, reduced])[: views * n, self._maskable]  # (views * B, U)
        if self.present == "prior":  # what is present says what its latent is
            uniform = torch.rand(noise.shape[:-1], generator=generator, device=noise.device)
            z = torch.where(seen[..., None], priors.draw(uniform, noise), z)
            divergence = torch.where(seen, 0.0, divergence)
        outputs = self.decoder(condition.repeat(views, 1), z.flatten(2))  # (K, views * B, C)
        number = seen.sum(1)
        fullest = number == number.max() if len(number) else number.bool()
        bound = {"task": self._negative_log_likelihood(outputs, target, fullest).mean(0)}  # equations 2, 3: first term
        bound["kl"] = divergence.sum(1)  # equations 2, 3: second term
        # Not in the paper: the likelihood of the prediction itself, the average of equation 8.
        if self.weights["predict"] > 0 or self.weights["predict_missing"] > 0:
            given = priors, condition.repeat(views, 1), target, fullest
            bound["predict"] = self._predictive_loss(*given, generator)
        if self.weights["predict_missing"] > 0:
            lacking = torch.cat([observed, reduced])[: views * n, self._maskable].logical_not().any(1)
            bound["predict_missing"] = select(bound["predict"], lacking)
        if views == 2:  # a row from which nothing can be removed counts once
            bound = {name: part[:n] + select(part[n:], removed.any(1)) for name, part in bound.items()}
        # Equation 4: the anchor of the prior given x_O alone, and the tie between two priors of a row.
        informed = p if self.present == "published" else p.detached()
        tie = torch.where(removed, kl_of_mixtures_nats(informed, p_reduced), 0.0).sum(1)
        terms = bound | {"anchor": kl_from_standard_nats(p_always).sum(1), "tie": tie}
        # Equation 7, as a weighted mean over rows that is minimised.
        weights = {name: weight for name, weight in self.weights.items() if name in terms}
        if self.present != "published":
            weights["tie"] *= min(1.0, self.clock.step / TIE_WARMUP)
        return LossTerms({name: mean_over_rows(term) for name, term in terms.items()}, weights)

    def _predictive_loss(
        self,
        prior: DiagonalMixture,
        condition: Tensor,
        target: Tensor,
        fullest: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        r"""Predictive loss (B,): :math:`-\log` of the likelihood averaged over draws from the prior, as in equation 8.

        The choice of a component is not differentiable; weighing each draw by its probability over itself, which is
        one, gives the weights their gradient, and dividing by the sum of these lowers its variance.
        """
        draws = 8 * self.training_draws
        noise = self._normal(draws, len(target), generator, condition)
        uniform = torch.rand(noise.shape[:-1], generator=generator, device=noise.device)
        z, log_weight = prior.draw_weighted(uniform, noise)  # (K, B, U, Z), (K, B, U)
        likelihood = -self._negative_log_likelihood(self.decoder(condition, z.flatten(2)), target, fullest)  # (K, B)
        one = log_weight.sum(-1)
        one = one - one.detach()  # zero, with the gradient of the logarithm of the weight
        return one.logsumexp(0) - (one + likelihood).logsumexp(0)

    def _negative_log_likelihood(self, outputs: Tensor, target: Tensor, fullest: Tensor) -> Tensor:
        """Nats (K, B) of targets (B, …) under outputs (K, B, C); a regression's up to a constant.

        Its noise is learnt from the rows (B,) that have most modalities: what an absent modality could tell is to go
        through its latent, and not into the noise.
        """
        draws, n = outputs.shape[:2]
        loss = task_loss(
            outputs.flatten(0, 1), repeat_rows(target, draws), self.schema.task.kind, over_labels="sum"
        ).view(draws, n)
        if self.log_noise is None:
            return loss
        log_noise = self.log_noise.clamp(*LOG_NOISE_RANGE)
        log_noise = torch.where(fullest, log_noise, log_noise.detach())  # (B,)
        return 0.5 * (loss * (-log_noise).exp() + log_noise)

    def learning_rate_scale(self, parameter_name: str) -> float:
        """The noise of a regression's target learns faster; see `Method.learning_rate_scale`."""
        return NOISE_RATE if parameter_name == "log_noise" else 1.0

    # Prediction --------------------------------------------------------------------------------------------------

    def draw_outputs(
        self, batch: Batch, draws: int, generator: torch.Generator, *, vary: Sequence[str] | None = None
    ) -> Tensor:
        """Outputs (S, B, C) for latents drawn from the prior given what is present; see `SamplingMethod`.

        The latents of all maskable modalities vary, also those of present ones: what the prior given a modality leaves
        open is part of V (the paper's V on complete cases). Beyond the result and the encoders, memory is bounded.

        Args:
            batch: B rows.
            draws: Number of draws S.
            generator: Source of the draws, on the batch's device.
            vary: Modalities whose latent varies; the others' is drawn once. None: all.
        """
        self.schema.check_names(list(vary or ()))
        uniform, noise = self._spread(draws, generator)
        fixed = [u for u, name in enumerate(self.roles.maskable) if vary is not None and name not in vary]
        noise[:, :, fixed], uniform[:, :, fixed] = noise[:1, :, fixed], uniform[:1, :, fixed]
        return self._decode(batch, uniform, noise)

    def _decode(self, batch: Batch, uniform: Tensor, noise: Tensor) -> Tensor:
        """Outputs (S, B, C) for latents drawn from the prior by uniform numbers (S, 1, U) and noise (S, 1, U, Z)."""
        features, observed = self._encode(batch)
        prior = self._prior(self._fuse(features, observed), observed)
        condition = self._condition(features, observed)
        outputs = features.new_empty(len(noise), len(batch), self.schema.task.n_outputs)
        widest = max(self.decoder.out.in_features, self.latent_shape[0] * self.latent_shape[1])
        step = max(1, CHUNK // (len(noise) * widest))
        for start in range(0, len(batch), step):
            rows = slice(start, start + step)
            z = prior.rows(rows).draw(uniform, noise)  # equation 8: draws from the prior, (S, b, U, Z)
            outputs[:, rows] = self.decoder(condition[rows], z.flatten(2))
        return outputs

    def draw_latents(self, batch: Batch, draws: int, generator: torch.Generator) -> Tensor:
        """Latents (S, B, U, Z) of the maskable modalities, from the prior given what is present; see `LatentMethod`."""
        features, observed = self._encode(batch)
        return self._prior(self._fuse(features, observed), observed).draw(*self._spread(draws, generator))

    def _spread(self, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Uniform numbers (S, 1, U) and standard normal ones (S, 1, U, Z), the same for every row, spread evenly."""
        n_latents, width = self.latent_shape
        points = spread_uniform((draws, 1, n_latents, 1 + width), generator, self.decoder.out.weight)
        return points[..., 0], torch.special.ndtri(points[..., 1:])

    # Inputs of the networks --------------------------------------------------------------------------------------

    def _normal(self, draws: int, n: int, generator: torch.Generator, like: Tensor) -> Tensor:
        """Standard normal noise (K, n, U, Z)."""
        return torch.randn(draws, n, *self.latent_shape, generator=generator, device=like.device, dtype=like.dtype)

    def _encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features (B, M, H), zero where absent, and presence (B, M)."""
        features, observed = encode_pooled(self.encoders, batch)
        return features.to(self.decoder.out.weight.dtype), observed

    def _fuse(self, features: Tensor, seen: Tensor) -> Tensor:
        """Features (B, M, H), zero where they may not be seen (B, M), with these flags, flattened: (B, M · (H + 1))."""
        return with_presence(torch.where(seen[..., None], features, 0.0), seen).flatten(1)

    def _prior(self, fused: Tensor, observed: Tensor) -> DiagonalMixture:
        """Priors (B, U, K, Z) of the latents given fused features (B, M · (H + 1)) and presence (B, M)."""
        prior = self.prior(fused)
        if self.prior_of_absent is None:
            return prior
        seen = observed[:, self._maskable, None]  # (B, U, 1)
        log_weights, *parts = zip(prior, self.prior_of_absent(fused))
        return DiagonalMixture(
            torch.where(seen, *log_weights), *(torch.where(seen[..., None], *part) for part in parts)
        )

    def _condition(self, features: Tensor, observed: Tensor) -> Tensor:
        """Inputs of the decoder next to the latents: the modalities that are always observed, (B, O)."""
        return self._fuse(features[:, self._always], observed[:, self._always])

    def _encode_target(self, target: Tensor) -> Tensor:
        """The target as an input of the posterior: (B, T)."""
        task = self.schema.task
        return task.traits.features(target, task.n_outputs).to(self.decoder.out.weight.dtype)
