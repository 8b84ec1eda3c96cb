"""The normal distribution in log space against SciPy."""

import numpy as np
import pytest
import torch
from scipy.special import log_ndtr

from amodal.distributions.log_space import log_complement
from amodal.distributions.normal import (
    normal_hazards,
    normal_log_tails,
    normal_score,
    normal_score_slopes,
    two_tails,
)

F64 = torch.float64


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 6e-6), (F64, 1e-14)])
def test_both_tails_to_any_distance(dtype, tolerance):
    t = torch.cat([torch.linspace(-60, 8, 4001), torch.tensor([-1e3, -1e5])]).to(dtype)
    lower, upper = normal_log_tails(t)
    expected = log_ndtr(t.double().numpy())
    np.testing.assert_allclose(lower.double(), expected, rtol=tolerance)
    np.testing.assert_allclose(normal_log_tails(-t)[1].double(), expected, rtol=tolerance)
    assert bool((upper <= 0).all())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 4e-6), (F64, 1e-13)])
def test_scores_undo_the_tails(dtype, tolerance):
    t = torch.cat([torch.linspace(-50, 50, 2001), torch.tensor([-1e3, 1e3])]).to(dtype)
    np.testing.assert_allclose(normal_score(*normal_log_tails(t)), t, rtol=tolerance, atol=tolerance)


def test_derivatives_of_every_order():
    t = torch.linspace(-35, 35, 15, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(normal_log_tails, t)
    assert torch.autograd.gradgradcheck(normal_log_tails, t)
    log_u = torch.linspace(-50, -0.01, 11, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: normal_score(x, log_complement(x)), log_u)
    assert torch.autograd.gradgradcheck(lambda x: normal_score(x, log_complement(x)), log_u)


def test_hazards_far_out_are_the_distance():
    lower, upper = normal_hazards(torch.tensor([-1e4, -700.0, 700.0], dtype=F64))
    np.testing.assert_allclose(lower, [1e4 + 1e-4, 700 + 1 / 700, 0.0], rtol=1e-8)
    np.testing.assert_allclose(upper.flip(0)[:2], [700 + 1 / 700, 0.0], rtol=1e-8)


def test_two_tails_and_slopes():
    t = torch.tensor([-9.0, -1.0, 0.0, 2.0, 9.0], dtype=F64)
    lower, upper, density = two_tails(t)
    np.testing.assert_allclose(lower, torch.exp(torch.from_numpy(log_ndtr(t.numpy()))), rtol=1e-12)
    np.testing.assert_allclose(upper, torch.exp(torch.from_numpy(log_ndtr(-t.numpy()))), rtol=1e-12)
    np.testing.assert_allclose(density, torch.exp(-t * t / 2) / (2 * torch.pi) ** 0.5)
    log_u = lower.log()
    score, in_lower, in_upper = normal_score_slopes(log_u, upper.log())
    np.testing.assert_allclose(score, t, atol=1e-12)
    np.testing.assert_allclose(in_lower * density / lower - in_upper * density / upper, 1.0, rtol=1e-9)


def test_nothing_in_nothing_out():
    assert normal_log_tails(torch.zeros(0))[0].shape == (0,)
    assert normal_score(torch.zeros(0), torch.zeros(0)).shape == (0,)
