"""Plausible labels: made clouds, scikit-learn as an oracle, degenerate logits."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.mixture import BayesianGaussianMixture

from amodal.errors import ConfigurationError, DataError, ShapeError
from amodal.predictive_impact import draws as draws_module
from amodal.predictive_impact import plausible_labels
from amodal.predictive_impact.plausible import _contrasts


def made_clouds(cases: int, draws: int, classes: int, seed: int = 0, separation: float = 4.0) -> np.ndarray:
    """Logits of one to four overlapping groups a case, each group leaning to one class."""
    rng = np.random.default_rng(seed)
    logits = np.empty((draws, cases, classes))
    for i in range(cases):
        groups = rng.integers(1, 5)
        group = rng.choice(groups, draws, p=rng.dirichlet(np.full(groups, 2.0)))
        centre = rng.normal(size=(groups, classes))
        centre[np.arange(groups), rng.integers(0, classes, groups)] += separation
        spread = 0.8 * rng.normal(size=(groups, classes, classes)) / np.sqrt(classes)
        logits[:, i] = centre[group] + np.einsum("sc,scd->sd", rng.normal(size=(draws, classes)), spread[group])
    return logits


def oracle_shares(logits: np.ndarray, components: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Mass and fraction of clusters by label for one case (S, C), by scikit-learn."""
    draws, classes = logits.shape
    centred = logits - logits.mean(1, keepdims=True)
    # any orthonormal basis of the plane of centred logits will do
    points = centred @ np.linalg.svd(np.ones((1, classes)))[2][1:].T if classes <= 10 else centred
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mixture = BayesianGaussianMixture(
            n_components=components,
            covariance_type="full" if classes <= 10 else "diag",
            weight_concentration_prior=0.1,
            reg_covar=1e-4 * points.var(0).mean(),
            random_state=0,
        )
        cluster = mixture.fit_predict(points)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    mass, fraction = np.zeros(classes), np.zeros(classes)
    for k in range(components):
        members = cluster == k
        if members.sum() >= 0.01 * draws:
            label = p[members].mean(0).argmax()
            mass[label] += members.sum()
            fraction[label] += 1
    return mass / mass.sum(), fraction / fraction.sum()


def test_finds_the_labels_of_separate_groups():
    rng = np.random.default_rng(0)
    group = rng.choice(3, 500, p=[0.6, 0.3, 0.1])
    logits = rng.normal(size=(500, 1, 5))
    logits[np.arange(500), 0, np.array([3, 0, 4])[group]] += 12
    found = plausible_labels(logits)
    assert found.labels == [(3, 0, 4)]
    np.testing.assert_allclose(found.mass[0, [3, 0, 4]], np.bincount(group) / 500, atol=1e-6)
    np.testing.assert_allclose(found.fraction[0, [3, 0, 4]], 1 / 3, atol=1e-6)
    assert found.number.tolist() == [3]


@pytest.mark.parametrize("classes", [2, 3, 6, 12])
def test_agrees_with_scikit_learn(classes: int):
    logits = made_clouds(20, 200, classes, seed=classes)
    expected = [oracle_shares(logits[:, i]) for i in range(20)]
    double = plausible_labels(logits, double_precision=True)
    np.testing.assert_allclose(double.mass, [mass for mass, _ in expected], atol=1e-9)
    np.testing.assert_allclose(double.fraction, [fraction for _, fraction in expected], atol=1e-9)
    single = plausible_labels(logits)
    same = [set(labels) == set(np.flatnonzero(mass)) for labels, (mass, _) in zip(single.labels, expected)]
    close = [abs(ours - mass).sum() / 2 < 0.02 for ours, (mass, _) in zip(single.mass, expected)]
    assert np.mean([a and b for a, b in zip(same, close)]) >= 0.95
    several = np.mean([len(labels) > 1 for labels in single.labels])
    assert several > 0.3, "the clouds are too easy to test anything"


def test_shares_sum_to_one_and_labels_are_their_support():
    found = plausible_labels(made_clouds(20, 120, 4))
    np.testing.assert_allclose(found.mass.sum(1), 1.0, atol=1e-6)
    np.testing.assert_allclose(found.fraction.sum(1), 1.0, atol=1e-6)
    for labels, mass, fraction in zip(*found):
        assert set(labels) == set(np.flatnonzero(mass)) == set(np.flatnonzero(fraction))
        assert list(mass[list(labels)]) == sorted(mass[list(labels)], reverse=True)


def test_what_is_common_to_all_classes_does_not_matter():
    logits = made_clouds(10, 150, 3)
    shift = np.random.default_rng(0).normal(size=(150, 10, 1)) * 50
    plain, shifted = (
        plausible_labels(logits, double_precision=True),
        plausible_labels(logits + shift, double_precision=True),
    )
    np.testing.assert_allclose(plain.mass, shifted.mass)


@pytest.mark.parametrize("classes", [4, 11])
def test_renaming_classes_renames_labels(classes: int):
    logits = made_clouds(15, 150, classes, seed=1)
    order = np.random.default_rng(0).permutation(classes)
    plain = plausible_labels(logits, double_precision=True)
    renamed = plausible_labels(logits[..., order], double_precision=True)
    np.testing.assert_allclose(renamed.mass, plain.mass[:, order])
    np.testing.assert_allclose(renamed.fraction, plain.fraction[:, order])


def test_unanimous_draws_need_no_mixture_and_would_not_change_with_one():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 6, 4))
    logits[..., 2] = logits.max(-1) + rng.random((200, 6))
    found = plausible_labels(logits)
    assert found.labels == [(2,)] * 6
    for i in range(6):
        np.testing.assert_allclose(oracle_shares(logits[:, i])[0], found.mass[i])


def test_logits_that_do_not_vary_are_one_cluster():
    logits = np.tile([[0.0, 1e-5, 0.0]], (40, 3, 1)) + 1e-4 * np.random.default_rng(0).random((40, 3, 3))
    found = plausible_labels(logits)
    assert (found.number == 1).all()
    probabilities = torch.from_numpy(logits).softmax(-1).mean(0).argmax(-1)
    assert found.labels == [(int(label),) for label in probabilities]
    blind = plausible_labels(np.zeros((40, 2, 3)))
    assert blind.labels == [(0,), (0,)]


def test_how_large_logits_are_does_not_matter():
    """What is common to a draw's classes drops out before anything is rounded away."""
    draws = np.zeros((100, 1, 3)) - 1e31 * np.eye(3)[1]
    draws[:50, 0, 0], draws[50:, 0, 2] = 1e16, 1e16
    np.testing.assert_array_equal(plausible_labels(draws).mass, [[0.5, 0, 0.5]])
    huge = np.random.default_rng(0).normal(size=(400, 1, 4)) * 1e30
    np.testing.assert_allclose(plausible_labels(huge).mass, [[0.25] * 4], atol=0.1)


def test_one_draw_and_few_draws():
    logits = made_clouds(5, 4, 3)
    assert plausible_labels(logits[:1]).labels == [(int(label),) for label in logits[0].argmax(-1)]
    np.testing.assert_allclose(plausible_labels(logits).mass.sum(1), 1.0, atol=1e-6)


@pytest.mark.parametrize("absent", [-np.inf, -1e9])
def test_classes_with_no_mass_are_never_plausible(absent: float):
    logits = made_clouds(12, 150, 4, seed=3)
    expected = plausible_labels(logits[..., :3])
    logits[..., 3] = absent
    found = plausible_labels(logits)
    assert (found.mass[:, 3] == 0).all()
    assert np.isfinite(found.mass).all()
    agree = [set(a) == set(b) for a, b in zip(found.labels, expected.labels)]
    assert np.mean(agree) > 0.8


def test_sometimes_impossible_classes():
    rng = np.random.default_rng(0)
    p = np.zeros((300, 2, 3))
    p[np.arange(300), :, rng.integers(0, 2, 300)] = 1.0
    with np.errstate(divide="ignore"):
        found = plausible_labels(np.log(p))
    assert [set(labels) for labels in found.labels] == [{0, 1}, {0, 1}]
    np.testing.assert_allclose(found.mass, p.mean(0), atol=1e-6)


def test_small_clusters_do_not_count():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1000, 1, 2)) * 0.3
    logits[:, 0, 0] += 10
    logits[:6, 0, 1] += 40  # six in a thousand
    assert plausible_labels(logits).labels == [(0,)]
    assert plausible_labels(logits, smallest_cluster=0.0).labels == [(0, 1)]


def test_a_case_does_not_depend_on_the_others_or_on_chunks(monkeypatch: pytest.MonkeyPatch):
    logits = made_clouds(12, 150, 3, seed=5)
    together = plausible_labels(logits, double_precision=True)
    monkeypatch.setattr(draws_module, "CHUNK", 150 * 3 * 5)
    in_chunks = plausible_labels(logits, double_precision=True)
    np.testing.assert_allclose(in_chunks.mass, together.mass)
    np.testing.assert_allclose(plausible_labels(logits[:, 7:8], double_precision=True).mass[0], together.mass[7])


def test_kind_of_array_is_kept():
    logits = made_clouds(4, 60, 3)
    found = plausible_labels(torch.from_numpy(logits).requires_grad_())
    assert isinstance(found.mass, torch.Tensor)
    assert not found.mass.requires_grad
    assert isinstance(plausible_labels(logits).fraction, np.ndarray)
    labels, mass, fraction = plausible_labels(logits[:, :0])
    assert labels == []
    assert mass.shape == fraction.shape == (0, 3)


def test_contrasts_are_orthonormal_and_blind_to_the_common_part():
    for classes in (2, 3, 10):
        basis = _contrasts(classes)
        torch.testing.assert_close(basis.mT @ basis, torch.eye(classes - 1, dtype=torch.float64))
        torch.testing.assert_close(basis.sum(0), torch.zeros(classes - 1, dtype=torch.float64))


def test_bad_input_is_named():
    logits = made_clouds(3, 20, 3)
    with pytest.raises(ConfigurationError, match="nothing along S.*Ask for at least one draw"):
        plausible_labels(logits[:0])
    with pytest.raises(ShapeError, match=r"\(S, N, C\), got \(20, 3\)"):
        plausible_labels(logits[:, 0])
    with pytest.raises(ConfigurationError, match="at least two classes"):
        plausible_labels(logits[..., :1])
    with pytest.raises(ConfigurationError, match="smaller than the average"):
        plausible_labels(logits, smallest_cluster=0.5)
    with pytest.raises(ConfigurationError, match="at least one component"):
        plausible_labels(logits, components=0)
    for bad in (np.nan, np.inf):
        broken = logits.copy()
        broken[2, 1, 0] = bad
        with pytest.raises(DataError, match="got 1 draws with NaN, plus infinity"):
            plausible_labels(broken)
