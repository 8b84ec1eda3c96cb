"""Frailties: their Laplace transforms are the Archimedean generators."""

import math

import pytest
import torch

from amodal.distributions.copula.clayton import log_gamma_draw
from amodal.distributions.copula.frank import log_logarithmic
from amodal.distributions.copula.gumbel import log_stable
from amodal.distributions.copula.joe import log_sibuya

N = 40_000


def laplace(log_v, t):
    return torch.exp(-t * log_v.exp()).mean().item()


@pytest.mark.parametrize("t", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("theta", [1.001, 1.5, 4.0, 12.0])
def test_laplace_transforms(theta, t):
    parameter = torch.tensor(theta, dtype=torch.float64)
    tolerance = 4 * 0.5 / math.sqrt(N)
    generator = torch.Generator().manual_seed(0)
    stable = log_stable(parameter, N, generator)
    assert laplace(stable, t) == pytest.approx(math.exp(-(t ** (1 / theta))), abs=tolerance)
    sibuya = log_sibuya(parameter, N, generator)
    assert laplace(sibuya, t) == pytest.approx(1 - (1 - math.exp(-t)) ** (1 / theta), abs=tolerance)
    logarithmic = log_logarithmic(parameter, N, generator)
    expected = -math.log(1 - (1 - math.exp(-theta)) * math.exp(-t)) / theta
    assert laplace(logarithmic, t) == pytest.approx(expected, abs=tolerance)
    gamma = log_gamma_draw((1 / parameter).expand(N), generator)
    assert laplace(gamma, t) == pytest.approx((1 + t) ** (-1 / theta), abs=tolerance)


def test_draws_beyond_floating_point_stay_finite_as_logarithms():
    for theta in (50.0, 800.0):
        parameter = torch.tensor(theta, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        for draw in (log_stable, log_sibuya, log_logarithmic):
            assert bool(torch.isfinite(draw(parameter, 2000, generator)).all())
        assert bool(torch.isfinite(log_gamma_draw((1 / parameter).expand(2000), generator)).all())
