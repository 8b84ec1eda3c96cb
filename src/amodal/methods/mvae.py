"""MVAE: one latent whose posterior is a product of the observed modalities' experts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from amodal.batch import Batch, rows_where
from amodal.distributions.gaussian.diagonal import DiagonalGaussian, kl_nats
from amodal.distributions.gaussian.experts import product_of_experts
from amodal.encoders import PerModality, encoders_for, width_of
from amodal.encoders.decoders import (
    GaussianNetwork,
    build_decoders,
    reconstruction_nats,
    target_features,
    target_width,
)
from amodal.fusion.latent import GaussianExperts, draw_alike
from amodal.fusion.network import Head
from amodal.losses.likelihood import target_nats
from amodal.losses.masked import mean_over_labelled, mean_over_rows, select
from amodal.method import LossTerms, OneLatent
from amodal.options import Count, Share, Size, Weight
from amodal.schema import Schema

__all__ = ["MVAE"]


class MVAE(OneLatent):
    r"""A variational autoencoder of all modalities at once, whose posterior is a product of experts.

    With a standard normal prior and a Gaussian expert for each modality, the posterior of a set S of modalities is

    .. math:: q(z \mid x_S) \propto p(z) \prod_{m \in S} \tilde q_m(z \mid x_m)

    so that an absent modality simply drops out. Minimised is the mean over rows of the sum, over some sets S of a row's
    observed modalities, of

    .. math::
        -\lambda_y \, \mathbb{E}_q \log p(y \mid z) - \lambda_x \sum_{m \in S} \mathbb{E}_q \log p(x_m \mid z)
        + \beta \, \mathrm{KL}(q(z \mid x_S) \,\|\, N(0, I))

    The sets are all that is observed, each modality alone, and `random_sets` random ones. Log-likelihoods of modalities
    are averages over their cells.

    The original is not a classifier. With ``label="head"`` the target is decoded from z in every term, so that each
    posterior learns to predict; with ``label="modality"`` it is, as in the original's experiments, one more modality:
    it has an expert, is decoded only in terms that are given it, and is predicted from the others' product. The latter
    is faithful, and predicts much worse: nothing asks the other modalities' posteriors to agree on it.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        label: "head" or "modality"; see above.
        latent: Width of z.
        hidden: Width of the hidden layers of experts and decoders.
        dropout: Dropout of the hidden layers of experts and head.
        random_sets: Random sets of each row, drawn anew for each batch, if it has three or more to choose from.
        label_weight: Weight :math:`\lambda_y` of the target's log-likelihood.
        reconstruction: Weight :math:`\lambda_x` of the modalities' log-likelihoods.
        kl: Weight :math:`\beta` of the divergence.
        annealing: Share of the training over which that weight rises from zero; without it the posterior may fall on
            the prior before it has learnt anything, and stay there.
        prediction_draws: Draws of z that a prediction averages over.

    Source:
        :cite:`wu2018mvae`. Deviations: `label="head"`, after :cite:`liang2021multibench`; likelihoods are averaged
        over cells; a row with one modality counts its one set once. Annealing over two fifths is the paper's code's.
    """

    title = "MVAE: expert product"
    summary = "a variational autoencoder whose posterior is a product of the observed modalities' experts"
    uses_unlabelled = True
    references = ("wu2018mvae", "liang2021multibench")
    draws_mean = "one latent"
    accepts_empty = True

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        label: Literal["head", "modality"] = "head",
        latent: Size = 16,
        hidden: Size = 128,
        dropout: Share = 0.0,
        random_sets: Count = 1,
        label_weight: Weight = 10.0,
        reconstruction: Weight = 1.0,
        kl: Weight = 1.0,
        annealing: Share = 0.4,
        prediction_draws: Size = 256,
    ):
        super().__init__(schema)
        self.weights = {"task": label_weight, "reconstruction": reconstruction, "kl": kl}
        self.label, self.latent, self.random_sets = label, latent, random_sets
        self.annealing, self.prediction_draws = annealing, prediction_draws
        self.encoders = encoders_for(schema, encoders)
        width = width_of(self.encoders)
        self.experts = GaussianExperts(schema.names, width, latent, hidden=hidden, dropout=dropout)
        self.label_expert = None
        if label == "modality":
            self.label_expert = GaussianNetwork(target_width(schema.task), latent, hidden=hidden, dropout=dropout)
        self.decoders = build_decoders(schema, latent=latent, hidden=hidden)
        self.head = Head(latent, schema.task.n_outputs, hidden=hidden, dropout=dropout)

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The bounds of the sets of each row, added up, the label's over rows with one; see `Method.objective`."""
        experts, observed = self.experts.of_batch(self.encoders, batch)
        if self.label_expert is not None:
            label = self.label_expert(target_features(batch.labels, self.schema.task).to(experts.mean.dtype))
            experts = DiagonalGaussian(*(torch.cat([a, b[:, None]], 1) for a, b in zip(experts, label)))
            observed = torch.cat([observed, batch.labelled[:, None]], dim=1)
        terms = {name: torch.zeros_like(experts.mean[:, 0, 0]) for name in self.weights}
        sets, m = self._sets(observed, generator), len(self.schema.names)
        found = iter(rows_where(*(column for members in sets for column in members.unbind(1)[:m])))
        for members in sets:
            positions = [next(found) for _ in range(m)]
            for name, part in self._bound(batch, experts, members, positions, generator).items():
                terms[name] = terms[name] + part
        reduced = {name: mean_over_rows(term) for name, term in terms.items()}
        weights = dict(self.weights)
        if self.annealing:
            weights["kl"] *= min(1.0, self.clock.progress / self.annealing)
        return LossTerms(reduced | {"task": mean_over_labelled(terms["task"], batch.labelled)}, weights)

    def _sets(self, observed: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Sets of each row's observed columns (B, M): all, each alone, random ones; empty where they do not count."""
        n = observed.sum(1, keepdim=True)
        chosen = [observed]
        for column in range(observed.shape[1]):
            alone = torch.zeros_like(observed)
            alone[:, column] = observed[:, column]
            chosen.append(alone & (n > 1))
        for _ in range(self.random_sets if observed.shape[1] > 2 else 0):
            draws = torch.rand(observed.shape, generator=generator, device=observed.device)
            chosen.append(observed & (draws < 0.5) & (n > 2))
        return chosen

    def _bound(
        self, batch: Batch, experts: DiagonalGaussian, members: Tensor, positions: list[Tensor],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Parts (B,) of the negative bound of one set a row (B, M); zero for rows whose set is empty."""
        posterior = product_of_experts(experts, members)  # q(z | x_S), (B, Z)
        counts = members.any(1)
        shape = (1, *posterior.mean.shape)
        noise = torch.randn(shape, generator=generator, device=counts.device, dtype=posterior.mean.dtype)
        z = posterior.draw(noise)  # (1, B, Z)
        task = target_nats(self.head(z), batch.labels, self.schema.task.kind)[0]
        # The three terms of the objective for this set; each counts only where the set has what it needs.
        decoded = counts if self.label_expert is None else members[:, -1]
        standard = DiagonalGaussian(torch.zeros_like(posterior.mean), torch.zeros_like(posterior.log_var))
        inputs = members[:, : len(self.schema.names)]
        return {
            "task": select(task, decoded),
            "reconstruction": -reconstruction_nats(self.decoders, batch, z, inputs, positions)[0],
            "kl": select(kl_nats(posterior, standard), counts),
        }

    def sample_latent(self, batch: Batch, draws: int, generator: torch.Generator, *, varies: bool) -> Tensor:
        """Latents (S, B, Z) from the posterior given what is present; see `OneLatent`."""
        posterior = product_of_experts(*self.experts.of_batch(self.encoders, batch))
        return draw_alike(posterior, draws, generator, varies=varies)
