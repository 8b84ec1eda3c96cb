"""V and its relatives: closed forms, bounds, invariances, Monte-Carlo error."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from amodal.errors import ConfigurationError, DataError, ShapeError
from amodal.predictive_impact import (
    draws as draws_module,
)
from amodal.predictive_impact import (
    modality_standard_error,
    modality_variability,
    multilabel_variability,
    normalised_variability,
    regression_variability,
    standard_error,
    variability,
    variability_bound,
    variability_gap,
)


def random_probabilities(seed: int, shape: tuple[int, ...], scale: float = 2.0) -> np.ndarray:
    logits = scale * np.random.default_rng(seed).normal(size=shape)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def literal_variability(probabilities: np.ndarray) -> np.ndarray:
    """Equation 9 written out draw by draw and class by class."""
    draws, cases, classes = probabilities.shape
    value = np.zeros(cases)
    for i in range(cases):
        mean = [sum(probabilities[s, i, c] for s in range(draws)) / draws for c in range(classes)]
        for s in range(draws):
            value[i] += sum(abs(probabilities[s, i, c] - mean[c]) for c in range(classes)) / 2 / draws
    return value


shapes = st.tuples(st.integers(1, 12), st.integers(1, 4), st.integers(1, 6))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), shape=shapes, scale=st.floats(0.0, 30.0))
def test_is_equation_9_and_keeps_its_bounds(seed: int, shape: tuple[int, int, int], scale: float):
    p = random_probabilities(seed, shape, scale)
    value = variability(p)
    np.testing.assert_allclose(value, literal_variability(p), atol=1e-12)
    bound = variability_bound(p.mean(0))
    assert (value >= 0).all()
    assert (value <= bound + 1e-12).all()
    assert (bound <= 1 - 1 / shape[-1] + 1e-12).all()
    for by in ("mean", "classes"):
        share = normalised_variability(p, by=by)
        assert ((share >= 0) & (share <= 1 + 1e-12)).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), shape=shapes)
def test_certain_draws_attain_the_bound(seed: int, shape: tuple[int, int, int]):
    classes = shape[-1]
    p = np.eye(classes)[np.random.default_rng(seed).integers(0, classes, shape[:2])]
    bound = variability_bound(p.mean(0))
    np.testing.assert_allclose(variability(p), bound, atol=1e-12)
    np.testing.assert_allclose(normalised_variability(p), (bound > 1e-12).astype(float), atol=1e-9)


def test_renaming_classes_and_reordering_draws_change_nothing():
    p = random_probabilities(0, (20, 5, 6))
    rng = np.random.default_rng(1)
    for function in (variability, normalised_variability, standard_error):
        expected = function(p)
        np.testing.assert_allclose(function(p[..., rng.permutation(6)]), expected, atol=1e-12)
        np.testing.assert_allclose(function(p[rng.permutation(20)]), expected, atol=1e-12)


def test_a_decoder_blind_to_the_completion_gives_zero():
    p = np.broadcast_to(random_probabilities(0, (1, 7, 4)), (50, 7, 4))
    np.testing.assert_allclose(variability(p), 0.0, atol=1e-15)
    np.testing.assert_allclose(standard_error(p), 0.0, atol=1e-15)
    np.testing.assert_allclose(normalised_variability(p), 0.0, atol=1e-14)


def test_equally_spread_certain_draws_have_the_largest_value():
    for classes, largest in ((2, 0.5), (6, 5 / 6), (10, 0.9)):
        p = np.eye(classes)[:, None]
        assert variability(p)[0] == pytest.approx(largest)
        assert normalised_variability(p, by="classes")[0] == pytest.approx(1.0)


def test_ideal_values_of_xor():
    """Three clusters at (-1, ±1) and (1, 1), sd 0.5; the label is whether the signs differ, so V = 2 p (1 - p)."""
    rng = np.random.default_rng(0)
    centres = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])[rng.integers(0, 3, 3000)]
    x_o = centres[:, 0] + 0.5 * rng.normal(size=3000)
    weight = np.exp(-((x_o[:, None] - np.array([-1.0, -1.0, 1.0])) ** 2) / (2 * 0.25))
    posterior = weight / weight.sum(1, keepdims=True)
    positive = posterior @ norm.cdf(np.array([-1.0, 1.0, 1.0]) / 0.5)  # probability that x_m > 0 given x_o
    differs = np.where(x_o > 0, 1 - positive, positive)
    label = rng.random((2000, 3000)) < differs
    value = variability(np.stack([~label, label], -1).astype(np.float32))
    np.testing.assert_allclose(value, 2 * differs * (1 - differs), atol=0.06)
    assert value[x_o < 0].mean() == pytest.approx(0.499, abs=0.003)
    assert value[x_o > 0].mean() == pytest.approx(0.078, abs=0.008)


@pytest.mark.parametrize("draws", [5, 20])
def test_the_sample_mean_lowers_the_value_by_a_known_factor(draws: int):
    rng = np.random.default_rng(0)
    small = 0.05 * rng.normal(size=(draws, 40_000))  # Gaussian deviations of a two-class prediction
    value = variability(np.stack([0.5 + small, 0.5 - small], -1)).mean()
    assert value / (0.05 * np.sqrt(2 / np.pi)) == pytest.approx(np.sqrt((draws - 1) / draws), rel=0.01)
    certain = rng.random((draws, 40_000)) < 0.3
    value = variability(np.stack([certain, ~certain], -1)).mean()
    assert value / (2 * 0.3 * 0.7) == pytest.approx((draws - 1) / draws, rel=0.01)


def test_standard_error_is_the_spread_over_repeated_draws():
    repeats, draws = 3000, 100
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(draws, repeats, 4)) * 2 + np.array([1.0, 0.0, 0.5, -1.0])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert standard_error(p).mean() == pytest.approx(variability(p).std(), rel=0.05)
    skewed = rng.random((draws, repeats)) < 0.1  # certain draws: V = 2 p (1 - p), whose slope at 0.1 is 1.6
    p = np.stack([skewed, ~skewed], -1)
    assert standard_error(p).mean() == pytest.approx(variability(p).std(), rel=0.05)
    assert standard_error(p).mean() == pytest.approx(1.6 * np.sqrt(0.09 / draws), rel=0.05)
    assert np.isnan(standard_error(p[:1])).all()


def test_per_modality_values_are_those_of_the_inner_draws():
    p = random_probabilities(0, (3, 8, 5, 4))
    expected = np.mean([literal_variability(inner) for inner in p], axis=0)
    np.testing.assert_allclose(modality_variability(p), expected, atol=1e-12)
    spread = np.std([literal_variability(inner) for inner in p], axis=0, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(modality_standard_error(p), spread, atol=1e-12)


def test_modalities_that_matter_only_together():
    """The label is the exclusive or of two absent bits: each has V = 1/2 given the other, as have both together."""
    rng = np.random.default_rng(0)
    outer, inner = rng.random((400, 1, 1)) < 0.5, rng.random((400, 60, 1)) < 0.5
    p = np.eye(2)[(outer ^ inner).astype(int)]
    assert modality_variability(p)[0] == pytest.approx(0.5 * 59 / 60, abs=0.005)
    assert variability(p.reshape(-1, 1, 2))[0] == pytest.approx(0.5, abs=0.001)
    only_outer = np.eye(2)[np.broadcast_to(outer, inner.shape).astype(int)]
    np.testing.assert_allclose(modality_variability(only_outer), 0.0)
    averaged = p.mean(1)  # what the outer bit changes while the inner one stays open: nothing
    assert variability(averaged)[0] == pytest.approx(0.0, abs=0.07)


def test_gap_is_the_difference():
    missing, complete = random_probabilities(0, (20, 6, 3)), random_probabilities(1, (9, 6, 3))
    np.testing.assert_allclose(variability_gap(missing, complete), variability(missing) - variability(complete))
    with pytest.raises(ShapeError, match=r"expected \(S, 6, 3\), got \(9, 5, 3\)"):
        variability_gap(missing, complete[:, :5])


def test_regression_agrees_with_two_classes_and_with_the_normal_distribution():
    p = random_probabilities(0, (30, 5, 2))
    np.testing.assert_allclose(regression_variability(p[..., 1]), variability(p), atol=1e-12)
    means = np.random.default_rng(0).normal(3.0, 2.0, (20_000, 3))
    np.testing.assert_allclose(regression_variability(means, scale=2.0), np.sqrt(2 / np.pi), rtol=0.02)
    with pytest.raises(ConfigurationError, match="scale of a regression must be positive"):
        regression_variability(means, scale=0.0)


def test_multilabel_is_equation_9_for_each_label():
    p = np.random.default_rng(0).random((25, 4, 3))
    each = np.stack([variability(np.stack([1 - p[..., k], p[..., k]], -1)) for k in range(3)], -1)
    np.testing.assert_allclose(multilabel_variability(p), each, atol=1e-12)
    np.testing.assert_allclose(multilabel_variability(p, over="mean"), each.mean(-1), atol=1e-12)
    np.testing.assert_allclose(multilabel_variability(p, over="max"), each.max(-1), atol=1e-12)
    with pytest.raises(DataError, match="must be probabilities"):
        multilabel_variability(p + 0.5)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (variability, (6, 50, 3)),
        (normalised_variability, (6, 50, 3)),
        (standard_error, (6, 50, 3)),
        (variability_bound, (50, 3)),
        (modality_variability, (4, 5, 50, 3)),
        (modality_standard_error, (4, 5, 50, 3)),
        (regression_variability, (6, 50)),
        (multilabel_variability, (6, 50, 3)),
    ],
)
def test_kind_chunks_and_no_cases(function, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    p = random_probabilities(0, shape)
    whole = function(p)
    assert isinstance(whole, np.ndarray)
    as_tensor = function(torch.from_numpy(p).float().requires_grad_())
    assert isinstance(as_tensor, torch.Tensor)
    assert as_tensor.dtype == torch.float32
    assert not as_tensor.requires_grad
    np.testing.assert_allclose(as_tensor.numpy(), whole, atol=1e-6)
    assert function(torch.from_numpy(p).half()).dtype == torch.float32
    monkeypatch.setattr(draws_module, "CHUNK", 7 * p[..., :1].size // 50)
    np.testing.assert_allclose(function(p), whole, rtol=1e-12)
    axis = shape.index(50)
    assert len(function(p.take(np.arange(0), axis=axis))) == 0


def test_reads_a_memory_map_that_cannot_be_written(tmp_path):
    p = random_probabilities(0, (4, 9, 3)).astype(np.float32)
    np.save(tmp_path / "draws.npy", p)
    mapped = np.load(tmp_path / "draws.npy", mmap_mode="r")
    np.testing.assert_array_equal(variability(mapped), variability(p))


def test_bad_input_is_named():
    p = random_probabilities(0, (4, 5, 3))
    with pytest.raises(ConfigurationError, match=r"nothing along S \(expected S >= 1.*Ask for at least one draw"):
        variability(p[:0])
    with pytest.raises(ShapeError, match=r"shape \(S, N, C\), got \(5, 3\)"):
        variability(p[0])
    with pytest.raises(ShapeError, match="numpy array or torch tensor.*got list"):
        variability(p.tolist())
    with pytest.raises(DataError, match="sum to 1.*softmax"):
        variability(np.log(p) + 3)
    with pytest.raises(DataError, match="must be probabilities"):
        variability(np.full((2, 2, 2), np.nan))
    with pytest.raises(ConfigurationError, match="'mean' or 'classes', got 'draws'"):
        normalised_variability(p, by="draws")
    with pytest.raises(ConfigurationError, match="'labels', 'mean' or 'max'"):
        multilabel_variability(p, over="sum")
