"""Encoding one modality several times in one call: clean, and with some of its tokens hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.encoders.encoder import Encoder

__all__ = ["Embedded", "embed_present", "encode_passes"]


class Embedded(NamedTuple):
    """The rows that have a modality, after the first stage of its encoder.

    Attributes:
        rows: Positions of these rows in the batch, int64, of shape (P,).
        tokens: Of shape (P, L, E), E the encoder's `embed_width`.
        valid: Which tokens are real, bool, of shape (P, L).
    """

    rows: Tensor
    tokens: Tensor
    valid: Tensor


def embed_present(encoder: Encoder, batch: Batch, name: str) -> Embedded | None:
    """The first stage of `encode_present`, which the passes of `encode_passes` share.

    Args:
        encoder: The modality's encoder.
        batch: B rows.
        name: The modality.

    Returns:
        Tokens of the rows that have the modality; None if nobody has it, and the encoder is not called.
    """
    rows, values, measured, lengths = batch.present(name)
    if len(rows) == 0:
        return None
    return Embedded(rows, *encoder.embed(values, measured, lengths))


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
        For each pass contextual tokens, of shape (P, L, D).

    Source:
        :cite:`choi2025cepa`, eq. 1, with 1 = hidden; the placeholder is put between the two stages of the encoder.
    """
    tokens, inputs = embedded.tokens, []
    for hide in hides:
        if hide is None:
            inputs.append(tokens)
        elif hide.dtype == torch.bool:
            inputs.append(torch.where(hide[..., None], placeholder.to(tokens.dtype), tokens))
        else:
            h = hide[..., None].to(tokens.dtype)
            inputs.append(tokens * (1 - h) + placeholder.to(tokens.dtype) * h)
    stacked = torch.cat(inputs) if len(inputs) > 1 else inputs[0]
    return list(encoder.trunk(stacked, embedded.valid.repeat(len(inputs), 1)).chunk(len(inputs)))
