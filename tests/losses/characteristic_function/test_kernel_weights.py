"""Kernel weights against scikit-learn, in their limits, and on bad contexts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import distance as scipy_distance
from sklearn.metrics.pairwise import rbf_kernel

from amodal.errors import ConfigurationError, DataError, ShapeError
from amodal.losses.characteristic_function.kernel_weights import (
    NeighbourShare,
    effective_sample_size,
    kernel_weights,
    median_bandwidth,
    neighbour_weights,
    share_widths,
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


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.6])
@pytest.mark.parametrize("width", [1, 6, 256])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_share_of_the_neighbours_counts_whatever_the_dimension_and_the_scale(share, width, scale):
    observed, predicted = (scale * x for x in contexts(120, 30, width=width))
    around, among = neighbour_weights(observed, predicted, NeighbourShare(share))
    torch.testing.assert_close(
        effective_sample_size(around), torch.full((30,), 120 * share).double(), rtol=0.02, atol=0
    )
    torch.testing.assert_close(around.sum(1), torch.ones(30).double())
    itself = among.diagonal().clone()
    among.fill_diagonal_(0)
    torch.testing.assert_close(itself, among.amax(1))  # as much as the nearest other one


def test_the_width_of_a_share_is_that_of_a_root_finder():
    from scipy.optimize import brentq

    observed, predicted = contexts(80, 7)
    squared = squared_distances(predicted, observed)
    widths = share_widths(squared, torch.ones_like(squared, dtype=torch.bool), 0.2)

    def over(log_width, row):
        kernel = np.exp((row.min() - row) / (2 * np.exp(2 * log_width)))
        return kernel.sum() ** 2 / (kernel**2).sum() - 16

    expected = [np.exp(brentq(over, -5, 5, args=(row.numpy(),))) for row in squared]
    np.testing.assert_allclose(widths[:, 0], expected, rtol=1e-3)


def test_shares_of_few_rows_and_of_rows_that_coincide():
    for n, size in ((1, 1), (2, 2), (5, 2), (40, 4)):  # at least two count, where there are two
        around, _ = neighbour_weights(*contexts(n, 3), NeighbourShare(0.1))
        torch.testing.assert_close(
            effective_sample_size(around), torch.full((3,), float(size)).double(), rtol=0.02, atol=0
        )
    same = torch.ones(20, 3)
    around, among = neighbour_weights(same, same[:4], NeighbourShare(0.1))
    torch.testing.assert_close(around, torch.full((4, 20), 0.05))
    torch.testing.assert_close(among, torch.full((4, 4), 0.25))
    around, among = neighbour_weights(*contexts(0, 3), NeighbourShare(0.1))
    assert around.shape == (3, 0)
    assert among.sum(1).tolist() == pytest.approx([1, 1, 1])
    half = torch.tensor([[True, False] * 10])
    row = torch.arange(20.0)[None]
    torch.testing.assert_close(share_widths(row, half, 0.4), share_widths(row[:, ::2], half[:, ::2], 0.4))
    with pytest.raises(ConfigurationError, match="share of neighbours is out of range.*0 < share <= 1.*got 0"):
        NeighbourShare(0)
