"""MedFuse: the published forward by hand, and every pattern as the sequence of what is present."""

import itertools

import pytest
import torch
from contracts import cases

from amodal.errors import ConfigurationError, UnknownNameError
from amodal.method import Clock
from amodal.methods.medfuse import MedFuse


def build(task="multilabel", modalities="tables", **options):
    schema = cases.make_schema(task, modalities)
    torch.manual_seed(0)
    method = MedFuse(schema, cases.identities(schema), hidden=6, dropout=0.0, **options).eval()
    with torch.no_grad():
        method.modality.normal_()
    return method


def rows(method, observed, seed=1):
    batch = cases.make_batch(method.schema, observed, seed=seed)
    return type(batch)(batch.values, batch.observed, target=torch.randint(0, 2, (len(batch), 2)).float())


def read(method, steps):
    """An LSTM over steps [(B, D), …] by its equations, and the linear head."""
    lstm = method.lstm.lstm
    h = c = torch.zeros(len(steps[0]), lstm.hidden_size)
    for v in steps:
        gates = v @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + h @ lstm.weight_hh_l0.T + lstm.bias_hh_l0
        i, f, g, o = gates.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    return h @ method.head.weight.T + method.head.bias


@torch.no_grad()
def test_the_published_forward():
    """Two modalities, no vectors added: length 2 where both are present, length 1 where the second is absent."""
    schema = cases.Schema(cases.MODALITIES["tables"][:2], cases.TASKS["multilabel"])
    method = MedFuse(schema, cases.identities(schema), dropout=0.0).eval()
    assert not method.modality.any()
    batch = rows(method, torch.tensor([[True, True], [True, False], [True, True]]))
    a, b = batch.values["a"], batch.values["b"]
    expected = read(method, [a, b])
    expected[1] = read(method, [a[1:2]])[0]
    torch.testing.assert_close(method.predict(batch), expected.sigmoid())


def every_pattern_is_its_sequence(method) -> bool:
    places = {name: m for m, name in enumerate(method.schema.names)}
    order = [method.schema.names[m] for m in method.places]
    found = []
    for pattern in cases.patterns(3):
        batch = rows(method, pattern.repeat(3, 1))
        present = [name for name in order if pattern[places[name]]]
        steps = [batch.values[name] + method.modality[places[name]] for name in present]
        found.append(torch.allclose(method.outputs(batch), read(method, steps), atol=1e-5))
    return all(found)


@torch.no_grad()
@pytest.mark.parametrize("order", [None, ("c", "a", "b")])
def test_every_pattern_is_the_sequence_of_what_is_present(order, monkeypatch):
    method = build(order=order)
    assert every_pattern_is_its_sequence(method)
    # Planted: the length is the number of present modalities, but they do not move up, so that (1, 0, 1) reads a zero.
    plain = torch.Tensor.argsort

    def stay(self, *args, **kwargs):
        return torch.arange(3).expand(len(self), 3) if kwargs.get("stable") else plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "argsort", stay)
    assert not every_pattern_is_its_sequence(method)


@torch.no_grad()
def test_every_modality_influences_the_output():
    """In one release the third never does."""
    method = build()
    one, two = (rows(method, torch.ones(4, 3, dtype=torch.bool), seed=seed) for seed in (1, 2))
    for name in method.schema.names:
        mixed = type(one)({**one.values, name: two.values[name]}, one.observed)
        assert not torch.isclose(method.predict(mixed), method.predict(one)).all(1).any()


@torch.no_grad()
def test_permuted_rows():
    method = build()
    batch = rows(method, cases.patterns(3))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(method.predict(batch.take(order)), method.predict(batch)[order])


@torch.no_grad()
def test_the_first_stage_is_every_encoder_alone():
    method = build(pretrain=0.5)
    batch = rows(method, cases.patterns(3))
    method.clock = Clock(step=4, steps=10)
    terms = method.objective(batch, torch.Generator()).terms
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = sum(
        bce(method.own_heads[name](batch.values[name][seen]), batch.target[seen])
        for name, seen in batch.observed.items()
    )
    torch.testing.assert_close(terms["own"], expected)
    method.clock = Clock(step=5, steps=10)
    assert list(method.objective(batch, torch.Generator()).terms) == ["task"]


def test_orders_that_cannot_be():
    for order in itertools.chain([("a", "b")], [("a", "b", "b")]):
        with pytest.raises(ConfigurationError, match="order must name every modality once"):
            build(order=order)
    with pytest.raises(UnknownNameError, match="'hart'"):
        build(order=("a", "b", "hart"))
