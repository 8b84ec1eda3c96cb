"""MUSE: a transcription of the published graph, edge by edge, its losses, and predictions with frozen messages."""

import math

import pytest
import torch
from contracts import cases
from torch.nn import functional

from amodal.methods import muse as module
from amodal.methods.muse import MUSE


def new(task="multiclass", **options):
    schema = cases.make_schema(task, "tables")
    torch.manual_seed(0)
    return MUSE(schema, cases.identities(schema), **{"hidden": 6, "dropout": 0.0} | options)


def batch_of(method, observed, seed=1):
    batch = cases.make_batch(method.schema, observed, seed=seed)
    return type(batch)(batch.values, batch.observed, {}, {}, batch.target)


def published(method, edges, observed):
    """The graph as a list of directed edges with an attribute each, one at a time."""
    n, m = observed.shape
    x = {("case", i): torch.ones(edges.shape[2]) for i in range(n)}
    x |= {("modality", k): method.nodes[k] for k in range(m)}
    e = {}
    for i, k in observed.nonzero().tolist():
        e["case", i, "modality", k] = e["modality", k, "case", i] = edges[i, k]
    for index, layer in enumerate(method.layers):
        heard = {node: [] for node in x}
        for (a, i, b, j), attribute in e.items():
            heard[b, j].append(torch.relu(layer.message(torch.cat([x[a, i], attribute]))))
        zero = torch.zeros(edges.shape[2])
        mean = {node: torch.stack(some).mean(0) if some else zero for node, some in heard.items()}
        x = {node: torch.relu(layer.node(torch.cat([mean[node], state]))) for node, state in x.items()}
        if index < len(method.layers) - 1:
            e = {
                (a, i, b, j): torch.relu(layer.edge(torch.cat([x[a, i], x[b, j], attribute])))
                for (a, i, b, j), attribute in e.items()
            }
    return torch.stack([x["case", i] for i in range(n)])


def contrasts(u, v, target):
    """The published losses of two views, the supervised one with its three terms."""
    s, own = u @ v.T / 0.07, torch.arange(len(u))
    unsupervised = 0.5 * (functional.cross_entropy(s, own) + functional.cross_entropy(s.T, own))
    same = (target[:, None] == target).float()
    bce = [functional.binary_cross_entropy_with_logits(x, same) for x in (u @ u.T / 0.07, s, s.T)]
    return unsupervised, (2 * bce[0] + bce[1] + bce[2]) / 4


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_graph_is_the_published_one(layers):
    method = new(layers=layers)
    edges, observed = method.edges(batch_of(method, cases.patterns(3)))
    torch.testing.assert_close(method.embed(edges, observed)[0], published(method, edges, observed))


def test_loss_and_gradients_are_the_published_ones(monkeypatch):
    method = new().train()
    batch = batch_of(method, cases.mixed_presence(method.schema, 2))
    kept = batch.presence & (torch.arange(3) != 1)
    kept[~kept.any(1)] = batch.presence[~kept.any(1)]
    monkeypatch.setattr(module, "draw_strict_subset", lambda observed, generator: kept)
    method.edge_drop = 1.0
    total = method.objective(batch, torch.Generator()).total
    edges, observed = method.edges(batch)
    z, other = published(method, edges, observed), published(method, edges, kept)
    u, v = (functional.normalize(torch.tanh(method.projection[0](x)), dim=1) for x in (z, other))
    unsupervised, supervised = contrasts(u, v, batch.target)
    expected = 0.5 * unsupervised + 0.5 * supervised + functional.cross_entropy(method.classifier(z), batch.target)
    torch.testing.assert_close(total, expected)
    parameters = list(method.parameters())
    for a, b in zip(torch.autograd.grad(total, parameters), torch.autograd.grad(expected, parameters)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_directions_of_an_edge_differ_from_the_second_layer_on():
    """A planted shared attribute (one tensor for both) would pass with two layers only if messages did not differ."""
    method = new(layers=3)
    edges, _ = method.edges(batch_of(method, cases.patterns(3)))
    layer, nodes = method.layers[0], method.nodes
    cases_, spread = torch.ones_like(edges), nodes.expand_as(edges)
    assert not torch.allclose(layer.turn(cases_, spread, edges), layer.turn(spread, cases_, edges))


def test_predictions_after_one_batch_are_the_published_ones_of_this_batch():
    """The running means are then that batch's; with other neighbours the published prediction is another one."""
    method = new(layers=3).train()
    batch = batch_of(method, cases.mixed_presence(method.schema))
    method.objective(batch, torch.Generator().manual_seed(0))
    method.eval()
    edges, observed = method.edges(batch)
    expected = method.classifier(published(method, edges, observed)).softmax(-1)
    torch.testing.assert_close(method.predict(batch), expected)
    few = batch.take(torch.arange(3))
    torch.testing.assert_close(method.predict(few), expected[:3])
    alone = method.classifier(published(method, *method.edges(few))).softmax(-1)
    assert (alone - expected[:3]).abs().max() > 5e-5


def test_means_of_messages_forget():
    method = new().train()
    one, two = (batch_of(method, torch.ones(5, 3, dtype=torch.bool), seed=seed) for seed in (1, 2))
    told = []
    for batch in (one, two):
        told.append(method.embed(*method.edges(batch))[1][0].mean(0))
        method.objective(batch, torch.Generator().manual_seed(0))
    mean = method.message_sum[0] / method.message_count[0]
    torch.testing.assert_close(mean, (0.95 * told[0] + told[1]) / 1.95)


def test_without_dropped_edges_both_views_are_one():
    method = new(edge_drop=0.0).train()
    batch = batch_of(method, cases.patterns(3))
    terms = method.objective(batch, torch.Generator().manual_seed(0)).terms
    u = functional.normalize(method.projection(method.embed(*method.edges(batch))[0]), dim=1)
    torch.testing.assert_close(terms["unsupervised"], contrasts(u, u, batch.target)[0])


def test_equal_embeddings_cannot_be_told_apart():
    method = new().train()
    for layer in method.layers:
        torch.nn.init.zeros_(layer.node.weight)
    batch = batch_of(method, cases.patterns(3))
    terms = method.objective(batch, torch.Generator()).terms
    assert terms["unsupervised"].item() == pytest.approx(math.log(7), rel=1e-5)


def test_twice_the_same_batch_changes_nothing():
    method = new()
    batch = batch_of(method, cases.patterns(3))
    twice = batch.take(torch.arange(14) % 7)
    once = method.embed(*method.edges(batch))[0]
    torch.testing.assert_close(method.embed(*method.edges(twice))[0][7:], once)


def test_edges_are_dropped_in_the_stated_share(monkeypatch):
    """Half of the cases with several edges lose some, none all; the number that is kept is uniform."""
    method, seen = new().train(), []
    embed = method.embed
    monkeypatch.setattr(method, "embed", lambda edges, observed, *rest: seen.append(observed) or embed(edges, observed))
    observed = torch.ones(600, 3, dtype=torch.bool)
    observed[::3, 1:] = False
    method.objective(batch_of(method, observed), torch.Generator().manual_seed(0))
    full, kept = seen
    assert torch.equal(full, observed)
    assert not (kept & ~observed).any()
    assert torch.equal(kept[::3], observed[::3])
    n = kept[observed.all(1)].sum(1)
    shares = [float((n == k).double().mean()) for k in (0, 1, 2, 3)]
    assert shares == pytest.approx([0.0, 0.25, 0.25, 0.5], abs=0.06)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_rows_without_a_label_enter_the_other_contrast_only(task):
    """A planted agreement of unknown labels would move the supervised contrast."""
    method = new(task).train()
    batch = batch_of(method, torch.ones(8, 3, dtype=torch.bool))
    known = torch.arange(8) < 5
    target = torch.where(known.view(-1, *[1] * (batch.target.ndim - 1)), batch.target.nan_to_num(1.0), torch.nan)
    one = torch.nn.functional.normalize(torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    other = one.flip(1)
    found = method._supervised(one, other, target)
    torch.testing.assert_close(found, method._supervised(one[:5], other[:5], target[:5]))
    assert method._supervised(one, other, torch.full_like(target, torch.nan)).item() == 0


def test_dead_coordinates_are_watched():
    method = new()
    torch.nn.init.zeros_(method.layers[-1].node.weight)
    torch.nn.init.constant_(method.layers[-1].node.bias, -1.0)
    assert method.monitor(batch_of(method, cases.patterns(3))) == {"dead_coordinates": 1.0}
