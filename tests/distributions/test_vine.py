"""Vines against pyvinecopulib, and Gaussian vines against the Gaussian copula that they are."""

import itertools

import numpy as np
import pytest
import pyvinecopulib as pv
import torch
from scipy.stats import kstest

from amodal.distributions.copula import (
    Clayton,
    CVine,
    DVine,
    Frank,
    GaussianCopula,
    Gumbel,
    Independence,
    Joe,
    Rotated,
    StudentTCopula,
)
from amodal.errors import ConfigurationError, ShapeError

F64 = torch.float64


def pair(rho):
    return [[1.0, rho], [rho, 1.0]]


def five():
    return [
        [Clayton(2.0), Gumbel(1.5), Rotated(Clayton(1.0), 90), Frank(3.0)],
        [Frank(-2.0), GaussianCopula(pair(0.4)), Joe(1.5)],
        [StudentTCopula(pair(-0.3), df=4.0), Rotated(Gumbel(1.3), 270)],
        [Clayton(0.4)],
    ]


def _bicop(copula, flip=False):
    family, rotation = pv.BicopFamily, 0
    if isinstance(copula, Rotated):
        rotation, copula = (360 - copula.degrees if flip else copula.degrees), copula.base
    if isinstance(copula, StudentTCopula):
        return pv.Bicop(family.student, 0, np.array([[copula.correlation[0, 1].item()], [copula.df]]))
    if isinstance(copula, GaussianCopula):
        return pv.Bicop(family.gaussian, 0, np.array([[copula.correlation[0, 1].item()]]))
    kind = {Clayton: family.clayton, Gumbel: family.gumbel, Frank: family.frank, Joe: family.joe}[type(copula)]
    return pv.Bicop(kind, rotation, np.array([[copula.theta.item()]]))


def test_densities_agree_with_pyvinecopulib():
    u = np.random.default_rng(0).uniform(0.01, 0.99, (60, 5))
    d_pairs = [[_bicop(c) for c in tree] for tree in five()]
    other = pv.Vinecop.from_structure(structure=pv.DVineStructure(order=[1, 2, 3, 4, 5]), pair_copulas=d_pairs)
    np.testing.assert_allclose(DVine(five()).log_density(u).exp(), other.pdf(u), rtol=1e-8)
    # pyvinecopulib writes the root second, and the edges of a star from the last
    c_pairs = [[_bicop(c, flip=True) for c in tree[::-1]] for tree in five()]
    other = pv.Vinecop.from_structure(structure=pv.CVineStructure(order=[5, 4, 3, 2, 1]), pair_copulas=c_pairs)
    np.testing.assert_allclose(CVine(five()).log_density(u).exp(), other.pdf(u), rtol=1e-8)


def test_the_order_names_the_margins():
    u = np.random.default_rng(0).uniform(0.01, 0.99, (20, 5))
    order = [3, 0, 4, 1, 2]
    for kind in (CVine, DVine):
        np.testing.assert_allclose(
            kind(five(), order).log_density(u), kind(five()).log_density(u[:, order]), rtol=1e-12
        )


@pytest.mark.parametrize("kind", [CVine, DVine])
def test_a_gaussian_vine_is_a_gaussian_copula(kind):
    vine, gaussian = kind.from_kendall_tau(0.4, 4), GaussianCopula.from_kendall_tau(0.4, 4)
    u = gaussian.sample(6, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(vine.log_density(u), gaussian.log_density(u), rtol=1e-10)
    np.testing.assert_allclose(vine.log_cdf(u), gaussian.log_cdf(u), atol=0.02)
    for pattern in itertools.product([False, True], repeat=4):
        observed = torch.tensor(pattern)
        np.testing.assert_allclose(vine.log_density(u, observed), gaussian.log_density(u, observed), atol=1e-7)
        for target in range(4):
            named = [p for p in range(4) if pattern[p]]
            if not pattern[target] and len(vine._closure([*named, target])) - len(named) <= 2:
                ours, theirs = (c.conditional_cdf(u, target, observed) for c in (vine, gaussian))
                np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.parametrize("kind", [CVine, DVine])
def test_draws_are_uniform_after_their_own_transform(kind):
    vine = kind([[Clayton(2.0), Rotated(Gumbel(1.8), 90)], [Frank(2.0)]])
    u = vine.sample(3000, generator=torch.Generator().manual_seed(0))
    seen = torch.zeros(3, dtype=torch.bool)
    for margin in range(3):
        assert kstest(u[:, margin].numpy(), "uniform").pvalue > 1e-3
        assert kstest(vine.conditional_cdf(u, margin, seen).numpy(), "uniform").pvalue > 1e-3
        seen[margin] = True


@pytest.mark.parametrize("kind", [CVine, DVine])
@pytest.mark.parametrize("pattern", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1)])
def test_completions_follow_their_conditional_law(kind, pattern):
    """Those inside what is observed are integrated numerically, (1, 0, 1) of a D-vine and (0, 1, 1) of a C-vine."""
    vine = kind([[Clayton(2.0), Gumbel(1.6)], [Frank(2.0)]])
    observed = torch.tensor(pattern, dtype=torch.bool)
    u = torch.tensor([[0.2, 0.7, 0.4]], dtype=F64).repeat(60, 1)
    drawn = vine.sample_given(torch.where(observed, u, torch.nan), observed, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, observed], u[:, observed])
    seen = observed.clone()
    for margin in range(3):
        if not observed[margin]:
            assert kstest(vine.conditional_cdf(drawn, margin, seen).numpy(), "uniform").pvalue > 1e-3
            seen[margin] = True


def test_rows_of_different_patterns_and_parameters_for_each_coordinate():
    thetas = torch.tensor([0.5, 2.0, 4.0], dtype=F64)
    together = DVine([[Clayton(thetas), Gumbel(1 + thetas)], [Frank(thetas)]])
    assert together.batch_shape == (3,)
    u = torch.rand(6, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    observed = torch.rand(6, 1, 3, generator=torch.Generator().manual_seed(1)) < 0.7
    value = together.log_density(torch.where(observed, u, torch.nan), observed)
    for j, theta in enumerate(thetas.tolist()):
        single = DVine([[Clayton(theta), Gumbel(1 + theta)], [Frank(theta)]])
        np.testing.assert_allclose(value[:, j], single.log_density(u[:, j], observed[:, 0]), rtol=1e-9, atol=1e-12)
    drawn = together.sample_given(u, observed, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn[observed.expand_as(drawn)], u[observed.expand_as(u)])


def test_margins_share_their_pairs():
    vine = DVine(five(), [4, 3, 2, 1, 0])
    part = vine.margin([1, 2, 3])
    u = torch.rand(10, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    full = torch.cat([torch.full((10, 1), torch.nan), u, torch.full((10, 1), torch.nan)], 1).double()
    observed = torch.tensor([False, True, True, True, False])
    np.testing.assert_allclose(part.log_density(u), vine.log_density(full, observed), rtol=1e-12)
    with pytest.raises(ConfigurationError, match=r"do not form a DVine of their own .*consecutive"):
        vine.margin([0, 2])
    star = CVine(five())
    assert star.margin([0, 4]).pair(0, 0) is star.pair(0, 3)


def test_precision_holds_in_single_precision_next_to_the_corners():
    vine = DVine([[Clayton(2.0), Gumbel(1.6)], [Frank(2.0)]]).requires_grad_()
    ends = torch.tensor([1e-12, 1e-6, 0.3], dtype=F64)
    lower = torch.cat([ends.log(), torch.log1p(-ends)])
    upper = torch.cat([torch.log1p(-ends), ends.log()])
    index = torch.cartesian_prod(*[torch.arange(6)] * 3)
    exact = vine.log_density_from_logs(lower[index], upper[index])
    free = lower[index].float().requires_grad_()
    value = vine.log_density_from_logs(free, upper[index].float())
    gradients = torch.autograd.grad(value.sum(), [free, *vine.parameters()])
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    np.testing.assert_allclose(value.detach(), exact.detach(), rtol=2e-3, atol=2e-3)


def test_fit_finds_the_families():
    truth = DVine([[Clayton(2.0), Rotated(Gumbel(1.8), 90)], [Independence()]])
    u = truth.sample(1500, generator=torch.Generator().manual_seed(0))
    fitted = DVine.fit(u, order=[0, 1, 2], families=("independence", "clayton", "gumbel"))
    first, second = fitted.pair(0, 0), fitted.pair(0, 1)
    assert isinstance(first, Clayton)
    assert first.theta.item() == pytest.approx(2.0, abs=0.25)
    assert isinstance(second, Rotated)
    assert isinstance(second.base, Gumbel)
    assert isinstance(fitted.pair(1, 0), Independence)
    best = truth.log_density(u).mean().item()
    assert fitted.log_density(u).mean().item() > best - 1e-3
    chosen = CVine.fit(u, families=("independence", "gaussian"), iterations=0)
    assert sorted(chosen.order) == [0, 1, 2]
    assert chosen.order[0] == 1  # the margin on which both others depend


def test_what_is_wrong_with_a_vine():
    with pytest.raises(ShapeError, match=r"one edge fewer each \(expected \[2, 1\] edges, got \[2, 2\]"):
        DVine([[Clayton(1.0), Clayton(1.0)], [Clayton(1.0), Clayton(1.0)]])
    with pytest.raises(ConfigurationError, match="a vine joins pairs"):
        CVine([[Clayton(1.0, 3)]])
    with pytest.raises(ConfigurationError, match="order must name each margin once"):
        CVine([[Clayton(1.0)]], order=[0, 0])
    six = DVine([[Independence()] * (5 - t) for t in range(5)])
    u = torch.full((1, 6), 0.5)
    with pytest.raises(ConfigurationError, match="integrate over 3 absent margins at once .*stands together"):
        six.log_density(u, torch.tensor([True, False, True, False, False, True]))
    with pytest.raises(ConfigurationError, match="at least two margins"):
        DVine([])
