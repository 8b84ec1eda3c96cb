"""Fusion: the base class of all fusions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from amodal.options import OptionsChecked

__all__ = ["Fusion"]


class Fusion(OptionsChecked, nn.Module, ABC):
    """Features of the modalities, some absent, to one vector; absent features are never read.

    Args:
        n_modalities: Number of modalities M.
        width: Width D of each one's feature.

    Attributes:
        references: Keys of the bibliography.
    """

    references: ClassVar[tuple[str, ...]] = ()

    def __init__(self, n_modalities: int, width: int):
        super().__init__()
        self.n_modalities = n_modalities
        self.width = width

    @property
    @abstractmethod
    def out_width(self) -> int:
        """Width D' of the fused vector."""

    @abstractmethod
    def forward(self, features: Tensor, observed: Tensor) -> Tensor:
        """Features (B, M, D) and presence (B, M) to (B, D'); finite also for rows with nothing present."""
