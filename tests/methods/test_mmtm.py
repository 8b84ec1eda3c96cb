"""MMTM: the published module by hand, and what squeeze and excitation must and must not do."""

import dataclasses

import pytest
import torch
from contracts import cases
from torch.nn import functional

from amodal.batch import Batch
from amodal.encoders import build_encoders
from amodal.encoders.exchange import StageMap
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.methods.mmtm import MMTM
from amodal.schema import Modality, Schema, Task

WIDTH = 8
PAIR = Schema(
    (Modality("image", "image", (1, 8, 8)), Modality("ehr", "series", (WIDTH, 3))),
    Task("multilabel", classes=("x", "y")),
)
SIZES = {"image": 12, "ehr": WIDTH}  # channels where they exchange
CLINICAL = {
    "image": {"name": "lenet", "channels": 3},
    "ehr": {"name": "plain_lstm", "layers": 2, "dropout": 0.0},
}


def clinical(schema=PAIR, *, random_gates=True, **options) -> MMTM:
    torch.manual_seed(0)
    encoders = build_encoders(schema, width=WIDTH, choices=CLINICAL)
    return MMTM(schema, encoders, identity_start=not random_gates, dropout=0.0, **options).eval()


def pairs(n=5, seed=0, steps=WIDTH) -> Batch:
    """Complete rows of full length: as many steps as the series has channels, so that a wrong axis fits."""
    draw = torch.Generator().manual_seed(seed)
    values = {"image": torch.randn(n, 1, 8, 8, generator=draw), "ehr": torch.randn(n, steps, 3, generator=draw)}
    observed = {name: torch.ones(n, dtype=torch.bool) for name in values}
    return Batch(values, observed, target=torch.randint(0, 2, (n, 2), generator=draw).float())


@torch.no_grad()
def by_hand(method: MMTM, batch: Batch, scale: float):
    """The clinical adaptation: one module after the image's last stage and the series' first of two layers."""
    image, ehr = method.encoders["image"], method.encoders["ehr"]
    picture = batch.values["image"]
    for block in image.blocks:
        picture = block(picture)  # (B, C, h, w)
    states = ehr.layers[0].cell(batch.values["ehr"])[0]  # (B, T, D)
    (module,) = method.exchanges[0].modules_of
    s = torch.cat([picture.mean((2, 3)), states.mean(1)], dim=1)
    z = functional.relu(s @ module.squeeze.weight.T + module.squeeze.bias)
    assert z.shape[1] == 2 * s.shape[1] // 4
    gates = [scale / (1 + torch.exp(-(z @ e.weight.T + e.bias))) for e in module.excite]
    picture = torch.einsum("bchw,bc->bchw", picture, gates[0])
    states = torch.einsum("btc,bc->btc", states, gates[1])
    h_image = image.project(picture.mean((2, 3)))
    h_ehr = ehr.layers[1].cell(states)[1][0][0]  # last hidden state
    own = [method.heads["image"](h_image), method.heads["ehr"](h_ehr)]
    joint = torch.cat([h_image, h_ehr], dim=1) @ method.joint.linear.weight.T + method.joint.linear.bias
    return joint, torch.stack(own, dim=1)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_published_forward_and_losses(scale):
    method, batch = clinical(gate_scale=scale), pairs()
    joint, own = by_hand(method, batch, scale)
    found = method.all_outputs(batch)
    torch.testing.assert_close(found[0], joint)
    torch.testing.assert_close(found[1], own)
    terms = method.objective(batch, torch.Generator())
    bce = functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(terms.total, bce(joint, batch.target) + sum(bce(o, batch.target) for o in own.unbind(1)))


def test_alternating_losses_are_those_of_one_output_each():
    method, batch = clinical(updates="alternating"), pairs()
    joint, own = by_hand(method, batch, 2.0)
    bce = functional.binary_cross_entropy_with_logits
    expected = {"own_image": bce(own[:, 0], batch.target), "own_ehr": bce(own[:, 1], batch.target)}
    expected["joint"] = bce(joint, batch.target)
    assert list(method.optimisers) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(method.objective_of(name, batch, torch.Generator()).total, value)


@torch.no_grad()
def test_a_fresh_model_is_its_encoders_and_heads():
    method, batch = clinical(random_gates=False), pairs()
    for m, name in enumerate(PAIR.names):
        alone = method.heads[name](method.encoders[name](batch.values[name]).pooled)
        torch.testing.assert_close(method.all_outputs(batch)[1][:, m], alone)
    halved = clinical(random_gates=False, gate_scale=1.0)
    maps = {name: StageMap(torch.randn(2, 3, n), None, torch.ones(2, dtype=torch.bool), 2) for name, n in SIZES.items()}
    for name, gated in halved.exchanges[0](maps).items():
        torch.testing.assert_close(gated.values, maps[name].values / 2)


def gates_do_not_see_the_order_of_places(method: MMTM) -> bool:
    """Permuting the places of one map permutes the gated map of it and leaves the other's alone."""
    torch.manual_seed(1)
    seen = torch.ones(4, dtype=torch.bool)
    picture, states = torch.randn(4, SIZES["image"], 2, 2), torch.randn(4, WIDTH, WIDTH)
    order = torch.randperm(WIDTH)
    maps = {"image": StageMap(picture, None, seen, 1), "ehr": StageMap(states, None, seen, 2)}
    moved = maps | {"ehr": maps["ehr"].with_values(states[:, order])}
    with torch.no_grad():
        one, two = (method.exchanges[0](m) for m in (maps, moved))
    return torch.allclose(one["image"].values, two["image"].values, atol=1e-6) and torch.allclose(
        one["ehr"].values[:, order], two["ehr"].values, atol=1e-6
    )


def test_gates_are_over_channels(monkeypatch):
    method = clinical()
    assert gates_do_not_see_the_order_of_places(method)
    # Planted: the gate over time instead of channels, which fits because there are as many steps as channels.
    monkeypatch.setattr(
        StageMap, "over_places", lambda self, c: c[:, :, None] if self.values.ndim == 3 else c[..., None, None]
    )
    assert not gates_do_not_see_the_order_of_places(method)


def test_every_head_depends_on_every_encoder():
    method, batch = clinical(), pairs()
    own = method.all_outputs(batch)[1]
    for m in range(2):
        for name in PAIR.names:
            parameters = list(method.encoders[name].parameters())
            found = torch.autograd.grad(own[:, m].sum(), parameters, retain_graph=True, allow_unused=True)
            assert any(g is not None and g.any() for g in found), (m, name)


@torch.no_grad()
def test_padded_steps_change_nothing():
    method, batch = clinical(), pairs()
    longer = torch.cat([batch.values["ehr"], torch.full((5, 3, 3), 7.0)], dim=1)
    lengths = {"ehr": torch.full((5,), WIDTH)}
    padded = Batch({"image": batch.values["image"], "ehr": longer}, batch.observed, {}, lengths)
    torch.testing.assert_close(method.predict(padded), method.predict(batch))


def closing_the_first_gate_matters(method: MMTM, batch: Batch) -> bool:
    before = method.all_outputs(batch)[1]
    method.exchanges[0].modules_of[0].excite[1].bias.fill_(-40.0)
    return not torch.allclose(method.all_outputs(batch)[1][:, 1], before[:, 1], atol=1e-4)


@torch.no_grad()
def test_a_gated_map_is_what_the_next_stage_reads(monkeypatch):
    choices = CLINICAL | {"ehr": {"name": "plain_lstm", "layers": 3, "dropout": 0.0}}
    batch = pairs()

    def build():
        torch.manual_seed(0)
        encoders = build_encoders(PAIR, width=WIDTH, choices=choices)
        return MMTM(PAIR, encoders, exchanges=2, identity_start=False, dropout=0.0).eval()

    assert closing_the_first_gate_matters(build(), batch)
    # Planted: gated maps are computed and dropped, as those of two modules in a published code.
    monkeypatch.setattr(StageMap, "with_values", lambda self, values: self)
    assert not closing_the_first_gate_matters(build(), batch)


@pytest.mark.parametrize("options", [{}, {"preset": "paper"}, {"form": "hub", "hub": "b"}, {"output": "mean"}])
def test_every_parameter_moves_within_two_steps(options):
    schema = cases.make_schema("binary", "tables")
    torch.manual_seed(0)
    kept = {k: v for k, v in options.items() if k != "preset"}
    method = MMTM(schema, cases.make_encoders(schema), **(MMTM.PRESETS["paper"] if "preset" in options else kept))
    before = {key: value.detach().clone() for key, value in method.named_parameters()}
    cases.train(method, cases.make_batch(schema, cases.mixed_presence(schema, 3)), steps=3)
    still = [key for key, value in method.named_parameters() if torch.equal(value, before[key])]
    assert still == []


@torch.no_grad()
@pytest.mark.parametrize("form", ["symmetric", "hub"])
def test_renaming_modalities(form):
    """Another order with all parameters moved along: equal for one module of all, not for one after the other."""
    names, order = ("a", "b", "c"), [2, 0, 1]
    tables = {name: Modality(name, "tabular", (4,)) for name in names}
    schemas = [Schema(tuple(tables[n] for n in given), Task("binary", classes=(0, 1))) for given in (names, "cab")]
    torch.manual_seed(0)
    options = {"form": form, "hub": "a", "identity_start": False, "dropout": 0.0}
    one, two = (MMTM(schema, cases.make_encoders(schema), **options).eval() for schema in schemas)
    for fill in one.exchanges[0].absent:
        fill.normal_()
    state = dict(one.state_dict())
    for i, j in enumerate(order):
        state[f"exchanges.0.absent.{i}"] = one.exchanges[0].absent[j]
    columns = torch.arange(24).view(3, 8)[order].flatten()
    state["joint.linear.weight"] = state["joint.linear.weight"][:, columns]
    if form == "symmetric":
        for i, j in enumerate(order):
            for part in ("weight", "bias"):
                state[f"exchanges.0.modules_of.0.excite.{i}.{part}"] = one.state_dict()[
                    f"exchanges.0.modules_of.0.excite.{j}.{part}"
                ]
        state["exchanges.0.modules_of.0.squeeze.weight"] = state["exchanges.0.modules_of.0.squeeze.weight"][:, columns]
    else:  # the hub's modules come in the order of the others: c, then b
        own = one.exchanges[0].modules_of.state_dict()
        state |= {f"exchanges.0.modules_of.{1 - int(key[0])}{key[1:]}": value for key, value in own.items()}
    two.load_state_dict(state)
    batch = cases.make_batch(schemas[0], cases.mixed_presence(schemas[0], 2), seed=1)
    same = torch.allclose(one.predict(batch), two.predict(batch), atol=1e-6)
    assert same == (form == "symmetric")


@torch.no_grad()
def test_an_absent_modality_is_a_learned_vector_in_the_squeeze():
    method, batch = clinical(), pairs()
    absent = dataclasses.replace(batch, observed=batch.observed | {"image": torch.zeros(5, dtype=torch.bool)})
    before = method.predict(absent)
    method.exchanges[0].absent[0].fill_(3.0)
    assert not torch.allclose(method.predict(absent), before)
    own = method.all_outputs(absent)[1][:, 1]
    module = method.exchanges[0].modules_of[0]
    states = method.encoders["ehr"].layers[0].cell(batch.values["ehr"])[0]
    s = torch.cat([torch.full((5, SIZES["image"]), 3.0), states.mean(1)], dim=1)
    gated = states * (2 * module.excite[1](module.squeeze(s).relu()).sigmoid())[:, None]
    torch.testing.assert_close(own, method.heads["ehr"](method.encoders["ehr"].layers[1].cell(gated)[1][0][0]))


def test_options_that_cannot_be():
    schema = cases.make_schema("binary", "tables")
    with pytest.raises(ConfigurationError, match=r"number of exchanges does not fit.*1 … 1"):
        MMTM(schema, exchanges=2)
    with pytest.raises(UnknownNameError, match="'hart'"):
        MMTM(schema, form="hub", hub="hart")
    with pytest.raises(ConfigurationError, match="nothing is left to minimise"):
        MMTM(schema, output="mean", own_weight=0.0)
