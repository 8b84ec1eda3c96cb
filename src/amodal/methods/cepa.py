"""CEPA: latent prediction of absent modalities, with masks that adapt and alignment given the context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from amodal.attention import TransformerTrunk
from amodal.batch import Batch
from amodal.encoders import Encoder, PerModality, Tokens, encoders_for, width_of
from amodal.encoders.encoder import scatter
from amodal.encoders.hiding import Embedded, embed_present, encode_passes
from amodal.encoders.latent_prediction import (
    ContextEncoder,
    LatentPredictor,
    MovingAverage,
    TokenPooling,
    TokenScores,
    fill_sequence,
)
from amodal.encoders.masking import (
    block_scores,
    count_hidden,
    hide_tokens,
    random_scores,
    reverse_gradient,
    straight_through,
)
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.fusion import MeanOfPresent
from amodal.losses.characteristic_function import (
    Form,
    conditional_cf_rows,
    random_directions,
    random_frequencies,
)
from amodal.losses.feature_bank import FeatureBank
from amodal.losses.kernel_weights import Bandwidth, Distance, neighbour_weights
from amodal.losses.masked import mean_over_observed, mean_over_rows, mean_over_terms
from amodal.losses.task import logits_to_predictions, task_loss
from amodal.method import LossTerms, Method
from amodal.metrics.collapse import context_diversity
from amodal.metrics.monitor import representation_numbers, weight_numbers
from amodal.schema import Schema

__all__ = ["CEPA", "PRESETS"]

PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "masking": "cross_modal",
        "mask_objective": "adversarial",
        "detach_targets": True,
        "detach_observed": True,
        "distance": "per_dimension",
        "context": "mean",
        "cross_rows": "incomplete",
        "mark_absent": True,
        "clean_prediction": True,
        "heads": None,
        "dropout": 0.1,
    },
    "paper": {
        "masking": "cross_modal",
        "mask_objective": "cooperative",
        "detach_targets": False,
        "detach_observed": False,
        "distance": "raw",
        "context": "transformer",
        "cross_rows": "all",
        "mark_absent": False,
        "clean_prediction": False,
        "heads": 8,
        "dropout": 0.3,
    },
}
"""What the options that the paper leaves open, or that its text decides badly, are set to."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "masking": ("none", "random", "block", "cross_modal"),
    "mask_objective": ("cooperative", "adversarial", "frozen"),
    "context": ("mean", "transformer"),
    "cross_rows": ("incomplete", "all"),
    "distance": ("raw", "per_dimension"),
}


class _Passes(NamedTuple):
    """One batch encoded clean and with tokens hidden; every tensor has all B rows.

    Attributes:
        clean: Tokens of every modality, stand-ins where it is absent.
        masked: The same with the smaller mask.
        crossed: The same with the larger one.
        own: Which tokens are the row's own, bool (B, L_m): neither stand-ins nor padding.
        hidden: Tokens to reconstruct from `masked`, (B, L_m), bool or 0/1 with a gradient.
        hidden_more: Tokens to reconstruct from `crossed`.
    """

    clean: dict[str, Tokens]
    masked: dict[str, Tokens]
    crossed: dict[str, Tokens]
    own: dict[str, Tensor]
    hidden: dict[str, Tensor]
    hidden_more: dict[str, Tensor]


class CEPA(Method):
    r"""Cross-modal embedding prediction and alignment.

    A predictor :math:`g_\phi` over the tokens of all modalities, some of them hidden and learned tokens in the place of
    absent ones, predicts tokens :math:`\hat Z` of *every* modality. It learns (i) to reconstruct hidden tokens of
    present modalities, (ii) to reconstruct them again from its own prediction of the absent ones and fewer tokens of
    the present ones, and (iii) that the pooled predictions of an absent modality are distributed, given the context,
    like the pooled tokens of rows that have it. A transformer over the M pooled vectors, predicted where absent,
    gives the output.

    .. math::
        \mathcal L = \mathcal L_{task} + \alpha \mathcal L_{obs} + \beta \mathcal L_{cross} + \gamma \mathcal L_{CF}

    With modalities of a single token whole modalities are hidden, never all of a row. Where nothing can be hidden, or
    nobody has or lacks a modality, the term concerned is zero. Options that default to None are set by the preset, see
    `PRESETS` and the method's page, which lists every ambiguity of the paper.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        preset: "default", or "paper" for the paper's text read literally.
        observed_weight: Weight of the reconstruction of hidden tokens, :math:`\alpha`.
        cross_weight: Weight of the reconstruction by way of the predicted modalities, :math:`\beta`.
        cf_weight: Weight of the alignment, :math:`\gamma`.
        masking: "none", "random", "block" or "cross_modal".
        mask_objective: What the scores of "cross_modal" learn: to make the losses small ("cooperative"), large
            ("adversarial"), or nothing ("frozen").
        mask_in_loss: Whether the scores also learn through the selection of what is reconstructed.
        observed_ratio: Fraction of tokens hidden for the first reconstruction.
        cross_ratio: Fraction of tokens hidden for the second one, at least as large.
        cross_rows: Rows that the second one averages over: "incomplete", those that lack a modality, or "all".
        detach_targets: Whether the tokens to reconstruct are constants.
        detach_observed: Whether the observed side of the alignment is constant.
        detach_weights: Whether the kernel's weights are constants.
        context: "mean" of the present pooled vectors, or "transformer" over them, which stays as it was initialised
            unless `context_to_fusion`.
        context_to_fusion: Whether the context is a further token of the fusion.
        mark_absent: Whether the fusion is told which of its vectors are predictions, by a learned vector added to them.
        leave_target_out: Whether contexts of rows that have a modality are computed without it, as are those of rows
            that lack it.
        clean_prediction: Whether fusion and alignment use predictions from clean tokens, as at prediction, in an extra
            pass.
        bandwidth: Width of the kernel on contexts, or "median".
        distance: "raw", or "per_dimension" to divide squared distances of contexts by their width.
        form: Form of the alignment, see `amodal.losses.characteristic_function`.
        directions: Number of random directions.
        frequencies: Number of random frequencies.
        max_frequency: Largest frequency.
        bank: Number of earlier rows remembered on the observed side; 0: none.
        ema_decay: Decay of the moving average of the predictor that the mask scores look at.
        pooling: "encoder", as the modality's encoder pools its tokens, "mean" of the tokens, or "attention" (whatever
            parameters an encoder pools with are then left unused).
        stand_in_tokens: Most tokens that stand for an absent modality, where its encoder can pool any number.
        layers: Layers of the predictor, and of the network that scores tokens.
        heads: Attention heads; None: the preset's, which may leave them to the width.
        dropout: Dropout of predictor, scores, context and fusion.

    Raises:
        UnknownNameError: If a preset or choice is not known.
        ConfigurationError: If a ratio, a weight or a size is out of range.

    Source:
        :cite:`choi2025cepa`. The block masks follow :cite:`assran2023ijepa`.
    """

    summary = "latent prediction of absent modalities, aligned given the context"
    references = ("choi2025cepa", "assran2023ijepa")
    couples_rows = True

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        preset: str = "default",
        observed_weight: float = 0.01,
        cross_weight: float = 0.01,
        cf_weight: float = 0.1,
        masking: Literal["none", "random", "block", "cross_modal"] | None = None,
        mask_objective: Literal["cooperative", "adversarial", "frozen"] | None = None,
        mask_in_loss: bool = False,
        observed_ratio: float = 0.3,
        cross_ratio: float = 0.6,
        cross_rows: Literal["incomplete", "all"] | None = None,
        detach_targets: bool | None = None,
        detach_observed: bool | None = None,
        detach_weights: bool = True,
        context: Literal["mean", "transformer"] | None = None,
        context_to_fusion: bool = False,
        mark_absent: bool | None = None,
        leave_target_out: bool = False,
        clean_prediction: bool | None = None,
        bandwidth: float | Literal["median"] = 1.0,
        distance: Distance | None = None,
        form: Form = "products",
        directions: int = 128,
        frequencies: int = 64,
        max_frequency: float = 5.0,
        bank: int = 0,
        ema_decay: float = 0.996,
        pooling: Literal["encoder", "mean", "attention"] = "encoder",
        stand_in_tokens: int = 16,
        layers: int = 2,
        heads: int | None = None,
        dropout: float | None = None,
    ):
        super().__init__(schema)
        given = {
            "masking": masking,
            "mask_objective": mask_objective,
            "detach_targets": detach_targets,
            "detach_observed": detach_observed,
            "distance": distance,
            "context": context,
            "cross_rows": cross_rows,
            "mark_absent": mark_absent,
            "clean_prediction": clean_prediction,
            "heads": heads,
            "dropout": dropout,
        }
        chosen = _resolved(preset, given)
        _check(observed_ratio, cross_ratio, (observed_weight, cross_weight, cf_weight), stand_in_tokens, bank)
        self.weights = {"observed": observed_weight, "cross": cross_weight, "cf": cf_weight}
        self.ratios = (observed_ratio, cross_ratio)
        self.masking, self.mask_objective = chosen["masking"], chosen["mask_objective"]
        self.mask_in_loss, self.cross_rows = mask_in_loss, chosen["cross_rows"]
        self.detach_targets, self.detach_observed = chosen["detach_targets"], chosen["detach_observed"]
        self.detach_weights, self.leave_target_out = detach_weights, leave_target_out
        self.clean_prediction, self.context_to_fusion = chosen["clean_prediction"], context_to_fusion
        self.bandwidth: Bandwidth = bandwidth
        self.distance: Distance = chosen["distance"]
        self.form: Form = form
        self.n_directions, self.n_frequencies, self.max_frequency = directions, frequencies, max_frequency

        self.encoders = encoders_for(schema, encoders)
        names, d = schema.names, width_of(self.encoders)
        network = {"layers": layers, "heads": chosen["heads"], "dropout": chosen["dropout"]}
        small = {"heads": chosen["heads"], "dropout": chosen["dropout"]}
        fixed = {name for name in names if pooling == "encoder" and schema[name].kind != "text"}
        self.lengths = {
            name: self._encoder(name).n_tokens if name in fixed else min(self._encoder(name).n_tokens, stand_in_tokens)
            for name in names
        }
        self.project = PerModality({name: nn.Linear(d, d) for name in names})
        self.stand_in = nn.ParameterList(0.02 * torch.randn(d) for _ in names)
        self.predictor = LatentPredictor(names, d, **network)
        self.scores = self.average = self.placeholder = None
        if self.masking != "none":
            self.placeholder = nn.ParameterList(0.02 * torch.randn(self._encoder(n).embed_width) for n in names)
        if self.masking == "cross_modal":
            self.scores = TokenScores(d, **network).requires_grad_(self.mask_objective != "frozen")
            self.average = MovingAverage(self.predictor, ema_decay)
        self.pool = PerModality({name: TokenPooling(d, pooling=pooling) for name in names})
        self.mean = MeanOfPresent(len(names), d)
        self.context = ContextEncoder(d, **small) if chosen["context"] == "transformer" else None
        if self.context is not None:
            self.context.requires_grad_(context_to_fusion)
        slots = len(names) + context_to_fusion
        self.slot = nn.Parameter(0.02 * torch.randn(slots, d))
        self.filled = nn.Parameter(0.02 * torch.randn(len(names), d)) if chosen["mark_absent"] else None
        self.fusion = TransformerTrunk(d, layers=1, feedforward=4.0, **small)
        self.head = nn.Linear(slots * d, schema.task.n_outputs)
        self.banks = PerModality({name: FeatureBank(bank, d, d) for name in names}) if bank else None

    # Encoding --------------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> CEPA:
        """Training or evaluation mode; the moving average stays in the latter, and so does a fixed context encoder."""
        super().train(mode)
        if self.context is not None and not self.context_to_fusion:
            self.context.eval()
        return self

    def _encoder(self, name: str) -> Encoder:
        encoder = self.encoders[name]
        assert isinstance(encoder, Encoder)
        return encoder

    def _encoded(
        self, embedded: Mapping[str, Embedded | None], size: int, *hides: Mapping[str, Tensor] | None
    ) -> list[dict[str, Tokens]]:
        """Sequences of all modalities under each of some masks, one call of each encoder for all of them."""
        passes: list[dict[str, Tokens]] = [{} for _ in hides]
        for m, (name, own) in enumerate(embedded.items()):
            tokens: list[Tensor | None] = [None] * len(hides)
            if own is not None:
                blank = own.tokens.new_zeros(()) if self.placeholder is None else self.placeholder[m]
                masks = [None if hide is None else hide[name][own.rows] for hide in hides]
                tokens = [self.project[name](z) for z in encode_passes(self._encoder(name), own, blank, masks)]
            for sequences, z in zip(passes, tokens):
                present = None if own is None or z is None else (own.rows, z, own.valid)
                sequences[name] = fill_sequence(present, self.stand_in[m], self.lengths[name], size)
        return passes

    def _hides(
        self, own: dict[str, Tensor], scores: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The smaller and the larger mask: bool, or 0/1 with a gradient to the scores."""
        ranked = {name: s.detach() + 1e-4 * random_scores(own[name], generator) for name, s in scores.items()}
        less, more = (hide_tokens(ranked, own, ratio) for ratio in self.ratios)
        if self.masking != "cross_modal" or self.mask_objective == "frozen":
            return less, more
        through = {
            name: reverse_gradient(s) if self.mask_objective == "adversarial" else s for name, s in scores.items()
        }
        return tuple({n: straight_through(hide[n], through[n]) for n in own} for hide in (less, more))  # type: ignore

    def _plain_scores(self, own: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        if self.masking == "random":
            return {name: random_scores(valid, generator) for name, valid in own.items()}
        scores = {}
        for name, valid in own.items():
            side = round(valid.shape[1] ** 0.5)
            square = self.schema[name].kind == "image" and side * side == valid.shape[1]
            count = count_hidden(valid, self.ratios[1]).clamp(min=1)
            scores[name] = block_scores(valid, count, generator, grid=(side, side) if square else None)
        return scores

    def _passes(self, batch: Batch, generator: torch.Generator) -> _Passes:
        """Encodes a batch clean and under both masks."""
        size = len(batch)
        embedded = {name: embed_present(self._encoder(name), batch, name) for name in self.schema.names}
        own = {
            name: torch.zeros(size, self.lengths[name], dtype=torch.bool, device=batch.device)
            if part is None
            else scatter(part.valid, part.rows, size)
            for name, part in embedded.items()
        }
        if self.masking == "none":
            (clean,) = self._encoded(embedded, size, None)
            return _Passes(clean, clean, clean, own, own, own)
        if self.masking != "cross_modal":
            less, more = self._hides(own, self._plain_scores(own, generator), generator)
            clean, masked, crossed = self._encoded(embedded, size, None, less, more)
            return _Passes(clean, masked, crossed, own, less, more)
        # The scores look at the clean tokens: these come first, and both masked passes are one more call.
        assert self.scores is not None
        assert self.average is not None
        (clean,) = self._encoded(embedded, size, None)
        seen: Any = self.average({name: Tokens(z.detach(), valid) for name, (z, valid) in clean.items()})
        scores = self.scores({name: Tokens(seen[name], valid) for name, (_, valid) in clean.items()})
        scores = {name: s[:, : own[name].shape[1]] for name, s in scores.items()}
        less, more = self._hides(own, scores, generator)
        masked, crossed = self._encoded(embedded, size, less, more)
        return _Passes(clean, masked, crossed, own, less, more)

    # Pooled vectors and outputs --------------------------------------------------------------------------------------

    def _pooled(self, batch: Batch, clean: Mapping[str, Tokens], predicted: Mapping[str, Tensor]) -> Tensor:
        """Pooled vectors (B, M, D): of a row's own tokens where present, of predicted ones where absent."""
        vectors = []
        for name, (tokens, valid) in clean.items():
            has = batch.observed[name][:, None, None]
            vectors.append(self.pool[name](self._encoder(name), torch.where(has, tokens, predicted[name]), valid))
        return torch.stack(vectors, dim=1)

    def contexts(self, features: Tensor, observed: Tensor) -> Tensor:
        """Contexts (B, D) of pooled vectors (B, M, D), never read where absent."""
        return self.mean(features, observed) if self.context is None else self.context(features, observed)

    def _fused(self, features: Tensor, observed: Tensor) -> Tensor:
        slots = features
        if self.filled is not None:
            slots = features + torch.where(observed[..., None], 0.0, self.filled)
        if self.context_to_fusion:
            slots = torch.cat([slots, self.contexts(features, observed)[:, None]], dim=1)
        valid = torch.ones(slots.shape[:2], dtype=torch.bool, device=slots.device)
        return self.fusion(slots + self.slot, valid).flatten(1)

    def _clean_features(self, batch: Batch) -> Tensor:
        embedded = {name: embed_present(self._encoder(name), batch, name) for name in self.schema.names}
        (clean,) = self._encoded(embedded, len(batch), None)
        return self._pooled(batch, clean, self.predictor(clean))

    # Training and prediction -----------------------------------------------------------------------------------------

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """Task, both reconstructions and alignment; see `Method.objective`."""
        assert batch.target is not None
        passes = self._passes(batch, generator)
        predicted = self.predictor(passes.masked)
        terms = {"task": passes.clean[self.schema.names[0]].values.new_zeros(())}
        value, _ = self._reconstruction(predicted, passes.clean, passes.own, passes.hidden)
        terms["observed"] = mean_over_rows(value)
        again = {
            name: Tokens(torch.where(batch.observed[name][:, None, None], tokens, predicted[name]), valid)
            for name, (tokens, valid) in passes.crossed.items()
        }
        value, counted = self._reconstruction(self.predictor(again), passes.clean, passes.own, passes.hidden_more)
        rows = counted if self.cross_rows == "all" else counted & ~batch.presence.all(1)
        terms["cross"] = mean_over_observed(value, rows) if self.cross_rows != "all" else mean_over_rows(value)
        used = self.predictor(passes.clean) if self.clean_prediction else predicted
        features, observed = self._pooled(batch, passes.clean, used), batch.presence
        terms["cf"] = self._alignment(features, observed, generator)
        loss = task_loss(self.head(self._fused(features, observed)), batch.target, self.schema.task.kind)
        terms["task"] = mean_over_rows(loss)
        return LossTerms(terms, self.weights)

    def _reconstruction(
        self, predicted: dict[str, Tensor], clean: dict[str, Tokens], own: dict[str, Tensor], hidden: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Equation 4 for each row, a mean over its modalities of which something is hidden, and rows that have one."""
        values, counted = [], []
        for name, valid in own.items():
            length = valid.shape[1]
            target = clean[name].values[:, :length]
            target = target.detach() if self.detach_targets else target
            hide = hidden[name] if self.mask_in_loss else hidden[name].detach()
            error = (predicted[name][:, :length] - target).square().sum(2)  # (B, L)
            count = hide.detach().sum(1)
            values.append((torch.where(valid, error, 0.0) * hide.to(error.dtype)).sum(1) / count.clamp(min=1))
            counted.append(count > 0)
        some = torch.stack(counted, dim=1)  # (B, M)
        total = torch.where(some, torch.stack(values, dim=1), 0.0).sum(1)
        return total / some.sum(1).clamp(min=1), some.any(1)

    def _alignment(self, features: Tensor, observed: Tensor, generator: torch.Generator) -> Tensor:
        """Equation 12, averaged over the rows that lack a modality, then over the modalities."""
        context, d, device = self.contexts(features, observed), features.shape[2], features.device
        directions = frequencies = None
        if self.form != "radial":
            directions = random_directions(d, self.n_directions, generator=generator, device=device)
            frequencies = random_frequencies(self.n_frequencies, self.max_frequency, generator=generator, device=device)
        values, counted = {}, {}
        for m, name in enumerate(self.schema.names):
            seen, own, reference = observed[:, m], None, None
            if self.leave_target_out:
                others = observed.clone()
                others[:, m] = False
                own, reference = self.contexts(features, others), others.any(1)
            bank = None if self.banks is None else self.banks[name]
            values[name], counted[name], _ = conditional_cf_rows(
                features[:, m],
                features[:, m],
                context,
                seen,
                self.bandwidth,
                directions=directions,
                frequencies=frequencies,
                reference_context=own,
                reference=reference,
                remembered=bank.rows() if isinstance(bank, FeatureBank) else None,
                detach_observed=self.detach_observed,
                distance=self.distance,
                detach_weights=self.detach_weights,
                form=self.form,
                max_frequency=self.max_frequency,
            )
            if isinstance(bank, FeatureBank) and self.training:
                rows = seen if reference is None else seen & reference
                bank.push(features[rows, m].detach(), (context if own is None else own)[rows].detach())
        return mean_over_terms(values, counted)

    def after_step(self, step: int) -> None:
        """Moves the moving average of the predictor; see `Method.after_step`."""
        if self.average is not None:
            self.average.follow(self.predictor)

    def predict(self, batch: Batch) -> Tensor:
        """Probabilities (B, C) or (B, K), or means (B,); see `Method.predict`."""
        outputs = self.head(self._fused(self._clean_features(batch), batch.presence))
        return logits_to_predictions(outputs, self.schema.task.kind)

    def monitor(self, batch: Batch) -> dict[str, float]:
        """Rank and spread of pooled and predicted vectors, diversity and neighbours of contexts."""
        features, observed = self._clean_features(batch), batch.presence
        context = self.contexts(features, observed)
        numbers = representation_numbers("pooled", features[observed])
        numbers |= representation_numbers("predicted", features[~observed])
        if len(batch) > 1:
            numbers["context_diversity"] = context_diversity(context)
        split = [seen for seen in observed.unbind(1) if bool(seen.any()) and not bool(seen.all())]
        weights = [neighbour_weights(context[s], context[~s], self.bandwidth, distance=self.distance) for s in split]
        return numbers | weight_numbers([reference for reference, _ in weights])


def _resolved(preset: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options that a preset sets, but for those that are given."""
    if preset not in PRESETS:
        raise UnknownNameError("preset of cepa", preset, PRESETS)
    chosen = {key: PRESETS[preset][key] if value is None else value for key, value in given.items()}
    for key, known in _CHOICES.items():
        if chosen[key] not in known:
            raise UnknownNameError(f"{key} of cepa", chosen[key], known)
    return chosen


def _check(less: float, more: float, weights: tuple[float, ...], tokens: int, bank: int) -> None:
    if not 0 < less <= more < 1:
        raise ConfigurationError(
            "the masking ratios are out of range",
            expected="0 < observed_ratio <= cross_ratio < 1",
            got=f"{less} and {more}",
            hint="To hide nothing, pass masking='none'.",
        )
    if not all(weight >= 0 for weight in weights):
        raise ConfigurationError("a weight of cepa is out of range", expected="0 or more", got=weights)
    if tokens < 1 or bank < 0:
        raise ConfigurationError(
            "a size of cepa is out of range", expected="stand_in_tokens >= 1, bank >= 0", got=f"{tokens} and {bank}"
        )
