"""Divergences against torch.distributions and against averages over draws."""

import pytest
import torch
from torch import distributions

from amodal.distributions.gaussian.diagonal import (
    DiagonalGaussian,
    DiagonalMixture,
    kl_from_standard_nats,
    kl_nats,
    kl_of_mixtures_nats,
    kl_to_mixture_nats,
)


def gaussian(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return DiagonalGaussian(*(torch.randn(*shape, generator=draw, dtype=torch.float64) for _ in range(2)))


def mixture(*shape, seed=0):
    """Leading axes, K, Z."""
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(*shape[:-1], generator=draw, dtype=torch.float64).log_softmax(-1)
    return DiagonalMixture(weights, *gaussian(*shape, seed=seed + 100))


def normal(one):
    return distributions.Independent(distributions.Normal(one.mean, (0.5 * one.log_var).exp()), 1)


def as_torch(mix):
    return distributions.MixtureSameFamily(distributions.Categorical(logits=mix.log_weights), normal(mix.components))


def test_divergence_of_gaussians_is_torchs():
    one, other = gaussian(5, 3, seed=1), gaussian(5, 3, seed=2)
    torch.testing.assert_close(kl_nats(one, other), distributions.kl_divergence(normal(one), normal(other)))


def test_one_component_is_exact():
    one, other = gaussian(5, 3, seed=1), mixture(5, 1, 3, seed=2)
    alone = DiagonalGaussian(other.mean[:, 0], other.log_var[:, 0])
    as_mixture = DiagonalMixture(torch.zeros(5, 1, dtype=torch.float64), one.mean[:, None], one.log_var[:, None])
    unit = DiagonalGaussian(torch.zeros_like(one.mean), torch.zeros_like(one.mean))
    torch.testing.assert_close(kl_to_mixture_nats(one, other), kl_nats(one, alone))
    torch.testing.assert_close(kl_of_mixtures_nats(as_mixture, other), kl_nats(one, alone))
    torch.testing.assert_close(kl_from_standard_nats(as_mixture), kl_nats(one, unit))


def test_divergence_from_a_mixture_is_bounded_and_tight_when_it_is_far_apart():
    one, other = gaussian(6, 2, seed=3), mixture(6, 4, 2, seed=4)
    points = normal(one).sample((200_000,))
    truth = (normal(one).log_prob(points) - as_torch(other).log_prob(points)).mean(0)
    bound = kl_to_mixture_nats(one, other)
    assert (bound >= truth - 0.02).all()
    apart = DiagonalMixture(other.log_weights, 40.0 * torch.arange(4.0).double()[:, None] + other.mean, other.log_var)
    near = DiagonalGaussian(apart.mean[:, 2], apart.log_var[:, 2])
    torch.testing.assert_close(kl_to_mixture_nats(near, apart), -apart.log_weights[:, 2])


def test_divergence_of_a_mixture_from_standard_normal_is_bounded():
    mix = mixture(4, 3, 2, seed=5)
    points = as_torch(mix).sample((200_000,))
    unit = normal(DiagonalGaussian(torch.zeros(2).double(), torch.zeros(2).double()))
    truth = (as_torch(mix).log_prob(points) - unit.log_prob(points)).mean(0)
    assert (kl_from_standard_nats(mix) >= truth - 0.02).all()


def test_divergence_of_mixtures_is_zero_for_equal_ones_and_right_when_components_are_apart():
    mix, other = mixture(4, 3, 2, seed=6), mixture(4, 3, 2, seed=7)
    torch.testing.assert_close(kl_of_mixtures_nats(mix, mix), torch.zeros(4).double())
    place = 60.0 * torch.arange(3.0).double()[:, None]
    far = [DiagonalMixture(m.log_weights, place + 0.1 * m.mean, 0.1 * m.log_var) for m in (mix, other)]
    each = kl_nats(far[0].components, far[1].components)
    exact = (far[0].log_weights.exp() * (far[0].log_weights - far[1].log_weights + each)).sum(-1)
    torch.testing.assert_close(kl_of_mixtures_nats(*far), exact)


@pytest.mark.parametrize("components", [1, 3])
def test_draws_have_the_mixtures_moments(components):
    mix = mixture(2, components, 2, seed=8)
    draw = torch.Generator().manual_seed(0)
    uniform = torch.rand(200_000, 1, generator=draw, dtype=torch.float64)
    noise = torch.randn(200_000, 1, 2, generator=draw, dtype=torch.float64)
    points = mix.draw(uniform, noise)
    assert points.shape == (200_000, 2, 2)
    expected = as_torch(mix)
    torch.testing.assert_close(points.mean(0), expected.mean, atol=0.02, rtol=0.02)
    torch.testing.assert_close(points.var(0), expected.variance, atol=0.03, rtol=0.03)


def test_weights_get_a_gradient_and_name_the_component():
    mix = mixture(3, 2, 1, seed=9)
    mix.log_weights.requires_grad_()
    uniform = torch.tensor([[0.0], [1.0 - 1e-9]], dtype=torch.float64)
    points, log_weight = mix.draw_weighted(uniform, torch.zeros(2, 1, 1, dtype=torch.float64))
    torch.testing.assert_close(points.squeeze(-1), mix.mean.squeeze(-1).T)
    torch.testing.assert_close(log_weight, mix.log_weights.T)
    assert log_weight.requires_grad
