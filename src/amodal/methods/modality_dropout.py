"""Modality dropout: joint fusion trained under removal that is redrawn for every batch."""

from __future__ import annotations

from typing import Literal

import torch

from amodal.batch import Batch
from amodal.encoders import PerModality
from amodal.fusion import FusionChoice
from amodal.fusion_method import FusionMethod
from amodal.method import LossTerms
from amodal.options import Count, Share, Size
from amodal.patterns import draw_removals, encode_under
from amodal.schema import Schema
from amodal.teaching import TaughtMethod, TeacherChoice

__all__ = ["ModalityDropout"]


class ModalityDropout(FusionMethod, TaughtMethod):
    """The network of `fusion`, trained under removal of present modalities drawn anew for every row of every batch.

    Of the k modalities that a row has, a number uniform on 0 … k − 1 is removed, and which ones is uniform. Removed
    modalities are not encoded at all. Predictions use everything present.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        fusion: A name in `amodal.fusion.FUSIONS` ("concatenate", "transformer", …), or {"name": …, option: …}.
        fill: Replacement of an absent feature, for fusions with a fill: "zero", "mean" or "learned"; None: the
            fusion's own default.
        hidden: Width of the head's hidden layer; 0: a linear head.
        dropout: Dropout of the head.
        patterns: How many removals of each row a step learns from. The row is encoded once, so that several cost little
            next to its encoders; with few epochs and many patterns they are worth more than a point of accuracy
            (docs/log.md, 2026-11-21 and 2026-11-30).
        teacher: What rows without a label teach, where there are some: a name in `amodal.teaching.TEACHERS`, or
            {"name": …, option: …}. "complete": the prediction from all that a row has, by the moving average of the
            network, teaches the prediction from what remains; "pseudo_labels": it teaches the prediction from the same,
            a control; "none": nothing.

    Source:
        After :cite:`neverova2016moddrop`, section 3.4. Deviations: the paper removes each modality by itself with one
        rate, which may remove all of them; here the number removed is uniform, so that small patterns are met as often
        as large ones, and one modality always stays. It also trains in stages; here training is end to end. The
        teacher's moving average and ramp are those of :cite:`tarvainen2017mean`; there it sees other noise, here more.
    """

    title = "Trained with gaps"
    summary = "joint fusion trained under removal redrawn for every row of every batch"
    references = ("neverova2016moddrop", "tarvainen2017mean")
    meets_all_patterns = True

    def __init__(
        self,
        schema: Schema,
        encoders: PerModality | None = None,
        *,
        fusion: FusionChoice = "concatenate",
        fill: Literal["zero", "mean", "learned"] | None = None,
        hidden: Count = 128,
        dropout: Share = 0.1,
        patterns: Size = 4,
        teacher: TeacherChoice = "complete",
    ):
        super().__init__(schema, encoders, fusion=fusion, fill=fill, hidden=hidden, dropout=dropout)
        self.patterns = patterns
        self.set_teacher(teacher)

    def objective(self, batch: Batch, generator: torch.Generator) -> LossTerms:
        """The task's loss after the removal, over the rows with a label, and what is taught; see `Method.objective`."""
        taught = self.taught(batch)
        remaining = self.taught_patterns(draw_removals(batch.presence, self.patterns, generator), batch, taught)
        outputs = self.network(*encode_under(self.encoders, batch, remaining))  # (P * B, C)
        return self.taught_terms(outputs, batch, taught)
