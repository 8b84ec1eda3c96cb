"""LSMT: the published forward by hand, and that nothing absent or padded is attended to."""

import math

import pytest
import torch
from contracts import cases
from torch.nn import functional

from amodal.attention import TransformerTrunk
from amodal.batch import Batch
from amodal.encoders import PerModality, build_encoders
from amodal.encoders.encoder import Encoder, Tokens
from amodal.methods.lsmt import LSMT
from amodal.schema import Modality, Schema, Task

D = 8
BINARY = Task("binary", classes=(0, 1))


class AsItIs(Encoder):
    """A series (T, D) as its own tokens."""

    kinds = ("series",)

    def __init__(self, modality):
        super().__init__(modality, width=modality.n_features)

    @property
    def n_tokens(self):
        return self.modality.shape[0]

    def embed(self, values, measured=None, lengths=None):
        lengths = torch.full((len(values),), values.shape[1]) if lengths is None else lengths
        return Tokens(values, torch.arange(values.shape[1]) < lengths[:, None])

    def trunk(self, tokens, valid):
        return tokens


def build(names=("image", "ehr"), sizes=(3, 6), seed=0, **options) -> LSMT:
    """Two modalities of tokens of which the second is longer than the latents."""
    schema = Schema(tuple(Modality(n, "series", (t, D)) for n, t in zip(names, sizes)), BINARY)
    torch.manual_seed(seed)
    encoders = PerModality({m.name: AsItIs(m) for m in schema.modalities})
    settings = {"latents": 4, "layers": 1, "heads": 2, "dropout": 0.0} | options
    method = LSMT(schema, encoders, **settings).eval()
    with torch.no_grad():
        method.modality.normal_()
    return method


def rows(method, n=4, seed=1, lengths=None) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    values = {m.name: torch.randn(n, *m.shape, generator=draw) for m in method.schema.modalities}
    observed = {name: torch.ones(n, dtype=torch.bool) for name in values}
    return Batch(values, observed, lengths=lengths or {}, target=torch.arange(n) % 2)


def attend(module, query, tokens, heads):
    """Multi-head attention by its equations."""
    w, b = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    q, k, v = (x @ m.T + c for x, m, c in zip((query, tokens, tokens), w, b))
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    mixed = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
    return module.out_proj(mixed.transpose(1, 2).flatten(2))


def read(reader, tokens):
    """Latents through every block: cross-attention with one head, GEGLU, self-attention, GEGLU; pre-norm, residual."""
    x = reader.latents.expand(len(tokens), -1, -1)
    for block in reader.blocks:

        def feed(i, x, block=block):
            value, gate = block.inner[i](x).chunk(2, dim=-1)
            return block.outer[i](value * functional.gelu(gate))

        x = x + attend(block.cross, block.norms[0](x), block.norms[1](tokens), 1)
        x = x + feed(0, block.norms[2](x))
        own = block.norms[3](x)
        x = x + attend(block.itself, own, own, 2)
        x = x + feed(1, block.norms[4](x))
    return x


def code(length):
    angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, D, 2) / D)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


@torch.no_grad()
def test_the_published_forward():
    """[cls; image tokens; latents], each twice itself plus its place; prediction (2 joint + ehr + image) / 4."""
    method = build(positions="running", doubled=True, deep_supervision=True, blocks=2)
    batch = rows(method)
    image = method.maps["image"](batch.values["image"]) + method.modality[0]
    ehr = method.maps["ehr"](read(method.readers["ehr"], batch.values["ehr"])) + method.modality[1]
    x = torch.cat([method.summary_token.expand(4, 1, -1), image, ehr], dim=1)
    x = 2 * x + code(x.shape[1])
    for layer in method.transformer.layers.layers:
        own = layer.norm1(x)
        x = x + attend(layer.self_attn, own, own, 2)
        x = x + layer.linear2(functional.gelu(layer.linear1(layer.norm2(x))))
    joint = method.head(method.transformer.norm(x)[:, 0])
    own = [method.own_heads[n](t.mean(1)) for n, t in (("image", image), ("ehr", ehr))]
    outputs, found_joint, found_own = method.all_outputs(batch)
    torch.testing.assert_close(found_joint, joint)
    torch.testing.assert_close(found_own, torch.stack(own, dim=1))
    torch.testing.assert_close(outputs, (2 * joint + own[0] + own[1]) / 4)
    nats = [functional.cross_entropy(o, batch.target) for o in (joint, *own)]
    torch.testing.assert_close(method.objective(batch, torch.Generator()).total, sum(nats))


def same_as_without_the_modality(method: LSMT, positions: str) -> bool:
    """Whether rows without the first modality are predicted as by a model that never had it."""
    batch = rows(method)
    alone = build(names=("ehr",), sizes=(6,), seed=1, positions=positions)
    state = {k: v for k, v in method.state_dict().items() if k in alone.state_dict() and "modality_image" not in k}
    alone.load_state_dict(state | {"modality": method.modality[1:]})
    expected = alone.predict(Batch({"ehr": batch.values["ehr"]}, {"ehr": batch.observed["ehr"]}))
    return torch.allclose(
        method.predict(batch.restrict({"image": torch.zeros(4, dtype=torch.bool)})), expected, atol=1e-6
    )


@torch.no_grad()
def test_absent_tokens_are_not_attended_to(monkeypatch):
    method = build()
    assert same_as_without_the_modality(method, "modality")
    # Planted: every token is a key, as in the release, which attends to the tokens of a zero image.
    plain = TransformerTrunk.forward
    monkeypatch.setattr(TransformerTrunk, "forward", lambda self, t, valid: plain(self, t, torch.ones_like(valid)))
    assert not same_as_without_the_modality(method, "modality")


@torch.no_grad()
def test_running_positions_count_absent_tokens():
    batch = rows(build(sizes=(3, 3)))
    absent = batch.restrict({"image": torch.zeros(4, dtype=torch.bool)})
    for positions in ("modality", "running"):
        method, alone = build(sizes=(3, 3), positions=positions), build(names=("ehr",), sizes=(3,), positions=positions)
        state = {k: v for k, v in method.state_dict().items() if k in alone.state_dict()}
        alone.load_state_dict(state | {"modality": method.modality[1:]})
        expected = alone.predict(Batch({"ehr": batch.values["ehr"]}, {"ehr": batch.observed["ehr"]}))
        assert torch.allclose(method.predict(absent), expected, atol=1e-6) == (positions == "modality")


@torch.no_grad()
def test_order_of_latents_and_of_tokens():
    """Latents have no places of their own; the tokens that they read are a set."""
    method = build()
    batch = rows(method)
    before = method.predict(batch)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    moved = Batch({**batch.values, "ehr": batch.values["ehr"][:, order]}, batch.observed)
    torch.testing.assert_close(method.predict(moved), before)
    latents = method.readers["ehr"].latents
    latents.copy_(latents[[2, 0, 3, 1]])
    torch.testing.assert_close(method.predict(batch), before)


@torch.no_grad()
def test_padding_and_longer_rows_change_nothing():
    """On real encoders: neither more padded steps nor a longer row in the batch."""
    schema = Schema((Modality("labs", "tabular", (3,)), Modality("ehr", "series", (9, 2))), BINARY)
    torch.manual_seed(0)
    encoders = build_encoders(schema, width=D, choices=dict(LSMT_ENCODERS), dropout=0.0)
    method = LSMT(schema, encoders, latents=4, dropout=0.0).eval()
    whole = cases.make_batch(schema, torch.ones(6, 2, dtype=torch.bool))
    together = method.predict(whole)
    for i in range(6):
        row = whole.take(torch.tensor([i]))
        length = int(row.lengths["ehr"])
        cut = {"labs": row.values["labs"], "ehr": row.values["ehr"][:, :length]}
        measured = {"labs": row.measured["labs"], "ehr": row.measured["ehr"][:, :length]}
        short = Batch(cut, row.observed, measured, row.lengths)
        torch.testing.assert_close(method.predict(short)[0], together[i])


LSMT_ENCODERS = {"labs": LSMT.preferred_encoders["tabular"], "ehr": LSMT.preferred_encoders["series"]}


@torch.no_grad()
@pytest.mark.parametrize("deep", [False, True])
def test_renamed_modalities(deep):
    """Another order with all parameters moved along leaves the outputs alone."""
    one = build(deep_supervision=deep)
    two = build(names=("ehr", "image"), sizes=(6, 3), seed=3, deep_supervision=deep)
    two.load_state_dict(one.state_dict() | {"modality": one.modality.flip(0)})
    torch.testing.assert_close(one.predict(rows(one)), two.predict(rows(one)))
