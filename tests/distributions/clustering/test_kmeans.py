"""Batched k-means against scikit-learn's, problem by problem."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, kmeans_plusplus

from amodal.distributions.clustering.kmeans import _lloyd_step, kmeans_assignment, kmeans_seeds


def sklearn_labels(points: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct points than clusters
        return KMeans(clusters, n_init=1, random_state=np.random.RandomState(seed)).fit(points).labels_


@pytest.mark.parametrize(("dim", "clusters", "seed"), [(1, 3, 0), (2, 10, 1), (9, 10, 0), (5, 1, 7)])
def test_equals_scikit_learn_for_each_problem(dim: int, clusters: int, seed: int):
    points = np.random.default_rng(3).normal(size=(12, 120, dim)) * np.linspace(0.1, 9, dim) + 40
    member = kmeans_assignment(torch.from_numpy(points), clusters, seed=seed)
    assert torch.equal(member.sum(1), torch.ones(12, 120, dtype=torch.float64))
    for problem, labels in zip(points, member.argmax(1).numpy()):
        np.testing.assert_array_equal(labels, sklearn_labels(problem, clusters, seed))


def test_seeds_equal_scikit_learn():
    points = np.random.default_rng(0).normal(size=(8, 60, 4))
    seeds = kmeans_seeds(torch.from_numpy(points), 6, seed=5).numpy()
    for problem, ours in zip(points, seeds):
        np.testing.assert_array_equal(ours, kmeans_plusplus(problem, 6, random_state=5)[1])


def test_single_precision_gives_the_same_clusters():
    points = torch.randn(50, 200, 9, generator=torch.Generator().manual_seed(0))
    assert (kmeans_assignment(points, 10) == kmeans_assignment(points.double(), 10)).float().mean() > 0.995


def test_fewer_distinct_points_than_clusters():
    values = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 5.0]])
    points = values[np.random.default_rng(0).integers(0, 3, (4, 50))]
    member = kmeans_assignment(torch.from_numpy(points), 6)
    assert torch.equal(member.sum(1), torch.ones(4, 50, dtype=torch.float64))
    for problem, labels in zip(points, member.argmax(1).numpy()):
        for value in values:  # equal points are never divided
            assert len(set(labels[(problem == value).all(1)])) == 1
        assert len(set(labels)) == 3


def test_an_empty_cluster_takes_the_farthest_point():
    points = np.random.default_rng(1).normal(size=(2, 30, 3))
    centres = np.stack([points[:, 0], points[:, 1], np.full((2, 3), 100.0)], axis=1)
    columns = torch.from_numpy(np.concatenate([points, np.ones((2, 30, 1))], axis=-1)).mT.contiguous()
    moved = _lloyd_step(columns, torch.from_numpy(centres)).numpy()
    for problem, start, ours in zip(points, centres, moved):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = KMeans(3, init=start, n_init=1, max_iter=1).fit(problem).cluster_centers_
        np.testing.assert_allclose(ours, theirs)


def test_a_problem_does_not_depend_on_the_others():
    points = torch.randn(20, 80, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    together = kmeans_assignment(points, 5)
    alone = torch.cat([kmeans_assignment(problem[None], 5) for problem in points])
    assert torch.equal(together, alone)
