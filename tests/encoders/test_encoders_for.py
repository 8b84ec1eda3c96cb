"""What a method does with the encoders it is given."""

import pytest
import torch
from contracts import cases

from amodal.encoders import PerModality, encode_pooled, encoders_for, width_of
from amodal.errors import ConfigurationError, UnknownNameError


@pytest.fixture
def schema():
    return cases.make_schema(modalities="tables")


def test_none_means_the_defaults(schema):
    encoders = encoders_for(schema, None)
    assert list(encoders) == ["a", "b", "c"]
    assert width_of(encoders) == 64


def test_given_encoders_come_in_the_schemas_order_uncopied(schema):
    given = cases.make_encoders(schema)
    ordered = encoders_for(schema, PerModality({name: given[name] for name in ("c", "a", "b")}))
    assert list(ordered) == ["a", "b", "c"]
    assert all(ordered[name] is given[name] for name in ordered)


def test_encoders_that_do_not_fit_are_errors(schema):
    given = cases.make_encoders(schema)
    with pytest.raises(UnknownNameError, match="unknown encoder for modality 'c' .expected one of a, b"):
        encoders_for(schema, PerModality({name: given[name] for name in ("a", "b")}))
    with pytest.raises(UnknownNameError, match="unknown modality 'd'"):
        encoders_for(schema, PerModality({**dict(given.items()), "d": given["a"]}))
    wider = cases.make_encoders(schema, width=16)
    with pytest.raises(ConfigurationError, match=r"different widths.*'a': 8, 'b': 16"):
        encoders_for(schema, PerModality({"a": given["a"], "b": wider["b"], "c": wider["c"]}))


def test_pooled_vectors_and_presence_stand_in_the_encoders_order(schema):
    encoders = cases.identities(schema)
    batch = cases.make_batch(schema, cases.mixed_presence(schema), seed=1)
    backwards = PerModality({name: encoders[name] for name in ("c", "b", "a")})
    features, observed = encode_pooled(backwards, batch)
    assert torch.equal(observed, batch.presence.flip(1))
    for m, name in enumerate(("c", "b", "a")):
        assert torch.equal(features[:, m], batch.values[name])


def test_an_encoder_without_parameters_may_meet_a_batch_without_its_modality(schema):
    batch = cases.make_batch(schema, torch.tensor([[False, True, False]] * 2))
    features, observed = encode_pooled(cases.identities(schema), batch)
    assert not features[:, 0].any()
    assert observed.tolist() == [[False, True, False]] * 2
