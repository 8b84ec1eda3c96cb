"""Building encoders from a schema and plain JSON."""

import json

import pytest
import torch

from amodal.batch import Batch
from amodal.encoders import Encoder, build_encoders, encode_all
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.schema import Modality, Schema, Task

SCHEMA = Schema(
    (
        Modality("labs", "tabular", (4,)),
        Modality("vital-signs", "series", (12, 2)),
        Modality("x-ray", "image", (1, 8, 8)),
        Modality("note", "text", ()),
    ),
    Task("regression"),
)


def test_defaults_fit_every_kind_and_share_one_width():
    encoders = build_encoders(SCHEMA, width=12)
    assert tuple(encoders) == SCHEMA.names
    batch = Batch(
        {
            "labs": torch.randn(3, 4),
            "vital-signs": torch.randn(3, 12, 2),
            "x-ray": torch.randn(3, 1, 8, 8),
            "note": torch.full((3, 5), 97, dtype=torch.uint8),
        },
        {name: torch.tensor([True, False, True]) for name in SCHEMA.names},
    )
    for encoded in encode_all(encoders, batch).values():
        assert encoded.pooled.shape == (3, 12)


def test_choices_are_plain_json_and_their_options_are_honoured():
    choices = json.loads('{"labs": "feature_tokens", "vital-signs": {"name": "lstm", "layers": 3, "dropout": 0.4}}')
    encoders = build_encoders(SCHEMA, choices=choices, dropout=0.2)
    assert type(encoders["labs"]).__name__ == "FeatureTokens"
    assert len(encoders["vital-signs"].layers) == 3
    rates = {
        name: {module.p for module in encoder.modules() if isinstance(module, torch.nn.Dropout)}
        for name, encoder in encoders.items()
    }
    assert rates["labs"] == {0.2}
    assert 0.4 in rates["vital-signs"]
    assert 0.2 not in rates["vital-signs"]


def test_options_without_a_name_are_those_of_the_default():
    encoder = build_encoders(SCHEMA, choices={"note": {"max_words": 7}})["note"]
    assert isinstance(encoder, Encoder)
    assert encoder.n_tokens == 8


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"lab": "mlp"}, UnknownNameError, r"unknown modality 'lab' .*Did you mean 'labs'"),
        ({"labs": "mpl"}, UnknownNameError, r"unknown encoder 'mpl' .*Did you mean 'mlp'"),
        ({"labs": "lstm"}, ConfigurationError, r"encoder 'lstm' cannot take modality 'labs' .*series, got tabular"),
        ({"labs": "lstm"}, ConfigurationError, r"Encoders for tabular: .*mlp"),
        ({"labs": {"name": "mlp", "layer": 2}}, UnknownNameError, r"option of encoder 'mlp' 'layer' .*'layers'"),
        ({"labs": {"name": "mlp", "width": 2}}, UnknownNameError, r"unknown option of encoder 'mlp' 'width'"),
        ({"labs": 3}, ConfigurationError, r"choice of an encoder for modality 'labs'"),
    ],
)
def test_choices_that_do_not_fit_are_refused_by_name(choices, error, message):
    with pytest.raises(error, match=message):
        build_encoders(SCHEMA, choices=choices)


@pytest.mark.parametrize("width", [0, -3, 2.5])
def test_width_must_be_positive(width):
    with pytest.raises(ConfigurationError, match=f"width of the encoders is out of range .*got {width}"):
        build_encoders(SCHEMA, width=width)
