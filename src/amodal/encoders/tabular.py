"""Encoders of tabular modalities: one token a feature, a plain multilayer perceptron, and a linear map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.attention import TransformerTrunk
from amodal.encoders.encoder import Encoder, Tokens
from amodal.encoders.squash import SOFT_STEP_CUTS, soft_clip, soft_steps
from amodal.options import Count, Positive, Share, Size
from amodal.schema import Modality

__all__ = ["FeatureTokens", "LinearEmbedding", "TabularMLP"]


class FeatureTokens(Encoder):
    r"""One token a feature, then a small transformer.

    A measured feature j with (softly clipped) value x becomes the token :math:`W_j s(x) + b_j`, with s the value beside
    soft steps of it; a feature that was not measured becomes its own learned token :math:`u_j`, so that "not measured"
    is never mistaken for the mean.

    Args:
        modality: A tabular modality (D,).
        width: Width of tokens and of the pooled vector.
        layers: Layers of the transformer.
        heads: Attention heads; None: chosen from the width.
        dropout: Dropout of the transformer.
        clip: Scale of the soft clipping of values, in standard deviations.
        steps: Whether the values stand beside soft steps of themselves (see `soft_steps`); else :math:`s(x) = x`.

    Source:
        :cite:`gorishniy2021revisiting`, section 3.3. Deviations: the pooled vector is the mean of the feature tokens
        instead of a class token, and unmeasured features, which the paper does not treat, have tokens of their own.
        The steps are a smooth form of the encoding of :cite:`gorishniy2022embeddings`.
    """

    kinds = ("tabular",)
    references = ("gorishniy2021revisiting", "gorishniy2022embeddings", "vaswani2017attention")
    can_hide = True

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        layers: Count = 1,
        heads: Size | None = None,
        dropout: Share = 0.1,
        clip: Positive = 3.0,
        steps: bool = True,
    ):
        super().__init__(modality, width=width)
        n = modality.n_features
        bound = width**-0.5
        self.clip = clip
        self.steps = steps
        expansion = 1 + len(SOFT_STEP_CUTS) if steps else 1
        self.weight = nn.Parameter(torch.empty(n, expansion, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n, width).uniform_(-bound, bound))
        self.unmeasured = nn.Parameter(torch.empty(n, width).uniform_(-bound, bound))
        self.transformer = TransformerTrunk(width, layers=layers, heads=heads, dropout=dropout)

    @property
    def n_tokens(self) -> int:
        """One token a feature."""
        return self.modality.n_features

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """Values (P, D) to one token a feature."""
        if measured is None:
            measured = torch.ones_like(values, dtype=torch.bool)
        values = soft_clip(torch.where(measured, values, 0.0), self.clip)[..., None]  # (P, D, 1)
        if self.steps:
            values = soft_steps(values)
        tokens = torch.einsum("pdk,dkw->pdw", values, self.weight) + self.bias  # (P, D, width)
        tokens = torch.where(measured[..., None], tokens, self.unmeasured)
        return Tokens(tokens, torch.ones_like(measured))

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The transformer over features."""
        return self.transformer(tokens, valid)


class TabularMLP(Encoder):
    """A residual multilayer perceptron on the values and on indicators of what was not measured: one token.

    Args:
        modality: A tabular modality (D,).
        width: Width of the token and of the pooled vector.
        layers: Residual blocks after the input layer.
        dropout: Dropout in each block.
        clip: Scale of the soft clipping of values, in standard deviations.
        steps: Whether the values stand beside soft steps of themselves; see `soft_steps`.

    Source:
        The ResNet of :cite:`gorishniy2021revisiting`, section 3.2, with LayerNorm in place of BatchNorm, so that rows
        do not influence one another in training.
    """

    kinds = ("tabular",)
    references = ("gorishniy2021revisiting", "gorishniy2022embeddings")

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        layers: Count = 1,
        dropout: Share = 0.1,
        clip: Positive = 3.0,
        steps: bool = True,
    ):
        super().__init__(modality, width=width)
        self.clip = clip
        self.steps = steps
        self.input = nn.Linear((2 + len(SOFT_STEP_CUTS) * steps) * modality.n_features, width)
        self.blocks = nn.ModuleList(ResidualBlock(width, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    @property
    def n_tokens(self) -> int:
        """One."""
        return 1

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """Values (P, D) to one token."""
        if measured is None:
            measured = torch.ones_like(values, dtype=torch.bool)
        values = soft_clip(torch.where(measured, values, 0.0), self.clip)
        values = soft_steps(values) if self.steps else values
        token = self.input(torch.cat([values, (~measured).to(values.dtype)], dim=1))  # (P, width)
        return Tokens(token[:, None], torch.ones(len(values), 1, dtype=torch.bool, device=values.device))

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The residual blocks."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class LinearEmbedding(Encoder):
    """A linear map of the values and of indicators of what was not measured: one token.

    Args:
        modality: A tabular modality (D,).
        width: Width of the token and of the pooled vector.
        dropout: Dropout of the token.
        clip: Scale of the soft clipping of values, in standard deviations; None: the map is affine in the values.

    Source:
        The embedding of the sensors in :cite:`choi2025cepa`, appendix C.4 (with `clip=None`, where all is measured).
    """

    kinds = ("tabular",)
    references = ("choi2025cepa",)

    def __init__(self, modality: Modality, *, width: int, dropout: Share = 0.0, clip: Positive | None = 3.0):
        super().__init__(modality, width=width)
        self.clip = clip
        self.linear = nn.Linear(2 * modality.n_features, width)
        self.drop = nn.Dropout(dropout)

    @property
    def n_tokens(self) -> int:
        """One."""
        return 1

    def embed(self, values: Tensor, measured: Tensor | None = None, lengths: Tensor | None = None) -> Tokens:
        """Values (P, D) to one token."""
        if measured is None:
            measured = torch.ones_like(values, dtype=torch.bool)
        values = torch.where(measured, values, 0.0)
        values = values if self.clip is None else soft_clip(values, self.clip)
        token = self.drop(self.linear(torch.cat([values, (~measured).to(values.dtype)], dim=1)))  # (P, width)
        return Tokens(token[:, None], torch.ones(len(values), 1, dtype=torch.bool, device=values.device))

    def trunk(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The token as it is."""
        return tokens


class ResidualBlock(nn.Module):
    """x + Linear(dropout(GELU(Linear(LayerNorm(x))))) with a hidden layer of twice the width."""

    def __init__(self, width: int, *, dropout: Share):
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape (…, width)."""
        return x + self.body(x)
