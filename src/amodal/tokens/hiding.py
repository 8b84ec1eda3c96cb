"""Hiding of tokens: modalities encoded several times in one call, clean and with some tokens hidden."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from amodal.batch import Batch, rows_where
from amodal.encoders.encoder import Encoder, PerModality, Tokens, present_inputs, scatter
from amodal.tokens.latent_prediction import fill_sequence
from amodal.tokens.token_masks import TokenMasks

__all__ = ["Embedded", "HiddenRows", "TokenSequences", "embed_present", "encode_passes", "take_embedded"]


class Embedded(NamedTuple):
    """The rows that have a modality, after the first stage of its encoder.

    Attributes:
        rows: Positions of these rows in the batch, int64, of shape (P,).
        tokens: Of shape (P, L, E), E the encoder's `embed_width`.
        valid: Which tokens are real, bool, of shape (P, L).
        inputs: Values, measured cells and lengths that they were made of.
    """

    rows: Tensor
    tokens: Tensor
    valid: Tensor
    inputs: tuple[Tensor | None, ...]

    def take(self, chosen: Tensor, rows: Tensor) -> Embedded:
        """Those at some places (k,), as the rows (k,) of a batch."""
        inputs = tuple(None if part is None else part[chosen] for part in self.inputs)
        return Embedded(rows, self.tokens[chosen], self.valid[chosen], inputs)  # type: ignore[arg-type]


def take_embedded(
    embedded: Mapping[str, Embedded | None], rows: Tensor, observed: Tensor, size: int
) -> dict[str, Embedded | None]:
    """What is left of each modality of some rows of a batch.

    Args:
        embedded: Of a batch.
        rows: Places of the rows in it, (n,).
        observed: What is left of them, bool, of shape (n, M).
        size: Number of rows of the batch.

    Returns:
        Of each modality those of the rows that it is left of, by their places among the n.
    """
    place = torch.full((size,), -1, device=rows.device).index_copy(0, rows, torch.arange(len(rows), device=rows.device))
    left = torch.zeros_like(observed[:1]).expand(size, -1).index_copy(0, rows, observed)  # (B, M)
    parts = [(name, part, column) for (name, part), column in zip(embedded.items(), left.unbind(1)) if part is not None]
    found = dict.fromkeys(embedded)
    if parts:
        chosen = rows_where(*(column[part.rows] for _, part, column in parts))
        found |= {name: part.take(at, place[part.rows[at]]) for (name, part, _), at in zip(parts, chosen)}
    return found


class HiddenRows(NamedTuple):
    """Rows of a batch under one pattern of presence, and which of their tokens two masks hide.

    Attributes:
        rows: Their places in the batch, int64, of shape (n,).
        observed: Presence, bool, of shape (n, M).
        embedded: What a pass with hidden tokens begins with.
        clean: Tokens (n, L, D) of every modality, stand-ins where it is absent.
        own: Which tokens are the row's own, bool (n, L_m): neither stand-ins nor padding.
        less: Tokens that the smaller mask hides, (n, L_m), bool or 0/1 with a gradient.
        more: Those that the larger one hides.
    """

    rows: Tensor
    observed: Tensor
    embedded: Mapping[str, Embedded | None]
    clean: dict[str, Tokens]
    own: dict[str, Tensor]
    less: dict[str, Tensor]
    more: dict[str, Tensor]


def embed_present(encoder: Encoder, batch: Batch, name: str) -> Embedded | None:
    """The first stage of `encode_present`, which the passes of `encode_passes` share.

    Args:
        encoder: The modality's encoder.
        batch: B rows.
        name: The modality.

    Returns:
        Tokens of the rows that have the modality; None if nobody has it, and the encoder is not called.
    """
    rows, inputs = present_inputs(encoder, batch, name)
    if len(rows) == 0:
        return None
    return Embedded(rows, *encoder.embed(*inputs), inputs)


def encode_passes(
    encoder: Encoder, embedded: Embedded, placeholder: Tensor, hides: Sequence[Tensor | None]
) -> list[Tensor]:
    r"""The second stage, once on all passes stacked along the rows, each with its own tokens hidden.

    .. math:: \tilde Z = E\bigl(X \odot (1 - h) + v \odot h\bigr)

    A masked variant of `encode_present`: three passes (clean, and two masks) are one call of the trunk on 3P rows.

    Args:
        encoder: The modality's encoder.
        embedded: Its tokens after the first stage.
        placeholder: What stands in the place of hidden tokens, :math:`v`, of shape (E,).
        hides: For each pass which tokens are hidden, of shape (P, L): bool, or 0/1 with a gradient; None: none are.

    Returns:
        For each pass contextual tokens, of shape (P, L, D). No visible one depends on what a hidden one reads if the
        encoder `can_hide`, or if all of a row are hidden.

    Source:
        :cite:`choi2025cepa`, eq. 1, with 1 = hidden. The placeholder is put between the two stages of the encoder;
        where the first one mixes tokens, it is run again for the masked passes without the inputs of hidden tokens.
    """
    return list(_stacked_passes(encoder, embedded, placeholder, hides).chunk(len(hides)))


def _stacked_passes(
    encoder: Encoder, embedded: Embedded, placeholder: Tensor, hides: Sequence[Tensor | None]
) -> Tensor:
    tokens, inputs = embedded.tokens, []
    blank, others = placeholder.to(tokens.dtype), iter(_without_hidden(encoder, embedded, hides))
    for hide in hides:
        if hide is None:
            inputs.append(tokens)
            continue
        visible = next(others)
        if hide.dtype == torch.bool:
            inputs.append(torch.where(hide[..., None], blank, visible))
        else:  # of a hidden token the clean one counts, by which the gradient of the mask is taken
            clean = torch.where(hide.detach()[..., None] > 0.5, tokens, visible)
            inputs.append(torch.lerp(clean, blank, hide[..., None].to(tokens.dtype)))
    stacked = torch.cat(inputs) if len(inputs) > 1 else inputs[0]
    return encoder.trunk(stacked, embedded.valid.repeat(len(inputs), 1))


def _without_hidden(encoder: Encoder, embedded: Embedded, hides: Sequence[Tensor | None]) -> list[Tensor]:
    """For each mask tokens (P, L, E) of which the visible ones read nothing of hidden ones."""
    masks = [hide if hide.dtype == torch.bool else hide.detach() > 0.5 for hide in hides if hide is not None]
    if not masks or not encoder.can_hide:
        return [embedded.tokens] * len(masks)
    n = len(masks)
    repeated = [None if part is None else part.repeat(n, *(1,) * (part.ndim - 1)) for part in embedded.inputs]
    again = encoder.embed_without(torch.cat(masks), *repeated)  # type: ignore[arg-type]
    return [embedded.tokens] * n if again is None else list(again.chunk(n))


class TokenSequences(nn.Module):
    """Token sequences of all modalities and rows: their own tokens where present, learned stand-ins where absent.

    Args:
        encoders: An encoder for each modality, all of one width D.
        lengths: For each modality the number of stand-in tokens.
        hides: Whether tokens will be hidden; then each modality has a learned placeholder for hidden tokens.
        normalise: Whether tokens are standardised (each over its own coordinates), so that their scale is fixed.
    """

    def __init__(self, encoders: PerModality, lengths: Mapping[str, int], *, hides: bool, normalise: bool = False):
        super().__init__()
        self.lengths = dict(lengths)
        parts = {name: encoder for name, encoder in encoders.items() if isinstance(encoder, Encoder)}
        self.project = PerModality({name: _projection(encoder.width, normalise) for name, encoder in parts.items()})
        self.stand_in = nn.ParameterList(0.02 * torch.randn(encoder.width) for encoder in parts.values())
        self.placeholder = None
        if hides:
            self.placeholder = nn.ParameterList(0.02 * torch.randn(encoder.embed_width) for encoder in parts.values())

    def embed(self, encoders: PerModality, batch: Batch) -> dict[str, Embedded | None]:
        """The first stage of all encoders, which every later pass shares."""
        found = {}
        for name, encoder in encoders.items():
            assert isinstance(encoder, Encoder)
            found[name] = embed_present(encoder, batch, name)
        return found

    def own(self, embedded: Mapping[str, Embedded | None], size: int) -> dict[str, Tensor]:
        """Which tokens are a row's own, bool (B, L_m): neither stand-ins nor padding; B = `size`."""
        return {
            name: torch.zeros(size, self.lengths[name], dtype=torch.bool, device=self.stand_in[m].device)
            if part is None
            else scatter(part.valid, part.rows, size)
            for m, (name, part) in enumerate(embedded.items())
        }

    @property
    def stand_ins(self) -> dict[str, Tensor]:
        """The tokens (U_m, D) that stand for each modality where it is absent."""
        return {name: self.stand_in[m].expand(length, -1) for m, (name, length) in enumerate(self.lengths.items())}

    def hideable(self, encoders: PerModality, own: Mapping[str, Tensor], whole: Collection[str]) -> dict[str, Tensor]:
        """Which of the own tokens may be hidden, bool (B, L_m); all of those of modalities hidden as a `whole`."""
        return {n: valid if n in whole else encoders[n].hideable(valid) for n, valid in own.items()}  # type: ignore

    def forward(
        self,
        encoders: PerModality,
        embedded: Mapping[str, Embedded | None],
        size: int,
        *hides: Mapping[str, Tensor] | None,
    ) -> list[dict[str, Tokens]]:
        """Sequences under each of some masks, one call of each encoder's trunk for all of them.

        Args:
            encoders: The encoders.
            embedded: What `embed` returns.
            size: Number of rows B.
            *hides: For each pass which tokens are hidden, of shape (B, L_m); None: none are.

        Returns:
            For each pass tokens (B, L, D) of every modality.
        """
        n, passes = len(hides), [{} for _ in hides]
        for m, (name, present) in enumerate(embedded.items()):
            part, encoder = None, encoders[name]
            assert isinstance(encoder, Encoder)
            if present is not None:
                blank = present.tokens.new_zeros(()) if self.placeholder is None else self.placeholder[m]
                masks = [None if hide is None else hide[name][present.rows] for hide in hides]
                if len(present.rows):
                    tokens = self.project[name](_stacked_passes(encoder, present, blank, masks))
                else:  # as long as the passes of other rows
                    tokens = present.tokens.new_zeros(0, present.valid.shape[1], encoder.width)
                rows = torch.cat([present.rows + i * size for i in range(n)])
                part = (rows, tokens, present.valid.repeat(n, 1))
            filled = fill_sequence(part, self.stand_in[m], self.lengths[name], n * size)
            for sequences, z, valid in zip(passes, filled.values.chunk(n), filled.valid.chunk(n)):
                sequences[name] = Tokens(z, valid)
        return passes

    def without(self, sequences: Mapping[str, Tokens], observed: Mapping[str, Tensor]) -> dict[str, Tokens]:
        """Sequences that `forward` would return had fewer modalities been present, without another encoding.

        Args:
            sequences: Tokens (B, L, D) of every modality.
            observed: What is left of what was present, for each modality bool, of shape (B,).

        Returns:
            Tokens of the same shape, stand-ins where nothing is left.
        """
        rest = {}
        for m, (name, (tokens, valid)) in enumerate(sequences.items()):
            has = observed[name][:, None]
            stands = torch.arange(valid.shape[1], device=valid.device) < self.lengths[name]  # (L,)
            blank = torch.where(stands[:, None], self.stand_in[m].to(tokens.dtype), 0.0)
            rest[name] = Tokens(torch.where(has[..., None], tokens, blank), torch.where(has, valid, stands))
        return rest

    def hidden_rows(
        self,
        encoders: PerModality,
        masks: TokenMasks | None,
        whole: Mapping[str, Tokens],
        embedded: Mapping[str, Embedded | None],
        observed: Tensor,
        *,
        share: float,
        generator: torch.Generator,
    ) -> HiddenRows:
        """Some rows of a batch, drawn at random, with both masks of them.

        Args:
            encoders: The encoders.
            masks: What draws the masks; None: nothing is hidden.
            whole: Tokens of B rows.
            embedded: What `embed` returns.
            observed: What is left of the rows, bool, of shape (B, M).
            share: Share of the rows; 1: all, in order.
            generator: Source of the rows and of the masks.
        """
        size, rows = len(observed), torch.arange(len(observed), device=observed.device)
        if share < 1:
            rows = torch.randperm(size, generator=generator, device=observed.device)[: math.ceil(share * size)]
            whole = {name: Tokens(z[rows], valid[rows]) for name, (z, valid) in whole.items()}
            observed = observed[rows]
        embedded = take_embedded(embedded, rows, observed, size)
        clean = self.without(whole, dict(zip(whole, observed.unbind(1))))
        own = self.own(embedded, len(rows))
        if masks is None:
            return HiddenRows(rows, observed, embedded, clean, own, own, own)
        both = masks(self.hideable(encoders, own, masks.whole), clean, generator)
        return HiddenRows(rows, observed, embedded, clean, own, *both)


def _projection(width: int, normalise: bool) -> nn.Module:
    linear = nn.Linear(width, width)
    return nn.Sequential(linear, nn.LayerNorm(width, elementwise_affine=False)) if normalise else linear
