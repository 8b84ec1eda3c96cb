"""Joint fusion: one network on the features of the present modalities."""

from __future__ import annotations

from amodal.fusion_method import FusionMethod

__all__ = ["JointFusion"]


class JointFusion(FusionMethod):
    """One network for all patterns, in which present modalities are encoded and fused, and a head predicts.

    It is trained on the rows as they come. Absent features are filled with zeros, with the mean of the present ones,
    or with a learned vector; a transformer leaves them out instead. The head also reads which modalities are present.

    Args:
        schema: The modalities and the task.
        encoders: An encoder for each modality; None: the defaults.
        fusion: A name in `amodal.fusion.FUSIONS` ("concatenate", "transformer", …), or {"name": …, option: …}.
        fill: Replacement of an absent feature, for fusions with a fill: "zero", "mean" or "learned"; None: the
            fusion's own default.
        hidden: Width of the head's hidden layer; 0: a linear head.
        dropout: Dropout of the head.

    Source:
        The concatenation and transformer baselines of :cite:`liang2021multibench`.
    """

    title = "Joint network"
    summary = "one network on the features of the present modalities"
    references = ("liang2021multibench",)
