"""Directions are uniform on the sphere, frequencies uniform and positive, and both obey their generator."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from amodal.errors import ConfigurationError
from amodal.losses.characteristic_function.projections import random_directions, random_frequencies


def test_directions_are_unit_columns_uniform_on_the_sphere():
    A = random_directions(5, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(A.norm(dim=0), torch.ones(4000, dtype=torch.float64))
    # A squared coordinate of a uniform point on the sphere in D dimensions is Beta(1/2, (D - 1)/2).
    assert stats.kstest(A[2].square().numpy(), stats.beta(0.5, 2).cdf).pvalue > 0.01
    assert stats.kstest(A[0].sign().numpy() * 0.5 + 0.5, stats.bernoulli(0.5).cdf).statistic < 0.53


def test_frequencies_are_uniform_and_positive():
    f = random_frequencies(4000, 2.5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert f.min() > 0
    assert f.max() <= 2.5
    assert stats.kstest(f.numpy() / 2.5, "uniform").pvalue > 0.01


def test_the_generator_decides():
    def draw(seed):
        g = torch.Generator().manual_seed(seed)
        return random_directions(3, 4, generator=g), random_frequencies(5, generator=g)

    assert all(torch.equal(a, b) for a, b in zip(draw(1), draw(1)))
    assert not any(torch.equal(a, b) for a, b in zip(draw(1), draw(2)))


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (-1, 2)])
def test_directions_need_positive_sizes(sizes):
    with pytest.raises(ConfigurationError, match=r"expected dim >= 1, count >= 1, got"):
        random_directions(*sizes)


@pytest.mark.parametrize(("count", "largest"), [(0, 5.0), (4, 0.0), (4, float("inf")), (4, float("nan"))])
def test_frequencies_need_a_count_and_a_range(count, largest):
    with pytest.raises(ConfigurationError, match="frequencies cannot be drawn"):
        random_frequencies(count, largest)
