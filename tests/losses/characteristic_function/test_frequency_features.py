"""The expansion in Chebyshev polynomials is the cosines and sines it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from amodal.losses.characteristic_function import frequency_features
from amodal.losses.characteristic_function.frequency_features import chebyshev, terms_needed, weighted_cf_difference


def case(n=9, m=6, queries=4, directions=5, frequencies=64, scale=1.0, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    u = scale * torch.randn(n + m, directions, generator=g, dtype=dtype)
    weights = torch.randn(queries, n + m, generator=g, dtype=dtype)
    return u[:n].clone(), u[n:].clone(), weights, 5 * torch.rand(frequencies, generator=g, dtype=dtype)


def literal(observed, predicted, weights, frequencies):
    """The definition, in NumPy's complex numbers."""
    u = np.concatenate([observed.detach().double().numpy(), predicted.detach().double().numpy()])
    waves = np.exp(1j * u[:, :, None] * frequencies.double().numpy())
    mixed = np.einsum("qa,apk->qpk", weights.detach().double().numpy(), waves)
    return (np.abs(mixed) ** 2).mean((1, 2))


@pytest.mark.parametrize("count", [2, 3, 8, 37, 100])
def test_chebyshev_polynomials_are_numpys(count):
    x = np.linspace(-1, 1, 41)
    expected = np.polynomial.chebyshev.chebvander(x, count - 1).T
    np.testing.assert_allclose(chebyshev(torch.from_numpy(x), count), expected, atol=1e-11)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-7), (torch.float64, 1e-16)])
def test_terms_left_out_are_below_rounding(dtype, tolerance):
    for z in [0.0, *np.geomspace(1e-3, 300, 200)]:
        first = terms_needed(float(z), dtype)
        assert first % 2 == 0
        assert 2 * np.abs(special.jv(np.arange(first, first + 60), z)).max() < tolerance


@given(st.floats(1e-3, 30), st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_values_are_the_definitions_at_every_spread(scale, seed):
    arguments = case(scale=scale, seed=seed)
    np.testing.assert_allclose(weighted_cf_difference(*arguments), literal(*arguments), rtol=1e-10)


@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0, 100.0])
def test_float32_is_as_good_as_cosines_in_float32(scale):
    arguments = case(scale=scale, directions=40, dtype=torch.float32)
    weights = arguments[2].softmax(1)
    weights[:, 9:] -= weights[:, :9].sum(1, keepdim=True) / 6
    value = weighted_cf_difference(arguments[0], arguments[1], weights, arguments[3])
    np.testing.assert_allclose(value, literal(arguments[0], arguments[1], weights, arguments[3]), atol=2e-6)


@pytest.mark.parametrize("frequencies", [1, 3, 64])  # few frequencies stay cosines and sines
@pytest.mark.parametrize("scale", [1.0, 50.0])
@pytest.mark.parametrize("chunk", [None, 2])
def test_gradients_are_finite_differences(frequencies, scale, chunk):
    observed, predicted, weights, f = case(n=3, m=2, queries=2, directions=3, frequencies=frequencies, scale=scale)
    inputs = (observed.requires_grad_(), predicted.requires_grad_(), weights.requires_grad_(), f, chunk)
    assert torch.autograd.gradcheck(weighted_cf_difference, inputs)


@pytest.mark.parametrize("wanted", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1)])
@pytest.mark.parametrize("frequencies", [2, 64])
def test_each_gradient_is_the_same_whichever_others_are_wanted(wanted, frequencies):
    arguments = case(frequencies=frequencies)
    everything = [x.clone().requires_grad_() for x in arguments[:3]]
    weighted_cf_difference(*everything, arguments[3]).sum().backward()
    some = [x.clone().requires_grad_(bool(w)) for x, w in zip(arguments[:3], wanted)]
    weighted_cf_difference(*some, arguments[3]).sum().backward()
    for mine, full, want in zip(some, everything, wanted):
        assert (mine.grad is not None) == bool(want)
        if want:
            torch.testing.assert_close(mine.grad, full.grad)


def test_chunks_change_nothing():
    arguments = case(directions=13)
    whole = weighted_cf_difference(*arguments)
    for chunk in (1, 4, 13, 50):
        torch.testing.assert_close(weighted_cf_difference(*arguments, chunk), whole)


def test_the_expansion_is_used_where_it_is_smaller(monkeypatch):
    sizes = []
    original = frequency_features._choose_basis

    def watched(*arguments):
        sizes.append((basis := original(*arguments)).size)
        return basis

    monkeypatch.setattr(frequency_features, "_choose_basis", watched)
    for options in ({}, {"frequencies": 8}, {"scale": 100.0}, {"scale": 1e-9}):
        weighted_cf_difference(*case(dtype=torch.float32, **options))
    ordinary, few, wide, point = sizes
    assert ordinary < 40  # of 128
    assert few == 16
    assert wide == 128
    assert point <= 4


def test_projections_that_are_not_finite_give_nan_and_not_a_number():
    observed, predicted, weights, f = case()
    observed[0, 0] = float("nan")
    assert weighted_cf_difference(observed, predicted, weights, f).isnan().all()


@pytest.mark.parametrize("wanted", [(1, 1, 1), (0, 1, 0)])
def test_second_derivatives_are_finite_differences(wanted):
    *inputs, f = case(n=2, m=2, queries=2, directions=2)
    inputs = [x.requires_grad_(bool(w)) for x, w in zip(inputs, wanted)]
    assert torch.autograd.gradgradcheck(weighted_cf_difference, (*inputs, f))
