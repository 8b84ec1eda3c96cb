import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from amodal.distributions.gaussian.diagonal import DiagonalGaussian
from amodal.distributions.gaussian.experts import (
    laplace_noise,
    log_laplace_nats,
    log_normal_nats,
    log_uniform_mixture_nats,
    product_of_experts,
)
from amodal.errors import ShapeError


@pytest.fixture
def experts():
    draw = torch.Generator().manual_seed(0)
    mean, log_var = (torch.randn(5, 3, 2, generator=draw, dtype=torch.float64) for _ in range(2))
    observed = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0]]).bool()
    return DiagonalGaussian(mean, log_var), observed


def test_product_of_densities(experts):
    """Densities of scipy, multiplied on a grid and normalised there."""
    (mean, log_var), observed = experts
    found = product_of_experts(DiagonalGaussian(mean, log_var), observed)
    grid = np.linspace(-12, 12, 20_001)
    for row in range(5):
        for z in range(2):
            log_density = stats.norm.logpdf(grid)
            for m in range(3):
                if observed[row, m]:
                    scale = math.exp(log_var[row, m, z] / 2)
                    log_density = log_density + stats.norm.logpdf(grid, mean[row, m, z], scale)
            weight = np.exp(log_density - logsumexp(log_density))
            expected = (weight * grid).sum()
            assert found.mean[row, z].item() == pytest.approx(expected, abs=1e-6)
            variance = (weight * (grid - expected) ** 2).sum()
            assert math.exp(found.log_var[row, z]) == pytest.approx(variance, rel=1e-6)


def test_known_products():
    twice = DiagonalGaussian(torch.full((1, 2, 1), 6.0), torch.zeros(1, 2, 1))
    mean, log_var = product_of_experts(twice, torch.ones(1, 2, dtype=torch.bool))
    assert mean.item() == pytest.approx(4.0)
    assert log_var.exp().item() == pytest.approx(1 / 3)
    vague = DiagonalGaussian(torch.full((1, 2, 1), 6.0), torch.full((1, 2, 1), 60.0))
    mean, log_var = product_of_experts(vague, torch.ones(1, 2, dtype=torch.bool))
    assert mean.item() == pytest.approx(0.0, abs=1e-6)
    assert log_var.item() == pytest.approx(0.0, abs=1e-6)


def test_order_and_absent_experts_do_not_matter(experts):
    one, observed = experts
    found = product_of_experts(one, observed)
    order = [2, 0, 1]
    again = product_of_experts(DiagonalGaussian(one.mean[:, order], one.log_var[:, order]), observed[:, order])
    torch.testing.assert_close(found.mean, again.mean)
    for hidden in (math.nan, math.inf, 1e30):
        filled = [torch.where(observed[..., None], part, hidden).requires_grad_() for part in one]
        dirty = product_of_experts(DiagonalGaussian(*filled), observed)
        assert torch.equal(dirty.mean, found.mean)
        assert torch.equal(dirty.log_var, found.log_var)
        (dirty.mean.sum() + dirty.log_var.sum()).backward()
        assert all(torch.isfinite(part.grad).all() for part in filled)
        assert not filled[0].grad[~observed].any()


def test_laplace_against_scipy(experts):
    mean, log_var = experts[0]
    z = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scale = (log_var / 2).exp().numpy() / np.sqrt(2)  # a Laplace distribution of scale b has variance 2 b²
    expected = stats.laplace.logpdf(z.numpy(), mean.numpy(), scale).sum(-1)
    np.testing.assert_allclose(log_laplace_nats(z, DiagonalGaussian(mean, log_var)).numpy(), expected, rtol=1e-10)


def test_laplace_noise_is_the_quantile_function():
    uniform = torch.linspace(0, 1, 12, dtype=torch.float64)[1:-1]
    expected = stats.laplace.ppf(uniform.numpy(), scale=1 / np.sqrt(2))
    np.testing.assert_allclose(laplace_noise(uniform).numpy(), expected, rtol=1e-10)
    assert torch.isfinite(laplace_noise(torch.zeros(3))).all()
    many = laplace_noise(torch.rand(100_000, generator=torch.Generator().manual_seed(0)))
    assert abs(many.var().item() - 1) < 0.03


def test_mixture_against_scipy(experts):
    (mean, log_var), observed = experts
    z = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = observed.any(1)
    found = log_uniform_mixture_nats(z[:, rows], DiagonalGaussian(mean[rows], log_var[rows]), observed[rows])
    scale = (log_var / 2).exp().numpy()
    each = stats.norm.logpdf(z[:, :, None].numpy(), mean.numpy(), scale).sum(-1)  # (4, 5, 3)
    each = np.where(observed.numpy(), each, -np.inf)[:, rows.numpy()]
    expected = logsumexp(each, axis=-1) - np.log(observed[rows].sum(1).numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_normal_against_scipy(experts):
    (mean, log_var), _ = experts
    expected = stats.norm.logpdf(0.3, mean.numpy(), (log_var / 2).exp().numpy()).sum(-1)
    np.testing.assert_allclose(log_normal_nats(torch.tensor(0.3), DiagonalGaussian(mean, log_var)).numpy(), expected)


def test_shapes_that_disagree(experts):
    with pytest.raises(ShapeError, match=r"presence does not fit.*bool \(5, 3\)"):
        product_of_experts(experts[0], torch.ones(5, 2, dtype=torch.bool))
    with pytest.raises(ShapeError, match=r"\(B, M, Z\)"):
        log_uniform_mixture_nats(torch.zeros(1, 1, 1), DiagonalGaussian(torch.zeros(1, 2), torch.zeros(1, 2)),
                                 torch.ones(1, 2, dtype=torch.bool))  # fmt: skip
