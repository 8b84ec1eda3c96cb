"""Evenly spread numbers: each draw is uniform, all of them are spread, and means over them vary less."""

import math

import pytest
import torch
from scipy import stats

from amodal.distributions.quasirandom import spread_normal, spread_uniform

LIKE = torch.empty((), dtype=torch.float64)


def draw(seed):
    return torch.Generator().manual_seed(seed)


def test_every_coordinate_has_one_draw_in_each_part():
    u = spread_uniform((64, 2, 3), draw(1), LIKE)
    assert u.shape == (64, 2, 3)
    assert u.dtype == torch.float64
    parts = (64 * u).floor().flatten(1).sort(0).values
    torch.testing.assert_close(parts, torch.arange(64.0, dtype=torch.float64)[:, None].expand(64, 6))


def test_a_single_draw_is_uniform_over_seeds_and_the_first_of_many_too():
    for draws in (1, 8):
        first = torch.stack([spread_uniform((draws, 2), draw(seed), LIKE)[0] for seed in range(400)])
        for column in first.T:
            assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-3


def test_means_vary_less_than_by_chance():
    def mean(z):
        return torch.sigmoid(z @ torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=torch.float64)).mean()

    spread = torch.stack([mean(spread_normal((64, 4), draw(s), LIKE)) for s in range(100)]).std()
    chance = torch.stack([mean(torch.randn(64, 4, generator=draw(s), dtype=torch.float64)) for s in range(100)]).std()
    assert spread < 0.3 * chance


def test_the_generator_decides_and_no_coordinate_is_fine():
    assert torch.equal(spread_uniform((5, 3), draw(2), LIKE), spread_uniform((5, 3), draw(2), LIKE))
    assert not torch.equal(spread_uniform((5, 3), draw(2), LIKE), spread_uniform((5, 3), draw(3), LIKE))
    assert spread_uniform((5, 0), draw(0), LIKE).shape == (5, 0)
    assert math.isfinite(float(spread_normal((4096, 2), draw(0), torch.empty(0)).abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_are_strictly_inside(dtype):
    u = spread_uniform((2048, 5), draw(0), torch.empty((), dtype=dtype))
    assert u.dtype == dtype
    assert bool(((u > 0) & (u < 1)).all())
