"""Routers and pools of experts: gates by hand, loads against the normal distribution, pools one row at a time."""

import pytest
import torch
from scipy.stats import norm
from torch import nn
from torch.nn import functional

from amodal.fusion.experts import ExpertPool, Router, squared_variation, top_gates

close = torch.testing.assert_close


def make_router(**options):
    torch.manual_seed(1)
    return Router(4, **{"n_experts": 5, "gate": "laplace", "top_k": 2} | options)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_exactly_k_gates_add_up_to_one(k):
    gates = make_router(top_k=k)(torch.randn(20, 4), torch.Generator().manual_seed(0)).gates
    assert ((gates > 0).sum(1) == k).all()
    close(gates.sum(1), torch.ones(20))
    assert torch.equal(make_router(n_experts=1, top_k=1)(torch.randn(3, 4)).gates, torch.ones(3, 1))


def test_only_distances_are_blind_to_a_shift_of_inputs_and_centres():
    x, shift = torch.randn(6, 4), torch.randn(4)
    for gate, blind in (("laplace", True), ("gaussian", True), ("softmax", False)):
        router = make_router(gate=gate)
        before = router(x).probabilities
        router.centres.data += shift
        assert torch.allclose(router(x + shift).probabilities, before, atol=1e-5) == blind


def test_the_load_is_the_chance_of_being_chosen():
    """An expert's own noise is drawn anew, the others' is as it was: by the normal distribution, and by drawing."""
    router = make_router()
    nn.init.normal_(router.noise, std=0.5)
    x = torch.randn(3, 4)
    found = router(x, torch.Generator().manual_seed(2)).load
    noise = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    clean, scale = router.logits(x), functional.softplus(x @ router.noise.T - 3) + 0.01
    noisy = clean + noise * scale
    expected = torch.zeros(5)
    for i in range(3):
        for e in range(5):
            others = sorted((noisy[i, o].item() for o in range(5) if o != e), reverse=True)
            expected[e] += norm.cdf((clean[i, e].item() - others[1]) / scale[i, e].item())
    close(found, expected)
    routed = router(x)
    assert torch.equal(routed.load, (routed.gates > 0).sum(0).float())


@pytest.mark.parametrize("k", [1, 3, 5])
def test_gates_that_are_not_renormalised_are_those_of_all_experts(k):
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    gates = top_gates(logits, k, renormalise=False)
    kept = gates > 0
    assert (kept.sum(1) == k).all()
    close(gates[kept], logits.softmax(1)[kept])
    assert (gates.sum(1) <= 1 + 1e-6).all()
    close(top_gates(logits, 5, renormalise=False), logits.softmax(1))
    close(top_gates(logits, k), torch.where(kept, logits, -torch.inf).softmax(1))


def test_a_pool_one_input_and_one_expert_at_a_time():
    torch.manual_seed(0)
    pool = ExpertPool(4, 3, 2, hidden=5)
    x, gates = torch.randn(9, 3), top_gates(torch.randn(9, 4), 2)
    gates[:, 3] = 0  # an expert that nothing is sent to
    expected = torch.zeros(9, 2)
    for i in range(9):
        for e in range(4):
            inner = functional.gelu(x[i] @ pool.first[e] + pool.first_bias[e])
            expected[i] += gates[i, e] * (inner @ pool.second[e] + pool.second_bias[e])
    close(pool(x, gates), expected)


def test_variation_of_loads():
    assert squared_variation(torch.full((4,), 3.0)) == 0
    close(squared_variation(torch.tensor([0.0, 0.0, 6.0])), torch.tensor(3.0))  # variance 12, mean 2
    assert squared_variation(torch.ones(1)) == 0
