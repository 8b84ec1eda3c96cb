"""Gaussian mixtures against SciPy and scikit-learn, gradients against closed forms, errors by their words."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_ndtr, logsumexp
from scipy.stats import kstest, multivariate_normal, norm
from sklearn.mixture import GaussianMixture as Reference

from amodal.distributions.mixture.gaussian_mixture import GaussianMixture
from amodal.distributions.mixture.quantile import mixture_quantile
from amodal.errors import ConfigurationError, DataError, ShapeError

F64 = torch.float64


def random_mixture(components=3, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(components, generator=generator, dtype=F64) + 0.2
    means = 2 * torch.randn(components, dim, generator=generator, dtype=F64)
    scales = 0.3 + torch.rand(components, dim, generator=generator, dtype=F64)
    return GaussianMixture.from_parameters(weights / weights.sum(), means, scales)


def covariances(mixture):
    return torch.diag_embed(mixture.scales**2)


def points(dim=4, n=30, seed=1):
    return 3 * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_densities_agree_with_scipy():
    mixture, z = random_mixture(), points()
    with torch.no_grad():
        pieces = np.stack(
            [
                multivariate_normal(m, c).logpdf(z)
                for m, c in zip(mixture.means.numpy(), covariances(mixture).numpy(), strict=True)
            ],
            1,
        )
        joint = pieces + mixture.log_weights.numpy()
        np.testing.assert_allclose(mixture.component_log_density(z), pieces, rtol=1e-10)
        np.testing.assert_allclose(mixture.log_density(z), logsumexp(joint, 1), rtol=1e-10)


def test_margins_agree_with_scipy():
    mixture, z = random_mixture(), points()
    with torch.no_grad():
        std = covariances(mixture).diagonal(dim1=-2, dim2=-1).sqrt().numpy()
        mean, weight = mixture.means.numpy(), mixture.weights.numpy()[:, None]
        at = z.numpy()[:, None]
        density, lower, upper = mixture.marginal_logs(z)
        np.testing.assert_allclose(density.exp(), (weight * norm.pdf(at, mean, std)).sum(1), rtol=1e-11)
        np.testing.assert_allclose(lower.exp(), (weight * norm.cdf(at, mean, std)).sum(1), rtol=1e-11)
        np.testing.assert_allclose(upper.exp(), (weight * norm.sf(at, mean, std)).sum(1), rtol=1e-11)


def test_joint_distribution_function_stays_in_log_space():
    mixture = random_mixture(dim=256)
    z = points(256)
    with torch.no_grad():
        t = ((z.unsqueeze(1) - mixture.means) / mixture.scales).numpy()
        expected = logsumexp(log_ndtr(t).sum(-1) + mixture.log_weights.numpy(), axis=1)
        value = mixture.joint_log_cdf(z)
        np.testing.assert_allclose(value, expected, rtol=1e-11)
        assert value.max() < -745  # its exponential is zero, even in double precision
        single = mixture.float().joint_log_cdf(z.float())
        np.testing.assert_allclose(single, expected, rtol=1e-5)


@pytest.mark.parametrize("far", [0.0, 400.0])
def test_gradients_of_margins(far):
    """Both branches: in linear space, and (far = 400) component by component in log space."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 3, generator=generator, dtype=F64)
    z[0, 0] += far
    z[1, 1] -= far
    raw = torch.randn(2, generator=generator, dtype=F64)
    means = torch.randn(2, 3, generator=generator, dtype=F64)
    scales = torch.rand(2, 3, generator=generator, dtype=F64) + 0.5
    inputs = [x.requires_grad_() for x in (z, raw, means, scales)]

    from amodal.distributions.mixture.margins import mixture_margins

    def scaled(z, raw, means, scales):
        return [x / (1 + far) for x in mixture_margins(z, torch.log_softmax(raw, -1), means, scales)]

    assert torch.autograd.gradcheck(scaled, inputs, atol=1e-6, rtol=1e-5)


def test_both_branches_of_the_margins_are_one_function():
    mixture = random_mixture(dim=3)
    z = points(3, 200)
    together = torch.cat([z, torch.full((1, 3), 500.0, dtype=F64)])  # one far row sends all to the branch in log space
    for near, far in zip(mixture.marginal_logs(z), mixture.marginal_logs(together), strict=True):
        np.testing.assert_allclose(near.detach(), far[:-1].detach(), rtol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_finite_whatever_the_scale_of_the_features(dtype):
    for dim in (1, 64, 512):
        for scale in (1e-3, 1.0, 1e3):
            mixture = GaussianMixture(3, dim, generator=torch.Generator().manual_seed(0)).to(dtype)
            z = (scale * points(dim, 4)).to(dtype).requires_grad_()
            total = sum(x.sum() for x in (*mixture.marginal_logs(z), mixture.log_density(z), mixture.joint_log_cdf(z)))
            gradients = torch.autograd.grad(total, [z, *mixture.parameters()])
            assert all(bool(torch.isfinite(x).all()) for x in (total, *gradients))


def test_a_single_component_is_a_gaussian():
    mixture = GaussianMixture.from_parameters([1.0], [[1.0, -2.0]], [[0.5, 2.0]])
    z = points(2).float()
    expected = norm.logpdf(z, [1.0, -2.0], [0.5, 2.0]).sum(1)
    np.testing.assert_allclose(mixture.log_density(z).detach(), expected, rtol=1e-5)


# ---------------------------------------------------------------- quantiles


def test_quantiles_invert_the_distribution_function_in_both_tails():
    mixture = random_mixture(dim=3)
    law = mixture.log_weights, mixture.means, mixture.scales
    with torch.no_grad():
        for log_p in (-600.0, -100.0, -5.0, -0.7):
            log_u = torch.full((1, 3), log_p, dtype=F64)
            log_1mu = torch.log1p(-log_u.exp())
            lower = mixture.marginal_logs(mixture_quantile(log_u, log_1mu, *law))[1]
            upper = mixture.marginal_logs(mixture_quantile(log_1mu, log_u, *law))[2]
            np.testing.assert_allclose(lower, log_u, rtol=1e-10)
            np.testing.assert_allclose(upper, log_u, rtol=1e-10)


def test_quantiles_have_gradients_to_everything():
    mixture = random_mixture(dim=2)
    u = torch.tensor([[0.2, 0.7], [0.55, 0.01]], dtype=F64, requires_grad=True)
    parameters = list(mixture.parameters())
    gradients = torch.autograd.grad(mixture.marginal_quantile(u).sum(), [u, *parameters])
    step = 1e-6
    with torch.no_grad():
        for parameter, gradient in zip([u, *parameters], gradients, strict=True):
            flat, slope = parameter.view(-1), gradient.reshape(-1)
            for i in range(flat.numel()):
                flat[i] += step
                above = mixture.marginal_quantile(u).sum()
                flat[i] -= 2 * step
                below = mixture.marginal_quantile(u).sum()
                flat[i] += step
                assert slope[i].item() == pytest.approx((above - below).item() / (2 * step), rel=1e-4, abs=1e-6)


# ---------------------------------------------------------------- draws


def test_draws_come_from_the_mixture_not_from_its_average():
    mixture = GaussianMixture.from_parameters([0.5, 0.5], [[-3.0], [3.0]], [[1.0], [1.0]])
    z = mixture.sample(20_000, generator=torch.Generator().manual_seed(0))[:, 0]
    assert (z.abs() > 2).float().mean().item() == pytest.approx(0.841, abs=0.01)
    assert z.std().item() == pytest.approx(math.sqrt(10), abs=0.05)
    skewed = random_mixture(dim=3)
    draws = skewed.sample(4000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for j, u in enumerate(skewed.marginal_logs(draws)[1].exp().unbind(1)):
            assert kstest(u.numpy(), "uniform").pvalue > 1e-3, j
        mean = (skewed.weights.unsqueeze(1) * skewed.means).sum(0)
        second = torch.einsum("k,kij->ij", skewed.weights, covariances(skewed)) + torch.einsum(
            "k,ki,kj->ij", skewed.weights, skewed.means, skewed.means
        )
        np.testing.assert_allclose(draws.mean(0), mean, atol=0.15)
        np.testing.assert_allclose(draws.T @ draws / 4000, second, atol=0.5)


def test_mixtures_side_by_side_are_the_mixtures_one_by_one():
    singles = [random_mixture(seed=s) for s in range(3)]
    stacked = [torch.stack([getattr(m, name).detach() for m in singles]) for name in ("weights", "means", "scales")]
    together = GaussianMixture.from_parameters(*stacked)
    z = torch.stack([points(seed=s) for s in range(3)])
    for name in ("log_density", "component_log_density", "joint_log_cdf", "component_log_cdf"):
        value = getattr(together, name)(z)
        for s, single in enumerate(singles):
            np.testing.assert_allclose(value[s].detach(), getattr(single, name)(z[s]).detach(), rtol=1e-10)
    draws = together.sample(4000, generator=torch.Generator().manual_seed(0))
    assert draws.shape == (3, 4000, 4)
    for s, single in enumerate(singles):
        assert kstest(single.marginal_logs(draws[s])[1].exp().detach()[:, 0].numpy(), "uniform").pvalue > 1e-3


def test_law_of_a_projection():
    mixture = random_mixture()
    direction = torch.tensor([0.5, -1.0, 0.2, 1.0], dtype=F64)
    weights, means, scales = mixture.projected(direction)
    w = direction.numpy()
    expected = np.sqrt([w @ c @ w for c in covariances(mixture).detach().numpy()])
    np.testing.assert_allclose(scales[:, 0].detach(), expected)
    np.testing.assert_allclose(means[:, 0].detach(), mixture.means.detach() @ direction)
    assert torch.equal(weights, mixture.log_weights)


# ---------------------------------------------------------------- fitting


def test_expectation_maximisation_finds_what_scikit_learn_finds():
    truth = random_mixture(components=3, dim=2, seed=5)
    z = truth.sample(1500, generator=torch.Generator().manual_seed(0))
    fitted = GaussianMixture.fit(z, 3, generator=torch.Generator().manual_seed(1), tolerance=1e-9, iterations=500)
    other = Reference(3, covariance_type="diag", random_state=0, n_init=5, tol=1e-8, max_iter=500, reg_covar=1e-9).fit(
        z
    )
    assert fitted.log_density(z).mean().item() == pytest.approx(other.score(z), abs=2e-3)
    order, theirs = fitted.means[:, 0].argsort(), other.means_[:, 0].argsort()
    np.testing.assert_allclose(fitted.means[order].detach(), other.means_[theirs], atol=0.05)
    np.testing.assert_allclose(fitted.weights[order].detach(), other.weights_[theirs], atol=0.02)


def test_several_mixtures_are_fitted_side_by_side_each_to_the_points_that_count():
    truths = [random_mixture(components=2, dim=3, seed=s) for s in (2, 3)]
    z = torch.stack([truth.sample(900, generator=torch.Generator().manual_seed(0)) for truth in truths])
    observed = torch.rand(2, 900, generator=torch.Generator().manual_seed(1)) < 0.6
    z[~observed] = torch.nan
    fitted = GaussianMixture.fit(z, 2, observed=observed, generator=torch.Generator().manual_seed(2))
    assert fitted.batch_shape == (2,)
    value = fitted.log_density(torch.where(observed.unsqueeze(-1), z, 0.0))
    for m, truth in enumerate(truths):
        exact = truth.log_density(z[m, observed[m]]).mean().item()
        assert exact - 0.02 < value[m, observed[m]].mean().item() < exact + 0.05


def test_points_that_repeat_do_not_break_the_fit():
    z = torch.tensor([[0.0], [5.0]], dtype=F64).repeat(40, 1)
    fitted = GaussianMixture.fit(z, 2, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(fitted.means.detach().flatten().sort().values, [0.0, 5.0], atol=0.2)
    assert fitted.scales.min() > 1e-3


def test_components_start_apart_and_learn_to_differ():
    z = points(8, 64).float()
    mixture = GaussianMixture(4, 8, generator=torch.Generator().manual_seed(0)).start_at(
        z, generator=torch.Generator().manual_seed(0)
    )
    distances = torch.cdist(mixture.means, mixture.means)
    assert distances[~torch.eye(4, dtype=torch.bool)].min().item() > 0.5
    np.testing.assert_allclose(mixture.scales.detach(), z.std(0, unbiased=False).expand(4, 8), rtol=1e-4)
    optimiser = torch.optim.Adam(mixture.parameters(), lr=0.02)
    before = mixture.log_density(z).mean().item()
    for _ in range(100):
        optimiser.zero_grad()
        loss = -mixture.log_density(z).mean()
        loss.backward()
        optimiser.step()
    assert mixture.log_density(z).mean().item() > before + 0.5
    assert torch.cdist(mixture.means, mixture.means)[~torch.eye(4, dtype=torch.bool)].min().item() > 0.5
    same = GaussianMixture(2, 3).start_at(torch.ones(10, 3), generator=torch.Generator().manual_seed(0))
    assert not torch.equal(same.means[0], same.means[1])  # even where all points are one


# ---------------------------------------------------------------- what goes wrong, and what is said


@pytest.mark.parametrize(
    ("build", "kind", "words"),
    [
        (
            lambda: GaussianMixture(0, 2),
            ConfigurationError,
            r"components of a mixture is too small \(expected components >= 1",
        ),
        (lambda: GaussianMixture(2, 0), ConfigurationError, "dim of a mixture is too small"),
        (lambda: GaussianMixture(2, 2, scale_floor=-1.0), ConfigurationError, "scale_floor is negative"),
        (
            lambda: GaussianMixture.from_parameters([0.5, 0.6], [[0.0], [1.0]], 1.0),
            ConfigurationError,
            "not probabilities",
        ),
        (
            lambda: GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [1.0]], 0.0),
            ConfigurationError,
            "smaller scale_floor",
        ),
        (
            lambda: GaussianMixture.from_parameters([1.0], [[0.0], [1.0]], 1.0),
            ShapeError,
            "weights and means .* disagree",
        ),
        (
            lambda: GaussianMixture(2, 3).log_density(torch.zeros(4, 2)),
            ShapeError,
            r"points do not fit .*\(…, 3\), got shape \(4, 2\)",
        ),
        (lambda: GaussianMixture(2, 1).marginal_quantile(torch.ones(1, 1)), DataError, r"not inside \(0, 1\)"),
        (lambda: GaussianMixture.fit(torch.zeros(2, 3), 3), DataError, "at least 3 points, all finite, got 2 points"),
        (lambda: GaussianMixture.fit(torch.full((5, 3), math.nan), 3), DataError, "5 of them not finite"),
        (
            lambda: GaussianMixture.fit(torch.zeros(5), 3),
            ShapeError,
            r"expected \(N, D\) or \(M, N, D\)",
        ),
    ],
)
def test_bad_input(build, kind, words):
    with pytest.raises(kind, match=words):
        build()
