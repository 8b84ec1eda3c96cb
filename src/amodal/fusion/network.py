"""Fusion network: features of the modalities to outputs, by a fusion and a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.fusion.fusion import Fusion

__all__ = ["AdditiveHead", "FusionNetwork", "Head"]


class Head(nn.Module):
    """One hidden layer, or a linear map, from a vector to the outputs.

    Args:
        in_width: Width of the vector.
        n_outputs: Number of outputs C.
        hidden: Width of the hidden layer; 0: a linear map.
        dropout: Dropout of the hidden layer.
    """

    def __init__(self, in_width: int, n_outputs: int, *, hidden: int = 128, dropout: float = 0.1):
        super().__init__()
        layers: list[nn.Module] = []
        if hidden:
            layers = [nn.Linear(in_width, hidden), nn.GELU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden or in_width, n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (B, D) to outputs (B, C)."""
        return self.layers(x)


class FusionNetwork(nn.Module):
    """A fusion, and a head that also gets presence.

    Args:
        fusion: Features (B, M, D) and presence (B, M) to a vector.
        n_outputs: Number of outputs C.
        hidden: Width of the head's hidden layer; 0: a linear head.
        dropout: Dropout of the head.

    Example:
        >>> from amodal.fusion import MeanOfPresent
        >>> network = FusionNetwork(MeanOfPresent(n_modalities=2, width=4), n_outputs=3)
        >>> network(torch.randn(5, 2, 4), torch.ones(5, 2, dtype=torch.bool)).shape
        torch.Size([5, 3])
    """

    def __init__(self, fusion: Fusion, n_outputs: int, *, hidden: int = 128, dropout: float = 0.1):
        super().__init__()
        self.fusion = fusion
        self.head = Head(fusion.out_width + fusion.n_modalities, n_outputs, hidden=hidden, dropout=dropout)

    def forward(self, features: Tensor, observed: Tensor) -> Tensor:
        """Features (B, M, D), never read where absent, and presence (B, M) to outputs (B, C)."""
        fused = self.fusion(features, observed)
        return self.head(torch.cat([fused, observed.to(fused.dtype)], dim=1))


class AdditiveHead(nn.Module):
    r"""A linear map of each present modality's feature, added up, with one bias for every pattern of presence.

    .. math:: b + \sum_{m \in O} V_m h_m

    With everything present this is one linear map of all features side by side.

    Args:
        n_modalities: Number of modalities M.
        width: Width D of each one's feature.
        n_outputs: Number of outputs C.

    Example:
        >>> head = AdditiveHead(n_modalities=2, width=4, n_outputs=3)
        >>> head(torch.randn(5, 2, 4), torch.ones(5, 2, dtype=torch.bool)).shape
        torch.Size([5, 3])
    """

    def __init__(self, n_modalities: int, width: int, n_outputs: int):
        super().__init__()
        self.linear = nn.Linear(n_modalities * width, n_outputs)
        self.width = width

    def parts(self, features: Tensor) -> Tensor:
        """What each modality adds: features (B, M, D) to (B, M, C), without the bias."""
        return torch.einsum("bmd,cmd->bmc", features, self.linear.weight.unflatten(1, (-1, self.width)))

    def forward(self, features: Tensor, observed: Tensor) -> Tensor:
        """Features (B, M, D), never read where absent, and presence (B, M) to outputs (B, C)."""
        return self.linear(torch.where(observed[..., None], features, 0.0).flatten(1))
