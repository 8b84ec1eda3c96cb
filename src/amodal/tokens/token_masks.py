"""Masks of a batch's tokens: at random, in blocks, or by scores that learn from all modalities."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from amodal.encoders.encoder import Tokens
from amodal.tokens.latent_prediction import LatentPredictor, MovingAverage, TokenScores
from amodal.tokens.masking import (
    block_scores,
    count_hidden,
    hide_tokens,
    random_scores,
    reverse_gradient,
    straight_through,
    widen,
)

__all__ = ["MaskObjective", "MaskStrategy", "TokenMasks"]

MaskStrategy = Literal["random", "block", "cross_modal", "modality"]
MaskObjective = Literal["cooperative", "adversarial", "frozen"]


class TokenMasks(nn.Module):
    """Two nested masks a batch, a smaller and a larger one, for every modality.

    "modality" hides whole modalities at random; the other strategies hide single tokens, and as a whole the modalities
    in `whole`. "cross_modal" scores the tokens of all modalities by a transformer that looks at a moving average of the
    predictor; its scores learn by the gradient that the hidden tokens send back ("cooperative": to make the losses
    small; "adversarial": large) or not at all ("frozen").

    Args:
        predictor: The network whose moving average the scores look at, of width D.
        width: Width D of the tokens.
        strategy: "random", "block", "cross_modal" or "modality".
        objective: What the scores of "cross_modal" learn.
        ratios: Fractions of tokens hidden by the smaller and the larger mask.
        whole: Modalities that count as one token, because their encoder cannot hide single ones.
        on_grid: Modalities whose blocks are rectangles if their tokens make a square.
        decay: Decay of the moving average.
        **network: Arguments of `TokenScores`.

    Source:
        :cite:`choi2025cepa`, section 2.3 and table 3.
    """

    def __init__(
        self,
        predictor: LatentPredictor,
        width: int,
        *,
        strategy: MaskStrategy,
        objective: MaskObjective,
        ratios: tuple[float, float],
        whole: Collection[str] = (),
        on_grid: Collection[str] = (),
        decay: float = 0.996,
        **network: Any,
    ):
        super().__init__()
        self.strategy, self.objective, self.ratios, self.on_grid = strategy, objective, ratios, frozenset(on_grid)
        self.whole = frozenset(predictor.names if strategy == "modality" else whole)
        self.scores = self.average = None
        if strategy == "cross_modal":
            self.scores = TokenScores(width, **network).requires_grad_(objective != "frozen")
            self.average = MovingAverage(predictor, decay)

    @property
    def reads_tokens(self) -> bool:
        """Whether the masks depend on the clean tokens."""
        return self.scores is not None

    def follow(self, predictor: LatentPredictor) -> None:
        """Moves the moving average, if there is one, a step towards the predictor."""
        if self.average is not None:
            self.average.follow(predictor)

    def forward(
        self, own: Mapping[str, Tensor], clean: Mapping[str, Tokens] | None, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The smaller and the larger mask.

        Args:
            own: Which tokens may be hidden, bool, of shape (B, L_m).
            clean: Tokens of all modalities, stand-ins included; needed if `reads_tokens`.
            generator: Source of all draws.

        Returns:
            For each modality what is hidden, of shape (B, L_m): bool, or 0/1 with a gradient to the scores.
        """
        if self.scores is None:
            return self._hide(own, self._drawn(own, generator), generator)
        assert clean is not None
        assert self.average is not None
        seen: Any = self.average({name: Tokens(z.detach(), valid) for name, (z, valid) in clean.items()})
        seen = {name: Tokens(seen[name], valid) for name, (_, valid) in clean.items()}
        scores = self.scores(seen, {name: widen(own[name], valid.shape[1]) for name, (_, valid) in clean.items()})
        scores = {name: s[:, : own[name].shape[1]] for name, s in scores.items()}
        less, more = self._hide(own, scores, generator)
        if self.objective == "frozen":
            return less, more
        if self.objective == "adversarial":
            scores = {name: reverse_gradient(s) for name, s in scores.items()}
        return tuple({n: straight_through(hide[n], scores[n]) for n in own} for hide in (less, more))  # type: ignore

    def _hide(
        self, own: Mapping[str, Tensor], scores: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        ranked = {name: s.detach() + 1e-4 * random_scores(own[name], generator) for name, s in scores.items()}
        less, more = (hide_tokens(ranked, own, ratio, self.whole) for ratio in self.ratios)
        return less, more

    def _drawn(self, own: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        if self.strategy != "block":
            return {name: random_scores(valid, generator) for name, valid in own.items()}
        scores = {}
        for name, valid in own.items():
            side = round(valid.shape[1] ** 0.5)
            square = name in self.on_grid and side * side == valid.shape[1]
            count = count_hidden(valid, self.ratios[1]).clamp(min=1)
            scores[name] = block_scores(valid, count, generator, grid=(side, side) if square else None)
        return scores
