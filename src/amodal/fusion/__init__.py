"""Fusion: features of the modalities, some absent, to one vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from amodal.fusion.fusion import Fusion
from amodal.fusion.pooling import Concatenate, GatedFusion, MeanOfPresent
from amodal.fusion.sequence import FusionTransformer, ModalityLSTM
from amodal.options import Choice, resolve_choice

__all__ = [
    "FUSIONS",
    "Concatenate",
    "Fusion",
    "FusionChoice",
    "FusionTransformer",
    "GatedFusion",
    "MeanOfPresent",
    "ModalityLSTM",
    "build_fusion",
]

FUSIONS: dict[str, type[Fusion]] = {
    "concatenate": Concatenate,
    "transformer": FusionTransformer,
    "lstm": ModalityLSTM,
    "mean": MeanOfPresent,
    "gated": GatedFusion,
}

_FUSION = Choice("fusion", FUSIONS, outside=("n_modalities", "width"))
FusionChoice = Annotated[str | Mapping[str, Any], _FUSION]
"""The option of a method that names a fusion."""


def build_fusion(choice: FusionChoice, n_modalities: int, width: int, *, fill: str | None = None) -> Fusion:
    """A fusion by name, with its options.

    Args:
        choice: A name in `FUSIONS`, or {"name": name, option: value, …}, plain JSON; without a name "concatenate".
        n_modalities: Number of modalities M.
        width: Width D of each one's feature.
        fill: Short for the option of that name; None: not given.

    Returns:
        The fusion.

    Raises:
        UnknownNameError: If the fusion, or one of its options, is not known.
        ConfigurationError: If an option has a value that cannot be used.

    Example:
        >>> build_fusion({"name": "concatenate", "fill": "learned"}, n_modalities=3, width=8).out_width
        24
    """
    given: dict[str, Any] = {"name": choice} if isinstance(choice, str) else dict(choice)
    if fill is not None:
        given["fill"] = fill
    fusion, options = resolve_choice(given, _FUSION, default="concatenate")
    return fusion(n_modalities, width, **options)
