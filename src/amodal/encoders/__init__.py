"""Encoders: one modality to tokens and a pooled vector.

An encoder is chosen by name for each modality; without a choice the kind decides. They are run on the rows that have
the modality, and only on them (`encode_present`). Sets of images, texts or tables take any encoder of their members.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amodal.encoders.encoder import (
    Encoded,
    Encoder,
    PerModality,
    Tokens,
    check_encoders,
    encode_all,
    encode_pooled,
    encode_present,
    scatter,
    width_of,
)
from amodal.encoders.image import ConvNet, LeNet
from amodal.encoders.irregular import UTDE
from amodal.encoders.patches import PatchNet
from amodal.encoders.plain_recurrent import FlattenedGRU, PlainLSTM
from amodal.encoders.pretrained import PretrainedText, portable_choices
from amodal.encoders.pretrained_vision import PretrainedResNet, PretrainedVision
from amodal.encoders.series import GRUEncoder, LSTMEncoder, SeriesTransformer
from amodal.encoders.sets import SetEncoder, member_of
from amodal.encoders.steps import SeriesSteps
from amodal.encoders.summary import SeriesSummary
from amodal.encoders.tabular import FeatureTokens, LinearEmbedding, TabularMLP
from amodal.encoders.text import HashingTransformer
from amodal.errors import ConfigurationError
from amodal.options import Choice, Share, Size, check_options, resolve_choice
from amodal.schema import Modality, Schema

__all__ = [
    "ENCODERS",
    "Encoded",
    "Encoder",
    "PerModality",
    "Tokens",
    "build_encoders",
    "encode_all",
    "encode_pooled",
    "encode_present",
    "encoders_for",
    "portable_choices",
    "scatter",
    "width_of",
]

ENCODERS: dict[str, type[Encoder]] = {
    "feature_tokens": FeatureTokens,
    "mlp": TabularMLP,
    "linear": LinearEmbedding,
    "lstm": LSTMEncoder,
    "gru": GRUEncoder,
    "series_transformer": SeriesTransformer,
    "summary": SeriesSummary,
    "steps": SeriesSteps,
    "utde": UTDE,
    "plain_lstm": PlainLSTM,
    "flattened_gru": FlattenedGRU,
    "convnet": ConvNet,
    "patches": PatchNet,
    "lenet": LeNet,
    "resnet": PretrainedResNet,
    "pretrained_vision": PretrainedVision,
    "hashing": HashingTransformer,
    "pretrained_text": PretrainedText,
}

_ENCODER = Choice("encoder", ENCODERS, outside=("modality", "width"))


def build_encoders(
    schema: Schema,
    *,
    width: Size = 64,
    choices: Mapping[str, str | Mapping[str, Any]] | None = None,
    dropout: Share | None = None,
) -> PerModality:
    """One encoder for each modality of a schema.

    Args:
        schema: The modalities.
        width: Width of all tokens and pooled vectors.
        choices: For some modalities, the name of an encoder, or {"name": name, option: value, …}. All values are plain
            JSON, so that a run can be rebuilt from its record. Modalities not named get their kind's default; of a
            modality of sets it is the encoder of one member (`SetEncoder` pools them).
        dropout: Dropout of every encoder that is not given one in `choices`; None: each encoder's own.

    Returns:
        The encoders, in the schema's order.

    Raises:
        UnknownNameError: If a modality or an encoder is not known.
        ConfigurationError: If an encoder does not take the modality's kind, or has no such option.

    Example:
        >>> from amodal.schema import Modality, Schema, Task
        >>> schema = Schema((Modality("labs", "tabular", (5,)), Modality("vitals", "series", (48, 3))),
        ...     Task("regression"))
        >>> encoders = build_encoders(schema, width=32, choices={"vitals": {"name": "lstm", "layers": 2}})
        >>> {name: type(encoder).__name__ for name, encoder in encoders.items()}
        {'labs': 'TabularMLP', 'vitals': 'LSTMEncoder'}
    """
    choices = dict(choices or {})
    schema.check_names(list(choices))
    width = check_options(build_encoders, {"width": width}, owner="the encoders")["width"]
    encoders: dict[str, Encoder] = {}
    for modality in schema.modalities:
        one = member_of(modality)
        encoder, options = _chosen(one, choices.get(modality.name, modality.traits.encoder), dropout)
        encoders[modality.name] = encoder(one, width=width, **options)
        if one is not modality:
            encoders[modality.name] = SetEncoder(modality, encoders[modality.name])
    return PerModality(encoders)


def encoders_for(schema: Schema, encoders: PerModality | None) -> PerModality:
    """The encoders a method was given, checked and in the schema's order; those of `build_encoders` if none were.

    Args:
        schema: The modalities.
        encoders: An encoder for each modality, in any order, or None.

    Returns:
        The same encoders, in the schema's order.

    Raises:
        UnknownNameError: If a modality has no encoder, or an encoder no modality.
        ConfigurationError: If the encoders' widths differ.
    """
    if encoders is None:
        return build_encoders(schema)
    ordered = {str(name): encoder for name, encoder in encoders.items() if isinstance(encoder, Encoder)}
    check_encoders(schema, ordered)
    widths = {name: encoder.width for name, encoder in ordered.items()}
    if len(set(widths.values())) > 1:
        raise ConfigurationError("the encoders have different widths", expected="one width", got=widths)
    return PerModality({name: ordered[name] for name in schema.names})


def _chosen(modality: Modality, choice: Any, dropout: float | None) -> tuple[type[Encoder], dict[str, Any]]:
    """The encoder of a modality and all its options."""
    if not isinstance(choice, str | Mapping):
        raise ConfigurationError(
            f"the choice of an encoder for modality {modality.name!r} cannot be read",
            expected="a name, or {'name': name, option: value, …}",
            got=repr(choice),
        )
    options: dict[str, Any] = {"name": choice} if isinstance(choice, str) else dict(choice)
    encoder, checked = resolve_choice(options, _ENCODER, default=modality.traits.encoder)
    if modality.kind not in encoder.kinds:
        fitting = (other for other, taker in ENCODERS.items() if modality.kind in taker.kinds)
        raise ConfigurationError(
            f"encoder {options['name']!r} cannot take modality {modality.name!r}",
            expected=f"a modality of kind {' or '.join(encoder.kinds)}",
            got=modality.kind,
            hint=f"Encoders for {modality.kind}: {', '.join(fitting)}.",
        )
    if dropout is not None and "dropout" in checked and "dropout" not in options:
        checked["dropout"] = dropout
    return encoder, checked
