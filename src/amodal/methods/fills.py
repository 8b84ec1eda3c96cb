"""Fills: seven replacements for absent modalities in one network, everything else being equal."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from amodal.attention import TransformerTrunk
from amodal.batch import Batch
from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.errors import ConfigurationError
from amodal.fusion import Concatenate, MeanOfPresent
from amodal.losses.characteristic_function.context_alignment import ContextAlignment, KernelWidth, kernel_settings
from amodal.losses.characteristic_function.loss import Form
from amodal.losses.masked import mean_over_observed
from amodal.method import LossTerms, Method
from amodal.metrics.collapse import context_diversity
from amodal.metrics.monitor import weight_numbers
from amodal.options import Count, Share, Size, Weight
from amodal.patterns import draw_removal
from amodal.schema import Schema

__all__ = ["Fills"]

Strategy = Literal["zero", "mean", "learned", "predictor", "mse", "ep", "cf"]
_STATIC = ("zero", "mean", "learned")


class Fills(Method):
    r"""The network of CEPA's synthetic experiment with one of seven fills for the slots of absent modalities.

    Each present modality is encoded to :math:`e_m`. The slots of absent ones hold a fill, a transformer runs over all
    M slots, and a linear map of their mean predicts. Three fills are static, four come from a predictor
    :math:`\hat e = \mathrm{MLP}(c)` of the context :math:`c`, a linear map of the mean of the present embeddings:

    =============  ==========================  =====================================================================
    strategy       fill                        auxiliary loss
    =============  ==========================  =====================================================================
    "zero"         0                           none
    "mean"         mean training embedding     none
    "learned"      a learned vector            none
    "predictor"    :math:`\hat e_m`            none: the control that shows what the other three add
    "mse"          :math:`\hat e_m`            mean over what was removed, and the coordinates, of
                                               :math:`(\hat e_m - e_m)^2`
    "ep"           :math:`\hat e_m`            characteristic functions of the :math:`\hat e_m` of rows that lack m,
                                               and the :math:`e_m` of rows that have it
    "cf"           :math:`\hat e_m`            the same given the context, equations 9 to 12
    =============  ==========================  =====================================================================

    In training each present modality is removed with probability `drop`, one that stays being drawn if all were, or, if
    `drop` is "balanced", a uniform number of them, so that few modalities are met as often as many; the presence is
    drawn anew for every row of every batch. "mse" compares with what was so removed, and never with what
    the data lack.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        strategy: Replacement in an absent slot, see above.
        weight: Weight of the auxiliary loss.
        drop: Probability of removing each present modality in training, or "balanced".
        context_width: Width of the context.
        hidden: Width of the predictor's hidden layer.
        layers: Layers of the transformer over the slots.
        dropout: Dropout of the transformer.
        bandwidth: Width of the kernel on contexts as they are ("cf"), "per_dimension" for one that grows with the
            square root of their number of dimensions, or "median" for the median distance.
        detach_weights: Whether the kernel's weights are constants.
        detach_observed: Whether present embeddings are constant targets of "mse", "ep" and "cf".
        form: How "ep" and "cf" average over directions and frequencies: "products" and "gram" take a sample of them for
            each batch, "radial" the expectation (slower).
        directions: Number of random directions, unless the form is "radial".
        frequencies: Number of random frequencies, unless the form is "radial".

    Source:
        :cite:`choi2025cepa`, section 3.1 and appendix C.4. Additions and deviations: the strategy "predictor"; the mean
        fill is a running mean of present embeddings; "ep" is the two-sample statistic, the limit of "cf" for an
        infinite bandwidth, so that the two differ in the context alone; targets are detached; `drop` may be
        "balanced".
    """

    title = "Ways to fill a gap"
    summary = "seven fills for the slots of absent modalities, everything else being equal"
    references = ("choi2025cepa",)
    couples_rows = True

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        strategy: Strategy = "cf",
        weight: Weight = 1.0,
        drop: Share | Literal["balanced"] = 0.5,
        context_width: Size = 64,
        hidden: Size = 128,
        layers: Count = 2,
        dropout: Share = 0.1,
        bandwidth: KernelWidth = 1.0,
        detach_weights: bool = True,
        detach_observed: bool = True,
        form: Form = "products",
        directions: Size = 128,
        frequencies: Size = 64,
    ):
        super().__init__(schema)
        self.encoders = encoders_for(schema, encoders)
        self.strategy, self.weight, self.drop = strategy, weight, drop
        self.meets_all_patterns = drop != 0
        self.uses_unlabelled = strategy not in (*_STATIC, "predictor")
        self.detach_observed = detach_observed
        self.alignment = ContextAlignment(
            **kernel_settings(bandwidth),
            detach_weights=detach_weights,
            detach_observed=detach_observed,
            form=form,
            directions=directions,
            frequencies=frequencies,
            conditional=strategy != "ep",
        )
        m, d = len(self.encoders), width_of(self.encoders)
        self.static = Concatenate(m, d, fill=strategy) if strategy in _STATIC else None
        self.mean = MeanOfPresent(m, d)
        predicts = strategy not in _STATIC
        self.context = nn.Linear(d, context_width) if predicts else None
        self.predictor = (
            nn.Sequential(nn.Linear(context_width, hidden), nn.GELU(), nn.Linear(hidden, m * d)) if predicts else None
        )
        self.transformer = TransformerTrunk(d, layers=layers, feedforward=4.0, dropout=dropout)
        self.head = nn.Linear(d, schema.task.n_outputs)

    # Parts -----------------------------------------------------------------------------------------------------------

    def contexts(self, features: Tensor, observed: Tensor) -> Tensor:
        """Contexts (B, E) of features (B, M, D), never read where absent.

        Raises:
            ConfigurationError: If the strategy has no predictor, and so no context.
        """
        if self.context is None:
            raise ConfigurationError(f"the strategy {self.strategy!r} has no context", hint="Use one that predicts.")
        return self.context(self.mean(features, observed))

    def fill(self, features: Tensor, observed: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """All slots (B, M, D), and predictions (B, M, D) and contexts (B, E) for strategies that predict."""
        if self.static is not None:
            return self.static(features, observed).view_as(features), None, None
        assert self.predictor is not None
        context = self.contexts(features, observed)
        predicted = self.predictor(context).view_as(features)
        return torch.where(observed[..., None], features, predicted), predicted, context

    def fused(self, slots: Tensor) -> Tensor:
        """Slots (B, M, D) to one vector (B, D)."""
        valid = torch.ones(slots.shape[:2], dtype=torch.bool, device=slots.device)
        return self.transformer(slots, valid).mean(1)

    # Training and prediction -----------------------------------------------------------------------------------------

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The task's loss and the strategy's own; see `Method.objective`."""
        remaining = self._remaining(batch.presence, generator)
        seen = batch if self.strategy == "mse" else batch.restrict(dict(zip(batch.modalities, remaining.unbind(1))))
        features, _ = encode_pooled(self.encoders, seen)  # (B, M, D)
        slots, predicted, context = self.fill(features, remaining)
        terms = {"task": self.task_term(self.head(self.fused(slots)), batch)}
        if predicted is None or context is None or self.strategy == "predictor":
            return LossTerms(terms)
        if self.strategy == "mse":
            target = features.detach() if self.detach_observed else features
            error = (predicted - target).square().mean(2)  # (B, M)
            terms["mse"] = mean_over_observed(error.flatten(), (batch.presence & ~remaining).flatten())
        else:
            # Equations 9 to 12 of CEPA; "ep" without the context.
            terms[self.strategy] = self.alignment(features, predicted, context, remaining, generator)
        return LossTerms(terms, {self.strategy: self.weight})

    def _remaining(self, observed: Tensor, generator: torch.Generator) -> Tensor:
        """Presence (B, M) after the removal."""
        if isinstance(self.drop, str):
            return draw_removal(observed, generator)
        return drop_modalities(observed, self.drop, generator)

    def predict(self, batch: Batch) -> Tensor:
        """Probabilities (B, C) or (B, K), or means (B,); see `Method.predict`."""
        slots, _, _ = self.fill(*encode_pooled(self.encoders, batch))
        return self.to_predictions(self.head(self.fused(slots)))

    def representations(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """The embeddings, the fused vectors, and predicted embeddings where absent; see `Method.representations`."""
        features, observed = encode_pooled(self.encoders, batch)
        slots, predicted, _ = self.fill(features, observed)
        fused = self.fused(slots)[:, None]
        watched = {"pooled": (features, observed), "fused": (fused, torch.ones_like(observed[:, :1]))}
        return watched if predicted is None else watched | {"predicted": (predicted, ~observed)}

    def monitor(self, batch: Batch) -> dict[str, float]:
        """Diversity of the contexts and effective number of their neighbours; see `Method.monitor`."""
        if self.context is None:
            return {}
        context = self.contexts(*encode_pooled(self.encoders, batch))
        numbers = {"context_diversity": context_diversity(context)} if len(batch) > 1 else {}
        return numbers | weight_numbers(self.alignment.weights(context, batch.presence))


def drop_modalities(observed: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Removes each present modality with one probability; a row of which all are removed keeps a random one.

    Args:
        observed: Presence, bool, of shape (B, M).
        probability: Probability of removal.
        generator: Source of the draws, on the same device.

    Returns:
        What stays, bool, of shape (B, M).

    Example:
        >>> remaining = drop_modalities(torch.ones(8000, 2, dtype=torch.bool), 0.5, torch.Generator().manual_seed(0))
        >>> round(remaining.double().mean().item(), 1), bool(remaining.any(1).all())  # 3/4 of a half, and the repair
        (0.6, True)
    """
    draws = torch.rand(observed.shape, generator=generator, device=observed.device)
    remaining = observed & (draws >= probability)
    # Given that all were removed the draws are still exchangeable: the largest of a present one is a random one.
    last = torch.where(observed, draws, -1.0).argmax(1, keepdim=True)
    restored = torch.zeros_like(remaining).scatter(1, last, ~remaining.any(1, keepdim=True))
    return remaining | (restored & observed)
