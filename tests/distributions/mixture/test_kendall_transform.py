"""The Kendall transform against the gamma distribution."""

import numpy as np
import pytest
import torch
from scipy.special import gammaincc, gammainccinv
from scipy.stats import kstest, norm

from amodal.distributions.mixture.kendall_transform import kendall_log_cdf, kendall_score
from amodal.distributions.normal import normal_log_tails

F64 = torch.float64


@pytest.mark.parametrize(
    ("dim", "tolerance"), [(1, 1e-12), (4, 1e-12), (48, 1e-12), (64, 9e-5), (256, 2.2e-5), (512, 1.1e-5)]
)
def test_scores_are_those_of_the_gamma_distribution(dim, tolerance):
    u = np.linspace(0.001, 0.999, 201)
    g = gammainccinv(dim, u)
    score = kendall_score(-torch.from_numpy(g), dim)
    np.testing.assert_allclose(norm.cdf(score.numpy()), gammaincc(dim, g), atol=tolerance)


@pytest.mark.parametrize("dim", [1, 3, 30, 200])
def test_the_joint_distribution_function_of_a_vector_becomes_uniform(dim):
    z = torch.randn(3000, dim, generator=torch.Generator().manual_seed(dim), dtype=F64)
    log_cdf = normal_log_tails(z)[0].sum(-1)
    lower, _ = normal_log_tails(kendall_score(log_cdf, dim))
    assert kstest(lower.exp().numpy(), "uniform").pvalue > 1e-3
    if dim > 1:
        assert kstest(log_cdf.exp().numpy(), "uniform").pvalue < 1e-10  # the distribution function itself is not


@pytest.mark.parametrize("dim", [1, 5, 48, 100])
def test_inverse(dim):
    score = torch.linspace(-5, 5, 41, dtype=F64)
    np.testing.assert_allclose(kendall_score(kendall_log_cdf(score, dim), dim), score, atol=1e-9)


@pytest.mark.parametrize("dim", [1, 6, 90])
def test_gradients(dim):
    log_cdf = -torch.tensor([0.2, 0.9, 1.0, 1.3, 2.5], dtype=F64) * dim
    assert torch.autograd.gradcheck(lambda x: kendall_score(x, dim), log_cdf.clone().requires_grad_())


def test_far_from_the_mixture_nothing_underflows():
    log_cdf = torch.tensor([-1e-30, -1e-3, -1e5, -1e7], requires_grad=True)
    for dim in (2, 40, 256):
        score = kendall_score(log_cdf, dim)
        gradient = torch.autograd.grad(score.sum(), log_cdf)[0]
        assert bool(torch.isfinite(score).all())
        assert bool(torch.isfinite(gradient).all())
        assert bool((score.diff() < 0).all())


def test_from_a_score_back_to_a_vector():
    """The direction and the sum together give back independent uniform coordinates."""
    score = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=F64)
    share = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(6), 4000))
    u = torch.exp(kendall_log_cdf(score, 6).unsqueeze(-1) * share)
    for j in range(6):
        assert kstest(u[:, j].numpy(), "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(u.T.numpy()) - np.eye(6)).max() < 0.06
