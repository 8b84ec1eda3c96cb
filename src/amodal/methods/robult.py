"""Robult-style learning: what modalities share is aligned with a fused branch, what each has alone is kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.fusion import FusionTransformer
from amodal.fusion.network import Head
from amodal.losses.contrast import label_agreement, soft_contrast
from amodal.losses.masked import mean_over_labelled, mean_over_observed
from amodal.method import LossTerms, NetworkMethod
from amodal.options import Positive, Share, Size, Weight
from amodal.schema import Schema

__all__ = ["Robult", "agreement_of_beliefs"]


class Robult(NetworkMethod):
    r"""A redundant and a unique code of each modality; the redundant ones are drawn to a fused branch of like cases.

    From each present modality's feature h come a redundant code z and a unique code u. The prediction pools all of
    them by a learned query. In training only, a fused branch pools the features to s, and

    .. math::
        \ell_{\text{contrast}, i} = - \sum_{j, m} \frac{w_{ij}}{\sum w_{i \cdot}}
            \log \operatorname{softmax}_{j, m} \frac{\langle \bar s_i, \bar z^m_j \rangle}{T}, \qquad
        \ell_{\text{rec}} = \frac{1}{D} \lVert D_m(z^m, u^m) - h^m \rVert^2

    are added to the task's losses of prediction and fused branch. The weight w is one for a row itself; for two
    labelled rows it says how far their labels agree, and for others how far labels and detached predictions do.
    Labelled and unlabelled rows are two terms.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        temperature: T.
        w_contrast: Weight of both contrasts.
        w_reconstruction: Weight of the reconstruction.
        hidden: Width of the hidden layers of codes, decoders and heads.
        dropout: Dropout of all networks.

    Source:
        :cite:`nguyen2025robult`, of which neither code nor full text was at hand: soft contrasts of each modality's
        code with a fused branch, with few labels, and a reconstruction of the latents are the paper's; networks,
        weights and the form of everything else are a reconstruction: "Robult-style".
    """

    title = "Robult: redundant codes"
    summary = "redundant codes drawn to a fused branch of like cases, unique codes kept by reconstruction"
    references = ("nguyen2025robult",)
    couples_rows = True
    uses_unlabelled = True

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        temperature: Positive = 0.1,
        w_contrast: Weight = 0.1,
        w_reconstruction: Weight = 0.1,
        hidden: Size = 128,
        dropout: Share = 0.1,
    ):
        super().__init__(schema)
        self.temperature = temperature
        self.loss_weights = {
            "contrast": w_contrast,
            "contrast_unlabelled": w_contrast,
            "reconstruction": w_reconstruction,
        }
        self.encoders = encoders_for(schema, encoders)
        width, n_outputs = width_of(self.encoders), schema.task.n_outputs

        def networks(in_width: int) -> PerModality:
            return PerModality({n: Head(in_width, width, hidden=hidden, dropout=dropout) for n in schema.names})

        self.redundant, self.unique, self.decoders = networks(width), networks(width), networks(2 * width)
        m = len(schema.names)
        self.pooling = FusionTransformer(2 * m, width, dropout=dropout)
        self.head = nn.Linear(width, n_outputs)
        # The fused branch: in training only.
        self.fused_pooling = FusionTransformer(m, width, dropout=dropout)
        self.fused_head = nn.Linear(width, n_outputs)

    def outputs(self, batch: Batch) -> Tensor:
        """Outputs (B, C)."""
        features, observed = encode_pooled(self.encoders, batch)
        return self._read(*self.codes(features), observed)

    def codes(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Redundant and unique codes (B, M, D) each, meaningless where the modality is absent."""
        return _of_each(self.redundant, features), _of_each(self.unique, features)

    def _read(self, redundant: Tensor, unique: Tensor, observed: Tensor) -> Tensor:
        return self.head(self.pooling(torch.cat([redundant, unique], dim=1), observed.repeat(1, 2)))

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """Losses of prediction and fused branch, both contrasts, and the reconstruction; see `Method.objective`."""
        features, observed = encode_pooled(self.encoders, batch)
        redundant, unique = self.codes(features)
        outputs = self._read(redundant, unique, observed)
        fused = self.fused_pooling(features, observed)
        # Contrast of the anchors s with every present redundant code, (B, B · M).
        weights, labelled = agreement_of_beliefs(batch, self.to_predictions(outputs.detach()), self.schema.task.kind)
        contrasts = self._contrast(fused, redundant, observed, weights)
        decoded = _of_each(self.decoders, torch.cat([redundant, unique], dim=2))
        missed = (decoded - features.detach()).square().mean(2)  # (B, M)
        terms = {
            "task": self.task_term(outputs, batch),
            "fused": self.task_term(self.fused_head(fused), batch),
            "contrast": mean_over_labelled(contrasts, labelled),
            "contrast_unlabelled": mean_over_observed(contrasts, ~labelled),
            "reconstruction": mean_over_observed(missed.flatten(), observed.flatten()),
        }
        return LossTerms(terms, self.loss_weights)

    def _contrast(self, fused: Tensor, redundant: Tensor, observed: Tensor, weights: Tensor) -> Tensor:
        """The soft contrast of each row (B,), with weights (B, B) of rows."""
        anchors = functional.normalize(fused, dim=1)
        codes = functional.normalize(torch.where(observed[..., None], redundant, 0.0), dim=2).flatten(0, 1)
        counted = observed.flatten().expand(len(fused), -1)
        repeated = weights.repeat_interleave(observed.shape[1], dim=1)  # (B, B · M)
        return soft_contrast(anchors, codes, repeated, temperature=self.temperature, counted=counted)[0]


def agreement_of_beliefs(batch: Batch, predictions: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """How far every two rows agree, by their labels where these are known and by predictions elsewhere.

    Args:
        batch: B rows with target.
        predictions: Predictions for them, (B, C), or (B,) of values.
        kind: Kind of task.

    Returns:
        Weights (B, B), one for a row with itself; and the rows that are labelled, bool (B,).
    """
    agreement, labelled = label_agreement(batch.labels, kind)
    if not batch.all_labelled:
        certain = batch.labels
        if not certain.is_floating_point():
            certain = functional.one_hot(certain.clamp(min=0), predictions.shape[1]).to(predictions.dtype)
        known = labelled.view(-1, *[1] * (predictions.ndim - 1))
        mixed, _ = label_agreement(torch.where(known, certain, predictions).to(predictions.dtype), kind)
        agreement = torch.where(labelled[:, None] & labelled, agreement, mixed.to(agreement.dtype))
    own = torch.eye(len(batch), dtype=torch.bool, device=batch.device)
    return torch.where(own, 1.0, agreement), labelled


def _of_each(networks: PerModality, values: Tensor) -> Tensor:
    """Each modality's network on its part of (B, M, …)."""
    return torch.stack([network(values[:, m]) for m, (_, network) in enumerate(networks.items())], dim=1)
