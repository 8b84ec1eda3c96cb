"""ShaSpec: a transcription of the original, proxies, and which loss moves which part."""

import math

import pytest
import torch
from contracts import cases
from torch.nn import functional

from amodal.encoders import encode_pooled
from amodal.losses.contrast import domain_classification
from amodal.method import Clock
from amodal.methods.shaspec import ShaSpec
from amodal.patterns import draw_removal
from amodal.schema import Modality, Schema


def new(schema, **options):
    torch.manual_seed(0)
    return ShaSpec(schema, cases.identities(schema), **{"hidden": 8, "dropout": 0.0} | options)


def tables(n=3, task="multiclass"):
    return Schema(tuple(Modality(name, "tabular", (4,)) for name in "abcd"[:n]), cases.TASKS[task])


def batch_of(schema, observed, seed=1):
    batch = cases.make_batch(schema, observed, seed=seed)
    return type(batch)(batch.values, batch.observed, {}, {}, batch.target)


def encoded(method, batch):
    features, observed = encode_pooled(method.encoders, batch)
    return *method.parts(features), observed


def transcription(method, values, target, present):
    """One pattern for a batch, as published: neighbours in a cycle are aligned, the first present one stands in."""
    names = list(values)
    s = {m: method.shared(values[m]) for m in present}
    d = {m: method.specific[m](values[m]) for m in present}
    f = {m: s[m] + torch.cat([s[m], d[m]], dim=1) @ method.residual.weight.T for m in present}
    outputs = method.head(torch.cat([f.get(m, s[present[0]]) for m in names], dim=1))
    loss = functional.cross_entropy(outputs, target)
    if len(present) == len(names):
        loss = loss + 0.1 * sum((s[m] - s[n]).abs().mean() for m, n in zip(names, names[1:] + names[:1]))
    logits = torch.cat([d[m] @ method.domain.weight.T + method.domain.bias for m in present])
    own = torch.cat([torch.full((len(target),), names.index(m)) for m in present])
    return loss + 0.02 * functional.cross_entropy(logits, own)


@pytest.mark.parametrize("present", [("a", "b", "c"), ("b",)])
def test_the_original_case_is_the_original(present):
    """Three modalities, where the cyclic sum of neighbours is the sum over all pairs; and one of them."""
    schema = tables()
    method = new(schema, proxy="first", warmup=0.5).train()
    observed = torch.tensor([name in present for name in schema.names]).repeat(6, 1)
    batch = batch_of(schema, observed)
    total = method.objective(batch, torch.Generator().manual_seed(0)).total
    expected = transcription(method, batch.values, batch.target, present)
    torch.testing.assert_close(total, expected)
    for a, b in zip(
        torch.autograd.grad(total, list(method.parameters()), allow_unused=True),
        torch.autograd.grad(expected, list(method.parameters()), allow_unused=True),
    ):
        if b is not None:
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("proxy", ["mean", "first"])
def test_an_absent_modality_is_its_proxy(proxy):
    schema = tables(4)
    method = new(schema, proxy=proxy)
    batch = batch_of(schema, cases.patterns(4))
    shared, specific, observed = encoded(method, batch)
    composed = method.compose(shared, specific, observed)
    for i, present in enumerate(observed):
        ours = shared[i, present]
        stand_in = ours.mean(0) if proxy == "mean" else ours[0]
        for m in (~present).nonzero()[:, 0]:
            torch.testing.assert_close(composed[i, m], stand_in)
        own = torch.cat([shared[i], specific[i]], dim=1) @ method.residual.weight.T
        torch.testing.assert_close(composed[i, present], (shared[i] + own)[present])


def test_without_the_residual_features_are_the_shared_ones():
    schema = tables()
    method = new(schema)
    torch.nn.init.zeros_(method.residual.weight)
    shared, specific, observed = encoded(method, batch_of(schema, cases.patterns(3)))
    assert torch.equal(method.compose(shared, specific, observed)[observed], shared[observed])


def test_the_first_is_random_in_training_and_fixed_at_prediction():
    schema = tables()
    method = new(schema, proxy="first")
    n = 3000
    shared = torch.eye(3).repeat(n, 1, 1)[..., [0, 1, 2, 2]]
    observed = torch.tensor([[True, True, False]]).expand(n, 3)
    stand_in = method.compose(shared, shared, observed, torch.Generator().manual_seed(0))[:, 2]
    share = (stand_in == shared[:, 0]).all(1).double().mean()
    assert abs(share - 0.5) < 0.03
    assert ((stand_in == shared[:, 0]).all(1) | (stand_in == shared[:, 1]).all(1)).all()
    assert torch.equal(method.compose(shared, shared, observed)[:, 2], shared[:, 0])


def test_alignment_has_the_scale_of_the_cyclic_sum_and_ignores_single_modalities():
    """All features c apart: M · c. A planted alignment that counts absent features as zeros would not pass."""
    schema = tables()
    method = new(schema, warmup=0.9).train()
    method.shared = torch.nn.Linear(4, 4)
    torch.nn.init.eye_(method.shared.weight)
    torch.nn.init.zeros_(method.shared.bias)
    row = torch.zeros(2, 4)
    whole = {"a": row, "b": row + 0.3, "c": row - 0.3}  # apart by .3, .3, .6
    seen = dict.fromkeys("abc", torch.ones(2, dtype=torch.bool))
    batch = cases.Batch(whole, seen, target=torch.tensor([0, 1]))
    terms = method.objective(batch, torch.Generator()).terms
    assert terms["alignment"].item() == pytest.approx(3 * (0.3 + 0.3 + 0.6) / 3)
    (slope,) = torch.autograd.grad(terms["alignment"], method.shared.weight)
    more = {name: torch.cat([value, 5 + torch.randn(3, 4)]) for name, value in whole.items()}
    single = {name: torch.cat([seen[name], torch.arange(3) == m]) for m, name in enumerate("abc")}
    batch = cases.Batch(more, single, target=torch.tensor([0, 1, 0, 1, 2]))
    terms = method.objective(batch, torch.Generator()).terms
    assert terms["alignment"].item() == pytest.approx(1.2)
    torch.testing.assert_close(torch.autograd.grad(terms["alignment"], method.shared.weight)[0], slope)
    zeros_counted = method.shared(torch.stack(list(batch.values.values()), dim=1))
    pairs = [(zeros_counted[:, m] - zeros_counted[:, n]).abs().mean(1) for m, n in ((0, 1), (1, 2), (2, 0))]
    assert sum(pairs).mean().item() != pytest.approx(1.2, abs=0.1)


def test_domains_cannot_be_told_by_equal_logits():
    logits = torch.zeros(2, 3, 3)
    assert domain_classification(logits, torch.ones(2, 3, dtype=torch.bool)).mean().item() == pytest.approx(math.log(3))


def test_which_loss_moves_which_part():
    schema = tables()
    method = new(schema, warmup=0.9).train()
    terms = method.objective(batch_of(schema, cases.mixed_presence(schema)), torch.Generator()).terms
    for name, moved, still in (
        ("alignment", method.shared, method.specific),
        ("domain", method.specific, method.shared),
    ):
        for part, moves in ((moved, True), (still, False)):
            slopes = torch.autograd.grad(terms[name], list(part.parameters()), allow_unused=True, retain_graph=True)
            assert any(s is not None and s.abs().max() > 1e-7 for s in slopes) == moves


def test_rows_that_lack_a_modality_do_not_move_its_specific_network():
    schema = tables()
    method = new(schema).train()
    observed = cases.patterns(3)
    total = method.objective(batch_of(schema, observed[~observed[:, 1]]), torch.Generator()).total
    slopes = torch.autograd.grad(total, list(method.specific["b"].parameters()))
    assert not any(slope.any() for slope in slopes)


def test_a_specific_feature_changes_its_own_modality_only():
    schema = tables(2)
    method = new(schema)
    shared, specific, observed = encoded(method, batch_of(schema, torch.tensor([[True, False]])))
    before = method.compose(shared, specific, observed)
    after = method.compose(shared, specific + 1.0, observed)
    assert (before[:, 0] != after[:, 0]).any()
    assert torch.equal(before[:, 1], after[:, 1])


@pytest.mark.parametrize("proxy", ["mean", "first"])
def test_the_order_of_modalities_matters_to_the_first_only(proxy):
    schema = tables()
    method = new(schema, proxy=proxy)
    shared, specific, observed = encoded(method, batch_of(schema, cases.patterns(3)))
    turned = method.compose(shared.flip(1), specific.flip(1), observed.flip(1)).flip(1)
    assert torch.allclose(method.compose(shared, specific, observed), turned) == (proxy == "mean")


def test_modalities_are_removed_after_the_warm_up():
    schema = tables()
    method = new(schema, warmup=0.4).train()
    batch = batch_of(schema, torch.ones(16, 3, dtype=torch.bool))
    for step in (39, 40):
        method.clock = Clock(step=step, steps=100)
        task = method.objective(batch, torch.Generator().manual_seed(3)).terms["task"]
        removed = draw_removal(batch.presence, torch.Generator().manual_seed(3))
        remaining = batch.presence if step < 40 else removed
        seen = batch.restrict(dict(zip(schema.names, remaining.unbind(1))))
        torch.testing.assert_close(task, method.task_term(method.outputs(seen), seen))
