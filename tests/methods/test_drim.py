"""DRIM: a transcription of the published losses and fusions, the quiet softmax, who learns from what, independence."""

import math

import pytest
import torch
from contracts import cases
from torch import nn
from torch.nn import functional

from amodal.method import Clock
from amodal.methods import drim as module
from amodal.methods.drim import DRIM, draw_others, quiet_softmax
from amodal.schema import Modality, Schema
from amodal.settings import TrainingSettings
from amodal.training.optimisers import Optimisers
from amodal.training.step import training_step


def new(schema, **options):
    torch.manual_seed(0)
    given = {"hidden": 8, "heads": 2, "head_width": 4, "dropout": 0.0} | options
    return DRIM(schema, given.pop("encoders", None) or cases.identities(schema), **given)


def batch_of(schema, observed, seed=1):
    batch = cases.make_batch(schema, observed, seed=seed)
    return type(batch)(batch.values, batch.observed, {}, {}, batch.target)


def complete(n=6, task="multiclass"):
    schema = cases.make_schema(task, "tables")
    return schema, batch_of(schema, torch.ones(n, 3, dtype=torch.bool))


# The original ----------------------------------------------------------------------------------------------------


def attention(fusion, tokens):
    """A whole pre-norm block over [class; tokens], of which the class token's row is read; one row at a time."""
    out = []
    for row in tokens:
        x = torch.cat([fusion.first[None], row])
        y = functional.layer_norm(x, x.shape[-1:], fusion.norm.weight, fusion.norm.bias)
        q, k, v = (part(y).view(len(y), fusion.heads, -1) for part in (fusion.query, fusion.key, fusion.value))
        heads = []
        for h in range(fusion.heads):
            scores = (q[:, h] @ k[:, h].T / math.sqrt(q.shape[-1])).exp()
            heads.append(scores / (1 + scores.sum(1, keepdim=True)) @ v[:, h])
        x = x + fusion.out(torch.cat(heads, dim=1))
        x = x + fusion.feedforward(x)
        out.append(functional.layer_norm(x, x.shape[-1:], fusion.last_norm.weight, fusion.last_norm.bias)[0])
    return torch.stack(out)


def transcription(method, batch, others):
    names = method.schema.names
    s = {n: functional.normalize(method.shared[n](batch.values[n]), dim=1) for n in names}
    u = {n: functional.normalize(method.unique[n](batch.values[n]), dim=1) for n in names}
    fused = attention(method.shared_fusion, torch.stack([s[n] for n in names], dim=1))
    outputs = method.head(attention(method.unique_fusion, torch.stack([*(u[n] for n in names), fused], dim=1)))
    task = functional.cross_entropy(outputs, batch.target)
    codes, n = torch.cat([s[n] for n in names]), len(batch)
    shared = 0.0
    for i in range(len(codes)):
        rest = [j for j in range(len(codes)) if j != i]
        logits = codes[rest] @ codes[i] / 0.07
        positives = [k for k, j in enumerate(rest) if j % n == i % n]
        shared = shared - sum(logits[k] - logits.logsumexp(0) for k in positives) / len(positives) / len(codes)
    unique, critic = 0.0, 0.0
    for name in names:
        joint = torch.cat([s[name].detach(), u[name]], dim=1)
        product = torch.cat([s[name].detach()[others[name]], u[name]], dim=1)
        bce = functional.binary_cross_entropy_with_logits
        unique = unique + bce(method.critics[name](joint), torch.ones(n, 1))
        no, yes = method.critics[name](joint.detach()), method.critics[name](product.detach())
        critic = critic + bce(yes, torch.ones(n, 1)) + bce(no, torch.zeros(n, 1))
    return task + shared + 0.8 * unique, critic


def test_the_original_case_is_the_original():
    """Complete rows: losses, and the gradients that each optimiser takes, with the same drawing of other cases."""
    schema, batch = complete()
    method = new(schema).train()
    draw = torch.Generator().manual_seed(4)
    others = {name: draw_others(6, draw) for name in schema.names}
    ours = method.objectives(batch, torch.Generator().manual_seed(4))
    theirs = dict(zip(("main", "critic"), transcription(method, batch, others)))
    for name in method.optimisers:
        torch.testing.assert_close(ours[name].total, theirs[name])
        parameters = method.parameters_of(name)
        for a, b in zip(
            torch.autograd.grad(ours[name].total, parameters, retain_graph=True, allow_unused=True),
            torch.autograd.grad(theirs[name], parameters, retain_graph=True, allow_unused=True),
        ):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


# Losses in closed form -------------------------------------------------------------------------------------------


def test_equal_codes_cannot_be_told_apart():
    schema, batch = complete()
    method = new(schema)
    same = torch.ones(6, 3, 8) / math.sqrt(8)
    assert method._contrast(same, batch.presence).item() == pytest.approx(math.log(3 * 6 - 1), rel=1e-5)


def test_a_row_with_one_modality_is_a_negative_and_no_anchor():
    """A planted average that counts absent slots and anchors without a positive would be smaller."""
    schema, batch = complete()
    method = new(schema)
    shared = method.codes(batch)[0].detach()
    observed = batch.presence.clone()
    observed[5, 1:] = False
    found = method._contrast(shared, observed).item()
    codes = [(i, m) for i in range(6) for m in range(3) if observed[i, m]]
    by_hand = []
    for i, m in codes:
        logits = {o: float(shared[i, m] @ shared[o] / 0.07) for o in codes if o != (i, m)}
        total = math.log(sum(math.exp(x) for x in logits.values()))
        positives = [x - total for (j, _), x in logits.items() if j == i]
        by_hand += [-sum(positives) / len(positives)] if positives else []
    assert len(by_hand) == 15
    assert found == pytest.approx(sum(by_hand) / 15, rel=1e-5)
    assert found != pytest.approx(sum(by_hand) / 18, rel=1e-3)


def test_critics_that_know_nothing():
    schema, batch = complete()
    method = new(schema).train()
    for _, critic in method.critics.items():
        nn.init.zeros_(critic[-1].weight)
        nn.init.zeros_(critic[-1].bias)
    losses = method.objectives(batch, torch.Generator().manual_seed(0))
    assert losses["main"].terms["unique"].item() == pytest.approx(3 * math.log(2))
    assert losses["critic"].total.item() == pytest.approx(3 * 2 * math.log(2))


def test_a_modality_of_one_row_is_left_out_by_both_players():
    schema, _ = complete()
    method = new(schema).train()
    batch = batch_of(schema, torch.tensor([[True, True, False]]))
    losses = method.objectives(batch, torch.Generator())
    assert losses["main"].terms["unique"].item() == losses["critic"].total.item() == 0.0


@pytest.mark.parametrize("copies", [False, True])
def test_only_unique_codes_learn_from_the_critics(copies):
    schema, batch = complete()
    method = new(schema, encoders=cases.make_encoders(schema), copies=copies).train()
    term = method.objectives(batch, torch.Generator().manual_seed(0))["main"].terms["unique"]

    def moved(part):
        slopes = torch.autograd.grad(term, list(part.parameters()), allow_unused=True, retain_graph=True)
        return any(s is not None and s.any() for s in slopes)

    assert moved(method.unique)
    assert not moved(method.shared)
    assert moved(method.encoders) != copies  # with encoders of their own, the shared ones are left alone
    assert not copies or moved(method.own_encoders)


def test_each_player_steps_on_its_own_loss_alone():
    """As if the other's gradients had been set to zero in between; a step on leftover gradients would differ."""
    schema, batch = complete()
    settings = TrainingSettings(optimiser="adam", weight_decay=0.0, learning_rate=0.01, warmup=0.0)
    method = new(schema).train()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    losses = method.objectives(batch, torch.Generator().manual_seed(0))
    slopes = torch.autograd.grad(losses["critic"].total, method.parameters_of("critic"), retain_graph=True)
    both = torch.autograd.grad(losses["main"].total + losses["critic"].total, method.critics["a"][0].weight)[0]
    assert not torch.allclose(both, slopes[0])
    names = [key for key, _ in method.named_parameters() if key.startswith("critics")]
    training_step(method, Optimisers(method, settings), batch, torch.Generator().manual_seed(0))
    for key, slope in zip(names, slopes):  # the first step of AdamW: a decay, and the sign of the gradient
        expected = before[key] * (1 - 1e-3 * (3e-4 if slope.ndim > 1 else 0)) - 1e-3 * slope / (slope.abs() + 1e-8)
        torch.testing.assert_close(method.state_dict()[key], expected, atol=1e-7, rtol=1e-5)


# Quiet attention -------------------------------------------------------------------------------------------------


def test_quiet_softmax():
    valid = torch.ones(3, dtype=torch.bool)
    scores = torch.tensor([1.0, -2.0, 80.0])
    torch.testing.assert_close(quiet_softmax(scores[:2], valid[:2]), scores[:2].exp() / (1 + scores[:2].exp().sum()))
    assert torch.isfinite(quiet_softmax(scores * 10, valid)).all()
    assert quiet_softmax(torch.full((3,), -1e4), valid).sum() == 0
    for logit in (-5.0, 0.0, 5.0):
        one = torch.tensor([logit])
        assert quiet_softmax(one, valid[:1]).item() == pytest.approx(1 / (1 + math.exp(-logit)))
        assert quiet_softmax(one, valid[:1], "released").item() == 0.5
    hidden = torch.tensor([True, False, True])
    assert quiet_softmax(scores, hidden)[1] == 0
    assert quiet_softmax(torch.tensor([math.nan, 0.0]), torch.tensor([False, True])).tolist() == [0.0, 0.5]


def test_others_are_other_rows_and_every_pair_is_possible():
    draw = torch.Generator().manual_seed(0)
    counts = torch.zeros(4, 4)
    for _ in range(600):
        counts[torch.arange(4), draw_others(4, draw)] += 1
    assert not counts.diagonal().any()
    off = counts[~torch.eye(4, dtype=torch.bool)]
    assert ((off - 200).abs() < 60).all()
    assert draw_others(2, draw).tolist() == [1, 0]


# Independence ----------------------------------------------------------------------------------------------------


def factors(n, seed):
    """Two modalities that hold one shared factor and one of their own each, turned; the target needs all three."""
    draw = torch.Generator().manual_seed(seed)
    z, a, b = torch.randn(3, n, 1, generator=draw)
    turn = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    values = {"a": torch.cat([z, a], dim=1) @ turn, "b": torch.cat([z, b], dim=1) @ turn}
    target = (z[:, 0] + a[:, 0] + b[:, 0] > 0).long()
    return cases.Batch(values, dict.fromkeys("ab", torch.ones(n, dtype=torch.bool)), target=target), z


def explained(codes, z):
    """Share of the variance of z that a ridge regression on codes and their squares explains, on held-out rows."""
    x = torch.cat([codes, codes.square(), torch.ones(len(codes), 1)], dim=1).double()
    z, half = z.double(), len(z) // 2
    gram = x[:half].T @ x[:half] + 1e-3 * torch.eye(x.shape[1])
    left = z[half:] - x[half:] @ torch.linalg.solve(gram, x[:half].T @ z[:half])
    return 1 - float(left.square().sum() / z[half:].square().sum())


@pytest.mark.slow
def test_unique_codes_escape_their_critics_where_the_factors_are_known():
    """The shared code holds the shared factor; the critics link unique codes to it unless these are trained not to be.

    That they escape their own critic does not make them independent: see the method's page.
    """
    schema = Schema(tuple(Modality(name, "tabular", (2,)) for name in "ab"), cases.TASKS["binary"])
    settings = TrainingSettings(epochs=1, learning_rate=3e-3, weight_decay=0.0, warmup=0.0)
    linked = {}
    for w_unique in (0.0, 0.8):
        method = new(schema, head_width=8, w_unique=w_unique).train()
        optimisers = Optimisers(method, settings)
        for step in range(200):
            method.clock = Clock(step=step, steps=200)
            training_step(method, optimisers, factors(128, step)[0], torch.Generator().manual_seed(step), clip=1.0)
        batch, z = factors(2000, 10_000)
        with torch.no_grad():
            linked[w_unique] = method.eval().monitor(batch)["critic_accuracy"]
            assert explained(method.codes(batch)[0][:, 0], z) > 0.7
    assert linked[0.0] > 0.7
    assert linked[0.8] < 0.65


@pytest.mark.slow
def test_a_critic_finds_codes_that_are_equal():
    schema, _ = complete()
    method = new(schema)
    batch = batch_of(schema, torch.ones(96, 3, dtype=torch.bool))
    with torch.no_grad():
        for name in schema.names:
            method.unique[name].load_state_dict(method.shared[name].state_dict())
    optimiser = torch.optim.Adam(method.critics.parameters(), lr=3e-3)
    for step in range(200):
        loss = method.objectives(batch, torch.Generator().manual_seed(step))["critic"].total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert method.monitor(batch)["critic_accuracy"] > 0.9


def test_the_critics_watch_is_one_half_where_they_know_nothing(monkeypatch):
    schema, batch = complete()
    method = new(schema)
    for _, critic in method.critics.items():
        nn.init.zeros_(critic[-1].weight)
        nn.init.ones_(critic[-1].bias)
    assert method.monitor(batch) == {"critic_accuracy": 0.5}
    assert module.__all__ == ["DRIM"]
