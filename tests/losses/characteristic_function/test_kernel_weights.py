"""Kernel weights against scikit-learn, in their limits, and on bad contexts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import distance as scipy_distance
from sklearn.metrics.pairwise import rbf_kernel

from amodal.errors import ConfigurationError, DataError, ShapeError
from amodal.losses.characteristic_function.kernel_weights import (
    effective_sample_size,
    kernel_weights,
    median_bandwidth,
    neighbour_weights,
    squared_distances,
)


def contexts(n, m, width=6, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=g, dtype=dtype), torch.randn(m, width, generator=g, dtype=dtype)


@pytest.mark.parametrize("sizes", [(9, 7), (200, 150)])  # distances by differences, and by a product
@pytest.mark.parametrize("distance", ["raw", "per_dimension"])
def test_weights_are_normalised_rbf_kernels(sizes, distance):
    reference, query = contexts(*sizes)
    scale = 1 if distance == "raw" else 6
    kernel = rbf_kernel(query.numpy(), reference.numpy(), gamma=1 / (2 * 1.3**2 * scale))
    weights = kernel_weights(query, reference, 1.3, distance=distance)
    np.testing.assert_allclose(weights, kernel / kernel.sum(1, keepdims=True), rtol=1e-9)


def test_neighbour_weights_normalise_each_side_apart():
    observed, predicted = contexts(8, 5)
    ours = neighbour_weights(observed, predicted, 0.7)
    theirs = (kernel_weights(predicted, observed, 0.7), kernel_weights(predicted, predicted, 0.7))
    for mine, other in zip(ours, theirs):
        torch.testing.assert_close(mine, other)
        torch.testing.assert_close(mine.sum(1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("bandwidth", [1e-3, 1e-30, 1e-200])
@pytest.mark.parametrize("size", [5, 200])
def test_a_small_bandwidth_leaves_only_the_query_itself(bandwidth, size):
    observed, predicted = contexts(7, size)
    around, among = neighbour_weights(observed, predicted, bandwidth)
    torch.testing.assert_close(among, torch.eye(size, dtype=torch.float64))
    nearest = scipy_distance.cdist(predicted, observed).argmin(1)
    np.testing.assert_array_equal(around.argmax(1), nearest)
    torch.testing.assert_close(around.amax(1), torch.ones(size, dtype=torch.float64))


@pytest.mark.parametrize("bandwidth", [1e8, 1e200, float("inf")])
def test_a_large_bandwidth_weighs_all_alike(bandwidth):
    around, among = neighbour_weights(*contexts(8, 5), bandwidth)
    torch.testing.assert_close(around, torch.full((5, 8), 1 / 8, dtype=torch.float64))
    torch.testing.assert_close(among, torch.full((5, 5), 1 / 5, dtype=torch.float64))


def test_queries_far_from_every_reference_still_have_weights():
    reference, query = contexts(4, 3, dtype=torch.float32)
    weights = kernel_weights(query + 1e4, reference, 1.0)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))


def test_small_bandwidths_see_neighbours_that_float32_products_would_not_tell_apart():
    reference = 100 + 1e-3 * torch.arange(300.0)[:, None].expand(-1, 16)
    query = reference[:200] + 2e-4
    weights = kernel_weights(query, reference, 1e-3)
    assert torch.equal(weights.argmax(1), torch.arange(200))


def test_median_bandwidth_is_the_median_distance_to_all_others():
    observed, predicted = contexts(8, 5)
    pairs = [*scipy_distance.cdist(predicted, observed).flatten()]
    among = scipy_distance.cdist(predicted, predicted)
    pairs += [among[i, j] for i in range(5) for j in range(5) if i != j]
    assert len(pairs) == 60
    expected = np.sort(pairs)[29]  # torch's median is the lower of the two in the middle
    assert median_bandwidth(observed, predicted).item() == pytest.approx(expected)
    median = neighbour_weights(observed, predicted, "median")
    for mine, other in zip(median, neighbour_weights(observed, predicted, float(expected))):
        torch.testing.assert_close(mine, other)
    rescaled = neighbour_weights(1000 * observed, 1000 * predicted, "median", distance="per_dimension")
    torch.testing.assert_close(rescaled[0], median[0])


def test_median_bandwidth_of_contexts_that_coincide():
    same = torch.ones(4, 3)
    assert median_bandwidth(same, same).item() == 1
    one_apart = torch.cat([same, torch.tensor([[1.0, 1.0, 3.0]])])
    # One of the 4 + 1 references is 2 away from each of 4 queries: 4 of 32 pairs, so the median is zero.
    assert median_bandwidth(one_apart, same).item() == pytest.approx((4 * 4 / 32) ** 0.5)
    assert median_bandwidth(torch.zeros(0, 3), torch.ones(1, 3)).item() == 1


def test_effective_sample_size():
    observed, predicted = contexts(50, 20, width=256)
    raw, _ = neighbour_weights(observed, predicted, 1.0)
    scaled, _ = neighbour_weights(observed, predicted, 1.0, distance="per_dimension")
    assert effective_sample_size(raw).mean() < 2  # one neighbour in 256 raw dimensions, the sheet's A8
    assert effective_sample_size(scaled).mean() > 35
    uniform = kernel_weights(predicted, observed, float("inf"))
    torch.testing.assert_close(effective_sample_size(uniform), torch.full((20,), 50.0, dtype=torch.float64))
    assert effective_sample_size(torch.zeros(2, 0)).tolist() == [0, 0]


def test_gradients_are_finite_differences():
    observed, predicted = (x.requires_grad_() for x in contexts(4, 3))
    assert torch.autograd.gradcheck(lambda a, b: neighbour_weights(a, b, 1.2), (observed, predicted))


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0), (1, 1)])
def test_empty_sides(sizes):
    around, among = neighbour_weights(*contexts(*sizes), "median")
    assert around.shape == (sizes[1], sizes[0])
    assert among.shape == (sizes[1], sizes[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_contexts_that_are_not_finite_are_named(bad):
    observed, predicted = contexts(6, 4)
    observed[4, 1] = bad
    with pytest.raises(DataError, match="1 of 6 observed contexts are not finite, the first in row 4"):
        neighbour_weights(observed, predicted)
    with pytest.raises(DataError, match="1 of 6 query contexts are not finite"):
        kernel_weights(observed, predicted)
    with pytest.raises(DataError, match="distances between contexts overflow"):
        squared_distances(torch.full((1, 2), 1e200, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64))


@pytest.mark.parametrize("bandwidth", [0, -1.0, float("nan"), "mean"])
def test_bandwidths_that_cannot_be_used(bandwidth):
    with pytest.raises(ConfigurationError, match="expected a number > 0 or 'median', got"):
        neighbour_weights(*contexts(3, 2), bandwidth)


def test_shapes_and_distances_that_cannot_be_used():
    with pytest.raises(ShapeError, match=r"observed and predicted contexts do not fit.*got \(3, 6\) and \(2, 5\)"):
        neighbour_weights(torch.zeros(3, 6), torch.zeros(2, 5))
    with pytest.raises(ShapeError, match="two matrices of equal width"):
        kernel_weights(torch.zeros(3), torch.zeros(2, 5))
    with pytest.raises(ConfigurationError, match="'raw' or 'per_dimension', got 'cosine'"):
        kernel_weights(torch.zeros(3, 5), torch.zeros(2, 5), distance="cosine")
