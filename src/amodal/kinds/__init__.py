"""Kinds of modality and kinds of task: for each an object with everything that depends on the kind.

A schema names kinds by strings; `Modality.traits` and `Task.traits` are their objects. A new kind is one object in the
registry here, and an encoder and a decoder in theirs.
"""

from __future__ import annotations

from amodal.errors import UnknownNameError
from amodal.kinds.modality import Image, ModalityKind, Series, Tabular, Text

__all__ = ["MODALITY_KINDS", "ModalityKind", "modality_kind"]

MODALITY_KINDS: dict[str, ModalityKind] = {"tabular": Tabular(), "series": Series(), "image": Image(), "text": Text()}
"""Kinds of modality by the name that a schema gives them."""


def modality_kind(name: str) -> ModalityKind:
    """A kind of modality by its name.

    Raises:
        UnknownNameError: If there is no such kind.
    """
    if name not in MODALITY_KINDS:
        raise UnknownNameError("kind of modality", name, MODALITY_KINDS)
    return MODALITY_KINDS[name]
