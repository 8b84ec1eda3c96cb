"""An encoder of series without a network: one token a step, with a code of its time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from amodal.encoders.encoder import Encoder, Tokens
from amodal.encoders.squash import soft_clip
from amodal.kinds.statistics import read_cells
from amodal.options import Positive, Share, Size
from amodal.schema import Modality

__all__ = ["SeriesSteps", "time_code"]


def time_code(time: Tensor, *, bands: int = 6, highest: float = 10.0) -> Tensor:
    r"""Sines and cosines of a time from -1 to 1 at several frequencies, and the time itself.

    .. math:: [\sin \pi f_1 t, \dots, \sin \pi f_K t, \cos \pi f_1 t, \dots, \cos \pi f_K t, t], \qquad
        f_k \text{ even from } 1 \text{ to } f_{\max} / 2

    Args:
        time: Of any shape (…).
        bands: Number K of frequencies.
        highest: :math:`f_{\max}`.

    Returns:
        Of shape (…, 2 K + 1).

    Source:
        :cite:`jaegle2021perceiver`, section 3.2.

    Example:
        >>> time_code(torch.tensor([0.5]), bands=1, highest=2.0)  # sin π/2, cos π/2, 1/2
        tensor([[ 1.0000e+00, -4.3711e-08,  5.0000e-01]])
    """
    rates = torch.linspace(1.0, highest / 2, bands, device=time.device, dtype=time.dtype)
    angles = math.pi * time[..., None] * rates
    return torch.cat([angles.sin(), angles.cos(), time[..., None]], dim=-1)


class SeriesSteps(Encoder):
    """One token a step: a linear map of its values, of what was measured, and of a code of its time.

    The time goes from -1 at a row's first step to 1 at its own last one, whatever the other rows of a batch are.

    Args:
        modality: A series modality (T, D).
        width: Width of tokens and of the pooled vector.
        bands: Frequencies of the time's code.
        dropout: Dropout of the tokens.
        clip: Scale of the soft clipping of values, in standard deviations.

    Source:
        The input of the series in :cite:`khader2023lsmt`, whose time runs over the longest row of a batch.
    """

    kinds = ("series",)
    references = ("khader2023lsmt", "jaegle2021perceiver")

    def __init__(self, modality: Modality, *, width: int, bands: Size = 6, dropout: Share = 0.0, clip: Positive = 3.0):
        super().__init__(modality, width=width)
        self.bands, self.clip = bands, clip
        self.linear = nn.Linear(2 * modality.n_features + 2 * bands + 1, width)
        self.drop = nn.Dropout(dropout)

    @property
    def n_tokens(self) -> int:
        """One a step."""
        return self.modality.shape[0]

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """Values (P, T, D) to one token a step."""
        values, readable, inside = read_cells(values, measured, lengths)
        steps = torch.arange(values.shape[1], device=values.device, dtype=values.dtype)
        last = (inside.sum(1, keepdim=True) - 1).clamp(min=1)
        code = time_code((2 * steps / last - 1).clamp(max=1.0), bands=self.bands)  # (P, T, 2 K + 1)
        tokens = self.linear(torch.cat([soft_clip(values, self.clip), readable.to(values.dtype), code], dim=2))
        return Tokens(torch.where(inside[..., None], self.drop(tokens), 0.0), inside)

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The tokens as they are."""
        return tokens
