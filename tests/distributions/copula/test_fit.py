"""Fitting: against pyvinecopulib, against the truth, with margins absent."""

import numpy as np
import pytest
import pyvinecopulib as pv
import torch
from scipy.stats import kendalltau

from amodal.distributions.copula import (
    Clayton,
    Frank,
    GaussianCopula,
    Gumbel,
    Independence,
    Joe,
    StudentTCopula,
    maximise_likelihood,
    parameter_intervals,
)
from amodal.distributions.copula.fit import nearest_correlation, pairwise_kendall_tau
from amodal.errors import DataError, ShapeError

R3 = [[1.0, 0.6, 0.2], [0.6, 1.0, -0.3], [0.2, -0.3, 1.0]]


def draws(copula, n=1000, seed=0):
    return copula.sample(n, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize(
    ("family", "other"),
    [
        (Clayton, pv.BicopFamily.clayton),
        (Gumbel, pv.BicopFamily.gumbel),
        (Frank, pv.BicopFamily.frank),
        (Joe, pv.BicopFamily.joe),
        (GaussianCopula, pv.BicopFamily.gaussian),
    ],
)
def test_maximum_likelihood_agrees_with_pyvinecopulib(family, other):
    u = draws(family.from_kendall_tau(0.4))
    fitted = family.fit(u)
    reference = pv.Bicop(other)
    reference.fit(u.numpy())
    ours = fitted.correlation[0, 1] if family is GaussianCopula else fitted.theta
    assert ours.item() == pytest.approx(float(reference.parameters[0, 0]), rel=2e-3)
    assert fitted.log_density(u).sum().item() >= reference.loglik(u.numpy()) - 1e-4
    assert not any(p.requires_grad for p in fitted.parameters())


def test_student_finds_correlation_and_degrees_of_freedom():
    u = draws(StudentTCopula(R3, df=3.0), 1200)
    fitted = StudentTCopula.fit(u, iterations=30)
    assert fitted.df == pytest.approx(3.0, rel=0.3)
    np.testing.assert_allclose(fitted.correlation.detach(), R3, atol=0.07)
    assert StudentTCopula.fit(u[:200], df=4.0).df == 4.0


@pytest.mark.parametrize("family", [Clayton, Gumbel, Frank, Joe])
def test_rows_with_absent_margins_teach_what_they_can(family):
    truth = family.from_kendall_tau(0.5, 3)
    u = draws(truth, 1500)
    observed = torch.rand(u.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    fitted = family.fit(torch.where(observed, u, torch.nan), observed=observed)
    lower, upper = parameter_intervals(fitted, torch.where(observed, u, torch.nan), observed=observed, level=0.999)[
        "theta"
    ]
    assert lower < truth.theta < upper
    gaussian = GaussianCopula.fit(torch.where(observed, u, torch.nan), observed=observed)
    assert gaussian.kendall_tau()[0, 1].item() == pytest.approx(0.5, abs=0.06)


def test_independent_data_leave_independence():
    noise = torch.rand(2000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for family in (Clayton, Gumbel, Frank, Joe, GaussianCopula):
        tau = family.fit(noise).kendall_tau()
        tau = tau if tau.ndim == 0 else (tau - torch.eye(3)).abs().max()
        assert abs(tau.item()) < 0.03


def test_pairwise_tau_is_that_of_the_rows_with_both():
    u = draws(Gumbel(2.0, 3), 300)
    observed = torch.rand(u.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    taus, p_values = pairwise_kendall_tau(u, observed)
    both = observed[:, 0] & observed[:, 2]
    assert taus[0, 2].item() == pytest.approx(kendalltau(u[both, 0], u[both, 2])[0])
    assert p_values[0, 2].item() == pytest.approx(kendalltau(u[both, 0], u[both, 2])[1])
    observed[:, 1] = False
    assert [part[0, 1].item() for part in pairwise_kendall_tau(u, observed)] == [0.0, 1.0]


def test_nearest_correlation_is_one():
    broken = torch.tensor([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]], dtype=torch.float64)
    mended = nearest_correlation(broken)
    assert torch.linalg.eigvalsh(mended).min() > 0
    np.testing.assert_allclose(mended.diagonal(), 1.0)
    GaussianCopula(mended)


def test_what_cannot_be_fitted():
    u = draws(Gumbel(2.0), 20)
    with pytest.raises(ShapeError, match=r"points by margins \(expected \(N, M\), M >= 2"):
        Gumbel.fit(u[:, 0])
    with pytest.raises(DataError, match=r"not inside \(0, 1\).*pseudo_observations"):
        Gumbel.fit(u * 2)
    with pytest.raises(DataError, match=r"too few rows have two observed margins \(expected at least 10, got 0 of 20"):
        Gumbel.fit(u, observed=torch.tensor([True, False]).expand(20, 2))
    with pytest.raises(ShapeError, match="observed must be bool"):
        Gumbel.fit(u, observed=torch.ones(20, 2))
    with pytest.raises(DataError, match="too few rows .* got 2 of 2"):
        Gumbel.fit(u[:2])
    for family in (Gumbel, GaussianCopula, StudentTCopula):
        with pytest.raises(DataError, match=r"margins 0 and 1 determine each other.*expected -1 < Kendall's tau < 1"):
            family.fit(u[:, :1].expand(20, 2))
    u = draws(Gumbel(2.0), 100)
    for family in (Clayton, Gumbel, Joe):
        with pytest.raises(DataError, match=f"depend negatively, which {family.__name__} cannot .*Rotated"):
            family.fit(torch.stack([u[:, 0], 1 - u[:, 1]], 1))
    with pytest.raises(DataError, match="which Frank cannot"):
        Frank.fit(draws(GaussianCopula([[1.0, -0.4, -0.4], [-0.4, 1.0, -0.4], [-0.4, -0.4, 1.0]])))
    assert Frank.fit(torch.stack([u[:, 0], 1 - u[:, 1]], 1)).theta < -1
    assert maximise_likelihood(Independence(), u).dim == 2
