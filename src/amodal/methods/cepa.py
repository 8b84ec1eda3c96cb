"""CEPA: latent prediction of absent modalities, with adaptive masks and alignment given the context."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from amodal.attention import TransformerTrunk
from amodal.batch import Batch
from amodal.encoders import Encoder, PerModality, Tokens, encoders_for, width_of
from amodal.fusion import MeanOfPresent
from amodal.losses.characteristic_function.context_alignment import AlignmentChoice, build_alignment
from amodal.losses.masked import mean_over_observed, mean_over_rows
from amodal.losses.token_reconstruction import hidden_token_error
from amodal.method import LossTerms
from amodal.metrics.collapse import context_diversity
from amodal.metrics.monitor import spread_ratios, weight_numbers
from amodal.options import Condition, Count, Share, Size, Weight
from amodal.patterns import draw_removals
from amodal.schema import Schema
from amodal.teaching import TaughtMethod, TeacherChoice
from amodal.tokens.hiding import Passes, TokenSequences
from amodal.tokens.latent_prediction import ContextEncoder, LatentPredictor, TokenPooling
from amodal.tokens.masking import widen
from amodal.tokens.token_masks import TokenMasks

__all__ = ["CEPA"]

STAND_IN_TOKENS = 16
"""Most tokens that stand for an absent modality, where its encoder can pool any number."""

Ratios = Annotated[
    tuple[float, float], Condition("0 < the first <= the second < 1", lambda ratios: 0 < ratios[0] <= ratios[1] < 1)
]


class CEPA(TaughtMethod):
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
    all or no rows have a modality, the term concerned is zero. The preset "paper" reads the paper's text literally;
    "one_pattern" differs from the default in `patterns` alone. The method's page lists every ambiguity of the paper.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        observed_weight: Weight of the reconstruction of hidden tokens, :math:`\alpha`.
        cross_weight: Weight of the reconstruction by way of the predicted modalities, :math:`\beta`.
        cf_weight: Weight of the alignment, :math:`\gamma`.
        patterns: Number of patterns of presence under which the task is learnt from each row in a step. From 2 on they
            are drawn here, each by removing a uniform number of the row's modalities; 1: the row as it is, under the
            removal that `amodal.fit` draws. The other losses are for the first pattern.
        masking: "none", "random", "block" or "cross_modal" tokens, or whole modalities at random ("modality"). A
            modality whose encoder cannot hide single tokens (`can_hide`) is always hidden as a whole or not at all.
        mask_objective: What the scores of "cross_modal" learn: to make the losses small ("cooperative"), large
            ("adversarial"), or nothing ("frozen").
        mask_ratios: Fractions of tokens hidden for the first and the second reconstruction.
        targets: What predictions are compared with: "standardised", constants, tokens standardised over their
            coordinates, which fixes the scale of what is reconstructed; "detached", constants as they are; or "free",
            through which the losses also move the encoders. The observed side of the alignment is constant unless
            "free".
        clean_prediction: Whether fusion and alignment use predictions from clean tokens, as at prediction, in an extra
            pass, and a learned vector tells the fusion which of its vectors are predictions. False, as printed: from
            masked tokens, unmarked, and complete rows count in the second reconstruction too.
        context: "mean" of the present pooled vectors, or "transformer" over them, which stays as it was initialised.
        alignment: "conditional" on contexts of the other modalities, "marginal", or {"name": name, option: value, …}
            with the options of `amodal.losses.characteristic_function.context_alignment.build_alignment`.
        layers: Layers of the predictor, and of the network that scores tokens.
        heads: Attention heads; None: chosen from the width.
        dropout: Dropout of predictor, scores, context and fusion.
        teacher: What rows without a label teach besides the reconstructions and the alignment, as in
            `modality_dropout`: "complete", "pseudo_labels" or "none". With one pattern teacher and pupil see the same.

    Source:
        :cite:`choi2025cepa`. The block masks follow :cite:`assran2023ijepa`.
    """

    title = "CEPA: predicted vectors"
    summary = "latent prediction of absent modalities, aligned given the context"
    references = ("choi2025cepa", "assran2023ijepa")
    couples_rows = True

    PRESETS: ClassVar = {
        "one_pattern": {"patterns": 1},
        "paper": {
            "patterns": 1,
            "mask_objective": "cooperative",
            "targets": "free",
            "clean_prediction": False,
            "context": "transformer",
            "alignment": {
                "name": "conditional",
                "bandwidth": 1.0,
                "with_target": True,
                "diagonal": True,
                "form": "products",
            },
            "layers": 2,
            "heads": 8,
            "dropout": 0.3,
            "teacher": "none",
        },
    }

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        observed_weight: Weight = 0.01,
        cross_weight: Weight = 0.01,
        cf_weight: Weight = 0.1,
        patterns: Size = 4,
        masking: Literal["none", "random", "block", "cross_modal", "modality"] = "cross_modal",
        mask_objective: Literal["cooperative", "adversarial", "frozen"] = "adversarial",
        mask_ratios: Ratios = (0.3, 0.6),
        targets: Literal["standardised", "detached", "free"] = "standardised",
        clean_prediction: bool = True,
        context: Literal["mean", "transformer"] = "mean",
        alignment: AlignmentChoice = "conditional",
        layers: Count = 1,
        heads: Size | None = None,
        dropout: Share = 0.1,
        teacher: TeacherChoice = "complete",
    ):
        super().__init__(schema)
        self.weights = {"observed": observed_weight, "cross": cross_weight, "cf": cf_weight}
        self.patterns, self.meets_all_patterns = patterns, patterns > 1
        self.targets, self.clean_prediction = targets, clean_prediction
        self.alignment = build_alignment(alignment, detach_observed=targets != "free")

        self.encoders = encoders_for(schema, encoders)
        n, d, small = len(schema.names), width_of(self.encoders), {"heads": heads, "dropout": dropout}
        self.sequences = TokenSequences(
            self.encoders, self._lengths(), hides=masking != "none", normalise=targets == "standardised"
        )
        self.predictor = LatentPredictor(schema.names, d, layers=layers, **small)
        self.masks = None
        if masking != "none":
            images = [m.name for m in schema.modalities if m.traits.on_grid and not m.traits.takes_lengths]
            whole = [name for name in schema.names if not self._encoder(name).can_hide]
            chosen = {"strategy": masking, "objective": mask_objective, "ratios": mask_ratios}
            chosen |= {"whole": whole, "on_grid": images}
            self.masks = TokenMasks(self.predictor, d, **chosen, layers=layers, **small)
        self.pool = PerModality({name: TokenPooling(d) for name in schema.names})
        self.mean = MeanOfPresent(n, d)
        self.context = ContextEncoder(d, **small).requires_grad_(False) if context == "transformer" else None
        self.slot = nn.Parameter(0.02 * torch.randn(n, d))
        self.filled = nn.Parameter(0.02 * torch.randn(n, d)) if clean_prediction else None
        self.fusion = TransformerTrunk(d, layers=1, feedforward=4.0, **small)
        self.head = nn.Linear(n * d, schema.task.n_outputs)
        self.set_teacher(teacher)
        self.uses_unlabelled = True  # reconstructions and alignment need no label

    def _lengths(self) -> dict[str, int]:
        """Number of stand-in tokens of each modality: a text's is limited, other encoders pool a fixed number."""
        lengths = {name: self._encoder(name).n_tokens for name in self.schema.names}
        texts = [modality.name for modality in self.schema.modalities if modality.traits.holds_texts]
        return lengths | {name: min(lengths[name], STAND_IN_TOKENS) for name in texts}

    def train(self, mode: bool = True) -> CEPA:
        """Training or evaluation mode; moving average and context encoder, which are fixed, stay in the latter."""
        super().train(mode)
        if self.context is not None:
            self.context.eval()
        return self

    def _encoder(self, name: str) -> Encoder:
        encoder = self.encoders[name]
        assert isinstance(encoder, Encoder)
        return encoder

    # Tokens, pooled vectors and outputs ------------------------------------------------------------------------------

    def _passes(self, batch: Batch, generator: torch.Generator, *remaining: Tensor) -> Passes:
        """Encodes a batch clean and, if anything needs them, under both masks.

        Args:
            batch: B rows.
            generator: Source of the masks.
            *remaining: Presence (B, M) under each pattern, the first of them for the passes; none: as it is.
        """
        size, embedded = len(batch), self.sequences.embed(self.encoders, batch)
        (whole,) = self.sequences(self.encoders, embedded, size, None)
        patterns = [dict(zip(batch.modalities, presence.unbind(1))) for presence in remaining]
        every = [self.sequences.without(whole, presence) for presence in patterns] or [whole]
        if patterns:  # the masked passes are for what the first pattern leaves
            embedded = {n: None if part is None else part.where(patterns[0][n]) for n, part in embedded.items()}
        clean, own = every[0], self.sequences.own(embedded, batch)
        masked_needed = self.weights["observed"] or self.weights["cross"] or not self.clean_prediction
        if self.masks is None or not masked_needed:
            return Passes(clean, clean, clean, own, own, own, tuple(every[1:]))
        hideable = self.sequences.hideable(self.encoders, own, self.masks.whole)
        hidden, hidden_more = self.masks(hideable, clean, generator)  # equation 3, for both ratios
        masked, crossed = self.sequences(self.encoders, embedded, size, hidden, hidden_more)  # equation 1
        return Passes(clean, masked, crossed, own, hidden, hidden_more, tuple(every[1:]))

    def _pooled(self, observed: Tensor, clean: Mapping[str, Tokens], predicted: Mapping[str, Tensor]) -> Tensor:
        """Pooled vectors (B, M, D), equation 7: of a row's own tokens where present, of predicted ones where absent."""
        vectors = []
        for present, (name, (tokens, valid)) in zip(observed.unbind(1), clean.items()):
            seen = torch.where(present[:, None, None], tokens, predicted[name])
            vectors.append(self.pool[name](self._encoder(name), seen, valid))
        return torch.stack(vectors, dim=1)

    def contexts(self, features: Tensor, observed: Tensor) -> Tensor:
        """Contexts (B, D), equation 8, of pooled vectors (B, M, D), never read where absent."""
        return self.mean(features, observed) if self.context is None else self.context(features, observed)

    def _contexts_without(self, features: Tensor, observed: Tensor) -> Tensor | None:
        """For each modality contexts without it (B, M, D), zero where nothing is left; None: they are with it."""
        if self.alignment.with_target:
            return None
        others = ~torch.eye(observed.shape[1], dtype=torch.bool, device=observed.device)
        with torch.no_grad():  # the kernel's weights are constants
            return torch.stack([self.contexts(features, observed & other) for other in others], dim=1)

    def _fused(self, features: Tensor, observed: Tensor) -> Tensor:
        """Equation 13: all pooled vectors (B, M, D), observed or predicted, to one vector (B, M · D)."""
        slots = features
        if self.filled is not None:
            slots = features + torch.where(observed[..., None], 0.0, self.filled)
        valid = torch.ones(slots.shape[:2], dtype=torch.bool, device=slots.device)
        return self.fusion.at(slots + self.slot, valid, valid).view(len(slots), -1)

    def _clean_features(self, batch: Batch) -> Tensor:
        embedded = self.sequences.embed(self.encoders, batch)
        (clean,) = self.sequences(self.encoders, embedded, len(batch), None)
        return self._pooled(batch.presence, clean, self.predictor(clean, _absent(clean, batch.presence)))

    # Training and prediction -----------------------------------------------------------------------------------------

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """Task, both reconstructions and alignment; see `Method.objective`."""
        taught, remaining = self.taught(batch), ()
        if self.patterns > 1:
            drawn = draw_removals(batch.presence, self.patterns, generator)
            remaining = self.taught_patterns(drawn, batch, taught)
        # Equations 1 to 3: tokens of every row, clean and masked, and the predictions from them under each pattern.
        passes, size, terms = self._passes(batch, generator, *remaining), len(batch), {}
        every = list(remaining) or [batch.presence]  # presence (B, M) under each pattern
        predicted, used = self._predictions(passes, every)
        # Equations 4 and 6: reconstructions of hidden tokens, under the first pattern.
        if self.weights["observed"]:
            terms["observed"] = mean_over_rows(self._reconstruction(predicted, passes, passes.hidden)[0])
        if self.weights["cross"]:
            terms["cross"] = self._cross_reconstruction(every[0], predicted, passes)
        # Equations 7 to 12: pooled vectors under all patterns, aligned under the first.
        clean = [passes.clean, *passes.others]
        observed, features = torch.cat(every), self._pooled(torch.cat(every), _stacked(clean), _joined(used))
        if self.weights["cf"]:
            terms["cf"] = self._alignment(features[:size], every[0], generator)
        # Equations 13 and 14: the task's loss under all patterns, and the weighted sum.
        outputs = self.head(self._fused(features, observed))
        weights = {name: self.weights[name] for name in terms}
        learnt = self.taught_terms(outputs, batch, taught)
        return LossTerms({**learnt.terms, **terms}, {**learnt.weights, **weights})

    def _predictions(
        self, passes: Passes, observed: Sequence[Tensor]
    ) -> tuple[Mapping[str, Tensor], Sequence[Mapping[str, Tensor]]]:
        """Predictions from masked tokens, as the losses read them, and those that the fusion reads under each pattern.

        Equation 2, in one call of the predictor for all sequences.
        """
        clean = [passes.clean, *passes.others]
        absent = [_absent(sequences, presence) for sequences, presence in zip(clean, observed)]
        # Only tokens that some loss or the fusion reads are computed in the predictor's last layer.
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
        """Equation 4 (or 6) of each row, and which rows have something hidden."""
        target = {name: z if self.targets == "free" else z.detach() for name, (z, _) in passes.clean.items()}
        return hidden_token_error(predicted, target, passes.own, {name: h.detach() for name, h in hidden.items()})

    def _cross_reconstruction(self, observed: Tensor, predicted: Mapping[str, Tensor], passes: Passes) -> Tensor:
        """Equation 6: hidden tokens of the present modalities, from their other tokens and the predicted modalities."""
        again = {  # the input of equation 5
            name: Tokens(torch.where(present[:, None, None], tokens, predicted[name]), valid)
            for present, (name, (tokens, valid)) in zip(observed.unbind(1), passes.crossed.items())
        }
        rows = ~observed.all(1) if self.clean_prediction else torch.ones_like(observed[:, 0])
        read = {n: _hidden(passes.hidden_more[n], valid) & rows[:, None] for n, (_, valid) in again.items()}
        predicted = self.predictor(again, read)  # equation 5
        value, counted = self._reconstruction(predicted, passes, passes.hidden_more)
        return mean_over_observed(value, counted & rows) if self.clean_prediction else mean_over_rows(value)

    def _alignment(self, features: Tensor, observed: Tensor, generator: torch.Generator) -> Tensor:
        """Equations 9 to 12, averaged over the rows that lack a modality, then over the modalities."""
        context, without = self.contexts(features, observed), self._contexts_without(features, observed)
        # The same tensor twice: pooled tokens where present, predicted ones where absent.
        return self.alignment(features, features, context, observed, generator, contexts_without=without)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Says where the second reconstruction can never have anything to reconstruct; see `Method.prepare`."""
        super().prepare(batches)
        encoders = [self._encoder(name) for name in self.schema.names]
        units = sum(2 if encoder.can_hide and encoder.n_tokens > 1 else 1 for encoder in encoders)
        if self.masks is not None and self.weights["cross"] and units == len(encoders) == 2 and self.clean_prediction:
            warnings.warn(
                "the reconstruction by way of predicted modalities (cross) is zero: a row that lacks one of two "
                "modalities that count as one token each has nothing to hide. Encoders of several tokens have, for a "
                "table 'feature_tokens'.",
                UserWarning,
                stacklevel=2,
            )

    def after_step(self) -> None:
        """Updates the moving average of the predictor (section 2.3.2); see `Method.after_step`."""
        super().after_step()
        if self.masks is not None:
            self.masks.follow(self.predictor)

    def predict(self, batch: Batch) -> Tensor:
        """Probabilities (B, C) or (B, K), or means (B,); see `Method.predict`."""
        outputs = self.head(self._fused(self._clean_features(batch), batch.presence))
        return self.to_predictions(outputs)

    def representations(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Pooled vectors where present, and predicted ones where absent; see `Method.representations`."""
        features, observed = self._clean_features(batch), batch.presence
        return {"pooled": (features, observed), "predicted": (features, ~observed)}

    def monitor(self, batch: Batch) -> dict[str, float]:
        """Diversity and neighbours of the contexts, spread of the predictions; see `Method.monitor`."""
        features, observed = self._clean_features(batch), batch.presence
        context, without = self.contexts(features, observed), self._contexts_without(features, observed)
        numbers = {"context_diversity": context_diversity(context)} if len(batch) > 1 else {}
        # One modality of each row in turn is withheld, and its prediction set beside it.
        place = torch.arange(len(batch), device=observed.device) % observed.sum(1).clamp(min=1)
        withheld = observed & (observed.cumsum(1) - 1 == place[:, None]) & (observed.sum(1, keepdim=True) > 1)
        rest = batch.restrict(dict(zip(batch.modalities, (observed & ~withheld).unbind(1))))
        numbers |= spread_ratios(self._clean_features(rest), features, withheld, batch.modalities)
        return numbers | weight_numbers(self.alignment.weights(context, observed, without))


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
    """Predicted tokens of several patterns, one below the other."""
    return every[0] if len(every) == 1 else {name: torch.cat([one[name] for one in every]) for name in every[0]}


def _hidden(hide: Tensor, like: Tensor) -> Tensor:
    """Hidden tokens as bool, of the length of `like`."""
    return widen(hide if hide.dtype == torch.bool else hide.detach() > 0.5, like.shape[1])
