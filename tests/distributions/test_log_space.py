"""Logarithms of probabilities against arithmetic with many digits."""

import math

import mpmath as mp
import numpy as np
import pytest
import torch

from amodal.distributions.log_space import (
    eulerian_weights,
    log1mexp,
    log1mexp_of_log,
    log_complement,
    log_expm1_ratio,
    log_neg_log,
    log_stirling_second,
    logaddexp,
    some_above,
    some_below,
    switch_at,
)

F64 = torch.float64


def exact(function, values):
    with mp.workdps(400):
        return np.array([float(function(mp.mpf(v))) for v in values])


def test_complements():
    x = [1e-300, 1e-30, 1e-12, 0.3, 0.69, 0.7, 0.9, 5.0, 50.0, 700.0]
    tensor = torch.tensor(x, dtype=F64)
    expected = exact(lambda v: mp.log(1 - mp.exp(-v)), x)
    np.testing.assert_allclose(log1mexp(tensor), expected, rtol=1e-14)
    np.testing.assert_allclose(log_complement(-tensor), expected, rtol=1e-14)
    np.testing.assert_allclose(log1mexp_of_log(tensor.log()), expected, rtol=1e-12)
    assert log1mexp_of_log(torch.tensor(-1e4)).item() == -1e4  # x itself has underflowed


def test_double_logarithm_near_one():
    log_1mu = torch.tensor([-1e4, -200.0, -40.0, -16.1, -15.9, -1.0], dtype=F64)
    value = log_neg_log(log_complement(log_1mu), log_1mu)
    expected = exact(lambda v: mp.log(-mp.log(1 - mp.exp(v))), log_1mu.tolist()[1:])
    assert value[0].item() == -1e4
    np.testing.assert_allclose(value[1:], expected, rtol=1e-13)


def test_ratio_through_zero():
    y = [-800.0, -30.0, -1.0, -0.051, -0.049, -1e-9, 1e-9, 0.049, 0.051, 2.0, 800.0]
    value = log_expm1_ratio(torch.tensor(y, dtype=F64))
    np.testing.assert_allclose(value, exact(lambda v: mp.log((1 - mp.exp(-v)) / v), y), rtol=1e-13)
    assert log_expm1_ratio(torch.zeros(1)).item() == 0.0


@pytest.mark.parametrize("function", [log_expm1_ratio, log1mexp, log1mexp_of_log])
def test_derivatives(function):
    x = torch.tensor([0.01, 0.049, 0.051, 0.3, 0.7, 3.0, 40.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_sum_of_exponentials_has_every_derivative_however_far_apart():
    a = torch.tensor([-1e30, -2000.0, 0.3, 5.0], dtype=F64, requires_grad=True)
    b = torch.tensor([0.0, 100.0, 0.3, -3000.0], dtype=F64, requires_grad=True)
    first = torch.autograd.grad(logaddexp(a, b).sum(), a, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), a)[0]
    np.testing.assert_allclose(first.detach(), [0, 0, 0.5, 1])
    np.testing.assert_allclose(second, [0, 0, 0.25, 0])


def test_coefficients_of_polynomials():
    assert [round(math.exp(v)) for v in log_stirling_second(5)] == [1, 15, 25, 10, 1]
    assert [round(v * 24) for v in eulerian_weights(4)] == [1, 11, 11, 1]
    assert eulerian_weights(0) == eulerian_weights(1) == (1.0,)
    h = mp.mpf("0.3")  # the polylogarithm of order -6
    total = sum(mp.mpf(w) * 720 * h**k for k, w in enumerate(eulerian_weights(6)))
    assert float(h * total / (1 - h) ** 7) == pytest.approx(float(mp.polylog(-6, h)), rel=1e-12)


def test_switches():
    x = torch.tensor([-1.0, 0.0, 1.0])
    assert switch_at(x, 0.0, torch.full((3,), 2.0), torch.full((3,), 4.0)).tolist() == [2.0, 3.0, 4.0]
    assert some_below(x, 0.0)
    assert not some_below(x, -1.0)
    assert some_above(x, 0.0)
    assert not some_above(x[:0], 0.0)
