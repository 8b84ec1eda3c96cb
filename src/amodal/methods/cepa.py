"""CEPA: latent prediction of absent modalities, with adaptive masks and alignment given the context."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from amodal.attention import TransformerTrunk
from amodal.batch import Batch
from amodal.distributions.quasirandom import spread_normal
from amodal.encoders import Encoder, PerModality, Tokens, encoders_for, width_of
from amodal.errors import ConfigurationError
from amodal.fusion import MeanOfPresent
from amodal.losses.characteristic_function.context_alignment import AlignmentChoice, build_alignment
from amodal.losses.masked import mean_over_observed, mean_over_rows
from amodal.losses.token_reconstruction import hidden_token_error
from amodal.method import LossTerms, SamplingMethod
from amodal.metrics.collapse import context_diversity
from amodal.metrics.monitor import spread_ratios, weight_numbers
from amodal.options import Condition, Count, Share, Size, Weight
from amodal.patterns import DistinctPatterns, distinct_patterns, draw_removal, draw_removals
from amodal.schema import Schema
from amodal.teaching import TaughtMethod, TeacherChoice
from amodal.tokens.absent_tokens import AbsentTokens
from amodal.tokens.completions import NOISE, Completer, energy_score, held_fixed, shift_to
from amodal.tokens.hiding import Embedded, HiddenRows, TokenSequences
from amodal.tokens.latent_prediction import FEED_FORWARD, ContextEncoder, LatentPredictor
from amodal.tokens.masking import widen
from amodal.tokens.pooled_tokens import PooledTokens
from amodal.tokens.token_masks import TokenMasks

__all__ = ["CEPA"]

STAND_IN_TOKENS = 16
"""Most tokens that stand for an absent modality, where its encoder can pool any number."""

RECONSTRUCTED = 0.25
"""Share of the rows of a step, drawn at random, whose tokens are masked and reconstructed, each under one mask."""

Ratios = Annotated[
    tuple[float, float], Condition("0 < the first <= the second < 1", lambda ratios: 0 < ratios[0] <= ratios[1] < 1)
]


SCORED = 0.25
"""Share of the rows of a step for which the predictions under completions are scored too."""

CHUNK = 2**22
"""Numbers of completions in work at a time (16 MiB in single precision)."""


class Features(NamedTuple):
    """Pooled vectors of rows under patterns of presence, and what they are made of.

    Attributes:
        values: Own where the pattern has a modality, else predicted, of shape (Q, M, D).
        own: Of the rows' own tokens, of shape (B, M, D), zero where a row lacks the modality.
        predicted: The predicted tokens.
    """

    values: Tensor
    own: Tensor
    predicted: AbsentTokens


class CEPA(SamplingMethod, TaughtMethod):
    r"""Cross-modal embedding prediction and alignment.

    A predictor :math:`g_\phi` over the tokens of all modalities, some of them hidden and learned tokens in the place of
    absent ones, predicts tokens :math:`\hat Z` of *every* modality. It learns (i) to reconstruct hidden tokens of
    present modalities, (ii) to reconstruct them again from its own prediction of the absent ones and fewer tokens of
    the present ones, and (iii) that the pooled predictions of an absent modality are distributed, given the context,
    like the pooled tokens of rows that have it. A transformer over the M pooled vectors, predicted where absent,
    gives the output.

    .. math::
        \mathcal L = \mathcal L_{task} + \alpha \mathcal L_{obs} + \beta \mathcal L_{cross} + \gamma \mathcal L_{CF}

    In addition to the paper, completions of absent modalities can be drawn, by a network of what is present, of the
    predictions, and of noise: two completions of each row, of what the first pattern removes from it, are scored
    against what was removed (`amodal.tokens.completions`). Nothing else learns by that score. A prediction does without
    draws; these are shifted so that their mean is the prediction. And the task is learnt under several patterns of
    presence of each row in a step (`patterns`), for which its modalities are encoded a single time.

    With modalities of a single token whole modalities are hidden, never all of a row. Where nothing can be hidden, or
    all or no rows have a modality, the term concerned is zero. The preset "paper" reads the paper's text literally;
    "one_pattern" differs from the default in `patterns` alone. The method's page lists every ambiguity of the paper.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        observed_weight: Weight of the reconstruction of hidden tokens, :math:`\alpha`.
        cross_weight: Weight of the reconstruction by way of the predicted modalities, :math:`\beta`.
        cf_weight: Weight of the alignment, :math:`\gamma`.
        completion_weight: Weight of the score of completions, which uses what the method itself removes from rows as
            their truth; 0: there is no network for them, and `impact` takes completions from training cases.
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
        clean_prediction: Whether fusion, alignment and the second reconstruction use predictions from clean tokens, as
            at prediction, and a learned vector tells the fusion which of its vectors are predictions. Tokens are then
            masked in a quarter of a step's rows, drawn at random, of which each has one of the two reconstructions.
            False, as printed: predictions are from masked tokens, unmarked, and every row has both reconstructions.
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
    averages_draws = False

    PRESETS: ClassVar = {
        "one_pattern": {"patterns": 1},
        "paper": {
            "patterns": 1,
            "mask_objective": "cooperative",
            "targets": "free",
            "clean_prediction": False,
            "completion_weight": 0.0,
            "alignment": {
                "name": "conditional",
                "bandwidth": 1.0,
                "with_target": True,
                "diagonal": True,
                "form": "products",
                "context": "transformer",
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
        completion_weight: Weight = 0.1,
        patterns: Size = 4,
        masking: Literal["none", "random", "block", "cross_modal", "modality"] = "cross_modal",
        mask_objective: Literal["cooperative", "adversarial", "frozen"] = "adversarial",
        mask_ratios: Ratios = (0.3, 0.6),
        targets: Literal["standardised", "detached", "free"] = "standardised",
        clean_prediction: bool = True,
        alignment: AlignmentChoice = "conditional",
        layers: Count = 1,
        heads: Size | None = None,
        dropout: Share = 0.1,
        teacher: TeacherChoice = "complete",
    ):
        super().__init__(schema)
        self.weights = {"observed": observed_weight, "cross": cross_weight, "cf": cf_weight}
        self.weights["completions"] = completion_weight
        self.draws_mean = "completions" if completion_weight else "nothing"
        self.patterns, self.meets_all_patterns = patterns, patterns > 1
        self.targets, self.clean_prediction = targets, clean_prediction
        self.reconstructed = RECONSTRUCTED if clean_prediction else 1.0  # all rows, where the fusion reads them
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
        self.pool = PooledTokens(schema.names, d)
        self.mean, transformer = MeanOfPresent(n, d), self.alignment.context == "transformer"
        self.context = ContextEncoder(d, **small).requires_grad_(False) if transformer else None
        self.slot = nn.Parameter(0.02 * torch.randn(n, d))
        self.filled = nn.Parameter(0.02 * torch.randn(n, d)) if clean_prediction else None
        self.fusion = TransformerTrunk(d, layers=1, feedforward=FEED_FORWARD, **small)
        self.head = nn.Linear(n * d, schema.task.n_outputs)
        self.completer = Completer(n, d) if completion_weight else None
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

    def _encoded(self, batch: Batch) -> tuple[dict[str, Tokens], dict[str, Embedded | None]]:
        """Tokens of every modality, stand-ins where a row lacks it, and what the masked passes begin with."""
        embedded = self.sequences.embed(self.encoders, batch)
        (whole,) = self.sequences(self.encoders, embedded, len(batch), None)
        return whole, embedded

    def _masked(self, some: HiddenRows, hide: Mapping[str, Tensor]) -> dict[str, Tokens]:
        """Tokens (n, L, D) of every modality with some hidden, equation 1."""
        if self.masks is None:
            return some.clean
        return self.sequences(self.encoders, some.embedded, len(some.rows), hide)[0]

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

    def _features(
        self,
        whole: Mapping[str, Tokens],
        embedded: Mapping[str, Embedded | None],
        observed: Tensor,
        source: Tensor | None = None,
        masked: AbsentTokens | None = None,
    ) -> Features:
        """Pooled vectors of rows under patterns of presence, own or predicted.

        Args:
            whole: Tokens of B rows.
            embedded: Tells which rows have a modality.
            observed: What patterns leave of them, bool, of shape (Q, M).
            source: Which of the B rows each is of, of shape (Q,); None: these.
            masked: Predicted tokens of the first B, where they are from masked tokens.
        """
        size = len(next(iter(whole.values())).values)
        source = torch.arange(size, device=observed.device) if source is None else source
        start = 0 if masked is None else size
        states = self.predictor.absent(whole, self.sequences.stand_ins, observed[start:], source[start:])
        predicted = self.predictor.predicted(states)  # equation 2, from clean tokens
        filled = self.pool.predicted(self.encoders, predicted, len(observed) - start)
        if masked is not None:
            filled = torch.cat([self.pool.predicted(self.encoders, masked, start), filled])
        own = self.pool(self.encoders, whole, embedded)
        values = torch.where(observed[..., None], own.index_select(0, source), filled)
        return Features(values, own, predicted)

    def _clean_features(self, batch: Batch) -> Tensor:
        return self._features(*self._encoded(batch), batch.presence).values

    # Training and prediction -----------------------------------------------------------------------------------------

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """Task, both reconstructions and alignment; see `Method.objective`."""
        taught, terms, masked = self.taught(batch), {}, None
        observed = batch.presence[None]  # (P, B, M), presence under each pattern
        if self.patterns > 1:
            drawn = draw_removals(batch.presence, self.patterns, generator)
            observed = self.taught_patterns(drawn, batch, taught)
        whole, embedded = self._encoded(batch)
        # Equations 1 to 7: hidden tokens of the first pattern reconstructed, pooled vectors under all patterns.
        reconstructs, some = self.weights["observed"] > 0 or self.weights["cross"] > 0, None
        if reconstructs or not self.clean_prediction:
            parts = (self.encoders, self.masks, whole, embedded, observed[0])
            some = self.sequences.hidden_rows(*parts, share=self.reconstructed, generator=generator)  # equation 3
        if some is not None and not self.clean_prediction:
            terms, masked = self._reconstructions_as_printed(some)
        every = distinct_patterns(observed if masked is None else observed[1:])
        if masked is not None:  # the first pattern's are apart
            size, rest = len(batch), every
            own = torch.arange(size, device=observed.device)
            places = torch.cat([own[None], size + rest.places])
            every = DistinctPatterns(torch.cat([observed[0], rest.observed]), torch.cat([own, rest.source]), places)
        first = every.places[0]  # (B,), the rows under the first pattern
        features = self._features(whole, embedded, every.observed, every.source, masked)
        if some is not None and self.clean_prediction:
            terms = self._reconstructions(some, features.predicted, first[some.rows])
        # Equations 8 to 12: alignment under the first pattern.
        if self.weights["cf"]:
            terms["cf"] = self._alignment(features.values.index_select(0, first), observed[0], generator)
        if self.weights["completions"]:
            predicted = features.values.detach()[first]
            parts = (whole, embedded, features.own.detach(), predicted, batch.presence, observed[0])
            terms["completions"] = self._completion_score(*parts, generator)
        # Equations 13 and 14: the task's loss under all patterns, and the weighted sum.
        outputs = self.head(self._fused(features.values, every.observed)).index_select(0, every.places.flatten())
        weights = {name: self.weights[name] for name in terms}
        learnt = self.taught_terms(outputs, batch, taught)
        return LossTerms({**learnt.terms, **terms}, {**learnt.weights, **weights})

    def _reconstructions(self, some: HiddenRows, predicted: AbsentTokens, places: Tensor) -> dict[str, Tensor]:
        """Equations 4 and 6, each of a half of the rows, in one pass.

        A row has either the smaller mask and stand-ins for absent modalities, or the larger mask and their predictions,
        from clean tokens, which only rows that lack something can have.
        """
        crosses = torch.arange(len(some.rows), device=some.rows.device) % 2 == 1
        if not self.weights["observed"]:
            crosses = torch.ones_like(crosses)
        crosses = crosses & ~some.observed.all(1) & (self.weights["cross"] > 0)  # (n,)
        pairs = ((n, less, some.more[n]) for n, less in some.less.items())
        hide = {n: torch.where(crosses[:, None], more, less) for n, less, more in pairs}
        sequences = self._masked(some, hide)
        for m, (name, (tokens, valid)) in enumerate(sequences.items()):
            filled = crosses & ~some.observed[:, m]  # (n,)
            fill = predicted.of_rows(m, places)  # (n, U, D)
            fill = functional.pad(fill, (0, 0, 0, tokens.shape[1] - fill.shape[1]))
            sequences[name] = Tokens(torch.where(filled[:, None, None], fill, tokens), valid)  # equation 5's input
        read = {name: _hidden(hide[name], valid) for name, (_, valid) in sequences.items()}
        value, counted = self._reconstruction(self.predictor(sequences, read), some, hide)  # equations 2 and 5
        terms = {"observed": mean_over_observed(value, ~crosses), "cross": mean_over_observed(value, counted & crosses)}
        return {name: term for name, term in terms.items() if self.weights[name]}

    def _reconstructions_as_printed(self, some: HiddenRows) -> tuple[dict[str, Tensor], AbsentTokens]:
        """Equations 4 and 6 of every row, and the predictions from masked tokens that the fusion reads."""
        terms, masked = {}, self._masked(some, some.less)
        stands = _absent(some.clean, some.observed)
        read = {name: stand | _hidden(some.less[name], stand) for name, stand in stands.items()}
        predicted = self.predictor(masked, read)  # equation 2
        if self.weights["observed"]:
            terms["observed"] = mean_over_rows(self._reconstruction(predicted, some, some.less)[0])
        if self.weights["cross"]:
            again = {  # the input of equation 5
                name: Tokens(torch.where(present[:, None, None], tokens, predicted[name]), valid)
                for present, (name, (tokens, valid)) in zip(
                    some.observed.unbind(1), self._masked(some, some.more).items()
                )
            }
            read = {name: _hidden(some.more[name], valid) for name, (_, valid) in again.items()}
            value, _ = self._reconstruction(self.predictor(again, read), some, some.more)
            terms["cross"] = mean_over_rows(value)
        return terms, AbsentTokens.of_sequences(predicted, some.observed, tuple(self.sequences.lengths.values()))

    def _reconstruction(
        self, predicted: Mapping[str, Tensor], some: HiddenRows, hidden: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Equation 4 (or 6) of each row, and which rows have something hidden."""
        target = {name: z if self.targets == "free" else z.detach() for name, (z, _) in some.clean.items()}
        return hidden_token_error(predicted, target, some.own, {name: h.detach() for name, h in hidden.items()})

    def _alignment(self, features: Tensor, observed: Tensor, generator: torch.Generator) -> Tensor:
        """Equations 9 to 12, averaged over the rows that lack a modality, then over the modalities."""
        context, without = self.contexts(features, observed), self._contexts_without(features, observed)
        # The same tensor twice: pooled tokens where present, predicted ones where absent.
        return self.alignment(features, features, context, observed, generator, contexts_without=without)

    def _completion_score(
        self,
        whole: Mapping[str, Tokens],
        embedded: Mapping[str, Embedded | None],
        own: Tensor,
        predicted: Tensor,
        presence: Tensor,
        left: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Score of two completions of each row from which something is removed, and which still has it as its truth.

        Only the network that draws them learns by it.
        """
        assert self.completer is not None
        if self.patterns == 1:
            left = draw_removal(presence, generator)
            with torch.no_grad():
                predicted = self._features(whole, embedded, left).values
        noise = torch.randn(2, *presence.shape, NOISE, generator=generator, device=left.device).to(own.dtype)
        drawn, counted = self.completer(own, predicted, left, noise), presence & ~left
        score = mean_over_observed(energy_score(drawn, own, counted), counted.any(1))
        # The same of what is predicted with them, for some rows; the fusion does not learn by it.
        rows = torch.randperm(len(left), generator=generator, device=left.device)[: math.ceil(SCORED * len(left))]
        shown, own, drawn, some = left[rows, :, None], own[rows], drawn[:, rows], counted[rows].any(1)
        revealed = torch.where(presence[rows, :, None], own, drawn[0].detach())
        with held_fixed(self.fusion, self.head):
            slots = torch.stack([revealed, *torch.where(shown, own, drawn)]).flatten(0, 1) + self.slot.detach()
            everything = torch.ones(slots.shape[:2], dtype=torch.bool, device=slots.device)
            outputs = self.head(self.fusion.at(slots, everything, everything).view(len(slots), -1))
        kind = self.schema.task.traits
        seen = outputs.float() if kind.one_value else self.to_predictions(outputs)
        seen = seen.view(3, len(rows), 1, -1)
        return score + mean_over_observed(energy_score(seen[1:], seen[0].detach(), some[:, None]), some)

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

    def clip_groups(self, optimiser: str) -> Iterable[Iterable[nn.Parameter]]:
        """What draws completions apart, so that all else is trained as without it; see `Method.clip_groups`."""
        if self.completer is None:
            return super().clip_groups(optimiser)
        own = list(self.completer.parameters())
        inside = {id(parameter) for parameter in own}
        return [[p for p in self.parameters_of(optimiser) if id(p) not in inside], own]

    def after_step(self) -> None:
        """Updates the moving average of the predictor (section 2.3.2); see `Method.after_step`."""
        super().after_step()
        if self.masks is not None:
            self.masks.follow(self.predictor)

    def predict(self, batch: Batch) -> Tensor:
        """Probabilities (B, C) or (B, K), or means (B,), without noise; see `Method.predict`."""
        return self.to_predictions(self.head(self._fused(self._clean_features(batch), batch.presence)))

    def predict_by(self, batch: Batch, *, seed: int, draws: int | None = None) -> Tensor:
        """The prediction, by no draws; see `SamplingMethod`."""
        return self.predict(batch)

    def draw_outputs(
        self, batch: Batch, draws: int, generator: torch.Generator, *, vary: Sequence[str] | None = None
    ) -> Tensor:
        """Outputs (S, B, C) under completions, fused like what is present; see `SamplingMethod.draw_outputs`.

        They are shifted, for each row alike in all draws, so that the mean prediction of `prediction_draws` draws of a
        fixed seed is the prediction.

        Raises:
            ConfigurationError: If no completions were learnt.
        """
        self.schema.check_names(list(vary or ()))
        if self.completer is None:
            raise ConfigurationError(
                "this cepa has learnt no completions",
                expected="completion_weight > 0",
                got=0.0,
                hint="Take completions='training_cases'.",
            )
        observed = batch.presence
        features = self._features(*self._encoded(batch), observed)
        fixed = torch.Generator(batch.device).manual_seed(0)
        shape = (1, observed.shape[1], NOISE)
        many = spread_normal((self.prediction_draws, *shape), fixed, features.own)
        noise = spread_normal((draws, *shape), generator, features.own)
        kept = [m for m, name in enumerate(self.schema.names) if vary is not None and name not in vary]
        noise[:, :, kept] = noise[:1, :, kept]
        varies = (~observed).any(0) & (noise != noise[:1]).any(3).any(1).any(0)
        outputs = self._completed_outputs(features, observed, noise if bool(varies.any()) else noise[:1])
        prediction = self.to_predictions(self.head(self._fused(features.values, observed)))
        shift = shift_to(self._completed_outputs(features, observed, many), prediction, self.schema.task.traits)
        return (outputs + shift).expand(draws, -1, -1)

    def _completed_outputs(self, features: Features, observed: Tensor, noise: Tensor) -> Tensor:
        """Outputs (S, B, C) for the completions of some noise (S, 1, M, K)."""
        assert self.completer is not None
        whole, parts = torch.ones_like(observed), []
        for some in noise.split(max(1, CHUNK // max(1, 8 * features.values.numel()))):
            drawn = self.completer(features.own, features.values, observed, some)
            drawn = torch.where(observed[..., None], features.own, drawn)  # (s, B, M, D)
            fused = self._fused(drawn.flatten(0, 1), whole.repeat(len(some), 1))
            parts.append(self.head(fused).unflatten(0, (len(some), -1)))
        return torch.cat(parts)

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


def _hidden(hide: Tensor, like: Tensor) -> Tensor:
    """Hidden tokens as bool, of the length of `like`."""
    return widen(hide if hide.dtype == torch.bool else hide.detach() > 0.5, like.shape[1])
