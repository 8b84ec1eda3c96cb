"""Measures of dependence, pseudo-observations, the test of independence: against closed forms and other libraries."""

import math

import numpy as np
import pandas as pd
import pytest
import pyvinecopulib as pv
import torch
from scipy.integrate import quad
from scipy.stats import kendalltau, spearmanr
from scipy.stats import t as student

from amodal.distributions.copula import (
    FAMILIES,
    Clayton,
    Frank,
    GaussianCopula,
    Gumbel,
    Independence,
    Joe,
    Rotated,
    StudentTCopula,
    independence_test,
    pseudo_observations,
)
from amodal.errors import DataError, ShapeError

F64 = torch.float64
R3 = [[1.0, 0.5, 0.3], [0.5, 1.0, -0.4], [0.3, -0.4, 1.0]]


# ---------------------------------------------------------------- Spearman's rho


@pytest.mark.parametrize("theta", [-40.0, -5.0, -0.3, 0.5, 5.0, 40.0])
def test_spearman_of_frank_in_closed_form(theta):
    """1 - 12 (D_1 - D_2) / theta with the Debye functions."""
    size = abs(theta)
    debye = [n / size**n * quad(lambda t: t**n / np.expm1(t), 0, size)[0] for n in (1, 2)]  # noqa: B023
    expected = math.copysign(1 - 12 / size * (debye[0] - debye[1]), theta)
    assert Frank(theta).spearman_rho().item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("rho", [-0.9, 0.2, 0.99])
def test_spearman_of_the_gaussian_copula_by_quadrature_and_in_closed_form(rho):
    copula = GaussianCopula(rho)
    closed = 6 / math.pi * math.asin(rho / 2)
    assert copula.spearman_rho()[0, 1].item() == pytest.approx(closed, rel=1e-12)
    assert super(GaussianCopula, copula).spearman_rho().item() == pytest.approx(closed, abs=1e-7)


@pytest.mark.parametrize("copula", [Clayton(2.0), Gumbel(1.5), Gumbel(6.0), Joe(2.0), Clayton(20.0)])
def test_spearman_is_twelve_times_the_integral_of_the_distribution_function_less_three(copula):
    x, w = np.polynomial.legendre.leggauss(60)
    u, share, weight = (x + 1) / 2, (x + 1) / 2, w / 2
    # over the triangle v < u, v = u s, twice: the function has a ridge on the diagonal
    points = torch.from_numpy(np.stack(np.broadcast_arrays(u[:, None], u[:, None] * share), -1))
    integral = 2 * (copula.log_cdf(points).exp().numpy() * u[:, None] * weight[:, None] * weight).sum()
    assert copula.spearman_rho().item() == pytest.approx(12 * integral - 3, abs=1e-5)


@pytest.mark.parametrize("copula", [StudentTCopula(R3, df=3.0), GaussianCopula(R3), Gumbel(1.7, 3), Joe(3.0, 3)])
def test_spearman_of_draws(copula):
    u = copula.sample(40_000, generator=torch.Generator().manual_seed(0)).double()
    rho = copula.spearman_rho()
    rho = rho if rho.ndim else rho.expand(3, 3)
    for i, j in ((1, 0), (2, 0), (2, 1)):
        assert spearmanr(u[:, i], u[:, j])[0] == pytest.approx(rho[i, j].item(), abs=0.02)


def test_measures_have_the_shape_of_the_parameters():
    tau = torch.tensor([0.1, 0.5], dtype=F64)
    for name in FAMILIES.keys() - {"independence"}:
        for dim in (2, 3):
            copula = FAMILIES[name].from_kendall_tau(tau, dim)
            shape = copula.kendall_tau().shape
            assert copula.spearman_rho().shape == shape
            assert all(part.shape == shape for part in copula.tail_dependence())
            assert bool((copula.spearman_rho().diff(dim=0) >= 0).all())
    turned = Rotated(GaussianCopula(0.5), 90)
    torch.testing.assert_close(turned.spearman_rho(), GaussianCopula(-0.5).spearman_rho())
    assert Rotated(Clayton(2.0), 90).spearman_rho() == -Clayton(2.0).spearman_rho()
    assert Independence().spearman_rho() == 0


# ---------------------------------------------------------------- tails


@pytest.mark.parametrize(
    "copula",
    [
        Clayton(1.5),
        Gumbel(2.0),
        Joe(1.5),
        Frank(5.0),
        Frank(-3.0),
        Rotated(Clayton(1.5), 180),
        Rotated(Gumbel(2.0), 90),
    ],
)
def test_tail_dependence_is_the_limit_of_the_distribution_function(copula):
    lower, upper = copula.tail_dependence()
    q = torch.tensor([[1e-9, 1e-9]], dtype=F64)
    assert (copula.log_cdf(q).exp() / 1e-9).item() == pytest.approx(lower.item(), abs=1e-3)
    survival = 1 - 2 * (1 - 1e-9) + copula.log_cdf(1 - q).exp()
    assert (survival / 1e-9).item() == pytest.approx(upper.item(), abs=1e-3)


def test_tail_dependence_of_the_elliptical():
    lower, upper = StudentTCopula(R3, df=4.0).tail_dependence()
    expected = 2 * student.cdf(-math.sqrt(5 * 0.5 / 1.5), 5)
    assert lower[0, 1].item() == upper[1, 0].item() == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(lower.diagonal(), torch.ones(3, dtype=F64))
    assert all(torch.equal(part, torch.eye(3, dtype=F64)) for part in GaussianCopula(R3).tail_dependence())


# ---------------------------------------------------------------- pseudo-observations, independence


def test_pseudo_observations_agree_with_pyvinecopulib():
    data = np.random.default_rng(0).normal(size=(50, 3)) * [1.0, 100.0, 1e-3]
    expected = pv.to_pseudo_obs(data)
    for given in (data, torch.from_numpy(data), pd.DataFrame(data), data.tolist()):
        np.testing.assert_allclose(pseudo_observations(given), expected, rtol=1e-12)
    np.testing.assert_allclose(pseudo_observations(np.exp(data / data.std(0))), expected, rtol=1e-12)  # ranks only


def test_pseudo_observations_with_ties_and_absence():
    data = np.array([[1.0, 5.0], [1.0, 4.0], [3.0, np.nan], [7.0, 1.0]])
    observed = np.array([[True, True], [True, True], [True, True], [False, True]])
    u = pseudo_observations(data, observed)
    np.testing.assert_allclose(u, [[0.375, 0.75], [0.375, 0.5], [0.75, np.nan], [np.nan, 0.25]])
    Gumbel(2.0).log_density(u, ~torch.isnan(u))
    with pytest.raises(ShapeError, match="rows by margins"):
        pseudo_observations(data[0])
    with pytest.raises(ShapeError, match="observed must have the shape of data"):
        pseudo_observations(data, observed[:2])


def test_the_test_of_independence_is_that_of_genest_and_favre():
    u = torch.rand(400, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    u[:, 2] = 0.7 * u[:, 1] + 0.3 * u[:, 2]
    test = independence_test(u)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        tau = kendalltau(u[:, i], u[:, j])[0]
        score = math.sqrt(9 * 400 * 399 / (2 * 805)) * abs(tau)
        assert test.tau[i, j].item() == pytest.approx(tau)
        assert test.p_values[i, j].item() == pytest.approx(math.erfc(score / math.sqrt(2)), rel=1e-6)
    assert test.p_value == pytest.approx(3 * test.p_values[1, 2].item())


def test_the_test_of_independence_keeps_its_level():
    generator, rejected = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        u = torch.rand(60, 3, dtype=F64, generator=generator)
        observed = torch.rand(60, 3, generator=generator) < 0.8
        rejected += independence_test(torch.where(observed, u, torch.nan), observed=observed).p_value < 0.05
    assert rejected <= 20  # 10 expected, 3 standard errors
    with pytest.raises(DataError, match="too few rows"):
        independence_test(u[:5])
