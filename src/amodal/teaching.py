"""A moving average of a network that teaches it: rows with or without a label, seen whole, to predictions of a part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from torch import Tensor

from amodal.batch import Batch
from amodal.losses.masked import mean_over_rows
from amodal.losses.task import task_loss
from amodal.method import LossTerms, Method, inference
from amodal.options import Choice, Count, Share, Weight, resolve_choice
from amodal.patterns import repeat_rows

__all__ = ["TEACHERS", "TaughtMethod", "Teacher", "TeacherChoice"]


class Teacher:
    r"""What a moving average of the network teaches it, in batches in which some rows have no label.

    The weight of what is taught rises to `weight` over the first steps of the training, as :math:`\exp(-5 (1 - t)^2)`
    with t from 0 to 1: steps and not a share of all, so that the number of epochs asked for does not matter to it.

    Args:
        weight: Weight of what is taught, next to the task's loss.
        decay: Share of the average that a step keeps, in the long run.
        ramp: Steps over which the weight rises.

    Attributes:
        teaches: Whether there is a teacher.
        whole: Whether the pupil sees all that the teacher sees, instead of the parts that the task is learnt from.

    Source:
        The average and the ramp are those of :cite:`tarvainen2017mean`.
    """

    teaches = True
    whole = False

    def __init__(self, *, weight: Weight = 1.0, decay: Share = 0.99, ramp: Count = 200):
        self.weight, self.decay, self.ramp = weight, decay, ramp

    def weight_at(self, step: int) -> float:
        """The weight at a step."""
        risen = min(1.0, step / self.ramp) if self.ramp else 1.0
        return self.weight * math.exp(-5.0 * (1.0 - risen) ** 2)


class PseudoLabels(Teacher):
    """The control of `Teacher`: the same average teaches, and nothing is removed from what the pupil sees."""

    whole = True


class NoTeacher(Teacher):
    """Rows without a label teach nothing."""

    teaches = False

    def __init__(self):
        super().__init__(weight=0.0)


TEACHERS: dict[str, type[Teacher]] = {"complete": Teacher, "pseudo_labels": PseudoLabels, "none": NoTeacher}

_TEACHER = Choice("teacher", TEACHERS)
TeacherChoice = Annotated[str | Mapping[str, Any], _TEACHER]
"""The option of a method that names a teacher."""


class TaughtMethod(Method):
    r"""A method whose prediction of a row from a part of its modalities is taught by that from all it has.

    With the prediction :math:`\bar p` of the moving average of the network from everything that a row has, held fixed,
    and the outputs :math:`f_S` of the network from a random part S of it, a batch in which some rows have no label adds

    .. math:: \lambda(t) \frac{1}{B} \sum_i \ell\bigl(f_S(x_i), \bar p(x_i)\bigr)

    to the objective, over the rows with a label and those without; :math:`\ell` is the task's loss, with probabilities
    in the place of a class or label. Where every row has a label nothing is added, and no average is kept.
    """

    average: Tensor

    def set_teacher(self, teacher: TeacherChoice) -> None:
        """Takes a name in `TEACHERS`, or {"name": …, option: …}; called by the constructor."""
        build, options = resolve_choice(teacher, _TEACHER)
        self.teacher: Teacher = build(**options)
        self.uses_unlabelled = self.teacher.teaches
        self.register_memory("average", torch.zeros(()))  # all parameters in one row, while there is something to teach

    def taught(self, batch: Batch) -> Tensor | None:
        """What the average predicts from all that the rows have; None where it teaches nothing."""
        if not self.teacher.teaches or batch.all_labelled:
            return None
        if not len(self.average):
            self.average = self._flat()
        with self._averaged(), inference(self):
            return self.predict(batch).float()

    def taught_patterns(self, remaining: Tensor, batch: Batch, taught: Tensor | None) -> Tensor:
        """Patterns (P, B, M) to compute outputs under: those of the task, and all present for the control."""
        if taught is None or not self.teacher.whole:
            return remaining
        return torch.cat([remaining, batch.presence[None]])

    def taught_terms(self, outputs: Tensor, batch: Batch, taught: Tensor | None) -> LossTerms:
        """The task's loss, and what is taught, of outputs (P · B, C) under `taught_patterns`."""
        if taught is None:
            return LossTerms({"task": self.task_term(outputs, batch)})
        n = len(batch)
        own = pupil = outputs
        if self.teacher.whole and len(outputs) > n:
            own, pupil = outputs[:-n], outputs[-n:]
        target = repeat_rows(taught, len(pupil) // max(1, n))
        loss = mean_over_rows(task_loss(pupil, target, self.schema.task.kind))
        weight = self.teacher.weight_at(self.clock.step)
        return LossTerms({"task": self.task_term(own, batch), "taught": loss}, {"taught": weight})

    def after_step(self) -> None:
        """Moves the average towards the parameters; see `Method.after_step`."""
        super().after_step()
        if len(self.average):
            step = self.clock.step
            decay = min(self.teacher.decay, (1.0 + step) / (10.0 + step))
            self.average.lerp_(self._flat(), 1.0 - decay)

    def adjust(self, rows: Iterable[tuple[Batch, Tensor]]) -> None:
        """Drops the average, which predictions do not need, once training has ended; see `Method.adjust`."""
        super().adjust(rows)
        self.average = self.average[:0].clone()

    def _flat(self) -> Tensor:
        """All parameters in one row."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters()])

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The average in the place of the parameters."""
        parameters = list(self.parameters())
        own = [parameter.data for parameter in parameters]
        parts = self.average.split([parameter.numel() for parameter in parameters])
        try:
            for parameter, part in zip(parameters, parts):
                parameter.data = part.view(parameter.shape)
            yield
        finally:
            for parameter, data in zip(parameters, own):
                parameter.data = data
