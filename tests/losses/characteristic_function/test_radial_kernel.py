"""The closed form against the hypergeometric function, sampling and finite differences."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch

from amodal.errors import ConfigurationError
from amodal.losses.characteristic_function.projections import random_directions, random_frequencies
from amodal.losses.characteristic_function.radial_kernel import radial_kernel


def exact(dim, argument):
    return float(
        mpmath.hyp1f2(mpmath.mpf(1) / 2, mpmath.mpf(3) / 2, mpmath.mpf(dim) / 2, -(mpmath.mpf(argument) ** 2) / 4)
    )


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 31, 32, 100, 256, 768])
def test_values_are_the_hypergeometric_functions(dim):
    # Up to an argument of 5 times the length of the difference of two independent normal vectors, and beyond.
    arguments = np.array([0, 1e-3, 0.1, 0.3, 1, 3, 10, 5 * math.sqrt(2 * dim), 8 * math.sqrt(2 * dim)])
    squared = torch.from_numpy((arguments / 5.0) ** 2)
    ours = radial_kernel(squared, dim, 5.0)
    np.testing.assert_allclose(ours, [exact(dim, x) for x in arguments], atol=1e-9)


@pytest.mark.parametrize(("dim", "tolerance"), [(1, 1e-12), (2, 1e-4), (3, 1e-5), (8, 1e-9), (256, 1e-12)])
def test_the_asymptote(dim, tolerance):
    argument = 5000.0
    ours = radial_kernel(torch.tensor([argument**2], dtype=torch.float64), dim, 1.0).item()
    if dim == 2:  # 1F2 is slow here: (1/x) ∫ J0, whose remainder is of order x^(-3/2)
        assert ours == pytest.approx(1 / argument, abs=tolerance)
    else:
        assert ours == pytest.approx(exact(dim, argument), abs=tolerance)


def test_it_is_the_mean_over_directions_and_frequencies():
    g = torch.Generator().manual_seed(0)
    A = random_directions(16, 2000, generator=g, dtype=torch.float64)
    f = random_frequencies(4000, 5.0, generator=g, dtype=torch.float64)
    delta = torch.randn(3, 16, generator=g, dtype=torch.float64) * torch.tensor([[0.1], [0.5], [2.0]])
    sampled = torch.stack([(row[:, None] * f).cos().mean() for row in delta @ A])
    torch.testing.assert_close(radial_kernel(delta.square().sum(1), 16), sampled, atol=0.01, rtol=0)


def test_the_error_function_approximates_it_in_many_dimensions():
    c = torch.linspace(0.1, 6, 50, dtype=torch.float64)
    approximation = math.sqrt(math.pi) / (2 * c) * torch.erf(c)
    for dim, relative in ((64, 0.02), (256, 0.005)):
        ours = radial_kernel(2 * dim * c.square() / 25, dim, 5.0)
        torch.testing.assert_close(ours, approximation, rtol=relative, atol=0)


@pytest.mark.parametrize("dim", [1, 2, 7, 256])
def test_gradients_are_finite_differences(dim):
    squared = torch.tensor([1e-3, 0.01, 0.5, 4.0, 60.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: radial_kernel(s, dim), squared)


def test_the_gradient_at_zero_is_the_limit():
    squared = torch.zeros(1, requires_grad=True)
    radial_kernel(squared, 10, 5.0).backward()
    assert squared.grad.item() == pytest.approx(-25 / 60)


@pytest.mark.parametrize("dim", [2, 256])
def test_float32_keeps_its_digits(dim):
    squared = torch.logspace(-6, 3, 60)
    torch.testing.assert_close(
        radial_kernel(squared, dim).double(), radial_kernel(squared.double(), dim), atol=3e-6, rtol=0
    )


def test_a_second_derivative_is_refused():
    squared = torch.ones(2, requires_grad=True)
    with pytest.raises(ConfigurationError, match="no second derivative"):
        torch.autograd.grad(radial_kernel(squared, 4).sum(), squared, create_graph=True)


@pytest.mark.parametrize(("dim", "largest"), [(0, 5.0), (3, 0.0), (3, float("inf"))])
def test_arguments_that_cannot_be_used(dim, largest):
    with pytest.raises(ConfigurationError, match="expected dim >= 1 and max_frequency > 0"):
        radial_kernel(torch.ones(1), dim, largest)


def test_no_lengths_and_lengths_of_any_shape():
    assert radial_kernel(torch.zeros(0, 3), 4).shape == (0, 3)
    squared = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(radial_kernel(squared, 4)[1, 2, 3], radial_kernel(squared[1, 2, 3], 4))
    assert radial_kernel(torch.tensor([float("nan"), 1.0]), 4)[0].isnan()


@pytest.mark.parametrize("dim", [3, 256])
def test_the_series_and_the_quadrature_agree(monkeypatch, dim):
    squared = torch.linspace(0, 2.3 * dim, 300, dtype=torch.float64)
    series = radial_kernel(squared.requires_grad_(), dim)
    (slope,) = torch.autograd.grad(series.sum(), squared)
    monkeypatch.setattr("amodal.losses.characteristic_function.radial_kernel._series", lambda *_: None)
    quadrature = radial_kernel(squared, dim)
    torch.testing.assert_close(series, quadrature, rtol=0, atol=1e-11)
    torch.testing.assert_close(slope, torch.autograd.grad(quadrature.sum(), squared)[0], rtol=0, atol=1e-9)
