"""SMIL: a transcription of the original's two-modality case, the inner step in closed form, prototypes."""

import pytest
import torch
from contracts import cases
from torch.nn import functional

from amodal.encoders import encode_pooled
from amodal.losses.task import task_loss
from amodal.method import Clock
from amodal.methods import smil as module
from amodal.methods.smil import SMIL
from amodal.options import resolve_options
from amodal.schema import Modality, Schema

PAPER = {key: value for key, value in SMIL.PRESETS["paper"].items() if key not in ("dropout", "hidden")}


def new(schema, **options):
    torch.manual_seed(0)
    given = {"dropout": 0.0, "hidden": 6, "prototypes": 3, "learn_prototypes": True} | options
    return SMIL(schema, cases.identities(schema), **given)


def two(task="multiclass"):
    return Schema(tuple(Modality(name, "tabular", (4,)) for name in ("image", "sound")), cases.TASKS[task])


def batch_of(schema, observed, seed=1):
    """Everything present is measured, so that the encoders' outputs are the values."""
    batch = cases.make_batch(schema, observed, seed=seed)
    return type(batch)(batch.values, batch.observed, {}, {}, batch.target)


def half_complete(n=12):
    return torch.stack([torch.ones(n, dtype=torch.bool), torch.arange(n) % 2 == 0], dim=1)


def keep_image(observed, generator):
    return observed & torch.tensor([True, False])


def transcription(method, image, sound, target, part, full, noise, second_order=True):
    """The published losses: only the second modality can be missing, incomplete and complete rows apart."""
    theta = [method.head.hidden.weight, method.head.hidden.bias, method.head.output.weight, method.head.output.bias]
    k = method.bank.shape[1]

    def noised(theta, h, first, second):
        omega = functional.softplus(h @ method.mixing.weight[k:].T + method.mixing.bias[k:])
        imputed = (omega / omega.sum(1, keepdim=True)) @ method.bank[1]
        u = torch.cat([h, imputed], dim=1)
        u = u + functional.softplus(h @ method.first.weight.T + method.first.bias + first)
        v = (u @ theta[0].T + theta[1]).relu()
        v = v + functional.softplus(u @ method.second.weight.T + method.second.bias + second)
        return u, v, v @ theta[2].T + theta[3]

    inner = functional.cross_entropy(noised(theta, image[part], *noise)[2], target[part])
    slopes = torch.autograd.grad(inner, theta, create_graph=second_order, retain_graph=True)
    star = [t - method.inner_rate * s for t, s in zip(theta, slopes)]
    u_n, v_n, outputs = noised(star, image[full], 0.0, 0.0)
    u_c = torch.cat([image[full], sound[full]], dim=1)
    v_c = (u_c @ star[0].T + star[1]).relu()
    outer = functional.cross_entropy(outputs, target[full])
    return inner + outer + 0.01 * ((u_c - u_n) ** 2).mean() + 0.01 * ((v_c - v_n) ** 2).mean()


@pytest.mark.parametrize("second_order", [True, False], ids=["as published", "planted: first order"])
def test_the_original_case_is_the_original(monkeypatch, second_order):
    """Loss and gradients, with the same noise; a first-order step has the same loss and other gradients."""
    monkeypatch.setattr(module, "draw_strict_subset", keep_image)
    schema = two()
    method = new(schema, **PAPER | {"inner_rate": 2.0, "learn_prototypes": True})
    observed = half_complete()
    batch = batch_of(schema, observed)
    part, full = ~observed[:, 1], observed[:, 1]
    draw = torch.Generator().manual_seed(5)
    noise = torch.randn(6, 8, generator=draw), torch.randn(6, 6, generator=draw)
    expected = transcription(
        method, batch.values["image"], batch.values["sound"], batch.target, part, full, noise, second_order
    )
    total = method.train().objective(batch, torch.Generator().manual_seed(5)).total
    torch.testing.assert_close(total, expected)
    parameters = list(method.parameters())
    ours, theirs = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (total, expected))
    same = [torch.allclose(a, b, atol=1e-6, rtol=1e-4) for a, b in zip(ours, theirs) if a is not None]
    assert all(same) == second_order


def test_the_inner_step_in_closed_form():
    """Inner ½(θ − a)², outer ½(θ* − b)²: the derivative is (1 − η)(θ* − b), which a first-order step misses."""
    method = new(two(), inner_rate=0.3)
    theta, a, b = torch.tensor(2.0, requires_grad=True), 0.5, -1.0
    star = method._adapted({"theta": theta}, 0.5 * (theta - a) ** 2)["theta"]
    assert star.item() == pytest.approx(2.0 - 0.3 * 1.5)
    (slope,) = torch.autograd.grad(0.5 * (star - b) ** 2, theta)
    assert slope.item() == pytest.approx(0.7 * (star.item() - b))


def test_the_inner_step_decays():
    method = new(two(), inner_rate=1.0, inner_decay_steps=10)
    theta = torch.tensor(1.0, requires_grad=True)
    for step, rate in ((0, 1.0), (9, 1.0), (10, 0.1), (25, 0.01)):
        method.clock = Clock(step=step, steps=100)
        assert method._adapted({"t": theta}, theta * 1.0)["t"].item() == pytest.approx(1.0 - rate)


def test_without_an_inner_step_it_is_a_joint_loss():
    schema = two()
    method = new(schema, inner_rate=0.0).train()
    batch = batch_of(schema, half_complete())
    terms = method.objective(batch, torch.Generator().manual_seed(0)).terms
    full = method.head(torch.cat(list(batch.values.values()), dim=1)[::2])[1]
    torch.testing.assert_close(terms["clean"], task_loss(full, batch.target[::2], "multiclass").mean())


@pytest.mark.parametrize("prototypes", [1, 4])
def test_imputed_features_are_mixtures_of_prototypes(prototypes):
    schema = cases.make_schema("binary", "tables")
    method = new(schema, prototypes=prototypes)
    batch = batch_of(schema, cases.mixed_presence(schema))
    features, observed = encode_pooled(method.encoders, batch)
    filled = method.impute(features, observed)[0].unflatten(1, (3, 4))
    assert torch.equal(filled[observed], features[observed])
    low, high = method.bank.aminmax(dim=1)
    outside = ((filled < low - 1e-5) | (filled > high + 1e-5)).any(-1)
    assert not outside[~observed].any()
    if prototypes == 1:
        torch.testing.assert_close(filled[~observed], method.bank[:, 0].expand_as(filled)[~observed])


def test_noise_is_the_inner_losss_only():
    schema = two()
    method = new(schema, inner_rate=0.0).train()
    batch = batch_of(schema, half_complete())
    one, other = (method.objective(batch, torch.Generator().manual_seed(seed)).terms for seed in (0, 1))
    assert one["inner"] != other["inner"]
    features, observed = encode_pooled(method.encoders, batch)
    head = dict(method.head.named_parameters())
    for a, b in zip(method.shifted(head, features, observed), method.shifted(head, features, observed)):
        assert torch.equal(a, b)


def test_distances_vanish_where_the_imputed_feature_is_the_true_one(monkeypatch):
    monkeypatch.setattr(module, "draw_strict_subset", keep_image)
    schema = two()
    method = new(schema, prototypes=1)
    row = batch_of(schema, torch.ones(1, 2, dtype=torch.bool))
    for part in (method.first, method.second):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    with torch.no_grad():
        method.bank[1, 0] = row.values["sound"][0]
    terms = method.objective(row, torch.Generator()).terms
    assert terms["alignment_u"].item() == pytest.approx(0, abs=1e-10)
    assert terms["alignment_v"].item() == pytest.approx(0, abs=1e-10)
    method.perturbation = "literal"  # the published shift is 0.69 at rest
    assert method.objective(row, torch.Generator()).terms["alignment_u"].item() == pytest.approx(0.48, abs=0.01)


def test_complete_rows_are_predicted_by_the_clean_path():
    schema = cases.make_schema("multiclass", "tables")
    method = new(schema).eval()
    batch = batch_of(schema, cases.mixed_presence(schema))
    before = method.predict(batch)
    with torch.no_grad():
        for part in (method.bank, *method.mixing.parameters(), *method.first.parameters()):
            part.add_(1.0)
    method.inner_rate = 9.0  # predictions are those of θ, not of an adapted head
    after, complete = method.predict(batch), batch.presence.all(1)
    assert torch.equal(after[complete], before[complete])
    assert (after[~complete] != before[~complete]).any(1).all()


def test_unknown_labels_enter_no_task_term():
    schema = two("multilabel")
    method = new(schema).train()
    batch = batch_of(schema, half_complete())
    for target in (torch.zeros_like(batch.target), torch.ones_like(batch.target)):
        known = torch.where(torch.arange(12)[:, None] > 1, target, torch.nan)
        unknown = type(batch)(batch.values, batch.observed, target=known.fill_(torch.nan))
        terms = method.objective(unknown, torch.Generator().manual_seed(0)).terms
        assert terms["inner"].item() == terms["task"].item() == terms["clean"].item() == 0
        assert terms["alignment_u"].item() > 0


def test_the_warm_up_is_the_predictions_loss_and_ends_with_clusters():
    schema = two()
    method = new(schema, prototypes=4, warmup=0.2)
    centres = torch.tensor([[6.0, 0, 0, 0], [0, 6.0, 0, 0], [0, 0, 6.0, 0], [0, 0, 0, 6.0]])
    draw = torch.Generator().manual_seed(0)
    values = centres[torch.arange(40) % 4] + 0.01 * torch.randn(40, 4, generator=draw)
    present = torch.ones(40, dtype=torch.bool)
    observed = {"image": present, "sound": torch.arange(40) % 3 > 0}
    batch = cases.Batch({"image": values, "sound": values}, observed, target=torch.arange(40) % 3)
    for epoch in range(3):
        method.clock = Clock(epoch=epoch, epochs=10)
        method.begin_epoch()
        terms = method.train().objective(batch, torch.Generator().manual_seed(0)).terms
        assert (set(terms) == {"task"}) == (epoch < 2)
        if epoch < 2:
            torch.testing.assert_close(terms["task"], method.task_term(method.outputs(batch), batch))
    assert len(method.recent) == 0
    for bank in method.bank.detach():
        found = bank[bank.argmax(1).argsort()]
        torch.testing.assert_close(found, centres, atol=0.02, rtol=0)


def test_fewer_present_rows_than_prototypes_are_used_as_they_are():
    method = new(two(), prototypes=5)
    batch = batch_of(two(), torch.tensor([[True, False], [True, True], [True, True]]))
    before = method.bank.detach().clone()
    method.prepare([batch])
    assert {tuple(p) for p in method.bank[1].tolist()} == {tuple(v) for v in batch.values["sound"][1:].tolist()}
    only = batch_of(two(), torch.tensor([[True, False]] * 6))
    method = new(two(), prototypes=5)
    method.prepare([only])
    assert torch.equal(method.bank[1], before[1])
    assert not torch.equal(method.bank[0], before[0])


@pytest.mark.parametrize("learns", [True, False], ids=["bank", "equal prototypes"])
def test_the_bank_learns_what_the_present_says_of_the_absent(learns):
    """Sound is one of four vectors and image says which: imputing by the mean would miss by its whole variance."""
    schema = two("binary")
    draw = torch.Generator().manual_seed(0)
    group = torch.arange(64) % 4
    sounds = 2 * torch.randn(4, 4, generator=draw)
    image = torch.nn.functional.one_hot(group, 4) * 3.0 + 0.1 * torch.randn(64, 4, generator=draw)
    observed = {"image": torch.ones(64, dtype=torch.bool), "sound": torch.arange(64) < 48}
    batch = cases.Batch({"image": image, "sound": sounds[group]}, observed, target=(group > 1).long())
    method = new(schema, prototypes=4, w_alignment=1.0, learn_prototypes=learns)
    if not learns:
        method.prepare = lambda batches: method.bank.data.copy_(sounds.mean(0).expand_as(method.bank))
    cases.train(method, batch, steps=150, learning_rate=0.03)
    with torch.no_grad():
        features, seen = encode_pooled(method.encoders, batch)
        seen[:, 1] = False
        imputed = method.impute(features, seen)[0][:, 4:]
    missed = (imputed - sounds[group]).square().mean() / (sounds - sounds.mean(0)).square().mean()
    assert (missed < 0.5) == learns


def test_paper_preset_is_the_released_codes():
    resolved = resolve_options(SMIL, {"preset": "paper"}, owner="smil", outside=("schema", "encoders"))
    assert resolved["w_alignment"] == 0.01
    assert resolved["prototypes"] == 10
    assert resolved["w_clean"] == 0
