"""Boosted trees as tensors against scikit-learn, and what a state dict may and may not hold."""

import io

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from amodal.errors import AmodalError, ShapeError
from amodal.trees import BoostedTrees

OPTIONS = {"max_iter": 12, "learning_rate": 0.2, "early_stopping": False, "random_state": 0, "min_samples_leaf": 4}


def rows(n=300, features=5, seed=0, holes=0.3):
    """Features with ties, infinities apart, and NaN; float32, as a method gives them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, features)).round(1).astype(np.float32)
    x[rng.random(x.shape) < holes] = np.nan
    return x, rng


def adopted(model, n_features, columns, baseline):
    trees = BoostedTrees(n_features, len(baseline))
    trees.adopt([model], [columns], baseline)
    return trees


@pytest.fixture(scope="module")
def fitted():
    x, rng = rows()
    y = (np.nan_to_num(x[:, 0]) + np.isnan(x[:, 1]) + rng.normal(size=300)).round().clip(-1, 1).astype(int)
    model = HistGradientBoostingClassifier(**OPTIONS).fit(x, y)
    return x, model, adopted(model, 5, [0, 1, 2], [0.0] * 3)


def test_multiclass_equals_scikit_learn(fitted):
    x, model, trees = fitted
    new = np.concatenate([x, rows(seed=1, holes=0.7)[0], np.full((1, 5), np.nan, np.float32)])
    ours = trees(torch.from_numpy(new)).softmax(1).numpy()
    np.testing.assert_allclose(ours, model.predict_proba(new), rtol=0, atol=1e-14)


def test_values_at_a_threshold_go_left_as_in_scikit_learn(fitted):
    _, model, trees = fitted
    inner = trees.left != torch.arange(len(trees.left))
    cut = torch.unique(trees.threshold[inner & trees.threshold.isfinite()])
    new = np.full((len(cut), 5), np.nan)
    new[:, 0] = cut.numpy()
    new = np.concatenate([new, np.nextafter(new, np.inf), np.nextafter(new, -np.inf)])
    np.testing.assert_allclose(trees(torch.from_numpy(new)).softmax(1), model.predict_proba(new), rtol=0, atol=1e-14)


def test_binary_and_regression_equal_scikit_learn():
    x, rng = rows(seed=2)
    score = np.nan_to_num(x[:, 0]) ** 2 + np.isnan(x[:, 2]) + rng.normal(size=300)
    binary = HistGradientBoostingClassifier(**OPTIONS).fit(x, score > 1)
    trees = adopted(binary, 5, [1], [0.0, 0.0])
    ours = trees(torch.from_numpy(x)).softmax(1)
    np.testing.assert_allclose(ours, binary.predict_proba(x), rtol=0, atol=1e-14)
    regression = HistGradientBoostingRegressor(**OPTIONS).fit(x, score)
    ours = adopted(regression, 5, [0], [0.0])(torch.from_numpy(x))[:, 0]
    np.testing.assert_allclose(ours, regression.predict(x), rtol=0, atol=1e-13)


def test_a_split_on_missing_alone_is_followed():
    x = np.array([[np.nan], [1.0], [2.0], [3.0]] * 20, dtype=np.float32)
    model = HistGradientBoostingRegressor(**OPTIONS, max_leaf_nodes=2).fit(x, np.isnan(x[:, 0]) * 5.0)
    trees = adopted(model, 1, [0], [0.0])
    assert torch.isinf(trees.threshold).any()  # scikit-learn's way to say "everything measured"
    np.testing.assert_allclose(trees(torch.from_numpy(x))[:, 0], model.predict(x), rtol=0, atol=1e-13)


def test_rows_beyond_one_chunk_come_back_in_order(fitted, monkeypatch):
    x, _, trees = fitted
    whole = trees(torch.from_numpy(x))
    monkeypatch.setattr("amodal.trees._PATHS_AT_ONCE", 7 * len(trees.root))
    assert torch.equal(trees(torch.from_numpy(x)), whole)
    assert trees(torch.empty(0, 5)).shape == (0, 3)


def test_constant_trees_are_leaves_only():
    x = np.zeros((40, 1), dtype=np.float32)
    model = HistGradientBoostingRegressor(**OPTIONS).fit(x, np.full(40, 7.0))
    trees = adopted(model, 1, [0], [0.0])
    np.testing.assert_allclose(trees(torch.zeros(3, 1))[:, 0], np.full(3, 7.0))


def test_the_state_dict_carries_sizes_the_constructor_does_not_know(fitted):
    x, _, trees = fitted
    memory = io.BytesIO()
    torch.save(trees.state_dict(), memory)
    memory.seek(0)
    again = BoostedTrees(5, 3)
    assert not again.is_fitted
    again.load_state_dict(torch.load(memory, weights_only=True))
    assert again.is_fitted
    assert torch.equal(again(torch.from_numpy(x)), trees(torch.from_numpy(x)))
    assert {b.dtype for b in again.buffers()} == {torch.float64, torch.int32, torch.bool}


def test_unfitted_trees_can_be_saved_and_loaded():
    again = BoostedTrees(5, 3)
    again.load_state_dict(BoostedTrees(5, 3).state_dict())
    with pytest.raises(AmodalError, match=r"have not been fitted.*Train first"):
        again(torch.zeros(1, 5))


@pytest.mark.parametrize(
    ("name", "entry", "value"),
    [("left", 0, 0), ("right", 0, -1), ("root", 0, 10**6), ("feature", 0, 5), ("column", 0, 3)],
)
def test_stored_nodes_that_are_no_trees_are_refused(fitted, name, entry, value):
    state = {key: tensor.clone() for key, tensor in fitted[2].state_dict().items()}
    state[name][entry] = value
    with pytest.raises(RuntimeError, match="do not form trees"):
        BoostedTrees(5, 3).load_state_dict(state)


def test_a_cycle_in_stored_nodes_is_refused(fitted):
    state = {key: tensor.clone() for key, tensor in fitted[2].state_dict().items()}
    inner = (state["left"] != torch.arange(len(state["left"]))).nonzero().flatten()
    state["left"][inner[-1]] = inner[0]  # back to the first root: a path would never end
    with pytest.raises(RuntimeError, match="do not form trees"):
        BoostedTrees(5, 3).load_state_dict(state)


def test_truncated_state_is_refused(fitted):
    state = dict(fitted[2].state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        BoostedTrees(5, 3).load_state_dict({k: v for k, v in state.items() if k != "left"})
    with pytest.raises(RuntimeError, match="different numbers of nodes"):
        BoostedTrees(5, 3).load_state_dict(state | {"value": state["value"][:-1]})
    with pytest.raises(RuntimeError, match="expected 2 outputs"):
        BoostedTrees(5, 2).load_state_dict(state)


def test_another_number_of_features_is_an_error(fitted):
    with pytest.raises(ShapeError, match=r"expected \(B, 5\), got \(2, 4\)"):
        fitted[2](torch.zeros(2, 4))
