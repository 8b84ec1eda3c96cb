"""CEPA: latent prediction of absent modalities, with masks that adapt and alignment given the context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from amodal.attention import TransformerTrunk
from amodal.batch import Batch
from amodal.encoders import Encoder, PerModality, Tokens, encoders_for, width_of
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.fusion import MeanOfPresent
from amodal.losses.characteristic_function.context_alignment import ContextAlignment
from amodal.losses.characteristic_function.feature_bank import FeatureBank
from amodal.losses.characteristic_function.kernel_weights import Distance
from amodal.losses.characteristic_function.loss import Form
from amodal.losses.masked import mean_over_observed, mean_over_rows
from amodal.losses.task import logits_to_predictions, task_loss
from amodal.losses.token_reconstruction import hidden_token_error
from amodal.method import LossTerms, Method
from amodal.metrics.collapse import context_diversity
from amodal.metrics.monitor import weight_numbers
from amodal.patterns import draw_removal
from amodal.schema import Schema
from amodal.tokens.hiding import Passes, TokenSequences
from amodal.tokens.latent_prediction import ContextEncoder, LatentPredictor, TokenPooling
from amodal.tokens.masking import widen
from amodal.tokens.token_masks import TokenMasks

__all__ = ["CEPA", "PRESETS"]

_DEFAULT: dict[str, Any] = {
    "masking": "cross_modal",
    "mask_objective": "adversarial",
    "detach_targets": True,
    "normalise_tokens": True,
    "detach_observed": True,
    "distance": "per_dimension",
    "form": "radial",
    "context": "mean",
    "cross_rows": "incomplete",
    "mark_absent": True,
    "clean_prediction": True,
    "layers": 1,
    "heads": None,
    "dropout": 0.1,
    "patterns": 4,
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": _DEFAULT,
    "one_pattern": _DEFAULT | {"patterns": 1},
    "paper": {
        "masking": "cross_modal",
        "mask_objective": "cooperative",
        "detach_targets": False,
        "normalise_tokens": False,
        "detach_observed": False,
        "distance": "raw",
        "form": "products",
        "context": "transformer",
        "cross_rows": "all",
        "mark_absent": False,
        "clean_prediction": False,
        "layers": 2,
        "heads": 8,
        "dropout": 0.3,
        "patterns": 1,
    },
}
"""What the options that the paper leaves open, or that its text decides badly, are set to."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "masking": ("none", "random", "block", "cross_modal"),
    "mask_objective": ("cooperative", "adversarial", "frozen"),
    "context": ("mean", "transformer"),
    "cross_rows": ("incomplete", "all"),
    "distance": ("raw", "per_dimension"),
    "form": get_args(Form),
}


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

    In addition to the paper the task is learnt under several patterns of presence of each row in a step (`patterns`),
    for which its modalities are encoded a single time.

    With modalities of a single token whole modalities are hidden, never all of a row. Where nothing can be hidden, or
    nobody has or lacks a modality, the term concerned is zero. Options that default to None are set by the preset, see
    `PRESETS` and the method's page, which lists every ambiguity of the paper.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        preset: "default", "one_pattern" for the default but for its `patterns`, or "paper" for the paper's text read
            literally.
        observed_weight: Weight of the reconstruction of hidden tokens, :math:`\alpha`.
        cross_weight: Weight of the reconstruction by way of the predicted modalities, :math:`\beta`.
        cf_weight: Weight of the alignment, :math:`\gamma`.
        patterns: Number of patterns of presence under which the task is learnt from each row in a step. From 2 on they
            are drawn here, each by removing a uniform number of the row's modalities; 1: the row as it is, under the
            removal that `amodal.fit` draws. The other losses are for the first pattern.
        masking: "none", "random", "block" or "cross_modal".
        mask_objective: What the scores of "cross_modal" learn: to make the losses small ("cooperative"), large
            ("adversarial"), or nothing ("frozen").
        mask_in_loss: Whether the scores also learn through the selection of what is reconstructed.
        observed_ratio: Fraction of tokens hidden for the first reconstruction.
        cross_ratio: Fraction of tokens hidden for the second one, at least as large.
        cross_rows: Rows that the second one averages over: "incomplete", those that lack a modality, or "all".
        detach_targets: Whether the tokens to reconstruct are constants.
        normalise_tokens: Whether tokens are standardised over their coordinates, which fixes the scale of what is to be
            reconstructed.
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
        form: Form of the alignment, see `amodal.losses.characteristic_function`: "radial" takes the expectation over
            directions and frequencies, "products" and "gram" draw them anew for each batch.
        directions: Number of random directions, unless the form is "radial".
        frequencies: Number of random frequencies, unless the form is "radial".
        max_frequency: Largest frequency.
        bank: Number of earlier rows remembered on the observed side; 0: none.
        ema_decay: Decay of the moving average of the predictor that the mask scores look at.
        pooling: "encoder", as the modality's encoder pools its tokens, "mean" of the tokens, or "attention" (whatever
            parameters an encoder pools with are then left unused).
        stand_in_tokens: Most tokens that stand for an absent modality, where its encoder can pool any number.
        layers: Layers of the predictor, and of the network that scores tokens; None: the preset's.
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
    meets_all_patterns = True

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        preset: str = "default",
        observed_weight: float = 0.01,
        cross_weight: float = 0.01,
        cf_weight: float = 0.1,
        patterns: int | None = None,
        masking: Literal["none", "random", "block", "cross_modal"] | None = None,
        mask_objective: Literal["cooperative", "adversarial", "frozen"] | None = None,
        mask_in_loss: bool = False,
        observed_ratio: float = 0.3,
        cross_ratio: float = 0.6,
        cross_rows: Literal["incomplete", "all"] | None = None,
        detach_targets: bool | None = None,
        normalise_tokens: bool | None = None,
        detach_observed: bool | None = None,
        detach_weights: bool = True,
        context: Literal["mean", "transformer"] | None = None,
        context_to_fusion: bool = False,
        mark_absent: bool | None = None,
        leave_target_out: bool = False,
        clean_prediction: bool | None = None,
        bandwidth: float | Literal["median"] = 1.0,
        distance: Distance | None = None,
        form: Form | None = None,
        directions: int = 128,
        frequencies: int = 64,
        max_frequency: float = 5.0,
        bank: int = 0,
        ema_decay: float = 0.996,
        pooling: Literal["encoder", "mean", "attention"] = "encoder",
        stand_in_tokens: int = 16,
        layers: int | None = None,
        heads: int | None = None,
        dropout: float | None = None,
    ):
        super().__init__(schema)
        given = {
            "masking": masking,
            "mask_objective": mask_objective,
            "detach_targets": detach_targets,
            "normalise_tokens": normalise_tokens,
            "detach_observed": detach_observed,
            "distance": distance,
            "form": form,
            "context": context,
            "cross_rows": cross_rows,
            "mark_absent": mark_absent,
            "clean_prediction": clean_prediction,
            "layers": layers,
            "heads": heads,
            "dropout": dropout,
            "patterns": patterns,
        }
        chosen = _resolved(preset, given)
        self.weights = {"observed": observed_weight, "cross": cross_weight, "cf": cf_weight}
        _check(observed_ratio, cross_ratio, tuple(self.weights.values()))
        _check_sizes(stand_in_tokens=(stand_in_tokens, 1), bank=(bank, 0), patterns=(chosen["patterns"], 1))
        self.patterns: int = chosen["patterns"]
        self.meets_all_patterns = self.patterns > 1
        self.mask_in_loss, self.cross_rows = mask_in_loss, chosen["cross_rows"]
        self.detach_targets, self.leave_target_out = chosen["detach_targets"], leave_target_out
        self.clean_prediction, self.context_to_fusion = chosen["clean_prediction"], context_to_fusion
        self.alignment = ContextAlignment(
            bandwidth=bandwidth,
            distance=chosen["distance"],
            detach_weights=detach_weights,
            detach_observed=chosen["detach_observed"],
            form=chosen["form"],
            directions=directions,
            frequencies=frequencies,
            max_frequency=max_frequency,
        )
        self.encoders = encoders_for(schema, encoders)
        names, d = schema.names, width_of(self.encoders)
        small = {"heads": chosen["heads"], "dropout": chosen["dropout"]}
        network = {"layers": chosen["layers"], **small}
        images = [modality.name for modality in schema.modalities if modality.traits.on_grid]
        fixed = {name for name in names if pooling == "encoder" and not schema[name].traits.holds_texts}
        lengths = {n: self._encoder(n).n_tokens for n in names}
        lengths = {n: length if n in fixed else min(length, stand_in_tokens) for n, length in lengths.items()}
        hides, normalise = chosen["masking"] != "none", chosen["normalise_tokens"]
        self.sequences = TokenSequences(self.encoders, lengths, hides=hides, normalise=normalise)
        self.predictor = LatentPredictor(names, d, **network)
        self.masks = None
        if hides:
            self.masks = TokenMasks(
                self.predictor,
                d,
                strategy=chosen["masking"],
                objective=chosen["mask_objective"],
                ratios=(observed_ratio, cross_ratio),
                on_grid=images,
                decay=ema_decay,
                **network,
            )
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

    # Tokens, pooled vectors and outputs ------------------------------------------------------------------------------

    def _passes(self, batch: Batch, generator: torch.Generator, *kept: Tensor) -> Passes:
        """Encodes a batch clean and, if anything needs them, under both masks.

        Args:
            batch: B rows.
            generator: Source of the masks.
            *kept: Patterns (B, M) of what is left of each row, the first of them for the passes; None: the row's own.
        """
        size, embedded = len(batch), self.sequences.embed(self.encoders, batch)
        patterns = [dict(zip(batch.modalities, presence.unbind(1))) for presence in kept]

        def less(tokens: dict[str, Tokens]) -> dict[str, Tokens]:
            return self.sequences.without(tokens, patterns[0]) if patterns else tokens

        masked_needed = self.weights["observed"] or self.weights["cross"] or not self.clean_prediction
        own = self.sequences.own(embedded, batch)
        if patterns:
            own = {name: valid & patterns[0][name][:, None] for name, valid in own.items()}
        if self.masks is None or not masked_needed:
            (whole,) = self.sequences(self.encoders, embedded, size, None)
            clean = less(whole)
            passes = Passes(clean, clean, clean, own, own, own)
        elif self.masks.reads_tokens:  # the clean tokens come first, and both masked passes are one more call
            (whole,) = self.sequences(self.encoders, embedded, size, None)
            clean = less(whole)
            hidden = self.masks(own, clean, generator)
            masked, crossed = self.sequences(self.encoders, embedded, size, *hidden)
            passes = Passes(clean, less(masked), less(crossed), own, *hidden)
        else:
            hidden = self.masks(own, None, generator)
            whole, masked, crossed = self.sequences(self.encoders, embedded, size, None, *hidden)
            passes = Passes(less(whole), less(masked), less(crossed), own, *hidden)
        others = tuple(self.sequences.without(whole, presence) for presence in patterns[1:])
        return passes._replace(others=others)

    def _pooled(self, observed: Tensor, clean: Mapping[str, Tokens], predicted: Mapping[str, Tensor]) -> Tensor:
        """Pooled vectors (B, M, D): of a row's own tokens where present, of predicted ones where absent."""
        vectors = []
        for present, (name, (tokens, valid)) in zip(observed.unbind(1), clean.items()):
            seen = torch.where(present[:, None, None], tokens, predicted[name])
            vectors.append(self.pool[name](self._encoder(name), seen, valid))
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
        return self.fusion.at(slots + self.slot, valid, valid).view(len(slots), -1)

    def _clean_features(self, batch: Batch) -> Tensor:
        embedded = self.sequences.embed(self.encoders, batch)
        (clean,) = self.sequences(self.encoders, embedded, len(batch), None)
        return self._pooled(batch.presence, clean, self.predictor(clean, _absent(clean, batch.presence)))

    # Training and prediction -----------------------------------------------------------------------------------------

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """Task, both reconstructions and alignment; see `Method.objective`."""
        assert batch.target is not None
        kept = [draw_removal(batch.presence, generator) for _ in range(self.patterns)] if self.patterns > 1 else []
        passes, size, terms = self._passes(batch, generator, *kept), len(batch), {}
        every = kept or [batch.presence]  # presence under each pattern
        predicted, used = self._predictions(passes, every)
        if self.weights["observed"]:
            terms["observed"] = mean_over_rows(self._reconstruction(predicted, passes, passes.hidden)[0])
        if self.weights["cross"]:
            terms["cross"] = self._cross_reconstruction(every[0], predicted, passes)
        clean = [passes.clean, *passes.others]
        observed, features = torch.cat(every), self._pooled(torch.cat(every), _stacked(clean), _joined(used))
        if self.weights["cf"]:
            terms["cf"] = self._alignment(features[:size], every[0], generator)
        outputs = self.head(self._fused(features, observed))
        target = batch.target.repeat(len(every), *(1,) * (batch.target.ndim - 1))
        loss = mean_over_rows(task_loss(outputs, target, self.schema.task.kind))
        return LossTerms({"task": loss, **terms}, {name: self.weights[name] for name in terms})

    def _predictions(
        self, passes: Passes, observed: Sequence[Tensor]
    ) -> tuple[Mapping[str, Tensor], Sequence[Mapping[str, Tensor]]]:
        """What the losses read of the predictions from masked tokens, and what the fusion reads under each pattern."""
        clean = [passes.clean, *passes.others]
        absent = [_absent(sequences, presence) for sequences, presence in zip(clean, observed)]
        extra = self.clean_prediction and passes.masked is not passes.clean
        read = {name: stand & (not extra or self.weights["cross"] > 0) for name, stand in absent[0].items()}
        if self.weights["observed"]:
            read = {name: stand | _hidden(passes.hidden[name], stand) for name, stand in read.items()}
        seen = clean if extra else clean[1:]
        predicted, *used = self.predictor.predict_passes(
            passes.masked, *seen, read=[read, *absent[len(clean) - len(seen) :]]
        )
        return predicted, used if extra else [predicted, *used]

    def _reconstruction(
        self, predicted: Mapping[str, Tensor], passes: Passes, hidden: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Equation 4 of each row, and which rows have something hidden."""
        target = {name: z.detach() if self.detach_targets else z for name, (z, _) in passes.clean.items()}
        hidden = hidden if self.mask_in_loss else {name: hide.detach() for name, hide in hidden.items()}
        return hidden_token_error(predicted, target, passes.own, hidden)

    def _cross_reconstruction(self, observed: Tensor, predicted: Mapping[str, Tensor], passes: Passes) -> Tensor:
        """Equation 6: what was hidden of the present modalities, from the rest of them and the predicted ones."""
        again = {
            name: Tokens(torch.where(present[:, None, None], tokens, predicted[name]), valid)
            for present, (name, (tokens, valid)) in zip(observed.unbind(1), passes.crossed.items())
        }
        rows = torch.ones_like(observed[:, 0]) if self.cross_rows == "all" else ~observed.all(1)
        read = {n: _hidden(passes.hidden_more[n], valid) & rows[:, None] for n, (_, valid) in again.items()}
        value, counted = self._reconstruction(self.predictor(again, read), passes, passes.hidden_more)
        return mean_over_rows(value) if self.cross_rows == "all" else mean_over_observed(value, counted & rows)

    def _alignment(self, features: Tensor, observed: Tensor, generator: torch.Generator) -> Tensor:
        """Equation 12, averaged over the rows that lack a modality, then over the modalities."""
        context, without = self.contexts(features, observed), None
        n_modalities = observed.shape[1]
        if self.leave_target_out:
            others = ~torch.eye(n_modalities, dtype=torch.bool, device=observed.device)
            without = torch.stack([self.contexts(features, observed & kept) for kept in others], dim=1)
        banks = None if self.banks is None else [bank for _, bank in self.banks.items()]
        value = self.alignment(
            features,
            features,
            context,
            observed,
            generator,
            contexts_without=without,
            remembered=None if banks is None else [bank.rows() for bank in banks],  # type: ignore[operator]
        )
        for m, bank in enumerate(banks or () if self.training else ()):
            rows = observed[:, m] if without is None else observed[:, m] & (observed.sum(1) > 1)
            seen = context if without is None else without[:, m]
            bank.push(features[rows, m].detach(), seen[rows].detach())  # type: ignore[operator]
        return value

    def after_step(self) -> None:
        """Moves the moving average of the predictor; see `Method.after_step`."""
        if self.masks is not None:
            self.masks.follow(self.predictor)

    def predict(self, batch: Batch) -> Tensor:
        """Probabilities (B, C) or (B, K), or means (B,); see `Method.predict`."""
        outputs = self.head(self._fused(self._clean_features(batch), batch.presence))
        return logits_to_predictions(outputs, self.schema.task.kind)

    def representations(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Pooled vectors where present, and predicted ones where absent; see `Method.representations`."""
        features, observed = self._clean_features(batch), batch.presence
        return {"pooled": (features, observed), "predicted": (features, ~observed)}

    def monitor(self, batch: Batch) -> dict[str, float]:
        """Diversity of the contexts and effective number of their neighbours; see `Method.monitor`."""
        context = self.contexts(self._clean_features(batch), batch.presence)
        numbers = {"context_diversity": context_diversity(context)} if len(batch) > 1 else {}
        return numbers | weight_numbers(self.alignment.weights(context, batch.presence))


def _absent(sequences: Mapping[str, Tokens], observed: Tensor) -> dict[str, Tensor]:
    """Which tokens stand for an absent modality, bool, of shape (B, L_m)."""
    pairs = zip(observed.unbind(1), sequences.items())
    return {name: valid & ~present[:, None] for present, (name, (_, valid)) in pairs}


def _stacked(every: Sequence[Mapping[str, Tokens]]) -> Mapping[str, Tokens]:
    """Sequences of several patterns, one below the other."""
    if len(every) == 1:
        return every[0]
    return {name: Tokens(*(torch.cat(part) for part in zip(*(one[name] for one in every)))) for name in every[0]}


def _joined(every: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    return every[0] if len(every) == 1 else {name: torch.cat([one[name] for one in every]) for name in every[0]}


def _hidden(hide: Tensor, like: Tensor) -> Tensor:
    """Hidden tokens as bool, among as many as there are in `like`."""
    return widen(hide if hide.dtype == torch.bool else hide.detach() > 0.5, like.shape[1])


def _resolved(preset: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options that a preset sets, but for those that are given."""
    if preset not in PRESETS:
        raise UnknownNameError("preset of cepa", preset, PRESETS)
    chosen = {key: PRESETS[preset][key] if value is None else value for key, value in given.items()}
    for key, known in _CHOICES.items():
        if chosen[key] not in known:
            raise UnknownNameError(f"{key} of cepa", chosen[key], known)
    return chosen


def _check(less: float, more: float, weights: tuple[float, ...]) -> None:
    if not 0 < less <= more < 1:
        raise ConfigurationError(
            "the masking ratios are out of range",
            expected="0 < observed_ratio <= cross_ratio < 1",
            got=f"{less} and {more}",
            hint="To hide nothing, pass masking='none'.",
        )
    if not all(weight >= 0 for weight in weights):
        raise ConfigurationError("a weight of cepa is out of range", expected="0 or more", got=weights)


def _check_sizes(**sizes: tuple[int, int]) -> None:
    if any(value < least for value, least in sizes.values()):
        raise ConfigurationError(
            "a size of cepa is out of range",
            expected=", ".join(f"{name} >= {least}" for name, (_, least) in sizes.items()),
            got=", ".join(str(value) for value, _ in sizes.values()),
        )
