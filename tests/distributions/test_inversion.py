"""Roots of increasing functions, and gradients through them."""

import numpy as np
import pytest
import torch

from amodal.distributions.inversion import attach_root, solve_increasing

F64 = torch.float64


@pytest.mark.parametrize(
    "function",
    [lambda x: x**3, torch.sinh, lambda x: x + 0.9 * torch.sin(x), lambda x: torch.atan(50 * x), lambda x: 1e-8 * x],
)
def test_roots_to_the_precision_of_the_numbers(function):
    truth = torch.linspace(-5, 5, 101, dtype=F64)
    calls = []

    def excess(x):
        calls.append(None)
        return function(x) - function(truth)

    root = solve_increasing(excess, torch.full_like(truth, -7.0), torch.full_like(truth, 9.0))
    np.testing.assert_allclose(root, truth, atol=1e-7 if function(truth)[50].item() == 0 and len(calls) > 90 else 1e-9)
    assert len(calls) <= 103


def test_where_there_is_no_root_the_nearer_end_is_returned():
    ends = torch.zeros(2), torch.ones(2)
    assert solve_increasing(lambda x: x + torch.tensor([1.0, -5.0]), *ends).tolist() == [0.0, 1.0]


def test_infinite_values_are_large_ones():
    root = solve_increasing(lambda x: torch.log(x.clamp_min(0.0)), torch.full((1,), -1.0), torch.full((1,), 9.0))
    assert root.item() == pytest.approx(1.0, abs=1e-6)


def test_gradients_of_a_root():
    p = torch.tensor([0.5, 2.0], dtype=F64, requires_grad=True)

    def root(p):
        def excess(x):
            return x**3 + x - p

        return attach_root(excess, solve_increasing(excess, torch.full_like(p, -5.0), torch.full_like(p, 5.0)))

    assert torch.autograd.gradcheck(root, p)
    with torch.no_grad():
        assert not root(p).requires_grad
    assert not root(p.detach()).requires_grad


def test_single_precision_ends_after_few_evaluations():
    """Once an element is done it stays done: steps inside a bracket of a few roundings would leave it again."""
    truth = torch.randn(5_000, generator=torch.Generator().manual_seed(0))
    calls = []

    def excess(x):
        calls.append(None)
        return torch.tanh(x) + 0.1 * x - (torch.tanh(truth) + 0.1 * truth)

    root = solve_increasing(excess, torch.full_like(truth, -6.0), torch.full_like(truth, 6.0))
    assert len(calls) <= 40
    torch.testing.assert_close(root, truth, rtol=1e-5, atol=1e-6)


def test_a_least_slope_bounds_the_gradient_and_leaves_steeper_roots_alone():
    for slope, gradient in ((1e-8, 1 / 0.05), (2.0, 0.5)):
        p = torch.tensor(0.3, requires_grad=True)
        attach_root(lambda x: slope * x - p, torch.tensor(0.3 / slope), least_slope=0.05).backward()  # noqa: B023
        assert p.grad.item() == pytest.approx(gradient)
