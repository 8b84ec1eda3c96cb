"""Numbers that show a collapse: their values where they are known, and what they say when little can be said."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from amodal.errors import ShapeError
from amodal.losses.characteristic_function.kernel_weights import effective_sample_size as size_of_normalised
from amodal.metrics.collapse import context_diversity, effective_rank, effective_sample_size, spread


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_effective_rank_is_the_exponential_of_the_entropy_of_singular_values(rng):
    left, _ = np.linalg.qr(rng.normal(size=(20, 4)))
    right, _ = np.linalg.qr(rng.normal(size=(6, 4)))
    left -= left.mean(0)
    left, _ = np.linalg.qr(left)  # columns stay orthogonal to the constant, so that centring changes nothing
    values = np.array([8.0, 4.0, 2.0, 1.0])
    expected = math.exp(stats.entropy(values / values.sum()))
    assert effective_rank(left * values @ right.T) == pytest.approx(expected)
    assert effective_rank(left * values @ right.T + 100) == pytest.approx(expected)
    assert effective_rank(left @ right.T) == pytest.approx(4)


def test_effective_rank_of_a_collapse(rng):
    point = np.tile(rng.normal(size=8), (30, 1))
    line = np.outer(rng.normal(size=30), rng.normal(size=8))
    assert effective_rank(point) == 0
    assert effective_rank(point.astype(np.float32)) == 0
    assert effective_rank(point, centre=False) == pytest.approx(1)
    assert effective_rank(line) == pytest.approx(1)
    assert effective_rank(rng.normal(size=(4000, 8))) > 7.9
    assert effective_rank(line + 1e-3 * rng.normal(size=(30, 8))) < 1.2


def test_effective_rank_does_not_depend_on_scale_or_rotation(rng):
    rows = rng.normal(size=(25, 5)) * [5, 3, 1, 0.5, 0.1]
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    assert effective_rank(1e-6 * rows @ rotation) == pytest.approx(effective_rank(rows))


def test_spread_and_diversity(rng):
    rows = rng.normal(size=(50, 3)) * [1, 2, 0]
    np.testing.assert_allclose(spread(rows), np.std(rows, axis=0))
    assert spread(rows)[2] == 0
    assert context_diversity(rows) == pytest.approx(np.std(rows, axis=0).mean())
    assert context_diversity(rows / 4, initial=context_diversity(rows)) == pytest.approx(0.25)
    assert context_diversity(np.ones((5, 3))) == 0


def test_effective_sample_size_is_that_of_the_losses(rng):
    weights = torch.softmax(torch.from_numpy(rng.normal(size=(6, 9))), 1)
    np.testing.assert_allclose(effective_sample_size(weights), size_of_normalised(weights))
    np.testing.assert_allclose(effective_sample_size(7 * weights), effective_sample_size(weights))
    assert effective_sample_size(np.zeros((2, 3))).tolist() == [0, 0]
    assert effective_sample_size(np.zeros((2, 0))).tolist() == [0, 0]


@pytest.mark.parametrize("rows", [np.zeros((0, 4)), np.ones((1, 4))])
def test_nothing_can_be_said_of_fewer_than_two_rows(rows):
    assert math.isnan(effective_rank(rows))
    assert math.isnan(context_diversity(rows))
    assert np.isnan(spread(rows)).all()


def test_entries_that_are_not_finite_give_nan():
    rows = np.ones((4, 2))
    rows[1, 0] = np.nan
    assert math.isnan(effective_rank(rows))
    assert np.isnan(spread(rows)).tolist() == [True, False]


def test_tensors_on_the_graph_and_of_low_precision_are_taken():
    rows = torch.randn(10, 3, dtype=torch.bfloat16, requires_grad=True)
    assert effective_rank(rows) == pytest.approx(effective_rank(rows.detach().double().numpy()))


def test_what_is_not_a_matrix_is_refused():
    for function in (effective_rank, spread, context_diversity, effective_sample_size):
        with pytest.raises(ShapeError, match=r"must be a matrix \(expected \(N, D\), got \(3,\)\)"):
            function(np.zeros(3))
