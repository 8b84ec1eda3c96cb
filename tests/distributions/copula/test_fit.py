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
    Rotated,
    StudentTCopula,
    maximise_likelihood,
    parameter_intervals,
    select_family,
)
from amodal.distributions.copula.fit import nearest_correlation, pairwise_kendall_tau
from amodal.errors import ConfigurationError, DataError, ShapeError

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


def test_intervals_cover_as_often_as_they_say():
    truth, covered, ends = Gumbel(1.8), 0, []
    for seed in range(60):
        u = draws(truth, 200, seed)
        lower, upper = parameter_intervals(Gumbel.fit(u), u, level=0.9)["theta"].tolist()
        covered += lower < 1.8 < upper
        ends.append((lower, upper))
    assert 46 <= covered <= 60  # 54 expected; these are 3.4 standard errors away
    width = np.diff(ends, axis=1).mean()
    assert 0.1 < width < 0.6
    rows = parameter_intervals(GaussianCopula.fit(draws(GaussianCopula(R3))), draws(GaussianCopula(R3)))["correlation"]
    assert rows.shape == (3, 2)
    for (lower, upper), exact in zip(rows.tolist(), (0.6, 0.2, -0.3), strict=True):
        assert lower - 0.05 < exact < upper + 0.05


def test_independent_data_leave_independence():
    noise = torch.rand(2000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for family in (Clayton, Gumbel, Frank, Joe, GaussianCopula):
        tau = family.fit(noise).kendall_tau()
        tau = tau if tau.ndim == 0 else (tau - torch.eye(3)).abs().max()
        assert abs(tau.item()) < 0.03


@pytest.mark.parametrize(
    "truth",
    [
        Clayton(2.0),
        Rotated(Clayton(2.0), 180),
        Rotated(Gumbel(2.0), 90),
        Frank(-5.0),
        GaussianCopula([[1.0, 0.6], [0.6, 1.0]]),
    ],
)
def test_the_family_is_found(truth):
    found = select_family(draws(truth, 1500))
    assert type(found) is type(truth)
    if isinstance(truth, Rotated):
        assert type(found.base) is type(truth.base)
        assert found.degrees == truth.degrees


def test_independence_is_a_family_too():
    noise = torch.rand(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert isinstance(select_family(noise), Independence)
    assert isinstance(select_family(noise, ["clayton", "student_t"], rotations=False), (Clayton, StudentTCopula))


def test_pairwise_tau_is_that_of_the_rows_with_both():
    u = draws(Gumbel(2.0, 3), 300)
    observed = torch.rand(u.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    taus = pairwise_kendall_tau(u, observed)
    both = observed[:, 0] & observed[:, 2]
    assert taus[0, 2].item() == pytest.approx(kendalltau(u[both, 0], u[both, 2])[0])
    observed[:, 1] = False
    assert pairwise_kendall_tau(u, observed)[0, 1].item() == 0.0


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
    with pytest.raises(DataError, match=r"not inside \(0, 1\).*ranks"):
        Gumbel.fit(u * 2)
    with pytest.raises(DataError, match="no row has two observed margins"):
        Gumbel.fit(u, observed=torch.tensor([True, False]).expand(20, 2))
    with pytest.raises(ShapeError, match="observed must be bool"):
        Gumbel.fit(u, observed=torch.ones(20, 2))
    with pytest.raises(ConfigurationError, match="a family to choose from"):
        select_family(u, [])
    assert maximise_likelihood(Independence(), u).dim == 2
