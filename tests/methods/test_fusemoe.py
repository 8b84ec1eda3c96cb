"""FuseMoE: one layer against a plain transcription, routers, the terms of balance and entropy, and XOR."""

import math

import pytest
import torch
from contracts import cases
from torch import nn
from torch.nn import functional

from amodal.batch import Batch
from amodal.errors import ConfigurationError
from amodal.fusion.experts import ExpertPool
from amodal.methods.fusemoe import ExpertLayer, FuseMoE, entropy_term

close = torch.testing.assert_close
SMALL = {"experts": 6, "hidden": 8, "dropout": 0.0}


def case(task="binary", observed=None, **options):
    schema = cases.make_schema(task, "tables")
    torch.manual_seed(0)
    method = FuseMoE(schema, cases.identities(schema), **SMALL | options)
    observed = cases.mixed_presence(schema, 2) if observed is None else observed
    return method.eval(), cases.make_batch(schema, observed, seed=1)


# One row at a time, from the sheet of the method ---------------------------------------------------------------------


def expert(pool, e, x):
    return functional.gelu(x @ pool.first[e] + pool.first_bias[e]) @ pool.second[e] + pool.second_bias[e]


def gates_of(router, x, noise=None):
    """Laplace, Gaussian or dot-product logits, noise, the k largest, a softmax among these."""
    if router.gate == "softmax":
        logits = [x @ w for w in router.centres]
    else:
        logits = [-((x - w).norm() if router.gate == "laplace" else (x - w).norm() ** 2) for w in router.centres]
    logits = torch.stack(logits) / router.temperature
    if noise is not None:
        logits = logits + noise * (functional.softplus(router.noise @ x - 3) + 0.01)
    chosen = sorted(range(len(logits)), key=lambda e: -logits[e])[: router.top_k]
    total = sum(logits[e].exp() for e in chosen)
    return {e: logits[e].exp() / total for e in chosen}


def row_outputs(method, x, observed, kind, noise=None):
    """Outputs of one row; `noise[layer][modality]` in training."""
    m, d = x.shape
    z = [x[n] + method.kinds[n] if observed[n] else method.absent[n] for n in range(m)]
    for i, layer in enumerate(method.layers):
        inputs = [layer.norms[n](z[n]) for n in range(m)]
        if kind == "joint":
            inputs = [torch.cat(inputs)]
        y = torch.zeros(m, d)
        for n, given in enumerate(inputs):
            pool = layer.pools[n] if kind == "disjoint" else layer.pools[0]
            for e, g in gates_of(layer.routers[n], given, None if noise is None else noise[i][n]).items():
                y = y + g * expert(pool, e, given).view(m, d)
        z = [z[n] + y[n] for n in range(m)]
        for n in range(m):
            first_norm, up, _, _, down = layer.feedforward[n]
            z[n] = z[n] + down(up(first_norm(z[n])).relu())
    together = torch.cat([method.norm(part) for part in z])
    up, _, _, down = method.residual
    return method.head(together + down(up(together).relu()))


@pytest.mark.parametrize("kind", ["per_modality", "disjoint", "joint"])
@pytest.mark.parametrize("gate", ["laplace", "gaussian", "softmax"])
def test_predictions_written_out(kind, gate):
    method, batch = case(router=kind, gate=gate, temperature=1.5)
    features = torch.stack(list(batch.values.values()), 1)
    found = method.outputs(batch)
    for i in range(len(batch)):
        close(found[i], row_outputs(method, features[i], batch.presence[i], kind), rtol=1e-4, atol=1e-5)


def test_training_written_out_with_the_same_noise():
    method, batch = case()
    for layer in method.layers:
        for router in layer.routers:
            nn.init.normal_(router.noise, std=0.3)
    features, n = torch.stack(list(batch.values.values()), 1), len(batch)
    draws = torch.Generator().manual_seed(5)
    noise = [[torch.randn(n, 6, generator=draws) for _ in range(3)] for _ in range(2)]
    outputs = torch.stack(
        [
            row_outputs(method, x, seen, "per_modality", [[part[i] for part in layer] for layer in noise])
            for i, (x, seen) in enumerate(zip(features, batch.presence))
        ]
    )
    found = method.objective(batch, torch.Generator().manual_seed(5))
    close(found.terms["task"], functional.cross_entropy(outputs, batch.target))
    assert found.weights == {"balance": 0.01, "entropy": 0.01}


# Terms --------------------------------------------------------------------------------------------------------------


def test_balance():
    method, batch = case()
    assert method.objective(batch, torch.Generator().manual_seed(0)).terms["balance"] > 0


def test_entropy_of_uniform_and_of_divided_experts():
    close(entropy_term(torch.full((3, 5), 0.2)), torch.tensor(0.0), atol=1e-6, rtol=0)
    close(entropy_term(torch.eye(5)[:3]), torch.tensor(-math.log(3)))


# Layers --------------------------------------------------------------------------------------------------------------


def test_experts_permuted_with_their_centres_and_identical_experts():
    torch.manual_seed(0)
    layer = ExpertLayer(2, 4, "per_modality", 5, hidden=8, dropout=0.0, gate="laplace", top_k=2)
    streams, order = torch.randn(6, 2, 4), torch.tensor([3, 0, 4, 1, 2])
    before = layer(streams, None)[0]
    parts = [layer.pools[0].first, layer.pools[0].first_bias, layer.pools[0].second, layer.pools[0].second_bias]
    for part in [*parts, *(p for router in layer.routers for p in (router.centres, router.noise))]:
        part.data = part.data[order]
    close(layer(streams, None)[0], before)
    pool = ExpertPool(3, 4, 2, hidden=8)
    for part in pool.parameters():
        part.data = part.data[:1].repeat(3, *[1] * (part.ndim - 1))
    x, gates = torch.randn(7, 4), torch.rand(7, 3).softmax(1)
    close(pool(x, gates), expert(pool, 0, x))


def test_a_learned_vector_stands_for_an_absent_modality():
    """Its gradient comes from rows that lack the modality alone, and these share one stream."""
    observed = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    method, batch = case(observed=observed)
    method.objective(batch, torch.Generator().manual_seed(0)).total.backward()
    assert method.absent.grad.flatten(1).any(1).tolist() == [False, True, True]
    full = batch.take(torch.tensor([2]))
    method.zero_grad()
    method.objective(full, torch.Generator().manual_seed(0)).total.backward()
    assert not method.absent.grad.any()


def test_every_router_learns_and_predictions_are_without_noise():
    method, batch = case()
    method.objective(batch, torch.Generator().manual_seed(0)).total.backward()
    assert all(r.centres.grad.any() and r.noise.grad.any() for layer in method.layers for r in layer.routers)
    assert torch.equal(method.train().predict(batch), method.predict(batch))
    losses = [method.objective(batch, torch.Generator().manual_seed(s)).total for s in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


class Additive(FuseMoE):
    """A planted fault: experts write to their own stream, and the read-out is a mean with a linear map."""

    def routed(self, batch, generator):
        x = torch.stack(list(batch.values.values()), 1)
        routing, streams = [], torch.zeros_like(x)
        for m, router in enumerate(self.layers[0].routers):
            routing.append(router(self.layers[0].norms[m](x[:, m]), generator))
            own = self.layers[0].pools[0](x[:, m], routing[-1].gates)
            streams[:, m] = streams[:, m] + own[:, : x.shape[2]]
        return self.head(streams.mean(1).repeat(1, x.shape[1])), [routing]


def xor_accuracy(build):
    """Accuracy on 500 new rows after learning whether the clusters of two modalities differ."""
    modality, draw = cases.Modality, torch.Generator().manual_seed(0)
    schema = cases.Schema((modality("a", "tabular", (4,)), modality("b", "tabular", (4,))), cases.TASKS["binary"])
    direction = torch.tensor([1.0, -1.0, 1.0, -1.0])

    def rows(n):
        sides = torch.randint(0, 2, (n, 2), generator=draw)
        values = {
            name: (2 * sides[:, [i]] - 1) * direction + 0.4 * torch.randn(n, 4, generator=draw)
            for i, name in enumerate("ab")
        }
        present = {name: torch.ones(n, dtype=torch.bool) for name in "ab"}
        return Batch(values, present, target=(sides[:, 0] != sides[:, 1]).long())

    torch.manual_seed(0)
    options = {"experts": 4, "hidden": 16, "layers": 1, "dropout": 0.0}
    method = cases.train(build(schema, cases.identities(schema), **options), rows(128), steps=40)
    test = rows(500)
    return (method.predict(test).argmax(1) == test.target).float().mean().item()


def test_xor_is_learned_and_an_additive_reading_is_caught():
    assert xor_accuracy(FuseMoE) > 0.9
    assert xor_accuracy(Additive) < 0.65


def test_one_expert_that_suffices_is_chosen_by_the_others_absence():
    """The gates of what is there do not depend on what is missing at the first layer: the router sees its stream."""
    method, batch = case(observed=torch.tensor([[True, True, True], [True, False, False]]))
    same = Batch({k: v[:1].expand(2, -1) for k, v in batch.values.items()}, batch.observed, target=batch.target)
    first = method.routed(same, None)[1][0]
    close(first[0].gates[0], first[0].gates[1])
    assert not torch.allclose(first[1].gates[0], first[1].gates[1])


def test_options_that_cannot_be():
    schema = cases.make_schema(modalities="tables")
    with pytest.raises(ConfigurationError, match=r"fewer experts than are to be chosen \(expected top_k ≤ 1, got 2\)"):
        FuseMoE(schema, router="disjoint", experts=5)
