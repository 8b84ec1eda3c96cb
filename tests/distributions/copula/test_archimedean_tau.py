"""Kendall's tau of Frank and Joe against the integral and the series, and their derivatives."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from amodal.distributions.copula.frank import frank_tau
from amodal.distributions.copula.joe import joe_tau

F64 = torch.float64


@pytest.mark.parametrize("theta", [1e-6, 0.05, 0.0999, 0.1001, 1.0, 5.0, 39.0, 41.0, 300.0])
def test_frank(theta):
    debye = quad(lambda t: t / np.expm1(t), 0, min(theta, 700), limit=200)[0] / theta
    expected = theta / 9 if theta < 1e-3 else 1 - 4 / theta * (1 - debye)
    value = frank_tau(torch.tensor([theta, -theta], dtype=F64))
    np.testing.assert_allclose(value, [expected, -expected], rtol=1e-9)


@pytest.mark.parametrize("theta", [1.0, 1.5, 1.9995, 2.0, 2.003, 5.0, 40.0])
def test_joe(theta):
    k = np.arange(1, 400_000)
    series = 1 - 4 * (1 / (k * (theta * k + 2) * (theta * (k - 1) + 2))).sum()
    assert joe_tau(torch.tensor(theta, dtype=F64)).item() == pytest.approx(series, abs=1e-10)


def test_derivatives():
    assert torch.autograd.gradcheck(
        frank_tau, torch.tensor([-8.0, -0.05, 0.0, 0.05, 3.0], dtype=F64, requires_grad=True)
    )
    assert torch.autograd.gradcheck(joe_tau, torch.tensor([1.1, 2.0, 2.0001, 7.0], dtype=F64, requires_grad=True))
