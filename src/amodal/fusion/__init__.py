"""Fusion: features of the modalities, some absent, to one vector."""

from __future__ import annotations

from amodal.fusion.fusion import Fusion
from amodal.fusion.pooling import Concatenate, GatedFusion, MeanOfPresent
from amodal.fusion.sequence import FusionTransformer, ModalityLSTM

__all__ = ["FUSIONS", "Concatenate", "Fusion", "FusionTransformer", "GatedFusion", "MeanOfPresent", "ModalityLSTM"]

FUSIONS: dict[str, type[Fusion]] = {
    "concatenate": Concatenate,
    "transformer": FusionTransformer,
    "lstm": ModalityLSTM,
    "mean": MeanOfPresent,
    "gated": GatedFusion,
}
