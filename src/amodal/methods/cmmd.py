"""CMMD: a latent classifier of the always observed modalities, trained with the others through a conditional prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from amodal.batch import Batch, rows_where
from amodal.distributions.gaussian.diagonal import DiagonalGaussian, kl_nats
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.encoders.decoders import (
    GaussianNetwork,
    build_decoders,
    reconstruction_nats,
    target_features,
    target_width,
)
from amodal.errors import ConfigurationError
from amodal.fusion.latent import draw_alike, with_presence
from amodal.fusion.network import Head
from amodal.losses.kernel_discrepancy import maximum_mean_discrepancy
from amodal.losses.likelihood import target_nats
from amodal.losses.masked import mean_over_rows
from amodal.method import LossTerms, OneLatent
from amodal.options import Share, Size, Weight, at_least, at_most
from amodal.schema import Schema

__all__ = ["CMMD"]


class CMMD(OneLatent):
    r"""A latent classifier of the modalities O that are always observed; the others are used in training only.

    With U the other modalities, networks :math:`p(z \mid x_O)` (the conditional prior), :math:`q(z \mid x_O, x_U, y)`,
    :math:`p(x_U \mid z, x_O)` and a classifier of the prior's mean, minimised is

    .. math::
        -\lambda_x \, \mathbb{E}_q \log p(x_U \mid z, x_O) + \omega \, \mathrm{KL}(q \,\|\, p(z \mid x_O))
        + (1 - \omega) \, \lambda \, \mathrm{MMD}(z_p, z_q) - \alpha \log p(y \mid \mu_p(x_O))

    where the maximum mean discrepancy between draws of prior and posterior, with the same noise, is over the batch.

    Predictions never read U, whether it is observed or not: for complete cases they are the same as without it.
    Draws, for V, push draws of the prior through the classifier. It was trained on means, so that they
    are less sure than the predictions; `predict` takes the mean, as published.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        always_observed: The modalities O; None: the first of the schema.
        rows: "all", in which posterior and reconstruction of a row that lacks some of U go by what it has, and one that
            lacks all of it only trains the classifier; "complete": as published, others are left out.
        latent: Width of z.
        hidden: Width of the hidden layers.
        dropout: Dropout of the hidden layers.
        omega: Weight :math:`\omega` of the divergence against the discrepancy.
        mmd: Weight :math:`\lambda` of the discrepancy.
        label_weight: Weight :math:`\alpha` of the target's log-likelihood, on the scale of a mean over the batch (the
            paper's code adds it up over a batch of 100: its 10 is 1000 here).
        reconstruction: Weight :math:`\lambda_x` of the modalities' log-likelihoods, averages over their cells.

    Raises:
        UnknownNameError: If a modality is not known.
        ConfigurationError: If O is empty.

    Source:
        :cite:`mancisidor2024cmmd`. Deviations: the divergence has the factor ½ that the paper's code lacks in its
        trace; any number of modalities; `rows="all"`.
    """

    title = "CMMD: helped by others"
    summary = "a classifier of the modalities that are always observed, trained with the help of the others"
    references = ("mancisidor2024cmmd",)
    draws_mean = "one latent"
    averages_draws = False
    couples_rows = True

    _always: Tensor
    _others: Tensor

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        always_observed: Sequence[str] | None = None,
        rows: Literal["all", "complete"] = "all",
        latent: Size = 16,
        hidden: Size = 128,
        dropout: Share = 0.0,
        omega: Annotated[float, at_least(0), at_most(1)] = 0.5,
        mmd: Weight = 10.0,
        label_weight: Weight = 10.0,
        reconstruction: Weight = 1.0,
    ):
        super().__init__(schema)
        roles = schema.roles(schema.names[:1] if always_observed is None else always_observed)
        if not roles.always_columns:
            raise ConfigurationError("cmmd needs a modality that is always observed", got="always_observed=[]")
        self.weights = {"task": label_weight, "reconstruction": reconstruction, "kl": omega, "mmd": (1 - omega) * mmd}
        self.rows, self.latent = rows, latent
        self.register_columns("_always", roles.always_columns)
        self.register_columns("_others", roles.maskable_columns)
        self.encoders = encoders_for(schema, encoders)
        width = width_of(self.encoders) + 1
        condition = len(self._always) * width
        networks = {"hidden": hidden, "dropout": dropout}
        self.prior = GaussianNetwork(condition, latent, **networks)
        self.head = Head(latent, schema.task.n_outputs, **networks)
        self.posterior, self.decoders = None, None
        if len(self._others):
            given = len(schema.names) * width + target_width(schema.task)
            self.posterior = GaussianNetwork(given, latent, **networks)
            others = Schema(tuple(schema.modalities[m] for m in roles.maskable_columns), schema.task)
            self.decoders = build_decoders(others, latent=latent + condition, hidden=hidden)

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """Classifier, reconstruction and divergence as means over all rows, and the discrepancy; see `Method`."""
        features, observed = self._encode(batch)
        condition = features[:, self._always].flatten(1)
        prior = self.prior(condition)  # p(z | x_O)
        # Last term of the objective: the classifier reads the prior's mean, as in prediction.
        task = target_nats(self.head(prior.mean)[None], batch.labels, self.schema.task.kind)[0]
        noise = torch.randn(prior.mean.shape, generator=generator, device=batch.device, dtype=prior.mean.dtype)
        available = observed[:, self._others]  # (B, U)
        # Rows of which posterior, reconstruction and divergence learn.
        learnt = available.any(1) if self.rows == "all" else observed.all(1)
        terms = {"task": mean_over_rows(task, None if self.rows == "all" else learnt | (not len(self._others)))}
        (rows,) = rows_where(learnt)
        if self.posterior is None or self.decoders is None or len(rows) == 0:
            return LossTerms(terms, {"task": self.weights["task"]})
        target = target_features(batch.labels[rows], self.schema.task).to(features.dtype)
        # Posterior q(z | x_O, x_U, y), and draws of both with the same noise.
        q = self.posterior(torch.cat([features[rows].flatten(1), target], dim=1))
        p = DiagonalGaussian(prior.mean[rows], prior.log_var[rows])
        z_q, z_p = q.draw(noise[rows]), p.draw(noise[rows])
        # First three terms, over these rows and as means over all: reconstruction, divergence, discrepancy.
        some = batch.take(rows)
        known = torch.cat([z_q, condition[rows]], dim=1)[None]
        likelihood = reconstruction_nats(self.decoders, some, known, available[rows])[0]
        share = len(rows) / len(batch)
        terms["reconstruction"] = -share * mean_over_rows(likelihood)
        terms["kl"] = share * mean_over_rows(kl_nats(q, p))
        terms["mmd"] = share * maximum_mean_discrepancy(z_p, z_q)
        return LossTerms(terms, self.weights)

    def predict_by(self, batch: Batch, *, seed: int, draws: int | None = None) -> Tensor:
        """Prediction of the classifier from the prior's mean, by no draws; see `SamplingMethod`."""
        return self.to_predictions(self.head(self._prior(batch).mean))

    def sample_latent(self, batch: Batch, draws: int, generator: torch.Generator, *, varies: bool) -> Tensor:
        """Latents (S, B, Z) from the conditional prior; see `OneLatent`."""
        return draw_alike(self._prior(batch), draws, generator, varies=varies)

    def _prior(self, batch: Batch) -> DiagonalGaussian:
        return self.prior(self._encode(batch)[0][:, self._always].flatten(1))

    def _encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features with presence as one more coordinate (B, M, H + 1), zero where absent, and presence (B, M)."""
        features, observed = encode_pooled(self.encoders, batch)
        return with_presence(features, observed), observed
