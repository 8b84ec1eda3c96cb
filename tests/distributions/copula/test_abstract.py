"""What every copula promises: sampling, presence, precision, parameters."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, kstest

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
    copula_family,
)

F64 = torch.float64
R2 = [[1.0, 0.5], [0.5, 1.0]]
R3 = [[1.0, 0.5, 0.3], [0.5, 1.0, 0.4], [0.3, 0.4, 1.0]]


def some(dim, n=20, seed=0, low=0.02, high=0.98):
    return torch.rand(n, dim, dtype=F64, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


def every(dim):
    """One copula of each family."""
    correlation = R2 if dim == 2 else R3
    return [
        Clayton(2.0, dim),
        Gumbel(1.7, dim),
        Frank(4.0, dim),
        Joe(2.0, dim),
        GaussianCopula(correlation),
        StudentTCopula(correlation, df=4.0),
        Independence(dim),
    ]


def named(copulas):
    return [pytest.param(c, id=type(c).__name__) for c in copulas]


# ---------------------------------------------------------------- sampling


def _uniform(x, significance=1e-4):
    return kstest(x.detach().numpy(), "uniform").pvalue > significance


@pytest.mark.parametrize(
    "copula", named([*every(3), Gumbel(1.0, 3), Gumbel(8.0, 3), Joe(5.0, 3), Frank(-6.0), Clayton(6.0, 4)])
)
def test_samples_have_uniform_margins_and_the_right_tau(copula):
    u = copula.sample(4000, generator=torch.Generator().manual_seed(0))
    assert u.shape == (4000, copula.dim)
    assert u.dtype == (torch.float32 if isinstance(copula, Independence) else F64)
    assert u.min() > 0
    assert u.max() < 1
    assert all(_uniform(u[:, m].double()) for m in range(copula.dim))
    tau = copula.kendall_tau()
    expected = tau if tau.ndim == 2 else tau.expand(copula.dim, copula.dim)
    for i in range(copula.dim):
        for j in range(i):
            assert kendalltau(u[:, i], u[:, j])[0] == pytest.approx(expected[i, j].item(), abs=0.03)
    # the Rosenblatt transform of the draws is uniform: their joint law, not only their tau
    seen = torch.zeros(copula.dim, dtype=torch.bool)
    for m in range(copula.dim):
        assert _uniform(copula.conditional_cdf(u.double(), m, seen))
        seen[m] = True


@pytest.mark.parametrize("copula", named(every(3)))
@pytest.mark.parametrize("pattern", [(1, 0, 0), (0, 1, 1), (1, 0, 1), (0, 0, 0)])
def test_conditional_samples_follow_the_conditional_distribution(copula, pattern):
    observed = torch.tensor(pattern, dtype=torch.bool)
    u = torch.tensor([[0.15, 0.8, 0.4]], dtype=F64).repeat(1500, 1)
    filled = torch.where(observed, u, torch.nan)
    drawn = copula.sample_given(filled, observed, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, observed], u[:, observed])
    seen = observed.clone()
    for m in range(3):
        if not observed[m]:
            assert _uniform(copula.conditional_cdf(drawn, m, seen))
            seen[m] = True


@pytest.mark.parametrize("copula", named(every(3)[:-1]))
def test_conditional_samples_look_like_rejection_samples(copula):
    everything = copula.sample(200_000, generator=torch.Generator().manual_seed(1)).double()
    near = everything[((everything[:, 0] - 0.2).abs() < 0.01)]
    u = torch.full((len(near), 3), torch.nan, dtype=F64)
    u[:, 0] = 0.2
    drawn = copula.sample_given(u, torch.tensor([True, False, False]), generator=torch.Generator().manual_seed(2))
    for value in (lambda x: x[:, 1], lambda x: x[:, 2], lambda x: x[:, 1] * x[:, 2], lambda x: x[:, 1] - x[:, 2]):
        assert kstest(value(drawn).numpy(), value(near).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("copula", named([*every(3), Rotated(Clayton(2.0), 90), Frank(-4.0)]))
def test_conditional_quantile_inverts_the_conditional_distribution(copula):
    u = some(copula.dim, 30, low=1e-4, high=1 - 1e-4)
    w = some(1, 30, seed=3, low=1e-4, high=1 - 1e-4)[:, 0]
    for target in range(copula.dim):
        for other in [None, torch.arange(copula.dim) == (target + 1) % copula.dim]:
            points = u.clone()
            points[:, target] = copula.conditional_quantile(w, u, target, other)
            np.testing.assert_allclose(copula.conditional_cdf(points, target, other), w, rtol=1e-9)


@pytest.mark.parametrize(
    "copula", named([Gumbel(1.7, 3, learnable=True), Joe(2.0, 3, learnable=True), Clayton(2.0, 3, learnable=True)])
)
def test_gradients_pass_through_conditional_draws(copula):
    u = torch.tensor([[0.3, 0.6, 0.5]], dtype=F64)
    observed = torch.tensor([[True, True, False]])

    def draw(x):
        return copula.sample_given(x, observed, generator=torch.Generator().manual_seed(5), differentiable=True)[:, 2]

    free = u.clone().requires_grad_()
    value = draw(free)
    in_u, in_theta = torch.autograd.grad(value.sum(), [free, copula.raw_theta])
    step = 1e-6
    shifted = u.clone()
    shifted[0, 0] += step
    assert in_u[0, 0].item() == pytest.approx((draw(shifted) - draw(u)).item() / step, rel=1e-4)
    with torch.no_grad():
        before = draw(u)
        copula.raw_theta += step
        numerical = (draw(u) - before).item() / step
        copula.raw_theta -= step
    assert in_theta.item() == pytest.approx(numerical, rel=1e-4)
    assert not copula.sample_given(u, observed).requires_grad


# ---------------------------------------------------------------- presence


@pytest.mark.parametrize("copula", named(every(3)))
def test_rows_of_different_patterns_each_have_the_density_of_what_they_observe(copula):
    patterns = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)
    u = some(3, 8)
    hidden = torch.where(patterns, u, torch.nan).requires_grad_()
    value = copula.log_density(hidden, patterns)
    for row, present, result in zip(u, patterns, value, strict=True):
        kept = present.nonzero().flatten().tolist()
        expected = 0.0 if len(kept) < 2 else copula.margin(kept).log_density(row[kept]).item()
        assert result.item() == pytest.approx(expected, rel=1e-12, abs=1e-14)
    if value.requires_grad:
        gradient = torch.autograd.grad(value.sum(), hidden)[0]
        assert bool((gradient[~patterns] == 0).all())
        assert bool(torch.isfinite(gradient).all())
    for junk in (0.0, 1e30, -torch.inf):
        assert torch.equal(copula.log_density(torch.where(patterns, u, junk), patterns), value.detach())
        drawn = copula.sample_given(
            torch.where(patterns, u, junk), patterns, generator=torch.Generator().manual_seed(0)
        )
        again = copula.sample_given(u, patterns, generator=torch.Generator().manual_seed(0))
        assert torch.equal(drawn, again)


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "independence"])
def test_parameters_of_their_own_for_each_coordinate(name):
    tau = torch.tensor([0.1, 0.3, 0.5, 0.7], dtype=F64)
    copula = copula_family(name).from_kendall_tau(tau, 3)
    assert copula.batch_shape == (4,)
    u = some(3, 20).reshape(5, 4, 3)
    observed = torch.rand(5, 1, 3, generator=torch.Generator().manual_seed(1)) < 0.7
    own = torch.rand(5, 4, 3, generator=torch.Generator().manual_seed(2)) < 0.7
    for seen in (None, observed, own):
        value = copula.log_density(u, seen)
        assert value.shape == (5, 4)
        for j, one in enumerate(tau):
            single = copula_family(name).from_kendall_tau(one, 3)
            part = None if seen is None else seen[:, min(j, seen.shape[1] - 1)]
            np.testing.assert_allclose(single.log_density(u[:, j], part), value[:, j], rtol=1e-10, atol=1e-12)
    drawn = copula.sample_given(u, observed, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (5, 4, 3)
    assert copula.sample(7, generator=torch.Generator().manual_seed(0)).shape == (7, 4, 3)
    pair_of_each = copula.margin([0, 1]).log_cdf(u[..., :2])
    single = copula_family(name).from_kendall_tau(tau[1], 2)
    np.testing.assert_allclose(pair_of_each[:, 1], single.log_cdf(u[:, 1, :2]), rtol=1e-9)


# ---------------------------------------------------------------- numerics

ENDS = [1e-12, 1e-6, 0.05, 0.5, 0.95]


def extremes(dim, dtype):
    lower = torch.tensor(ENDS, dtype=F64)
    log_u = torch.cat([lower.log(), torch.log1p(-lower)])
    log_1mu = torch.cat([torch.log1p(-lower), lower.log()])
    if dim <= 3:
        index = torch.cartesian_prod(*[torch.arange(2 * len(ENDS))] * dim)
    else:
        index = torch.randint(2 * len(ENDS), (400, dim), generator=torch.Generator().manual_seed(0))
    return log_u[index].to(dtype), log_1mu[index].to(dtype)


def whole_range(dim):
    for t in (0.0, 1e-9, 1e-3, 1.0, 20.0, 1000.0):
        yield from (Gumbel(1 + t, dim, learnable=True), Joe(1 + t, dim, learnable=True))
        if t:
            yield from (Clayton(t, dim, learnable=True), Frank(t, dim, learnable=True))
        if dim == 2:
            yield Frank(-t, learnable=True)
    unit = torch.eye(dim, dtype=F64)
    for rho in (-0.999 / (dim - 1), 0.0, 0.5, 0.999999):
        matrix = rho * (1 - unit) + unit
        yield GaussianCopula(matrix, learnable=True)
        for df in (0.5, 1.0, 2.0, 4.0, 7.5):
            yield StudentTCopula(matrix, df=df, learnable=True)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("dim", [2, 3, 7])
def test_values_and_gradients_are_finite_to_the_ends_of_everything(dim, dtype):
    log_u, log_1mu = extremes(dim, dtype)
    observed = torch.rand(log_u.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    for copula in whole_range(dim):
        for seen in (None, observed):
            inputs = [log_u.clone().requires_grad_(), log_1mu.clone().requires_grad_()]
            value = copula.log_density_from_logs(*inputs, seen)
            assert value.dtype == dtype
            gradients = torch.autograd.grad(value.sum(), [*inputs, *copula.parameters()], allow_unused=True)
            for x in (value, *gradients):
                assert x is None or bool(torch.isfinite(x).all()), f"{copula}, {getattr(copula, 'df', '')}"


@pytest.mark.parametrize("copula", named([*every(2), *every(3), Gumbel(1.3, 6), Joe(1.3, 6), Frank(5.0, 6)]))
def test_single_precision_is_near_to_double(copula):
    u = some(copula.dim, 300, low=1e-6, high=1 - 1e-6)
    log_u, log_1mu = u.log(), torch.log1p(-u)
    double = copula.log_density_from_logs(log_u, log_1mu)
    single = copula.log_density_from_logs(log_u.float(), log_1mu.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, double, rtol=5e-5, atol=5e-5)


def test_autocast_and_half_precision_do_not_reach_the_copula():
    copula = Gumbel(2.0)
    u = some(2, 50).float()
    expected = copula.log_density(u)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = copula.log_density(u)
        correlated = StudentTCopula(R3).log_density(some(3, 5).float())
    assert inside.dtype == correlated.dtype == torch.float32
    assert torch.equal(inside, expected)
    assert copula.log_density(u.to(torch.bfloat16)).dtype == torch.float32


def test_logarithms_keep_what_numbers_next_to_one_lose():
    """Seventy standard deviations out in float32: u is 1, log(1 - u) is -2450."""
    from amodal.distributions.normal import normal_log_tails

    scores = torch.tensor([[70.0, 71.0]], requires_grad=True)
    lower, upper = normal_log_tails(scores)
    assert lower.exp().tolist() == [[1.0, 1.0]]
    for copula in every(2)[:-1]:
        value = copula.log_density_from_logs(lower, upper)
        gradient = torch.autograd.grad(value.sum(), scores, retain_graph=True)[0]
        assert bool(torch.isfinite(value).all())
        assert bool(torch.isfinite(gradient).all())
    xi, r = np.array([70.0, 71.0]), np.array(R2)
    expected = -0.5 * np.log(np.linalg.det(r)) - 0.5 * xi @ (np.linalg.inv(r) - np.eye(2)) @ xi
    assert GaussianCopula(R2).log_density_from_logs(lower, upper).item() == pytest.approx(expected, rel=1e-4)


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize("family", [Clayton, Gumbel, Frank, Joe])
@pytest.mark.parametrize("tau", [1e-4, 0.1, 0.5, 0.9])
def test_theta_and_tau_are_inverse(family, tau):
    assert family.from_kendall_tau(tau, 3).kendall_tau().item() == pytest.approx(tau, rel=1e-9)
    if family is Frank:
        assert Frank.from_kendall_tau(-tau).kendall_tau().item() == pytest.approx(-tau, rel=1e-9)


def test_frank_passes_through_independence_with_its_gradient():
    u = some(2, 20)
    theta = torch.zeros((), dtype=F64, requires_grad=True)
    value = Frank(theta).log_density(u)
    np.testing.assert_allclose(value.detach(), 0.0, atol=1e-15)
    slope = torch.autograd.grad(value.sum(), theta)[0].item()
    assert slope == pytest.approx(((2 * u[:, 0] - 1) * (2 * u[:, 1] - 1)).sum().item() / 2, rel=1e-10)


def test_parameters_are_fixed_unless_asked_for_and_travel_in_the_state():
    copula = Gumbel(theta=2.0, dim=3)
    assert not copula.log_density(some(3)).requires_grad
    assert copula.requires_grad_().log_density(some(3)).requires_grad
    other = Gumbel(theta=7.0, dim=3)
    other.load_state_dict(copula.state_dict())
    assert other.theta.item() == pytest.approx(2.0, rel=1e-15)
    theta = torch.tensor(2.0, dtype=F64, requires_grad=True)
    Gumbel(theta).log_density(some(2)).sum().backward()
    assert theta.grad is not None
    assert theta.grad.item() != 0


def test_limits_of_theta_are_independence():
    u = some(3)
    for copula in (Gumbel(1.0, 3), Joe(1.0, 3), Clayton(1e-12, 3), Frank(1e-12, 3), Frank(0.0)):
        np.testing.assert_allclose(copula.log_density(u[:, : copula.dim]), 0.0, atol=1e-9)


@pytest.mark.parametrize("copula", every(3), ids=lambda c: type(c).__name__)
def test_completion_from_given_uniforms_is_the_inverse_of_the_conditional_laws(copula):
    """Rosenblatt's transform undoes it, whatever the order; observed margins stay."""
    u, w = some(3, 40), some(3, 40, seed=1).mT
    observed = torch.rand(40, 3, generator=torch.Generator().manual_seed(2)) < 0.4
    for order in ([0, 1, 2], [2, 0, 1]):
        hidden = torch.where(observed, u, torch.nan).mT
        drawn = copula.complete_margins_first(hidden.log(), torch.log1p(-hidden), observed.mT, w, order)
        full, known = drawn[0].exp().mT, observed.clone()
        torch.testing.assert_close(full[observed], u[observed])
        for target in order:
            back = copula.conditional_cdf(full, target, known & (torch.arange(3) != target))
            absent = ~observed[:, target]
            torch.testing.assert_close(back[absent], w[target][absent], rtol=1e-6, atol=1e-8)
            known[:, target] = True


@pytest.mark.parametrize("copula", every(3), ids=lambda c: type(c).__name__)
def test_completion_given_margins_that_round_to_the_ends_has_finite_gradients(copula):
    """In single precision exp(-200) is zero; what such a margin says is the limit, and it is kept itself."""
    copula = copy.deepcopy(copula).float()
    far, near = -torch.tensor([[0.6931, 90.0, 200.0, 1e4], [0.6931, 0.0, 0.0, 0.0]])
    for log_u, log_1mu in ((far, near), (near, far)):
        logs = [part.expand(3, 4).clone().requires_grad_() for part in (log_u, log_1mu)]
        observed = torch.tensor([True, True, False])[:, None]
        drawn = copula.complete_margins_first(*logs, observed, torch.full((3, 4), 0.3))
        assert all(torch.isfinite(part).all() for part in drawn)
        assert torch.equal(drawn[0][:2], logs[0][:2])
        assert torch.equal(drawn[1][:2], logs[1][:2])
        torch.testing.assert_close(drawn[0][2, 1:], drawn[0][2, 1].expand(3))  # beyond the reach nothing changes
        gradients = torch.autograd.grad(drawn[0][2].sum() + drawn[1][2].sum(), logs, allow_unused=True)
        assert all(g is None or torch.isfinite(g).all() for g in gradients)
