"""Discrimination against scikit-learn, resample by resample, ties included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from amodal.errors import DataError, ShapeError
from amodal.metrics import accuracy, auprc, auroc, balanced_accuracy, counted_labels, resample_counts, resampling

FUNCTIONS = [accuracy, balanced_accuracy, auroc, auprc]


@st.composite
def resampled_binary(draw):
    """Scores of few levels (many ties), truth, and counts of five resamples, some of which lack a class."""
    n = draw(st.integers(1, 30))
    levels = draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.integers(0, levels + 1, n) / levels
    return scores, rng.integers(0, 2, n), rng.integers(0, draw(st.integers(1, 5)), (5, n))


@st.composite
def resampled_columns(draw):
    """Coarse probabilities of several classes, truth, and counts."""
    n, n_classes = draw(st.integers(1, 30)), draw(st.integers(3, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p = rng.integers(1, 5, (n, n_classes)).astype(float)
    counts = rng.integers(0, 3, (4, n))
    return p / p.sum(1, keepdims=True), rng.integers(0, n_classes, n), counts


def held(counts_row):
    return np.repeat(np.arange(len(counts_row)), counts_row)


def sk_binary(name, y, s):
    if name == "auroc":
        return sk.roc_auc_score(y, s) if 0 < y.sum() < len(y) else np.nan
    if name == "auprc":
        return sk.average_precision_score(y, s) if 0 < y.sum() < len(y) else np.nan
    if not len(y):
        return np.nan
    predicted = s > 0.5
    if name == "accuracy":
        return sk.accuracy_score(y, predicted)
    return np.mean([sk.recall_score(y, predicted, pos_label=c, average="binary") for c in np.unique(y)])


def mean_of_defined(values):
    defined = [value for value in values if not np.isnan(value)]
    return np.mean(defined) if defined else np.nan


@pytest.mark.parametrize("function", FUNCTIONS)
@given(data=resampled_binary())
@settings(max_examples=60, deadline=None)
def test_binary_equals_scikit_learn_in_every_resample(function, data):
    scores, target, counts = data
    expected = [sk_binary(function.__name__, target[held(row)], scores[held(row)]) for row in counts]
    np.testing.assert_allclose(function(scores, target, weight=counts), expected, rtol=1e-12, atol=1e-14)
    two_columns = np.stack([1 - scores, scores], axis=1)
    np.testing.assert_allclose(function(two_columns, target, weight=counts), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("function", [auroc, auprc])
@given(data=resampled_columns())
@settings(max_examples=40, deadline=None)
def test_multiclass_is_the_mean_over_the_same_classes_in_every_resample(function, data):
    p, target, counts = data
    classes = [c for c in range(p.shape[1]) if 0 < (target == c).sum() < len(target)]
    expected = []
    for row in counts:
        i = held(row)
        values = [sk_binary(function.__name__, (target[i] == c).astype(int), p[i, c]) for c in classes]
        expected.append(np.mean(values) if values else np.nan)
    assert counted_labels(p, target) == (len(classes), p.shape[1])
    np.testing.assert_allclose(function(p, target, weight=counts), expected, rtol=1e-12)


@given(data=resampled_columns())
@settings(max_examples=40, deadline=None)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label")
def test_multiclass_decisions_equal_scikit_learn(data):
    p, target, counts = data
    rows = [held(row) for row in counts if row.any()]
    counts = counts[counts.any(1)]
    expected = [sk.accuracy_score(target[i], p[i].argmax(1)) for i in rows]
    np.testing.assert_allclose(accuracy(p, target, weight=counts), expected, rtol=1e-12)
    expected = [sk.balanced_accuracy_score(target[i], p[i].argmax(1)) for i in rows]
    np.testing.assert_allclose(balanced_accuracy(p, target, weight=counts), expected, rtol=1e-12)


def test_multiclass_equals_scikit_learn_where_all_classes_occur():
    rng = np.random.default_rng(1)
    p, target = rng.dirichlet(np.ones(4), 200).round(2), rng.integers(0, 4, 200)
    p[:, -1] = 1 - p[:, :-1].sum(1)
    assert auroc(p, target) == pytest.approx(sk.roc_auc_score(target, p, multi_class="ovr"), rel=1e-12)
    assert auprc(p, target) == pytest.approx(sk.average_precision_score(np.eye(4)[target], p), rel=1e-12)


def test_multilabel_is_the_mean_over_labels():
    rng = np.random.default_rng(2)
    p, target = rng.random((150, 6)).round(1), rng.random((150, 6)) < 0.3
    counts = rng.integers(0, 3, (7, 150))
    for r, row in enumerate(counts):
        i = held(row)
        y, s = target[i].astype(int), p[i]
        expected = {
            "auroc": sk.roc_auc_score(y, s, average="macro"),
            "auprc": sk.average_precision_score(y, s, average="macro"),
            "accuracy": 1 - sk.hamming_loss(y, s > 0.5),
            "balanced_accuracy": np.mean([sk.balanced_accuracy_score(a, b > 0.5) for a, b in zip(y.T, s.T)]),
        }
        for function in FUNCTIONS:
            value = function(p, target, weight=counts)[r]
            assert value == pytest.approx(expected[function.__name__], rel=1e-12), function.__name__


@pytest.mark.parametrize("function", [auroc, auprc, accuracy])
def test_real_weights_equal_scikit_learn(function):
    rng = np.random.default_rng(3)
    scores, target, weight = rng.random(80).round(1), rng.integers(0, 2, 80), rng.exponential(size=(3, 80))
    oracle = {
        "auroc": sk.roc_auc_score,
        "auprc": sk.average_precision_score,
        "accuracy": lambda y, s, sample_weight: sk.accuracy_score(y, s > 0.5, sample_weight=sample_weight),
    }[function.__name__]
    expected = [oracle(target, scores, sample_weight=row) for row in weight]
    np.testing.assert_allclose(function(scores, target, weight=weight), expected, rtol=1e-12)
    assert function(scores, target, weight=weight[1]) == pytest.approx(expected[1], rel=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_type_of_the_counts_and_the_size_of_the_blocks_change_nothing(function, monkeypatch):
    rng = np.random.default_rng(4)
    scores, target, counts = rng.random(50).round(1), rng.integers(0, 2, 50), rng.integers(0, 2, (20, 50))
    expected = function(scores, target, weight=counts)
    for dtype in (bool, np.uint8, np.int8, np.int32, np.uint64, np.float32, np.float64):
        np.testing.assert_allclose(function(scores, target, weight=counts.astype(dtype)), expected, rtol=1e-12)
    np.testing.assert_allclose(function(scores, target, weight=np.asfortranarray(counts)), expected, rtol=1e-12)
    monkeypatch.setattr(resampling, "_BLOCK", 150)
    np.testing.assert_allclose(function(scores, target, weight=counts.astype(np.uint8)), expected, rtol=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_large_counts_do_not_overflow(function):
    rng = np.random.default_rng(5)
    scores, target, counts = rng.random(1000).round(2), rng.integers(0, 2, 1000), rng.integers(0, 2, (2, 1000))
    expected = function(scores, target, weight=counts)
    np.testing.assert_allclose(function(scores, target, weight=(counts * 255).astype(np.uint8)), expected, rtol=1e-12)
    np.testing.assert_allclose(function(scores, target, weight=counts * 10**12), expected, rtol=1e-12)


def test_closed_forms():
    target = np.array([0, 0, 0, 1, 1])
    assert auroc([0.1, 0.2, 0.3, 0.8, 0.9], target) == auprc([0.1, 0.2, 0.3, 0.8, 0.9], target) == 1
    assert auroc(np.full(5, 0.3), target) == 0.5
    assert auprc(np.full(5, 0.3), target) == pytest.approx(0.4)  # the prevalence
    scores = np.random.default_rng(6).random(5)
    assert auroc(1 - scores, target) == pytest.approx(1 - auroc(scores, target))
    assert isinstance(auroc(scores, target), float)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_case_and_no_weight_are_undefined(function):
    assert np.isnan(function(np.zeros((0, 3)), np.zeros(0, int)))
    assert np.isnan(function(np.zeros((0, 3)), np.zeros(0, int), weight=np.zeros((4, 0), int))).all()
    assert np.isnan(function([0.2, 0.8], [0, 1], weight=[0, 0]))
    assert function([0.2, 0.8], [0, 1], weight=np.zeros((0, 2), int)).shape == (0,)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("probabilities", "target", "error", "words"),
    [
        ([[0.5, np.nan]], [0], DataError, "a probability is NaN.*row 0"),
        ([[0.5, 0.5], [0.9, 0.9]], [0, 1], DataError, "sum to one.*1.8 in row 1.*logits"),
        ([[2.0, -1.0]], [0], DataError, r"lie in \[0, 1\].*got 2 in row 0.*logits"),
        ([[0.5, 0.5], [0.5, 0.5]], [0], ShapeError, r"disagree in size.*probabilities \(2, 2\), target \(1,\)"),
        ([[0.5, 0.5]], [[1]], ShapeError, r"a column for each label.*\(1, 2\), target \(1, 1\)"),
        ([0.5], [[1]], ShapeError, r"expected \(N, C\) and \(N,\)"),
        ([[1.0]], [0], ShapeError, "one column is not enough"),
        ([[0.5, 0.5], [0.5]], [0, 1], ShapeError, "not a rectangular array"),
        ([[0.2, 0.3, 0.5]], [3], DataError, "class that the predictions do not have.*0 to 2, got 3 in row 0"),
        ([[0.5, 0.5]], [-1], DataError, "expected an integer from 0 to 1, got -1"),
        ([[0.5, 0.5]], [0.5], DataError, "expected an integer from 0 to 1, got 0.5"),
        ([[0.5, 0.5], [0.5, 0.5]], [1, np.nan], DataError, "a target is missing.*row 1"),
        ([[0.5, 0.5]], ["yes"], DataError, "target must be numbers.*positions of classes"),
        ([[0.5, 0.5]], [[1, 2]], DataError, "expected an integer from 0 to 1, got 2"),
    ],
)
def test_bad_input_is_told(function, probabilities, target, error, words):
    with pytest.raises(error, match=words):
        function(probabilities, target)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("weight", "error", "words"),
    [
        ([1, 2, 3], ShapeError, r"weights do not fit.*\(2,\) or \(R, 2\), got \(3,\)"),
        (np.ones((1, 1, 2)), ShapeError, r"got \(1, 1, 2\)"),
        ([1.0, np.nan], DataError, "weights must be finite"),
        ([[1, -1]], DataError, "weights must not be negative.*-1"),
        (["a", "b"], DataError, "weights must be numbers"),
    ],
)
def test_bad_weights_are_told(function, weight, error, words):
    with pytest.raises(error, match=words):
        function([0.2, 0.8], [0, 1], weight=weight)


def test_rounding_of_half_precision_is_accepted():
    p = np.random.default_rng(7).dirichlet(np.ones(5), 50).astype(np.float16)
    assert 0 <= accuracy(p, np.zeros(50, int)) <= 1


@pytest.mark.parametrize("metric", [auroc, auprc])
@pytest.mark.parametrize("many_labels", [False, True])
def test_many_rare_classes_are_what_each_resample_by_itself_gives(metric, many_labels):
    """Most resamples lose a class and are undefined early; the others are what they were."""
    draw = np.random.default_rng(0)
    p = draw.dirichlet(np.ones(6), 60)
    y = draw.choice(6, 60, p=[0.4, 0.3, 0.15, 0.09, 0.03, 0.03])
    if many_labels:
        y = np.eye(6)[y]
    counts = resample_counts(60, 80, draw)
    each = [metric(p, y, weight=row) for row in counts]
    together = metric(p, y, weight=counts)
    assert 0 < np.isnan(together).sum() < 80
    np.testing.assert_array_equal(together, each)
