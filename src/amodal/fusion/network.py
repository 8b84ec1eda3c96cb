"""From the features of the modalities to the outputs: a fusion and a head, shared by several methods."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from amodal.errors import ConfigurationError, UnknownNameError
from amodal.fusion.fusion import Fusion

__all__ = ["FusionNetwork", "Head", "build_fusion"]


class Head(nn.Module):
    """One hidden layer, or a linear map, from a vector to the outputs.

    Args:
        in_width: Width of the vector.
        n_outputs: Number of outputs C.
        hidden: Width of the hidden layer; 0: a linear map.
        dropout: Dropout of the hidden layer.

    Raises:
        ConfigurationError: If the hidden width is negative.
    """

    def __init__(self, in_width: int, n_outputs: int, *, hidden: int = 128, dropout: float = 0.1):
        super().__init__()
        if hidden < 0:
            raise ConfigurationError("the head's hidden width is out of range", expected="0 or more", got=hidden)
        layers: list[nn.Module] = []
        if hidden:
            layers = [nn.Linear(in_width, hidden), nn.GELU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden or in_width, n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (B, D) to outputs (B, C)."""
        return self.layers(x)


class FusionNetwork(nn.Module):
    """A fusion and a head that is also told which modalities are present.

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


def build_fusion(choice: str | Mapping[str, Any], n_modalities: int, width: int, *, fill: str | None = None) -> Fusion:
    """A fusion by name, with its options.

    Args:
        choice: A name in `amodal.fusion.FUSIONS`, or {"name": name, option: value, …}, plain JSON.
        n_modalities: Number of modalities M.
        width: Width D of each one's feature.
        fill: Short for the option of that name; None: not given.

    Returns:
        The fusion.

    Raises:
        UnknownNameError: If the fusion, or one of its options, is not known.

    Example:
        >>> build_fusion({"name": "concatenate", "fill": "learned"}, n_modalities=3, width=8).out_width
        24
    """
    from amodal.fusion import FUSIONS

    options: dict[str, Any] = {"name": choice} if isinstance(choice, str) else dict(choice)
    name = options.pop("name", "concatenate")
    if name not in FUSIONS:
        raise UnknownNameError("fusion", name, FUSIONS)
    if fill is not None:
        options["fill"] = fill
    known = set(inspect.signature(FUSIONS[name]).parameters) - {"n_modalities", "width"}
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of fusion {name!r}", option, known)
    return FUSIONS[name](n_modalities, width, **options)
