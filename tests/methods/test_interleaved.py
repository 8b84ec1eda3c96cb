"""Interleaved attention: the published layer by hand, and what absent modalities must not do."""

import math

import pytest
import torch
from contracts import cases
from torch import nn
from torch.nn import functional

from amodal.batch import Batch
from amodal.encoders import PerModality
from amodal.encoders.encoder import Encoder, Tokens
from amodal.methods.interleaved import Interleaved
from amodal.schema import Modality, Schema, Task

D = 8


class AsItIs(Encoder):
    """A series (T, D) as its own tokens."""

    kinds = ("series",)

    def __init__(self, modality):
        super().__init__(modality, width=modality.n_features)

    @property
    def n_tokens(self):
        return self.modality.shape[0]

    def embed(self, values, measured=None, lengths=None):
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))

    def trunk(self, tokens, valid):
        return tokens


def build(names=("text", "ehr"), steps=5, **options) -> Interleaved:
    schema = Schema(tuple(Modality(n, "series", (steps, D)) for n in names), Task("binary", classes=(0, 1)))
    torch.manual_seed(0)
    encoders = PerModality({m.name: AsItIs(m) for m in schema.modalities})
    method = Interleaved(schema, encoders, **{"layers": 2, "heads": 2, "dropout": 0.0} | options).eval()
    with torch.no_grad():
        method.absent.normal_()
    return method


def rows(method, n=4, seed=1) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    values = {m.name: torch.randn(n, *m.shape, generator=draw) for m in method.schema.modalities}
    return Batch(values, {name: torch.ones(n, dtype=torch.bool) for name in values}, target=torch.arange(n) % 2)


def attend(module, query, tokens):
    w, b = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    q, k, v = (x @ m.T + c for x, m, c in zip((query, tokens, tokens), w, b))
    q, k, v = (x.unflatten(2, (2, -1)).transpose(1, 2) for x in (q, k, v))
    mixed = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
    return module.out_proj(mixed.transpose(1, 2).flatten(2))


@torch.no_grad()
def test_the_published_forward():
    """Two streams on one grid: each attends to itself, then to the other at once, feeds forward; last point."""
    method = build()
    batch = rows(method)
    a, b = (math.sqrt(D) * batch.values[n] + method.positions for n in method.schema.names)
    for layer in method.layers:
        norms = [[part[n] for n in method.schema.names] for part in layer.norms]
        itself = [layer.itself[n] for n in method.schema.names]
        a, b = (x + attend(m, n(x), n(x)) for x, m, n in zip((a, b), itself, norms[0]))
        read = [n(x) for x, n in zip((a, b), norms[1])]
        a, b = (
            a + attend(layer.others["text"]["ehr"], read[0], read[1]),
            b + attend(layer.others["ehr"]["text"], read[1], read[0]),
        )
        fed = [layer.feed[n] for n in method.schema.names]
        a, b = (x + f[3](functional.relu(f[0](n(x)))) for x, f, n in zip((a, b), fed, norms[2]))
    joint = torch.cat([method.norms["text"](a)[:, -1], method.norms["ehr"](b)[:, -1]], dim=1)
    expected = method.head(method.outer(functional.relu(method.inner(joint))) + joint)
    torch.testing.assert_close(method.outputs(batch), expected)


def an_absent_stream_says_nothing(method) -> bool:
    """A present stream beside an absent one is as it would be alone."""
    batch = rows(method)
    alone = batch.restrict({"text": torch.zeros(4, dtype=torch.bool)})
    without = build(names=("ehr",))
    own = without.state_dict()
    without.load_state_dict(
        own | {k: v for k, v in method.state_dict().items() if k in own and v.shape == own[k].shape}
    )
    expected = without.streams(Batch({"ehr": batch.values["ehr"]}, {"ehr": batch.observed["ehr"]}))["ehr"].values
    return torch.allclose(method.streams(alone)["ehr"].values, expected, atol=1e-5)


@torch.no_grad()
def test_absent_streams_are_not_attended_to(monkeypatch):
    method = build()
    assert an_absent_stream_says_nothing(method)
    # Planted: keys of absent modalities are not masked, as in the release, which attends to a dummy's padding.
    plain = nn.MultiheadAttention.forward

    def unmasked(self, *args, key_padding_mask=None, **kwargs):
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(nn.MultiheadAttention, "forward", unmasked)
    monkeypatch.setattr("amodal.methods.interleaved._Layer._from_others", _unguarded)
    assert not an_absent_stream_says_nothing(method)


def _unguarded(self, name, read, streams):
    parts = [attend(attention, read[name], read[other]) for other, attention in self.others[name].items()]
    return torch.stack(parts).mean(0) if parts else torch.zeros_like(read[name])


@torch.no_grad()
def test_an_absent_modality_is_read_as_a_learned_vector():
    method = build()
    batch = rows(method).restrict({"text": torch.zeros(4, dtype=torch.bool)})
    ehr = method.streams(batch)["ehr"].values[:, -1]
    joint = torch.cat([method.absent[0].expand(4, -1), ehr], dim=1)
    expected = method.head(method.outer(functional.relu(method.inner(joint))) + joint)
    torch.testing.assert_close(method.outputs(batch), expected)


@torch.no_grad()
@pytest.mark.parametrize("order", [("b", "c", "a"), ("c", "b", "a")])
def test_renamed_modalities(order):
    """Another order with all parameters moved along leaves the outputs alone."""
    one, two = build(names=("a", "b", "c")), build(names=order)
    places = [one.schema.names.index(name) for name in order]
    columns = torch.arange(3 * D).view(3, D)[places].flatten()
    state = dict(one.state_dict())
    state["absent"] = state["absent"][places]
    state["head.weight"] = state["head.weight"][:, columns]
    for part in ("inner", "outer"):
        state[f"{part}.weight"] = state[f"{part}.weight"][columns][:, columns]
        state[f"{part}.bias"] = state[f"{part}.bias"][columns]
    two.load_state_dict(state)
    batch = rows(one)
    for m in range(3):
        observed = batch.observed | {one.schema.names[m]: torch.tensor([True, False, True, False])}
        batch = Batch(batch.values, observed)
    torch.testing.assert_close(two.predict(batch), one.predict(batch))


def test_raw_times_reach_the_grid():
    """By the preferred encoder of series, `utde`; the same observations in another order are the same case."""
    from amodal.encoders import build_encoders

    schema = Schema(
        (Modality("ehr", "series", (5, 2), clock=(0.0, 10.0)), Modality("labs", "tabular", (3,))),
        Task("binary", classes=(0, 1)),
    )
    torch.manual_seed(0)
    choices = {"ehr": Interleaved.preferred_encoders["series"] | {"grid": 4}}
    method = Interleaved(schema, build_encoders(schema, width=D, choices=choices), dropout=0.0).eval()
    batch = cases.make_batch(schema, torch.ones(6, 2, dtype=torch.bool))
    times = {"ehr": 10 * torch.rand(6, 5, generator=torch.Generator().manual_seed(3))}
    full = Batch(batch.values, batch.observed, {}, {}, times=times)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = Batch(
        {**batch.values, "ehr": batch.values["ehr"][:, order]}, batch.observed, times={"ehr": times["ehr"][:, order]}
    )
    torch.testing.assert_close(method.predict(moved), method.predict(full))
    other = Batch(batch.values, batch.observed, times={"ehr": times["ehr"].flip(1)})
    assert not torch.allclose(method.predict(other), method.predict(full))
