"""Recurrent encoders as published with two benchmarks: values only, without summary statistics."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from amodal.encoders.encoder import Encoded, Encoder, Tokens
from amodal.encoders.series import RecurrentLayer, last_valid
from amodal.kinds.statistics import read_cells
from amodal.options import Share, Size
from amodal.schema import Modality

__all__ = ["FlattenedGRU", "PlainLSTM"]


class PlainLSTM(Encoder):
    """The two-layer LSTM of MedFuse and CM²: one-layer LSTMs in a row, and the last state of the top one.

    Recurrent weights start orthogonal, input weights Xavier-uniform, biases zero. The values go in as they are: the
    published data already hold imputed values and indicators side by side. Rows of unequal lengths end at their own
    last step, as with packing.

    Args:
        modality: A series modality (T, D).
        width: Width of states and of the pooled vector (256 in the papers).
        layers: Number of layers; they are the encoder's stages.
        dropout: Dropout of the pooled vector.

    Source:
        :cite:`hayat2022medfuse`; taken over by :cite:`wu2025cm2`.
    """

    kinds = ("series",)
    references = ("hochreiter1997lstm", "hayat2022medfuse", "wu2025cm2")
    can_hide = True

    def __init__(self, modality: Modality, *, width: int, layers: Size = 2, dropout: Share = 0.3):
        super().__init__(modality, width=width)
        sizes = [modality.n_features] + [width] * layers
        self.layers = nn.ModuleList(
            RecurrentLayer(nn.LSTM(n_in, n_out, batch_first=True)) for n_in, n_out in pairwise(sizes)
        )
        for name, parameter in self.layers.named_parameters():
            if "weight_hh" in name:
                nn.init.orthogonal_(parameter)
            elif "weight_ih" in name:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)
        self.drop = nn.Dropout(dropout)

    @property
    def n_tokens(self) -> int:
        """One a step."""
        return self.modality.shape[0]

    @property
    def embed_width(self) -> int:
        """The number of features."""
        return self.modality.n_features

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """The width, once a layer."""
        return (self.width,) * len(self.layers)

    def run_stage(self, index: int, stage_map: Tensor, valid: Tensor | None) -> Tensor:
        """One layer."""
        return self.layers[index](stage_map)

    def finish(self, stage_map: Tensor, valid: Tensor | None) -> Encoded:
        """States (P, T, width) to tokens and the last state."""
        if valid is None:
            valid = torch.ones(stage_map.shape[:2], dtype=torch.bool, device=stage_map.device)
        tokens = torch.where(valid[..., None], stage_map, 0.0)
        return Encoded(tokens, valid, self.pool(tokens, valid))

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """The values (P, T, D) themselves: one token a step, as wide as there are features."""
        values, _, inside = read_cells(values, measured, lengths)
        return Tokens(values, inside)

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The layers, in order."""
        for layer in self.layers:
            tokens = layer(tokens)
        return torch.where(valid[..., None], tokens, 0.0)

    def pool(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The last state, after dropout."""
        return self.drop(last_valid(tokens, valid))


class FlattenedGRU(Encoder):
    """MultiBench's GRU for MIMIC-III: all its outputs side by side.

    The published encoder hands on the flattened outputs (24 · 30 = 720); here a linear map brings each step's output,
    and another all of them together, to the common width.

    Args:
        modality: A series modality (T, D).
        width: Width of tokens and of the pooled vector.
        hidden: Width of the GRU's state.
        dropout: Dropout of the flattened outputs (none in the publication).

    Source:
        :cite:`liang2021multibench`.
    """

    kinds = ("series",)
    references = ("liang2021multibench", "cho2014gru")
    can_hide = True

    def __init__(self, modality: Modality, *, width: int, hidden: Size = 30, dropout: Share = 0.0):
        super().__init__(modality, width=width)
        self.hidden = hidden
        self.layer = RecurrentLayer(nn.GRU(modality.n_features, hidden, batch_first=True))
        self.token = nn.Linear(hidden, width)
        self.join = nn.Linear(modality.shape[0] * width, width)
        self.drop = nn.Dropout(dropout)

    @property
    def n_tokens(self) -> int:
        """One a step."""
        return self.modality.shape[0]

    @property
    def embed_width(self) -> int:
        """The number of features."""
        return self.modality.n_features

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """The width of the state."""
        return (self.hidden,)

    def run_stage(self, index: int, stage_map: Tensor, valid: Tensor | None) -> Tensor:
        """The GRU."""
        return self.layer(stage_map)

    def finish(self, stage_map: Tensor, valid: Tensor | None) -> Encoded:
        """Outputs (P, T, hidden) to tokens and the pooled vector."""
        if valid is None:
            valid = torch.ones(stage_map.shape[:2], dtype=torch.bool, device=stage_map.device)
        tokens = torch.where(valid[..., None], self.token(stage_map), 0.0)
        return Encoded(tokens, valid, self.pool(tokens, valid))

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """The values (P, T, D) themselves: one token a step, as wide as there are features."""
        values, _, inside = read_cells(values, measured, lengths)
        return Tokens(values, inside)

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The GRU, and its outputs at the common width."""
        return torch.where(valid[..., None], self.token(self.layer(tokens)), 0.0)

    def pool(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """A linear map of all steps side by side; padding counts as zero."""
        short = self.n_tokens - tokens.shape[1]
        flat = nn.functional.pad(torch.where(valid[..., None], tokens, 0.0), (0, 0, 0, short)).flatten(1)
        return self.join(self.drop(flat))
