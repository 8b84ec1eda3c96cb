"""Joint laws of modalities: their likelihood, what joins them, and completions drawn from their conditional laws."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from amodal.distributions.copula import Gumbel
from amodal.distributions.joint.variants import JOINT_LAWS, CoordinatewiseLaw, joint_law
from amodal.distributions.mixture.gaussian_mixture import GaussianMixture
from amodal.distributions.mixture.kendall_transform import kendall_score
from amodal.errors import ConfigurationError, UnknownNameError

PROPER = ("coordinatewise", "common", "kendall", "projection")
every_proper = pytest.mark.parametrize("variant", PROPER)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def made(variant, modalities=2, dim=4, *, components=2, family="gaussian", tau=0.5, seed=0, **settings):
    """A law in double precision whose dependence is strong."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        law = JOINT_LAWS[variant](modalities, dim, components=components, family=family, tau=tau, **settings)
    return law.double()


def from_the_law(law, n, seed=0):
    """Rows with nothing observed are completed by draws from the law itself: (M, n, D)."""
    blank = torch.zeros(law.modalities, n, law.dim, dtype=torch.float64)
    absent = torch.zeros(law.modalities, n, dtype=torch.bool)
    with torch.no_grad():
        return law.complete(blank, absent, law.noise(1, n, draw(seed), blank))[:, 0]


@every_proper
@pytest.mark.parametrize("family", ["gaussian", "gumbel", "clayton"])
def test_the_likelihood_of_draws_from_the_law_is_highest_at_the_law(variant, family):
    """Draws and density agree: E log p_tau(z) - log p_other(z) > 0, and E[p_other / p] = 1."""
    law, n = made(variant, family=family, tau=0.4), 6_000
    z, everyone = from_the_law(law, n), torch.ones(2, n, dtype=torch.bool)
    with torch.no_grad():
        own = law.log_density(z, everyone)
        law.copula = type(law.copula).from_kendall_tau(torch.full(law.copula.batch_shape, 0.25), 2).double()
        other = law.log_density(z, everyone)
    gap = own - other
    assert gap.mean() > 3 * gap.std() / math.sqrt(n)
    ratio = torch.exp(-gap)
    assert ratio.mean().item() == pytest.approx(1, abs=4 * ratio.std().item() / math.sqrt(n))


@every_proper
def test_draws_have_the_mixtures_for_margins(variant):
    """Against SciPy's distribution function of the mixture, coordinate by coordinate and for a projection."""
    law = made(variant, tau=0.6)
    z = from_the_law(law, 4_000, seed=1)
    mixture = law.mixture
    with torch.no_grad():
        for m in range(2):
            w, mu, sd = (p[m].numpy() for p in (mixture.weights, mixture.means, mixture.scales))
            for j in range(law.dim):
                cdf = sum(w[k] * stats.norm.cdf(z[m, :, j].numpy(), mu[k, j], sd[k, j]) for k in range(2))
                assert stats.kstest(cdf, "uniform").pvalue > 1e-4
            if variant in ("coordinatewise", "common"):
                continue
            a = np.array([1.0, -1.0, 0.5, 2.0])  # a mixture of vectors, not only of coordinates
            cdf = sum(
                w[k] * stats.norm.cdf(z[m].numpy() @ a, mu[k] @ a, np.sqrt((sd[k] * a) ** 2 @ np.ones(4)))
                for k in (0, 1)
            )
            assert stats.kstest(cdf, "uniform").pvalue > 1e-4


@every_proper
def test_completions_of_one_modality_rejoin_the_law(variant):
    """Draw z, forget z_2, complete it given z_1: the pair has the law's dependence again; from margins it has none."""
    law, n = made(variant, components=1, tau=0.6), 4_000
    z = from_the_law(law, n, seed=2)
    observed = torch.tensor([[True], [False]]).expand(2, n)
    noise = law.noise(1, n, draw(3), z)

    def score(points):
        """The law's own scalar of each modality."""
        with torch.no_grad():
            if variant in ("coordinatewise", "common"):
                return points[:, :, 0]
            if variant == "projection":
                return (points * law.direction.unsqueeze(1)).sum(-1)
            return kendall_score(law.mixture.component_log_cdf(points), law.dim)[..., 0]

    taus = []
    for points in (z, law.complete(z, observed, noise)[:, 0], law.complete(z, observed, noise, given=False)[:, 0]):
        assert torch.equal(points[0], z[0])  # what is observed stays
        a, b = score(points.detach())
        taus.append(stats.kendalltau(a, b).statistic)
    assert taus[0] == pytest.approx(0.6, abs=0.03)
    assert taus[1] == pytest.approx(0.6, abs=0.03)
    assert taus[2] == pytest.approx(0.0, abs=0.04)


def test_a_gaussian_law_is_completed_as_a_normal_distribution_is_conditioned():
    """K = 1, Gaussian copula: the closed form of the conditional normal law, for two absent of three."""
    law = made("coordinatewise", 3, 2, components=1, tau=0.0)
    correlation = torch.tensor([[1.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 1.0]], dtype=torch.float64)
    from amodal.distributions.copula import GaussianCopula

    law.copula = GaussianCopula(correlation.expand(2, 3, 3))
    z = torch.zeros(3, 1, 2, dtype=torch.float64)
    z[1, 0, 0] = law.mixture.means[1, 0, 0].detach() + 1.5 * law.mixture.scales[1, 0, 0].detach()
    observed = torch.tensor([[False], [True], [False]])
    with torch.no_grad():
        drawn = law.complete(z, observed, law.noise(40_000, 1, draw(), z))[:, :, 0, 0]  # (M, S), coordinate 0
        units = (drawn - law.mixture.means[:, :1, 0]) / law.mixture.scales[:, :1, 0]
    r = correlation[:, 1] * 1.5
    cov = correlation - correlation[:, [1]] @ correlation[[1]]
    keep = [0, 2]
    torch.testing.assert_close(units[keep].mean(1), r[keep], atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(units[keep]), cov[keep][:, keep], atol=0.02, rtol=0)


@every_proper
def test_dependence_is_what_the_density_has_beyond_the_margins(variant):
    law = made(variant, 3, 4, family="frank", tau=0.3)
    z = from_the_law(law, 7)
    observed = torch.tensor([[1, 1, 1, 0, 1, 0, 0], [1, 0, 1, 1, 1, 1, 0], [1, 1, 0, 1, 0, 0, 0]], dtype=torch.bool)
    hidden = torch.where(observed.unsqueeze(-1), z, torch.nan)
    margins = torch.zeros(7, dtype=torch.float64)
    for m in range(3):
        alone = torch.zeros_like(observed)
        alone[m] = observed[m]
        margins += law.log_density(hidden, alone)
    torch.testing.assert_close(law.dependence(hidden, observed), law.log_density(hidden, observed) - margins)
    rest = law.dependence(hidden, observed)[5:]  # one modality, or none: zero up to rounding
    torch.testing.assert_close(rest, torch.zeros_like(rest), rtol=0.0, atol=1e-12)
    assert law.log_density(hidden, observed)[6] == 0


def test_the_mean_dependence_is_the_mutual_information():
    """Of two normal variables: -log(1 - rho^2) / 2 for each coordinate."""
    law = made("coordinatewise", 2, 3, components=1, tau=0.5)
    rho = math.sin(math.pi * 0.25)
    z = from_the_law(law, 40_000)
    with torch.no_grad():
        mean = law.dependence(z, torch.ones(2, len(z[0]), dtype=torch.bool)).mean()
    assert mean.item() == pytest.approx(-3 * 0.5 * math.log(1 - rho**2), rel=0.03)


@every_proper
def test_gradients_reach_means_scales_weights_and_the_copula_through_completions(variant):
    law = made(variant, components=3)
    z = torch.randn(2, 8, 4, dtype=torch.float64, generator=draw()).requires_grad_()
    observed = torch.tensor([[True], [False]]).expand(2, 8)
    law.complete(z, observed, law.noise(4, 8, draw(1), z))[1].square().mean().backward()
    for name, parameter in law.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        own = parameter.grad[1] if parameter.shape[:1] == (2,) and "copula" not in name else parameter.grad
        assert own.abs().sum() > 0, name
    assert z.grad[0].abs().sum() > 0  # the encoder of what is observed
    assert z.grad[1].abs().sum() == 0  # what is absent


def test_the_gradient_through_a_completion_is_the_derivative_of_the_quantile():
    """Finite differences, in the weights, where a relaxed choice would be biased."""
    law = made("coordinatewise", components=2, tau=0.4)
    z = torch.randn(2, 3, 4, dtype=torch.float64, generator=draw())
    observed = torch.tensor([[True], [False]]).expand(2, 3)
    noise = law.noise(2, 3, draw(1), z)
    law.complete(z, observed, noise)[1].sum().backward()
    for parameter in (law.mixture.raw_weights, law.mixture.means, law.copula.raw_correlation):
        gradient, step = parameter.grad.flatten()[-1].item(), 1e-6
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[-1] += sign * step
                ends.append(law.complete(z, observed, noise)[1].sum().item())
                parameter.view(-1)[-1] -= sign * step
        assert gradient == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-6)


def test_a_wide_gap_between_components_gives_bounded_gradients():
    law = made("coordinatewise", components=2).float()
    with torch.no_grad():
        law.mixture.means[:, 0], law.mixture.means[:, 1] = -40.0, 40.0
    z = torch.zeros(2, 64, 4)
    law.complete(z, torch.zeros(2, 64, dtype=torch.bool), law.noise(8, 64, draw(), z)).sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() < 1e6 for p in law.mixture.parameters())


@every_proper
@pytest.mark.parametrize("family", ["gumbel", "gaussian"])
def test_dependence_stays_at_independence_on_independent_vectors(variant, family):
    """The released objective climbs to 1 - 1/theta = 0.6 on such data; a likelihood has no reason to."""
    law = joint_law(variant, 2, 8, components=1, family=family).requires_grad_()
    law.copula = type(law.copula).from_kendall_tau(torch.full(law.copula.batch_shape, 0.2), 2, learnable=True)
    z = torch.randn(2, 12_000, 8, generator=draw())
    law.start_at_rows(z, torch.ones(2, 12_000, dtype=torch.bool), draw())
    optimiser = torch.optim.Adam(law.parameters(), lr=0.03)
    everyone = torch.ones(2, 500, dtype=torch.bool)
    for step in range(500):
        rows = torch.randint(0, 12_000, (500,), generator=draw(step))
        optimiser.zero_grad()
        (-law.log_density(z[:, rows], everyone).mean() / 8).backward()
        optimiser.step()
    assert law.describe()["tau_size"] < 0.05


def test_the_printed_formula_and_the_distribution_function_for_a_density_do_not_integrate_to_one():
    """E[c(F_1, F_2)] over independent margins is the integral: 92 as printed; with C in place of c it is below 1/3."""
    law = made("printed", 2, 8, components=1, family="gumbel")
    law.copula = Gumbel(2.0)
    shortcut = Gumbel(2.0)
    one = GaussianMixture.from_parameters(torch.ones(2, 1), torch.zeros(2, 1, 8), torch.ones(2, 1, 8)).double()
    law.mixture = one
    with torch.no_grad():
        z = one.sample(30_000, generator=draw())
        printed = law.dependence(z, torch.ones(2, 30_000, dtype=torch.bool)).exp().mean()
        u = torch.rand(30_000, 2, dtype=torch.float64, generator=draw())
        released = shortcut.log_cdf(u).exp().mean()
    assert printed > 40
    assert 1 / 4 < released < 1 / 3  # of any positive dependence; a density would have 1


def test_components_start_apart_at_data():
    law = joint_law("coordinatewise", 2, 4, components=3)
    z = torch.stack([torch.randn(50, 4, generator=draw()) + 5, torch.zeros(50, 4)])
    untouched = law.mixture.means[1].clone()
    law.start_at_rows(z, torch.tensor([[True], [False]]).expand(2, 50), draw())
    assert (law.mixture.means[0] > 0).all()
    distance = torch.cdist(law.mixture.means[0], law.mixture.means[0]) + torch.eye(3) * 9
    assert distance.min() > 1
    assert torch.equal(law.mixture.means[1], untouched)


def test_common_noise_gives_a_row_the_same_draws_among_any_others():
    law = joint_law("kendall", 3, 4, family="clayton")
    z = torch.randn(3, 6, 4, generator=draw())
    observed = torch.rand(3, 6, generator=draw(1)) < 0.5
    noise = law.noise(5, 1, draw(2), z)
    whole = law.complete(z, observed, noise)
    for i in range(6):
        alone = law.complete(z[:, i : i + 1], observed[:, i : i + 1], noise)
        torch.testing.assert_close(whole[:, :, i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_kept_modalities_do_not_vary():
    law = joint_law("coordinatewise", 3, 4, family="gaussian")
    z, observed = torch.randn(3, 6, 4, generator=draw()), torch.zeros(3, 6, dtype=torch.bool)
    observed[0] = True
    drawn = law.complete(z, observed, law.noise(5, 1, draw(2), z).keeping([2]))
    assert torch.equal(drawn[2], drawn[2, :1].expand_as(drawn[2]))
    assert (drawn[1] - drawn[1, :1]).abs().max() > 0.1


@pytest.mark.parametrize("variant", JOINT_LAWS)
def test_far_vectors_have_finite_likelihoods_and_gradients(variant):
    for scale in (1e-3, 1.0, 1e3):
        law = joint_law(variant, 2, 16, components=2, family="gumbel")
        z = (scale * torch.randn(2, 5, 16, generator=draw())).requires_grad_()
        observed = torch.tensor([[True] * 5, [True, True, False, True, True]])
        value = law.log_density(z, observed).mean()
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(z.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in law.parameters())


@pytest.mark.parametrize("variant", JOINT_LAWS)
def test_one_modality_has_nothing_to_join(variant):
    law = joint_law(variant, 1, 4)
    assert law.copula is None
    z = torch.randn(1, 3, 4, generator=draw())
    assert torch.isfinite(law.log_density(z, torch.ones(1, 3, dtype=torch.bool))).all()
    assert law.describe()["tau"] == 0


def test_bad_settings_are_refused():
    with pytest.raises(UnknownNameError, match="unknown variant of the joint law 'kendal'.*Did you mean 'kendall'"):
        joint_law("kendal", 2, 4)
    with pytest.raises(UnknownNameError, match="unknown copula family 'gausian'.*Did you mean 'gaussian'"):
        joint_law("kendall", 2, 4, family="gausian")
    with pytest.raises(ConfigurationError, match="components of a mixture is too small.*components >= 1"):
        joint_law("coordinatewise", 2, 4, components=0)
    with pytest.raises(ConfigurationError, match="too few modalities"):
        CoordinatewiseLaw(0, 4)
    with pytest.raises(ConfigurationError, match=r"too many tuples.*3 \*\* 12"):
        joint_law("kendall", 12, 4)
    law = joint_law("printed", 2, 4)
    z = torch.zeros(2, 1, 4)
    with pytest.raises(ConfigurationError, match="PrintedLaw has no conditional law"):
        law.complete(z, torch.zeros(2, 1, dtype=torch.bool), law.noise(1, 1, draw(), z))
