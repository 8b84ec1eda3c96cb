"""The batched mixture against scikit-learn's, data set by data set, and against clouds with known clusters."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.mixture import BayesianGaussianMixture

from amodal.distributions.clustering.dirichlet_process import fit_dirichlet_process_mixture
from amodal.errors import ConfigurationError, ShapeError


def clouds(problems: int, draws: int, dim: int, seed: int = 0) -> np.ndarray:
    """Data sets of one to four overlapping groups each, of different scales and far from zero."""
    rng = np.random.default_rng(seed)
    points = np.empty((problems, draws, dim))
    for problem in points:
        groups = rng.integers(1, 5)
        group = rng.integers(0, groups, draws)
        spread = rng.normal(size=(groups, dim, dim)) / np.sqrt(dim)
        problem[:] = 3 * rng.normal(size=(groups, dim))[group]
        problem += np.einsum("sd,sde->se", rng.normal(size=(draws, dim)), spread[group])
    return points * rng.uniform(0.1, 10, size=(problems, 1, 1)) + 5


def oracle(points: np.ndarray, floor: float, **settings) -> tuple[BayesianGaussianMixture, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged
        mixture = BayesianGaussianMixture(
            weight_concentration_prior=0.1, reg_covar=floor, random_state=0, n_init=1, **settings
        )
        return mixture, mixture.fit_predict(points)


@pytest.mark.parametrize(
    ("dim", "components", "form"), [(1, 4, "full"), (3, 10, "full"), (9, 10, "full"), (1, 4, "diag"), (12, 6, "diag")]
)
def test_equals_scikit_learn_in_double_precision(dim: int, components: int, form: str):
    points = clouds(8, 150, dim, seed=dim)
    floor = 1e-4 * points.var(1).mean(-1)
    ours = fit_dirichlet_process_mixture(
        torch.from_numpy(points),
        components,
        covariance="full" if form == "full" else "diagonal",
        covariance_floor=torch.from_numpy(floor),
    )
    for i, problem in enumerate(points):
        theirs, labels = oracle(problem, floor[i], n_components=components, covariance_type=form)
        assert ours.iterations[i] == theirs.n_iter_
        assert bool(ours.converged[i]) == theirs.converged_
        np.testing.assert_array_equal(ours.assignment[i], labels)
        np.testing.assert_allclose(ours.weights[i], theirs.weights_, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(ours.means[i], theirs.means_, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(ours.covariances[i], theirs.covariances_, rtol=1e-5, atol=1e-8 * problem.var())
        np.testing.assert_allclose(ours.counts[i], theirs.degrees_of_freedom_ - dim, rtol=1e-6, atol=1e-6)
        # scikit-learn's bound is at its update, ours too; constants of the model are left out of both
        np.testing.assert_allclose(ours.lower_bound[i], theirs.lower_bound_, rtol=1e-9)


def test_single_precision_agrees_with_double():
    points = torch.from_numpy(clouds(60, 300, 5, seed=4))
    double = fit_dirichlet_process_mixture(points)
    single = fit_dirichlet_process_mixture(points.float())
    same = (single.assignment == double.assignment).float().mean(1)
    assert (same > 0.98).float().mean() >= 0.95
    assert single.means.dtype == torch.float32


def test_finds_known_clusters():
    rng = np.random.default_rng(0)
    centres = 20 * np.eye(3)
    group = rng.choice(3, (5, 400), p=[0.5, 0.3, 0.2])
    points = centres[group] + rng.normal(size=(5, 400, 3))
    fitted = fit_dirichlet_process_mixture(torch.from_numpy(points), covariance_floor=1e-4)
    for i in range(5):
        for k in range(3):
            (component,) = fitted.assignment[i][group[i] == k].unique().tolist()
            members = group[i] == k
            assert fitted.weights[i, component] == pytest.approx(members.mean(), abs=0.03)
            np.testing.assert_allclose(fitted.means[i, component], points[i][members].mean(0), atol=0.3)
        assert len(fitted.assignment[i].unique()) == 3
    assert torch.allclose(fitted.weights.sum(-1), torch.ones(5, dtype=torch.float64))
    assert fitted.converged.all()


def test_moving_and_scaling_the_data_changes_nothing():
    points = torch.from_numpy(clouds(10, 120, 3))
    there = fit_dirichlet_process_mixture(points, covariance_floor=1e-6)
    elsewhere = fit_dirichlet_process_mixture(100 * points - 7, covariance_floor=1e-2)
    assert torch.equal(there.assignment, elsewhere.assignment)


def test_a_data_set_does_not_depend_on_the_others_batches_or_threads():
    points = torch.from_numpy(clouds(9, 100, 3))
    together = fit_dirichlet_process_mixture(points)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        in_parts = fit_dirichlet_process_mixture(points, batch_size=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    alone = fit_dirichlet_process_mixture(points[4:5])
    assert torch.equal(together.assignment, in_parts.assignment)
    assert torch.equal(together.iterations, in_parts.iterations)
    assert torch.equal(together.assignment[4:5], alone.assignment)
    assert torch.allclose(together.lower_bound[4:5], alone.lower_bound, rtol=1e-9)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_singular_data_do_not_fail(covariance: str):
    rng = np.random.default_rng(0)
    line = rng.normal(size=(3, 80, 1)) * np.array([1.0, 2.0, 0.0]) + np.array([[[0.0, 0.0, 1.0]]])
    few = np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 9.0, 0.0]])[rng.integers(0, 3, (3, 80))]
    points = torch.from_numpy(np.concatenate([line, few]))
    fitted = fit_dirichlet_process_mixture(points.float(), covariance=covariance, covariance_floor=1e-4)
    for name in ("weights", "means", "covariances", "lower_bound"):
        assert torch.isfinite(getattr(fitted, name)).all(), name
    for problem, labels in zip(few, fitted.assignment[3:].numpy()):
        distinct = np.unique(problem, axis=0)
        assert len({int(labels[(problem == value).all(1)][0]) for value in distinct}) == 3
        for value in distinct:
            assert len(set(labels[(problem == value).all(1)])) == 1


def test_identical_points_are_one_cluster():
    fitted = fit_dirichlet_process_mixture(torch.full((2, 30, 2), 4.0), components=5)
    assert (fitted.assignment == fitted.assignment[:, :1]).all()


def test_a_mixture_that_has_not_converged_says_so():
    points = torch.from_numpy(clouds(4, 200, 4))
    fitted = fit_dirichlet_process_mixture(points, max_iterations=2)
    assert not fitted.converged.any()
    assert fitted.iterations.tolist() == [2, 2, 2, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_the_accelerator_agrees_with_the_processor():
    points = torch.from_numpy(clouds(40, 200, 5))
    here, there = fit_dirichlet_process_mixture(points), fit_dirichlet_process_mixture(points.cuda())
    assert (here.assignment == there.assignment.cpu()).float().mean() > 0.99


def test_bad_input_is_named():
    points = torch.randn(2, 20, 3)
    with pytest.raises(ShapeError, match=r"expected shape \(N, S, D\) without zeros, got \(20, 3\)"):
        fit_dirichlet_process_mixture(points[0])
    with pytest.raises(ShapeError, match=r"components <= S = 20, got 30\). Draw more points"):
        fit_dirichlet_process_mixture(points, components=30)
    with pytest.raises(ConfigurationError, match="NaN or infinite"):
        fit_dirichlet_process_mixture(torch.full((1, 20, 2), torch.nan))
    with pytest.raises(ConfigurationError, match="concentration > 0"):
        fit_dirichlet_process_mixture(points, concentration=0.0)
    with pytest.raises(ConfigurationError, match="'full' or 'diagonal', got 'tied'"):
        fit_dirichlet_process_mixture(points, covariance="tied")  # type: ignore[arg-type]
