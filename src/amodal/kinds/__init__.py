"""Kinds of modality and kinds of task: for each an object with everything that depends on the kind.

A schema names kinds by strings; `Modality.traits` and `Task.traits` are their objects. A new kind is one object in the
registry here, and an encoder and a decoder in theirs.
"""

from __future__ import annotations

from amodal.errors import UnknownNameError
from amodal.kinds.classes import Binary, Multiclass
from amodal.kinds.labels import Multilabel
from amodal.kinds.modality import Image, ModalityKind, Series, Tabular, Text
from amodal.kinds.sets import ImageSet, SetKind, TableSet, TextSet
from amodal.kinds.task import TaskKind
from amodal.kinds.value import Regression

__all__ = ["MODALITY_KINDS", "TASK_KINDS", "ModalityKind", "SetKind", "TaskKind", "modality_kind", "task_kind"]

MODALITY_KINDS: dict[str, ModalityKind] = {
    kind.name: kind for kind in (Tabular(), Series(), Image(), Text(), ImageSet(), TextSet(), TableSet())
}
"""Kinds of modality by name."""

TASK_KINDS: dict[str, TaskKind] = {kind.name: kind for kind in (Binary(), Multiclass(), Multilabel(), Regression())}
"""Kinds of task by name."""


def modality_kind(name: str) -> ModalityKind:
    """A kind of modality by its name.

    Raises:
        UnknownNameError: If there is no such kind.
    """
    if name not in MODALITY_KINDS:
        raise UnknownNameError("kind of modality", name, MODALITY_KINDS)
    return MODALITY_KINDS[name]


def task_kind(name: str) -> TaskKind:
    """A kind of task by its name.

    Raises:
        UnknownNameError: If there is no such kind.
    """
    if name not in TASK_KINDS:
        raise UnknownNameError("kind of task", name, TASK_KINDS)
    return TASK_KINDS[name]
