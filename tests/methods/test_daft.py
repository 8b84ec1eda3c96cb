"""DAFT: the published transform by hand, and what scaling and shifting must and must not do."""

import dataclasses

import pytest
import torch
from contracts import cases
from torch.nn import functional

from amodal.batch import Batch
from amodal.encoders import PerModality, build_encoders
from amodal.encoders.exchange import StageMap
from amodal.errors import UnknownNameError
from amodal.methods.daft import DAFT
from amodal.schema import Modality, Schema, Task

WIDTH = 8
CHOICES = {
    "image": {"name": "lenet", "channels": 3},
    "ehr": {"name": "plain_lstm", "layers": 2, "dropout": 0.0},
    "table": {"name": "identity"},
}
MODALITIES = {
    "image": Modality("image", "image", (1, 8, 8)),
    "ehr": Modality("ehr", "series", (WIDTH, 3)),
    "table": Modality("table", "tabular", (WIDTH,)),
}


def build(*names, seed=0, **options) -> DAFT:
    schema = Schema(tuple(MODALITIES[name] for name in names), Task("multilabel", classes=("x", "y")))
    torch.manual_seed(seed)
    made = build_encoders(schema, width=WIDTH, choices={n: CHOICES[n] for n in names if n != "table"})
    encoders = {name: cases.Identity(schema[name]) if name == "table" else encoder for name, encoder in made.items()}
    return DAFT(schema, PerModality(encoders), dropout=0.0, **options).eval()


def rows(*names, n=5, seed=0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    values = {name: torch.randn(n, *MODALITIES[name].shape, generator=draw) for name in names}
    observed = {name: torch.ones(n, dtype=torch.bool) for name in names}
    return Batch(values, observed, target=torch.randint(0, 2, (n, 2), generator=draw).float())


def without(batch: Batch, name: str) -> Batch:
    return dataclasses.replace(batch, observed=batch.observed | {name: torch.zeros(len(batch), dtype=torch.bool)})


def transform(features, s, x, block, act, axes):
    """F' = act(alpha) F + beta, with (alpha, beta) from W2 ReLU(W1 [s; x]) without biases."""
    first, _, last = block.layers
    a = functional.relu(torch.cat([s, x], 1) @ first.weight.T) @ last.weight.T
    channels = s.shape[1]
    alpha, beta = act(a[:, :channels]), a[:, channels:]
    shape = (len(s), channels, 1, 1) if axes == "channels first" else (len(s), 1, channels)
    return alpha.view(shape) * features + beta.view(shape)


ACTIVATIONS = {"linear": lambda a: a, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


@torch.no_grad()
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_original_table_modulates_image(activation):
    method = build("image", "table", target="image", activation=activation, identity_start=False)
    batch, image = rows("image", "table"), method.encoders["image"]
    features = batch.values["image"]
    for stage in image.blocks:
        features = stage(features)
    block = method.modulations[0]["image"].blocks["table"]
    assert block.layers[0].out_features == max(1, int((12 + WIDTH) / 7))
    moved = transform(
        features, features.mean((2, 3)), batch.values["table"], block, ACTIVATIONS[activation], "channels first"
    )
    expected = method.heads["image"](image.project(moved.mean((2, 3))))
    torch.testing.assert_close(method.all_outputs(batch)[0], expected)


@torch.no_grad()
def test_the_clinical_image_then_table_modulate_the_series():
    """Two blocks one after the other; the second reads the map that the first has left."""
    method = build("image", "ehr", "table", target="ehr", form="sequential", identity_start=False)
    batch = rows("image", "ehr", "table")
    image, ehr, blocks = method.encoders["image"], method.encoders["ehr"], method.modulations[0]["ehr"].blocks
    picture = batch.values["image"]
    for stage in image.blocks:
        picture = stage(picture)
    x = ehr.layers[0].cell(batch.values["ehr"])[0]
    x = transform(x, x.mean(1), picture.mean((2, 3)), blocks["image"], ACTIVATIONS["linear"], "last")
    x = transform(x, x.mean(1), batch.values["table"], blocks["table"], ACTIVATIONS["linear"], "last")
    expected = method.heads["ehr"](ehr.layers[1].cell(x)[1][0][0])
    found, own, _ = method.all_outputs(batch)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(own[:, 0], expected)


@torch.no_grad()
@pytest.mark.parametrize("form", ["additive", "joint", "sequential"])
def test_a_fresh_model_is_its_encoders_and_heads(form):
    method, batch = build("image", "ehr", form=form), rows("image", "ehr")
    alone = [method.heads[n](method.encoders[n](batch.values[n]).pooled) for n in method.schema.names]
    torch.testing.assert_close(method.all_outputs(batch)[1], torch.stack(alone, 1))
    torch.testing.assert_close(method.all_outputs(batch)[0], torch.stack(alone, 1).mean(1))


@torch.no_grad()
def test_published_start_without_a_last_layer_erases_the_map():
    method = build("image", "ehr", target="ehr", identity_start=False)
    modulation = method.modulations[0]["ehr"]
    modulation.blocks["image"].layers[2].weight.zero_()
    maps = {
        n: StageMap(torch.randn(3, 4, c), None, torch.ones(3, dtype=torch.bool), 2)
        for n, c in (("image", 12), ("ehr", 8))
    }
    means = {name: m.mean() for name, m in maps.items()}
    assert not modulation(maps, means).values.any()


def order_of_places_stays(method: DAFT) -> bool:
    """Permuting the target's places permutes its modulated map: the transform is by channel."""
    torch.manual_seed(1)
    seen, states, order = torch.ones(4, dtype=torch.bool), torch.randn(4, WIDTH, WIDTH), torch.randperm(WIDTH)
    maps = {"image": StageMap(torch.randn(4, 12, 2, 2), None, seen, 1), "ehr": StageMap(states, None, seen, 2)}
    moved = maps | {"ehr": maps["ehr"].with_values(states[:, order])}
    with torch.no_grad():
        one, two = (method.exchange(0, m)["ehr"].values for m in (maps, moved))
    return torch.allclose(one[:, order], two, atol=1e-5)


def test_modulation_is_by_channel(monkeypatch):
    method = build("image", "ehr", identity_start=False)
    assert order_of_places_stays(method)
    # Planted: scale and shift over time, which fits because there are as many steps as channels.
    monkeypatch.setattr(
        StageMap, "over_places", lambda self, c: c[:, :, None] if self.values.ndim == 3 else c[..., None, None]
    )
    assert not order_of_places_stays(method)


@torch.no_grad()
def test_scale_first_then_shift():
    """With the first C rows of the last layer alone, a map of zeros stays zero: it is only scaled."""
    method = build("image", "ehr", target="ehr")
    modulation = method.modulations[0]["ehr"]
    last = modulation.blocks["image"].layers[2].weight
    maps = {
        n: StageMap(torch.zeros(3, 4, c), None, torch.ones(3, dtype=torch.bool), 2)
        for n, c in (("image", 12), ("ehr", 8))
    }
    means = {"image": torch.rand(3, 12), "ehr": torch.rand(3, 8)}
    last[:WIDTH] = 1.0
    assert not modulation(maps, means).values.any()
    last[WIDTH:] = 1.0
    assert modulation(maps, means).values.any()


@torch.no_grad()
@pytest.mark.parametrize("form", ["additive", "sequential"])
def test_nothing_else_present_leaves_the_map_bit_for_bit(form):
    method = build("image", "ehr", "table", form=form, identity_start=False)
    batch = without(without(rows("image", "ehr", "table"), "image"), "table")
    alone = method.heads["ehr"](method.encoders["ehr"](batch.values["ehr"]).pooled)
    assert torch.equal(method.all_outputs(batch)[0], alone)


@torch.no_grad()
def test_order_of_the_others():
    """Of no consequence where their parts are added up; where one follows the other it is."""
    for form in ("additive", "sequential"):
        one = build("image", "ehr", "table", target="ehr", form=form, identity_start=False)
        two = build("table", "ehr", "image", target="ehr", form=form, seed=1, identity_start=False)
        state = dict(one.state_dict())
        state["without.linear.weight"] = state["without.linear.weight"].unflatten(1, (2, WIDTH)).flip(1).flatten(1)
        two.load_state_dict(state)
        same = torch.allclose(one.predict(rows("image", "ehr", "table")), two.predict(rows("image", "ehr", "table")))
        assert same == (form == "additive")


@torch.no_grad()
def test_padded_steps_change_nothing():
    method, batch = build("image", "ehr", identity_start=False), rows("image", "ehr")
    longer = torch.cat([batch.values["ehr"], torch.full((5, 3, 3), 7.0)], dim=1)
    padded = Batch(
        {"image": batch.values["image"], "ehr": longer}, batch.observed, {}, {"ehr": torch.full((5,), WIDTH)}
    )
    torch.testing.assert_close(method.predict(padded), method.predict(batch))


@torch.no_grad()
def test_rows_without_the_named_target():
    """They are predicted by a sum over the others, which learns from all rows that have one."""
    method, batch = build("image", "ehr", "table", target="ehr"), rows("image", "ehr", "table")
    batch = dataclasses.replace(
        batch, observed=batch.observed | {"ehr": torch.tensor([True, False, True, False, True])}
    )
    outputs, own, side = method.all_outputs(batch)
    vectors = torch.cat([method.encoders["image"](batch.values["image"]).pooled, batch.values["table"]], 1)
    torch.testing.assert_close(side, vectors @ method.without.linear.weight.T + method.without.linear.bias)
    torch.testing.assert_close(outputs[1::2], side[1::2])
    torch.testing.assert_close(outputs[::2], own[::2, 0])
    bce = functional.binary_cross_entropy_with_logits
    terms = method.objective(batch, torch.Generator()).terms
    torch.testing.assert_close(terms["task"], bce(outputs, batch.target))
    torch.testing.assert_close(terms["own"], bce(side, batch.target))


@torch.no_grad()
def test_each_modality_as_a_target():
    """One present: its own head. A head does not depend on what is absent. Losses over the rows that have it."""
    method = build("image", "ehr", identity_start=False)
    batch = rows("image", "ehr")
    batch = dataclasses.replace(
        batch, observed=batch.observed | {"image": torch.tensor([True, False, False, False, True])}
    )
    outputs, own, _ = method.all_outputs(batch)
    torch.testing.assert_close(outputs[1:4], own[1:4, 1])
    torch.testing.assert_close(outputs[[0, 4]], own[[0, 4]].mean(1))
    bce = functional.binary_cross_entropy_with_logits
    expected = bce(own[[0, 4], 0], batch.target[[0, 4]]) + bce(own[:, 1], batch.target)
    torch.testing.assert_close(method.objective(batch, torch.Generator()).terms["own"], expected)


def test_options_that_cannot_be():
    with pytest.raises(UnknownNameError, match="'hart'"):
        build("image", "ehr", target="hart")
